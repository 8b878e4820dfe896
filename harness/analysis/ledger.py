"""The fairness ledger: under which settings each strategy stands, what it could choose from, and what it did not try.

Imports the standard library only; works on rows of cells.csv.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.analysis.loss_shape import RateVerdict
from harness.analysis.point_names import devices_in_words, sentences
from harness.analysis.points import Point, number
from harness.analysis.ranking import Ranking, Standing
from harness.analysis.votes import vote_of
from harness.core.text import NO_TEXT, Text
from harness.core.words import counted, duration, listed, rate

RATE, BATCH = "learning_rate", "global_batch_size"
_NAMES = {RATE: "learning rate", BATCH: "global batch"}


@dataclass(frozen=True)
class Edge:
    """An end of a list at which a strategy does best: a better value may lie beyond it.

    Attributes:
        column: the rate or the batch.
        highest: which end.
    """

    column: str
    highest: bool
    value: float

    def __str__(self) -> str:
        """Return it in words."""
        return f"the {'highest' if self.highest else 'lowest'} {_NAMES[self.column]} tried ({self.value:g})"


@dataclass(frozen=True)
class LedgerEntry:
    """One strategy at its best point.

    Attributes:
        cell_id: of its first seed.
        rate, batch: its best; rates, batches: those it was given, ascending.
        tried: points it was tried at, over everything that was swept.
        samples: median of those seen by a run.
        edges: of those lists, where the best lies on one.
    """

    strategy: str
    cell_id: str
    devices: str
    rate: float
    rate_rule: str
    batch: int
    rates: tuple[float, ...]
    batches: tuple[int, ...]
    tried: int
    precision: str
    samples: float | None
    edges: tuple[Edge, ...] = ()


def ledger(ranking: Ranking) -> tuple[LedgerEntry, ...]:
    """Return one entry for each strategy, in the order in which they stand."""
    return tuple(
        _entry(standing, [p for p in ranking.points if p.strategy == standing.point.strategy])
        for standing in ranking.best
    )


def _entry(standing: Standing, tried: Sequence[Point]) -> LedgerEntry:
    row, point = standing.point.row, standing.point
    return LedgerEntry(
        strategy=point.strategy,
        cell_id=str(row["cell_id"]),
        devices=devices_in_words(row),
        rate=row[RATE],
        rate_rule=str(row.get("lr_rule") or "as given"),
        batch=row[BATCH],
        rates=_list(tried, RATE),
        batches=_list(tried, BATCH),
        tried=len(tried),
        precision=str(row.get("precision") or ""),
        samples=point.median_of(lambda row: number(row, "samples_seen")),
        edges=_edges(standing, tried) if standing.reached else (),
    )


def _list(points: Iterable[Point], key: str) -> tuple[int, ...]:
    return tuple(sorted({point.row[key] for point in points}))


def _edges(standing: Standing, tried: Sequence[Point]) -> tuple[Edge, ...]:
    return tuple(edge for key in (RATE, BATCH) if (edge := _edge(standing, tried, key)) is not None)


def _edge(standing: Standing, tried: Sequence[Point], key: str) -> Edge | None:
    """Return the end of what was tried at which the best lies, all else equal; None where its own curve warns.

    Where speed alone counts no rate is better than another.
    """
    row = standing.point.row
    if key == RATE and not standing.point.by_target:
        return None
    like = [p for p in tried if p.gpus == standing.point.gpus and p.varied == standing.point.varied]
    values = _list(like, key)
    if len(values) < 2 or row[key] not in (values[0], values[-1]):
        return None
    highest = row[key] == values[-1]
    warned = (
        (RateVerdict.TOO_LARGE, RateVerdict.UNSTEADY) if highest else (RateVerdict.TOO_SMALL, RateVerdict.UNFINISHED)
    )
    if key == RATE and vote_of(standing).verdict in warned:
        return None
    return Edge(key, highest, row[key])


def edges_in_words(entries: Iterable[LedgerEntry]) -> tuple[Text, ...]:
    """Say which strategies do best at the edge of what was tried, those at the same edge together."""
    alike: dict[tuple[Edge, ...], list[str]] = {}
    for entry in entries:
        if entry.edges:
            alike.setdefault(entry.edges, []).append(entry.strategy)
    does = {True: "does", False: "do"}
    return tuple(
        Text(f"{listed(who)} {does[len(who) == 1]} best at {listed(map(str, ends))}. Widen the list in [sweep].")
        for ends, who in alike.items()
    )


def tried_in_words(entries: Sequence[LedgerEntry]) -> Text:
    """Say how many points each stands for; empty where none could choose."""
    if all(entry.tried == 1 for entry in entries):
        return NO_TEXT
    each = ", ".join(f"{entry.strategy} {entry.tried}" for entry in entries)
    return Text(f"Each strategy is ranked at its best setting (settings tried: {each}).")


def unsteady(standing: Standing) -> bool:
    """Say whether a point's own curves warn of its learning rate, be the target reached or not."""
    return vote_of(standing).verdict in (RateVerdict.TOO_LARGE, RateVerdict.UNSTEADY)


