"""Asynchronous parameter server: every gradient is applied when it arrives, however old the weights it came from."""

from __future__ import annotations

from pydantic import Field

from harness import Options, ParameterServer, Server, Value, hookimpl


class AsyncParameterServer(ParameterServer):
    """No worker waits for another. Gradients are stale: by workers - 1 updates on average.

    With `divide_by_staleness` a gradient that is tau updates old steps with rate / tau. With `compensate` the server
    corrects a stale gradient g to first order, by compensate * g * g * (weights now - weights that it was computed at).

    Source: Dean et al. 2012, "Large Scale Distributed Deep Networks" (Downpour SGD); the division: Zhang, Gupta, Lian
    and Liu 2016, "Staleness-aware Async-SGD", equation 5; the correction: Zheng et al. 2017, "Asynchronous Stochastic
    Gradient Descent with Delay Compensation", equation 10, whose lambda is `compensate`.
    """

    name = "async-ps"
    also_known_as = ("async", "async-sgd", "asgd", "asynchronous-parameter-server")
    suggested_for = ("ps", "parameter-server", "asynchronous", "downpour")
    synchrony = "asynchronous"
    batches = "own"

    class Options(Options):
        """What the server may do about staleness."""

        divide_by_staleness: bool = Field(False, description="divide the rate of a stale gradient by its staleness")
        compensate: float = Field(0.0, ge=0, description="strength of the delay compensation; 0: none")

    async def serve(self, server: Server) -> None:
        """Apply each gradient as it comes and answer with the weights."""
        sent = dict.fromkeys(server.workers, server.weights)
        while message := await server.receive():
            gradient = message.value
            staleness = server.weights.version - gradient.version
            divisor = max(1, staleness) if self.options.divide_by_staleness else 1
            if self.options.compensate and staleness:
                then = sent[message.source]
                gradient = await server.compute(compensated, gradient, server.weights, then, self.options.compensate)
            await server.apply(gradient, scale=1 / divisor)
            await server.send(server.weights, to=message.source)
            if self.options.compensate:
                sent[message.source] = server.weights


def compensated(gradient: Value, now: Value, then: Value, strength: float) -> Value:
    """Return a gradient computed at the weights `then`, corrected to first order for the weights `now`."""
    old = gradient.tensor()
    return gradient.with_tensor(old + strength * old * old * (now.tensor() - then.tensor()))


@hookimpl
def harness_strategies():
    return [AsyncParameterServer]
