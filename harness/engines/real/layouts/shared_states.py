"""Data parallelism whose replicas share out the optimizer's state: each updates its part of the parameters."""

from __future__ import annotations

import gc
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from harness.api.strategy import Batch
from harness.core.step_parts import Part
from harness.engines.real.clock import Ledger
from harness.engines.real.layouts.one_device import OneDevice
from harness.engines.real.layouts.parts import parts_replica, same_buffers
from harness.engines.shared.buffer_values import as_real
from harness.engines.shared.flat import Flat
from harness.engines.shared.replica import Replica
from harness.engines.shared.setup import Setup


class SharedStates(OneDevice):
    """Gradients are scattered after the backward pass, parameters gathered after the update.

    All parameters one behind the other are one vector, and each replica updates an equal stretch of it, wherever a
    tensor ends. Both exchanges go in buckets: what is copied for one of them is all that they need of memory.

    Source: Rajbhandari et al. 2020, "ZeRO", sections 5.1 and 7.1; equal stretches of one vector: DeepSpeed, stage 1.
    torch's ZeroRedundancyOptimizer hands out whole tensors, and sends parameters on top of all that DDP sends.

    Attributes:
        trained: the whole model, which every replica computes with.
        replica: this device's stretch of it, which the optimizer steps; its forward pass is the whole model's.
    """

    def __init__(self, setup: Setup, ledger: Ledger, worker: int, rank: int) -> None:
        super().__init__(setup, ledger, worker, rank)
        self.number = rank
        self.trained = self.replica
        ranks = setup.layout.data
        self._tensors = [as_real(p.detach()).view(-1) for p in self.trained.parameters]
        self._cut = Stretches([t.numel() for t in self._tensors], ranks, setup.layout.bucket_bytes, self.trained.dtype)
        start = self._cut.each * rank
        own = list(self._cut.within(start, start + self._cut.each))
        self._own = [number for number, _ in own]
        module = self.trained.module
        parts = _Views([self._tensors[number][rows] for number, rows in own])
        names = [self.trained.names[number] for number in self._own]
        self.replica = parts_replica(setup, module, module, self.trained, names, parts)
        self.replica.sum_over_ranks = dist.all_reduce

    @property
    def shape(self) -> tuple[int, int]:
        """Parameters of the whole model, and values in its buffers."""
        return self.trained.num_parameters, self.trained.num_buffer_values

    def gradient(self, batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor, int]:
        """Return this replica's stretch of the mean gradient, in pieces of its tensors."""
        same_buffers(self.trained, group=None, source=0)
        pieces = self.pieces(batch)
        self.seed(batch)
        losses = [self.one_piece(piece, last=piece is pieces[-1]) for piece in pieces]
        gradients = [gradient.reshape(-1) for gradient in self.trained.take_gradients()]
        with self._waiting(0, "scatter"):
            stretch = self._scatter(gradients)
        for part, number, own in zip(self.replica.parameters, self._own, self._in_pieces(stretch), strict=True):
            absent = self.trained.optional and not self.trained.present[number]
            part.grad = None if absent else own
        return self.replica.take_gradients(), torch.stack(losses).sum(), sum(p.num_samples for p in pieces)

    def step(self, gradient: Flat, rate: float) -> None:
        """Update this device's stretch, and gather those of all."""
        self.replica.step(gradient, rate)
        began = self.ledger.stamp()
        with self._waiting(1, "gather"):
            self._gather()
        self.ledger.add(Part.COMPUTE, self.ledger.stamp(), began)  # the engine counts a step as computing

    @contextmanager
    def _waiting(self, number: int, name: str) -> Iterator[None]:
        """Note when an exchange of the step began: who was late is found out later."""
        self.ledger.moment(f"_wait_{number}", self.ledger.stamp())
        with self.ledger.span(Part.COMMUNICATION, name):
            yield
        self.ledger.moment(f"_waited_{number}", self.ledger.stamp())
        self.ledger.row["_waits"] = number + 1

    def _scatter(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return this device's stretch of the mean over replicas: sum, then divide, as `average` does."""
        stretch = gradients[0].new_empty(self._cut.each)
        for portion in self._cut.portions():
            sent = torch.cat([self._joined(gradients, start, portion.size) for start in portion.starts])
            dist.reduce_scatter_tensor(stretch[portion.offset : portion.offset + portion.size], sent)
        if self.trained.optional:
            # A parameter has a gradient where any replica has one.
            dist.all_reduce(self.trained.present, dist.ReduceOp.MAX)
        return stretch.div_(self._cut.ranks)

    def _gather(self) -> None:
        """Write what the other replicas have updated into this one's parameters."""
        for portion in self._cut.portions():
            own = self._joined(self._tensors, portion.starts[self.rank], portion.size)
            gathered = own.new_empty(portion.size * self._cut.ranks)
            dist.all_gather_into_tensor(gathered, own)
            for start, arrived in zip(portion.starts, gathered.split(portion.size), strict=True):
                offset = 0
                for number, rows in self._cut.within(start, start + portion.size):
                    size = rows.stop - rows.start
                    self._tensors[number][rows] = arrived[offset : offset + size]
                    offset += size

    def _joined(self, tensors: Sequence[torch.Tensor], start: int, size: int) -> torch.Tensor:
        """Return so many numbers of the vector; zeros behind its end."""
        parts = [tensors[number][rows] for number, rows in self._cut.within(start, start + size)]
        missing = size - sum(part.numel() for part in parts)
        return torch.cat([*parts, tensors[0].new_zeros(missing)])

    def _in_pieces(self, stretch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return a stretch in pieces of the tensors that it lies in; what fills it up is left out."""
        sizes = [part.numel() for part in self.replica.parameters]
        pieces: tuple[torch.Tensor, ...] = stretch[: sum(sizes)].split(sizes)
        return pieces

    def whole(self) -> Replica:
        """Return the model, which every replica has."""
        return self.trained

    def to_compile(self) -> list[nn.Module]:
        """Return the whole model: the replica holds its stretch only."""
        return [self.trained.module]

    def bytes_sent_per_step(self) -> float:
        """Return a ring's share of scattering gradients and gathering parameters."""
        n = self.setup.layout.data
        return 2 * (n - 1) / n * float(self.trained.num_parameters * self.trained.dtype.itemsize)

    def close(self) -> None:
        """Let go of everything that holds the process group."""
        del self.replica, self.trained
        gc.collect()


class _Views(nn.Module):
    """Stretches of parameters as parameters of their own, in the same memory."""

    def __init__(self, stretches: Sequence[torch.Tensor]) -> None:
        super().__init__()
        for number, stretch in enumerate(stretches):
            self.register_parameter(f"stretch{number}", nn.Parameter(stretch))


class Portion(NamedTuple):
    """What is exchanged at once: as many numbers of every replica's stretch.

    Attributes:
        offset: in each stretch.
        size: numbers of each.
        starts: where they begin in the vector, by replica.
    """

    offset: int
    size: int
    starts: tuple[int, ...]


class Stretches:
    """A vector of tensors, one behind the other, cut into equal stretches; zeros fill the last one up.

    Attributes:
        ranks: stretches.
        each: numbers of one.
    """

    def __init__(self, sizes: Sequence[int], ranks: int, bucket_bytes: int, dtype: torch.dtype) -> None:
        self.ranks = ranks
        self._ends = list(accumulate(sizes))
        self.each = -(-sum(sizes) // ranks)
        self._room = max(1, (bucket_bytes // dtype.itemsize // ranks) if bucket_bytes else self.each)

    def portions(self) -> Iterator[Portion]:
        """Yield what is exchanged, one bucket after another."""
        for offset in range(0, self.each, self._room):
            size = min(self._room, self.each - offset)
            yield Portion(offset, size, tuple(rank * self.each + offset for rank in range(self.ranks)))

    def within(self, start: int, end: int) -> Iterator[tuple[int, slice]]:
        """Yield the tensors that lie between two places of the vector, by number, and which part of each does."""
        for number in range(bisect_right(self._ends, start), len(self._ends)):
            first = self._ends[number - 1] if number else 0
            if first >= end:
                return
            rows = slice(max(start, first) - first, min(end, self._ends[number]) - first)
            if rows.stop > rows.start:
                yield number, rows
