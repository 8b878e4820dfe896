"""`fsdp`, `zero-1`, `zero-2`, `hsdp`: what they send, what they hold, and that they train as one device does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy
from trained import BATCHNORM, DROPOUT, FIFTY_STEPS, FP64, difference, real, seen, virtual

from harness.api.strategy import Layout
from harness.core.cell import Named
from harness.core.number_formats import scalar_bytes
from harness.costs.memory.device import CPU, Work, device_memory
from harness.costs.memory.gathered import passing_bytes
from harness.costs.profiles.shape import LayerShape, ModelShape
from harness.costs.steps.fsdp_traffic import (
    bytes_sent,
    fsdp_messages,
    fsdp_step_messages,
)

torch = lazy("torch")
dist = lazy("torch.distributed")
fsdp2_mem_tracker = lazy("torch.distributed._tools.fsdp2_mem_tracker")
tensor_debug = lazy("torch.distributed.tensor.debug")
nn = lazy("torch.nn")
fake_pg = lazy("torch.testing._internal.distributed.fake_pg")
python_dispatch = lazy("torch.utils._python_dispatch")
layout_parts = lazy("harness.engines.real.layouts.parts")
shared_states = lazy("harness.engines.real.layouts.shared_states")
sharded_layout = lazy("harness.engines.real.layouts.sharded")

warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)

TRAINING = FIFTY_STEPS | {"sweep__gpus": [2]}
ADAM_CLIPPED = {
    "workload": FP64 | {"optimizer": {"name": "adam"}, "clip_norm": 0.5},
    "sweep__learning_rate": [0.003],
    "sweep__global_batch_size": [240],
    "goal__max_epochs": 1.2,
}


def tensor_bytes(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


@contextmanager
def overheard() -> Iterator[list[tuple[str, int]]]:
    """Yield what torch hands to its process group: kind, and elements of the whole vector."""
    messages: list[tuple[str, int]] = []

    class Sent(python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.overloadpacket.__name__
            if name == "_allgather_base_":
                messages.append(("all-gather", args[0].numel()))
            elif name == "_reduce_scatter_base_":
                messages.append(("reduce-scatter", args[1].numel()))
            elif name == "allreduce_":
                messages.append(("all-reduce", args[0][0].numel()))
            return func(*args, **(kwargs or {}))

    with Sent():
        yield messages


@contextmanager
def pretended_group(ranks: int) -> Iterator[None]:
    """Be rank 0 of a process group whose other ranks do not exist."""
    dist.init_process_group("fake", store=fake_pg.FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def sent_by_torch(
    module: nn.Module, ranks: int, reshard: bool, inputs: torch.Tensor, groups: int = 1
) -> tuple[list[Any], dict[str, int]]:
    """Return what one pass forward and back of the real runner's sharded module sends, twice counted."""
    with pretended_group(ranks * groups):
        sharded = sharded_layout.shard_module(module, "cpu", ranks, reshard, groups=groups)
        with tensor_debug.CommDebugMode() as counter, overheard() as sent, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the counter's own hooks
            sharded(inputs).sum().backward()
        counts = {op.__name__: count for op, count in counter.get_comm_counts().items()}
    return sent, counts


def dense(widths: list[int]) -> nn.Sequential:
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers)


# -- what is sent ------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(widths=st.lists(st.integers(1, 40), min_size=2, max_size=6), ranks=st.integers(2, 5), reshard=st.booleans())
def test_counts_and_bytes_are_those_that_torch_sends(widths, ranks, reshard):
    module = dense(widths)
    expected = fsdp_messages(sharded_layout.module_shape(module), ranks, reshard)
    messages, counts = sent_by_torch(module, ranks, reshard, torch.randn(3, widths[0]))
    # Torch gathers ahead of need, so the order differs.
    assert sorted((kind, 4 * elements) for kind, elements in messages) == sorted(m[:2] for m in expected)
    assert counts["_allgather_base_"] == sum(m.kind == "all-gather" for m in expected)
    assert counts["_reduce_scatter_base_"] == sum(m.kind == "reduce-scatter" for m in expected)


@settings(max_examples=10)
@given(widths=st.lists(st.integers(1, 40), min_size=2, max_size=5), ranks=st.integers(2, 4), groups=st.integers(2, 3))
def test_groups_average_their_parts_of_the_gradient(widths, ranks, groups):
    module = dense(widths)
    expected = fsdp_messages(sharded_layout.module_shape(module), ranks, True, groups)
    messages, counts = sent_by_torch(module, ranks, True, torch.randn(3, widths[0]), groups)
    assert sorted((kind, 4 * elements) for kind, elements in messages) == sorted(m[:2] for m in expected)
    assert counts["allreduce_"] == len(widths) - 1 == sum(m.kind == "all-reduce" for m in expected)


