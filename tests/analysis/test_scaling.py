"""Speed-up, tails and the two limits of more devices: serial work and the critical batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lazy import lazy

pd = lazy("pandas")
batch_regimes = lazy("harness.analysis.batch_regimes")
scaling = lazy("harness.analysis.scaling")


def row(
    strategy: str = "single", gpus: int = 1, speed: float = 1000.0, seed: int = 0, **changes: Any
) -> dict[str, Any]:
    given = {
        "cell_id": f"{strategy}-{gpus}-{seed}",
        "strategy": strategy,
        "options": "{}",
        "synchrony": "synchronous",
        "engine": "real",
        "device": "cpu",
        "precision": "fp32",
        "environment": "here",
        "gpus": gpus,
        "nodes": 1,
        "batch_size": 32 // gpus,
        "micro_batch_size": 32 // gpus,
        "global_batch_size": 32,
        "learning_rate": 0.1,
        "lr_rule": "",
        "seed": seed,
        "status": "ok",
        "throughput_samples_per_s": speed,
    }
    return given | changes


def steps_of(cell_id: str, times: Any, workers: int = 1) -> pd.DataFrame:
    starts = np.concatenate([[0.0], np.cumsum(times)])
    tables = [
        pd.DataFrame({"worker": k, "device": 0, "step": range(len(starts)), "start_s": starts, "compute_s": 0.001})
        for k in range(workers)
    ]
    return pd.concat(tables, ignore_index=True).assign(cell_id=cell_id)


# -- step times --------------------------------------------------------------------------------------------------------


def test_step_times_leave_warm_up_out_and_take_the_first_worker():
    times = scaling.step_times(steps_of("a", [0.5] * 10 + [0.1] * 190, workers=3))
    assert len(times) == 190
    assert times == pytest.approx(0.1)
    assert len(scaling.step_times(steps_of("a", [0.1] * 19), warmup_steps=10)) == 17  # a tenth of the run at most


def test_outliers_are_reported_and_kept():
    times = [0.1 + 0.001 * (k % 5) for k in range(98)] + [1.0, 2.0]
    tail = scaling.tail_of(times)
    assert tail is not None
    assert (tail.outliers, tail.steps, tail.longest_s) == (2, 100, 2.0)
    assert tail.outlier_share == pytest.approx(3 / sum(times))
    assert tail.p95_s == sorted(times)[94]
    assert scaling.tail_of([]) is None


def test_equal_simulated_steps_have_no_outliers():
    tail = scaling.tail_of([0.1 + 1e-17 * k for k in range(100)] + [0.1 * (1 + 1e-12)])
    assert tail is not None
    assert tail.outliers == 0


def test_the_slowest_worker_is_named_with_how_much_slower_it_is():
    table = steps_of("a", [0.1] * 20, workers=4)
    table.loc[table["worker"] == 2, "compute_s"] = 0.003
    assert scaling.slowest_worker(table) == (2, 0, pytest.approx(3.0))
    assert scaling.slowest_worker(steps_of("a", [0.1] * 20)) is None
    frame = scaling.tails_frame(pd.DataFrame([row() | {"cell_id": "a"}]), table)
    assert frame.iloc[0][["slowest_worker", "outliers"]].tolist() == [2, 0]


# -- speed-up ----------------------------------------------------------------------------------------------------------


def line(frame: pd.DataFrame, strategy: str, gpus: int) -> pd.Series:
    found = frame[(frame["strategy"] == strategy) & (frame["gpus"] == gpus)]
    assert len(found) == 1
    return found.iloc[0]


def test_strong_scaling_has_its_base_efficiency_and_an_interval_from_runs():
    rng = np.random.default_rng(0)
    rows = [row(seed=k, speed=1000 * math.exp(rng.normal(0, 0.02))) for k in range(5)]
    rows += [row("sync-ddp", 4, 3000 * math.exp(rng.normal(0, 0.02)), k) for k in range(5)]
    found = line(scaling.scaling_frame(pd.DataFrame(rows)), "sync-ddp", 4)
    assert (found["base"], found["scaling"], found["same"]) == ("single on 1", "strong", "global_batch_size")
    assert found["speedup"] == pytest.approx(3.0, rel=0.05)
    assert found["efficiency"] == pytest.approx(found["speedup"] / 4)
    assert found["speedup_low"] < 3.0 < found["speedup_high"]
    assert found["speedup_high"] / found["speedup_low"] < 1.1
    assert found["between_runs"]


def test_weak_scaling_compares_the_same_batch_for_each_rank():
    rows = [row(), row("sync-ddp", 4, 3600.0, batch_size=32, global_batch_size=128)]
    found = line(scaling.scaling_frame(pd.DataFrame(rows)), "sync-ddp", 4)
    assert (found["scaling"], found["same"], found["efficiency"]) == ("weak", "batch_size", 0.9)


def test_without_single_the_fewest_devices_of_the_strategy_are_the_base_and_stand_without_interval():
    frame = scaling.scaling_frame(pd.DataFrame([row("sync-ddp", n, 1000.0 * n**0.9) for n in (2, 4, 8)]))
    assert set(frame["base"]) == {"sync-ddp on 2"}
    assert line(frame, "sync-ddp", 8)["efficiency"] == pytest.approx(4**0.9 / 4)
    assert line(frame, "sync-ddp", 2)["speedup"] == 1
    assert line(frame, "sync-ddp", 2)["speedup_low"] is None


def test_engines_are_never_mixed():
    rows = [row(), row("sync-ddp", 2, 1500.0), row("sync-ddp", 4, 9999.0, engine="virtual")]
    assert line(scaling.scaling_frame(pd.DataFrame(rows)), "sync-ddp", 4)["base"] == "sync-ddp on 4"


def test_one_run_has_an_interval_from_its_raw_steps_that_says_so():
    rng = np.random.default_rng(1)
    cells = [row(speed=32 / 0.1), row("sync-ddp", 4, 32 / 0.03)]
    tables = [
        steps_of(c["cell_id"], m * np.exp(rng.normal(0, 0.1, 300))) for c, m in zip(cells, (0.1, 0.03), strict=True)
    ]
    found = line(scaling.scaling_frame(pd.DataFrame(cells), pd.concat(tables)), "sync-ddp", 4)
    assert found["speedup_low"] < 10 / 3 < found["speedup_high"]
    assert not found["between_runs"]
    assert line(scaling.scaling_frame(pd.DataFrame(cells)), "sync-ddp", 4)["speedup_low"] is None


@given(st.floats(0, 1), st.lists(st.integers(2, 512), min_size=1, max_size=8))
def test_the_serial_share_is_found_again(serial, devices):
    speedups = [1 / (serial + (1 - serial) / n) for n in devices]
    assert scaling.amdahl(devices, speedups) == pytest.approx(serial, abs=1e-9)


def test_faster_than_linear_is_no_negative_serial_share():
    assert scaling.amdahl([2, 4], [2.2, 4.5]) == 0
    with pytest.raises(ValueError, match="more than one device"):
        scaling.amdahl([1], [1.0])


# -- steps to target against batch -------------------------------------------------------------------------------------

LENET = {4: 4500, 16: 1116, 64: 368, 256: 255, 1024: 218, 4096: 228}
"""Median steps of LeNet to 97 % of MNIST by batch, plain SGD at its best rate (SCIENCE 1.2; CPU, 1 to 3 seeds)."""


def test_the_hyperbola_of_lenet_has_its_known_critical_batch():
    fit = batch_regimes.fit_hyperbola(list(LENET), list(LENET.values()))
    assert fit is not None
    assert fit.least_steps == pytest.approx(205, rel=0.1)
    assert fit.critical_batch == pytest.approx(85, rel=0.15)
    assert [fit.regime(batch) for batch in (4, 64, 1024)] == ["perfect", "diminishing", "maximal"]
    assert 1.8 <= fit.steps(64) / fit.least_steps <= 2.5


@given(st.floats(1, 1e4), st.floats(1, 1e5))
def test_a_hyperbola_is_found_again(least_steps, critical):
    batches = [critical * factor for factor in (0.1, 0.5, 1, 2, 10)]
    fit = batch_regimes.fit_hyperbola(batches, [least_steps * (1 + critical / b) for b in batches])
    assert fit is not None
    assert fit.least_steps == pytest.approx(least_steps, rel=1e-6)
    assert fit.critical_batch == pytest.approx(critical, rel=1e-6)


def test_without_a_limit_in_sight_the_critical_batch_is_not_invented():
    fit = batch_regimes.fit_hyperbola([8, 16, 32], [4000, 2000, 1000])
    assert fit is not None
    assert fit.critical_batch == pytest.approx(math.inf) or fit.critical_batch > 1e6
    assert fit.regime(32) == "perfect"
    flat = batch_regimes.fit_hyperbola([512, 1024, 2048], [200, 200, 200])
    assert flat is not None
    assert flat.critical_batch < 1
    assert flat.regime(512) == "maximal"
    assert batch_regimes.fit_hyperbola([8, 8], [10, 11]) is None


def trial(batch: int, rate: float, seed: int, steps: float | None, status: str = "ok") -> dict[str, Any]:
    return row(seed=seed, global_batch_size=batch, batch_size=batch, learning_rate=rate) | {
        "status": status if steps is None else "ok",
        "updates_to_target": steps,
    }


def test_each_batch_stands_with_its_best_rate_and_outcomes_are_three_valued():
    rows = [trial(16, 0.1, k, 1000.0 + k) for k in range(3)] + [trial(16, 0.01, k, 4000.0) for k in range(3)]
    rows += [trial(64, 0.1, k, 360.0 + k) for k in range(3)]
    rows += [trial(64, 1.0, 0, 90.0), trial(64, 1.0, 1, None, "diverged"), trial(64, 1.0, 2, None, "target-missed")]
    rows += [trial(256, 0.1, k, None, "target-missed") for k in range(2)]
    found = batch_regimes.batch_points(pd.DataFrame(rows))
    assert [(p.batch, p.learning_rate, len(p.steps), p.at_edge) for p in found] == [
        (16, 0.1, 3, True),
        (64, 0.1, 3, True),
        (256, None, 0, False),
    ]
    assert dict(found[1].outcomes) == {"reached": 4, "infeasible": 1, "incomplete": 1}
    known = batch_regimes.critical_batch(found)
    assert known is not None
    assert known.interval is not None
    assert known.interval.holds(known.fit.critical_batch)
    frame = batch_regimes.batch_frame(found, known.fit)
    assert frame["incomplete"].tolist() == [0, 1, 2]
    assert frame["samples_to_target"].iloc[0] == 16 * 1001


def test_intervals_of_the_critical_batch_hold_it():
    rng, held = np.random.default_rng(0), 0
    for _ in range(20):
        rows = [
            trial(b, 0.1, k, 205 * (1 + 85 / b) * math.exp(rng.normal(0, 0.1)))
            for b in (4, 16, 64, 256, 1024)
            for k in range(5)
        ]
        known = batch_regimes.critical_batch(batch_regimes.batch_points(pd.DataFrame(rows)))
        assert known is not None
        assert known.interval is not None
        held += known.interval.holds(85)
    assert held >= 16
