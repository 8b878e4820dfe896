"""Attacks on how runs end: killed at random moments and at every change of a file, and told to end by signals."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from attacked_runs import Attacked, Records, lost_between, records_of, simulated_rows
from attacks import Tally
from cells import make_cell

from harness.core.interrupts import NAMES
from harness.engines.processes.launch import run_cell
from harness.engines.processes.tasks import started

pytestmark = [
    pytest.mark.fault,
    pytest.mark.dist,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc, and counts on their guard"),
]

MODEL = """\
import os, subprocess, sys
from pathlib import Path
from torch import nn

HERE, TOKEN = Path(__file__).parent, os.environ.get("ATTACK", "")
SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)", TOKEN]

class Told(nn.Sequential):
    def forward(self, inputs):
        (HERE / "trains").touch()
        return super().forward(inputs)

def build():
    subprocess.Popen(SLEEP)
    subprocess.Popen(SLEEP, start_new_session=True, env={})
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.execv(SLEEP[0], SLEEP)
        os._exit(0)
    return Told(nn.Flatten(), nn.Linear(16, 3))
"""
"""A model that leaves three processes behind wherever it is built: a child, one in a session of its own that knows
nothing of us, and one whose parent has gone."""

DATA = 'dataset = { name = "synthetic", samples = 128, test_samples = 32, size = 4, classes = 3 }'

LONG = f"""\
engine = "real"
[workload]
model = "train.py:build"
{DATA}
[sweep]
strategy = "STRATEGY"
gpus = 2
[goal]
target_accuracy = "none"
max_seconds = 600
max_steps = 100000000
"""

MEASURED = f"""\
engine = "virtual"
[workload]
model = {{ name = "mlp", hidden = [8] }}
{DATA}
[sweep]
strategy = "sync-ddp"
gpus = 2
[goal]
target_accuracy = "none"
max_steps = 3
"""
"""What is measured before it is simulated."""

NIGHT = f"""\
engine = "both"
[workload]
model = "softmax"
{DATA}
[sweep]
strategy = ["sync-ps", "async-ps", "broken"]
gpus = 2
seeds = 2
[goal]
target_accuracy = "none"
max_steps = 30
[cluster]
device = {{ samples_per_second = 5000, batch_size = 16 }}
inter_node = "25 Gb/s"
"""

BROKEN = """\
from harness import Strategy, hookimpl

class Broken(Strategy):
    '''Raise at once.'''
    name = "broken"

    async def work(self, worker):
        raise ValueError("broken")

@hookimpl
def harness_strategies():
    return [Broken]
"""


# -- what is started, and what is left of it ---------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Path]:
    """Yield folders with all that the scenarios name."""

    def made() -> Iterator[Path]:
        while True:
            folder = tmp_path / uuid4().hex[:8]
            folder.mkdir()
            for name, text in {"train.py": MODEL, "broken.py": BROKEN, "night.toml": NIGHT, "m.toml": MEASURED}.items():
                (folder / name).write_text(text)
            yield folder

    return made()


# -- killed ------------------------------------------------------------------------------------------------------------


def test_what_a_cell_has_started_ends_with_it(tmp_path, monkeypatch):
    """Though the harness lives on, and with it the server that the cell's processes were forked from."""
    with started([(id, ())], 1):  # the server is up, and its environment is older than the token
        pass
    monkeypatch.setenv("ATTACK", token := f"attack-{uuid4().hex}")
    (tmp_path / "train.py").write_text(MODEL)
    workload = {
        "model": f"{tmp_path}/train.py:build",
        "dataset": {"name": "synthetic", "samples": 64, "size": 4, "classes": 3},
    }
    result = run_cell(
        make_cell(
            engine="real", sweep__strategy="single", workload=workload, goal={"target_accuracy": "none", "max_steps": 2}
        )
    )
    assert result.finished, result.reason
    here = Attacked(tmp_path, token, subprocess.Popen(["true"], text=True))
    here.process.wait()
    assert here.left() == ""


