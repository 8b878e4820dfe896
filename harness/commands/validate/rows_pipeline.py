"""Rows of models that are cut into stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate

from harness.api.schedules import gpipe, interleaved, naive, one_forward_one_backward
from harness.api.strategy import Layout, Schedule
from harness.commands.validate.case_cluster import row_cluster
from harness.commands.validate.case_layers import FULL_BYTES, GENERIC_OUTPUT_BYTES, published_parts
from harness.commands.validate.case_models import BACKWARD_SHARE, element_bytes, parameter_bytes
from harness.commands.validate.case_systems import Unpredictable, block_of, first_match
from harness.commands.validate.linear import reference_of
from harness.commands.validate.published import SPLIT_STRATEGIES, TableRow, Tables, TomlTable, stated, words_of
from harness.commands.validate.replicated_stages import cut_for, steady_step
from harness.commands.validate.row_times import seconds_of, value_of
from harness.commands.validate.zero_bubble import PassTimes, zero_bubble
from harness.costs.memory import Placement, balance
from harness.costs.profiles import Cluster, Constants, LayerShape, LayerTime, Linear, ModelShape, Profile
from harness.costs.steps import Recompute, StepCost, recomputed_pieces, step_cost

RATES = ("throughput", "throughput_per_gpu", "step_time")

VOCABULARY = 51200
"""Of GPT-2, padded. Source: Shoeybi et al. 2019, "Megatron-LM", section 5.1: a multiple of 128 on each of 8 devices."""

KEPT = {"zb-1p": 1.0, "zb-2p": 2.0}
"""Activations that a device may keep, in those of the first stage of 1F1B. Source: Qi et al. 2023, section 3."""

WEIGHT_MEMORY = 0.4
"""Share of a transformer layer's activations that weights' gradients need: 32 of 34 + 5 as/h bytes per token and unit.

Source: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 4.1; 0.37 to
0.43 for sequences of 1024 tokens.
"""

_SCHEDULES: Mapping[str, Schedule] = {
    "model-split": naive,
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
}


@dataclass(frozen=True)
class StageCut:
    """A model as stages see it.

    Attributes:
        names: of the layers.
        shares: of each layer in the time of a pass forward and back.
        output_bytes: of each layer for one sample.
        sizes: layers of each stage, in the order of the pipeline.
        weight: time of a backward pass for weights, in forward passes; one for inputs takes as long as a forward pass.
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]
    output_bytes: tuple[float, ...]
    sizes: tuple[int, ...]
    weight: float = 1.0

    @property
    def backward_share(self) -> float:
        """Share of the backward pass in a pass forward and back."""
        return (1 + self.weight) / (2 + self.weight)

    @property
    def placement(self) -> Placement:
        """Names of each stage's layers."""
        return names_by_stage(self.names, self.sizes)


def names_by_stage(names: Sequence[str], sizes: Sequence[int]) -> Placement:
    """Return consecutive names in groups of these sizes."""
    ends = accumulate(sizes)
    return tuple(tuple(names[end - size : end]) for size, end in zip(sizes, ends, strict=True))


def even_sizes(layers: int, stages: int) -> list[int]:
    """Return sizes of stages that differ by one layer at most, larger ones first."""
    base, more = divmod(layers, stages)
    return [base + (k < more) for k in range(stages)]


