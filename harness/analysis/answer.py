"""The answer in words: which strategy, how sure, and why the others lost.

Imports the standard library only, so that `harness show` answers at once. Works on rows of cells.csv, None standing
for what was not measured.

Rules: the seeds of a point stand together; each strategy stands with its best point; measured and simulated are never
in one ranking. Where cells have a target the shortest median time to it wins among points that reached it with every
seed, else the highest median throughput. Medians of fewer than five seeds get no interval.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.analysis.points import (
    COMPUTING,
    EXCHANGING,
    MIN_SEEDS,
    TRIED,
    Point,
    Row,
    best_points,
    has_target,
    not_ranked,
    number,
    objective,
    points,
    ranked_rows,
    status_counts,
    without_controls,
)

__all__ = ["Answer", "answer", "devices_in_words", "duration", "in_markdown", "in_text", "status_counts"]

LEAST_GAIN = 0.01
"""Chosen: splitting that saves less than this share of a step's computing is not told from noise."""


@dataclass(frozen=True)
class Answer:
    """What the results say.

    Attributes:
        sentence: the recommendation, with its number of seeds and interval; or that there is none yet.
        runner_up: the next best strategy and whether it is told apart; empty where there is none.
        why: one sentence for each other strategy: what it lost by.
        caveats: what a reader must know before acting on it.
        leader: cell id of the winning point's median seed; None without a winner.
    """

    sentence: str
    runner_up: str = ""
    why: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    leader: str | None = None


def answer(rows: Sequence[Row], planned: int) -> Answer:
    """Answer "which strategy should I use, and why?".

    Args:
        rows: finished cells, keys as in cells.csv.
        planned: cells of the plan, finished or not.
    """
    tried = [row for row in rows if row["status"] in TRIED]
    pool = ranked_rows([row for row in tried if not not_ranked(row)])
    by_target = has_target(pool)
    contenders = best_points(without_controls(points(pool, by_target)))
    caveats = _caveats(rows, planned, pool)
    if not contenders:
        return Answer(_nothing(rows, planned), caveats=caveats if rows else ())
    if not contenders[0].reached:
        why = tuple(_failure(point) for point in contenders)
        return Answer(_none_reached(contenders[0]), why=why, caveats=caveats)
    return _ranked(contenders, caveats)


def in_text(given: Answer) -> str:
    """Return the answer as lines for a terminal."""
    lines = [given.sentence, given.runner_up, *given.why, *(f"note: {line}" for line in given.caveats)]
    return "\n".join(line for line in lines if line)


def in_markdown(given: Answer) -> str:
    """Return the answer as Markdown; nothing in it is taken for markup."""
    items = [given.runner_up, *given.why, *(f"Note: {line}" for line in given.caveats)]
    head = f"**{_escaped(given.sentence)}**\n"
    return head + "".join(f"\n- {_escaped(item)}" for item in items if item) + ("\n" if any(items) else "")


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", text)


# -- the sentences -----------------------------------------------------------------------------------------------------


def _ranked(contenders: Sequence[Point], caveats: tuple[str, ...]) -> Answer:
    leader, *others = contenders
    split = next((point for point in others if point.gpus > 1), None)
    because = _because(split, leader) if split and leader.gpus == 1 and _real(split) else ""
    explained = split if because else None
    open_against = others[0].strategy if others and _overlap(leader, others[0]) else ""
    if explained:
        sentence = _do_not_split(leader, explained, because, open_against)
    else:
        against = f", not resolved against {open_against}" if open_against else ""
        sentence = f"Use {_label(leader)}: it {_achieves(leader)} ({_evidence(leader)}){against}."
    why = (_why(point, leader) for point in others if point is not explained)
    return Answer(
        sentence=("" if _real(leader) else "Simulated: ") + sentence,
        runner_up=_runner_up(others[0], leader) if others else "",
        why=tuple(filter(None, why)),
        caveats=caveats,
        leader=_median_cell(leader),
    )


def _do_not_split(leader: Point, split: Point, because: str, open_against: str) -> str:
    devices = devices_in_words(split.row)
    head = f"Do not split this job over {devices}: one is fastest"
    if open_against:
        head = f"Splitting this job over {devices} does not visibly pay: one leads, not resolved against {open_against}"
    one = f"{leader.strategy} with {_setting(leader)} {_achieves(leader)}"
    return f"{head} ({one}; {_evidence(leader)}), because {because}."


def _because(split: Point, one: Point) -> str:
    """Say why several devices lost to one, and from how much more work per step on they would win.

    From the rows come, per update: c1, one device's computing (input, compute, other); cN, the same per device where
    the step is split; y, what the split exchanges (communication and idle). With k times the work per step computing
    grows k-fold and the exchange stays, so splitting pays when k c1 > k cN + y, that is from k = y / (c1 - cN) on.
    Both points must have the same global batch, or a step is not the same work.
    """
    c1, cn, y = one.per_update(COMPUTING), split.per_update(COMPUTING), split.per_update(EXCHANGING)
    if c1 is None or cn is None or y is None:
        return ""
    if one.row["global_batch_size"] != split.row["global_batch_size"] or cn + y <= c1:
        return _more_samples(split, one)
    gain = c1 - cn
    pays = "it would pay at no amount of work seen here"
    if gain > LEAST_GAIN * c1:
        pays = f"it would pay from {_three(y / gain)} times the work per step on"
    return (
        f"{_unit(split)} of {split.strategy} computes for {duration(cn)} and exchanges for {duration(y)} "
        f"where one computes for {duration(c1)}; {pays}"
    )


