"""A plan as a document, and which of its cells are finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.api.host import Host
from harness.commands.documents import DOCUMENT_SCHEMA, LeftOutEntry, PlanDocument, PlannedEntry, PredictionEntry
from harness.commands.fresh_seeds import most_cells, most_confirm_s
from harness.commands.plan_text import left_of, predictions_of
from harness.commands.run_times import RunTime, RunTimes, time_left
from harness.core.cell import Cell, Plan
from harness.costs.price import Prediction
from harness.results.store import Record


def plan_document(plan: Plan, host: Host, records: Mapping[str, Record], folder: Path, times: RunTimes) -> PlanDocument:
    """Return a plan as `--json` prints it.

    Args:
        records: of its cells, as far as there are any.
        folder: that they are from.
        times: what cells take on this machine, by id.
    """
    predictions = predictions_of(plan, host)
    left = time_left(left_of(plan, [cell_id for cell_id, record in records.items() if record.final]), times)
    return PlanDocument(
        schema=DOCUMENT_SCHEMA,
        name=plan.name,
        description=plan.description,
        results=str(folder),
        understood=plan.understood,
        cells=tuple(
            _cell(c, records.get(c.cell_id), predictions.get(c.cell_id), times.known.get(c.cell_id)) for c in plan.cells
        ),
        left_out=tuple(LeftOutEntry(item.strategy, item.point, item.kind, item.reason) for item in plan.left_out),
        notes=plan.notes,
        confirm=plan.confirm,
        confirm_cells=sum(c.confirms for c in plan.cells) or most_cells(plan),
        confirm_s=most_confirm_s(plan, times) if plan.confirm else None,
        left_cells=left.cells,
        left_known=left.known,
        left_s=left.seconds,
    )


def _cell(cell: Cell, record: Record | None, found: Prediction | None, time: RunTime | None) -> PlannedEntry:
    return PlannedEntry(
        cell_id=cell.cell_id,
        strategy=cell.strategy,
        options=cell.options,
        synchrony=cell.synchrony,
        engine=cell.engine,
        device=cell.device,
        gpus=cell.gpus,
        workers=cell.workers,
        batch_size=cell.batch_size,
        micro_batch_size=cell.micro_batch_size,
        global_batch_size=cell.global_batch_size,
        learning_rate=cell.learning_rate,
        seed=cell.seed,
        swept=cell.swept,
        confirms=cell.confirms,
        status=record.status if record else None,
        finished=record is not None and record.final,
        not_possible=cell.not_possible or (found.not_possible if found else ""),
        notes=cell.notes,
        predicted=_predicted(found) if found else None,
        run_s=time.seconds if time else None,
        run_s_from=time.origin if time else None,
    )


def _predicted(found: Prediction) -> PredictionEntry:
    return PredictionEntry(
        step_time_s=found.step_time_s,
        throughput_samples_per_s=found.throughput_samples_per_s,
        throughput_tokens_per_s=found.throughput_tokens_per_s,
        training_s=found.training_s,
        tensor_bytes=found.tensor_bytes,
        dram_bytes=found.dram_bytes,
        micro_batch_size=found.micro_batch_size,
        cost=found.cost,
        error=found.error,
        out_of_memory=found.out_of_memory,
        reason=found.reason,
    )
