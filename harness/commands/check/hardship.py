"""Lines about runs that something disturbs or ends: deaths, stragglers, targets, limits, and memory over many steps."""

from __future__ import annotations

import itertools
import os

from harness.commands.check.clocks import SLOWDOWN, slowed
from harness.commands.check.diagnosis import ROUNDING
from harness.commands.check.ended import LIKELY, apart, ended, run_to_end
from harness.commands.check.trials import TRIAL_BATCH, Trials, in_words
from harness.commands.check.verdicts import DoesNotApply, broken
from harness.core.budget import Decision
from harness.core.cell import Cell
from harness.core.endings import Cause
from harness.core.faults import can_go_on
from harness.core.words import counted, memory_size, share_in_percent

IN_TIME_S = 15.0
"""Longest that a run may take to end after a death; chosen: others are given 3 s to leave, and noticing takes one."""

DIES_AFTER = 5


def leaves(trials: Trials) -> str:
    """Let a worker die.

    Raises:
        DoesNotApply: there is only one device.
        Broken: the run ends otherwise than it should, too late, or leaves processes behind.
    """
    gpus = trials.several
    if gpus == 1:
        raise DoesNotApply("it uses one device, and nothing goes on without it")
    fault = f"faults.deaths=[{{rank = {gpus - 1}, after_steps = {DIES_AFTER}}}]"
    told = ""
    for engine in ("real",) if trials.quick else ("real", "virtual"):
        told = _dies(trials, trials.cell(engine, gpus, fault))
    return told


def _dies(trials: Trials, cell: Cell) -> str:
    seen = trials.watched(cell)
    where = f"{in_words(cell)}; rank {cell.gpus - 1} dies after step {DIES_AFTER}"
    cause = seen.result.cause
    goes_on = can_go_on(cell.synchrony, cell.server_counts) and cell.workers > 1
    if goes_on and cause is not None:
        broken(
            f"it is {cell.synchrony} and should go on without the worker, but ended: {cause}, {seen.result.reason}",
            where,
            f"{LIKELY.get(cause, '')}. Ask `server.workers` anew in each step: it names those who have not left; "
            "`receive(leavers=True)` reports who has",
        )
    if not goes_on and cause is not Cause.FAULT:
        broken(
            f"it cannot go on without the worker, so the cause is the planned death; what was said is "
            f"{cause or 'nothing: it finished'}",
            where,
            "a program must not catch what the words raise, nor count on an answer after `receive` gave None",
        )
    if seen.took_s > IN_TIME_S:
        broken(f"it took {seen.took_s:.0f} s to end", where, "somebody waited for the dead worker until he was ended")
    alive = [pid for pid in seen.pids if _lives(pid)]
    if alive:
        broken(f"{counted(len(alive), 'process', 'processes')} left behind", where, "a process does not end")
    return "the others go on, and nothing is left behind" if goes_on else "it ends as planned, in time, nothing left"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def slow(trials: Trials) -> str:
    """Let one device compute several times as long.

    Raises:
        DoesNotApply: there is only one device.
        Broken: the run does not end, trains something else, or its workers wait though it says that they do not.
    """
    if trials.few == 1:
        raise DoesNotApply("it uses one device, and nobody waits")
    cell = slowed(trials)
    outcome = run_to_end(trials, cell)
    if trials.strategy.equals is not None:
        off = apart(outcome, run_to_end(trials, trials.cell("virtual", trials.several)))
        if off > ROUNDING:
            broken(
                f"with one device {SLOWDOWN} times slower the weights differ by {off:.1g}",
                in_words(cell),
                "who comes first decides what is averaged: take messages by rank, or all before the step",
            )
        return f"one {SLOWDOWN} times slower, and the same weights"
    taken = [outcome.steps["worker"].count(worker) for worker in range(cell.workers)]
    if cell.synchrony == "asynchronous" and cell.server_counts and max(taken) < 1.5 * min(taken):
        broken(
            f"it says that it is asynchronous, but with one worker {SLOWDOWN} times slower they take "
            f"{min(taken)} to {max(taken)} steps",
            in_words(cell),
            "the server waits for everybody before it answers; answer each push as it comes, or change synchrony",
        )
    return f"one {SLOWDOWN} times slower: workers take {min(taken)} to {max(taken)} steps"


# -- the end -----------------------------------------------------------------------------------------------------------


