"""What ran beside the cells of two nights: references, earlier nights, fresh runs; read for the gate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.nights_kept import facts_of
from harness.core.errors import NothingDone
from harness.core.text import Text
from harness.core.words import counted
from harness.results.history import Commit, night_rows, read_history
from harness.results.reruns import RERUNS, fresh_times, logs_of_reference
from harness.results.store import Results

if TYPE_CHECKING:
    from harness.analysis.compare_gate import Beside
    from harness.analysis.nights import CellNight


@dataclass(frozen=True)
class History:
    """Where earlier nights are kept.

    Attributes:
        machine: as it was named when they were added.
    """

    folder: Path
    machine: str = ""


def beside(base: Results | None, new: Results, prefix: str, history: History | None) -> Beside:
    """Return what ran beside the cells of one scenario.

    Args:
        base: that scenario in BASE.
        prefix: what the points of this scenario begin with in the comparison.
        history: None: BASE alone says what is usual.
    """
    from harness.analysis.compare_gate import Beside

    kind, loops = logs_of_reference(new.folder)
    if not loops:
        return Beside()
    nights = _earlier(new, kind, history) if history else {}
    return Beside(
        base=logs_of_reference(base.folder, kind)[1] if base else (),
        new=loops,
        nights={prefix + point: known for point, known in nights.items()},
        fresh={prefix + point: logs for point, logs in fresh_times(new).items()},
        fresh_reference=logs_of_reference(new.folder / RERUNS, kind)[1],
    )


def _earlier(new: Results, kind: str, history: History) -> Mapping[str, Mapping[str, float]]:
    """Return the nights before this one that each point was at its present level in, relative to the reference."""
    import math

    from harness.analysis.trends import trends_of

    rows = list(_rows_before(new, history))
    found: dict[str, dict[str, float]] = {}
    for trends in trends_of(rows):
        for point in trends.points:
            # What a change point ended says nothing of how long the point takes now.
            first = max([0, *trends.anew, *(shift.place for shift in point.shifts)])
            for place, seconds in zip(point.nights, point.measured_s, strict=True):
                night = trends.nights[place]
                if place >= first and night.reference is not None and night.reference_kind == kind:
                    found.setdefault(point.key, {})[night.night] = math.log(seconds) - night.reference
    return found


def _rows_before(new: Results, history: History) -> Iterator[CellNight]:
    tonight = night_rows(new, facts_of(new), Commit(), history.machine)
    devices = {row.hardware for row in tonight}
    scenario, began = tonight[0].scenario, tonight[0].night
    for row in _known(history.folder):
        here = (row.scenario, row.machine) == (scenario, history.machine) and row.hardware in devices
        if here and row.night < began:
            yield row


def _known(folder: Path) -> list[CellNight]:
    """Return all nights; none before the first was added: every history begins so."""
    try:
        return read_history(folder)
    except NothingDone:
        return []


def notes_of(besides: Mapping[str, Beside], history: History | None, *, rerun: bool) -> Iterator[Text]:
    """Say why a gate that was asked for does not judge."""
    from harness.analysis.compare_gate import FEWEST_LOOPS
    from harness.analysis.gate import FEWEST_NIGHTS

    for scenario, known in besides.items():
        name = f"{scenario}: " if scenario else ""
        if (history or rerun) and len(known.new) < FEWEST_LOOPS:
            few = f"{counted(len(known.new), 'run')} of the reference" if known.new else "no reference"
            yield Text(
                f"{name}{few} ran beside NEW, so code and machine cannot be told apart and nothing is run again; "
                "run the night with --reference"
            )
        elif history:
            longest = max(map(len, known.nights.values()), default=0)
            if longest < FEWEST_NIGHTS:
                yield Text(
                    f"{name}the history has {counted(longest, 'night')} that NEW can be compared with, and "
                    f"{FEWEST_NIGHTS} are needed; until then BASE alone says what is usual"
                )
