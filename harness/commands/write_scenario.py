"""A scenario for a user's own model: what a look found as comments, and settings that follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.commands.found_text import block_lines, data_facts, dataset_value, model_facts, step_fact
from harness.core.errors import InputError
from harness.core.machine import Machine
from harness.core.units import MIB
from harness.core.words import aligned, counted, duration, show
from harness.engines.shared.findings import Findings
from harness.workloads.entries import training_size

VALIDATION_FRACTION = 0.1
SEEDS = 2
WORTH_SHARDING = 64 * MIB
"""Bytes of parameters from which sharing them out is proposed; below it the exchanges cost more. Chosen."""
RUN_S = 240.0
"""Time that the proposed run should take, by the step that was measured; chosen: an answer within minutes."""
MOST_EPOCHS, FEWEST_STEPS = 10, 20
CELL_S = 2.0
"""What a cell takes beside training and loading: its processes start, the model is built and tried; measured: 1.2
to 3.3 s with 225 parameters (2 cores under load, 2026-11, n = 5)."""
EVALUATIONS, FORWARD = 4, 1 / 3
"""Of an epoch, by default; and the share of a step that a forward pass is."""
REACHABLE = 0.8
"""Share of the way from guessing to perfection that a proposed target asks for; chosen: first runs of small models on
clean data get there, and nobody does by chance."""
MOST_BLOCKS = 40
"""Blocks that comments list; chosen."""


@dataclass(frozen=True)
class Proposal:
    """Settings that follow from what was found.

    Attributes:
        left: strategies that would run too, or not, in words.
        epochs: None where there is time for a part of one only; then `steps` says how many.
    """

    strategies: tuple[str, ...]
    left: str
    gpus: tuple[int, ...]
    batch: int
    optimizer: str
    rate: float
    epochs: int | None
    steps: int
    run_s: float


def propose(found: Findings, machine: Machine) -> Proposal:
    """Choose strategies, batch, optimizer and length of a first run."""
    devices = machine.gpus or min(2, machine.cores)
    gpus = tuple(sorted({1, devices}))
    chosen, left = _strategies(found, devices)
    num_train = training_size(found.data.num_train, VALIDATION_FRACTION)
    batch = _batch(found, num_train, devices)
    adaptive = found.model.normalises or found.loss == "mse"
    cells = SEEDS * sum(1 if name == "single" else len(gpus) - 1 for name in chosen)
    step_s = found.step_s * batch / found.batch_size
    each = -(-num_train // batch)
    judged = found.data.num_train - num_train
    step_and_judging_s = step_s * (1 + EVALUATIONS * FORWARD * judged / num_train)
    apart_s = CELL_S + found.data.load_s + step_s * FORWARD * found.data.num_test / batch
    steps = int(max(0.0, RUN_S / cells - apart_s) / step_and_judging_s)
    epochs = min(MOST_EPOCHS, steps // each)
    steps = max(FEWEST_STEPS, min(steps, each)) if not epochs else epochs * each
    return Proposal(
        strategies=chosen,
        left=left,
        gpus=gpus,
        batch=batch,
        optimizer="adamw" if adaptive else "sgd",
        rate=0.001 if adaptive else 0.05,
        epochs=epochs or None,
        steps=steps,
        run_s=cells * (apart_s + steps * step_and_judging_s),
    )


def _strategies(found: Findings, devices: int) -> tuple[tuple[str, ...], str]:
    if devices < 2:
        return ("single",), "this machine has 1 device; others can be simulated on a cluster: see [cluster]"
    large = found.model.parameters * 4 >= WORTH_SHARDING
    cuttable = found.model.most_stages >= devices
    chosen = ["single", "sync-ddp", *(["fsdp"] if large else []), *(["model-split"] if cuttable else [])]
    left = [*([] if large else ["fsdp"]), "local-sgd", "sync-ps", "async-ps"]
    return tuple(chosen), f"also: {', '.join(left)}"


def _batch(found: Findings, num_train: int, devices: int) -> int:
    """Return samples behind an update: 32, or fewer where there are few; no rest that BatchNorm cannot take."""
    largest = next((size for size in (32, 16, 8, 4) if size * 4 <= num_train), 2)
    if not found.model.batch_norms:
        return largest

    def smallest_part(size: int) -> int:
        rest = num_train % size
        return min(size, rest or size) // devices

    sizes = [largest, *(size for size in range(2 * devices, 2 * largest) if size % devices == 0)]
    return next((size for size in sizes if smallest_part(size) >= 2), largest)


def scenario_text(found: Findings, machine: Machine) -> str:
    """Return a scenario that runs, with what was found as comments.

    Raises:
        InputError: there are too few samples to train on.
    """
    if found.data.num_train < 4:
        raise InputError(
            [f"{found.data.name}: {counted(found.data.num_train, 'training sample')}; at least 4 are needed"]
        )
    return "\n".join(_lines(found, propose(found, machine), machine)) + "\n"


def _lines(found: Findings, chosen: Proposal, machine: Machine) -> Iterator[str]:
    yield f"description = {show(f'{found.model.name} on {found.data.name}')}"
    yield ""
    yield "# What a look at the model and its data found:"
    facts = [*data_facts(found.data), *model_facts(found.model), step_fact(found)]
    yield from (f"#   {line}" for line in aligned(facts))
    yield "# The blocks, in the order of their calls:"
    lines = list(block_lines(found.model))
    yield from (f"#   {line}" for line in lines[:MOST_BLOCKS])
    if len(lines) > MOST_BLOCKS:
        yield f"#   and {len(lines) - MOST_BLOCKS} more: harness doctor --model {found.model.name}"
    yield ""
    yield "[workload]"
    yield f"model = {show(found.model.name)}"
    yield from _noted(f"dataset = {dataset_value(found.data)}", _about_data(found))
    yield from _noted(f'loss = "{found.loss}"', "fits the outputs and the targets")
    yield from _scale(found)
    yield f'optimizer = "{chosen.optimizer}"'
    yield ""
    yield "[sweep]"
    yield from _noted(f"strategy = {show(list(chosen.strategies))}", chosen.left)
    yield from _noted(f"gpus = {show(list(chosen.gpus))}", _about_devices(machine))
    yield from _noted(f"global_batch_size = [{chosen.batch}]", "samples behind one update")
    yield from _noted(f"learning_rate = [{chosen.rate}]", "a usual one; a list compares several")
    yield f"seeds = {SEEDS}"
    yield from _excluded(chosen)
    yield ""
    yield "[goal]"
    about = f"about {duration(chosen.run_s)} in all: starting, training and judging every cell"
    yield from _noted(f"max_epochs = {chosen.epochs}" if chosen.epochs else f"max_steps = {chosen.steps}", about)
    yield f"validation_fraction = {VALIDATION_FRACTION}"
    yield from _goal(found)


def _noted(line: str, note: str) -> Iterator[str]:
    yield f"{line:<36} # {note}"


def _about_data(found: Findings) -> str:
    if found.data.proposed:
        return "the first built-in data that the model takes; its own: FILE.py:FUNCTION"
    return "yours" if ".py:" in found.data.name else "built in"


def _about_devices(machine: Machine) -> str:
    if machine.gpus:
        return f"of {counted(machine.gpus, 'GPU')} here"
    return f"a CPU core stands for a device; {counted(machine.cores, 'core')} here"


def _excluded(chosen: Proposal) -> Iterator[str]:
    """Leave out what differs from `single` in name only."""
    alone = [name for name in chosen.strategies if name not in ("single", "fsdp", "model-split")]
    if len(chosen.gpus) > 1 and alone:
        entries = ", ".join(f'{{ strategy = "{name}", gpus = 1 }}' for name in alone)
        yield from _noted(f"exclude = [{entries}]", "the same as single")


def _scale(found: Findings) -> Iterator[str]:
    """Offer a scale for numbers that have none."""
    if not found.data.unscaled:
        return
    yield f"# {'; '.join(found.data.unscaled)}: training may diverge at any rate."
    if found.data.standardizes:
        options = {"name": found.data.name} | found.data.options | {"standardize": ["inputs", "target"]}
        yield f"# dataset = {show(options)}"
        yield '# A column that tells nothing, such as a number of rows, is left out by drop = ["NAME"].'
    else:
        yield f"# Scale it in {found.data.name}: subtract the mean of the training samples, divide by their deviation."


def _goal(found: Findings) -> Iterator[str]:
    """Propose a target that guessing does not reach."""
    guess, first = found.data.guess, "with a target, the answer says which is there first"
    if guess is None:
        return
    if guess.accuracy is not None and not found.data.predicts_tokens:
        wanted = guess.accuracy + REACHABLE * (1 - guess.accuracy)
        line, guessed = f"# target_accuracy = {wanted:.2g}", f"always the commonest class gives {guess.accuracy:.2g}"
    else:
        what = "the frequencies of tokens give" if found.data.predicts_tokens else "always their mean gives"
        wanted = guess.loss * (REACHABLE if found.data.predicts_tokens else 1 - REACHABLE)
        line, guessed = f"# target_loss = {wanted:.2g}", f"{what} {guess.loss:.2g}"
    yield from _noted(line, f"{first}; {guessed}")
