"""Colours: one for each strategy, and a shade of it for each number of devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import seaborn
from matplotlib.colors import to_hex, to_rgb

LIGHTEST = 0.4
"""How far the fewest devices go towards white; chosen: further, a line is lost on white paper."""

DARKEST = 0.45
"""How far the most devices go towards black; chosen: further, a line is lost on a dark page."""


class Palette(dict[str, str]):
    """Colour by strategy.

    Args:
        colours: by strategy.
        counts: device counts of each strategy on the page, so that a count has one shade in all of its figures.
    """

    def __init__(self, colours: Mapping[str, str], counts: Mapping[str, Sequence[int]] | None = None) -> None:
        super().__init__(colours)
        self._counts = {strategy: sorted(set(found)) for strategy, found in (counts or {}).items()}

    def shade(self, strategy: str, gpus: int) -> str:
        """Return a strategy's colour on so many devices: the more, the darker."""
        counts = self._counts.get(strategy, [])
        if len(counts) < 2 or gpus not in counts:
            return self[strategy]
        place = 2 * counts.index(gpus) / (len(counts) - 1) - 1
        towards, share = ((1.0, 1.0, 1.0), -LIGHTEST * place) if place < 0 else ((0.0, 0.0, 0.0), DARKEST * place)
        own = to_rgb(self[strategy])
        return str(to_hex([a + share * (b - a) for a, b in zip(own, towards, strict=True)]))


def colours(strategies: Iterable[str]) -> dict[str, str]:
    """Return a colour for each strategy, told apart by colour-blind eyes for up to ten."""
    names = list(dict.fromkeys(strategies))
    return dict(zip(names, seaborn.color_palette("colorblind", len(names)).as_hex(), strict=True))
