"""Who may import whom, what costs nothing to import, and which names outsiders rely on."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from cells import make_cells

import harness
from harness import hookspecs
from harness.cli import NOT_YET, main
from harness.plan import Machine, Plan
from harness.rows import identity_row
from harness.schema import key_paths, schema_text
from harness.store import Record, Results

ROOT = Path(harness.__file__).parent
README = ROOT.parent / "README.md"

LADDER = {
    "leaves": ["harness", "errors", "units", "locate", "machine", "environment"],
    "what a plugin author reads": ["strategy", "schedules", "zero_bubble"],
    "plugins and workloads": ["hookspecs", "host", "workloads", "workloads.*"],
    "what steps cost": ["costs", "costs.*", "faults", "trace"],
    "scenario to cells": [
        *("values", "source", "override", "schema", "settings", "sweep", "scenario", "scenarios"),
        *("clusters", "observed", "timing_only", "cell_id", "placement", "plan", "fit", "predict", "describe"),
    ],
    "what both engines share": ["training", "training.*"],
    "virtual engine": ["virtual", "virtual.*"],
    "real engine": ["real", "real.*"],
    "measuring this machine": ["calibration", "calibration.*"],
    "telemetry": ["telemetry", "telemetry.*"],
    "records and rounds": [
        *("regime", "generalisation", "noise_scale", "rows", "store", "traces", "admission", "timed", "runner"),
    ],
    "analysis": ["analysis", "analysis.*"],
    "answers of folders": ["verdict", "explained"],
    "report": ["report", "report.*"],
    "published measurements": ["validation", "validation.*"],
    "commands": ["catalogue", "comparison", "show", "session", "cli", "__main__"],
}
"""DESIGN section 6, with the files as they are: a file imports from its own group and from those above it."""

HEAVY = ("torch", "pandas", "numpy.linalg", "seaborn", "scipy", "sklearn", "simpy")


@cache
def modules() -> dict[str, ast.Module]:
    """Return all our modules by name, "harness." left out, except for the package itself."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        if "_bundled" in path.parts:
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__") or "harness"
        found[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return found


def for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def nodes_of(node: ast.AST, late: bool) -> Iterator[ast.AST]:
    """Yield what runs: with `late` the bodies of functions too, never what stands there for types only."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for child in ast.iter_child_nodes(node):
        if for_types_only(child) or (isinstance(child, functions) and not late):
            continue
        yield child
        yield from nodes_of(child, late)


def imported_by(name: str, late: bool) -> set[str]:
    """Return which of our modules a module imports."""
    found = set()
    for node in nodes_of(modules()[name], late):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names}
            ours = {full for full in inner if full.removeprefix("harness.") in modules()}
            found |= ours or {module}
    short = {full.removeprefix("harness.") for full in found if full.split(".")[0] == "harness"}
    return {other for other in short if other in modules()}


def group_of(name: str) -> int:
    fits = [
        number for number, patterns in enumerate(LADDER.values()) if any(fnmatch(name, pattern) for pattern in patterns)
    ]
    assert len(fits) == 1, f"{name} is in {len(fits)} groups of LADDER; decide where it belongs"
    return fits[0]


# -- the ladder --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_up_the_ladder_late_ones_too(name):
    here = group_of(name)
    assert {other for other in imported_by(name, late=True) if group_of(other) > here} == set()


def test_ladder_names_only_modules_that_there_are():
    patterns = [pattern for group in LADDER.values() for pattern in group]
    assert [p for p in patterns if not any(fnmatch(name, p) for name in modules())] == []


def test_imports_at_the_top_of_modules_have_no_cycle():
    graph = {name: imported_by(name, late=False) for name in modules()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"cycle: {' -> '.join(error.args[1])}")
    assert set(order) == set(modules())
    assert graph["host"] >= {"errors", "hookspecs"}  # the reader sees imports at all


def test_analysis_and_report_know_nothing_of_engines():
    engines = ("training", "virtual", "real", "telemetry", "timed", "runner")
    for name in modules():
        if name.startswith(("analysis", "report")):
            assert not [other for other in imported_by(name, late=True) if other.startswith(engines)], name


def test_bundled_strategies_import_only_what_a_stranger_may():
    for path in (ROOT.parent / "plugins").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert froms | plain <= {"__future__", "typing", "pydantic", "harness", "collections.abc", "math"}, path.name


# -- what costs nothing ------------------------------------------------------------------------------------------------


def heavy_modules_after(*arguments: str, cwd: Path) -> list[str]:
    """Run a command in a process of its own and return which heavy modules it imported."""
    code = (
        "import json, sys\n"
        "from harness.cli import main\n"
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
        stored.write_record(Record(cell, "ok", "done", (), row, {"id": "env"}), {})
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


def test_show_of_a_cell_imports_nothing_heavy(results):
    cell = next((results / "results" / "test" / "cells").iterdir())
    assert heavy_modules_after("show", cell.name, cwd=results) == []


def test_importing_the_package_and_a_strategys_words_costs_neither_torch_nor_pandas():
    code = "import sys; from harness import Strategy, Worker, hookimpl, average; "
    code += f"print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_python_m_harness_is_the_command():
    done = subprocess.run([sys.executable, "-m", "harness", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"harness, version {harness.__version__}"


# -- what outsiders rely on --------------------------------------------------------------------------------------------


def test_exported_names_are_these():
    assert sorted(harness.__all__) == sorted(
        [
            *("ANY", "SERVER", "Action", "Batch", "Impossible", "Layout", "Message", "Options", "Server"),
            *("Strategy", "Table", "Value", "Worker", "__version__", "average", "hookimpl", "load"),
        ]
    )


@pytest.mark.parametrize("name", harness.__all__)
def test_every_exported_name_is_there(name):
    assert getattr(harness, name) is not None or name == "ANY"


def test_a_name_that_is_not_exported_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = harness.nothing


def test_words_of_worker_are_these():
    def public(owner: type) -> set[str]:
        return {name for name in dir(owner) if not name.startswith("_")}

    shared = {"apply", "arrived", "compute", "learning_rate", "load", "note", "random", "receive", "record", "send"}
    shared |= {"weights", "workers", "servers"}
    assert public(harness.Server) == shared
    assert public(harness.Worker) == shared | {"batches", "gradient", "mean"}


def test_commands_are_these():
    later, now = {"check"}, {"run", "plan", "show", "compare", "report", "new", "plugins", "doctor", "schema"}
    assert set(NOT_YET) == later
    assert set(main.commands) == later | now | {"calibrate", "validate"}


# -- what has to be written down ---------------------------------------------------------------------------------------

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("harness_"))


def readme() -> str:
    if not README.is_file():
        pytest.skip("an installed package has no README beside it")
    return README.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_is_in_the_readme(command):
    assert f"harness {command}" in readme()


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_in_the_readme_and_documents_itself(hook):
    assert hook in readme()
    assert getattr(hookspecs, hook).__doc__


def test_every_scenario_key_is_in_the_text_that_the_readme_points_to():
    text = schema_text()
    assert "harness schema --text" in readme()
    for path in key_paths():
        assert path.rpartition(".")[2] in text, path


def test_every_export_of_the_package_is_documented():
    for name in set(harness.__all__) - {"__version__", "ANY", "SERVER", "Table", "hookimpl"}:
        assert getattr(harness, name).__doc__, name
