"""Results as a document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.analysis.answer import Answer
from harness.analysis.cell_row import as_shown
from harness.commands.documents import (
    DOCUMENT_SCHEMA,
    AnswerEntry,
    CaseEntry,
    CellEntry,
    ConfirmationEntry,
    ScenarioEntry,
    ShowDocument,
)
from harness.commands.show_text import cell_at, finished, folders_at
from harness.commands.turning_points import folder_answer
from harness.results.store import Record, Results


def show_document(what: Sequence[str], root: Path, plugins: Sequence[str] = ()) -> ShowDocument:
    """Return cells, or the scenarios of a folder, as `--json` prints them.

    Raises:
        InputError: there is nothing of that name, or a cell is not finished.
    """
    if len(what) > 1 or cell_at(what[0], root) is not None:
        cells = [finished(name, root, "`harness run` finishes it")[0] for name in what]
        return ShowDocument(DOCUMENT_SCHEMA, (), tuple(map(_cell, cells)))
    return ShowDocument(DOCUMENT_SCHEMA, tuple(_scenario(found, plugins) for found in folders_at(what[0], root)), ())


def _cell(record: Record) -> CellEntry:
    row = as_shown({**record.row, "status": record.status})
    return CellEntry(
        cell_id=record.cell.cell_id,
        status=record.status,
        cause=record.cause,
        reason=record.reason,
        notes=record.notes,
        row=row,
        environment=record.environment,
        disturbances={str(kind): amount for kind, amount in record.disturbances.items()},
    )


def _scenario(results: Results, plugins: Sequence[str]) -> ScenarioEntry:
    plan, records = results.plan(), results.records()
    found = folder_answer(results, plugins)
    return ScenarioEntry(
        name=plan.name,
        planned=len(plan.cells),
        statuses={str(status): count for status, count in Counter(r.status for r in records.values()).items()},
        answer=answer_entry(found),
        cells=tuple(map(_cell, records.values())),
    )


def answer_entry(found: Answer) -> AnswerEntry:
    """Return an answer as it stands in documents."""
    cases = tuple(
        CaseEntry(
            case.of,
            str(case.answer.kind),
            case.answer.headline,
            case.answer.leader,
            case.answer.caveats,
            _confirmation(case.answer),
        )
        for case in found.cases
    )
    return AnswerEntry(
        str(found.kind), found.headline, found.sentence, found.leader, found.caveats, cases, _confirmation(found)
    )


def _confirmation(found: Answer) -> ConfirmationEntry:
    stated = found.confirmation
    return ConfirmationEntry(stated.ground, stated.seeds, stated.done, stated.of, stated.words)
