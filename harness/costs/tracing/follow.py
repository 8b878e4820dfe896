"""Run a model forward and say, as it goes, in which of its blocks it is.

What runs between two blocks belongs to the one before: adding, reshaping, the loss behind the last. What runs before
the first belongs to the first.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from harness.costs.tracing.blocks import NamedModules, is_chain
from harness.costs.tracing.watch import AllocationRecorder, Output, Phase, TracedLayers
from harness.workloads.batches import Inputs, call

TRACED_OF_EQUAL = 3
"""Layers traced of a run of equal ones: the first, the last, and one between equals, which stands for all others."""


class Followed(NamedTuple):
    """A forward pass that was run.

    Attributes:
        result: what the model returned.
        last: number of the traced layer that ran last; what follows, the loss, is part of it.
    """

    result: object
    layers: TracedLayers
    last: int


def follow(module: nn.Module, inputs: Inputs, recorder: AllocationRecorder, blocks: NamedModules) -> Followed:
    """Run a model once, with the recorder told of every block that it enters, forward and later backward."""
    if is_chain(module) and isinstance(inputs, torch.Tensor):
        return _follow_chain(inputs, recorder, blocks)
    marks = _Marks(recorder, blocks)
    with marks.watching():
        result = call(module, inputs)
    return Followed(result, marks.layers(), marks.current)


# -- layer by layer ----------------------------------------------------------------------------------------------------


def _follow_chain(values: object, recorder: AllocationRecorder, layers: NamedModules) -> Followed:
    """Pass layer by layer; of a run of equal layers that keep their input's shape only some."""
    names: list[str] = []
    stands_for: list[int] = []
    outputs: list[Output] = []
    for group in _equal_runs(layers):
        stable, middle = True, 0
        for place, (name, layer) in enumerate(group):
            names.append(name)
            if stable and TRACED_OF_EQUAL - 2 < place < len(group) - 1:
                stands_for.append(middle)
                continue
            before, recorder.phase = _shapes(values), Phase(len(outputs), False)
            values = layer(values)
            stable = stable and _shapes(values) == before
            for tensor in _tensors(values):
                if tensor.requires_grad:
                    tensor.register_hook(recorder.entering(Phase(len(outputs), True)))
            middle = len(outputs) if place == 1 else middle
            stands_for.append(len(outputs))
            outputs.append(_output(values, recorder))
    last = max(stands_for, default=0)
    return Followed(values, TracedLayers(tuple(names), tuple(stands_for), tuple(outputs)), last)


def _equal_runs(layers: NamedModules) -> Iterator[NamedModules]:
    """Yield neighbouring layers that are equal but for their values."""
    for _, group in itertools.groupby(layers, key=lambda item: _signature(item[1])):
        yield list(group)


def _signature(layer: nn.Module) -> tuple[object, ...]:
    """Return all that decides what a layer does to tensors, their values left out."""
    tensors = [
        (name, t.shape, t.dtype, t.requires_grad) for name, t in (*layer.named_parameters(), *layer.named_buffers())
    ]
    return (tuple(tensors), *((name, type(part), _plain(part)) for name, part in layer.named_modules()))


def _plain(part: nn.Module) -> tuple[tuple[str, str], ...]:
    return tuple((key, repr(value)) for key, value in vars(part).items() if not key.startswith("_"))


# -- any module --------------------------------------------------------------------------------------------------------


class _Marks:
    """Hooks on blocks: the recorder's phase follows their calls, and later the way of the gradients back.

    A gradient enters a block through what the block returned, and leaves it through what it was given; between them
    autograd runs the code that ran between the blocks, in reverse. Of a tensor that several blocks are given only the
    first hook counts: it is complete when it reaches the block that made it.

    Attributes:
        current: number of the block that was called last.
    """

    def __init__(self, recorder: AllocationRecorder, blocks: NamedModules) -> None:
        self.recorder, self.blocks = recorder, blocks
        self.current, self.depth = 0, 0
        self.outputs = [Output(None, 0) for _ in blocks]
        self.started = False
        self._marked: dict[int, weakref.ref[torch.Tensor]] = {}
        self._made: dict[int | None, tuple[int, int]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Have the blocks tell of their calls."""
        hooks = []
        for number, (_, block) in enumerate(self.blocks):
            hooks.append(block.register_forward_pre_hook(self._enter(number), with_kwargs=True))
            hooks.append(block.register_forward_hook(self._leave(number), always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def layers(self) -> TracedLayers:
        """Return all blocks, each standing for itself."""
        names = tuple(name for name, _ in self.blocks)
        return TracedLayers(names, tuple(range(len(names))), tuple(self.outputs), repeats=True)

    def _enter(self, number: int) -> Callable[..., None]:
        def enter(_: nn.Module, args: object, kwargs: object) -> None:
            if in_backward():
                return
            self.depth += 1
            if self.depth > 1:
                return
            given = _tensors((args, kwargs))
            if self.started:
                for tensor in given:
                    self._mark(tensor, Phase(self.current, True))
            self._pass_on(number, given)
            self.started, self.current = True, number
            self.recorder.phase = Phase(number, False)

        return enter

    def _leave(self, number: int) -> Callable[..., None]:
        def leave(_: nn.Module, __: object, output: object) -> None:
            if in_backward():
                return
            self.depth -= 1
            if self.depth:
                return
            for tensor in _tensors(output):
                self._mark(tensor, Phase(number, True))
                made = self.recorder.number_of(tensor)
                if made is not None and tensor.requires_grad:
                    self._made[made] = (number, tensor.untyped_storage().nbytes())
            self.outputs[number] = _output(output, self.recorder)

        return leave

    def _mark(self, tensor: torch.Tensor, phase: Phase) -> None:
        known = self._marked.get(id(tensor))
        if tensor.requires_grad and (known is None or known() is not tensor):
            tensor.register_hook(self.recorder.entering(phase))
            self._marked[id(tensor)] = weakref.ref(tensor)

    def _pass_on(self, number: int, given: list[torch.Tensor]) -> None:
        """Count what an earlier block made and this one reads as handed on by all blocks between them."""
        for key in {self.recorder.number_of(tensor) for tensor in given} & set(self._made):
            maker, num_bytes = self._made[key]
            for between in range(maker + 1, number):
                one = self.outputs[between]
                self.outputs[between] = one._replace(num_bytes=one.num_bytes + num_bytes)
            if maker < number - 1:
                self._made[key] = (number - 1, num_bytes)


def in_backward() -> bool:
    """Whether autograd is on its way back: then a forward call is one that a checkpoint repeats."""
    return bool(torch._C._current_graph_task_id() != -1)


def _tensors(values: object) -> list[torch.Tensor]:
    """Return all plain tensors in what a module is given or returns."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided]


def _shapes(values: object) -> list[torch.Size]:
    return [tensor.shape for tensor in _tensors(values)]


def _output(values: object, recorder: AllocationRecorder) -> Output:
    """Return what a layer hands on: the bytes of all its tensors, and the allocation of the largest of them."""
    tensors = [tensor for tensor in _tensors(values) if tensor.requires_grad] or _tensors(values)
    if not tensors:
        return Output(None, 0)
    largest = max(tensors, key=lambda tensor: tensor.numel() * tensor.element_size())
    return Output(recorder.number_of(largest), sum(tensor.numel() * tensor.element_size() for tensor in tensors))
