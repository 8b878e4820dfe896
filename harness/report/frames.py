"""From a scenario's results to the frames that figures are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis.exact import MIN_SEEDS
from harness.analysis.exam import exams, failed
from harness.analysis.noise_windows import noise_frame
from harness.analysis.points import TRIED, Point, Row, has_target, not_ranked, number, points
from harness.analysis.ranking import Standing
from harness.analysis.scaling import scaling_frame, tails_frame
from harness.analysis.time_parts import TRAINING, bubbles_frame, staleness_frame
from harness.analysis.usage import computing_frame, sampled_frame
from harness.core.cell import Cell
from harness.core.device_words import engine_in_words
from harness.core.words import show
from harness.report.scenario_results import ScenarioResults
from harness.report.svg import NOT_RANKED
from harness.results.store import COLUMNS, Record

LOSSES = ("accuracy", "train_loss", "validation_loss")
MEASURED = ("samples", "time_s", "validation_accuracy", "train_loss", "validation_loss")
CURVE_COLUMNS = ("panel", "simulated", "strategy", "gpus", "line", "seed", "cell_id", "samples", "time_s", *LOSSES)
BAR_COLUMNS = (
    "cell_id",
    "simulated",
    "strategy",
    "gpus",
    "label",
    "throughput",
    "stated",
    "dram_total",
    "dram_capacity",
    "allocated",
    "reserved",
    "nvml_used",
)

NUMBERS = ("throughput", "stated", "dram", "allocated", "reserved", "nvml", *TRAINING)
"""How columns of numbers begin."""

MOST_STEPS_READ = 400
"""Cells whose steps are read for intervals of speed-ups; chosen: about two seconds."""

MOST_SPREADS = 24
"""Points whose steps are read for their tails; chosen: more rows in one figure are not looked at."""

MOST_NOISY = 6
"""Points whose noise scale is read and drawn, the best first; chosen: of more lines none can be followed."""

MOST_STALE = 12
"""Points whose staleness is read and drawn; chosen: more lines in one figure cannot be told apart."""


def cells_frame(scenario: ScenarioResults) -> pd.DataFrame:
    """Return one row for each finished cell, columns as in cells.csv."""
    extra = sorted({key for row in scenario.rows for key in row} - set(COLUMNS))
    return pd.DataFrame(list(scenario.rows), columns=[*COLUMNS, *extra])


# -- curves ------------------------------------------------------------------------------------------------------------


def curves_frame(scenario: ScenarioResults) -> pd.DataFrame:
    """Return one row for each evaluation.

    Cells of one panel differ in strategy, devices and seed only; lines of one panel in the seed only.
    """
    cells = [cell for cell in scenario.plan.cells if scenario.evaluations.get(cell.cell_id)]
    varied = varied_options(cells)
    unranked = _unranked(scenario.rows)
    rows = [
        (*head, *(row.get(key) for key in MEASURED))
        for cell in cells
        for head in [_curve_head(cell, varied, scenario.plan.machine.gpu_name, cell.cell_id in unranked)]
        for row in scenario.evaluations[cell.cell_id]
    ]
    frame = pd.DataFrame(rows, columns=list(CURVE_COLUMNS))
    return frame.astype(dict.fromkeys(("samples", "time_s", *LOSSES), float))


def _curve_head(cell: Cell, varied: set[tuple[str, str]], gpu_name: str, unranked: bool) -> tuple[Any, ...]:
    line = f"{name_in_words(cell, varied)}, {engine_in_words(cell, gpu_name)}{NOT_RANKED * unranked}"
    panel = ", ".join(
        [f"global batch {cell.global_batch_size}", f"learning rate {cell.learning_rate:g}", *_swept(cell)]
    )
    return panel, cell.engine == "virtual", cell.strategy, cell.gpus, line, cell.seed, cell.cell_id


# -- bars --------------------------------------------------------------------------------------------------------------


def labels_of(scenario: ScenarioResults) -> dict[str, str]:
    """Return by cell id what its speed and memory depend on, in words: neither rate nor seed.

    What is shown without being ranked says so.
    """
    cells = [cell for cell in scenario.plan.cells if cell.cell_id in scenario.records]
    batches = len({cell.global_batch_size for cell in cells}) > 1
    at_once = {(cell.strategy, cell.gpus, cell.batch_size, cell.micro_batch_size) for cell in cells}
    micros = len(at_once) > len({point[:3] for point in at_once})
    varied = varied_options(cells)
    labels = {c.cell_id: _bar_label(c, varied, scenario.plan.machine.gpu_name, batches, micros) for c in cells}
    unranked = _unranked(scenario.rows)
    return {cell_id: label + NOT_RANKED * (cell_id in unranked) for cell_id, label in labels.items()}


def _unranked(rows: Sequence[Row]) -> set[str]:
    """Return the cells of strategies that failed the entry exam, and those with more workers than devices."""
    barred = failed(exams(rows))
    return {row["cell_id"] for row in rows if not_ranked(row) or (row["strategy"], row["engine"]) in barred}


def bars_frame(scenario: ScenarioResults) -> pd.DataFrame:
    """Return one row for each cell with a record: throughput, parts of a step, kinds of DRAM as columns dram.KIND."""
    labels = labels_of(scenario)
    rows = [_bar(cell, scenario, labels) for cell in scenario.plan.cells if cell.cell_id in labels]
    columns = list(dict.fromkeys([*BAR_COLUMNS, *TRAINING, *(key for row in rows for key in row)]))
    numbers = {key: float for key in columns if key.startswith(NUMBERS)}
    return pd.DataFrame(rows, columns=columns).astype(numbers)


def _bar(cell: Cell, scenario: ScenarioResults, labels: Mapping[str, str]) -> dict[str, Any]:
    record = scenario.records[cell.cell_id]
    row: dict[str, Any] = {"cell_id": cell.cell_id, "simulated": cell.engine == "virtual", "strategy": cell.strategy}
    row |= {"gpus": cell.gpus, "label": labels[cell.cell_id], "dram_capacity": cell.dram_bytes}
    row |= {"throughput": record.row.get("throughput_samples_per_s"), "stated": record.row.get("stated_error")}
    row |= {"dram_total": record.row.get("dram_tensors_peak_bytes")}
    return row | _peaks(cell, record) | _parts(record.row) | _dram(cell, record)


def _parts(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of an update by part; what was not measured of a measured cell counts as 0."""
    steps = number(row, "steps")
    if not steps or number(row, "compute_s") is None:
        return {}
    # Rounding leaves some 1e-14 s below 0 in what is the rest of the others.
    return {part: max(0.0, number(row, part) or 0.0) / steps for part in TRAINING}


