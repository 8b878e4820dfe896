"""The report as a reader's browser sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe import AXE, serious_violations
from chromium import BINARY, Browser, chromium
from recorded import NASTY, evaluations, lenet_cells, record_of, results_at, steps_of
from report_page import (
    assert_described,
    assert_filters,
    assert_fits,
    assert_quiet,
    assert_sorts,
    column,
    figure_named,
    middle_of,
    press,
)

from harness.report import write_report

pytestmark = [pytest.mark.browser, pytest.mark.skipif(BINARY is None, reason="no Chromium on the path")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lenet")
    cells = lenet_cells(sweep__seeds=5, sweep__learning_rate=[0.05, 0.1])
    results = results_at(folder, cells, run=len(cells) - 3, description=NASTY)
    results.write_record(record_of(cells[1], status="crashed", reason=NASTY * 100), {})
    for cell in cells[2:-3]:
        found = evaluations(cell)
        found["validation_accuracy"] = [0.97 * value - 0.05 * cell.seed for value in found["validation_accuracy"]]
        results.write_record(record_of(cell), {"evals.csv": found, "steps.parquet": steps_of(cell)})
    return write_report([results], folder / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_complained_of_nor_asked_for(browser: Browser, report: Path, dark: bool) -> None:
    browser.open(report, dark=dark)
    assert_quiet(browser, report)


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_does_not_scroll_sideways(browser: Browser, report: Path, width: int) -> None:
    assert_fits(browser, report, width)


def test_text_stands_out_from_the_page_in_the_dark(browser: Browser, report: Path) -> None:
    browser.open(report, dark=True)
    brightness = "getComputedStyle({}).color.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 3"
    assert browser.run(brightness.format("document.querySelector('figure svg text')")) > 150
    assert browser.run(brightness.format("document.body")) > 150


def test_every_figure_has_a_text_alternative_and_a_caption(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert_described(browser, least=15)


def test_columns_sort_numbers_as_numbers_and_words_as_words(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert "" in column(browser, "samples/s")  # cells that have not run stay last
    assert_sorts(browser)


def test_a_filter_keeps_the_rows_that_have_every_word(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert_filters(browser, "model-split", "virtual")


def test_rows_of_a_large_table_come_as_it_is_scrolled(browser: Browser, report: Path) -> None:
    browser.open(report)
    rows = "document.querySelectorAll('.cells tbody tr').length"
    first = browser.run(rows)
    assert browser.run("document.querySelector('.cells output').textContent") == f"{len(column(browser, 'seed'))} cells"
    browser.open(report)
    browser.run("document.querySelector('.long').scrollTop = 1e6")
    browser.run("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    assert first < browser.run(rows) <= len(column(browser, "seed"))


def test_a_figure_downloads_as_png_and_csv(browser: Browser, report: Path) -> None:
    browser.open(report)
    save = """new Promise(done => { const button = document.querySelector('figure button'); button.click();
        const look = () => button.dataset.done ? done(Number(button.dataset.done)) : setTimeout(look, 20); look() })"""
    assert browser.run(save) > 10_000  # a blank picture compresses to less
    rows = browser.run("fetch(document.querySelector('figure a').href).then(answer => answer.text())").splitlines()
    assert len(rows) > 3
    assert len({line.count(",") for line in rows if '"' not in line}) == 1


# -- figures -----------------------------------------------------------------------------------------------------------

CURVES = "Validation accuracy against samples seen, measured"
WAITS = "Who waits for whom: a few steps on one clock, measured"


def tip(browser: Browser) -> str:
    return str(browser.run("document.querySelector('.tip').textContent"))


def test_pointing_at_a_line_names_its_cell_and_pales_the_others(browser: Browser, report: Path) -> None:
    browser.open(report)
    of_a_seed = "findLast(m => m.querySelector('title')?.textContent.includes('seed 4'))"
    x, y = middle_of(browser, f"[...{figure_named(CURVES)}.querySelectorAll('.m')].{of_a_seed}.querySelector('path')")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    named = tip(browser)
    for words in ("CPU core", "global batch 32, learning rate 0.", "seed 4", "ends at validation accuracy 0."):
        assert words in named
    kept = f"{figure_named(CURVES)}.querySelectorAll('.hot .m.on').length"
    assert 0 < browser.run(kept) < browser.run(f"{figure_named(CURVES)}.querySelectorAll('.m').length")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=5)
    assert tip(browser) == ""
    assert browser.run("document.querySelectorAll('.hot').length") == 0


def test_arrows_name_what_is_drawn_one_after_another_and_escape_ends_it(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run(f"{figure_named(CURVES)}.querySelector('svg').focus()")
    seen = []
    for _ in range(3):
        press(browser, "ArrowRight")
        seen.append(tip(browser))
    assert len(set(seen)) == 3
    assert all("CPU core" in named for named in seen)
    press(browser, "ArrowLeft")
    assert tip(browser) == seen[1]
    press(browser, "Escape")
    assert tip(browser) == ""


def test_the_legend_takes_its_series_away_and_brings_it_back(browser: Browser, report: Path) -> None:
    browser.open(report)
    figure = figure_named(CURVES)
    shown = f"[...{figure}.querySelectorAll('.m[data-s=\"0\"]')].filter(m => m.getClientRects().length).length"
    button = f"{figure}.querySelector('[role=button][data-k=\"0\"]')"
    many = browser.run(shown)
    assert many > 1
    x, y = middle_of(browser, f"{button}.querySelector('text')")
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    assert browser.run(shown) == 0
    assert browser.run(f"{button}.getAttribute('aria-pressed')") == "false"
    browser.run(f"{button}.focus()")
    press(browser, "Enter")
    assert browser.run(shown) == many
    press(browser, "ArrowDown")
    assert browser.run("document.activeElement.dataset.k") == "1"


def test_the_slider_goes_through_the_run(browser: Browser, report: Path) -> None:
    browser.open(report)
    figure = figure_named(WAITS)
    seen = f"[...new Set([...{figure}.querySelectorAll('[data-f]:not([display])')].map(m => m.dataset.f))].join()"
    assert browser.run(seen) == "5"
    assert browser.run(f"{figure}.querySelector('output').textContent") == "50 % of each run"
    browser.run(f"{figure}.querySelector('input').focus()")
    press(browser, "End")
    assert browser.run(seen) == "10"
    assert browser.run(f"{figure}.querySelector('output').textContent") == "100 % of each run"
    press(browser, "ArrowLeft")
    assert browser.run(f"{figure}.querySelector('input').getAttribute('aria-valuetext')") == "90 % of each run"


def test_without_scripts_everything_is_there_to_read(browser: Browser, report: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(report)
        document = browser.call("DOM.getDocument")["root"]["nodeId"]

        def count(selector: str) -> int:
            return len(browser.call("DOM.querySelectorAll", nodeId=document, selector=selector)["nodeIds"])

        assert count("figure svg[role=img] > desc") == count("figure") >= 15
        assert count("figure .m > title") > 100  # the browser shows them
        assert count(".slide[hidden]") == count(".slide") > 0  # what would do nothing is not shown
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.skipif(AXE is None, reason="no axe-core: `make` fetches it where there is npm, or HARNESS_AXE names it")
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(browser: Browser, report: Path, dark: bool) -> None:
    browser.open(report, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert serious_violations(browser) == []
