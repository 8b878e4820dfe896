"""Golden texts: a command typed, what it answers with figures masked, and a file to hold that against."""

from __future__ import annotations

import difflib
import os
import re
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

from click.testing import CliRunner
from places import ROOT, TESTS

# The package itself: what an editable installation has as entry point may lag behind.
from harness.commands.cli import main

GOLDEN = TESTS / "golden"

# -- typing a command --------------------------------------------------------------------------------------------------


def typed(*words: str) -> str:
    """Return a command as a terminal shows it: the line, what it printed, and what it ended with."""
    done = CliRunner().invoke(main, words, prog_name="harness")
    line = " ".join(["$ harness", *map(_quoted, words)])
    return f"{line}\n{done.output.rstrip()}\n[exit code {done.exit_code}]\n"


def _quoted(word: str) -> str:
    return f"'{word}'" if re.search(r"[\s\"{}\[\]]", word) else word


# -- masking -----------------------------------------------------------------------------------------------------------

HASH_OF_CELL = re.compile(r"(-s\d+-)[0-9a-f]{8}\b")
HEX = re.compile(r"(?<![\w.])(?=[a-f]*\d)[0-9a-f]{8,}\b")
VERSION = re.compile(r"(?<![\w.])\d+(?:\.\d+){2,}(?:\+\w+)?|\b\d+\.\d+\+(?:cpu|cu\d+)\b")
DATE = re.compile(r"\b\d{1,2} [A-Z][a-z]+ \d{4}, \d\d:\d\d UTC")
LOAD = re.compile(r"(?m)^note: .* (?:was|were) disturbed by .*\n")
FILE_OF_OURS = re.compile(r"#/(?:harness|lib)/\S+?\.py(?::\d+)?")

# Counts, settings and lines that the scenario or the user's file decides: they stay.
KEPT = re.compile(
    r"(\[\d+/\d+\]"
    r"|\.py:\d+"
    r"|exit code \d+"
    r"|(?:global batch|learning rate) \d+(?:\.\d+)?"
    r"|\b\d+ (?=(?:of \d+ )?(?:run|kept|not run|to run|ok|crashed|out-of-memory)\b)"
    r"|\b\d+ (?=(?:of \d+ )?(?:points?|cells?|seeds?|values?|problems?|regressions?)\b)"
    r"|(?<=\d of )\d+ (?=(?:cells?|seeds?)\b)"
    r"|\b\d+ (?=(?:simulated )?(?:CPU cores?|devices?)\b))"
)
# Not what a name goes on with: lenet5, fp32, -b32-lr0.1.
NUMBER = re.compile(r"(?<![\w.#])(?<![A-Za-z]-)\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")
GAP = re.compile(r"(?<=\S) {2,}(?=\S)")
RULE = re.compile(r"-{4,}")


def mask_places(text: str) -> str:
    """Mask what differs from machine to machine and day to day: folders, hashes, versions, dates."""
    for folder in _folders():
        text = text.replace(folder, "#")
    for pattern in (VERSION, DATE):
        text = pattern.sub("#", text)
    text = FILE_OF_OURS.sub("#.py", text)
    return HEX.sub("#", HASH_OF_CELL.sub(r"\1#", text))


def mask_figures(text: str) -> str:
    """Mask every number too, except in what was typed, in names, and counts that the scenario decides.

    The note that something disturbed cells is left out: it comes and goes with what did.
    """
    typed_line, newline, said = LOAD.sub("", mask_places(text)).partition("\n")
    pieces = KEPT.split(said)
    pieces[::2] = [NUMBER.sub("#", piece) for piece in pieces[::2]]
    return typed_line + newline + _narrow("".join(pieces))


def mask_predictions(text: str) -> str:
    """Mask the figures in a plan's table, which are predicted; what the scenario says stays."""
    lines = mask_places(text).split("\n")
    found = [at for at, line in enumerate(lines) if "  seeds" in line]
    if not found:
        return "\n".join(lines)
    head, end = found[0], lines.index("", found[0])
    num_kept = GAP.split(lines[head]).index("seeds") + 1
    for at in range(head, end):
        cells = GAP.split(lines[at])
        lines[at] = "  ".join(cells[:num_kept] + [NUMBER.sub("#", cell) for cell in cells[num_kept:]])
    return "\n".join(lines)


def mask_machine(text: str) -> str:
    """Mask what `harness doctor` read: the facts, not the words around their figures."""
    text = re.sub(r", limited to [^\n]*? by the container", "", text)
    text = re.sub(r"(?m)^(processor|busiest other processes): .*", r"\1: #", text)
    return mask_figures(text)


def _narrow(text: str) -> str:
    """Return text with columns two spaces apart: they are as wide as their figures, which are masked."""
    return RULE.sub("----", GAP.sub("  ", text))


def _folders() -> list[str]:
    """Return the folders that stand in texts, the longest first."""
    here = {str(Path.cwd()), os.path.realpath(Path.cwd()), tempfile.gettempdir()}
    return sorted(here | {str(ROOT), sys.prefix, sys.base_prefix}, key=len, reverse=True)


# -- a page's first screen ---------------------------------------------------------------------------------------------


class FirstScreen(HTMLParser):
    """The text of a page up to its first chapter, a line for each block; without pictures and downloads."""

    SKIPPED = ("svg", "style", "script", "button", "a", "head")
    BLOCKS = ("p", "li", "h1", "h3", "figcaption", "tr", "dt", "dd", "div", "section", "header", "figure", "ul")

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = [""]
        self.skipping = 0
        self.over = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.over = self.over or tag == "h2"
        self.skipping += tag in self.SKIPPED
        if tag in self.BLOCKS:
            self.lines.append("- " if tag == "li" else "# " if tag == "h1" else "## " if tag == "h3" else "")

    def handle_endtag(self, tag: str) -> None:
        self.skipping -= tag in self.SKIPPED
        if tag in self.BLOCKS:
            self.lines.append("")

    def handle_data(self, data: str) -> None:
        if not self.over and not self.skipping:
            self.lines[-1] += re.sub(r"\s+", " ", data)


def first_screen(page: Path) -> str:
    """Return what a report says before its first chapter."""
    parser = FirstScreen()
    parser.feed(page.read_text(encoding="utf-8"))
    lines = [line.strip() for line in parser.lines if line.strip(" -#")]
    return "\n".join([f"({page.name}, up to its first chapter)", *lines]) + "\n"


# -- holding it against the file ---------------------------------------------------------------------------------------


def hold(name: str, text: str, update: bool) -> None:
    """Fail with a diff where a text is not what its file says, or write the file.

    Raises:
        AssertionError: the text differs, or has no file yet.
    """
    path = GOLDEN / f"{name}.txt"
    if update:
        path.write_text(text, encoding="utf-8")
        return
    stored = path.read_text(encoding="utf-8") if path.exists() else ""
    if stored != text:
        diff = difflib.unified_diff(stored.splitlines(), text.splitlines(), f"golden/{path.name}", "now", lineterm="")
        hint = "a change that is meant: pytest tests/test_golden.py --update-golden"
        raise AssertionError("\n".join([f"{name} reads differently ({hint})", *diff]))
