"""Attacks by text: every field that others fill, with what steers a terminal, a page or Markdown."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_type_hints
from xml.etree import ElementTree

import pytest
from attacks import PAYLOADS, FieldPath, Tally, text_fields, tried, with_text, wrong_with
from cells import make_cells
from recorded import record_of, results_at

from harness.analysis.cell_row import identity_row
from harness.core.cell import Cell, LeftOut, Observation, Plan
from harness.core.endings import Cause
from harness.core.errors import MOST_CHARACTERS, InputError
from harness.core.faults import Death, Jitter, Straggler
from harness.core.given_cluster import ClusterFigures, DeviceFigures, GivenLink, GivenServers, LinkFigures, StepFigures
from harness.core.outside_text import bounded, visible
from harness.core.row import WholeRow
from harness.core.words import escaped, fenced
from harness.results.store import Record, Results

pytestmark = pytest.mark.fault

RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Page(HTMLParser):
    """What on a page could run or fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name.startswith("on") or (value or "").strip().lower().startswith("javascript:"):
                self.found.append(f"{tag} {name}={value}")
            if name == "src" and not (value or "").startswith("data:"):
                self.found.append(f"{tag} {name}={value}")


def scripts_of(html: str) -> int:
    page = Page()
    page.feed(html)
    return page.scripts


def of_page(html: str, usual_scripts: int) -> str:
    if found := RAW.search(html):
        return f"raw {found.group()!r} on the page"
    page = Page()
    page.feed(html)
    if page.found or page.scripts != usual_scripts:
        return f"{page.found[:3]}, {page.scripts} scripts"
    return ""


def of_markdown(text: str) -> str:
    outside = re.sub(r"(?ms)^(`{3,})\n.*?\n\1$", "", text)
    for raw in ("<script", "<img", "</style", "[link](", "![i]("):
        if raw in re.sub(r"\\.", "", outside):
            return f"{raw} in Markdown"
    return ""


ALL = "".join(PAYLOADS[:-1])

PLAIN = LinkFigures(1e-6, 1e9)
LINK = GivenLink(1e-6, 1e9, name="a link", medium="a medium", by_group={2: PLAIN}, across=PLAIN)

CLUSTERS = (
    ClusterFigures(
        device=DeviceFigures(
            "a device", "a chip", {"fp32": 1e12}, 1e11, 2e10, 1e10, "a link", 300.0, ("fp32",), 1e-6, 1
        ),
        intra_node=LINK,
        inter_node=LINK,
        host_link=LINK,
        servers=GivenServers("gpu", 1, 1e9, LINK),
    ),
    ClusterFigures(device=StepFigures(16, 0.1), intra_node=LINK, inter_node=LINK, host_link=LINK,
                   servers=GivenServers("gpu", 1, 1e9, LINK)),
)  # fmt: skip


def full(cell: Cell, cluster: ClusterFigures) -> Cell:
    """Return a cell in which no part is left out."""
    faults = replace(cell.faults, compute_jitter=Jitter("lognormal", 0.1), stragglers=(Straggler(2.0, 0),))
    faults = replace(faults, deaths=(Death(0, 10**6),))
    return replace(cell, cluster=cluster, faults=faults, observed=(Observation({"gpus": 1}, source="a source"),))


def side(folder: Path, cells: list[Cell], status: str) -> Results:
    """Write results of whose first cell we know every part: a run that broke off, or one that did not."""
    left_out = (LeftOut("fsdp", "on 1 device", "impossible", "a reason"),)
    results = results_at(folder, cells, notes=("a note of the plan",), left_out=left_out)
    record = record_of(cells[0], status=status, reason="a reason", notes=("a note",), cause=Cause.USER)
    telemetry = {"unavailable": {"nvml": "a reason"}, "notes": ["a note"], "energy": {}, "lost": {"gpu0": 1.0}}
    detail = record.detail | {
        "telemetry": telemetry,
        "facts": {"metric": "a metric"},
        "dram_not_known": {"reason": "r"},
    }
    named = set(identity_row(cells[0], ""))  # what the cell says itself comes from the cell
    row = {key: value for key, value in record.row.items() if key not in named}
    row |= {key: "text" for key, hint in get_type_hints(WholeRow).items() if hint is str and key not in (*named, *row)}
    results.write_record(replace(record, detail=detail, row=row), {})
    log = results.cell_folder(cells[0].cell_id) / "log.txt"
    log.write_text("a line\n" + "".join(PAYLOADS[:-2]))
    return results


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Results, Results]:
    """A night that ended well and one whose first cell did not; both know every part that a cell can have."""
    root = tmp_path_factory.mktemp("records")
    cells = make_cells(sweep__strategy=["single", "sync-ddp"], sweep__gpus=[1, 2])
    cells = [full(cell, CLUSTERS[number % 2]) for number, cell in enumerate(cells)]
    return side(root / "base" / "lenet", cells, "ok"), side(root / "new" / "lenet", cells, "crashed")


