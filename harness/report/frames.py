"""From a scenario's results to the frames that figures are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import pandas as pd

from harness.analysis.exact import MIN_SEEDS
from harness.analysis.judged_rows import judged_value, metric_of
from harness.analysis.noise_windows import noise_frame
from harness.analysis.points import (
    Point,
    Row,
    number,
    points,
)
from harness.analysis.ranking import Standing
from harness.analysis.result_findings import ResultFindings
from harness.analysis.scaling import scaling_frame, tails_frame
from harness.analysis.time_parts import TRAINING, bubbles_frame, staleness_frame
from harness.analysis.usage import computing_frame, limits_frame, sampled_frame
from harness.core.cell import Cell
from harness.core.clock_reasons import REASONS
from harness.core.device_words import engine_in_words
from harness.core.metrics import Judged
from harness.core.records import Json
from harness.core.row import COLUMNS
from harness.core.words import show, varied_settings
from harness.report.draw_usage import GPU_GAUGES
from harness.report.scenario_results import ScenarioResults
from harness.report.svg import MOST_BARS, NOT_RANKED
from harness.results.store import Record

LEARNT = ("accuracy", "train_loss", "validation_loss")
READ = ("samples", "time_s", "train_loss", "validation_loss")
CURVE_COLUMNS = (
    *("panel", "simulated", "ranked", "strategy", "gpus", "line", "seed", "cell_id"),
    *("samples", "time_s", *LEARNT),
)
BAR_COLUMNS = (
    *("cell_id", "simulated", "ranked", "strategy", "gpus", "label", "throughput", "stated"),
    *("dram_total", "dram_capacity", "allocated", "reserved", "nvml_used"),
)

NUMBERS = ("throughput", "stated", "dram", "allocated", "reserved", "nvml", *TRAINING)
"""How columns of numbers begin."""

MOST_STEPS_READ = 400
"""Cells whose steps are read for intervals of speed-ups; chosen: about two seconds."""

MOST_NOISY = 6
"""Points whose noise scale is read and drawn, the best first; chosen: of more lines none can be followed."""

MOST_STALE = 12
"""Points whose staleness is read and drawn; chosen: more lines in one figure cannot be told apart."""

MOST_WAYS = 6
"""Points of a single strategy in a small picture; chosen."""


def _judged(row: Mapping[str, object]) -> object:
    """Return what an evaluation found, accuracy or any other metric."""
    found = row.get("validation_accuracy")
    return row.get("validation_metric") if found is None else found


class PageFrames:
    """What a scenario's figures are drawn from, each frame made when it is first asked for."""

    def __init__(self, scenario: ScenarioResults) -> None:
        self.scenario = scenario

    # -- cells and their names -----------------------------------------------------------------------------------------

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row for each finished cell, columns as in cells.csv."""
        return cells_frame(self.scenario)

    @cached_property
    def target(self) -> float | None:
        """The accuracy, or other metric, that all cells were to reach; None where there is none or they differ."""
        goals = [cell.goal for cell in self.scenario.plan.cells]
        targets = {g.target_metric if g.target_accuracy is None else g.target_accuracy for g in goals}
        (target,) = targets if len(targets) == 1 else (None,)
        return target if isinstance(target, float) else None

    @cached_property
    def metric(self) -> Judged:
        """What the cells were judged by; the first where they differ."""
        return next((metric_of(row) for row in self.scenario.rows if judged_value(row) is not None), Judged())

    @property
    def findings(self) -> ResultFindings:
        """What the rows say, as the answer has it."""
        return self.scenario.findings

    @cached_property
    def unranked(self) -> set[str]:
        """Ids of the cells that are shown but not ranked: barred, or more workers than devices."""
        return {row["cell_id"] for row in self.scenario.rows if not self.findings.is_ranked(row)}

    @cached_property
    def best(self) -> list[Standing]:
        """Each ranked strategy's best point, the recommended first; of a single strategy the ways to split it.

        Of several questions those of each.
        """
        questions = self.findings.questions
        return [s for q in questions for s in (q.best if len(q.ranking.best) > 1 else _ways(q.standings))]

    @cached_property
    def best_ids(self) -> list[str]:
        """Ids of the cells of `best`, in its order."""
        return [row["cell_id"] for standing in self.best for row in standing.point.rows]

    @cached_property
    def labels(self) -> dict[str, str]:
        """What a cell's speed and memory depend on, in words, by its id: neither rate nor seed.

        What is shown without being ranked says so.
        """
        cells = [cell for cell in self.scenario.plan.cells if cell.cell_id in self.scenario.records]
        batches = len({cell.global_batch_size for cell in cells}) > 1
        at_once = {(cell.strategy, cell.gpus, cell.batch_size, cell.micro_batch_size) for cell in cells}
        micros = len(at_once) > len({point[:3] for point in at_once})
        varied = varied_settings((cell.strategy, cell.options) for cell in cells)
        labels = {c.cell_id: _bar_label(c, varied, self._gpu_name, batches, micros) for c in cells}
        return {cell_id: label + NOT_RANKED * (cell_id in self.unranked) for cell_id, label in labels.items()}

    @property
    def _gpu_name(self) -> str:
        return self.scenario.plan.machine.gpu_name

    def _labelled(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(label=frame["cell_id"].map(self.labels), simulated=frame["engine"] == "virtual")

    # -- curves --------------------------------------------------------------------------------------------------------

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row for each evaluation.

        Cells of one panel differ in strategy, devices and seed only; lines of one panel in the seed only.
        """
        cells = [cell for cell in self.scenario.plan.cells if self.scenario.evaluations.get(cell.cell_id)]
        varied = varied_settings((cell.strategy, cell.options) for cell in cells)
        rows = [
            (*head, *(row.get(key) for key in READ[:2]), _judged(row), *(row.get(key) for key in READ[2:]))
            for cell in cells
            for head in [self._curve_head(cell, varied)]
            for row in self.scenario.evaluations[cell.cell_id]
        ]
        frame = pd.DataFrame(rows, columns=list(CURVE_COLUMNS))
        return frame.astype(dict.fromkeys(("samples", "time_s", *LEARNT), float))

    def _curve_head(self, cell: Cell, varied: set[tuple[str, str]]) -> tuple[object, ...]:
        ranked = cell.cell_id not in self.unranked
        line = f"{name_in_words(cell, varied)}, {engine_in_words(cell, self._gpu_name)}{NOT_RANKED * (not ranked)}"
        settings = [f"global batch {cell.global_batch_size}", f"learning rate {cell.learning_rate:g}", *_swept(cell)]
        simulated = cell.engine == "virtual"
        return ", ".join(settings), simulated, ranked, cell.strategy, cell.gpus, line, cell.seed, cell.cell_id

    @cached_property
    def best_curves(self) -> pd.DataFrame:
        """Of `curves` those of `best`: one line for each point.

        In a panel they are named by less than what tells the points of a strategy apart.
        """
        chosen = self.curves[self.curves["cell_id"].isin(self.best_ids)]
        return chosen.assign(line=chosen["cell_id"].map(self.labels))

    # -- bars ----------------------------------------------------------------------------------------------------------

    @cached_property
    def bars(self) -> pd.DataFrame:
        """One row for each cell with a record: throughput, parts of a step, kinds of DRAM as columns dram.KIND."""
        rows = [self._bar(cell) for cell in self.scenario.plan.cells if cell.cell_id in self.labels]
        columns = list(dict.fromkeys([*BAR_COLUMNS, *TRAINING, *(key for row in rows for key in row)]))
        numbers = {key: float for key in columns if key.startswith(NUMBERS)}
        return pd.DataFrame(rows, columns=columns).astype(numbers)

    def _bar(self, cell: Cell) -> Json:
        record = self.scenario.records[cell.cell_id]
        row: Json = {"cell_id": cell.cell_id, "simulated": cell.engine == "virtual"}
        row |= {"ranked": cell.cell_id not in self.unranked, "strategy": cell.strategy, "gpus": cell.gpus}
        row |= {"label": self.labels[cell.cell_id], "dram_capacity": cell.dram_bytes}
        row |= {"throughput": record.row.get("throughput_samples_per_s"), "stated": record.row.get("stated_error")}
        row |= {"dram_total": record.row.get("dram_tensors_peak_bytes")}
        return row | _peaks(cell, record) | _parts(record.row) | _dram(cell, record)

    @cached_property
    def best_bars(self) -> pd.DataFrame:
        """Of `bars` those of `best`, in its order."""
        order = {cell_id: place for place, cell_id in enumerate(self.best_ids)}
        chosen = self.bars[self.bars["cell_id"].isin(order)]
        return chosen.sort_values("cell_id", key=lambda column: column.map(order))

    # -- steps and devices over time -----------------------------------------------------------------------------------

    @cached_property
    def tails(self) -> pd.DataFrame:
        """How the steps of the first cell of each label spread."""
        first = self._labelled(self.cells).drop_duplicates("label").head(MOST_BARS)
        tables = list(self._timed_steps(first["cell_id"]))
        if not tables:
            return pd.DataFrame()
        warmup = self.scenario.plan.cells[0].measure.warmup_steps  # the same for all cells
        found = tails_frame(first, pd.concat(tables, ignore_index=True), warmup)
        return found.merge(first[["cell_id", "label", "simulated"]], on="cell_id") if len(found) else found

    def _timed_steps(self, cell_ids: Iterable[str]) -> Iterator[pd.DataFrame]:
        """Read the steps of cells one table at a time, leaving out those that say nothing of when steps began."""
        for cell_id in cell_ids:
            steps = self.scenario.table("steps", cell_id).assign(cell_id=cell_id)
            if "start_s" in steps.columns and steps["start_s"].notna().any():
                yield steps

    @cached_property
    def usage(self) -> pd.DataFrame:
        """How busy the devices of the median run of each of `best` were over time, by every gauge that was read."""
        found = []
        for row in self._best_runs:
            telemetry = self.scenario.table("telemetry", row["cell_id"])
            names = GPU_GAUGES if row["device"] == "cuda" else ("host_cpu",)  # a GPU's host feeds it, and is no device
            gauges = {name: sampled_frame(telemetry, row, name) for name in names}
            gauges["computing"] = computing_frame(self.scenario.table("steps", row["cell_id"]))
            head = self._usage_head(row) | {"energy_j": number(row, "energy_j")}
            found += [frame.assign(gauge=name, **head) for name, frame in gauges.items() if len(frame) > 1]
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame()

    @property
    def _best_runs(self) -> list[Row]:
        """The median run of each of `best`."""
        return [standing.middle for standing in self.best if standing.reached]

    @property
    def _gpu_runs(self) -> list[Row]:
        """Of them those on GPUs of this machine."""
        return [row for row in self._best_runs if row["device"] == "cuda" and row["engine"] != "virtual"]

    def _usage_head(self, row: Row) -> Json:
        head: Json = {"simulated": row["engine"] == "virtual", "strategy": row["strategy"], "gpus": row["gpus"]}
        return head | {"label": self.labels[row["cell_id"]]}

    @cached_property
    def limits(self) -> pd.DataFrame:
        """What held the clocks back in the median run of each of `best`, reading by reading."""
        found = []
        for row in self._gpu_runs:
            telemetry = self.scenario.table("telemetry", row["cell_id"])
            frames = [limits_frame(telemetry, row, quantity) for quantity in REASONS]
            found += [frame.assign(**self._usage_head(row)) for frame in frames if len(frame)]
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame()

    @cached_property
    def probe_notes(self) -> dict[str, list[str]]:
        """What the probes had to say of the GPUs in the median run of each of `best`, with the labels it is said of."""
        found: dict[str, list[str]] = {}
        for row in self._gpu_runs:
            telemetry = (self.scenario.records[row["cell_id"]].detail or {}).get("telemetry") or {}
            lacking = [f"{probe}: {reason}" for probe, reason in telemetry.get("unavailable", {}).items()]
            for note in [*lacking, *telemetry.get("notes", ())]:
                found.setdefault(note, []).append(self.labels[row["cell_id"]])
        return found

    # -- scaling, bubbles, staleness, noise ----------------------------------------------------------------------------

    @cached_property
    def scaling(self) -> pd.DataFrame:
        """Speed-ups with the line that each point belongs to: its strategy, options and what is held fixed.

        Where runs are too few for an interval, their steps are read for one.
        """
        if not len(self.cells):
            return self.cells
        few = [
            row["cell_id"]
            for point in points([row for row in self.scenario.rows if row["engine"] != "virtual"], by_target=False)
            for row in point.rows
            if len(point.rows) < MIN_SEEDS
        ]
        # The first device's starts are all that is asked of them: whole tables of long runs would fill the memory.
        tables = [_first_device(table) for table in self._timed_steps(few[:MOST_STEPS_READ])]
        found = scaling_frame(self.cells, pd.concat(tables, ignore_index=True) if tables else None)
        if not len(found):
            return found
        fixed = found["global_batch_size"].where(found["scaling"] == "strong", found["batch_size"])
        several = fixed.groupby(found["scaling"]).transform("nunique") > 1
        held = found["scaling"].map({"strong": "global batch", "weak": "batch"})
        batch = (held + " " + fixed.astype(int).astype(str)).where(several, "")
        ranked = [cell_id not in self.unranked for cell_id in found["cell_id"]]
        parts = zip(found["strategy"], found["details"], batch, ranked, strict=True)
        names = [", ".join(filter(None, words)) + NOT_RANKED * (not known) for *words, known in parts]
        return found.assign(simulated=found["engine"] == "virtual", line=names, ranked=ranked)

    @cached_property
    def bubbles(self) -> pd.DataFrame:
        """One row for each label with a pipeline: its bubble beside theory."""
        found = bubbles_frame(self.cells) if "pipeline" in self.cells.columns else pd.DataFrame()
        if not len(found):
            return found
        keys = ["label", "simulated", "strategy", "gpus", "schedule", "stages", "microbatches"]
        columns = {"bubble": "median", "ideal": "first", "cell_id": "first"}
        return self._labelled(found).groupby(keys, as_index=False, sort=False).agg(columns)

    @cached_property
    def staleness(self) -> pd.DataFrame:
        """How often each staleness occurred, of the first cell of each label with an asynchronous server."""
        stale = self.cells[self.cells["synchrony"] != "synchronous"]
        first = self._labelled(stale).drop_duplicates("label").head(MOST_STALE)
        tables = [self.scenario.table("updates", cell_id).assign(cell_id=cell_id) for cell_id in first["cell_id"]]
        tables = [table for table in tables if "staleness" in table.columns and len(table)]
        if not tables:
            return pd.DataFrame()
        found = self._labelled(staleness_frame(self.cells, pd.concat(tables, ignore_index=True)))
        return found.sort_values(["strategy", "gpus", "label", "staleness"])

    @cached_property
    def noise(self) -> pd.DataFrame:
        """The noise scale over the course of training of each label at its best rate, median over seeds."""
        best: dict[str, Point] = {}
        for standing in self.findings.standings:
            if standing.point.median_of(_noise_scale) is not None:
                best.setdefault(self.labels[standing.point.row["cell_id"]], standing.point)
        frames = []
        for label, point in list(best.items())[:MOST_NOISY]:
            head = {"label": label, "simulated": point.row["engine"] == "virtual", "strategy": point.strategy}
            head |= {"gpus": point.gpus, "global_batch_size": point.row["global_batch_size"]}
            head |= {"learning_rate": point.row["learning_rate"], "over_all": point.median_of(_noise_scale)}
            tables = [self.scenario.table("updates", row["cell_id"]) for row in point.rows]
            frames.append(noise_frame(tables).assign(**head))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def cells_frame(scenario: ScenarioResults) -> pd.DataFrame:
    """Return one row for each finished cell, columns as in cells.csv."""
    extra = sorted({key for row in scenario.rows for key in row} - set(COLUMNS))
    return pd.DataFrame(list(scenario.rows), columns=[*COLUMNS, *extra])


