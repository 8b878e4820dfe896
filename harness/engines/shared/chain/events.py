"""The calls of a model's blocks, in order, and what each returns: what a chain of stages is cut between."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten

from harness.core.errors import Impossible
from harness.costs.tracing import buffers_kept, is_compiled
from harness.workloads.batches import Inputs, as_written, call, outputs_of, rows

Args = tuple[object, ...]
Kwargs = dict[str, object]
Forward = Callable[..., object]
"""A module's own forward."""

Handle = Callable[[str, Forward, Args, Kwargs], object]
"""Answers a call of the block of that name."""

Key = tuple[int, int]
"""A tensor that travels between stages: number of the event, and of the leaf in what it returned."""

SENT_ALONG = (type(None), bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, torch.Size)
"""What a block may return beside tensors: the same at every call, so that each stage can keep it."""


@dataclass(frozen=True)
class Leaf:
    """A tensor that a block returns, without its values.

    Attributes:
        base, per_sample: its shape is base + per_sample x samples, axis by axis.
    """

    base: tuple[int, ...]
    per_sample: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool

    def shape(self, samples: int) -> tuple[int, ...]:
        """Return its shape for a micro-batch of so many samples."""
        return tuple(b + k * samples for b, k in zip(self.base, self.per_sample, strict=True))

    def example(self, samples: int) -> torch.Tensor:
        """Return a tensor like it, without memory."""
        made = torch.empty(self.shape(samples), dtype=self.dtype, device="meta")
        return made.requires_grad_(self.requires_grad)

    def filler(self, samples: int, device: torch.device) -> torch.Tensor:
        """Return a tensor for a stage that does not need the values: not a number, so that using it is loud."""
        loud = self.dtype.is_floating_point or self.dtype.is_complex
        return torch.full(self.shape(samples), torch.nan if loud else 0, dtype=self.dtype, device=device)


@dataclass(frozen=True)
class BlockCall:
    """One call of a block.

    Attributes:
        block: its dotted name; the same block may be called several times.
        leaves: what it returned, taken apart: tensors as `Leaf`, anything else as it is.
    """

    block: str
    spec: TreeSpec
    leaves: tuple[object, ...]


@dataclass
class Recorded:
    """One call of a block with the values that it returned."""

    block: str
    spec: TreeSpec
    leaves: list[object]


@dataclass
class Survey:
    """One forward pass of a whole model."""

    samples: int
    calls: list[Recorded]
    output: torch.Tensor


@dataclass(frozen=True)
class Chain:
    """A model as a chain of events.

    Attributes:
        output: the tensor that the loss is computed from.
    """

    events: tuple[BlockCall, ...]
    output: Leaf

    def leaf(self, key: Key) -> Leaf:
        """Return the tensor of that key."""
        found = self.events[key[0]].leaves[key[1]]
        assert isinstance(found, Leaf)
        return found

    @property
    def names(self) -> list[str]:
        """Return the blocks of the events, in order."""
        return [event.block for event in self.events]


class Intercepted:
    """Calls of some modules go to functions of ours, while it is entered; each gets the module's own forward.

    A call inside another one of the modules is a part of that one, and is left alone. Nothing is compiled meanwhile.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], handle: Handle) -> None:
        """`handle(name, forward, args, kwargs)` answers each call."""
        self._modules = {name: model.get_submodule(name) for name in dict.fromkeys(names)}
        self._model = model
        self._compiled = is_compiled(model)
        self._handle = handle
        self._eager: AbstractContextManager[object] = nullcontext()
        self._inside = False
        self._before: dict[str, object] = {}

    def __enter__(self) -> None:
        self._inside = False
        self._eager = as_written() if self._compiled else nullcontext()
        self._eager.__enter__()
        # Past __setattr__, which costs as much as a small layer. A forward of the module's own (checkpointing) returns.
        self._before = {name: module.__dict__.get("forward") for name, module in self._modules.items()}
        for name, module in self._modules.items():
            module.__dict__["forward"] = self._answer(name, module.forward)

    def __exit__(self, *_: object) -> None:
        self._eager.__exit__(None, None, None)
        for name, module in self._modules.items():
            del module.__dict__["forward"]
            if self._before[name] is not None:
                module.__dict__["forward"] = self._before[name]

    def _answer(self, name: str, forward: Forward) -> Forward:
        def answer(*args: object, **kwargs: object) -> object:
            if self._inside:
                return forward(*args, **kwargs)
            self._inside = True
            try:
                return self._handle(name, forward, args, kwargs)
            finally:
                self._inside = False

        return answer


def watched(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return the names of blocks, and of modules beside them that hold parameters: a call of one of those is news."""
    blocks = {id(part) for name in names for part in model.get_submodule(name).modules()}
    beside = [
        name
        for name, part in model.named_modules()
        if id(part) not in blocks
        and next(part.parameters(recurse=False), None) is not None
        and not any(id(inner) in blocks for inner in part.modules())
    ]
    return [*names, *beside]


