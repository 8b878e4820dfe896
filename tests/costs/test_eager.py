"""Steps of an eager framework, kernel by kernel, against sums by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.costs.catalogue.devices import Device
from harness.costs.profiles.allocations import Event, Passes, Timeline
from harness.costs.profiles.shape import LayerShape, Linear, ModelShape
from harness.costs.steps.eager import PRODUCT_EFFICIENCY, UPDATES, eager_profile

LAUNCH_S = 1e-6
DEVICE = Device(
    *("D", "D", {"fp32": 1e12, "fp16": 8e12}, 1e9 / 0.8, 1e9, 1e9, "pcie3x16", 100.0, "none"),
    matrix=("fp16",),
    launch_s=LAUNCH_S,
)
"""1 GB/s for kernels that move data, at the share of the bandwidth that they reach."""
LAYER = LayerShape("linear", (1000 * 10, 1000), rows=(1000, 1000), forward_flops=Linear(0.0, 1e9))
PASSES = Passes(
    (Event("tensor", 0, 0, 0.0, 500.0), Event("copy", 0, 1, 100.0, 0.0), Event("free", 0, 1)),
    (Event("gradient", 0, 2, 44000.0, 0.0),),
)
SHAPE = ModelShape((LAYER,), timeline=Timeline((PASSES,), (0,)))


def test_a_pass_is_its_products_its_tensors_twice_and_a_launch_for_each():
    profile = eager_profile(SHAPE, DEVICE, "fp32", 4, "sgd")
    products = 4e9 / (1e12 * PRODUCT_EFFICIENCY["vector"])
    assert profile.forward_s(4) == pytest.approx(products + 2 * (4 * 500 + 100) / 1e9 + 2 * LAUNCH_S)
    # A gradient is made and then added to what is there: two tensors of 44 kB are read and one is written.
    added = 2 * 44000 + 3 * 44000
    assert profile.backward_s(4) == pytest.approx(2 * products + added / 1e9 + (1 + 2) * LAUNCH_S)
    # Zeroing writes 4 bytes for each of 11,000 scalars, the update moves 12: two kernels for each of two tensors.
    assert profile.optimizer_s == pytest.approx(16 * 11000 / 1e9 + 4 * LAUNCH_S)


def test_half_precision_speeds_up_products_and_nothing_else():
    full, half = (eager_profile(SHAPE, DEVICE, precision, 4, "sgd") for precision in ("fp32", "amp"))
    saved = 4e9 / (1e12 * PRODUCT_EFFICIENCY["vector"]) - 4e9 / (8e12 * PRODUCT_EFFICIENCY["matrix"])
    assert full.forward_s(4) - half.forward_s(4) == pytest.approx(saved)
    # The loss scale is taken out of gradients once an update.
    assert half.optimizer_s - full.optimizer_s == pytest.approx(8 * 11000 / 1e9 + 2 * LAUNCH_S)


def test_a_product_of_few_samples_still_reads_its_weights():
    small = replace(SHAPE, layers=(replace(LAYER, forward_flops=Linear(0.0, 1.0)),))
    assert eager_profile(small, DEVICE, "fp32", 1, "none").forward_s(1) == pytest.approx(
        44000 / 1e9 + 2 * 600 / 1e9 + 2 * LAUNCH_S
    )


def test_adafactor_takes_more_kernels_for_matrices_and_eight_bits_move_less():
    seconds = {name: eager_profile(SHAPE, DEVICE, "fp32", 4, name).optimizer_s for name in UPDATES}
    matrix, vector = 24 * LAUNCH_S + 21 * 40000 / 1e9, 16 * LAUNCH_S + 19 * 4000 / 1e9
    assert seconds["adafactor"] == pytest.approx(matrix + vector + 2 * LAUNCH_S + 44000 / 1e9)
    assert seconds["none"] == 0 < seconds["sgd"] < seconds["momentum"] < seconds["adam"] < seconds["adamw"]
    # The vector is too short to be kept in eight bits.
    assert seconds["adam8bit"] == pytest.approx((4 * 40000 + 7 * 4000 + 44000) / 1e9 + 4 * LAUNCH_S)


@given(st.floats(1, 1e4), st.floats(1.01, 8))
def test_more_samples_at_once_take_longer_and_cost_each_less(samples, factor):
    few, many = (eager_profile(SHAPE, DEVICE, "fp32", n, "sgd").gradient_s(n) for n in (samples, samples * factor))
    assert few < many < few * factor


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="was not traced"):
        eager_profile(ModelShape((LAYER,)), DEVICE, "fp32", 4, "sgd")
    with pytest.raises(ValueError, match="'shampoo'"):
        eager_profile(SHAPE, DEVICE, "fp32", 4, "shampoo")
