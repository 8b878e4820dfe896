"""Nothing that prices a step is reachable from `harness validate` and not from a user's scenario."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cells import host
from lazy import lazy
from places import SHARED

import harness
from harness.commands.validate.dispatch import predict_row
from harness.commands.validate.published import Tables, read_directory
from harness.costs.profiles import FITTED, PUBLISHED
from harness.scenario.bundled import find_scenario
from harness.scenario.plan import Machine, make_plan
from harness.scenario.read import load_scenario

fit = lazy("harness.engines.virtual.fit_observed")
whatif = lazy("harness.engines.virtual.whatif")

ROOT = Path(harness.__file__).parent
VALIDATE = ROOT / "commands" / "validate"
TABLES = Path(os.environ.get("HARNESS_VALIDATION", SHARED / "validation"))
needs_tables = pytest.mark.skipif(not TABLES.is_dir(), reason="HARNESS_VALIDATION names no directory of tables")

STILL_PRIVILEGED = {
    "eager_profile",  # one device under other settings
    "server_cost",  # servers that exchange while devices compute
}
"""Names of harness.costs that only validate calls: to become empty, never to grow."""

CONSTANTS_STILL_PRIVILEGED = {
    "apply_bytes_per_s",
    "server_exposed_fraction",
}
"""Constants that no user's scenario reads."""

DOORS = {
    *("as_pipeline", "as_scenario", "as_transformer", "case_cluster", "case_cuts", "case_scenario"),
    *("rows_hybrid", "rows_pipeline", "rows_transformer"),
}
"""Modules that write scenarios; they may price nothing themselves."""


def trees(folder: Path, but: Path | None = None) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        if but is None or but not in path.parents:
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def from_costs(tree: ast.Module) -> set[str]:
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness.costs")
        for alias in node.names
    }


