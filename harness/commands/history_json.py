"""A history as a document."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.analysis.compare_words import point_in_words
from harness.analysis.nights import Night
from harness.analysis.trend_words import cause_in_words, remarks, verdict
from harness.analysis.trends import PointTrend, Shift, Trends
from harness.commands.documents import (
    DOCUMENT_SCHEMA,
    Fact,
    HistoryDocument,
    LevelEntry,
    NightEntry,
    ShiftEntry,
    TrendEntry,
    TrendsEntry,
)


def history_document(all_found: Sequence[Trends]) -> HistoryDocument:
    """Return a history as `--json` prints it."""
    return HistoryDocument(schema=DOCUMENT_SCHEMA, trends=tuple(map(_trends, all_found)))


def _trends(found: Trends) -> TrendsEntry:
    return TrendsEntry(
        scenario=found.scenario,
        machine=found.machine,
        verdict=verdict(found),
        nights=tuple(map(_night, found.nights)),
        left_out=tuple(night.night for night in found.left_out),
        nights_needed=found.nights_needed,
        drift=found.drift,
        shifts=tuple(_shift(shift, found) for shift in found.shifts),
        points=tuple(_point(point, found) for point in found.points),
        notes=tuple(remarks(found)),
    )


def _night(night: Night) -> NightEntry:
    return NightEntry(
        night=night.night,
        commit=night.commit,
        dirty=night.dirty,
        runs=len(night.rows),
        reference_kind=night.reference_kind,
        reference_s=None if night.reference is None else math.exp(night.reference),
    )


def _point(point: PointTrend, found: Trends) -> TrendEntry:
    names = [night.night for night in found.nights]
    return TrendEntry(
        key=point.key,
        point=point_in_words(point.row),
        engine=str(point.row["engine"]),
        nights=tuple(names[place] for place in point.nights),
        measured_s=point.measured_s,
        adjusted_s=point.adjusted_s,
        runs=point.runs,
        levels=tuple(LevelEntry(names[level.first], names[level.last], level.seconds) for level in point.levels),
        run_spread=point.run_spread,
        night_spread=point.night_spread,
        statuses=dict(point.statuses),
    )


def _shift(shift: Shift, found: Trends) -> ShiftEntry:
    return ShiftEntry(
        by=shift.by,
        points=shift.points,
        together=shift.together,
        factor=shift.factor,
        before=shift.before.night,
        after=shift.after.night,
        seen=shift.seen.night,
        earliest=shift.earliest.night,
        latest=shift.latest.night,
        good_commit=shift.usual.commit,
        bad_commit=shift.latest.commit,
        changed=tuple(Fact(*fact) for fact in shift.changed),
        reference=shift.reference,
        sentence=cause_in_words(shift, found),
    )
