"""The nightly workflow: its own commands, read from its file, from the first night to a planted regression."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lazy import lazy
from places import ROOT

yaml = lazy("yaml")

GITHUB, GITLAB = ROOT / ".github" / "workflows" / "nightly-gpu.yml", ROOT / ".gitlab" / "nightly-gpu.yml"

pytestmark = pytest.mark.skipif(not GITHUB.is_file(), reason="an installed package has no workflows beside it")

INSTALL = "Install"
"""The step that is not run here: this environment has the package, from the folder under test."""

OUTPUT = re.compile(r"\$\{\{ steps\.(\w+)\.outputs\.(\w+) \}\}")

STEP = "            await worker.apply(await worker.gradient(batch))\n"
"""Of the strategy in which a regression is planted."""


def steps() -> list[dict[str, Any]]:
    return [step for step in yaml.safe_load(GITHUB.read_text())["jobs"]["night"]["steps"] if "run" in step]


def commands(text: str) -> list[str]:
    """Return the calls of harness in a script, their lines joined."""
    joined = text.replace("\\\n", " ")
    return [" ".join(line.split()) for line in joined.splitlines() if line.strip().startswith("harness ")]


@dataclass
class Runner:
    """A machine of its own that checks a repository out and runs a night's steps.

    Attributes:
        folder: of everything: the repository, the home folder, what the steps hand on.
    """

    folder: Path

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def kept(self) -> Path:
        return self.folder / "home" / "harness-nights"

    def set_up(self) -> None:
        for name in ("harness", "plugins", "scenarios"):
            shutil.copytree(ROOT / name, self.repository / name, ignore=shutil.ignore_patterns("__pycache__"))
        (self.folder / "home").mkdir()
        command = self.folder / "bin" / "harness"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m harness "$@"\n')
        command.chmod(0o755)
        self.git("init", "--quiet")
        self.commit("first")

    def git(self, *arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *arguments], cwd=self.repository, check=True, capture_output=True)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def plant(self, line: str) -> None:
        path = self.repository / "plugins" / "local_sgd.py"
        assert STEP in path.read_text()
        path.write_text(path.read_text().replace(STEP, f"            {line}\n{STEP}"))
        self.commit("planted")

    def night(self, changes: str) -> tuple[int, str, str]:
        """Run every step; return the exit code of the last one, the summary of the page, and what was printed."""
        shutil.rmtree(self.repository / "night", ignore_errors=True)
        summary, output = self.folder / "summary.md", self.folder / "output"
        summary.write_text("")
        output.write_text("")
        given = {"SCENARIO": "scenarios/nightly.toml", "CHANGES": changes, "NEW_BASE": "false", "KEPT": ""}
        given |= {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(output), "HOME": str(self.folder / "home")}
        given |= {"PYTHONPATH": str(self.repository), "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        printed, code = "", 0
        for step in steps():
            if step["name"] == INSTALL:
                continue
            assert code == 0, f"a step failed before {step['name']}:\n{printed}"
            own = {name: OUTPUT.sub(self._handed_on, value) for name, value in step.get("env", {}).items()}
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                cwd=self.repository,
                env=os.environ | given | own,
                capture_output=True,
                text=True,
                check=False,
            )
            handed_on = output.read_text()
            output.write_text(re.sub(r"(?m)^(\w+=)", rf"{step.get('id')}.\1", handed_on))
            printed += f"== {step['name']}\n{done.stdout}{done.stderr}"
            code = done.returncode
        return code, summary.read_text(), printed

    def _handed_on(self, match: re.Match[str]) -> str:
        lines = (self.folder / "output").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)[match.group(1) + "." + match.group(2)]


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    made = Runner(tmp_path)
    made.set_up()
    return made


def test_both_services_run_the_same_commands() -> None:
    theirs = yaml.safe_load(GITLAB.read_text())["nightly-gpu"]
    github = [command for step in steps() for command in commands(step["run"])]
    gitlab = [command for text in theirs["script"] for command in commands(text)]
    assert len(github) == 7
    github = [command.replace("code=$?", "ran=$?") if " run " in command else command for command in github]
    shorter = [c.replace(" --annotations", "").replace('"$GITHUB_STEP_SUMMARY"', "night/report.md") for c in github]
    assert [c.replace(">>", ">") for c in shorter] == gitlab
    job = yaml.safe_load(GITHUB.read_text())["jobs"]["night"]
    assert theirs["variables"].keys() == job["env"].keys()


def test_actions_are_named_by_their_commit_and_nothing_of_an_event_is_pasted_into_a_script() -> None:
    workflow = yaml.safe_load(GITHUB.read_text())
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]) if "uses" in step else True
            assert "${{" not in step.get("run", "")


CUT_DOWN = "--set workload.model=lenet5,mlp --set seeds=1 --set max_steps=20"


def check_found(runner: Runner, code: int, summary: str, printed: str) -> None:
    night = runner.repository / "night"
    assert code == 1, printed
    assert "::error title=" in printed
    assert "REGRESSION" in summary
    assert "local-sgd" in summary
    found = json.loads((night / "compare.json").read_text())
    assert found["verdict"] == "regression"
    suite = ElementTree.fromstring((night / "junit.xml").read_text())
    failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failed
    assert all("local-sgd" in str(name) for name in failed)
    assert "local-sgd" in (night / "report.html").read_text()
    assert "<html" in (night / "history.html").read_text()
    (trends,) = json.loads((night / "history.json").read_text())["trends"]
    assert [len({night["commit"] for night in trends["nights"]}), len(trends["nights"])] == [2, 2]


def check_first(runner: Runner, code: int, printed: str) -> None:
    assert code == 0, printed
    assert (runner.kept / "base" / "nightly" / "cells").is_dir()
    assert len(list((runner.kept / "history").rglob("*.parquet"))) == 1
    assert (runner.repository / "night" / "junit.xml").is_file()


@pytest.mark.dist
@pytest.mark.slow
def test_a_first_night_becomes_the_base_and_a_planted_crash_fails_the_next(runner: Runner) -> None:
    changes = f"{CUT_DOWN} --set strategy=single,local-sgd --set workload.model=mlp --set measure.reference=2"
    code, _, printed = runner.night(changes)
    check_first(runner, code, printed)
    runner.plant('raise RuntimeError("planted")')
    check_found(runner, *runner.night(changes))


@pytest.mark.dist
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_planted_slowness_is_run_again_and_fails_the_night(runner: Runner) -> None:
    code, _, printed = runner.night(CUT_DOWN)
    check_first(runner, code, printed)
    runner.plant('__import__("time").sleep(0.05)')
    check_found(runner, *runner.night(CUT_DOWN))
