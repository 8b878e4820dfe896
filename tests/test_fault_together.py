"""Attacks on cells that run at once: under one harness with several supervisors, and under several that join."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from attacked_runs import Attacked, lost_between, records_of, simulated_rows
from attacks import Tally, below, mutated_bytes

pytestmark = [
    pytest.mark.fault,
    pytest.mark.dist,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc, and counts on their guard"),
]

SWEEP = """\
name = "sweep"
engine = "virtual"
[workload]
model = "softmax"
dataset = { name = "synthetic", samples = 512, test_samples = 32, size = 4, classes = 3 }
[sweep]
strategy = ["sync-ddp", "async-ps"]
gpus = 4
learning_rate = [0.1, 0.2]
seeds = 2
[goal]
target_accuracy = "none"
max_steps = 3000
[cluster]
device = { samples_per_second = 1000, batch_size = 32 }
inter_node = "25 Gb/s"
"""
CELLS = 8
AT_ONCE = ("--executor", "local:2")


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Path]:
    """Yield folders with the scenario."""

    def made() -> Iterator[Path]:
        for number in range(10_000):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "sweep.toml").write_text(SWEEP)
            yield folder

    return made()


def leases(run: Attacked) -> list[Path]:
    """Return the leases of the cells that run."""
    return sorted(run.folder.glob("results/sweep/leases/cells/*"))


def supervisors(run: Attacked) -> list[int]:
    """Return the supervising processes that leases name."""
    found = []
    for path in leases(run):
        with suppress(OSError, ValueError):
            facts = json.loads(path.read_text())
            if (process := facts.get("where", {}).get("process", run.process.pid)) != run.process.pid:
                found.append(process)
    return found


def told(run: Attacked, number: signal.Signals, *, twice: bool = False, group: bool = False) -> int:
    """Send a signal; return the exit code."""
    with suppress(ProcessLookupError):  # it has come to its end
        run.tell(number, group=group)
    if twice:
        run.lasts(0.5)
        if run.process.poll() is None:
            run.tell(number, group=group)
    return run.ended(60)


def kill(run: Attacked, draw: random.Random) -> str:
    told(run, signal.SIGKILL, group=draw.random() < 0.3)
    return ""


def interrupt(run: Attacked, draw: random.Random) -> str:
    number = draw.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    code = told(run, number, twice=draw.random() < 0.4, group=draw.random() < 0.3)
    return "" if code in (0, 128 + number) and "Traceback" not in run.said() else f"{code}: {run.said()[-800:]}"


def kill_supervisors(run: Attacked, draw: random.Random) -> str:
    """Once: the cell runs again. Several times: that is its result."""
    times = draw.choice((1, 1, 3))
    for _ in range(times):
        for pid in supervisors(run)[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.lasts(draw.uniform(0.2, 2.0))
    code = run.ended(300)
    return "" if code in ((0,) if times == 1 else (0, 1)) else f"{code}: {run.said()[-800:]}"


def stop_a_supervisor(run: Attacked, draw: random.Random) -> str:
    for pid in supervisors(run)[:1]:
        os.kill(pid, signal.SIGSTOP)
        run.lasts(2.0)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    code = run.ended(300)
    return "" if code == 0 else f"{code}: {run.said()[-800:]}"


def damage_leases(run: Attacked, draw: random.Random) -> str:
    """Torn, deleted, from the future: nobody else is there, so that all cells run all the same."""
    for path in leases(run):
        with suppress(OSError):
            what = draw.choice(("bytes", "deleted", "future"))
            if what == "bytes":
                path.write_bytes(mutated_bytes(path.read_bytes(), draw))
            elif what == "deleted":
                path.unlink()
            else:
                os.utime(path, (time.time() + 1e6,) * 2)
    code = run.ended(300)
    return "" if code == 0 else f"{code}: {run.said()[-800:]}"


ATTACKS: tuple[Callable[[Attacked, random.Random], str], ...] = (
    kill_supervisors,
    kill,
    interrupt,
    stop_a_supervisor,
    damage_leases,
)


def test_cells_at_once_under_attack(places, attacks) -> None:
    """Whatever happens, nothing outlives the harness, nothing is torn or lost, and the same command ends the sweep."""
    draw, tally = random.Random(14), Tally("cells at once")
    whole = Attacked.started(next(places), "sweep.toml", *AT_ONCE)
    assert whole.ended(300) == 0, whole.said()
    expected = simulated_rows(whole.folder)
    assert len(expected) == CELLS
    for number in range(attacks(len(ATTACKS), 60)):
        attack, run = ATTACKS[number % len(ATTACKS)], Attacked.started(next(places), "sweep.toml", *AT_ONCE)
        run.until(lambda run=run: len(supervisors(run)) == 2)
        run.lasts(draw.uniform(0.0, 3.0))
        what = f"{number} {attack.__name__}"
        tally.count(what, attack(run, draw))
        tally.count(f"{what}: processes", run.left())
        before, torn = records_of(run.folder)
        tally.count(f"{what}: torn", str(torn) if torn else "")
        for _ in range(3):  # a cell that lost its supervisor twice is tried once more
            again = Attacked.started(run.folder, "sweep.toml", *AT_ONCE)
            code = again.ended(300)
        after = records_of(run.folder)[0]
        tally.count(f"{what}: lost", str(lost) if (lost := lost_between(before, after)) else "")
        statuses = {record["status"] for _, record in after.values()}
        same = simulated_rows(run.folder) == expected or attack is kill_supervisors
        tally.count(f"{what}: goes on", "" if code in (0, 1) and len(after) == CELLS and same else f"{code} {statuses}")
        tally.count(f"{what}: litter", str(litter) if (litter := again.litter()) else "")
        shutil.rmtree(run.folder)
    tally.close()


def test_those_who_join_under_attack(places, attacks) -> None:
    """One of two is killed, stopped or interrupted, leases are damaged: the other runs what is left, each cell once."""
    draw, tally = random.Random(15), Tally("joined harnesses")
    whole = Attacked.started(next(places), "sweep.toml", *AT_ONCE)
    assert whole.ended(300) == 0, whole.said()
    expected = simulated_rows(whole.folder)
    for number in range(attacks(3, 20)):
        folder = next(places)
        one = Attacked.started(folder, "sweep.toml", "--join")
        one.until(lambda one=one: leases(one))
        (folder / "said").rename(folder / "said by one")
        other = Attacked.started(folder, "sweep.toml", "--join")
        other.until(lambda other=other: len(leases(other)) == 2)
        other.lasts(draw.uniform(0.0, 1.5))
        what = ("killed", "interrupted", "leases")[number % 3]
        if what == "killed":
            one.tell(signal.SIGKILL, group=False)
            one.process.wait(30)
            tally.count(f"{number} {what}: processes", one.left())
        elif what == "interrupted":
            one.tell(signal.SIGTERM, group=False)
            tally.count(f"{number} {what}: exit", "" if (code := one.process.wait(60)) in (0, 143) else str(code))
        else:
            for path in leases(other):
                with suppress(OSError):
                    path.write_bytes(mutated_bytes(path.read_bytes(), draw))
        code = other.ended(300)
        tally.count(f"{number} {what}", "" if code == 0 else f"{code}: {other.said()[-800:]}")
        one.process.wait(60)
        same = simulated_rows(folder) == expected
        tally.count(f"{number} {what}: results", "" if same else f"{len(simulated_rows(folder))} of {CELLS}")
        attempts = {record["attempts"] for _, record in records_of(folder)[0].values()}
        tally.count(f"{number} {what}: attempts", "" if attempts == {1} else str(attempts))
        left = [path for path in below(folder / "results") if "/leases/" in path or ".harness-" in path]
        tally.count(f"{number} {what}: left", str(left) if left else "")
        shutil.rmtree(folder)
    tally.close()


def test_a_disk_that_is_full_while_two_cells_end(places, attacks, tmp_path) -> None:
    """It ends with 3, in words, and without processes; what was finished stays, and the same command goes on."""
    draw, tally, disk = random.Random(16), Tally("full while two cells end"), tmp_path / "disk"
    disk.mkdir()
    for _ in range(attacks(1, 10)):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={draw.choice((64, 96, 128, 256))}k", "none", str(disk)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        try:
            folder = next(places)
            words = ("sweep.toml", *AT_ONCE, "--results", str(disk))
            run = Attacked.started(folder, *words)
            code = run.ended(300)
            tally.count("exit", "" if code == 3 and "make room" in run.said() else f"{code}: {run.said()[-800:]}")
            tally.count("processes", run.left())
            before = {path: Path(path).read_bytes() for path in below(disk) if path.endswith("record.json")}
            tally.count("torn", "" if all(content.endswith(b"}\n") for content in before.values()) else "a record")
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            code = (run := Attacked.started(folder, *words)).ended(300)
            tally.count("again", "" if code == 0 else f"{code}: {run.said()[-800:]}")
            kept = all(Path(path).read_bytes() == content for path, content in before.items())
            tally.count("kept", "" if kept else "a record has changed")
            litter = [path for path in below(disk) if ".harness-" in path or "/leases/" in path]
            tally.count("litter", str(litter) if litter else "")
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)
    tally.close()
