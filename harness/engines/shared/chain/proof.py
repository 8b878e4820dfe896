"""One step of the stages against one of the whole model: a cut that differs is refused before training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from harness.core.errors import Impossible, words_of_error
from harness.engines.processes.foreign import lacks_memory
from harness.engines.shared.chain.chain_stage import ChainSlice, ChainStage, SeedOf
from harness.engines.shared.chain.events import Args, Chain, Forward, Intercepted, Kwargs, watched
from harness.engines.shared.chain.needs import keywords
from harness.engines.shared.chain.try_on import LossOf
from harness.workloads.batches import Inputs, as_written, call, outputs_of
from harness.workloads.generators import generator_states

TOLERANCE = {"fp64": 1e-9, "fp32": 1e-4, "bf16": 3e-2}
"""Largest difference of a tensor relative to its largest number, by precision. Chosen: cuts of 40 models that were
right differed by at most 3e-7 in fp32, those that were wrong by 0.3 and more."""
FLOOR = 1e-3
"""A gradient is compared relative to no less than this share of the model's largest: below it rounding decides."""
NUDGE = 0.02
"""Standard deviation of what is added to parameters for the proof: a head of zeros would make every gradient behind it
zero, and prove nothing. Chosen: as large as weights of transformers at the start."""

Build = Callable[[], nn.Module]
"""Makes the whole model anew, with the same initial values each time, where it is to be trained."""


@dataclass
class Step:
    """What one step without an update leaves behind, by names of the whole model."""

    loss: torch.Tensor
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    buffers: dict[str, torch.Tensor] = field(default_factory=dict)


def prove(
    build: Build,
    chain: Chain,
    cuts: Sequence[ChainSlice],
    inputs: Inputs,
    loss: LossOf,
    precision: str,
    seed_of: SeedOf | None = None,
) -> None:
    """Compare loss, gradients and buffers of a step through all stages with the whole model's.

    Args:
        inputs: a micro-batch, of other samples than the survey's: what a stage only remembers then differs.
        seed_of: seeds of events where the model draws random numbers.

    Raises:
        Impossible: the step differs, or a stage fails; the message names what and by how much.
    """
    nudges = torch.Generator().manual_seed(0)
    model = nudged(build(), nudges)
    values = {name: tensor.detach().clone() for name, tensor in _named_tensors(model).items()}
    whole = _whole_step(model, chain, inputs, loss, seed_of)
    with stages_tried():
        staged = _staged_step(build, values, chain, cuts, inputs, loss, seed_of)
    difference = largest_difference(whole, staged, TOLERANCE[precision])
    if difference:
        raise Impossible(
            f"a step of the model cut into {len(cuts)} stages was compared with one of the whole model: {difference}. "
            f"{CUT_ADVICE}"
        )


CUT_ADVICE = (
    "Something between the blocks keeps a state of its own or changes what it is given. Let blocks return what "
    "they compute, or keep the model whole: sync-ddp, fsdp"
)


@contextmanager
def stages_tried() -> Iterator[None]:
    """Run stages on trial: what the model's own code raises where a block is stood in for says that it cannot be cut.

    Raises:
        Impossible: it raised something.
    """
    try:
        yield
    except Impossible:
        raise
    except Exception as error:
        if lacks_memory(error):
            raise
        raise Impossible(
            "a stage of the model was tried without the others and failed: "
            f"{type(error).__name__}: {words_of_error(error)}. "
            f"{CUT_ADVICE}"
        ) from error


