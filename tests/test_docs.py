"""The documentation is true: it names what there is, and what it shows as code parses, plans or loads."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

import harness
from harness.api import hooks
from harness.api.host import load_host
from harness.api.strategy import Options
from harness.commands.cli import main
from harness.core.machine import Machine
from harness.core.outcome import STEP_COLUMNS, UPDATE_COLUMNS
from harness.core.row import COLUMNS
from harness.report.definitions import DEFINITIONS
from harness.scenario.bundled import find_scenario
from harness.scenario.plan import make_plan
from harness.scenario.read import load_scenario, parse_scenario
from harness.scenario.schema import key_paths
from harness.workloads.user import user_dataset

ROOT = Path(harness.__file__).resolve().parents[1]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="an installed package has no docs beside it")

PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)


@cache
def generator() -> ModuleType:
    """Return docs/hooks.py: it has no package, and mkdocs loads it by its path too."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def text() -> str:
    """Return all pages, generated parts included."""
    return str(generator().whole_text())


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def snippets(language: str) -> list[pytest.param]:
    """Return the fenced blocks of a language, named by their page and number."""
    return [
        pytest.param(code, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, (kind, code) in enumerate(FENCE.findall(read(page)))
        if kind == language
    ]


def command_lines() -> list[str]:
    """Return every `harness ...` line that a page shows as something to type."""
    blocks = [code for page in PAGES for kind, code in FENCE.findall(read(page)) if kind == "sh"]
    blocks += INDENTED.findall(read(ROOT / "README.md"))
    lines = (line.strip().partition(" #")[0].strip() for block in blocks for line in block.splitlines())
    return sorted({line for line in lines if line.startswith("harness ")})


# -- everything is in there --------------------------------------------------------------------------------------------


def leaves(group: click.Group, prefix: str = "harness") -> list[str]:
    found = []
    for name, command in group.commands.items():
        path = f"{prefix} {name}"
        found += leaves(command, path) if isinstance(command, click.Group) else [path]
    return found


@pytest.mark.parametrize("command", leaves(main))
def test_every_command_has_its_heading(command):
    assert f"\n## {command}\n" in text()


def test_every_option_of_every_command_is_in_the_docs():
    options = {name for command in main.commands.values() for option in command.params for name in option.opts}
    assert [name for name in sorted(options) if name.startswith("--") and name not in text()] == []


@pytest.mark.parametrize("hook", sorted(name for name in vars(hooks) if name.startswith("harness_")))
def test_every_hook_is_in_the_docs(hook):
    assert f"`{hook}`" in text()


def test_every_scenario_key_is_a_row_of_its_table():
    tables = dict(re.findall(r"^### \[?\[?([\w. ]+?)\]?\]?\n(.*?)(?=^#|\Z)", text(), re.MULTILINE | re.DOTALL))
    for path in key_paths():
        table, _, key = path.rpartition(".")
        assert f"| `{key}` |" in tables[table or "Top of the file"], path


def test_every_term_of_the_report_is_in_the_docs():
    terms = [term for definitions in DEFINITIONS.values() for term, _ in definitions]
    assert [term for term in terms if f"**{term}**" not in text()] == []


@pytest.mark.parametrize("columns", [COLUMNS, STEP_COLUMNS, UPDATE_COLUMNS], ids=["cells", "steps", "updates"])
def test_every_column_is_in_the_docs(columns):
    page = read(DOCS / "results.md")
    assert [name for name in columns if f"`{name}`" not in page] == []


def test_every_strategy_has_a_page_and_a_row_in_the_table():
    for name in load_host().strategies:
        assert f"\n# {name}\n" in text()
        row = next(line for line in text().splitlines() if line.startswith(f"| [{name}](strategies/{name}.md) |"))
        assert row.count("|") == 7
        assert re.search(r"\w", row.split("|")[-2]), row  # a source


def test_every_strategy_is_shown_in_a_bundled_scenario():
    shown: set[str] = set()
    for scenario in generator().SHOWN_IN:
        read = load_scenario(find_scenario(scenario), load_host())
        shown |= {cell.strategy for cell in make_plan(read, load_host(), Machine(cores=2)).cells}
    assert set(generator().host_of_docs().strategies) - shown == set()


def test_figures_of_the_table_are_those_of_the_textbook():
    """A ring sends 2 (n - 1) / n of the gradient (Thakur et al. 2005), ZeRO-3 half as much again, a server twice it."""
    sent = {name: float(generator().traits_of(name).sent) for name in ("sync-ddp", "fsdp", "sync-ps", "local-sgd")}
    assert sent["sync-ddp"] == pytest.approx(2 * 7 / 8, rel=0.01)
    assert sent["fsdp"] == pytest.approx(3 * 7 / 8, rel=0.05)
    assert sent["sync-ps"] == pytest.approx(2.0, rel=0.01)
    assert sent["local-sgd"] == pytest.approx(2 * 7 / 8 / 8, rel=0.05)
    assert float(generator().traits_of("fsdp").memory) == pytest.approx(1 / 8, rel=0.05)


@pytest.mark.parametrize("name", harness.__all__)
def test_every_exported_name_is_in_the_docs_with_what_it_is(name):
    assert re.search(rf"^\| `{name}` \| \S.* \|$", text(), re.MULTILINE)


def test_every_page_is_in_the_navigation():
    navigation = read(ROOT / "mkdocs.yml")
    names = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    assert [name for name in names if f"- {name}\n" not in navigation] == []


# -- what is said is so ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    """A path in code font is looked up from the top, below harness/, or as the only file that ends so."""
    ours = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("harness/**/*") if "__pycache__" not in path.parts}
    for path in re.findall(r"`((?:\w+/)+(?:\w+\.(?:py|toml|md))?)`", read(page)):
        if not path.startswith(("results/", "tests/golden", "site/", "nights/", "src/")):
            there = (ROOT / path).exists() or any(f"/{name}/".endswith(f"/{path.rstrip('/')}/") for name in ours)
            assert there, path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(page)):
        assert target.startswith("https://") or (page.parent / target).is_file(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_no_machine_path(page):
    assert not re.search(r"(/home/|/root/|/work/|/tmp/)", read(page))


def test_readme_is_short():
    assert len(read(ROOT / "README.md").splitlines()) <= 150


def test_a_page_that_names_an_unknown_part_does_not_build():
    with pytest.raises(KeyError, match="nonsense"):
        generator().with_generated("<!-- generated: nonsense -->")


# -- code --------------------------------------------------------------------------------------------------------------

LOOKS_ONLY = ("plan", "plugins", "schema", "new", "doctor")
"""Commands that neither train nor need results: they are run as they are shown."""


TRAIN = next(param.values[0] for param in snippets("python") if "def build()" in param.values[0])
"""The page on models of one's own shows this file."""


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_are_accepted(line, tmp_path, monkeypatch):
    words = shlex.split(line)[1:]
    command: click.Command = main
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    # Raises what the command line would be refused with. The parent brings `-h`: click keeps the first help option it
    # makes, and without a parent the command would have none for the rest of the session.
    command.make_context(line, words, parent=main.make_context("harness", ["schema"]))
    if line == "harness run" or shlex.split(line)[1] in LOOKS_ONLY:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
        (tmp_path / "mine.toml").write_text(
            '[sweep]\nstrategy = "single"\n', encoding="utf-8"
        ) if "plan" in line else None
        done = CliRunner().invoke(main, shlex.split(line)[1:])
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("code", snippets("toml"))
def test_scenarios_can_be_planned(code, tmp_path):
    names = ("build_model", "load", "optimizer", "loss", "schedule", "top3")
    (tmp_path / "train.py").write_text("".join(f"def {name}():\n    ...\n" for name in names), encoding="utf-8")
    scenario = parse_scenario(code, load_host(), tmp_path / "shown.toml")
    assert make_plan(scenario, load_host(), Machine(cores=2)).cells


@pytest.mark.parametrize("code", [param for param in snippets("python") if "@hookimpl" in param.values[0]])
def test_plugins_load_and_register(code, tmp_path):
    path = tmp_path / "shown.py"
    path.write_text(code, encoding="utf-8")
    host = load_host([path])
    assert host.broken == {}
    from_file = [name for (_, name), origin in host.origins.items() if origin == str(path)]
    assert from_file or host.report_sections


@pytest.mark.parametrize("code", [param for param in snippets("python") if "def load(" in param.values[0]])
def test_data_functions_load(code, tmp_path):
    if "from datasets" in code:
        pytest.importorskip("datasets")
    (tmp_path / "shown.py").write_text(code, encoding="utf-8")
    raw = user_dataset("shown.py:load", tmp_path).load(Options())
    assert len(raw.train_targets) > len(raw.test_targets) > 0


def test_the_model_that_plugins_shows_is_built(tmp_path):
    code = next(param.values[0] for param in snippets("python") if "harness_models" in param.values[0])
    (tmp_path / "shown.py").write_text(code, encoding="utf-8")
    model = load_host([tmp_path / "shown.py"]).models["small-mlp"]
    built = model.build(model.Options(), harness.DataShape(1, 8, 8, 10))
    assert sum(parameter.numel() for parameter in built.parameters()) == 64 * 32 + 32 + 32 * 10 + 10


def test_the_model_of_ones_own_trains_as_it_is_shown(tmp_path):
    from dataclasses import replace

    from harness.engines.shared.setup import make_setup

    page = dict(FENCE.findall(read(DOCS / "own-model.md")))
    (tmp_path / "train.py").write_text(page["python"], encoding="utf-8")
    scenario = parse_scenario(page["toml"], load_host(), tmp_path / "shown.toml")
    cell = make_plan(scenario, load_host(), Machine(cores=2)).cells[0]
    setup = make_setup(replace(cell, folder=str(tmp_path)))
    replica = setup.replica()
    assert [group["weight_decay"] for group in replica.optimizer.param_groups] == [0.1, 0.0]
    assert 0 <= replica.evaluate("validation")[1] <= 1
    assert setup.rate(0) == pytest.approx(1e-3 / 20)


TEN_MINUTES = [code for kind, code in FENCE.findall(read(DOCS / "ten-minutes.md")) if kind == "python"]


@pytest.mark.dist
def test_the_strategy_of_ten_minutes_passes_the_check(tmp_path):
    from harness.commands.check.examine import examine, subjects
    from harness.commands.check.verdicts import Grade, Line

    path = tmp_path / "every_few.py"
    path.write_text(TEN_MINUTES[0], encoding="utf-8")
    (subject,) = subjects(str(path), ())
    lines = [Line.DOCUMENTED, Line.OPTIONS, Line.TRAINS, Line.ALONE, Line.REPLAYS, Line.BUDGET]
    found = {verdict.line: verdict for verdict in examine(subject, True, (), lines)}
    assert [verdict for verdict in found.values() if verdict.grade is Grade.FAILED] == []
    assert f"{ {17: 'Seventeen'}[len(Line)] } lines" in read(DOCS / "ten-minutes.md")

    without = re.sub(r"    alone = None.*\n", "", TEN_MINUTES[0])
    path.write_text(without, encoding="utf-8")
    (subject,) = subjects(str(path), ())
    (verdict,) = examine(subject, True, (), [Line.ALONE])
    assert "the first update changes nothing" in verdict.cause


def test_the_program_in_the_readme_is_that_of_a_new_strategy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["new", "strategy", "mine"]).exit_code == 0
    shown = re.search(r"^    async def work.*?(?=^\S)", read(ROOT / "README.md"), re.MULTILINE | re.DOTALL)
    assert shown
    assert shown.group().rstrip() in read(tmp_path / "mine.py")


def test_the_gate_in_pytest_fails_on_a_regression_and_where_nothing_was_compared(tmp_path):
    (code,) = (
        param.values[0] for param in snippets("python") if "harness" in param.values[0] and "--json" in param.values[0]
    )
    (tmp_path / "test_night.py").write_text(code, encoding="utf-8")
    command = tmp_path / "harness"
    worse = '{"findings": [{"kind": "regression", "sentence": "slower"}], "ended": 3}'
    for said, passed, failed in (('{"findings": [], "ended": 3}', 2, 0), (worse, 1, 1), ("", 0, 0)):
        command.write_text(f"#!/bin/sh\nprintf '%s' '{said}'\n")
        command.chmod(0o755)
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_night.py"],
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode == 0) == (failed == 0 and passed > 0), ran.stdout
        assert (f"{passed} passed" in ran.stdout) == (passed > 0), ran.stdout
