"""The report against a base: what got worse, and where, on its first screen."""

from __future__ import annotations

import io
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chromium import BINARY, Browser, chromium
from click.testing import CliRunner
from compared_cells import HERE, STEP_S, cell, store, virtual
from lazy import lazy
from recorded import NASTY, Seen

from harness.analysis.compared import (
    TO_TARGET,
    UPDATE_TIME,
    Change,
    ChangeKind,
    Gated,
    Quantity,
    Together,
    UsualFrom,
)
from harness.commands.cli import main
from harness.commands.compare_annotations import annotation_lines
from harness.report import content_digest, is_current
from harness.results.store import Results

pd = lazy("pandas")
compare = lazy("harness.analysis.compare")
report_against = lazy("harness.report.against")
draw_compare = lazy("harness.report.draw_compare")
figures = lazy("harness.report.figures")
svg = lazy("harness.report.svg")

PALETTE = {"sync-ddp": "#029e73", "single": "#0173b2", NASTY: "#de8f05"}

in_browser = [pytest.mark.browser, pytest.mark.skipif(BINARY is None, reason="no Chromium on the path")]


def side(**scales: float) -> list[compare.MeasuredCell]:
    """Return five measured seeds of each point, nearly alike."""
    rates = {name: 0.1 * (number + 1) for number, name in enumerate(scales)}
    return [
        cell(name, seed, STEP_S * scale * (1 + seed / 1e4), learning_rate=rates[name])
        for name, scale in scales.items()
        for seed in range(5)
    ]


def nights(**scales: float) -> compare.Comparison:
    return compare.compare(side(**dict.fromkeys(scales, 1.0)), side(**scales), trust_machine=True)


def new_page() -> figures.Page:
    return figures.Page(PALETTE, "a-")


def drawn(found: compare.Comparison) -> svg.Drawing:
    (figure,) = new_page().drawn(
        [draw_compare.ratio_panel(found.changes, found.min_effect, report_against.exact_in_words(found))]
    )
    return figure


def grown(changes: Sequence[Change]) -> tuple[svg.Drawing, ...]:
    return new_page().drawn(draw_compare.grown_panels(changes))


def texts_of(drawing: svg.Drawing) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)


def table_of(drawing: svg.Drawing) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(drawing.csv))


# -- figures -----------------------------------------------------------------------------------------------------------


def test_every_point_is_drawn_the_worst_first_and_told_apart_by_colour_and_shape() -> None:
    figure = drawn(nights(same=1.001, slow=1.2, fast=0.8, slower=1.4, odd=0.4))
    names = [text for text in texts_of(figure) if text.startswith("sync-ddp")]
    assert [name.rpartition(" ")[0].split()[-1] for name in names] == ["+40.0", "+20.0", "+0.1", "-20.0", "-60.0"]
    assert names[0].startswith("sync-ddp on 2 CPU cores, learning rate 0.4: ")
    kinds = table_of(figure).set_index("ratio")["kind"].sort_index()
    assert kinds.tolist() == ["implausible", "improvement", "no clear change", "regression", "regression"]
    suspect = draw_compare.KIND_MARKS["suspect"]
    assert suspect.name in texts_of(drawn(compare.compare(side(a=1.0), side(a=1.4))))
    for mark in draw_compare.KIND_MARKS.values():
        assert (mark.name in texts_of(figure)) == (mark is not suspect)
        assert mark.colour in figure.svg or mark.colour == "#010203" or mark is suspect
    assert (
        len({mark.shape for mark in draw_compare.KIND_MARKS.values()})
        == len({mark.colour for mark in draw_compare.KIND_MARKS.values()})
        == len(draw_compare.KIND_MARKS)
    )
    assert "within 5 %" in texts_of(figure)


def test_quantities_stand_apart_the_step_first() -> None:
    sides = [[cell(seed=k, step_s=STEP_S * s * (1 + k / 1e4), time_to_target_s=s) for k in range(5)] for s in (1, 1.3)]
    texts = texts_of(drawn(compare.compare(*sides)))
    assert texts.index("Step time") < texts.index("Time to target")


