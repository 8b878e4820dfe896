"""Reports of real runs, as a reader's browser sees them: the default scenario, and a simulated sweep of 200 cells."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from chromium import BINARY, Browser, chromium
from lazy import lazy
from report_page import assert_described, assert_filters, assert_fits, assert_quiet, assert_sorts, column
from stated_times import assert_as_stated

import harness
from harness.scenario.bundled import bundled_scenarios

pd = lazy("pandas")
time_parts = lazy("harness.analysis.time_parts")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.dist,
    pytest.mark.browser,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(BINARY is None, reason="no Chromium on the path"),
]

SWEEP = """
engine = "virtual"
[workload]
model = "mlp"
dataset = "digits"
[sweep]
strategy = ["single", "async-ps", "sync-ddp", "local-sgd"]
global_batch_size = [32]
learning_rate = [0.001, 0.01, 0.1, 0.3, 1.0]
gpus = [1, 2, 4, 8]
seeds = 4
exclude = [
    { strategy = "async-ps", gpus = 1 },
    { strategy = "sync-ddp", gpus = 1 },
    { strategy = "local-sgd", gpus = 1 },
]
[goal]
target_accuracy = 0.9
max_epochs = 3
[cluster]
device = { samples_per_second = 20000, batch_size = 32 }
inter_node = { bandwidth = "1 GB/s", latency = "50 us" }
"""


class Ran(NamedTuple):
    """A scenario that was run.

    Attributes:
        seconds: from its start to the end of its report.
    """

    folder: Path
    cells: int
    engine: str
    seconds: float

    @property
    def report(self) -> Path:
        """Where its report lies."""
        return self.folder / "report.html"


def run(root: Path, scenario: str) -> float:
    """Run a scenario and return the seconds that it took."""
    command = [sys.executable, "-m", "harness", "run", scenario, "--results", str(root)]
    began = time.monotonic()
    subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - began


@pytest.fixture(scope="module", params=[pytest.param("lenet", marks=pytest.mark.timed), "sweep"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "lenet":
        return Ran(root / "lenet", 60, "real", run(root, "lenet"))
    (root / "sweep.toml").write_text(SWEEP)
    return Ran(root / "sweep", 200, "virtual", run(root, str(root / "sweep.toml")))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def test_a_reader_can_use_the_report(ran: Ran, browser: Browser) -> None:
    browser.open(ran.report)
    assert_quiet(browser, ran.report)
    assert_described(browser, least=12)
    assert len(column(browser, "strategy")) == ran.cells
    assert_sorts(browser)
    assert_filters(browser, "async-ps", ran.engine)
    for width in (390, 1280):
        assert_fits(browser, ran.report, width)
        assert_quiet(browser, ran.report)
    assert ran.report.stat().st_size < 5e6


def test_every_cell_has_parts_that_add_up_to_its_time(ran: Ran) -> None:
    cells = harness.load(ran.folder).cells
    assert len(cells) == ran.cells
    trained = cells["wall_s"] - cells["setup_s"].fillna(0) - cells["evaluation_s"].fillna(0)
    parts = cells[list(time_parts.TRAINING)].sum(axis=1)
    pd.testing.assert_series_equal(parts, trained, check_names=False, rtol=0.02)


@pytest.mark.timed
@pytest.mark.parametrize("ran", ["lenet"], indirect=True)
def test_the_default_scenario_takes_about_as_long_as_it_says(ran: Ran) -> None:
    assert_as_stated(bundled_scenarios()["lenet"], ran.seconds)


@pytest.mark.timed
@pytest.mark.parametrize("ran", ["lenet"], indirect=True)
def test_the_default_scenario_is_answered_for_the_devices_here_from_all_seeds(ran: Ran) -> None:
    text = ran.report.read_text(encoding="utf-8")
    lead = text[text.index('<p class="lead">') :].partition("</p>")[0]
    assert "CPU core" in lead
    assert "of 5 seeds" in lead
