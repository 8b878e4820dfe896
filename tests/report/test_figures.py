from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from lazy import lazy

from harness.analysis.censored import SeedRun
from harness.analysis.confidence import mean_of
from harness.analysis.loss_shape import MEANS, SHAPES
from harness.core.metrics import Judged
from harness.core.uncertainty import stated_band
from harness.core.words import byte_unit, time_unit

pd = lazy("pandas")
time_to_accuracy = lazy("harness.analysis.time_to_accuracy")
draw_bars = lazy("harness.report.draw_bars")
draw_batches = lazy("harness.report.draw_batches")
draw_fit = lazy("harness.report.draw_fit")
draw_memory = lazy("harness.report.draw_memory")
draw_noise = lazy("harness.report.draw_noise")
draw_rates = lazy("harness.report.draw_rates")
draw_scaling = lazy("harness.report.draw_scaling")
draw_steps = lazy("harness.report.draw_steps")
draw_target = lazy("harness.report.draw_target")
draw_time = lazy("harness.report.draw_time")
draw_usage = lazy("harness.report.draw_usage")
draw_curves = lazy("harness.report.draw_curves")
lettering = lazy("harness.report.lettering")
shades = lazy("harness.report.shades")
svg = lazy("harness.report.svg")

PALETTE = {"single": "#0173b2", "async-ps": "#de8f05", "sync-ddp": "#029e73", "model-split": "#d55e00"}


def table_of(drawing: svg.Drawing) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(drawing.csv))


def drawn(panels: Callable[..., list[svg.Panel]], *given: Any) -> list[svg.Drawing]:
    return [panel.drawing(PALETTE, f"a{number}") for number, panel in enumerate(panels(*given))]


def texts_of(drawing: svg.Drawing) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)


# -- learning rates ----------------------------------------------------------------------------------------------------


def rates(*points: tuple[str, int, float, str | None]) -> pd.DataFrame:
    rows = []
    for strategy, workers, rate, regime in points:
        verdict = MEANS[regime] if regime else None  # type: ignore[index]
        text = f"0 of 3 reached; {regime} 3 of 3" if regime else "0 of 3 reached; too short to tell"
        rows.append(
            (strategy, "virtual", "", 32, workers, workers, rate, regime, verdict, text, 3 * bool(regime), 3, 0)
        )
    columns = (
        "strategy engine details global_batch_size workers gpus learning_rate regime verdict text shown seeds reached"
    )
    return pd.DataFrame(rows, columns=columns.split())


def test_a_map_says_which_rate_is_good_where_and_what_is_too_large_for_most_workers() -> None:
    frame = rates(
        ("single", 1, 0.1, "good"),
        ("single", 1, 0.001, "stuck"),
        ("async-ps", 4, 0.1, "good"),
        ("async-ps", 16, 0.1, "collapsed"),
        ("async-ps", 16, 0.01, "slow"),
    )
    (drawing,) = drawn(draw_rates.rate_panels, frame)
    assert "Good rates: 0.1 for single on 1 device and async-ps on 4 workers; none for async-ps on 16 workers" in (
        drawing.caption
    )
    assert "Too large for async-ps on 16 workers: 0.1 (3 of 3 seeds collapsed)." in drawing.caption
    assert {"good", "stuck", "collapsed", "slow", "0.001", "all seeds"} <= set(texts_of(drawing))
    assert "simulated" in drawing.title


def test_a_map_comes_first_where_rates_and_workers_are_several() -> None:
    three = [("single", 1, rate, "good") for rate in (0.01, 0.1, 1.0)]
    assert not draw_rates.is_a_map(rates(*three))
    assert draw_rates.is_a_map(rates(*three, ("async-ps", 4, 0.1, "good")))
    assert not draw_rates.is_a_map(rates(("single", 1, 0.1, "good"), ("async-ps", 4, 0.1, "good")))
    assert not draw_rates.is_a_map(pd.DataFrame())


def test_many_columns_are_spread_over_several_maps() -> None:
    frame = rates(*(("async-ps", workers, rate, "good") for workers in range(2, 22) for rate in (0.1, 0.2)))
    maps = drawn(draw_rates.rate_panels, frame)
    assert sum(len(table_of(drawing)) for drawing in maps) == 40
    assert len(maps) == math.ceil(20 / 7)


def test_a_point_that_cannot_be_told_is_drawn_without_a_colour() -> None:
    (drawing,) = drawn(draw_rates.rate_panels, rates(("single", 1, 0.1, None), ("single", 1, 1.0, "good")))
    assert "too short" in texts_of(drawing)


def test_every_shape_has_a_paint_of_its_own_lightness() -> None:
    assert set(draw_rates.PAINT) == set(SHAPES)
    lightness = [
        sum(w * int(c[i : i + 2], 16) for w, i in ((0.3, 1), (0.59, 3), (0.11, 5)))
        for c, _ in draw_rates.PAINT.values()
    ]
    for one, other in pairwise(lightness):
        assert abs(one - other) > 20  # neighbours on the scale are told apart in grey


