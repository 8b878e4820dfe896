"""Cells run over several machines, and what they came to: the first node of such a run, as a program for tests.

python tests/on_nodes.py CELLS FOUND NODES HOST:PORT [alone]

The other nodes run `python -m harness run x --nnodes ...`, as whoever starts a run by hand does.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cells import make_cell
from namespaces import Node
from places import TESTS

from harness.engines.processes.launch import Result, run_cell
from harness.engines.processes.nodes import nodes_present
from harness.executors.membership import all_nodes, membership_of

PORT = 29400

STARTED = "has started"


def main() -> None:
    """Run the cells that a file lists, and write each with its result."""
    asked, found, count, rendezvous = sys.argv[1:5]
    results = {}
    with all_nodes(membership_of(int(count), 0, rendezvous, "", {})) as machine:
        for name, changes in json.loads(Path(asked).read_text()).items():
            cell = make_cell(cores=machine.cores, **changes)
            started = partial(announce, name)
            results[name] = run_cell(cell, options={"keep_weights": True}, on_start=started)
            print(name, results[name].reason or "finished", flush=True)
            if (nodes := nodes_present()) is not None and any(node.lost for node in nodes.others):
                break
    # The nodes have gone: the same cells on this machine alone.
    for name, changes in json.loads(Path(asked).read_text()).items() if "alone" in sys.argv else ():
        results[f"{name} alone"] = run_cell(make_cell(**changes), options={"keep_weights": True})
    Path(found).write_bytes(pickle.dumps(results))


def announce(name: str, targets: object) -> None:
    """Tell the test that a cell trains from now on."""
    print(name, STARTED, flush=True)


def wait_for(text: str, folder: Path, seconds: float = 120.0) -> None:
    """Wait until node 0 has said something."""
    until = time.monotonic() + seconds
    while text not in (said := (folder / "log-0").read_text()):
        assert time.monotonic() < until, said
        time.sleep(0.1)


def other(node: Node, rank: int, nodes: Sequence[Node], core: int | None, log: Path) -> subprocess.Popen[str]:
    """Start the agent of a node."""
    words = [sys.executable, "-m", "harness", "run", "x", "--nnodes", str(len(nodes)), "--node-rank", str(rank)]
    words += ["--rendezvous", f"{nodes[0].address}:{PORT}"]
    with log.open("w") as file:
        return node.start(pinned(words, core), environment(), stdout=file, stderr=subprocess.STDOUT)


def first(
    nodes: Sequence[Node], cells: Mapping[str, Mapping[str, Any]], folder: Path, core: int | None, *more: str
) -> subprocess.Popen[str]:
    """Start node 0 with cells to run, given as changes of a scenario; what it found is read by `found`."""
    asked = folder / "cells.json"
    asked.write_text(json.dumps(cells))
    words = [sys.executable, str(TESTS / "on_nodes.py"), str(asked), str(folder / "found"), str(len(nodes))]
    words += [f"{nodes[0].address}:{PORT}", *more]
    with (folder / "log-0").open("w") as file:
        return nodes[0].start(pinned(words, core), environment(), stdout=file, stderr=subprocess.STDOUT)


def found(folder: Path) -> dict[str, Result]:
    """Return what node 0 found; its log where it did not get so far."""
    path = folder / "found"
    assert path.is_file(), (folder / "log-0").read_text()
    results: dict[str, Result] = pickle.loads(path.read_bytes())
    return results


def pinned(words: Sequence[str], core: int | None) -> list[str]:
    """Return the words that run a command on one core only, so that its machine counts as one of one device."""
    return list(words) if core is None else ["taskset", "--cpu-list", str(core), *words]


def environment() -> dict[str, str]:
    """Return what node processes need beside this one's variables."""
    return {"OMP_NUM_THREADS": "1", "HARNESS_KEY": "0123456789abcdef", "PYTHONPATH": str(TESTS.parent)}


if __name__ == "__main__":
    main()
