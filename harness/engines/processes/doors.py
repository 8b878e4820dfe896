"""Connections between the machines of a cell: plain TCP whose two ends have proved that they know one key.

The proof is that of `multiprocessing.connection`: each side sends random bytes, and wants back what only the key makes
of them. What follows is neither signed nor encrypted, no more than what NCCL and gloo send: the network between nodes
has to be one that is trusted.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

from harness.core.addresses import Address
from harness.core.cache import folder
from harness.core.errors import InputError, MachineError
from harness.engines.processes.hearing import receive

KEY_VARIABLE = "HARNESS_KEY"
LEAST_KEY = 16
"""Characters of a key; chosen: 64 bits where it is written in hexadecimal."""

PROOF_S = 10.0
"""Longest that a caller may take to prove that it knows the key; chosen: several round trips of the slowest network."""

SILENT_S = 10.0
"""Without a sign for so long, a node counts as gone; chosen: twenty of its signs, and more than a busy machine takes to
give its thread a turn."""

MOST_UNPROVED = 64
"""Callers at one time that have not proved yet that they know the key: who has tried longest makes room for the next.

Chosen: a proof takes some round trips, and a process may open some hundred files.
"""

LINE_S = 60.0
"""Longest that the line to another node's endpoint is waited for; chosen: that node may still import torch."""

_RETRY_S = 0.2

Label = tuple[object, ...]
"""What a caller wants to be connected with."""


def shared_key() -> bytes:
    """Return the key that the nodes of a run share: of the environment, else of a file in the user's cache.

    The file is made where it is missing: machines that share a home folder share it.

    Raises:
        InputError: the key in the environment, or in the file, is too short to keep anybody out.
    """
    given = os.environ.get(KEY_VARIABLE, "")
    if given:
        if len(given) < LEAST_KEY:
            raise InputError(
                [
                    f"{KEY_VARIABLE}: {len(given)} characters; at least {LEAST_KEY} are needed, the same on every "
                    "node, such as what `openssl rand -hex 16` prints"
                ]
            )
        return given.encode()
    path = folder() / "key"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        made = path.with_name(f".key-{os.getpid()}-{secrets.token_hex(4)}")
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, secrets.token_hex(16).encode())
            os.link(made, path)  # at once, whole, and only where there is none
        finally:
            os.close(descriptor)
            made.unlink()
    key = path.read_bytes()
    if len(key) < LEAST_KEY:  # as a disk that was full, or lost its power, leaves it
        raise InputError([f"{path}: {len(key)} characters, and a key has at least {LEAST_KEY}; delete the file"])
    return key


def dial(address: tuple[str, int], key: bytes, label: Label, until_s: float) -> Connection:
    """Connect to another node's door.

    Args:
        until_s: on the monotonic clock: until then a door that is not open yet is tried again.

    Raises:
        InputError: the other side has another key.
        MachineError: nobody opens.
    """
    while True:
        try:
            connection = _open(socket.create_connection(address, timeout=max(0.1, until_s - time.monotonic())))
            break
        except OSError as error:
            if time.monotonic() + _RETRY_S > until_s:
                raise MachineError(
                    f"{address[0]}:{address[1]}: nobody answers there: {error.strerror or error}"
                ) from None
            time.sleep(_RETRY_S)
    try:
        answer_challenge(connection, key)
        deliver_challenge(connection, key)
        _no_deadline(connection)
        connection.send(label)
    except AuthenticationError:
        connection.close()
        raise InputError(
            [
                f"{address[0]}:{address[1]} has another key than this node; give all nodes the same {KEY_VARIABLE}, or "
                "a home folder that they share"
            ]
        ) from None
    except (OSError, EOFError) as error:
        connection.close()
        raise MachineError(f"{address[0]}:{address[1]} hung up before the two had agreed on a key ({error})") from None
    return connection


def _open(taken: socket.socket) -> Connection:
    """Return a socket as a connection that notices a silent network.

    Sent data that nobody confirms, and a peer that answers no probe, end it after `SILENT_S` (tcp(7)); a reader waits
    at most `PROOF_S` until `_no_deadline`.
    """
    taken.setblocking(True)
    taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # By name, because not every system has each of them.
    options = {"TCP_KEEPIDLE": SILENT_S / 2, "TCP_KEEPINTVL": SILENT_S / 4, "TCP_KEEPCNT": 2}
    for name, value in (options | {"TCP_USER_TIMEOUT": SILENT_S * 1000}).items():
        if hasattr(socket, name):
            taken.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), int(value))
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(PROOF_S), 0))
    return Connection(taken.detach())


def _no_deadline(connection: Connection) -> None:
    """Let reads wait as long as it takes again."""
    with _borrowed(connection) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))


@contextlib.contextmanager
def _borrowed(connection: Connection) -> Iterator[socket.socket]:
    taken = socket.socket(fileno=connection.fileno())
    try:
        yield taken
    finally:
        taken.detach()


def local_address(connection: Connection) -> str:
    """Return this side's address: the one by which the other node reaches it."""
    with _borrowed(connection) as taken:
        # A socket of both families calls an address of the older one so (RFC 4291, section 2.5.5.2).
        return str(taken.getsockname()[0]).removeprefix("::ffff:")


