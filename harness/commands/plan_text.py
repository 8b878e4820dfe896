"""A plan in words and tables: what `harness plan` prints."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from harness.commands.fresh_seeds import most_cells, most_confirm_s, most_picked, seeds_of
from harness.commands.run_times import RunTimes, TimedBy, TimeLeft, time_left
from harness.core.cell import LARGEST, Cell, LeftOut, Plan
from harness.core.device_words import engine_in_words, machine_in_words
from harness.core.uncertainty import stated_words
from harness.core.words import counted, duration, in_short, listed, memory_size, show, table, three, varied_settings

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.costs.price import Prediction
    from harness.costs.profiles import Profile

_HEAD = ("strategy", "synchrony", "engine", "batch", "learning rate", "seeds")
_PREDICTED = ("step", "samples/s", "training", "memory")


def describe(
    plan: Plan,
    host: Host | None = None,
    finished: Collection[str] = (),
    swept: bool = False,
    times: RunTimes | None = None,
) -> str:
    """Return the text that `harness plan` prints: what was understood, the points, what is left out and why.

    Args:
        host: the strategies, whose layouts predictions need; without it nothing is predicted.
        finished: ids of cells that would not run again.
        swept: every cell of the sweep was tried.
        times: what cells take on this machine, by id, as far as that is known.
    """
    predictions = predictions_of(plan, host) if host else {}
    times = times or RunTimes()
    parts = [
        _title(plan, finished, swept, times),
        "\n".join(f"  {line}" for line in plan.understood),
        _points(plan, predictions, finished, times),
        _predicted_from(plan.cells, predictions),
        _run_from(plan, finished, times),
        _blocks(plan.cells, predictions),
        _not_possible(plan.cells, predictions),
        _left_out(plan.left_out),
        _notes(plan),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def left_of(plan: Plan, finished: Collection[str]) -> list[Cell]:
    """Return the cells of a plan that would run."""
    return [cell for cell in plan.cells if cell.cell_id not in finished and not cell.not_possible]


def _title(plan: Plan, finished: Collection[str], swept: bool, times: RunTimes) -> str:
    done = sum(cell.cell_id in finished for cell in plan.cells)
    lines = [
        f"{plan.name}: {counted(len(plan.cells), 'cell')}" + (f", {done} finished" if done else ""),
        _left_in_words(time_left(left_of(plan, finished), times)),
        confirmation_in_words(plan, swept, times),
        plan.description,
        f"{'this machine' if plan.machine.nodes == 1 else 'machines'}: {machine_in_words(plan.machine)}",
    ]
    return "\n".join(line for line in lines if line)


def _left_in_words(left: TimeLeft) -> str:
    """Say how long what is left will run; empty where nothing is known of it."""
    if not left.known:
        return ""
    time = f"up to {duration(left.seconds)} of steps" if left.at_most else f"about {duration(left.seconds)}"
    if left.known == left.cells:
        return f"{counted(left.cells, 'cell')} left to run: {time}"
    return (
        f"{counted(left.cells, 'cell')} left to run: {time} for {left.known:,} of them, of the others it is not known"
    )


def confirmation_in_words(plan: Plan, swept: bool, times: RunTimes | None = None) -> str:
    """Say what fresh seeds a plan asks for, and of what; empty where it asks for none.

    Args:
        swept: every cell of its sweep was tried.
        times: what cells take on this machine, by id.
    """
    if not plan.confirm:
        return ""
    seeds = f"{counted(plan.confirm, 'fresh seed')} ({in_short(seeds_of(plan))})"
    picked, differs = [cell for cell in plan.cells if cell.confirms], differences(plan.cells)
    if picked:
        names = listed(dict.fromkeys(_picked(cell, differs[cell.cell_id]) for cell in picked))
        return f"{_cells_confirm(len(picked))} the answer: {seeds} of {names}"
    most = most_cells(plan)
    if not most:
        return "nothing needs confirming: simulated speed is the same with every seed"
    if swept:
        return "nothing to confirm: no setting got there with half of its seeds"
    alone = most == plan.confirm * len(most_picked(plan))
    who = "the leader" if alone else "the leader and the runner-up"
    seconds = most_confirm_s(plan, times or RunTimes())
    time = "" if seconds is None else f", at most {duration(seconds)}"
    return f"then at most {_cells_confirm(most, ' more')} the answer: {seeds} of {who}{time}"


def _cells_confirm(number: int, more: str = "") -> str:
    return f"{number:,}{more} {'cell confirms' if number == 1 else 'cells confirm'}"


def _picked(cell: Cell, differs: str) -> str:
    parts = [f"global batch {cell.global_batch_size}", f"learning rate {_rate(cell)}", differs]
    return f"{cell.strategy} on {cell.gpus} ({', '.join(filter(None, parts))})"


def predictions_of(plan: Plan, host: Host) -> dict[str, Prediction]:
    """Return what is predicted, by cell; seeds of one point share it, because nothing of it is drawn."""
    simulated = [cell for cell in plan.cells if cell.engine == "virtual" and not cell.not_possible]
    if not simulated:
        return {}
    from harness.costs.price import price  # the laws of all costs: a plan of real cells answers sooner without them

    by_point: dict[str, Prediction] = {}
    found = {}
    for cell in simulated:
        point = repr(replace(cell, seed=0, cell_id="", confirms=False))
        if point not in by_point:
            by_point[point] = price(cell, host)
        found[cell.cell_id] = by_point[point]
    return found


def _points(plan: Plan, predictions: Mapping[str, Prediction], finished: Collection[str], times: RunTimes) -> str:
    """Return the table of points: one row for the seeds of each."""
    possible = [cell for cell in plan.cells if not _why_not(cell, predictions)]
    swept = list(dict.fromkeys(key for cell in possible for key in _swept(cell)))
    differing = varied_settings((cell.strategy, cell.options) for cell in possible)
    seeds: dict[tuple[str, ...], list[Cell]] = {}
    for cell in possible:
        row = _row(cell, plan.machine.gpu_name, differing, swept)
        if predictions:
            row += _outlook(cell, predictions.get(cell.cell_id))
        seeds.setdefault(row, []).append(cell)
    if not seeds:
        return ""
    columns = [*_HEAD[:-1], *swept]
    width = len(columns)
    predicted = (*_PREDICTED, *_money_columns(possible)) if predictions else ()
    marked = any(cell.cell_id in finished for cell in possible)
    timed = any(cell.cell_id in times.known for cell in possible)
    rows = [
        (
            *(*row[:width], in_short([c.seed for c in cells]), *_done(cells, finished, marked)),
            *((_run_in_words(cells, times),) if timed else ()),
            *row[width:],
        )
        for row, cells in seeds.items()
    ]
    head = (*columns, _HEAD[-1], *(("finished",) if marked else ()), *(("a run here",) if timed else ()), *predicted)
    return table(head, rows)


def _run_in_words(cells: Sequence[Cell], times: RunTimes) -> str:
    """Write how long one of the seeds of a point runs on this machine."""
    known = next((times.known[cell.cell_id] for cell in cells if cell.cell_id in times.known), None)
    if known is None:
        return "?"
    return f"up to {duration(known.seconds)} of steps" if known.origin is TimedBy.STEP else duration(known.seconds)


def _run_from(plan: Plan, finished: Collection[str], times: RunTimes) -> str:
    """Say what times on this machine are known from, and of which cells none is, and why."""
    left = left_of(plan, finished)
    known = {times.known[cell.cell_id].origin for cell in left if cell.cell_id in times.known}
    if not known:
        return ""
    unknown: dict[str, list[Cell]] = {}
    for cell in left:
        if cell.cell_id in times.why_not:
            unknown.setdefault(times.why_not[cell.cell_id], []).append(cell)
    lines = [_ORIGINS[origin] for origin in TimedBy if origin in known]
    lines += [f"not known: {_named(cells, plan.cells)}: {why}" for why, cells in unknown.items()]
    return _list("runs on this machine", lines)


_ORIGINS = {
    TimedBy.SEEDS: "as other seeds of the same point took here",
    TimedBy.RATES: "as the same at other learning rates took here",
    TimedBy.STEP: "of steps: by the time of a step, measured here; starting and evaluating come on top",
}


def _named(cells: Iterable[Cell], among: Iterable[Cell]) -> str:
    """Name cells by strategy and devices, and by batch where there are several: "single on 1 (global batch 8)"."""
    several = len({cell.global_batch_size for cell in among}) > 1
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for cell in cells:
        devices, batches = found.setdefault(cell.strategy, ({}, {}))
        devices[str(cell.gpus)] = batches[str(cell.global_batch_size)] = None
    return listed(
        f"{name} on {listed(gpus)}" + (f" (global batch {listed(sizes)})" if several else "")
        for name, (gpus, sizes) in found.items()
    )


def _done(cells: Sequence[Cell], finished: Collection[str], marked: bool) -> tuple[str, ...]:
    """Return the seeds of a point that would not run again, where any cell of the plan is so."""
    done = [cell.seed for cell in cells if cell.cell_id in finished]
    return (in_short(done) if done else "-",) if marked else ()


def _money_columns(cells: Iterable[Cell]) -> tuple[str, ...]:
    return ("cost of a cell",) if any(cell.per_gpu_hour is not None for cell in cells) else ()


def _outlook(cell: Cell, prediction: Prediction | None) -> tuple[str, ...]:
    """Write what is predicted of a point."""
    if prediction is None:
        return ("",) * (len(_PREDICTED) + len(_money_columns([cell])))
    time, rate, training = prediction.step_time_s, prediction.throughput_samples_per_s, prediction.training_s
    tokens = prediction.throughput_tokens_per_s
    band = f" {stated_words(prediction.error)}" if prediction.error else ""
    columns = ["?" if time is None else duration(time) + band]
    columns += [
        "?" if rate is None else three(rate) + (f" ({three(tokens)} tokens/s)" if tokens else "") + _beside(cell)
    ]
    columns += ["?" if training is None else duration(training), _memory(cell, prediction)]
    if cell.per_gpu_hour is not None:
        columns.append("?" if prediction.cost is None else f"{three(prediction.cost)} {cell.currency}")
    return tuple(columns)


def _memory(cell: Cell, prediction: Prediction) -> str:
    """Write what tensors take, as results count them, and what the device must have."""
    if prediction.out_of_memory:
        return "out of memory"
    if prediction.tensor_bytes is None or prediction.dram_bytes is None:
        return "?"
    text = memory_size(prediction.tensor_bytes)
    if prediction.dram_bytes > prediction.tensor_bytes:
        text += f", {memory_size(prediction.dram_bytes)} in all"
    return text + (f", micro-batch {prediction.micro_batch_size}" if cell.micro_batch_size == LARGEST else "")


def _beside(cell: Cell) -> str:
    """Write what was observed elsewhere of a cell."""
    rates = [item.throughput_samples_per_s for item in cell.observed if item.throughput_samples_per_s]
    rates += [cell.global_batch_size / item.step_time_s for item in cell.observed if item.step_time_s]
    return f" (observed {', '.join(map(three, rates))})" if rates else ""


def _predicted_from(cells: Sequence[Cell], predictions: Mapping[str, Prediction]) -> str:
    """Say where predictions are from, and of each that is missing why."""
    known: dict[str, None] = {}
    missing: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        item = predictions.get(cell.cell_id)
        if item is None or item.not_possible:
            continue
        if item.step_time_s is not None:
            known[item.text] = None
        for gap in _gaps(cell, item):
            missing.setdefault(gap, []).append(cell)
    lines = [f"step times: {text}" for text in known]
    lines += [f"{what}: {_named(those, cells)}: {why}" for (what, why), those in missing.items()]
    return _list("predictions", lines)


def _gaps(cell: Cell, item: Prediction) -> Iterable[tuple[str, str]]:
    """Yield what of a cell is not predicted, and why."""
    if item.step_time_s is None:
        yield "not predicted", item.reason
        return
    if item.training_s is None:
        limits = "its data tell how many steps an epoch has, once they are read"
        yield "training not predicted", limits if cell.goal.max_epochs else "goal sets neither max_steps nor max_epochs"
    if item.tensor_bytes is None and not item.out_of_memory:
        yield "memory not predicted", "workload.model does not give its activations"


def _blocks(cells: Iterable[Cell], predictions: Mapping[str, Prediction]) -> str:
    """Show what the blocks of each model of the user's own hold and take; those of the harness are known."""
    from harness.workloads.user_files import is_user_function

    shown: dict[tuple[str, str], str] = {}
    for cell in cells:
        found, name, precision = predictions.get(cell.cell_id), cell.workload.model.name, cell.workload.precision
        if found is None or found.profile is None or not is_user_function(name) or (name, precision) in shown:
            continue
        samples = found.micro_batch_size or 1
        head = f"blocks of {name} in {precision}, {counted(samples, 'sample')} at once, as {cell.strategy} passes them:"
        shown[name, precision] = f"{head}\n{_block_table(found.profile, samples)}"
    return "\n\n".join(shown.values())


