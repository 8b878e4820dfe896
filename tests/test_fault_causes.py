"""Attacks on cells: a process fails in the middle of training, of whatever it can; the record says of what."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from attacks import Tally, tried
from cells import make_cell
from lazy import lazy
from places import TESTS

from harness.core.cell import Cell
from harness.core.endings import Cause, Status
from harness.core.outside_text import bounded
from harness.core.records import to_json
from harness.engines.processes.launch import Result, run_cell
from harness.executors.make_record import make_record
from harness.results.store import Results

model_file = lazy("attacked_model")

MODEL_FILE = str(TESTS / "attacked_model.py")

pytestmark = [pytest.mark.fault, pytest.mark.dist]

STRATEGIES = ("single", "sync-ddp", "local-sgd", "fsdp", "model-split", "sync-ps", "async-ps")

OF_THE_USER = {
    "value_error": "ValueError: a fault of the model's",
    "key_error": "KeyError: 'missing'",
    "index_error": "IndexError",
    "zero_division": "ZeroDivisionError",
    "assertion": "AssertionError: a fault of the model's",
    "attribute": "AttributeError",
    "not_implemented": "NotImplementedError: not yet",
    "of_the_system": "OSError: [Errno 28]",
    "missing_file": "FileNotFoundError",
    "type_error": "TypeError",
    "unicode_error": "UnicodeDecodeError",
    "recursion": "RecursionError",
    "lone_surrogate": "ValueError: lone",
    "mute": "Mute: (its text cannot be had: KeyError)",
    "megabyte": "ValueError: xxxx",
    "control_characters": "ValueError: \x1b[2J",
    "exit_0": "SystemExit: 0",
    "exit_in_words": "SystemExit: words of the model's",
    "interrupt": "KeyboardInterrupt",
    "stop_iteration": "StopIteration",
    "generator_exit": "GeneratorExit",
    "no_exception": "Deep: deep",
    "like_gloo": "RuntimeError: [/pytorch",
    "own_gloo": "RuntimeError: timed out waiting for my own gloo",
    "like_the_allocator": "RuntimeError: DefaultCPUAllocator",
    "like_a_peer": "ConnectionResetError",
    "end_of_file": "EOFError",
    "timed_out": "TimeoutError: too late",
}
OF_MEMORY = ("memory", "terabytes_of_torch", "terabytes_of_python")
DEATHS = {
    "segfault": "was killed by SIGSEGV",
    "abort": "was killed by SIGABRT",
    "kill": "was killed by SIGKILL",
    "terminate": "was killed by SIGTERM",
    "bus_error": "was killed by SIGBUS",
    "leave_0": "ended with exit code 0 without a word",
    "leave_7": "ended with exit code 7 without a word",
    "close_all": "",
}
HANGS = ("stop", "hang", "spin", "freeze_in_the_answer")
OF_NUMBERS = ("not_a_number", "wrong_shape")
ALL = (*OF_THE_USER, *OF_MEMORY, *DEATHS, *HANGS, *OF_NUMBERS)
OF_SERVERS = (*OF_THE_USER, *OF_MEMORY, *DEATHS, *HANGS)

TIMEOUT_S = 8
"""Of a cell; the machine may be slow, so that a fault which should end it at once may take as long."""

ENDING_S = 60.0
"""Longest that a cell may take beyond its limits; chosen: ten times what ending takes on a machine that does nothing
else."""


def attack(engine: str, strategy: str, place: str, fault: str) -> tuple[str, str, str, str]:
    return engine, strategy, place, fault


ATTACKS = [
    *(attack("real", strategy, "worker", fault) for strategy in STRATEGIES for fault in ALL),
    *(attack("real", strategy, "server", fault) for strategy in ("sync-ps", "async-ps") for fault in OF_SERVERS),
    *(attack("virtual", strategy, "worker", fault) for strategy in ("sync-ddp", "async-ps") for fault in ALL),
]
SHORT = [
    attack("real", "sync-ps", "server", "value_error"),
    attack("real", "model-split", "worker", "mute"),
    attack("real", "async-ps", "worker", "leave_7"),
    attack("real", "sync-ddp", "worker", "own_gloo"),
    attack("real", "single", "worker", "terabytes_of_torch"),
    attack("real", "local-sgd", "worker", "kill"),
]


def cell_of(engine: str, strategy: str, timeout_s: float = TIMEOUT_S) -> Cell:
    return make_cell(
        engine=engine,
        workload={
            "model": f"{MODEL_FILE}:model",
            "lr_schedule": f"{MODEL_FILE}:schedule",
            "dataset": {"name": "synthetic", "samples": 128, "test_samples": 32, "size": 4, "classes": 3},
        },
        goal={"target_accuracy": "none", "max_steps": 40},
        sweep__strategy=strategy,
        sweep__gpus=[1 if strategy == "single" else 2],
        limits={"cell_timeout": f"{timeout_s} s"},
    )


def run_attacked(cell: Cell, folder: Path, place: str, fault: str) -> tuple[Result, str]:
    """Run a cell with a fault; return how it ended, and what the process is called that did it; empty for none."""
    for name in ("begun", "taken", "log"):
        (folder / name).unlink(missing_ok=True)
    os.environ.update({model_file.FOLDER: str(folder), model_file.FAULT: fault, model_file.PLACE: place})
    seen: list[tuple[int, str, str]] = []

    def begin(targets: list[tuple[int, str, str]]) -> None:
        seen.extend(targets)
        (folder / "begun").touch()

    result = run_cell(cell, on_start=begin, log=str(folder / "log"))
    taken = (folder / "taken").read_text() if (folder / "taken").exists() else ""
    return result, next((label for pid, label, _ in seen if str(pid) == taken), "")


def descendants() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != "zombie"}


def settles(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for name in (model_file.FOLDER, model_file.FAULT, model_file.PLACE):
        os.environ.pop(name, None)


def wrong_with(result: Result, cell: Cell, strategy: str, place: str, fault: str, failed: str) -> str:
    """Say what is wrong with how a cell ended; `failed` is what its failed process is called."""
    found = f"{result.status}, {result.cause}, {result.reason[:300]!r}"
    failure = result.failure
    if fault in OF_NUMBERS[:1]:
        record, _ = make_record(cell, result, None, {"id": "env"}, 1)
        return "" if record.status is Status.DIVERGED else f"diverged expected: {record.status} {found}"
    if failure is None and fault in DEATHS and strategy == "async-ps" and place == "worker":
        expected = DEATHS[fault] or "; the others went on"
        return (
            "" if any(expected in note for note in result.outcome.notes) else f"no note of it: {result.outcome.notes}"
        )
    if failure is None:
        return "it came to its end"
    if fault == "wrong_shape":
        return "" if result.cause is Cause.USER else f"user expected: {found}"
    if cell.engine == "real" and strategy != "single" and fault != "close_all" and failed not in result.reason:
        return f"{failed} is not named: {found}"
    line = model_file.line_of(fault)
    if fault in OF_THE_USER:
        at = failure.raised_at
        wrong = result.cause is not Cause.USER or OF_THE_USER[fault] not in result.reason
        wrong = wrong or at is None or at.file != MODEL_FILE or at.number != line
        return f"user, {OF_THE_USER[fault]}, line {line} expected: {found} {at}" if wrong else ""
    if fault in OF_MEMORY:
        return "" if result.status is Status.OUT_OF_MEMORY else f"out of memory expected: {found}"
    if fault in DEATHS:
        wrong = failure.cause is not Cause.KILLED or DEATHS[fault] not in result.reason
        # A process without its descriptors may fail in words, die, or be lost to the others.
        wrong = wrong and not (fault == "close_all" and failure.cause in (Cause.PEER, Cause.TIMEOUT, Cause.HARNESS))
        return f"killed, {DEATHS[fault]} expected: {found}" if wrong else ""
    if result.status is not Status.TIMEOUT:
        return f"timeout expected: {found}"
    hang = next((hang for hang in failure.hangs if hang.process == failed), None)
    if hang is None or hang.line is None or (hang.line.file, hang.function) != (MODEL_FILE, fault):
        return f"{failed} hangs in {fault} expected: {failure.hangs}"
    return "" if hang.stopped is (fault in ("stop", "freeze_in_the_answer")) else f"stopped is not told: {hang}"


def attacked(folder: Path, before: set[int], engine: str, strategy: str, place: str, fault: str) -> str:
    """Attack a cell; say what is wrong with how it ended, and with what it left."""
    cell = cell_of(engine, strategy, TIMEOUT_S if fault in HANGS else 120)
    began = time.monotonic()
    result, failed = run_attacked(cell, folder, place, fault)
    took_s = time.monotonic() - began
    record, _ = make_record(cell, result, None, {"id": "env"}, 1)
    json.dumps(bounded(to_json(record))).encode()  # every record can be written
    if not failed:
        return f"no fault: {result.reason}"
    if wrong := wrong_with(result, cell, strategy, place, fault, failed):
        return wrong
    if took_s > 2 * cell.cell_timeout_s + ENDING_S:
        return f"took {took_s:.0f} s"
    if not settles(lambda: descendants() <= before):
        return f"left: {descendants() - before}"
    return ""


def test_a_fault_in_training_is_recorded_with_its_cause_in_time_and_nothing_stays(folder, attacks):
    tally = Tally("faults in training")
    every = attacks(SHORT, random.Random(14).sample(ATTACKS, len(ATTACKS)))
    assert run_cell(cell_of("real", "single", 300)).finished  # brings the servers up
    before = descendants()
    for each in every:
        tally.count(" ".join(each), attacked(folder, before, *each))
    tally.close()


# -- preparation -------------------------------------------------------------------------------------------------------

PREPARED = """\
name = "prepared"
engine = "virtual"
[workload]
dataset = {{ name = "synthetic", samples = 128, test_samples = 32, size = 4, classes = 3 }}
[sweep]
strategy = ["single"]
gpus = [1]
learning_rate = {rates}
seeds = 1
"workload.model" = {models}
[goal]
max_steps = 20
"""
UNPREPARED = {
    "kills": ("crashed", "was killed by SIGKILL"),
    "has_no_numbers": ("diverged", "NaN"),
    "raises": ("crashed", "ValueError: a fault of the model's"),
    "exits": ("crashed", "SystemExit: words of the model's"),
    "leaves": ("crashed", "exit code 7"),
    "hungers": ("out-of-memory", "you tried to allocate"),
    "does_not_build": ("crashed", "ValueError: a fault of the model's"),
}


def test_what_cannot_be_measured_or_traced_is_a_record_with_its_reason_and_the_rest_runs(folder, attacks, monkeypatch):
    """Every model at a rate that diverges first, and at one that does not; none was ever measured or traced."""
    monkeypatch.chdir(folder)
    names = [*attacks(["kills"], list(UNPREPARED)), "well"]
    rates = attacks([1e38], [1e38, 0.05])
    models = [f"{MODEL_FILE}:{name}" for name in names]
    (folder / "prepared.toml").write_text(PREPARED.format(models=json.dumps(models), rates=rates))
    done, _ = tried("run", "prepared.toml")
    tally = Tally("cells that cannot be prepared")
    tally.count("the run", "" if done.exit_code == 1 and "Traceback" not in done.output else done.output[-2000:])
    for record in Results(folder / "results" / "prepared").records().values():
        name, rate = record.cell.workload.model.name.rpartition(":")[2], record.cell.learning_rate
        expected = ("diverged" if rate > 1 else "ok", "") if name == "well" else UNPREPARED[name]
        held = (record.status, expected[1] in record.reason) == (expected[0], True)
        tally.count(f"{name} at {rate:g}", "" if held else f"{record.status} {record.reason}")
    assert tally.tried == 1 + len(rates) * len(names)
    tally.close()
