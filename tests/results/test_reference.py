"""Reference runs: read as they were written, and refused by name where they are damaged."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness.core.errors import InputError
from harness.results.reference import REFERENCE_FILE, Reference, ReferenceRun, read_reference, write_reference

NIGHT = datetime(2031, 5, 1, 1, tzinfo=UTC)


def reference(*seconds: float) -> Reference:
    """Return runs of a night, ten minutes apart."""
    runs = (ReferenceRun(NIGHT + timedelta(minutes=10 * n), n, s) for n, s in enumerate(seconds))
    return Reference("plain loop on cpu", tuple(runs))


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = reference(1.25, 1.5)
    write_reference(tmp_path, written)
    assert read_reference(tmp_path) == written
    document = json.loads((tmp_path / REFERENCE_FILE).read_text())
    assert document["kind"] == "plain loop on cpu"
    assert document["runs"][1] == {"started": "2031-05-01T01:10:00Z", "after_cells": 1, "seconds": 1.5}


def test_a_night_without_one_has_none(tmp_path: Path) -> None:
    assert read_reference(tmp_path) is None
    assert reference().log_seconds is None


def test_no_single_burst_moves_what_a_run_takes() -> None:
    quiet, burst = reference(1.0, 1.0, 1.0, 1.0, 1.0), reference(1.0, 1.0, 7.0, 1.0, 1.0)
    assert quiet.log_seconds == burst.log_seconds == 0
    assert reference(1.0, math.e**2).log_seconds == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seconds": 0}, "seconds 0"),
        ({"seconds": "fast"}, "seconds"),
        ({"after_cells": -1}, "after_cells -1"),
        ({"started": "2031-05-01T01:00:00"}, "time with its zone"),
        ({"started": "yesterday"}, "started"),
    ],
)
def test_damaged_runs_are_refused_by_name(tmp_path: Path, change: dict[str, object], named: str) -> None:
    write_reference(tmp_path, reference(1.25))
    path = tmp_path / REFERENCE_FILE
    document = json.loads(path.read_text())
    document["runs"][0].update(change)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=named) as caught:
        read_reference(tmp_path)
    assert str(path) in str(caught.value)


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    write_reference(tmp_path, reference(1.25))
    path = tmp_path / REFERENCE_FILE
    path.write_text(path.read_text()[:30])
    with pytest.raises(InputError, match="not reference runs"):
        read_reference(tmp_path)


def test_a_run_that_took_no_time_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="above 0"):
        replace(reference(1.0).runs[0], seconds=math.nan)
