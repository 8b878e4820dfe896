"""Output that is closed or full, and homes that are not there: a command ends with a word and a sane exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = f"{sys.executable} -m harness"


def shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell, with pipes for what it does not redirect."""
    environment = {name: value for name, value in (os.environ | variables).items() if value != "none"}
    command = ["bash", "-c", line]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


TINY = """
[workload]
model = "softmax"
dataset = { name = "synthetic", samples = 128, test_samples = 32, size = 4, classes = 3 }
[sweep]
strategy = ["single"]
gpus = [1]
learning_rate = [0.1]
[goal]
target_accuracy = "none"
max_steps = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


@pytest.mark.dist
@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&- <&-"])
def test_a_run_with_closed_streams_writes_its_results_all_the_same(folder, closed):
    done = shell(f"{HARNESS} run tiny.toml {closed}", folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (log,) = folder.rglob("log.txt")
    assert len(list(folder.rglob("record.json"))) == 1
    assert "harness" not in log.read_text(), "no output of the command's has gone where it does not belong"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_output_ends_with_3_and_says_so(folder):
    done = shell(f"{HARNESS} plan tiny.toml > /dev/full", folder)
    assert (done.returncode, done.stderr) == (
        3,
        "harness: the output: No space left on device; make room, and run the command again\n",
    )
    assert shell(f"{HARNESS} plan tiny.toml > /dev/full 2>&1", folder).returncode == 3


def test_a_reader_that_has_seen_enough_is_no_error(folder):
    done = shell(f"set -o pipefail; {HARNESS} schema | head -1", folder)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_that_cannot_be_written_is_named(folder):
    (folder / "results").write_text("a file where the folder should be")
    done = shell(f"{HARNESS} run tiny.toml", folder)
    assert "Traceback" not in done.stderr
    (folder / "results").unlink()
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder.chmod(0o500)
    done = shell(f"{HARNESS} run tiny.toml", folder)
    folder.chmod(0o700)
    assert done.returncode == 3
    assert "results" in done.stderr
    assert "choose a folder that you may write to" in done.stderr


@pytest.mark.dist
@pytest.mark.parametrize("home", ["none", "/proc"])
def test_a_run_needs_no_home(folder, home):
    done = shell(f"{HARNESS} run tiny.toml", folder, HOME=home, HARNESS_CACHE="none", XDG_CACHE_HOME="none")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.dist
def test_a_scenario_may_lie_in_a_folder_of_any_name_and_its_model_in_another(tmp_path):
    folder = tmp_path / "Übung 1 'a' & b"
    (folder / "models").mkdir(parents=True)
    (folder / "scenarios").mkdir()
    model = "from torch import nn\nfrom größe import width\n"
    model += "def build(): return nn.Sequential(nn.Flatten(), nn.Linear(width, 3))\n"
    (folder / "models" / "train me.py").write_text(model, encoding="utf-8")
    (folder / "models" / "größe.py").write_text("width = 16\n", encoding="utf-8")
    text = TINY.replace('"softmax"', '"../models/train me.py:build"')
    (folder / "scenarios" / "tiny.toml").write_text(text, encoding="utf-8", newline="\r\n")
    done = shell(f"{HARNESS} run scenarios/tiny.toml", folder)
    assert done.returncode == 0, done.stdout + done.stderr
