"""What an endpoint waits for while others have the next move."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from harness.core.addresses import Address
from harness.core.text import Text


class Wait(IntEnum):
    """Words that wait for somebody else."""

    NONE = 0
    RECEIVE = 1
    MEAN = 2
    GATHER = 3


@dataclass(frozen=True)
class Waits:
    """An endpoint that waits.

    Attributes:
        source: of the message; None is anybody.
        since_s: on the host's clock, or on the simulated one.
    """

    wait: Wait
    source: Address | None
    since_s: float

    @property
    def words(self) -> Text:
        """The word as a program writes it."""
        return Text(f"{self.wait.name.lower()}({'' if self.source is None else self.source})")
