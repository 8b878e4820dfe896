"""Messages between endpoints in virtual time, and the order in which an endpoint takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from harness.api.strategy import ANY, Message
from harness.core.addresses import Address
from harness.engines.shared.parcel import Parcel


@dataclass
class Interface:
    """A network interface: when it is free in each direction."""

    out_free_s: float = 0.0
    in_free_s: float = 0.0

    def occupy(self, now: float, seconds: float, outward: bool) -> float:
        """Work on something that is handed over now, behind everything before it; return when it is done."""
        # Written out without max(): among a thousand shards every message occupies a thousand interfaces.
        free = self.out_free_s if outward else self.in_free_s
        done = (free if free > now else now) + seconds
        if outward:
            self.out_free_s = done
        else:
            self.in_free_s = done
        return done


@dataclass
class Receive:
    """One `receive` that has not been answered."""

    source: Address | None
    leavers: bool
    event: simpy.Event


@dataclass
class MeetingPoint:
    """One `mean` that some workers have called and others have not yet."""

    values: dict[Address, Any] = field(default_factory=dict)
    events: dict[Address, simpy.Event] = field(default_factory=dict)


@dataclass
class Post:
    """What has arrived at one endpoint.

    Attributes:
        peers: everybody who could ever send here.
        script: sources in the order in which a logged run took their messages; None takes them as they arrive. In a
            script None ends one `arrived()`.
        taken: the same for this run.
        notices: of leavers, in the queue.
    """

    peers: Sequence[Address]
    script: deque[Address | None] | None = None
    queue: deque[Parcel] = field(default_factory=deque)
    gone: set[Address] = field(default_factory=set)
    receives: list[Receive] = field(default_factory=list)
    taken: list[Address | None] = field(default_factory=list)
    notices: int = 0

    def deliver(self, parcel: Parcel) -> None:
        """Take a parcel from the wire and answer the first open `receive` that it fits."""
        self.queue.append(parcel)
        self.notices += parcel.leaves
        self.serve()

    def serve(self) -> None:
        """Answer every open `receive` where that is possible now, in the order in which they were called."""
        for started in list(self.receives):
            found, parcel = self._match(started)
            if found:
                self.receives.remove(started)
                started.event.succeed(parcel)

    def _match(self, started: Receive) -> tuple[bool, Parcel | None]:
        """Return whether the wait is over, and with what (None: nobody is left to send)."""
        wanted = started.source if started.source is not ANY else self._scripted()
        self._note_leavers(started)
        for parcel in self.queue:
            if wanted is ANY or parcel.source == wanted:
                self._remove(parcel)
                if not parcel.leaves:
                    self._log(parcel.source)
                return True, parcel
        senders = self.peers if wanted is ANY else [wanted]
        return all(sender in self.gone for sender in senders), None

    def _remove(self, parcel: Parcel) -> None:
        self.queue.remove(parcel)
        self.notices -= parcel.leaves

    def _note_leavers(self, started: Receive) -> None:
        """Everything before a notice has been taken when the notice comes first from its source."""
        if not self.notices:
            return  # the usual case, and a server may have a message of every worker before it
        for parcel in [p for p in self.queue if p.leaves]:
            ahead = any(p.source == parcel.source and not p.leaves for p in self.queue)
            if not ahead:
                self.gone.add(parcel.source)
                if not started.leavers:
                    self._remove(parcel)

    def _scripted(self) -> Address | None:
        return self.script[0] if self.script else ANY

    def _log(self, source: Address | None) -> None:
        self.taken.append(source)
        if self.script:
            self.script.popleft()

    def poll(self) -> list[Parcel]:
        """Return everything that is here (or what the logged run found here), notices left in place."""
        if self.script is not None:
            return self._poll_script()
        here = [p for p in self.queue if not p.leaves]
        self.queue = deque(p for p in self.queue if p.leaves)
        for parcel in here:
            self._log(parcel.source)
        self.taken.append(None)
        return here

    def _poll_script(self) -> list[Parcel]:
        assert self.script is not None
        found = []
        while self.script and self.script[0] is not None:
            parcel = next(p for p in self.queue if p.source == self.script[0] and not p.leaves)
            self.queue.remove(parcel)
            found.append(parcel)
            self._log(parcel.source)
        if self.script:
            self.script.popleft()
        self.taken.append(None)
        return found


def message(parcel: Parcel | None) -> Message | None:
    """Return what the strategy sees of a parcel."""
    return None if parcel is None else Message(parcel.source, parcel.value)