def _ways(standings: Iterable[Standing]) -> list[Standing]:
    """Return the best point of each number of devices, option and micro-batch, by devices or else the best first."""
    ways: dict[tuple[object, ...], Standing] = {}
    for standing in standings:
        point = standing.point
        ways.setdefault((point.gpus, point.details, point.row.get("micro_batch_size")), standing)
    kept = list(ways.values())[:MOST_WAYS]
    several = len({standing.point.gpus for standing in kept}) > 1
    return sorted(kept, key=lambda standing: standing.point.gpus) if several else kept


def _noise_scale(row: Row) -> float | None:
    return number(row, "noise_scale_samples")


def _first_device(steps: pd.DataFrame) -> pd.DataFrame:
    first = steps[(steps["worker"] == 0) & (steps["device"].fillna(0) == 0)]
    return first[["cell_id", "worker", "device", "start_s"]]


# -- one bar -----------------------------------------------------------------------------------------------------------


def _parts(row: Row) -> dict[str, float]:
    """Return the seconds of an update by part; what was not measured of a measured cell counts as 0."""
    steps = number(row, "steps")
    if not steps or number(row, "compute_s") is None:
        return {}
    # Rounding leaves some 1e-14 s below 0 in what is the rest of the others.
    return {part: max(0.0, number(row, part) or 0.0) / steps for part in TRAINING}


def steps_by_part(bars: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each label, of its cell with the median step: so its parts add up to the step."""
    known = bars.dropna(subset=list(TRAINING))
    known = known.assign(step_s=known[list(TRAINING)].sum(axis=1))
    known = known[known["step_s"] > 0]
    order = list(dict.fromkeys(known["label"]))
    known = known.sort_values("step_s", kind="stable")
    groups = known.groupby("label")
    middle = known[groups.cumcount() == (groups["label"].transform("size") - 1) // 2]
    columns = ["label", "simulated", "strategy", "gpus", *TRAINING]
    return middle.set_index("label").loc[order].reset_index()[columns]


def _peaks(cell: Cell, record: Record) -> Json:
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


def _swept(cell: Cell) -> list[str]:
    return [f"{key.removeprefix('workload.')} {show(value)}" for key, value in cell.swept.items()]
