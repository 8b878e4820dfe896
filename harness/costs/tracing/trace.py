"""What a model holds, keeps and computes, block by block, found by running it with tensors that have no values.

A trace is advice: where it fails, what it says is not known, and nothing else ends.

Source: fake tensors and saved-tensor hooks are torch's (torch._subclasses.fake_tensor, torch.autograd.graph).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from harness.api.host import describe
from harness.core.errors import HarnessError
from harness.core.not_known import Hurdle, NotKnown
from harness.core.text import Text
from harness.costs.profiles.shape import ModelShape
from harness.costs.tracing.blocks import NamedModules, named_blocks
from harness.costs.tracing.cuda_rules import CudaRules
from harness.costs.tracing.fake_kernels import FakeKernels
from harness.costs.tracing.follow import follow
from harness.costs.tracing.lines import Held, model_shape
from harness.costs.tracing.samples import drawn
from harness.costs.tracing.tensor_cuts import TensorPlan, found_plan, not_plain, split_shares
from harness.costs.tracing.untouched import in_precision, is_lazy, kept_module, make_fake
from harness.costs.tracing.watch import AllocationRecorder, Phase, TracedPass, storage_key, storage_keys
from harness.workloads.batches import Inputs, call, outputs_of, tensors_of
from harness.workloads.entries import LOSSES, DataShape
from harness.workloads.generators import generators_kept
from harness.workloads.losses import weighted_loss

BATCH_SIZES = (2, 4)
"""Samples of the two passes that a line is drawn through. Not 1: BatchNorm over a single value is refused."""
CUT_INTO = 2
"""Devices that tensor parallelism is asked about, to see what it divides."""
LOWER = {"bf16": torch.bfloat16, "amp": torch.float16}
"""What autocast computes in, by precision."""
TYPES = {"fp64": torch.float64, "fp16": torch.float16, "bf16-weights": torch.bfloat16}
"""Type of the parameters, where it is not fp32."""


@dataclass(frozen=True)
class Rules:
    """How a pass is run.

    Attributes:
        precision: fp32, fp64, bf16 or amp (autocast), fp16 or bf16-weights (parameters in half precision).
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


def trace_model(
    build: Callable[[], nn.Module], shape: DataShape, rules: Rules | None = None, files: Sequence[str] = ()
) -> ModelShape | NotKnown:
    """Trace a model that is built on the spot; whatever it raises, the answer is only that nothing is known.

    In this order: built and run without values, so that no memory is allocated for its tensors; built with values
    (a `build` may look at them) and run without; run with values. Random generators are left as they were, and so is
    a module that `build` only hands out.

    Args:
        build: makes the module.
        shape: of one sample.
        rules: how it is run; default: in single precision on CPU.
        files: the user's own, whose lines a reason names.
    """
    rules = rules or Rules()
    with generators_kept(), _silence():
        return _built_without_values(build, shape, rules) or _trace_built(build, shape, rules, files)


@contextmanager
def _silence() -> Iterator[None]:
    """Let nobody warn: a cell will say it itself, about samples that mean something."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _built_without_values(build: Callable[[], nn.Module], shape: DataShape, rules: Rules) -> ModelShape | None:
    """Return what a model says whose tensors never have values; None where it takes values."""
    try:
        with FakeTensorMode(), FakeKernels():
            module = build()
            if not all(isinstance(tensor, FakeTensor) for tensor in (*module.parameters(), *module.buffers())):
                return None  # made before, and only handed out: not to be changed
            return _trace(module, shape, rules, "fake tensors")
    except Exception:  # of any type: it is the model's own code, and torch's under tensors that it never saw
        return None


def _trace_built(
    build: Callable[[], nn.Module], shape: DataShape, rules: Rules, files: Sequence[str]
) -> ModelShape | NotKnown:
    hurdle = Hurdle.BUILD
    try:
        module = build()
        hurdle = Hurdle.STEP
        if is_lazy(module):
            _initialise(module, shape)
        return _without_values(module, shape, rules) or _with_values(module, shape, rules)
    except Exception as error:  # as above; what is wrong with the model itself is raised again when a cell runs it
        reason = str(error) if isinstance(error, HarnessError) else describe(error, files)
        return NotKnown(hurdle, Text(reason))


def _without_values(module: nn.Module, shape: DataShape, rules: Rules) -> ModelShape | None:
    """Return what tensors that lose their values say; None where it takes values."""
    try:
        # What is no parameter and no buffer keeps its values.
        with kept_module(module), FakeTensorMode(allow_non_fake_inputs=True) as mode, FakeKernels():
            make_fake(module, mode)
            return _trace(module, shape, rules, "fake tensors")
    except Exception:  # as in `_built_without_values`
        return None


def _with_values(module: nn.Module, shape: DataShape, rules: Rules) -> ModelShape:
    with kept_module(module):
        return _trace(module, shape, rules, "real tensors")


def _initialise(module: nn.Module, shape: DataShape) -> None:
    """Let a lazy module find its sizes."""
    inputs, _ = drawn(shape, BATCH_SIZES[0], torch.get_default_dtype())
    module.train()
    with torch.no_grad():
        call(module, inputs)


def _trace(module: nn.Module, shape: DataShape, rules: Rules, how: str) -> ModelShape:
    if is_lazy(module):
        _initialise(module, shape)
    module.train()
    in_precision(module, rules.dtype)
    batches = [drawn(shape, samples, rules.dtype) for samples in BATCH_SIZES]
    with rules.casting():
        blocks = named_blocks(module, batches[0][0])
    divisible = not not_plain(module)
    plan = found_plan(module, CUT_INTO) if divisible else {}
    owned = _Owned.of(module, blocks)
    runs = [_run(module, batch, rules, blocks, plan, owned) for batch in batches]
    origin = f"traced with {how} by the rules of {rules.device} in {rules.precision}"
    shares = split_shares(module, plan, blocks)
    places = owned.places()
    held = [
        replace(_held(owned.tensors[number], shares[name]), shared=_shared(block, number, places))
        for number, (name, block) in enumerate(blocks)
    ]
    return replace(model_shape(held, runs, rules.dtype.itemsize, origin), divisible=divisible)


@dataclass
class _Owned:
    """Which layer counts a parameter or a buffer: of several that hold one, the first.

    Attributes:
        tensors: of each layer.
        loose: tensors outside of all layers, by their storage; the first layer that uses one takes it.
    """

    tensors: list[list[torch.Tensor]]
    loose: dict[int, torch.Tensor]

    @classmethod
    def of(cls, module: nn.Module, blocks: NamedModules) -> _Owned:
        """Return what each block holds, and what none holds."""
        seen: set[int] = set()
        tensors = [_new((*block.parameters(), *block.buffers()), seen) for _, block in blocks]
        outside = _new((*module.parameters(), *module.buffers()), seen)
        return cls(tensors, {storage_key(tensor): tensor for tensor in outside})

    def take(self, users: Mapping[int, int]) -> None:
        """Give loose tensors to the layers that used them; what nobody used goes to the first."""
        for key, tensor in self.loose.items():
            self.tensors[users.get(key, 0)].append(tensor)
        self.loose = {}

    def places(self) -> dict[int, tuple[int, int]]:
        """Return of each trainable parameter the layer that counts it, and its number there."""
        trainable = [[t for t in tensors if _is_trained(t)] for tensors in self.tensors]
        return {id(t): (layer, number) for layer, mine in enumerate(trainable) for number, t in enumerate(mine)}


def _shared(block: nn.Module, layer: int, places: Mapping[int, tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return where what a block holds is counted, as far as that is another one."""
    found = [places[id(p)] for p in block.parameters() if id(p) in places]
    return tuple(place for place in found if place[0] != layer)


