"""A layout's own `reduce`: the same program on both clocks, bucket by bucket, beside the backward pass."""

from __future__ import annotations

import re
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
from cells import make_cell, make_cells
from lazy import lazy
from places import TESTS
from trained import BATCHNORM, DROPOUT, FP64, difference

from harness.api.strategy import Layout
from harness.core.errors import Impossible
from harness.core.given_cluster import LinkFigures
from harness.core.outcome import CountedDram, Outcome
from harness.costs.profiles import Bus, Cluster, LayerShape, LayerTime, ModelShape, Profile, Runtime, TimeCurve
from harness.costs.steps import ReducedBucket, step_cost
from harness.engines.processes.launch import run_cell
from harness.engines.shared.setup import make_setup
from harness.engines.virtual.prices import Costs
from harness.engines.virtual.sizes import Sizes

engine = lazy("harness.engines.virtual.engine")

OWN = str(TESTS / "plugins" / "reducing.py")
MODELS = f"{TESTS}/models/own_models.py"
SMALL_BUCKETS = 0.001
"""MiB: 131 numbers in fp64, so that the models here have several buckets."""

SHORT = {
    "plugins": (OWN,),
    "workload": FP64 | {"model": f"{MODELS}:body"},
    "goal": {"target_accuracy": "none", "evaluate_every": 240, "max_steps": 12},
    "sweep__gpus": [2],
    "sweep__global_batch_size": [24],
    "sweep__learning_rate": [0.05],
}


def cell(strategy: str, engine: str = "virtual", options: dict[str, Any] | None = None, **changes: Any) -> Any:
    workload = SHORT["workload"] | changes.pop("workload_changes", {})
    own = {f"strategy__{strategy}": options} if options else {}
    return make_cell(
        engine=engine, sweep__strategy=strategy, **deepcopy(SHORT) | {"workload": workload} | own | changes
    )


def virtual(strategy: str, options: dict[str, Any] | None = None, **changes: Any) -> Outcome:
    return engine.run_virtual(make_setup(cell(strategy, "virtual", options, **changes), [OWN]), merge=False)


def real(strategy: str, options: dict[str, Any] | None = None, **changes: Any) -> Outcome:
    result = run_cell(cell(strategy, "real", options, **changes), [OWN], options={"keep_weights": True})
    assert result.finished, result.reason
    return result.outcome


# -- the same on both clocks -------------------------------------------------------------------------------------------

WAYS: dict[str, Any] = {
    **{model: {"workload_changes": {"model": f"{MODELS}:{model}"}} for model in ("body", "branches", "tied")},
    "clipping": {"workload_changes": {"clip_norm": 0.1}},
    "accumulation": {"sweep__micro_batch_size": 4},
    "uneven last batch": {"sweep__global_batch_size": [646], "goal__max_steps": 6},  # 1,293 = 2 x 646 + 1
    "batchnorm": {"workload_changes": {"model": BATCHNORM}},
    "afterwards": {"overlap": False},
}

OTHER_MODELS = ("frozen", "unused", "by_value", "reentrant", "sparse", "parametrized", "scalars")

MORE_WAYS: dict[str, Any] = {
    **{model: {"workload_changes": {"model": f"{MODELS}:{model}"}} for model in OTHER_MODELS},
    "dropout": {"workload_changes": {"model": DROPOUT}},
    "adam": {"workload_changes": {"optimizer": "adam"}},
}


@pytest.mark.dist
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("way", [*WAYS, *(pytest.param(way, marks=pytest.mark.long) for way in MORE_WAYS)])
def test_a_program_that_depends_on_its_buckets_trains_the_same_on_both_clocks(way):
    changes = dict((WAYS | MORE_WAYS)[way])
    overlap = changes.pop("overlap", True)
    options = {"bucket_mib": SMALL_BUCKETS, "overlap": overlap}
    measured, simulated = (run("by-place", options, **changes) for run in (real, virtual))
    assert difference(measured, simulated) == 0.0
    assert measured.recorded == simulated.recorded
    assert (measured.recorded["buckets"] >= 2) == overlap
    assert measured.bytes_sent_per_step == pytest.approx(simulated.bytes_sent_per_step, rel=1e-12)
    assert measured.unawaited == simulated.unawaited == {}


@pytest.mark.dist
def test_workers_of_one_device_need_no_process_group_and_run_the_program_too():
    options, changes = {"bucket_mib": SMALL_BUCKETS}, {"sweep__gpus": [1]}
    measured, simulated = (run("by-place", options, **changes) for run in (real, virtual))
    assert difference(measured, simulated) == 0.0
    assert measured.recorded == simulated.recorded
    assert measured.bytes_sent_per_step == simulated.bytes_sent_per_step == 0