def _block_table(profile: Profile, samples: int) -> str:
    """Return one row for each block; for each run of blocks that are alike one."""
    rows: list[tuple[tuple[str, ...], list[str]]] = []
    for layer, times in zip(profile.shape.layers, profile.times, strict=True):
        figures = (
            f"{layer.parameters:,}",
            memory_size(layer.activation_bytes.at(samples)),
            duration(times.forward.at(samples)),
            duration(times.backward.at(samples)),
        )
        if not rows or rows[-1][0] != figures:
            rows.append((figures, []))
        rows[-1][1].append(layer.name)
    head = ("block", "alike", "parameters", "kept for backward", "forward", "backward")
    return table(head, [(_span(names), str(len(names)), *figures) for figures, names in rows])


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _row(cell: Cell, gpu_name: str, differing: set[tuple[str, str]], swept: Sequence[str]) -> tuple[str, ...]:
    options = {key: value for key, value in cell.options.items() if (cell.strategy, key) in differing}
    values = _swept(cell)
    return (
        cell.strategy + (f" {show(options)}" if options else ""),
        cell.synchrony,
        engine_in_words(cell, gpu_name),
        _batch(cell),
        _rate(cell),
        *(values.get(key, "") for key in swept),
    )


def _rate(cell: Cell) -> str:
    return "-" if cell.timing_only else f"{cell.learning_rate:g}" + (f" ({cell.lr_rule})" if cell.lr_rule else "")


