"""`hybrid` and the other layouts of several devices: who stands where, what is cut, and that all train as one does."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import pytest
from cells import host, make_cell
from hypothesis import given
from hypothesis import strategies as st
from lazy import lazy
from places import TESTS
from trained import BATCHNORM, FP64, difference, real, seen, virtual

from harness.api.strategy import Layout
from harness.core.errors import Impossible, PluginError
from harness.core.outcome import Outcome
from harness.engines.processes.launch import run_cell
from harness.engines.real.merge import merge, split_waits
from harness.engines.shared.setup import make_setup

torch = lazy("torch")
nn = lazy("torch.nn")
tensor_cuts = lazy("harness.costs.tracing.tensor_cuts")
grid = lazy("harness.engines.real.layouts.grid")
virtual_engine = lazy("harness.engines.virtual.engine")

LAYOUTS = str(TESTS / "plugins" / "layouts.py")

FEW_STEPS = {
    "workload": FP64 | {"optimizer": {"name": "sgd", "momentum": 0.9}},
    "sweep__learning_rate": [0.02],
    "sweep__global_batch_size": [240],
    "sweep__micro_batch_size": 30,
    "goal__max_epochs": 1.2,
}
"""Seven steps; the last of an epoch has 93 of 240 samples, so that parts, pieces and micro-batches are uneven."""

OF_TWO = [(2, 1, 1), (1, 2, 1), (1, 1, 2)]
OF_FOUR = [(4, 1, 1), (1, 4, 1), (1, 1, 4), (2, 2, 1), (2, 1, 2), (1, 2, 2)]


def options(data: int, pipeline: int, tensor: int, **more: Any) -> dict[str, Any]:
    spread = {"data": data, "pipeline": pipeline, "tensor": tensor}
    return {"sweep__gpus": [data * pipeline * tensor], "strategy__hybrid": spread | more}


# -- the layout --------------------------------------------------------------------------------------------------------


def hybrid(**options: Any) -> Any:
    chosen = host().strategies["hybrid"]
    return chosen(chosen.Options(**options))


def test_a_product_that_is_not_the_number_of_devices_prints_its_equation():
    with pytest.raises(Impossible, match=r"^data 2 x pipeline 2 x tensor 2 = 8, but gpus = 4$"):
        hybrid(data=2, pipeline=2, tensor=2).layout(4)
    with pytest.raises(Impossible, match=r"^data 1 x pipeline 4 x tensor 4 = 16, but gpus = 6$"):
        hybrid(pipeline=4, tensor=4).layout(6)


@given(data=st.integers(1, 6), pipeline=st.integers(1, 6), tensor=st.integers(1, 6))
def test_replicas_are_what_the_other_axes_leave(data, pipeline, tensor):
    layout = hybrid(pipeline=pipeline, tensor=tensor).layout(data * pipeline * tensor)
    assert (layout.data, layout.pipeline, layout.tensor) == (data, pipeline, tensor)
    assert (layout.schedule is None) == (pipeline == 1)


@given(data=st.integers(1, 5), pipeline=st.integers(1, 5), tensor=st.integers(1, 5))
def test_every_rank_has_one_place_and_tensor_neighbours_are_next_to_each_other(data, pipeline, tensor):
    layout = Layout(data=data, pipeline=pipeline, tensor=tensor)
    places = [grid.coordinates(layout, rank) for rank in range(layout.devices)]
    assert [grid.rank_at(layout, *place) for place in places] == list(range(layout.devices))
    assert places[:tensor] == [(0, 0, k) for k in range(tensor)]


def test_sharding_inside_a_pipeline_is_refused_in_words():
    cell = make_cell(sweep__strategy="sharded-pipeline", sweep__gpus=[4], plugins=(LAYOUTS,))
    assert "inside data 2 x pipeline 2 x tensor 1 = 4 is not supported yet" in cell.not_possible


# -- which layers are cut ----------------------------------------------------------------------------------------------


def test_pairs_of_linear_layers_are_cut_and_what_does_not_divide_stays_whole():
    module = nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4), nn.Linear(4, 3))
    assert tensor_cuts.tensor_plan(module, 2) == {"0": "colwise", "2": "rowwise", "4": "colwise", "5": "rowwise"}
    assert tensor_cuts.tensor_plan(module, 4) == {"0": "colwise", "2": "rowwise", "4": "colwise", "5": "rowwise"}
    assert tensor_cuts.tensor_plan(module, 8) == {"0": "colwise", "2": "rowwise"}
    assert tensor_cuts.tensor_plan(module, 3) == {"2": "colwise", "4": "rowwise"}
    assert tensor_cuts.tensor_plan(module, 1) == {}


def test_dropout_and_convolutions_end_a_pair():
    assert tensor_cuts.tensor_plan(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4)), 2) == {}
    assert tensor_cuts.tensor_plan(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 4)), 2) == {}


PLAN = {"up": "colwise", "down": "rowwise"}


def declares(hidden: int, parts: int, plan: dict[str, str] = PLAN) -> nn.Module:
    """Return a module that says itself how it may be cut."""

    class Declares(nn.Module):
        tensor_plan: ClassVar = plan

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, hidden), nn.Linear(hidden, 4)
            self.tensor_parts = parts

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.down(torch.relu(self.up(values)))

    return Declares()


def test_a_module_says_itself_what_may_be_cut_and_into_how_many_parts():
    module = nn.Sequential(declares(12, parts=3), nn.Linear(4, 4))
    assert tensor_cuts.tensor_plan(module, 3) == {"0.up": "colwise", "0.down": "rowwise"}
    assert tensor_cuts.tensor_plan(module, 2) == {}
    shares = tensor_cuts.split_shares(module, tensor_cuts.tensor_plan(module, 3), list(module.named_children()))
    assert shares == {"0": (4 * 12 + 12 + 12 * 4) / (4 * 12 + 12 + 12 * 4 + 4), "1": 0.0}


def test_a_plan_that_names_no_linear_layer_is_refused():
    with pytest.raises(PluginError, match=r"Declares.tensor_plan: no nn.Linear is called upp"):
        tensor_cuts.tensor_plan(declares(4, 2, {"upp": "colwise"}), 2)


@given(widths=st.lists(st.integers(1, 24), min_size=2, max_size=7), ways=st.integers(2, 6))
def test_cuts_come_in_pairs_that_divide_evenly(widths, ways):
    module = nn.Sequential(*[nn.Linear(a, b) for a, b in pairwise(widths)])
    plan = list(tensor_cuts.tensor_plan(module, ways).items())
    for (first, one), (second, other) in zip(plan[::2], plan[1::2], strict=True):
        assert (one, other, int(second)) == ("colwise", "rowwise", int(first) + 1)
        assert module.get_submodule(first).out_features % ways == 0


def test_shares_leave_out_the_bias_that_every_device_has():
    module = nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 6))
    assert tensor_cuts.split_shares(module, tensor_cuts.tensor_plan(module, 2), list(module.named_children())) == {
        "0": 1.0,
        "1": 0.0,
        "2": 8 * 6 / (8 * 6 + 6),
    }


# -- that it trains as one device does ---------------------------------------------------------------------------------


def check(changes: dict[str, Any], strategy: str = "hybrid") -> Any:
    measured, simulated = real(strategy, **changes), virtual(strategy, **changes)
    assert measured.updates == simulated.updates >= 7
    assert seen(measured) == seen(simulated)
    assert difference(measured, simulated) < 1e-12
    alone = {key: value for key, value in changes.items() if not key.startswith("strategy__")} | {"sweep__gpus": [1]}
    assert difference(measured, virtual("single", **alone)) < 1e-12
    return measured


@pytest.mark.dist
@pytest.mark.parametrize("spread", OF_TWO + OF_FOUR, ids=str)
def test_every_factorisation_equals_single(spread):
    check(FEW_STEPS | options(*spread))


@pytest.mark.dist
@pytest.mark.parametrize("spread", [(1, 1, 2), (2, 2, 1), (2, 1, 2), (1, 2, 2)], ids=str)
def test_factorisations_of_a_dense_network_equal_single_with_adam_and_clipping(spread):
    work = FP64 | {"model": "mlp", "optimizer": {"name": "adam"}, "clip_norm": 0.5}
    check(FEW_STEPS | options(*spread) | {"workload": work, "sweep__learning_rate": [0.003]})


GPT = {"name": "gpt", "layers": 2, "hidden": 8, "heads": 2}
TOKENS = {"name": "tokens", "samples": 64, "test_samples": 16, "sequence": 8, "vocabulary": 12}
TWO_PASSES = {"goal__max_epochs": 2, "sweep__learning_rate": [0.05]}
TWO_PASSES |= {"sweep__global_batch_size": [16], "sweep__micro_batch_size": 4}


@pytest.mark.dist
def test_attention_and_its_mlp_are_cut_by_heads():
    work = FP64 | {"dataset": TOKENS, "model": GPT | {"tied": False}}
    measured = check(TWO_PASSES | {"workload": work} | options(1, 2, 2))
    (told,) = [note for note in measured.notes if note.startswith("tensor parallelism over 2: ")]
    for block in ("block1", "block2"):
        assert f"{block}.attn.qkv (colwise), {block}.attn.out (rowwise)" in told


@pytest.mark.dist
def test_a_tied_head_and_the_embedding_on_another_stage_train_as_one_tensor():
    changes = TWO_PASSES | {"workload": FP64 | {"dataset": TOKENS, "model": GPT}} | options(1, 2, 1)
    measured = check(changes)
    # Eight bytes a number: the tied gradient to the other stage and back, activations of 8 x 8 to each sample likewise.
    whole, rest = ((12 * 8 + samples * 8 * 8) * 8 for samples in (16, 10))
    assert measured.bytes_sent_per_step == whole
    simulated = virtual("hybrid", **changes)
    assert simulated.bytes_sent_per_step == (3 * whole + rest) / 4  # an epoch's last batch is smaller
    assert measured.dram.kinds["parameters"] == simulated.dram.kinds["parameters"]


@pytest.mark.dist
@pytest.mark.parametrize("schedule", ["interleaved-1f1b", "zb-1p", "zb-2p"])
def test_schedules_of_several_stages_and_of_split_backward_passes_equal_single(schedule):
    changes = FEW_STEPS | {"sweep__gpus": [2], "strategy__model-split": {"schedule": schedule}}
    measured = check(changes, "model-split")
    assert 0 < measured.bubble_fraction < 1


@pytest.mark.dist
def test_a_split_backward_pass_through_recomputed_and_cut_layers_equals_single():
    check(FEW_STEPS | options(1, 2, 2, schedule="zb-1p", recompute=True))


@pytest.mark.dist
def test_replicated_pipelines_with_batchnorm_agree_on_both_buffers_included():
    """The stages of the first replica keep their running statistics; micro-batches are cut evenly on both engines."""
    changes = FEW_STEPS | options(2, 2, 1) | {"workload": FP64 | {"model": BATCHNORM}}
    measured, simulated = real("hybrid", **changes), virtual("hybrid", **changes)
    assert difference(measured, simulated) < 1e-12
    assert [e.validation_loss for e in measured.evaluations] == pytest.approx(
        [e.validation_loss for e in simulated.evaluations], rel=1e-12
    )


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["afterwards", "twice"])
def test_exchanging_afterwards_and_computing_twice_change_nothing_not_even_buffers(strategy):
    changes = FEW_STEPS | {"sweep__gpus": [2], "plugins": (LAYOUTS,), "workload": FP64 | {"model": BATCHNORM}}
    cell = make_cell(engine="real", sweep__strategy=strategy, **changes)
    result = run_cell(cell, [LAYOUTS], options={"keep_weights": True})
    assert result.finished, result.reason
    simulated = virtual_engine.run_virtual(
        make_setup(make_cell(sweep__strategy=strategy, **changes), [LAYOUTS]), merge=False
    )
    plain = virtual("sync-ddp", **{key: value for key, value in changes.items() if key != "plugins"})
    assert difference(result.outcome, simulated) == difference(result.outcome, plain) == 0.0
    assert [e.validation_loss for e in result.outcome.evaluations] == [e.validation_loss for e in plain.evaluations]


# -- where the time went -----------------------------------------------------------------------------------------------


def row(device: int, **more: Any) -> dict[str, Any]:
    times = dict.fromkeys(("input_s", "compute_s", "communication_s", "idle_s"), 0.0)
    return times | {"step": 0, "device": device, "start_s": 0.0} | more


def test_no_step_is_lost_to_a_process_whose_clock_is_ahead():
    cell = make_cell(sweep__strategy="sync-ddp", sweep__gpus=[2])
    done = Outcome(samples=64, updates=2, training_s=2.0)
    partial = {"setup_s": 0.0, "ended_at_s": 2.0, "notes": [], "recorded": {}, "spans": [], "deliveries": {}}
    partial |= {"unawaited": {}, "allocator": {}, "bytes_sent": 0}
    ahead = [row(1, step=k, start_s=k + 1.5, worker=0, loss=1.0, samples=16) for k in range(2)]
    leads = [row(0, step=k, start_s=float(k), worker=0, loss=2.0, samples=16) for k in range(2)]
    steps = merge([partial | {"rows": leads, "outcome": done}, partial | {"rows": ahead}], cell).steps
    assert list(zip(steps["device"], steps["step"], strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_only_replicas_that_exchange_wait_for_each_other():
    rows = [row(k, _ready_s=ready, communication_s=2.0, _group=k % 2) for k, ready in enumerate([1.0, 5.0, 2.0, 5.5])]
    split_waits([[r] for r in rows])
    assert [r["idle_s"] for r in rows] == [1.0, 0.5, 0.0, 0.0]
    assert [r["communication_s"] for r in rows] == [1.0, 1.5, 2.0, 2.0]


def test_every_gather_is_divided_for_itself():
    early = row(0, _waits=2, _wait_0=0.0, _waited_0=3.0, _wait_1=5.0, _waited_1=6.0, communication_s=4.0)
    late = row(1, _waits=2, _wait_0=2.0, _waited_0=3.0, _wait_1=4.5, _waited_1=6.0, communication_s=2.5)
    split_waits([[early], [late]])
    assert (early["idle_s"], early["communication_s"]) == (2.0, 2.0)
    assert (late["idle_s"], late["communication_s"]) == (0.5, 2.0)


def test_nobody_waits_for_the_gradients_of_weights():
    """Stage 0 waits for stage 1's gradient of its input (at 4), not for that of its weights (at 6)."""
    actions = {
        0: [("forward", 0, 0, 0.0, 1.0), ("backward_input", 0, 0, 5.0, 6.0), ("backward_weight", 0, 0, 6.0, 7.0)],
        1: [("forward", 1, 0, 2.0, 3.0), ("backward_input", 1, 0, 3.0, 4.0), ("backward_weight", 1, 0, 4.0, 6.0)],
    }
    rows = []
    for device, spans in actions.items():
        stamps = {f"_action_{n}": began for n, (*_, began, _) in enumerate(spans)}
        stamps |= {f"_ended_{n}": ended for n, (*_, ended) in enumerate(spans)}
        named = [action[:3] for action in spans]
        rows.append(row(device, _actions=named, _step_start=0.0, _step_end=7.0, _pipeline=(0, 0), **stamps))
    split_waits([[r] for r in rows])
    assert [(r["idle_s"], r["communication_s"]) for r in rows] == [(3.0, 1.0), (1.0, 2.0)]
