"""The options of torch's optimizers, under torch's own names and with its defaults; a test compares them with torch.

Written out, since reading a scenario must not import torch. The learning rate is no option: it is the sweep's.
`fused` is false where torch chooses by itself, as it does by default.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from harness.api.strategy import Options
from harness.core.records import Json

Beta = Annotated[float, Field(ge=0, lt=1)]
Decay = Annotated[float, Field(ge=0)]
Above = Annotated[float, Field(gt=0)]


class Fusable(Options, defer_build=True):
    """What torch can also do in one kernel over all parameters."""

    fused: bool = Field(default=False, strict=True)

    @model_serializer(mode="wrap")
    def _only_where_set(self, written: SerializerFunctionWrapHandler) -> Json:
        """Leave `fused` out where it is false: it came later, and the ids of cells stay."""
        kept: Json = written(self)
        return kept if self.fused else {key: value for key, value in kept.items() if key != "fused"}


class Sgd(Fusable, defer_build=True):
    """Stochastic gradient descent."""

    momentum: Beta = 0.0
    nesterov: bool = False
    weight_decay: Decay = 0.0

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Sgd:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class TwoMoments(Options, defer_build=True):
    """What Adam and its relatives share; the defaults are Kingma and Ba's, and torch's."""

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Above = 1e-8
    weight_decay: Decay = 0.0


class Adam(TwoMoments, Fusable, defer_build=True):
    """Kingma and Ba 2015."""


class AdamW(Adam, defer_build=True):
    """Loshchilov and Hutter 2019; the default decay is torch's."""

    weight_decay: Decay = 0.01


class RmsProp(Options, defer_build=True):
    """Tieleman and Hinton 2012, lecture 6.5 of "Neural Networks for Machine Learning"."""

    alpha: Beta = 0.99
    eps: Above = 1e-8
    weight_decay: Decay = 0.0
    momentum: Beta = 0.0
    centered: bool = False


class Adagrad(Fusable, defer_build=True):
    """Duchi, Hazan and Singer 2011."""

    lr_decay: Decay = 0.0
    weight_decay: Decay = 0.0
    initial_accumulator_value: Decay = 0.0
    eps: Above = 1e-10


class NAdam(TwoMoments, defer_build=True):
    """Dozat 2016."""

    momentum_decay: Decay = 0.004
    decoupled_weight_decay: bool = False


class RAdam(TwoMoments, defer_build=True):
    """Liu et al. 2020, "On the Variance of the Adaptive Learning Rate and Beyond"."""

    decoupled_weight_decay: bool = False


class Adamax(TwoMoments, defer_build=True):
    """Kingma and Ba 2015, section 7.1."""


class Adadelta(Options, defer_build=True):
    """Zeiler 2012."""

    rho: Beta = 0.9
    eps: Above = 1e-6
    weight_decay: Decay = 0.0


class Asgd(Options, defer_build=True):
    """Polyak and Juditsky 1992: averaged stochastic gradient descent."""

    lambd: Decay = 1e-4
    alpha: Above = 0.75
    t0: Decay = 1e6
    weight_decay: Decay = 0.0


OPTIMIZERS: dict[str, type[Options]] = {
    "sgd": Sgd,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RmsProp,
    "adagrad": Adagrad,
    "nadam": NAdam,
    "radam": RAdam,
    "adamax": Adamax,
    "adadelta": Adadelta,
    "asgd": Asgd,
}
