"""A mistake that people make: the server waits for as many gradients as there were workers at the start."""

from harness import SERVER, Server, Strategy, Worker, average, hookimpl


class WaitsForTheDead(Strategy):
    """The server waits for as many gradients as there were workers at the start.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "waits-for-the-dead"
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
        wanted, taken = len(server.workers), {}
        while message := await server.receive():
            taken[message.source] = message.value
            if len(taken) == wanted:
                await server.apply(average([taken[worker] for worker in sorted(taken)]))
                for worker in taken:
                    await server.send(server.weights, to=worker)
                taken = {}


@hookimpl
def harness_strategies():
    return [WaitsForTheDead]
