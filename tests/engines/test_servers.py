"""Parameter servers on a simulated cluster: what a scenario says of them, and closed forms put to the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cells import host, make_cell, make_cells
from constant_costs import constant_costs
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy
from places import ROOT

from harness import SERVER
from harness.core.errors import InputError
from harness.core.given_cluster import GivenServers
from harness.core.machine import Machine
from harness.core.outcome import Outcome
from harness.core.records import from_json, to_json
from harness.costs.cells.find import cluster_of
from harness.costs.profiles.cluster_figures import Bus, Cluster, LinkFigures, Servers
from harness.costs.profiles.constants import PLAIN
from harness.costs.profiles.device_profile import LayerTime, Profile
from harness.costs.profiles.shape import LayerShape, ModelShape
from harness.costs.steps.collectives import ring_s
from harness.costs.steps.server import server_times
from harness.engines.shared.setup import Setup, make_setup
from harness.engines.virtual.prices import Costs
from harness.engines.virtual.sizes import Sizes
from harness.scenario.plan import make_plan
from harness.scenario.read import load_scenario

virtual_engine = lazy("harness.engines.virtual.engine")
timing = lazy("harness.engines.virtual.timing")
whatif = lazy("harness.engines.virtual.whatif")

HUNDRED_MB = 10**8
TEN_GIGABIT = LinkFigures(latency_s=0.0, bandwidth_bytes_per_s=1.25e9)
AT_ONCE = LinkFigures(latency_s=0.0, bandwidth_bytes_per_s=1e30)
PLACEMENTS = ("cpu", "gpu", "co-located", "dedicated")


def setup_of(strategy: str, workers: int, steps: int) -> Setup:
    """Return a cell of `steps` updates that nobody evaluates."""
    goal = {"target_accuracy": "none", "max_steps": steps}
    changes: dict[str, Any] = {"workload": {"model": "softmax"}, "goal": goal, "sweep__global_batch_size": [workers]}
    return make_setup(make_cell(sweep__strategy=strategy, sweep__gpus=[workers], **changes))


def costs_of(cluster: Cluster, compute_s: float = 0.0) -> Costs:
    """Return costs of a gradient of 100 MB whose updates take no time of their own."""
    return replace(constant_costs(compute_s, 0.0, 0.0, AT_ONCE, HUNDRED_MB), cluster=cluster)


def cluster_with(
    servers: Servers,
    per_node: int = 1,
    between: LinkFigures | None = TEN_GIGABIT,
    slot: LinkFigures = AT_ONCE,
    shared_by: int = 1,
) -> Cluster:
    """Return nodes whose inside costs nothing, unless said otherwise."""
    bus = Bus(slot)
    return Cluster("a device", per_node, bus, between, host_link=slot, host_shared_by=shared_by, servers=servers)


def run(strategy: str, workers: int, steps: int, costs: Costs) -> Outcome:
    """Run a cell's program without computing numbers."""
    setup = setup_of(strategy, workers, steps)
    return virtual_engine.build(setup, costs=costs, executor=Sizes(setup, HUNDRED_MB, 0, dict)).run()


def rate_of(outcome: Outcome, skipped: int) -> float:
    """Return gradients applied a second once the first ones are left out."""
    times = outcome.updates_log["time_s"]
    return (len(times) - 1 - skipped) / (times[-1] - times[skipped])


def pushes_s(workers: int, cluster: Cluster) -> float:
    """Return when a server has a gradient of every worker, all sent at once."""
    setup, arrived = setup_of("sync-ps", workers, 1), []

    class Pushes(type(setup.strategy)):  # type: ignore[misc]
        async def work(self, worker):
            for batch in worker.batches():
                await worker.send(await worker.gradient(batch), to=SERVER)
                return

        async def serve(self, server):
            for _ in server.workers:
                await server.receive()
            arrived.append(engine.cluster.env.now)

    engine = virtual_engine.build(
        replace(setup, strategy=Pushes()), costs=costs_of(cluster), executor=Sizes(setup, HUNDRED_MB, 0, dict)
    )
    engine.run()
    return arrived[0]


