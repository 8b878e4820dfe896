"""How busy devices were over time, against runs made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lazy import lazy

pd = lazy("pandas")
usage = lazy("harness.analysis.usage")

PARTS = ("input_s", "compute_s", "communication_s", "idle_s")


def lane(computing: list[float], length_s: float = 1.0, worker: int = 0) -> pd.DataFrame:
    """Steps of equal length, of which each computes for so long."""
    steps = range(len(computing))
    table = pd.DataFrame({"worker": worker, "device": 0, "step": steps, "start_s": [k * length_s for k in steps]})
    table["compute_s"] = computing
    table["idle_s"] = length_s - table["compute_s"]
    return table.assign(input_s=0.0, communication_s=0.0)


def test_a_steady_run_computes_its_share_throughout():
    found = usage.computing_frame(lane([0.25] * 60))
    assert found["value"].to_numpy() == pytest.approx(np.full(20, 0.25))
    assert found["time_s"].iloc[[0, -1]].tolist() == [1.5, 58.5]


def test_a_run_that_slows_down_shows_where():
    found = usage.computing_frame(lane([1.0] * 30 + [0.5] * 30))
    assert found["value"][:10].tolist() == pytest.approx([1.0] * 10)
    assert found["value"][10:].tolist() == pytest.approx([0.5] * 10)


def test_devices_are_averaged():
    both = pd.concat([lane([1.0] * 30), lane([0.2] * 30, worker=1)])
    assert usage.computing_frame(both)["value"].tolist() == pytest.approx([0.6] * 10)


@pytest.mark.parametrize(
    "make",
    [lambda: pd.DataFrame(), lambda: lane([1.0] * 5), lambda: lane([1.0] * 60).assign(start_s=float("nan"))],
    ids=["nothing", "five steps", "no times"],
)
def test_what_has_no_course_is_left_out(make):
    assert usage.computing_frame(make()).empty


@given(
    st.lists(st.tuples(*[st.floats(0, 2, allow_subnormal=False)] * 5), min_size=12, max_size=200),
    st.integers(1, 3),
)
def test_shares_lie_between_none_and_all_and_add_up_to_what_was_computed(spans, workers):
    rows, start = [], 0.0
    for number, (pause, *parts) in enumerate(spans):
        start += pause
        rows.append({"step": number, "start_s": start, **dict(zip(PARTS, parts, strict=True))})
        start += sum(parts)
    steps = pd.concat([pd.DataFrame(rows).assign(worker=worker, device=0) for worker in range(workers)])
    found = usage.computing_frame(steps)
    if start < 1e-3:
        assert start == 0 or len(found) >= 4  # a run of no length has no course
        return
    assert 4 <= len(found) <= usage.MOST_WINDOWS
    assert found["value"].between(0.0, 1.0).all()
    window = start / len(found)
    assert found["value"].sum() * window == pytest.approx(sum(span[2] for span in spans), abs=1e-6 * (1 + start))


def samples(quantity: str, *readings: tuple[float, str, float]) -> pd.DataFrame:
    rows = [
        {"time_s": t, "source": "x", "device": d, "quantity": quantity, "value": v, "unit": "?"} for t, d, v in readings
    ]
    return pd.DataFrame(rows)


ROW = {"wall_s": 3.0, "setup_s": 1.0, "gpus": 2}


def test_cpu_time_is_summed_over_processes_and_divided_by_devices():
    telemetry = samples("host_cpu", (0.5, "worker 0", 1.0), (0.5, "server", 0.4), (1.0, "worker 0", 0.6))
    assert usage.sampled_frame(telemetry, ROW, "host_cpu")["value"].tolist() == pytest.approx([0.7, 0.3])


def test_utilisation_is_a_mean_over_devices_and_memory_the_fullest_ones():
    readings = ((0.5, "gpu0", 0.2), (0.5, "gpu1", 0.6))
    assert usage.sampled_frame(samples("nvml_gpu_utilisation", *readings), ROW, "nvml_gpu_utilisation")[
        "value"
    ].tolist() == (pytest.approx([0.4]))
    assert usage.sampled_frame(samples("nvml_used", *readings), ROW, "nvml_used")["value"].tolist() == [0.6]


def test_what_was_read_before_training_and_after_it_is_left_out():
    telemetry = samples("host_cpu", (-0.5, "a", 1.0), (0.5, "a", 1.0), (2.5, "a", 1.0))
    assert usage.sampled_frame(telemetry, ROW, "host_cpu")["time_s"].tolist() == [0.5]
    assert usage.sampled_frame(telemetry, ROW, "nvml_used").empty
    assert usage.sampled_frame(pd.DataFrame(), ROW, "host_cpu").empty


def test_power_is_summed_while_every_gpu_tells_it():
    readings = ((0.1, "gpu0", 100.0), (0.1, "gpu1", 200.0), (0.2, "gpu0", 110.0))  # then gpu1 was lost
    found = usage.sampled_frame(samples("nvml_power", *readings), ROW, "nvml_power")
    assert found.to_numpy().tolist() == [[0.1, 300.0]]


def test_what_held_clocks_back_is_told_reason_by_reason():
    readings = ((0.1, "gpu0", 1.0), (0.1, "gpu1", 4.0), (0.2, "gpu0", 4.0), (0.2, "gpu1", 4.0), (9.0, "gpu0", 32.0))
    found = usage.limits_frame(samples("nvml_throttle_reasons", *readings), ROW, "nvml_throttle_reasons")
    shares = {reason: run["value"].tolist() for reason, run in found.groupby("reason")}
    assert shares == {"idle": [0.5, 0.0], "power cap (software)": [0.5, 1.0]}
    assert usage.limits_frame(samples("nvml_power"), ROW, "nvml_throttle_reasons").empty
    assert usage.limits_frame(pd.DataFrame(), ROW, "amdsmi_throttle_reasons").empty
