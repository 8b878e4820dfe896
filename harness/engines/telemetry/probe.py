"""The contract of a probe: what it is told, what it answers, and how it says that it cannot work."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from harness.core.errors import MachineError


class Sample(NamedTuple):
    """One reading.

    Attributes:
        time_s: seconds on the clock of `time.monotonic`, which all processes of one Linux machine share.
        source: the probe's name, for example "nvml" or "host".
        device: what was read: "gpu0", "worker 0", "host".
        quantity: name of what was read, for example "nvml_gpu_utilisation".
        value: the reading, in `unit`.
        unit: "bytes", "bytes/s", "fraction" (0..1), "cores", "MHz", "W", "J", "C" or "bitmask".
    """

    time_s: float
    source: str
    device: str
    quantity: str
    value: float
    unit: str


@dataclass(frozen=True)
class Target:
    """One process of a cell.

    Attributes:
        pid: process id as this machine (or this container) counts it.
        label: its name in the record: "worker 0", "server".
        device: "cpu", or "cuda:1" with the index that CUDA has in the sampler's own environment.
    """

    pid: int
    label: str
    device: str


class ProbeUnavailable(MachineError):
    """A probe cannot work here; the message is the reason, in words that stand in the record."""

    @property
    def reason(self) -> str:
        """The reason in plain words."""
        return str(self)


class ProbeUnneeded(ProbeUnavailable):
    """There is nothing here that a probe could read, so that no record has to say that it is lacking."""


class Probe(abc.ABC):
    """A source of samples. It lives in the sampler process: opened, sampled at each tick and closed there.

    What a probe cannot read it leaves out and explains in `notes`; it never answers 0 for "unknown".
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def open(self, targets: Sequence[Target]) -> None:
        """Prepare to sample these processes; called again after `close` when the processes of a cell change.

        Raises:
            ProbeUnavailable: where the probe cannot work, with the reason.
        """

    @abc.abstractmethod
    def sample(self, now: float) -> Iterable[Sample]:
        """Return the readings of one tick, stamped `now` (seconds, `time.monotonic`)."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what `open` took."""

    def notes(self) -> Sequence[str]:
        """Return what a reader of the samples must know: quantities left out and why. Called before `close`."""
        return ()

    def lost(self) -> Mapping[str, float]:
        """Return devices that stopped to answer, with the first tick without figures. Called before `close`."""
        return {}
