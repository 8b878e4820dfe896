"""Attacks on what harnesses share: leases, the marks of Slurm's jobs, and the status that is read from both."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from attacks import VALUES, Tally, below, limited, mutated_bytes, mutated_json, toml_of, tried, wrong_with
from cells import host, make_cells
from recorded import record_of, results_at

from harness.core import leases as module
from harness.core.errors import HarnessError, InputError
from harness.core.leases import DEAD_S, Leases, held_cells
from harness.core.slurm_options import SlurmOptions
from harness.executors import slurm_jobs
from harness.executors.slurm_executor import SlurmExecutor, TaskShare, asked_for
from harness.executors.slurm_queue import QueuedTask
from harness.results.store import Results
from harness.scenario.read import parse_scenario

pytestmark = pytest.mark.fault

SEED = 14


@pytest.fixture
def recorded(tmp_path) -> Results:
    """Return a night that has run half of its cells."""
    cells = make_cells(sweep__strategy=["single", "sync-ddp"], sweep__gpus=[1, 2], sweep__seeds=2)
    results = results_at(tmp_path / "results" / "night", cells)
    for cell in cells[::2]:
        results.write_record(record_of(cell), {})
    return results


# -- leases ------------------------------------------------------------------------------------------------------------

FACTS = {"host": "node7", "machine": "node7", "process": 12, "since": "2031-01-01T01:00:00+00:00", "joins": True}

KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path),
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "zeros": lambda path: path.symlink_to("/dev/zero"),
}


def foreign_lease(place: Path, cell: str, draw: random.Random) -> str:
    """Leave something in the place of leases; return what."""
    place.mkdir(parents=True, exist_ok=True)
    generation = draw.choice(("1", "1", "2", "0", "-1", "01", "٣", "9" * 18, "9" * 100, "x", ""))
    path = place / f"{cell}.{generation}"
    if draw.random() < 0.2:
        kind = draw.choice(list(KINDS))
        KINDS[kind](path)
        return f"{path.name}: {kind}"
    path.write_bytes(content := mutated_json(FACTS, draw) if draw.random() < 0.8 else mutated_bytes(b"{}", draw))
    age_s = draw.choice((0.0, DEAD_S + 5, 1e9, -1e6, -5.0))
    os.utime(path, (time.time() - age_s,) * 2)
    return f"{path.name}, {age_s} s old: {content[:200]!r}"


def test_foreign_leases_neither_hang_nor_block_for_ever(attacks, tmp_path, monkeypatch) -> None:
    """Torn, from the future, of any generation, and what is no file: a cell is taken, its holder waited for while the
    lease is fresh, or what lies there is named."""
    monkeypatch.setattr(module, "BEAT_S", 3600.0)
    draw, tally = random.Random(SEED), Tally("foreign leases")
    for number in range(attacks(40, 1000)):
        folder = tmp_path / str(number)
        what = foreign_lease(folder / "leases" / "cells", "cell", draw)
        began = time.process_time()
        wrong = ""
        with limited(), suppress(HarnessError), Leases(folder, joins=True) as leases:
            lease = leases.take("cell")
            fresh = any(held.name == "cell" and held.silent_s <= DEAD_S for held in held_cells(folder).values())
            if lease is None and not fresh:
                wrong = "it is waited for, and nobody has it"
            elif lease is not None and not lease.confirm():
                wrong = "it was taken, and cannot be written"
        wrong = wrong or ("slow" if time.process_time() - began > 1 else "")
        tally.count(what, wrong)
    tally.close()


class Clock:
    """The clock of a file system, which can jump."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        monkeypatch.setattr(module, "_clock_s", lambda place: time.time() + self.ahead_s)


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_when_the_clock_jumps_nobody_who_lives_is_robbed(jump_s, tmp_path, monkeypatch) -> None:
    """Until every holder has touched its lease by the new clock, ages say nothing; the dead are taken over later."""
    monkeypatch.setattr(module, "BEAT_S", 3600.0)  # nothing is touched by itself
    monkeypatch.setattr(module, "AFTER_JUMP_S", 0.2)
    clock = Clock(monkeypatch)
    with Leases(tmp_path, joins=True) as one, Leases(tmp_path, joins=True) as other:
        assert one.take("cell") is not None
        assert one.take("of the dead") is not None
        other.take("another")
        then = time.time() - DEAD_S - 5
        os.utime(tmp_path / "leases" / "cells" / "of the dead.1", (then, then))
        assert other.take("of the dead") is not None  # the clock is known from here on
        clock.ahead_s = jump_s
        assert other.take("cell") is None
        now = time.time() + jump_s
        os.utime(tmp_path / "leases" / "cells" / "cell.1", (now, now))
        assert other.take("cell") is None
        os.utime(tmp_path / "leases" / "cells" / "cell.1", (then, then))
        time.sleep(0.3)
        assert other.take("cell") is not None


