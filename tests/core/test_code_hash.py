"""Ids follow what code does: an edit of it changes them; a comment, a move or another name of a file does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import harness
from harness.core.code_hash import file_hash, function_hash, text_hash
from harness.workloads.small import DATASETS, MODELS

PACKAGE = Path(harness.__file__).parent

BASE = '''
"""A docstring."""
import os  # of the system

WIDTH = 3


class Net:
    """Another."""

    depth: int = 2
    """Layers."""

    def build(self, width: int) -> list:
        if width < 0:
            raise ValueError(f"too narrow: {width}")
        return [width * WIDTH, os.sep]
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# of the system", "# anything else"),
        ("A docstring.", "Words."),
        ('    """Layers."""\n', ""),
        ('    """Another."""\n', ""),
        ("width: int) -> list", "width)"),
        ("too narrow: {width}", "at least 0, not {width}"),
        ("\n\n\nclass", "\nclass"),
    ],
)
def test_what_does_nothing_does_not_count(old, new):
    assert BASE.replace(old, new) != BASE
    assert text_hash(BASE.replace(old, new)) == text_hash(BASE)


@pytest.mark.parametrize(
    ("old", "new"),
    [("WIDTH = 3", "WIDTH = 4"), ("ValueError", "TypeError"), ("depth: int = 2", "depth: int = 3"), ("* W", "+ W")],
)
def test_what_does_something_counts(old, new):
    assert text_hash(BASE.replace(old, new)) != text_hash(BASE)


# -- a user's file -----------------------------------------------------------------------------------------------------


def test_files_beside_a_file_count_as_far_as_they_are_imported(tmp_path):
    (tmp_path / "train.py").write_text("from blocks import Block\nimport torch\n")
    (tmp_path / "blocks.py").write_text("from parts import small\nclass Block: size = 1\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("")
    (tmp_path / "parts" / "small.py").write_text("SIZE = 1\n")
    (tmp_path / "other.py").write_text("SIZE = 1\n")
    before = file_hash(tmp_path / "train.py")
    (tmp_path / "other.py").write_text("SIZE = 2\n")
    (tmp_path / "blocks.py").write_text("# a remark\nfrom parts import small\nclass Block: size = 1\n")
    assert file_hash(tmp_path / "train.py") == before
    (tmp_path / "parts" / "small.py").write_text("SIZE = 2\n")
    inner = file_hash(tmp_path / "train.py")
    assert inner != before
    (tmp_path / "blocks.py").write_text("from parts import small\nclass Block: size = 2\n")
    assert file_hash(tmp_path / "train.py") not in (before, inner)


def test_a_file_beside_it_that_is_not_python_is_not_a_failure(tmp_path):
    (tmp_path / "train.py").write_text("import broken\n")
    (tmp_path / "broken.py").write_text("def (:\n")
    before = file_hash(tmp_path / "train.py")
    (tmp_path / "broken.py").write_text("def ):\n")
    assert file_hash(tmp_path / "train.py") != before


def test_files_that_import_each_other_end(tmp_path):
    (tmp_path / "one.py").write_text("import two\n")
    (tmp_path / "two.py").write_text("import one\n")
    assert file_hash(tmp_path / "one.py")


# -- functions ---------------------------------------------------------------------------------------------------------


def outer():
    return inner()


def inner():
    return TABLE


TABLE = {"a": 1}
TABLE["b"] = 2


def alone():
    return 1


def test_a_function_stands_with_what_it_reaches_and_nothing_else(tmp_path, monkeypatch):
    source = "def outer():\n    return inner() + TABLE['a']\ndef inner():\n    return 1\nTABLE = {}\nTABLE['a'] = 2\n"
    source += "def alone():\n    return 1\n"
    hashes = []
    for number, (old, new) in enumerate(
        [("", ""), ("alone():\n    return 1", "alone():\n    return 2"), ("= 2", "= 3")]
    ):
        path = tmp_path / f"file{number}.py"
        path.write_text(source.replace(old, new) if old else source)
        names: dict[str, object] = {}
        exec(compile(path.read_text(), str(path), "exec"), names)
        hashes.append(function_hash(names["outer"]))
    assert hashes[0] == hashes[1] != hashes[2]


def test_partial_functions_classes_objects_and_lambdas_have_hashes():
    kinds = [outer, partial(outer), partial(partial(outer)), Path, lambda: 1, shutil.copy]
    assert all(function_hash(kind) for kind in kinds)
    assert function_hash(partial(outer)) == function_hash(outer) != function_hash(alone)
    assert function_hash(len) == ""  # nothing to read


def test_every_built_in_model_and_data_set_has_a_hash_of_its_own():
    assert len({model.code_hash for model in MODELS}) == len(MODELS)
    assert len({dataset.code_hash for dataset in DATASETS}) == len(DATASETS)


# -- the ids of cells --------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from harness.api.host import load_host
from harness.core.machine import Machine
from harness.scenario.plan import make_plan
from harness.scenario.read import parse_scenario
host = load_host()
for model in ("lenet5", "mlp", "resnet18"):
    text = f'[workload]\\nmodel = "{model}"\\n[sweep]\\nstrategy = "sync-ddp"\\ngpus = 2'
    (cell,) = make_plan(parse_scenario(text, host, Path("a.toml")), host, Machine(2)).cells
    print(model, cell.cell_id)
"""


