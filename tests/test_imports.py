"""Who may import whom, what costs nothing to import, and which names outsiders rely on."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cells import make_cells
from house import ROOMS, House
from places import ROOT as PROJECT

import harness
import harness.costs
from harness.analysis.cell_row import identity_row
from harness.api import hooks as hookspecs
from harness.commands.cli import main
from harness.core.cell import Plan
from harness.core.endings import Status
from harness.results.store import Record, Results
from harness.scenario.plan import Machine
from harness.scenario.schema import key_paths, schema_text

ROOT = Path(harness.__file__).parent

HEAVY = ("torch", "pandas", "numpy.linalg", "seaborn", "scipy", "sklearn", "simpy")


# -- rooms and their order ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def house() -> House:
    return House(ROOT)


def test_the_house_has_its_rooms_and_nothing_lies_beside_them(house):
    assert house.rooms == sorted(ROOMS[:-1])
    assert house.loose == []


def test_rooms_import_only_from_those_before_them_late_and_types_only_imports_too(house):
    assert house.upward == []
    assert house.imports["api.host"] >= {"core.errors", "api.hooks"}  # the reader sees imports at all


def test_no_modules_import_each_other_in_a_circle(house):
    assert house.circles == []


MOST_ANY = 299
"""Names `Any` in code: each is a place where nothing is checked. What models of others return is one of them."""


def test_few_values_are_of_any_type(house):
    assert house.anys <= MOST_ANY


def test_all_imports_are_absolute(house):
    trees = house.modules.items()
    assert [name for name, tree in trees for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level] == []


def test_files_of_one_name_are_twins(house):
    assert house.file_collisions == []


def test_analysis_and_report_know_nothing_of_engines(house):
    for name, others in house.imports.items():
        if name.startswith(("analysis", "report")):
            assert [other for other in others if other.startswith("engines")] == [], name


def test_figures_of_the_house_do_not_grow(house):
    """Ceilings: lower them when the house gets better, never raise them."""
    assert len(house.name_collisions) <= 24
    assert len(house.doors) <= 7


def test_the_costs_say_which_doors_they_have(house):
    listed = set(re.findall(r"^- `harness\.([\w.]+)`:", harness.costs.__doc__ or "", re.MULTILINE))
    assert set(house.doors) == listed


def test_bundled_strategies_import_only_what_a_stranger_may():
    for path in (ROOT.parent / "plugins").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert froms | plain <= {"__future__", "typing", "pydantic", "harness", "collections.abc", "math", "torch"}, (
            path.name
        )


# -- what costs nothing ------------------------------------------------------------------------------------------------


def heavy_modules_after(*arguments: str, cwd: Path) -> list[str]:
    """Run a command in a process of its own and return which heavy modules it imported."""
    code = (
        "import json, sys\n"
        "from harness.commands.cli import main\n"
        "try:\n    main(sys.argv[1:], prog_name='harness')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))\n"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return a folder with results/test in it, two cells done."""
    cells = make_cells(sweep__strategy=["single", "sync-ddp"], sweep__gpus=[1])
    stored = Results(tmp_path / "results" / "test")
    stored.write_plan(Plan("test", "", Machine(cores=2), tuple(cells)))
    for cell in cells:
        row = identity_row(cell, "env") | {"status": "ok", "throughput_samples_per_s": 10.0, "reason": "", "notes": ""}
        stored.write_record(Record(cell, Status.OK, "done", (), row, {"id": "env"}), {})
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["run"],
        ["plan", "lenet"],
        ["plugins"],
        ["plugins", "sync-ddp"],
        ["schema", "--text"],
    ],
    ids=" ".join,
)
def test_commands_that_only_tell_import_nothing_heavy(results, arguments):
    assert heavy_modules_after(*arguments, cwd=results) == []


@pytest.mark.parametrize("arguments", [["show", "test"], ["show", "results", "--markdown"]], ids=" ".join)
def test_an_answer_needs_the_event_loop_at_most_to_find_what_would_turn_it(results, arguments):
    assert set(heavy_modules_after(*arguments, cwd=results)) <= {"numpy.linalg", "simpy"}


