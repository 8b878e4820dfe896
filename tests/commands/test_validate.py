"""Published tables: read strictly, predicted from allowed inputs only, scored as their README says."""

from __future__ import annotations

import csv
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import host
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from lazy import lazy
from places import SHARED

from harness.commands.cli import main
from harness.commands.plan_text import describe
from harness.commands.validate.case_cluster import cluster_keys
from harness.commands.validate.case_layers import published_parts
from harness.commands.validate.case_systems import INPUT_BOUND, apart_of
from harness.commands.validate.command import score_directory
from harness.commands.validate.dispatch import predict_all, predict_row
from harness.commands.validate.floor import floor_of
from harness.commands.validate.linear import linear
from harness.commands.validate.own_scenarios import predict_own
from harness.commands.validate.published import TableRow, Tables, read_directory
from harness.commands.validate.refit import ConstantsFit, HeldBack, fitted_rows, group_of, leave_one_out, left_out_by
from harness.commands.validate.score import PredictedRow, by_kind, by_series, coverage, error_of, quantile, score
from harness.core.errors import InputError
from harness.core.machine import Machine
from harness.core.uncertainty import StepErrors, stated_band, stated_words
from harness.core.units import MIB
from harness.costs.memory.cuts import balance_under
from harness.costs.price import price
from harness.costs.profiles.constants import FITTED, PLAIN, PUBLISHED, STATED_ERRORS
from harness.costs.steps.protocols import MeasuredAllReduce, between_s
from harness.scenario.plan import make_plan
from harness.scenario.read import load_scenario

fit = lazy("harness.engines.virtual.fit_observed")

TABLES = Path(os.environ.get("HARNESS_VALIDATION", SHARED / "validation"))
needs_tables = pytest.mark.skipif(not TABLES.is_dir(), reason="HARNESS_VALIDATION names no directory of tables")

