"""Which machine of a run this is: by options, or by what torchrun or srun say in the environment."""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from harness.core.environment import describe_environment, package_version
from harness.core.errors import InputError, MachineError
from harness.core.machine import Machine, detect_machine
from harness.core.version import __version__

GATHERING_S = 600.0
"""Longest that nodes wait for each other; chosen: a queue starts the last of them minutes after the first."""

ALONE = 1

_SLURM_PORTS = range(20_000, 30_000)
"""Below what systems hand out by themselves (ip(7), ip_local_port_range), above what services use; chosen."""

_ASKING_S = 20.0


@dataclass(frozen=True)
class Membership:
    """What a machine is in a run of several.

    Attributes:
        rank: of this node; 0 plans, writes and shows.
        host, port: where node 0 is reached.
        store: whether a store of torchrun's listens there, which knows the port; else node 0 itself does.
        master: whether that store is still to be opened by node 0.
        idle: whether another process of this machine is the node, as of several tasks on it.
        interface: by which others reach this node; empty: the one that leads to node 0.
        taken_later: whether the executor takes the nodes when a cell needs them; all are then like this one.
    """

    nodes: int = ALONE
    rank: int = 0
    host: str = ""
    port: int = 0
    store: bool = False
    master: bool = False
    idle: bool = False
    interface: str = ""
    taken_later: bool = False


def membership_of(
    nnodes: int | None, node_rank: int | None, rendezvous: str | None, interface: str, environ: Mapping[str, str]
) -> Membership:
    """Return what this machine is: what options say goes before what a launcher says.

    Raises:
        InputError: some of the three options are missing, or one is wrong.
        MachineError: Slurm does not say where its first node is.
    """
    given = {"--nnodes": nnodes, "--node-rank": node_rank, "--rendezvous": rendezvous}
    if nnodes == ALONE:
        return Membership()
    if any(value is not None for value in given.values()):
        return _as_given(given, nnodes or 0, node_rank or 0, rendezvous or "", interface)
    if "TORCHELASTIC_RUN_ID" in environ and int(environ.get("GROUP_WORLD_SIZE", "1")) > 1:
        return Membership(
            int(environ["GROUP_WORLD_SIZE"]),
            int(environ["GROUP_RANK"]),
            environ["MASTER_ADDR"],
            int(environ["MASTER_PORT"]),
            store=True,
            master=environ.get("TORCHELASTIC_USE_AGENT_STORE", "False") != "True",
            idle=environ.get("LOCAL_RANK", "0") != "0",
            interface=interface,
        )
    if int(environ.get("SLURM_STEP_NUM_NODES", "1")) > 1:
        number = int(environ["SLURM_JOB_ID"]) * 31 + int(environ.get("SLURM_STEP_ID", "0"))
        return Membership(
            int(environ["SLURM_STEP_NUM_NODES"]),
            int(environ["SLURM_NODEID"]),
            _first_of_slurm(environ["SLURM_STEP_NODELIST"]),
            _SLURM_PORTS[number % len(_SLURM_PORTS)],
            idle=environ.get("SLURM_LOCALID", "0") != "0",
            interface=interface,
        )
    return Membership()


def _as_given(given: Mapping[str, object], nodes: int, rank: int, rendezvous: str, interface: str) -> Membership:
    if missing := [name for name, value in given.items() if value is None]:
        raise InputError(
            [f"{missing[0]} is missing: several machines need --nnodes N --node-rank K --rendezvous HOST:PORT on each"]
        )
    if not 0 <= rank < nodes:
        raise InputError([f"--node-rank {rank}: of {nodes} nodes the ranks are 0 to {nodes - 1}"])
    host, _, port = rendezvous.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(
            [f"--rendezvous {rendezvous}: write HOST:PORT, node 0's address and a free port, such as 10.0.0.1:29400"]
        )
    return Membership(nodes, rank, host.strip("[]"), int(port), interface=interface)


