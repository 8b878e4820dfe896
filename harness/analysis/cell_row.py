"""From an outcome to a row of cells.csv and a curve: arithmetic over plain lists, no frames."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harness.analysis.gradient_noise import known_squares, noise_scale
from harness.analysis.loss_shape import classify
from harness.analysis.overfit import fitting
from harness.analysis.rising_curve import crossing
from harness.core.budget import Budget, Decision, target_reached
from harness.core.cell import Cell, without_later
from harness.core.endings import Status
from harness.core.metrics import Judged
from harness.core.not_known import NotKnown
from harness.core.outcome import Outcome, TableColumns
from harness.core.records import Json
from harness.core.row import Row, WholeRow
from harness.core.step_parts import PART_COLUMNS, Part
from harness.core.uncertainty import StepErrors
from harness.core.units import SECONDS_PER_HOUR


def identity_row(cell: Cell, environment: str) -> Json:
    """Return the columns that are known before a cell runs."""
    confirms = {"confirms": True} if cell.confirms else {}
    return _named(cell, environment) | confirms | {f"swept {key}": value for key, value in cell.swept.items()}


def _named(cell: Cell, environment: str) -> WholeRow:
    simulated = cell.engine == "virtual"
    return {
        "cell_id": cell.cell_id,
        "strategy": cell.strategy,
        "options": json.dumps(cell.options, sort_keys=True),
        "synchrony": cell.synchrony,
        "equivalence": cell.equals,
        "engine": cell.engine,
        "clock": "simulated" if simulated else "wall",
        "device": cell.device,
        "precision": cell.workload.precision,
        "workers": cell.workers,
        "gpus": cell.gpus,
        "nodes": cell.nodes,
        "batch_size": cell.batch_size,
        "micro_batch_size": cell.micro_batch_size,
        "global_batch_size": cell.global_batch_size,
        "learning_rate": cell.learning_rate,
        "lr_rule": cell.lr_rule,
        "seed": cell.seed,
        "trajectory_id": trajectory_id(cell),
        "environment": environment,
        "ranked": not cell.oversubscribed,
    }


def as_shown(row: Row) -> Json:
    """Return a row as people read it: a cell that broke off may not be recommended.

    Analyses read `ranked` as the plan set it: what crashed counts among the seeds of a point that is ranked.
    """
    return {**row, "ranked": bool(row.get("ranked")) and Status(row["status"]).trained}


def trajectory_id(cell: Cell) -> str:
    """Return a name that cells share which must produce the same weights: one gradient stream, same data and rates."""
    decides = [
        without_later(cell.workload),
        without_later(cell.goal),
        cell.global_batch_size,
        cell.learning_rate,
        cell.seed,
    ]
    if cell.equals != "single":
        decides.append(cell.cell_id)
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def outcome_row(cell: Cell, outcome: Outcome, budget: Budget) -> Json:
    """Return the columns that a finished run adds; what was not measured stays out."""
    row: WholeRow = {**convergence_row(outcome, budget), **speed_row(cell, outcome), **time_row(cell, outcome)}
    row |= staleness_row(cell, outcome) | stated_row(outcome, row) | regime_row(outcome, budget)
    row |= noise_row(outcome) | fitting_row(outcome, row) | cost_row(cell, outcome)
    row["bytes_sent_per_step"] = outcome.bytes_sent_per_step
    row["bubble_fraction"] = outcome.bubble_fraction
    row["pipeline"] = cell.layout.pipeline
    if "compile_s" in outcome.facts:
        row["compile_s"] = outcome.facts["compile_s"]
    if outcome.facts.get("traits"):
        row["traits"] = outcome.facts["traits"]
    if budget.target_loss is not None and budget.target_accuracy is budget.target_metric is None:
        row["target_loss"] = budget.target_loss
    if outcome.facts.get("unscaled"):
        row["unscaled"] = outcome.facts["unscaled"]
    row["dram_tensors_peak_bytes"] = None if isinstance(outcome.dram, NotKnown) else outcome.dram.peak_bytes or None
    row["dram_allocated_peak_bytes"] = outcome.allocator.get("allocated")
    row["dram_reserved_peak_bytes"] = outcome.allocator.get("reserved")
    return dict(row) | {f"x_{name}": value for name, value in outcome.recorded.items()}


def convergence_row(outcome: Outcome, budget: Budget) -> WholeRow:
    """Return what was reached, and after how much of everything."""
    last = outcome.evaluations[-1] if outcome.evaluations else None
    reached = target_reached(outcome.evaluations, budget)
    curve = loss_curve(outcome)
    return {
        "samples_seen": outcome.samples,
        "steps": outcome.updates,
        **_measured(outcome, budget.metric, last.validation_metric if last else None),
        "validation_loss": last.validation_loss if last else None,
        "train_loss": _mean_per_sample(curve[-max(1, len(curve) // 10) :]),
        "time_to_target_s": reached.time_s if reached else None,
        "samples_to_target": reached.samples if reached else None,
        "updates_to_target": reached.updates if reached else None,
        **_early(outcome),
        **_read_finely(outcome, budget),
    }


def _read_finely(outcome: Outcome, budget: Budget) -> WholeRow:
    """Return when a rising curve through the evaluations meets the target; nothing where it has none, or two of them.

    The first of two in a row that meet it lies on the grid of evaluations, and a dip moves it by several. The curve
    ends with the second of the two, where synchronous runs stop: else those that go on would be read otherwise.
    """
    target = budget.target_accuracy if budget.metric.is_accuracy else budget.target_metric
    reached = target_reached(outcome.evaluations, budget)
    if target is None or budget.target_loss is not None or reached is None:
        return {}
    until = outcome.evaluations[: outcome.evaluations.index(reached) + 2]
    seen = [(float(e.samples), e.validation_metric) for e in until if e.samples > 0]
    known = [(samples, value) for samples, value in seen if value is not None and math.isfinite(value)]
    sign = 1 if budget.metric.higher else -1
    found = crossing([samples for samples, _ in known], [sign * value for _, value in known], sign * target)
    return {"samples_to_target_fit": found} if found else {}


def _early(outcome: Outcome) -> WholeRow:
    """Return how far the weights had moved at the first evaluation; nothing where nobody compares it."""
    first = outcome.evaluations[0] if outcome.evaluations else None
    if first is None or first.displacement is None or not math.isfinite(first.displacement):
        return {}
    return {"early_displacement": first.displacement, "early_samples": first.samples}


def _measured(outcome: Outcome, metric: Judged, last: float | None) -> WholeRow:
    """Return what the last evaluation and the test found, in the columns of accuracies or in those of any metric."""
    test = known(outcome.test[1]) if outcome.test else None
    if metric.is_accuracy:
        return {"validation_accuracy": known(last), "test_accuracy": test}
    return {
        "validation_accuracy": None,
        "test_accuracy": None,
        "metric": metric.name,
        "better": metric.better,
        "validation_metric": known(last),
        "test_metric": test,
    }


def known(value: float | None) -> float | None:
    """Return a number; None for what is none, as of data without samples."""
    return None if value is None or math.isnan(value) else value


class UpdateLoss(NamedTuple):
    """The training loss of one update, before it was taken.

    Attributes:
        until: samples so far, with those of this update.
        samples: behind this update.
        loss: mean over them.
    """

    until: int
    samples: int
    loss: float


def loss_curve(outcome: Outcome) -> list[UpdateLoss]:
    """Return the training loss in the order of updates: the mean over the samples of all workers, never one rank's."""
    steps, own = _rows(outcome.steps), outcome.facts.get("batches") == "own"
    log = outcome.updates_log
    if log.get("update") and log["worker"][0] is not None and log["worker"][0] >= 0:
        by_push = {(s["worker"], s["step"]): s["loss"] for s in steps}
        pairs = zip(log["worker"], log["step"], log["samples"], strict=True)
        points = [(samples, by_push.get((worker, step))) for worker, step, samples in pairs]
    else:
        together: dict[int, list[Row]] = defaultdict(list)
        for step in steps:
            together[step["step"]].append(step)
        points = [(sum(s["samples"] for s in group), _mean_loss(group, own)) for _, group in sorted(together.items())]
    curve, total = [], 0
    for samples, loss in points:
        total += samples
        if loss is not None and math.isfinite(loss):
            curve.append(UpdateLoss(total, samples, loss))
    return curve