def called(tree: ast.Module) -> set[str]:
    """Return names that are called, or handed on, in a module."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)} | {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }


def test_every_law_that_validate_calls_is_called_by_what_a_scenario_reaches() -> None:
    priced = set().union(*(from_costs(tree) & called(tree) for _, tree in trees(VALIDATE)))
    # The file that defines a name does not count as its caller; a law within costs is reached through another one.
    others = set()
    for _, tree in trees(ROOT, but=VALIDATE):
        defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        others |= called(tree) - defined
    assert priced - others - {"tracer_key"} <= STILL_PRIVILEGED  # the key of a cache: what it keeps is traced alike
    assert priced >= STILL_PRIVILEGED, "these are reached no more: take them off the list"


def test_rows_that_are_scenarios_are_priced_by_no_law_of_their_own() -> None:
    allowed = {"CARRIED", "DEVICES", "LATENCY_S", "Cluster", "Constants", "cluster_of", "find_devices", "medium_of"}
    allowed |= {"priced_step"}  # of the cell that a scenario plans
    for path, tree in trees(VALIDATE):
        if path.stem in DOORS:
            assert from_costs(tree) <= allowed, path.stem


@pytest.mark.slow
def test_constants_that_decide_rows_of_data_parallelism_decide_a_users_scenario(tmp_path: Path) -> None:
    plan = make_plan(load_scenario(find_scenario("published/resnet50-k80-ec2"), host()), host(), Machine(cores=1))
    more = ("published/alexnet-dgx1-p100", "published/vgg16-horovod-roce25", "published/vgg16-k80-servers")
    cells = [*plan.cells]
    for name in more:
        cells += make_plan(load_scenario(find_scenario(name), host()), host(), Machine(cores=1)).cells
    (tmp_path / "cut.toml").write_text(CUT_LAYERS)
    cells += make_plan(load_scenario(tmp_path / "cut.toml", host()), host(), Machine(cores=1)).cells
    for name, text in (("stages.toml", STAGES), ("parts.toml", PARTS)):
        (tmp_path / name).write_text(text)
        cells += make_plan(load_scenario(tmp_path / name, host()), host(), Machine(cores=1)).cells
    (tmp_path / "two.csv").write_text("n,bytes,seconds\n8,1048576,0.0001\n8,1073741824,0.009\n")
    (tmp_path / "two.toml").write_text(TWO_SIZES)
    cells += make_plan(load_scenario(tmp_path / "two.toml", host()), host(), Machine(cores=1)).cells
    before = [whatif.update_s(cell, host()) for cell in cells]
    read = set()
    for name, fitted in FITTED.items():
        moved = PUBLISHED.with_values({name: fitted.low if fitted.value != fitted.low else fitted.high})
        if [whatif.update_s(cell, host(), moved) for cell in cells] != before:
            read.add(name)
    assert set(FITTED) - read <= CONSTANTS_STILL_PRIVILEGED | {"host_spread_fraction"}


CUT_LAYERS = """
workload.model = { parameters = "335 M", layers = 24, hidden = 1024, heads = 16, sequence = 512 }
goal.max_steps = 5
[sweep]
strategy = "hybrid"
gpus = [8]
batch_size = [4, 32]
[strategy.hybrid]
tensor = 8
[cluster]
preset = "dgx-a100"
device = { samples_per_second = 60, batch_size = 4 }
"""

STAGES = """
workload.model = { parameters = "335 M", layers = 24, hidden = 1024, heads = 16, sequence = 512 }
goal.max_steps = 5
[sweep]
strategy = [{ name = "model-split", schedule = "zb-1p" }, { name = "model-split", schedule = "interleaved-1f1b" }]
gpus = [4]
batch_size = [32]
micro_batch_size = [4]
[cluster]
preset = "dgx-a100"
device = { name = "A100-SXM4-80GB", samples_per_second = 60, batch_size = 32 }
"""

PARTS = """
workload.model = { parameters = "335 M", layers = 24, activations = "100 MB" }
goal.max_steps = 5
[sweep]
strategy = "model-split"
gpus = [4]
batch_size = [32]
micro_batch_size = [4]
[cluster]
preset = "dgx-a100"
device = { samples_per_second = 60, batch_size = 32 }
"""

TWO_SIZES = """
workload.model = { parameters = "25 M", layers = 30 }
goal.max_steps = 5
[sweep]
strategy = "sync-ddp"
gpus = [8]
batch_size = [8]
[strategy.sync-ddp]
bucket_mib = 8
[cluster]
device = { samples_per_second = 30000, batch_size = 1 }
gpus_per_node = 8
intra_node = { table = "two.csv" }
"""

PAIRS = {
    "resnet50-ddp-dgx1-v100": ("P4", "bucket25-p50-rate", "resnet50", "fp32"),
    "resnet101-ddp-dgx1-v100": ("P4", "bucket25-p50-rate", "resnet101", "fp32"),
    "transformer-xl-dgx1-v100": ("P6", "dgx1-v100", "transformer-xl-base", "fp32"),
    "transformer-xl-large-dgx-a100": ("P6", "dgxa100", "transformer-xl-large", "tf32"),
    "bert-large-v100": ("P15", "v100-sxm2-32gb", "bert-large-squad", "fp32"),
    "resnet50-dgx1-v100": ("P5", "dgx1-v100", "resnet50-v1.5", "fp32"),
    "alexnet-k40": ("P13", "k40-paddle", "alexnet-bvlc-ungrouped", "fp32"),
    "vgg16-dgx1-p100": ("P1", "dgx1-p100-synthetic", "vgg16", "fp32"),
    "alexnet-dgx1-p100": ("P1", "dgx1-p100-synthetic", "alexnet-tf", "fp32"),
}
"""By scenario: case, series, model and precision of the same measurements in the tables."""

FAR = {"vgg16-dgx1-p100": 1.7, "alexnet-dgx1-p100": 7.0, "alexnet-k40": 2.0}
"""In percent: nets whose layers differ much, of which the scenarios give equal ones and the tables a profile."""


@pytest.fixture(scope="module")
def tables() -> Tables:
    return read_directory(TABLES)


@needs_tables
@pytest.mark.parametrize("name", PAIRS)
def test_a_published_scenario_and_the_rows_of_its_case_are_predicted_alike(name: str, tables: Tables) -> None:
    scenario = load_scenario(find_scenario(f"published/{name}"), host())
    plan = fit.calibrated(make_plan(scenario, host(), Machine(cores=1)), scenario.observed, host())
    wanted = [row for row in tables.targets if (row.case, row.series, row.model, row.precision) == PAIRS[name]]
    compared = 0
    for row in (row for row in wanted if row.strategy in ("sync-ddp", "replicated-nccl")):
        cells = [cell for cell in plan.cells if (cell.strategy, cell.gpus) == ("sync-ddp", row.gpus) and cell.observed]
        for cell in cells:
            (seen,) = cell.observed
            mine = whatif.update_s(cell, host()) / (
                seen.step_time_s or cell.global_batch_size / (seen.throughput_samples_per_s or 1)
            )
            predicted = predict_row(tables, row, PUBLISHED).predicted
            assert predicted is not None
            theirs = predicted / row.value if row.metric == "step_time" else row.value / predicted
            assert 100 * abs(mine / theirs - 1) <= FAR.get(name, 0.5)
            compared += 1
    assert compared
