"""Nothing that prices a step is reachable from `harness validate` and not from a user's scenario."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from call_graph import CallGraph
from cells import host
from house import House
from lazy import lazy
from places import SHARED

import harness
from harness.commands.validate.as_scenario import STRATEGIES, layer_lines
from harness.commands.validate.case_models import parameter_bytes
from harness.commands.validate.case_systems import block_of
from harness.commands.validate.dispatch import predict_row
from harness.commands.validate.published import TableRow, Tables, read_directory
from harness.core.cell import Cell
from harness.costs.profiles import FITTED, PUBLISHED
from harness.scenario.bundled import find_scenario
from harness.scenario.plan import Machine, make_plan
from harness.scenario.read import load_scenario

fit = lazy("harness.engines.virtual.fit_observed")
whatif = lazy("harness.engines.virtual.whatif")

ROOT = Path(harness.__file__).parent
TABLES = Path(os.environ.get("HARNESS_VALIDATION", SHARED / "validation"))
needs_tables = pytest.mark.skipif(not TABLES.is_dir(), reason="HARNESS_VALIDATION names no directory of tables")

STILL_PRIVILEGED = {
    "harness.costs.profiles.constants.Constants.with_values": "no law: a refit asks for other constants"
}
"""What of costs and engines only validate reaches, and why: never to grow."""

PLAIN_DATA = {
    *("catalogue.devices.DEVICES", "catalogue.devices.find_devices"),
    *("profiles.constants.Constants", "profiles.constants.FITTED", "profiles.constants.PUBLISHED"),
    *("profiles.constants.STATED_ERRORS", "price.PricedStep"),
}
"""What any module of validate may know of harness.costs: the machine, and which constants there are."""

PRICING = ("harness.costs.", "harness.engines.")
VALIDATE = "harness.commands.validate."


@pytest.fixture(scope="module")
def graph() -> CallGraph:
    return CallGraph({f"harness.{name}".rstrip("."): tree for name, tree in House(ROOT).modules.items()})


def users_path(graph: CallGraph) -> set[str]:
    """Return what `harness plan` and `harness run` reach, hooks included: plugins are found by name."""
    hooks = [name for name in graph.nodes if name.rpartition(".")[2].startswith("harness_")]
    return graph.reached(["harness.commands.cli.plan", "harness.commands.cli.run", *hooks])


def privileged(graph: CallGraph, shut: Collection[str] = ()) -> set[str]:
    """Return what of costs and engines `harness validate` reaches, and no user's scenario."""
    only = graph.reached(graph.within(VALIDATE), shut) - users_path(graph)
    return {name for name in only if name.startswith(PRICING)}


def laws_called(graph: CallGraph) -> dict[str, set[str]]:
    """Return what each module of validate itself mentions of costs that is not plain data, and constants it reads."""
    found: dict[str, set[str]] = {}
    for name in graph.within(VALIDATE):
        laws = {other.removeprefix("harness.costs.") for other in graph.mentioned(name) if other.startswith(PRICING)}
        read = graph.nodes[name].attributes & set(FITTED)
        module = name.removeprefix(VALIDATE).partition(".")[0]
        found.setdefault(module, set()).update(laws - PLAIN_DATA - SCENARIOS_WAY, read)
    return {module: laws for module, laws in found.items() if laws}


SCENARIOS_WAY = {
    *("harness.engines.virtual.fit_observed.calibrated", "harness.engines.virtual.whatif.foretold"),
    *("cells.find.given_shape", "memory.fit.memory_of"),
}
"""What any module of validate may ask of a scenario's cell: its time, and its memory."""


def test_nothing_prices_a_step_that_validate_reaches_and_no_users_scenario(graph: CallGraph) -> None:
    assert privileged(graph, STILL_PRIVILEGED) == set()
    assert set(STILL_PRIVILEGED) - privileged(graph) == set(), "these are privileged no more: take them off the list"


def test_validate_prices_nothing_by_laws_of_its_own(graph: CallGraph) -> None:
    assert laws_called(graph) == {}


def test_every_constant_is_read_on_the_way_of_a_users_scenario(graph: CallGraph) -> None:
    way = [name for name in users_path(graph) if name.startswith(PRICING)]
    read = set().union(*(graph.nodes[name].attributes for name in way)) & set(FITTED)
    assert set(FITTED) - read == set()


# -- what the test itself must see -------------------------------------------------------------------------------------

SECRET = "def secret_s(constants):\n    return constants.step_fraction\n"
SECRET_CLASS = "class Secret:\n    def cost_s(self):\n        return hidden_s()\ndef hidden_s():\n    return 1.0\n"


