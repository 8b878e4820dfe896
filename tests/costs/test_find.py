"""What a cell costs, found without torch: given figures, files of layers, data sheets, and what is missing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import make_cell, make_cells
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from harness.core.cell import Named
from harness.core.errors import HarnessError, InputError
from harness.core.given_cluster import LinkFigures
from harness.costs.catalogue.devices import DEVICES, EFFICIENCY, ESTIMATE_ERROR, LAUNCH_ERROR, MEMORY_EFFICIENCY
from harness.costs.cells.find import LOOPBACK, cluster_of, given_shape, profile_of
from harness.costs.cells.given import profile_of_file, shape_of_given
from harness.costs.cells.link_tables import fitted_link, read_tables
from harness.costs.profiles.allocations import Event, Passes, Timeline
from harness.costs.profiles.constants import PLAIN, PUBLISHED
from harness.costs.profiles.device_profile import Profile
from harness.costs.profiles.shape import LayerShape, Linear, ModelShape
from harness.costs.steps.collectives import ring_s
from harness.costs.steps.layer_times import layer_seconds

BERT = {"parameters": "335 M", "layers": 24, "hidden": 1024, "heads": 16, "sequence": 512}
TWO_LAYERS = ModelShape(
    (LayerShape("a", (30,), forward_flops=Linear(0, 1e9)), LayerShape("b", (10,), forward_flops=Linear(0, 3e9)))
)


@pytest.fixture(autouse=True)
def _nothing_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


def given_cell(model: dict[str, Any] = BERT, **changes: Any) -> Any:
    return make_cell(goal={"max_steps": 5}, workload={"model": model}, **{"sweep__strategy": ["sync-ddp"], **changes})


# -- profiles ----------------------------------------------------------------------------------------------------------


@given(st.floats(1, 1e4), st.integers(1, 512))
def test_a_given_rate_is_what_the_profile_computes_at_its_batch(rate: float, batch: int) -> None:
    device = {"samples_per_second": rate, "batch_size": batch}
    profile = profile_of(make_cell(sweep__strategy=["single"], cluster__device=device), TWO_LAYERS)
    assert profile.gradient_s(batch) == pytest.approx(batch / rate)
    assert profile.backward_s(batch) == pytest.approx(2 * profile.forward_s(batch))
    assert [t.forward.at(batch) / profile.forward_s(batch) for t in profile.times] == pytest.approx([0.25, 0.75])
    assert profile.origin == "given"


def test_without_operations_a_rate_is_spread_by_parameters() -> None:
    shape = ModelShape((LayerShape("a", (30,)), LayerShape("b", (10,))))
    profile = profile_of(make_cell(sweep__strategy=["single"]), shape)
    assert [t.backward.at(32) / profile.backward_s(32) for t in profile.times] == pytest.approx([0.75, 0.25])


def test_a_step_time_is_taken_as_it_is() -> None:
    device = {"step_time": "312 ms", "batch_size": 64}
    profile = profile_of(make_cell(sweep__strategy=["single"], cluster__device=device), TWO_LAYERS)
    assert profile.gradient_s(64) == pytest.approx(0.312)
    assert "0.312 s a step at 64 samples" in profile.text


def test_a_catalogue_device_is_estimated_from_its_data_sheet() -> None:
    cell = given_cell(cluster={"device": "v100-sxm2-32gb"})
    profile = profile_of(cell)
    shape, (device,) = profile.shape, [d for d in DEVICES if d.name == "V100-SXM2-32GB"]
    flops = sum(layer.forward_flops.at(8) for layer in shape.layers)
    computing = flops / (device.peak_flops_per_s["fp32"] * EFFICIENCY["vector"]["gemm"])
    moving = sum(4 * layer.parameters + 2 * layer.activation_bytes.at(8) for layer in shape.layers)
    moving /= device.memory_bandwidth_bytes_per_s * MEMORY_EFFICIENCY
    # Each layer is the longer of the two, so the whole lies between the longer sum and both sums.
    assert max(computing, moving) <= profile.forward_s(8) * (1 + 1e-9)
    assert profile.forward_s(8) <= computing + moving
    assert profile.optimizer_s == pytest.approx(3 * 4 * 335e6 / (900e9 * MEMORY_EFFICIENCY))
    assert (profile.origin, profile.error) == ("estimated", 0.3)


def test_the_estimate_is_near_what_was_published_for_one_device() -> None:
    # BERT-large, fp32, 384 tokens, batch 12 on V100: 12.36 sequences/s (lambdal/deeplearning-benchmark).
    model = {**BERT, "sequence": 384}
    profile = profile_of(given_cell(model, cluster={"device": "v100-sxm2-32gb"}))
    rate = 12 / (profile.gradient_s(12) + profile.optimizer_s)
    assert abs(rate / 12.36 - 1) < 2 * profile.error


def test_faster_arithmetic_and_small_batches_are_bound_by_memory_and_launches() -> None:
    slow = profile_of(given_cell(cluster={"device": "a100"}))
    fast = profile_of(given_cell(cluster={"device": "a100"}, workload__precision="bf16"))
    assert 1 < slow.gradient_s(16) / fast.gradient_s(16) < 16  # 312 / 19.5 is what arithmetic alone would gain
    tiny = {"parameters": 1000, "layers": 10, "sequence": 1}
    profile = profile_of(given_cell(tiny, cluster={"device": "a100"}))
    assert profile.forward_s(1) == pytest.approx(10 * profile.launch_s)


def traced(operators: int, layers: int = 4) -> ModelShape:
    """Layers of next to no arithmetic, whose passes make so many tensors, and twice as many."""
    event = Event("tensor", 0, 0, 64.0)
    passes = Passes((event,) * operators + (Event("free", 0, 0),), (event,) * 2 * operators)
    layer = LayerShape("block", tensors=(16, 4), forward_flops=Linear(0.0, 64.0))
    return ModelShape((layer,) * layers, timeline=Timeline((passes,), (0,) * layers))


def test_every_operator_of_a_traced_model_is_launched() -> None:
    cell = given_cell(cluster={"device": "a100"})
    profile = profile_of(cell, traced(15))
    assert profile.forward_s(8) == pytest.approx(4 * 15 * profile.launch_s)
    assert profile.backward_s(8) == pytest.approx(4 * 30 * profile.launch_s)
    assert profile.optimizer_s == profile.launch_s  # one kernel over all eight tensors
    assert profile.error == pytest.approx(LAUNCH_ERROR)


def test_an_estimate_is_as_uncertain_as_what_bounds_it() -> None:
    cell = given_cell(cluster={"device": "a100"})
    error = profile_of(cell).error
    assert min(LAUNCH_ERROR, ESTIMATE_ERROR) / 2**0.5 <= error <= max(LAUNCH_ERROR, ESTIMATE_ERROR)
    assert profile_of(given_cell(cluster={"device": "v100-sxm2-32gb"})).error == pytest.approx(ESTIMATE_ERROR, rel=0.05)


def test_no_cut_goes_below_what_a_layer_launches() -> None:
    cell = given_cell(cluster={"device": "a100"})
    shape = traced(15)
    cut = replace(shape, layers=tuple(replace(layer, split=1.0) for layer in shape.layers))
    profile, cluster = profile_of(cell, cut), cluster_of(cell)
    (first, *_) = layer_seconds(profile, replace(cluster, gpus_per_node=8), 4, 8)
    assert first.forward_s == pytest.approx(15 * profile.launch_s)
    assert first.backward_s == pytest.approx(30 * profile.launch_s)


@given(st.integers(1, 4096))
def test_estimated_times_never_fall_and_follow_the_roofline(samples: int) -> None:
    profile = _estimate()
    assert profile.forward_s(samples) <= profile.forward_s(samples + 1) * (1 + 1e-12)
    assert profile.backward_s(samples) >= profile.forward_s(samples)


def _estimate(known: list[Profile] = []) -> Profile:  # noqa: B006 - made once for all examples
    if not known:
        known.append(profile_of(given_cell(cluster={"device": "a100"})))
    return known[0]


@pytest.mark.parametrize(
    ("optimizer", "transfers"),
    [("sgd", 3), ({"name": "sgd", "momentum": 0.9}, 5), ("adam", 7), ("adamw", 7)],
)
def test_an_update_moves_its_states(optimizer: Any, transfers: int) -> None:
    cell = given_cell(cluster={"device": "a100"}, workload__optimizer=optimizer)
    assert profile_of(cell).optimizer_s == pytest.approx(transfers * 4 * 335e6 / (2039e9 * MEMORY_EFFICIENCY))


@pytest.mark.parametrize(
    ("model", "cluster", "says"),
    [
        (BERT, {}, "Set cluster.device"),
        ({"parameters": "25 M", "layers": 50}, {"device": "a100"}, "Set sequence"),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(model: dict[str, Any], cluster: dict[str, Any], says: str) -> None:
    with pytest.raises(HarnessError, match=says) as caught:
        profile_of(given_cell(model, cluster=cluster))
    assert "samples_per_second" in str(caught.value)


def test_a_model_with_mathematics_needs_a_trace_or_a_measurement() -> None:
    cell = make_cell(sweep__strategy=["single"], cluster={"device": "a100"})
    with pytest.raises(HarnessError, match="harness plan --measure"):
        profile_of(cell)
    own = make_cell(sweep__strategy=["single"], cluster={})
    with pytest.raises(HarnessError, match="not measured on this machine yet"):
        profile_of(own)
    measured = profile_of(make_cell(sweep__strategy=["single"]), TWO_LAYERS)
    assert profile_of(own, measured=measured) is measured


# -- shapes ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 10**10), st.integers(1, 200))
def test_equal_layers_hold_every_parameter(parameters: int, layers: int) -> None:
    shape = shape_of_given(Named("", {"parameters": float(parameters), "layers": layers}))
    assert shape.parameters == parameters
    sizes = [layer.parameters for layer in shape.layers]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 64), st.integers(1, 100), st.integers(1, 4096), st.floats(0.5, 3))
def test_transformers_hold_every_parameter_and_compute_by_the_published_formula(
    heads: int, layers: int, tokens: int, more: float
) -> None:
    hidden = 64 * heads
    parameters = round(more * layers * (12 * hidden**2 + 13 * hidden))
    options = {"parameters": parameters, "layers": layers, "hidden": hidden, "sequence": tokens}
    shape = shape_of_given(Named("", options))
    assert shape.parameters == pytest.approx(parameters, abs=layers)
    flops = sum(layer.forward_flops.at(1) for layer in shape.layers)
    assert flops == pytest.approx(2 * parameters * tokens + 4 * layers * tokens**2 * hidden, rel=1e-3)
    block = next(layer for layer in reversed(shape.layers) if layer.width)
    assert block.activation_bytes.at(2) == pytest.approx(4 * tokens * hidden * 34)
    eager = next(
        layer for layer in reversed(shape_of_given(Named("", {**options, "attention": "eager"})).layers) if layer.width
    )
    assert eager.activation_bytes.at(2) == pytest.approx(4 * tokens * hidden * (34 + 5 * heads * tokens / hidden))
    assert 0.9 < block.split < 1


def test_half_precision_halves_activations_and_not_weights() -> None:
    model = given_cell().workload.model
    single, half = (shape_of_given(model, precision) for precision in ("fp32", "bf16"))
    assert half.layers[5].activation_bytes.at(1) == single.layers[5].activation_bytes.at(1) / 2
    assert half.parameter_bytes == single.parameter_bytes == 4 * 335_000_000


def test_activations_and_operations_may_be_said() -> None:
    model = {"parameters": "25 M", "layers": 50, "activations": "100 MB", "forward_flops": "8.2 G"}
    shape = given_shape(given_cell(model, cluster={"device": "a100"}))
    assert shape is not None
    assert sum(layer.activation_bytes.at(3) for layer in shape.layers) == pytest.approx(300e6)
    assert sum(layer.forward_flops.at(1) for layer in shape.layers) == pytest.approx(8.2e9)


# -- files -------------------------------------------------------------------------------------------------------------

LAYERS = """index,name,kind,forward_ms,backward_ms,activation_bytes,parameter_bytes,predecessors
1,input,Input,500,0,800,0,
2,first,Conv2d,10,20,1600,4000,1
3,branch,ReLU,1,2,1600,0,2
4,sum,Add,1,1,1600,0,2;3
5,last,Linear,4,6,80,400,4
"""


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """Return a file of five layers with a branch, timed at batch size 8."""
    (tmp_path / "layers.csv").write_text(LAYERS)
    return tmp_path / "layers.csv"


def test_a_file_of_layers_is_a_profile(layers: Path) -> None:
    profile = profile_of_file(layers, 8)
    assert (profile.forward_s(8), profile.backward_s(8)) == (pytest.approx(0.016), pytest.approx(0.029))
    assert profile.forward_s(4) == pytest.approx(0.008)
    assert profile.shape.parameters == 1100
    # Behind the branch both its ends must cross a cut: 1600 from "first" and 1600 from "branch".
    assert [layer.output_bytes.at(8) for layer in profile.shape.layers] == [800, 1600, 3200, 1600, 0]


def test_a_scenario_takes_a_file_of_layers_and_its_content_is_its_identity(layers: Path) -> None:
    from cells import host

    from harness.core.machine import Machine
    from harness.scenario.plan import make_plan
    from harness.scenario.read import parse_scenario

    text = '[workload]\nmodel = { profile = "layers.csv", batch_size = 8 }\n[sweep]\nstrategy = "single"\ngpus = 1'

    def cell(more: str = "") -> Any:
        scenario = parse_scenario(text + more, host(), layers.parent / "a.toml")
        return make_plan(scenario, host(), Machine(2)).cells[0]

    first = cell()
    assert first.timing_only
    assert len(first.profile_id) == 64
    assert profile_of(first).gradient_s(8) == pytest.approx(0.045)
    scaled = profile_of(cell("\n[cluster]\ndevice = { step_time = '90 ms', batch_size = 8 }"))
    assert scaled.gradient_s(8) == pytest.approx(0.090)
    assert scaled.forward_s(8) == pytest.approx(0.032)
    layers.write_text(LAYERS.replace("10,20", "11,20"))
    assert cell().cell_id != first.cell_id


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no column name"),
        ("name,forward_ms\na,1\n", "no column backward_ms"),
        (LAYERS + "6,x,y,a,1,1,1,\n", "line 7"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(layers: Path, content: str, says: str) -> None:
    layers.write_text(content)
    with pytest.raises(InputError, match=says):
        profile_of_file(layers, 8)


@given(
    st.floats(1e-6, 1e-4),
    st.floats(1e8, 1e12),
    st.integers(2, 64),
    st.lists(st.integers(1, 10**9), min_size=2, unique=True),
)
def test_a_fitted_link_gives_back_the_ring_it_was_measured_on(
    latency: float, bandwidth: float, ranks: int, sizes: list[int]
) -> None:
    link = LinkFigures(latency, bandwidth)
    table = tuple((float(size), ring_s(ranks, size, link)) for size in sorted(sizes))
    found = fitted_link(ranks, table)
    for size, seconds in (table[0], table[-1]):
        assert ring_s(ranks, size, found) == pytest.approx(seconds, rel=1e-2)


NCCL_TESTS = """# nThread 1 nGpus 2 minBytes 8388608 maxBytes 134217728 step: 2(factor) warmup iters: 5 iters: 20
# Using devices
#  Rank  0 Group  0 Pid  1 on host device  0 [0x07] NVIDIA A100
#  Rank  1 Group  0 Pid  1 on host device  1 [0x0a] NVIDIA A100
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
     8388608       2097152     float     sum      -1    100.0   83.89   83.89      0    101.0   83.06   83.06      0
    16777216       4194304     float     sum      -1    180.0   93.21   93.21      0    181.0   92.69   92.69      0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 88.0