def record_file(results: Results) -> Path:
    return next(results.folder.glob("cells/*/log.txt")).with_name("record.json")


def plan_file(results: Results) -> Path:
    return results.folder / "plan.json"


def fields_of(results: Results) -> list[tuple[Callable[[Results], Path], FieldPath]]:
    """Return where text may stand in a record and in a plan: as their types say, and in what is stored beside them."""
    found = []
    for kind, file in ((Record, record_file), (Plan, plan_file)):
        content = json.loads(file(results).read_bytes())
        cells = [content["cell"]] if kind is Record else content["cells"][:2]
        # Cells of the other kind of device lie second in the plan: both are looked into.
        examples = [content | ({"cells": [cell]} if kind is Plan else {}) for cell in cells]
        paths = dict.fromkeys(path for example in examples for path in text_fields(kind, example))
        inner = [(*part, *place) for part in (("row",), ("detail",)) if kind is Record
                 for place in text_places(content[part[0]])]  # fmt: skip
        found += [(file, path) for path in dict.fromkeys([*paths, *inner])]
    return found


def text_places(content: Any, path: FieldPath = ()) -> Iterator[FieldPath]:
    """Yield the paths of texts; of a list the first."""
    items = (
        content.items() if isinstance(content, dict) else enumerate(content[:1]) if isinstance(content, list) else ()
    )
    for key, item in items:
        if isinstance(item, str):
            yield (*path, key)
        else:
            yield from text_places(item, (*path, key))


def looks(base: Results, new: Results, history: Path) -> dict[str, tuple[str, ...]]:
    """Return all that shows what a record or a plan says, by the form in which it does."""
    cell, other = (str(results.cell_folder(results.plan().cells[0].cell_id)) for results in (new, base))
    nights = (str(base.folder), str(new.folder))
    return {
        "show": ("show", nights[1]),
        "cell": ("show", cell),
        "pair": ("show", cell, other),
        "log": ("show", cell, "--log"),
        "status": ("status", nights[1]),
        "status json": ("status", nights[1], "--json"),
        "markdown": ("show", nights[1], "--markdown"),
        "json": ("show", nights[1], "--json"),
        "compare": ("compare", *nights, "--junit", "junit.xml", "--annotations"),
        "compared json": ("compare", *nights, "--json"),
        "compared markdown": ("compare", *nights, "--markdown"),
        "page": ("report", nights[1], "--base", nights[0], "--out", "page.html", "--names"),
        "add": ("history", "add", nights[1], "--to", str(history)),
        "history": ("history", "show", str(history), "--html", "history.html"),
        "history json": ("history", "show", str(history), "--json"),
    }


def shown_raw(name: str, output: str, scripts: dict[str, int]) -> str:
    """Say what of a text steers whatever shows it."""
    for file in ("junit.xml",) if name == "compare" else ():
        if Path(file).exists():  # nothing was refused
            text = Path(file).read_text()
            output += text
            ElementTree.fromstring(text)
    if name == "compare" and any(
        line.startswith("# head") for line in output.split("::error", 1)[-1].splitlines()[1:2]
    ):
        return "an annotation goes on in the next line"
    if found := RAW.search(output):
        return f"raw {found.group()!r}"
    if "markdown" in name:
        return of_markdown(output)
    page = {"page": "page.html", "history": "history.html"}.get(name)
    return of_page(Path(page).read_text(), scripts.get(name, 0)) if page and Path(page).exists() else ""


def attacked(tally: Tally, what: str, commands: dict[str, tuple[str, ...]], scripts: dict[str, int]) -> None:
    for name, words in commands.items():
        done, cpu_s = tried(*words)
        # What was read without a complaint is to be shown: a refusal would hide what showing it does.
        tally.count(f"{what} {name}", wrong_with(done, cpu_s, 10.0, (0, 1, 5)) or shown_raw(name, done.output, scripts))


