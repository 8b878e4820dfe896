"""Local SGD: every worker trains on its own for a few steps, then all weights are averaged."""

from __future__ import annotations

from pydantic import Field

from harness import Options, Strategy, Worker, hookimpl


class LocalSGD(Strategy):
    """Workers train alone and average their weights every `steps` batches.

    With steps = 1 and plain SGD it is synchronous SGD. Momentum stays with each worker and is not averaged.

    Source: Stich 2019, "Local SGD Converges Fast and Communicates Little", algorithm 1.
    """

    name = "local-sgd"
    also_known_as = ("localsgd",)
    suggested_for = ("local", "model-averaging", "parameter-averaging", "fedavg")
    model_at = "mean"

    class Options(Options):
        """How rarely to talk."""

        steps: int = Field(8, ge=1, description="batches that each worker trains on between two averagings")

    async def work(self, worker: Worker) -> None:
        """Train alone, and meet every `steps` batches."""
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            if (batch.step + 1) % self.options.steps == 0:
                await worker.load(await worker.mean(worker.weights))


@hookimpl
def harness_strategies():
    return [LocalSGD]