"""


def test_what_nccl_tests_prints_is_read(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text(NCCL_TESTS)
    assert read_tables(tmp_path / "out.txt") == {
        2: ((8388608.0, pytest.approx(1e-4)), (16777216.0, pytest.approx(1.8e-4)))
    }


def test_a_table_of_several_machines_asks_which(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("gpu,n,bytes,seconds\nV100,2,1000,1e-4\nA100,4,1000,1e-4\n")
    with pytest.raises(ValueError, match='add gpu = "V100"'):
        read_tables(tmp_path / "a.csv")
    assert list(read_tables(tmp_path / "a.csv", "A100")) == [4]
    (tmp_path / "b.csv").write_text("gpu,n,bytes\n")
    with pytest.raises(ValueError, match="columns gpu, n, bytes and seconds"):
        read_tables(tmp_path / "b.csv")


# -- clusters ----------------------------------------------------------------------------------------------------------


def test_a_preset_becomes_a_cluster() -> None:
    cluster = cluster_of(given_cell(cluster={"preset": "dgx1-v100"}, sweep__gpus=[16]))
    assert (cluster.gpus_per_node, cluster.nodes(16)) == (8, 2)
    assert cluster.bus.by_group[2] == LinkFigures(12e-6, 22.6e9)
    assert cluster.node_link is not None
    assert cluster.node_link.bandwidth_bytes_per_s == pytest.approx(4 * 12.5e9 * 0.95)
    assert cluster.dram_bytes == round(31.74 * 2**30)
    assert cluster.host_shared_by == 2
    assert cluster.constants == PUBLISHED
    assert "preset dgx1-v100" in cluster.text


def test_devices_of_one_node_have_no_network_to_cross() -> None:
    assert cluster_of(given_cell(cluster={"preset": "dgx1-v100"}, sweep__gpus=[8])).node_link is None
    alone = make_cell(sweep__strategy=["async-ps"])
    assert cluster_of(alone).node_link is not None  # the server's node is another one


def test_dies_of_one_board_are_known() -> None:
    assert cluster_of(given_cell(cluster={"device": "k80"})).dies_per_board == 2
    figures = {"samples_per_second": 52, "batch_size": 16}
    assert cluster_of(given_cell(cluster={"preset": "aws-p2.8xlarge", "device": figures})).dies_per_board == 2


def test_figures_of_a_scenario_mean_what_they_say_where_overheads_are_off() -> None:
    cell = make_cell(sweep__strategy=["sync-ddp"], sweep__gpus=[4])
    cluster = cluster_of(cell)
    assert cluster.constants == PLAIN
    assert (cluster.gpus_per_node, cluster.node_link) == (1, LinkFigures(pytest.approx(50e-6), 1e9))
    inside = cluster_of(make_cell(sweep__strategy=["sync-ddp"], sweep__gpus=[4], cluster={"intra_node": "2 GB/s"}))
    assert (inside.gpus_per_node, inside.bus.link, inside.node_link) == (4, LinkFigures(6e-6, 2e9), None)


def test_without_a_word_devices_of_this_machine_talk_as_its_processes_do() -> None:
    cluster = cluster_of(make_cell(sweep__strategy=["sync-ddp"], sweep__gpus=[4], cluster={}))
    assert (cluster.bus.link, cluster.gpus_per_node) == (LOOPBACK, 4)
    assert cluster.dram_bytes is None


def test_this_machine_as_calibrated_is_preferred_and_given_links_override_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.costs.cells import find
    from harness.costs.profiles import cluster_figures as shapes

    measured = shapes.Cluster("cpu", 2, shapes.Bus(LinkFigures(1e-5, 3e9)))
    monkeypatch.setattr(find.measurements, "load_cluster", lambda *_: measured)
    cell = make_cell(sweep__strategy=["sync-ddp"], sweep__gpus=[4], cluster={}, limits={"dram": "1 GB"})
    assert cluster_of(cell) == replace(measured, dram_bytes=10**9)
    other = make_cell(sweep__strategy=["sync-ddp"], sweep__gpus=[4], cluster={"inter_node": "25 Gb/s"})
    assert cluster_of(other).node_link == LinkFigures(30e-6, 3.125e9)
    assert cluster_of(other).bus == measured.bus


@pytest.mark.parametrize("gpus", [8, 9])
def test_several_nodes_need_a_link_between_them(gpus: int) -> None:
    changes: dict[str, Any] = {"cluster": {"device": "h200"}, "sweep__gpus": [gpus]}
    if gpus == 8:
        assert given_cell(**changes, sweep__global_batch_size=[72]).nodes == 1
    else:
        with pytest.raises(InputError, match=r"cluster.inter_node: required: 9 devices need 2 nodes of 8"):
            given_cell(**changes, sweep__global_batch_size=[72])


# -- what it costs to find out ---------------------------------------------------------------------------------------


def test_finding_costs_imports_neither_torch_nor_pandas_nor_numpy() -> None:
    code = "import sys; import harness.costs.price, harness.costs.cells; "
    code += "print([name for name in ('torch', 'pandas', 'numpy', 'scipy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_cells_of_several_sizes_find_their_own_costs() -> None:
    cells = make_cells(
        goal={"max_steps": 5},
        workload={"model": BERT},
        sweep={"strategy": ["sync-ddp"], "gpus": [8, 16], "global_batch_size": [64, 128]},
        cluster={"preset": "dgx-a100"},
    )
    assert len(cells) == 4
    assert len({cell.cell_id for cell in cells}) == 4
    assert {cluster_of(cell).nodes(cell.gpus) for cell in cells} == {1, 2}
