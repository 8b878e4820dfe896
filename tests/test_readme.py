"""The plugin in docs/strategies.md runs as it stands there, on both engines; what docs/results.md shows reads it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

DOCS = ROOT / "docs"


def python_in(page: str) -> str:
    """Return the only block of Python on a page."""
    (block,) = re.findall(
        r"^```python\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return str(block)


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=200)


@pytest.mark.dist
def test_the_plugin_shown_runs_on_both_engines_and_stands_in_the_report(tmp_path):
    code = python_in("strategies.md")
    assert len(code.splitlines()) <= 35
    (tmp_path / "gossip.py").write_text(code, encoding="utf-8")
    sets = ["--set", "strategy=single,gossip", "--set", "gpus=1,2", "--set", "engine=both", "--set", "seeds=1"]
    sets += ["--set", "max_epochs=2", "--set", "learning_rate=0.1"]
    done = run("-m", "harness", "run", "lenet", "--plugins", "gossip.py", *sets, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "] gossip-" in line and "-g2-" in line]
    assert len(lines) == 2, done.stdout
    accuracies = {re.search(r"accuracy ([\d.]+)", line).group(1) for line in lines}
    assert len(accuracies) == 1, "both engines train the same model"
    assert "gossip" in (tmp_path / "results" / "lenet" / "report.html").read_text(encoding="utf-8")

    read = run("-c", python_in("results.md"), cwd=tmp_path)
    assert read.returncode == 0, read.stderr
    assert "gossip" in read.stdout
