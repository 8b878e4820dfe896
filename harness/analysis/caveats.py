"""What a reader must know before acting on an answer. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.analysis.confidence import achieves
from harness.analysis.loss_shape import RateVerdict, Shape
from harness.analysis.point_names import devices_in_words, in_full, label, on_devices, real
from harness.analysis.points import (
    RESULTS,
    TRIED,
    Point,
    Row,
    has_target,
    in_stages,
    not_ranked,
    number,
    points,
    status_counts,
)
from harness.analysis.ranking import Standing, rank
from harness.analysis.result_findings import ResultFindings
from harness.analysis.votes import vote_of
from harness.core.disturbances import REPEAT, Disturbance, by_what, kinds_of, was_disturbed
from harness.core.endings import Status
from harness.core.text import Text
from harness.core.words import counted, listed, three


def about(leader: Standing) -> tuple[Text, ...]:
    """Return warnings about acting on the winner itself."""
    return (*_speed_only(leader), *_unsteady(leader))


def _speed_only(leader: Standing) -> tuple[Text, ...]:
    """Return a warning where speed alone was asked for and the winner learns something else from the same samples."""
    row = leader.point.row
    if leader.point.by_target or "equivalence" not in row or row["equivalence"] == "single":
        return ()
    told = f"This ranks speed only, but {leader.point.strategy} trains differently from single."
    return (Text(f"{told} Set a target in [goal] before you rely on it."),)


_UNSTEADY: dict[Shape, str] = {
    "oscillating": "the loss oscillated",
    "collapsed": "training collapsed",
    "diverged": "the loss diverged",
}


def _unsteady(leader: Standing) -> tuple[Text, ...]:
    """Return a warning where the winner's own curves say that its rate is too large: it reached the target by luck."""
    found = vote_of(leader)
    if found.shape is None or found.verdict not in (RateVerdict.TOO_LARGE, RateVerdict.UNSTEADY):
        return ()
    seeds = f"{found.counts[found.shape]} of {counted(found.seeds, 'seed')}"
    return (Text(f"The recommended learning rate is close to unstable: {_UNSTEADY[found.shape]} in {seeds}."),)


def unequal(leader: Standing, others: Iterable[Standing]) -> tuple[Text, ...]:
    """Return what gave the winner an advantage that is not its own, such as a quieter machine.

    Args:
        others: whom it is ahead of.
    """
    point, found = leader.point, [other.point for other in others]
    if not real(point):
        return ()
    lines = []
    worst, most = max(
        ((other, _other_cores(other) or 0.0) for other in found), key=lambda pair: pair[1], default=(point, 0)
    )
    mine = _other_cores(point)
    if mine is not None and most - mine > Disturbance.OTHER_LOAD.limit:
        lines.append(
            f"Other processes used {three(most)} cores while {in_full(worst, point)} ran, and {three(mine)} while "
            f"{in_full(point, worst)} did. That is no comparison at equal resources: run them again on a quiet machine."
        )
    one = next((other for other in found if other.gpus == 1 and _same_work(other, point)), None)
    if one is not None and _one_at_a_time(point.row):
        lines.append(
            f"{point.strategy} passes one micro-batch at a time, so that one device computes while the others wait: it "
            f"does the work of {one.strategy} one stage after the other. Its lead must come from elsewhere, such as "
            "what else ran. Set sweep.microbatches to let its stages overlap."
        )
    return tuple(map(Text, lines))


def unsearched(leader: Standing, others: Iterable[Standing]) -> tuple[Text, ...]:
    """Return which pipelines were ranked with a single micro-batch, whose stages have nothing to overlap.

    Args:
        others: whom the leader is ahead of; of the leader's own real cells `unequal` speaks.
    """
    points = [] if real(leader.point) else [leader.point]
    points += [other.point for other in others]
    names = dict.fromkeys(
        in_full(point, leader.point)
        for point in points
        if in_stages(point.row) and point.row["micro_batch_size"] == point.row["batch_size"]
    )
    return tuple(
        Text(
            f"{name} is ranked here with one micro-batch: only one of its stages works at a time. "
            'sweep.micro_batch_size = "fastest" looks for a faster one.'
        )
        for name in names
    )


def _other_cores(point: Point) -> float | None:
    return point.median_of(lambda row: number(row, "other_cores"))


def _same_work(one: Point, other: Point) -> bool:
    return bool(one.row["global_batch_size"] == other.row["global_batch_size"])


def _one_at_a_time(row: Row) -> bool:
    """Say whether a row is of a pipeline alone, whose stages have nothing to overlap."""
    alone = (number(row, "pipeline") or 1) == row["gpus"] > 1
    return bool(alone and row["micro_batch_size"] == row["batch_size"])


def caveats_of(rows: Sequence[Row], planned: int, found: ResultFindings) -> tuple[Text, ...]:
    """Return what is missing, broken, noisy or shown without being ranked.

    Args:
        planned: cells of the plan.
        found: in the rows.
    """
    pool = found.pool
    missing = planned - sum(row["status"] != Status.INTERRUPTED for row in rows)
    counts, ended = status_counts(rows), {Status.CRASHED: "crashed", Status.TIMEOUT: "ran out of time"}
    lines = [f"{missing} of {counted(planned, 'cell')} {_have(missing)} not run yet."] if missing > 0 else []
    lines += [
        f"{counted(counts[status], 'cell')} {words}; the table of cells gives the reason."
        for status, words in ended.items()
        if status in counts
    ]
    lines += [_noisy((*pool, *found.fresh)), _unranked(rows), _controls(found), _simulated(rows, pool)]
    return tuple(Text(line) for line in lines if line)


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _noisy(rows: Sequence[Row]) -> str:
    measured = [row for row in rows if row["status"] in RESULTS]
    noisy = [row for row in measured if row.get("noisy")]
    if not noisy:
        return ""
    of = f"{len(noisy)} of {counted(len(measured), 'measured cell')}"
    return f"{of} {was_disturbed(len(noisy))} by {by_what(kinds_of(noisy))}: measured times may be too long. {REPEAT}"


def _unranked(rows: Sequence[Row]) -> str:
    found = dict.fromkeys(on_devices(row) for row in rows if not_ranked(row))
    return f"{listed(found)} {_have(len(found))} more workers than devices: shown, but not ranked." if found else ""


def _controls(found: ResultFindings) -> str:
    controls = [point for question in found.questions for point in question.controls]
    if not controls:
        return ""
    names = dict.fromkeys(point.strategy for point in controls)
    on, are = devices_in_words(controls[0].row), "is" if len(names) == 1 else "are"
    return f"{listed(names)} on {on} {are} shown but not ranked: on one device, single is the reference."


def _simulated(rows: Sequence[Row], pool: Sequence[Row]) -> str:
    if not pool or pool[0]["engine"] == "virtual":
        return ""
    virtual = [row for row in rows if row["engine"] == "virtual" and row["status"] in TRIED and not not_ranked(row)]
    if not virtual:
        return ""
    best = rank(points(virtual, has_target(virtual))).best
    if not best[0].reached:
        return ""
    shown = f"{label(best[0].point)} {achieves(best[0])} ({counted(best[0].seeds, 'seed')})"
    return f"Simulated results are not ranked with measured ones; the best of them: {shown}."
