"""A comparison as a document."""

from __future__ import annotations

from collections.abc import Iterable

from harness.analysis.compare_words import conclusion, point_in_words, sentence
from harness.analysis.compared import Change, Changed, Comparison, Finding, Gated, Together
from harness.commands.documents import (
    DOCUMENT_SCHEMA,
    BesideEntry,
    ChangeEntry,
    CompareDocument,
    DetectableEntry,
    DisturbedEntry,
    Fact,
    FoundEntry,
    TogetherEntry,
)


def compare_document(found: Comparison, base: str, new: str) -> CompareDocument:
    """Return a comparison as `--json` prints it."""
    return CompareDocument(
        schema=DOCUMENT_SCHEMA,
        base=base,
        new=new,
        verdict=found.verdict,
        exit_code=found.verdict.exit_code,
        sentence=conclusion(found),
        regression=bool(found.regressions),
        cells=found.cells,
        ended=found.ended,
        copies=found.copies,
        only_new=found.only_new,
        never_run=found.never_run,
        disturbed=DisturbedEntry(*found.noisy, found.disturbed_by),
        exact=found.exact,
        min_effect=found.min_effect,
        changed=_facts(found.changed),
        refused=_facts(found.refused),
        findings=tuple(map(_finding, found.findings)),
        changes=tuple(map(_change, found.changes)),
        learnt=tuple(map(_change, found.learnt)),
        detectable=tuple(DetectableEntry(point_in_words(d.row), d.quantity.column, d.factor) for d in found.detectable),
        together=tuple(map(_together, found.together)),
        notes=found.notes,
    )


def _facts(changed: Iterable[Changed]) -> tuple[Fact, ...]:
    return tuple(Fact(*fact) for fact in changed)


def _finding(finding: Finding) -> FoundEntry:
    interval = finding.interval
    return FoundEntry(
        kind=finding.kind,
        cell_id=finding.row["cell_id"],
        point=point_in_words(finding.row),
        quantity=finding.quantity.column,
        base=finding.base,
        new=finding.new,
        change=finding.change,
        interval=(interval.low, interval.high) if interval else None,
        coverage=interval.coverage if interval else None,
        runs=finding.runs,
        exact=finding.exact,
        beside=_beside(finding.gated),
        where=finding.where,
        detail=finding.detail,
        sentence=sentence(finding),
    )


def _together(together: Together) -> TogetherEntry:
    gated = together.gated
    return TogetherEntry(together.scenario, together.points, gated.kind, _entry(gated))


def _beside(gated: Gated | None) -> BesideEntry | None:
    return _entry(gated) if gated else None


def _entry(gated: Gated) -> BesideEntry:
    return BesideEntry(gated.basis, gated.nights, gated.relative, gated.limit, gated.fresh)


def _change(change: Change) -> ChangeEntry:
    return ChangeEntry(
        cell_id=change.row["cell_id"],
        point=point_in_words(change.row),
        quantity=change.quantity.column,
        base=change.base,
        new=change.new,
        change=change.ratio,
        interval=(change.interval.low, change.interval.high) if change.interval else None,
        kind=change.kind,
        beside=_beside(change.gated),
        parts={"base": dict(change.parts[0]), "new": dict(change.parts[1])},
    )