# -- time --------------------------------------------------------------------------------------------------------------


def parts(**changes: float) -> dict[str, float]:
    return dict.fromkeys(draw_time.LOOKS, 0.0) | {"compute_s": 0.004} | changes


def test_parts_say_who_computes_least_and_add_up() -> None:
    one = {"label": "single, 1 core", "simulated": False, "strategy": "single", "gpus": 1, **parts()}
    two = {"label": "sync-ddp, 2 cores", "simulated": False, "strategy": "sync-ddp", "gpus": 2}
    two |= parts(compute_s=0.002, communication_s=0.006)
    (drawing,) = drawn(draw_time.part_panels, pd.DataFrame([one, two]))
    assert (
        "single, 1 core: computing takes 100 % of a step. For sync-ddp, 2 cores that share is only 25 %"
        in drawing.caption
    )
    assert "exposed communication takes 75 %." in drawing.caption
    assert table_of(drawing)[list(draw_time.LOOKS)].sum(axis=1).tolist() == pytest.approx([0.004, 0.008])
    assert "sync-ddp, 2 cores: 8.00 ms" in texts_of(drawing)
    assert "milliseconds per step, mean over devices" in texts_of(drawing)


def test_simulated_time_is_named_so_on_its_axis() -> None:
    row = {"label": "single", "simulated": True, "strategy": "single", "gpus": 1, **parts()}
    (drawing,) = drawn(draw_time.part_panels, pd.DataFrame([row]))
    assert "simulated milliseconds per step, mean over devices" in texts_of(drawing)
    assert "stroke-dasharray" in drawing.svg


def steps(workers: int, count: int, step_s: float) -> pd.DataFrame:
    rows = [
        (worker, 0, step, step * step_s, 0.0, 0.7 * step_s, 0.2 * step_s, 0.1 * step_s * worker)
        for worker in range(workers)
        for step in range(count)
    ]
    return pd.DataFrame(rows, columns=["worker", "device", "step", "start_s", *_TIMES])


_TIMES = ["input_s", "compute_s", "communication_s", "idle_s"]


def test_a_timeline_shows_a_window_of_every_worker_and_who_waits_longest() -> None:
    from harness.report.timeline import _lanes, _window

    lanes = _lanes(steps(2, 40, 0.01))
    windows = [_window(lanes, 0.035, stop).assign(stop=stop) for stop in (0, 50, 100)]
    assert all(set(window["lane"]) == {"worker 0", "worker 1"} for window in windows)
    assert all(window["start_s"].between(-0.01, 0.035).all() for window in windows)
    assert [window["step"].min() for window in windows] == [0, 17, 35]  # the last one ends with the run
    head = {"simulated": False, "strategy": "async-ps", "label": "async-ps, 3 cores", "gpus": 3, "window_s": 0.035}
    shown = pd.concat(windows, ignore_index=True).assign(cell="async-ps, 3 cores, seed 0", **head)
    (drawing,) = drawn(draw_time.timeline_panels, shown)
    assert "worker 1 waits longest: 1.00 ms of each step, worker 0 does not wait" in drawing.caption
    assert "Only 2 of 3 devices of async-ps, 3 cores are drawn." in drawing.caption
    assert drawing.stops == ("0 % of each run", "50 % of each run", "100 % of each run")
    seen = re.findall(r'<g class="m" data-s="\d+" data-f="(\d)"( display="none")?>', drawing.svg)
    assert {stop for stop, hidden in seen if not hidden} == {"1"}
    assert {stop for stop, _ in seen} == {"0", "1", "2"}
    assert "async-ps, 3 cores, seed 0, worker 1: waiting for others 1.00 ms a step here" in drawing.svg


def test_steps_without_times_have_no_timeline() -> None:
    from harness.report.timeline import _lanes

    assert _lanes(steps(1, 5, 0.01).assign(start_s=math.nan)).empty
    assert _lanes(pd.DataFrame()).empty


def test_a_bubble_stands_beside_its_theory() -> None:
    row = {"label": "pipeline", "simulated": True, "strategy": "model-split", "gpus": 4, "schedule": "1f1b"}
    row |= {"stages": 4, "microbatches": 8, "bubble": 0.31, "ideal": 3 / 11, "cell_id": "c"}
    (drawing,) = drawn(draw_time.bubble_panels, pd.DataFrame([row]))
    assert "idles for 31 % of a step; in theory 1f1b idles for 27 %" in drawing.caption


def test_staleness_is_told_by_its_median_and_tail() -> None:
    frame = pd.DataFrame({"staleness": [0, 1, 2, 3], "share": [0.2, 0.5, 0.2, 0.1]})
    frame = frame.assign(simulated=False, strategy="async-ps", label="async-ps on 4", gpus=4)
    (drawing,) = drawn(draw_time.staleness_panels, frame)
    assert drawing.caption == "Half of the gradients of async-ps on 4 are at most 1 update old, 95 % at most 3."


