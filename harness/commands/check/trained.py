"""Lines about what is trained: on one worker, on several, beside `single`, and twice."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from harness.analysis.exam import exams
from harness.commands.check.diagnosis import ROUNDING, cause_of_difference
from harness.commands.check.ended import apart, ended, refuse_unawaited, run_to_end
from harness.commands.check.trials import CHECKED_STEPS, COUNTS, LAST, TRIAL_BATCH, Trials, in_words
from harness.commands.check.verdicts import DoesNotApply, broken
from harness.core.cell import Cell
from harness.core.words import counted, listed, share_in_percent
from harness.executors.make_record import make_record

TRIAL_MODELS = Path(__file__).with_name("models.py")


def trains(trials: Trials) -> str:
    """Train on both engines; what follows looks at the same runs.

    Raises:
        Broken: a run did not come to its end, or words were never awaited.
    """
    if all(trials.possible.values()):
        tried = listed(map(str, COUNTS), "or")
        broken(f"it cannot use {tried} devices: {trials.possible[1]}", "layout() and servers()", "let it use a few")
    for engine in ("virtual", "real"):
        cell = trials.cell(engine, trials.few)
        refuse_unawaited(run_to_end(trials, cell), cell)
    return f"{counted(trials.few, 'device')}, {CHECKED_STEPS} steps of {TRIAL_BATCH} samples"


def alone(trials: Trials) -> str:
    """Compare one worker with plain training.

    Raises:
        DoesNotApply: it needs several devices, or says that it changes what one worker does.
        Broken: the weights differ.
    """
    if not trials.alone:
        raise DoesNotApply(trials.possible[1])
    if trials.strategy.alone is None:
        raise DoesNotApply("it changes the update itself, and says so: alone = None")
    cell = trials.cell("real", 1)
    if trials.name == "single":
        return _as_a_plain_loop(trials, cell)
    plain = run_to_end(trials, trials.cell("virtual", 1, strategy="single"))
    off = apart(run_to_end(trials, cell), plain)
    if off:
        broken(
            f"after {CHECKED_STEPS} steps the weights of one worker differ from those of plain training by {off:.1g}",
            f"{in_words(cell)}, beside single",
            f"{cause_of_difference(trials, 'virtual', 1)}. Where one worker is meant to train otherwise (an outer "
            "optimizer, compression), say `alone = None`",
        )
    return f"{CHECKED_STEPS} steps, every bit"


def _as_a_plain_loop(trials: Trials, cell: Cell) -> str:
    from harness.commands.check.plain import plain_weights

    off = apart(run_to_end(trials, cell), plain_weights(cell))
    if off > ROUNDING:
        broken(
            f"its weights differ from those of a plain loop by {off:.1g}", in_words(cell), "apply each gradient once"
        )
    return f"{CHECKED_STEPS} steps beside a loop of plain PyTorch, to {ROUNDING:g}"


class Training(NamedTuple):
    """A way of training under which a promise must hold too; `exactly`: to rounding, else as the exam judges it."""

    words: str
    sets: tuple[str, ...]
    exactly: bool


TRAININGS = (
    Training(f"a last batch of {LAST} and momentum", (), True),
    Training("clipping", ("workload.clip_norm=0.5",), True),
    Training("BatchNorm", (f"workload.model={TRIAL_MODELS}:batchnorm",), False),
    Training("dropout", (f"workload.model={TRIAL_MODELS}:dropout",), False),
)


def equal(trials: Trials) -> str:
    """Compare a strategy that must train like `single` with it, on several devices.

    Raises:
        DoesNotApply: it does not promise to, or uses one device.
        Broken: it trains something else.
    """
    if trials.strategy.equals is None:
        raise DoesNotApply("it does not promise to equal single (equals = None)")
    if trials.few == 1:
        raise DoesNotApply("it uses one device, where the line above compares it")
    variants = TRAININGS[:2] if trials.quick else TRAININGS
    counts = [trials.few] if trials.quick else list(dict.fromkeys([trials.few, trials.several]))
    for count in counts:
        for variant in variants:
            (_compare if variant.exactly else _examine)(trials, count, variant)
    return f"{listed(variant.words for variant in variants)}; {listed(map(str, counts))} devices"


def _compare(trials: Trials, gpus: int, variant: Training) -> None:
    cell = trials.cell("real", gpus, *variant.sets)
    plain = run_to_end(trials, trials.cell("virtual", 1, *variant.sets, strategy="single"))
    off = apart(run_to_end(trials, cell), plain)
    if off > ROUNDING:
        virtual = trials.cell("virtual", gpus, *variant.sets)
        both = apart(run_to_end(trials, virtual), plain) > ROUNDING
        only = "" if both else "the virtual cluster trains it right, so look at what depends on who comes when. "
        usual = run_to_end(trials, trials.cell("virtual", 1, strategy="single"))
        if apart(run_to_end(trials, trials.cell("real", gpus)), usual) > ROUNDING:
            cause = cause_of_difference(trials, "virtual" if both else "real", gpus)
        else:
            cause = f"only {variant.words} brings it out: what is averaged or applied is not the gradient itself"
        broken(
            f"with {variant.words} weights differ from those of single by {off:.1g}; rounding is below {ROUNDING:g}",
            f"{in_words(cell)}, beside single",
            f"{only}{cause}",
        )


def _examine(trials: Trials, gpus: int, variant: Training) -> None:
    """Compare where devices cannot train exactly what one does, as the exam of every run judges it."""
    cells = [trials.cell("real", gpus, *variant.sets), trials.cell("real", 1, *variant.sets, strategy="single")]
    results = [trials.run(cell) for cell in cells]
    rows = []
    for cell, result in zip(cells, results, strict=True):
        ended(result, cell)
        rows.append(make_record(cell, result, None, {"id": "check"}, 1)[0].row)
    found = exams(rows)
    if not found:
        broken(f"with {variant.words} it cannot be compared with single", in_words(cells[0]), "both ended elsewhere")
    for exam in found:
        if not exam.passed:
            broken(
                f"with {variant.words} {exam.by} differs from single's by {share_in_percent(exam.off)}; the limit is "
                f"{share_in_percent(exam.limit)}",
                f"{in_words(cells[0])}, beside single",
                "buffers travel with the gradient that `gradient` returned: average and apply that value itself",
            )


def repeats(trials: Trials) -> str:
    """Run a cell twice on the virtual cluster, where nothing but the seed decides.

    Raises:
        Broken: the weights differ.
    """
    cell = trials.cell("virtual", trials.few)
    off = apart(run_to_end(trials, cell), run_to_end(trials, cell, trace=1))
    if off:
        broken(
            f"two runs with the same seed end with weights that differ by {off:.1g}",
            in_words(cell),
            "something is drawn without a seed, or read from a clock or the environment: draw from worker.random(name)",
        )
    return f"{CHECKED_STEPS} steps twice, every bit"