def test_every_text_field_of_records_and_plans(both, attacks: Callable[[int, int], int], tmp_path, monkeypatch) -> None:
    """All payloads in each text that the types of records and plans have, one by one and together.

    What is refused is refused where it is read; what is not is shown by every command, and never raw.
    """
    monkeypatch.chdir(tmp_path)
    tally = Tally("text fields of records and plans")
    originals = {file(results): file(results).read_bytes() for results in both for file in (record_file, plan_file)}
    commands = looks(*both, tmp_path / "history")
    scripts = {}
    for name, words in commands.items():
        assert (done := tried(*words)[0]).exit_code in (0, 1, 5), done.output
        if page := {"page": "page.html", "history": "history.html"}.get(name):
            scripts[name] = scripts_of(Path(page).read_text())
    found, taken = fields_of(both[1]), []
    try:
        for file, path in found:
            write(both, file, [path])
            wrong = unread(both[1])
            refused = isinstance(wrong, InputError)
            tally.count(f"{path} read", "" if refused or wrong is None else repr(wrong))
            if wrong is None:
                taken.append((file, path))
                if attacks(0, 1):
                    attacked(tally, f"{file.__name__} {path}", commands, scripts)
            restore(originals)
        assert len(taken) > 60, f"{len(taken)} of {len(found)} texts are read"
        for file in (record_file, plan_file):
            write(both, file, [path for own, path in taken if own is file])
        shutil.rmtree(tmp_path / "history")
        assert unread(both[1]) is None
        attacked(tally, "all together", commands, scripts)
    finally:
        restore(originals)
    tally.close()


def write(both: tuple[Results, Results], file: Callable[[Results], Path], paths: list[FieldPath]) -> None:
    """Put all payloads into texts of both nights: what names a point has to be the same in both."""
    for path in [file(results) for results in both]:
        content = json.loads(path.read_bytes())
        for place in paths:
            content = with_text(content, place, ALL)
        path.write_text(json.dumps(content))


def restore(originals: dict[Path, bytes]) -> None:
    for path, content in originals.items():
        path.write_bytes(content)


def unread(results: Results) -> Exception | None:
    """Return what reading a plan and its records raises."""
    try:
        results.records()
    except Exception as error:
        return error
    return None


SCENARIO = """\
description = {text}
engine = "virtual"
[workload]
model = "softmax"
[sweep]
strategy = [{name}]
gpus = [1]
"""


@pytest.mark.parametrize("payload", PAYLOADS, ids=[ascii(payload)[:24] for payload in PAYLOADS])
def test_texts_of_a_scenario_and_of_the_command_line(payload, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tally = Tally(f"scenario with {ascii(payload)[:24]}")
    text = json.dumps(payload.replace("\udcff", "?"))
    for name, written in (
        ("description", SCENARIO.format(text=text, name='"single"')),
        ("strategy", SCENARIO.format(text='""', name=text)),
    ):
        Path("s.toml").write_text(written.replace("\x7f", "\\u007f"))
        done, cpu_s = tried("plan", "s.toml")
        raw = RAW.search(done.output)
        tally.count(name, wrong_with(done, cpu_s, 3.0) or (f"raw {raw.group()!r}" if raw else ""))
    for words in (("plan", payload), ("show", payload), ("plan", "lenet", "--set", payload), ("report", payload)):
        done, cpu_s = tried(*words)
        raw = RAW.search(done.output)
        tally.count(words[0], wrong_with(done, cpu_s, 3.0) or (f"raw {raw.group()!r}" if raw else ""))
    tally.close()


def test_a_text_that_is_kept_is_bounded_and_can_be_encoded() -> None:
    kept = bounded({"a \udcff": ["x" * 10**7, 3, None, ("y",)]})
    kept["a \\udcff"][0].encode()
    assert len(kept["a \\udcff"][0]) < MOST_CHARACTERS + 50
    assert kept["a \\udcff"][0].endswith("... (10,000,000 characters)")
    assert kept["a \\udcff"][1:] == [3, None, ["y"]]
    assert bounded("as it was \u2603\n\t") == "as it was \u2603\n\t"


def test_what_is_shown_names_its_control_characters() -> None:
    assert visible("\x1b[2J\x07 a\rb\x7f\x9b \u202e \udcff\n\t\u2603") == "␛[2J␇ a␍b␡\\x9b \\u202e \\udcff\n\t\u2603"


def test_markdown_takes_nothing_for_markup() -> None:
    assert escaped("a|b\n# <c> ~~d~~") == "a\\|b \\# \\<c\\> \\~\\~d\\~\\~"
    assert fenced(["a ```` b", "c"]) == ["`````", "a ```` b", "c", "`````"]
    assert fenced([]) == []