# -- target, speed, memory ---------------------------------------------------------------------------------------------


def way(label: str, *runs: SeedRun, simulated: bool = False) -> draw_target.ToTarget:
    return to_target(label, runs, simulated=simulated)


def to_target(label: str, runs: tuple[SeedRun, ...], *, simulated: bool = False, **given: Any) -> draw_target.ToTarget:
    mean, interval = mean_of([run.spent for run in runs])
    found = time_to_accuracy.reached_by(runs)
    return draw_target.ToTarget(simulated, "single", label, runs, found, mean, interval, **given)


def test_seeds_that_never_got_there_are_drawn_and_counted() -> None:
    sure = way("sure", *(SeedRun(value, True) for value in (2.0, 2.1, 2.2, 2.3, 2.4)))
    half = way("half", SeedRun(1.0, True), SeedRun(4.0, False), SeedRun(4.0, False))
    never = way("never", SeedRun(4.0, False))
    (drawing,) = drawn(draw_target.target_panels, [sure, half, never])
    assert "sure: 5 of 5 seeds reached the target, mean 2.20 s (95 % interval 2.01 s to 2.40 s)" in (drawing.caption)
    assert "No seed of never reached it." in drawing.caption
    assert "half: 9.00 s expected (1 of 3 seeds)" in texts_of(drawing)
    assert "never: 0 of 1 seeds reached it" in texts_of(drawing)
    assert table_of(drawing)["reached"].sum() == 6


def test_fewer_than_three_seeds_get_no_interval() -> None:
    (drawing,) = drawn(draw_target.target_panels, [way("few", *(SeedRun(value, True) for value in (1.0, 2.0)))])
    assert "Set seeds = 5 to get a confidence interval." in drawing.caption
    assert "interval of the mean" not in texts_of(drawing)
    assert drawn(draw_target.target_panels, [way("never", SeedRun(1.0, False))]) == []


def test_samples_to_the_target_stand_under_their_epochs() -> None:
    runs = tuple(SeedRun(value, True) for value in (3200.0, 6400.0, 9600.0, 6400.0, 6400.0))
    one = to_target("one", runs, epoch=1600.0)
    (drawing,) = drawn(draw_target.target_panels, [one], draw_target.SAMPLES)
    assert "one: 5 of 5 seeds reached the target, mean 6,042 samples (95 % interval 3,694 samples to 9,884 samples" in (
        drawing.caption
    )
    assert {"epochs", "samples seen to the target"} <= set(texts_of(drawing))
    assert table_of(drawing)["samples"].sum() == 32000
    other = to_target("other", runs, epoch=800.0)
    (drawing,) = drawn(draw_target.target_panels, [one, other], draw_target.SAMPLES)
    assert "epochs" not in texts_of(drawing)  # an epoch of one is none of the other


def scaling_row(gpus: int, speedup: float, **changes: Any) -> dict[str, Any]:
    row = {"simulated": True, "line": "sync-ddp", "strategy": "sync-ddp", "scaling": "strong", "gpus": gpus}
    row |= {"base": "sync-ddp on 4", "base_gpus": 4, "ideal": gpus / 4, "speedup": speedup}
    row |= {"efficiency": speedup / (gpus / 4), "speedup_low": math.nan, "speedup_high": math.nan}
    row |= {"between_runs": None, "ranked": True}
    return row | changes


def test_scaling_names_its_base_and_the_ideal() -> None:
    (drawing,) = drawn(draw_scaling.scaling_panels, pd.DataFrame([scaling_row(4, 1.0), scaling_row(16, 1.5)]))
    assert "sync-ddp on 16: 1.5 times as fast as sync-ddp on 4 (ideal: 4 times; efficiency 38 %)" in drawing.caption
    assert "ideal (linear)" in texts_of(drawing)
    assert "simulated speed-up" in texts_of(drawing)
    assert "serial" not in drawing.caption  # through one point goes any law
    assert drawn(draw_scaling.scaling_panels, pd.DataFrame([scaling_row(4, 1.0)])) == []


@pytest.mark.parametrize(("between", "words"), [(True, "over runs"), (False, "over the steps within a run")])
def test_intervals_of_speed_ups_say_what_they_are_over(between: bool, words: str) -> None:
    known = {"speedup_low": 1.4, "speedup_high": 1.6, "between_runs": between}
    (drawing,) = drawn(draw_scaling.scaling_panels, pd.DataFrame([scaling_row(4, 1.0), scaling_row(16, 1.5, **known)]))
    assert f"Vertical lines are 95 % intervals {words}" in drawing.caption


def test_strong_scaling_says_what_share_of_the_work_is_as_if_serial() -> None:
    rows = [scaling_row(4 * n, 1 / (0.2 + 0.8 / n)) for n in (1, 2, 4, 8)]
    (drawing,) = drawn(draw_scaling.scaling_panels, pd.DataFrame(rows))
    assert "sync-ddp scales as if 20 % of its work were serial: at most 5 times as fast" in drawing.caption
    weak = [row | {"scaling": "weak"} for row in rows]
    (drawing,) = drawn(draw_scaling.scaling_panels, pd.DataFrame(weak))
    assert "serial" not in drawing.caption