def test_of_many_points_findings_are_drawn_and_the_rest_is_counted() -> None:
    scales = {f"p{number}": 1 + number / 1e4 for number in range(20)} | {"slow": 1.3}
    figure = drawn(nights(**scales))
    assert "+30.0 %" in next(text for text in texts_of(figure) if text.startswith("sync-ddp"))
    assert sum(text.startswith("sync-ddp") for text in texts_of(figure)) == svg.MOST_MARKED
    assert "5 more are only in the CSV, none of them better or worse." in figure.caption
    assert len(table_of(figure)) == 21


def test_what_is_compared_exactly_is_said_in_words() -> None:
    assert report_against.exact_in_words(nights(a=1.0)).endswith(": all are the same.")
    worse = compare.compare([virtual()], [virtual(bytes_sent_per_step=9e9)])
    assert report_against.exact_in_words(worse).endswith(": 1 differs.")
    pushed = {"synchrony": "asynchronous", "dram_tensors_peak_bytes": None}
    assert "Nothing was compared exactly" in report_against.exact_in_words(
        compare.compare([cell(**pushed)], [cell(**pushed)])
    )


def test_the_step_is_drawn_before_and_after_where_it_got_worse_only() -> None:
    (figure,) = grown(nights(same=1.001, slow=1.2).changes)
    assert figure.title == "A step before and after, measured"
    assert "new: 4.80 ms; exposed communication 1.40 ms (was 601 us)" in texts_of(figure)
    assert table_of(figure)["side"].tolist() == ["base", "new"]
    assert grown(nights(same=1.001).changes) == ()
    simulated = compare.compare([virtual()], [virtual(step_s=STEP_S * 1.2)])
    (figure,) = grown(simulated.changes)
    assert figure.title.endswith("simulated")
    assert "simulated milliseconds per step, mean over devices" in texts_of(figure)


def test_a_point_without_parts_has_no_step_to_draw() -> None:
    parts = dict.fromkeys(("input_s", "compute_s", "idle_s", "other_s"))
    base, new = ([{**c.row, **parts} for c in side(a=scale)] for scale in (1.0, 1.3))
    found = compare.compare(
        *([compare.MeasuredCell("a", row | {"communication_s": None}, HERE) for row in s] for s in (base, new))
    )
    assert found.suspects
    assert grown(found.changes) == ()


def test_names_in_figures_are_text() -> None:
    base, new = ([cell(seed=k, step_s=STEP_S * s * (1 + k / 1e4), strategy=NASTY) for k in range(5)] for s in (1, 1.3))
    found = compare.compare(base, new)
    for figure in (drawn(found), *grown(found.changes)):
        assert "<script" not in figure.svg
        ElementTree.fromstring(figure.svg)


# -- words -------------------------------------------------------------------------------------------------------------


def test_a_status_says_what_it_is_now_and_why() -> None:
    found = compare.compare([cell()], [cell(status="crashed", reason=NASTY)])
    (group,) = report_against.shown_against(report_against.Against(found, ("base", "new")), new_page()).groups
    (line,) = group.points[0].lines
    assert (line.quantity, line.change, line.values, line.detail) == (
        "status",
        "crashed",
        "ok before",
        f"seed 0: {NASTY}",
    )


@pytest.mark.parametrize(
    ("scale", "badge"), [(1.3, "Worse"), (1.001, "No worse"), (0.8, "Better"), (0.5, "Too good")], ids=str
)
def test_the_outcome_is_told_in_words(scale: float, badge: str) -> None:
    shown = report_against.shown_against(report_against.Against(nights(a=scale), ("base", "new")), new_page())
    assert shown.badge == badge
    assert (shown.outcome == "unchanged") == (badge == "No worse")


def test_a_suspect_is_told_from_a_regression_and_nothing_compared_from_no_regression() -> None:
    def shown(found: compare.Comparison) -> report_against.ShownAgainst:
        return report_against.shown_against(report_against.Against(found, ("base", "new")), new_page())

    suspect = shown(compare.compare(side(a=1.0), side(a=1.4)))
    assert (suspect.badge, suspect.groups[0].title) == (
        "Suspect",
        "Slower: code or machine, these two nights cannot say",
    )
    assert "cannot be told apart" in suspect.verdict
    assert shown(compare.compare([cell(status="not-possible")], [cell(status="not-possible")])).badge == "Not compared"
    refused = shown(compare.compare([cell()], [cell(environment=HERE | {"cpu": "another"})]))
    assert (refused.badge, refused.ratios) == ("Not compared", None)
    assert "--allow-other-device" in refused.verdict