def nudged(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Move every parameter a little, in their order."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.add_(NUDGE * noise.to(parameter))
    return model


def _named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _whole_step(model: nn.Module, chain: Chain, inputs: Inputs, loss: LossOf, seed_of: SeedOf | None) -> Step:
    """Run the plain model; one that draws runs as a single stage, whose draws are those of any number of stages."""
    if seed_of is None:
        with as_written():
            value = loss(outputs_of(call(model, inputs)))
    else:
        stage = ChainStage(
            model, chain, ChainSlice(0, len(chain.events), (), (), frozenset()), isinstance(inputs, dict)
        )
        stage.seed_of = seed_of
        value = loss(stage(**keywords(inputs)))
    with _refusing_other_draws(model, chain, seed_of):
        value.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return Step(value.detach(), gradients, dict(model.named_buffers()))


@contextmanager
def _refusing_other_draws(model: nn.Module, chain: Chain, seed_of: SeedOf | None) -> Iterator[None]:
    """Refuse a block that draws and is called in the backward pass, where nothing tells which call is done again.

    A checkpoint inside a block finds the generators as that block found them. One around a block finds them as the
    model had them, and would draw other numbers than the stage has drawn.

    Raises:
        Impossible: there is one.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    drawing: list[str] = []

    def note(name: str, forward: Forward, args: Args, kwargs: Kwargs) -> object:
        before = generator_states(device)
        try:
            return forward(*args, **kwargs)
        finally:  # torch ends a second pass by an error as soon as it has what it needs
            drawing.extend([name] if generator_states(device) != before else [])

    if seed_of is None:
        yield
        return
    with Intercepted(model, watched(model, chain.names), note):
        yield
    if drawing:
        raise Impossible(
            f"{drawing[0]} draws random numbers and is called through torch.utils.checkpoint, so that a pipeline would "
            "draw other numbers in the backward pass. Call checkpoint inside of the block's own forward, or leave it "
            "out and set recompute = true in the strategy's options"
        )


def _staged_step(
    build: Build,
    values: dict[str, torch.Tensor],
    chain: Chain,
    cuts: Sequence[ChainSlice],
    inputs: Inputs,
    loss: LossOf,
    seed_of: SeedOf | None,
) -> Step:
    stages = []
    for cut in cuts:
        stage = ChainStage(_filled(build(), values), chain, cut, isinstance(inputs, dict))
        stage.let_go()
        stage.seed_of = seed_of
        stages.append(stage)
    step = Step(pass_through(stages, inputs, loss))
    step.gradients = summed_gradients([stage.kept() for stage in stages])
    step.buffers = assembled_buffers(stages)
    return step


def _filled(model: nn.Module, values: dict[str, torch.Tensor]) -> nn.Module:
    with torch.no_grad():
        for name, tensor in _named_tensors(model).items():
            tensor.copy_(values[name])
    return model


def pass_through(stages: Sequence[nn.Module], inputs: Inputs, loss: LossOf) -> torch.Tensor:
    """Pass one micro-batch there and back, as a pipeline does: stages know only what they send each other."""
    sent: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = []
    received: list[torch.Tensor] = []
    for stage in stages[:-1]:
        outputs = list(stage(*received, **keywords(inputs)))
        sent.append((received, outputs))
        received = [t.detach().clone().requires_grad_(t.requires_grad) for t in outputs]
    value = loss(stages[-1](*received, **keywords(inputs)))
    value.backward()  # type: ignore[no-untyped-call]
    for before, outputs in reversed(sent):
        pairs = [(t, r.grad) for t, r in zip(outputs, received, strict=True) if t.requires_grad and r.grad is not None]
        if pairs:
            torch.autograd.backward([t for t, _ in pairs], [gradient for _, gradient in pairs])
        received = before
    return value.detach()


def summed_gradients(kept: Sequence[Mapping[str, nn.Parameter]]) -> dict[str, torch.Tensor]:
    """Return the gradients of what stages hold by name; several stages may hold a parameter."""
    found: dict[str, torch.Tensor] = {}
    for held in kept:
        for name, parameter in held.items():
            if parameter.grad is not None:
                found[name] = found[name] + parameter.grad if name in found else parameter.grad
    return found


def assembled_buffers(stages: Sequence[ChainStage]) -> dict[str, torch.Tensor]:
    """Return the buffers of the whole model: a block's from the stage that calls it, others from the last stage."""
    found = dict(stages[-1].model.named_buffers())
    for stage in stages:
        owned = own_buffers(stage)
        found.update({name: buffer for name, buffer in stage.model.named_buffers() if name in owned})
    return found


def own_buffers(stage: ChainStage) -> set[str]:
    """Return the names of the buffers inside of a stage's blocks; a block of two stages is the later one's."""
    own = {id(b) for block in stage.own_blocks() for b in block.buffers()}
    return {name for name, b in stage.model.named_buffers() if id(b) in own}


def largest_difference(whole: Step, staged: Step, tolerance: float) -> str:
    """Say what differs most, or nothing."""
    largest = max((float(g.abs().max()) for g in whole.gradients.values() if g.numel()), default=0.0)
    found = [(_relative(whole.loss, staged.loss, 0.0), "the loss")]
    for name, gradient in whole.gradients.items():
        other = staged.gradients.get(name)
        apart = 1.0 if other is None else _relative(gradient, other, FLOOR * largest)
        found.append((apart, f"the gradient of {name}"))
    for name, gradient in staged.gradients.items():
        if name not in whole.gradients and bool(gradient.any()):
            found.append((1.0, f"the gradient of {name}"))
    for name, buffer in whole.buffers.items():
        found.append((_relative(buffer, staged.buffers[name], 0.0), f"the buffer {name}"))
    apart, what = max(found)
    if apart <= tolerance:
        return ""
    return f"{what} is not a number there" if apart == math.inf else f"{what} differs by {apart:.1%}"


def _relative(expected: torch.Tensor, got: torch.Tensor, floor: float) -> float:
    """Return the largest difference relative to the largest number; infinite where only one is not a number."""
    if expected.numel() == 0:
        return 0.0
    if expected.shape != got.shape:
        return math.inf
    a, b = (_real(tensor.detach()) for tensor in (expected, got))
    apart = torch.where(a == b, 0.0, (a - b).abs())  # equal infinities are equal
    apart = torch.where(a.isnan() & b.isnan(), 0.0, apart)
    if bool(apart.isnan().any()):
        return math.inf
    scale = max(float(a[a.isfinite()].abs().max()) if bool(a.isfinite().any()) else 0.0, floor)
    return float(apart.max()) / scale if scale else float(apart.max())


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).to(torch.float64)