def parts_frame(bars: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each label, of its cell with the median step: so its parts add up to the step."""
    known = bars.dropna(subset=list(TRAINING))
    known = known.assign(step_s=known[list(TRAINING)].sum(axis=1))
    known = known[known["step_s"] > 0]
    order = list(dict.fromkeys(known["label"]))
    ranked = known.sort_values("step_s", kind="stable")
    groups = ranked.groupby("label")
    middle = ranked[groups.cumcount() == (groups["label"].transform("size") - 1) // 2]
    columns = ["label", "simulated", "strategy", "gpus", *TRAINING]
    return middle.set_index("label").loc[order].reset_index()[columns]


def _peaks(cell: Cell, record: Record) -> dict[str, Any]:
    """Return what CUDA's allocator held, measured or as it is predicted to, and what NVML saw."""
    allocated, reserved = (record.row.get(f"dram_{kind}_peak_bytes") for kind in ("allocated", "reserved"))
    memory = _memory(record)
    if cell.engine == "virtual" and cell.device == "cuda" and memory:
        allocated, reserved = memory["allocated_bytes"], memory["reserved_bytes"]
    return {"allocated": allocated, "reserved": reserved, "nvml_used": record.row.get("nvml_used_peak_bytes")}


def _memory(record: Record) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = (record.detail or {}).get("facts") or {}
    return facts.get("memory") or {}


def _dram(cell: Cell, record: Record) -> dict[str, int]:
    """Return counted bytes by kind; of a simulated GPU the driver's context too, which a real one's NVML shows."""
    counted = {kind: number for kind, number in ((record.detail or {}).get("dram") or {}).items() if number}
    context = _memory(record).get("context_bytes") if cell.engine == "virtual" else None
    return {f"dram.{kind}": number for kind, number in (counted | ({"context": context} if context else {})).items()}


def _bar_label(cell: Cell, varied: set[tuple[str, str]], gpu_name: str, batches: bool, micros: bool) -> str:
    parts = [name_in_words(cell, varied)]
    parts += [f"global batch {cell.global_batch_size}"] if batches else []
    parts += [f"micro-batch {cell.micro_batch_size or 'largest'}"] if micros else []
    return ", ".join([*parts, *_swept(cell), engine_in_words(cell, gpu_name)])


def name_in_words(cell: Cell, varied: set[tuple[str, str]]) -> str:
    """Return the strategy's name with those of its options that vary in the plan."""
    options = (f"{key} {show(value)}" for key, value in cell.options.items() if (cell.strategy, key) in varied)
    return " ".join([cell.strategy, *options])


def varied_options(cells: Iterable[Cell]) -> set[tuple[str, str]]:
    """Return (strategy, option) wherever cells of one strategy differ in it."""
    seen: dict[tuple[str, str], set[str]] = {}
    for cell in cells:
        for key, value in cell.options.items():
            seen.setdefault((cell.strategy, key), set()).add(show(value))
    return {name for name, values in seen.items() if len(values) > 1}


def _swept(cell: Cell) -> list[str]:
    return [f"{key.removeprefix('workload.')} {show(value)}" for key, value in cell.swept.items()]


# -- steps and devices over time ---------------------------------------------------------------------------------------


def tails(scenario: ScenarioResults, cells: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return how the steps of the first cell of each label spread."""
    labelled = cells.assign(label=cells["cell_id"].map(labels), simulated=cells["engine"] == "virtual")
    first = labelled.drop_duplicates("label").head(MOST_SPREADS)
    tables = list(_timed_steps(scenario, first["cell_id"]))
    if not tables:
        return pd.DataFrame()
    found = tails_frame(first, pd.concat(tables, ignore_index=True), warmup_of(scenario))
    return found.merge(first[["cell_id", "label", "simulated"]], on="cell_id") if len(found) else found


def _timed_steps(scenario: ScenarioResults, cell_ids: Iterable[str]) -> Iterator[pd.DataFrame]:
    """Read the steps of cells one table at a time, leaving out those that say nothing of when steps began."""
    for cell_id in cell_ids:
        steps = scenario.table("steps", cell_id).assign(cell_id=cell_id)
        if "start_s" in steps.columns and steps["start_s"].notna().any():
            yield steps


def warmup_of(scenario: ScenarioResults) -> int:
    """Return how many steps of a run are left out of its speed, the same for all cells."""
    return int(scenario.plan.cells[0].measure["warmup_steps"])


def usage(scenario: ScenarioResults, rows: Iterable[Row], labels: Mapping[str, str]) -> pd.DataFrame:
    """Return how busy the devices of some cells were over time, by every gauge that was read of them."""
    found = []
    for row in rows:
        telemetry = scenario.table("telemetry", row["cell_id"])
        gauges = {name: sampled_frame(telemetry, row, name) for name in ("nvml_gpu_utilisation", "host_cpu")}
        if row["device"] == "cuda":  # there the host's cores feed the devices, and are none
            gauges["nvml_used"] = sampled_frame(telemetry, row, "nvml_used")
            del gauges["host_cpu"]
        gauges["computing"] = computing_frame(scenario.table("steps", row["cell_id"]))
        head = {"simulated": row["engine"] == "virtual", "strategy": row["strategy"], "gpus": row["gpus"]}
        head |= {"label": labels[row["cell_id"]]}
        found += [frame.assign(gauge=name, **head) for name, frame in gauges.items() if len(frame) > 1]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


# -- scaling, bubbles, staleness, noise --------------------------------------------------------------------------------


def scaling_lines(scenario: ScenarioResults, cells: pd.DataFrame) -> pd.DataFrame:
    """Return speed-ups with the line that each point belongs to: its strategy, options and what is held fixed.

    Where runs are too few for an interval, their steps are read for one.
    """
    few = [
        row["cell_id"]
        for point in points([row for row in scenario.rows if row["engine"] != "virtual"], by_target=False)
        for row in point.rows
        if len(point.rows) < MIN_SEEDS
    ]
    # The first device's starts are all that is asked of them: whole tables of long runs would fill the memory.
    tables = [_first_device(table) for table in _timed_steps(scenario, few[:MOST_STEPS_READ])]
    found = scaling_frame(cells, pd.concat(tables, ignore_index=True) if tables else None)
    if not len(found):
        return found
    fixed = found["global_batch_size"].where(found["scaling"] == "strong", found["batch_size"])
    several = fixed.groupby(found["scaling"]).transform("nunique") > 1
    held = found["scaling"].map({"strong": "global batch", "weak": "batch"})
    batch = (held + " " + fixed.astype(int).astype(str)).where(several, "")
    barred = failed(exams(scenario.rows))
    out = [NOT_RANKED * (who in barred) for who in zip(found["strategy"], found["engine"], strict=True)]
    parts = zip(found["strategy"], found["details"], batch, out, strict=True)
    names = [", ".join(filter(None, words)) + end for *words, end in parts]
    return found.assign(simulated=found["engine"] == "virtual", line=names)


def _first_device(steps: pd.DataFrame) -> pd.DataFrame:
    first = steps[(steps["worker"] == 0) & (steps["device"].fillna(0) == 0)]
    return first[["cell_id", "worker", "device", "start_s"]]


def bubbles(cells: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return one row for each label with a pipeline: its bubble beside theory."""
    if "pipeline" not in cells.columns:
        return pd.DataFrame()
    found = bubbles_frame(cells)
    if not len(found):
        return found
    found = found.assign(simulated=found["engine"] == "virtual", label=found["cell_id"].map(labels))
    keys = ["label", "simulated", "strategy", "gpus", "schedule", "stages", "microbatches"]
    columns = {"bubble": "median", "ideal": "first", "cell_id": "first"}
    return found.groupby(keys, as_index=False, sort=False).agg(columns)


def staleness(scenario: ScenarioResults, cells: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return how often each staleness occurred, of the first cell of each label with an asynchronous server."""
    stale = cells[cells["synchrony"] != "synchronous"]
    first = stale.assign(label=stale["cell_id"].map(labels)).drop_duplicates("label").head(MOST_STALE)
    tables = [scenario.table("updates", cell_id).assign(cell_id=cell_id) for cell_id in first["cell_id"]]
    tables = [table for table in tables if "staleness" in table.columns and len(table)]
    if not tables:
        return pd.DataFrame()
    found = staleness_frame(cells, pd.concat(tables, ignore_index=True))
    found = found.assign(simulated=found["engine"] == "virtual", label=found["cell_id"].map(labels))
    return found.sort_values(["strategy", "gpus", "label", "staleness"])


def noise(scenario: ScenarioResults, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return the noise scale over the course of training of each label at its best rate, median over seeds."""
    tried = [row for row in scenario.rows if row["status"] in TRIED]
    best: dict[str, Point] = {}
    for standing in sorted(map(Standing, points(tried, has_target(tried))), key=lambda standing: standing.rank):
        if standing.point.median_of(lambda row: number(row, "noise_scale_samples")) is not None:
            best.setdefault(labels[standing.point.row["cell_id"]], standing.point)
    frames = []
    for label, point in list(best.items())[:MOST_NOISY]:
        head = {"label": label, "simulated": point.row["engine"] == "virtual", "strategy": point.strategy}
        head |= {"gpus": point.gpus, "global_batch_size": point.row["global_batch_size"]}
        head |= {"learning_rate": point.row["learning_rate"]}
        head["over_all"] = point.median_of(lambda row: number(row, "noise_scale_samples"))
        frames.append(noise_frame([scenario.table("updates", row["cell_id"]) for row in point.rows]).assign(**head))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
