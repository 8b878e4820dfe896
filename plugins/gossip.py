"""Gossip: decentralised training, in which every worker averages its weights with those of a few neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from harness import Options, Strategy, Worker, average, hookimpl


class Gossip(Strategy):
    """Train one batch, average with the neighbours: no server, and nobody exchanges with all.

    What is evaluated is the mean of the workers. How fast they agree depends on the graph: after one exchange what they
    differ by has shrunk by at least the second largest eigenvalue of the averaging matrix.

    Source: Lian et al. 2017, "Can Decentralized Algorithms Outperform Centralized Algorithms?", algorithm 1; random
    pairs: Boyd, Ghosh, Prabhakar and Shah 2006, "Randomized Gossip Algorithms".
    """

    name = "gossip"
    also_known_as = ("d-psgd", "decentralized-sgd", "decentralised-sgd")
    suggested_for = ("decentralized", "decentralised", "neighbours", "neighbors")
    model_at = "mean"

    class Options(Options):
        """Who talks to whom, and how rarely."""

        graph: Literal["ring", "torus", "random-pairs"] = Field(
            "ring",
            description="neighbours: two on a ring, four on a torus that is as square as can be, or one drawn anew for "
            "each exchange",
        )
        steps: int = Field(1, ge=1, description="batches that each worker trains on between two exchanges")

    async def work(self, worker: Worker) -> None:
        """Train alone, then exchange with the neighbours only."""
        drawn, size = worker.random("pairs", shared=True), len(worker.workers)
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            if (batch.step + 1) % self.options.steps:
                continue
            if self.options.graph == "random-pairs":
                order = list(range(size))
                drawn.shuffle(order)  # the same on every worker
                neighbours = paired(order, worker.rank)
            else:
                neighbours = beside(worker.rank, size, 1 if self.options.graph == "ring" else squarest(size))
            for neighbour in neighbours:
                await worker.send(worker.weights, to=neighbour)
            weights = {worker.rank: worker.weights}
            for neighbour in neighbours:
                message = await worker.receive(neighbour)
                if message is not None:
                    weights[neighbour] = message.value
            await worker.load(average(weights))


def beside(rank: int, size: int, rows: int) -> list[int]:
    """Return who is left and right of a rank, above and below it, on a grid whose ends meet."""
    columns = size // rows
    row, column = divmod(rank, columns)
    level = {row * columns + (column + way) % columns for way in (-1, 1)}
    above = {(row + way) % rows * columns + column for way in (-1, 1)}
    return sorted((level | above) - {rank})


def paired(order: Sequence[int], rank: int) -> list[int]:
    """Return who stands beside `rank` where an order is cut into pairs; the last of an odd number has nobody."""
    place = order.index(rank)
    partner = place ^ 1
    return [order[partner]] if partner < len(order) else []


def squarest(size: int) -> int:
    """Return the number of rows of the most square grid of `size` places: 2 for 8, 1 for a prime."""
    return max(rows for rows in range(1, int(size**0.5) + 1) if size % rows == 0)


@hookimpl
def harness_strategies():
    return [Gossip]