# -- the same rate for all ---------------------------------------------------------------------------------------------


def at_one_rate(ranking: Ranking) -> tuple[float, list[Standing]] | None:
    """Return the rate that most strategies share, the best of each at it; None where the ranking is at one rate anyway.

    Of several such rates the one at which most reach what was asked counts, then the winner's own.
    """
    best = ranking.best
    if len({standing.point.row[RATE] for standing in best}) < 2 or not best[0].point.by_target:
        return None
    by_rate: dict[float, list[Standing]] = {}
    for standing in ranking.standings:
        there = by_rate.setdefault(standing.point.row[RATE], [])
        if all(standing.point.strategy != other.point.strategy for other in there):
            there.append(standing)
    winners = best[0].point.row[RATE]
    chosen = max(sorted(by_rate), key=lambda r: (len(by_rate[r]), sum(s.sure for s in by_rate[r]), r == winners))
    return (chosen, by_rate[chosen]) if len(by_rate[chosen]) > 1 else None


def one_rate_in_words(given: tuple[float, Sequence[Standing]] | None) -> Text:
    """Return the second comparison as a sentence; empty for none."""
    if given is None:
        return NO_TEXT
    at, standings = given
    return Text(f"With learning rate {at:g} for all: {listed(map(_in_short, standings))}.")


def one_rate_rows(given: tuple[float, Sequence[Standing]] | None) -> tuple[tuple[str, ...], ...]:
    """Return the second comparison as rows: strategy, devices, rate, global batch, what it came to, seeds; () for none.

    The best first.
    """
    if given is None:
        return ()
    at, standings = given
    return tuple(
        (
            standing.point.strategy,
            devices_in_words(standing.point.row),
            f"{at:g}",
            str(standing.point.row[BATCH]),
            _value(standing),
            f"{standing.reached} of {standing.seeds}",
        )
        for standing in standings
    )


def _value(standing: Standing) -> str:
    if not standing.reached:
        return "never" if standing.point.by_target else "no result"
    return duration(standing.seconds) if standing.point.by_target else rate(1 / standing.seconds)


def _in_short(standing: Standing) -> str:
    who = f"{standing.point.strategy} on {counted(standing.point.gpus, 'device')}"
    if not standing.reached:
        return f"{who} {'never reaches the target' if standing.point.by_target else 'has no result'}"
    does = f"takes {duration(standing.seconds)}" if standing.point.by_target else f"trains {rate(1 / standing.seconds)}"
    return f"{who} {does}" + ("" if standing.sure else f" ({standing.reached} of {standing.seeds} seeds)")


# -- what to try instead -----------------------------------------------------------------------------------------------


class RateFault(StrEnum):
    """What is wrong with every learning rate that was tried."""

    TOO_LARGE = "too large"
    TOO_SMALL = "too small"
    BETWEEN = "between"
    UNFINISHED = "unfinished"
    TOO_SHORT = "too short"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class RateAdvice:
    """Why no rate did, and where a good one lies.

    Attributes:
        rates: those it is about: all that were tried, the two to try between, those that did not get far, or those
            that train steadily.
        limit: the smallest rate that is too large, above those that did not get far; None where none is known.
    """

    fault: RateFault
    rates: tuple[float, ...]
    limit: float | None = None

    def words(self, whom: Sequence[str]) -> Text:
        """Return it as sentences about strategies on so many devices."""
        who, train = listed(whom), "trains" if len(whom) == 1 else "train"
        given, several = listed(f"{rate:g}" for rate in self.rates), len(self.rates) > 1
        tried = f"All learning rates tried ({given}) are" if several else f"The only learning rate tried ({given}) is"
        match self.fault:
            case RateFault.TOO_LARGE:
                return Text(f"{tried} too large for {who}. Try one below {self.rates[0]:g}.")
            case RateFault.TOO_SMALL:
                return Text(f"{tried} too small for {who}. Try one above {self.rates[-1]:g}.")
            case RateFault.UNFINISHED:
                largest = f"{self.rates[-1]:g}"
                try_one = f"above {largest}" if self.limit is None else f"between {largest} and {self.limit:g}"
                return Text(
                    f"{who} had not got far with learning rate {given} when training ended. That does not tell whether "
                    f"the rate is too small. Give it more epochs, or try a rate {try_one}."
                )
            case RateFault.TOO_SHORT:
                return Text(f"{who} {train} steadily with learning rate {given}, but too briefly. Give it more epochs.")
            case RateFault.BETWEEN:
                small, large = self.rates
                ends = f"{small:g} is too small and {large:g} is too large. Try one in between."
                return Text(f"No learning rate tried suits {who}: {ends}")
            case RateFault.UNKNOWN:
                return Text(f"No learning rate tried suits {who}.")


