"""A comparison as annotations of a CI system."""

from __future__ import annotations

import re

from compared_cells import cell, compare

from harness.commands.compare_annotations import MOST, annotation_lines

COMMAND = re.compile(r"^::(error|warning|notice) title=([^:,\n]+)::([^\n]+)$")


def parsed(lines: list[str]) -> list[tuple[str, ...]]:
    found = [COMMAND.match(line) for line in lines]
    assert all(found), lines
    return [match.groups() for match in found if match]


def crashed(points: int) -> compare.Comparison:
    base = [cell(f"p{n}", gpus=n + 1) for n in range(points)]
    new = [cell(f"p{n}", gpus=n + 1, status="crashed", reason="line one\nline two: 5 %") for n in range(points)]
    return compare.compare(base, new)


def test_a_night_without_findings_is_one_notice() -> None:
    nights = [cell("a", seed) for seed in range(3)]
    (found,) = parsed(annotation_lines(compare.compare(nights, nights)))
    assert found[0] == "notice"


def test_a_crash_is_an_error_on_a_line_of_its_own_whatever_its_reason_holds() -> None:
    worse, verdict = parsed(annotation_lines(crashed(1)))
    assert worse[0] == "error"
    assert "sync-ddp" in worse[1]
    assert "crashed" in worse[2]
    assert verdict[0] == "warning"


def test_no_more_than_are_shown_are_written_and_the_others_are_counted() -> None:
    found = parsed(annotation_lines(crashed(25)))
    errors = [line for line in found if line[0] == "error"]
    assert len(errors) == MOST - 1
    assert errors[-1][2].startswith(f"{25 - MOST + 2} more")
    assert len(parsed(annotation_lines(crashed(MOST - 1)))) == MOST