class Copy:
    """A copy of the package that can be edited."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "harness"
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(PACKAGE.parent / "plugins", folder / "plugins", ignore=shutil.ignore_patterns("__pycache__"))

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.package / file
        text = path.read_text(encoding="utf-8")
        assert old in text, (file, old)
        path.write_text(text.replace(old, new), encoding="utf-8")

    def ids(self) -> dict[str, str]:
        environment = {**os.environ, "PYTHONPATH": str(self.package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(
            command, env=environment, cwd=self.package.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return dict(line.split() for line in done.stdout.splitlines())


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    if not (PACKAGE.parent / "plugins").is_dir():
        pytest.skip("an installed package has its plugins inside")
    return Copy(tmp_path)


def test_moving_and_renaming_files_changes_no_id(copy):
    before = copy.ids()
    (copy.package / "workloads" / "nets.py").rename(copy.package / "workloads" / "networks.py")
    copy.edit("workloads/small.py", "from harness.workloads import nets", "from harness.workloads import networks")
    copy.edit("workloads/small.py", "return nets.", "return networks.")
    (copy.package / "shelf").mkdir()
    (copy.package / "shelf" / "__init__.py").write_text("")
    (copy.package / "workloads" / "datasets.py").rename(copy.package / "shelf" / "arrays.py")
    for file in ("small.py", "user.py"):
        path = copy.package / "workloads" / file
        text = path.read_text(encoding="utf-8").replace("harness.workloads.datasets", "harness.shelf.arrays")
        path.write_text(text.replace("harness.workloads import datasets", "harness.shelf import arrays as datasets"))
    (copy.package.parent / "plugins" / "sync_ddp.py").rename(copy.package.parent / "plugins" / "ddp.py")
    assert copy.ids() == before


def test_a_comment_and_a_docstring_change_no_id(copy):
    before = copy.ids()
    for file in ("workloads/__init__.py", "workloads/nets.py", "workloads/small.py", "../plugins/sync_ddp.py"):
        copy.edit(file, "from __future__", "# A remark.\nfrom __future__")
    copy.edit("workloads/nets.py", '"""Return the maximum', '"""Give back the maximum')
    assert copy.ids() == before


def test_a_changed_network_has_another_id_and_no_other_network_has(copy):
    before = copy.ids()
    copy.edit("workloads/nets.py", "nn.Linear(120, 84)", "nn.Linear(120, 83)")
    after = copy.ids()
    assert after["lenet5"] != before["lenet5"]
    assert {name: after[name] for name in ("mlp", "resnet18")} == {name: before[name] for name in ("mlp", "resnet18")}


def test_a_changed_data_set_has_another_id(copy):
    before = copy.ids()
    copy.edit("workloads/datasets.py", "DIGITS_SEED = 1797", "DIGITS_SEED = 1798")
    assert set(copy.ids().values()).isdisjoint(before.values())


def test_a_changed_strategy_has_another_id(copy):
    before = copy.ids()
    copy.edit("../plugins/sync_ddp.py", 'name = "sync-ddp"', 'name = "sync-ddp"\n    extra = 1')
    assert set(copy.ids().values()).isdisjoint(before.values())