CASES = """
format_version = 2

[models.net]
name = "a net"
input = "3x32x32"
parameters = 25000000
parameter_bytes = 100000000

[models."gpt-tiny"]
name = "GPT-like, 8 layers, 4 heads, hidden 256"
input = "128 tokens"
parameters = 7000000
parameter_bytes = 28000000

[cases.A]
kind = "single-node data parallel"
unscored_series = ["facts"]
[[cases.A.systems]]
device = "V100"
gpus_per_node = 8
link = { kind = "pcie", GBps_per_gpu_per_direction = 10, latency_us = 0, origin = "calibrate" }
bucket_bytes = 0
overlap = false
input_bound = ["starved"]

[cases.B]
kind = "pipeline"
[[cases.B.systems]]
device = "V100"
gpus_per_node = 8
link = { kind = "nvswitch", GBps_per_gpu_per_direction = 1000000, latency_us = 0 }

[cases.C]
kind = "parameter server"
[[cases.C.systems]]
device = "V100"
gpus_per_node = 1
link = { kind = "none" }
node_link = { kind = "ethernet", GBps_per_node_per_direction = 1.25, latency_us = 0, origin = "calibrate" }
servers = { placement = "dedicated", count = 2 }
"""
ROWS = """case,series,model,strategy,precision,gpus,nodes,batch_per_gpu,microbatches,metric,unit,value,inputs_allowed
A,s,net,single,fp32,1,1,10,,throughput,images/s,100,yes
A,s,net,sync-ddp,fp32,4,1,10,,throughput,images/s,350,no
A,s,net,gossip,fp32,4,1,10,,throughput,images/s,350,no
A,s,starved,single,fp32,1,1,10,,throughput,images/s,100,yes
A,s,starved,sync-ddp,fp32,2,1,10,,throughput,images/s,120,no
A,s,unseen,sync-ddp,fp32,2,1,10,,throughput,images/s,120,no
A,facts,net,sync-ddp,fp32,2,1,10,,throughput,images/s,120,no
B,s,gpt-tiny,single,fp32,1,1,32,,throughput,samples/s,100,yes
B,s,gpt-tiny,gpipe,fp32,4,1,32,8,throughput,samples/s,250,no
B,s,gpt-tiny,gpipe,fp32,4,1,32,8,bubble,fraction,0.3,no
C,s,net,single,fp32,1,1,10,,step_time,ms,400,yes
C,s,net,sync-ps-distributed,fp32,8,8,10,,step_time,ms,1000,no
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "cases.toml").write_text(CASES)
    (tmp_path / "throughput.csv").write_text(ROWS)
    return tmp_path


@pytest.fixture(scope="session")
def tables() -> Tables:
    return read_directory(TABLES)


def of(published: Tables, **wanted: Any) -> TableRow:
    return next(r for r in published.rows if all(getattr(r, key) == value for key, value in wanted.items()))


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "before", "after", "says"),
    [
        ("cases.toml", "format_version = 2", "format_version = 3", "format_version = 3"),
        ("cases.toml", "[cases.A]", "[cases.A", "not valid TOML"),
        ("cases.toml", 'device = "V100"', "", "device is missing"),
        ("cases.toml", 'kind = "pcie", ', "", "link.kind is missing"),
        ("throughput.csv", "inputs_allowed", "allowed", "column missing: inputs_allowed"),
        ("throughput.csv", "images/s,350,no", "images/s,fast,no", "line 3: value = 'fast': expected a number"),
        ("throughput.csv", "images/s,350,no", "images/s,0,no", "expected a number above 0"),
        ("throughput.csv", "images/s,350,no", "images/s,nan,no", "expected a finite number"),
        ("throughput.csv", "images/s,350,no", "images/s,350,maybe", "inputs_allowed = 'maybe': expected yes or no"),
        ("throughput.csv", "A,s,net,single", "Z,s,net,single", "case = 'Z': not in cases.toml"),
        ("throughput.csv", "fp32,4,1,10", "fp32,4.5,1,10", "gpus = '4.5': expected a whole number"),
    ],
)
def test_a_malformed_directory_is_one_error_that_says_where(directory, file, before, after, says):
    text = (directory / file).read_text()
    assert before in text
    (directory / file).write_text(text.replace(before, after, 1))
    with pytest.raises(InputError, match=r" has \d+ problems?:") as caught:
        read_directory(directory)
    assert says in str(caught.value)


def test_a_directory_without_rows_or_cases_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cases\.toml: missing"):
        read_directory(tmp_path)
    (tmp_path / "cases.toml").write_text("[cases.A]\n")
    with pytest.raises(InputError, match="no table with rows"):
        read_directory(tmp_path)


def test_a_scenario_given_by_mistake_is_sent_to_plan(directory):
    result = CliRunner().invoke(main, ["validate", str(directory / "cases.toml")])
    assert result.exit_code == 2
    assert "harness plan" in result.stderr


def test_a_missing_directory_ends_with_2(tmp_path):
    result = CliRunner().invoke(main, ["validate", str(tmp_path / "nowhere")])
    assert result.exit_code == 2
    assert "no such directory" in result.stderr


# -- scoring -----------------------------------------------------------------------------------------------------------


def test_scores_of_four_rows_by_hand(directory):
    row = of(read_directory(directory), strategy="sync-ddp", model="net")
    rows = [replace(row, value=100.0, gpus=gpus) for gpus in (1, 2, 3, 4, 5)]
    found = score(zip(rows, (110.0, 95.0, 100.0, 80.0, None), strict=True))
    assert (found.rows, found.missing) == (5, 1)
    assert found.mape == pytest.approx((10 + 5 + 0 + 20) / 4)
    assert found.median == pytest.approx(7.5)
    # Sorted 0, 5, 10, 20: rank 0.95 * 3 = 2.85.
    assert found.p95 == pytest.approx(10 + 0.85 * 10)
    assert found.bias == pytest.approx((10 - 5 + 0 - 20) / 4)
    assert found.worst == pytest.approx(-20)
    assert "4 GPUs" in found.worst_name


def test_coverage_counts_the_rows_that_state_something_and_are_not_bound_by_their_input(directory):
    row = of(read_directory(directory), strategy="sync-ddp", model="net")
    items = [PredictedRow(replace(row, value=100.0), 100.0 * off, stated=0.1) for off in (1.05, 1 / 1.15, 1.19, 1.3)]
    silent = [PredictedRow(replace(row, value=100.0), 500.0), PredictedRow(replace(row, value=100.0), None)]
    bound = [PredictedRow(replace(row, value=100.0), 500.0, stated=0.1, apart=(INPUT_BOUND,))]
    assert coverage([*items, *silent, *bound], 1.0) == 0.25
    assert coverage([*items, *silent, *bound], 2.0) == 0.75  # a band of +20 % ends at 1 / 1.2 too
    assert coverage(silent, 2.0) is None


@given(st.floats(0.001, 0.5), st.floats(0.001, 0.5), st.floats(0.001, 0.5), st.floats(0, 0.2))
def test_parts_of_a_step_are_uncertain_each_by_itself(compute, exchange, waiting, whole):
    errors = StepErrors(compute, exchange, waiting, whole)
    assert errors.of(3.0, 0.0, 0.0) == pytest.approx((compute**2 + whole**2) ** 0.5)
    assert errors.of(0.0, 0.0, 0.0) == 0.0
    mixed = errors.of(2.0, 1.0, 1.0)
    assert mixed == pytest.approx((compute**2 / 4 + exchange**2 / 16 + waiting**2 / 16 + whole**2) ** 0.5)
    low, high = stated_band(1.0, mixed)
    assert low * high == pytest.approx(1.0)


STATED = """
engine = "virtual"
workload.model = { profile = "layers.csv", batch_size = 8 }
goal.max_steps = 3
[sweep]
strategy = "sync-ddp"
gpus = [1, 2, 8]
batch_size = [8]
[cluster]
device = { step_time = "STEP ms", batch_size = 8 }
gpus_per_node = 8
intra_node = "1 TB/s"
"""


@pytest.mark.parametrize(("step_ms", "part"), [(100, "given"), (30, "by layer")])
def test_what_is_stated_grows_with_replicas_from_what_one_device_is_known_to(tmp_path, step_ms, part):
    """Layers' times that add up to the measured step tell more than one figure does."""
    head = "name,forward_ms,backward_ms,activation_bytes,parameter_bytes"
    (tmp_path / "layers.csv").write_text(f"{head}\na,5,10,4,4000\nb,5,10,4,4000\n")
    (tmp_path / "stated.toml").write_text(STATED.replace("STEP", str(step_ms)))
    plan = make_plan(load_scenario(tmp_path / "stated.toml", host()), host(), Machine(cores=1))
    one, two, eight = (price(cell, host()).error for cell in plan.cells)
    own, each = (STATED_ERRORS[name].value for name in (part, "replicated"))
    assert one == pytest.approx(own, rel=0.05)
    assert two == pytest.approx(math.hypot(own, each), rel=0.1)
    assert eight == pytest.approx(math.hypot(own, 3 * each), rel=0.1)


