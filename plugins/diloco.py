"""DiLoCo: long stretches of local training, and an outer optimizer with Nesterov momentum on what they changed."""

from __future__ import annotations

from pydantic import Field

from harness import Options, Strategy, Worker, hookimpl


class DiLoCo(Strategy):
    """Workers train alone for `steps` batches; then all take one outer step along the mean of what they changed.

    The inner optimizer is the scenario's own (AdamW in the paper), and its state stays with each worker. Bytes are
    1 / steps of those of `sync-ddp`. With steps = 1, outer_rate = 1 and outer_momentum = 0 it is `local-sgd` with
    steps = 1. Buffers, such as BatchNorm's statistics, are averaged.

    Source: Douillard et al. 2023, "DiLoCo: Distributed Low-Communication Training of Language Models", algorithm 1.
    """

    name = "diloco"
    also_known_as = ("distributed-low-communication",)
    suggested_for = ("low-communication", "outer-optimizer", "federated")
    model_at = "mean"

    class Options(Options):
        """How rarely to talk, and the outer optimizer."""

        steps: int = Field(50, ge=1, description="inner steps: batches between two exchanges (H in the paper)")
        outer_rate: float = Field(0.7, gt=0, description="rate of the outer step; 1 moves to the workers' mean")
        outer_momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum of the outer step; 0: none")

    async def work(self, worker: Worker) -> None:
        """Train alone; every `steps` batches, meet and take the outer step, which is the same on every worker."""
        rate, momentum = self.options.outer_rate, self.options.outer_momentum
        start = worker.weights
        velocity = start.zeros()
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            if (batch.step + 1) % self.options.steps == 0:
                mean = await worker.mean(worker.weights)
                change = start - mean  # the outer gradient points uphill
                velocity = momentum * velocity + change
                start = mean.with_tensor(start - rate * (change + momentum * velocity))
                await worker.load(start)


@hookimpl
def harness_strategies():
    return [DiLoCo]