def rate_advice(ranking: Ranking) -> tuple[Text, ...]:
    """Say for which strategies on how many devices no rate did, and on which side of all of them a good one lies."""
    alike: dict[RateAdvice, dict[str, list[Point]]] = {}
    for (strategy, _), group in _groups(ranking):
        advice = _advice(group)
        if advice:
            alike.setdefault(advice, {}).setdefault(strategy, []).append(group[0].point)
    return tuple(advice.words([*map(_who, by.values())]) for advice, by in alike.items())


def _who(points: Sequence[Point]) -> str:
    *fewer, most = points
    counts = listed([*(str(point.gpus) for point in fewer), devices_in_words(most.row)])
    return f"{most.strategy} on {counts}"


def _groups(ranking: Ranking) -> list[tuple[tuple[str, int], list[Standing]]]:
    groups: dict[tuple[str, int], list[Standing]] = {}
    for standing in ranking.standings:
        groups.setdefault((standing.point.strategy, standing.point.gpus), []).append(standing)
    return sorted(groups.items())


def _advice(group: Sequence[Standing]) -> RateAdvice | None:
    """Return what to try; None where some rate did, or nothing is known."""
    if any(standing.reached for standing in group):
        return None
    verdicts = {s.point.row[RATE]: vote_of(s).verdict for s in sorted(group, key=lambda s: s.point.row[RATE])}
    small, unfinished, good, large = (
        tuple(rate for rate, found in verdicts.items() if found == verdict)
        for verdict in (RateVerdict.TOO_SMALL, RateVerdict.UNFINISHED, RateVerdict.GOOD, RateVerdict.TOO_LARGE)
    )
    rates = tuple(verdicts)
    if large == rates:
        return RateAdvice(RateFault.TOO_LARGE, rates)
    if small == rates:
        return RateAdvice(RateFault.TOO_SMALL, rates)
    if good:
        return RateAdvice(RateFault.TOO_SHORT, good)
    if unfinished:
        return RateAdvice(RateFault.UNFINISHED, unfinished, min((r for r in large if r > unfinished[-1]), default=None))
    if small and large and max(small) < min(large):
        return RateAdvice(RateFault.BETWEEN, (max(small), min(large)))
    return RateAdvice(RateFault.UNKNOWN, ()) if small or large else None


def too_large(ranking: Ranking) -> Text:
    """Say from which rate on each strategy on so many devices has too large a one; empty where none has.

    Where options or batches differ too, the largest rate that one of them still takes well decides.
    """
    limits: dict[str, dict[float, list[int]]] = {}
    for (strategy, gpus), group in _groups(ranking):
        verdicts = [(standing.point.row[RATE], vote_of(standing).verdict) for standing in group]
        fine = max((rate for rate, verdict in verdicts if verdict != RateVerdict.TOO_LARGE), default=0)
        beyond = [rate for rate, verdict in verdicts if verdict == RateVerdict.TOO_LARGE and rate > fine]
        if beyond:
            limits.setdefault(strategy, {}).setdefault(min(beyond), []).append(gpus)
    return sentences(
        *(
            f"{strategy} becomes unstable at a learning rate of {listed(_from(*each) for each in by_rate.items())}."
            for strategy, by_rate in limits.items()
        )
    )


def _from(rate: float, gpus: Sequence[int]) -> str:
    *fewer, most = gpus
    return f"{rate:g} on {listed([*map(str, fewer), counted(most, 'device')])}"
