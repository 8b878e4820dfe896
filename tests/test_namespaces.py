"""The nodes that tests run on: links as fast and as far as was asked, cut and mended; nothing of them is left."""

from __future__ import annotations

import itertools
import os
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from namespaces import PREFIX, Node, nodes

pytestmark = [pytest.mark.dist, pytest.mark.timed]

RATE = 200e6
PAYLOAD = 1448 / 1514
"""Of what a link carries at an MTU of 1500: behind Ethernet, IP and TCP with its timestamps."""

PORT = 5000


def bytes_per_s(sender: Node, receiver: Node, num_bytes: int = 2**24, chunk: int = 2**20) -> float:
    """Return at what rate one TCP connection carries bytes: the median over chunks, slow start left out."""
    with receiver.socket() as listening:
        listening.bind((receiver.address, PORT))
        listening.listen()
        listening.settimeout(30.0)
        with sender.socket() as sending:
            sending.connect((receiver.address, PORT))
            receiving, _ = listening.accept()
            thread = threading.Thread(target=sending.sendall, args=(bytes(num_bytes),))
            thread.start()
            with receiving:
                receiving.settimeout(30.0)
                marks = [time.perf_counter()]
                for _ in range(num_bytes // chunk):
                    left = chunk
                    while left:
                        left -= len(receiving.recv(min(left, 2**16)))
                    marks.append(time.perf_counter())
            thread.join()
    return chunk / statistics.median(after - before for before, after in itertools.pairwise(marks[4:]))


def round_trips(one: Node, other: Node, number: int = 20) -> list[float]:
    """Return seconds of small datagrams there and back, shortest first."""
    found = []
    with one.socket(socket.SOCK_DGRAM) as here, other.socket(socket.SOCK_DGRAM) as there:
        there.bind((other.address, PORT))
        for waiting in (here, there):
            waiting.settimeout(5.0)
        for _ in range(number):
            start = time.perf_counter()
            here.sendto(b"ping", (other.address, PORT))
            word, back = there.recvfrom(16)
            there.sendto(word, back)
            here.recv(16)
            found.append(time.perf_counter() - start)
    return sorted(found)


def test_a_switch_port_has_the_rate_that_was_asked():
    with nodes(2, bits_per_s=RATE) as (one, other):
        assert bytes_per_s(one, other) == pytest.approx(RATE / 8 * PAYLOAD, rel=0.05)
        assert bytes_per_s(other, one) == pytest.approx(RATE / 8 * PAYLOAD, rel=0.05)
        assert round_trips(one, other)[2] < 0.001


def test_a_receivers_port_is_shaped_too():
    with nodes(3, bits_per_s=RATE) as (one, other, receiver), ThreadPoolExecutor(2) as threads:
        before = time.perf_counter()
        sent = threads.map(_sent, (one, other), (receiver, receiver), (PORT, PORT + 1))
        rate = sum(sent) / (time.perf_counter() - before)
    assert 0.8 * RATE / 8 < rate < RATE / 8


def _sent(sender: Node, receiver: Node, port: int, num_bytes: int = 2**23) -> int:
    """Send so many bytes, wait until they have arrived, and return how many."""
    with receiver.socket() as listening, sender.socket() as sending:
        listening.bind((receiver.address, port))
        listening.listen()
        sending.connect((receiver.address, port))
        receiving, _ = listening.accept()
        with receiving:
            thread = threading.Thread(target=sending.sendall, args=(bytes(num_bytes),))
            thread.start()
            left = num_bytes
            while left:
                left -= len(receiving.recv(min(left, 2**16)))
            thread.join()
    return num_bytes


def test_a_wire_has_the_rate_and_the_delay_that_were_asked():
    with nodes(2, bits_per_s=RATE, delay_s=0.005) as (one, other):
        assert round_trips(one, other)[2] == pytest.approx(0.010, rel=0.1)
        assert bytes_per_s(one, other) == pytest.approx(RATE / 8 * PAYLOAD, rel=0.05)


@pytest.mark.parametrize("delay_s", [None, 0.001], ids=["switch", "wire"])
def test_a_cut_link_carries_nothing_until_it_is_mended(delay_s):
    with nodes(2, bits_per_s=RATE, delay_s=delay_s) as (one, other):
        round_trips(one, other, 1)
        other.cut()
        with one.socket(socket.SOCK_DGRAM) as here, other.socket(socket.SOCK_DGRAM) as there:
            there.bind((other.address, PORT))
            here.sendto(b"lost", (other.address, PORT))
            assert select.select([there], [], [], 0.2) == ([], [], [])
        other.mend()
        round_trips(one, other, 1)


def test_a_node_has_its_own_host_name_interfaces_and_processes():
    with nodes(2) as (one, other):
        assert one.run(["hostname"]).stdout == "node0\n"
        assert other.addresses() == {"lo": ["127.0.0.1"], "eth0": ["10.77.0.2"]}
        program = "import os, time; print(os.environ['ROLE'], flush=True); time.sleep(60)"
        process = other.start([sys.executable, "-c", program], env={"ROLE": "rank 1"})
        assert process.stdout.readline() == "rank 1\n"
        assert other.processes() == [process.pid]
        assert one.processes() == []
        other.kill()
        process.communicate()
        assert process.returncode == -9
    assert socket.gethostname() != "node0"


def test_nothing_is_left_of_nodes_even_where_a_test_fails():
    block = nodes(2, bits_per_s=RATE, delay_s=0.001)
    one, _ = block.__enter__()
    process = one.start([sys.executable, "-c", "import time; time.sleep(60)"])
    assert not block.__exit__(RuntimeError, RuntimeError("the test failed"), None)
    process.communicate()
    assert process.returncode == -9
    assert not [name for name in os.listdir("/run/netns") if name.startswith(f"{PREFIX}{os.getpid()}-")]


def test_nodes_of_a_test_that_was_killed_are_swept():
    with nodes(1):
        pass
    gone = 2**22 + 1  # above any process's id
    subprocess.run(["ip", "netns", "add", f"{PREFIX}{gone}-0-node0"], check=True)
    with nodes(1):
        assert f"{PREFIX}{gone}-0-node0" not in os.listdir("/run/netns")
