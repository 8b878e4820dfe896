"""Rows of one device: a rate under other settings than the calibration row's.

The calibration row is scaled by the ratio of two estimates, one under each row's settings: of the model as it is traced
here, kernel by kernel on the data sheet of the device (`harness.costs.steps.eager` says what that assumes).
Settings are the batch, accumulation, recomputation, precision and the optimizer; what both rows share cancels, and so
does most of what the data sheet promises too much. Not modelled: the first, slower steps of a short run (they are taken
to cost the same share of every run), the input pipeline, and how well matrices of different sizes fill a device.
"""

from __future__ import annotations

from harness.api.strategy import Layout
from harness.commands.validate.case_systems import Unpredictable, block_of
from harness.commands.validate.linear import reference_of
from harness.commands.validate.published import TableRow, Tables
from harness.commands.validate.row_times import samples_of, seconds_of, value_of
from harness.commands.validate.traced_models import traced_model
from harness.costs.catalogue import DEVICES, Device, find_devices
from harness.costs.profiles import Bus, Cluster, Constants, LinkFigures
from harness.costs.steps import eager_profile, step_cost


def predict_single(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the prediction for a row of one device, in its unit.

    Raises:
        Unpredictable: no calibration row of one device, no data sheet of the device, or no traced model.
    """
    reference = reference_of(row, published.inputs)
    if reference is None or reference.strategy != "single":
        raise Unpredictable("no calibration row of the same model and metric on one device")
    ratio = estimated_s(published, row) / estimated_s(published, reference)
    return value_of(published, row, seconds_of(published, reference) * ratio)


def estimated_s(published: Tables, row: TableRow) -> float:
    """Return the seconds of a row's step by data sheet.

    Raises:
        Unpredictable: something that the estimate needs is not known.
    """
    block = block_of(published, row)
    samples, pieces = samples_of(row), row.microbatches or 1
    shape = traced_model(published, row.model, row.precision)
    try:
        profile = eager_profile(
            shape, _device(block["device"]), row.precision, samples / pieces, block.get("optimizer", "sgd")
        )
    except ValueError as error:
        raise Unpredictable(str(error)) from None
    recompute = block.get("recompute", "none")
    layout = Layout(recompute=recompute != "none")
    alone = Cluster(device=block["device"], gpus_per_node=1, bus=Bus(LinkFigures(0.0, 1.0)))
    step = step_cost(profile, alone, layout, round(samples), round(samples / pieces), recompute=recompute)
    return step.total_s + profile.optimizer_s


def _device(name: str) -> Device:
    _, found = find_devices(name, DEVICES)
    if not found:
        raise Unpredictable(f"no data sheet of a device called {name!r}")
    return found[0]
