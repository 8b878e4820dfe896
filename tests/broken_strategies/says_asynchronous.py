"""A mistake that people make: it says that it is asynchronous, but the server answers only when all have pushed."""

from harness import SERVER, Server, Strategy, Worker, average, hookimpl


class SaysAsynchronous(Strategy):
    """It says that it is asynchronous, but the server answers only when all have pushed.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "says-asynchronous"
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
        taken = {}
        while message := await server.receive(leavers=True):
            if message.value is not None:
                taken[message.source] = message.value
            if taken and set(server.workers) <= set(taken):
                await server.apply(average([taken[worker] for worker in sorted(taken)]))
                for worker in taken:
                    await server.send(server.weights, to=worker)
                taken = {}


@hookimpl
def harness_strategies():
    return [SaysAsynchronous]
