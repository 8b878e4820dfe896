"""What a scenario may name in files of the user's, how those are imported, and that they leave a process as it was."""

from __future__ import annotations

import os
import pickle
import random
import signal
import sys
import warnings
from pathlib import Path

import pytest
from lazy import lazy

from harness.core.code_hash import file_hash
from harness.core.errors import InputError, PluginError
from harness.core.held_files import give, holding, read_held
from harness.workloads import user_import
from harness.workloads.user_files import UserFunction, find_user_function, is_user_function
from harness.workloads.user_import import call_user_function, changes_by_user_files, user_sources

np = lazy("numpy")
torch = lazy("torch")


def find(name: str, folder: Path) -> UserFunction:
    return find_user_function("workload.model", name, folder)


def call(name: str, folder: Path, **values: object) -> object:
    return call_user_function(find(name, folder), values)


# -- names -------------------------------------------------------------------------------------------------------------

CALLABLES = """
from functools import partial
from builtins import dict as imported


def build(classes=2):
    return ("built", classes)


class Net:
    def __init__(self, classes):
        self.classes = classes

    @classmethod
    def small(cls, classes):
        return ("small", classes)


short = lambda classes: ("short", classes)
bound = partial(build, classes=7)
other = build
if True:
    def inside(classes):
        return ("inside", classes)
"""


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("build", ("built", 10)),
        ("short", ("short", 10)),
        ("bound", ("built", 7)),
        ("other", ("built", 10)),
        ("inside", ("inside", 10)),
        ("Net.small", ("small", 10)),
        ("imported", {}),
    ],
)
def test_any_callable_may_be_named_however_it_got_its_name(tmp_path, name, result):
    (tmp_path / "train.py").write_text(CALLABLES)
    assert call(f"train.py:{name}", tmp_path, classes=10) == result


def test_a_class_may_be_named(tmp_path):
    (tmp_path / "train.py").write_text(CALLABLES)
    assert call("train.py:Net", tmp_path, classes=10, channels=1).classes == 10


def test_a_name_that_only_running_tells_is_refused_when_it_runs(tmp_path):
    (tmp_path / "train.py").write_text("from math import *\nnumber = 3\nasync def later(): pass\nwant = lambda x: x\n")
    for name, message in [("nothing", "there is no nothing once"), ("number", "of type int, which cannot be called")]:
        with pytest.raises(PluginError, match=message):
            call(f"train.py:{name}", tmp_path)
    with pytest.raises(InputError, match=r"want \(line 4\) wants x; it is called without arguments"):
        find("train.py:want", tmp_path).check(())
    (tmp_path / "shapes.py").write_text("class Net:\n    def __init__(self, depth): pass\n")
    find("shapes.py:Net", tmp_path).check(("classes",))
    with pytest.raises(PluginError, match=r"shapes\.py:1: Net wants depth; it may take the keywords classes"):
        call("shapes.py:Net", tmp_path, classes=3)


def test_a_module_that_is_built_already_is_refused(tmp_path):
    (tmp_path / "train.py").write_text("from torch import nn\nmodel = nn.Linear(2, 2)\n")
    torch.zeros(1)
    with pytest.raises(PluginError, match=r"train\.py:2: model is a module that is built already.*def build"):
        call("train.py:model", tmp_path)


def test_a_dotted_module_is_found_in_the_folder_and_in_the_environment_without_being_run(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("trace = ['package']\n")
    (tmp_path / "pkg" / "blocks.py").write_text("width = 5\n")
    (tmp_path / "pkg" / "models.py").write_text(
        "from . import trace\nfrom .blocks import width\nfrom pkg.blocks import width as same\n"
        "def build(): return trace, width, same\n"
    )
    assert is_user_function("pkg.models:build")
    assert not is_user_function("lenet5")
    found = find("pkg.models:build", tmp_path)
    assert "pkg" not in sys.modules
    assert call_user_function(found, {}) == (["package"], 5, 5)
    assert sys.modules["pkg.models"].__file__ == str(tmp_path / "pkg" / "models.py")
    assert call("textwrap:dedent", tmp_path, text="  a") == "a"
    with pytest.raises(InputError, match=r"there is no module pkg\.nets, neither in"):
        find("pkg.nets:build", tmp_path)


def test_a_dotted_module_named_as_one_of_pythons_is_the_folders(tmp_path):
    (tmp_path / "signal.py").write_text("def build(): return 'his'\n")
    assert call("signal:build", tmp_path) == "his"
    assert hasattr(signal, "SIGKILL")
    assert sys.modules["signal"] is signal


# -- encodings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffdef build():\n    return 'é'\n".encode(),
        "# -*- coding: latin-1 -*-\ndef build():\n    return 'é'\n".encode("latin-1"),
        "# vim: set fileencoding=cp1252 :\r\ndef build():\r\n    return 'é'\r\n".encode("cp1252"),
    ],
    ids=["mark", "latin-1", "crlf"],
)
def test_files_are_read_as_they_declare_themselves(tmp_path, content):
    (tmp_path / "train.py").write_bytes(content)
    (tmp_path / "utf8.py").write_text("def build():\n    return 'é'\n")
    (tmp_path / "by_name.py").write_text("from train import build\n")
    assert call("train.py:build", tmp_path) == "é"
    assert call("by_name.py:build", tmp_path) == "é"
    found = find("train.py:build", tmp_path)
    assert file_hash(found.file.path, found.file.text) == file_hash(tmp_path / "utf8.py")