def bar(label: str, **changes: Any) -> dict[str, Any]:
    row = {"cell_id": label, "simulated": True, "strategy": "single", "gpus": 1, "label": label, "throughput": 100.0}
    row |= {"ranked": True, "stated": 0.1, "dram_total": math.nan, "dram_capacity": 4 * 2**30}
    return row | {"dram.parameters": 2.0**30, "dram.activations": 2.0**31} | changes


def test_memory_stands_against_the_capacity_and_simulated_speed_with_its_band() -> None:
    bars = pd.DataFrame([bar("small", throughput=50.0), bar("large", **{"dram.activations": 2.5 * 2**30})])
    (memory,) = drawn(draw_memory.dram_panels, bars)
    assert memory.caption == (
        "large needs the most: 3.5 GiB on its fullest device, mostly activations. That is 88 % of the 4 GiB available "
        "(dotted line). small needs the least, 3 GiB."
    )
    (speed,) = drawn(draw_bars.throughput_panels, bars)
    assert "large is fastest: 100 samples per simulated second, 2 times as many as small (50)." in speed.caption
    assert "Dashed lines show the stated error, at most ±20 %." in speed.caption


def test_the_peak_of_all_kinds_is_marked_where_they_are_there_at_different_times() -> None:
    at_once = bar("at once", dram_total=3 * 2.0**30)
    (drawing,) = drawn(draw_memory.dram_panels, pd.DataFrame([at_once]))
    assert draw_memory.AT_ITS_MOST not in drawing.caption
    apart = bar("apart", dram_total=2.5 * 2.0**30)
    (drawing,) = drawn(draw_memory.dram_panels, pd.DataFrame([apart, at_once]))
    assert draw_memory.AT_ITS_MOST in drawing.caption
    assert "apart needs the least, 2.5 GiB" in drawing.caption  # as the table of cells says
    assert "apart: 2.5 GiB" in texts_of(drawing)


def test_allocator_and_nvml_have_figures_of_their_own() -> None:
    held = {"allocated": 2.0**30, "reserved": 2.0 * 2**30, "nvml_used": 3.0 * 2**30}
    bars = pd.DataFrame([bar("all", simulated=False, **held), bar("some", simulated=False, allocated=2.0**20)])
    counted, allocator, nvml = drawn(draw_memory.memory_panels, bars)
    assert counted.title == "Counted DRAM, measured"
    assert allocator.title == "DRAM as CUDA's allocator holds it, measured"
    assert allocator.caption == (
        "all: 1 GiB allocated, 2 GiB reserved. That is 50 % of the 4 GiB available (dotted line)."
    )
    assert nvml.caption.startswith("all: 3 GiB in use. That is 75 %")
    assert not any("some" in text for text in texts_of(allocator) + texts_of(nvml))


def test_a_simulated_gpu_holds_a_context_too() -> None:
    (drawing,) = drawn(draw_memory.dram_panels, pd.DataFrame([bar("one", **{"dram.context": 2.0**29})]))
    assert drawing.title == "Counted DRAM and context of simulated devices"
    assert "context" in texts_of(drawing)


def tail(label: str, median_s: float, p95_s: float, longest_s: float, **changes: Any) -> dict[str, Any]:
    row = {"cell_id": label, "label": label, "strategy": "single", "engine": "real", "gpus": 1, "seed": 0}
    row |= {
        "workers": 4,
        "steps": 200,
        "median_s": median_s,
        "p95_s": p95_s,
        "longest_s": longest_s,
        "simulated": False,
    }
    row |= {"outliers": 0, "outlier_share": 0.0}
    return row | {"slowest_worker": None, "slowest_device": None, "slowest_times": None} | changes


def test_tails_name_the_longest_its_outliers_and_the_slowest_worker() -> None:
    slow = {"slowest_worker": 2, "slowest_device": 0, "slowest_times": 1.5}
    rows = [tail("even", 2e-3, 2.1e-3, 2.2e-3), tail("long", 2e-3, 5e-3, 9e-3, outliers=4, outlier_share=0.06, **slow)]
    (drawing,) = drawn(draw_steps.tail_panels, pd.DataFrame(rows))
    assert drawing.caption == (
        "long has the longest tail: 95 % of 200 steps take at most 5.00 ms (2.50 times the median), the longest "
        "9.00 ms. 4 outliers took 6 % of the time. Every other figure includes the outliers. In long, worker 2 is the "
        "slowest: it computes 1.50 times as long as the others."
    )
    assert "even: 95 % below 2.10 ms" in texts_of(drawing)
    equal = pd.DataFrame([tail("clock", 2e-3, 2e-3, 2e-3, simulated=True)])
    assert drawn(draw_steps.tail_panels, equal) == []  # simulated steps are all alike: there is nothing to see


