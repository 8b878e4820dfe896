"""A mistake that people make: the server takes two steps along each gradient."""

from harness import SERVER, Server, Strategy, Worker, hookimpl


class AppliesEachPushTwice(Strategy):
    """The server takes two steps along each gradient.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "applies-each-push-twice"
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
            for _ in range(2):
                await server.apply(message.value, scale=0.5)
            await server.send(server.weights, to=message.source)


@hookimpl
def harness_strategies():
    return [AppliesEachPushTwice]