def test_a_file_in_an_encoding_that_it_does_not_declare_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "train.py").write_bytes("def build(): return 'é'\n".encode("latin-1"))
    with pytest.raises(InputError, match="save it as UTF-8, or declare its encoding in its first line"):
        find("train.py:build", tmp_path)


# -- neighbours --------------------------------------------------------------------------------------------------------


def test_neighbours_are_found_relative_absolute_and_late(tmp_path):
    (tmp_path / "late_values.py").write_text("late = 3\n")
    (tmp_path / "layers.py").write_text("hidden = 2\n")
    (tmp_path / "train.py").write_text(
        "import pickle\nfrom dataclasses import dataclass\n"
        "from .layers import hidden\nfrom layers import hidden as same\n"
        "@dataclass\nclass Point:\n    x: int\n"
        "def later():\n    from late_values import late\n    return late\n"
        "def build(): return hidden, same, later, pickle.loads(pickle.dumps(Point(4))).x\n"
    )
    hidden, same, later, x = call("train.py:build", tmp_path)
    assert (hidden, same, later(), x) == (2, 2, 3, 4)
    assert {Path(file).name for file in user_sources(find("train.py:build", tmp_path))} >= {
        "train.py",
        "layers.py",
        "late_values.py",
    }
    assert not list(tmp_path.glob("__pycache__"))


def test_a_file_of_a_package_may_import_from_the_folder_above(tmp_path):
    (tmp_path / "proj" / "nets").mkdir(parents=True)
    for folder in (tmp_path / "proj", tmp_path / "proj" / "nets"):
        (folder / "__init__.py").write_text("")
    (tmp_path / "proj" / "common.py").write_text("width = 6\n")
    (tmp_path / "proj" / "nets" / "train.py").write_text("from ..common import width\ndef build(): return width\n")
    assert call("train.py:build", tmp_path / "proj" / "nets") == 6


def test_neighbours_hide_nothing_of_python_and_the_clash_is_named(tmp_path):
    for name in ("signal", "random", "types", "torch", "numpy", "queue", "select"):
        (tmp_path / f"{name}.py").write_text("mine = 1\nraise SystemError('hidden')\n")
    (tmp_path / "train.py").write_text(
        "import random, signal\ndef build(): return random.random, signal.SIGINT\n"
        "def ask():\n    from types import mine\ndef use(): return signal.mine\n"
        "def deeper():\n    import random.blocks\n"
    )
    assert call("train.py:build", tmp_path) == (random.random, signal.SIGINT)
    for name, hidden in [("ask", "types"), ("use", "signal"), ("deeper", "random")]:
        with pytest.raises(PluginError) as refused:
            call(f"train.py:{name}", tmp_path)
        assert f"{hidden} is " in str(refused.value)
        assert f"not {tmp_path / hidden}.py" in str(refused.value)
        assert f"Rename {hidden}.py" in str(refused.value)


