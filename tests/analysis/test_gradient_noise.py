"""The gradient noise scale, from two real gradients to a column and a frame."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cells import make_cell
from lazy import lazy

from harness.analysis.cell_row import noise_row
from harness.analysis.gradient_noise import LEAST_KNOWN_STEPS, Squares, known_squares, noise_scale
from harness.core.cell import Plan
from harness.core.outcome import Outcome
from harness.engines.processes.launch import Result, run_cell
from harness.engines.shared.endpoint import Course
from harness.engines.shared.setup import make_setup
from harness.executors.make_record import make_record
from harness.report import write_report
from harness.results.store import Results, load
from harness.scenario.plan import Machine

pd = lazy("pandas")
torch = lazy("torch")
noise_windows = lazy("harness.analysis.noise_windows")
values = lazy("harness.engines.shared.flat")
pieces_of = lazy("harness.engines.shared.pieces")
virtual_engine = lazy("harness.engines.virtual.engine")

# -- what an average keeps ---------------------------------------------------------------------------------------------


def gradient(*numbers: float, samples: int = 8, version: int = 3, loss: float | None = 1.0) -> values.Flat:
    return values.Flat([torch.tensor(numbers, dtype=torch.float64)], num_samples=samples, version=version, loss=loss)


def test_an_average_of_gradients_keeps_both_squares():
    mean = gradient(3.0, 4.0).averaged_with([gradient(1.0, 0.0), gradient(-1.0, 2.0)])
    assert mean.spread == (3, (25 + 1 + 5) / 3, 1.0 + 4.0)


@pytest.mark.parametrize("change", [{"samples": 7}, {"version": 2}, {"loss": None}], ids=["uneven", "stale", "weights"])
def test_values_that_cannot_be_compared_have_no_squares(change):
    assert gradient(1.0, 2.0).averaged_with([gradient(1.0, 2.0, **change)]).spread is None


def test_one_gradient_and_gradients_of_no_sample_have_no_squares():
    assert gradient(1.0).averaged_with([]).spread is None
    assert gradient(1.0, samples=0).averaged_with([gradient(1.0, samples=0)]).spread is None


# -- two real processes ------------------------------------------------------------------------------------------------

# 1,293 training samples in batches of 32: the last one of each of 2 epochs has 13, 7 for one worker, 6 for the other.
CHANGES: dict[str, Any] = {"sweep__strategy": "sync-ps", "sweep__gpus": [2], "workload": {"precision": "fp64"}}


@pytest.fixture(scope="module")
def measured() -> Any:
    result = run_cell(make_cell(engine="real", **CHANGES), options={"keep_weights": True})
    assert result.finished, result.reason
    return result


@pytest.mark.dist
def test_squares_in_the_log_are_those_of_the_two_gradients(measured):
    setup = make_setup(make_cell(engine="virtual", **CHANGES))
    replica, found = setup.replica(), []
    for rank in range(2):
        indices = next(iter(Course(setup, rank).batches())).indices
        pieces, _ = replica.gradient([pieces_of.Piece(indices, 1 / 16)])  # the mean over its own 16 samples
        found.append(torch.cat([piece.reshape(-1) for piece in pieces]).numpy())
    log = measured.outcome.updates_log
    assert log["small_square"][0] == pytest.approx((found[0] ** 2).sum() / 2 + (found[1] ** 2).sum() / 2, rel=1e-12)
    assert log["big_square"][0] == pytest.approx((((found[0] + found[1]) / 2) ** 2).sum(), rel=1e-12)


@pytest.mark.dist
def test_uneven_steps_are_skipped_and_counted_as_such(measured):
    log = measured.outcome.updates_log
    assert [k for k, parts in enumerate(log["parts"]) if parts is None] == [40, 81]
    assert log["samples"][40] == 13
    assert {parts for parts in log["parts"] if parts is not None} == {2}
    assert len(known_squares(log)) == 80


@pytest.mark.dist
def test_the_trajectory_does_not_change_by_a_bit(measured, monkeypatch):
    monkeypatch.setattr("harness.engines.shared.flat.spread", lambda averaged, mean: None)
    without = virtual_engine.run_virtual(make_setup(make_cell(engine="virtual", **CHANGES)), merge=False)
    assert set(without.updates_log["parts"]) == {None}
    assert np.array_equal(np.asarray(without.weights), np.asarray(measured.outcome.weights))


def test_gradients_of_one_pass_have_no_squares():
    outcome = virtual_engine.run_virtual(make_setup(make_cell(engine="virtual", **CHANGES)))
    assert set(outcome.updates_log["small_square"]) == {None}
    assert noise_row(outcome) == {}


# -- the estimate ------------------------------------------------------------------------------------------------------


def gaussian(steps: int, batch: int, workers: int, seed: int = 0) -> tuple[list[Squares], float]:
    """Return the squares of steps whose gradients are Gaussian, and the true scale, about 370 samples."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=200)
    deviation = np.exp(0.5 * rng.normal(size=200)) * 15.0
    updates = []
    for _ in range(steps):
        found = true + deviation * rng.normal(size=(workers, 200)) / math.sqrt(batch)
        squares = float((found**2).sum(axis=1).mean()), float((found.mean(axis=0) ** 2).sum())
        updates.append(Squares(workers, *squares, workers * batch))
    return updates, float((deviation**2).sum() / (true**2).sum())


