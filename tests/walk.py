"""Follow one simulated step through the files of the harness: how often does it move from one to another?

python tests/walk.py [STRATEGY]        counts what one step of worker 0 needs, after a step of warming up
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import harness

ROOT = str(Path(harness.__file__).parent) + "/"

SCENARIO = """
engine = "virtual"
[workload]
model = "softmax"
[sweep]
strategy = "STRATEGY"
gpus = [2]
batch_size = [32]
learning_rate = [0.1]
[goal]
target_accuracy = "none"
max_steps = 12
[cluster]
device = { samples_per_second = 1000, batch_size = 32 }
inter_node = { bandwidth = "1 GB/s", latency = "50 us" }
"""


@dataclass
class Walk:
    """Moves between files, while it is switched on.

    Attributes:
        moves: (from, to) by file below harness/, calls and returns alike.
    """

    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    on: bool = False
    _stack: list[str] = field(default_factory=list)

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Take a call or a return; code outside the package counts as part of whoever called it."""
        name = frame.f_code.co_filename
        if event not in ("call", "return") or not name.startswith(ROOT):
            return
        file = name.removeprefix(ROOT)
        if event == "call":
            self._step(self._stack[-1] if self._stack else file, file)
            self._stack.append(file)
        elif self._stack:
            self._stack.pop()
            self._step(file, self._stack[-1] if self._stack else file)

    def _step(self, before: str, after: str) -> None:
        if self.on and before != after:
            self.moves[before, after] += 1


def follow(strategy: str) -> Walk:
    """Return the moves of a cell from the start of worker 0's sixth step to the start of its seventh."""
    from harness.api.host import load_host
    from harness.core.machine import Machine
    from harness.engines.shared.setup import make_setup
    from harness.engines.virtual.engine import run_virtual
    from harness.scenario.plan import make_plan
    from harness.scenario.read import parse_scenario

    host = load_host(())
    text = SCENARIO.replace("STRATEGY", strategy)
    (cell,) = make_plan(parse_scenario(text, host, Path("walk.toml")), host, Machine(cores=64)).cells
    setup, walk = make_setup(cell, ()), Walk()
    work = type(setup.strategy).work

    class Watched:
        """A worker whose batches switch the walk on and off."""

        def __init__(self, worker: Any) -> None:
            self.worker = worker

        def __getattr__(self, name: str) -> Any:
            return getattr(self.worker, name)

        def batches(self) -> Any:
            """Yield the worker's batches."""
            for batch in self.worker.batches():
                if self.worker.rank == 0:
                    walk.on = batch.step == 5
                yield batch

    setup.strategy.work = lambda worker: work(setup.strategy, Watched(worker))
    sys.setprofile(walk)
    try:
        run_virtual(setup)
    finally:
        sys.setprofile(None)
    return walk


def main() -> None:
    """Print the moves."""
    walk = follow(sys.argv[1] if len(sys.argv) > 1 else "async-ps")
    files = {file for move in walk.moves for file in move}
    print(f"{sum(walk.moves.values())} moves between {len(files)} files")
    for (before, after), count in walk.moves.most_common(25):
        print(f"{count:5}  {before} -> {after}")


if __name__ == "__main__":
    main()