class Door:
    """Where other nodes call: every caller who knows the key is kept until somebody takes it.

    Args:
        host: address to listen at; empty: at all of this machine's.
        port: 0: any that is free.

    Raises:
        MachineError: nobody can listen there.
    """

    def __init__(self, host: str, port: int, key: bytes) -> None:
        self._key = key
        self._callers: dict[Label, Connection] = {}
        self._unproved: dict[int, Connection] = {}  # in the order in which they came
        self._closed = False
        self._came = threading.Condition()
        self._refused = 0
        try:
            both = not host and socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
        except OSError as error:
            where = f"{host or 'any address'}:{port}"
            raise MachineError(f"{where}: cannot listen there: {error.strerror}; choose another port") from None
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._listen, name="door", daemon=True).start()

    @property
    def refused(self) -> int:
        """How many callers have not known the key."""
        return self._refused

    def _listen(self) -> None:
        for number in itertools.count():
            try:
                connection = _open(self._listener.accept()[0])
            except OSError:
                if self._closed:
                    return
                self._make_room(len(self._unproved) - 1)  # a caller has gone already, or no more files can be opened
                time.sleep(_RETRY_S)
                continue
            with self._came:
                self._unproved[number] = connection
            self._make_room(MOST_UNPROVED)
            # Each in a thread of its own: one that says nothing keeps nobody else waiting.
            threading.Thread(target=self._let_in, args=(connection, number), name="caller", daemon=True).start()

    def _make_room(self, most: int) -> None:
        """Hang up on the first who have not proved that they know the key, until so many are left."""
        with self._came:
            for number in list(self._unproved)[: max(0, len(self._unproved) - most)]:
                with contextlib.suppress(OSError), _borrowed(self._unproved.pop(number)) as taken:
                    taken.shutdown(socket.SHUT_RDWR)  # its thread wakes, and closes it

    def _let_in(self, connection: Connection, number: int) -> None:
        label: Label | None = None
        try:
            deliver_challenge(connection, self._key)
            answer_challenge(connection, self._key)
            label = receive(connection, PROOF_S)
            hash(label)
            _no_deadline(connection)
        except AuthenticationError:
            self._refused += 1
        except Exception:  # whoever calls may say anything, or nothing
            label = None
        with self._came:
            self._unproved.pop(number, None)
            if label is not None:
                self._callers[label] = connection
                self._came.notify_all()
        if label is None:
            connection.close()

    def take(self, label: Label, seconds: float, check: Callable[[], None] = lambda: None) -> Connection | None:
        """Return the caller of a label; None where it has not come in time.

        Args:
            check: called several times a second; what it raises ends the waiting.
        """
        deadline = time.monotonic() + seconds
        with self._came:
            while label not in self._callers:
                check()
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._came.wait(min(left, _RETRY_S))
            return self._callers.pop(label)

    def forget(self, cell: object) -> None:
        """Hang up on callers of a cell that nobody took; labels are (what for, cell, ...)."""
        with self._came:
            for label in [label for label in self._callers if label[1:2] == (cell,)]:
                self._callers.pop(label).close()

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._came:
            for connection in self._callers.values():
                connection.close()
            self._callers.clear()


def lines_to_others(
    rank: int,
    cell: int,
    endpoints: Mapping[Address, int],
    doors: Mapping[int, tuple[str, int]],
    door: Door,
    key: bytes,
    check: Callable[[], None] = lambda: None,
) -> dict[Address, dict[Address, Connection]]:
    """Return the lines of a node's endpoints to those of other nodes, by address and the other's address.

    Of two nodes the one with the higher rank calls, and the other waits for it.

    Args:
        cell: its number.
        endpoints: address to node of all that write to each other.
        doors: where each node is called; door: this node's own.
        check: called while others are waited for; what it raises ends that.

    Raises:
        MachineError: one cannot be had.
    """
    lines: dict[Address, dict[Address, Connection]] = {}
    own = [address for address, node in endpoints.items() if node == rank]
    others = [(address, node) for address, node in endpoints.items() if node != rank]
    until = time.monotonic() + LINE_S
    for address in own:
        for other, node in others:
            if node < rank:
                lines.setdefault(address, {})[other] = dial(doors[node], key, ("line", cell, address, other), until)
    for address in own:
        for other, node in others:
            if node > rank:
                connection = door.take(("line", cell, other, address), until - time.monotonic(), check)
                if connection is None:
                    raise MachineError(f"node {node} has not called for its line within {LINE_S:g} s")
                lines.setdefault(address, {})[other] = connection
    return lines


def interface_of(address: str) -> str:
    """Return the name of the network interface that has an address; empty where none has."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return str(name)
    return ""


def address_of(interface: str) -> str:
    """Return the address of a network interface, IPv4 before IPv6.

    Raises:
        InputError: this machine has no such interface, or it has no address.
    """
    import psutil

    there = psutil.net_if_addrs()
    known = there.get(interface, [])
    for family in (socket.AF_INET, socket.AF_INET6):
        for each in known:
            if each.family == family:
                return str(each.address).partition("%")[0]
    names = ", ".join(sorted(there))
    wrong = "has no address" if known else "is not there"
    raise InputError([f"--interface {interface}: {wrong}; this machine has {names}"])
