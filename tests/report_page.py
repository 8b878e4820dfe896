"""What a reader does with a report in a browser: looks, sorts, filters, takes a figure along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chromium import Browser

KEY_CODES = {"Enter": 13, "Escape": 27, "End": 35, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def figures(browser: Browser) -> list[dict[str, Any]]:
    """Return of every figure how long its text alternative and its caption are, and its role."""
    script = """[...document.querySelectorAll('figure')].map(f => ({
        alternative: f.querySelector('svg desc').textContent.length,
        caption: f.querySelector('figcaption').textContent.length,
        role: f.querySelector('svg').getAttribute('role')}))"""
    return list(browser.run(script))


def column(browser: Browser, head: str) -> list[str]:
    """Return a column of the table of cells, numbers by the value that they are sorted by."""
    script = """(() => { dispatchEvent(new Event('beforeprint')); // brings every row
        const heads = [...document.querySelectorAll('.cells th')];
        const place = heads.findIndex(head => head.textContent.trim() === HEAD);
        return [...document.querySelectorAll('.cells tbody tr')].map(row => row.children[place].dataset.v ??
            row.children[place].textContent.trim()) })()"""
    return list(browser.run(script.replace("HEAD", json.dumps(head))))


def click(browser: Browser, head: str) -> None:
    """Click a heading of the table of cells."""
    script = "[...document.querySelectorAll('.cells th button')].find(b => b.textContent === HEAD).click()"
    browser.run(script.replace("HEAD", json.dumps(head)))


def filter_by(browser: Browser, words: str) -> int:
    """Type into the filter and return how many rows are left."""
    script = """(() => { const input = document.querySelector('input[type=search]'); input.value = WORDS;
        input.dispatchEvent(new Event('input', {bubbles: true})); dispatchEvent(new Event('beforeprint'));
        return document.querySelectorAll('.cells tbody tr').length })()"""
    return int(browser.run(script.replace("WORDS", json.dumps(words))))


def figure_named(title: str) -> str:
    """Return an expression for the first figure whose title begins so."""
    begins = f"f.querySelector('h3').textContent.startsWith({json.dumps(title)})"
    return f"[...document.querySelectorAll('figure')].find(f => {begins})"


def middle_of(browser: Browser, element: str) -> tuple[float, float]:
    """Scroll to an element and return a point of it: of a line one where nothing lies over it, else its middle."""
    script = """(e => { e.scrollIntoView({block: 'center'}); const box = e.getBoundingClientRect();
        if (!e.getTotalLength) return [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
        for (let share = 0; share < 1; share += 0.01) {
            const at = e.getPointAtLength(e.getTotalLength() * share).matrixTransform(e.getScreenCTM());
            if (document.elementFromPoint(at.x, at.y) === e) return [at.x, at.y] } })(ELEMENT)"""
    x, y = browser.run(script.replace("ELEMENT", element))
    return float(x), float(y)


def press(browser: Browser, key: str) -> None:
    """Press a key."""
    for kind in ("rawKeyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEY_CODES[key])


def assert_quiet(browser: Browser, report: Path) -> None:
    """Hold that the page asks for nothing but itself and that the console is empty."""
    assert browser.requests() == [report.resolve().as_uri()]
    assert browser.complaints() == []


def assert_described(browser: Browser, least: int) -> None:
    """Hold that there are figures, each with a text alternative and a caption."""
    found = figures(browser)
    assert len(found) >= least
    assert all(figure["alternative"] > 40 and figure["caption"] > 30 and figure["role"] == "group" for figure in found)


def assert_fits(browser: Browser, report: Path, width: int) -> None:
    """Hold that nothing is wider than the window, whatever is unfolded."""
    browser.open(report, width=width)
    browser.run("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert browser.run("document.documentElement.scrollWidth") <= width


def assert_sorts(browser: Browser) -> None:
    """Hold that numbers sort as numbers, both ways, what is unknown last, and words as words."""
    before = column(browser, "samples/s")
    click(browser, "samples/s")
    rising = column(browser, "samples/s")
    known = [float(value) for value in rising if value]
    assert known == sorted(map(float, filter(None, before)))
    assert rising[len(known) :] == [""] * (len(before) - len(known))
    click(browser, "samples/s")
    assert [float(value) for value in column(browser, "samples/s") if value] == known[::-1]
    click(browser, "strategy")
    assert column(browser, "strategy") == sorted(column(browser, "strategy"))


def assert_filters(browser: Browser, strategy: str, engine: str) -> None:
    """Hold that a filter keeps the rows that have every word, and that an empty one keeps all."""
    planned = len(column(browser, "strategy"))
    kept = filter_by(browser, f"{strategy.title()} {engine}")
    pairs = zip(column(browser, "strategy"), column(browser, "engine"), strict=True)
    assert 0 < kept == sum(pair == (strategy, engine) for pair in pairs) < planned
    assert browser.run("document.querySelector('.cells output').textContent") == f"{kept} cells"
    assert filter_by(browser, "") == planned
