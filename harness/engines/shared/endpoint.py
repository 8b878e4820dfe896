"""What workers and servers are on either clock: addresses, streams, notes, and a worker's way through its batches."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Set
from typing import TYPE_CHECKING

from harness.api.strategy import Batch
from harness.core.addresses import Address
from harness.core.budget import Marks
from harness.core.errors import PluginError
from harness.core.streams import python_stream
from harness.engines.shared.sample_order import own_batches, shared_batches

if TYPE_CHECKING:
    from harness.core.cell import Cell
    from harness.core.outcome import StepRow
    from harness.engines.shared.setup import Setup


class Endpoint:
    """The words of a strategy that need no clock.

    Attributes:
        gone: addresses of those who have left, as far as this endpoint knows.
        samples, updates: applied here.
        stopped: whether this endpoint knows that the run has ended.
        notes, recorded: what the strategy had to say.
    """

    def __init__(self, setup: Setup, rank: Address, gone: Set[Address], notes: list[str], recorded: dict[str, float]):
        self.setup, self.rank, self.gone = setup, rank, gone
        self.notes, self.recorded = notes, recorded
        self.options = setup.strategy.options
        self.samples = self.updates = 0
        self.stopped = False
        self._streams: dict[tuple[str, bool], random.Random] = {}
        self._living: tuple[int, tuple[Address, ...]] | None = None

    @property
    def workers(self) -> Sequence[Address]:
        """Workers that have not left."""
        # Programs ask for every message; the answer changes only when somebody leaves.
        if self._living is None or self._living[0] != len(self.gone):
            living = tuple(a for a in range(self.setup.cell.workers) if a not in self.gone)
            self._living = (len(self.gone), living)
        return self._living[1]

    @property
    def servers(self) -> Sequence[Address]:
        """Servers that have not left."""
        return tuple(-1 - k for k in range(self.setup.cell.servers) if -1 - k not in self.gone)

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        return self.setup.rate(self.progress)

    @property
    def progress(self) -> int:
        """Samples behind the next update, which the rate's schedule counts in."""
        return self.samples

    def random(self, name: str, shared: bool = False) -> random.Random:
        """Return this endpoint's stream of that name; asked for again, it goes on where it was."""
        if (name, shared) not in self._streams:
            whose = "all" if shared else self.rank
            self._streams[name, shared] = python_stream(self.setup.cell.seed, "strategy", whose, name)
        return self._streams[name, shared]

    def record(self, **numbers: float) -> None:
        """Keep numbers for columns x_<name>."""
        self.recorded.update({name: float(number) for name, number in numbers.items()})

    def note(self, text: str) -> None:
        """Keep a line, once."""
        if text not in self.notes:
            self.notes.append(str(text))


def everybody(setup: Setup) -> list[Address]:
    """Return the addresses of all workers and servers of a cell."""
    return [*range(setup.cell.workers), *(-1 - k for k in range(setup.cell.servers))]


def until_the_end(rows: Sequence[StepRow], cell: Cell, updates: int, ended_s: float) -> list[StepRow]:
    """Return the steps that count.

    Where a server counts, workers go on until they hear of the end. Where they count and wait for nobody, what they
    trained beyond the mark that ended the run does not count. All others end together: by time, those whose clocks are
    milliseconds ahead would lose their last steps.

    Args:
        updates: behind the final weights.
        ended_s: on the training clock.
    """
    if cell.server_counts:
        return [row for row in rows if row["start_s"] < ended_s]
    if cell.synchrony == "asynchronous":
        return [row for row in rows if row["step"] < updates]
    return list(rows)


def check_address(setup: Setup, rank: Address, to: Address) -> None:
    """Refuse a receiver that does not exist.

    Raises:
        PluginError: `to` is nobody, or the sender itself.
    """
    others = [address for address in everybody(setup) if address != rank]
    if to not in others:
        raise PluginError(f"send(..., to={to}): there is no such receiver; from {rank} there are {others}")


class Course:
    """A worker's way through its batches: what comes next, when a mark is due, when the budget is spent."""

    def __init__(self, setup: Setup, rank: Address) -> None:
        self.setup, self.rank = setup, rank
        cell = setup.cell
        self.own = setup.strategy.batches == "own"
        self.marks = Marks(setup.budget.evaluate_every)
        self.position = 0
        even, larger = divmod(setup.num_train, cell.workers)
        self._shards = [even + (worker < larger) for worker in range(cell.workers)]  # as `order.cut` cuts them

    def batches(self) -> Iterator[Batch]:
        """Yield batches until the budget is spent; `position` is the number of samples before the present one."""
        cell = self.setup.cell
        order = own_batches if self.own else shared_batches
        size = cell.batch_size if self.own else cell.global_batch_size
        for batch in order(cell.seed, self.setup.num_train, size, self.rank, cell.workers, self.setup.counts):
            if self.spent(batch.samples_before, batch.step):
                return
            self.position = batch.samples_before
            yield batch

    def spent(self, samples: int, steps: int) -> bool:
        """Whether the run ends here, as far as this worker can tell by itself."""
        if self.own and self.setup.server_counts:
            # The server counts, and its answers carry the stop. Alone no worker can do more than the whole budget:
            # that ends a run whose server never applies a gradient.
            return self.setup.budget.spent(samples, steps)
        return self.setup.budget.spent(self.total(samples, steps), steps)

    def total(self, samples: int, steps: int) -> int:
        """Return the samples of all workers after so many steps, given this worker's own.

        Shards differ by a sample, and with them the steps of a pass; computed for all workers alike, so that all of
        them see marks and the end at the same step.
        """
        if not self.own:
            return samples
        return sum(samples_after(steps, length, self.setup.cell.batch_size) for length in self._shards)

    def at_mark(self, samples: int, steps: int) -> bool:
        """Whether the model is looked at here: at every mark, and when the budget is spent."""
        due = self.marks.reached(self.total(samples, steps))
        return due or self.spent(samples, steps)


def samples_after(steps: int, length: int, batch_size: int) -> int:
    """Return the samples in the first `steps` batches of a shard that is passed over without end."""
    passes, rest = divmod(steps, max(1, -(-length // batch_size)))
    return passes * length + min(rest * batch_size, length)
