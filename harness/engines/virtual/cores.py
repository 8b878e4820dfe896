"""Processor cores that devices and servers of one host share."""

from __future__ import annotations

from typing import NamedTuple

from harness.core.addresses import Address


class _Use(NamedTuple):
    end_s: float
    cores: float
    who: Address


class Cores:
    """Who is busy until when; where more is wanted than there is, all are slower alike.

    A word is given its length when it starts. What a later word takes away from one under way is owed to that one and
    added to its next: no second of the host is used twice, and none is lost.

    Args:
        count: cores of the host.
    """

    def __init__(self, count: float) -> None:
        self.count = count
        self._uses: dict[Address, _Use] = {}
        self._owed: dict[Address, float] = {}

    def occupy(self, who: Address, began_s: float, seconds: float, cores: float = 1.0) -> float:
        """Return how long `who` takes for what takes `seconds` with all its cores to itself."""
        others = sorted(use for use in self._uses.values() if use.end_s > began_s and use.who != who)
        work, now = seconds + self._owed.pop(who, 0.0), began_s
        while True:
            wanted = cores + sum(use.cores for use in others)
            rate = min(1.0, self.count / wanted)
            end = min(now + work / rate, others[0].end_s if others else float("inf"))
            for use in others:
                self._owed[use.who] = self._owed.get(use.who, 0.0) + (end - now) * (1 - rate)
            work -= (end - now) * rate
            now = end
            if not others or others[0].end_s > now or work <= 0:
                break
            others = [use for use in others if use.end_s > now]
        self._uses[who] = _Use(now, cores, who)
        return now - began_s
