"""Lines about the two clocks: a real run replayed, bytes and messages of both, staleness, and time without numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.commands.check.diagnosis import ROUNDING
from harness.commands.check.ended import apart, ended, run_to_end
from harness.commands.check.trials import Trials, in_words
from harness.commands.check.verdicts import DoesNotApply, broken
from harness.core.addresses import name_of
from harness.core.words import counted, memory_size
from harness.executors.timed import run_in_this_process

if TYPE_CHECKING:
    from harness.core.cell import Cell
    from harness.core.outcome import Outcome

HEADERS = 0.005
"""Share of bytes by which the engines may differ: real messages say beside a value who has left; chosen."""

UNDER_WAY = 2
"""Values of each worker that may be under way when a run ends: a push and its answer, sent on one clock and not on the
other."""

LOGGED = ("update", "base_version", "staleness", "samples", "parts")
"""Columns of the log of updates that are the same on both clocks."""


def _both(trials: Trials) -> tuple[Outcome, Outcome, Cell]:
    """Return a real run, and the same on the virtual cluster with messages taken in the order of its log."""
    cell = trials.cell("real", trials.several)
    measured = run_to_end(trials, cell)
    replayed = run_to_end(trials, trials.cell("virtual", trials.several), script=measured.deliveries)
    return measured, replayed, cell


def replays(trials: Trials) -> str:
    """Replay a real run from its log of messages.

    Raises:
        Broken: other weights come out.
    """
    measured, replayed, cell = _both(trials)
    off = apart(measured, replayed)
    # Sums of three and more in half precision depend on their order, which each backend chooses for itself.
    rounding = max(ROUNDING, measured.facts.get("sum_rounding", 0.0))
    if off > rounding:
        broken(
            f"the virtual cluster, given the order of all messages, ends with weights that differ by {off:.1g}",
            in_words(cell),
            "something beside messages decides: state in a global or on the class is shared by all workers on the "
            "virtual cluster and by none in real processes (keep it in a variable of work() or serve()); or a draw "
            "without a seed, a clock, or how long something took; or gradients of shared batches that a server leaves "
            'out, which batches = "own" allows',
        )
    messages = sum(map(len, measured.deliveries.values()))
    return f"{counted(messages, 'message')}, {'every bit' if not off else f'to {rounding:.1g}'}"


def engines_agree(trials: Trials) -> str:
    """Compare what both engines count of the same run.

    Raises:
        Broken: bytes, steps, messages or updates differ.
    """
    measured, replayed, cell = _both(trials)
    real_bytes, virtual_bytes = (each.bytes_sent_per_step or 0.0 for each in (measured, replayed))
    steps = max(1, measured.steps["worker"].count(0) // trials.layout(cell.gpus).devices)
    at_the_end = UNDER_WAY * measured.weights.nbytes / steps if cell.servers else 0.0
    if abs(real_bytes - virtual_bytes) > HEADERS * max(real_bytes, virtual_bytes) + at_the_end:
        broken(
            f"a step sends {memory_size(real_bytes)} in real processes, {memory_size(virtual_bytes)} in virtual time",
            in_words(cell),
            "what is sent depends on the engine: the program asks for something that is not the same on both",
        )
    for what, ours, theirs in (
        ("updates", measured.updates, replayed.updates),
        ("samples", measured.samples, replayed.samples),
    ):
        if ours != theirs:
            broken(
                f"{what} differ: {ours} in real processes, {theirs} in virtual time",
                in_words(cell),
                "whether a step is taken depends on the engine: decide by batches and messages alone; a server that "
                'leaves out gradients needs batches = "own", else the run ends with the batches, not with the budget',
            )
    _same_steps(measured, replayed, cell)
    _same_messages(measured, replayed, cell)
    return f"{memory_size(real_bytes)} a step and worker, {counted(measured.updates, 'update')}"


def _same_steps(measured: Outcome, replayed: Outcome, cell: Cell) -> None:
    """Compare how many steps each worker took; where a server ends the run, each may have begun one more."""
    begun = 1 if cell.servers else 0
    for worker in range(cell.workers):
        taken = [
            len({step for who, step in zip(each.steps["worker"], each.steps["step"], strict=True) if who == worker})
            for each in (measured, replayed)
        ]
        if abs(taken[0] - taken[1]) > begun:
            broken(
                f"{name_of(worker)} takes {taken[0]} steps in real processes and {taken[1]} in virtual time",
                in_words(cell),
                "whether a step is taken depends on the engine: decide by batches and messages alone",
            )


def _same_messages(measured: Outcome, replayed: Outcome, cell: Cell) -> None:
    for address, sources in measured.deliveries.items():
        taken = replayed.deliveries.get(address, [])
        if list(sources) != list(taken):
            at = next((n for n, pair in enumerate(zip(sources, taken, strict=False)) if pair[0] != pair[1]), len(taken))
            broken(
                f"{name_of(address)} takes other messages, from message {at + 1} on",
                in_words(cell),
                "whom it asks depends on something beside messages and the seed",
            )
    for column in LOGGED:
        if measured.updates_log.get(column) != replayed.updates_log.get(column):
            broken(f"the logs of updates differ in {column}", in_words(cell), "which gradient is applied when differs")


def staleness(trials: Trials) -> str:
    """Look at how old the gradients are that were applied, on the virtual cluster with one slow worker.

    Raises:
        DoesNotApply: no update is logged.
        Broken: they are older than the strategy says.
    """
    cell = slowed(trials)
    log = run_to_end(trials, cell).updates_log
    applied = [value for value in log.get("staleness", []) if value is not None]
    if not applied or cell.workers < 2:
        raise DoesNotApply("no server logs updates: the model is with the workers")
    worst = max(applied)
    if cell.synchrony == "synchronous" and worst:
        at = applied.index(worst)
        broken(
            f"update {log['update'][at]} applies a gradient that is {counted(worst, 'update')} old, "
            "though the strategy says that it is synchronous",
            in_words(cell),
            "a worker computes before it has loaded what its last push led to; or set synchrony to what it is",
        )
    bases = {worker: base for worker, base in zip(log["worker"], log["base_version"], strict=True) if base is not None}
    frozen = [worker for worker, base in bases.items() if base == 0]
    if frozen and len(applied) > 4 * cell.workers:
        broken(
            f"{name_of(frozen[0])} computes at the first weights to the end; its last gradient was "
            f"{max(applied)} updates old",
            in_words(cell),
            "it never loads what the server answers: `await worker.load(message.value)`",
        )
    return f"mean {sum(applied) / len(applied):.2g}, at most {worst} updates old, one worker {SLOWDOWN} times slower"


SLOWDOWN = 4


def slowed(trials: Trials) -> Cell:
    """Return a simulated cell whose last device computes `SLOWDOWN` times as long."""
    rank = trials.several - 1
    return trials.cell("virtual", trials.several, f"faults.stragglers=[{{rank = {rank}, slowdown = {SLOWDOWN}}}]")


def timed_without_numbers(trials: Trials) -> str:
    """Time the program with sizes in place of numbers.

    Raises:
        DoesNotApply: it reads numbers.
        Broken: it takes another time than with numbers.
    """
    gpus = trials.several
    few = ("goal.max_steps=20", "goal.max_epochs=100")
    (cell,) = trials.plan("engine=virtual", f"sweep.gpus=[{gpus}]", *few).cells
    result = run_in_this_process(cell, trials.host, trials.files, trials.folder / "timing.log")
    if result is None:
        raise DoesNotApply("it reads numbers of values, and is computed instead")
    timed = ended(result, cell)
    computed = run_to_end(trials, trials.cell("virtual", gpus, *few))
    for what, ours, theirs in (
        ("updates", timed.updates, computed.updates),
        ("bytes of a step", timed.bytes_sent_per_step or 0.0, computed.bytes_sent_per_step or 0.0),
    ):
        if abs(ours - theirs) > 1e-6 * abs(theirs):
            broken(
                f"{what}: {ours:g} without numbers, {theirs:g} with them",
                f"{in_words(cell)}, timing only",
                "the program does another thing where values hold no numbers",
            )
    return f"{counted(gpus, 'device')}, {timed.updates} updates, {memory_size(timed.bytes_sent_per_step or 0)} a step"
