"""A mistake that people make: it says nothing of being asynchronous, and applies gradients as they come."""

from harness import SERVER, Server, Strategy, Worker, hookimpl


class SaysSynchronous(Strategy):
    """It says nothing of being asynchronous, and applies gradients as they come.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "says-synchronous"
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
            await server.apply(message.value)
            await server.send(server.weights, to=message.source)


@hookimpl
def harness_strategies():
    return [SaysSynchronous]
