"""The report: one self-contained HTML file, drawn from stored results.

What is drawn with is imported when something is drawn, so that a run that changed nothing does not wait for it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.atomic_files import FOR_ALL, PRIVATE, write_atomically
from harness.core.errors import InputError
from harness.core.outside_files import read_outside
from harness.core.outside_text import visible
from harness.core.version import __version__
from harness.results.store import Results

if TYPE_CHECKING:
    from harness.report.against import Against
    from harness.report.page import ReportSection
    from harness.report.scenario_results import Simulator

_DIGEST_NAME = "harness-digest"
_HEAD_BYTES = 4096

_LONGEST_NAME = 60
"""Characters of the names of several scenarios in a file's name; chosen: file systems end at 255 bytes."""


def write_report(
    results: Sequence[Results],
    out: Path,
    *,
    sections: Sequence[ReportSection] = (),
    what_if: Simulator | None = None,
    against: Against | None = None,
    named: bool = False,
    shared: bool = False,
) -> Path:
    """Write the report of one or more scenarios' folders and return its path.

    Args:
        results: folders with a plan; cells that are not finished stand in the report as such.
        out: the HTML file.
        sections: what plugins add at the end.
        what_if: simulates stored cells again, to find what would turn the answer; without it nothing is simulated.
        against: what the results were compared with: then the page begins with it.
        named: leave the names of host and home folder in.
        shared: others may read the file, as the user's umask says; else it is private like the results.

    Raises:
        InputError: a folder has no plan, or a record is damaged, or `out` is a file that is no report.
    """
    _refuse_foreign(out)
    from harness.report.page import render
    from harness.report.scenario_results import NO_SIMULATOR, read_scenario

    # A page of more or less than these results is none of them.
    digest = content_digest(results) + ("-against" if against else "") + ("-named" if named else "")
    scenarios = [read_scenario(item, what_if or NO_SIMULATOR) for item in results]
    page = visible(render(scenarios, digest, sections, against, named))
    write_atomically(out, page, FOR_ALL if shared else PRIVATE)
    return out


def _refuse_foreign(out: Path) -> None:
    """Refuse to replace a file that is no page of ours.

    Raises:
        InputError: it is none.
    """
    if os.path.isfile(out) and os.path.getsize(out) and f'name="{_DIGEST_NAME}"'.encode() not in _head(out):
        raise InputError([f"{out}: this file is no report and was not changed; name another with --out"])


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def default_path(results: Sequence[Results], stem: str = "report") -> Path:
    """Return where a report goes when nobody says: beside its scenario; one of several takes no scenario's own place.

    Several lie under their common folder, named after them, or after their number where that would be too long.
    """
    if len(results) == 1:
        return results[0].folder / f"{stem}.html"
    folders = [item.folder.resolve() for item in results]
    parent = Path(os.path.commonpath(folders))
    parent = parent.parent if parent in folders else parent
    name = "+".join(folder.name for folder in folders)
    if len(name) > _LONGEST_NAME:
        known = hashlib.sha256("\n".join(map(str, folders)).encode()).hexdigest()[:8]
        name = f"{len(folders)}-scenarios-{known}"
    return parent / f"{stem}-{name}.html"


def is_current(results: Sequence[Results], out: Path) -> bool:
    """Say whether `out` was drawn from exactly these plans and records by this version; draws nothing."""
    if not os.path.isfile(out):
        return False
    head = _head(out)
    return f'name="{_DIGEST_NAME}" content="{content_digest(results)}"'.encode() in head


def content_digest(results: Sequence[Results]) -> str:
    """Return a hash of all that decides the page: plans, records, and the files that turn them into a page."""
    digest = hashlib.sha256(__version__.encode())
    for content in _contents(results):
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def _contents(results: Sequence[Results]) -> Iterator[bytes]:
    # Any module may have a say in the page's words; to hash them all takes milliseconds.
    package = Path(__file__).parents[1]
    for path in sorted(path for pattern in ("*.py", "*.j2") for path in package.rglob(pattern)):
        yield path.read_bytes()
    for item in results:
        yield read_outside(item.folder / "plan.json")
        for cell in item.plan().cells:
            path = item.cell_folder(cell.cell_id) / "record.json"
            yield read_outside(path) if path.is_file() else b""
