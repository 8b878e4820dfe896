"""A comparison as JUnit XML: one test for each point, which fails where something is a regression."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

from harness.analysis.compare_statuses import ENDED, NOT_TRIED
from harness.analysis.compare_words import KIND_WORDS, conclusion, point_in_words, sentence, together_in_words
from harness.analysis.compared import ChangeKind, Comparison, Finding, Verdict
from harness.analysis.points import Row
from harness.core.outside_text import visible

SUITE = "harness compare"

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no place for; the reason of a crash may hold anything."""


def junit_text(found: Comparison) -> str:
    """Return the comparison as CI systems read it.

    A regression is a failure; what else was found of a point is its output. Where nothing was compared the test
    "verdict" is an error, because a suite without tests counts as passed.
    """
    points: dict[str, list[Finding]] = {}
    for row in [*(f.row for f in found.findings), *(c.row for c in (*found.changes, *found.learnt))]:
        points.setdefault(point_in_words(row), [])
    for finding in found.findings:
        points[point_in_words(finding.row)].append(finding)
    cases = [_case(name, findings) for name, findings in points.items()]
    return _suite([*cases, _verdict(found)])


def first_night_text(rows: Sequence[Row], without: str) -> str:
    """Return a night that has no base yet: what did not run to its end fails, and the test "verdict" is skipped.

    Args:
        rows: of all cells.
        without: why nothing was compared.
    """
    points: dict[str, list[str]] = {}
    for row in rows:
        broken = points.setdefault(point_in_words(row), [])
        if row["status"] not in (*ENDED, *NOT_TRIED):
            broken.append(f"seed {row['seed']}: {row['status']}: {row.get('reason') or ''}")
    cases = []
    for name, broken in points.items():
        cases.append(case := ElementTree.Element("testcase", classname=SUITE, name=_clean(name)))
        if broken:
            ElementTree.SubElement(case, "failure", message=_clean(broken[0])).text = _clean("\n".join(broken))
    cases.append(verdict := ElementTree.Element("testcase", classname=SUITE, name="verdict"))
    ElementTree.SubElement(verdict, "skipped", message=_clean(without))
    return _suite(cases)


def _suite(cases: Sequence[ElementTree.Element]) -> str:
    suite = ElementTree.Element(
        "testsuite",
        name=SUITE,
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
    )
    suite.extend(cases)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _case(name: str, findings: Sequence[Finding]) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=SUITE, name=_clean(name))
    worse = [sentence(finding) for finding in findings if finding.kind is ChangeKind.REGRESSION]
    rest = [f"{KIND_WORDS[f.kind]}: {sentence(f)}" for f in findings if f.kind is not ChangeKind.REGRESSION]
    if worse:
        ElementTree.SubElement(case, "failure", message=_clean(worse[0])).text = _clean("\n".join(worse))
    if rest:
        ElementTree.SubElement(case, "system-out").text = _clean("\n".join(rest))
    return case


def _verdict(found: Comparison) -> ElementTree.Element:
    case, text = ElementTree.Element("testcase", classname=SUITE, name="verdict"), _clean(conclusion(found))
    if found.verdict in (Verdict.REFUSED, Verdict.NOTHING_COMPARED):
        ElementTree.SubElement(case, "error", message=text)
    elif any(one.gated.kind is ChangeKind.REGRESSION for one in found.together):
        ElementTree.SubElement(case, "failure", message=_clean(" ".join(together_in_words(found))))
    ElementTree.SubElement(case, "system-out").text = text
    return case


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", visible(text))