@pytest.mark.parametrize(("ranks", "groups"), [(8, 4), (2, 2)])
def test_only_a_part_of_the_gradient_crosses_groups(ranks, groups):
    """Source: Zhao et al. 2023, section 3.2.2: groups of G devices send less than 2 M / G a device to each other."""
    shape = ModelShape((LayerShape("linear", tensors=(64 * 100,), rows=(64,)),))
    across = [m for m in fsdp_messages(shape, ranks, True, groups) if m.kind == "all-reduce"]
    assert bytes_sent(across) == 2 * shape.parameter_bytes * (groups - 1) / (groups * ranks)
    inside = [m for m in fsdp_messages(shape, ranks, True, groups) if m.kind != "all-reduce"]
    assert inside == fsdp_messages(shape, ranks, True)
    thrice = fsdp_step_messages(shape, Layout(data=ranks * groups, shard="parameters", shard_group=ranks), pieces=3)
    assert thrice == 2 * inside + fsdp_messages(shape, ranks, True, groups)  # groups meet once a step


def test_sharded_parameters_send_half_as_much_again_as_an_all_reduce():
    """Source: Rajbhandari et al. 2020, section 7.2: 3 times the parameters instead of 2; the last unit is kept."""
    layer = LayerShape("linear", tensors=(64 * 100, 64), rows=(64, 64))
    shape = ModelShape((layer,) * 100)
    num_bytes, ranks = shape.parameter_bytes, 8
    one = bytes_sent(fsdp_messages(shape, ranks, reshard=True))
    two = bytes_sent(fsdp_messages(shape, ranks, reshard=False))
    assert two == 2 * (ranks - 1) / ranks * num_bytes
    assert one == pytest.approx((3 - 1 / 100) * (ranks - 1) / ranks * num_bytes, rel=1e-12)


def test_pieces_gather_anew_where_parameters_are_shared_out_and_once_where_only_the_optimizer_is():
    shape = ModelShape((LayerShape("a", tensors=(8,), rows=(8,)), LayerShape("b", tensors=(8,), rows=(8,))))
    assert len(fsdp_step_messages(shape, Layout(data=2, shard="parameters"), pieces=3)) == 3 * 5
    assert len(fsdp_step_messages(shape, Layout(data=2, shard="optimizer"), pieces=3)) == 4
    assert fsdp_messages(shape, 1, reshard=True) == []


@given(rows=st.integers(1, 50), width=st.integers(1, 9), ranks=st.integers(1, 8))
def test_padding_is_less_than_one_row_a_rank(rows, width, ranks):
    padded = LayerShape("a", tensors=(rows * width,), rows=(rows,)).padded_parameters(ranks)
    assert padded % ranks == 0
    assert rows * width <= padded < (rows + ranks) * width


# -- what is held ------------------------------------------------------------------------------------------------------


def counted_kinds(module: nn.Module, layout: Layout) -> Mapping[str, int]:
    """Return what the fullest device of either engine is said to hold, with Adam."""
    work = Work(Named("adam"), samples=1)
    return device_memory(sharded_layout.module_shape(module), layout, work, CPU).fullest.kinds


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_parts_are_the_bytes_that_are_counted(ranks):
    module = dense([50, 30, 20, 7])
    counted = counted_kinds(module, Layout(data=ranks, shard="parameters"))
    with pretended_group(ranks):
        parts = layout_parts.Parts(sharded_layout.shard_module(module, "cpu", ranks, reshard=True))
        held = tensor_bytes(parts.parameters())
    assert counted["parameters"] == counted["gradients"] == held
    assert counted["optimizer"] == 2 * held


def test_memory_falls_as_the_number_of_devices_rises():
    module = dense([64, 64, 64, 64, 64])
    everything = tensor_bytes(module.parameters())
    for ranks in (2, 4, 8, 16):
        for shard in ("parameters", "optimizer"):
            counted = counted_kinds(module, Layout(data=ranks, shard=shard))
            assert [counted[kind] * ranks for kind in ("parameters", "gradients", "optimizer")] == [
                *(everything, everything, 2 * everything)
            ]