def losses(line: str, train: list[float], validation: list[float], **changes: Any) -> pd.DataFrame:
    row = {"line": line, "strategy": "single", "seed": 0, "cell_id": line, "simulated": False, "gpus": 1} | changes
    samples = [100.0 * (k + 1) for k in range(len(train))]
    return pd.DataFrame({"samples": samples, "train_loss": train, "validation_loss": validation}).assign(**row)


def test_train_against_validation_says_who_overfitted() -> None:
    curves = pd.concat([losses("over", [1.0, 0.1], [1.0, 0.8]), losses("fine", [1.0, 0.5], [1.0, 0.55])])
    (drawing,) = drawn(draw_fit.fit_panels, curves, {"over": "overfit", "fine": "fits"})
    assert drawing.caption == (
        "over has the widest gap: its validation loss ends at 8.00 times its training loss. Overfitted: over (1 of 1 "
        "seeds)."
    )
    assert "fine: training loss 0.5, validation loss 0.55; 1 of 1 seeds fits." in drawing.svg
    (drawing,) = drawn(draw_fit.fit_panels, losses("fine", [1.0, 0.5], [1.0, 0.55]), {"fine": "fits"})
    assert drawing.caption.endswith("No strategy overfits or underfits.")
    assert drawn(draw_fit.fit_panels, losses("none", [1.0, 0.5], [math.nan] * 2), {}) == []


def usage(label: str, values: list[float], gauge: str = "computing", **changes: Any) -> pd.DataFrame:
    row = {"gauge": gauge, "simulated": False, "strategy": "single", "gpus": 1, "label": label, "energy_j": math.nan}
    row |= changes
    return pd.DataFrame({"time_s": [0.1 * (k + 1) for k in range(len(values))], "value": values}).assign(**row)


def test_every_gauge_is_named_for_what_it_is() -> None:
    for name, gauge in draw_usage.GAUGES.items():
        (drawing,) = drawn(draw_usage.usage_panels, usage("one", [0.5, 0.7], name))
        assert drawing.title == f"{gauge.title}, measured"
        assert drawing.title != "Utilisation, measured"
        assert gauge.axis in texts_of(drawing)


def test_devices_over_time_tell_their_means_and_engines_apart() -> None:
    both = pd.concat([usage("busy", [0.8, 0.9]), usage("idle", [0.1, 0.3])])
    (drawing,) = drawn(draw_usage.usage_panels, both)
    assert drawing.caption.startswith("Mean over the run: 85 for busy, 20 for idle.")
    mixed = pd.concat([both, usage("clock", [0.5, 0.7], simulated=True)])
    assert [item.title.split(", ")[-1] for item in drawn(draw_usage.usage_panels, mixed)] == ["measured", "simulated"]
    assert drawn(draw_usage.usage_panels, usage("steady", [0.5, 0.5, 0.5])) == []


def test_power_is_held_against_the_energy_that_was_recorded() -> None:
    watts = [100.0, 200.0, 200.0]
    (drawing,) = drawn(draw_usage.usage_panels, usage("one", watts, "nvml_power", energy_j=40.0))
    assert drawing.title == "Power as NVML reports it, measured"
    assert "Energy of one: 35.0 J as the integral, 40.0 J recorded." in drawing.caption
    (drawing,) = drawn(draw_usage.usage_panels, usage("one", watts, "amdsmi_power"))
    assert drawing.title == "Power as AMD SMI reports it, measured"
    assert "Energy of one: 35.0 J as the integral." in drawing.caption


def limits(reason: str, shares: list[float], label: str = "one") -> pd.DataFrame:
    row = {"simulated": False, "strategy": "single", "gpus": 2, "label": label, "reason": reason}
    return pd.DataFrame({"time_s": [0.1 * k for k in range(len(shares))], "value": shares}).assign(**row)


def test_what_held_clocks_back_has_a_lane_for_each_reason() -> None:
    both = pd.concat([limits("power cap (software)", [0, 1, 1, 0.5, 0]), limits("idle", [1, 0, 0, 0, 0])])
    (drawing,) = drawn(draw_usage.limit_panels, both)
    assert drawing.title == "What held the clocks back, measured"
    assert drawing.caption.startswith("one: power cap (software) 50 % of the time, idle 20 % of the time.")
    assert {"power cap (software): one", "idle: one"} <= set(texts_of(drawing))
    assert drawn(draw_usage.limit_panels, pd.DataFrame()) == []


def test_a_reason_holds_from_each_reading_to_the_next() -> None:
    spans = list(draw_usage.held_spans(limits("idle", [0, 1, 1, 0.5, 0, 1])))
    assert spans == [pytest.approx((0.1, 0.2, 1.0)), pytest.approx((0.3, 0.1, 0.5))]


