"""The check as people read it, and as a document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.commands.check.verdicts import Grade, Line, LineVerdict
from harness.commands.documents import DOCUMENT_SCHEMA, CheckDocument, CheckedEntry, VerdictEntry
from harness.core.words import counted, duration

IN_TABLE = {Grade.PASSED: "passed", Grade.FAILED: "FAILED", Grade.NOT_APPLICABLE: "-"}
"""A line that does not apply is a dash: what failed must stand out."""

GRADE_WIDTH = max(map(len, IN_TABLE.values()))
TITLE_WIDTH = max(len(line.promise) for line in Line)


def line_text(verdict: LineVerdict) -> str:
    """Return one line of the table; a failure takes several: what, where, and the likely cause."""
    head = f"  {IN_TABLE[verdict.grade]:{GRADE_WIDTH}}  {verdict.line.promise:{TITLE_WIDTH}}"
    if verdict.grade is not Grade.FAILED:
        return f"{head}  {verdict.found}"
    indent = " " * (GRADE_WIDTH + 4)
    parts = (("what", verdict.found), ("where", verdict.where), ("likely", verdict.cause))
    return "\n".join([head.rstrip(), *(f"{indent}{word + ':':8}{text}" for word, text in parts if text)])


def summary_text(name: str, verdicts: Sequence[LineVerdict], quick: bool) -> str:
    """Return what it comes to."""
    counts = Counter(verdict.grade for verdict in verdicts)
    seconds = duration(sum(verdict.seconds for verdict in verdicts))
    told = f"{name}: {counted(counts[Grade.PASSED], 'line')} passed, {counts[Grade.FAILED]} failed, "
    told += f"{counts[Grade.NOT_APPLICABLE]} do not apply; {seconds}"
    if counts[Grade.FAILED]:
        return f"{told}\nnext: mend the first line that failed; others may follow from it"
    next_step = "the same command without --quick looks at more devices, both engines and BatchNorm"
    more = f"\nnext: {next_step}" if quick else ""
    return f"{told}{more}"


def check_document(checked: Sequence[tuple[str, Sequence[LineVerdict]]], quick: bool) -> CheckDocument:
    """Return all verdicts as `--json` prints them."""
    entries = tuple(
        CheckedEntry(name, not any_failed(verdicts), tuple(map(_entry, verdicts))) for name, verdicts in checked
    )
    return CheckDocument(DOCUMENT_SCHEMA, quick, all(entry.passed for entry in entries), entries)


def any_failed(verdicts: Sequence[LineVerdict]) -> bool:
    """Whether any line failed."""
    return any(verdict.grade is Grade.FAILED for verdict in verdicts)


def _entry(verdict: LineVerdict) -> VerdictEntry:
    return VerdictEntry(
        line=verdict.line,
        grade=verdict.grade,
        title=verdict.line.promise,
        found=verdict.found,
        where=verdict.where,
        cause=verdict.cause,
        seconds=verdict.seconds,
    )
