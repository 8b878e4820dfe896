"""The plugin in docs/strategies.md runs as it stands there, on both engines; what docs/results.md shows reads it."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from places import ROOT

DOCS = ROOT / "docs"


def python_in(page: str) -> str:
    """Return the first block of Python on a page: the whole program."""
    return blocks_in(page)[0]


def blocks_in(page: str) -> list[str]:
    """Return the blocks of Python on a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [str(block) for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


@pytest.mark.dist
def test_the_lines_shown_stand_in_a_program_that_runs(tmp_path):
    lines = blocks_in("strategies.md")[1]
    body = textwrap.indent(lines, " " * 12) + "            await worker.load((await worker.receive(SERVER)).value)\n"
    loop = "    async def work(self, worker):\n        for batch in worker.batches():\n"
    bundled = (ROOT / "plugins" / "sync_ps.py").read_text(encoding="utf-8")
    head, serve, rest = bundled.replace("harness import ", "harness import SERVER, ").partition("    async def serve")
    text = head + loop + body + "\n" + serve + rest
    (tmp_path / "signs.py").write_text(text.replace('"sync-ps"', '"signs"').replace('"single"', "None"))
    sets = ["--set", "strategy=signs", "--set", "gpus=2", "--set", "engine=virtual", "--set", "seeds=1"]
    sets += ["--set", "max_epochs=1", "--set", "learning_rate=0.01"]
    done = run("-m", "harness", "run", "lenet", "--plugins", "signs.py", *sets, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def of_both_engines(tmp_path: Path, name: str) -> list[str]:
    """Run a strategy that strategies.md shows on both engines, and return what was said of its two cells."""
    (shown,) = [block for block in blocks_in("strategies.md") if f'name = "{name}"' in block]
    (tmp_path / "shown.py").write_text(shown, encoding="utf-8")
    sets = ["--set", f"strategy={name}", "--set", "gpus=2", "--set", "engine=both", "--set", "seeds=1"]
    sets += ["--set", "max_epochs=1", "--set", "learning_rate=0.1"]
    done = run("-m", "harness", "run", "lenet", "--plugins", "shown.py", *sets, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if f"] {name}-" in line]
    assert len(lines) == 2, done.stdout
    return lines


@pytest.mark.dist
def test_the_server_shown_runs_on_both_engines(tmp_path):
    of_both_engines(tmp_path, "leave-slowest")


@pytest.mark.dist
def test_the_codec_shown_runs_on_both_engines(tmp_path):
    lines = of_both_engines(tmp_path, "rounded-ddp")
    assert len({re.search(r"accuracy ([\d.]+)", line).group(1) for line in lines}) == 1


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=200)


@pytest.mark.dist
def test_the_plugin_shown_runs_on_both_engines_and_stands_in_the_report(tmp_path):
    code = python_in("strategies.md")
    assert len(code.splitlines()) <= 35
    (tmp_path / "pass_right.py").write_text(code, encoding="utf-8")
    sets = ["--set", "strategy=single,pass-right", "--set", "gpus=1,2", "--set", "engine=both", "--set", "seeds=1"]
    sets += ["--set", "max_epochs=2", "--set", "learning_rate=0.1"]
    done = run("-m", "harness", "run", "lenet", "--plugins", "pass_right.py", *sets, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "] pass-right-" in line and "-g2-" in line]
    assert len(lines) == 2, done.stdout
    accuracies = {re.search(r"accuracy ([\d.]+)", line).group(1) for line in lines}
    assert len(accuracies) == 1, "both engines train the same model"
    assert "pass-right" in (tmp_path / "results" / "lenet" / "report.html").read_text(encoding="utf-8")

    read = run("-c", python_in("results.md"), cwd=tmp_path)
    assert read.returncode == 0, read.stderr
    assert "pass-right" in read.stdout
