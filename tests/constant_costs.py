"""Costs of a virtual cluster that a test can work out by hand."""

from __future__ import annotations

from harness.costs.profiles import (
    Bus,
    Cluster,
    LayerShape,
    LayerTime,
    LinkFigures,
    ModelShape,
    Profile,
    Runtime,
    TimeCurve,
)
from harness.engines.virtual.prices import Costs


def constant_costs(
    gradient_s: float, per_sample_s: float, apply_s: float, link: LinkFigures, num_bytes: int, origin: str = "given"
) -> Costs:
    """Return costs of a model of one layer: a gradient takes `gradient_s`, and more by the sample.

    Args:
        apply_s: of an update, at workers and servers.
        link: between any two, for messages, means, and weights that are put into a model.
        num_bytes: of the parameters.
    """
    backward = TimeCurve(((1.0, gradient_s + per_sample_s), (2.0, gradient_s + 2 * per_sample_s)))
    shape = ModelShape((LayerShape("model", tensors=(num_bytes // 4,)),), element_bytes=4)
    profile = Profile(shape, (LayerTime(backward=backward),), optimizer_s=apply_s, text=origin)
    load = TimeCurve(((1.0, link.seconds(1.0)), (2.0, link.seconds(2.0))))
    return Costs(profile, Cluster("device", 2**31, Bus(link), text=origin, runtime=Runtime(load=load)))
