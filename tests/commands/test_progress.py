"""What is seen of a run: plain lines in a pipe, a live display on a terminal, and how far a cell is."""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from cells import make_cells
from places import ROOT
from rich.console import Console

from harness.commands import progress
from harness.commands.progress import Display, Lines
from harness.core.cell import Plan
from harness.core.machine import Machine
from harness.core.outcome import Status
from harness.engines.processes.launch import run_cell
from harness.engines.processes.status import Reached, StatusBoard, StatusLine
from harness.results.store import Record

SCENARIO = """\
engine = "virtual"

[workload]
model = "softmax"
dataset = "digits"

[sweep]
strategy = ["single", "local-sgd"]
gpus = [1, 2]
learning_rate = 0.1
seeds = 2
exclude = [{ strategy = "single", gpus = 2 }]

[goal]
target_accuracy = 0.99
max_steps = 400
evaluate_every = 640

[cluster]
device = { samples_per_second = 1000, batch_size = 32 }
inter_node = { bandwidth = "1 GB/s", latency = "50 us" }
"""


def a_plan() -> Plan:
    cells = make_cells(sweep__strategy=["single"], sweep__gpus=[1], sweep__seeds=3)
    return Plan("test", "", Machine(cores=2), tuple(cells))


def record_of(plan: Plan, **row: object) -> Record:
    return Record(plan.cells[0], Status.OK, "", (), row, {}, 1)


def a_display(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> tuple[Display, io.StringIO]:
    monkeypatch.setattr(progress, "REFRESH_S", 0.0)
    seen = io.StringIO()
    console = Console(file=seen, force_terminal=True, width=200, color_system=None)
    return Display(plan, lambda results: "single leads.", console), seen


def last_picture(display: Display, elapsed_s: float) -> list[str]:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    with console.capture() as capture:
        console.print(display.picture(elapsed_s))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_display_tells_cells_done_time_left_the_running_cell_and_the_leader(monkeypatch):
    plan = a_plan()
    display, seen = a_display(plan, monkeypatch)
    first, second, _ = plan.cells
    display.started(first, 1, 3)
    bar, running = last_picture(display, 1.0)
    assert bar.endswith("0 of 3 cells")
    assert running == f"running {first.cell_id} on 1 simulated device"
    display.reached(first, Reached(1200, 0.21345))
    assert last_picture(display, 1.0)[1].endswith("on 1 simulated device, step 1,200, validation loss 0.213")
    display.finished(record_of(plan, validation_accuracy=0.95, time_to_target_s=0.789), 2.0)
    display.leading("single leads.")
    display.started(second, 2, 3)
    bar, running, leader = last_picture(display, 2.0)
    assert bar.endswith("1 of 3 cells, about 4.00 s left")
    assert running == f"running {second.cell_id} on 1 simulated device"  # the step of the cell before is gone
    assert leader == "leader so far: single leads."
    display.close()
    assert f"[1/3] {first.cell_id} (2.0 s): ok, accuracy 0.950, target reached in 789 ms (simulated)" in seen.getvalue()


def test_a_display_is_drawn_at_most_four_times_a_second(monkeypatch):
    plan = a_plan()
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    seen = io.StringIO()
    display = Display(plan, lambda results: "", Console(file=seen, force_terminal=True, width=200))
    drawn = []
    monkeypatch.setattr(display.live, "update", lambda picture, refresh: drawn.append(clock[0]))
    display.started(plan.cells[0], 1, 3)
    for _ in range(1000):
        clock[0] += 0.01
        display.reached(plan.cells[0], Reached(1, None))
    display.close()
    assert 30 <= len(drawn) <= 41
    assert min(b - a for a, b in itertools.pairwise(drawn)) >= 0.25


def test_lines_tell_the_answer_between_rounds_only(capsys):
    plan = a_plan()
    lines = Lines(plan, lambda results: "single leads.")
    lines.started(plan.cells[0], 1, 2)
    lines.finished(record_of(plan, throughput_samples_per_s=888.4), 0.5)
    lines.round_ended(None)  # type: ignore[arg-type]
    lines.started(plan.cells[1], 2, 2)
    lines.finished(record_of(plan), 0.5)
    lines.round_ended(None)  # type: ignore[arg-type]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"[1/2] {plan.cells[0].cell_id} (0.5 s): ok, 888 samples/s"
    assert said[1] == "  so far: single leads."
    assert len(said) == 3


def test_a_board_tells_steps_and_the_loss_of_the_last_evaluation_beside_what_is_waited_for():
    board = StatusBoard(3)
    lines = [StatusLine(board.descriptor, number, 3) for number in range(3)]
    assert board.reached(1) == Reached(0, None)
    lines[1].stepped(7)
    assert board.reached(1) == Reached(7, None)
    lines[1].evaluated(0.5)
    lines[0].stepped(1)
    assert board.reached(1) == Reached(7, 0.5)
    assert [board.read(number) for number in range(3)] == [None] * 3
    board.close()


@pytest.mark.dist
@pytest.mark.parametrize("engine", ["real", "virtual"])
def test_a_cell_tells_how_far_it_is_while_it_runs(engine):
    (cell,) = make_cells(
        engine=engine, sweep__strategy=["single"], sweep__gpus=[1], goal={"target_accuracy": 0.999, "max_epochs": 8}
    )
    seen: list[Reached] = []
    result = run_cell(cell, on_progress=seen.append)
    assert result.outcome is not None, result
    steps = [reached.steps for reached in seen]
    assert steps == sorted(steps)
    assert 0 < steps[-1] <= result.outcome.updates
    assert seen[-1].loss in [None, *(evaluation.validation_loss for evaluation in result.outcome.evaluations)]


def run_on_a_terminal(folder: Path, **variables: str) -> tuple[int, str]:
    """Run the scenario on a pseudo terminal of 120 columns; return the exit code and all that it showed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "TERM", "NO_COLOR")}
    environment = kept | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, "-m", "harness", "run", "small.toml"]
    child = subprocess.Popen(command, cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown, ends_s = b"", time.monotonic() + 120
    while time.monotonic() < ends_s:
        if not select.select([master], [], [], 1.0)[0]:
            continue
        try:
            piece = os.read(master, 65536)
        except OSError:  # Linux says so when the last process has closed the other end
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    return child.wait(timeout=30), shown.decode()


@pytest.mark.dist
def test_a_run_on_a_terminal_has_a_display_that_is_gone_at_the_end(tmp_path):
    (tmp_path / "small.toml").write_text(SCENARIO)
    code, shown = run_on_a_terminal(tmp_path)
    assert code == 0, shown
    assert "0 of 6 cells" in shown
    assert "running single-" in shown
    assert "leader so far: " in shown
    assert len(re.findall(r"\[\d/6\] ", shown)) == 6
    assert "so far: " not in shown.replace("leader so far: ", "")
    # What stands on the screen when all control sequences have been obeyed holds no bar.
    assert "\x1b[?25h" in shown.rpartition(" of 6 cells")[2]  # the cursor is shown again


@pytest.mark.dist
@pytest.mark.parametrize("variables", [{"CI": "true"}, pytest.param({"TERM": "dumb"}, marks=pytest.mark.long)])
def test_a_run_in_ci_or_on_a_dumb_terminal_has_plain_lines(tmp_path, variables):
    (tmp_path / "small.toml").write_text(SCENARIO)
    code, shown = run_on_a_terminal(tmp_path, **variables)
    assert code == 0, shown
    assert "\x1b" not in shown
    assert "running single-" not in shown
    assert len(re.findall(r"\[\d/6\] ", shown)) == 6
    assert "  so far: " in shown
