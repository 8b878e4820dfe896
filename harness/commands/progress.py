"""What whoever watches a run sees of it: a line for each finished cell, and on a terminal a live display below."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.analysis.judged_rows import sought_in_words
from harness.commands.plan_text import differences
from harness.commands.terminal import say
from harness.core.device_words import engine_in_words
from harness.core.outside_text import visible
from harness.core.words import counted, duration, rate, three

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from harness.core.cell import Cell, Plan
    from harness.engines.processes.status import Reached
    from harness.results.store import Record, Results

REFRESH_S = 0.25
"""Least time between two pictures of the display; chosen: drawing one takes milliseconds of a core that may train."""

MOST_RUNNING = 8
"""Running cells that the display names; chosen: the lines of those that ended stay in sight above them."""


@contextmanager
def watching(plan: Plan, after_round: Callable[[Results], str]) -> Iterator[Lines]:
    """Hand out what shows a run: live on a terminal that can move its cursor, else plain lines.

    Args:
        after_round: does what is due between rounds and returns the answer so far.
    """
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb" or os.environ.get("CI"):
        yield Lines(plan, after_round)
        return
    from rich.console import Console

    display = Display(plan, after_round, Console())
    try:
        yield display
    finally:
        display.close()


class Lines:
    """A line for each finished cell, and one for the answer after each round."""

    def __init__(self, plan: Plan, after_round: Callable[[Results], str]) -> None:
        self.plan, self.after_round = plan, after_round
        self.differences = differences(plan.cells)
        self.done = self.of = 0
        self.waits = False

    def say(self, line: str) -> None:
        """Print a line."""
        say(line)

    def started(self, cell: Cell, number: int, of: int) -> None:
        """Keep how many cells there are to run."""
        self.of = of

    def reached(self, cell: Cell, reached: Reached) -> None:
        """Show how far a running cell is."""

    def finished(self, record: Record, seconds: float) -> None:
        """Show how a cell ended."""
        self.done += 1
        cell = named(record.cell, self.differences)
        self.say(f"[{self.done}/{self.of}] {cell} ({seconds:.1f} s): {ending(record)}")

    def elsewhere(self, record: Record, of: int) -> None:
        """Show how a cell ended that another harness has run."""
        self.done, self.of = self.done + 1, of
        self.say(f"[{self.done}/{self.of}] {named(record.cell, self.differences)} (elsewhere): {ending(record)}")

    def waiting(self, num_cells: int) -> None:
        """Say once that others still run cells."""
        if not self.waits:
            self.say(f"waiting for {counted(num_cells, 'cell')} that other harnesses run")
        self.waits = True

    def round_ended(self, results: Results) -> None:
        """Show what the results say so far; the last word is the conclusion's."""
        if self.done < self.of:
            self.leading(self.after_round(results))

    def leading(self, sentence: str) -> None:
        """Show what the results say so far."""
        self.say(f"  so far: {sentence}")


class Display(Lines):
    """The lines, and below them cells done of planned, time left, the running cells, and who leads so far.

    Drawn in this process when something happens, or at most every `REFRESH_S`: no thread and no training process draws.
    """

    def __init__(self, plan: Plan, after_round: Callable[[Results], str], console: Console) -> None:
        from rich.live import Live

        super().__init__(plan, after_round)
        self.running: dict[str, tuple[Cell, Reached | None]] = {}
        self.leader = ""
        self.began_s = time.monotonic()
        self.drawn_s = 0.0
        self.console = console
        self.live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
        self.live.start()

    def close(self) -> None:
        """Take the display away; the lines stay."""
        self.live.stop()

    def say(self, line: str) -> None:
        """Print a line above the display."""
        self.console.print(visible(line), markup=False, highlight=False, soft_wrap=True)

    def started(self, cell: Cell, number: int, of: int) -> None:
        """Show what is running."""
        super().started(cell, number, of)
        self.running[cell.cell_id] = (cell, None)
        self._draw()

    def reached(self, cell: Cell, reached: Reached) -> None:
        """Show how far a running cell is."""
        self.running[cell.cell_id] = (cell, reached)
        self._draw()

    def finished(self, record: Record, seconds: float) -> None:
        """Show how a cell ended."""
        super().finished(record, seconds)
        self.running.pop(record.cell.cell_id, None)
        self._draw()

    def leading(self, sentence: str) -> None:
        """Show what the results say so far."""
        self.leader = sentence
        self._draw()

    def _draw(self) -> None:
        now = time.monotonic()
        if now - self.drawn_s >= REFRESH_S:
            self.drawn_s = now
            self.live.update(self.picture(now - self.began_s), refresh=True)

    def picture(self, elapsed_s: float) -> RenderableType:
        """Return the display as it stands after so many seconds."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text as Styled

        bar = Table.grid(padding=(0, 1))
        left = f", about {duration(elapsed_s / self.done * (self.of - self.done))} left" if self.done else ""
        bar.add_row(
            ProgressBar(total=max(1, self.of), completed=self.done, width=30),
            Styled(f"{self.done} of {self.of} cells{left}", no_wrap=True, overflow="ellipsis"),
        )
        shown = list(self.running.values())[:MOST_RUNNING]
        lines = [self._running(cell, step) for cell, step in shown]
        if (more := len(self.running) - len(shown)) > 0:
            lines.append(f"and {counted(more, 'more cell')}")
        lines += [f"leader so far: {self.leader}"] if self.leader else []
        return Group(bar, *(Styled(visible(line), no_wrap=True, overflow="ellipsis") for line in lines))

    def _running(self, cell: Cell, step: Reached | None) -> str:
        where = engine_in_words(cell, self.plan.machine.gpu_name)
        text = f"running {named(cell, self.differences)} on {where}"
        if step is not None and step.steps:
            text += f", step {step.steps:,}"
        if step is not None and step.loss is not None:
            text += f", validation loss {three(step.loss)}"
        return text


def named(cell: Cell, differs: Mapping[str, str]) -> str:
    """Return a cell's id, with what the id does not say."""
    return cell.cell_id + (f" ({differs[cell.cell_id]})" if differs.get(cell.cell_id) else "")


def ending(record: Record) -> str:
    """Return how a cell ended: its status, and what it came to or why it came to nothing."""
    row = record.row
    if not record.status.trained:
        return f"{record.status}, {record.reason}"
    parts = [str(record.status)]
    learnt, reached_s = sought_in_words(row), row.get("time_to_target_s")
    if learnt:
        parts.append(learnt)
    if reached_s is not None:
        parts.append(
            f"target reached in {duration(reached_s)}{' (simulated)' if record.cell.engine == 'virtual' else ''}"
        )
    if not learnt and row.get("throughput_samples_per_s"):
        parts.append(rate(row["throughput_samples_per_s"]))
        if tokens := row.get("throughput_tokens_per_s"):
            parts.append(f"{three(tokens)} tokens/s")
    return ", ".join(parts)
