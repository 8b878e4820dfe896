"""Calls to one device, made at every tick: what is refused for good is not asked again, and every lack is explained."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from harness.core.clock_reasons import REASONS, clock_reasons_in_words
from harness.core.words import counted
from harness.engines.telemetry.probe import Sample, Target

PROCESS_MEMORY = "memory of each process"
"""What a note calls the reading that is made for each process of the cell."""

OTHER_PROCESSES = "_other_processes"
"""How the names of quantities end that count the processes of others on a device."""

T = TypeVar("T")


class CellProcesses:
    """The cell's processes on one device.

    Args:
        targets: those that compute on it.
        cell: all of the cell: one may have opened a device that it does not compute on.

    Attributes:
        labels: by process id; a process that only looks, as `harness doctor` does, computes on no GPU.
        seen: whether the driver has listed one of them yet.
    """

    def __init__(self, source: str, device: str, targets: Iterable[Target], cell: Iterable[Target]) -> None:
        self._source, self._device = source, device
        self.labels = {target.pid: target.label for target in targets if target.pid != os.getpid()}
        self._cell = {*self.labels, *(target.pid for target in cell)}
        self.seen = False

    def samples(self, now: float, used: Mapping[int, float]) -> Iterator[Sample]:
        """Yield the memory of each of them, and their sum.

        Args:
            used: bytes of the cell's processes that the driver lists, by process id.
        """
        for pid, value in used.items():
            label = f"{self.labels[pid]} on {self._device}"
            yield Sample(now, self._source, label, f"{self._source}_process_used", float(value), "bytes")
        if used:
            self.seen = True
            total = float(sum(used.values()))
            yield Sample(now, self._source, self._device, f"{self._source}_targets_used", total, "bytes")

    def others(self, now: float, listed: Collection[int]) -> Iterator[Sample]:
        """Yield how many other processes compute on the device, where there are any.

        Nothing where the driver lists none of the cell's: in a container its process ids may be of another kind, and
        nobody can tell whose they are.

        Args:
            listed: process ids that the driver lists.
        """
        others = len(set(listed) - self._cell) if self.labels.keys() & listed else 0
        if others:
            yield Sample(
                now, self._source, self._device, f"{self._source}{OTHER_PROCESSES}", float(others), "processes"
            )

    def are_hidden(self, readings: Readings) -> bool:
        """Whether the driver was asked for their memory and has listed none of them."""
        return bool(self.labels) and not self.seen and not readings.is_left_out(PROCESS_MEMORY)


class Refusal(StrEnum):
    """Why a driver will never answer a call; the value is what a note says."""

    NOT_SUPPORTED = "not supported by this device"
    OLD_DRIVER = "needs a newer driver"
    NO_PERMISSION = "the driver keeps it for administrators"
    LOST = "the driver lost this GPU"


@dataclass(frozen=True)
class Driver:
    """How one vendor's library refuses.

    Attributes:
        source: the probe's name, which begins the names of its quantities.
        failures: what its calls raise.
        refusal: returns why a call is refused for good, None where it may answer the next time.
        in_words: writes a failure on one line.
    """

    source: str
    failures: tuple[type[Exception], ...]
    refusal: Callable[[Exception], Refusal | None]
    in_words: Callable[[Exception], str] = str


@dataclass(frozen=True)
class Reading:
    """One call to a device.

    Attributes:
        words: what it reads, in the words of a note.
        quantities: name and unit of each value that it answers.
        read: the call; its values are scaled to the units. A value that the device lacks is None.
    """

    words: str
    quantities: tuple[tuple[str, str], ...]
    read: Callable[[], tuple[float | None, ...]]


class Readings:
    """The calls to one device, and what came of them.

    Args:
        driver: whose calls they are.
        name: of the device in samples and notes.
        calls: those that are made at every tick, each once.
    """

    def __init__(self, driver: Driver, name: str, calls: Sequence[Reading]) -> None:
        self.name = name
        self.lost_since_s: float | None = None
        self._driver = driver
        self._calls = tuple(calls)
        self._refused: dict[str, str] = {}
        self._num_failed: dict[str, int] = {}
        self._clock_reasons: dict[str, int] = {}

    def sample(self, now: float) -> Iterator[Sample]:
        """Yield what the calls read, stamped `now`; nothing more once the device is lost."""
        for call in self._calls:
            yield from self.take(now, call)

    def take(self, now: float, call: Reading) -> Iterator[Sample]:
        """Yield what one call reads, stamped `now`."""
        values = self.attempt(now, call.words, call.read)
        for (quantity, unit), value in zip(call.quantities, values or (), strict=values is not None):
            if value is None:
                self.leave_out(f"{call.words} ({quantity})", Refusal.NOT_SUPPORTED)
                continue
            if quantity in REASONS:
                self._clock_reasons[quantity] = self._clock_reasons.get(quantity, 0) | int(value)
            yield Sample(now, self._driver.source, self.name, quantity, value, unit)

    def attempt(self, now: float, words: str, read: Callable[[], T]) -> T | None:
        """Return what `read` answers; None where the driver refuses: for good, which is noted, or this once, counted.

        What was refused for good is not asked again, and of a lost device nothing is.

        Args:
            now: seconds, monotonic: from when on a device counts as lost.
            words: what is read, in the words of a note.
            read: the call.
        """
        if words in self._refused or self.lost_since_s is not None:
            return None
        try:
            return read()
        except self._driver.failures as error:
            refusal = self._driver.refusal(error)
            if refusal is Refusal.LOST:
                self.lost_since_s = now
            elif refusal is not None:
                self.leave_out(words, refusal)
            else:
                failure = f"{words}: failed with {self._driver.in_words(error)}"
                self._num_failed[failure] = self._num_failed.get(failure, 0) + 1
            return None

    def leave_out(self, words: str, reason: str) -> None:
        """Note why something is not read; the first reason stands."""
        self._refused.setdefault(words, reason)

    def is_left_out(self, words: str) -> bool:
        """Answer whether something is known not to be read."""
        return words in self._refused

    def notes(self) -> Iterator[str]:
        """Yield what was left out, with the reason, and what held the clocks back."""
        for words, reason in self._refused.items():
            yield f"{self.name}: {words}: {reason}"
        for failure, count in self._num_failed.items():
            yield f"{self.name}: {failure}, {counted(count, 'time')}"
        if self.lost_since_s is not None:
            yield f"{self.name}: {Refusal.LOST}"
        for quantity, bits in self._clock_reasons.items():
            if bits:
                yield f"{self.name}: clocks were limited by: {', '.join(clock_reasons_in_words(quantity, bits))}"


def lost_devices(devices: Iterable[Readings]) -> dict[str, float]:
    """Return the names of lost devices, with the time of the first tick without figures."""
    return {device.name: device.lost_since_s for device in devices if device.lost_since_s is not None}
