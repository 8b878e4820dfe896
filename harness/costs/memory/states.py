"""How many bytes an optimizer keeps for each parameter."""

from __future__ import annotations

from harness.core.cell import Named
from harness.core.errors import NotForetold
from harness.costs.profiles.shape import LayerShape

MOMENTS = {"none": 0, "sgd": 0, "momentum": 1, "rmsprop": 1, "adagrad": 1, "adam": 2, "adamw": 2, "lamb": 2}
MOMENTS |= {"nadam": 2, "radam": 2, "adamax": 2, "adadelta": 2, "asgd": 1}
"""Numbers kept for each parameter.

Source: Qian 1999 (momentum); Tieleman and Hinton 2012 (rmsprop); Duchi et al. 2011; Kingma and Ba 2015, algorithm 1;
Loshchilov and Hutter 2019; You et al. 2020; those of the second line: torch.optim, 2.13.
"""
OWN_MOMENTS = 2
"""Of a function of the user's own, which nobody knows before it is called; chosen: as Adam, what most would write."""
QUANTISED_FROM = 4096
"""Smaller tensors keep their states in single precision. Source: bitsandbytes, Dettmers et al. 2022, section 2."""
QUANTISED_BLOCK = 2048
"""Numbers that share one scale of 4 bytes. Source: Dettmers et al. 2022, "8-bit Optimizers", section 2.1."""


def state_bytes(layer: LayerShape, optimizer: Named, element_bytes: int = 4) -> int:
    """Return the bytes of the optimizer's state of one layer.

    Args:
        optimizer: name and options as a cell has them; besides those that run here "momentum", "rmsprop", "adagrad",
            "lamb", "adafactor" and "adam8bit".
        element_bytes: of one number of the state.

    Raises:
        NotForetold: nothing is known of an optimizer of that name.
    """
    name = optimizer.name
    if name == "adafactor":
        return element_bytes * sum(_factored(*tensor) for tensor in _tensors(layer))
    if name == "adam8bit":
        return sum(_quantised(size) for size in layer.tensors)
    if ":" in name:
        return element_bytes * layer.parameters * OWN_MOMENTS
    if name not in MOMENTS:
        known = ", ".join((*MOMENTS, "adafactor", "adam8bit"))
        raise NotForetold(f"the memory of the optimizer {name!r} is not known. Known are {known}")
    extra = 1 if name in ("sgd", "rmsprop") and optimizer.options.get("momentum") else 0
    extra += 1 if optimizer.options.get("centered") else 0
    return element_bytes * layer.parameters * (MOMENTS[name] + extra)


def _tensors(layer: LayerShape) -> list[tuple[int, int]]:
    """Return (scalars, rows) of each tensor; one of unknown shape counts as a vector."""
    rows = layer.rows if len(layer.rows) == len(layer.tensors) else layer.tensors
    return list(zip(layer.tensors, rows, strict=True))


def _factored(size: int, rows: int) -> int:
    """Return row and column sums of a matrix, or all of a vector: there is no first moment by default.

    Source: Shazeer and Stern 2018, "Adafactor", algorithms 2 and 4.
    """
    return size if rows in (0, 1, size) else rows + size // rows


def _quantised(size: int) -> int:
    if size < QUANTISED_FROM:
        return 2 * 4 * size
    return 2 * (size + 4 * -(-size // QUANTISED_BLOCK))