@given(st.floats(-0.5, 0.5), st.floats(-0.1, 0.1))
def test_a_floor_is_what_no_smooth_law_takes(slope, scatter):
    row = TableRow("t", 1, "A", "s", "net", "hybrid", "fp16", "step_time", "s", 1.0, False, "multi-node")
    sizes = [(tensor, batch) for tensor in (1, 2, 4, 8) for batch in (1, 2, 3, 4, 6, 8)]
    # A law that misses a power of the devices, and rows that scatter by turns.
    found = [
        PredictedRow(replace(row, gpus=n, batch_per_gpu=batch), n**slope * math.exp(scatter * (-1) ** k))
        for k, (n, batch) in enumerate(sizes)
    ]
    floor = floor_of(found)
    assert floor is not None
    assert floor.mape == pytest.approx(100 * abs(scatter), rel=0.35, abs=1e-6)
    assert floor_of(found[:9]) is None


def test_a_row_states_what_plan_states_of_its_scenario(directory):
    published = read_directory(directory)
    row = of(published, strategy="sync-ddp", gpus=4)
    stated = predict_row(published, row, PUBLISHED).stated
    scenario = load_scenario(published.scenarios / f"A-{row.line}.toml", host())
    plan = fit.calibrated(make_plan(scenario, host(), Machine(cores=1)), scenario.observed, host())
    (cell,) = (cell for cell in plan.cells if cell.gpus == 4)
    known = price(cell, host())
    assert known.error == stated > 0
    assert f"{stated_words(stated)}  " in describe(plan, host())
    assert predict_row(published, of(published, strategy="sync-ps-distributed"), PUBLISHED).stated