@pytest.mark.dist
def test_three_replicas_that_average_train_what_ddp_trains():
    changes = {"sweep__gpus": [3], "goal__max_steps": 8}
    plain, own = (real(strategy, {"bucket_mib": SMALL_BUCKETS}, **changes) for strategy in ("sync-ddp", "averages"))
    assert difference(plain, own) < 1e-14
    assert own.bytes_sent_per_step == pytest.approx(plain.bytes_sent_per_step)


def test_averaging_trains_what_ddp_trains_whatever_the_buckets():
    plain = virtual("sync-ddp")
    for bucket_mib in (SMALL_BUCKETS, 25.0):
        assert difference(plain, virtual("averages", {"bucket_mib": bucket_mib})) < 1e-14


# -- time --------------------------------------------------------------------------------------------------------------

LAYERS, LAYER_BYTES = 4, 4000
FORWARD_S, BACKWARD_S = 1.0, 2.0
"""Of each layer."""

SHAPE = ModelShape(
    tuple(LayerShape(f"block{k}", tensors=(LAYER_BYTES // 4,), rows=(20,)) for k in range(LAYERS)), element_bytes=4
)


@cache
def setup_of(strategy: str, bucket_mib: float, overlap: bool) -> Any:
    options = {"bucket_mib": bucket_mib, "overlap": overlap}
    goal = {"target_accuracy": "none", "max_steps": 5}
    return make_setup(cell(strategy, options=options, goal=goal, sweep__gpus=[4], sweep__global_batch_size=[4]), [OWN])


def timed(
    strategy: str, bandwidth: float, overlap: bool = True, memory: float = 0.0, layers: int = 1, workers: int = 4
) -> float:
    """Return the seconds of a step whose passes take 4 and 8 s; a bucket holds so many layers."""
    setup = setup_of(strategy, layers * LAYER_BYTES / 2**20, overlap)
    times = tuple(LayerTime(*(TimeCurve(((1.0, s), (2.0, s))) for s in (FORWARD_S, BACKWARD_S))) for _ in SHAPE.layers)
    profile = Profile(SHAPE, times, memory_bandwidth_bytes_per_s=memory)
    cluster = Cluster("device", workers, Bus(LinkFigures(0.0, bandwidth)), runtime=Runtime())
    executor: Any = Sizes(setup, SHAPE.parameter_bytes, 0, CountedDram, SHAPE)
    return engine.build(setup, costs=Costs(profile, cluster), executor=executor).run().training_s / 5


def ring_s(num_bytes: float, bandwidth: float) -> float:
    return 2 * 3 / 4 * num_bytes / bandwidth


HALF = LAYER_BYTES / 2
PASSES_S = LAYERS * (FORWARD_S + BACKWARD_S)


@pytest.mark.parametrize("exchange_s", [0.5, 2.0, 3.0, 20.0])
def test_what_shows_of_an_exchange_is_what_the_rest_of_the_backward_pass_does_not_hide(exchange_s):
    """Buckets are ready every 2 s, the last one at the end; all but it hide behind the rest, if they are short."""
    bandwidth = ring_s(HALF, 1.0) / exchange_s
    shown_s = max(exchange_s, LAYERS * exchange_s - (LAYERS - 1) * BACKWARD_S)
    assert timed("rounded", bandwidth) == pytest.approx(PASSES_S + shown_s)
    assert timed("rounded", bandwidth, overlap=False) == pytest.approx(PASSES_S + LAYERS * exchange_s)


@pytest.mark.parametrize("strategy", ["sync-ddp", "averages"])
def test_averaging_by_a_program_takes_what_ddps_own_exchange_takes(strategy):
    for bandwidth in (300.0, 3000.0, 30000.0):
        each_s = ring_s(LAYER_BYTES, bandwidth)
        shown_s = max(each_s, LAYERS * each_s - (LAYERS - 1) * BACKWARD_S)
        assert timed(strategy, bandwidth) == pytest.approx(PASSES_S + shown_s)


def test_powersgd_hides_behind_the_backward_pass_too():
    """Of a matrix of 20 x 50 two factors of rank 2, one after the other: 2 x 20 and 2 x 50 numbers."""
    bandwidth = 100.0
    each_s = ring_s(4 * 2 * 20, bandwidth) + ring_s(4 * 2 * 50, bandwidth)
    assert BACKWARD_S < each_s < 10 * BACKWARD_S
    assert timed("powersgd", bandwidth) == pytest.approx(PASSES_S + LAYERS * each_s - (LAYERS - 1) * BACKWARD_S)
    assert timed("powersgd", bandwidth, overlap=False) == pytest.approx(PASSES_S + LAYERS * each_s)


def test_gathering_hides_too():
    sent, bandwidth = 10 * 8, 10.0  # top-k: 1 % of 1,000 numbers, each with its place
    each_s = ring_s(4 * sent, bandwidth) / 2 + ring_s(4 * 8, bandwidth) / 2
    assert timed("top-k", bandwidth) == pytest.approx(PASSES_S + LAYERS * each_s - (LAYERS - 1) * BACKWARD_S)


def test_what_a_codec_computes_makes_the_step_longer_even_where_the_exchange_hides():
    memory = 3 * LAYER_BYTES  # one addition takes a second
    codec_s = LAYERS * (1.0 + 1.0)  # a pass each way
    assert timed("rounded", 1e12, memory=memory) == pytest.approx(PASSES_S + codec_s)
    slow = ring_s(HALF, 1.0) / 20.0
    assert timed("rounded", slow, memory=memory) == pytest.approx(FORWARD_S * 4 + BACKWARD_S + LAYERS * 22.0)


def test_the_law_of_two_that_take_turns():
    """Backward passes of 2 and 1 s, the second layer first; its bucket encodes 1 s and is on the wire for 5 s."""
    times = tuple(LayerTime(backward=TimeCurve(((1.0, s), (2.0, s)))) for s in (1.0, 2.0))
    shape = ModelShape((LayerShape("one", tensors=(10,)), LayerShape("two", tensors=(30,))), element_bytes=4)
    profile, cluster = Profile(shape, times), Cluster("device", 2, Bus(LinkFigures(0.0, 1.0)))
    layout = Layout(data=2)
    one, two = ReducedBucket(120, 6.0, 1.0, 7.0), ReducedBucket(40, 3.0, 2.0, 5.0)
    only = step_cost(profile, cluster, layout, 2, 1, reduced=[one, ReducedBucket(40, 0.0, 0.0, 0.0)])
    # Ready at 2 s, encoded at 3; the rest of the backward pass ends at 4, the wire at 8.
    assert (only.compute_s, only.communication_s, only.bytes_sent) == pytest.approx((4.0, 4.0, 7.0))
    both = step_cost(profile, cluster, layout, 2, 1, reduced=[one, two])
    assert both.total_s == pytest.approx(8.0 + 3.0)
    assert both.compute_s == pytest.approx(3.0 + 3.0)
    assert both.bytes_sent == 12.0
    short = [bucket._replace(seconds=bucket.computed_s) for bucket in (one, two)]
    assert step_cost(profile, cluster, layout, 2, 1, reduced=short).total_s == pytest.approx(3.0 + 3.0)


# -- mistakes ----------------------------------------------------------------------------------------------------------

SAID = {
    "returns-nothing": r"reduce must return a value of its bucket, which has \d+ numbers; got None",
    "returns-a-tensor": r"reduce must return a value of its bucket, which has \d+ numbers; got Tensor",
    "forgets-await": r"reducing\.py:\d+: mean\(\.\.\.\) is used before it is awaited; write await mean",
    "awaits-something-else": r"reducing\.py:\d+: awaited str, which is not a word of",
    "raises": "nothing",
    "writes": r"reducing\.py:\d+: .*zero_ writes into a value",
}

SAID_IN_VIRTUAL_TIME = SAID | {
    "returns-its-own": "reduce returned other numbers on one replica than on another",
    "meets-alone": "replica 0 waits in mean for replicas that never come there",
    "meets-otherwise": "replica 1 calls mean where another one calls gather",
}


@pytest.mark.parametrize("mistake", SAID_IN_VIRTUAL_TIME)
def test_a_mistaken_program_is_refused(mistake):
    with pytest.raises(Exception, match="failed") as crash:
        virtual(mistake)
    assert re.search(SAID_IN_VIRTUAL_TIME[mistake], str(crash.value.__cause__))


@pytest.mark.dist
@pytest.mark.parametrize("mistake", SAID)
def test_real_processes_say_the_same(mistake):
    result = run_cell(cell(mistake, "real"), [OWN], options={})
    assert not result.finished
    assert re.search(SAID[mistake], result.reason)


# -- what cannot be ----------------------------------------------------------------------------------------------------


def test_a_program_for_replicas_that_hold_parts_is_not_possible():
    (refused,) = make_cells(sweep__strategy=["cut-and-reduced", "sync-ddp"], **SHORT)[:1]
    assert (
        "a layout's own reduce exchanges gradients of replicas that each hold the whole model" in refused.not_possible
    )


def test_complex_parameters_beside_real_ones_are_refused():
    changes = {"workload_changes": {"model": f"{MODELS}:complex"}}
    with pytest.raises(Exception, match="failed") as crash:
        virtual("rounded", **changes)
    assert "complex parameters beside real ones" in str(crash.value.__cause__)
    assert isinstance(crash.value.__cause__, Impossible)


@pytest.mark.dist
def test_real_processes_refuse_them_too():
    given = cell("rounded", "real", workload_changes={"model": f"{MODELS}:complex"})
    assert "complex parameters beside real ones" in run_cell(given, [OWN], options={}).reason


def test_statistics_of_all_replicas_need_another_exchange():
    changes = {"workload_changes": {"model": BATCHNORM, "sync_batchnorm": True}}
    with pytest.raises(Impossible, match="exchanges gradients by a program of its own"):
        make_setup(cell("rounded", **changes), [OWN]).replica()


# -- several workers of several devices --------------------------------------------------------------------------------

FOUR = {"sweep__gpus": [4], "sweep__global_batch_size": [24], "sweep__learning_rate": [0.05]}

GROUPS: dict[str, Any] = {
    "diloco": ("diloco", {"steps": 3, "replicas": 2}, {}),
    "fragments": ("diloco", {"steps": 4, "replicas": 2, "fragments": 2}, {}),
    "batchnorm": ("diloco", {"steps": 3, "replicas": 2}, {"workload_changes": {"model": BATCHNORM}}),
    "dropout": ("diloco", {"steps": 3, "replicas": 2}, {"workload_changes": {"model": DROPOUT}}),
    "uneven": ("diloco", {"steps": 2, "replicas": 2}, {"sweep__global_batch_size": [644], "goal__max_steps": 6}),
    "rounded gradients": ("over-groups", {"replicas": 2}, {}),
}

USUAL = ("diloco", "batchnorm", "rounded gradients")


@pytest.mark.dist
@pytest.mark.parametrize(
    "case", [case if case in USUAL else pytest.param(case, marks=pytest.mark.long) for case in GROUPS]
)
def test_two_workers_of_two_devices_train_the_same_on_both_clocks(case):
    strategy, options, changes = GROUPS[case]
    measured, simulated = (run(strategy, options, **FOUR | changes) for run in (real, virtual))
    assert {(w, d) for w, d in zip(measured.steps["worker"], measured.steps["device"], strict=True)} == {
        (worker, device) for worker in range(2) for device in range(2)
    }
    assert difference(measured, simulated) == 0.0
    assert [e.validation_metric for e in measured.evaluations] == [e.validation_metric for e in simulated.evaluations]
    assert measured.bytes_sent_per_step == pytest.approx(simulated.bytes_sent_per_step, rel=1e-3)


def test_diloco_over_ddp_is_diloco_over_workers_whose_batches_are_as_large():
    """Where a worker's devices share its batch, what it trains is what one device trains of the same batch."""
    over, alone = (
        virtual("diloco", {"steps": 3, "replicas": replicas}, **FOUR | {"sweep__gpus": [2 * replicas]})
        for replicas in (2, 1)
    )
    assert difference(over, alone) < 1e-14


@pytest.mark.parametrize(
    ("strategy", "options"), [("fsdp", {}), ("async-ps", {})], ids=["one worker", "workers of one device"]
)
def test_other_layouts_are_as_before(strategy, options):
    assert not cell(strategy, "real", options, **FOUR).not_possible


def test_groups_that_are_no_replicas_are_not_possible_on_real_processes():
    given = {**FOUR, "plugins": (OWN,)}
    refused = cell("piped-groups", "real", **given, sweep__micro_batch_size=6)
    assert "real processes run those whose devices are replicas under DDP" in refused.not_possible
    assert not cell("piped-groups", "virtual", **given, sweep__micro_batch_size=6).not_possible


@pytest.mark.dist
def test_messages_of_groups_are_refused_on_real_processes():
    result = run_cell(cell("sends-from-groups", "real", **FOUR), [OWN], options={})
    assert "send: workers of 2 devices each exchange by mean and gather on real processes" in result.reason
    assert virtual("sends-from-groups", **FOUR).updates == 12
