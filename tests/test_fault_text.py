"""Attacks by text: every field that others fill, with what steers a terminal, a page or Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from attacks import PAYLOADS, Tally, tried, wrong_with
from cells import make_cells
from recorded import record_of, results_at

from harness.core.errors import MOST_CHARACTERS
from harness.core.outside_text import bounded, visible
from harness.core.words import escaped, fenced

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


def text_places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of texts that nothing decides by: a field that is checked is refused instead."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, item in items:
        if isinstance(item, str):
            yield (*path, key)
        else:
            yield from text_places(item, (*path, key))


def put(content: Any, path: tuple[Any, ...], value: str) -> Any:
    content = json.loads(json.dumps(content))
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return content


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("records") / "results" / "lenet"
    cells = make_cells(sweep__strategy=["single", "sync-ddp"], sweep__gpus=[1, 2])
    results = results_at(folder, cells, notes=("a note of the plan",), understood=("a telemetry",))
    crashed = record_of(cells[0], status="crashed", reason="a reason", notes=("a note",))
    results.write_record(crashed, {})
    (results.cell_folder(cells[0].cell_id) / "log.txt").write_text("a line\n" + "".join(PAYLOADS[:-2]))
    return folder


def test_every_text_of_records_and_plans(recorded, attacks: Callable[[int, int], int], tmp_path, monkeypatch) -> None:
    """All payloads together in each text: shown as what they are on terminal, page and in Markdown, or refused."""
    monkeypatch.chdir(tmp_path)
    tally = Tally("texts of records and plans")
    cell = next(path for path in recorded.glob("cells/*/record.json") if b"a reason" in path.read_bytes())
    commands = {
        "show": ("show", str(recorded)),
        "cell": ("show", str(cell.parent)),
        "log": ("show", str(cell.parent), "--log"),
        "markdown": ("show", str(recorded), "--markdown"),
        "json": ("show", str(recorded), "--json"),
        "compare": ("compare", str(recorded), str(recorded), "--markdown"),
    }
    every = attacks(150, 1)
    draw_page = ("report", str(recorded), "--out", "page.html", "--names")
    assert tried(*draw_page)[0].exit_code == 0
    usual = scripts_of(Path("page.html").read_text())
    number = 0
    for path in (cell, recorded / "plan.json"):
        original = path.read_bytes()
        for place in text_places(json.loads(original)):
            number += 1
            if number % every and place[-1] not in ("reason", "description"):
                continue
            path.write_text(json.dumps(put(json.loads(original), place, "".join(PAYLOADS[:-1]))))
            for name, words in commands.items():
                done, cpu_s = tried(*words)
                raw = RAW.search(done.output)
                wrong = wrong_with(done, cpu_s, 5.0) or (f"raw {raw.group()!r}" if raw else "")
                tally.count(f"{place} {name}", wrong or (of_markdown(done.output) if "--markdown" in words else ""))
            if every == 1 or place[-1] in ("reason", "description"):
                done, cpu_s = tried(*draw_page)
                wrong = wrong_with(done, cpu_s, 10.0)
                tally.count(f"{place} page", wrong or of_page(Path("page.html").read_text(), usual))
        path.write_bytes(original)
    tally.close()


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