def test_what_all_points_show_together_is_told_as_a_regression() -> None:
    gated = Gated(UsualFrom.HISTORY, 20, 1.06, 1.04, 1.07, ChangeKind.REGRESSION)
    found = replace(compare.compare([cell()], [cell()]), together=(Together("", 8, gated),))
    shown = report_against.shown_against(report_against.Against(found, ("base", "new")), new_page())
    assert (shown.badge, shown.outcome) == ("Worse", ChangeKind.REGRESSION)
    assert "All 8 points together are slower" in shown.verdict
    (error, last) = annotation_lines(found)
    assert error.startswith("::error title=all points together::All 8 points together are slower")
    assert last.startswith("::warning title=harness compare::")


def test_the_worst_step_is_drawn_first_whatever_else_of_its_point_grew_less() -> None:
    def changed(name: str, quantity: Quantity, ratio: float) -> Change:
        row = cell(name, 0, strategy=name).row
        parts = ({"compute_s": 1.0}, {"compute_s": ratio})
        return Change(row, quantity, 1.0, ratio, ratio, kind="regression", parts=parts)

    both = [changed("single", UPDATE_TIME, 2.0), changed("sync-ddp", UPDATE_TIME, 3.0)]
    found = [changed("sync-ddp", TO_TARGET, 1.1), *both]
    (drawing,) = grown(found)
    assert drawing.caption.startswith("sync-ddp on ")


def test_where_it_got_worse_is_one_sentence() -> None:
    base, new = ([*side(a=scale), *(cell("b", k, strategy="single") for k in range(5))] for scale in (1.0, 1.3))
    shown = report_against.shown_against(
        report_against.Against(compare.compare(base, new), ("base", "new")), new_page()
    )
    assert shown.spread == (
        "Worse: sync-ddp, mostly in exposed communication. single shows no regression; a step 5 % slower would have "
        "been detected."
    )
    (group,) = shown.groups
    (point,) = group.points
    assert point.where.startswith("communication (0.601 ms per update before, 1.8 ms now")
    assert [(line.quantity, line.change) for line in point.lines] == [("step time", "+30.0 %")]


# -- the page ----------------------------------------------------------------------------------------------------------