# -- status ------------------------------------------------------------------------------------------------------------

PLANTED = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"


def test_the_status_of_a_strangers_folder_runs_none_of_its_code(recorded, tmp_path, monkeypatch) -> None:
    """Whatever code its plan names: plugins, models and data in files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.py").write_text(PLANTED)
    theirs, path = str(tmp_path / "theirs.py"), recorded.folder / "plan.json"
    for name in ("model", "dataset"):
        plan = json.loads(path.read_bytes())
        plan["plugins"] = [theirs]
        for cell in plan["cells"]:
            cell["workload"][name] = {"name": f"{theirs}:build", "options": {}}
            cell["engine"], cell["strategy"] = "real", "theirs"
        path.write_text(json.dumps(plan))
        for words in (
            ("status", "night"),
            ("status", "night", "--json"),
            ("show", "night"),
            ("report", "results/night"),
        ):
            done, cpu_s = tried(*words)
            assert not wrong_with(done, cpu_s, 10.0), done.output
            assert not (tmp_path / "ran").exists(), words


def test_the_status_of_garbage(recorded, attacks, tmp_path, monkeypatch) -> None:
    """Plans, records, leases and marks of Slurm's jobs, mutated or no files: told in words, in time."""
    monkeypatch.chdir(tmp_path)
    draw, tally = random.Random(SEED), Tally("status of garbage")
    cells = [cell.cell_id for cell in recorded.plan().cells]
    monkeypatch.setattr(
        slurm_jobs, "queued", lambda: {f"7_{k}": QueuedTask(f"7_{k}", "RUNNING", "node7", "None") for k in range(3)}
    )
    job, leases = recorded.folder / "slurm" / "1", recorded.folder / "leases"
    contents: dict[Path, object] = {
        recorded.folder / "plan.json": json.loads((recorded.folder / "plan.json").read_bytes()),
        next(iter(sorted(recorded.folder.glob("cells/*/record.json")))): None,
        job / "tasks.json": {f"7_{k}": cells[k : k + 2] for k in range(3)},
        leases / "harnesses" / "node7-12-ab": FACTS,
        leases / "cells" / f"{cells[1]}.1": FACTS | {"step": 3, "where": {"host": "node8", "process": 4}},
    }
    begun = job / "begun" / cells[0]
    begun.parent.mkdir(parents=True)
    originals = {begun: b"node7 12 2031-01-01T01:00:00+00:00\nstopped\nnode8 13 2031-01-01T02:00:00+00:00\n"}
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_text(json.dumps(content))
        originals[path] = path.read_bytes()
    begun.write_bytes(originals[begun])
    usual_s = max(tried("status", "night")[1] for _ in range(3))
    done = tried("status", "night")[0]
    assert "7" in done.output
    assert done.exit_code == 0
    for _ in range(attacks(40, 2000)):
        path = draw.choice(list(originals))
        what = draw.choice(("json", "json", "bytes", *KINDS))
        path.unlink()
        if what == "json" and path != begun:
            path.write_bytes(mutated_json(json.loads(originals[path]), draw))
        elif what in KINDS:
            KINDS[what](path)
        else:
            path.write_bytes(mutated_bytes(originals[path], draw))
        kept = path.read_bytes()[:300] if what not in KINDS else b""
        before = below(recorded.folder)
        wrong = wrong_with(*tried("status", "night", *draw.choice(((), ("--json",)))), usual_s)
        wrong = wrong or ("it has written" if below(recorded.folder) != before else "")
        tally.count(f"{path.relative_to(recorded.folder)} {what} {kept!r}" if wrong else "", wrong)
        path.rmdir() if what == "folder" else path.unlink()
        path.write_bytes(originals[path])
    tally.close()


