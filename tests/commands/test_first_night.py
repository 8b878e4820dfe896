"""Nights that have no base, or a history in its place, as `harness compare` meets them."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cells import make_cells
from click.testing import CliRunner, Result
from compared_cells import HERE, PARTS, STEP_S

from harness.analysis.cell_row import identity_row
from harness.commands.cli import main
from harness.core.cell import Plan
from harness.core.endings import Status
from harness.core.machine import Machine
from harness.results.reference import Reference, ReferenceRun, write_reference
from harness.results.store import Record, Results

FIRST = datetime(2031, 1, 1, 1, tzinfo=UTC)


def night(folder: Path, day: int = 0, slower: float = 1.0, status: str = "ok", reference: bool = True) -> Path:
    """Store a night of two measured points, all about as fast as others."""
    cells = make_cells(engine="real", cluster={}, sweep__strategy=["single"], sweep__learning_rate=[0.1, 0.2])
    results, began = Results(folder), FIRST + timedelta(days=day)
    results.write_plan(Plan("test", "", Machine(cores=2), tuple(cells)))
    for place, made in enumerate(cells):
        seconds = STEP_S * (slower if place == 0 else 1.0) * (1 + 0.004 * ((day * 7 + place * 3) % 5 - 2))
        row = identity_row(made, "env") | {"status": status, "reason": "it broke", "notes": "", "steps": 100, **PARTS}
        row |= {"step_time_s": seconds, "throughput_samples_per_s": 32 / seconds} if status == "ok" else {}
        record = Record(made, Status(status), "", (), row, HERE, detail={"day": day})
        results.write_record(replace(record, started=began.isoformat()), {})
    runs = [ReferenceRun(began, k, 1 + 0.002 * ((day + k) % 3)) for k in range(4)]
    if reference:
        write_reference(folder, Reference("loop", tuple(runs)))
    return folder


def compare(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


@pytest.mark.parametrize(("status", "failures"), [("ok", "0"), ("crashed", "2"), ("not-possible", "0")])
def test_a_first_night_is_written_as_junit_and_has_no_verdict(tmp_path: Path, status: str, failures: str) -> None:
    junit = tmp_path / "night.xml"
    done = compare(tmp_path / "base", night(tmp_path / "new", status=status), "--junit", junit)
    assert (done.exit_code, "no BASE yet" in done.output) == (5, True)
    suite = ElementTree.fromstring(junit.read_text(encoding="utf-8"))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", failures, "1")
    assert "no BASE yet" in str(suite[2][0].get("message"))


def test_a_first_night_says_how_many_cells_have_no_result(tmp_path: Path) -> None:
    new = night(tmp_path / "new")
    next((new / "cells").glob("*/record.json")).unlink()
    compare(tmp_path / "base", new, "--junit", tmp_path / "night.xml")
    assert "1 cell of its plan without a result" in (tmp_path / "night.xml").read_text(encoding="utf-8")


def test_cells_that_neither_night_has_run_are_counted(tmp_path: Path) -> None:
    base, new = night(tmp_path / "base"), night(tmp_path / "new", 1)
    for folder in (base, new):
        next(path for path in (folder / "cells").glob("*0.2*/record.json")).unlink()
    done = compare(base, new, "--json")
    assert json.loads(done.stdout)["never_run"] == 1


def nights_kept(tmp_path: Path, count: int) -> Path:
    for day in range(1, 1 + count):
        folder = night(tmp_path / f"night-{day}", day)
        done = CliRunner().invoke(main, ["history", "add", str(folder), "--to", str(tmp_path / "history")])
        assert done.exit_code == 0, done.output
    return tmp_path / "history"


def found(done: Result) -> Any:
    return json.loads(done.stdout)


def test_a_history_judges_what_a_base_alone_leaves_open(tmp_path: Path) -> None:
    base, new = night(tmp_path / "base"), night(tmp_path / "new", 30, slower=1.1)
    assert found(compare(base, new, "--json"))["verdict"] == "suspect"
    history = nights_kept(tmp_path, 9)
    done = compare(base, new, "--json", "--history", history)
    assert (done.exit_code, found(done)["verdict"]) == (1, "regression"), done.output
    (finding,) = found(done)["findings"]
    assert (finding["beside"]["basis"], finding["beside"]["nights"]) == ("history", 9)
    assert math.isclose(finding["beside"]["relative"], 1.1, rel_tol=0.02)
    # The night itself is no part of what is usual, though it was added before it was compared.
    CliRunner().invoke(main, ["history", "add", str(new), "--to", str(history)])
    (finding,) = found(compare(base, new, "--json", "--history", history))["findings"]
    assert finding["beside"]["nights"] == 9
    elsewhere = found(compare(base, new, "--json", "--history", history, "--machine", "other"))
    assert any("the history has 0 nights" in note for note in elsewhere["notes"])


def test_nights_of_another_loop_or_without_one_say_nothing(tmp_path: Path) -> None:
    history = nights_kept(tmp_path, 9)
    base, new = night(tmp_path / "base"), night(tmp_path / "new", 30, slower=1.1)
    write_reference(new, Reference("another", (ReferenceRun(FIRST, 0, 1.0),) * 4))
    other = found(compare(base, new, "--json", "--history", history))
    assert [change["beside"] for change in other["changes"]] == [None, None] or other["changes"] == []
    bare = found(compare(base, night(tmp_path / "bare", 30, 1.1, reference=False), "--json", "--history", history))
    assert any("no reference ran beside NEW" in note for note in bare["notes"])


def test_too_few_nights_leave_the_base_to_say_what_is_usual(tmp_path: Path) -> None:
    base, new = night(tmp_path / "base"), night(tmp_path / "new", 30, slower=1.3)
    few = found(compare(base, new, "--json", "--history", nights_kept(tmp_path, 3)))
    assert few["verdict"] == "suspect"
    assert {change["beside"]["basis"] for change in few["changes"]} == {"one-night"}
    assert any("the history has 3 nights" in note and "8 are needed" in note for note in few["notes"])
