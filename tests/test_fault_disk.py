"""Attacks on where results lie: several harnesses on one folder, small and closed disks, folders that vanish, links."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attacks import Tally, below, tried, wrong_with

from harness.core.atomic_files import atomic, sweep_dead
from harness.core.errors import MachineError
from harness.core.one_writer import LOCK_NAME, sole_writer
from harness.results.store import Results

pytestmark = pytest.mark.fault

TINY = """\
name = "tiny"
engine = "virtual"
[workload]
model = { parameters = "1 M", layers = 2 }
[sweep]
strategy = ["single", "sync-ddp"]
gpus = [1, 2, 4, 8]
seeds = 1
[goal]
max_steps = 3
[cluster]
device = { samples_per_second = 52, batch_size = 16 }
inter_node = "25 Gb/s"
"""
CELLS = 5  # single on one device, sync-ddp on any number of several, and on one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "run", "tiny.toml", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *words: str) -> tuple[int, str]:
    done = tried("run", str(folder / "tiny.toml"), *words)[0]
    return done.exit_code, done.output


# -- one folder, one writer --------------------------------------------------------------------------------------------


def test_the_second_of_two_is_refused_and_told_who_writes(tmp_path):
    said: list[str] = []
    place = tmp_path / "results"
    with (
        sole_writer(place, say=said.append),
        pytest.raises(MachineError) as error,
        sole_writer(place, say=said.append),
    ):
        pytest.fail("two hold one lock")
    assert f"process {os.getpid()}" in str(error.value)
    assert os.uname().nodename in str(error.value)
    assert "--wait" in str(error.value)
    with sole_writer(tmp_path / "results", say=said.append):
        assert said == []


def test_a_lock_survives_no_crash_of_its_holder(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from harness.core.one_writer import sole_writer\n"
        f"with sole_writer(Path({str(tmp_path)!r}), say=print): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert json.loads((tmp_path / LOCK_NAME).read_text())["process"] > 0
    with sole_writer(tmp_path, say=pytest.fail):
        pass


def test_where_a_file_system_cannot_lock_it_is_said(tmp_path, monkeypatch):
    def cannot(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", cannot)
    said: list[str] = []
    with sole_writer(tmp_path, say=said.append):
        pass
    assert "cannot lock" in said[0]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / LOCK_NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=LOCK_NAME), sole_writer(tmp_path / "results", say=pytest.fail):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.dist
@pytest.mark.parametrize("together", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_harnesses_on_one_folder(together, folder):
    """One runs, those that wait find its records, and no cell runs twice."""
    tally = Tally(f"{together} harnesses on one folder")
    processes = [start(folder, "--wait") for _ in range(together)]
    said = [process.communicate(timeout=120)[0] for process in processes]
    tally.count("exit codes", str([p.returncode for p in processes]) if any(p.returncode for p in processes) else "")
    ran = sorted(int(text.split(" cells run now")[0].split()[-1]) for text in said)
    tally.count("cells", "" if ran == [0] * (together - 1) + [CELLS] else f"{ran} run")
    records = Results(folder / "results" / "tiny").records()
    tally.count("records", "" if [r.attempts for r in records.values()] == [1] * CELLS else f"{len(records)}")
    tally.close()


def test_two_sides_that_take_turns_hold_the_folder_above_both(folder):
    with sole_writer(folder / "results" / "ab", say=pytest.fail):
        code, said = run(folder, "--results", str(folder / "results"), "--ab", sys.prefix, sys.prefix)
    assert (code, "another harness (process" in said) == (3, True)
    assert not (folder / "results" / "ab" / "base").exists()


def test_temporary_files_of_the_dead_are_swept_and_no_others(tmp_path):
    with atomic(tmp_path / "mine.txt") as temporary:
        pattern = temporary.name.rpartition("-")[0]
        host = pattern.rpartition("-")[0]
        kept = [f"{host}-1-abc", ".own.harness", ".own.csv", ".x.harness-elsewhere-999999999-abc", "a.txt"]
        for name in (*kept, f"{host}-999999999-abc", f"{host}-99999999999999999999-abc"):
            (tmp_path / name).write_text("")
        assert sweep_dead(tmp_path) == 2
        assert {path.name for path in tmp_path.iterdir()} == {*kept, temporary.name}


# -- disks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a disk of a size, or skips where this user may not."""
    places: list[Path] = []

    def mount(size: str) -> Path:
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("size", ["64k", pytest.param("2m", marks=pytest.mark.slow)])
def test_a_full_disk_ends_the_run_in_words_and_loses_nothing(size, folder, mounted, attacks):
    """Filled to a random place, then made free: what was finished is kept, and the same command goes on."""
    draw, tally = random.Random(14), Tally(f"disk of {size}")
    for _ in range(attacks(1, 6)):
        disk = mounted(size)
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        filler = disk / "filler"
        filler.write_bytes(bytes(max(0, int(free * draw.uniform(0.0, 1.0 if size == "64k" else 0.1)) - 4096)))
        if size == "2m":
            filler.write_bytes(bytes(free - draw.randrange(4096, 200_000)))
        code, said = run(folder, "--results", str(disk))
        tally.count("exit", "" if code == 3 and "make room" in said else f"{code}: {said[-300:]}")
        results = Results(disk / "tiny")
        before = {path: Path(path).read_bytes() for path in below(disk) if path.endswith("record.json")}
        torn = [path for path, content in before.items() if not content.endswith(b"}\n")]
        tally.count("records", f"torn: {torn}" if torn else "")
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        code, said = run(folder, "--results", str(disk))
        tally.count("again", "" if code == 0 and len(results.records()) == CELLS else f"{code}: {said[-300:]}")
        changed = [path for path, content in before.items() if Path(path).read_bytes() != content]
        tally.count("kept", f"changed: {changed}" if changed else "")
        litter = [path for path in below(disk) if ".harness-" in path]
        tally.count("litter", str(litter) if litter else "")
    tally.close()


