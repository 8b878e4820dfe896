"""Measured profiles and links: fits, keys, what is kept, what shares a host's cores, and `harness calibrate`."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import make_cell
from click.testing import CliRunner
from constant_costs import constant_costs
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy

from harness.analysis.cell_row import outcome_row
from harness.api.strategy import SERVER, Layout, Strategy, Value
from harness.commands.calibrate import describe
from harness.commands.cli import main
from harness.core import cache
from harness.core.budget import Budget
from harness.core.machine import Machine, detect_machine
from harness.core.records import from_json, to_json
from harness.costs.cells import find
from harness.costs.cells.measured import (
    MeasuredLinks,
    MeasuredStep,
    keep_links,
    links_key,
    load_cluster,
    load_profile,
    make_profile,
    missing_sizes,
    neighbours_of,
    profile_key,
    sizes_of,
)
from harness.costs.profiles.cluster_figures import Bus, Cluster, LinkFigures
from harness.costs.profiles.device_profile import TimeCurve
from harness.costs.profiles.runtime import Messages, Runtime
from harness.costs.profiles.shape import LayerShape, Linear, ModelShape
from harness.costs.steps.collectives import ring_s
from harness.engines.calibration import laws as fit
from harness.engines.shared.setup import Setup, make_setup
from harness.engines.virtual.cores import Cores
from harness.engines.virtual.prices import Costs
from harness.engines.virtual.sizes import Sizes

link_times = lazy("harness.engines.calibration.link_times")
single_times = lazy("harness.engines.calibration.single_times")
workload_times = lazy("harness.engines.calibration.workload_times")
virtual_engine = lazy("harness.engines.virtual.engine")

MACHINE = Machine(cores=2)
MEASURED: dict[str, Any] = {
    "workload": {"model": "softmax"},
    "goal": {"target_accuracy": "none", "max_steps": 12},
    "cluster": {"preset": "this-machine"},
    "sweep__strategy": ["single"],
    "sweep__gpus": [1],
    "sweep__global_batch_size": [32],
}
SIZES = [2.0**k for k in range(10, 27, 2)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def measured_cell(**changes: Any) -> Any:
    # Copied, since changes of single keys are written into the sections that are handed over.
    return make_cell(**(copy.deepcopy(MEASURED) | changes))


# -- fits --------------------------------------------------------------------------------------------------------------

ALPHAS = st.floats(1e-6, 1e-2)
BETAS = st.floats(1e-11, 1e-7)


@given(ALPHAS, BETAS)
def test_alpha_and_beta_of_an_exact_table_are_found(alpha, beta):
    found = fit.alpha_beta([(size, alpha + beta * size) for size in SIZES])
    assert found == pytest.approx((alpha, beta), rel=1e-6)


@given(ALPHAS, BETAS, st.lists(st.floats(0.9, 1.1), min_size=len(SIZES), max_size=len(SIZES)))
def test_a_noisy_table_is_fitted_within_its_noise_and_never_below_zero(alpha, beta, noise):
    table = [(size, (alpha + beta * size) * factor) for size, factor in zip(SIZES, noise, strict=True)]
    found = fit.alpha_beta(table)
    assert min(found) >= 0
    assert fit.misfit(table, *found) <= 0.2


@given(st.integers(2, 64), ALPHAS, st.floats(1e7, 1e12))
def test_the_ring_that_is_fitted_takes_as_long_as_the_ring_that_was_measured(ranks, latency, bandwidth):
    link = LinkFigures(latency, bandwidth)
    found = fit.ring_link(ranks, [(size, ring_s(ranks, size, link)) for size in SIZES])
    for size in SIZES:
        assert ring_s(ranks, size, found) == pytest.approx(ring_s(ranks, size, link), rel=1e-3)


def test_more_bytes_never_take_less_time():
    assert fit.curve([(1, 2.0), (2, 1.0), (4, 3.0)]).points == ((1.0, 2.0), (2.0, 2.0), (4.0, 3.0))


def test_a_level_curve_stays_where_it_ends():
    assert fit.level([(0.1, 1.0), (1.0, 2.0)]).at(50.0) == pytest.approx(2.0)


def test_what_ddp_adds_is_told_apart_from_its_all_reduce():
    all_reduce = TimeCurve(((1e3, 1e-3), (1e9, 1.0)))
    rows = [(x, 5e-4, 7e-4, 7e-4 + all_reduce.at(x) + 2e-4 + 1e-10 * x) for x in (1e5, 1e6, 1e7)]
    assert fit.wrapper_of(rows, all_reduce) == pytest.approx((2e-4, 2e-4, 1e-10))


def test_a_hop_holds_the_link_for_its_bytes_beyond_the_latency():
    hop = fit.hop_curve([(1e3, 1e-4), (1e6, 1e-3)], latency_s=5e-5)
    assert hop.at(1e3) == pytest.approx(5e-5)
    assert hop.at(1e6) == pytest.approx(9.5e-4)


def test_a_message_arrives_when_a_sleeping_receiver_begins_to_copy():
    messages = link_times.messages_of([{1000: (0.2, 1.0), 4000: (0.3, 1.5)}, {1000: (0.1, 0.5), 4000: (0.2, 0.4)}])
    assert (messages.send.at(1000), messages.take.at(4000)) == pytest.approx((0.2, 0.2))
    assert messages.arrive.at(1000) == pytest.approx(0.4)


def test_groups_are_powers_of_two_and_all_devices():
    assert [link_times.group_sizes(n) for n in (1, 2, 3, 6, 8)] == [[], [2], [2, 3], [2, 4, 6], [2, 4, 8]]


def test_the_lower_quartile_leaves_out_what_others_took():
    assert single_times.typical([1.0, 1.0, 1.0, 9.0]) == 1.0
    assert single_times.typical([3.0]) == 3.0
    assert single_times.spread([1.0, 1.0, 1.0, 1.0]) == 0.0


# -- what is kept ------------------------------------------------------------------------------------------------------

CURVES = st.lists(st.tuples(st.floats(1, 1e6), st.floats(0, 10)), max_size=3).map(
    lambda points: TimeCurve(tuple(points))
)
RUNTIMES = st.builds(
    Runtime,
    cores=st.none() | st.integers(1, 64),
    wrapper_s=st.floats(0, 1),
    hop=CURVES,
    messages=st.none() | st.builds(Messages, CURVES, CURVES, CURVES),
    served=CURVES,
    served_apart=CURVES,
    exchanged=CURVES,
    stall=CURVES,
)


@given(
    RUNTIMES,
    st.dictionaries(st.integers(2, 64), st.builds(LinkFigures, st.floats(0, 1), st.floats(1, 1e12)), max_size=3),
)
def test_a_cluster_comes_back_from_json_as_it_was(runtime, groups):
    tables = {ranks: ((1024.0, 0.5), (2048.0, 0.75)) for ranks in groups}
    cluster = Cluster(
        "here", 2, Bus(LinkFigures(1e-5, 1e9), groups, tables), LinkFigures(1e-4, 1e8), runtime=runtime, error=0.1
    )
    assert from_json(Cluster, json.loads(json.dumps(to_json(cluster)))) == cluster


def content(forward: list[float], backward: list[float], **changes: Any) -> MeasuredStep:
    layers = tuple(LayerShape(f"layer{k}", (10,), output_bytes=Linear(0, 40)) for k in range(len(forward)))
    figures = {
        "input_s": 0.2,
        "optimizer_s": 0.1,
        "step_s": 0.01,
        "spread": 0.02,
        "launch_s": 1e-6,
        "memory_bandwidth_bytes_per_s": 1e9,
    }
    facts = {"neighbours": 1, "device": "a core", "steps": 9, "shape": to_json(ModelShape(layers))}
    return from_json(MeasuredStep, {"forward_s": forward, "backward_s": backward} | figures | facts | changes)


def test_a_profile_joins_sizes_and_never_falls_with_samples():
    profile = make_profile({8: content([1.0, 2.0], [3.0, 4.0]), 16: content([0.5, 4.0], [6.0, 8.0])})
    assert profile.gradient_s(8) == pytest.approx(10.0)
    assert profile.gradient_s(16) == pytest.approx(1.0 + 4.0 + 6.0 + 8.0)
    assert profile.times[0].forward.at(12) == 1.0
    assert (profile.input.at(8), profile.step_s) == (0.2, 0.01)
    assert profile.origin == "measured"
    assert profile.error == 0.03
    assert "8 and 16 samples, with 1 other busy device" in profile.text


@pytest.mark.parametrize(
    "changes",
    [
        {"workload__model": "mlp"},
        {"workload__precision": "fp64"},
        {"workload__optimizer": "adam"},
        {"workload__clip_norm": 1.0},
        {"workload__step": "compiled"},
        {"workload__channels_last": True},
        {"workload__loading": {"resident": False}},
        {"workload__tf32": False},
        {"workload__optimizer": {"name": "sgd", "fused": True}},
        {"threads_per_device": 2},
        {"sweep__strategy": "sync-ddp", "sweep__gpus": [2], "sweep__global_batch_size": [64]},
    ],
)
def test_whatever_changes_a_steps_time_changes_the_key(changes):
    cell, other = measured_cell(), measured_cell(**changes)
    assert profile_key(cell, MACHINE, 32) != profile_key(other, MACHINE, 32)


def test_whatever_leaves_a_steps_time_alone_leaves_the_key():
    cell = measured_cell(sweep__strategy="sync-ps", sweep__gpus=[2])
    ways = (
        {"workload__step": "eager"},
        {"workload__optimizer": {"name": "sgd", "fused": False}},
        {"workload__loading": {"workers": 2}},  # what is measured is reading in the process that trains
    )  # as without the keys
    for changes in ({"sweep__learning_rate": [0.5]}, {"sweep__strategy": "local-sgd"}, {"goal__max_steps": 3}, *ways):
        other = measured_cell(**({"sweep__strategy": "sync-ps", "sweep__gpus": [2]} | changes))
        assert profile_key(cell, MACHINE, 16) == profile_key(other, MACHINE, 16)


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_measurement_is_of_the_code_that_was_measured(kind):
    cell = measured_cell()
    edited = replace(cell, code={**cell.code, kind: "edited"})
    assert cell.code[kind]
    assert profile_key(edited, MACHINE, 32) != profile_key(cell, MACHINE, 32)


def test_sizes_are_what_passes_at_once_and_half_of_it():
    assert sizes_of(measured_cell(sweep__global_batch_size=[32])) == (16, 32)
    assert sizes_of(measured_cell(sweep__global_batch_size=[1])) == (1,)


def test_neighbours_are_the_other_devices_as_far_as_there_are_cores():
    cells = {
        n: measured_cell(sweep__strategy="sync-ps", sweep__gpus=[n], sweep__global_batch_size=[48]) for n in (1, 2, 8)
    }
    assert [neighbours_of(cells[n], Machine(cores=4)) for n in (1, 2, 8)] == [0, 1, 3]


def test_what_another_version_kept_counts_as_absent():
    cell = measured_cell()
    for size in sizes_of(cell):
        cache.save("profile", profile_key(cell, detect_machine(), size), {"seconds": 1.0})
    assert load_profile(cell) is None
    assert missing_sizes(cell, detect_machine()) == sizes_of(cell)
    cache.save("links", links_key(detect_machine(), "cpu", 1), {"cluster": {"rings": 1}})
    assert load_cluster("cpu", 1) is None


def test_cells_that_need_the_same_are_measured_once():
    cells = [measured_cell(), measured_cell(sweep__learning_rate=[0.5]), measured_cell(sweep__global_batch_size=[64])]
    (job,) = workload_times.missing_jobs(cells, MACHINE)
    assert job.sizes == (16, 32, 64)


@pytest.mark.dist
@pytest.mark.timed
def test_profiles_are_measured_once_and_then_give_the_same_run_again():
    cell, said = measured_cell(sweep__strategy="sync-ps", sweep__gpus=[2]), []
    (profile,) = workload_times.ensure_profiles([cell], [], said.append)
    assert said[0].startswith("measuring 1 compute profile (softmax), at least ")
    assert 0 < profile.gradient_s(16) < 0.1
    assert 0 < profile.optimizer_s < 0.1
    assert [layer.name for layer in profile.shape.layers] == ["flatten", "classifier"]
    assert profile.shape.parameters == 64 * 10 + 10
    assert workload_times.ensure_profiles([cell], [], said.append) == [profile]
    assert len(said) == 2
    first, second = (virtual_engine.run_virtual(make_setup(cell)) for _ in range(2))
    assert first.steps == second.steps
    assert first.training_s == second.training_s > 0
    assert any("with batches of 8 and 16 samples" in note and "±" in note for note in first.notes)
    assert min(first.steps["input_s"]) > 0
    row = outcome_row(cell, first, Budget.of(cell.goal, 1437))
    assert row["input_s"] > 0
    assert row["other_s"] >= 0.9 * profile.step_s * max(first.steps["step"])  # the host's share is in no part of a step
    assert profile.step_s > 0


@pytest.mark.dist
@pytest.mark.timed
def test_reading_passes_update_and_the_hosts_share_are_each_part_of_every_step_that_is_measured():
    cell = measured_cell()
    (stepper,) = single_times.prepare(cell, [], [16])
    for _ in range(3):
        stepper.block()
        stepper.layers.append(
            single_times.layers_of(stepper.worker.replica, 16, single_times.traced_shape(stepper.worker.setup))
        )
    found = single_times.measured_step(stepper, 0.0, 1.0, 0, "here")
    passes = sum(found.forward_s) + sum(found.backward_s)
    assert passes == pytest.approx(single_times.typical(stepper.gradients))
    assert min(found.input_s, passes, found.optimizer_s, found.step_s) > 0
    assert min(*stepper.inputs, *stepper.gradients, *stepper.applies, *stepper.rests) > 0
    assert len(stepper.inputs) == len(stepper.rests) == found.steps >= 3


# -- what shares a host's cores ----------------------------------------------------------------------------------------


def test_cores_enough_for_all_slow_nobody():
    cores = Cores(3)
    assert [cores.occupy(who, 0.0, 2.0) for who in (0, 1, -1)] == [2.0, 2.0, 2.0]


def test_a_server_on_busy_cores_is_slow_and_what_it_takes_is_missed_by_the_others():
    cores = Cores(2)
    assert [cores.occupy(who, 0.0, 10.0) for who in (0, 1)] == [10.0, 10.0]
    assert cores.occupy(-1, 0.0, 1.0) == pytest.approx(1.5)
    assert cores.occupy(0, 10.0, 5.0) == pytest.approx(5.5)
    assert cores.occupy(1, 10.0, 5.0) == pytest.approx(5.5)


def test_a_worker_that_ends_gives_its_core_back():
    cores = Cores(1)
    cores.occupy(0, 0.0, 1.0)
    # Half a core until 1 s, then all of it; the half second that it took from the other is owed to that one.
    assert cores.occupy(1, 0.0, 2.0) == pytest.approx(2.5)
    assert cores.occupy(0, 2.5, 1.0) == pytest.approx(1.5)


JOBS = st.lists(st.tuples(st.integers(0, 4), st.floats(0.01, 5.0)), min_size=1, max_size=40)


@settings(max_examples=60)
@given(JOBS, st.integers(1, 4))
def test_no_host_gives_more_seconds_than_it_has(jobs, count):
    """Each endpoint works without a pause; what is still owed at the end has not been worked off."""
    cores, free = Cores(count), dict.fromkeys(range(5), 0.0)
    for _ in range(len(jobs)):
        who, seconds = min(jobs, key=lambda job: free[job[0]])
        jobs.remove((who, seconds))
        length = cores.occupy(who, free[who], seconds)
        assert length >= seconds * (1 - 1e-9)
        free[who] += length


def calibrated(**changes: Any) -> Cluster:
    messages = Messages(*(TimeCurve(((1.0, 0.0), (1000.0, seconds))) for seconds in (0.1, 0.2, 0.3)))
    runtime = Runtime(**({"cores": 2, "messages": messages} | changes))
    return Cluster("here", 2, Bus(LinkFigures(0.0, 1e9)), text="calibrated", error=0.1, runtime=runtime)


class PushesOnly(Strategy):
    """Workers that never wait for their server."""

    name = "pushes-only"

    async def work(self, worker):
        for batch in worker.batches():
            await worker.send(await worker.gradient(batch), to=SERVER)

    async def serve(self, server):
        while message := await server.receive():
            await server.apply(message.value)


def setup_of(strategy: str, workers: int) -> Setup:
    sweep = {"sweep__strategy": [strategy], "sweep__gpus": [workers], "sweep__global_batch_size": [32 * workers]}
    return make_setup(measured_cell(**sweep))


def step_of(setup: Setup, cluster: Cluster) -> float:
    """Return the mean step of a gradient of 1 s, 1,000 bytes long, with updates of 0.05 s."""
    costs = replace(constant_costs(1.0, 0.0, 0.05, LinkFigures(0.0, 1e9), 1000), cluster=cluster)
    executor: Any = Sizes(setup, 1000, 0, dict)
    steps = virtual_engine.build(setup, costs=costs, executor=executor).run().steps
    starts = [s for s, w in zip(steps["start_s"], steps["worker"], strict=True) if w == 0]
    return (starts[-1] - starts[1]) / (len(starts) - 2)


def test_a_message_through_the_hosts_memory_keeps_both_ends_busy():
    """Sent 0.1 s, on its way 0.2 s from the start, copied out 0.3 s; there and back, and one update of 0.05 s."""
    assert step_of(setup_of("sync-ps", 1), calibrated()) == pytest.approx(1.0 + 0.2 + 0.3 + 0.05 + 0.2 + 0.3)


def test_a_server_without_a_core_of_its_own_slows_the_workers():
    """It needs 0.35 s of each second of two workers: 2.2 + 0.7 core-seconds on two cores are 1.45 s."""
    setup = setup_of("sync-ps", 2)
    setup = replace(setup, strategy=PushesOnly())
    assert step_of(setup, calibrated(cores=3)) == pytest.approx(1.1)
    assert step_of(setup, calibrated(cores=2)) == pytest.approx(1.45, rel=0.05)


def test_what_serving_loses_depends_on_whether_cores_are_shared():
    shared, apart = (TimeCurve(((1.0, seconds), (1000.0, seconds))) for seconds in (0.5, 0.2))
    for workers, expected in ((1, 0.2), (2, 0.5)):
        setup = setup_of("sync-ps", workers)
        losing = step_of(setup, calibrated(served=shared, served_apart=apart))
        assert losing - step_of(setup, calibrated()) == pytest.approx(expected)


def test_what_ddp_loses_is_lost_once_a_step():
    lost = TimeCurve(((1.0, 0.5), (1000.0, 0.5)))
    costs = constant_costs(1.0, 0.0, 0.0, LinkFigures(0.0, 1e9), 1000)
    for data, expected in ((1, 0.0), (2, 0.5)):
        seconds = [
            replace(costs, cluster=calibrated(exchanged=curve)).step(Layout(data=data), 32, 32).total_s
            for curve in (lost, TimeCurve())
        ]
        assert seconds[0] - seconds[1] == pytest.approx(expected)


class SaysGoodbye(Strategy):
    """A server that sends much, then little, and leaves."""

    name = "says-goodbye"

    async def work(self, worker):
        while message := await worker.receive(SERVER):
            worker.note("much" if isinstance(message.value, Value) else message.value)

    async def serve(self, server):
        await server.send(server.weights, to=0)
        await server.send("little", to=0)


def test_neither_a_small_message_nor_a_notice_overtakes_a_large_one():
    late = Messages(TimeCurve(((1.0, 0.0), (1000.0, 0.1))), TimeCurve(((64.0, 0.0), (1000.0, 9.0))))
    lost = TimeCurve(((64.0, 0.0), (1000.0, 5.0)))
    setup = replace(setup_of("sync-ps", 2), strategy=SaysGoodbye())
    executor: Any = Sizes(setup, 1000, 0, dict)
    costs = replace(
        constant_costs(1.0, 0.0, 0.05, LinkFigures(0.0, 1e9), 1000), cluster=calibrated(messages=late, served=lost)
    )
    assert virtual_engine.build(setup, costs=costs, executor=executor).run().notes[:2] == ["much", "little"]


def test_a_mean_loses_what_meeting_after_so_much_computing_costs():
    stall = fit.level([(0.5, 0.1), (10.0, 2.0)])
    costs = Costs(constant_costs(1.0, 0.0, 0.0, LinkFigures(0.0, 1e9), 4).profile, calibrated(stall=stall))
    quiet = Costs(costs.profile, calibrated())
    lost = costs.mean_s(2, Layout(), 4, since_s=10.0) - quiet.mean_s(2, Layout(), 4, since_s=10.0)
    assert lost == pytest.approx(2.0)


def test_exchanges_are_hidden_only_where_their_threads_have_cores():
    assert Runtime(cores=4).hides_exchange(2)
    assert not Runtime(cores=2).hides_exchange(2)
    assert Runtime().hides_exchange(1000)


# -- the command -------------------------------------------------------------------------------------------------------


def test_showing_what_was_never_calibrated_says_what_to_do():
    answer = CliRunner().invoke(main, ["calibrate", "--show", "--device", "cpu"])
    assert answer.exit_code == 5
    assert "never calibrated on this machine; run `harness calibrate`" in answer.output


def stored_links() -> MeasuredLinks:
    tables = {"all-reduce": [(1024, 1e-4), (2**20, 1e-3)], "point-to-point": [(1024, 5e-5), (2**20, 5e-4)]}
    cluster = calibrated(wrapper_s=1e-4, stall=fit.level([(0.001, 0.0005)]))
    return MeasuredLinks(cluster, {"groups": {"2": {"collectives": tables}}}, measured_at=1000.0)


def test_what_is_stored_is_shown_with_its_age():
    text = describe(stored_links(), now_s=1000.0 + 7200)
    assert text.startswith("here: measured 2 h ago")
    assert "all-reduce" in text
    assert "DDP adds 100 us to a step" in text
    assert "meeting after 1 ms of computing loses 500 us" in text


def test_the_command_shows_what_is_stored():
    keep_links(detect_machine(), "cpu", 1, stored_links())
    answer = CliRunner().invoke(main, ["calibrate", "--show", "--device", "cpu"])
    assert answer.exit_code == 0, answer.output
    assert "2 processes" in answer.output


def test_a_calibrated_machine_is_what_cells_without_a_cluster_run_on():
    keep_links(detect_machine(), "cpu", 1, stored_links())
    found = find.cluster_of(measured_cell())
    assert (found.text, found.runtime.cores, found.error) == ("calibrated", 2, 0.1)
