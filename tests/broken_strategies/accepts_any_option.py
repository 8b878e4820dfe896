"""A mistake that people make: a misspelt option is accepted and does nothing."""

from pydantic import BaseModel, Field

from harness import Strategy, Worker, hookimpl


class AcceptsAnyOption(Strategy):
    """A misspelt option is accepted and does nothing.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "accepts-any-option"
    equals = "single"

    class Options(BaseModel):
        """How rarely to talk."""

        steps: int = Field(1, ge=1, description="batches between two exchanges")

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            await worker.apply(await worker.mean(await worker.gradient(batch)))


@hookimpl
def harness_strategies():
    return [AcceptsAnyOption]
