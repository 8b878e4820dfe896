"""The user's files are imported once, in the server that processes are forked from; and what is in the way of that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import make_cells

from harness.core.cell import Cell
from harness.core.errors import MachineError
from harness.core.held_files import holding
from harness.engines.processes import forking, network
from harness.engines.processes.forking import fork_server, search_path
from harness.engines.processes.launch import run_cell
from harness.engines.processes.network import settle_network

pytestmark = pytest.mark.dist

HEAD = """
import json, os, sys
here = os.path.dirname(__file__)


def tell(kind, what):
    with open(os.path.join(here, kind), "a") as file:
        file.write(json.dumps(what) + "\\n")


tell("imported", os.getpid())
"""

BUILD = """
from torch import nn


def build():
    {}
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
"""

TINY: dict[str, Any] = {
    "dataset": {"name": "synthetic", "samples": 128, "test_samples": 32, "size": 4, "classes": 3},
    "goal": {"target_accuracy": "none", "max_steps": 3},
    "limits": {"cell_timeout": "60 s"},
}


def cells_of(folder: Path, top: str = "", build: str = "pass", **sweep: Any) -> list[Cell]:
    """Return cells that train the `build` of a file whose import is told in `folder / "imported"`."""
    (folder / "train.py").write_text(HEAD + top + BUILD.format(build))
    swept = {"strategy": "sync-ddp", "gpus": [2]} | sweep
    work = {"model": f"{folder}/train.py:build", "dataset": TINY["dataset"]}
    others = {f"sweep__{key}": value for key, value in swept.items()}
    return make_cells(engine="real", workload=work, goal=TINY["goal"], limits=TINY["limits"], **others)


def told(folder: Path, kind: str) -> list[Any]:
    path = folder / kind
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def finished(cell: Cell, log: str = "") -> Any:
    result = run_cell(cell, log=log)
    assert result.finished, result.reason
    return result.outcome


@pytest.fixture(autouse=True)
def few_servers():
    """End the servers of a test with it."""
    yield
    for key in list(forking._kept):
        forking._drop(key)


def test_a_file_is_imported_once_for_all_processes_of_all_cells(tmp_path):
    (tmp_path / "late.py").write_text("value = 1\n")
    for cell in cells_of(tmp_path, build="from late import value; tell('built', os.getpid())", seeds=[0, 1]):
        outcome = finished(cell)
        assert outcome.notes == []
    assert len(told(tmp_path, "imported")) == 1
    assert len(set(told(tmp_path, "built"))) >= 5, "four processes and the trial"
    assert told(tmp_path, "imported")[0] not in told(tmp_path, "built")
    virtual = cells_of(tmp_path, build="from late import value; tell('built', os.getpid())")[0]
    assert len(told(tmp_path, "imported")) == 1, "the same text again"
    finished(virtual)
    assert len(told(tmp_path, "imported")) == 1


def test_what_building_imports_is_in_the_server_before_the_first_cell(tmp_path):
    build = "tell('had', 'xml.dom.pulldom' in sys.modules); import xml.dom.pulldom"
    finished(cells_of(tmp_path, build=build)[0])
    had = told(tmp_path, "had")
    assert had[0] is False, "in the trial that finds it"
    assert set(had[1:]) == {True}


@pytest.mark.parametrize(("parameters", "is_there"), [("", True), ("classes", False)])
def test_no_data_are_loaded_to_find_what_building_imports(tmp_path, parameters, is_there):
    cell = cells_of(tmp_path)[0]
    text = HEAD + BUILD.format("tell('had', 'xml.sax.expatreader' in sys.modules); import xml.sax.expatreader")
    text = text.replace("def build():", f"def build({parameters}):")
    text += "\n\ndef load():\n    import torch\n    tell('loaded', os.getpid())\n"
    text += "    return torch.zeros(64, 4, 4), torch.arange(64) % 3, torch.zeros(32, 4, 4), torch.arange(32) % 3\n"
    (tmp_path / "train.py").write_text(text)
    data = f"{tmp_path}/train.py:load"
    work = replace(cell.workload, dataset=replace(cell.workload.dataset, name=data, options={}))
    finished(replace(cell, workload=work))
    assert (told(tmp_path, "had").count(False) == 1) is is_there, "in the trial only, or in every process"
    assert len(set(told(tmp_path, "loaded"))) == 2, "the cell's own processes"


def test_an_edited_file_or_neighbour_is_imported_anew(tmp_path):
    (tmp_path / "values.py").write_text("value = 1\n")
    top, build = "from values import value\n", "tell('value', value)"
    first = cells_of(tmp_path, top, build)[0]
    finished(first)
    (tmp_path / "values.py").write_text("value = 2\n")
    second = cells_of(tmp_path, top, build)[0]
    finished(second)
    assert first.cell_id != second.cell_id
    assert (told(tmp_path, "value")[0], told(tmp_path, "value")[-1]) == (1, 2)
    assert len(told(tmp_path, "imported")) == 2


def test_an_edit_during_a_run_counts_for_the_next_one(tmp_path):
    (tmp_path / "values.py").write_text("value = 1\n")
    top, build = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n", ""
    with holding():
        cells = cells_of(tmp_path, top, "from values import value; tell('value', value)" + build, seeds=[0, 1])
        finished(cells[0])
        (tmp_path / "values.py").write_text("value = 2\n")
        (tmp_path / "train.py").write_text("nothing")
        finished(cells[1])
    assert set(told(tmp_path, "value")) == {1}


THREAD = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"


def test_a_file_that_starts_threads_is_imported_by_every_process_and_that_is_said(tmp_path):
    outcome = finished(cells_of(tmp_path, THREAD)[0])
    path = f"{tmp_path}/train.py"
    assert outcome.notes == [f"{path} starts threads when imported, so that every process imports it anew"]
    assert len(set(told(tmp_path, "imported"))) == 3


def test_a_library_that_starts_threads_of_its_own_does_not_hinder(tmp_path):
    assert finished(cells_of(tmp_path, "import scipy.linalg\n")[0]).notes == []
    assert len(told(tmp_path, "imported")) == 1


def test_a_file_that_ends_its_process_or_raises_is_named_by_the_cell(tmp_path):
    result = run_cell(cells_of(tmp_path, "raise KeyError('mine')\n")[0])
    line = (HEAD + "raise").count("\n") + 1
    assert (result.cause, f"{tmp_path}/train.py:{line}: KeyError: 'mine'" in result.reason) == ("user", True)
    result = run_cell(cells_of(tmp_path, "os._exit(3)\n")[0])
    assert "ended with exit code 3 without a word" in result.reason


def test_what_a_file_changes_is_set_back_and_said(tmp_path):
    top = "import torch, warnings\nos.chdir('/')\ntorch.set_num_threads(2)\nwarnings.simplefilter('error')\n"
    outcome = finished(cells_of(tmp_path, top, "tell('folder', os.getcwd())")[0])
    assert outcome.notes == [
        "train.py changes the current folder; it was set back",
        "train.py sets torch's number of threads; it was set back to 1",
    ]
    assert set(told(tmp_path, "folder")) == {os.getcwd()}


def test_variables_that_a_file_sets_reach_its_processes(tmp_path):
    top = "os.environ['OF_MY_FILE'] = '1'\n"
    finished(cells_of(tmp_path, top, "tell('seen', os.environ.get('OF_MY_FILE'))")[0])
    assert set(told(tmp_path, "seen")) == {"1"}


def test_processes_draw_by_the_seed_and_not_by_their_server(tmp_path):
    first, second = cells_of(tmp_path, "import random, numpy\n", "tell('drawn', numpy.random.rand())", seeds=[0, 1])
    last = []
    for cell in (first, first, first, second):
        finished(cell)
        last.append(told(tmp_path, "drawn")[-1])
    assert last[1] == last[2] != last[3], "the first cell's model is traced too"


def test_no_process_imports_from_the_folder_where_it_stands(tmp_path, monkeypatch):
    for name in ("signal", "random", "queue", "select", "types", "torch", "numpy", "struct", "tokenize"):
        (tmp_path / f"{name}.py").write_text("raise SystemError('hidden')\n")
    (tmp_path / "layers.py").write_text("value = 3\n")
    (tmp_path / "train.py").write_text(
        HEAD + "from .layers import value\nimport layers\n" + BUILD.format("tell('path', sys.path)")
    )
    (tmp_path / "s.toml").write_text(
        '\ufeff[workload]\r\nmodel = "train.py:build"\r\ndataset = { name = "synthetic", samples = 128, size = 4,'
        ' test_samples = 32, classes = 3 }\r\n[sweep]\r\nstrategy = ["sync-ps"]\r\ngpus = [2]\r\n'
        "learning_rate = [0.1]\r\n"
        '[goal]\r\ntarget_accuracy = "none"\r\nmax_steps = 3\r\n',
        encoding="utf-8",
        newline="",
    )
    # As the console script does: Python itself would put the folder first for `-m`, before any line of ours.
    program = "import sys; sys.path.pop(0); from harness.commands.cli import main; main(prog_name='harness')"
    command = [sys.executable, "-c", program, "run", "s.toml"]
    monkeypatch.setenv("PYTHONPATH", str(Path(forking.__file__).parents[3]))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 ok" in done.stdout
    assert len(told(tmp_path, "imported")) == 1
    for path in told(tmp_path, "path"):
        assert "" not in path
        assert path.index(str(tmp_path)) > path.index(str(Path(os.__file__).parent))


def test_our_processes_search_as_we_do_but_for_the_folder_where_we_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for first in ("", str(tmp_path)):
        monkeypatch.setattr(sys, "path", [first, "/of/python"])
        assert search_path() == ["/of/python"]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert search_path() == [str(tmp_path), "/of/python"]


def test_a_long_temporary_folder_is_no_hindrance(tmp_path):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    code = (
        "import harness.engines.processes.forking as f\n"
        "from harness.engines.processes.tasks import started, answers\n"
        "with started([(print, ('here',))], 1) as c: print(answers(c, 'printing', 60))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TMPDIR": str(long)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "[None]" in done.stdout, done.stderr
    assert list(long.glob("harness-*")) == []


def test_servers_are_kept_few(tmp_path):
    folders = [tmp_path / str(number) for number in range(forking.MOST_SERVERS + 1)]
    processes = []
    for folder in folders:
        folder.mkdir()
        fork_server(cells_of(folder)[0])
        processes += [kept.server.process for kept in forking._kept.values() if kept.server is not None]
    assert len(forking._kept) == forking.MOST_SERVERS
    assert not processes[0].is_alive()


# -- the network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "left", "notes"),
    [
        ({}, {"GLOO_SOCKET_IFNAME": network._LOOPBACK}, 0),
        ({"GLOO_SOCKET_IFNAME": "doesnotexist"}, {"GLOO_SOCKET_IFNAME": network._LOOPBACK}, 1),
        ({"NCCL_SOCKET_IFNAME": "doesnotexist"}, {"GLOO_SOCKET_IFNAME": network._LOOPBACK}, 1),
        ({"NCCL_SOCKET_IFNAME": "^docker"}, {"NCCL_SOCKET_IFNAME": "^docker"}, 0),
        ({"NCCL_SOCKET_IFNAME": f"={network._LOOPBACK}"}, {"NCCL_SOCKET_IFNAME": f"={network._LOOPBACK}"}, 0),
    ],
)
def test_variables_that_name_no_interface_are_set_right_and_said(monkeypatch, variables, left, notes):
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = settle_network()
    assert len(said) == notes
    assert all(note.split()[0] in variables for note in said)
    assert {name: os.environ[name] for name in left} == left
    assert set(os.environ) & {"NCCL_SOCKET_IFNAME"} <= set(left)


def test_a_cell_meets_although_the_environment_names_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "doesnotexist")
    monkeypatch.setenv("MASTER_ADDR", "nowhere.invalid")
    monkeypatch.setenv("MASTER_PORT", "1")
    outcome = finished(cells_of(tmp_path)[0])
    assert len(outcome.notes) == 1
    assert "GLOO_SOCKET_IFNAME names doesnotexist" in outcome.notes[0]


class Killed:
    """A server that dies as soon as it is asked."""

    def connect_to_new_process(self, fds: Sequence[int]) -> tuple[int, int]:
        sentinel, theirs = os.pipe()
        their_end, writing = os.pipe()
        os.close(theirs)
        os.close(their_end)
        return sentinel, writing


def test_a_server_that_was_killed_is_named_and_no_bug_of_ours():
    process = forking.ForkedProcess(Killed(), print, (), None, daemon=True)
    with pytest.raises(MachineError, match=r"has ended\. Something outside killed it"):
        process.start()
