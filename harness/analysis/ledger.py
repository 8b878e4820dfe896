"""The fairness ledger: under which settings each strategy stands, what it could choose from, and what it did not try.

Imports the standard library only; works on rows of cells.csv.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.analysis.point_names import devices_in_words
from harness.analysis.points import Point, number
from harness.analysis.ranking import Standing, best_standings
from harness.analysis.votes import vote
from harness.core.words import duration, listed, rate

RATE, BATCH = "learning_rate", "global_batch_size"
_NAMES = {RATE: "learning rate", BATCH: "global batch"}


@dataclass(frozen=True)
class Entry:
    """One strategy at its best point.

    Attributes:
        cell_id: of its first seed.
        rate, batch: its best; rates, batches: those it was given, ascending.
        tried: points it was tried at, over everything that was swept.
        samples: median of those seen by a run.
        edge: "best at the edge of the list: widen it", in words; empty where it is not.
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
    edge: str = ""


def ledger(found: Sequence[Point], best: Iterable[Standing]) -> tuple[Entry, ...]:
    """Return one entry for each strategy, in the order in which they stand.

    Args:
        found: every point that was ranked.
    """
    return tuple(_entry(standing, [p for p in found if p.strategy == standing.point.strategy]) for standing in best)


def _entry(standing: Standing, tried: Sequence[Point]) -> Entry:
    row, point = standing.point.row, standing.point
    return Entry(
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
        edge=_edges(standing, tried) if standing.reached else "",
    )


def _list(points: Iterable[Point], key: str) -> tuple[int, ...]:
    return tuple(sorted({point.row[key] for point in points}))


def _edges(standing: Standing, tried: Sequence[Point]) -> str:
    found = listed(filter(None, (_edge(standing, tried, key) for key in (RATE, BATCH))))
    return f"{standing.point.strategy} is best at {found}: widen the list" if found else ""


def _edge(standing: Standing, tried: Sequence[Point], key: str) -> str:
    """Say at which end of what was tried the best lies, all else equal, unless its own curve warns of going on."""
    row = standing.point.row
    like = [p for p in tried if p.gpus == standing.point.gpus and p.details == standing.point.details]
    values = _list(like, key)
    if len(values) < 2 or row[key] not in (values[0], values[-1]):
        return ""
    highest = row[key] == values[-1]
    if key == RATE and _verdict(standing.point) == ("too large" if highest else "too small"):
        return ""
    return f"the {'highest' if highest else 'lowest'} {_NAMES[key]} tried, {row[key]:g}"


def edges(entries: Iterable[Entry]) -> tuple[str, ...]:
    """Say which strategies are best at the edge of what was tried, those at the same edge together."""
    alike: dict[str, list[str]] = {}
    for entry in entries:
        if entry.edge:
            alike.setdefault(entry.edge.removeprefix(f"{entry.strategy} is "), []).append(entry.strategy)
    return tuple(f"{listed(names)} {'are' if len(names) > 1 else 'is'} {said}" for said, names in alike.items())


def tried_in_words(entries: Sequence[Entry]) -> str:
    """Say how many points each stands for; empty where none could choose."""
    if all(entry.tried == 1 for entry in entries):
        return ""
    each = listed(f"{entry.strategy} of {entry.tried}" for entry in entries)
    return f"Each stands with its best of the points it was tried at: {each}."


def _verdict(point: Point) -> str | None:
    return vote([row.get("regime") for row in point.rows]).verdict


def too_large_for(point: Point) -> bool:
    """Say whether a point's own curves call its learning rate too large."""
    return _verdict(point) == "too large"


# -- the same rate for all ---------------------------------------------------------------------------------------------


def at_one_rate(found: Sequence[Point], best: Sequence[Standing]) -> tuple[float, list[Standing]] | None:
    """Return the rate that most strategies share, the best of each at it; None where the ranking is at one rate anyway.

    Of several such rates the one at which most reach what was asked counts, then the winner's own.
    """
    if len({standing.point.row[RATE] for standing in best}) < 2:
        return None
    by_rate = {r: best_standings(p for p in found if p.row[RATE] == r) for r in _list(found, RATE)}
    winners = best[0].point.row[RATE]
    chosen = max(by_rate, key=lambda r: (len(by_rate[r]), sum(s.sure for s in by_rate[r]), r == winners))
    return (chosen, by_rate[chosen]) if len(by_rate[chosen]) > 1 else None