@pytest.mark.parametrize(
    ("law", "caller", "found"),
    [
        (SECRET, "from harness.costs.steps.secret import secret_s\ndef row(c):\n    return secret_s(c)\n", "secret_s"),
        (
            SECRET,
            "def row(c):\n    from harness.costs.steps.secret import secret_s as s\n    return s(c)\n",
            "secret_s",
        ),
        (SECRET, "from harness.costs.steps import secret\ndef row(c):\n    return secret.secret_s(c)\n", "secret_s"),
        (SECRET, "import harness.costs.steps.secret as laws\nTABLE = {'row': laws.secret_s}\n", "secret_s"),
        (SECRET, "from harness.costs import secret_s\ndef row(c, law=secret_s):\n    return law(c)\n", "secret_s"),
        (
            SECRET_CLASS,
            "from harness.costs.steps.secret import Secret\ndef row():\n    return Secret().cost_s()\n",
            "hidden_s",
        ),
    ],
    ids=["called", "renamed, late", "by module", "in a table", "re-exported, handed on", "behind a method"],
)
def test_a_new_privileged_law_is_found(graph: CallGraph, law: str, caller: str, found: str) -> None:
    laws = {
        "harness.costs.steps.secret": law,
        "harness.costs": "from harness.costs.steps.secret import secret_s\n",
    }
    name = f"harness.costs.steps.secret.{found}"
    secret = beside(graph, {**laws, f"{VALIDATE}rows_secret": caller})
    assert name in privileged(secret, STILL_PRIVILEGED)
    assert "rows_secret" in laws_called(secret)
    # Where a plan reaches it too, it is privileged no more.
    opened = beside(secret, {"harness.core.hooked": caller + "def harness_secrets():\n    return row, TABLE\n"})
    assert name not in privileged(opened, STILL_PRIVILEGED)


def beside(graph: CallGraph, texts: dict[str, str]) -> CallGraph:
    """Return the graph with more modules."""
    return CallGraph({name: ast.parse(text) for name, text in texts.items()}, graph)


def test_what_only_an_annotation_names_is_not_reached(graph: CallGraph) -> None:
    named = "from harness.costs.steps.secret import Secret\ndef plan(law: Secret) -> Secret:\n    return law\n"
    found = beside(graph, {"harness.costs.steps.secret": SECRET_CLASS, "harness.plans": named})
    assert found.reached(["harness.plans.plan"]) == {"harness.plans.plan"}


def test_a_constant_that_only_validate_reads_is_found(graph: CallGraph) -> None:
    caller = "def row(constants):\n    return constants.step_fraction\n"
    assert laws_called(beside(graph, {f"{VALIDATE}rows_secret": caller}))["rows_secret"] == {"step_fraction"}


# -- constants and rows that are run -----------------------------------------------------------------------------------


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
        if any(whatif.update_s(cell, host(), moved) != update_s for cell, update_s in zip(cells, before, strict=True)):
            read.add(name)
    threads = {"server_passes", "shared_host_fraction"}  # where devices are threads
    assert set(FITTED) - read <= {"action_s"} | threads


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
    "vgg16-k80-servers": ("P2", "gce-k80-synthetic", "vgg16", "fp32"),
    "resnet50-k80-ec2": ("P3", "ec2-k80-distributed", "resnet50", "fp32"),
    "vgg16-horovod-roce25": ("P12", "pascal-roce25-128", "vgg16", "fp32"),
}
"""By scenario: case, series, model and precision of the same measurements in the tables."""

ROUNDING = 0.03
"""In percent: the tables' links by size, and the constants that presets keep of them."""

BLOCKS = 0.25
"""In percent: transformers, of whose blocks the scenarios say more than the tables do."""


@pytest.fixture(scope="module")
def tables() -> Tables:
    return read_directory(TABLES)


@needs_tables
@pytest.mark.parametrize("name", PAIRS)
def test_a_published_scenario_and_the_rows_of_its_case_are_predicted_alike(
    name: str, tables: Tables, tmp_path: Path
) -> None:
    wanted = [row for row in tables.targets if (row.case, row.series, row.model, row.precision) == PAIRS[name]]
    scenario = load_scenario(_with_measured_layers(name, tables, wanted[0], tmp_path), host())
    plan = fit.calibrated(make_plan(scenario, host(), Machine(cores=1)), scenario.observed, host())
    compared = 0
    for row in wanted:
        cells = [cell for cell in plan.cells if cell.observed and _is_of(cell, row)]
        for cell in cells:
            (seen,) = cell.observed
            measured_s = seen.step_time_s or cell.global_batch_size / (seen.throughput_samples_per_s or 1)
            mine = whatif.update_s(cell, host()) / measured_s
            predicted = predict_row(tables, row, PUBLISHED).predicted
            assert predicted is not None
            theirs = predicted / row.value if row.metric == "step_time" else row.value / predicted
            assert 100 * abs(mine / theirs - 1) <= (
                BLOCKS if "hidden" in _model(cell) or "sequence" in _model(cell) else ROUNDING
            )
            compared += 1
    assert compared


def _with_measured_layers(name: str, tables: Tables, row: TableRow, folder: Path) -> Path:
    """Copy a published scenario, with the layers' times of the tables instead of shares by multiplications."""
    text = find_scenario(f"published/{name}").read_text(encoding="utf-8")
    for file in re.findall(r'profile = "([^"]+)"', text):
        (folder / file).parent.mkdir(exist_ok=True)
        num_bytes = parameter_bytes(tables, row, block_of(tables, row))
        (folder / file).write_text(layer_lines(tables, row, num_bytes), encoding="utf-8")
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder / f"{name}.toml"


def _is_of(cell: Cell, row: TableRow) -> bool:
    """Say whether a cell is a row: also of how many devices, and how large its batch is."""
    batch = row.batch_per_gpu in (None, cell.micro_batch_size)
    return batch and (cell.strategy, cell.gpus) == (STRATEGIES[row.strategy], row.gpus)


def _model(cell: Cell) -> Mapping[str, object]:
    return {key: value for key, value in cell.workload.model.options.items() if value}