def test_bubbles_differ_in_points(directory):
    row = of(read_directory(directory), metric="bubble")
    assert error_of(row, 0.35) == pytest.approx(5.0)
    assert score([(row, 0.35)]).points


@given(st.lists(st.floats(0, 1e6), min_size=1).map(sorted), st.floats(0, 1))
def test_a_quantile_lies_between_the_least_and_the_most(values, share):
    assert values[0] <= quantile(values, share) <= values[-1]


# -- predicting --------------------------------------------------------------------------------------------------------


def test_without_constants_data_parallelism_is_its_closed_form(directory):
    published = read_directory(directory)
    row = of(published, strategy="sync-ddp", gpus=4)
    # 10 images take 100 ms on one device; 4 devices exchange 1.5 * 100 MB at 10 GB/s behind that.
    expected = 40 / (0.1 + 1.5 * 100e6 / 10e9)
    assert predict_row(published, row, PLAIN).predicted == pytest.approx(expected, rel=1e-6)


def test_a_row_is_predicted_alike_whatever_was_predicted_before(directory):
    block = """[[cases.A.systems]]
series = ["half"]
device = "V100"
gpus_per_node = 8
link = { kind = "pcie", GBps_per_gpu_per_direction = 10, latency_us = 0, origin = "calibrate" }
overlap = false
gradient_bytes = 50000000
"""
    text = (directory / "cases.toml").read_text()
    (directory / "cases.toml").write_text(text.replace("[[cases.A.systems]]", block + "[[cases.A.systems]]", 1))
    with (directory / "throughput.csv").open("a") as stream:
        stream.write("A,half,net,sync-ddp,fp32,4,1,10,,throughput,images/s,350,no\n")
    published = read_directory(directory)
    whole, half = (of(published, strategy="sync-ddp", gpus=4, series=series) for series in ("s", "half"))
    first = predict_row(published, whole, PLAIN).predicted
    assert predict_row(published, half, PLAIN).predicted == pytest.approx(40 / (0.1 + 1.5 * 50e6 / 10e9), rel=1e-6)
    # Other constants, so that nothing remembered is an answer.
    other = PLAIN.with_values({"action_s": 1.0})
    assert predict_row(published, whole, other).predicted == pytest.approx(first)


def test_without_constants_servers_are_their_closed_form(directory):
    published = read_directory(directory)
    row = of(published, strategy="sync-ps-distributed")
    # Two servers take 8 * 50 MB each, there and back: 320 ms a way, of which computing can hide a part.
    predicted = predict_row(published, row, PLAIN).predicted
    assert 400 <= predicted <= 400 + 2 * 320
    hidden_nothing = predict_row(published, row, PLAIN.with_values({"server_exposed_fraction": 1.0})).predicted
    assert hidden_nothing == pytest.approx(400 + 2 * 320, rel=1e-6)


