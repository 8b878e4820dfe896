"""What each stage of a chain must be sent, and which parameters it uses: found by running it on recorded values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import nn

from harness.costs.tracing import undisturbed
from harness.engines.shared.chain.chain_stage import INPUTS, ChainSlice, ChainStage, Given
from harness.engines.shared.chain.events import Chain, Key, Survey
from harness.engines.shared.chain.try_on import LossOf
from harness.workloads.batches import Inputs


class StageTrials:
    """Runs stages of a chain on what the survey recorded; the model is whole, and its values stay as they are.

    Args:
        model: the one that was surveyed.
        inputs: those of the survey.
    """

    def __init__(self, model: nn.Module, chain: Chain, seen: Survey, inputs: Inputs, loss: LossOf) -> None:
        self.model, self.chain, self.loss = model, chain, loss
        self.by_keyword = isinstance(inputs, dict)
        self.batch = keywords(inputs)
        self.values = {
            (number, k): leaf
            for number, called in enumerate(seen.calls)
            for k, leaf in enumerate(called.leaves)
            if isinstance(leaf, torch.Tensor)
        }

    def cuts(self, sizes: Sequence[int]) -> list[ChainSlice]:
        """Return the stages of so many events each, found from the last to the first."""
        ends = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
        found: list[ChainSlice] = []
        gives: tuple[Key, ...] = ()
        for start, end in reversed(list(pairwise(ends))):
            found.insert(0, self._stage(start, end, gives))
            gives = found[0].takes
        found[-1] = replace(found[-1], uses=found[-1].uses | self._held_by_none(found))
        return found

    def _held_by_none(self, cuts: Sequence[ChainSlice]) -> set[str]:
        """Return the parameters that no block holds and no stage used: the last stage keeps them as they are."""
        blocks = [self.model.get_submodule(name) for name in self.chain.names]
        held = {id(p) for block in blocks for p in block.parameters()}
        used = {name for cut in cuts for name in cut.uses}
        return {name for name, p in self.model.named_parameters() if id(p) not in held and name not in used}

    def _stage(self, start: int, end: int, gives: tuple[Key, ...]) -> ChainSlice:
        """Find what a stage takes: what gets a gradient, whole numbers, what passes on, what is used by value."""
        offered = [key for key in self.values if key[0] < start]
        needed, uses = self._gradients(ChainSlice(start, end, tuple(offered), gives, frozenset()))
        needed |= {key for key in offered if not differentiable(self.values[key])} | (set(gives) & set(offered))
        own = tuple(key for key in gives if key[0] >= start)

        def computed(keys: Collection[Key]) -> list[torch.Tensor]:
            takes = tuple(key for key in offered if key in keys)
            return self._values(ChainSlice(start, end, takes, own, frozenset()))

        # What is used without a gradient (detach, no_grad) shows only in values.
        whole = computed(offered)
        if not same_values(whole, computed(needed)):
            without = [key for key in offered if key not in needed]
            needed |= {key for key in without if not same_values(whole, computed(set(offered) - {key}))}
        return ChainSlice(start, end, tuple(key for key in offered if key in needed), gives, uses)

    def _gradients(self, cut: ChainSlice) -> tuple[set[Key], frozenset[str]]:
        """Return which of the tensors that a stage takes get a gradient, and which parameters."""
        given = {key: self.values[key].detach().clone() for key in cut.takes}
        for tensor in given.values():
            tensor.requires_grad_(differentiable(tensor))
        with undisturbed(self.model), torch.enable_grad():
            output = self._run(cut, list(given.values()))
            goal = self.loss(output) if isinstance(output, torch.Tensor) else _goal(output)
            if goal is not None and goal.requires_grad:
                goal.backward()  # type: ignore[no-untyped-call]
        uses = frozenset(name for name, p in self.model.named_parameters() if p.grad is not None)
        for parameter in self.model.parameters():
            parameter.grad = None
        return {key for key, tensor in given.items() if tensor.grad is not None}, uses

    def _values(self, cut: ChainSlice) -> list[torch.Tensor]:
        with undisturbed(self.model), torch.no_grad():
            torch.manual_seed(0)
            output = self._run(cut, [self.values[key].detach().clone() for key in cut.takes])
        return [output] if isinstance(output, torch.Tensor) else list(output)

    def _run(self, cut: ChainSlice, given: Sequence[torch.Tensor]) -> Given:
        output: Given = ChainStage(self.model, self.chain, cut, self.by_keyword)(*given, **self.batch)
        return output


def keywords(inputs: Inputs) -> dict[str, torch.Tensor]:
    """Return inputs as every stage is given them: by keyword."""
    return inputs if isinstance(inputs, dict) else {INPUTS: inputs}


def differentiable(tensor: torch.Tensor) -> bool:
    """Whether a tensor may have a gradient."""
    return bool(tensor.is_floating_point() or tensor.is_complex())


def same_values(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    """Whether two lists of tensors are equal, number by number."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _goal(outputs: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Return a number that depends on all outputs: what the loss of the stages behind does."""
    parts = [(t * torch.rand_like(t)).sum().abs() for t in outputs if t.requires_grad]
    return torch.stack([part.to(torch.float64) for part in parts]).sum() if parts else None
