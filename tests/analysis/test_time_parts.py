"""Parts of the time add up to the wall time, on both engines; bubbles and staleness against what is known."""

from __future__ import annotations

from typing import Any

import pytest
from cells import make_cell, make_cells
from lazy import lazy

from harness.analysis.cell_row import identity_row, outcome_row
from harness.api.schedules import execution_order, find_schedule
from harness.core.budget import Budget
from harness.engines.processes.launch import run_cell
from harness.engines.shared.setup import make_setup

pd = lazy("pandas")
time_parts = lazy("harness.analysis.time_parts")
virtual_engine = lazy("harness.engines.virtual.engine")

CLOSED = 0.02
"""Share of the wall time that parts may miss or exceed it by."""

QUICK = {"workload": {"model": "mlp", "dataset": "digits"}, "goal": {"target_accuracy": 0.95, "max_epochs": 1}}


def gap(row: dict[str, Any]) -> float:
    """Return how far the parts are from the wall time, as a share of it."""
    parts = sum(row.get(part) or 0.0 for part in (*time_parts.TRAINING, "setup_s", "evaluation_s"))
    return (parts - row["wall_s"]) / row["wall_s"]


def virtual_row(cell: Any) -> dict[str, Any]:
    setup = make_setup(cell)
    outcome = virtual_engine.run_virtual(setup)
    row = identity_row(cell, "env") | outcome_row(cell, outcome, Budget.of(cell.goal, setup.num_train))
    return row | {"status": "ok", "updates_log": outcome.updates_log}


@pytest.mark.parametrize("strategy", ["single", "sync-ddp", "async-ps", "local-sgd", "model-split", "fsdp", "sync-ps"])
def test_parts_of_virtual_cells_add_up(strategy):
    cell = make_cell(sweep={"strategy": strategy, "gpus": [1 if strategy == "single" else 4]}, **QUICK)
    row = virtual_row(cell)
    assert abs(gap(row)) <= CLOSED
    # What the simulated clock does is ours to name: nothing may hide in "other".
    assert row["other_s"] <= CLOSED * row["wall_s"]


@pytest.mark.parametrize(
    "changes",
    [
        {"faults": {"compute_jitter": 0.3}},
        {"sweep": {"strategy": "async-ps", "gpus": [16], "global_batch_size": [32]}},
        {"sweep": {"strategy": "model-split", "gpus": [2], "global_batch_size": [32], "micro_batch_size": [4]}},
    ],
    ids=["jitter", "a busy server", "a bubble"],
)
def test_parts_of_virtual_cells_add_up_where_workers_wait(changes):
    row = virtual_row(make_cell(**{"sweep": {"strategy": "sync-ddp", "gpus": [4]}} | QUICK | changes))
    assert abs(gap(row)) <= CLOSED
    assert row["idle_s"] > 0


@pytest.mark.dist
@pytest.mark.timed
@pytest.mark.parametrize(("strategy", "gpus"), [("single", 1), ("sync-ddp", 2), ("async-ps", 2), ("model-split", 2)])
def test_parts_of_real_cells_add_up(strategy, gpus):
    goal = {"target_accuracy": 0.95, "max_epochs": 3}
    cell = make_cell(engine="real", sweep={"strategy": strategy, "gpus": [gpus]}, **QUICK | {"goal": goal})
    result = run_cell(cell)
    assert result.finished, result.reason
    outcome = result.outcome
    row = identity_row(cell, "env") | outcome_row(cell, outcome, Budget.of(cell.goal, outcome.facts["num_train"]))
    assert abs(gap(row)) <= CLOSED
    assert row["other_s"] >= 0
    assert row["displacement"] > 0
    assert row["regime"]


# -- bubbles -----------------------------------------------------------------------------------------------------------


def bubble_of_table(name: Any, stages: int, microbatches: int, chunks: int | None) -> float:
    """Run a schedule's own table by hand: a forward pass takes 1, a backward 2, each divided by stages per device."""
    schedule, per_device = find_schedule(name, chunks)
    table = schedule(stages, microbatches)
    total = stages * per_device
    ended: dict[tuple[str, int, int], float] = {}
    free = [0.0] * stages
    for rank, (kind, stage, microbatch) in execution_order(table, total, microbatches):
        cost = {"forward": 1.0, "backward": 2.0, "backward_input": 1.0, "backward_weight": 1.0}[kind] / per_device
        needs = [("forward", stage - 1, microbatch)] if kind == "forward" else []
        if kind in ("backward", "backward_input"):
            needs = [("forward", stage, microbatch), ("back", stage + 1, microbatch)]
        start = max([free[rank], *(ended.get(need, 0.0) for need in needs)])
        free[rank] = start + cost
        ended[
            "forward" if kind == "forward" else "weight" if kind == "backward_weight" else "back", stage, microbatch
        ] = free[rank]
    busy = 3.0 * microbatches
    return 1 - busy / max(free)


@pytest.mark.parametrize(
    ("schedule", "chunks"), [("naive", None), ("gpipe", None), ("1f1b", None), ("interleaved-1f1b", 2), ("zb-1p", None)]
)
@pytest.mark.parametrize(("stages", "microbatches"), [(2, 4), (4, 8), (4, 16)])
def test_ideal_bubbles_are_those_of_our_own_tables(schedule, chunks, stages, microbatches):
    by_hand = bubble_of_table(schedule, stages, microbatches, chunks)
    assert time_parts.ideal_bubble(schedule, stages, microbatches, chunks or 2) == pytest.approx(by_hand, abs=0.01)


def test_a_measured_bubble_stands_beside_its_theory():
    cells = make_cells(
        sweep={"strategy": "model-split", "gpus": [2], "global_batch_size": [32], "micro_batch_size": [4, 32]}, **QUICK
    )
    frame = time_parts.bubbles_frame(pd.DataFrame([virtual_row(cell) for cell in cells])).set_index("microbatches")
    assert frame.loc[1, "ideal"] == 0.5
    assert frame.loc[8, "ideal"] == pytest.approx(1 / 9)
    assert (frame["bubble"] >= 0).all()
    assert frame.loc[8, "bubble"] < frame.loc[1, "bubble"]


# -- staleness ---------------------------------------------------------------------------------------------------------


def test_the_staleness_of_equal_workers_is_one_less_than_their_number_for_nearly_every_update():
    cell = make_cell(sweep={"strategy": "async-ps", "gpus": [4]}, **QUICK)
    row = virtual_row(cell)
    updates = pd.DataFrame(row.pop("updates_log")).assign(cell_id=row["cell_id"])
    frame = time_parts.staleness_frame(pd.DataFrame([row]), updates)
    assert frame["count"].sum() == len(updates)
    assert frame["share"].sum() == pytest.approx(1)
    mean = (frame["staleness"] * frame["share"]).sum()
    assert mean == pytest.approx(row["staleness_mean"])
    assert 2 < mean <= 3
    assert time_parts.staleness_frame(pd.DataFrame([row]), pd.DataFrame()).empty
