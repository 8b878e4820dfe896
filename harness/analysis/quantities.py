"""What two sides are compared by: nights, engines, or a prediction and what somebody observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.core.words import duration, rate


@dataclass(frozen=True)
class Quantity:
    """A column that is compared.

    Attributes:
        name: in words.
        unit: that it is written in; "" for a count. Bytes are written to the last one, MiB with four digits.
    """

    column: str
    name: str
    unit: Literal["s", "samples/s", "bytes", "MiB", ""] = ""

    @property
    def timed(self) -> bool:
        """Whether it is a time or made from one: then what a prediction states of its times holds for it."""
        return self.unit in ("s", "samples/s")

    def text(self, value: float) -> str:
        """Write a value with its unit."""
        match self.unit:
            case "s":
                return duration(value)
            case "samples/s":
                return rate(value)
            case "MiB":
                return f"{value / 2**20:,.4g} MiB"
            case "bytes":
                return f"{value:,.0f} bytes"
            case "":
                return f"{value:,.6g}"