@pytest.mark.slow
def test_a_closed_disk_ends_the_run_in_words(folder, mounted):
    disk = mounted("4m")
    tally = Tally("read-only disk")
    tally.count("first run", "" if run(folder, "--results", str(disk))[0] == 0 else "failed")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, said = run(folder, "--results", str(disk))
    tally.count("run", "" if code == 3 and "Read-only" in said else f"{code}: {said[-300:]}")
    tally.close()


@pytest.mark.dist
@pytest.mark.parametrize("fate", ["deleted", pytest.param("moved", marks=pytest.mark.slow)])
def test_a_folder_that_vanishes_midway_is_noticed(fate, tmp_path):
    """Nothing is written anew in its place, and the run ends with 3."""
    tally = Tally(f"folder {fate}")
    many = TINY.replace("seeds = 1", "seeds = 400")
    (tmp_path / "tiny.toml").write_text(many)
    process = start(tmp_path)
    place = tmp_path / "results" / "tiny"
    deadline = time.monotonic() + 60
    while not list(place.glob("cells/*/record.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGSTOP)
    place.rename(tmp_path / "elsewhere")
    if fate == "deleted":
        shutil.rmtree(tmp_path / "elsewhere")
    os.kill(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    tally.count("exit", "" if process.returncode == 3 else f"{process.returncode}: {(out + err)[-400:]}")
    tally.count("words", "" if "moved, deleted or replaced" in err or "No such file" in err else err[-400:])
    records = [path for path in below(tmp_path / "results") if path.endswith("record.json")]
    tally.count("written anew", f"{len(records)} records" if len(records) > 1 else "")
    tally.close()


# -- what is not ours --------------------------------------------------------------------------------------------------


KINDS = [
    (kind, place)
    for kind in ("file", "pipe", "folder", "link")
    for place in ("results", "results/tiny", "results/tiny/cells", "results/tiny/plan.json")
    if kind != "folder" or place.endswith(".json")
]


@pytest.mark.parametrize(("kind", "place"), KINDS)
def test_wrong_kinds_of_file_are_named_and_stay(kind, place, folder, monkeypatch):
    monkeypatch.chdir(folder)
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    (outside / "precious.csv").write_text("precious")
    make: dict[str, Callable[[], object]] = {
        "file": lambda: path.write_text("foreign"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "link": lambda: path.symlink_to(outside),
    }
    make[kind]()
    before = stat.S_IFMT(path.lstat().st_mode)
    done, cpu_s = tried("run", "tiny.toml")
    assert not wrong_with(done, cpu_s, 10.0), done.output
    ours_to_replace = place.endswith("plan.json") and kind in ("file", "link")
    if not ours_to_replace:
        assert stat.S_IFMT(path.lstat().st_mode) == before
        assert done.exit_code in ((0,) if (kind, place) in (("link", "results"), ("link", "results/tiny")) else (2, 3))
    assert (outside / "precious.csv").read_text() == "precious"


def test_nothing_is_moved_through_a_link(folder, monkeypatch):
    """What a fresh run puts aside stays in the results, and what was there before stays where it was."""
    monkeypatch.chdir(folder)
    assert run(folder)[0] == 0
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    (folder / "results" / "tiny" / "aside").symlink_to(outside)
    before = below(folder / "results" / "tiny" / "cells")
    code, said = run(folder, "--fresh")
    assert (code, "a link leads out" in said) == (3, True), said
    assert list(outside.iterdir()) == []
    assert below(folder / "results" / "tiny" / "cells") == before


def test_a_report_replaces_neither_a_device_nor_a_foreign_file(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert tried("run", "tiny.toml")[0].exit_code == 0
    (folder / "thesis.html").write_text("<p>three years of work</p>")
    os.mkfifo(folder / "pipe")
    for place, code in (("thesis.html", 2), ("pipe", 3), ("page.html", 0)):
        done = tried("report", "results/tiny", "--out", place)[0]
        assert done.exit_code == code, (place, done.output)
    assert (folder / "thesis.html").read_text() == "<p>three years of work</p>"
    assert stat.S_ISFIFO((folder / "pipe").stat().st_mode)


def test_results_are_private_to_their_user(folder, monkeypatch):
    monkeypatch.chdir(folder)
    earlier = os.umask(0)
    try:
        assert tried("run", "tiny.toml")[0].exit_code == 0
    finally:
        os.umask(earlier)
    open_to_others = [path for path in below(folder / "results") if Path(path).stat().st_mode & 0o077]
    assert open_to_others == []
    assert stat.S_IMODE((folder / "results" / "tiny").stat().st_mode) == 0o700
