"""The comparison with an earlier night, as the page takes it: its words, worst first, and its figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.compare_times import changed_part
from harness.analysis.compare_words import (
    conclusion,
    could_detect,
    in_common,
    interval_in_words,
    noisy_in_words,
    point_in_words,
)
from harness.analysis.compared import SLOWER, UPDATE_TIME, ChangeKind, Comparison, Finding, Verdict
from harness.analysis.time_parts import TRAINING
from harness.core.words import change_in_percent, listed
from harness.report.draw_compare import grown_panels, ratio_panel
from harness.report.figures import Page
from harness.report.svg import Drawing

POINTS_OPEN = 4
"""Points of a kind that are seen at once; the rest is one click away; chosen: more would leave the first screen."""

BADGES: Mapping[ChangeKind | None, str] = {
    ChangeKind.REGRESSION: "Worse",
    ChangeKind.SUSPECT: "Suspect",
    ChangeKind.IMPLAUSIBLE: "Too good",
    ChangeKind.UNDECIDED: "Undecided",
    ChangeKind.IMPROVEMENT: "Better",
    None: "No worse",
}
"""The outcome in a word or two: nobody has to read it from a colour."""

TITLES: Mapping[ChangeKind, str] = {
    ChangeKind.REGRESSION: "Worse",
    ChangeKind.SUSPECT: "Slower: code or machine, these two nights cannot say",
    ChangeKind.IMPLAUSIBLE: "Too good to be true: check that it still does the same work",
    ChangeKind.UNDECIDED: "Undecided: this could be chance",
    ChangeKind.IMPROVEMENT: "Better",
}

TITLE_BESIDE = "Slower than the machine explains, but of one run: run it again"
"""Of suspects that were put beside the reference."""


@dataclass(frozen=True)
class Against:
    """What the report's results were compared with.

    Attributes:
        names: of base and new, as they were given.
    """

    found: Comparison
    names: tuple[str, str]


@dataclass(frozen=True)
class ChangedLine:
    """One quantity of a point that changed.

    Attributes:
        change: in percent; of a status what it is now.
        values: from what to what.
        detail: interval, seeds, reasons.
    """

    quantity: str
    change: str
    values: str
    detail: str


@dataclass(frozen=True)
class ChangedPoint:
    """One point, and what changed in it.

    Attributes:
        where: the part of the step that changed most; "" where none is known.
    """

    name: str
    where: str
    lines: tuple[ChangedLine, ...]


@dataclass(frozen=True)
class FoundGroup:
    """What was found of one kind.

    Attributes:
        points: the worst first; more: one click away.
    """

    kind: ChangeKind
    title: str
    points: tuple[ChangedPoint, ...]
    more: tuple[ChangedPoint, ...]


@dataclass(frozen=True)
class ShownAgainst:
    """The comparison as the template takes it.

    Attributes:
        outcome: what matters most of what was found.
        spread: which strategies got worse, in which part of the step, and which did not; "" where none did.
        noisy: how many cells were disturbed; "" where none was.
        remarks: what could have been detected, what was compared exactly, notes.
        changed: facts of the environment with their values before and after.
    """

    outcome: str
    badge: str
    verdict: str
    spread: str
    names: tuple[str, str]
    common: str
    groups: tuple[FoundGroup, ...]
    noisy: str
    remarks: tuple[str, ...]
    changed: tuple[tuple[str, str, str], ...]
    ratios: Drawing | None
    grown: tuple[Drawing, ...]


def shown_against(against: Against, page: Page) -> ShownAgainst:
    """Return a comparison for the template."""
    found = against.found
    outcome = found.worst
    nothing = found.verdict in (Verdict.NOTHING_COMPARED, Verdict.REFUSED)
    exactly = exact_in_words(found)
    ratios = page.drawn([ratio_panel(found.changes, found.min_effect, exactly)])
    detected = [f"{_capital(could_detect(found.detectable))}."] if found.detectable else []
    return ShownAgainst(
        outcome="undecided" if nothing else outcome or "unchanged",
        badge="Not compared" if nothing else BADGES[outcome],
        verdict=conclusion(found),
        spread=_spread(found),
        names=against.names,
        common=in_common(found),
        groups=tuple(_groups(found.findings)),
        noisy=noisy_in_words(found),
        remarks=(*detected, *([] if ratios else [exactly]), *(f"{_capital(note)}." for note in found.notes)),
        changed=found.changed,
        ratios=ratios[0] if ratios else None,
        grown=page.drawn(grown_panels(found.changes)),
    )


def exact_in_words(found: Comparison) -> str:
    """Say what was compared without an interval, and what came of it."""
    if not found.exact:
        return "Nothing was compared exactly: the two sides share no deterministic values."
    differ = sum(finding.exact for finding in found.findings)
    differing = f"{differ} differs" if differ == 1 else f"{differ} differ"
    what = f"{found.exact} values (bytes, samples, updates, counted memory) were compared exactly and are not drawn"
    return f"{what}: {differing if differ else 'all are the same'}."


def _spread(found: Comparison) -> str:
    worse = list(dict.fromkeys(str(finding.row["strategy"]) for finding in found.findings if finding.kind in SLOWER))
    grown = [part for c in found.changes if c.kind in SLOWER and (part := changed_part(c))]
    parts = listed(TRAINING[part] for part in dict.fromkeys(grown))
    rows = [change.row for change in found.changes] + [finding.row for finding in found.findings]
    others = list(dict.fromkeys(name for row in rows if (name := str(row["strategy"])) not in worse))
    if not worse:
        return ""
    text = f"Worse: {listed(worse)}{f', mostly in {parts}' if parts else ''}."
    return f"{text} {_unshown(found, others)}" if others else text


def _unshown(found: Comparison, others: Sequence[str]) -> str:
    """Say who shows no regression, and from what growth of a step on one would have shown."""
    factors = [d.factor for d in found.detectable if d.quantity is UPDATE_TIME and d.row["strategy"] in others]
    text = f"{listed(others)} {'shows' if len(others) == 1 else 'show'} no regression"
    if not factors:
        return f"{text}."
    least, most = (f"{100 * (factor - 1):.3g}" for factor in (min(factors), max(factors)))
    return f"{text}; a step {least if least == most else f'{least} to {most}'} % slower would have been detected."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _groups(findings: Sequence[Finding]) -> Iterable[FoundGroup]:
    for kind in ChangeKind:
        by_point: dict[str, list[Finding]] = {}
        for finding in findings:
            if finding.kind == kind:
                by_point.setdefault(point_in_words(finding.row), []).append(finding)
        points = [_point(name, found) for name, found in by_point.items()]
        if points:
            beside = kind is ChangeKind.SUSPECT and all(f.gated for found in by_point.values() for f in found)
            title = TITLE_BESIDE if beside else TITLES[kind]
            yield FoundGroup(kind, title, tuple(points[:POINTS_OPEN]), tuple(points[POINTS_OPEN:]))


def _point(name: str, found: Sequence[Finding]) -> ChangedPoint:
    """Return what changed in a point, the step before what follows from it."""
    ordered = sorted(found, key=lambda finding: finding.quantity is not UPDATE_TIME)
    return ChangedPoint(name, next((f.where for f in ordered if f.where), ""), tuple(map(_line, ordered)))


def _line(finding: Finding) -> ChangedLine:
    if finding.change is None:
        return ChangedLine(finding.quantity.name, finding.new, f"{finding.base} before", finding.detail)
    before, after = (finding.quantity.text(value) for value in (finding.base, finding.new))
    detail = "; ".join(filter(None, (interval_in_words(finding), finding.detail)))
    return ChangedLine(finding.quantity.name, change_in_percent(finding.change), f"{after}, {before} before", detail)