@pytest.mark.parametrize("widths", [[256] * 9, [256] * 5, [64, 512, 512, 64], [512, 64, 64, 64, 512]], ids=str)
@pytest.mark.parametrize("shard", ["parameters", "optimizer"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_passes_through_is_what_torch_itself_counts(widths, shard, precision):
    """Biases are left out of the layers, so that what torch takes for activations is small."""
    ranks = 4
    module = nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in pairwise(widths)])
    layout, shards = Layout(data=ranks, shard=shard), 2 * tensor_bytes(module.parameters()) // ranks
    expected = passing_bytes(sharded_layout.module_shape(module), layout, scalar_bytes(precision, sharded=True))
    with pretended_group(ranks), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracker's own hooks
        reshard, halved = shard == "parameters", precision == "bf16"
        sharded = sharded_layout.shard_module(module, "cpu", ranks, reshard, halved=halved)
        tracker = fsdp2_mem_tracker.FSDPMemTracker(sharded, None)
        with tracker:
            sharded(torch.randn(1, widths[0])).sum().backward()
        (peak,) = tracker.get_tracker_snapshot("peak").values()
    assert peak["Total"] == pytest.approx(shards + expected, rel=0.02)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_each_stage_shares_out_what_its_paper_says(ranks):
    """Source: Rajbhandari et al. 2020, figure 1; in single precision, with the two moments of Adam."""
    module = dense([64, 64, 64])
    everything = tensor_bytes(module.parameters())
    shares = {"none": (1, 1, 1), "states": (1, 1, ranks), "optimizer": (ranks,) * 3, "parameters": (ranks,) * 3}
    for shard, (parameters, gradients, states) in shares.items():
        counted = counted_kinds(module, Layout(data=ranks, shard=shard))
        assert counted["parameters"] == everything / parameters
        assert counted["gradients"] == everything / gradients
        assert counted["optimizer"] == 2 * everything / states


def test_groups_hold_what_a_single_group_of_their_size_holds():
    module = dense([64, 64, 64])
    grouped = counted_kinds(module, Layout(data=8, shard="parameters", shard_group=2))
    assert grouped == counted_kinds(module, Layout(data=2, shard="parameters"))


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=8), ranks=st.integers(2, 5), bucket=st.integers(0, 400))
def test_stretches_cover_every_number_once_in_order(sizes, ranks, bucket):
    cut = shared_states.Stretches(sizes, ranks, bucket, torch.float32)
    tensors = list(torch.arange(sum(sizes)).split(sizes))
    stretches = [[tensors[k][rows] for k, rows in cut.within(r * cut.each, (r + 1) * cut.each)] for r in range(ranks)]
    assert torch.equal(torch.cat([part for stretch in stretches for part in stretch]), torch.arange(sum(sizes)))
    covered = [start + k for each in cut.portions() for start in each.starts for k in range(each.size)]
    assert sorted(covered) == list(range(ranks * cut.each))
    assert bucket == 0 or all(each.size * ranks * 4 <= max(bucket, 4 * ranks) for each in cut.portions())


# -- that they train as one device does --------------------------------------------------------------------------------


@pytest.mark.dist
@pytest.mark.parametrize("shard", ["parameters", "optimizer"])
def test_both_engines_agree_on_steps_bytes_and_memory_and_equal_single(shard):
    changes = TRAINING | ({} if shard == "parameters" else {"strategy__fsdp": {"shard": shard}})
    measured, simulated = real("fsdp", **changes), virtual("fsdp", **changes)
    assert measured.updates == simulated.updates == 82
    assert difference(measured, simulated) == 0.0
    assert seen(measured) == seen(simulated)
    assert measured.test == simulated.test
    assert difference(measured, virtual("single", **(TRAINING | {"sweep__gpus": [1]}))) < 1e-12
    assert measured.bytes_sent_per_step == pytest.approx(simulated.bytes_sent_per_step, rel=1e-9)
    assert measured.dram == simulated.dram
    assert measured.dram.kinds["parameters"] == pytest.approx(61706 * 8 / 2, rel=0.01)


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["zero-1", "zero-2"])
def test_stages_of_zero_agree_on_both_engines_and_equal_single(strategy):
    options = {"strategy__zero-1": {"bucket_mib": 0.05}} if strategy == "zero-1" else {}
    measured, simulated = real(strategy, **TRAINING | options), virtual(strategy, **TRAINING | options)
    assert measured.updates == simulated.updates == 82
    assert difference(measured, simulated) == 0.0
    assert seen(measured) == seen(simulated)
    assert difference(measured, virtual("single", **(TRAINING | {"sweep__gpus": [1]}))) < 1e-12
    assert measured.bytes_sent_per_step == pytest.approx(simulated.bytes_sent_per_step, rel=1e-9)
    assert measured.dram == simulated.dram
    whole = 61706 * 8
    assert measured.dram.kinds["optimizer"] == pytest.approx(whole / 2, rel=0.01)
    assert measured.dram.kinds["parameters"] == pytest.approx(whole if strategy == "zero-1" else whole / 2, rel=0.01)


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["zero-1", "hsdp"])
def test_four_processes_of_other_sharding_with_adam_clipping_and_pieces_equal_single(strategy):
    """As below; two groups of two share parameters out, four replicas the optimizer's state."""
    changes = ADAM_CLIPPED
    pieces = {"sweep__gpus": [4], "sweep__micro_batch_size": 20}
    measured, simulated = real(strategy, **changes, **pieces), virtual(strategy, **changes, **pieces)
    assert measured.updates >= 7
    assert difference(measured, simulated) < 1e-12
    assert difference(measured, virtual("single", **changes, sweep__gpus=[1])) < 1e-12
    if strategy == "zero-1":  # pieces gather anew elsewhere, and the last batch of an epoch has fewer
        assert measured.bytes_sent_per_step == pytest.approx(simulated.bytes_sent_per_step, rel=1e-9)
    assert measured.dram == simulated.dram


