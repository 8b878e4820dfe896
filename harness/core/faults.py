"""What goes wrong on purpose: jitter, stragglers and deaths, as a scenario writes them and as cells carry them.

The law of every fault stands here; the numbers are drawn in `harness.engines.shared.fault_draws`, the same ones on
both engines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from harness.core.words import counted, exact_duration


@dataclass(frozen=True)
class Jitter:
    """How a step's compute time scatters around its mean, which stays where it is.

    Attributes:
        sigma: of the logarithm; the exponential has none.
    """

    distribution: Literal["lognormal", "exponential"]
    sigma: float = 0.0

    def mean(self, floor: float) -> float:
        """Return the mean factor where factors below `floor` (0 or 1) count as that much.

        The lognormal exp(sigma Z - sigma^2 / 2) has mean 1; floored at 1 it is 1 plus the price of a call at the money,
        2 Phi(sigma / 2). Source: Black and Scholes 1973, equation 13, without interest.
        """
        if floor == 0.0:
            return 1.0
        if self.distribution == "exponential":
            return 1.0 + math.exp(-1.0)
        return 1.0 + math.erf(self.sigma / 2 / math.sqrt(2))

    def __str__(self) -> str:
        return "exponential" if self.distribution == "exponential" else f"lognormal with sigma {self.sigma:g}"


@dataclass(frozen=True)
class Straggler:
    """Devices that always compute `slowdown` times as long: one by its rank, or a share of all, drawn by the seed."""

    slowdown: float
    rank: int | None = None
    fraction: float | None = None

    def __str__(self) -> str:
        who = f"rank {self.rank} computes" if self.rank is not None else f"{self.fraction:g} of the ranks compute"
        return f"{who} {self.slowdown:g} times as long"


@dataclass(frozen=True)
class Death:
    """A device that is lost, as if its machine had been: after so many of its steps, or seconds of its clock."""

    rank: int
    after_steps: int | None = None
    after_s: float | None = None

    def due(self, steps: int, clock_s: float) -> bool:
        """Whether it has come, `steps` steps and `clock_s` seconds after the start."""
        if self.after_steps is not None:
            return steps >= self.after_steps
        assert self.after_s is not None
        return clock_s >= self.after_s

    @property
    def when(self) -> str:
        """The moment in words."""
        if self.after_steps is not None:
            return f"after step {self.after_steps}"
        assert self.after_s is not None
        return f"after {exact_duration(self.after_s)}"

    def __str__(self) -> str:
        return f"rank {self.rank} dies {self.when}"


@dataclass(frozen=True)
class Faults:
    """All faults of a cell.

    Attributes:
        floor: least factor that jitter gives. A real device cannot compute faster than it does, so that wherever a
            scenario has real cells all of its cells have floor 1; 0 on a cluster that is virtual throughout.
    """

    compute_jitter: Jitter | None = None
    stragglers: tuple[Straggler, ...] = ()
    deaths: tuple[Death, ...] = ()
    floor: float = 0.0

    @property
    def slows(self) -> bool:
        """Whether any step takes longer or shorter than without faults."""
        return self.compute_jitter is not None or bool(self.stragglers)

    @property
    def drawn(self) -> bool:
        """Whether the seed decides anything of them."""
        return self.compute_jitter is not None or any(each.fraction is not None for each in self.stragglers)

    def __bool__(self) -> bool:
        return self.slows or bool(self.deaths)

    def words(self) -> Iterator[str]:
        """Yield a note for each kind of fault: what the report says of the cell."""
        if self.compute_jitter is not None:
            floored = f", factors below 1 count as 1 (mean {self.compute_jitter.mean(1.0):.3g})" if self.floor else ""
            yield f"faults: compute jitter, {self.compute_jitter}{floored}"
        if self.stragglers:
            yield f"faults: {', '.join(map(str, self.stragglers))}"
        if self.deaths:
            yield f"faults: {', '.join(map(str, self.deaths))}"

    def misfit(self, ranks: int) -> str:
        """Say which rank a cell of so many devices does not have, or nothing."""
        named: dict[str, tuple[Straggler | Death, ...]] = {"stragglers": self.stragglers, "deaths": self.deaths}
        for key, entries in named.items():
            for entry in entries:
                if entry.rank is not None and entry.rank >= ranks:
                    have = "only rank 0 is" if ranks == 1 else f"ranks 0 to {ranks - 1} are"
                    return f"faults.{key} names rank {entry.rank}; on {counted(ranks, 'device')} {have} there"
        return ""


NO_FAULTS = Faults()


def can_go_on(synchrony: str, server_counts: bool) -> bool:
    """Whether a strategy loses a worker and goes on: one that is not synchronous, whose model is at a server."""
    return synchrony != "synchronous" and server_counts