def survey(model: nn.Module, names: Sequence[str], inputs: Inputs) -> Survey:
    """Run a model once and record the calls of its blocks; buffers and random generators are left as they were.

    Counters are not: a model that takes another way every other time shows it in two surveys.

    Raises:
        Impossible: a block returns something that cannot be handed to another stage.
    """
    calls: list[Recorded] = []

    def note(name: str, forward: Forward, args: Args, kwargs: Kwargs) -> object:
        output = forward(*args, **kwargs)
        leaves, spec = tree_flatten(output)
        calls.append(Recorded(name, spec, [_kept(name, leaf) for leaf in leaves]))
        return output

    with buffers_kept(model), torch.enable_grad(), Intercepted(model, watched(model, names), note):
        output = outputs_of(call(model, inputs))
    return Survey(rows(inputs), calls, output.detach().requires_grad_(output.requires_grad))


def _kept(name: str, leaf: object) -> object:
    if isinstance(leaf, torch.Tensor):
        copy = leaf.detach().clone(memory_format=torch.contiguous_format)
        return copy.requires_grad_(leaf.requires_grad)
    if not isinstance(leaf, SENT_ALONG):
        raise Impossible(
            f"{name} returns an object of type {type(leaf).__name__}, which cannot be sent to the next stage of a "
            "pipeline. Return tensors, in a tuple or a dictionary"
        )
    return leaf


def chain_of(small: Survey, large: Survey) -> Chain:
    """Return the chain behind two surveys with different numbers of samples.

    Raises:
        Impossible: the two differ in more than shapes.
    """
    _same_order([c.block for c in small.calls], [c.block for c in large.calls])
    events = []
    for a, b in zip(small.calls, large.calls, strict=True):
        if a.spec != b.spec:
            raise Impossible(f"{a.block} returns another structure at every call. A pipeline needs the same at each")
        leaves = [_leaf(a.block, x, y, small.samples, large.samples) for x, y in zip(a.leaves, b.leaves, strict=True)]
        events.append(BlockCall(a.block, a.spec, tuple(leaves)))
    output = _tensor_leaf("the model", small.output, large.output, small.samples, large.samples)
    return Chain(tuple(events), output)


def _same_order(first: Sequence[str], second: Sequence[str]) -> None:
    for number in range(max(len(first), len(second))):
        one, other = (names[number] if number < len(names) else "the end" for names in (first, second))
        if one != other:
            raise Impossible(
                f"the order of calls changes between steps: call {number} was of {one}, then of {other}. A pipeline "
                "needs the same order at each. Use a strategy that keeps the model whole, such as sync-ddp"
            )


def _leaf(name: str, small: object, large: object, few: int, many: int) -> object:
    if not isinstance(small, torch.Tensor) or not isinstance(large, torch.Tensor):
        if small != large:
            raise Impossible(
                f"{name} returns the plain value {small!r}, then {large!r}. A pipeline sends tensors only: return it "
                "as a tensor"
            )
        return small
    return _tensor_leaf(name, small, large, few, many)


def _tensor_leaf(name: str, small: torch.Tensor, large: torch.Tensor, few: int, many: int) -> Leaf:
    if small.dim() != large.dim() or small.dtype != large.dtype:
        raise Impossible(f"{name} returns a tensor of another kind at every call. A pipeline needs the same at each")
    per_sample = tuple((b - a) // (many - few) for a, b in zip(small.shape, large.shape, strict=True))
    base = tuple(a - k * few for a, k in zip(small.shape, per_sample, strict=True))
    leaf = Leaf(base, per_sample, small.dtype, small.requires_grad)
    if leaf.shape(many) != tuple(large.shape):
        raise Impossible(
            f"{name} returns a tensor whose shape depends on values: {tuple(small.shape)}, then {tuple(large.shape)}. "
            "A pipeline needs fixed shapes"
        )
    return leaf