def predict_pipeline(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the prediction for a row of a pipeline: a rate, a time or a bubble.

    Raises:
        Unpredictable: no calibration row, or the schedule has no table.
    """
    reference = _reference(published, row)
    sample_s = _sample_s(published, reference, constants)
    cost = pipeline_step(published, row, sample_s, constants)
    if row.metric == "bubble":
        if cost.bubble_fraction is None:
            raise Unpredictable("one stage has no bubble")
        return cost.bubble_fraction
    return value_of(published, row, cost.total_s)


def _reference(published: Tables, row: TableRow) -> TableRow:
    found = reference_of(row, published.inputs)
    if found is None:
        same = [r for r in published.inputs if (r.table, r.case, r.model) == (row.table, row.case, row.model)]
        found = next((r for r in same if r.metric in RATES), None)
    if found is None:
        raise Unpredictable("no calibration row: a rate of the same model")
    return found


@lru_cache(maxsize=256)
def _sample_s(published: Tables, reference: TableRow, constants: Constants) -> float:
    """Return the seconds that all layers take for one sample, forward and back, so that the reference is met."""
    wanted = seconds_of(published, reference)
    guess = wanted / (reference.batch_per_gpu or 1.0)
    # A step is nearly linear in its computing: the secant through two guesses converges at once.
    before, before_s = 0.0, pipeline_step(published, reference, guess * 1e-6, constants).total_s
    for _ in range(6):
        guess_s = pipeline_step(published, reference, guess, constants).total_s
        if abs(guess_s - before_s) <= 1e-9 * wanted:
            break
        following = guess + (wanted - guess_s) * (guess - before) / (guess_s - before_s)
        before, before_s, guess = guess, guess_s, max(following, 1e-3 * guess)
    return guess


def pipeline_step(published: Tables, row: TableRow, sample_s: float, constants: Constants) -> StepCost:
    """Return the cost of one mini-batch of a row on devices that need `sample_s` for one sample, forward and back.

    Raises:
        Unpredictable: the mini-batch is not stated, or the schedule has no table.
    """
    block = block_of(published, row)
    batch, pieces = row.batch_per_gpu, row.microbatches or 1
    if batch is None:
        raise Unpredictable("the mini-batch is not stated")
    again: Recompute = block.get("recompute", "none")
    if row.strategy == "single" or row.gpus == 1:
        # On a single device the stages follow each other without a message; recomputation is part of the strategy.
        pieces = 1 if row.strategy == "single" else pieces
        count = 0 if row.strategy == "single" else recomputed_pieces(again, pieces)
        return StepCost(batch * sample_s * (1 + (1 - BACKWARD_SHARE) * count / pieces))
    cluster = row_cluster(published, row, constants)
    entry = first_match(block.get("stages", ()), row) or {}
    if block.get("asynchronous") or "replicas" in entry:
        return _steady(published, row, block, cluster, sample_s * batch, constants)
    cut = cut_of(published, row, block, constants)
    profile = _profile(published, row, block, cut, sample_s)
    layout = Layout(pipeline=row.gpus or 1, accumulate=pieces, schedule=schedule_of(row.strategy, block, cut.weight))
    return step_cost(profile, cluster, layout, round(batch), -(-round(batch) // pieces), cut.placement, recompute=again)


def _steady(
    published: Tables,
    row: TableRow,
    block: TomlTable,
    cluster: Cluster,
    batch_s: float,
    constants: Constants,
) -> StepCost:
    entry = first_match(block.get("stages", ()), row) or {}
    replicas = [int(count) for count in entry.get("replicas", ())]
    layers = published_parts(published, row.model)
    if replicas and layers.known and "sizes" not in entry:
        shares = [(1 - BACKWARD_SHARE) * part.forward + BACKWARD_SHARE * part.backward for part in layers.parts]
        sizes, held = cut_for(shares, replicas), [part.parameters for part in layers.parts]
    else:
        cut = cut_of(published, replace(row, gpus=len(replicas) or row.gpus), block, constants)
        shares, sizes, held = list(cut.shares), list(cut.sizes), [1 / len(cut.shares)] * len(cut.shares)
        if layers.known and len(layers.parts) == len(held):
            held = [part.parameters for part in layers.parts]
    ends = list(accumulate(sizes))
    spans = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    num_bytes = parameter_bytes(published, row, block) / FULL_BYTES * element_bytes(row.precision)
    return steady_step(
        cluster,
        [sum(shares[span]) * batch_s for span in spans],
        [sum(held[span]) * num_bytes for span in spans],
        replicas or [1] * len(sizes),
    )


def schedule_of(strategy: str, block: TomlTable, weight: float = 1.0) -> Schedule:
    """Return the schedule that the strategy column names.

    Args:
        weight: time of a backward pass for weights, in forward passes.

    Raises:
        Unpredictable: there is none of that name.
    """
    if strategy not in SPLIT_STRATEGIES:
        raise Unpredictable(f"schedule {strategy!r} is not known; known are {', '.join(SPLIT_STRATEGIES)}")
    return _schedule(strategy, _chunks(block), weight if strategy in KEPT else 1.0)


@lru_cache(maxsize=64)
def _schedule(strategy: str, chunks: int, weight: float) -> Schedule:
    """Return a schedule that remembers its tables: many rows share one."""
    if strategy == "1f1b-interleaved":
        return lru_cache(maxsize=32)(interleaved(chunks))
    if strategy in KEPT:
        # Made for the times that it meets, as its authors do; tables for equal times leave bubbles otherwise.
        return lru_cache(maxsize=32)(zero_bubble(PassTimes(1.0, 1.0, weight), KEPT[strategy], WEIGHT_MEMORY))
    return lru_cache(maxsize=32)(_SCHEDULES[strategy])


def _chunks(block: TomlTable) -> int:
    return int(block.get("chunks_per_stage", 2))


def _profile(published: Tables, row: TableRow, block: TomlTable, cut: StageCut, sample_s: float) -> Profile:
    width = element_bytes(row.precision)
    scalars = round(parameter_bytes(published, row, block) / FULL_BYTES / len(cut.names))
    layers = tuple(
        LayerShape(name, (scalars,), output_bytes=Linear(0.0, size * width / FULL_BYTES))
        for name, size in zip(cut.names, cut.output_bytes, strict=True)
    )
    times = tuple(
        LayerTime.at(1.0, share * sample_s * (1 - cut.backward_share), share * sample_s * cut.backward_share)
        for share in cut.shares
    )
    return Profile(ModelShape(layers, element_bytes=width), times, weight_fraction=cut.weight / (1 + cut.weight))


# -- where the model is cut --------------------------------------------------------------------------------------------


def cut_of(published: Tables, row: TableRow, block: TomlTable, constants: Constants) -> StageCut:
    """Return the model's layers and how many of them each stage holds."""
    stages = row.gpus or 1
    entry = first_match(block.get("stages", ()), row) or {}
    sizes = tuple(int(size) for size in entry.get("sizes", ()))
    transformer = stated(str(published.models.get(row.model, {}).get("name", "")), r"(\d+) layers")
    if transformer and len(sizes) in (0, stages) and (not sizes or sum(sizes) == transformer):
        cut = _transformer(published, row, transformer, sizes, stages, constants)
        return _chunked(cut, stages * _chunks(block)) if row.strategy == "1f1b-interleaved" else cut
    layers = published_parts(published, row.model)
    if layers.known:
        shares = [(1 - BACKWARD_SHARE) * part.forward + BACKWARD_SHARE * part.backward for part in layers.parts]
        # Shares of the time of both passes: the backward pass of a profile is not exactly twice the forward pass.
        held = _unit_sizes(sizes, len(shares), layers.stage_ends) if len(sizes) == stages else None
        ends = held or balance(shares, stages)
        names = tuple(str(k) for k in range(len(shares)))
        return StageCut(names, tuple(shares), tuple(part.output_bytes for part in layers.parts), tuple(ends))
    return _by_hand(stages * (_chunks(block) if row.strategy == "1f1b-interleaved" else 1), constants)


def _transformer(
    published: Tables, row: TableRow, layers: int, sizes: Sequence[int], stages: int, constants: Constants
) -> StageCut:
    """Return blocks between an embedding and a head; the head takes what a cut by hand leaves room for."""
    text = words_of(published, row.model)
    width, tokens = stated(text, r"hidden (\d+)") or 1024, stated(text, r"(\d+) tokens") or 1024
    output = tokens * width * FULL_BYTES
    sizes = sizes or even_sizes(layers, stages)
    room = max(sizes) - sizes[-1]
    head = float(room) if room else VOCABULARY / (12 * width)
    start = float(max(sizes) - sizes[0])
    weights = [start, *[1.0] * layers, head]
    names = ("embedding", *(f"layer {k}" for k in range(layers)), "head")
    shares = tuple(weight / sum(weights) for weight in weights)
    weight = width / (width + constants.weightless_hidden)
    return StageCut(names, shares, (output,) * len(names), (sizes[0] + 1, *sizes[1:-1], sizes[-1] + 1), weight)


def _chunked(cut: StageCut, chunks: int) -> StageCut:
    """Return the same layers in more, smaller stages, which interleaving deals out to the devices in turn."""
    return replace(cut, sizes=tuple(balance(cut.shares, chunks)))


def _unit_sizes(sizes: Sequence[int], lines: int, stage_ends: Sequence[int]) -> list[int] | None:
    """Return the lines of a profile in each stage, from sizes in another unit; None where a stage would be empty.

    A network of residual stages has as many top-level modules as its stem has layers, its stages, and two more; any
    other unit is taken to be spread evenly.
    """
    units = sum(sizes)
    bounds = [round(sum(sizes[: k + 1]) * lines / units) for k in range(len(sizes))]
    if stage_ends and units == stage_ends[0] + len(stage_ends) - 2 + 2:
        tops = [*range(1, stage_ends[0] + 1), *stage_ends[1:-1], lines - 1, lines]
        bounds = [tops[sum(sizes[: k + 1]) - 1] for k in range(len(sizes))]
    found = [end - start for start, end in zip([0, *bounds[:-1]], bounds, strict=True)]
    return found if min(found) > 0 else None


def _by_hand(stages: int, constants: Constants) -> StageCut:
    """Return stages of which nobody knows what their layers take: cut by hand, one of them takes longest."""
    slowest = min(0.9, (1 + constants.imbalance_fraction * (stages.bit_length() - 1)) / stages)
    shares = [(1 - slowest) / (stages - 1)] * stages
    shares[stages // 2] = slowest
    return StageCut(
        tuple(str(k) for k in range(stages)), tuple(shares), (GENERIC_OUTPUT_BYTES,) * stages, (1,) * stages
    )