def _mean_loss(group: Sequence[Row], own: bool) -> float | None:
    """Return the mean over the samples of one step of all devices.

    Args:
        own: workers have batches of their own, and their losses are means over those. Else a device's loss is scaled
            by what the sizes of the parts demand, so that the plain mean over devices is that of the batch.
    """
    workers: dict[int, list[Row]] = defaultdict(list)
    for row in group:
        workers[row["worker"]].append(row)
    means = [(_plain_mean(rows), sum(row["samples"] for row in rows)) for rows in workers.values()]
    known = [(loss, samples if own else 1) for loss, samples in means if loss is not None]
    weights = [weight for _, weight in known]
    return statistics.fmean([loss for loss, _ in known], weights) if sum(weights) else None


def _plain_mean(rows: Sequence[Row]) -> float | None:
    known = [row["loss"] for row in rows if row["loss"] is not None]
    return statistics.fmean(known) if known else None


def _mean_per_sample(updates: Sequence[UpdateLoss]) -> float | None:
    """Return the mean loss of a sample: an epoch's last batch may have fewer of them."""
    weights = [update.samples for update in updates]
    return statistics.fmean([update.loss for update in updates], weights) if sum(weights) else None


def curve_table(outcome: Outcome) -> TableColumns:
    """Return the columns of evals.csv; train_loss is the mean of a sample since the evaluation before."""
    curve, before = loss_curve(outcome), 0
    table: TableColumns = {name: [] for name in ("samples", "updates", "time_s", "train_loss")}
    column = "validation_metric" if outcome.facts.get("metric") else "validation_accuracy"
    table |= {"validation_loss": [], column: []}
    for evaluation in outcome.evaluations:
        table["train_loss"].append(_mean_per_sample([u for u in curve if before < u.until <= evaluation.samples]))
        before = evaluation.samples
        for name in ("samples", "updates", "time_s", "validation_loss"):
            table[name].append(getattr(evaluation, name))
        table[column].append(known(evaluation.validation_metric))
    return table


