"""A Ray cluster of two nodes on this machine, in a process of its own: what Ray prints and leaves behind stays there.

    with ray_cluster() as cluster:
        subprocess.run([..., "--executor", f"ray://{cluster.address}"])
        cluster.lose_a_node()

As a script: starts the cluster, prints its address, and does what it reads, a word a line.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

STORE_BYTES = 100 * 2**20
"""Of a node's object store: by default Ray takes a third of the machine's memory."""

MEMORY_BYTES = 2 * 2**30
"""That a node says it has: each of them would take the machine's for its own."""


@dataclass
class RayCluster:
    """A cluster whose second node can be killed.

    Attributes:
        address: of its head, HOST:PORT.
    """

    address: str
    process: subprocess.Popen[str]

    def lose_a_node(self) -> None:
        """Kill the second node with all that it runs."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("lose\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "lost\n"


@contextmanager
def ray_cluster(cpus: int = 1) -> Iterator[RayCluster]:
    """Start two nodes with so many CPUs each for the duration of a block; skips the test where Ray is not installed."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'parallelism-harness[ray]'")
    words = [sys.executable, __file__, str(cpus)]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_environment()
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, f"Ray's cluster did not start: {process.wait(10)}"
        yield RayCluster(address, process)
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _environment() -> dict[str, str]:
    return {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}


def _serve(cpus: int) -> None:
    from ray.cluster_utils import Cluster

    node = {"num_cpus": cpus, "object_store_memory": STORE_BYTES, "memory": MEMORY_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    _say(cluster.address)
    for line in sys.stdin:
        if line == "lose\n":
            cluster.remove_node(second, allow_graceful=False)
            _say("lost")
    cluster.shutdown()


def _say(word: str) -> None:
    """Print a word now."""
    print(word, flush=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
