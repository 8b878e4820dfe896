"""A message as one endpoint has sent it to another, on either clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.core.addresses import Address


@dataclass
class Parcel:
    """A message, or the notice that its source has left.

    Attributes:
        sent_s: when, on the host's clock or the simulated one.
        stop: whether its source knew that the run has ended.
    """

    source: Address
    value: Any
    sent_s: float
    stop: bool = False
    leaves: bool = False