def differences(cells: Iterable[Cell]) -> dict[str, str]:
    """Return by cell what its id does not say in words: options, swept keys and micro-batch, where cells differ."""
    cells = tuple(cells)
    differing = varied_settings((cell.strategy, cell.options) for cell in cells)
    swept = {key for cell in cells for key in cell.swept}
    micro = len({cell.micro_batch_size / cell.batch_size for cell in cells}) > 1
    found = {}
    for cell in cells:
        values = [f"{key} {show(value)}" for key, value in cell.options.items() if (cell.strategy, key) in differing]
        values += [f"{key} {value}" for key, value in _swept(cell).items()] if swept else []
        values += [_micro_batch(cell)] if micro else []
        found[cell.cell_id] = ", ".join(values)
    return found


def _swept(cell: Cell) -> dict[str, str]:
    return {key.removeprefix("workload."): show(value).strip('"') for key, value in cell.swept.items()}


def _batch(cell: Cell) -> str:
    """Write the batch as a product: part of one rank x ranks = samples behind an update."""
    ranks = -(-cell.global_batch_size // cell.batch_size)
    micro = "" if cell.micro_batch_size == cell.batch_size else f", {_micro_batch(cell)}"
    return f"{cell.batch_size} x {ranks} = {cell.global_batch_size}{micro}"


def _micro_batch(cell: Cell) -> str:
    return "largest micro-batch" if cell.micro_batch_size == LARGEST else f"micro-batch {cell.micro_batch_size}"


def _why_not(cell: Cell, predictions: Mapping[str, Prediction]) -> str:
    """Return why a cell cannot be run: this machine cannot, or the strategy cannot with this model."""
    found = predictions.get(cell.cell_id)
    return cell.not_possible or (found.not_possible if found else "")


def _not_possible(cells: Iterable[Cell], predictions: Mapping[str, Prediction]) -> str:
    lines = dict.fromkeys(
        f"{cell.strategy}, gpus {cell.gpus}: {why}" for cell in cells if (why := _why_not(cell, predictions))
    )
    return _list("not possible (recorded as not-possible)", lines)


def _left_out(left_out: Sequence[LeftOut]) -> str:
    ordered = sorted(left_out, key=lambda item: (item.kind, item.strategy, item.reason))
    lines = []
    for (kind, strategy, reason), group in groupby(ordered, key=lambda item: (item.kind, item.strategy, item.reason)):
        points = [item.point for item in group]
        more = f" and {counted(len(points) - 1, 'more point')}" if len(points) > 1 else ""
        lines.append(f"{strategy}, {points[0]}{more}: {kind} ({reason})")
    return _list("left out", lines)


def _notes(plan: Plan) -> str:
    counts: dict[str, dict[str, None]] = {}
    for cell in plan.cells:
        for note in cell.notes:
            counts.setdefault(note, {})[f"{cell.strategy} on {cell.gpus}"] = None
    lines = [f"{', '.join(where)}: {note}" for note, where in counts.items()]
    return _list("notes", [*plan.notes, *lines])


def _list(head: str, lines: Iterable[str]) -> str:
    lines = list(lines)
    return "\n".join([f"{head}:", *(f"  {line}" for line in lines)]) if lines else ""
