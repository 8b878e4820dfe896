"""`harness report RESULTS --figures FOLDER`: what goes into slides and papers."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from recorded import evaluations, lenet_cells, record_of, results_at, steps_of

from harness.commands.cli import main
from harness.report.anonymous import _names


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "lenet"
    cells = lenet_cells(
        engine="real", sweep__seeds=2, sweep__learning_rate=[0.1], sweep__strategy=["single", "sync-ddp"]
    )
    stored = results_at(folder, cells, run=0)
    for cell in cells:
        stored.write_record(record_of(cell), {"evals.csv": evaluations(cell), "steps.parquet": steps_of(cell)})
    return folder


def report(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["report", *map(str, arguments)])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def figures(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides") / "new"
    code, output = report(results, "--figures", folder)
    assert code == 0
    drawn = len(list(folder.glob("*.svg")))
    assert output.splitlines() == [f"figures: {folder} ({drawn} figures, each as SVG, PNG and CSV)"]
    return folder


def test_every_figure_is_written_as_svg_png_and_csv_without_a_page(results: Path, figures: Path) -> None:
    stems = sorted(path.stem for path in figures.glob("*.svg"))
    assert len(stems) >= 8
    assert [int(stem[:2]) for stem in stems] == list(range(1, len(stems) + 1))
    assert not (results / "report.html").exists()
    listed = (figures / "figures.md").read_text(encoding="utf-8")
    for stem in stems:
        assert (figures / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        with (figures / f"{stem}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert len({len(row) for row in rows}) == 1 < len(rows)
        assert f"]({stem}.svg)" in listed


def test_an_svg_stands_by_itself(figures: Path) -> None:
    for path in figures.glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        ids = [element.get("id") for element in ElementTree.fromstring(text).iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        assert {"title", "desc"} <= set(ids)
        assert "currentColor" not in text
        assert "var(" not in text
        assert "mark:" not in text


def test_a_slider_has_one_stop_in_a_picture(figures: Path) -> None:
    (waits,) = figures.glob("*who-waits*.svg")
    lanes = 3
    text = waits.read_text(encoding="utf-8")
    assert text.count("fill: #") + text.count("fill:#") < 40 * lanes  # eleven stops would be many more
    assert 'display="none"' not in text


def test_the_page_comes_too_where_it_is_asked_for(results: Path, tmp_path: Path) -> None:
    code, output = report(results, "--figures", tmp_path / "figures", "--out", tmp_path / "page.html")
    assert code == 0
    assert f"report: {tmp_path / 'page.html'}" in output
    assert (tmp_path / "page.html").is_file()


def test_a_file_in_place_of_the_folder_is_refused(results: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    code, output = report(results, "--figures", tmp_path / "taken")
    assert code == 2
    assert "taken is a file; name a folder" in output
    assert (tmp_path / "taken").read_text() == "mine"


def test_host_and_home_stay_out_of_figures_unless_asked_for(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "single-2")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ann"))
    cells = lenet_cells(
        engine="real", sweep__seeds=1, sweep__learning_rate=[0.1], sweep__strategy=["single"], sweep__gpus=[1]
    )
    stored = results_at(tmp_path / "mine", [replace(cell, swept={"data": "/home/ann/x"}) for cell in cells])
    _names.cache_clear()
    try:
        report(stored.folder, "--figures", tmp_path / "out")
        report(stored.folder, "--figures", tmp_path / "named", "--names")
    finally:
        _names.cache_clear()
    for ending in ("svg", "csv", "md"):
        written = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "out").glob(f"*.{ending}"))
        named = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "named").glob(f"*.{ending}"))
        assert "/home/ann" not in written
        assert "/home/ann" in named
