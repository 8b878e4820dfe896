"""What would turn a comparison: how slow a link, or how much work per step, makes the other one win.

Pure functions over step times that something else predicts; imports the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.analysis.explain import Predict
from harness.analysis.parameters import PARAMETERS, Parameter
from harness.analysis.roots import boundary
from harness.core.text import Text
from harness.core.words import three

FARTHEST = 1024
"""Multiple, up and down, within which a turning point is looked for; chosen: from 1 to 1,000 Gb/s about any link."""

STRIDE = 4
"""Factor between trials; chosen: two turning points closer than this are one to a reader."""

FOUND = 0.002
"""Relative width at which a turning point counts as found: three digits are written."""

LINK_KEYS = ("cluster.inter_node.bandwidth", "cluster.intra_node.bandwidth")
SPEED_KEY = "cluster.device.samples_per_second"


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        seconds: that it was ranked by: to the target, or for a sample.
        predict: step time where some figures of its cluster are others.
        configured: figures that it has, in SI units.
    """

    name: str
    seconds: float
    predict: Predict
    configured: Mapping[str, float]

    def cost(self, factors: Mapping[str, float]) -> float:
        """Return its seconds with some figures multiplied; how many steps it takes stays."""
        overrides = {key: self.configured[key] * factor for key, factor in factors.items() if key in self.configured}
        # Against its own prediction: what the records say stays as it is where nothing is changed.
        return self.seconds * self.predict(overrides) / self.predict({})


def flip_points(winner: Side, other: Side) -> tuple[Text, ...]:
    """Say within what bandwidths and work per step the winner stays ahead, each figure changed alone.

    Returns:
        Nothing where the two are level to start with, or nothing of a kind can be changed.
    """
    if winner.seconds >= other.seconds:
        return ()
    known = winner.configured.keys() | other.configured.keys()
    parameters = [parameter for parameter in PARAMETERS if parameter.key in LINK_KEYS and parameter.key in known]
    lines = [_links(winner, other, parameter) for parameter in parameters]
    if SPEED_KEY in winner.configured and SPEED_KEY in other.configured:
        lines.append(_work(winner, other))
    return tuple(lines)


def _links(winner: Side, other: Side, parameter: Parameter) -> Text:
    there = winner.configured.get(parameter.key) or other.configured[parameter.key]

    def text(factor: float) -> str:
        return parameter.write(there * factor)

    below, above = _turns(winner, other, parameter.key)
    ends = (("above", below), ("below", above))
    conditions = [f"{side} {text(factor)}" for side, factor in ends if factor is not None]
    configured = f"(configured: {text(1)})"
    if not conditions:
        return Text(f"{winner.name} stays ahead of {other.name} at any bandwidth {parameter.place} {configured}.")
    when = f"while the link {parameter.place} is {' and '.join(conditions)} {configured}"
    return Text(f"{winner.name} stays ahead {when}. Otherwise {other.name} is faster.")


def _work(winner: Side, other: Side) -> Text:
    """Return the same for the work of a step; twice the work is what devices half as fast have."""
    below, above = _turns(winner, other, SPEED_KEY)
    ends = (("at least", above), ("at most", below))
    conditions = [f"{side} {three(1 / factor)}x" for side, factor in ends if factor is not None]
    if not conditions:
        return Text(f"{winner.name} stays ahead of {other.name} with any amount of work per step.")
    when = f"while a step has {' and '.join(conditions)} its present work"
    return Text(f"{winner.name} stays ahead {when}. Otherwise {other.name} is faster.")


def _turns(winner: Side, other: Side, key: str) -> tuple[float | None, float | None]:
    """Return the factors below and above 1 nearest to it at which the other wins; None where there is none."""
    return _turn(winner, other, key, 1 / STRIDE), _turn(winner, other, key, STRIDE)


def _turn(winner: Side, other: Side, key: str, stride: float) -> float | None:
    ahead, behind = 1.0, stride
    while not _loses(winner, other, key, behind):
        ahead, behind = behind, behind * stride
        if not 1 / FARTHEST <= behind <= FARTHEST:
            return None
    turned = boundary(lambda log: _loses(winner, other, key, math.exp(log)), math.log(ahead), math.log(behind), FOUND)
    return math.exp(turned)


def _loses(winner: Side, other: Side, key: str, factor: float) -> bool:
    return winner.cost({key: factor}) > other.cost({key: factor})