def test_killed_at_random_nothing_outlives_and_nothing_is_lost(places, attacks):
    """Every other kill hits long training, whose model hides processes; the others a night that is then continued."""
    draw, tally = random.Random(14), Tally("kills")
    night, expected = next(places), {}
    before: Records = {}
    for number in range(attacks(1, 100)):
        kind = ("training", "night", "training", "measuring")[number % 4]
        folder = night if kind == "night" else next(places)
        if kind == "training":
            strategy = draw.choice(("sync-ddp", "async-ps", "local-sgd"))
            (folder / "long.toml").write_text(LONG.replace("STRATEGY", strategy))
        name = {"training": "long.toml", "night": "night.toml", "measuring": "m.toml"}[kind]
        run = Attacked.started(folder, name, "--plugins", "broken.py")
        if kind == "training":
            reached = run.until((folder / "trains").exists)
            tally.count(f"{number} {kind}: trains", "" if reached else run.said())
            time.sleep(draw.uniform(0.0, 1.0))
        else:
            run.lasts(draw.uniform(0.0, 30.0))
        what = draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGQUIT))
        if (ended := run.process.poll()) is None:
            run.tell(what, group=draw.random() < 0.3)
            run.ended(30)
        tally.count(f"{number} {kind}: {what.name}", run.left())
        left = [name for name in run.litter() if name.startswith("harness-")]
        tally.count(f"{number} {kind}: folders", str(left) if left else "")
        after, torn = records_of(folder)
        tally.count(f"{number} {kind}: torn", str(torn) if torn else "")
        if kind == "night":
            tally.count(f"{number} lost", str(lost) if (lost := lost_between(before, after)) else "")
            before = after
            if ended is not None:  # this night has come to its end
                tally.count(f"{number} night: exit", "" if ended == 1 else f"{ended}: {run.said()}")
                expected = expected or simulated_rows(folder)
                tally.count(f"{number} night: results", "" if simulated_rows(folder) == expected else "differ")
                night, before = next(places), {}
    tally.close()


CRASHING = """\
import os, signal, sys
left, root = [int(sys.argv.pop(1))], os.path.join(os.getcwd(), "results")

def hook(event, arguments):
    if event == "open":
        changes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")
    if changes and not isinstance(arguments[0], int) and os.path.abspath(os.fsdecode(arguments[0])).startswith(root):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
from harness.__main__ import start
start()
"""
"""The harness, killed before it changes a file for so many times: opens it for writing, renames, deletes."""

SMALL = """\
name = "small"
engine = "virtual"
[workload]
model = { parameters = "1 M", layers = 2 }
[sweep]
strategy = ["single", "sync-ddp", "broken"]
gpus = 1
[goal]
max_steps = 3
[cluster]
device = { samples_per_second = 52, batch_size = 16 }
"""


def test_killed_before_any_change_of_a_file_nothing_is_lost(places, attacks):
    """At the first change of a run, the second and so on; then the same command goes on, is killed, and goes on."""
    draw, tally, first = random.Random(14), Tally("crash points"), next(places)
    (first / "small.toml").write_text(SMALL)

    def run(folder: Path, changes: int) -> tuple[int, Attacked]:
        words = ("small.toml", "--plugins", "broken.py")
        run = Attacked.started(folder, *words, program=("-c", CRASHING, str(changes)))
        return run.ended(), run

    ended, whole = run(first, 10**9)
    assert ended == 1, whole.said()
    expected, place, points = simulated_rows(first), first, attacks(2, 200)
    number = tries = 0
    while tries < points:
        place = next(places)
        shutil.copy(first / "small.toml", place)
        before: Records = {}
        # A point in the run from nothing; then one a few changes later in each run that goes on from there.
        changes, ended = number if points > 20 else draw.randrange(60), -signal.SIGKILL
        while ended == -signal.SIGKILL and tries < points:
            ended, attacked = run(place, changes)
            after, torn = records_of(place)
            lost = lost_between(before, after)
            tries += ended == -signal.SIGKILL
            tally.count(f"{number}, {changes} changes", str((torn, lost)) if torn or lost else attacked.left())
            before, changes = after, draw.randrange(3, 40)
        number += 1
        ended, attacked = run(place, 10**9)
        tally.count(f"{number} goes on", "" if ended == 1 else f"{ended}: {attacked.said()}")
        tally.count(f"{number} results", "" if simulated_rows(place) == expected else "differ")
        tally.count(f"{number} litter", str(litter) if (litter := attacked.litter()) else "")
    print(f"crash points: {tries} runs killed")
    tally.close()