@pytest.mark.parametrize("place", ["leases", "leases/harnesses"])
def test_leases_that_lie_elsewhere_are_not_read(place, recorded, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    outside = tmp_path / "outside" / "harnesses"
    outside.mkdir(parents=True)
    (outside / "node7-12-ab").write_text(json.dumps(FACTS))
    path = recorded.folder / place
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(outside if place.endswith("harnesses") else outside.parent)
    done = tried("status", "night")[0]
    assert done.exit_code == 0
    assert "node7" not in done.output


# -- what is asked of Slurm --------------------------------------------------------------------------------------------

HEAD = "[sweep]\nstrategy = ['single']\n[slurm]\n"
KEYS = ("partition", "account", "qos", "constraint", "gres", "options")
STEERING = ("x\ntouch ran", "x'\ntouch ran\n'", "x\r\ntouch ran", "x\x0btouch ran", "x\u2028touch ran", "x\x1b[2J")
HARMLESS = (
    "x'; touch ran; '",
    "$(touch ran)",
    "`touch ran`",
    "x && touch ran",
    "a b",
    '"',
    "\\",
    "-x",
    "#",
    "!",
    "${IFS}",
)


def submitted(options: SlurmOptions, folder: Path) -> str:
    """Return the script that submitit makes of what is asked for, without a command."""
    from submitit.slurm import slurm

    asked = {key: value for key, value in asked_for(options, TaskShare(1, 1, True), "x").items() if key != "setup"}
    return slurm._make_sbatch_string(command="true", folder=folder, use_srun=False, **asked)


def lines_of_slurm(draw: random.Random, attempts: int) -> Iterator[tuple[str, bool]]:
    """Yield lines of a table [slurm], each with whether a value spans lines or steers."""
    for _ in range(attempts):
        key, text = draw.choice(KEYS), draw.choice((*STEERING, *HARMLESS))
        value = f"{{ comment = {toml_of(text)} }}" if key == "options" else toml_of(text)
        yield f"{key} = {value}", text in STEERING


def test_no_value_of_a_scenario_becomes_a_command_of_the_job(attacks, tmp_path, monkeypatch) -> None:
    """What spans lines is refused; all else stands in one comment of the script, which a shell runs here."""
    monkeypatch.chdir(tmp_path)
    draw, tally = random.Random(SEED), Tally("values for Slurm")
    for line, steers in lines_of_slurm(draw, attacks(40, 400)):
        try:
            options = parse_scenario(HEAD + line + "\n", host(), Path("x.toml")).slurm
        except InputError as error:
            tally.count(line, "" if steers and "Traceback" not in str(error) else f"refused: {error}")
            continue
        tally.count(line, "it was taken" if steers else "")
        if find_spec("submitit"):
            subprocess.run(["bash", "-c", submitted(options, tmp_path)], capture_output=True, check=False)
            tally.count(line, "it was run" if (tmp_path / "ran").exists() else "")
    for value in VALUES:
        with suppress(InputError):
            parse_scenario(f"{HEAD}partition = {toml_of(value)}\n", host(), Path("x.toml"))
    tally.close()


def test_a_path_of_two_lines_is_no_place_for_jobs(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("harness.executors.slurm_executor.require_extra", lambda *_: None)
    monkeypatch.setattr("shutil.which", lambda _: "/bin/true")
    with pytest.raises(InputError, match="stands on one line"):
        SlurmExecutor(host(), Results(tmp_path / "a\ntouch ran"), SlurmOptions())