# -- closed forms through the engine -----------------------------------------------------------------------------------


def test_eight_workers_push_into_two_servers():
    """S = 100 MB, all links 1.25 GB/s: push 320 ms, cap 25 gradients a second."""
    cluster = cluster_with(Servers("dedicated", 2))
    assert pushes_s(8, cluster) == pytest.approx(0.320)
    outcome = run("async-ps", 32, 30 * 32, costs_of(cluster, compute_s=0.1))
    assert rate_of(outcome, 10 * 32) == pytest.approx(25.0, rel=1e-6)


@settings(max_examples=30, derandomize=True)
@given(
    workers=st.integers(1, 24),
    count=st.integers(1, 32),
    worker_rate=st.floats(1e8, 1e11),
    server_rate=st.floats(1e8, 1e11),
    latency_s=st.floats(0.0, 0.1),
)
def test_a_push_waits_for_the_worker_or_for_the_servers(workers, count, worker_rate, server_rate, latency_s):
    cluster = cluster_with(
        Servers("dedicated", count, link=LinkFigures(0.0, server_rate)), between=LinkFigures(latency_s, worker_rate)
    )
    expected = max(HUNDRED_MB / worker_rate, workers * HUNDRED_MB / (count * server_rate)) + latency_s
    assert pushes_s(workers, cluster) == pytest.approx(expected)


@settings(max_examples=20, derandomize=True)
@given(workers=st.integers(2, 24), count=st.integers(1, 8), compute_s=st.floats(0.0, 1.0))
def test_no_number_of_workers_beats_what_the_servers_interfaces_carry(workers, count, compute_s):
    steps = 12 * workers
    outcome = run("async-ps", workers, steps, costs_of(cluster_with(Servers("dedicated", count)), compute_s))
    times = outcome.updates_log["time_s"]
    # Gradients that arrive within one worker's sending time may arrive together, but no more than the servers carry.
    assert len(times) <= count * 12.5 * times[-1] * (1 + 1e-9)


@settings(max_examples=60, derandomize=True)
@given(
    placement=st.sampled_from(PLACEMENTS),
    nodes=st.integers(1, 5),
    per_node=st.integers(1, 4),
    count=st.integers(1, 6),
    rates=st.tuples(*[st.floats(1e8, 1e11)] * 3),
    shared_by=st.integers(1, 2),
    compute_s=st.floats(0.0, 1.0),
)
def test_a_synchronous_step_computes_pushes_and_pulls(placement, nodes, per_node, count, rates, shared_by, compute_s):
    """Latency left out; all nodes full, as the closed forms suppose."""
    between, slot, add = rates
    nodes = 1 if placement in ("cpu", "gpu") else nodes
    cluster = cluster_with(
        Servers(placement, count),
        per_node,
        LinkFigures(0.0, between) if nodes > 1 or placement == "dedicated" else None,
        LinkFigures(0.0, slot),
        shared_by,
    )
    cluster = replace(cluster, constants=replace(PLAIN, host_add_bytes_per_s=add))
    workers = nodes * per_node
    if placement == "dedicated":
        cluster = replace(cluster, host_link=None)  # the copy into a device is a word of its own there
    times = server_times(cluster, workers, HUNDRED_MB)
    expected = 4 * (compute_s + times.total_s) - times.pull_s  # the last weights are still to come
    assert run("sync-ps", workers, 4, costs_of(cluster, compute_s)).training_s == pytest.approx(expected)


@settings(max_examples=20, derandomize=True)
@given(workers=st.integers(2, 16))
def test_servers_beside_every_worker_carry_what_a_ring_carries(workers):
    cluster = cluster_with(Servers("co-located", workers))
    outcome = run("sync-ps", workers, 5, costs_of(cluster))
    ring = ring_s(workers, HUNDRED_MB, TEN_GIGABIT)
    assert outcome.bytes_sent_per_step == pytest.approx(2 * HUNDRED_MB * (workers - 1) / workers)
    assert outcome.training_s == pytest.approx(4.5 * ring)  # the last weights are still to come


