"""An ensemble: workers train models of their own, whose predictions are averaged."""

from __future__ import annotations

from harness import Strategy, Worker, hookimpl


class Ensemble(Strategy):
    """Workers never talk. What is judged is what their models predict on average, not an average of their weights.

    Probabilities of classes are averaged, or numbers where targets are numbers. All models start from the same weights
    and differ by their data: each passes over its own part. So a model sees 1 / workers of the samples that `single`
    sees, and using the result costs as many passes as there are models.

    Source: Lakshminarayanan, Pritzel and Blundell 2017, "Simple and Scalable Predictive Uncertainty Estimation using
    Deep Ensembles", section 2.4; models that differ by their data: Breiman 1996, "Bagging Predictors".
    """

    name = "ensemble"
    also_known_as = ("deep-ensemble", "deep-ensembles")
    suggested_for = ("bagging", "independent")
    synchrony = "asynchronous"
    batches = "own"
    model_at = "ensemble"

    async def work(self, worker: Worker) -> None:
        """Train alone."""
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))


@hookimpl
def harness_strategies():
    return [Ensemble]