def one_rate_in_words(given: tuple[float, Sequence[Standing]] | None) -> str:
    """Return the second comparison as a sentence; empty for none."""
    if given is None:
        return ""
    at, standings = given
    return f"At one learning rate for all, {at:g}: {listed(map(_in_short, standings))}."


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
    who = f"{standing.point.strategy} on {standing.point.gpus}"
    if not standing.reached:
        return f"{who} never" if standing.point.by_target else f"{who} without a result"
    value = f"in {duration(standing.seconds)}" if standing.point.by_target else f"at {rate(1 / standing.seconds)}"
    return f"{who} {value}" + ("" if standing.sure else f" ({standing.reached} of {standing.seeds} seeds)")


# -- what to try instead -----------------------------------------------------------------------------------------------


def rate_advice(found: Sequence[Point]) -> tuple[str, ...]:
    """Say for which strategies on how many devices no rate did, and on which side of all of them a good one lies."""
    alike: dict[tuple[str, str], list[Point]] = {}
    for (strategy, _), group in sorted(_groups(found).items()):
        advice = _advice(group)
        if advice:
            alike.setdefault((strategy, advice), []).append(group[0])
    return tuple(advice.format(_who(points)) for (_, advice), points in alike.items())


def _who(points: Sequence[Point]) -> str:
    *fewer, most = points
    counts = "".join(f"{point.gpus}, " for point in fewer[:-1])
    counts += f"{fewer[-1].gpus} and " if fewer else ""
    return f"{most.strategy} on {counts}{devices_in_words(most.row)}"


def _groups(found: Sequence[Point]) -> dict[tuple[str, int], list[Point]]:
    groups: dict[tuple[str, int], list[Point]] = {}
    for point in found:
        groups.setdefault((point.strategy, point.gpus), []).append(point)
    return groups


def _advice(group: Sequence[Point]) -> str:
    """Return what to try, with {} for who should; empty where some rate did, or nothing is known."""
    if any(Standing(point).reached for point in group):
        return ""
    verdicts = {point.row[RATE]: _verdict(point) for point in sorted(group, key=lambda point: point.row[RATE])}
    by_verdict = {
        verdict: [rate for rate, found in verdicts.items() if found == verdict] for verdict in verdicts.values()
    }
    small, large, good = (by_verdict.get(verdict, []) for verdict in ("too small", "too large", "good"))
    rates = list(verdicts)
    several = len(rates) > 1
    tried = f"{'all rates' if several else 'the only rate'} tried ({listed(f'{r:g}' for r in rates)})"
    if large == rates:
        return f"{tried} {'are' if several else 'is'} too large for {{}}: try below {rates[0]:g}"
    if small == rates:
        return f"{tried} {'are' if several else 'is'} too small for {{}}: try above {rates[-1]:g}"
    if good:
        return f"{{}} trains steadily at {listed(f'{r:g}' for r in good)} but not far enough: give it more epochs"
    if small and large and max(small) < min(large):
        return f"no rate tried suits {{}}: {max(small):g} is too small, {min(large):g} too large; try between"
    return "no rate tried suits {}" if small or large else ""


def too_large(found: Sequence[Point]) -> str:
    """Say from which rate on each strategy on so many devices has too large a one; empty where none has.

    Where options or batches differ too, the largest rate that one of them still takes well decides.
    """
    limits: dict[str, dict[float, list[int]]] = {}
    for (strategy, gpus), group in sorted(_groups(found).items()):
        verdicts = [(point.row[RATE], _verdict(point)) for point in group]
        fine = max((rate for rate, verdict in verdicts if verdict != "too large"), default=0)
        beyond = [rate for rate, verdict in verdicts if verdict == "too large" and rate > fine]
        if beyond:
            limits.setdefault(strategy, {}).setdefault(min(beyond), []).append(gpus)
    told = [f"{strategy} {listed(_from(*each) for each in by_rate.items())}" for strategy, by_rate in limits.items()]
    return f"Too large a learning rate, by devices: {'; '.join(told)}." if told else ""


def _from(rate: float, gpus: Sequence[int]) -> str:
    return f"from {rate:g} on {listed(map(str, gpus))}"
