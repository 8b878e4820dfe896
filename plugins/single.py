"""One device: the yardstick that every other strategy is compared with."""

from __future__ import annotations

from harness import Impossible, Layout, Strategy, hookimpl


class Single(Strategy):
    """Plain mini-batch gradient descent on one device, the reference for all other strategies.

    Source: Robbins and Monro 1951 for the method; every textbook since for its use.
    """

    name = "single"
    also_known_as = ("single-gpu", "single-device")
    suggested_for = ("one", "baseline", "serial", "sequential")
    equals = "single"

    def layout(self, gpus: int) -> Layout:
        """Refuse more than one device."""
        if gpus != 1:
            raise Impossible(f"single runs on 1 device, not {gpus}")
        return Layout()


@hookimpl
def harness_strategies():
    return [Single]
