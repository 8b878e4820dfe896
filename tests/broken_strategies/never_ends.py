"""A mistake that people make: the server goes on asking when nobody is left."""

from harness import SERVER, Server, Strategy, Worker, hookimpl


class NeverEnds(Strategy):
    """The server goes on asking when nobody is left.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "never-ends"
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
        while True:
            message = await server.receive()
            if message is not None:
                await server.apply(message.value)
                await server.send(server.weights, to=message.source)


@hookimpl
def harness_strategies():
    return [NeverEnds]
