"""Fresh seeds for the best two settings of a sweep: how many cells they make, and which."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

from harness.analysis.confirmation import FreshSeeds, Ground
from harness.analysis.result_findings import findings_of
from harness.commands.run_times import RunTimes
from harness.core.cell import Cell, Plan, cell_id
from harness.core.endings import Status
from harness.core.errors import InputError
from harness.core.swept_keys import is_environment, is_problem
from harness.results.store import Record, Results

AS_MANY = 0
"""Number of fresh seeds that stands for as many as the sweep has."""

SEED_BLOCK = 1000
"""Fresh seeds begin with the next multiple of it: `seeds` may be raised later, and they stay fresh; chosen."""

_ANOTHER_SWEEP = "it was confirmed with other cells in its sweep; --confirm runs fresh seeds for this one"

PICKS = 2
"""Settings of a question that run again: the leader and its runner-up."""


def seeds_of(plan: Plan) -> tuple[int, ...]:
    """Return the fresh seeds that a plan asks for."""
    first = SEED_BLOCK * (max(cell.seed for cell in plan.swept) // SEED_BLOCK + 1)
    return tuple(range(first, first + plan.confirm))


def confirmed_as_before(plan: Plan, results: Results, number: int | None = None) -> Plan:
    """Return a plan with the cells that confirm it, as far as its sweep says which.

    Args:
        plan: of a sweep.
        results: where it ran, or will.
        number: of fresh seeds, or `AS_MANY`; None: as many as were asked for before, if the sweep is still the same.
    """
    if number is None:
        before = _last_plan(results)
        if before is None or not before.confirm:
            return plan
        if _ids(before) != _ids(plan):
            return replace(plan, notes=(*plan.notes, _ANOTHER_SWEEP))
        number = before.confirm
    return with_picks(replace(plan, confirm=number or len({cell.seed for cell in plan.swept})), results)


def with_picks(plan: Plan, results: Results) -> Plan:
    """Return a plan with the best two settings of its sweep and fresh seeds, once every cell of the sweep was tried."""
    swept = plan.swept
    records = results.records_of(swept)
    if not plan.confirm or not was_swept(plan, records):
        return replace(plan, cells=swept)
    by_id = {cell.cell_id: cell for cell in swept}
    found = findings_of(results.rows(records), FreshSeeds.of(plan))
    grounds = [each.confirmation for each in found.questions if each.confirmation.ground is not Ground.NEEDLESS]
    picked = [by_id[str(pick.point.row["cell_id"])] for each in grounds for pick in each.picks]
    return replace(plan, cells=(*swept, *(_fresh(cell, seed) for seed in seeds_of(plan) for cell in picked)))


def _fresh(cell: Cell, seed: int) -> Cell:
    changed = replace(cell, seed=seed, confirms=True)
    return replace(changed, cell_id=cell_id(changed))


def was_swept(plan: Plan, records: Mapping[str, Record]) -> bool:
    """Say whether every cell of the sweep was tried: before that nobody knows its best."""
    return all(_was_tried(records.get(cell.cell_id)) for cell in plan.swept)


def _was_tried(record: Record | None) -> bool:
    return record is not None and record.status is not Status.INTERRUPTED


def _ids(plan: Plan) -> set[str]:
    return {cell.cell_id for cell in plan.swept}


def _last_plan(results: Results) -> Plan | None:
    """Return the plan that ran here last; None where there is none that can be read."""
    try:
        return results.plan()
    except InputError:
        return None


# -- before it is known which ------------------------------------------------------------------------------------------


def most_picked(plan: Plan) -> list[list[Cell]]:
    """Return by question the cells of one seed that any of may be picked: of each no more than `PICKS` are."""
    first = plan.swept[0].seed
    groups: dict[Hashable, list[Cell]] = {}
    for cell in plan.swept:
        if cell.seed == first and cell.seed_matters and not (cell.not_possible or cell.oversubscribed):
            asked = tuple(f"{k} {v}" for k, v in sorted(cell.swept.items()) if is_problem(k) or is_environment(k))
            groups.setdefault(asked, []).append(cell)
    return list(groups.values())


def most_cells(plan: Plan) -> int:
    """Return how many cells confirm a plan at most."""
    return plan.confirm * sum(min(PICKS, len(group)) for group in most_picked(plan))


def most_confirm_s(plan: Plan, times: RunTimes) -> float | None:
    """Return the seconds that confirming a plan takes at most; None where of some cell nothing is known."""
    groups = [[times.known.get(cell.cell_id) for cell in group] for group in most_picked(plan)]
    known = [[time.seconds for time in group if time is not None] for group in groups]
    if list(map(len, known)) != list(map(len, groups)):
        return None
    return plan.confirm * sum(sum(sorted(seconds)[-PICKS:]) for seconds in known)