@pytest.mark.parametrize(("workers", "batch", "steps"), [(2, 64, 4000), (8, 16, 2000), (64, 4, 1000)])
def test_noise_scale_of_gaussian_gradients_is_within_five_percent_of_the_truth(workers, batch, steps):
    updates, truth = gaussian(steps, batch, workers)
    found = noise_scale(updates)
    assert found.samples == pytest.approx(truth, rel=0.05)
    assert found.steps == steps


def test_updates_of_different_batches_go_into_one_estimate():
    (some, truth), (others, _) = gaussian(2000, 64, 2), gaussian(500, 16, 8)
    assert noise_scale(some + others).samples == pytest.approx(truth, rel=0.05)


def test_intervals_hold_the_truth_as_often_as_they_say():
    intervals = []
    for seed in range(200):
        updates, truth = gaussian(100, 64, 2, seed)
        found = noise_scale(updates).interval
        assert found is not None
        intervals.append(found[0] <= truth <= found[1])
    assert 0.90 <= np.mean(intervals) <= 0.99


def test_a_signal_that_is_not_told_from_zero_and_few_steps_have_no_scale():
    assert noise_scale([Squares(4, 4.0, 1.0, 64)] * 100).samples is None
    updates, _ = gaussian(LEAST_KNOWN_STEPS, 64, 8)
    assert noise_scale(updates).samples is not None
    assert noise_scale(updates[1:]).samples is None
    with pytest.raises(ValueError, match="needs one at least, each the mean of 2 gradients"):
        noise_scale([Squares(1, 1.0, 1.0, 16)])
    with pytest.raises(ValueError, match="0 updates"):
        noise_scale([])


def test_squares_that_are_no_numbers_are_skipped():
    log = {"parts": [2, None, 2], "small_square": [2.0, None, math.inf], "big_square": [1.0, None, 1.0]}
    assert known_squares(log | {"samples": [32, 32, 32]}) == [Squares(2, 2.0, 1.0, 32)]


# -- over the course of training ---------------------------------------------------------------------------------------


def table(updates: list[Squares], unknown: int = 0) -> pd.DataFrame:
    """Return a log as updates.parquet holds it: numbers, the last ones unknown."""
    frame = pd.DataFrame(updates).astype(float)
    frame.loc[len(frame) - unknown :, ["parts", "small_square", "big_square"]] = math.nan
    return frame