def _is_trained(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.requires_grad


def _new(tensors: Iterable[torch.Tensor], seen: set[int]) -> list[torch.Tensor]:
    """Return those that were not seen before, and note them."""
    found = [tensor for tensor in tensors if id(tensor) not in seen]
    seen |= {id(tensor) for tensor in found}
    return found


def _held(tensors: Sequence[torch.Tensor], split: float) -> Held:
    """Return what a layer holds whatever its input."""
    trainable = [t for t in tensors if _is_trained(t)]
    fixed = [t for t in tensors if not _is_trained(t)]
    return Held(
        tensors=tuple(p.numel() * (2 if p.is_complex() else 1) for p in trainable),
        rows=tuple(p.shape[0] if p.dim() else 1 for p in trainable),
        buffers_bytes=sum(t.numel() * t.element_size() for t in fixed),
        split=split,
    )


def _run(
    module: nn.Module,
    batch: tuple[Inputs, torch.Tensor],
    rules: Rules,
    blocks: NamedModules,
    plan: TensorPlan,
    owned: _Owned,
) -> TracedPass:
    """Run one forward and backward pass and return what was seen."""
    inputs, targets = batch
    parameters, given = list(module.parameters()), tensors_of(inputs)
    known = storage_keys((*parameters, *module.buffers(), *given, targets))
    recorder = AllocationRecorder(known, storage_keys(parameters), loose=set(owned.loose))
    hooks = torch.autograd.graph.saved_tensors_hooks(recorder.pack, lambda tensor: tensor)
    for parameter in parameters:
        parameter.grad = None
    with recorder:
        with _watching_cuts(module, plan, recorder), hooks, rules.casting():
            run = follow(module, inputs, recorder, blocks)
            loss = _loss(run.result, targets, rules)
        recorder.phase = Phase(run.last, True)
        loss.backward()  # type: ignore[no-untyped-call]
    seen = recorder.run(given, run.layers, [p.grad for p in parameters if p.grad is not None])
    owned.take(recorder.users)
    for parameter in parameters:
        parameter.grad = None
    return seen


def _loss(result: object, targets: torch.Tensor, rules: Rules) -> torch.Tensor:
    outputs = outputs_of(result)
    if rules.loss not in LOSSES:  # the user's own: its tensors are of the outputs' size, as are those of this one
        return _widened(outputs).square().mean()
    return weighted_loss(rules.loss)(outputs, targets, 1.0 / len(targets))


def _widened(outputs: torch.Tensor) -> torch.Tensor:
    return outputs.abs() if outputs.is_complex() else outputs.float()


@contextmanager
def _watching_cuts(module: nn.Module, plan: TensorPlan, recorder: AllocationRecorder) -> Iterator[None]:
    """Tell the recorder when values are divided: between a layer cut by outputs and one cut by inputs."""

    def enter(value: bool) -> Callable[..., None]:
        def divide(*_: object) -> None:
            recorder.divided = value

        return divide

    cuts = [(module.get_submodule(name), cut) for name, cut in plan.items()]
    hooks = [part.register_forward_hook(enter(cut == "colwise")) for part, cut in cuts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
