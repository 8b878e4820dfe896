"""What a trial step of a model showed, and what a run has to know of it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.workloads.losses import Reduces

GENERATORS = ("torch", "random", "numpy", "the device")
"""Whose states tell whether a model draws random numbers."""


@dataclass(frozen=True)
class Trial:
    """What a few training steps of a model showed.

    Attributes:
        without_gradient: names of parameters that require a gradient and got none in some step.
        generators: which a forward pass in training draws from, of GENERATORS.
        looks: whether values decide what runs, or something is kept from step to step: then other parameters may get
            a gradient in other steps.
        keeps: attributes that are neither parameters nor buffers and change in a step.
        reentrant: whether it checkpoints in the way that DDP's search for unused parameters cannot take.
        sparse: parameters whose gradients are sparse.
        norms: BatchNorm layers that use the statistics of a batch.
        norms_of_one: those among them that see a single value for each channel of a sample.
        reduces: how a loss of the user's own makes one number of a batch; None for built-in ones.
    """

    without_gradient: tuple[str, ...] = ()
    generators: tuple[str, ...] = ()
    looks: bool = False
    keeps: tuple[str, ...] = ()
    reentrant: bool = False
    sparse: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    norms_of_one: tuple[str, ...] = ()
    reduces: Reduces | None = None

    @property
    def draws(self) -> bool:
        """Whether a forward pass in training draws random numbers."""
        return bool(self.generators)

    @property
    def unused(self) -> bool:
        """Whether parameters were seen without a gradient, or may well be: Python's own chance decides something."""
        return bool(self.without_gradient or self.keeps or {"random", "numpy"} & set(self.generators))

    @property
    def optional(self) -> bool:
        """Whether it has to be noted at every step which parameters have a gradient."""
        return self.unused or self.looks