def test_two_folders_with_neighbours_of_one_name_get_each_its_own(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shared_name.py").write_text(f"value = {name!r}\n")
        (tmp_path / name / "train.py").write_text("from shared_name import value\ndef build(): return value\n")
    assert [call(f"{name}/train.py:build", tmp_path) for name in "ab"] == ["a", "b"]
    assert call("b/train.py:build", tmp_path) == "b"


def test_files_of_one_folder_share_a_neighbour(tmp_path):
    (tmp_path / "shared_state.py").write_text("found = []\n")
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text("import shared_state\ndef build(): return shared_state.found\n")
    assert call("one.py:build", tmp_path) is call("two.py:build", tmp_path)


def test_an_edited_neighbour_makes_another_module(tmp_path):
    (tmp_path / "edited_values.py").write_text("value = 1\n")
    (tmp_path / "train.py").write_text("from edited_values import value\ndef build(): return value\n")
    assert call("train.py:build", tmp_path) == 1
    (tmp_path / "edited_values.py").write_text("value = 2\n")
    assert call("train.py:build", tmp_path) == 2


def test_a_file_runs_once(tmp_path):
    (tmp_path / "train.py").write_text("runs = []\nruns.append(1)\ndef build(): return runs\ndef load(): return runs\n")
    assert call("train.py:build", tmp_path) is call("train.py:load", tmp_path)
    assert call("train.py:build", tmp_path) == [1]


def test_what_a_module_defines_can_be_pickled(tmp_path):
    (tmp_path / "my-net.v2.py").write_text("class Net:\n    pass\ndef build(): return Net()\n")
    thing = call("my-net.v2.py:build", tmp_path)
    assert type(pickle.loads(pickle.dumps(thing))) is type(thing)


# -- held files --------------------------------------------------------------------------------------------------------


def test_what_was_read_first_is_what_runs_while_files_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.core.held_files._held", None)
    (tmp_path / "held_values.py").write_text("value = 1\n")
    (tmp_path / "train.py").write_text("from held_values import value\ndef build(): return value\n")
    with holding():
        before = find("train.py:build", tmp_path)
        assert [path.name for path in before.sources] == ["train.py", "held_values.py"]
        (tmp_path / "held_values.py").write_text("value = 2\n")
        (tmp_path / "train.py").write_text("def build(): return 3\n")
        assert call("train.py:build", tmp_path) == 1
    assert call("train.py:build", tmp_path) == 3
    give({str(tmp_path / "train.py"): b"def build(): return 4\n"})
    assert call("train.py:build", tmp_path) == 4
    assert read_held(tmp_path / "held_values.py") == b"value = 2\n"


# -- what a file may not leave behind ----------------------------------------------------------------------------------


def test_a_file_leaves_the_process_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(user_import, "_changes", [])
    monkeypatch.setattr(user_import, "_environment", {})
    (tmp_path / "train.py").write_text(
        "import os, random, sys, warnings\nimport numpy as np\nimport torch\n"
        "os.chdir('/'); torch.set_num_threads(3); torch.set_default_dtype(torch.float64)\n"
        "warnings.simplefilter('error'); random.seed(5); np.random.seed(5); torch.manual_seed(5)\n"
        "os.environ['OF_MY_FILE'] = '1'\narguments = list(sys.argv)\n"
        "def build():\n    torch.set_grad_enabled(False)\n    return arguments\n"
    )
    before = os.getcwd(), torch.get_num_threads(), list(warnings.filters), random.getstate()
    drawn, by_torch = np.random.get_state()[1].tolist(), torch.random.get_rng_state()
    assert call("train.py:build", tmp_path) == ["train.py"]
    assert before == (os.getcwd(), torch.get_num_threads(), warnings.filters, random.getstate())
    assert np.random.get_state()[1].tolist() == drawn
    assert torch.equal(torch.random.get_rng_state(), by_torch)
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == (torch.float32, True)
    assert changes_by_user_files() == (
        "train.py changes the current folder; it was set back",
        f"train.py sets torch's number of threads; it was set back to {before[1]}",
        "train.py sets torch's default type; it was set back to torch.float32",
        "train.py sets torch's gradient mode; it was set back to True",
    )
    assert user_import.environment_of_user_files() == {"OF_MY_FILE": "1"}


def test_what_is_drawn_at_import_is_the_same_in_every_process(tmp_path):
    (tmp_path / "train.py").write_text("import random\nvalue = random.random()\ndef build(): return value\n")
    random.seed(99)
    expected = random.Random(0).random()
    assert call("train.py:build", tmp_path) == expected


# -- scripts -----------------------------------------------------------------------------------------------------------

SCRIPT = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--hidden", type=int, default=32)
{}
def build(): return args.hidden
if __name__ == "__main__":
    args = parser.parse_args()
"""


def test_a_file_that_parses_arguments_at_import_is_told_so_before_anything_runs(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT.format("args = parser.parse_args()"))
    with pytest.raises(InputError, match=r"train\.py:5: the file parses command-line arguments") as refused:
        find("train.py:build", tmp_path)
    assert 'if __name__ == "__main__":' in str(refused.value)


@pytest.mark.parametrize("line", ["args = parser.parse_args([])", "args, _ = parser.parse_known_args()"])
def test_arguments_that_are_given_or_may_be_unknown_are_no_mistake(tmp_path, line):
    (tmp_path / "train.py").write_text(SCRIPT.format(line))
    assert call("train.py:build", tmp_path) == 32


def test_a_parser_that_ends_the_program_is_named_when_it_does(tmp_path):
    (tmp_path / "train.py").write_text(
        "import argparse\ndef main():\n    parser = argparse.ArgumentParser()\n    parser.add_argument('needed')\n"
        "    return parser.parse_args()\nargs = main()\ndef build(): return 1\n"
    )
    with pytest.raises(PluginError, match=r"train\.py:5: the file parses command-line arguments") as refused:
        call("train.py:build", tmp_path)
    assert 'if __name__ == "__main__":' in str(refused.value)
