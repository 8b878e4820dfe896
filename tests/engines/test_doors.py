"""Connections between machines: only who knows the key comes in, and nobody who says nothing keeps others waiting."""

from __future__ import annotations

import socket
import stat
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Pipe

import pytest

from harness.core.errors import InputError, MachineError
from harness.engines.processes.doors import Door, address_of, dial, interface_of, local_address, shared_key
from harness.engines.real.far_lines import FarLines

KEY, OTHER = b"0123456789abcdef", b"fedcba9876543210"


@pytest.fixture
def door():
    door = Door("127.0.0.1", 0, KEY)
    yield door
    door.close()


def soon() -> float:
    return time.monotonic() + 5.0


def test_a_caller_with_the_key_is_found_by_what_it_wants(door):
    two = dial(("127.0.0.1", door.port), KEY, ("line", 1, 2), soon())
    one = dial(("127.0.0.1", door.port), KEY, ("line", 1, 1), soon())
    for number, caller in ((1, one), (2, two)):
        taken = door.take(("line", 1, number), 5.0)
        taken.send(number)
        assert caller.recv() == number
        assert local_address(taken) == "127.0.0.1"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_door_at_all_addresses_is_reached_by_both_families():
    door = Door("", 0, KEY)
    for number, address in enumerate(("127.0.0.1", "::1")):
        dial((address, door.port), KEY, ("node", number), soon())
        taken = door.take(("node", number), 5.0)
        assert local_address(taken) == address
    door.close()


def test_a_caller_with_another_key_is_told_so_and_counted(door):
    with pytest.raises(InputError, match="HARNESS_KEY"):
        dial(("127.0.0.1", door.port), OTHER, ("line", 1, 1), soon())
    until = soon()
    while not door.refused and time.monotonic() < until:
        time.sleep(0.01)
    assert door.refused == 1
    assert door.take(("line", 1, 1), 0.1) is None


def test_who_calls_and_says_nothing_keeps_nobody_waiting(door):
    silent = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(5)]
    dial(("127.0.0.1", door.port), KEY, ("node", 1), soon())
    assert door.take(("node", 1), 2.0) is not None
    for each in silent:
        each.close()


def test_garbage_is_hung_up_on(door):
    with socket.create_connection(("127.0.0.1", door.port)) as caller:
        caller.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
        caller.settimeout(5.0)
        with suppress(ConnectionResetError):  # as a closed socket says that something was not read
            while caller.recv(4096):
                pass
    dial(("127.0.0.1", door.port), KEY, ("node", 1), soon())
    assert door.take(("node", 1), 2.0) is not None


def test_nobody_at_home_is_said_in_time():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(MachineError, match=f"127.0.0.1:{port}: nobody answers"):
        dial(("127.0.0.1", port), KEY, ("node", 1), time.monotonic() + 1.0)
    assert time.monotonic() - began < 3.0


def test_what_a_check_raises_ends_the_waiting(door):
    def check() -> None:
        raise MachineError("the node is lost")

    with pytest.raises(MachineError, match="lost"):
        door.take(("control", 0, 0), 60.0, check)


def test_callers_of_an_ended_cell_are_forgotten(door):
    caller = dial(("127.0.0.1", door.port), KEY, ("control", 7, 0), soon())
    until = soon()
    while not caller.poll(0) and time.monotonic() < until:
        door.forget(7)
        time.sleep(0.01)
    with pytest.raises(EOFError):
        caller.recv()


def test_the_key_is_made_once_and_only_its_owner_reads_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.delenv("HARNESS_KEY", raising=False)
    keys = []
    threads = [threading.Thread(target=lambda: keys.append(shared_key())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_short_key_is_refused(monkeypatch):
    monkeypatch.setenv("HARNESS_KEY", "short")
    with pytest.raises(InputError, match="HARNESS_KEY: 5 characters; at least 16"):
        shared_key()


def test_an_interface_has_its_address():
    name = interface_of("127.0.0.1")
    assert address_of(name) == "127.0.0.1"
    with pytest.raises(InputError, match=f"--interface none0: is not there; this machine has .*{name}"):
        address_of("none0")


# -- lines -------------------------------------------------------------------------------------------------------------


def pair() -> tuple[FarLines, FarLines]:
    ours, theirs = Pipe()
    return FarLines({1: ours}), FarLines({0: theirs})


def came(lines: FarLines, address: int, seconds: float = 10.0):
    until = time.monotonic() + seconds
    while not lines.lines[address].inbox:
        assert time.monotonic() < until, "nothing came"
        time.sleep(0.001)
    return lines.lines[address].inbox.popleft()


def test_what_is_sent_comes_whole_and_in_order():
    one, other = pair()
    contents = [bytes([k]) * size for k, size in enumerate((0, 1, 3, 70_000, 5_000_000, 0, 2))]
    for k, content in enumerate(contents):
        assert one.send(1, f"header {k}".encode(), memoryview(content))
    for k, content in enumerate(contents):
        assert came(other, 0) == (f"header {k}".encode(), content)


def test_a_sender_does_not_wait_for_a_receiver_that_computes():
    one, other = pair()
    began = time.monotonic()
    for _ in range(50):
        one.send(1, b"h", memoryview(bytes(1_000_000)))  # 50 MB, which no socket has room for
    assert time.monotonic() - began < 1.0
    for _ in range(50):
        assert len(came(other, 0)[1]) == 1_000_000
    until = soon()
    while one.lines[1].unsent and time.monotonic() < until:
        time.sleep(0.001)
    assert not one.lines[1].unsent


def test_a_peer_that_goes_is_noticed_and_nothing_is_owed_to_it():
    ours, theirs = Pipe()
    lines = FarLines({1: ours})
    theirs.close()
    assert came(lines, 1) is None
    assert not lines.send(1, b"h", memoryview(b"late"))
    assert not lines.lines[1].unsent
