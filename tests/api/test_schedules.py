"""Tables of pipeline actions: complete, free of deadlock, and as many micro-batches kept as their papers say."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from cells import make_cell, make_cells
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy

from harness import Action, Impossible
from harness.api import schedules
from harness.api.host import bundled, load_file
from harness.api.schedules import check_table, execution_order, find_schedule, most_kept, stashes
from harness.engines.shared.setup import make_setup

virtual_engine = lazy("harness.engines.virtual.engine")

NAMES = ("naive", "gpipe", "1f1b", "interleaved-1f1b", "zb-1p", "zb-2p")


def table_of(name: str, ranks: int, microbatches: int, chunks: int | None = None):
    schedule, chunks = find_schedule(name, chunks)
    return schedule(ranks, microbatches), ranks * chunks


# -- every schedule ----------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(st.sampled_from(NAMES), st.integers(1, 9), st.integers(1, 20), st.integers(1, 4))
def test_every_schedule_passes_every_micro_batch_through_every_stage_without_deadlock(
    name, ranks, microbatches, chunks
):
    table, stages = table_of(name, ranks, microbatches, chunks if name == "interleaved-1f1b" else None)
    assert len(table) == ranks
    check_table(table, stages, microbatches)


@settings(max_examples=60)
@given(st.sampled_from(NAMES), st.integers(1, 6), st.integers(1, 12))
def test_execution_order_keeps_each_row_and_puts_every_action_behind_its_input(name, ranks, microbatches):
    table, stages = table_of(name, ranks, microbatches)
    order = execution_order(table, stages, microbatches)
    for rank in range(ranks):
        assert [action for where, action in order if where == rank] == list(table[rank])
    position = {action: at for at, (_, action) in enumerate(order)}
    back = "backward_input" if name.startswith("zb") else "backward"
    for stage, m in product(range(stages - 1), range(microbatches)):
        assert position["forward", stage, m] < position["forward", stage + 1, m]
        assert position[back, stage + 1, m] < position[back, stage, m]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("naive", (1, 1, 1, 1)),
        ("gpipe", (8, 8, 8, 8)),
        ("1f1b", (4, 3, 2, 1)),
        ("zb-1p", (4, 4, 4, 4)),
        ("zb-2p", (7, 7, 7, 7)),
    ],
)
def test_stages_keep_as_many_micro_batches_as_the_literature_says(name, kept):
    table, stages = table_of(name, 4, 8)
    assert stashes(table, stages) == kept
    assert tuple(most_kept(actions) for actions in table) == kept


@given(st.integers(1, 10), st.integers(1, 25))
def test_1f1b_keeps_no_more_than_the_way_to_the_end_is_long(ranks, microbatches):
    table, stages = table_of("1f1b", ranks, microbatches)
    assert stashes(table, stages) == tuple(min(microbatches, ranks - k) for k in range(ranks))


@given(st.integers(1, 10), st.integers(1, 40))
def test_zero_bubble_keeps_what_1f1b_keeps_at_most_or_just_under_twice_that(ranks, microbatches):
    most = min(microbatches, ranks)
    assert set(stashes(*table_of("zb-1p", ranks, microbatches))) == {most}
    assert set(stashes(*table_of("zb-2p", ranks, microbatches))) == {min(microbatches, 2 * ranks - 1)}


def test_interleaving_keeps_more_because_devices_fill_all_chunks_first():
    table, stages = table_of("interleaved-1f1b", 4, 8, chunks=2)
    # Rank r goes 2 (ranks - r - 1) + (chunks - 1) ranks passes ahead, then one more before its first backward pass.
    assert [most_kept(actions) for actions in table] == [2 * (4 - r - 1) + 4 + 1 for r in range(4)]
    assert max(stashes(table, stages)) <= 8


def test_kept_activations_are_weighed_by_stage():
    row = [Action("forward", 0, 0), Action("forward", 2, 0), Action("backward", 2, 0), Action("forward", 0, 1)]
    assert most_kept(row) == 2
    assert most_kept(row, {0: 10, 2: 1}.__getitem__) == 20


def test_halves_of_a_backward_pass_free_activations_with_the_second():
    row = [Action("forward", 0, 0), Action("backward_input", 0, 0), Action("forward", 0, 1)]
    assert most_kept([*row, Action("backward_weight", 0, 0), Action("forward", 0, 2)]) == 2
    # Where the first half frees what the second does not need, less is left beside the next micro-batch.
    assert most_kept(row, weight_share=0.4) == pytest.approx(1.4)


def test_interleaved_order_is_megatrons():
    def short(actions):
        letter = {"forward": "f", "backward": "b"}
        return " ".join(f"{letter[kind]}{stage}.{m}" for kind, stage, m in actions)

    table, _ = table_of("interleaved-1f1b", 2, 4, chunks=2)
    assert short(table[0]) == "f0.0 f0.1 f2.0 f2.1 f0.2 b2.0 f0.3 b2.1 f2.2 b0.0 f2.3 b0.1 b2.2 b2.3 b0.2 b0.3"
    assert short(table[1]) == "f1.0 f1.1 f3.0 b3.0 f3.1 b3.1 f1.2 b1.0 f1.3 b1.1 f3.2 b3.2 f3.3 b3.3 b1.2 b1.3"


def test_an_uneven_last_group_is_the_full_order_without_the_missing_micro_batches():
    full, _ = table_of("interleaved-1f1b", 4, 8, chunks=3)
    uneven, _ = table_of("interleaved-1f1b", 4, 6, chunks=3)
    assert uneven == [[action for action in actions if action.microbatch < 6] for actions in full]


def test_chunks_of_one_stage_are_for_every_schedule_more_are_for_interleaved_only():
    assert find_schedule("gpipe", 1)[1] == find_schedule("gpipe")[1] == 1
    assert find_schedule("interleaved-1f1b")[1] == 2
    with pytest.raises(Impossible, match=r"chunks = 3 is for interleaved-1f1b; zb-1p puts one stage on each device"):
        find_schedule("zb-1p", 3)


# -- tables that are refused -------------------------------------------------------------------------------------------

F0, B0, F1, B1 = (Action(kind, stage, 0) for stage in (0, 1) for kind in ("forward", "backward"))
I0, W0 = Action("backward_input", 0, 0), Action("backward_weight", 0, 0)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([], "empty"),
        ([[F0, B0], [F1]], "backward pass for inputs of micro-batch 0 through stage 1 is missing"),
        ([[F0, I0], [F1, B1]], "backward pass for weights of micro-batch 0 through stage 0 is missing"),
        ([[B0], [F1, B1]], "backward.*stage=0.*not behind the forward pass"),
        ([[F0, W0, I0], [F1, B1]], "backward_weight.*not behind the backward pass for inputs"),
        ([[F0, F0, B0], [F1, B1]], "forward.*stage=0.*twice"),
        ([[F0, B0, I0], [F1, B1]], "backward_input.*twice"),
        ([[F0, I0, W0, W0], [F1, B1]], "backward_weight.*twice"),
        ([[F0, B0, F1, B1], []], "forward.*stage=1.*is on rank 0; stage 1 lives on rank 1"),
        ([[F0, B0], [F1, B1, Action("forward", 1, 1)]], "microbatch=1.*outside of 2 stages and 1 micro-batches"),
        ([[F0, Action("reload", 0, 0), B0], [F1, B1]], "reload.*no known kind; there are forward, backward"),
    ],
)
def test_tables_that_are_no_training_step_are_refused(table, words):
    with pytest.raises(ValueError, match=words):
        check_table(table, 2, 1)


def test_a_table_whose_ranks_wait_for_each_other_is_refused_with_the_action():
    # Rank 0 wants the gradient of micro-batch 0 before it sends micro-batch 1, which rank 1 wants first.
    table = [
        [Action("forward", 0, 0), Action("backward", 0, 0), Action("forward", 0, 1), Action("backward", 0, 1)],
        [Action("forward", 1, 0), Action("forward", 1, 1), Action("backward", 1, 1), Action("backward", 1, 0)],
    ]
    with pytest.raises(ValueError, match=r"deadlocks: Action\(kind='backward', stage=0, microbatch=0\) waits"):
        check_table(table, 2, 2)


# -- the strategy ------------------------------------------------------------------------------------------------------


def layout(gpus: int, **options):
    strategy = load_file(bundled("plugins") / "model_split.py").ModelSplit
    return strategy(strategy.Options(**options)).layout(gpus)


def test_model_split_puts_one_stage_on_a_device_or_as_many_as_it_interleaves():
    assert (layout(4).pipeline, layout(4).stages) == (4, 4)
    assert (layout(4, schedule="interleaved-1f1b").pipeline, layout(4, schedule="interleaved-1f1b").stages) == (4, 8)
    assert layout(2, schedule="interleaved-1f1b", chunks=3).stages == 6
    assert layout(2, recompute=True).recompute
    assert layout(3, schedule="zb-1p").schedule is schedules.zb_1p
    with pytest.raises(Impossible, match="chunks = 2"):
        layout(4, schedule="gpipe", chunks=2)


def test_plan_lists_chunks_that_a_schedule_does_not_have_and_runs_the_rest():
    found = make_cells(
        sweep__strategy="model-split",
        sweep__gpus=[2],
        **{"strategy": {"model-split": {"schedule": ["1f1b", "interleaved-1f1b"], "chunks": 2}}},
    )
    assert [cell.options["schedule"] for cell in found] == ["interleaved-1f1b"]


CHANGES = {
    "workload": {"precision": "fp64", "model": {"name": "mlp", "hidden": [12, 12, 12]}},
    "goal": {"target_accuracy": 0.99, "max_epochs": 1},
    # 1,293 samples in batches of 36: the last one has 33, so its last micro-batch is padded.
    "sweep__batch_size": [36],
}


@pytest.fixture(scope="module")
def unsplit():
    return virtual_engine.run_virtual(make_setup(make_cell(sweep__strategy="single", **CHANGES)))


@pytest.mark.parametrize("name", NAMES)
def test_model_split_trains_like_a_single_device_under_every_schedule(name, unsplit):
    cell = make_cell(
        sweep__strategy="model-split",
        sweep__gpus=[2],
        sweep__micro_batch_size=6,
        **{"strategy": {"model-split": {"schedule": name}}},
        **CHANGES,
    )
    split = virtual_engine.run_virtual(make_setup(cell))
    assert np.abs(np.asarray(split.weights) - np.asarray(unsplit.weights)).max() < 1e-12
    assert split.updates == unsplit.updates
    assert len(split.facts["placement"]) == (4 if name == "interleaved-1f1b" else 2)
