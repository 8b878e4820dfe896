"""What a model holds, keeps and computes, layer by layer, found by running it with tensors that have no values.

Source: fake tensors and saved-tensor hooks are torch's (torch._subclasses.fake_tensor, torch.autograd.graph).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.costs.profiles.shape import ModelShape
from harness.costs.tracing.cuda_rules import CudaRules
from harness.costs.tracing.lines import Held, model_shape
from harness.costs.tracing.tensor_cuts import split_shares, tensor_plan
from harness.costs.tracing.watch import AllocationRecorder, Output, Phase, TracedLayers, TracedPass, storage_keys
from harness.workloads.entries import DataShape
from harness.workloads.losses import weighted_loss

BATCH_SIZES = (2, 4)
"""Samples of the two passes that a line is drawn through. Not 1: BatchNorm over a single value is refused."""
TRACED_OF_EQUAL = 3
"""Layers traced of a run of equal ones: the first, the last, and one between equals, which stands for all others."""
CUT_INTO = 2
"""Devices that tensor parallelism is asked about, to see what it divides."""
LOWER = {"bf16": torch.bfloat16, "amp": torch.float16}
"""What autocast computes in, by precision."""
TYPES = {"fp64": torch.float64, "fp16": torch.float16, "mixed": torch.float16}
"""Type of the parameters, where it is not fp32."""


@dataclass(frozen=True)
class Rules:
    """How a pass is run.

    Attributes:
        precision: fp32, fp64, bf16 or amp (autocast), fp16 or mixed (parameters in half precision).
        device: "cuda" or "cpu": whose rules hold for types and masks.
        keeps_softmax_input: trace what torch kept before 1.11, for measurements of that time; with "cuda" only.
    """

    loss: str = "cross-entropy"
    precision: str = "fp32"
    device: str = "cpu"
    keeps_softmax_input: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return TYPES.get(self.precision, torch.float32)

    def casting(self) -> AbstractContextManager[object]:
        """Return the context that forward passes run in."""
        lower = LOWER.get(self.precision)
        if self.device == "cuda":
            return CudaRules(lower, self.keeps_softmax_input)
        context: AbstractContextManager[object] = torch.autocast(
            "cpu", dtype=lower or torch.bfloat16, enabled=lower is not None
        )
        return context


def trace_model(build: Callable[[], nn.Module], shape: DataShape, rules: Rules | None = None) -> ModelShape:
    """Trace a model that is built on the spot; no memory is allocated for its tensors.

    A model that needs values (a user's own that looks at them, say) is run with real ones instead.

    Args:
        build: makes the module; called where tensors are fake.
        shape: of one sample.
        rules: how it is run; default: in single precision on CPU.
    """
    rules = rules or Rules()
    with torch.random.fork_rng(devices=[]):
        try:
            with FakeTensorMode():
                return _trace(build(), shape, rules, "fake tensors")
        except (
            RuntimeError,
            TypeError,
            AssertionError,
        ):  # what fake tensors raise; what is wrong with the model itself
            # is raised again
            return _trace(build(), shape, rules, "real tensors")


def _trace(module: nn.Module, shape: DataShape, rules: Rules, how: str) -> ModelShape:
    module.train()
    _convert(module, rules.dtype)
    runs = [_run(module, _batch(shape, samples, rules.dtype), rules) for samples in BATCH_SIZES]
    origin = f"traced with {how} by the rules of {rules.device} in {rules.precision}"
    shares = split_shares(module, tensor_plan(module, CUT_INTO))
    held = [_held(layer, shares.get(name, 0.0)) for name, layer in named_layers(module)]
    return model_shape(held, runs, rules.dtype.itemsize, origin)


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Do what `Module.to` does; that one swaps tensors in place, which fake ones refuse."""
    converted: dict[int, nn.Parameter] = {}  # a parameter that two layers share stays one
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.is_floating_point() and parameter.dtype != dtype:
                made = nn.Parameter(parameter.detach().to(dtype), parameter.requires_grad)
                setattr(part, name, converted.setdefault(id(parameter), made))
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(part, name, buffer.to(dtype))


def named_layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return what a pipeline may cut between; a model that is no `nn.Sequential` is one layer."""
    return list(module.named_children()) if isinstance(module, nn.Sequential) else [("model", module)]


def _held(layer: nn.Module, split: float) -> Held:
    """Return what a layer holds whatever its input."""
    trainable = [p for p in layer.parameters() if p.requires_grad]
    fixed = [*layer.buffers(), *(p for p in layer.parameters() if not p.requires_grad)]
    return Held(
        tensors=tuple(p.numel() for p in trainable),
        rows=tuple(p.shape[0] if p.dim() else 1 for p in trainable),
        buffers_bytes=sum(t.numel() * t.element_size() for t in fixed),
        split=split,
    )


def _cut_layers(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    parts = dict(module.named_modules())
    for name, cut in tensor_plan(module, CUT_INTO).items():
        yield parts[name], cut


def _batch(shape: DataShape, samples: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    targets = torch.zeros((samples, shape.width) if shape.labels_per_token else samples, dtype=torch.int64)
    if shape.vocabulary:
        return torch.zeros(samples, shape.width, dtype=torch.int64), targets
    return torch.zeros(samples, shape.channels, shape.height, shape.width, dtype=dtype), targets


def _run(module: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], rules: Rules) -> TracedPass:
    """Run one forward and backward pass and return what was seen."""
    inputs, targets = batch
    parameters = list(module.parameters())
    recorder = AllocationRecorder(storage_keys((*parameters, *module.buffers(), *batch)), storage_keys(parameters))
    hooks = torch.autograd.graph.saved_tensors_hooks(recorder.pack, lambda tensor: tensor)
    with recorder:
        with _watching_cuts(module, recorder), hooks, rules.casting():
            outputs, layers = _forward(module, inputs, recorder)
            loss = weighted_loss(rules.loss)(outputs, targets, 1.0 / len(targets))
        recorder.phase = Phase(max(layers.stands_for), True)
        loss.backward()  # type: ignore[no-untyped-call]
    run = recorder.run(inputs, layers, [p.grad for p in parameters if p.grad is not None])
    for parameter in parameters:
        parameter.grad = None
    return run


def _forward(
    module: nn.Module, values: torch.Tensor, recorder: AllocationRecorder
) -> tuple[torch.Tensor, TracedLayers]:
    """Pass layer by layer; of a run of equal layers that keep their input's shape only some."""
    names: list[str] = []
    stands_for: list[int] = []
    outputs: list[Output] = []
    for group in _equal_runs(module):
        stable, middle = True, 0
        for place, (name, layer) in enumerate(group):
            names.append(name)
            if stable and TRACED_OF_EQUAL - 2 < place < len(group) - 1:
                stands_for.append(middle)
                continue
            before, recorder.phase = values.shape, Phase(len(outputs), False)
            values = layer(values)
            stable = stable and values.shape == before
            if values.requires_grad:
                values.register_hook(recorder.entering(Phase(len(outputs), True)))
            middle = len(outputs) if place == 1 else middle
            stands_for.append(len(outputs))
            outputs.append(Output(recorder.number_of(values), values.numel() * values.element_size()))
    return values, TracedLayers(tuple(names), tuple(stands_for), tuple(outputs))


def _equal_runs(module: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """Yield neighbouring layers that are equal but for their values."""
    for _, group in itertools.groupby(named_layers(module), key=lambda item: _signature(item[1])):
        yield list(group)


def _signature(layer: nn.Module) -> tuple[object, ...]:
    """Return all that decides what a layer does to tensors, their values left out."""
    tensors = [
        (name, t.shape, t.dtype, t.requires_grad) for name, t in (*layer.named_parameters(), *layer.named_buffers())
    ]
    return (tuple(tensors), *((name, type(part), _plain(part)) for name, part in layer.named_modules()))


def _plain(part: nn.Module) -> tuple[tuple[str, str], ...]:
    return tuple((key, repr(value)) for key, value in vars(part).items() if not key.startswith("_"))


@contextmanager
def _watching_cuts(module: nn.Module, recorder: AllocationRecorder) -> Iterator[None]:
    """Tell the recorder when values are divided: between a layer cut by outputs and one cut by inputs."""

    def enter(value: bool) -> Callable[..., None]:
        def divide(*_: object) -> None:
            recorder.divided = value

        return divide

    hooks = [part.register_forward_hook(enter(cut == "colwise")) for part, cut in _cut_layers(module)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