def _more_samples(point: Point, leader: Point) -> str:
    mine, best = (p.median_of(lambda row: number(row, "samples_to_target")) for p in (point, leader))
    if not mine or not best or mine <= best:
        return ""
    return f"{point.strategy} needs {_three(mine / best)} times the samples to the target ({mine:,.0f} for {best:,.0f})"


def _why(point: Point, leader: Point) -> str:
    """Say what a strategy lost by: failed seeds, more samples to the target, or the part of a step that grew most."""
    if point.reached < len(point.rows):
        return _failure(point)
    slower, more = _time_per_sample(point, leader), _sample_ratio(point, leader)
    if more > max(slower, 1):
        return f"{_label(point)} lost by learning less from a sample: {_more_samples(point, leader)}."
    return _longer_step(point, leader)


def _failure(point: Point) -> str:
    goal = "reached the target" if point.by_target else "finished"
    missed = {key: count for key, count in status_counts(point.rows).items() if key != "ok"}
    reasons = ", ".join(f"{count} {status}" for status, count in missed.items())
    return f"{_label(point)}: {point.reached} of {len(point.rows)} seeds {goal} ({reasons or 'no value'})."


def _sample_ratio(point: Point, leader: Point) -> float:
    mine, best = (p.median_of(lambda row: number(row, "samples_to_target")) for p in (point, leader))
    return mine / best if mine and best else 0.0


def _time_per_sample(point: Point, leader: Point) -> float:
    mine, best = (p.per_update((*COMPUTING, *EXCHANGING)) for p in (point, leader))
    return mine / best / _work_ratio(point, leader) if mine and best else 0.0


def _work_ratio(point: Point, leader: Point) -> float:
    """Samples behind one update of `point` for each one behind an update of `leader`."""
    return float(point.row["global_batch_size"] / leader.row["global_batch_size"])


def _longer_step(point: Point, leader: Point) -> str:
    scale = _work_ratio(point, leader)
    grown = {part: _pair(point, leader, (part,), scale) for part in (*COMPUTING, *EXCHANGING)}
    part = max(grown, key=lambda part: grown[part][0] - grown[part][1])
    mine, best = _pair(point, leader, (*COMPUTING, *EXCHANGING), scale)
    if mine <= best or grown[part][0] <= grown[part][1]:
        return ""
    same = "" if scale == 1 else " for as many samples"
    more, less = (duration(seconds) for seconds in grown[part])
    return (
        f"{_label(point)}: {_unit(point)} takes {duration(mine)} where {leader.strategy} takes {duration(best)}{same}; "
        f"most of the difference is {_PART_WORDS[part]} ({more} for {less})."
    )


_PART_WORDS = {
    "input_s": "input",
    "compute_s": "computing",
    "other_s": "other work of the loop",
    "communication_s": "communication",
    "idle_s": "waiting for others",
}


def _pair(point: Point, leader: Point, parts: Sequence[str], scale: float) -> tuple[float, float]:
    return point.per_update(parts) or 0.0, (leader.per_update(parts) or 0.0) * scale


def _runner_up(point: Point, leader: Point) -> str:
    if point.reached < len(point.rows):
        return f"Runner-up: {_failure(point)}"
    told = "; the intervals overlap: not resolved" if _overlap(leader, point) else ""
    return f"Runner-up: {_label(point)} {_achieves(point)} ({_evidence(point)}){told}."


def _overlap(leader: Point, other: Point) -> bool:
    """Say whether both have intervals and these do not tell them apart."""
    return bool(leader.interval and other.interval and leader.interval[1] >= other.interval[0])


def _achieves(point: Point) -> str:
    middle = point.rank[1]
    return f"reaches the target in {duration(middle)}" if point.by_target else f"trains {_rate(-middle)}"


def _evidence(point: Point) -> str:
    seeds = len(point.rows)
    if point.reached < seeds:
        return f"median of the {point.reached} of n = {seeds} seeds that did"
    if point.interval is None:
        return f"median of n = {seeds}: no interval, seeds = {MIN_SEEDS} would tell"
    low, high, coverage = point.interval
    shown = (duration(low), duration(high)) if point.by_target else (_rate(-high), _rate(-low))
    return f"median of n = {seeds}; {shown[0]} to {shown[1]} covers it with {100 * coverage:.4g} %"