def test_what_is_not_ranked_is_drawn_but_in_no_comparison() -> None:
    runs = (SeedRun(0.1, True),) * 5
    fast = to_target(f"wrong{svg.NOT_RANKED}", runs, ranked=False)
    slow = way("right", *(SeedRun(value, True) for value in (2.0, 2.1, 2.2, 2.3, 2.4)))
    (drawing,) = drawn(draw_target.target_panels, [fast, slow])
    assert drawing.caption.startswith("right: 5 of 5 seeds")
    assert "wrong" not in drawing.caption
    assert f"wrong{svg.NOT_RANKED}: 100 ms" in texts_of(drawing)
    (speed,) = drawn(
        draw_bars.throughput_panels,
        pd.DataFrame(
            [
                bar(f"wrong{svg.NOT_RANKED}", throughput=900.0, ranked=False),
                bar("right"),
                bar("slower", throughput=50.0),
            ]
        ),
    )
    assert "right is fastest: 100 samples per simulated second, 2 times as many as slower (50)" in speed.caption


def test_an_interval_of_a_mean_does_not_stand_beside_an_expected_time() -> None:
    runs = [SeedRun(1.0 + k / 10, True) for k in range(9)] + [SeedRun(4.0, False)]
    (drawing,) = drawn(draw_target.target_panels, [way("most", *runs)])
    assert "interval" not in drawing.caption
    assert "interval of the mean" not in texts_of(drawing)


def test_where_all_need_as_many_samples_nobody_needs_more() -> None:
    runs = tuple(SeedRun(value, True) for value in (3200.0, 6400.0, 9600.0))
    rows = [to_target(name, runs) for name in ("one", "two")]
    (drawing,) = drawn(draw_target.target_panels, rows, draw_target.SAMPLES)
    assert "All need equally many." in drawing.caption


def test_a_figure_of_some_of_the_points_says_so_and_speaks_for_them_only() -> None:
    lines = [losses(f"line {k}", [1.0, 0.5], [1.0, 0.5]) for k in range(7)]
    lines.append(losses("last", [1.0, 0.1], [1.0, 0.9]))
    (drawing,) = drawn(draw_fit.fit_panels, pd.concat(lines), {f"line {k}": "fits" for k in range(5)})
    assert "The first 6 of 8 points are drawn." in drawing.caption
    assert "No strategy overfits" not in drawing.caption  # of one line that is drawn nobody knows


def test_the_context_of_simulated_gpus_is_in_their_figure_only() -> None:
    bars = pd.DataFrame([bar("clock", **{"dram.context": 2.0**29}), bar("wall", simulated=False)])
    titles = [drawing.title for drawing in drawn(draw_memory.dram_panels, bars)]
    assert titles == ["Counted DRAM, measured", "Counted DRAM and context of simulated devices"]


def test_a_share_above_all_is_written_without_an_exponent() -> None:
    (drawing,) = drawn(draw_memory.dram_panels, pd.DataFrame([bar("over", dram_capacity=2.0**30)]))
    assert "300 % of the 1 GiB" in drawing.caption


def test_numbers_inside_a_figure_are_not_cut() -> None:
    (drawing,) = drawn(draw_bars.throughput_panels, pd.DataFrame([bar("rate 0.00125")]))
    assert "rate 0.00125: 100" in texts_of(drawing)


def test_names_that_look_like_mathematics_or_markup_are_text() -> None:
    (drawing,) = drawn(draw_bars.throughput_panels, pd.DataFrame([bar("a_$x^2$ <b>")]))
    assert "a_$x^2$ &lt;b&gt;: 100" in texts_of(drawing)


def test_units_fit_what_they_measure() -> None:
    assert time_unit(5e-4) == (1e-6, "us")
    assert time_unit(0.5) == (1e-3, "ms")
    assert time_unit(30) == (1.0, "s")
    assert time_unit(3000) == (60.0, "min")
    assert time_unit(1e6) == (3600.0, "h")
    assert byte_unit(3 * 2**30) == (2**30, "GiB")
    assert byte_unit(12) == (1.0, "bytes")


def test_steps_against_batches_name_the_critical_batch() -> None:
    rows = [
        {"strategy": "single", "engine": "virtual", "status": "ok", "global_batch_size": batch, "learning_rate": 0.1,
         "batch_size": batch, "gpus": 1, "options": "{}", "updates_to_target": 100 * (1 + 64 / batch) + seed,
         "time_to_target_s": 1.0, "seed": seed, "equivalence": "single"}
        for batch in (8, 16, 64, 256)
        for seed in (0, 1, 2)
    ]  # fmt: skip
    (drawing,) = drawn(draw_batches.batch_panels, pd.DataFrame(rows))
    assert (
        "single needs 7.15 times fewer updates with a batch 32 times larger (8 to 256): diminishing" in drawing.caption
    )
    critical = re.search(r"Critical batch: (\d+) samples", drawing.caption)
    assert critical is not None
    assert int(critical[1]) == pytest.approx(64, rel=0.05)
    # They end at 6.4 and begin at 640 samples: from 8 to 256 all is diminishing.
    assert {"diminishing", "critical batch"} <= set(texts_of(drawing))
    assert not {"perfect", "maximal"} & set(texts_of(drawing))
    wide = [row | {"global_batch_size": 2, "updates_to_target": 100 * 33 + row["seed"]} for row in rows[:3]]
    (drawing,) = drawn(draw_batches.batch_panels, pd.DataFrame([*wide, *rows]))
    assert {"perfect", "diminishing"} <= set(texts_of(drawing))
    same = [row | {"strategy": "sync-ddp"} for row in rows]
    assert len(drawn(draw_batches.batch_panels, pd.DataFrame(rows + same))) == 1
    assert drawn(draw_batches.batch_panels, pd.DataFrame(rows[:6])) == []
    assert drawn(draw_batches.batch_panels, pd.DataFrame()) == []


