"""Simulated cells on two cores at once: the same records as on one, whatever happens to who supervises them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.core.endings import Cause, Status
from harness.results.store import Record, Results

pytestmark = pytest.mark.dist

SMALL = """\
name = "small"
engine = "virtual"
[workload]
model = "softmax"
dataset = "digits"
[sweep]
strategy = ["single", "sync-ddp", "async-ps"]
gpus = [1, 4]
learning_rate = 0.1
seeds = 2
exclude = [{ strategy = "single", gpus = 4 }, { strategy = "sync-ddp", gpus = 1 }, { strategy = "async-ps", gpus = 1 }]
[goal]
target_accuracy = 0.99
max_steps = STEPS
evaluate_every = 320
[cluster]
device = { samples_per_second = 1000, batch_size = 32 }
inter_node = { bandwidth = "1 GB/s", latency = "50 us" }
"""

OWN = '''\
"""A model of the user's, and what is found beside it."""
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
'''

WITHOUT_REPORT = (
    "from harness.commands import run\n"
    "run.write_report_of = lambda *_: 'not drawn'\n"
    "from harness.commands.cli import main\n"
    "main(prog_name='harness')\n"
)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WITHOUT_REPORT, "run", "small.toml", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, *words: str, code: int = 0) -> str:
    process = start(folder, *words)
    said = process.communicate(timeout=240)[0]
    assert process.returncode == code, said
    return said


def scenario(folder: Path, steps: int = 40, **changes: str) -> Path:
    folder.mkdir(exist_ok=True)
    text = SMALL.replace("STEPS", str(steps))
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "small.toml").write_text(text)
    return folder


def records(folder: Path) -> dict[str, Record]:
    return Results(folder / "results" / "small").records()


def what_decides(record: Record) -> Any:
    """Return a record without the times of this machine."""
    detail = dict(record.detail or {})
    detail.pop("host_seconds", None)
    facts = {key: value for key, value in detail.pop("facts", {}).items() if key != "host_s"}
    return (record.cell, record.status, record.reason, record.notes, record.row, record.environment, detail, facts)


def tables(folder: Path) -> dict[str, Any]:
    import pyarrow.parquet

    found: dict[str, Any] = {}
    for path in sorted((folder / "results" / "small").glob("cells/*/*")):
        if path.suffix == ".parquet":
            found[f"{path.parent.name}/{path.name}"] = pyarrow.parquet.read_table(path).to_pydict()
        elif path.suffix == ".csv":
            found[f"{path.parent.name}/{path.name}"] = list(csv.reader(path.read_text().splitlines()))
    return found


def test_two_at_once_leave_the_records_and_tables_of_one_at_a_time(tmp_path):
    one, two = scenario(tmp_path / "one"), scenario(tmp_path / "two")
    run(one, "--executor", "local:1")
    said = run(two, "--executor", "local:2")
    assert "[6/6]" in said
    alone, together = records(one), records(two)
    assert len(alone) == len(together) == 6
    for cell_id, record in alone.items():
        assert what_decides(record) == what_decides(together[cell_id])
        assert together[cell_id].took_s is not None
    assert tables(one) == tables(two)
    assert len(tables(one)) > 6
    assert not (two / "results" / "small" / "leases").exists()


def supervisors(process: subprocess.Popen[str]) -> Iterator[psutil.Process]:
    """Yield the supervising processes of a run: what its status names."""
    folder = Path(str(process.args[-1])) if isinstance(process.args, list) else Path()  # type: ignore[union-attr]
    for path in (folder / "small" / "leases" / "cells").glob("*"):
        try:
            facts = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if "where" in facts and facts["where"]["process"] != process.pid:
            yield psutil.Process(facts["where"]["process"])


def soon(found: Callable[[], Any], seconds: float = 90.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.1)
    raise AssertionError("it did not come about")


def test_a_supervisor_that_is_killed_costs_no_cell(tmp_path):
    folder = scenario(tmp_path, steps=1500)
    process = start(folder, "--executor", "local:2", "--results", str(tmp_path / "results"))
    try:
        soon(lambda: list(supervisors(process)))[0].kill()
    finally:
        said = process.communicate(timeout=240)[0]
    assert process.returncode == 0, said
    found = records(folder)
    assert [record.status.trained for record in found.values()] == [True] * 6
    assert [record.attempts for record in found.values()] == [1] * 6
    assert "6 cells run now" in said


def test_an_interrupt_is_recorded_of_all_that_ran_and_the_next_run_goes_on(tmp_path):
    folder = scenario(tmp_path, steps=3000)
    process = start(folder, "--executor", "local:2", "--results", str(tmp_path / "results"))
    try:
        soon(lambda: len(list(supervisors(process))) == 2)
    finally:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    stopped = [record for record in records(folder).values() if record.status is Status.INTERRUPTED]
    assert len(stopped) == 2
    assert {record.cause for record in stopped} == {Cause.INTERRUPT}
    (folder / "small.toml").write_text(SMALL.replace("STEPS", "3000"))
    run(folder, "--executor", "local:2")
    assert [record.status.trained for record in records(folder).values()] == [True] * 6
    assert [record.attempts for record in records(folder).values()] == [1] * 6


def test_files_of_the_users_run_as_they_were_read_and_are_imported_once(tmp_path):
    folder = scenario(tmp_path, **{'model = "softmax"': 'model = "train.py:build"'})
    counting = f"open({str(tmp_path / 'imported')!r}, 'a').write('x')\n"
    (folder / "train.py").write_text(OWN + counting)
    run(folder, "--executor", "local:1")
    once = len((tmp_path / "imported").read_text())
    (tmp_path / "imported").unlink()
    run(folder, "--executor", "local:2", "--fresh")
    assert len((tmp_path / "imported").read_text()) == once
    assert [record.status.trained for record in records(folder).values()] == [True] * 6


def test_a_program_that_raises_ends_its_own_cells_only(tmp_path):
    (tmp_path / "broken.py").write_text(
        "from harness import Strategy, hookimpl\n\n"
        "class Broken(Strategy):\n"
        "    '''Raise at once.'''\n"
        "    name = 'broken'\n\n"
        "    async def work(self, worker):\n"
        "        raise ValueError('broken')\n\n"
        "@hookimpl\ndef harness_strategies():\n    return [Broken]\n"
    )
    folder = scenario(
        tmp_path,
        **{
            '"sync-ddp", "async-ps"]': '"broken", "async-ps"]',
            'strategy = "sync-ddp", gpus = 1': 'strategy = "broken", gpus = 4',
        },
    )
    run(folder, "--executor", "local:2", "--plugins", "broken.py", code=1)
    by_strategy: dict[str, set[str]] = {}
    for record in records(folder).values():
        by_strategy.setdefault(record.cell.strategy, set()).add(str(record.status))
        if record.cell.strategy == "broken":
            log = folder / "results" / "small" / "cells" / record.cell.cell_id / "log.txt"
            assert "ValueError: broken" in log.read_text()
    assert by_strategy["broken"] == {"crashed"}
    assert "crashed" not in by_strategy["single"] | by_strategy["async-ps"]


def test_an_executor_that_there_is_not_is_refused(tmp_path):
    said = run(scenario(tmp_path), "--executor", "loca", code=2)
    assert "--executor loca: not an executor" in said
    assert "local:N" in said
    assert run(tmp_path, "--executor", "local:0", code=2)
    assert os.listdir(tmp_path) == ["small.toml"] or not list((tmp_path / "results").glob("small/cells/*"))
