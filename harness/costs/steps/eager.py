"""What an eager framework makes of a traced model on a data sheet's device: kernel by kernel, one after another.

Assumed, of every model alike:

- Each tensor that a pass makes is the work of one kernel, which moves it twice: it is written once and read once.
- Matrix products and the kernels between them do not overlap; a product is bound by its arithmetic or by its weights.
- Every kernel takes its launch and then its work: a start-up time beside a rate (Hockney 1982, "Characterization of
  Parallel Computers and Algorithms"). Launches that large kernels would hide count little beside them.
- Gradients stay where they are: a step zeroes them, and every micro-batch adds to them.
- Optimizers step tensor by tensor, with one kernel an operation of their source text.
- How matrices of different sizes fill a device is left out, and so is whatever happens before the second step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from harness.costs.catalogue.devices import ARITHMETIC, ESTIMATE_ERROR, MEMORY_EFFICIENCY, Device
from harness.costs.memory.states import QUANTISED_FROM
from harness.costs.profiles.allocations import Event
from harness.costs.profiles.device_profile import LayerTime, Profile
from harness.costs.profiles.shape import LayerShape, ModelShape

PRODUCT_EFFICIENCY = {"vector": 0.85, "matrix": 0.74}
"""Share of the peak that a large matrix product alone reaches.