def _median_cell(point: Point) -> str:
    ordered = sorted(point.rows, key=lambda row: objective(row, point.by_target))
    return str(ordered[(point.reached - 1) // 2]["cell_id"])


def _none_reached(best: Point) -> str:
    simulated = "" if _real(best) else "Simulated: "
    if not best.by_target:
        return f"{simulated}No recommendation: no cell ran to its end."
    accuracy = best.median_of(lambda row: number(row, "validation_accuracy"))
    closest = f"; {_label(best)} ended at a validation accuracy of {accuracy:.3f}" if accuracy is not None else ""
    return f"{simulated}No recommendation: no cell reached the target{closest} (n = {len(best.rows)})."


def _nothing(rows: Sequence[Row], planned: int) -> str:
    if not rows:
        return f"Nothing finished yet: 0 of {_cells(planned)}."
    counts = ", ".join(f"{count} {status}" for status, count in status_counts(rows).items())
    return f"No recommendation: {len(rows)} of {_cells(planned)} tried, none with a result to rank ({counts})."


# -- what to know besides ----------------------------------------------------------------------------------------------


def _caveats(rows: Sequence[Row], planned: int, pool: Sequence[Row]) -> tuple[str, ...]:
    done = sum(row["status"] != "interrupted" for row in rows)
    broken = {status: n for status, n in status_counts(rows).items() if status in ("crashed", "timeout")}
    ended = {"crashed": "crashed", "timeout": "ran out of time"}
    lines = [f"{_cells(planned - done)} of {planned} not run yet"] if done < planned else []
    lines += [f"{_cells(count)} {ended[status]}; the table of cells says why" for status, count in broken.items()]
    lines += [
        _noisy_in_words(pool),
        _unranked_in_words(rows),
        _controls_in_words(pool),
        _simulated_in_words(rows, pool),
    ]
    return tuple(line for line in lines if line)


def _noisy_in_words(pool: Sequence[Row]) -> str:
    noisy = sum(bool(row.get("noisy")) for row in pool)
    return f"{noisy} of {_cells(len(pool))} ranked ran while other processes used the machine" if noisy else ""


def _unranked_in_words(rows: Sequence[Row]) -> str:
    found = dict.fromkeys(f"{row['strategy']} on {devices_in_words(row)}" for row in rows if not_ranked(row))
    return f"{_list(found)}: more workers than devices, shown but not ranked" if found else ""


def _controls_in_words(pool: Sequence[Row]) -> str:
    found = points(pool, by_target=False)
    kept = {id(point) for point in without_controls(found)}
    controls = [point for point in found if id(point) not in kept]
    names = dict.fromkeys(point.strategy for point in controls)
    devices = devices_in_words(controls[0].row) if controls else ""
    return f"{_list(names)} on {devices}: shown, not ranked; single stands for one device" if controls else ""


def _simulated_in_words(rows: Sequence[Row], pool: Sequence[Row]) -> str:
    if not pool or pool[0]["engine"] == "virtual":
        return ""
    virtual = [row for row in rows if row["engine"] == "virtual" and row["status"] in TRIED and not not_ranked(row)]
    best = best_points(points(virtual, has_target(virtual)))
    if not best or not best[0].reached:
        return ""
    shown = f"{_label(best[0])} {_achieves(best[0])} on the simulated clock (n = {len(best[0].rows)})"
    return f"simulated, not ranked with the measured: at best {shown}"


# -- words -------------------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Write a duration with three digits and the unit that people would choose."""
    for limit, unit, size in ((1e-3, "us", 1e-6), (1.0, "ms", 1e-3), (120.0, "s", 1.0), (7200.0, "min", 60.0)):
        if seconds < limit:
            return f"{_three(seconds / size)} {unit}" if seconds else "0 ms"
    return f"{_three(seconds / 3600)} h"


def devices_in_words(row: Row) -> str:
    """Return such as "2 CPU cores", "4 simulated CPU cores" or "1 GPU"."""
    gpus = int(row["gpus"])
    noun = "CPU core" if row.get("device") == "cpu" else "GPU"
    simulated = "simulated " if row["engine"] == "virtual" else ""
    return f"{gpus} {simulated}{noun}" + ("s" if gpus != 1 else "")


def _label(point: Point) -> str:
    return f"{point.strategy} on {devices_in_words(point.row)} ({_setting(point)})"


def _setting(point: Point) -> str:
    row = point.row
    parts = [f"global batch {row['global_batch_size']}", f"learning rate {row['learning_rate']:g}", point.details]
    return ", ".join(filter(None, parts))


def _unit(point: Point) -> str:
    """A step, or an update where workers take theirs in turn: then time per update is what can be compared."""
    return "an update" if point.row.get("synchrony") == "asynchronous" else "a step"


def _real(point: Point) -> bool:
    return bool(point.row["engine"] != "virtual")


def _rate(value: float) -> str:
    return f"{_three(value) if value < 1000 else format(value, ',.0f')} samples/s"


def _three(value: float) -> str:
    """Write a number with three digits and without an exponent."""
    if value <= 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _cells(count: int) -> str:
    return f"{count} cell" + ("s" if count != 1 else "")


def _list(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
