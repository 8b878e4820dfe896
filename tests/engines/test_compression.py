"""Smaller forms on the wire: what they cost, what comes back, and what is said of those that do not fit."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace
from typing import Any

import pytest
from cells import host, make_cell
from constant_costs import constant_costs
from lazy import lazy
from places import TESTS
from trained import FP64, difference

from harness import Codec, codecs
from harness.core.given_cluster import LinkFigures
from harness.core.outcome import CountedDram, Outcome
from harness.costs.profiles import LayerShape, ModelShape
from harness.engines.processes.launch import run_cell
from harness.engines.shared.setup import make_setup
from harness.engines.virtual.sizes import Sizes

np = lazy("numpy")
torch = lazy("torch")
engine = lazy("harness.engines.virtual.engine")
encoding = lazy("harness.engines.shared.encoded")
flats = lazy("harness.engines.shared.flat")
wire = lazy("harness.engines.real.wire")

OWN = str(TESTS / "plugins" / "compressed.py")
BOWLS = TESTS / "models" / "three_bowls.py"
COMPRESSED = {
    "bf16-wire": {},
    "powersgd": {"rank": 2},
    "top-k": {"share": 0.05},
    "signsgd": {},
    "qsgd": {"levels": 7},
}
SMALL = FP64 | {"model": {"name": "mlp", "hidden": [16]}}
LAYERS = [(16, 64), (16,), (10, 16), (10,)]
"""Parameters of a network with one hidden layer of 16 units on images of 8 x 8."""

SIZES = [math.prod(shape) for shape in LAYERS]


def cell(strategy: str, options: dict[str, Any] | None = None, **changes: Any):
    few = {"workload": SMALL, "goal__max_epochs": 0.5, "sweep__learning_rate": [0.05], "plugins": (OWN,)}
    own = {f"strategy__{strategy}": options} if options else {}
    return make_cell(sweep__strategy=strategy, **few | {"sweep__gpus": [2]} | own | changes)


def virtual(strategy: str, options: dict[str, Any] | None = None, **changes: Any) -> Outcome:
    return engine.run_virtual(make_setup(cell(strategy, options, **changes), [OWN]), merge=False)


def real(strategy: str, options: dict[str, Any] | None = None, **changes: Any) -> Any:
    given = cell(strategy, options, engine="real", **changes)
    return run_cell(given, [OWN], options={"keep_weights": True})


# -- bytes -------------------------------------------------------------------------------------------------------------


def all_reduced(num_bytes: float, workers: int) -> float:
    return 2 * (workers - 1) * num_bytes / workers


def gathered(num_bytes: float, workers: int) -> float:
    return (workers - 1) * num_bytes


def factors(rank: int) -> int:
    pairs = [shape for shape in LAYERS if len(shape) == 2]
    numbers = sum(min(rank, *shape) * sum(shape) for shape in pairs)
    return 8 * (numbers + sum(shape[0] for shape in LAYERS if len(shape) == 1))


BYTES = {
    "bf16-wire": lambda workers: all_reduced(2 * sum(SIZES), workers),
    "powersgd": lambda workers: all_reduced(factors(2), workers),
    "top-k": lambda workers: gathered(sum((8 + 4) * math.ceil(0.05 * size) for size in SIZES), workers),
    "signsgd": lambda workers: gathered(sum(math.ceil(size / 8) for size in SIZES), workers),
    "qsgd": lambda workers: gathered(sum(math.ceil(size / 2) + 8 * math.ceil(size / 512) for size in SIZES), workers),
}
"""Bytes that a worker sends a step, in fp64: numbers of 8 bytes, places of 4."""


@pytest.mark.parametrize("workers", [2, 5])
@pytest.mark.parametrize("strategy", COMPRESSED)
def test_a_step_sends_the_bytes_of_the_formula(strategy, workers):
    few = {"goal": {"target_accuracy": "none", "evaluate_every": 120, "max_steps": 4}}
    sent = virtual(strategy, COMPRESSED[strategy], sweep__gpus=[workers], sweep__global_batch_size=[30], **few)
    assert sent.bytes_sent_per_step == pytest.approx(BYTES[strategy](workers), rel=1e-12)


@pytest.mark.dist
@pytest.mark.parametrize("strategy", COMPRESSED)
def test_two_real_processes_send_the_same_bytes_and_end_at_the_same_weights(strategy):
    result = real(strategy, COMPRESSED[strategy])
    assert result.finished, result.reason
    measured, simulated = result.outcome, virtual(strategy, COMPRESSED[strategy])
    assert measured.updates == simulated.updates > 10
    assert difference(measured, simulated) == 0.0
    assert measured.bytes_sent_per_step == pytest.approx(BYTES[strategy](2), rel=1e-12)
    assert simulated.bytes_sent_per_step == pytest.approx(BYTES[strategy](2), rel=1e-12)


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["above", "weighted-halves", "encoded-ps", "gathers"])
def test_own_codecs_are_the_same_on_both_clocks(strategy):
    result = real(strategy)
    assert result.finished, result.reason
    measured, simulated = result.outcome, virtual(strategy)
    assert measured.updates == simulated.updates > 10
    assert difference(measured, simulated) == 0.0
    assert measured.recorded == simulated.recorded
    # Messages have a description in front, which simulated ones have not.
    assert measured.bytes_sent_per_step == pytest.approx(simulated.bytes_sent_per_step, rel=0.02)


def test_workers_may_gather_different_numbers_of_bytes():
    assert virtual("above").recorded["different"] == 2


def test_gathering_plain_values_is_averaging_them():
    assert difference(virtual("gathers"), virtual("sync-ddp")) < 1e-12


# -- one strategy is another, and options matter -----------------------------------------------------------------------

SAME = {
    "powersgd at full rank": ("powersgd", {"rank": 64}, 1e-12),
    "top-k of all": ("top-k", {"share": 1.0}, 1e-12),
    "qsgd at 31 bits": ("qsgd", {"levels": 2**30 - 1}, 1e-8),
    "bf16 of two": ("bf16-wire", {}, 2e-3),
}


@pytest.mark.parametrize("case", SAME)
def test_without_loss_on_the_wire_it_is_data_parallelism(case):
    strategy, options, tolerance = SAME[case]
    changes = {"sweep__gpus": [3], "sweep__global_batch_size": [31]}
    exact, found = virtual("sync-ddp", **changes), virtual(strategy, options, **changes)
    assert found.updates == exact.updates > 20
    assert difference(found, exact) <= tolerance


DIFFERENT = {
    "rank": ("powersgd", {"rank": 1}, {"rank": 2}),
    "warm start": ("powersgd", {"warm_start": False}, {}),
    "error of factors": ("powersgd", {"error_feedback": False}, {}),
    "share": ("top-k", {"share": 0.1}, {"share": 0.2}),
    "error feedback": ("top-k", {"error_feedback": False}, {}),
    "levels": ("qsgd", {"levels": 7}, {"levels": 6}),
    "bucket": ("qsgd", {"bucket": 64}, {"bucket": 128}),
    "momentum of votes": ("signsgd", {"momentum": 0}, {}),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_an_option_takes_effect(case):
    strategy, one, other = DIFFERENT[case]
    assert difference(virtual(strategy, one), virtual(strategy, other)) > 1e-6


# -- time --------------------------------------------------------------------------------------------------------------

LINK = LinkFigures(latency_s=0.25, bandwidth_bytes_per_s=1000.0)
SHAPE = ModelShape((LayerShape("block", tensors=(800, 20), rows=(20, 20)),), element_bytes=4)
"""A matrix of 20 x 40 and a vector of 20: 3,280 bytes."""


def timed(strategy: str, options: dict[str, Any] | None = None, workers: int = 4, bandwidth: float = 0.0) -> Outcome:
    """Time a program whose gradients take 1 s; nothing is computed, but codecs see the shapes of layers."""
    goal = {"target_accuracy": "none", "max_steps": 5}
    setup = make_setup(
        cell(strategy, options, goal=goal, sweep__gpus=[workers], sweep__global_batch_size=[workers]), [OWN]
    )
    costs = constant_costs(1.0, 0.0, 0.0, LINK, 3280)
    costs = replace(costs, profile=replace(costs.profile, memory_bandwidth_bytes_per_s=bandwidth))
    executor: Any = Sizes(setup, 3280, 0, CountedDram, SHAPE)
    return engine.build(setup, costs=costs, executor=executor).run()


def ring_s(num_bytes: float, workers: int) -> float:
    """Return the time of an all-reduce; an all-gather takes half of it."""
    return 2 * (workers - 1) * (LINK.latency_s + num_bytes / workers / LINK.bandwidth_bytes_per_s)


def test_a_mean_of_encoded_values_takes_the_time_of_their_bytes():
    assert timed("bf16-wire").training_s / 5 == pytest.approx(1 + ring_s(1640, 4))


def test_powersgd_takes_the_time_of_its_two_factors():
    left, right = 2 * 20 * 4, (2 * 40 + 20) * 4
    assert timed("powersgd", {"rank": 2}).training_s / 5 == pytest.approx(1 + ring_s(left, 4) + ring_s(right, 4))


def test_a_gather_takes_the_time_of_everybodys_bytes_and_of_their_number():
    sent = 8 * (8 + 1)  # 1 % of 800 numbers and one of 20, with their places
    expected = 1 + ring_s(4 * sent, 4) / 2 + ring_s(4 * 8, 4) / 2
    assert timed("top-k", {"share": 0.01}).training_s / 5 == pytest.approx(expected)


def test_a_codec_takes_as_long_as_its_passes_over_memory():
    """One addition reads two values and writes one: at 9,840 bytes/s a second."""
    free, charged = timed("signsgd"), timed("signsgd", bandwidth=9840.0)
    signs = sys.modules[host().strategies["signsgd"].__module__].Signs
    passes = 2 * signs.encode_passes + 4 * signs.decode_passes  # own signs and the majority's; everybody's are decoded
    assert (charged.training_s - free.training_s) / 5 == pytest.approx(passes)
    assert sum(charged.steps["compute_s"]) > sum(free.steps["compute_s"])


def test_a_device_of_unknown_memory_is_said_to_encode_in_no_time():
    assert any("encoding and decoding count as no time" in note for note in timed("signsgd").notes)
    assert not any("encoding" in note for note in timed("signsgd", bandwidth=9840.0).notes)


def test_a_model_of_unknown_layers_is_not_encoded_unless_it_is_computed():
    setup = make_setup(cell("signsgd", goal={"target_accuracy": "none", "max_steps": 2}), [OWN])
    executor: Any = Sizes(setup, 3280, 0, CountedDram)
    with pytest.raises(Exception, match="failed") as crash:
        engine.build(setup, costs=constant_costs(1.0, 0.0, 0.0, LINK, 3280), executor=executor).run()
    assert "the model is known by its size only" in str(crash.value.__cause__)


class Columns(Codec):
    """The first columns of each matrix, as many as another tensor has; counts how often it is asked."""

    asked = 0

    def __init__(self, other: Any) -> None:
        self.other = {"other": other}

    def encode(self, layer, name):
        type(self).asked += 1
        return (layer[..., : self.other["other"].shape[0]],)

    def decode(self, parts, shape, name):
        raise AssertionError


def test_codecs_are_asked_once_for_what_takes_the_same_shapes():
    sizes: Any = Sizes(make_setup(cell("signsgd"), [OWN]), 3280, 0, CountedDram, SHAPE)
    gradient = sizes.gradient_of(sizes.initial_weights(), [0, 1], 1.0, (3, 4))
    three, same, four = (Columns(torch.empty(count, device="meta")) for count in (3, 3, 4))
    found = [sizes.encode(gradient, codec) for codec in (three, same, four)]
    assert [each.num_bytes for each in found] == [4 * (20 * 3 + 3), 4 * (20 * 3 + 3), 4 * (20 * 4 + 4)]
    assert Columns.asked == 2 * 2  # of two layers each
    assert {(each.num_samples, each.origin) for each in found} == {(2, (3, 4))}
    assert sizes.average(found[:2]).num_samples == 4


# -- against theory ----------------------------------------------------------------------------------------------------


def bowls(options: dict[str, Any], steps: int = 40) -> Any:
    """Train three workers on a function each, from (1, 1, 1)."""
    workload = {"model": f"{BOWLS}:product", "dataset": f"{BOWLS}:load", "loss": f"{BOWLS}:squared_length"}
    goal = {"target_accuracy": "none", "max_steps": steps}
    outcome = virtual(
        "top-k",
        {"share": 0.3} | options,
        workload=FP64 | workload,
        sweep__gpus=[3],
        sweep__global_batch_size=[3],
        sweep__learning_rate=[0.02],
        goal=goal,
    )
    return np.asarray(outcome.weights)


def test_without_error_feedback_top_1_climbs_and_with_it_descends():
    climbed = bowls({"error_feedback": False})
    assert climbed == pytest.approx(np.full(3, (1 + 0.02 * 11 / 6) ** 40), rel=1e-9)
    assert np.abs(bowls({"error_feedback": True}, steps=400)).max() < 1e-3


# -- forms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", codecs.BIT_WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 7, 64])
def test_numbers_come_out_of_their_bits(width, count):
    most = 2 ** min(width, 31) - 1
    numbers = torch.linspace(0, most, max(count, 1), dtype=torch.float64).long()[:count]
    packed = codecs.pack(numbers, width)
    assert packed.numel() * packed.element_size() == math.ceil(count * width / 8)
    assert codecs.unpack(packed, width, count).tolist() == numbers.tolist()


def test_a_width_is_the_least_that_is_enough():
    assert [codecs.width_for(count) for count in (2, 3, 4, 16, 17, 256, 257, 2**31)] == [1, 2, 2, 4, 8, 8, 16, 32]
    with pytest.raises(ValueError, match="at most 2147483648"):
        codecs.width_for(2**31 + 1)


class Nothing(Codec):
    """Sends nothing of any layer."""

    def encode(self, layer, name):
        return ()

    def decode(self, parts, shape, name):
        return torch.zeros(shape)


def test_all_types_and_shapes_cross_as_bytes():
    form = encoding.Form({"one": torch.Size([2, 3]), "two": torch.Size([4])}, torch.empty(0))
    tensors = [torch.tensor(3, dtype=torch.int16), torch.ones(2, 2, dtype=torch.bfloat16), torch.tensor([True, False]),
               torch.empty(0, 5), torch.tensor([1.5], dtype=torch.float64)]  # fmt: skip
    parts = {"one": tuple(tensors[:3]), "two": tuple(tensors[3:])}
    value = encoding.EncodedFlat(Nothing(), form, parts, torch.tensor([9.0]), num_samples=5, version=7, loss=0.25)
    value.origin = (1, 2)
    found = wire.from_bytes(wire.to_bytes(value), form, value.codec)
    assert [t.dtype for t in found.tensors] == [t.dtype for t in tensors]
    assert all(torch.equal(one, other) for one, other in zip(found.tensors, tensors, strict=True))
    assert (found.num_samples, found.version, found.loss, found.origin) == (5, 7, 0.25, (1, 2))
    assert found.buffers.tolist() == [9.0]
    assert found.num_bytes == 2 + 8 + 2 + 0 + 8 + 4


# -- mistakes ----------------------------------------------------------------------------------------------------------

SAID = {
    "no-tuple": r"Mistaken\.encode of layer .* must return a tuple of tensors; got one of shape",
    "no-codec": "encode takes a value and a codec, an instance of a subclass of Codec; got ",
    "misshaped": r"Misshaped\.decode of layer .* must return a tensor of shape .*; got one of shape \(1,\)",
    "not-linear": "mean takes encoded values of linear codecs, and Above is not one",
    "whole": "mean of values encoded by Whole: torch.int32 has no mean of its own type",
    "holds-tensor": "send takes values of codecs that hold only numbers, words and flags.*; Held holds something else",
    "doubled": r"send of a value that takes \d+ bytes encoded by Doubled and \d+ without",
    "writes": "round_ writes into a value",
    "writes-parts": "zero_ writes into a value",
}


@pytest.mark.parametrize("mistake", SAID)
def test_a_mistaken_codec_is_refused_where_it_is_used(mistake):
    with pytest.raises(Exception, match="failed") as crash:
        virtual(mistake)
    assert re.search(SAID[mistake], str(crash.value.__cause__))
    assert "compressed.py:" in str(crash.value.__cause__)


@pytest.mark.dist
@pytest.mark.parametrize("mistake", SAID)
def test_real_processes_say_the_same(mistake):
    result = real(mistake)
    assert not result.finished
    assert re.search(SAID[mistake], result.reason)