def test_without_constants_a_balanced_pipeline_has_its_closed_bubble(directory):
    text = (directory / "cases.toml").read_text()
    (directory / "cases.toml").write_text(
        text.replace(
            "latency_us = 0 }\n\n[cases.C]",
            "latency_us = 0 }\nstages = [{ gpus = 4, sizes = [1, 3, 3, 1] }]\n\n[cases.C]",
        )
    )
    published = read_directory(directory)
    # Embedding and head fill what the short stages leave, so that 4 stages are equal: 3 / (8 + 3) of the time.
    assert predict_row(published, of(published, metric="bubble"), PLAIN).predicted == pytest.approx(3 / 11, rel=1e-3)
    rate = predict_row(published, of(published, strategy="gpipe", metric="throughput"), PLAIN).predicted
    assert rate == pytest.approx(100 * 4 * 8 / 11, rel=1e-3)


def test_what_cannot_be_predicted_is_counted_with_its_reason(directory):
    predictions = predict_all(read_directory(directory), PUBLISHED)
    missing = {
        p.row.strategy if p.row.model == "net" else p.row.model: p.reason for p in predictions if p.predicted is None
    }
    assert "strategy 'gossip'" in missing["gossip"]
    assert "no calibration row" in missing["unseen"]
    found = score((p.row, p.predicted) for p in by_kind(predictions)["throughput", "single-node data parallel"])
    assert (found.rows, found.missing) == (4, 2)


def test_figures_that_contradict_each_other_do_not_stop_the_others(directory):
    text = (directory / "cases.toml").read_text()
    (directory / "cases.toml").write_text(
        text.replace("GBps_per_gpu_per_direction = 10,", 'GBps_per_gpu_per_direction = "ten",')
    )
    predictions = predict_all(read_directory(directory), PUBLISHED)
    assert any("cluster.intra_node" in p.reason for p in predictions if p.row.case == "A")
    assert all(p.predicted is not None for p in predictions if p.row.case == "C")


def test_rows_that_tell_less_are_scored_apart():
    block = {"input_bound": ["net"], "uneven_samples": ["other"], "input_included": True, "assumed": ["link.graph"]}
    assert apart_of(block, "net") == (
        "limited by their input",
        "timed with their input",
        "on machines of which something is assumed",
    )
    assert apart_of({**block, "input_included": False, "assumed": []}, "other") == ("of samples that differ in length",)
    assert apart_of({}, "net") == ()


def test_facts_are_no_targets(directory):
    assert all(row.series != "facts" for row in read_directory(directory).targets)


def test_the_command_writes_every_target_and_prints_every_kind(directory, tmp_path):
    out = tmp_path / "out.csv"
    result = CliRunner().invoke(main, ["validate", str(directory), "--out", str(out), "--verbose"])
    assert result.exit_code == 0, result.output
    with out.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(read_directory(directory).targets)
    assert sum(line["predicted"] == "" for line in lines) == 2
    assert all(line["reason"] for line in lines if not line["predicted"])
    assert [line["input_bound"] for line in lines if line["model"] == "starved"] == ["yes"]
    for words in (
        "single-node data parallel",
        "pipeline bubble [points]",
        "limited by their input",
        "By kind and source",
        "constants fitted without the row's source",
    ):
        assert words in result.output


def test_an_output_that_cannot_be_written_is_an_input_error(directory, tmp_path):
    result = CliRunner().invoke(main, ["validate", str(directory), "--out", str(tmp_path / "no" / "where.csv")])
    assert result.exit_code == 2
    assert "--out" in result.stderr


# -- laws of this package ----------------------------------------------------------------------------------------------


@given(
    st.integers(2, 64),
    st.floats(2e-5, 1e-3),
    st.floats(1e9, 4e11),
    st.sampled_from([PLAIN, PUBLISHED]),
)
def test_an_all_reduce_meets_both_sizes_it_was_measured_at(ranks, small_s, rate, constants):
    small, large = MeasuredAllReduce(MIB, small_s), MeasuredAllReduce(1024 * MIB, small_s + 1024 * MIB / rate)
    assert between_s(ranks, small, large, small.num_bytes, constants) == pytest.approx(small.seconds)
    assert between_s(ranks, small, large, large.num_bytes, constants) == pytest.approx(large.seconds, rel=0.35)
    assert between_s(ranks, small, large, 64 * MIB, constants) > 0