def _first_of_slurm(nodes: str) -> str:
    """Return how the first node of a Slurm step is reached: by its name, else by the address that Slurm knows.

    Raises:
        MachineError: neither is known.
    """
    name = _scontrol("show", "hostnames", nodes).split("\n")[0].strip()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        words = dict(word.partition("=")[::2] for word in _scontrol("show", "node", name).split())
        return words.get("NodeAddr", name)
    return name


def _scontrol(*words: str) -> str:
    if shutil.which("scontrol") is None:
        raise MachineError(
            "srun started this on several nodes, but scontrol is not there to say which is the first; give --nnodes, "
            "--node-rank and --rendezvous"
        )
    answer = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=_ASKING_S, check=False)
    if answer.returncode:
        raise MachineError(f"scontrol {' '.join(words)}: {answer.stderr.strip()}")
    return answer.stdout


def versions() -> dict[str, str]:
    """Return what has to be the same on all nodes: they exchange objects, and their measurements are compared."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"harness": __version__, "python": python, "torch": package_version("torch")}


def be_node(membership: Membership, say: Callable[[str], object]) -> None:
    """Be the node that this machine is, until node 0 lets go.

    Args:
        say: hears what the user should know.

    Raises:
        InputError: node 0 has another key.
        MachineError: node 0 is not there, refuses this node, or is gone.
    """
    if membership.idle:
        return
    from harness.engines.processes.agent import serve_node
    from harness.engines.processes.doors import shared_key

    key, machine = shared_key(), detect_machine()
    port = _port_in_store(membership) if membership.store else membership.port
    serve_node(
        (membership.host, port),
        membership.rank,
        key,
        machine,
        describe_environment(machine),
        versions(),
        GATHERING_S,
        say,
        membership.interface,
    )


@contextmanager
def all_nodes(membership: Membership, say: Callable[[str], object] = print) -> Iterator[Machine]:
    """Have all nodes of a run until the block ends, as its node 0.

    Args:
        say: hears what the user should know.

    Yields:
        what they are together.

    Raises:
        InputError: the key is too short.
        MachineError: they do not all come, or one is not like this one.
    """
    own = detect_machine()
    if membership.nodes == ALONE:
        yield own
        return
    if membership.taken_later:
        yield Machine(own.cores * membership.nodes, own.gpus * membership.nodes, own.gpu_name, membership.nodes)
        return
    from harness.engines.processes.doors import Door, address_of, shared_key
    from harness.engines.processes.nodes import gathered

    key = shared_key()
    door = Door("", 0 if membership.store else membership.port, key)
    kept = _tell_store(membership, door.port) if membership.store else None
    say(f"node 0 of {membership.nodes}: waits for the others at {membership.host}:{door.port}")
    address = address_of(membership.interface) if membership.interface else ""
    with gathered(door, key, membership.nodes, own, versions(), GATHERING_S, say, address) as nodes:
        yield nodes.machine
    del kept  # others may have asked the store until all were there


def _store(membership: Membership, is_master: bool) -> object:
    from datetime import timedelta

    from torch.distributed import TCPStore

    timeout = timedelta(seconds=GATHERING_S)
    return TCPStore(membership.host, membership.port, is_master=is_master, timeout=timeout, wait_for_workers=False)


_DOOR = "harness/door"


def _tell_store(membership: Membership, port: int) -> object:
    store = _store(membership, membership.master)
    store.set(_DOOR, str(port))  # type: ignore[attr-defined]
    return store


def _port_in_store(membership: Membership) -> int:
    """Return the port that node 0 has written into torchrun's store.

    Raises:
        MachineError: it has not.
    """
    try:
        return int(_store(membership, False).get(_DOOR))  # type: ignore[attr-defined]
    except (RuntimeError, ValueError) as error:
        raise MachineError(
            f"torchrun's store at {membership.host}:{membership.port} does not tell where node 0 is: {error}"
        ) from None
