"""A mistake that people make: workers push gradients and never load what the server answers."""

from harness import SERVER, Server, Strategy, Worker, hookimpl


class NeverLoads(Strategy):
    """Workers push gradients and never load what the server answers.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "never-loads"
    synchrony = "asynchronous"
    batches = "own"
    model_at = "server"

    def servers(self, workers):
        return 1

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            await worker.send(await worker.gradient(batch), to=SERVER)
            await worker.receive(SERVER)

    async def serve(self, server: Server) -> None:
        while message := await server.receive():
            await server.apply(message.value)
            await server.send(server.weights, to=message.source)


@hookimpl
def harness_strategies():
    return [NeverLoads]
