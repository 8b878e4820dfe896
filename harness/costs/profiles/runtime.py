"""What software and a shared host add to the figures of devices and links; all of it nothing where unknown."""

from __future__ import annotations

from dataclasses import dataclass

from harness.costs.profiles.device_profile import NO_TIME, TimeCurve


@dataclass(frozen=True)
class Messages:
    """What a message between two processes of one host costs, each a curve of seconds against bytes.

    Attributes:
        send: the sender is busy: it copies the value into shared memory and writes the header.
        arrive: from the start of sending until a receiver that sleeps begins to copy; the header may be read before
            the sender has returned from writing it.
        take: the receiver is busy: it copies the value out.
    """

    send: TimeCurve = NO_TIME
    arrive: TimeCurve = NO_TIME
    take: TimeCurve = NO_TIME


@dataclass(frozen=True)
class Runtime:
    """What runs beside the mathematics.

    Attributes:
        cores: of the host, shared by devices, servers and exchanges alike; None where devices have cores of their own.
        threads: of one device, each on a core.
        wrapper_s: added to every step by data parallelism's wrapper.
        bucket_s: added to every all-reduce of a bucket by its hooks and its dispatch.
        bucket_s_per_byte: added to it by copying gradients into the bucket and out.
        action_s: added to every pass of a micro-batch through a pipeline's stage.
        hop: between two stages of a pipeline: seconds against bytes; empty where the link says it.
        messages: between workers and servers; None where the link says it.
        served: seconds that a step with a server loses where workers and servers share cores, against bytes of a value.
        served_apart: the same where each has cores of its own.
        exchanged: seconds that a step of data parallelism loses beyond `stall`, against bytes of all gradients.
        sharded: seconds that each exchange of fully sharded data parallelism takes beyond its collective, against its
            bytes: hooks, copies, and waking each other.
        load: seconds to put weights of so many bytes into a model.
        add: seconds to add two values of so many bytes, or to multiply one.
        stall: seconds lost at a meeting of processes, against seconds since the one before: the system wakes a process
            beside the one that wakes it, and moves it away later.
    """

    cores: int | None = None
    threads: int = 1
    wrapper_s: float = 0.0
    bucket_s: float = 0.0
    bucket_s_per_byte: float = 0.0
    action_s: float = 0.0
    hop: TimeCurve = NO_TIME
    messages: Messages | None = None
    served: TimeCurve = NO_TIME
    served_apart: TimeCurve = NO_TIME
    exchanged: TimeCurve = NO_TIME
    sharded: TimeCurve = NO_TIME
    load: TimeCurve = NO_TIME
    add: TimeCurve = NO_TIME
    stall: TimeCurve = NO_TIME

    def hides_exchange(self, devices: int) -> bool:
        """Say whether computing hides an exchange: not where the threads that exchange have no core of their own."""
        return self.cores is None or self.cores >= 2 * devices * self.threads
