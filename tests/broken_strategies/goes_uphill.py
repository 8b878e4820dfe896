"""A mistake that people make: the server takes the gradient's sign for the direction of the step."""

from harness import SERVER, Server, Strategy, Worker, hookimpl


class GoesUphill(Strategy):
    """The server takes the gradient's sign for the direction of the step.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "goes-uphill"
    synchrony = "asynchronous"
    batches = "own"
    model_at = "server"

    def servers(self, workers):
        return 1

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            await worker.send(await worker.gradient(batch), to=SERVER)
            await worker.load((await worker.receive(SERVER)).value)

    async def serve(self, server: Server) -> None:
        while message := await server.receive():
            await server.apply(message.value * -1)
            await server.send(server.weights, to=message.source)


@hookimpl
def harness_strategies():
    return [GoesUphill]
