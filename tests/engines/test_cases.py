"""Models and data as people bring them: each trains as plain PyTorch would, or is refused in the user's terms."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from places import SHARED

from harness.commands.cli import main
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

HELD = [name for name in FOLDERS if not name.startswith(OF_ANOTHER_KIND)]

pytestmark = [pytest.mark.dist, pytest.mark.skipif(not FOLDERS, reason="../shared/cases is not there")]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if number % 4 else ()) for number, name in enumerate(HELD)]
)
def test_cases_train_or_are_refused_in_the_users_terms(name, tmp_path, monkeypatch, capfd):
    """By the command in this process, so that all cases share the server that has imported torch."""
    monkeypatch.chdir(shutil.copytree(CASES / name, tmp_path / name))
    done = CliRunner().invoke(main, ["run", "s.toml"])
    said = done.output + "".join(capfd.readouterr())  # the command's words, and those of its processes
    assert "bug of the harness" not in said
    assert "Traceback" not in said
    results = Path("results/s")
    statuses = set(load(results).cells["status"]) if results.is_dir() else set()
    if name in REFUSED:
        assert not statuses & FINISHED
        assert REFUSED[name] in said
        return
    assert done.exit_code == 0, said
    assert statuses & FINISHED
    assert statuses <= FINISHED | {"not-possible"}, said
    notes = "".join(path.read_text() for path in results.glob("cells/*/record.json"))
    assert SAID.get(name, "") in said + notes
