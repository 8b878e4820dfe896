"""Models and data as people bring them: each trains as plain PyTorch would, or is refused in the user's terms."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT, SHARED

from harness.results.store import load

CASES = SHARED / "cases"
FOLDERS = sorted(path.parent.name for path in CASES.glob("*/s.toml")) if CASES.is_dir() else []
OF_ANOTHER_KIND = ("90", "91")
"""Nights and pooled exams: their tests lie with what judges them."""

REFUSED = {
    "34_nan_image": "not a finite number",
    "35_nan_test_only": "not a finite number",
    "40_single_sample": "sample",
    "43_float16": "not a finite number",
    "44_uint8_mixed": "different scales",
    "54_missing_class_pipeline_uneven": "must be a multiple of 2",
    "65_argparse_main": '__name__ == "__main__"',
    "71_no_parameters": "nothing to train",
    "85_small_sets": "validation",
}
"""What no strategy can train, and a word of the reason."""

SAID = {
    "30_one_hot": "one-hot",
    "36_labels_from_one": "class 0",
    "61_own_seed": "seed",
}
"""What trains, and is spoken of."""

FINISHED = {"ok", "target-missed", "diverged"}


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "harness", "run", "s.toml"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=550)


HELD = [name for name in FOLDERS if not name.startswith(OF_ANOTHER_KIND)]

pytestmark = [pytest.mark.dist, pytest.mark.skipif(not FOLDERS, reason="../shared/cases is not there")]


@pytest.mark.slow
@pytest.mark.parametrize("name", HELD[::4])
def test_some_cases_train_or_are_refused_in_the_users_terms(name, tmp_path):
    check(name, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for number, name in enumerate(HELD) if number % 4])
def test_all_cases_train_or_are_refused_in_the_users_terms(name, tmp_path):
    check(name, tmp_path)


def check(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CASES / name, tmp_path / name))
    done = run(folder)
    said = done.stdout + done.stderr
    assert "bug of the harness" not in said
    assert "Traceback" not in said
    results = folder / "results" / "s"
    statuses = set(load(results).cells["status"]) if results.is_dir() else set()
    if name in REFUSED:
        assert not statuses & FINISHED
        assert REFUSED[name] in said
        return
    assert done.returncode == 0, said
    assert statuses & FINISHED
    assert statuses <= FINISHED | {"not-possible"}, said
    notes = "".join(path.read_text() for path in results.glob("cells/*/record.json"))
    assert SAID.get(name, "") in said + notes
