"""README is true: its plugin runs as it stands there, on both engines, and appears in the report."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def code_after(heading: str) -> str:
    """Return the first indented Python block after a heading, up to the shell lines that follow it."""
    section = README.split(heading, 1)[1]
    block = re.search(r'\n((?:    .*\n|\n)*?    """(?:    .*\n|\n|.*\n)*?)(?=    harness run )', section)
    assert block, heading
    return textwrap.dedent(block.group(1))


def harness(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200)


@pytest.mark.dist
def test_readme_plugin_runs_on_both_engines_and_stands_in_the_report(tmp_path):
    code = code_after("## A strategy of your own")
    assert len(code.splitlines()) <= 35
    (tmp_path / "gossip.py").write_text(code, encoding="utf-8")
    sets = ["--set", "strategy=single,gossip", "--set", "gpus=1,2", "--set", "engine=both", "--set", "seeds=1"]
    sets += ["--set", "max_epochs=2", "--set", "learning_rate=0.1"]
    done = harness("run", "lenet", "--plugins", "gossip.py", *sets, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "] gossip-" in line and "-g2-" in line]
    assert len(lines) == 2, done.stdout
    accuracies = {re.search(r"accuracy ([\d.]+)", line).group(1) for line in lines}
    assert len(accuracies) == 1, "both engines train the same model"
    assert "gossip" in (tmp_path / "results" / "lenet" / "report.html").read_text(encoding="utf-8")


def test_readme_names_no_machine_path():
    assert not re.search(r"(/home/|/root/|/work/|/tmp/)", README)
