"""Memory of devices: the allocator, the replay, cuts under limits, and published measurements."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy

from harness.api import schedules
from harness.api.strategy import Layout
from harness.core.cell import Named
from harness.core.errors import Impossible, NotForetold
from harness.costs.memory.allocator import MIB, CachingAllocator, OutOfMemory, PlainAllocator, segment_bytes
from harness.costs.memory.cuts import StageMemory, balance, balance_under
from harness.costs.memory.device import (
    CPU,
    CUDA,
    KEPT_FRACTION,
    DeviceConstants,
    Work,
    device_memory,
    largest_micro_batch,
    missing_bytes,
    stage_memory,
    stages_of,
)
from harness.costs.memory.states import state_bytes
from harness.costs.profiles.shape import LayerShape, Linear, ModelShape
from harness.workloads import harness_models
from harness.workloads.entries import DataShape

trace = lazy("harness.costs.tracing.trace")

MODELS = {model.name: model for model in harness_models()}
TEXT = DataShape(1, 1, 32, 50, 50, labels_per_token=True)
ADAM = Named("adamw")


@pytest.fixture(scope="module")
def gpt() -> ModelShape:
    model = MODELS["gpt"]
    options = model.Options(layers=8, hidden=64, heads=4)
    return trace.trace_model(lambda: model.build(options, TEXT), TEXT, trace.Rules(device="cuda"))


# -- the allocator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "segment"),
    [(1, 2), (1 * MIB, 2), (1 * MIB + 512, 20), (10 * MIB - 512, 20), (10 * MIB, 10), (10 * MIB + 512, 12)],
)
def test_segments_have_the_sizes_of_cudas_allocator(size, segment):
    assert segment_bytes(size) == segment * MIB


def test_blocks_are_rounded_reused_split_and_merged():
    allocator = CachingAllocator()
    first, second = allocator.allocate(100), allocator.allocate(600)
    assert (allocator.allocated, allocator.reserved) == (512 + 1024, 2 * MIB)
    allocator.free(first)
    allocator.free(second)
    assert (allocator.allocated, allocator.reserved) == (0, 2 * MIB)
    whole = allocator.allocate(MIB)  # in the merged segment
    assert (allocator.reserved, whole.num_bytes) == (2 * MIB, MIB)
    allocator.allocate(19 * MIB)
    assert allocator.reserved == 22 * MIB
    allocator.allocate(2 * MIB)
    assert allocator.reserved == 42 * MIB  # a remainder of at most 1 MiB is not split off


def test_an_end_of_memory_gives_unused_segments_back_first():
    allocator = CachingAllocator(capacity=40 * MIB)
    allocator.free(allocator.allocate(30 * MIB))
    allocator.allocate(32 * MIB)
    assert allocator.reserved == 32 * MIB
    with pytest.raises(OutOfMemory) as caught:
        allocator.allocate(12 * MIB)
    assert caught.value.missing_bytes == 4 * MIB


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 30 * MIB), st.integers(0, 99)), max_size=60),
)
def test_what_is_allocated_is_never_more_than_what_is_reserved(moves):
    allocator, plain, blocks = CachingAllocator(), PlainAllocator(), []
    for takes, size, which in moves:
        if takes or not blocks:
            blocks.append((allocator.allocate(size), plain.allocate(size)))
        else:
            mine, other = blocks.pop(which % len(blocks))
            allocator.free(mine)
            plain.free(other)
        spans = sorted((block.start, block.start + block.num_bytes) for block, _ in blocks)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert plain.allocated <= allocator.allocated <= allocator.reserved
        assert allocator.allocated == sum(block.num_bytes for block, _ in blocks)
    for mine, _ in blocks:
        allocator.free(mine)
    free = [entry[2] for pool in allocator._free.values() for entry in pool]
    assert sum(block.num_bytes for block in free) == allocator.reserved
    assert all(block.before is None and block.after is None for block in free)  # all merged


# -- cuts --------------------------------------------------------------------------------------------------------------


def cuts(total: int, parts: int):
    for inner in combinations(range(1, total), parts - 1):
        ends = [0, *inner, total]
        yield [b - a for a, b in pairwise(ends)]


def heaviest(weights, sizes) -> float:
    start, sums = 0, []
    for size in sizes:
        sums.append(sum(weights[start : start + size]))
        start += size
    return max(sums)


@given(weights=st.lists(st.integers(0, 30), min_size=1, max_size=9), parts=st.integers(1, 9))
def test_balance_is_the_best_of_all_cuts(weights, parts):
    if parts > len(weights):
        with pytest.raises(Impossible):
            balance(weights, parts)
        return
    found = balance(weights, parts)
    assert sum(found) == len(weights)
    assert min(found) >= 1
    assert heaviest(weights, found) == min(heaviest(weights, sizes) for sizes in cuts(len(weights), parts))


@given(
    weights=st.lists(st.integers(1, 9), min_size=2, max_size=7),
    sizes=st.lists(st.integers(1, 9), min_size=7, max_size=7),
    limits=st.lists(st.integers(1, 30), min_size=2, max_size=4),
)
def test_cuts_under_limits_are_the_best_of_those_that_fit(weights, sizes, limits):
    parts = min(len(limits), len(weights))
    limits = limits[:parts]
    memory = StageMemory(lambda stage, start, end: sum(sizes[start:end]), limits)

    def fits(cut: list[int]) -> bool:
        ends = [sum(cut[: k + 1]) for k in range(parts)]
        return all(sum(sizes[e - n : e]) <= m for e, n, m in zip(ends, cut, limits, strict=True))

    possible = [heaviest(weights, cut) for cut in cuts(len(weights), parts) if fits(cut)]
    if possible:
        found = balance_under(weights, parts, memory)
        assert fits(found)
        assert heaviest(weights, found) == min(possible)
    else:
        with pytest.raises(Impossible, match=r"stage \d .* needs .* more"):
            balance_under(weights, parts, memory)


def test_a_smaller_device_gets_fewer_layers():
    memory = StageMemory(lambda stage, start, end: 10.0 * (end - start), [100, 30])
    assert balance([1.0] * 8, 2) == [4, 4]
    assert balance_under([1.0] * 8, 2, memory) == [5, 3]
    with pytest.raises(Impossible, match=r"stage 1 \(8 layers\) needs 50 bytes more"):
        balance_under([1.0] * 16, 2, memory)


# -- optimizers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (Named("sgd"), 0),
        (Named("sgd", {"momentum": 0.9}), 4 * 8200),
        (Named("momentum"), 4 * 8200),
        (Named("adamw"), 8 * 8200),
        (Named("rmsprop"), 4 * 8200),
        (Named("adafactor"), 4 * (100 + 80 + 200)),
        (Named("adam8bit"), 2 * (8000 + 4 * 4) + 8 * 200),
    ],
)
def test_state_of_optimizers(optimizer, expected):
    assert state_bytes(LayerShape("a", tensors=(8000, 200), rows=(100, 200)), optimizer) == expected


def test_an_unknown_optimizer_is_named():
    with pytest.raises(NotForetold, match=r"optimizer 'lion' is not known. Known are .*adafactor"):
        state_bytes(LayerShape("a", tensors=(1,)), Named("lion"))


# -- devices -----------------------------------------------------------------------------------------------------------


def test_one_device_holds_everything(gpt):
    one = device_memory(gpt, Layout(), Work(ADAM, samples=4), CPU).fullest
    size = 4 * gpt.parameters
    assert (one.kinds["parameters"], one.kinds["gradients"], one.kinds["optimizer"]) == (size, size, 2 * size)
    assert one.kinds["activations"] == sum(layer.activation_bytes.at(4) for layer in gpt.layers)
    assert one.allocated_bytes == one.reserved_bytes == one.total_bytes
    # The least that must be there at once, and what that rises by while layers compute.
    counted = sum(one.kinds.values())
    workspace = sum(layer.workspace_bytes.at(4) for layer in gpt.layers)
    assert counted <= one.total_bytes + 1 <= counted + workspace + size


def test_layers_of_the_table_add_up(gpt):
    found = device_memory(gpt, Layout(), Work(ADAM, samples=4), CPU)
    for kind in ("parameters", "gradients", "optimizer", "activations"):
        assert sum(getattr(layer, kind) for layer in found.layers) == found.fullest.kinds[kind]
    assert [layer["name"] for layer in found.to_dict()["layers"]] == [layer.name for layer in gpt.layers]


def test_stages_keep_as_many_stashes_as_their_table_says(gpt):
    def kept(schedule):
        found = device_memory(gpt, Layout(pipeline=4, schedule=schedule), Work(ADAM, samples=1, microbatches=8), CPU)
        return [device.kinds["activations"] for device in found.devices]

    stages = stages_of(gpt, Layout(pipeline=4), Work(ADAM, 1), CPU)
    once = [sum(gpt.layers[k].activation_bytes.at(1) for k in stage) for stage in stages]
    assert kept(schedules.naive) == once
    assert kept(schedules.gpipe) == [8 * size for size in once]
    assert kept(schedules.one_forward_one_backward) == [n * size for n, size in zip((4, 3, 2, 1), once, strict=True)]
    assert kept(schedules.zb_2p) == [7 * size for size in once]


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_a_tied_head_is_held_by_the_stage_of_the_embedding_and_by_its_own(gpt, stages):
    layout = Layout(pipeline=stages, schedule=schedules.one_forward_one_backward if stages > 1 else None)
    devices = device_memory(gpt, layout, Work(ADAM, samples=1, microbatches=4), CPU).devices
    tied = 4 * 50 * 64
    assert sum(device.kinds["parameters"] for device in devices) == gpt.parameter_bytes + (stages > 1) * tied
    assert sum(device.kinds["optimizer"] for device in devices) == 2 * (gpt.parameter_bytes + (stages > 1) * tied)
    assert gpt.shared_by([range(len(gpt.layers))]) == []
    assert gpt.shared_by([[0, 1], [2, 3], [len(gpt.layers) - 1]]) == [((0, 2), 50 * 64)]


def test_a_cut_under_a_limit_counts_what_a_stage_holds_of_another(gpt):
    layout = Layout(pipeline=2, schedule=schedules.one_forward_one_backward)
    work, last = Work(ADAM, samples=1, microbatches=2), len(gpt.layers)
    with_ties = stage_memory(gpt, layout, work, CPU, [2**30] * 2).needs
    untied = replace(gpt, layers=tuple(replace(layer, shared=()) for layer in gpt.layers))
    without = stage_memory(untied, layout, work, CPU, [2**30] * 2).needs
    assert with_ties(1, 4, last) - without(1, 4, last) == 16 * 50 * 64  # weight, gradient and two moments
    assert with_ties(0, 0, last) == without(0, 0, last)


def test_memory_shrinks_with_every_way_of_spreading_it(gpt):
    def total(**changes):
        return device_memory(gpt, Layout(**changes), Work(ADAM, samples=8, microbatches=4), CPU).fullest.total_bytes

    one = total()
    assert total(recompute=True) < one
    assert total(tensor=2) < one
    assert total(data=4, shard="parameters") < one
    assert total(pipeline=2, schedule=schedules.one_forward_one_backward) < one
    assert total(data=4) == one


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_shards_fall_as_one_over_n(gpt, ranks):
    kinds = device_memory(gpt, Layout(data=ranks, shard="parameters"), Work(ADAM, 1), CPU).fullest.kinds
    for kind, copies in (("parameters", 1), ("gradients", 1), ("optimizer", 2)):
        assert kinds[kind] * ranks == pytest.approx(copies * 4 * gpt.parameters, rel=0.02)
    assert kinds["gathered"] > 0


def test_gradients_that_stay_cost_memory_where_activations_are_at_their_most(gpt):
    stay, fresh = (
        device_memory(gpt, Layout(), Work(ADAM, 16, gradients_stay=stays), CPU).fullest.total_bytes
        for stays in (True, False)
    )
    assert 0 < stay - fresh <= 4 * gpt.parameters


def test_a_shape_without_a_timeline_is_counted_with_its_workspace():
    layers = tuple(
        LayerShape(f"l{k}", (1000,), activation_bytes=Linear(10, 100), workspace_bytes=Linear(0, 7)) for k in range(3)
    )
    one = device_memory(ModelShape(layers), Layout(), Work(Named("sgd"), samples=5)).fullest
    assert one.allocated_bytes == 3 * (8000 + 510) + 35 + CUDA.library_bytes
    kept = round((1 + KEPT_FRACTION) * (3 * 510 + 35))
    assert one.total_bytes == 3 * 8000 + kept + CUDA.library_bytes + CUDA.context_bytes


def test_a_thousand_stashes_are_found_in_no_time(gpt):
    layout = Layout(data=16, pipeline=8, tensor=2, schedule=schedules.one_forward_one_backward)
    found = device_memory(gpt, layout, Work(ADAM, samples=1, microbatches=1024))
    short = device_memory(gpt, layout, Work(ADAM, samples=1, microbatches=64))
    assert found.fullest.total_bytes == short.fullest.total_bytes
    assert len(found.devices) == 8


# -- does it fit -------------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(limit=st.integers(1 * MIB, 120 * MIB), batch=st.sampled_from([12, 16, 30]))
def test_the_largest_micro_batch_fits_and_the_next_one_does_not(gpt, limit, batch):
    work = Work(ADAM, samples=1)
    for divides in (True, False):
        found = largest_micro_batch(gpt, Layout(), work, limit, CPU, batch_size=batch, divides=divides)
        sizes = [n for n in range(1, batch + 1) if not divides or batch % n == 0]
        larger = [n for n in sizes if n > found]
        if found:
            assert found in sizes
            assert not missing_bytes(gpt, Layout(), Work(ADAM, found, -(-batch // found)), limit, CPU)
        if larger:
            assert missing_bytes(gpt, Layout(), Work(ADAM, larger[0], -(-batch // larger[0])), limit, CPU)


def test_a_pipeline_is_cut_so_that_it_fits(gpt):
    layout = Layout(pipeline=2, schedule=schedules.one_forward_one_backward)
    work = Work(ADAM, samples=8, microbatches=4)  # the first stage keeps two micro-batches, the second one
    free = stages_of(gpt, layout, work, CPU)
    needed = device_memory(gpt, layout, work, CPU)
    limit = round(0.9 * max(sum(device.kinds.values()) for device in needed.devices))
    cut = stages_of(gpt, layout, work, CPU, limit_bytes=limit)
    assert cut != free
    assert max(sum(d.kinds.values()) for d in device_memory(gpt, layout, work, CPU, _names(gpt, cut)).devices) <= limit


def _names(shape: ModelShape, stages):
    return [[shape.layers[k].name for k in stage] for stage in stages]


# -- published measurements --------------------------------------------------------------------------------------------

NVML = DeviceConstants(context_bytes=1343 * MIB, library_bytes=0, caching=True, multi_tensor=False)
"""The context is what the source printed for one tiny tensor; torch of its time (January 2022: 1.10) gave cuBLAS a
workspace outside of the allocator, and stepped Adam tensor by tensor."""


@pytest.fixture(scope="module")
def bert() -> dict[str, ModelShape]:
    model, shape = MODELS["bert-large"], DataShape(1, 1, 512, 2, 30522)
    return {
        precision: trace.trace_model(
            lambda: model.build(model.Options(), shape), shape, trace.Rules("cross-entropy", precision, "cuda", True)
        )
        for precision in ("fp32", "amp")
    }


@pytest.mark.parametrize(
    ("precision", "samples", "pieces", "optimizer", "recompute", "measured"),
    [
        ("fp32", 4, 1, "adamw", False, 14949),
        ("fp32", 1, 4, "adamw", False, 8681),
        ("fp32", 1, 4, "adamw", True, 6775),
        ("amp", 4, 1, "adamw", False, 13939),
        ("amp", 1, 4, "adamw", True, 7275),
        ("fp32", 4, 1, "adafactor", False, 12295),
        ("fp32", 4, 1, "adam8bit", False, 13085),
        ("amp", 1, 4, "adafactor", True, 4847),
        ("amp", 1, 4, "adam8bit", True, 5363),
    ],
)
def test_bert_large_takes_what_was_measured(bert, precision, samples, pieces, optimizer, recompute, measured):
    """MiB of a V100 as NVML shows them; source: transformers, docs, perf_train_gpu_one (2022-01)."""
    work = Work(Named(optimizer), samples, pieces)
    found = device_memory(bert[precision], Layout(recompute=recompute), work, NVML).fullest.total_bytes / MIB
    assert found == pytest.approx(measured, rel=0.05)