def stops_at_target(trials: Trials) -> str:
    """Set a target that the strategy is known to reach, and see it stop there.

    Raises:
        Broken: what is evaluated never changes, or the run goes on beyond the target.
    """
    base = trials.cell("virtual", trials.few)
    seen = run_to_end(trials, base).evaluations
    losses = {each.validation_loss for each in seen}
    if len(losses) < 2:
        broken(
            f"the model that is evaluated never changes in {len(seen)} evaluations, so that no target can be reached",
            f"{in_words(base)}; model_at = {trials.strategy.model_at!r}",
            "model_at says where the model is whole; nothing is applied or loaded there",
        )
    reached = [each.validation_metric or 0.0 for each in seen]
    # Two in a row count as reached; all but the last pair leave something to stop before.
    if len(reached) < 3:
        raise DoesNotApply(
            f"the run ends after {len(seen)} evaluations, so that no target leaves anything to stop before; a server "
            "that leaves out gradients counts only the samples that it applies"
        )
    target = max(min(pair) for pair in itertools.pairwise(reached[:-1]))
    if not target > 0:
        raise DoesNotApply("it learns nothing in so few steps, so that there is no target to reach")
    cells = [trials.cell("virtual", trials.few, f"goal.target_accuracy={target!r}")]
    for cell in cells:
        outcome = run_to_end(trials, cell)
        if outcome.decision is not Decision.TARGET or outcome.samples >= seen[-1].samples:
            broken(
                f"it reaches an accuracy of {share_in_percent(target)} and goes on to {outcome.samples} samples "
                f"({outcome.decision})",
                in_words(cell),
                "the stop ends worker.batches(); a loop of its own goes on",
            )
    return f"at {share_in_percent(target)}, after {outcome.samples} of {seen[-1].samples} samples"


def stops_at_time(trials: Trials) -> str:
    """Set a time, and see the run stop at the first mark after it.

    Raises:
        Broken: it goes on.
    """
    whole = run_to_end(trials, trials.cell("virtual", trials.few))
    limit = whole.training_s / 2
    cell = trials.cell("virtual", trials.few, f"goal.max_seconds={limit:.6g}")
    outcome = run_to_end(trials, cell)
    if outcome.decision is not Decision.SECONDS or not outcome.training_s < 0.95 * whole.training_s:
        broken(
            f"given {limit:.3g} s it goes on for {outcome.training_s:.3g} s ({outcome.decision})",
            in_words(cell),
            "the stop ends worker.batches(); a loop of its own goes on",
        )
    return f"given {limit:.3g} s, after {outcome.training_s:.3g} s, at the next evaluation"


def stops_at_budget(trials: Trials) -> str:
    """See that both engines took the steps that were asked for, and no more.

    Raises:
        Broken: they took others.
    """
    for engine in ("virtual", "real"):
        cell = trials.cell(engine, trials.few)
        outcome = run_to_end(trials, cell)
        most = trials.samples + TRIAL_BATCH * cell.workers
        if outcome.decision is not Decision.BUDGET or not trials.samples <= outcome.samples <= most:
            broken(
                f"{trials.samples} samples were asked for, and {outcome.samples} were trained on ({outcome.decision})",
                in_words(cell),
                "train on every batch that worker.batches() yields, once, and let it end the loop",
            )
    return f"{outcome.updates} updates, {outcome.samples} samples, on both engines"


# -- memory ------------------------------------------------------------------------------------------------------------

FEW_STEPS, MANY_STEPS = 50, 250
"""Of two runs that differ in nothing else: what both hold, importing, tracing and the first steps have taken."""
LARGER = '{ name = "mlp", hidden = [500, 200] }'
"""134,710 parameters, 1.1 MB in fp64: what is kept of every step by mistake stands out from what allocators keep."""

KEPT_SHARE = 0.75
"""Of the values of all steps by which one run is longer: what keeps more of them than this grows. Chosen between a
strategy that keeps every gradient, 1.2, and what freed memory the C library does not give back: 0 under sync-ddp's
program, 0.12 under fsdp, 0.49 under model-split, all of it given back by malloc_trim (glibc 2.36, torch 2.13, 2026-11).
"""


def memory_flat(trials: Trials) -> str:
    """Compare the memory of real processes after many steps with that after few.

    Raises:
        DoesNotApply: it could not be read.
        Broken: it grows.
    """
    _, few_bytes, _ = _most_held(trials, FEW_STEPS)
    cell, many_bytes, value_bytes = _most_held(trials, MANY_STEPS)
    both = few_bytes.keys() & many_bytes.keys()
    if not both:
        raise DoesNotApply("the runs were over before their memory could be read")
    label, growth = max(((one, many_bytes[one] - few_bytes[one]) for one in both), key=lambda pair: pair[1])
    if growth > KEPT_SHARE * value_bytes * (MANY_STEPS - FEW_STEPS):
        broken(
            f"{label} holds {memory_size(growth)} more after {MANY_STEPS} steps than after {FEW_STEPS}; weights take "
            f"{memory_size(value_bytes)}",
            in_words(cell),
            "values of earlier steps are kept in a list, a dictionary or a closure",
        )
    return f"{memory_size(max(0.0, growth))} more after {MANY_STEPS} steps than after {FEW_STEPS}"


def _most_held(trials: Trials, steps: int) -> tuple[Cell, dict[str, float], int]:
    """Return the cell that ran, the most that each of its processes held, and the size of its weights, in bytes."""
    sets = (
        f"goal.max_steps={steps}",
        "goal.max_epochs=100",
        "goal.evaluate_every=100000",
        f"workload.model={LARGER}",
    )
    cell = trials.cell("real", trials.few, *sets)
    seen = trials.watched(cell, memory=True)
    held: dict[str, float] = {}
    for sample in seen.memory:
        if sample.quantity == "host_rss":
            held[sample.device] = max(held.get(sample.device, 0.0), sample.value)
    return cell, held, ended(seen.result, cell).weights.nbytes
