from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from cells import make_cells
from recorded import NASTY, Seen, evaluations, lenet_cells, record_of, results_at

import harness.report
from harness.core.cell import Cell, LeftOut
from harness.report import default_path, is_current, write_report
from harness.report.anonymous import _names
from harness.report.definitions import DEFINITIONS
from harness.results.store import Results


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return lenet_cells(
        engine="real", sweep__seeds=2, sweep__learning_rate=[0.1], sweep__strategy=["single", "sync-ddp", "async-ps"]
    )


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, cells: list[Cell]) -> str:
    """The page of all cells: drawing takes a second, so that tests that only look share it."""
    return page(results_at(tmp_path_factory.mktemp("usual"), cells))


@pytest.fixture(scope="module")
def of_both_engines(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(results_at(tmp_path_factory.mktemp("both"), lenet_cells(sweep__seeds=2, sweep__learning_rate=[0.1])))


def page(results: Results, **options: Any) -> str:
    return write_report([results], results.folder / "report.html", **options).read_text(encoding="utf-8")


def test_names_and_descriptions_are_text(tmp_path: Path, cells: list[Cell]) -> None:
    left_out = (LeftOut("single", NASTY, "excluded", NASTY),)
    results = results_at(tmp_path, cells, name=NASTY, description=NASTY * 200, left_out=left_out, notes=(NASTY,))
    results.write_record(record_of(cells[0], status="crashed", reason=NASTY, notes=(NASTY,)), {})
    text = page(results)
    seen = Seen(text)
    assert [tag for tag, _ in seen.tags if tag == "script"] == ["script"]
    assert "alert(" not in seen.code
    assert sum(NASTY in part for part in seen.texts) >= 6


def test_names_of_host_and_user_stay_out_unless_asked_for(
    tmp_path: Path, cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ann"))
    monkeypatch.setattr("socket.gethostname", lambda: "node-17")
    _names.cache_clear()
    results = results_at(tmp_path, cells, run=3)
    reason = "/home/ann/train.py, line 3, on node-17: no such file: /home/anna/node-171"
    results.write_record(record_of(cells[0], status="crashed", reason=reason, notes=("see /home/ann",)), {})
    try:
        assert "~/train.py, line 3, on this-host: no such file: /home/anna/node-171" in page(results)
        assert "see ~" in page(results)
        assert "/home/ann/" not in page(results)
        assert "/home/ann/train.py, line 3, on node-17" in page(results, named=True)
        assert not is_current([results], results.folder / "report.html")
    finally:
        _names.cache_clear()


def test_nothing_is_fetched(usual: str) -> None:
    text = usual
    for tag, attributes in Seen(text).tags:
        assert tag not in ("link", "img", "iframe")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:text/csv"))
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text


def test_every_figure_has_a_text_alternative_and_a_caption(usual: str) -> None:
    text = usual
    drawings = [attributes for tag, attributes in Seen(text).tags if tag == "svg"]
    assert len(drawings) == text.count("<figcaption>") == text.count("download=") >= 10
    for attributes in drawings:
        assert attributes["role"] == "img"
        title, description = (attributes["aria-labelledby"] or "").split()
        assert re.search(rf'<title id="{title}">[^<]+</title><desc id="{description}">[^<]+\.</desc>', text)


def test_every_heading_of_figures_has_its_definitions(of_both_engines: str) -> None:
    headings = [heading for heading in re.findall(r"<h2>(.*?)</h2>", of_both_engines) if heading in DEFINITIONS]
    assert {"Convergence", "Throughput and scaling", "Where the time went", "Memory"} <= set(headings)
    assert of_both_engines.count("What these figures mean") == len(headings)


def test_ids_are_unique_and_svg_is_well_formed(of_both_engines: str) -> None:
    text = of_both_engines
    ids = [attributes["id"] for _, attributes in Seen(text).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(drawing)
    for target in re.findall(r'(?:href="#|url\(#)([\w-]+)', text):
        assert target in ids


def test_measured_and_simulated_are_drawn_apart(of_both_engines: str) -> None:
    text = of_both_engines
    titles = [title for title in re.findall(r"<h3>(.*?)</h3>", text) if "Predicted" not in title]
    kinds = ["simulated" if "simulated" in title else "measured" for title in titles if "measured" in title] + [
        "simulated" for title in titles if "simulated" in title
    ]
    assert len(kinds) == len(titles)
    assert {"measured", "simulated"} == set(kinds)
    simulated = "".join(
        figure for figure in re.findall(r"<figure>.*?</figure>", text, re.DOTALL) if "simulated" in figure[:120]
    )
    assert re.search(r"simulated (micro|milli)?seconds of training", simulated)


def test_failed_and_unfinished_cells_stand_in_the_table(tmp_path: Path, cells: list[Cell]) -> None:
    results = results_at(tmp_path, cells, run=3)
    results.write_record(record_of(cells[1], status="out-of-memory", reason="1.2 GiB more than there is"), {})
    text = page(results)
    assert f'<span class="partial">3 of {len(cells)} cells</span>' in text
    assert text.count('<td class="failed">out-of-memory</td>') == 2  # among the failures, and among all cells
    assert text.count("1.2 GiB more than there is") == 2
    assert text.count('<td class="waiting">not run yet</td>') == len(cells) - 3
    assert text.count("<td>synchronous</td>") + text.count("<td>asynchronous</td>") == len(cells)


def test_what_fails_the_exam_is_drawn_as_not_ranked_and_leads_no_caption(tmp_path: Path) -> None:
    cells = make_cells(
        engine="real", cores=2, sweep={"strategy": ["single", "sync-ddp"], "gpus": [1, 2], "learning_rate": [0.1]}
    )
    results = results_at(tmp_path, cells)
    for cell in cells:
        record = record_of(cell)
        record.row["displacement"] = 0.9 if cell.strategy == "sync-ddp" and cell.gpus == 2 else 0.3
        record.row["throughput_samples_per_s"] = 9e4 if cell.gpus == 2 else 1e3
        results.write_record(record, {"evals.csv": evaluations(cell)})
    text = page(results)
    assert "the distance that its weights move differs by 67 %" in text
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text, re.DOTALL)
    compared = [caption for caption in captions if "sync-ddp, 2 CPU cores" in caption or "sync-ddp on 2" in caption]
    assert not [
        caption
        for caption in compared
        if re.search(
            r"is first|The first to reach|is fastest|ends highest|trains .* samples per|reached the target", caption
        )
    ]
    assert "sync-ddp, 2 CPU cores, not ranked: 90,000" in text


def test_what_could_not_be_judged_has_no_mark_of_what_passed(tmp_path: Path) -> None:
    (cell,) = make_cells(engine="real", cores=2, sweep={"strategy": ["sync-ddp"], "gpus": [2], "learning_rate": [0.1]})
    results = results_at(tmp_path, [cell])
    record = record_of(cell)
    record.row["displacement"] = 0.3  # of a training, which nobody has done on one device
    results.write_record(record, {"evals.csv": evaluations(cell)})
    marks = re.findall(
        r'<p class="exam"><span class="mark([^"]*)" aria-hidden="true">(\S+)</span> (\S+)', page(results)
    )
    assert marks == [("", "?", "Not")]


def test_nothing_has_run_yet(tmp_path: Path, cells: list[Cell]) -> None:
    text = page(results_at(tmp_path, cells, run=0))
    assert f"<b>Nothing has finished yet: 0 of {len(cells)} cells.</b>" in text
    assert "<svg" not in text


def test_no_number_of_the_table_is_negative(usual: str) -> None:
    assert not re.search(r"<td[^>]*>-\d", usual)


@pytest.mark.parametrize(
    "module", ["core/words.py", "commands/explain_text.py", "analysis/lost.py", "report/report.html.j2"]
)
def test_a_report_is_current_until_a_module_changes_that_its_words_may_come_from(
    tmp_path: Path, cells: list[Cell], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    results, out = results_at(tmp_path, cells, run=1), tmp_path / "report.html"
    page(results)
    edited, read = Path(harness.__file__).parent / module, Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"# edited" if path == edited else b""))
    assert not is_current([results], out)


def test_a_report_is_current_until_a_record_changes(tmp_path: Path, cells: list[Cell]) -> None:
    results, out = results_at(tmp_path, cells, run=2), tmp_path / "report.html"
    assert not is_current([results], out)
    page(results)
    assert is_current([results], out)
    results.write_record(record_of(cells[2]), {})
    assert not is_current([results], out)


def test_asking_whether_a_report_is_current_imports_nothing_that_draws(tmp_path: Path, cells: list[Cell]) -> None:
    page(results_at(tmp_path, cells, run=1))
    code = f"""
import sys
from pathlib import Path
from harness.report import is_current
from harness.analysis.cell_row import identity_row
from harness.results.store import Results
print(is_current([Results(Path({str(tmp_path)!r}))], Path({str(tmp_path / "report.html")!r})))
print([name for name in ("torch", "pandas", "seaborn", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["True", "[]"]


def test_the_same_results_give_the_same_page(tmp_path: Path, cells: list[Cell]) -> None:
    results = results_at(tmp_path, cells, run=2)
    assert page(results) == page(results)


def test_sections_are_added_and_a_failing_one_costs_nothing(tmp_path: Path, cells: list[Cell]) -> None:
    def mine(frame: Any) -> tuple[str, str]:
        return "Mine <b>", f"<p>{len(frame)} rows</p>"

    def broken(frame: Any) -> tuple[str, str]:
        raise ValueError(f"no column {NASTY}")

    text = page(results_at(tmp_path, cells, run=1), sections=[mine, broken])
    assert "<h2>Mine &lt;b&gt;</h2>" in text
    assert "<p>1 rows</p>" in text
    assert "This section failed: ValueError: no column &lt;script&gt;" in text


def test_several_folders_share_a_page(tmp_path: Path, cells: list[Cell]) -> None:
    folders = [results_at(tmp_path / name, cells, run=1, name=name) for name in ("one", "two")]
    text = write_report(folders, tmp_path / "report.html").read_text(encoding="utf-8")
    ids = [attributes["id"] for _, attributes in Seen(text).tags if "id" in attributes]
    assert text.count("<h1>") == 2
    assert len(ids) == len(set(ids))


def test_several_folders_get_a_file_of_their_own(tmp_path: Path) -> None:
    one, two = Results(tmp_path / "one"), Results(tmp_path / "two")
    assert default_path([one]) == tmp_path / "one" / "report.html"
    assert default_path([one, two]) == tmp_path / "report-one+two.html"
    many = [Results(tmp_path / f"scenario-{number}") for number in range(30)]
    assert default_path(many).parent == tmp_path
    assert len(default_path(many).name) < 60
    assert default_path(many) != default_path(many[1:] + many[:1])


def test_strategies_keep_their_colour_across_folders(tmp_path: Path, cells: list[Cell]) -> None:
    fewer = [cell for cell in cells if cell.strategy != "single"]
    folders = [results_at(tmp_path / "one", cells, run=2), results_at(tmp_path / "two", fewer, run=2)]
    text = write_report(folders, tmp_path / "report.html").read_text(encoding="utf-8")
    found = set(re.findall(r'<i style="background: (#\w+)"></i>([\w-]+)', text))
    assert len(found) == len({name for _, name in found}) == len({colour for colour, _ in found})


def test_two_hundred_cells_fit_five_megabytes(tmp_path: Path) -> None:
    planned = lenet_cells(engine="real", sweep__learning_rate=[0.01, 0.02, 0.05, 0.1], sweep__seeds=9)  # 4 panels
    assert len(planned) >= 200
    assert len(page(results_at(tmp_path, planned))) < 5e6


@pytest.mark.long
def test_a_thousand_cells_fit_ten_megabytes(tmp_path: Path) -> None:
    planned = lenet_cells(engine="real", sweep__learning_rate=[0.001, 0.01, 0.05, 0.1], sweep__seeds=45)
    assert len(planned) >= 1000
    assert len(page(results_at(tmp_path, planned))) < 10e6


def test_a_name_of_ten_thousand_characters_is_shown_and_does_not_break_figures(
    tmp_path: Path, cells: list[Cell]
) -> None:
    text = page(results_at(tmp_path, cells, run=2, name=NASTY * 200, description=NASTY * 200))
    assert text.count("<svg") >= 5
    assert NASTY * 200 in Seen(text).texts


def test_the_template_ships_beside_the_code() -> None:
    assert (Path(harness.report.__file__).parent / "report.html.j2").is_file()
