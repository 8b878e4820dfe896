"""The reference runs of a night: a fixed plain PyTorch loop beside the cells, which tells the machine from the code.

results/<scenario>/reference.json    {"kind": ..., "runs": [{"started": ISO, "after_cells": 3, "seconds": 1.2}, ...]}
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from harness.analysis.nights import middle_log
from harness.core.atomic_files import write_atomically
from harness.core.errors import InputError
from harness.core.records import from_json, to_json
from harness.results.beside_records import read_beside

REFERENCE_FILE = "reference.json"


@dataclass(frozen=True)
class ReferenceRun:
    """One run of the loop.

    Attributes:
        started: with its time zone.
        after_cells: cells of the night that had ended before it.
        seconds: wall time of the loop, warm-up left out.
    """

    started: datetime
    after_cells: int
    seconds: float

    def __post_init__(self) -> None:
        if self.started.tzinfo is None:
            raise ValueError(f"started {self.started.isoformat()}: a time with its zone is needed, such as ...+00:00")
        if self.after_cells < 0:
            raise ValueError(f"after_cells {self.after_cells}: 0 or more")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"seconds {self.seconds:g}: a time above 0")


@dataclass(frozen=True)
class Reference:
    """All runs of a night.

    Attributes:
        kind: names loop and device; nights of another kind cannot be compared.
    """

    kind: str
    runs: tuple[ReferenceRun, ...]

    @property
    def log_seconds(self) -> float | None:
        """Natural logarithm of a run's seconds, as a night's own runs are read."""
        return middle_log(run.seconds for run in self.runs) if self.runs else None


def read_reference(folder: Path) -> Reference | None:
    """Return the reference runs of a scenario's results; None where none were made.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / REFERENCE_FILE
    try:
        return from_json(Reference, read_beside(path, folder))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError([f"{path}: not reference runs ({why}); move the file away to do without them"]) from None


def write_reference(folder: Path, reference: Reference) -> None:
    """Store the reference runs of a night beside its cells."""
    write_atomically(folder / REFERENCE_FILE, json.dumps(to_json(reference), indent=1) + "\n")