# -- signals -----------------------------------------------------------------------------------------------------------

TRAINS = (
    LONG.replace("train.py:build", "softmax")
    .replace("STRATEGY", "sync-ddp")
    .replace("max_seconds = 600", "max_seconds = 8")
)


@dataclass(frozen=True)
class Wish:
    """A signal, and when it is sent.

    Attributes:
        moment: the first in which it is heard, while processes start, in training, or any.
    """

    number: signal.Signals
    moment: str
    twice: bool = False
    group: bool = False


WISHES = (
    Wish(signal.SIGHUP, "first"),
    Wish(signal.SIGTERM, "starting", twice=True),
    Wish(signal.SIGINT, "training", group=True),
)


def drawn(draw: random.Random) -> Wish:
    """Return any wish."""
    moment = draw.choice(("first", "any", "any", "starting", "training"))
    return Wish(draw.choice(list(NAMES)), moment, draw.random() < 0.25, draw.random() < 0.4)


def test_signals_end_a_run_as_its_user_expects(places, attacks):
    """At whatever moment; the same command goes on each time, and in the end all cells have run."""
    draw, tally, folder = random.Random(14), Tally("signals"), next(places)
    (folder / "long.toml").write_text(TRAINS)
    tries = attacks(len(WISHES), 60)
    for number in range(tries):
        wish = WISHES[number] if number < len(WISHES) else drawn(draw)
        run = Attacked.started(folder, "long.toml")
        heard = _at(wish.moment, run, draw)
        if run.process.poll() is None:
            run.tell(wish.number, group=wish.group)
            if wish.twice:
                run.lasts(0.5)
            if wish.twice and run.process.poll() is None:
                run.tell(wish.number, group=wish.group)
                run.ended(5)
            code = run.ended()
            tally.count(f"{number} {wish}", _wrong_with(wish, code, run, heard))
        tally.count(f"{number} {wish}: processes", run.left())
        tally.count(f"{number} {wish}: files", str(run.litter()) if run.litter() and not wish.twice else "")
        tally.count(f"{number} {wish}: torn", str(torn) if (torn := records_of(folder)[1]) else "")
        statuses = {record["status"] for _, record in records_of(folder)[0].values()}
        if number == tries - 1 or statuses == {"ok"}:
            run = Attacked.started(folder, "long.toml")
            code = run.ended()
            statuses = [record["status"] for _, record in records_of(folder)[0].values()]
            tally.count("in the end", "" if (code, statuses) == (0, ["ok"]) else f"{code}, {statuses}: {run.said()}")
            shutil.rmtree(folder / "results")
    tally.close()


def _at(moment: str, run: Attacked, draw: random.Random) -> bool:
    """Wait for the moment; say whether the harness decides about signals by then."""
    if moment == "any":
        run.lasts(draw.choice((0.1, 1.0, 30.0)) * draw.random())
        return run.hears()
    run.until(run.hears)
    if moment != "first":
        logs = run.folder / "results" / "long" / "cells"
        earlier = {path: path.stat().st_mtime_ns for path in logs.glob("*/log.txt")}
        run.until(lambda: any(path.stat().st_mtime_ns != earlier.get(path) for path in logs.glob("*/log.txt")))
        time.sleep(draw.uniform(0.0, 0.3))
    if moment == "training":
        run.until(lambda: len(run.marked()) > 5)  # both workers are there
        time.sleep(draw.uniform(0.0, 1.0))
    return True


def _wrong_with(wish: Wish, code: int, run: Attacked, heard: bool) -> str:
    said, wanted = run.said(), 128 + wish.number
    if not heard:  # Python itself was starting: it dies as any program does
        return "" if code in (-wish.number, wanted, 1) and "__main__.py" not in said else f"{code}: {said}"
    if code != wanted or "Traceback" in said or "Exception ignored" in said:
        return f"exit {code}, not {wanted}: {said[-800:]}"
    if wish.twice:
        return ""
    results = run.folder / "results" / "long"
    if (results / "plan.json").exists() and not (results / "report.html").exists():
        return f"no report: {said[-800:]}"
    without = [path for path in results.glob("cells/*/log.txt") if not (path.parent / "record.json").exists()]
    if without:
        return f"no record of {without}: {said[-800:]}"
    return ""
