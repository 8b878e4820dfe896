"""Synchronous training with backup workers: each step takes the first gradients that come, and drops the late ones."""

from __future__ import annotations

from pydantic import Field

from harness import Impossible, Options, ParameterServer, Server, average, hookimpl


class BackupWorkers(ParameterServer):
    """Nobody waits for the slowest `backups` workers of a step; what they computed for it is dropped.

    No gradient is stale. The batch of a step is that of workers - backups devices. With backups = 0 it trains like
    `sync-ps` with workers on their own parts of the data.

    Source: Chen, Pan, Monga, Bengio and Jozefowicz 2016, "Revisiting Distributed Synchronous SGD", algorithms 3 and 4.
    """

    name = "backup-workers"
    also_known_as = ("sync-backup", "synchronous-with-backups")
    suggested_for = ("backup", "backups", "stragglers", "drop-stragglers")
    batches = "own"

    class Options(Options):
        """How many gradients of a step may be missing."""

        backups: int = Field(1, ge=0, description="workers that no step waits for")

    def servers(self, workers: int) -> int:
        """Run one server.

        Raises:
            Impossible: no worker would be left to wait for.
        """
        if self.options.backups >= workers:
            raise Impossible(
                f"{self.options.backups} of {workers} workers cannot all be backups; set backups below {workers}"
            )
        return super().servers(workers)

    async def serve(self, server: Server) -> None:
        """Step when enough gradients of this version have come; send late workers on at once."""
        backups, dropped = self.options.backups, 0
        taken = {}
        while message := await server.receive(leavers=True):
            if message.value is not None and message.value.version < server.weights.version:
                dropped += 1
                server.record(dropped=dropped)
                await server.send(server.weights, to=message.source)
                continue
            if message.value is not None:
                taken[message.source] = message.value
            if taken and len(taken) >= len(server.workers) - backups:
                await server.apply(average(taken))
                for worker in sorted(taken):
                    await server.send(server.weights, to=worker)
                taken = {}


@hookimpl
def harness_strategies():
    return [BackupWorkers]