def test_windows_show_a_scale_that_rises():
    early, truth = gaussian(2000, 64, 2)
    late = [
        u._replace(small_square=u.signal + 4 * u.noise / 64, big_square=u.signal + 4 * u.noise / 128) for u in early
    ]
    frame = noise_windows.noise_frame([table(early + late)])
    size = math.ceil(4000 / 12)
    assert frame["samples_seen"].iloc[0] == pytest.approx(128 * (size + 1) / 2)
    assert frame["noise_scale"].iloc[:5].median() == pytest.approx(truth, rel=0.1)
    assert frame["noise_scale"].iloc[-5:].median() == pytest.approx(4 * truth, rel=0.1)
    assert (frame["low"] < frame["noise_scale"]).all()
    assert (frame["noise_scale"] < frame["high"]).all()


def test_windows_are_medians_over_seeds_and_one_of_which_most_are_unresolved_is_empty():
    updates, _ = gaussian(3 * noise_windows.WINDOW_STEPS, 64, 8)
    nothing = [Squares(8, 8.0, 1.0, 512)] * noise_windows.WINDOW_STEPS
    runs = [
        table(updates),
        table(updates[: noise_windows.WINDOW_STEPS] + nothing),
        table(updates[: noise_windows.WINDOW_STEPS] + nothing),
    ]
    frame = noise_windows.noise_frame(runs)
    assert frame["seeds"].tolist() == [3, 3, 1]
    assert frame["noise_scale"].isna().tolist() == [False, True, False]
    assert frame.loc[0, "noise_scale"] == noise_scale(updates[: noise_windows.WINDOW_STEPS]).samples
    assert frame.loc[0, "updates"] == 3 * noise_windows.WINDOW_STEPS


def test_a_window_of_few_known_squares_and_a_run_without_any_have_no_row():
    updates, _ = gaussian(2 * noise_windows.WINDOW_STEPS, 64, 8)
    assert len(noise_windows.noise_frame([table(updates, unknown=LEAST_KNOWN_STEPS + 1)])) == 1
    assert noise_windows.noise_frame([pd.DataFrame(), pd.DataFrame({"samples": [32], "time_s": [0.1]})]).empty


# -- in records and on the page ----------------------------------------------------------------------------------------


def outcome_of(updates: list[Squares]) -> Outcome:
    log = {name: [getattr(update, name) for update in updates] for name in Squares._fields}
    return Outcome(updates_log=log | {"update": list(range(len(updates)))})


def test_the_column_is_the_scale_over_the_whole_run_and_empty_where_it_is_not_resolved():
    updates, truth = gaussian(1000, 64, 8)
    assert noise_row(outcome_of(updates))["noise_scale_samples"] == pytest.approx(truth, rel=0.05)
    assert noise_row(outcome_of(updates[:20])) == {"noise_scale_samples": None}
    assert noise_row(outcome_of([])) == {}


@pytest.mark.dist
def test_a_real_run_has_its_figure_and_numbers_beside_those_of_cells_without(measured, tmp_path):
    cells = [make_cell(engine="real", **CHANGES), make_cell(engine="real", **CHANGES | {"sweep__gpus": [1]})]
    results = Results(tmp_path / "test")
    results.write_plan(Plan("test", "", Machine(cores=2), tuple(cells)))
    unknown = replace(virtual_engine.run_virtual(make_setup(cells[1])), facts=measured.outcome.facts)
    for cell, outcome in zip(cells, (measured.outcome, unknown), strict=True):
        result = Result(outcome)
        results.write_record(*make_record(cell, result, None, {"id": "env"}, 1))
    frames = load(tmp_path)
    assert frames.updates["small_square"].dtype == float
    scales = frames.cells.set_index("gpus")["noise_scale_samples"]
    assert 1 < scales[2] < 1000
    assert math.isnan(scales[1])
    page = write_report([results], tmp_path / "report.html").read_text()
    assert "Gradient noise scale, measured" in page
