"""A comparison as annotations of GitHub Actions: lines that its log turns into marks on the run's page."""

from __future__ import annotations

from harness.analysis.compare_words import conclusion, point_in_words, sentence, together_in_words
from harness.analysis.compared import SLOWER, ChangeKind, Comparison, Finding, Verdict

MOST = 10
"""Annotations of one kind that GitHub shows of a step; the rest would vanish without a word."""

_IN_MESSAGE = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_IN_TITLE = _IN_MESSAGE | str.maketrans({":": "%3A", ",": "%2C"})

_LEVEL = {ChangeKind.REGRESSION: "error", ChangeKind.SUSPECT: "warning"}


def annotation_lines(found: Comparison) -> list[str]:
    """Return what got worse as workflow commands, and the conclusion as the last one.

    Source: GitHub's documentation of workflow commands, and its toolkit for what has to be escaped.
    """
    worse: dict[ChangeKind, list[Finding]] = {kind: [] for kind in SLOWER}
    for finding in found.findings:
        if finding.kind in worse:
            worse[finding.kind].append(finding)
    lines = []
    for kind, findings in worse.items():
        # One place is kept for what is said of the others, another for the conclusion.
        shown = findings if len(findings) < MOST else findings[: MOST - 2]
        lines += [_line(_LEVEL[kind], point_in_words(f.row), sentence(f)) for f in shown]
        if left := len(findings) - len(shown):
            lines.append(_line(_LEVEL[kind], "not shown here", f"{left} more; see the report"))
    together = [one.gated.kind for one in found.together if one.gated.kind in _LEVEL]
    words = zip(together, together_in_words(found), strict=True)
    lines += [_line(_LEVEL[kind], "all points together", str(text)) for kind, text in words if kind]
    quiet = found.verdict is Verdict.NO_REGRESSION
    return [*lines, _line("notice" if quiet else "warning", "harness compare", str(conclusion(found)))]


def _line(level: str, title: str, message: str) -> str:
    return f"::{level} title={title.translate(_IN_TITLE)}::{message.translate(_IN_MESSAGE)}"