def test_interfaces_of_nodes_bear_both_directions_of_co_located_servers():
    """Without a barrier pushes and pulls meet on the same interfaces: W B / (2 S (W - 1) / W) gradients a second."""
    workers = 8
    outcome = run("async-ps", workers, 60 * workers, costs_of(cluster_with(Servers("co-located", workers))))
    cap = workers * 12.5 / (2 * (workers - 1) / workers)
    assert 0.8 * cap <= rate_of(outcome, 10 * workers) <= cap * 1.02


def test_replicas_of_a_node_add_up_before_they_send_where_all_wait_for_all():
    """Two nodes of four: each sends half of one gradient, not of four; asynchronous workers cannot."""
    cluster = cluster_with(Servers("co-located", 2), per_node=4)
    assert pushes_s(8, cluster) == pytest.approx(0.5 * 0.080)
    asynchronous = run("async-ps", 8, 8, costs_of(cluster)).updates_log["time_s"]
    assert asynchronous[-1] == pytest.approx(4 * 0.5 * 0.080)


def test_devices_of_one_slot_wait_for_each_other_and_others_do_not():
    slot = LinkFigures(1e-3, 12.5e9)
    cluster = cluster_with(Servers("cpu"), per_node=8, between=None, slot=slot, shared_by=2)
    assert [pushes_s(workers, cluster) for workers in (1, 2, 8)] == pytest.approx([9e-3, 17e-3, 17e-3])
    slow_host = replace(cluster, constants=replace(PLAIN, host_add_bytes_per_s=10e9))
    assert pushes_s(8, slow_host) == pytest.approx(81e-3)


def test_workers_of_other_nodes_reach_a_host_through_its_interface():
    cluster = cluster_with(Servers("cpu"), per_node=2)
    assert [pushes_s(workers, cluster) for workers in (2, 4, 8)] == pytest.approx([0, 2 * 0.080, 6 * 0.080])


def test_variables_on_devices_of_several_nodes_cross_between_them():
    """Each node of four sends its part of four gradients that four others hold: 4 x 4/8 of 100 MB."""
    cluster = cluster_with(Servers("gpu"), per_node=4)
    assert pushes_s(8, cluster) == pytest.approx(4 * 4 / 8 * 0.080)


@pytest.mark.parametrize(("count", "each_s"), [(1, 0.05), (4, 0.0125)])
def test_shards_add_one_gradient_after_the_other(count, each_s):
    """2 GB/s each: one worker waits for its own gradient, many take turns at K x 2 GB/s."""
    servers = Servers("dedicated", count, 2e9, AT_ONCE)
    cluster = cluster_with(servers, between=AT_ONCE)
    assert run("sync-ps", 1, 10, costs_of(cluster, 1.0)).training_s == pytest.approx(10 * (1.0 + each_s))
    assert pushes_s(8, cluster) == pytest.approx(8 * each_s)
    assert rate_of(run("async-ps", 8, 200, costs_of(cluster)), 20) == pytest.approx(1 / each_s)


