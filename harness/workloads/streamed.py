"""A split that does not stay on the device: its samples are read when they are needed, or a few batches before."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.api.host import describe
from harness.core.errors import PluginError
from harness.core.parents import die_with_parent
from harness.core.streams import stream_seed
from harness.workloads.accelerator import has_queue, upload
from harness.workloads.batches import Inputs, mapped
from harness.workloads.found_data import Unfit
from harness.workloads.generators import generators_kept

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.core.cell import Loading
    from harness.workloads.entries import Arrays, SampleSource

    Rows = npt.NDArray[np.int64]
    Batch = tuple[Inputs, torch.Tensor]

Convert = Callable[["Arrays", "npt.NDArray[np.generic]"], "Batch"]
"""Makes tensors in host memory of the inputs and targets of some samples."""


BEGIN_S = 10.0
"""Longest that processes are waited for before they may be held; chosen: they need milliseconds, and one that died is
found at the first batch."""


class Streamed:
    """A split as training sees it, like `Samples`, but read as it is needed.

    Args:
        source: reads the samples.
        targets: of all of them, on the device.
        convert: makes tensors of what was read.
        device: where batches go.
        loading: how they are read ahead.
        draws: whether samples are drawn anew each time; they then are by their number, the pass over the data, and
            `seed`, whoever reads them.

    Attributes:
        epoch: which pass over the data is under way.
        inputs: one sample, for its shape and type.
        read_s, num_read: seconds that this process spent on reading, and the samples that it read.
    """

    def __init__(
        self,
        source: SampleSource,
        targets: torch.Tensor,
        convert: Convert,
        device: torch.device,
        loading: Loading,
        draws: bool = False,
        seed: int = 0,
    ) -> None:
        self.source, self.targets, self.convert, self.device = source, targets, convert, device
        self.loading, self.draws, self.seed = loading, draws, seed
        self.epoch = self.num_read = 0
        self.read_s = 0.0
        self._ahead: _Ahead | None = None
        self.inputs = self.read(np.zeros(1, dtype=np.int64), 0)[0]

    def __len__(self) -> int:
        return len(self.source)

    def take(self, index: torch.Tensor) -> Batch:
        """Return the samples that `index` lists, and their targets, on the device."""
        return self.rows(index.cpu().numpy())

    def block(self, start: int, end: int) -> Batch:
        """Return neighbouring samples."""
        return self.rows(np.arange(start, min(end, len(self)), dtype=np.int64))

    def rows(self, rows: Rows) -> Batch:
        """Return the samples of these numbers on the device: read ahead where they are the next ones, else now."""
        batch = self._ahead.next(rows, self.epoch) if self._ahead is not None else None
        inputs, targets = batch if batch is not None else self.read(rows, self.epoch)
        return mapped(self._upload, inputs), self._upload(targets)

    def read(self, rows: Rows, epoch: int) -> Batch:
        """Read samples into host memory.

        Raises:
            PluginError: the data set gave something else than when it was judged.
        """
        began = time.perf_counter()
        try:
            if self.draws:
                with generators_kept():
                    found = self.source.read(
                        rows, lambda row: seed_generators(stream_seed(self.seed, "sample", epoch, row))
                    )
            else:
                found = self.source.read(rows)
        except Unfit as error:
            raise PluginError(f"the data set gave {error}") from None
        batch = self.convert(*found)
        self.read_s += time.perf_counter() - began
        self.num_read += len(rows)
        return batch

    def _upload(self, tensor: torch.Tensor) -> torch.Tensor:
        return upload(tensor, self.device, self.loading.pin_memory)

    def follow(self, upcoming: Iterable[tuple[Rows, int]]) -> None:
        """Start the loading's processes, and hold them until `go_on`.

        Args:
            upcoming: (samples, pass over the data) of every micro-batch.
        """
        if self.loading.workers:
            self._ahead = _Ahead(self, upcoming)
            self.hold()

    def hold(self) -> None:
        """Stop the processes that read ahead: what they read while a clock stands would be a present to it."""
        if self._ahead is not None:
            self._ahead.tell(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let them go on."""
        if self._ahead is not None:
            self._ahead.tell(signal.SIGCONT)

    def close(self) -> None:
        """End the processes that read ahead."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None


class _Ahead:
    """What torch's DataLoader reads ahead, in the order of training."""

    def __init__(self, streamed: Streamed, upcoming: Iterable[tuple[Rows, int]]) -> None:
        from torch.utils.data import DataLoader

        self.expected: deque[tuple[Rows, int]] = deque()
        self.upcoming = iter(upcoming)
        loading = streamed.loading
        loader: DataLoader[Batch | str] = DataLoader(
            _Micro(streamed),
            batch_size=None,
            sampler=self._keys(),  # type: ignore[arg-type]  # any iterable will do
            num_workers=loading.workers,
            prefetch_factor=loading.prefetch,
            pin_memory=loading.pin_memory and has_queue(streamed.device),
            # A data set of the user's own may be a class that no other process could import.
            multiprocessing_context="fork",
            worker_init_fn=self._begin,
        )
        before = set(multiprocessing.active_children())
        self._begun = multiprocessing.get_context("fork").Semaphore(0)
        self.iterator: Iterator[Batch | str] | None = iter(loader)
        self._processes = [each for each in multiprocessing.active_children() if each not in before]
        for _ in self._processes:
            self._begun.acquire(timeout=BEGIN_S)

    def _begin(self, _: int) -> None:
        """What each of the processes does first: one that is held could not end with us if it had not asked to."""
        die_with_parent()
        self._begun.release()

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to the processes; one that has died is found at the next batch."""
        for process in self._processes:
            if process.is_alive():
                os.kill(process.pid, number)  # type: ignore[arg-type]  # a started process has one

    def _keys(self) -> Iterator[tuple[Rows, int]]:
        for rows, epoch in self.upcoming:
            self.expected.append((rows, epoch))
            yield rows, epoch

    def next(self, rows: Rows, epoch: int) -> Batch | None:
        """Return the next batch where it is this one; what is asked out of turn, as evaluations do, is not here."""
        if not self.expected or self.iterator is None:
            return None
        wanted, when = self.expected[0]
        if when != epoch or not np.array_equal(wanted, rows):
            return None
        self.expected.popleft()
        try:
            found: Batch | str = next(self.iterator)
        except RuntimeError as error:  # the process died
            raise PluginError(f"a process that reads the data set ahead failed: {error}") from error
        if isinstance(found, str):
            raise PluginError(found)
        return found

    def close(self) -> None:
        self.tell(signal.SIGCONT)
        self.iterator = None  # torch ends its processes when nothing holds it any more


class _Micro(torch.utils.data.Dataset["Batch | str"]):
    """Micro-batches by (samples, pass over the data), for torch's DataLoader."""

    def __init__(self, streamed: Streamed) -> None:
        self.streamed = streamed

    def __getitem__(self, key: tuple[Rows, int]) -> Batch | str:
        """Return the batch, or what went wrong: torch would bring the error home without the line that raised it."""
        try:
            return self.streamed.read(*key)
        except Exception as error:
            return describe(error)


def seed_generators(number: int) -> None:
    """Seed what a sample may be drawn with; not the device's generator, which belongs to the model."""
    torch.default_generator.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)
