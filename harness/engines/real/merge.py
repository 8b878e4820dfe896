"""Put together what the processes of a real cell say, and find out who waited for whom."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING

from harness.core.outcome import STEP_COLUMNS, Outcome, StepRow, columns
from harness.core.step_parts import Part
from harness.engines.shared.endpoint import until_the_end

if TYPE_CHECKING:
    from harness.core.cell import Cell


def merge(partials: list[StepRow], cell: Cell) -> Outcome:
    """Return one outcome of all processes' answers."""
    outcome: Outcome = next(p["outcome"] for p in partials if "outcome" in p)
    by_process = [p["rows"] for p in partials if p["rows"]]
    if len(by_process) > 1:
        split_waits(by_process)
    rows = until_the_end(list(chain.from_iterable(by_process)), cell, outcome.updates, outcome.training_s)
    for row in rows:
        row["start_s"] = max(0.0, row["start_s"])
    _join_staleness(rows, outcome, cell)
    outcome.steps = columns(rows, STEP_COLUMNS)
    outcome.setup_s = max(p["setup_s"] for p in partials)
    if compile_s := max(p.get("compile_s", 0.0) for p in partials):
        outcome.facts["compile_s"] = compile_s
    outcome.facts["ended_at_s"] = max(p["ended_at_s"] for p in partials)
    for partial in partials:
        outcome.notes += [note for note in partial["notes"] if note not in outcome.notes]
        outcome.recorded |= partial["recorded"]
        outcome.spans += partial["spans"]
        outcome.deliveries |= partial["deliveries"]
        for word, count in partial["unawaited"].items():
            outcome.unawaited[word] = outcome.unawaited.get(word, 0) + count
        if "dram" in partial:
            outcome.dram, outcome.facts["placement"] = partial["dram"], partial["placement"]
    for kind in {k for p in partials for k in p["allocator"]}:
        outcome.allocator[kind] = max(p["allocator"].get(kind, 0) for p in partials)
    steps = max(1, sum(1 for row in rows if row["worker"] == 0 and row["device"] == 0))
    outcome.bytes_sent_per_step = sum(p["bytes_sent"] for p in partials) / steps / cell.workers
    if by_process and "_actions" in by_process[0][0]:
        outcome.bubble_fraction = measured_bubble(by_process)
    return outcome


def _join_staleness(rows: list[StepRow], outcome: Outcome, cell: Cell) -> None:
    log = outcome.updates_log
    if cell.synchrony == "synchronous" or not log.get("update"):
        return
    known = {(w, s): t for w, s, t in zip(log["worker"], log["step"], log["staleness"], strict=True)}
    for row in rows:
        row["staleness"] = known.get((row["worker"], row["step"]))


def split_waits(by_process: list[list[StepRow]]) -> None:
    """Divide each exchange into waiting for a later process (idle) and transfer (communication)."""
    by_step: dict[int, list[StepRow]] = defaultdict(list)
    for rows in by_process:
        for row in rows:
            by_step[row["step"]].append(row)
    for rows in by_step.values():
        for group in _grouped(rows, "_group"):
            if all("_ready_s" in row for row in group):
                _split_exchange(group)
            elif all("_waits" in row for row in group):
                _split_gathers(group)
        if all("_actions" in row for row in rows):
            for pipeline in _grouped(rows, "_pipeline"):
                _split_pipeline(pipeline)


def _grouped(rows: list[StepRow], key: str) -> list[list[StepRow]]:
    """Return the rows of processes that exchange with each other; all of them where nothing else is said."""
    groups: dict[object, list[StepRow]] = defaultdict(list)
    for row in rows:
        groups[row.get(key)].append(row)
    return list(groups.values())


def _split_exchange(rows: list[StepRow]) -> None:
    latest = max(row["_ready_s"] for row in rows)
    for row in rows:
        _make_idle(row, min(row[Part.COMMUNICATION.column], max(0.0, latest - row["_ready_s"])))


def _split_gathers(rows: list[StepRow]) -> None:
    """Every process of a sharded model waits in the same order, so the k-th waits are one exchange."""
    for number in range(min(row["_waits"] for row in rows)):
        latest = max(row[f"_wait_{number}"] for row in rows)
        for row in rows:
            began, ended = row[f"_wait_{number}"], row[f"_waited_{number}"]
            _make_idle(row, max(0.0, min(ended, latest) - began))


def _make_idle(row: StepRow, idle_s: float) -> None:
    row[Part.COMMUNICATION.column] -= idle_s
    row[Part.IDLE.column] += idle_s


def _split_pipeline(rows: list[StepRow]) -> None:
    """A stage is idle until the stage it depends on has finished; after that its input is on the wire."""
    ended: dict[tuple[bool, int, int], float] = {}
    for row in rows:
        for number, (kind, stage, microbatch) in enumerate(row["_actions"]):
            if kind != "backward_weight":  # nobody waits for it
                ended[kind == "forward", stage, microbatch] = row[f"_ended_{number}"]
    for row in rows:
        previous, row["_bubble_s"] = row["_step_start"] + row[Part.INPUT.column], 0.0
        for number, (kind, stage, microbatch) in enumerate(row["_actions"]):
            gap = max(0.0, row[f"_action_{number}"] - previous)
            source = stage - 1 if kind == "forward" else stage if kind == "backward_weight" else stage + 1
            needed = ended.get((kind == "forward", source, microbatch), previous)
            idle = min(gap, max(0.0, needed - previous))
            row[Part.IDLE.column] += idle
            row["_bubble_s"] += idle
            row[Part.COMMUNICATION.column] += gap - idle
            previous = row[f"_ended_{number}"]
        row[Part.COMMUNICATION.column] += max(0.0, row["_step_end"] - previous)


def measured_bubble(by_process: list[list[StepRow]]) -> float:
    """Return the share of the stages' time inside steps in which they did not compute for want of input."""
    idle = sum(row["_bubble_s"] for rows in by_process for row in rows)
    span = sum(row["_step_end"] - row["_step_start"] for rows in by_process for row in rows)
    return float(idle / span) if span else 0.0
