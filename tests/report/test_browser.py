"""The report as a reader's browser sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import BINARY, Browser, chromium
from recorded import NASTY, lenet_cells, record_of, results_at
from report_page import assert_described, assert_filters, assert_fits, assert_quiet, assert_sorts, column

from harness.report import write_report

pytestmark = [pytest.mark.browser, pytest.mark.skipif(BINARY is None, reason="no Chromium on the path")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lenet")
    cells = lenet_cells(sweep__seeds=5, sweep__learning_rate=[0.05, 0.1])
    results = results_at(folder, cells, run=len(cells) - 3, description=NASTY)
    results.write_record(record_of(cells[1], status="crashed", reason=NASTY * 100), {})
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


def test_a_figure_downloads_as_png_and_csv(browser: Browser, report: Path) -> None:
    browser.open(report)
    save = """new Promise(done => { const button = document.querySelector('figure button'); button.click();
        const look = () => button.dataset.done ? done(Number(button.dataset.done)) : setTimeout(look, 20); look() })"""
    assert browser.run(save) > 10_000  # a blank picture compresses to less
    rows = browser.run("fetch(document.querySelector('figure a').href).then(answer => answer.text())").splitlines()
    assert len(rows) > 3
    assert len({line.count(",") for line in rows if '"' not in line}) == 1
