"""How long cells will take to run on this machine: as such cells took here before, else from a step measured here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import median
from typing import TYPE_CHECKING

from harness.core.cell import LARGEST, POINT_FIELDS, Cell, Plan
from harness.core.environment import describe_environment
from harness.core.records import to_json
from harness.results.store import Record, Results

if TYPE_CHECKING:
    from harness.api.host import Host

RATE_FIELDS = ("learning_rate", "lr_rule")
"""Fields of a point that change how soon a cell reaches its target, and nothing about its steps."""


class TimedBy(StrEnum):
    """What a time is known from."""

    SEEDS = "seeds"
    """Other seeds of the point, or itself, took so long here."""
    RATES = "rates"
    """The same at other learning rates did."""
    STEP = "step"
    """A step was measured here: so long it trains at most, starting and evaluating left out."""


@dataclass(frozen=True)
class RunTime:
    """Seconds of this machine that a cell takes."""

    seconds: float
    origin: TimedBy


@dataclass(frozen=True)
class RunTimes:
    """What is known of how long the cells of a plan take, by id.

    Attributes:
        known: their times.
        why_not: of the others the reason.
    """

    known: Mapping[str, RunTime] = field(default_factory=dict)
    why_not: Mapping[str, str] = field(default_factory=dict)


def run_times(plan: Plan, results: Results, records: Mapping[str, Record], host: Host) -> RunTimes:
    """Return what is known of a plan's cells.

    Args:
        results: where it has run, this sweep or another of its name.
        records: of its cells, as far as there are any.
        host: the strategies, whose layouts the times of steps follow from.
    """
    planned = {cell.cell_id: cell for cell in plan.cells}  # a record's cell has its largest micro-batch found
    stored = [*records.values(), *(results.record(each) for each in sorted(results.stored_cells() - planned.keys()))]
    took = _Took((planned.get(r.cell.cell_id, r.cell), r) for r in stored if r is not None and _is_of(r, plan))
    known: dict[str, RunTime] = {}
    why_not: dict[str, str] = {}
    steps: dict[str, RunTime | Unforetold] = {}
    for cell in plan.cells:
        found = took.of(cell) or steps.setdefault(_key(cell, ()), _NOT_RUN)
        if found is _NOT_RUN and may_be_stepped(cell):
            found = steps[_key(cell, ())] = _stepped(cell, host)
        if isinstance(found, Unforetold):
            why_not[cell.cell_id] = found.reason
        else:
            known[cell.cell_id] = found
    return RunTimes(known, why_not)


def _is_of(record: Record, plan: Plan) -> bool:
    """Say whether a record was made on the plan's machine as it is now, by a run to an end of its own."""
    return record.environment.get("id") == describe_environment(plan.machine)["id"] and record.status.tried


@dataclass(frozen=True)
class Unforetold:
    """Why of a cell no time is known."""

    reason: str


_NOT_RUN = Unforetold("none ran here; the first one tells")
_NOT_LOADED = Unforetold("none ran here, and its strategy is in no loaded plugin")
_NOT_STEPPED = Unforetold("none ran here; `harness plan --measure` measures a step")


class _Took:
    """What cells took, by point, and by point without its rate."""

    def __init__(self, records: Iterable[tuple[Cell, Record]]) -> None:
        self._by_point: dict[str, list[float]] = {}
        self._by_layout: dict[str, list[float]] = {}
        for cell, record in records:
            seconds = took_s(record)
            if seconds is not None:
                self._by_point.setdefault(_key(cell, ()), []).append(seconds)
                self._by_layout.setdefault(_key(cell, RATE_FIELDS), []).append(seconds)

    def of(self, cell: Cell) -> RunTime | None:
        """Return what a cell takes; None where nothing like it ran."""
        for known, left_out, origin in (
            (self._by_point, (), TimedBy.SEEDS),
            (self._by_layout, RATE_FIELDS, TimedBy.RATES),
        ):
            seconds = known.get(_key(cell, left_out))
            if seconds:
                return RunTime(median(seconds), origin)
        return None


def took_s(record: Record) -> float | None:
    """Return the seconds of this machine that a cell took; of older records those of its clock, where that is ours."""
    if record.took_s is not None:
        return record.took_s
    seconds = record.row.get("wall_s") if record.cell.engine == "real" else None
    return float(seconds) if seconds else None


def _key(cell: Cell, left_out: Sequence[str]) -> str:
    return json.dumps([to_json(getattr(cell, name)) for name in POINT_FIELDS if name not in left_out], sort_keys=True)


# -- from the time of a step -------------------------------------------------------------------------------------------


def may_be_stepped(cell: Cell) -> bool:
    """Say whether the time of a step of `single` tells how long a cell trains: it runs here, and has one worker."""
    return cell.engine == "real" and cell.workers == 1 and not (cell.servers or cell.not_possible or cell.faults)


def simulated(cell: Cell) -> Cell:
    """Return a real cell as it is simulated on this machine."""
    return replace(cell, engine="virtual")


def _stepped(cell: Cell, host: Host) -> RunTime | Unforetold:
    from harness.costs.cells import load_profile  # late: most plans need no law of costs

    if cell.strategy not in host.strategies:
        return _NOT_LOADED
    if cell.micro_batch_size != LARGEST and load_profile(cell) is None:
        return _NOT_STEPPED
    from harness.costs.price import price

    found = price(simulated(cell), host)
    if found.training_s is None:
        return Unforetold(found.reason or "how many steps it takes is not known before it runs")
    return RunTime(found.training_s, TimedBy.STEP)


# -- all together ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TimeLeft:
    """What is left of a plan.

    Attributes:
        cells: that have to run.
        known: those of them of which something is known.
        seconds: that these take.
        at_most: for some of them only a bound is known.
    """

    cells: int
    known: int
    seconds: float
    at_most: bool


def time_left(cells: Iterable[Cell], times: RunTimes) -> TimeLeft:
    """Add up what cells take that have to run."""
    left = list(cells)
    known = [times.known[cell.cell_id] for cell in left if cell.cell_id in times.known]
    bound = any(time.origin is TimedBy.STEP for time in known)
    return TimeLeft(len(left), len(known), sum(time.seconds for time in known), bound)
