"""How a trial's run ended: in training that came to its end, or in a finding with its place and likely cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.commands.check.trials import Trials, in_words
from harness.commands.check.verdicts import broken
from harness.core.cell import Cell
from harness.core.endings import Cause
from harness.core.words import counted
from harness.engines.processes.launch import Result

if TYPE_CHECKING:
    from harness.core.outcome import Outcome

LIKELY = {
    Cause.USER: "the error is raised in the line that is named; `harness run TRIAL_SCENARIO --debug` stops there",
    Cause.DEADLOCK: "everybody waits for a message that nobody sends: follow who sends first, who answers whom, and "
    "what is waited for once somebody has left",
    Cause.TIMEOUT: "a loop does not end: `for batch in worker.batches()` ends when the run does, and `receive` answers "
    "None when nobody is left to send",
    Cause.PEER: "one process was gone before another had heard of it: see who stops first",
    Cause.KILLED: "a process was ended from outside, or by a crash of a library",
    Cause.MEMORY: "more is kept than one step needs",
    Cause.IMPOSSIBLE: "layout() or servers() refuses it, or the model cannot be cut so",
    Cause.FAULT: "a worker was lost",
    Cause.HARNESS: "this is a bug of the harness, not of the strategy",
}
"""By what ended a cell."""


def run_to_end(trials: Trials, cell: Cell, **options: object) -> Outcome:
    """Run a cell to its end.

    Raises:
        Broken: it did not come there.
    """
    return ended(trials.run(cell, **options), cell)


def ended(result: Result, cell: Cell) -> Outcome:
    """Return the outcome of a run.

    Raises:
        Broken: it did not come to its end.
    """
    if result.failure is None:
        found: Outcome = result.outcome
        return found
    at = result.failure.raised_at
    where = f"{at.file}:{at.number}; {in_words(cell)}" if at else in_words(cell)
    likely = LIKELY.get(result.failure.cause, "the reason says it")
    broken(f"{result.failure.cause.status}: {result.failure.reason}", where, likely)


def refuse_unawaited(outcome: Outcome, cell: Cell) -> None:
    """Refuse words that were started and never awaited.

    Raises:
        Broken: there are any.
    """
    for word, count in sorted(outcome.unawaited.items()):
        broken(
            f"{word} was started {counted(count, 'time')} and never awaited",
            in_words(cell),
            f"write `await` before the call, or await what it returned before the next step: {word} may not have ended",
        )


def apart(one: Outcome, other: Outcome) -> float:
    """Return the largest difference of any weight, relative to the largest weight."""
    ours, theirs = np.asarray(one.weights), np.asarray(other.weights)
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf")
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-300))
