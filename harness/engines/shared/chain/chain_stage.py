"""One stage of a chain: the model's own forward, in which the blocks of all other stages are stood in for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import torch
from torch import nn
from torch.utils._pytree import tree_unflatten

from harness.core.errors import Impossible
from harness.engines.shared.chain.events import Args, BlockCall, Chain, Forward, Intercepted, Key, Kwargs, Leaf, watched
from harness.workloads.batches import Inputs, call, outputs_of, rows
from harness.workloads.generators import drawing_from

INPUTS = "inputs"
"""Keyword under which a stage is given the one tensor of a model that takes no keywords."""
GLUE = -1
"""Stands for the number of an event where random numbers are drawn between blocks."""

Given: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...]
"""What a stage hands on: the last one the model's output, any other one the tensors that later stages need."""

SeedOf = Callable[[int], int]
"""The random seed of an event, or of the glue."""


class ChainChanged(Impossible):
    """A forward pass called the blocks in another order than the survey saw."""

    def __init__(self, call: int, now: str, before: str) -> None:
        super().__init__(
            f"the order of calls changed in training: call {call} was of {now}, in the trial before training of "
            f"{before}. A pipeline needs the same order at each step. Use a strategy that keeps the model whole, such "
            "as sync-ddp"
        )


class _End(BaseException):
    """Ends a stage's forward pass; not an Exception, because a model's own `except Exception` must not catch it."""


@dataclass(frozen=True)
class ChainSlice:
    """What one stage does.

    Attributes:
        start, end: its events.
        takes, gives: tensors from the stage before, and for the stage behind.
        uses: parameters that got a gradient in the stage's trial: of its blocks, and those used without a call.
    """

    start: int
    end: int
    takes: tuple[Key, ...]
    gives: tuple[Key, ...]
    uses: frozenset[str]


@dataclass
class _Pass:
    """State of one forward pass; nothing outlives it, since a pipeline has several micro-batches in flight."""

    given: dict[Key, torch.Tensor]
    samples: int
    at: int = 0
    sent: dict[Key, torch.Tensor] = field(default_factory=dict)


class ChainStage(nn.Module):
    """Runs the events of one stage: earlier calls return what was received, the first later one ends the pass.

    Args:
        model: a whole model of this stage's own; `let_go` frees what other stages hold.
        by_keyword: whether the model takes its inputs by keyword.
    """

    def __init__(self, model: nn.Module, chain: Chain, cut: ChainSlice, by_keyword: bool) -> None:
        super().__init__()
        # In a tuple, so that its parameters are not taken for this module's: most of them are other stages'.
        self._model = (model,)
        self.chain, self.cut, self.by_keyword = chain, cut, by_keyword
        self.device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        self.seeds: Callable[[int, int], int] | None = None
        self.seed_of: SeedOf | None = None
        self._blocks = Intercepted(model, watched(model, chain.names), self._call)
        self._now = _Pass({}, 0)

    @property
    def model(self) -> nn.Module:
        """Return the whole model, of which other stages' parameters may be empty."""
        return self._model[0]

    @property
    def is_last(self) -> bool:
        """Whether the model's output is this stage's."""
        return self.cut.end == len(self.chain.events)

    def before_pass(self, microbatch: int) -> None:
        """Draw what a micro-batch draws, whichever pass comes next; `seeds` is of (micro-batch, event)."""
        self.seed_of = partial(self.seeds, microbatch) if self.seeds is not None else None

    def forward(self, *received: torch.Tensor, **batch: torch.Tensor) -> Given:
        """Return what later stages need, as a tuple; the last stage returns the tensor that the loss is of.

        Args:
            received: tensors in the order of `cut.takes`.
            batch: the micro-batch's inputs, of which every stage is given all.
        """
        inputs: Inputs = batch if self.by_keyword else batch[INPUTS]
        given = dict(zip(self.cut.takes, received, strict=True))
        self._now = now = _Pass(given, rows(inputs))
        # What only passes through to a later stage is a copy too: torch wants no output that is an input.
        now.sent.update({key: tensor.clone() for key, tensor in given.items() if key in self.cut.gives})
        try:
            with self._blocks, self._drawing(GLUE):
                output: torch.Tensor = outputs_of(call(self.model, inputs))
        except _End:
            return tuple(now.sent[key] for key in self.cut.gives)
        finally:
            self._now = _Pass({}, 0)
        if now.at < len(self.chain.events):
            raise ChainChanged(now.at, "none", self.chain.names[now.at])
        return output

    def _call(self, name: str, forward: Forward, args: Args, kwargs: Kwargs) -> object:
        now, event = self._now, self._now.at
        now.at += 1
        expected = self.chain.names[event] if event < len(self.chain.events) else "none"
        if expected != name:
            raise ChainChanged(event, name, expected)
        if event >= self.cut.end:
            raise _End
        if event < self.cut.start:
            return self._stand_in(now, event)
        with self._drawing(event):
            output = forward(*args, **kwargs)
        self._keep(now, event, output)
        return output

    def _stand_in(self, now: _Pass, number: int) -> object:
        event: BlockCall = self.chain.events[number]
        leaves: list[object] = []
        for k, leaf in enumerate(event.leaves):
            if (number, k) in now.given:
                leaves.append(now.given[number, k].clone())  # glue may change it in place, and it is a leaf of autograd
            else:
                leaves.append(leaf.filler(now.samples, self.device) if isinstance(leaf, Leaf) else leaf)
        return tree_unflatten(leaves, event.spec)

    def _keep(self, now: _Pass, event: int, output: object) -> None:
        wanted = [k for number, k in self.cut.gives if number == event]
        leaves = torch.utils._pytree.tree_leaves(output) if wanted else []
        for k in wanted:
            # A copy, for glue may change the original in place; contiguous, for it is sent.
            now.sent[event, k] = leaves[k].clone(memory_format=torch.contiguous_format)

    @contextmanager
    def _drawing(self, event: int) -> Iterator[None]:
        """Draw from a stream that depends on the event alone, so that masks do not depend on where a model is cut."""
        if self.seed_of is None:
            yield
            return
        with drawing_from(self.seed_of(event), self.device):
            yield

    # -- parameters ------------------------------------------------------------------------------------------------

    def own_blocks(self) -> list[nn.Module]:
        """Return the blocks that this stage calls."""
        names = self.chain.names[self.cut.start : self.cut.end]
        return [self.model.get_submodule(name) for name in dict.fromkeys(names)]

    def kept(self) -> dict[str, nn.Parameter]:
        """Return the parameters that this stage holds by their names in the whole model.

        Those of its own blocks, used or not (an expert without tokens in the trial may get some later), and those that
        its trial saw used without a call.
        """
        own = {id(p) for block in self.own_blocks() for p in block.parameters()}
        named = self.model.named_parameters()
        return {name: p for name, p in named if id(p) in own or name in self.cut.uses}

    def let_go(self) -> None:
        """Free the parameters of other stages: they keep type, shape and device in the memory of one number."""
        kept = self.kept()
        for name, parameter in self.model.named_parameters():
            if name not in kept:
                loud = parameter.is_floating_point() or parameter.is_complex()
                parameter.requires_grad_(False)
                parameter.data = parameter.data.new_full((), torch.nan if loud else 0).expand(parameter.shape)
        for number, parameter in enumerate(kept.values()):
            self.register_parameter(f"kept{number}", parameter)
