"""A mistake that people make: an option may be anything."""

from typing import Any

from pydantic import Field

from harness import Options, Strategy, Worker, hookimpl


class LeavesOptionsUntyped(Strategy):
    """An option may be anything.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "leaves-options-untyped"
    equals = "single"

    class Options(Options):
        """How rarely to talk."""

        steps: Any = Field(1, description="batches between two exchanges")

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            await worker.apply(await worker.mean(await worker.gradient(batch)))


@hookimpl
def harness_strategies():
    return [LeavesOptionsUntyped]
