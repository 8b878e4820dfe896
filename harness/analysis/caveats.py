"""What a reader must know before acting on an answer. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.confidence import achieves
from harness.analysis.loss_shape import in_words
from harness.analysis.point_names import devices_in_words, label
from harness.analysis.points import (
    TRIED,
    Row,
    has_target,
    not_ranked,
    points,
    status_counts,
    without_controls,
)
from harness.analysis.ranking import Standing, best_standings
from harness.analysis.votes import vote
from harness.core.words import counted, listed


def about(leader: Standing) -> tuple[str, ...]:
    """Return warnings about acting on the winner itself."""
    return (*_speed_only(leader), *_unsteady(leader))


def _speed_only(leader: Standing) -> tuple[str, ...]:
    """Return a warning where speed alone was asked for and the winner learns something else from the same samples."""
    row = leader.point.row
    if leader.point.by_target or "equivalence" not in row or row["equivalence"] == "single":
        return ()
    name = leader.point.strategy
    return (f"speed alone decides here, and {name} does not make the updates that single makes: set a target first",)


def _unsteady(leader: Standing) -> tuple[str, ...]:
    """Return a warning where the winner's own curves say that its rate is too large: it reached the target by luck."""
    found = vote([row.get("regime") for row in leader.point.rows])
    if found.shape is None or found.verdict != "too large":
        return ()
    seeds = f"{found.counts[found.shape]} of {found.seeds} seeds"
    return (f"the recommended learning rate is near too large: {seeds} ended {in_words(found.shape)}",)


def caveats_of(rows: Sequence[Row], planned: int, pool: Sequence[Row]) -> tuple[str, ...]:
    """Return what is missing, broken, noisy or shown without being ranked.

    Args:
        planned: cells of the plan.
        pool: rows that are ranked.
    """
    done = sum(row["status"] != "interrupted" for row in rows)
    broken = {status: n for status, n in status_counts(rows).items() if status in ("crashed", "timeout")}
    ended = {"crashed": "crashed", "timeout": "ran out of time"}
    lines = [f"{counted(planned - done, 'cell')} of {planned} not run yet"] if done < planned else []
    lines += [
        f"{counted(count, 'cell')} {ended[status]}; the table of cells says why" for status, count in broken.items()
    ]
    lines += [
        _noisy_in_words(pool),
        _unranked_in_words(rows),
        _controls_in_words(pool),
        _simulated_in_words(rows, pool),
    ]
    return tuple(line for line in lines if line)


def _noisy_in_words(pool: Sequence[Row]) -> str:
    noisy = sum(bool(row.get("noisy")) for row in pool)
    if not noisy:
        return ""
    among = counted(len(pool), "cell")
    return f"{noisy} of {among} ranked ran while other processes used the machine: their times may be off"


def _unranked_in_words(rows: Sequence[Row]) -> str:
    found = dict.fromkeys(f"{row['strategy']} on {devices_in_words(row)}" for row in rows if not_ranked(row))
    return f"{listed(found)}: more workers than devices, shown but not ranked" if found else ""


def _controls_in_words(pool: Sequence[Row]) -> str:
    found = points(pool, by_target=False)
    kept = {id(point) for point in without_controls(found)}
    controls = [point for point in found if id(point) not in kept]
    names = dict.fromkeys(point.strategy for point in controls)
    devices = devices_in_words(controls[0].row) if controls else ""
    return f"{listed(names)} on {devices}: shown, not ranked; single stands for one device" if controls else ""


def _simulated_in_words(rows: Sequence[Row], pool: Sequence[Row]) -> str:
    if not pool or pool[0]["engine"] == "virtual":
        return ""
    virtual = [row for row in rows if row["engine"] == "virtual" and row["status"] in TRIED and not not_ranked(row)]
    best = best_standings(points(virtual, has_target(virtual)))
    if not best or not best[0].reached:
        return ""
    shown = f"{label(best[0].point)} {achieves(best[0])} on the simulated clock (n = {best[0].seeds})"
    return f"simulated, not ranked with the measured: at best {shown}"
