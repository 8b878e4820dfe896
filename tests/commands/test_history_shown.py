"""`harness history`: nights are added with their commit, and shown as text, page and JSON."""

from __future__ import annotations

import math
import os
import random
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from chromium import BINARY, chromium
from click.testing import CliRunner, Result
from compared_cells import store
from kept_nights import iso, nights
from report_page import assert_described, assert_fits, assert_quiet

from harness.commands.cli import main
from harness.results.history import keep_rows, read_history
from harness.results.store import Results

GIT = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")


def harness(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository of the user's with one commit, and be in it."""
    for name in [name for name in os.environ if name.startswith("GIT_")] + ["GITHUB_SHA", "CI_COMMIT_SHA"]:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "train.py").write_text("one\n")
    git(folder, "add", "train.py")
    git(folder, "commit", "--quiet", "-m", "one")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a history of 30 nights: on the 20th one point becomes 10 % slower and the driver changes."""
    folder, draw = tmp_path_factory.mktemp("history"), random.Random(1)
    points = {
        name: nights(
            [0.01 * math.exp(draw.gauss(0, 0.005) + 0.1 * (name == "b" and t >= 19)) for t in range(30)], point=name
        )
        for name in ("a", "b", "c")
    }
    for night in range(30):
        rows = [rows[night] for rows in points.values()]
        newer = [replace(row, facts=row.facts.replace("570.1", "580.2")) for row in rows]
        keep_rows(folder, newer if night >= 19 else rows)
    return folder


def test_a_night_is_added_once_with_its_commit(repository: Path) -> None:
    store(repository / "nights" / "new")
    first = harness("history", "add", "nights/new", "--to", "nights/history")
    assert first.exit_code == 0, first.output
    commit = git(repository, "rev-parse", "HEAD")
    assert "2 runs" in first.output
    assert f"commit {commit}; next: harness history show nights/history" in first.output
    again = harness("history", "add", "nights/new", "--to", "nights/history")
    assert "there already" in again.output
    rows = read_history(repository / "nights" / "history")
    assert {(row.commit, row.dirty) for row in rows} == {(commit, False)}  # results are not tracked, and no change


def test_what_is_not_committed_is_said(repository: Path) -> None:
    store(repository / "new")
    (repository / "train.py").write_text("two\n")
    assert "with changes" in harness("history", "add", "new", "--to", "history").output
    assert {row.dirty for row in read_history(Path("history"))} == {True}


def test_without_git_the_ci_system_names_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_SHA", "CI_COMMIT_SHA", "GIT_COMMIT"):
        monkeypatch.delenv(name, raising=False)
    store(tmp_path / "new")
    assert "no commit known" in harness("history", "add", "new", "--to", "without").output
    monkeypatch.setenv("CI_COMMIT_SHA", "beef")
    assert "commit beef" in harness("history", "add", "new", "--to", "with").output
    assert {(row.commit, row.dirty) for row in read_history(Path("with"))} == {("beef", None)}


def test_the_text_says_since_when_and_what_else_changed(kept: Path) -> None:
    done = harness("history", "show", kept)
    assert done.exit_code == 0
    assert "nightly: 30 nights, 3 points, 90 runs, 2031-01-01 to 2031-01-30" in done.output
    assert 'sync-ddp on 2 GPUs, x "b" +10.' in done.output
    assert "It changed between 2031-01-19 and 2031-01-20." in done.output
    assert "driver 570.1 before, 580.2 since" in done.output
    assert re.search(r"git log --oneline 0{10}\.\.0{10}", done.output)
    assert done.output.rstrip().splitlines()[-1].startswith("1 change of a time in 30 nights.")


def test_the_page_needs_no_network_and_no_script(kept: Path, tmp_path: Path) -> None:
    done = harness("history", "show", kept, "--html", tmp_path / "trends.html")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "trends.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4  # three points and the machine
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)
    without = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "driver 570.1 before, 580.2 since" in without
    assert 'class="badge">Environment' in without


@pytest.mark.browser
@pytest.mark.skipif(BINARY is None, reason="no Chromium on the path")
def test_a_browser_has_nothing_to_complain_of(kept: Path, tmp_path: Path) -> None:
    page = tmp_path / "trends.html"
    harness("history", "show", kept, "--html", page)
    with chromium() as browser:
        browser.open(page)
        assert_quiet(browser, page)
        assert_described(browser, least=4)
        for width in (390, 1280):
            assert_fits(browser, page, width)


def test_a_point_without_a_time_and_one_night_alone_are_shown(tmp_path: Path) -> None:
    rows = [replace(row, status="crashed", update_s=None) for row in nights([1.0], point="a")]
    keep_rows(tmp_path / "history", rows + nights([1.0], [None], point="b"))
    done = harness("history", "show", tmp_path / "history", "--html", tmp_path / "trends.html")
    assert done.exit_code == 0, done.output
    assert "Without a result in the last night" in done.output
    assert (tmp_path / "trends.html").is_file()


def test_a_damaged_file_and_no_history_are_refused(kept: Path, tmp_path: Path) -> None:
    none = harness("history", "show", tmp_path)
    assert (none.exit_code, "no history yet" in none.output) == (5, True)
    path = keep_rows(tmp_path, nights([1.0]))
    path.write_bytes(b"PAR1")
    damaged = harness("history", "show", tmp_path)
    assert (damaged.exit_code, str(path) in damaged.output) == (2, True)


def test_a_night_that_was_just_run_says_when_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(
        'engine = "virtual"\n[workload]\nmodel = "softmax"\ndataset = "digits"\n[goal]\nmax_steps = 3\n'
        'target_accuracy = "none"\n[cluster]\ndevice = { samples_per_second = 1000, batch_size = 32 }\n'
        '[sweep]\nstrategy = ["single"]\ngpus = [1]\nlearning_rate = [0.1]\nglobal_batch_size = [32]\n'
    )
    assert harness("run", "tiny.toml", "--results", "new").exit_code == 0
    (record,) = Results(Path("new/tiny")).records().values()
    assert record.started
    added = harness("history", "add", "new", "--to", "history")
    assert added.exit_code == 0, added.output
    (row,) = read_history(Path("history"))
    assert row.started.removesuffix("Z") == record.started.removesuffix("+00:00")
    assert row.update_s is not None
    assert row.night == row.started > iso(-3000)