def noise(label: str, batch: int, *scales: float, strategy: str = "single", simulated: bool = False) -> pd.DataFrame:
    frame = pd.DataFrame({"noise_scale": scales, "samples_seen": [3200.0 * (k + 0.5) for k in range(len(scales))]})
    frame = frame.assign(low=frame["noise_scale"] / 2, high=frame["noise_scale"] * 2, updates=100, seeds=3)
    head = {"label": label, "strategy": strategy, "simulated": simulated, "gpus": 2, "learning_rate": 0.1}
    return frame.assign(global_batch_size=batch, over_all=40.0, **head)


def test_noise_scale_says_whether_larger_batches_still_save_steps() -> None:
    small = noise("small", 8, 120.0, 12.0, 170.0)
    mixed, large = noise("mixed", 32, 120.0, 12.0, 170.0), noise("large", 256, 120.0, 12.0, 170.0)
    (drawing,) = drawn(draw_noise.noise_panels, pd.concat([small, mixed, large]))
    assert drawing.title == "Gradient noise scale, measured"
    assert (
        "small: its batch of 8 is below the noise scale (12 to 170 samples; 40 over the whole run, 300 updates). "
        "Larger batches, and so more devices, still save steps."
    ) in drawing.caption
    assert "mixed: its batch of 32 is within the range of the noise scale (12 to 170 samples" in drawing.caption
    assert "large: its batch of 256 is above the noise scale (12 to 170 samples" in drawing.caption
    assert "Larger batches save hardly any steps. Medians over 3 seeds" in drawing.caption
    assert {"samples seen", "noise scale, samples", "global batch", "small"} <= set(texts_of(drawing))
    assert table_of(drawing)["noise_scale"].tolist() == [120.0, 12.0, 170.0] * 3


def test_simulated_noise_scale_is_drawn_apart_and_unresolved_windows_are_gaps() -> None:
    known = noise("known", 32, 50.0, math.nan, 60.0).assign(low=0.0)
    unknown = noise("unknown", 32, math.nan, math.nan)
    real, simulated = drawn(
        draw_noise.noise_panels,
        pd.concat([known, unknown, noise("slow", 32, 90.0, simulated=True, strategy="async-ps")]),
    )
    assert (real.title, simulated.title) == ("Gradient noise scale, measured", "Gradient noise scale, simulated")
    assert "unknown" not in real.svg
    assert "stroke-dasharray" in simulated.svg
    assert drawn(draw_noise.noise_panels, unknown) == []
    assert drawn(draw_noise.noise_panels, pd.DataFrame()) == []


# -- what bands, axes and labels may not do ----------------------------------------------------------------------------


@pytest.mark.parametrize("stated", [0.05, 0.6, 5.0, 40.0])
def test_a_band_never_reaches_zero_and_covers_what_counts_as_inside(stated: float) -> None:
    low, high = stated_band(100.0, stated)
    assert 0 < low < 100 < high
    assert low * high == pytest.approx(100.0**2)
    (drawing,) = drawn(
        draw_bars.throughput_panels, pd.DataFrame([bar("wild", stated=stated), bar("tame", stated=0.05)])
    )
    ticks = [float(text.replace(",", "")) for text in texts_of(drawing) if re.fullmatch(r"-?[\d,.]+", text)]
    assert min(ticks) >= 0
    assert not any(text.startswith(("-", "\N{MINUS SIGN}")) for text in texts_of(drawing))
    assert f"stated to lie between {low:,.0f} and {high:,.0f}" in drawing.svg


def test_a_prediction_good_to_a_factor_says_so_and_takes_a_logarithmic_axis() -> None:
    bars = pd.DataFrame([bar("wild", throughput=101_217.0, stated=5.0), bar("tame", throughput=900.0, stated=0.05)])
    (drawing,) = drawn(draw_bars.throughput_panels, bars)
    assert "at most ±1,000 %, a factor of 11 either way." in drawing.caption
    assert {"1,000", "10,000", "100,000", "1,000,000"} <= set(texts_of(drawing))