def test_a_report_without_a_simulator_starts_no_engine(results):
    code = (
        "import sys\nfrom pathlib import Path\nfrom harness.report import write_report\n"
        "from harness.results.store import Results\n"
        "write_report([Results(Path('results/test'))], Path('report.html'))\n"
        "print([name for name in sys.modules if name.startswith('harness.engines') or name in ('torch', 'simpy')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=results, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "<svg" in (results / "report.html").read_text(encoding="utf-8")


def test_show_of_a_cell_imports_nothing_heavy(results):
    cell = next((results / "results" / "test" / "cells").iterdir())
    assert heavy_modules_after("show", cell.name, cwd=results) == []


def test_importing_the_package_and_a_strategys_words_costs_neither_torch_nor_pandas():
    code = "import sys; from harness import Strategy, Worker, hookimpl, average; "
    code += f"print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_collecting_tests_imports_nothing_heavy(tmp_path):
    slow = [*(set(HEAVY) - {"numpy.linalg"}), "matplotlib"]
    (tmp_path / "tell_heavy.py").write_text(
        "import sys\n"
        "def pytest_collection_finish(session):\n"
        f"    print('heavy:', [name for name in {slow} if name in sys.modules], 'of', len(session.items))\n"
    )
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "tell_heavy", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(PROJECT)])}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
    ((found, count),) = re.findall(r"^heavy: (.*) of (\d+)$", done.stdout, re.MULTILINE)
    assert found == "[]"
    assert int(count) > 2000


def test_python_m_harness_is_the_command():
    done = subprocess.run([sys.executable, "-m", "harness", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"harness, version {harness.__version__}"


# -- what outsiders rely on --------------------------------------------------------------------------------------------


def test_exported_names_are_these():
    assert sorted(harness.__all__) == sorted(
        [
            *("ANY", "SERVER", "Action", "Batch", "Codec", "codecs", "Impossible", "Layout", "Message", "Options"),
            *("Bucket", "DataParallel", "ParameterServer", "Server"),
            *("Strategy", "Table", "Value", "Worker", "__version__", "average", "hookimpl", "load", "schedules"),
            *("DataShape", "Dataset", "DatasetSize", "Device", "Link", "Listener", "Model", "Preset"),
            *("Probe", "ProbeUnavailable", "RawData", "Sample", "ScenarioRun", "StoredCell", "Target", "Tracker"),
        ]
    )


def test_a_hook_names_only_what_the_package_exports():
    named = {name for hook in HOOKS for name in re.findall(r"`harness\.(\w+)", getattr(hookspecs, hook).__doc__)}
    assert named
    assert named <= set(harness.__all__)
    assert "`harness." not in hookspecs.__doc__


@pytest.mark.parametrize("name", harness.__all__)
def test_every_exported_name_is_there(name):
    assert getattr(harness, name) is not None or name == "ANY"


def test_a_name_that_is_not_exported_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = harness.nothing


def test_words_of_worker_are_these():
    def public(owner: type) -> set[str]:
        return {name for name in dir(owner) if not name.startswith("_")}

    shared = {
        "apply",
        "arrived",
        "compute",
        "encode",
        "layers",
        "learning_rate",
        "load",
        "note",
        "random",
        "receive",
        "record",
        "send",
    }
    shared |= {"weights", "workers", "servers"}
    assert public(harness.Server) == shared
    assert public(harness.Worker) == shared | {"batches", "gather", "gradient", "mean"}


def test_commands_are_these():
    now = {
        "check",
        "run",
        "plan",
        "show",
        "compare",
        "report",
        "new",
        "plugins",
        "doctor",
        "schema",
        "export",
        "history",
        "status",
    }
    assert set(main.commands) == now | {"calibrate", "validate", "export"}


# -- what has to be written down (test_docs.py: that it is in docs/ too) -----------------------------------------------

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("harness_"))


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_documents_itself(hook):
    assert getattr(hookspecs, hook).__doc__


def test_every_scenario_key_is_in_the_text_of_the_schema():
    text = schema_text()
    for path in key_paths():
        assert path.rpartition(".")[2] in text, path


def test_every_export_of_the_package_is_documented():
    for name in set(harness.__all__) - {"__version__", "ANY", "SERVER", "Table", "hookimpl"}:
        assert getattr(harness, name).__doc__, name
