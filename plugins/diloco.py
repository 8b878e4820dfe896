"""DiLoCo: long stretches of local training, and an outer optimizer with Nesterov momentum on what they changed."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import NamedTuple

from pydantic import Field

from harness import Codec, Layout, Options, Strategy, Value, Worker, hookimpl


class Fragment(Codec):
    """One of several equal slices of every layer; zeros stand for the others."""

    linear = True
    encode_passes = 0.0  # a view
    decode_passes = 0.5  # fills a vector, where an addition also reads two

    def __init__(self, number: int, fragments: int) -> None:
        self.number, self.fragments = number, fragments

    def encode(self, layer, name):
        """Return this slice, of shape (n,)."""
        return (layer.reshape(-1).tensor_split(self.fragments)[self.number],)

    def decode(self, parts, shape, name):
        """Put the slice in its place."""
        import torch

        (numbers,), size = parts, shape.numel()
        each, longer = divmod(size, self.fragments)  # the first ones have one number more
        before = self.number * each + min(self.number, longer)
        return torch.nn.functional.pad(numbers, (before, size - before - numbers.numel())).view(shape)


class Meeting(NamedTuple):
    """An exchange under way: of which fragment, when it is taken in, and the mean that is waited for."""

    fragment: Fragment
    step: int
    mean: Awaitable[Value]


class DiLoCo(Strategy):
    """Workers train alone for `steps` batches; then all take one outer step along the mean of what they changed.

    The inner optimizer is the scenario's own (AdamW in the paper), and its state stays with each worker. Bytes are
    1 / steps of those of `sync-ddp`. With steps = 1, outer_rate = 1 and outer_momentum = 0 it is `local-sgd` with
    steps = 1. Buffers, such as BatchNorm's statistics, are averaged.

    With `fragments` the parameters are exchanged part by part, each every `steps` batches, at moments spread evenly
    between: as many bytes in all, and 1 / fragments of them at once. A part is a slice of every layer, so that all are
    equal; the paper's are groups of blocks. With `overlap` training goes on for so many batches while a part is on its
    way; what comes is then mixed half and half with what the worker has meanwhile.

    A worker may have several devices: `replicas` of them average gradients in every step, as under `sync-ddp`, and meet
    the other workers together. So a worker is a node, or an island of nodes, and the slow links between lie outside it.

    Source: Douillard et al. 2023, "DiLoCo: Distributed Low-Communication Training of Language Models", algorithm 1;
    fragments and overlap: Douillard et al. 2025, "Streaming DiLoCo with overlapping communication: Towards a
    Distributed Free Lunch", algorithm 2 (alpha = 0.5), without its 4-bit numbers.
    """

    name = "diloco"
    also_known_as = ("distributed-low-communication",)
    suggested_for = ("low-communication", "outer-optimizer", "federated", "streaming-diloco")
    alone = None
    model_at = "mean"

    class Options(Options):
        """How rarely to talk, of how much at once, and the outer optimizer."""

        steps: int = Field(50, ge=1, description="inner steps: batches between two exchanges (H in the paper)")
        outer_rate: float = Field(0.7, gt=0, description="rate of the outer step; 1 moves to the workers' mean")
        outer_momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum of the outer step; 0: none")
        fragments: int = Field(
            1, ge=1, description="parts that the parameters are exchanged in, at moments of their own"
        )
        overlap: int = Field(
            0, ge=0, description="batches trained while a part is on its way (tau in the paper); 0: wait for it"
        )
        replicas: int = Field(1, ge=1, description="devices of each worker, which average gradients in every step")

    def layout(self, gpus: int) -> Layout:
        """Put one replica on each device of a worker."""
        return Layout(data=self.options.replicas, wrapped=self.options.replicas > 1)

    async def work(self, worker: Worker) -> None:
        """Train alone; every `steps` batches, meet over each fragment and take its outer step, the same everywhere."""
        steps, fragments, overlap = self.options.steps, self.options.fragments, self.options.overlap
        start, under_way = worker.weights, []
        velocity = start.zeros()
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            for number in range(fragments):
                if (batch.step + 1 - number * steps // fragments) % steps == 0:
                    fragment = Fragment(number, fragments)
                    mean = worker.mean(await self._inside(worker, fragment, worker.weights))
                    under_way.append(Meeting(fragment, batch.step + overlap, mean))
            while under_way and under_way[0].step <= batch.step:
                start, velocity = await self._take(worker, under_way.pop(0), start, velocity)
        for meeting in under_way:
            await meeting.mean

    async def _inside(self, worker: Worker, fragment: Fragment, value: Value) -> Value:
        return await worker.encode(value, fragment) if self.options.fragments > 1 else value

    async def _take(self, worker: Worker, meeting: Meeting, start: Value, velocity: Value) -> tuple[Value, Value]:
        """Return where the workers start from next, and the outer velocity; both change inside the fragment only."""
        rate, momentum, fragment = self.options.outer_rate, self.options.outer_momentum, meeting.fragment
        mean, fast = await meeting.mean, await self._inside(worker, fragment, velocity)
        change = await self._inside(worker, fragment, start) - mean  # the outer gradient points uphill
        faster = momentum * fast + change
        start = start - rate * (change + momentum * faster)
        weights = worker.weights
        own, outer = await self._inside(worker, fragment, weights), await self._inside(worker, fragment, start)
        settled = weights - 0.5 * (own - outer) if self.options.overlap else weights - own + outer
        await worker.load(mean.with_tensor(settled))
        return start, velocity - fast + faster


@hookimpl
def harness_strategies():
    return [DiLoCo]