def regime_row(outcome: Outcome, budget: Budget) -> WholeRow:
    """Return what the loss curve says about the learning rate, and what that rests on; nothing for speed-only cells."""
    steps = _rows(outcome.steps)
    losses = [update.loss for update in loss_curve(outcome)]
    # Every worker's first gradient is taken at the initial weights, however many of them there are.
    first = [s for s in steps if s["base_version"] == 0 and s["step"] == 0]
    initial, moved = _mean_loss(first, outcome.facts.get("batches") == "own"), outcome.facts.get("displacement")
    if not budget.evaluates or not losses or initial is None:
        return {}
    diverged = outcome.decision is Decision.DIVERGED or any(
        not math.isfinite(s["loss"]) for s in steps if s["loss"] is not None
    )
    shape = "diverged" if diverged else classify(losses, initial, moved, outcome.facts.get("chance_loss"))
    return {
        "regime": shape,
        "initial_loss": initial,
        "displacement": moved if moved is not None and math.isfinite(moved) else None,
        "num_train": outcome.facts.get("num_train"),
    }


def fitting_row(outcome: Outcome, row: WholeRow) -> WholeRow:
    """Return whether the run over- or underfitted; nothing where that cannot be told.

    Args:
        row: with `train_loss` and `initial_loss`.
    """
    curve = curve_table(outcome)
    found = fitting(
        curve["train_loss"], curve["validation_loss"], row.get("train_loss"), row.get("initial_loss"), row.get("regime")
    )
    return {"fitting": found} if found else {}


def cost_row(cell: Cell, outcome: Outcome) -> WholeRow:
    """Return what the devices cost while they trained, where the scenario says what one costs for an hour."""
    if cell.per_gpu_hour is None:
        return {}
    return {"cost": cell.gpus * cell.per_gpu_hour * outcome.training_s / SECONDS_PER_HOUR}