def layered_costs(cluster: Cluster, compute_s: float, layers: int = 10) -> Costs:
    """Return costs of 100 MB in equal layers, whose backward pass takes twice the forward pass."""
    shape = ModelShape(tuple(LayerShape(f"{k}", (HUNDRED_MB // 4 // layers,)) for k in range(layers)))
    times = [LayerTime.at(1.0, compute_s / 3 / layers, compute_s * 2 / 3 / layers)] * layers
    return Costs(Profile(shape, tuple(times)), cluster)


@pytest.mark.parametrize(
    ("compute_s", "exposed_s"),
    [
        # A way takes 320 ms. Slower computing hides all but one layer's part of each; of faster computing the way out
        # waits for one layer's pass.
        (3.0, 2 * 0.032),
        (0.3, 0.320 - 0.200 + 0.020 + 0.320 - 0.100 + 0.010),
    ],
)
def test_layers_pass_to_and_from_servers_while_others_are_computed(compute_s, exposed_s):
    cluster = cluster_with(Servers("dedicated", 2, overlap=True))
    starts = steps_s(8, layered_costs(cluster, compute_s))
    assert starts == pytest.approx(compute_s + exposed_s)
    half = replace(cluster, constants=replace(PLAIN, server_exposed_fraction=0.5))
    assert steps_s(8, layered_costs(half, compute_s)) == pytest.approx(compute_s + (exposed_s + 0.640) / 2)
    for changes in ({"servers": Servers("dedicated", 2)}, {"shared_host": True}):  # threads that send do not compute
        assert steps_s(8, layered_costs(replace(cluster, **changes), compute_s)) == pytest.approx(compute_s + 0.640)


def steps_s(workers: int, costs: Costs) -> float:
    """Return the seconds between updates of synchronous servers."""
    times = run("sync-ps", workers, 4, costs).updates_log["time_s"]
    return (times[-1] - times[0]) / 3


def test_no_overlap_lets_servers_carry_more_than_their_interfaces_do():
    cluster = cluster_with(Servers("dedicated", 2, overlap=True))
    outcome = run("async-ps", 32, 20 * 32, layered_costs(cluster, 0.1 / 32))  # a batch is of 32
    assert rate_of(outcome, 10 * 32) == pytest.approx(25, rel=1e-6)


def test_a_straggler_does_not_hold_up_the_pushes_of_others():
    """Work is done as it comes: the last of nine pushes alone, not behind a share of eight others."""
    cell = make_cell(
        sweep__strategy="sync-ps",
        sweep__gpus=[9],
        sweep__global_batch_size=[9],
        workload={"model": "softmax"},
        goal={"target_accuracy": "none", "max_steps": 1},
        faults__stragglers=[{"rank": 3, "slowdown": 2.0}],
    )
    setup = make_setup(cell)
    costs = costs_of(cluster_with(Servers("dedicated", 1)), compute_s=1.0)
    outcome = virtual_engine.build(setup, costs=costs, executor=Sizes(setup, HUNDRED_MB, 0, dict)).run()
    assert outcome.training_s == pytest.approx(2.0 + 0.080)


# -- what a scenario says ----------------------------------------------------------------------------------------------


def cell_with(servers: dict[str, Any] | None, gpus: int = 8) -> Any:
    cluster = {"preset": "aws-p2.8xlarge", **({} if servers is None else {"servers": servers})}
    return make_cell(sweep__strategy="sync-ps", sweep__gpus=[gpus], cluster=cluster)


def test_servers_of_a_scenario_make_another_cell_and_silence_does_not():
    silent, described = cell_with(None), cell_with({})
    assert silent.cluster.servers is None
    assert cluster_of(silent).servers is None
    assert described.cluster.servers == GivenServers("cpu")
    assert described.cell_id != silent.cell_id


def test_servers_become_figures():
    written = {"placement": "dedicated", "count": 4, "apply_rate": "2 GB/s", "link": "25 Gb/s"}
    found = cluster_of(cell_with(written))
    assert found.servers == Servers("dedicated", 4, 2e9, LinkFigures(30e-6, 3.125e9), overlap=True)
    assert found.node_link is not None  # one node of workers, and other nodes of servers
    assert from_json(Cluster, to_json(found)) == found
    assert cluster_of(cell_with({"placement": "cpu"})).node_link is None


@pytest.mark.parametrize(("gpus", "count"), [(8, 1), (32, 4)])
def test_co_located_servers_are_on_every_node_where_nobody_counts_them(gpus, count):
    found = cluster_of(cell_with({"placement": "co-located"}, gpus))
    assert found.servers == Servers("co-located", count, overlap=True)
    assert found.host_link is not None


def test_servers_may_be_swept_by_each_of_their_keys():
    cells = make_cells(
        **{"sweep__cluster.servers.count": [1, 2], "sweep__cluster.servers.placement": ["co-located", "dedicated"]},
        sweep__strategy="sync-ps",
        sweep__gpus=[16],
        cluster={"preset": "aws-p2.8xlarge"},
    )
    assert len({cell.cell_id for cell in cells}) == len(cells) == 4
    assert {cluster_of(cell).servers for cell in cells} == {
        Servers(placement, count, overlap=True) for placement in ("co-located", "dedicated") for count in (1, 2)
    }


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"servers": {}}, r"cluster.servers = \"cpu\": needs a simulated cluster"),
        ({"servers": {"placement": "gpu", "overlap": False}}, r"needs a simulated cluster"),
        ({"servers": {"count": 2, "overlap": False}}, r"it says only on which machine servers run"),
        ({"preset": "dgx-a100", "servers": {"cont": 3}}, r"cluster.servers.cont: no such key; did you mean count\?"),
        ({"preset": "dgx-a100", "servers": {"count": 0}}, r"cluster.servers.count = 0: a whole number, at least 1"),
        ({"preset": "dgx-a100", "servers": {"placement": "colocated"}}, r"did you mean co-located\?"),
        ({"preset": "dgx-a100", "servers": {"apply_rate": 2}}, r"cluster.servers.apply_rate = 2: a rate such as"),
        ({"preset": "dgx-a100", "servers": {"placement": "gpu", "count": 2}}, r"each one holds an equal share"),
        ({"preset": "dgx-a100", "servers": {"link": "25 Gb/s"}}, r"only dedicated servers have their own link"),
        (
            {"preset": "dgx-a100", "servers": {"placement": "dedicated", "link": "infinibnd-hdr"}},
            r"did you mean infiniband-hdr\?",
        ),
        ({"preset": "workstation-4xa100", "servers": {"placement": "dedicated"}}, r"needs cluster.inter_node too"),
    ],
)
def test_what_cannot_be_meant_is_refused(cluster, message):
    with pytest.raises(InputError, match=message):
        make_cell(engine="auto", sweep__strategy="sync-ps", sweep__gpus=[4], cluster=cluster)


