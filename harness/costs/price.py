"""What a simulated cell will come to, as far as its costs are known before it runs. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from harness.core.cell import LARGEST
from harness.core.errors import HarnessError, Impossible
from harness.core.units import SECONDS_PER_HOUR
from harness.costs.cells.find import cluster_of, profile_of
from harness.costs.cells.kept import find_shape, size_of, why_not_known
from harness.costs.cells.utilised import tokens_per_sample
from harness.costs.memory.fit import (
    counted_of,
    layout_of,
    memory_of,
    memory_verdict,
    placement_of,
    resolve_largest,
)
from harness.costs.profiles.constants import PUBLISHED, Constants
from harness.costs.steps.stated import step_errors
from harness.costs.steps.step import optimizer_s, step_cost
from harness.workloads.entries import DatasetSize, training_size

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.core.cell import Cell
    from harness.core.not_known import NotKnown
    from harness.core.uncertainty import StepErrors
    from harness.costs.profiles.cluster_figures import Cluster
    from harness.costs.profiles.device_profile import Profile
    from harness.costs.profiles.shape import ModelShape
    from harness.costs.steps.result import StepCost


@dataclass(frozen=True)
class Prediction:
    """What is known of a cell; None where it is not.

    Attributes:
        step_time_s: of one update, the optimizer included.
        throughput_tokens_per_s: where the data are tokens.
        training_s: of the whole cell on its own clock, where no target ends it before.
        tensor_bytes: most at once, counted on the fullest device as results count them.
        dram_bytes: that device must have: what its allocator and its driver hold too.
        micro_batch_size: where the cell asked for the largest that fits.
        cost: of the whole cell, in the cell's currency.
        error: relative uncertainty of the step's time, one standard deviation.
        text: where compute times are from.
        reason: why there is no time.
        out_of_memory: what is missing, where it does not fit.
        not_possible: why the strategy cannot do it with this model.
        profile: what each layer holds and takes.
    """

    step_time_s: float | None = None
    throughput_samples_per_s: float | None = None
    throughput_tokens_per_s: float | None = None
    training_s: float | None = None
    tensor_bytes: float | None = None
    dram_bytes: float | None = None
    micro_batch_size: int | None = None
    cost: float | None = None
    error: float = 0.0
    text: str = ""
    reason: str = ""
    out_of_memory: str = ""
    not_possible: str = ""
    profile: Profile | None = None


def price(cell: Cell, host: Host) -> Prediction:
    """Return what a simulated cell's step takes and needs, or why nobody can say yet."""
    if cell.engine != "virtual" or cell.not_possible:
        return Prediction(reason="it runs on this machine")
    if cell.faults:
        return Prediction(reason="its faults are random; run it to find out")
    if cell.workers > 1 or cell.servers:
        return Prediction(reason="it depends on how workers communicate; run it to find out")
    if reduces(cell, host):
        return Prediction(reason="it depends on how its replicas exchange gradients; run it to find out")
    try:
        return _priced(cell, host)
    except Impossible as error:
        return Prediction(reason=str(error), not_possible=str(error))
    except HarnessError as error:
        return Prediction(reason=str(error))


def reduces(cell: Cell, host: Host) -> bool:
    """Whether a program of the strategy's own exchanges gradients, so that only running it tells what a step takes."""
    return layout_of(cell, host).reduce is not None


def _priced(cell: Cell, host: Host) -> Prediction:
    layout, shape = layout_of(cell, host), find_shape(cell, host)
    why = why_not_known(cell, host) if shape is None else None
    if why is not None and cell.cluster.device is not None:
        return Prediction(reason=f"{cell.workload.model.name}: its layers are not known. {why.reason}")
    profile, cluster = profile_of(cell, shape), cluster_of(cell)
    found = _in_memory(cell, host, profile.shape)
    if not found.micro_batch_size or found.out_of_memory:
        return found
    placed = replace(cell, micro_batch_size=found.micro_batch_size)
    cost = _gradient(placed, host, profile, cluster)
    errors = step_errors(profile, cluster, layout, cell.gpus)
    timed = _timed(cell, cost, optimizer_s(profile, cluster, layout), (profile, errors), found, steps_of(cell, host))
    tokens, rate = tokens_per_sample(cell, host), timed.throughput_samples_per_s
    return replace(timed, throughput_tokens_per_s=tokens * rate) if tokens and rate else timed