@given(st.lists(st.floats(0.1, 10), min_size=4, max_size=12), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_replicated_stages_are_cut_so_that_none_is_slower_than_any_other_cut_allows(seconds, replicas):
    sizes = balance_under(seconds, len(replicas), None, replicas)
    assert sum(sizes) == len(seconds)
    assert min(sizes) >= 1

    def slowest(cut):
        ends = [sum(cut[: k + 1]) for k in range(len(cut))]
        return max(sum(seconds[e - s : e]) / r for s, e, r in zip(cut, ends, replicas, strict=True))

    def cuts(length, parts):
        if parts == 1:
            yield [length]
            return
        for first in range(1, length - parts + 2):
            yield from ([first, *rest] for rest in cuts(length - first, parts - 1))

    assert slowest(sizes) <= min(map(slowest, cuts(len(seconds), len(replicas)))) * (1 + 1e-9)


# -- the published tables ----------------------------------------------------------------------------------------------


@needs_tables
def test_the_published_baseline_is_reproduced(tables):
    with (TABLES / "baseline.csv").open(newline="") as stream:
        expected = {tuple(list(line.values())[:6]): line for line in csv.DictReader(stream)}
    predictions = [PredictedRow(row, None, linear(row, tables.inputs)) for row in tables.targets]
    found = {}
    for key, group in by_series(predictions).items():
        result = score((p.row, p.linear) for p in group)
        if result.mape is not None:
            found[key[0], key[1] + (" [points]" if result.points else ""), *key[2:]] = result
    assert found.keys() == expected.keys()
    for key, line in expected.items():
        figures = {name: float(line[name]) for name in ("rows", "mape", "median", "p95", "bias", "worst")}
        assert {name: getattr(found[key], name) for name in figures} == pytest.approx(figures, abs=6e-5), key


AIMS: Mapping[tuple[str, str], float] = {
    ("throughput", "single-node data parallel"): 3.5,
    ("throughput", "multi-node"): 4.5,
    ("throughput", "parameter server"): 3.0,
    ("throughput", "pipeline"): 8.0,
    ("throughput", "pipeline bubble"): 1.5,
    ("vtrain_single", "pipeline"): 6.0,
    ("vtrain_single", "tensor-parallel"): 6.0,
    ("vtrain_multi", "multi-node"): 15.0,
    ("collectives", "collectives"): 4.5,
}
"""Mean absolute errors that the project promises."""


@pytest.fixture(scope="session")
def predictions(tables) -> list[PredictedRow]:
    wanted = [row for row in tables.targets if (row.table, row.kind) in AIMS]
    return predict_all(tables, PUBLISHED, wanted)


@needs_tables
def test_the_promised_accuracy_is_reached(predictions):
    groups = by_kind(predictions)
    assert groups.keys() == AIMS.keys()
    for kind, group in groups.items():
        found = score((p.row, p.predicted) for p in group)
        assert found.missing == 0, kind
        assert found.mape <= AIMS[kind], (kind, found)
        assert found.mape < score((p.row, p.linear) for p in group).mape, kind


@needs_tables
def test_no_target_informs_a_prediction(tables, predictions):
    sample = predictions[::9]
    hidden = {id(p.row) for p in predictions}

    # The all-reduce table may be read whole, as the link of other cases: its rows keep their values.
    def changed(row: TableRow) -> TableRow:
        return replace(row, value=row.value * 1.7) if id(row) in hidden and row.table != "collectives" else row

    falsified = replace(tables, rows=tuple(changed(row) for row in tables.rows))
    again = predict_all(falsified, PUBLISHED, [changed(p.row) for p in sample])
    assert [p.predicted for p in again] == pytest.approx([p.predicted for p in sample], rel=1e-12)


@needs_tables
def test_a_few_calibration_rows_are_enough_for_transformer_steps_of_the_same_model(tables):
    known = [row for row in tables.inputs if row.table == "vtrain_single"]
    kept = [row for row in known if (row.degrees.layers, row.microbatches) == (24, 2)]
    others = [row for row in tables.rows if row.table != "vtrain_single" or not row.is_input]
    targets = [row for row in tables.targets if row.table == "vtrain_single" and row.kind == "pipeline"][::7]
    predictions = predict_all(replace(tables, rows=(*others, *kept)), PUBLISHED, targets)
    found = score((p.row, p.predicted) for p in predictions if p.row.degrees.layers == 24)
    assert found.missing == 0
    assert found.mape < 15
    assert {p.reason for p in predictions if p.row.degrees.layers != 24} == {"no calibration row of the same model"}


@needs_tables
def test_collectives_are_predicted_from_two_sizes_alone(tables):
    rows = [row for row in tables.rows if row.num_bytes and row.is_input]
    fewer = replace(tables, rows=tuple(rows))
    targets = [row for row in tables.targets if row.table == "collectives"][::11]
    alone = predict_all(fewer, PUBLISHED, targets)
    assert [p.predicted for p in alone] == [p.predicted for p in predict_all(tables, PUBLISHED, targets)]


@needs_tables
def test_memory_of_schedules_follows_what_they_keep(tables):
    rows = [row for row in tables.targets if row.series == "a100-memory"]
    found = {(p.row.gpus, p.row.strategy): p for p in predict_all(tables, PUBLISHED, rows)}
    for gpus in (8, 16):
        # Nothing is fitted to these rows. "As the 1F1B row" is off by 23 % on average.
        errors = [error_of(p.row, p.predicted) for p in found.values() if p.row.gpus == gpus and p.predicted]
        assert len(errors) == 2
        assert max(map(abs, errors)) < 9
        assert "stages need at least" in found[gpus, "1f1b-interleaved"].reason


def test_rows_that_no_scenario_says_are_not_scored_and_the_reason_is_printed(directory):
    with (directory / "throughput.csv").open("a") as stream:
        stream.write("A,s,net,single,fp32,1,1,20,,throughput,images/s,100,no\n")
        stream.write("A,s,net,sync-ddp,fp32,4,1,10,,gpu_utilisation,percent,90,no\n")
    text = score_directory(directory, directory / "results", refit=False)
    listed = text[text.index("Not scored") :]
    assert "1 of throughput, utilisation: a driver counts" in listed
    assert "1 of throughput, single-node data parallel: one device under other settings" in listed
    assert "utilisation" not in text[: text.index("Missing predictions")]
    assert re.search(r"throughput: single-node data parallel +4 +2", text)


@needs_tables
@pytest.mark.slow
def test_errors_of_replicas_stay_small_for_sources_that_no_constant_has_seen(tables):
    rows = tuple(row for row in tables.rows if row.table == "throughput" and row.kind != "pipeline")
    found = leave_one_out(replace(tables, rows=rows + tuple(r for r in tables.rows if r.num_bytes)))
    aims = {"single-node data parallel": 4.5, "multi-node": 5.0, "parameter server": 8.0}
    for kind, most in aims.items():
        assert score((p.row, p.predicted) for p in found if p.row.kind == kind).mape <= most, kind


@needs_tables
def test_a_constant_that_only_one_case_knows_is_its_prior_without_it(tables):
    rows = [row for row in fitted_rows(tables, "replicas") if row.case != "P14"]
    problem = ConstantsFit(tables, "replicas", rows[::6])
    start = problem.position({name: FITTED[name].value for name in problem.names})
    errors = problem.errors(start)
    position = problem.step(start, errors, problem.slopes(start, errors))
    refitted = problem.constants(position)
    for name in ("server_passes", "shared_host_fraction"):
        assert getattr(refitted, name) == pytest.approx(FITTED[name].prior, rel=1e-3)


@needs_tables
def test_deeper_networks_of_a_profiled_family_get_its_blocks(tables):
    # ResNet-101 and 152 have 33 and 50 residual blocks, where the profiled ResNet-50 has 16 (He et al. 2016, table 1).
    lines = {name: len(published_parts(tables, name).parts) for name in ("resnet50", "resnet101", "resnet152")}
    assert lines["resnet101"] == lines["resnet50"] + 17 * 10
    assert lines["resnet152"] == lines["resnet50"] + 34 * 10
    assert not published_parts(tables, "inception3").known


@needs_tables
def test_every_block_with_rows_makes_a_cluster(tables):
    for row in tables.rows:
        if row.table == "throughput":
            assert cluster_keys(tables, row)["gpus_per_node"] >= 1


# -- scenarios of one's own --------------------------------------------------------------------------------------------

OWN = """
engine = "virtual"
workload.model = { parameters = "25 M", layers = 50 }
goal.max_steps = 3
[sweep]
strategy = "sync-ddp"
gpus = [1, 2, 4]
batch_size = [32]
[cluster]
device = { samples_per_second = 200, batch_size = 32 }
gpus_per_node = 4
intra_node = "10 GB/s"
[[observed]]
gpus = 1
throughput = "300 images/s"
use = "calibrate"
[[observed]]
gpus = 2
throughput = "560 images/s"
source = "ours"
[[observed]]
gpus = 4
throughput = "1100 images/s"
source = "ours"
"""


def test_a_folder_of_scenarios_is_scored_as_tables_are(tmp_path):
    folder = tmp_path / "measured"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "one.toml").write_text(OWN)
    (folder / "other.toml").write_text("[tool]\nname = 'no scenario'\n")
    text = score_directory(folder, tmp_path / "results")
    assert "2 rows to predict, 1 rows to calibrate on" in text
    assert re.search(r"scenarios: single-node data parallel +2 +-", text)
    assert re.search(r"scenarios: single-node data parallel ours +2 +-", text)
    with (tmp_path / "results" / "validate-measured" / "predictions.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    # What is calibrated on 300 samples/s is predicted from there, not from the 200 that the device is said to compute.
    assert [float(line["baseline"]) for line in lines] == [600, 1200]
    assert all(500 < float(line["predicted"]) / int(line["gpus"]) * 2 < 600 for line in lines)
    assert sorted(path.name for path in folder.rglob("*")) == ["below", "one.toml", "other.toml"]


@needs_tables
def test_a_row_written_as_a_scenario_is_predicted_as_the_row_was(tables, tmp_path):
    rows = [row for row in tables.targets if (row.case, row.series, row.model) == ("P2", "gce-k80-synthetic", "vgg16")]
    before = [predict_row(tables, row, PUBLISHED) for row in rows]
    for name in ("P2-39", "P2-40", "P2-41"):
        shutil.copy(tables.scenarios / f"{name}.toml", tmp_path)
    shutil.copy(tables.scenarios / "vgg16-553430176.csv", tmp_path)
    _, again = predict_own(tmp_path)
    assert [p.row.case for p in again] == ["P2"] * 3
    for one, other in zip(before, again, strict=True):
        assert error_of(one.row, one.predicted) == pytest.approx(
            -100 + 1e4 / (100 + error_of(other.row, other.predicted))
        )


def test_what_is_all_there_is_of_a_kind_is_left_out_by_size_schedule_or_machine(tables):
    by = {(row.table, row.kind): left_out_by(tables, row) for row in tables.targets if group_of(row)}
    assert by["throughput", "parameter server"] == by["throughput", "pipeline"] == "source"
    assert by["throughput", "pipeline bubble"] == "schedule"
    assert by["vtrain_single", "tensor-parallel"] == "model size"
    assert by["collectives", "collectives"] == "machine and GPUs"
    bubble = next(row for row in tables.targets if row.kind == "pipeline bubble")
    part = HeldBack(bubble.case, bubble.strategy)
    held = {(row.kind, row.strategy) for row in tables.targets if part.holds(row)}
    assert held >= {("pipeline bubble", bubble.strategy), ("pipeline", bubble.strategy)}
    assert {strategy for _, strategy in held} == {bubble.strategy}