@pytest.mark.dist
@pytest.mark.parametrize("model", [BATCHNORM, DROPOUT])
def test_shared_states_agree_on_buffers_and_masks(model):
    changes = {"sweep__gpus": [2], "workload": FP64 | {"model": model}, "goal__max_epochs": 0.5}
    measured, simulated = real("zero-1", **changes), virtual("zero-1", merge=True, **changes)
    assert difference(measured, simulated) == 0.0
    assert [e.validation_loss for e in measured.evaluations] == pytest.approx(
        [e.validation_loss for e in simulated.evaluations], rel=1e-12
    )


@pytest.mark.dist
def test_shared_states_divide_the_step_into_parts_that_are_all_there():
    steps = real("zero-1", **TRAINING | {"strategy__zero-1": {"bucket_mib": 0.05}}).steps
    parts = [steps[name] for name in ("input_s", "compute_s", "communication_s", "idle_s")]
    assert all(min(part) > -1e-6 for part in parts)
    assert min(sum(steps[name]) for name in ("compute_s", "communication_s", "idle_s")) > 0


@pytest.mark.dist
def test_waiting_and_sending_are_told_apart_and_add_up_to_the_step():
    steps = real("fsdp", **TRAINING).steps
    parts = [steps[name] for name in ("input_s", "compute_s", "communication_s", "idle_s")]
    assert all(min(part) > -1e-6 for part in parts)
    assert min(sum(steps[name]) for name in ("compute_s", "communication_s", "idle_s")) > 0
    rows = sorted(zip(steps["device"], steps["step"], steps["start_s"], *parts, strict=True))
    for (device, _, start, *spent), (other, _, following, *_) in pairwise(rows):
        assert device != other or sum(spent) <= following - start + 1e-6


@pytest.mark.dist
@pytest.mark.parametrize("shard", ["parameters", "optimizer"])
def test_four_processes_with_adam_clipping_and_pieces_equal_single(shard):
    """Parts of 60, 33 and (the last batch of an epoch) 23, 23, 23 and 24 samples, in pieces of 20."""
    changes = ADAM_CLIPPED
    pieces = {"sweep__gpus": [4], "sweep__micro_batch_size": 20, "strategy__fsdp": {"shard": shard}}
    measured = real("fsdp", **changes, **pieces)
    assert measured.updates >= 7
    assert difference(measured, virtual("fsdp", **changes, **pieces)) < 1e-12
    assert difference(measured, virtual("single", **changes, sweep__gpus=[1])) < 1e-12


@pytest.mark.dist
def test_single_precision_agrees_to_rounding():
    changes = {"sweep__gpus": [2], "goal__max_epochs": 0.5}
    assert difference(real("fsdp", **changes), virtual("single", **(changes | {"sweep__gpus": [1]}))) < 1e-4


@pytest.mark.dist
def test_half_precision_gathers_whole_units_on_cpus_and_trains_as_one_device_does():
    """Rounding to 8 bits, twelve steps: the weights that are learnt differ by their own rounding, not by a step."""
    changes = {
        "sweep__gpus": [2],
        "goal": {"max_steps": 12, "target_accuracy": "none"},
        "workload": {"precision": "bf16"},
    }
    measured, simulated = real("fsdp", **changes), virtual("fsdp", **changes)
    assert difference(measured, virtual("single", **changes | {"sweep__gpus": [1]})) < 2e-2
    assert measured.bytes_sent_per_step == simulated.bytes_sent_per_step
    whole = virtual("fsdp", **changes | {"workload": {"precision": "fp32"}})
    assert measured.bytes_sent_per_step == whole.bytes_sent_per_step
    assert measured.dram == simulated.dram


@pytest.mark.dist
@pytest.mark.parametrize(("model", "recompute"), [(BATCHNORM, False), (BATCHNORM, True), (DROPOUT, True)])
def test_buffers_and_masks_agree_on_both(model, recompute):
    changes = {"sweep__gpus": [2], "workload": FP64 | {"model": model}, "strategy__fsdp": {"recompute": recompute}}
    measured, simulated = real("fsdp", **changes), virtual("fsdp", merge=True, **changes)
    assert difference(measured, simulated) == 0.0
    # The evaluation uses running statistics: equal losses at all marks need equal buffers.
    assert [e.validation_loss for e in measured.evaluations] == pytest.approx(
        [e.validation_loss for e in simulated.evaluations], rel=1e-12
    )