class PricedStep(NamedTuple):
    """What an update takes.

    Attributes:
        error: how far its seconds may be off, relative, one standard deviation.
        bubble_fraction: share of its gradient in which a pipeline's devices do not compute; None without a pipeline.
    """

    seconds: float
    error: float
    bubble_fraction: float | None = None


def priced_step(
    cell: Cell, host: Host, shape: ModelShape | NotKnown | None = None, overheads: Constants = PUBLISHED
) -> PricedStep:
    """Return what an update of one worker takes, whether or not it fits into memory.

    Args:
        overheads: what no data sheet says of devices elsewhere.

    Raises:
        HarnessError: what is known of the cell is not enough to tell how long anything takes.
    """
    profile, cluster, layout = profile_of(cell, shape), cluster_of(cell, overheads), layout_of(cell, host)
    cost, update_s = _gradient(cell, host, profile, cluster), optimizer_s(profile, cluster, layout)
    errors = step_errors(profile, cluster, layout, cell.gpus)
    return PricedStep(cost.total_s + update_s, _error(errors, cost, update_s), cost.bubble_fraction)


def _gradient(cell: Cell, host: Host, profile: Profile, cluster: Cluster) -> StepCost:
    placement = placement_of(cell, host, profile.shape)
    return step_cost(profile, cluster, layout_of(cell, host), cell.global_batch_size, cell.micro_batch_size, placement)


def _error(errors: StepErrors, cost: StepCost, update_s: float) -> float:
    own_s = cost.input_s + cost.compute_s + cost.host_s + update_s
    return errors.of(own_s, cost.communication_s, cost.idle_s)


def _in_memory(cell: Cell, host: Host, shape: ModelShape) -> Prediction:
    """Return the micro-batch and the bytes that it needs, or why it does not fit."""
    if not shape.activations_known:
        if cell.micro_batch_size == LARGEST:
            return Prediction(
                reason="the largest micro-batch is not known: workload.model does not give its activations"
            )
        return Prediction(micro_batch_size=cell.micro_batch_size)
    cell = resolve_largest(cell, host, shape)
    verdict = memory_verdict(cell, host, shape) or ""
    return Prediction(
        micro_batch_size=cell.micro_batch_size,
        tensor_bytes=counted_of(cell, host, shape).peak_bytes,
        dram_bytes=memory_of(cell, host, shape).fullest.total_bytes,
        out_of_memory=verdict,
        reason=verdict,
    )


def _timed(
    cell: Cell,
    cost: StepCost,
    update_s: float,
    origin: tuple[Profile, StepErrors],
    memory: Prediction,
    steps: int | None,
) -> Prediction:
    seconds = cost.total_s + update_s
    profile, errors = origin
    return replace(
        memory,
        step_time_s=seconds,
        throughput_samples_per_s=cell.global_batch_size / seconds,
        training_s=None if steps is None else steps * seconds,
        cost=_money(cell, seconds, steps),
        error=_error(errors, cost, update_s),
        text=profile.text,
        profile=profile,
    )


def _money(cell: Cell, step_time_s: float, steps: int | None) -> float | None:
    if cell.per_gpu_hour is None or steps is None:
        return None
    return cell.gpus * cell.per_gpu_hour * steps * step_time_s / SECONDS_PER_HOUR


def steps_of(cell: Cell, host: Host) -> int | None:
    """Return how many updates a cell makes at most; None where only running it tells."""
    limits = [cell.goal.max_steps] if cell.goal.max_steps else []
    if cell.goal.max_epochs and not cell.timing_only:
        size = _size(cell, host)
        if size is not None:
            samples = cell.goal.max_epochs * training_size(size.num_train, cell.goal.validation_fraction)
            limits.append(max(1, round(samples / cell.global_batch_size)))
    return min(limits, default=None)


def _size(cell: Cell, host: Host) -> DatasetSize | None:
    try:
        return size_of(cell, host)
    except (HarnessError, OSError):
        return None  # running the cell words it