def curves(*lines: tuple[str, int, list[float]], column: str = "accuracy", seeds: int = 1) -> pd.DataFrame:
    rows = []
    for strategy, gpus, values in lines:
        head = {"strategy": strategy, "gpus": gpus, "line": f"{strategy}, {gpus} cores", "simulated": True}
        for seed in range(seeds):
            cell = head | {"cell": f"{strategy}, {gpus} cores, seed {seed}", "seed": seed, "ranked": True}
            rows += [
                cell | {"panel": "global batch 32, learning rate 0.1", "samples": 100.0 * (k + 1), "time_s": 1.0 + k}
                | {column: value}
                for k, value in enumerate(values)
            ]  # fmt: skip
    return pd.DataFrame(rows)


def strokes_of(drawing: svg.Drawing) -> dict[str, str]:
    """Return the colour of each seed's line by its name."""
    found = re.findall(r"<title>([^<]*seed \d[^<]*)</title><path [^>]*stroke:(#\w+)", drawing.svg)
    return {name.split(":")[0]: colour for name, colour in found}


def test_device_counts_of_one_strategy_differ_by_shade_and_are_written_at_the_ends() -> None:
    frame = curves(*(("async-ps", gpus, [0.2, 0.9 - gpus / 30]) for gpus in (4, 8, 16)))
    palette = shades.Palette(PALETTE, {"async-ps": [4, 8, 16]})
    panel = draw_curves.curve_panel(frame, draw_curves.learnt_of(Judged()), "samples", None)
    drawing = panel.drawing(palette, "a")
    colours = strokes_of(drawing)
    assert len(set(colours.values())) == len(colours) == 3
    assert {"4", "8", "16"} <= set(texts_of(drawing))
    assert "Numbers at the ends of lines are devices." in drawing.caption
    alone = draw_curves.curve_panel(curves(("async-ps", 4, [0.2, 0.9])), draw_curves.learnt_of(Judged()), "samples")
    assert "Numbers at the ends" not in alone.caption


def test_of_very_many_device_counts_some_are_drawn_and_all_are_counted() -> None:
    lines = [(name, gpus, [0.2, 0.5]) for name in ("async-ps", "sync-ddp") for gpus in range(1, 17)]
    panel = draw_curves.curve_panel(curves(*lines), draw_curves.learnt_of(Judged()), "samples")
    (drawing,) = drawn(lambda: [panel])
    assert "16 of 32 lines are drawn." in drawing.caption
    drawn_counts = {name.split(", ")[1] for name in strokes_of(drawing)}
    assert {"1 cores", "16 cores"} <= drawn_counts  # the ends of the sweep are what one looks for
    assert "1 to 16" in texts_of(drawing)  # lines that end in one place share their numbers


def test_a_loss_that_blows_up_does_not_press_the_others_flat() -> None:
    frame = curves(("single", 1, [2.0, 1.0, 0.5]), ("async-ps", 4, [2.0, 1e12, 1e30]), column="train_loss")
    panel = draw_curves.curve_panel(frame, draw_curves.LEARNT_LOSS, "samples")
    (drawing,) = drawn(lambda: [panel])
    assert "Values of the training loss above 40.0 run off the top." in drawing.caption
    assert not any("e+" in text for text in texts_of(drawing))


LONG = (
    'sync-ddp, global batch 256, cluster.inter_node "{}", precision "bf16", 16 simulated H100 GPUs of a large cluster'
)


def test_no_label_is_cut_and_none_runs_off_the_figure() -> None:
    names = [LONG.format(link) for link in ("25 Gb/s", "100 Gb/s", "nvlink3")]
    lines = pd.concat([losses(name, [1.0, 0.5], [1.0, 0.6]) for name in names])
    rows = pd.DataFrame([bar(name) for name in names])
    for drawing in (*drawn(draw_fit.fit_panels, lines, {}), *drawn(draw_bars.throughput_panels, rows)):
        assert "\N{HORIZONTAL ELLIPSIS}" not in drawing.svg
        text = " ".join(" ".join(texts_of(drawing)).split())
        for name in names:
            assert html.escape(name, quote=False).replace(" ", "") in text.replace(" ", "")
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', drawing.svg)[1])  # type: ignore[index]
        for x, words in re.findall(r"<text[^>]*translate\(([\d.]+) [^>]*>([^<]*)<", drawing.svg):
            assert float(x) + lettering.text_width(html.unescape(words), 9) <= width + 1


def test_a_legend_is_no_wider_than_its_figure() -> None:
    shapes = [(float(rate), shape) for rate, shape in enumerate(SHAPES, 1)]
    frame = rates(*((f"strategy-{k}", 2, rate, shape) for k in range(3) for rate, shape in shapes))
    (drawing,) = drawn(draw_rates.rate_panels, frame)
    assert {"stuck: too small", "diverged: too large"} <= set(texts_of(drawing))
    assert min(float(x) for x in re.findall(r'<path d="M(-?[\d.]+)', drawing.svg)) >= 0
