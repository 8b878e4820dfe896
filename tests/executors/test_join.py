"""Several harnesses on one folder on purpose: every cell runs once, whoever dies and whoever is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.leases import held_by_harnesses, held_cells
from harness.results.store import Results

pytestmark = pytest.mark.dist

TIMED = """\
name = "tiny"
engine = "virtual"
[workload]
model = { parameters = "1 M", layers = 2 }
[sweep]
strategy = ["single", "sync-ddp", "local-sgd", "async-ps"]
gpus = [1, 2, 4, 8, 16]
seeds = 1
[goal]
max_steps = STEPS
[cluster]
device = { samples_per_second = 52, batch_size = 16 }
inter_node = "25 Gb/s"
"""
CELLS = 16

PROGRAM = (
    "import sys\n"
    "from harness.commands import run\n"
    "from pathlib import Path\n"
    "def drawn(results, *_):\n"
    "    with (results.folder / 'drawn').open('a') as file: file.write('x')\n"
    "    return results.folder / 'report.html'\n"
    "run.write_report_of = drawn\n"
    "from harness.commands.cli import main\n"
    "main(prog_name='harness')\n"
)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "run", "tiny.toml", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TIMED.replace("STEPS", "400"))
    return tmp_path


def results(folder: Path) -> Path:
    return folder / "results" / "tiny"


def soon(found: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not come about")


def num_run(said: str) -> int:
    return int(said.split(" run now")[0].split()[-2])


def assert_whole(folder: Path, ran: int) -> None:
    """Hold a folder to be finished: every cell once, the table of all, and nothing left behind."""
    records = Results(results(folder)).records()
    assert [record.attempts for record in records.values()] == [1] * CELLS
    assert [str(record.status) for record in records.values()] == ["ok"] * CELLS
    assert ran == CELLS
    assert len((results(folder) / "cells.csv").read_text().splitlines()) == CELLS + 1
    assert not (results(folder) / "leases").exists()
    assert not list(results(folder).rglob(".*.harness-*"))


@pytest.mark.parametrize("together", [2, 4])
def test_each_cell_runs_once_and_the_last_draws_the_report(folder, together):
    processes = [start(folder, "--join") for _ in range(together)]
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * together, said
    assert_whole(folder, sum(map(num_run, said)))
    assert 1 <= len((results(folder) / "drawn").read_text()) <= together
    assert sum("written by the harness that ends last" not in text for text in said) >= 1


@pytest.mark.parametrize("together", [2, 4])
def test_the_cells_of_one_that_is_killed_are_run_by_the_others(folder, together):
    (folder / "tiny.toml").write_text(TIMED.replace("STEPS", "1500"))
    processes = [start(folder, "--join") for _ in range(together)]
    victim = processes[0]

    def runs_one() -> bool:
        return any(held.facts.get("process") == victim.pid for held in held_cells(results(folder)).values())

    soon(lambda: runs_one() and len(list(results(folder).glob("cells/*/record.json"))) >= 2)
    soon(runs_one)
    victim.kill()
    at_death = {path.parent.name for path in results(folder).glob("cells/*/record.json")}
    victim.communicate(timeout=60)
    said = [process.communicate(timeout=240)[0] for process in processes[1:]]
    assert [process.returncode for process in processes] == [-signal.SIGKILL, *[0] * (together - 1)], said
    assert len(at_death) < CELLS
    by_others = sum(map(num_run, said))
    assert CELLS - len(at_death) <= by_others <= CELLS
    assert_whole(folder, CELLS)


def test_one_that_is_stopped_for_long_and_wakes_up_spoils_nothing(folder, monkeypatch):
    (folder / "tiny.toml").write_text(TIMED.replace("STEPS", "1500"))
    stopped = start(folder, "--join")
    soon(lambda: held_cells(results(folder)))
    stopped.send_signal(signal.SIGSTOP)
    (held,) = held_cells(results(folder)).values()
    other = start(folder, "--join")
    said = other.communicate(timeout=240)[0]  # it takes over what gives no sign of life for half a minute
    assert other.returncode == 0, said
    record = results(folder) / "cells" / held.name / "record.json"
    written = record.stat().st_mtime_ns
    stopped.send_signal(signal.SIGCONT)
    late = stopped.communicate(timeout=120)[0]
    assert stopped.returncode == 0, late
    assert record.stat().st_mtime_ns == written
    assert_whole(folder, num_run(said) + num_run(late))


def test_who_is_interrupted_leaves_its_cell_to_the_others(folder):
    (folder / "tiny.toml").write_text(TIMED.replace("STEPS", "3000"))
    first, second = start(folder, "--join"), start(folder, "--join")
    soon(lambda: len(held_cells(results(folder))) == 2)
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=60)[0]
    assert first.returncode == 130, said
    rest = second.communicate(timeout=240)[0]
    assert second.returncode == 0, rest
    assert_whole(folder, num_run(said) + num_run(rest))


def test_company_is_refused_by_who_is_alone_and_the_other_way_round(folder):
    (folder / "tiny.toml").write_text(TIMED.replace("STEPS", "3000"))
    for own, guest, says in ((["--join"], [], "join"), ([], ["--join"], "alone")):
        host = start(folder, *own)
        soon(lambda: held_by_harnesses(results(folder)))
        refused = start(folder, *guest)
        said = refused.communicate(timeout=60)[0]
        assert (refused.returncode, says in said, "--wait" in said) == (3, True, True), said
        host.send_signal(signal.SIGINT)
        host.communicate(timeout=60)


def test_who_joins_with_another_plan_is_refused(folder):
    (folder / "tiny.toml").write_text(TIMED.replace("STEPS", "3000"))
    host = start(folder, "--join")
    soon(lambda: any("plan" in held.facts for held in held_by_harnesses(results(folder))))
    refused = start(folder, "--join", "--set", "goal.max_steps=2999")
    said = refused.communicate(timeout=60)[0]
    assert (refused.returncode, "another plan of this name" in said) == (3, True), said
    host.send_signal(signal.SIGINT)
    host.communicate(timeout=60)


@pytest.mark.parametrize("option", ["--fresh", "--reference"])
def test_what_would_disturb_the_others_is_refused(folder, option):
    refused = start(folder, "--join", option)
    said = refused.communicate(timeout=60)[0]
    assert refused.returncode == 2
    assert f"{option} with --join" in said
    assert not results(folder).exists()
