"""`harness history`: add a night, and show what the nights come to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.repository import commit_of
from harness.commands.scenario_facts import scenario_facts
from harness.core.words import counted
from harness.results.history import add_night
from harness.results.store import Results, find_results

if TYPE_CHECKING:
    from harness.analysis.nights import CellNight


def add_results(results: Sequence[Path], to: Path, repository: Path, machine: str) -> str:
    """Add the scenarios of results folders to a history, and say what was added.

    Raises:
        InputError: a folder holds no results, or what it holds is damaged.
        NothingDone: no cell has a result.
    """
    commit = commit_of(repository)
    lines = []
    for found in (found for path in results for found in find_results(path)):
        before = set(to.glob("nights/*.parquet"))
        path = add_night(to, found, facts_of(found), commit, machine)
        there = path in before
        lines.append(f"{path}: {'there already' if there else counted(len(found.records()), 'run')}")
    at = f"commit {commit.name}{', with changes' if commit.dirty else ''}" if commit.name else "no commit known"
    return "\n".join([*lines, f"{at}; next: harness history show {to}"])


def facts_of(results: Results) -> dict[str, dict[str, object]]:
    """Return what surrounds each cell, as `harness compare` names it."""
    name = results.plan().name
    return {
        cell_id: {**scenario_facts(record.cell, name), **record.environment}
        for cell_id, record in results.records().items()
    }


def history_text(rows: Sequence[CellNight], as_json: bool) -> str:
    """Return a history in the form that was asked for."""
    from harness.analysis.trends import trends_of

    found = trends_of(rows)
    if as_json:
        from harness.commands.documents import document_text
        from harness.commands.history_json import history_document

        return document_text(history_document(found))
    from harness.analysis.trend_words import trends_text

    return trends_text(found)


def write_history_page(rows: Sequence[CellNight], out: Path) -> Path:
    """Write a history as a page and return its path."""
    from harness.analysis.trends import trends_of
    from harness.core.atomic_files import write_atomically
    from harness.core.outside_text import visible
    from harness.report.trend_page import render_trends

    write_atomically(out, visible(render_trends(trends_of(rows))))
    return out
