"""What a data function's return value is turned into on its way: arrays of one split, with remarks, or a refusal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from harness.workloads.entries import Arrays

TARGET_NAMES = ("labels", "label", "target", "targets", "y")
"""Columns that hold what a model's output is compared with, in the order in which they are looked for."""


class Unfit(ValueError):
    """What a data function returned cannot be trained on; the message goes on from "returned"."""


@dataclass
class Split:
    """Inputs and targets of some samples, as they were found."""

    inputs: Arrays
    targets: npt.NDArray[np.generic]

    def __len__(self) -> int:
        return len(self.targets)

    def at(self, rows: npt.NDArray[np.intp] | slice) -> Split:
        """Return some of the samples."""
        taken = {name: array[rows] for name, array in by_name(self.inputs).items()}
        return Split(taken if isinstance(self.inputs, dict) else taken[""], self.targets[rows])


@dataclass
class Remarks:
    """What was converted, left out or noticed on the way, each once.

    Attributes:
        columns: names of the numbers of a vector, where they have some.
    """

    lines: list[str] = field(default_factory=list)
    columns: tuple[str, ...] = ()

    def add(self, line: str) -> None:
        """Keep a line."""
        if line not in self.lines:
            self.lines.append(line)


def by_name(inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
    """Return inputs by name; "" where they are one array."""
    return inputs if isinstance(inputs, dict) else {"": inputs}


def pairs(first: Arrays, second: Arrays) -> Iterator[tuple[str, npt.NDArray[np.generic], npt.NDArray[np.generic]]]:
    """Yield each array of the first with its like in the second."""
    others = by_name(second)
    return ((name, array, others[name]) for name, array in by_name(first).items())


def alternatives(names: Sequence[str]) -> str:
    """Return "a, b or c"."""
    return f"{', '.join(names[:-1])} or {names[-1]}"
