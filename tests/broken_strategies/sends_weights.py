"""A mistake that people make: workers push weights, and the server applies them as a gradient."""

from harness import SERVER, Server, Strategy, Worker, hookimpl


class SendsWeights(Strategy):
    """Workers push weights, and the server applies them as a gradient.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "sends-weights"
    synchrony = "asynchronous"
    batches = "own"
    model_at = "server"

    def servers(self, workers):
        return 1

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            await worker.gradient(batch)
            await worker.send(worker.weights, to=SERVER)
            await worker.load((await worker.receive(SERVER)).value)

    async def serve(self, server: Server) -> None:
        while message := await server.receive():
            await server.apply(message.value)
            await server.send(server.weights, to=message.source)


@hookimpl
def harness_strategies():
    return [SendsWeights]