def harness(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    root = tmp_path_factory.mktemp("nights")
    slower = store(root / "slower", STEP_S * 1.5, HERE | {"torch": NASTY}, name=NASTY)
    return store(root / "base", name=NASTY), store(root / "same", mark=1, name=NASTY), slower


@pytest.fixture(scope="module")
def page(folders: tuple[Path, Path, Path]) -> Path:
    base, _, slower = folders
    code, text = harness("report", slower, "--base", base)
    assert code == 0, text  # a regression too: compare has the exit code
    return slower / "comparison.html"


def test_the_page_begins_with_what_got_worse_and_everything_is_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    seen = Seen(text)
    said = " ".join(" ".join(seen.texts).split())
    begins = said[said.index("Worse") :]
    assert "Worse 2 regressions in 2 points (2 cells compared)." in said
    assert re.search(r"single on 1 simulated CPU core, .* step time \+50\.0 % ?, 6\.00 ms, 4\.00 ms before", begins)
    assert NASTY in said
    assert [tag for tag, _ in seen.tags if tag == "script"] == ["script"]
    assert "alert(" not in seen.code
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_report_with_a_base_lies_beside_the_one_without_and_is_not_taken_for_it(
    page: Path, folders: tuple[Path, Path, Path]
) -> None:
    results = Results(folders[2])
    assert not is_current([results], page)
    assert harness("report", folders[2])[0] == 0
    assert is_current([results], folders[2] / "report.html")
    alone = (folders[2] / "report.html").read_text(encoding="utf-8")
    assert content_digest([results]) in alone
    assert "New against base" not in alone
    assert "badge" not in alone
    whole = page.read_text(encoding="utf-8")
    body = "<main>" + alone.partition("<main>")[2]
    assert whole.endswith(body)


def test_compare_writes_the_page_too_and_keeps_its_exit_code(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, same, slower = folders
    for new, code in ((slower, 1), (same, 0)):
        out = tmp_path / f"{code}.html"
        assert harness("compare", base, new, "--html", out)[0] == code
        assert 'aria-label="New against base"' in out.read_text(encoding="utf-8")


def test_nothing_to_compare_is_refused_as_compare_refuses_it(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, same, _ = folders
    for against, words in ((tmp_path / "none", "no BASE yet"), (same, "the same measurements")):
        code, text = harness("report", same, "--base", against)
        assert code == 5
        assert words in text
    other = store(tmp_path / "other", sweep__learning_rate=[0.2])
    assert harness("report", other, "--base", base)[0] == 5
    assert not (other / "comparison.html").exists()
    assert harness("report", same, "--base", base, "--min-effect", -1)[0] == 2
    assert harness("report", same, "--min-effect", 0.1)[0] == 2


def test_several_scenarios_share_a_page_and_say_which_got_worse(tmp_path: Path) -> None:
    for night, step_s in (("base", STEP_S), ("new", STEP_S * 1.5)):
        store(tmp_path / night / "one", name="one", mark=night)
        store(tmp_path / night / "two", step_s, name="two", mark=night)
    new = tmp_path / "new"
    code, text = harness("report", new / "one", new / "two", "--base", tmp_path / "base")
    assert code == 0, text
    whole = (new / "comparison-one+two.html").read_text(encoding="utf-8")
    assert "<b>two, single on 1 simulated CPU core" in whole
    assert "<b>one, single" not in whole
    assert harness("report", new / "one", new / "one", "--base", tmp_path / "base")[0] == 2


def test_of_a_base_with_several_scenarios_the_one_that_is_named_is_compared(tmp_path: Path) -> None:
    for night in ("base", "new"):
        for name in ("one", "two"):
            store(tmp_path / night / name, name=name, mark=night)
    assert harness("compare", tmp_path / "base", tmp_path / "new" / "one")[0] == 0
    shutil.rmtree(tmp_path / "new" / "two")
    code, text = harness("compare", tmp_path / "base", tmp_path / "new")
    assert code == 1
    assert "two, single on 1 simulated CPU core, global batch 32, learning rate 0.1: ok before, missing now" in text


# -- as a browser sees it ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


class TestInABrowser:
    pytestmark = in_browser

    @pytest.mark.parametrize("dark", [False, True])
    @pytest.mark.parametrize("width", [390, 1280])
    def test_nothing_is_complained_of_and_the_page_fits(
        self, browser: Browser, page: Path, width: int, dark: bool
    ) -> None:
        browser.open(page, width=width, dark=dark)
        assert browser.complaints() == []
        assert browser.requests() == [page.resolve().as_uri()]
        assert browser.run("document.documentElement.scrollWidth") <= width

    @pytest.mark.parametrize("width", [390, 1280])
    def test_verdict_and_worst_point_are_on_the_first_screen(self, browser: Browser, page: Path, width: int) -> None:
        browser.open(page, width=width)
        bottom: Any = browser.run("document.querySelector('.found li').getBoundingClientRect().bottom")
        assert bottom < 900

    def test_the_figure_downloads_as_png(self, browser: Browser, page: Path) -> None:
        browser.open(page)
        save = """Promise.all([...document.querySelectorAll('.against figure button')].map(button =>
            new Promise(done => { button.click(); const look = () => button.dataset.done
                ? done(Number(button.dataset.done)) : setTimeout(look, 20); look() })))"""
        sizes = browser.run(save)
        assert len(sizes) == 1
        assert min(sizes) > 10_000  # a blank picture compresses to less

    def test_the_outcome_stands_out_in_light_and_dark(self, browser: Browser, page: Path) -> None:
        channels = "getComputedStyle(document.querySelector('.badge')).{}.match(/\\d+/g).map(Number)"
        for dark in (False, True):
            browser.open(page, dark=dark)
            ink, ground = (sum(browser.run(channels.format(name))[:3]) for name in ("color", "backgroundColor"))
            assert abs(ink - ground) > 200
