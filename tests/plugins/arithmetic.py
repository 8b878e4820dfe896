"""Strategies that compute on tensors of their own."""

from __future__ import annotations

from harness import SERVER, Server, Strategy, Worker, average, hookimpl


class Signs(Strategy):
    """Apply the sign of the mean gradient."""

    name = "signs"

    async def work(self, worker: Worker) -> None:
        """Exchange the gradient, keep its signs."""
        for batch in worker.batches():
            mean = await worker.mean(await worker.gradient(batch))
            signs = await worker.compute(lambda value: value.tensor().sign(), mean)
            await worker.apply(mean.with_tensor(signs * 0.01))


class SignsAtServer(Strategy):
    """Send signs; the server applies their mean, with momentum in a value of its own."""

    name = "signs-at-server"
    model_at = "server"

    def servers(self, workers: int) -> int:
        """Run one server."""
        return 1

    async def work(self, worker: Worker) -> None:
        """Push signs, pull weights."""
        for batch in worker.batches():
            gradient = await worker.gradient(batch)
            await worker.send(gradient.with_tensor(gradient.tensor().sign()), to=SERVER)
            await worker.load((await worker.receive(SERVER)).value)

    async def serve(self, server: Server) -> None:
        """Average, and remember."""
        velocity = server.weights.zeros()
        while pushes := [push for worker in server.workers if (push := await server.receive(worker))]:
            mean = average([push.value for push in pushes])
            velocity = 0.5 * velocity + mean
            await server.apply(mean.with_tensor(velocity))
            for push in pushes:
                await server.send(server.weights, to=push.source)


class ByLayers(Strategy):
    """Divide each layer's gradient by its length (layer-wise normalisation)."""

    name = "by-layers"

    async def work(self, worker: Worker) -> None:
        """Normalise layer by layer."""
        import torch

        for batch in worker.batches():
            mean = await worker.mean(await worker.gradient(batch))
            layers = worker.layers(mean)
            joined = torch.cat([layer.reshape(-1) for layer in layers.values()])
            biases = [layer for name, layer in layers.items() if name.endswith("bias")]
            same = torch.equal(joined, mean.tensor())
            worker.record(layers=len(layers), biases=sum(bias.dim() == 1 for bias in biases), joined=float(same))
            parts = [layer / (layer.norm() + 1e-12) for layer in layers.values()]
            await worker.apply(mean.with_tensor(torch.cat([part.reshape(-1) for part in parts])))


@hookimpl
def harness_strategies():
    return [Signs, SignsAtServer, ByLayers]
