"""A machine is said once: a preset is its parts, and a link that says little is completed aloud."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import host, make_cell, to_toml

from harness.core.cell import Cell
from harness.core.errors import InputError
from harness.core.given_cluster import ClusterFigures, LinkFigures
from harness.costs.cells import cluster_of
from harness.costs.price import PricedStep, priced_step
from harness.costs.profiles import Cluster
from harness.costs.profiles.constants import PLAIN, PUBLISHED
from harness.costs.steps import waiting_s
from harness.scenario.plan import Machine, make_plan
from harness.scenario.read import parse_scenario
from harness.scenario.resolve_cluster import MEDIA

STEP = {"samples_per_second": 52, "batch_size": 16}


def cell_on(cluster: dict[str, Any], gpus: int = 8, **changes: Any) -> Cell:
    cell: Cell = make_cell(
        workload={"model": {"parameters": "335 M", "layers": 24}},
        goal={"max_steps": 5},
        cluster=cluster,
        **{"sweep__strategy": ["sync-ddp"], "sweep__gpus": [gpus], **changes},
    )
    return cell


def figures(cluster: dict[str, Any], gpus: int = 8) -> Cluster:
    return cluster_of(cell_on(cluster, gpus))


def unnamed(cluster: ClusterFigures) -> ClusterFigures:
    return replace(cluster, preset="")


@pytest.mark.parametrize("name", sorted(host().clusters))
def test_a_preset_spelled_out_is_the_same_machine_to_the_last_digit(name: str) -> None:
    preset = host().clusters[name]
    gpus = [1, preset.gpus_per_node, 2 * preset.gpus_per_node] if preset.inter_node else [preset.gpus_per_node]
    for device in ({}, {"device": STEP}):
        spelled = preset.parts | ({"device": STEP | {"name": preset.device}} if device else {})
        for count in gpus:
            one, other = cell_on({"preset": name, **device}, count), cell_on(spelled, count)
            assert unnamed(one.cluster) == unnamed(other.cluster)
            whole, parts = cluster_of(one), cluster_of(other)
            assert whole.constants == parts.constants == PUBLISHED
            assert (whole.bus, whole.node_link, whole.host_link) == (parts.bus, parts.node_link, parts.host_link)


def test_parts_are_written_as_toml_by_plugins() -> None:
    from harness.commands.list_plugins import describe_entry

    text = describe_entry(host(), "dgx1-v100").split("spelled out:\n")[1]
    section = "\n".join(line.strip() for line in text.splitlines())
    document = to_toml(
        {"engine": "virtual", "sweep": {"strategy": ["sync-ddp"], "gpus": [8]}, "goal": {"max_steps": 5}}
    )
    model = '[workload]\nmodel = { parameters = "335 M", layers = 24, sequence = 512 }\n'
    scenario = parse_scenario(document + model + section, host(), Path("test.toml"))
    (cell,) = make_plan(scenario, host(), Machine(cores=64)).cells
    assert unnamed(cell.cluster) == unnamed(cell_on({"preset": "dgx1-v100"}).cluster)


def test_devices_elsewhere_have_overheads_unless_figures_are_to_mean_what_they_say() -> None:
    cluster = {"device": STEP, "intra_node": "10 GB/s"}
    assert figures(cluster).constants == PUBLISHED
    assert figures(cluster | {"overheads": False}).constants == PLAIN


@pytest.mark.parametrize(
    ("key", "written", "latency_s", "medium"),
    [
        ("inter_node", "25 Gb/s", 30e-6, "ethernet"),
        ("inter_node", {"bandwidth": "25 Gb/s"}, 30e-6, "ethernet"),
        ("inter_node", {"bandwidth": "25 Gb/s", "medium": "roce"}, 10e-6, "roce"),
        ("inter_node", "400 Gb/s", 10e-6, "infiniband"),
        ("intra_node", "12 GB/s", 6e-6, "pcie"),
        ("intra_node", "300 GB/s", 5e-6, "nvlink"),
        ("intra_node", {"bandwidth": "12 GB/s", "latency": "0 s"}, 0.0, ""),
    ],
)
def test_a_link_by_its_rate_has_the_latency_of_its_medium_and_says_so(key, written, latency_s, medium) -> None:
    cell = cell_on({"device": STEP, "gpus_per_node": 4, "inter_node": "1 Gb/s", key: written})
    link = getattr(cell.cluster, key)
    assert (link.latency_s, link.medium) == (latency_s, medium)
    text = "[sweep]\nstrategy = 'single'\n" + to_toml({"cluster": {key: written}})
    (line,) = (line for line in parse_scenario(text, host(), Path("t.toml")).understood if f"cluster.{key}" in line)
    assert (f"(of {MEDIA[medium]}; set latency or medium" in line) if medium else ("latency 0 s" in line)


def test_a_slower_network_is_never_faster_for_being_written_as_a_rate() -> None:
    # USERS.md F3: 25 Gb/s came out faster than NVLink, because its latency was 0.
    cell = cell_on({"preset": "dgx-h100", "intra_node": "25 Gb/s"}, 2).cluster.intra_node
    named = cell_on({"preset": "dgx-h100"}, 2).cluster.intra_node
    assert cell is not None
    assert named is not None
    assert cell.latency_s >= named.latency_s


def test_what_a_link_is_sold_with_is_more_than_what_it_carries() -> None:
    cluster = figures({"device": STEP, "intra_node": {"nominal": "15.75 GB/s", "medium": "pcie"}})
    assert cluster.bus.link == figures({"device": STEP, "intra_node": "pcie3x16"}).bus.link


def test_devices_that_share_a_slot_share_its_rate() -> None:
    alone = figures({"device": STEP, "intra_node": "12 GB/s"})
    shared = figures({"device": STEP, "intra_node": {"bandwidth": "12 GB/s", "shared_by": 2}})
    assert shared.bus.link.bandwidth_bytes_per_s == alone.bus.link.bandwidth_bytes_per_s / 2


@pytest.mark.parametrize("per_node", [3, 8, 10])
def test_pairs_on_nvlink_reach_other_pairs_over_a_slower_link(per_node: int) -> None:
    link = {"bandwidth": "50 GB/s", "latency": "5 us", "groups_of": 2, "between_groups": "12 GB/s"}
    cluster = {"device": STEP, "gpus_per_node": per_node, "intra_node": link}
    bus = cluster_of(cell_on(cluster, per_node, sweep__global_batch_size=[120])).bus
    assert bus.by_group[2].bandwidth_bytes_per_s == 50e9
    assert {bus.by_group[size].bandwidth_bytes_per_s for size in range(3, per_node + 1)} == {12e9}
    assert (bus.group_size, bus.across) == (2, LinkFigures(bus.link.latency_s, 12e9))


def test_rings_on_a_graph_of_links_use_all_links_of_the_device_that_has_fewest() -> None:
    # Three in a triangle with one pair doubled, a fourth that hangs on one link.
    graph = [[0, 1, 2], [0, 2, 1], [1, 2, 1], [2, 3, 1]]
    link = {"bandwidth": "20 GB/s", "latency": "5 us", "graph": graph}
    rates = figures({"device": STEP, "gpus_per_node": 4, "intra_node": link}, 4).bus.by_group
    assert {size: entry.bandwidth_bytes_per_s / 20e9 for size, entry in rates.items()} == {2: 2, 3: 2, 4: 1}


def test_rings_of_a_cube_mesh_use_the_links_inside_their_group() -> None:
    graph = [[0, 1, 1], [0, 2, 1], [0, 3, 2], [1, 2, 2], [1, 3, 1], [2, 3, 2], [0, 4, 2]]
    link = {"bandwidth": "25 GB/s", "graph": graph}
    cluster = {"device": STEP, "gpus_per_node": 5, "intra_node": link}
    rates = cluster_of(cell_on(cluster, 5, sweep__global_batch_size=[40])).bus.by_group
    # One link between 0 and 1; with 2 and 3 every device has four; the fifth hangs on two.
    assert {size: entry.bandwidth_bytes_per_s for size, entry in rates.items()} == {2: 25e9, 3: 50e9, 4: 100e9, 5: 50e9}


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"nominal": "16 GB/s"}, "nominal needs a medium"),
        ({"bandwidth": "16 GB/s", "medium": "copper"}, "medium:"),
        ({"bandwidth": "16 GB/s", "groups_of": 2}, "belong together"),
        ({"bandwidth": "16 GB/s", "name": "pcie3x16"}, "a link such as"),
        ({"name": "pcie3x16", "medium": "roce"}, "medium: not beside name"),
        ({"bandwidth": "16 GB/s", "graph": [[0, 0, 1]]}, "pairs of devices"),
        ({"bandwidth": "16 GB/s", "graph": [[0, 1, 1]]}, "no ring over the 8 devices"),
        ({"bandwidth": "16 GB/s", "shared_by": 0}, "shared_by: a whole number"),
    ],
)
def test_what_is_no_link_is_said_with_what_is_allowed(written: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        cell_on({"device": STEP, "gpus_per_node": 8, "intra_node": written})
    assert says in str(caught.value)


# -- what a scenario says of gradients and models ----------------------------------------------------------------------


def test_halves_are_exchanged_in_half_the_time() -> None:
    model = {"parameters": "400 M", "layers": 4}
    device = {"samples_per_second": 1e9, "batch_size": 1}
    cluster = {"device": device, "intra_node": {"bandwidth": "10 GB/s", "latency": "0 s"}, "overheads": False}
    whole, half = (
        priced_step(
            make_cell(
                workload={"model": model, **more},
                goal={"max_steps": 5},
                cluster=cluster,
                sweep__strategy=["sync-ddp"],
                sweep__gpus=[4],
                **{"strategy.sync-ddp": {"overlap": False}},
            ),
            host(),
        )
        for more in ({}, {"gradients": "fp16"})
    )
    # Ring over four: 2 * 3/4 of 1.6 GB at 10 GB/s.
    assert whole.seconds == pytest.approx(0.24, rel=1e-3)
    assert half.seconds == pytest.approx(0.12, rel=1e-3)


def test_a_format_of_gradients_needs_simulated_devices() -> None:
    with pytest.raises(InputError, match="needs simulated devices"):
        make_cell(workload={"model": "softmax", "gradients": "bf16"}, cluster={}, sweep__strategy=["single"])


def test_tables_of_an_embedding_are_exchanged_last_and_hidden_by_nothing() -> None:
    model = {"parameters": "100 M", "layers": 10, "sequence": 512}
    plain, tables = (
        priced_step(
            make_cell(
                workload={"model": model | more},
                goal={"max_steps": 5},
                cluster={
                    "device": {"samples_per_second": 8, "batch_size": 1},
                    "intra_node": {"bandwidth": "10 GB/s", "latency": "0 s"},
                    "overheads": False,
                },
                sweep__strategy=["sync-ddp"],
                sweep__gpus=[4],
            ),
            host(),
        )
        for more in ({}, {"embedding": "60 M"})
    )
    # The last bucket holds 240 MB of tables and a layer of 16 MB; without tables a layer of 40 MB.
    assert tables.seconds - plain.seconds == pytest.approx(1.5 * (240e6 + 16e6 - 40e6) / 10e9, rel=1e-3)


def test_nobody_waits_for_samples_that_are_ready() -> None:
    def step(**workload: str) -> PricedStep:
        model = {"parameters": "100 M", "layers": 10, "sequence": 512}
        device = {"samples_per_second": 8, "batch_size": 1}
        cell = make_cell(
            workload={"model": model, **workload},
            goal={"max_steps": 5},
            cluster={"device": device, "intra_node": {"bandwidth": "1 TB/s", "latency": "0 s"}},
            sweep__strategy=["sync-ddp"],
            sweep__gpus=[8],
        )
        return priced_step(cell, host())

    plain, read, ready = step(), step(input="read"), step(input="ready")
    assert plain == read
    waited_s = waiting_s(PUBLISHED.spread_fraction, ready.seconds, 8)
    assert read.seconds - ready.seconds == pytest.approx(waited_s, rel=1e-2)


def test_a_cell_whose_samples_are_read_keeps_the_id_that_it_had() -> None:
    options = ({}, {"input": "read"}, {"input": "ready"})
    plain, read, ready = (make_cell(workload={"model": "softmax"} | more, sweep__strategy="single") for more in options)
    assert plain.cell_id == read.cell_id != ready.cell_id
