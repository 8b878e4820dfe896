"""The status of results folders as a document."""

from __future__ import annotations

from collections.abc import Iterable

from harness.commands.documents import (
    DOCUMENT_SCHEMA,
    BatchTaskEntry,
    FolderEntry,
    HarnessEntry,
    RunningEntry,
    StatusDocument,
)
from harness.commands.folder_status import FolderStatus


def status_document(found: Iterable[FolderStatus]) -> StatusDocument:
    """Return what `--json` prints."""
    return StatusDocument(DOCUMENT_SCHEMA, tuple(map(_folder, found)))


def _folder(found: FolderStatus) -> FolderEntry:
    return FolderEntry(
        folder=str(found.folder),
        scenario=found.scenario,
        state=found.state,
        planned=found.planned,
        done=found.done,
        statuses=dict(found.statuses),
        failed=found.failed,
        running=tuple(
            RunningEntry(each.cell_id, each.host, each.process, each.since, each.step, each.steps)
            for each in found.running
        ),
        harnesses=tuple(
            HarnessEntry(each.host, each.process, each.since, each.joins, each.live, each.silent_s)
            for each in found.harnesses
        ),
        batch_tasks=None
        if found.batch_tasks is None
        else tuple(BatchTaskEntry(each.key, each.state, each.node, each.why) for each in found.batch_tasks),
        seconds_left=found.seconds_left,
        unlike=found.unlike,
        cost=found.cost,
        currency=found.currency,
    )