def test_servers_can_be_asked_for_another_bandwidth_where_they_have_one():
    dedicated = whatif.what_if(timed("dedicated"), host())
    base = dedicated.configured[whatif.SERVER]
    assert dedicated.step_s({whatif.SERVER: base / 2}) > dedicated.step_s({whatif.SERVER: base})
    assert whatif.SERVER not in whatif.what_if(timed("co-located"), host()).configured


def timed(placement: str) -> Any:
    """Return a cell without mathematics on two nodes."""
    return make_cell(
        sweep__strategy="sync-ps",
        sweep__gpus=[16],
        workload={"model": {"parameters": "25 M", "layers": 50}},
        goal={"max_steps": 10},
        cluster={
            "preset": "aws-p2.8xlarge",
            "device": {"samples_per_second": 50, "batch_size": 64},
            "servers": {"placement": placement},
        },
    )


# -- published outcomes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "worst"), [("resnet50-k80-ec2", 0.12), ("vgg16-k80-servers", 0.07)])
def test_published_scenarios_come_out_as_measured(name, worst):
    path = ROOT / "scenarios/published" / f"{name}.toml"
    plan = make_plan(load_scenario(path, host()), host(), Machine(cores=2))
    errors = []
    for cell in plan.cells:
        for observed in cell.observed:
            outcome = timing.run_timing(cell, host())
            errors.append(outcome.samples / outcome.training_s / observed.throughput_samples_per_s - 1)
    assert len(errors) >= 3
    assert max(map(abs, errors)) <= worst