Source: Markidis et al. 2018, "NVIDIA Tensor Core Programmability, Performance and Precision", abstract: 83 Tflops/s on
a V100 of 112 with half-precision inputs, seven times the rate in single precision, 11.9 of 14.
"""

TRANSFERS_PER_TENSOR = 2
"""Every tensor is written once and read once; what is read twice and what products hide about cancel. Chosen."""


class Update(NamedTuple):
    """One optimizer step on one parameter tensor.

    Attributes:
        kernels: launched.
        transfers: of 4 bytes for each scalar.
    """

    kernels: int
    transfers: float


UPDATES: Mapping[str, Update] = {
    "none": Update(0, 0),
    "sgd": Update(1, 3),
    "momentum": Update(3, 8),
    "adagrad": Update(4, 11),
    "rmsprop": Update(5, 13),
    "adam": Update(8, 20),
    "adamw": Update(9, 22),
    "adafactor": Update(16, 19),
    "adam8bit": Update(1, 4),
}
"""Source: torch.optim, the single-tensor functions, without weight decay but for adamw; Adafactor of a vector, as in
transformers.optimization (v4.20); Dettmers et al. 2022, "8-bit Optimizers", section 2: one fused kernel."""

FACTORED = Update(24, 21)
"""Adafactor of a matrix. Source: as above."""

_SMALL_8BIT = Update(1, 7)
"""Tensors whose states stay in single precision: weight, gradient and two states read, all but the gradient written."""

_SCALAR_BYTES = 4
_UNSCALED = Update(1, 2)
"""Under a dynamic loss scale gradients are divided by it before the update. Source: Micikevicius et al. 2018, section
3.2; torch.cuda.amp.GradScaler.unscale_."""
_ZEROED = Update(1, 1)
_ACCUMULATED = Update(1, 3)


def eager_profile(shape: ModelShape, device: Device, precision: str, samples: float, optimizer: str) -> Profile:
    """Return how long a traced model computes at one number of samples; at others in proportion.

    Args:
        shape: traced for the precision.
        samples: of one micro-batch.
        optimizer: one of `UPDATES`.

    Raises:
        ValueError: the shape was not traced, or nothing is known of the optimizer.
    """
    timeline = shape.timeline
    if timeline is None:
        raise ValueError("this model was not traced, so the tensors of its passes are not known")
    if optimizer not in UPDATES:
        raise ValueError(f"the steps of optimizer {optimizer!r} are not known; write one of {', '.join(UPDATES)}")
    speeds = _Speeds.of(device, precision)
    times = tuple(
        LayerTime.at(
            samples,
            _forward_s(layer, timeline.of(k).forward, speeds, samples),
            _backward_s(layer, timeline.of(k).backward, speeds, samples),
        )
        for k, layer in enumerate(shape.layers)
    )
    return Profile(
        shape,
        times,
        optimizer_s=_optimizer_s(shape, speeds, optimizer, precision),
        memory_bandwidth_bytes_per_s=speeds.bandwidth,
        origin="estimated",
        text=f"estimated kernel by kernel from the data sheet of {device.name}, {precision}",
        error=ESTIMATE_ERROR,
    )


class _Speeds(NamedTuple):
    """Of a device in one precision."""

    flops_per_s: float
    bandwidth: float
    launch_s: float

    @classmethod
    def of(cls, device: Device, precision: str) -> _Speeds:
        # A device without the precision computes in single precision.
        named = ARITHMETIC.get(precision, precision)
        found = named if named in device.peak_flops_per_s else "fp32"
        share = PRODUCT_EFFICIENCY["matrix" if found in device.matrix else "vector"]
        bandwidth = device.memory_bandwidth_bytes_per_s * MEMORY_EFFICIENCY
        return cls(device.peak_flops_per_s[found] * share, bandwidth, device.launch_s)

    def seconds(self, product_s: float, num_bytes: float, kernels: int) -> float:
        """Return the time of so many kernels one after another."""
        return product_s + num_bytes / self.bandwidth + kernels * self.launch_s


def _forward_s(layer: LayerShape, events: tuple[Event, ...], speeds: _Speeds, samples: float) -> float:
    num_bytes, kernels = _made(events, samples)
    return speeds.seconds(_product_s(layer, speeds, samples), num_bytes, kernels)


def _backward_s(layer: LayerShape, events: tuple[Event, ...], speeds: _Speeds, samples: float) -> float:
    """Return two products for each one of the forward pass, and gradients added to those of earlier micro-batches."""
    num_bytes, kernels = _made(events, samples)
    num_bytes += _ACCUMULATED.transfers * _SCALAR_BYTES * layer.parameters
    kernels += _ACCUMULATED.kernels * len(layer.tensors)
    return speeds.seconds(2 * _product_s(layer, speeds, samples), num_bytes, kernels)


def _product_s(layer: LayerShape, speeds: _Speeds, samples: float) -> float:
    flops = layer.forward_flops.at(samples)
    weights = layer.copies_bytes or layer.parameters * _SCALAR_BYTES
    return max(flops / speeds.flops_per_s, weights / speeds.bandwidth) if flops else 0.0


def _made(events: tuple[Event, ...], samples: float) -> tuple[float, int]:
    """Return the bytes that a pass moves for the tensors it makes, and their number."""
    made = [event.fixed + event.per_sample * samples for event in events if event.kind != "free"]
    return TRANSFERS_PER_TENSOR * sum(made), len(made)


def _optimizer_s(shape: ModelShape, speeds: _Speeds, optimizer: str, precision: str) -> float:
    if optimizer == "none":
        return 0.0
    beside = [_ZEROED, *([_UNSCALED] if precision in ("amp", "fp16", "mixed") else [])]
    num_bytes, kernels = 0.0, 0
    for layer in shape.layers:
        rows = layer.rows if len(layer.rows) == len(layer.tensors) else layer.tensors
        for size, first in zip(layer.tensors, rows, strict=True):
            steps = (_update(optimizer, size, first), *beside)
            num_bytes += sum(step.transfers for step in steps) * _SCALAR_BYTES * size
            kernels += sum(step.kernels for step in steps)
    return speeds.seconds(0.0, num_bytes, kernels)


def _update(optimizer: str, size: int, rows: int) -> Update:
    if optimizer == "adafactor" and rows not in (0, 1, size):
        return FACTORED
    if optimizer == "adam8bit" and size < QUANTISED_FROM:
        return _SMALL_8BIT
    return UPDATES[optimizer]
