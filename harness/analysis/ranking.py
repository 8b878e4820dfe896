"""Who is ahead: points by what they cost, seeds that failed counted as what they are.

A run costs samples times the time of a sample. Points that train the same model from the same seed need the same
samples, so all their runs together say how many; whatever the learning rate, a sample takes as long, so all runs of a
layout together say how long. Imports the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median, median_low

from harness.analysis.censored import SeedRun, expected_time, run_of, training_s
from harness.analysis.judged_rows import sought_of, sought_value
from harness.analysis.points import SWEPT, Point, Row, number, point_of
from harness.analysis.two_way import TwoWay
from harness.core.endings import Status

ENOUGH = 0.5
"""Share of the seeds that must reach the target for a point to be ranked with those that do; chosen: below it even
the median run fails, and of many points tried some are fast once by luck."""

READINGS = ("samples_to_target_fit", "samples_to_target")
"""Columns that say when the target was reached, the finer one first."""

SETTING = ("engine", "precision", "global_batch_size", "learning_rate", "lr_rule")
"""Columns on which, beside what is swept by its path, the samples to the target depend."""

RATE_COLUMNS = ("learning_rate", "lr_rule")
"""Columns on which the time of a sample does not depend."""


@dataclass(frozen=True)
class Standing:
    """A point and what its seeds say of it, in seconds: to the target, or for a sample where there is none.

    Attributes:
        pace: seconds of a sample, of all runs of its layout together; None: only its own runs count.
        samples: to the target by seed, inf where it is missed, of all that train the same model; empty: only its own
            runs count.
        read: the column that says when the target was reached.
    """

    point: Point
    pace: float | None = None
    samples: Mapping[int, float] | None = None
    read: str = READINGS[-1]

    @cached_property
    def _each(self) -> tuple[SeedRun | None, ...]:
        return tuple(map(self._run, self.point.rows))

    @property
    def runs(self) -> tuple[SeedRun, ...]:
        """Seeds that trained to an end; for speed alone one that did not end well has no value."""
        return tuple(run for run in self._each if run is not None)

    @property
    def seeds(self) -> int:
        """How many were tried."""
        return len(self.point.rows)

    @property
    def reached(self) -> int:
        """Seeds with a value to rank."""
        return sum(run.reached for run in self.runs)

    @property
    def sure(self) -> bool:
        """Whether every seed reached what was asked."""
        return self.reached == self.seeds

    @cached_property
    def seconds(self) -> float:
        """The geometric mean where every seed got there, else the expected time with failed runs repeated."""
        if not self.reached:
            return math.inf
        if not self.point.by_target:
            return self.pace or _geometric(run.spent for run in self.runs)
        if not self.sure:
            return expected_time(self.runs)
        if self.samples and self.pace and self.samples.keys() >= {row["seed"] for row in self.point.rows}:
            return self.pace * _geometric(self.samples[row["seed"]] for row in self.point.rows)
        return _geometric(run.spent for run in self.runs)

    @property
    def by_seed(self) -> dict[int, SeedRun]:
        """Its runs by their seed."""
        pairs = zip(self.point.rows, self._each, strict=True)
        return {row["seed"]: run for row, run in pairs if run is not None}

    @property
    def learnt(self) -> float | None:
        """Median on the validation split at the end, of what the cells were after."""
        return self.point.median_of(sought_value)

    @property
    def rank(self) -> tuple[bool, float, float, float]:
        """Smaller is better: fewer than half got there, the share that broke, the seconds, then what was learnt."""
        broken = 1 - len(self.runs) / self.seeds
        return (
            self.reached < ENOUGH * self.seeds,
            broken,
            self.seconds,
            sought_of(self.point.row).rank(self.learnt),
        )

    @property
    def middle(self) -> Row:
        """The row of the median seed among those that ended well themselves; at least one did."""
        pairs = zip(self.point.rows, self._each, strict=True)
        ended = [(run.spent, row) for row, run in pairs if run and run.reached and row["status"] == Status.OK]
        return sorted(ended, key=lambda pair: pair[0])[(len(ended) - 1) // 2][1]

    def _run(self, row: Row) -> SeedRun | None:
        if not self.point.by_target:
            return _speed(row)
        own = run_of(row)
        # What broke after it had reached the target did not train to an end all the same.
        if own is None or (own.reached and row["status"] != Status.OK):
            return None
        samples, pace = (self.samples or {}).get(row.get("seed", 0)), pace_of(row)
        if own.hopeless or pace is None or (samples is None and not own.reached):
            return own
        if samples is None:
            samples = number(row, self.read)
        if not samples:
            return own
        return SeedRun(samples * pace, True) if math.isfinite(samples) else SeedRun(own.spent, False)


def _geometric(values: Iterable[float]) -> float:
    found = list(values)
    return math.exp(fmean(map(math.log, found))) if min(found) > 0 else 0.0


def _speed(row: Row) -> SeedRun | None:
    """Return the seconds of a sample, which a cell that ran to its end has."""
    value = number(row, "throughput_samples_per_s")
    return SeedRun(1 / value, reached=True) if row["status"] == Status.OK and value and value > 0 else None


def pace_of(row: Row, by_target: bool = True) -> float | None:
    """Return the seconds of a sample of a run that trained to its end: on the way to the target, where it got there."""
    if not Status(row["status"]).trained:
        return None
    rate = number(row, "throughput_samples_per_s")
    spent, samples = number(row, "time_to_target_s"), number(row, "samples_to_target")
    if spent is None:
        spent, samples = training_s(row), number(row, "samples_seen")
    if by_target and spent and samples and spent > 0 and samples >= 1:
        return _above_zero(spent / samples)
    return _above_zero(1 / rate) if rate and rate > 0 else None


def _above_zero(pace: float) -> float | None:
    """Return a pace that has a logarithm: a quotient of floats can underflow to 0, or overflow."""
    return pace if 0 < pace < math.inf else None


def reading(rows: Iterable[Row]) -> str:
    """Return the column that says when the target was reached: the finer one where all that got there have it."""
    there = [row for row in rows if number(row, "time_to_target_s") is not None]
    return next((key for key in READINGS if there and all(number(row, key) for row in there)), READINGS[-1])


# -- everything that is ranked together --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    """Points that are ranked together.

    Attributes:
        same: ids of the cells that train the same model as single: they share their samples to the target.
        read: the column that says when the target was reached.
        picked: the point that other seeds had put first, where these are to bear it out: it is not the best of several
            by their chance.
    """

    points: tuple[Point, ...]
    same: frozenset[str] = frozenset()
    read: str = READINGS[-1]
    picked: Point | None = None

    @property
    def confirms(self) -> bool:
        """Whether its seeds had no part in choosing its points."""
        return self.picked is not None

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """All points, the best first."""
        found = [Standing(point, self._pace(point), self._shared(point), self.read) for point in self.points]
        return tuple(sorted(found, key=lambda standing: standing.rank))

    @cached_property
    def best(self) -> list[Standing]:
        """Each strategy's best point, the best strategy first."""
        best: dict[str, Standing] = {}
        for standing in self.standings:
            best.setdefault(standing.point.strategy, standing)
        return list(best.values())

    def settings(self, standing: Standing) -> list[Standing]:
        """Return the points of a strategy with all seeds there, from which its best was picked."""
        return [s for s in self.standings if s.point.strategy == standing.point.strategy and s.sure]

    def is_same(self, point: Point) -> bool:
        """Say whether a point trains the same model as single."""
        return all(str(row.get("cell_id")) in self.same for row in point.rows)

    # -- the time of a sample ------------------------------------------------------------------------------------------

    @cached_property
    def paces(self) -> TwoWay:
        """Logarithm of the seconds of a sample: layouts by rounds."""
        values: dict[Hashable, dict[Hashable, float]] = {}
        for point in self.points:
            for row in point.rows:
                pace = pace_of(row, point.by_target)
                if pace is not None:
                    values.setdefault(layout_key(row), {})[round_of(row)] = math.log(pace)
        return TwoWay(values, {}, robust=True)

    def _pace(self, point: Point) -> float | None:
        log = self.paces.means.get(layout_key(point.row))
        return None if log is None or not (self.is_same(point) or not point.by_target) else math.exp(log)

    # -- samples to the target -----------------------------------------------------------------------------------------

    @cached_property
    def _samples(self) -> dict[Hashable, dict[int, float]]:
        """Samples to the target of the model that single trains, by setting and seed: the median of those that ran it.

        Where half of them reached it, it counts as reached: rounding moves a run across the target now and then.
        """
        found: dict[Hashable, dict[int, list[float]]] = {}
        for point in self.points:
            for row in point.rows:
                if point.by_target and self.is_same(point) and Status(row["status"]).trained:
                    samples = number(row, self.read)
                    if row["status"] == Status.TARGET_MISSED:
                        samples = math.inf
                    if samples:
                        found.setdefault(setting_key(row), {}).setdefault(row["seed"], []).append(samples)
        return {setting: {seed: _pooled(all_) for seed, all_ in seeds.items()} for setting, seeds in found.items()}

    def _shared(self, point: Point) -> Mapping[int, float] | None:
        """Return what all that train the same model say of a point's samples to the target."""
        if not point.by_target or not self.is_same(point):
            return None
        if not any(row["status"] == Status.OK for row in point.rows):
            return None
        return self._samples.get(setting_key(point.row))

    @cached_property
    def shared(self) -> TwoWay:
        """Logarithm of the samples to the target of the model that single trains: settings by seeds, all there."""
        there = {k: seeds for k, seeds in self._samples.items() if all(map(math.isfinite, seeds.values()))}
        return TwoWay({k: {s: math.log(v) for s, v in seeds.items()} for k, seeds in there.items()}, {})


def _pooled(samples: Sequence[float]) -> float:
    return median(samples) if all(map(math.isfinite, samples)) else median_low(samples)


def layout_key(row: Row) -> Hashable:
    """Return what the time of a sample depends on: the point without its learning rate."""
    return point_of(row, leaving_out=RATE_COLUMNS)


def round_of(row: Row) -> Hashable:
    """Return what cells have in common that ran one after the other: seed and learning rate."""
    return row.get("seed"), *(row.get(key) for key in RATE_COLUMNS)


def setting_key(row: Row) -> Hashable:
    """Return what the samples to the target depend on where strategies train the same model, but for the seed."""
    swept = tuple((key, str(row[key])) for key in sorted(row) if key.startswith(SWEPT))
    return (*(row.get(key) for key in SETTING), *swept)


def rank(points: Iterable[Point], same: Collection[str] = frozenset()) -> Ranking:
    """Return points as they are ranked.

    Args:
        points: of one question: the same model, data, engine and environment.
        same: ids of the cells that train the same model as single.
    """
    found = tuple(points)
    return Ranking(found, frozenset(same), reading(row for point in found for row in point.rows))