def speed_row(cell: Cell, outcome: Outcome) -> WholeRow:
    """Return throughput of the whole job and step times, after warm-up, on the training clock."""
    steps = _rows(outcome.steps)
    if not steps or outcome.training_s <= 0:
        return {}
    first = [s for s in steps if s["worker"] == 0 and s["device"] == 0] or steps
    warm = min(cell.measure.warmup_steps, len(first) // 10)
    begun = sorted(first, key=lambda s: s["start_s"])[warm]
    begin = begun["start_s"]
    starts = sorted(s["start_s"] for s in first if s["start_s"] >= begin)
    times = [b - a for a, b in zip(starts, [*starts[1:], outcome.training_s], strict=True) if b > a]
    log = outcome.updates_log
    if log.get("update"):
        counted = sum(n for n, t in zip(log["samples"], log["time_s"], strict=True) if t > begin)
    else:
        counted = sum(s["samples"] for s in steps if s["step"] >= begun["step"])  # clocks lie milliseconds apart
    return {
        "throughput_samples_per_s": counted / (outcome.training_s - begin) if outcome.training_s > begin else None,
        "step_time_s": _typical(times, cell.workload.loading.workers),
        "step_time_p95_s": percentile(times, 0.95) if times else None,
    }


def _typical(times: Sequence[float], readers: int) -> float | None:
    """Return the median step time.

    Args:
        readers: processes that read ahead. They finish together, so that one step in so many waits for all of their
            batches: neighbouring steps are taken together.
    """
    size = max(1, readers)
    together = [statistics.fmean(times[k : k + size]) for k in range(0, len(times) - size + 1, size)]
    return statistics.median(together or times) if times else None


def time_row(cell: Cell, outcome: Outcome) -> WholeRow:
    """Return where the time went: means over devices that add up to the training time."""
    totals = dict.fromkeys(PART_COLUMNS, 0.0)
    for step in _rows(outcome.steps):
        span = sum(step[part] for part in PART_COLUMNS)
        left = outcome.training_s - step["start_s"]
        # The gradient that was under way at the end counts up to the end only.
        kept = 1.0 if span <= left or span == 0 else max(0.0, left) / span
        for part in PART_COLUMNS:
            totals[part] += step[part] * kept
    # A virtual worker has one row for a step, a mean over its devices; a real one has a row for each device.
    rows_per_step = cell.workers if cell.engine == "virtual" else cell.gpus
    parts = {part: total / rows_per_step for part, total in totals.items()}
    other = outcome.training_s - sum(parts.values())
    row: WholeRow = {
        "input_s": parts[Part.INPUT.column],
        "compute_s": parts[Part.COMPUTE.column],
        "communication_s": parts[Part.COMMUNICATION.column],
        "idle_s": parts[Part.IDLE.column],
        "other_s": max(0.0, other),
        "busy_fraction": None,
    }
    if outcome.training_s > 0:
        row["busy_fraction"] = min(1.0, row["compute_s"] / outcome.training_s)
    if cell.engine == "real":
        row |= {"setup_s": outcome.setup_s, "evaluation_s": outcome.evaluation_s}
        row["wall_s"] = outcome.setup_s + outcome.training_s + outcome.evaluation_s
    else:
        row["wall_s"] = outcome.training_s  # simulated: setting up and evaluating are off that clock
    return row


def stated_row(outcome: Outcome, parts: Row) -> WholeRow:
    """Return how far a simulated step may be off, relative, one standard deviation: its parts' errors are independent.

    Args:
        parts: of the training time; input and the host's own work are measured with computing and are as uncertain.
    """
    own_s = sum(parts.get(part) or 0.0 for part in ("input_s", "compute_s", "other_s"))
    errors = StepErrors(*outcome.facts.get("errors", ()))
    error = errors.of(own_s, parts.get("communication_s") or 0.0, parts.get("idle_s") or 0.0)
    return {"stated_error": error} if error else {}


def staleness_row(cell: Cell, outcome: Outcome) -> WholeRow:
    """Return staleness over updates; synchronous strategies have none, which is known without measuring."""
    if cell.synchrony == "synchronous":
        return {"staleness_mean": 0.0, "staleness_p95": 0.0}
    values = [s for s in outcome.updates_log.get("staleness", []) if s is not None]
    if not values:
        return {}
    return {"staleness_mean": statistics.fmean(values), "staleness_p95": percentile(values, 0.95)}


def noise_row(outcome: Outcome) -> WholeRow:
    """Return the gradient noise scale over the whole run; nothing where it is not resolved."""
    known = known_squares(outcome.updates_log)
    return {"noise_scale_samples": noise_scale(known).samples} if known else {}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))])


def with_speedups(rows: Sequence[Row]) -> list[Json]:
    """Add speed-up of throughput, its base, and strong or weak.

    The base is the median of `single` with the same global batch (strong) or the same batch per rank (weak) of the
    same engine and sweep, else the fewest devices of the same strategy; it is named in `speedup_base`.
    """
    bases = _bases(rows)
    return [dict(row) | _speedup(row, bases) for row in rows]


_SAME_BATCH = (("strong", "global_batch_size"), ("weak", "batch_size"))


def _bases(rows: Sequence[Row]) -> dict[tuple[object, ...], dict[int, list[float]]]:
    """Return throughputs by number of devices, for each strategy, setting and batch: looked up once for every row."""
    found: dict[tuple[object, ...], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.get("throughput_samples_per_s"):
            for _, key in _SAME_BATCH:
                by_gpus = found[row["strategy"], _setting(row), key, row[key]]
                by_gpus[row["gpus"]].append(row["throughput_samples_per_s"])
    return found


def _setting(row: Row) -> str:
    """Return what two rows must have in common to be compared."""
    swept = sorted(key for key in row if key.startswith("swept ") and row[key] is not None)
    return json.dumps(
        [row.get(key) for key in ("engine", "device", "precision", "environment")] + [(key, row[key]) for key in swept],
        default=str,
    )


def _speedup(row: Row, bases: Mapping[tuple[object, ...], Mapping[int, Sequence[float]]]) -> WholeRow:
    if not row.get("throughput_samples_per_s"):
        return {}
    setting = _setting(row)
    for strategy in ("single", row["strategy"]):
        for scaling, key in _SAME_BATCH:
            by_gpus = bases.get((strategy, setting, key, row[key]))
            if by_gpus:
                fewest = min(by_gpus)
                return {
                    "speedup": row["throughput_samples_per_s"] / statistics.median(by_gpus[fewest]),
                    "speedup_base": f"{strategy} on {fewest}, same {key}",
                    "scaling": scaling,
                }
    return {}


def _rows(columns: TableColumns) -> list[Json]:
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
