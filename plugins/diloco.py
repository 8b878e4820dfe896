"""DiLoCo: long stretches of local training, and an outer optimizer with Nesterov momentum on what they changed."""

from __future__ import annotations

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


class DiLoCo(Strategy):
    """Workers train alone for `steps` batches; then all take one outer step along the mean of what they changed.

    The inner optimizer is the scenario's own (AdamW in the paper), and its state stays with each worker. Bytes are
    1 / steps of those of `sync-ddp`. With steps = 1, outer_rate = 1 and outer_momentum = 0 it is `local-sgd` with
    steps = 1. Buffers, such as BatchNorm's statistics, are averaged.

    With `fragments` the parameters are exchanged part by part, each every `steps` batches, at moments spread evenly
    between: as many bytes in all, and 1 / fragments of them at once. A part is a slice of every layer, so that all are
    equal; the paper's are groups of blocks.

    A worker may have several devices: `replicas` of them average gradients in every step, as under `sync-ddp`, and meet
    the other workers together. So a worker is a node, or an island of nodes, and the slow links between lie outside it.

    Source: Douillard et al. 2023, "DiLoCo: Distributed Low-Communication Training of Language Models", algorithm 1;
    fragments: Douillard et al. 2025, "Streaming DiLoCo with overlapping communication: Towards a Distributed Free
    Lunch", algorithm 2, without its overlap (tau) and its 4-bit numbers.
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
        replicas: int = Field(1, ge=1, description="devices of each worker, which average gradients in every step")

    def layout(self, gpus: int) -> Layout:
        """Put one replica on each device of a worker."""
        return Layout(data=self.options.replicas, wrapped=self.options.replicas > 1)

    async def work(self, worker: Worker) -> None:
        """Train alone; every `steps` batches, meet over each fragment and take its outer step, the same everywhere."""
        steps, fragments = self.options.steps, self.options.fragments
        start = worker.weights
        velocity = start.zeros()
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            for number in range(fragments):
                if (batch.step + 1 - number * steps // fragments) % steps == 0:
                    start, velocity = await self._meet(worker, Fragment(number, fragments), start, velocity)

    async def _meet(self, worker: Worker, fragment: Fragment, start: Value, velocity: Value) -> tuple[Value, Value]:
        """Return where the workers start from next, and the outer velocity; both change inside the fragment only."""
        rate, momentum = self.options.outer_rate, self.options.outer_momentum

        async def inside(value: Value) -> Value:
            return await worker.encode(value, fragment) if self.options.fragments > 1 else value

        own, fast = await inside(worker.weights), await inside(velocity)
        mean = await worker.mean(own)
        change = await inside(start) - mean  # the outer gradient points uphill
        faster = momentum * fast + change
        start = start - rate * (change + momentum * faster)
        await worker.load(mean.with_tensor(worker.weights - own + await inside(start)))
        return start, velocity - fast + faster


@hookimpl
def harness_strategies():
    return [DiLoCo]
