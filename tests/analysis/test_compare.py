"""Nightly comparisons: planted regressions are found, noise is left alone, and refusals say what to do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from compared_cells import HERE, STEP_S, cell, store, virtual
from lazy import lazy

from harness.analysis.compare_statuses import probability_of_drop
from harness.analysis.compare_words import (
    conclusion,
    in_markdown,
    in_text,
    point_in_words,
    sentence,
    short_names,
)
from harness.commands.cli import main
from harness.commands.compare_json import compare_document
from harness.commands.documents import document_text

compare = lazy("harness.analysis.compare")
environment = lazy("harness.analysis.compare_environment")


def night(rng: np.random.Generator, slower: float = 1.0, points: int = 4, seeds: int = 5, noise: float = 0.02):
    """One side: the first point is slower, every run a little different."""
    return [
        cell(f"point {k}", seed, STEP_S * (slower if k == 0 else 1) * math.exp(rng.normal(0, noise)))
        for k in range(points)
        for seed in range(seeds)
    ]


def judged(base: Any, new: Any, **options: Any) -> Any:
    """Compare on a machine that is known to be as fast as before."""
    return compare.compare(base, new, trust_machine=True, **options)


# -- planted regressions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("points", "seeds"), [(1, 5), (4, 5), (12, 5), (4, 10), (8, 3)])
def test_ten_percent_slower_is_found(points, seeds):
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        result = judged(night(rng, points=points, seeds=seeds), night(rng, 1.1, points, seeds))
        found += {f.row["cell_id"].rpartition("-")[0] for f in result.regressions} == {"point 0"}
    assert found >= 95


@pytest.mark.parametrize("slower", [1.0, 1.02])
@pytest.mark.parametrize(("points", "seeds"), [(1, 5), (12, 5), (4, 10), (8, 3)])
def test_two_percent_of_noise_is_left_alone(points, seeds, slower):
    rng = np.random.default_rng(1)
    nights = [
        compare.compare(night(rng, points=points, seeds=seeds), night(rng, slower, points, seeds)) for _ in range(100)
    ]
    assert sum(not result.findings for result in nights) >= 95


@pytest.mark.parametrize(("slower", "expected"), [(1.1, 95), (1.0, 0)])
def test_a_single_run_is_judged_by_its_steps(slower, expected):
    def run(rng: np.random.Generator, scale: float) -> list[compare.MeasuredCell]:
        steps = STEP_S * scale * np.exp(rng.normal(0, 0.1, 400))
        return [cell(step_s=float(steps.mean()), steps_s=steps.tolist())]

    rng = np.random.default_rng(2)
    results = [compare.compare(run(rng, 1.0), run(rng, slower)) for _ in range(100)]
    found = sum(bool(result.suspects) for result in results)
    assert found >= expected if expected else found <= 5
    assert any("intervals leave out how runs differ" in note for note in results[0].notes)
    assert not any(result.regressions for result in results)


@pytest.mark.parametrize(("seeds", "why"), [(1, "from one run on a side"), (5, "without a reference")])
def test_a_slower_time_is_suspect_as_long_as_the_machine_may_have_made_it(seeds, why):
    rng = np.random.default_rng(6)

    def side(scale: float) -> list[compare.MeasuredCell]:
        steps = [(STEP_S * scale * np.exp(rng.normal(0, 0.02, 400))).tolist() for _ in range(seeds)]
        return [cell(seed=k, step_s=float(np.mean(times)), steps_s=times) for k, times in enumerate(steps)]

    sides = side(1.0), side(1.5)
    found = compare.compare(*sides)
    assert [f.kind for f in found.findings] == ["suspect"]
    assert (found.verdict, found.verdict.exit_code) == ("suspect", 0)
    assert f"1 point is slower, but code and machine cannot be told apart {why}" in conclusion(found)
    assert in_text(found).count("SUSPECT: ") == 1
    assert judged(*sides).verdict == ("regression" if seeds > 1 else "suspect")


def test_memory_and_simulated_times_do_not_depend_on_the_machine():
    sides = ([cell(seed=k, dram_allocated_peak_bytes=b * (1 + k / 1e4)) for k in range(5)] for b in (1e6, 2e6))
    assert [f.kind for f in compare.compare(*sides).findings] == ["regression"]
    assert compare.compare([virtual()], [virtual(step_s=STEP_S * 2)]).verdict == "regression"


def test_much_noise_raises_no_more_alarms_than_it_may():
    rng = np.random.default_rng(3)
    alarms = sum(
        bool(judged(night(rng, points=20, noise=0.15), night(rng, points=20, noise=0.15)).regressions)
        for _ in range(200)
    )
    assert alarms <= 200 * 0.05


def test_what_could_have_been_detected_is_detected_in_four_nights_of_five():
    rng = np.random.default_rng(4)
    factors = [
        found.factor for _ in range(20) for found in judged(night(rng, noise=0.06), night(rng, noise=0.06)).detectable
    ]
    typical = float(np.median(factors))
    found = sum(bool(judged(night(rng, noise=0.06), night(rng, typical, noise=0.06)).regressions) for _ in range(200))
    assert 0.65 <= found / 200 <= 0.92
    assert min(factors) >= 1.05


def test_certain_but_small_is_no_regression_and_min_effect_decides():
    base, new = ([cell(seed=k, step_s=STEP_S * scale * (1 + k / 1e4)) for k in range(5)] for scale in (1.0, 1.03))
    assert not judged(base, new).findings
    (found,) = judged(base, new, min_effect=0.02).regressions
    assert found.change == pytest.approx(1.03, rel=1e-3)


def test_a_loss_is_laid_to_the_part_of_the_step_that_grew():
    base, new = ([cell(seed=k, step_s=STEP_S * scale * (1 + k / 1e4)) for k in range(5)] for scale in (1.0, 1.2))
    (found,) = judged(base, new).regressions
    assert found.where.startswith("communication (0.6")
    text = sentence(found)
    assert (
        "sync-ddp on 2 CPU cores, global batch 32, learning rate 0.1: step time 4.00 ms before, 4.80 ms now (+20.0 %, "
        in text
    )
    assert "5 runs on each side" in text
    assert " ms per update before, 1.4 ms now)." in text


def test_a_part_that_shrank_is_not_what_a_time_grew_by():
    parts = {"compute_s": 0.4, "communication_s": 0.0, "idle_s": 0.0, "input_s": 0.0, "other_s": 0.0, "steps": 100}
    base = [cell(seed=k, time_to_target_s=1.0 + k / 1e4, **parts) for k in range(5)]
    new = [cell(seed=k, time_to_target_s=2.0 + k / 1e4, **{**parts, "compute_s": 0.39}) for k in range(5)]
    (found,) = [f for f in judged(base, new).findings if f.quantity.column == "time_to_target_s"]
    assert found.kind == "regression"
    assert found.where == ""


def test_an_improvement_is_told_and_an_implausible_one_flagged():
    def kinds(scale: float) -> list[str]:
        sides = ([cell(seed=k, step_s=STEP_S * s * (1 + k / 1e4)) for k in range(5)] for s in (1.0, scale))
        return [finding.kind for finding in judged(*sides).findings]

    assert kinds(0.8) == ["improvement"]
    assert kinds(0.5) == ["implausible"]


def test_every_time_that_was_compared_is_kept_with_its_interval_and_parts():
    def side(**scales: float) -> list[compare.MeasuredCell]:
        return [cell(p, k, STEP_S * s * (1 + k / 1e4)) for p, s in scales.items() for k in range(5)]

    result = judged(side(same=1, slow=1), side(same=1.001, slow=1.2), min_effect=0.1)
    same, slow = result.changes
    assert (same.kind, slow.kind, result.timed, result.min_effect) == (None, "regression", 2, 0.1)
    assert slow.interval is not None
    assert slow.interval.low < slow.ratio < slow.interval.high
    assert slow.ratio == pytest.approx(1.2)
    assert [part["communication_s"] for part in slow.parts] == pytest.approx([0.0006, 0.0014], rel=0.01)
    (known, _) = json.loads(document_text(compare_document(result, "a", "b")))["changes"]
    assert known["kind"] is None
    assert known["parts"]["new"]["compute_s"] == pytest.approx(0.003)


def test_of_a_kind_the_worst_comes_first():
    worse = [("a", 1.2), ("b", 1.6), ("c", 1.3)]
    base, new = ([virtual(point=p, step_s=STEP_S * s) for p, s in side] for side in ([(p, 1) for p, _ in worse], worse))
    new.append(virtual(point="d", status="crashed"))
    base.append(virtual(point="d"))
    assert [f.row["cell_id"] for f in compare.compare(base, new).regressions] == ["d-0", "b-0", "c-0", "a-0"]


def test_a_short_name_has_what_points_differ_in_and_a_whole_one_everything():
    rows = [cell(gpus=gpus, learning_rate=rate, scenario="lenet").row for gpus, rate in ((2, 0.1), (2, 0.2), (4, 0.1))]
    assert short_names(rows)[:2] == [f"sync-ddp on 2 CPU cores, learning rate {rate}" for rate in (0.1, 0.2)]
    assert short_names(rows[:1]) == ["sync-ddp on 2 CPU cores"]
    assert point_in_words(rows[0]) == "lenet, sync-ddp on 2 CPU cores, global batch 32, learning rate 0.1"


# -- what is deterministic ---------------------------------------------------------------------------------------------


def findings(base: compare.MeasuredCell, new: compare.MeasuredCell) -> dict[str, str]:
    return {f.quantity.column: f.kind for f in compare.compare([base], [new]).findings}


def test_deterministic_quantities_are_compared_exactly():
    assert findings(virtual(), virtual()) == {}
    worse = virtual(samples_to_target=5281, bytes_sent_per_step=246_828.0, dram_tensors_peak_bytes=4_553_745.0)
    assert findings(virtual(), worse) == dict.fromkeys(
        ["samples_to_target", "bytes_sent_per_step", "dram_tensors_peak_bytes"], "regression"
    )
    assert findings(virtual(), virtual(bytes_sent_per_step=1000.0)) == {"bytes_sent_per_step": "improvement"}


def test_fewer_samples_with_the_same_seeds_are_too_good():
    assert findings(virtual(), virtual(samples_to_target=5000)) == {"samples_to_target": "implausible"}


def test_what_times_decide_is_exact_only_where_the_times_are_the_same():
    asynchronous = {"synchrony": "asynchronous"}
    base, other = virtual(**asynchronous), virtual(samples_to_target=6000, **asynchronous)
    assert findings(base, other) == {"samples_to_target": "regression"}
    assert findings(base, virtual(samples_to_target=6000, step_s=STEP_S * 1.001, **asynchronous)) == {
        "samples_to_target": "undecided"
    }


def test_real_runs_are_exact_in_bytes_and_counted_memory_only():
    assert findings(cell(samples_to_target=5280), cell(samples_to_target=9000)) == {"samples_to_target": "undecided"}
    assert findings(cell(), cell(bytes_sent_per_step=300_000.0)) == {"bytes_sent_per_step": "regression"}
    pushed = {"synchrony": "asynchronous"}
    assert findings(cell(**pushed), cell(bytes_sent_per_step=300_000.0, **pushed)) == {}


def test_simulated_times_need_no_seeds_but_the_effect_must_be_large_enough():
    assert findings(virtual(), virtual(step_s=STEP_S * 1.04)) == {}
    assert findings(virtual(), virtual(step_s=STEP_S * 1.06)) == {"step": "regression"}


# -- what was learnt ---------------------------------------------------------------------------------------------------


def learnt_kinds(make: Any, before: dict[str, float], after: dict[str, float], seeds: int = 1, spread: float = 0.0):
    """Compare seeds that differ from each other by a tenth, and from themselves on the other side by `spread`."""
    rng = np.random.default_rng(7)

    def side(values: dict[str, float], **changes: Any) -> list[compare.MeasuredCell]:
        cells = []
        for seed in range(seeds):
            own = {k: v * (1 + 0.1 * seed / seeds) * (1 + rng.normal(0, spread)) for k, v in values.items()}
            cells.append(make(seed=seed, **own, **changes))
        return cells

    return {f.quantity.column: f.kind for f in compare.compare(side(before), side(after)).findings}


@pytest.mark.parametrize(
    ("column", "before", "after"),
    [
        ("validation_accuracy", 0.8, 0.77),
        ("test_accuracy", 0.8, 0.77),
        ("validation_loss", 0.3, 0.33),
        ("train_loss", 0.3, 0.33),
        ("samples_to_target", 5000, 5600),
    ],
)
def test_accuracy_loss_and_samples_are_compared_seed_by_seed(column, before, after):
    def kinds(first: float, second: float, **options: Any) -> dict[str, str]:
        return learnt_kinds(cell, {column: first}, {column: second}, seeds=5, **options)

    assert kinds(before, after, spread=0.003) == {column: "regression"}
    assert kinds(after, before, spread=0.003) == {column: "improvement"}
    assert kinds(before, after, spread=0.3) == {}
    assert kinds(before, before + (after - before) / 10, spread=0.0001) == {}


def test_what_is_simulated_needs_no_seeds_and_what_is_measured_is_undecided_with_one():
    before, after = (
        {"validation_accuracy": 0.9, "validation_loss": 0.3},
        {"validation_accuracy": 0.8, "validation_loss": 0.4},
    )
    assert learnt_kinds(virtual, before, after) == dict.fromkeys(before, "regression")
    assert learnt_kinds(cell, before, after) == dict.fromkeys(before, "undecided")
    assert learnt_kinds(virtual, before, {"validation_accuracy": 0.895, "validation_loss": 0.301}) == {}


def test_an_accuracy_that_collapses_is_a_regression_from_one_synchronous_seed():
    before, after = {"validation_accuracy": 0.9}, {"validation_accuracy": 0.0}
    assert learnt_kinds(cell, before, after) == {"validation_accuracy": "regression"}
    pushed = {"synchrony": "asynchronous"}
    assert learnt_kinds(lambda **c: cell(**c, **pushed), before, after) == {"validation_accuracy": "undecided"}


@pytest.mark.parametrize(("better", "kind"), [("higher", "improvement"), ("lower", "regression")])
def test_a_metric_knows_which_way_is_worse(better, kind):
    sides = ([virtual(validation_metric=value, metric="f1", better=better)] for value in (0.5, 0.6))
    (found,) = compare.compare(*sides).findings
    assert (found.kind, found.quantity.name) == (kind, "f1")


def test_a_metric_may_change_its_sign():
    sides = ([virtual(validation_metric=value, metric="r2", better="higher")] for value in (0.5, -0.2))
    assert "r2 0.5 before, -0.2 now (-140.0 %)" in in_text(compare.compare(*sides))


def test_noise_in_what_was_learnt_raises_no_more_alarms_than_it_may():
    rng = np.random.default_rng(8)

    def side() -> list[compare.MeasuredCell]:
        return [
            cell(
                f"p{p}",
                seed,
                validation_loss=0.3 * math.exp(rng.normal(0, 0.1)),
                validation_accuracy=rng.uniform(0.8, 0.9),
            )
            for p in range(8)
            for seed in range(5)
        ]

    assert sum(bool(compare.compare(side(), side()).regressions) for _ in range(200)) <= 200 * 0.05


# -- statuses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["crashed", "out-of-memory", "timeout", "not-possible"])
def test_what_was_ok_and_is_not_is_a_regression(status):
    base = [cell(seed=k) for k in range(3)]
    new = [cell(seed=0), *(cell(seed=k, status=status, reason="it broke") for k in (1, 2))]
    (found,) = compare.compare(base, new).regressions
    assert (found.base, found.new) == ("ok", status)
    assert "seeds 1 and 2: it broke" in sentence(found)


def test_what_was_ok_and_is_missing_is_a_regression_and_what_is_new_is_not():
    result = compare.compare([cell("a"), cell("b")], [cell("a"), cell("c")])
    assert [(f.new, f.row["cell_id"]) for f in result.regressions] == [("missing", "b-0")]
    assert result.only_new == 1


@pytest.mark.parametrize("status", ["target-missed", "diverged"])
def test_missing_a_target_is_judged_by_all_seeds_where_luck_has_a_part(status):
    def kinds(make: Any, missed: int, **changes: Any) -> list[str]:
        new = [make(seed=k, **changes) for k in range(missed, 5)]
        new += [make(seed=k, status=status, **changes) for k in range(missed)]
        return [f.kind for f in compare.compare([make(seed=k, **changes) for k in range(5)], new).findings]

    assert kinds(cell, 1) == ["undecided"]
    assert kinds(cell, 4) == ["regression"]
    assert kinds(virtual, 1) == ["regression"]


def test_a_drop_is_as_probable_as_fishers_exact_test_has_it():
    assert probability_of_drop(5, 1, 5) == pytest.approx(0.0238, abs=1e-4)
    assert probability_of_drop(3, 0, 3) == pytest.approx(0.05)
    assert probability_of_drop(4, 4, 5) > 0.5


@pytest.mark.parametrize("now", ["crashed", "timeout", "out-of-memory", "interrupted"])
@pytest.mark.parametrize("was", ["ok", "diverged", "crashed", "out-of-memory", "not-possible", "missing"])
def test_what_does_not_run_to_its_end_is_a_regression_whatever_it_was(was, now):
    base = [cell("other"), *([cell(status=was)] if was != "missing" else [])]
    (found,) = compare.compare(base, [cell("other"), cell(status=now)]).findings
    assert (found.kind, found.base, found.new) == ("regression", was, now)


def test_what_nobody_can_run_is_no_finding_and_what_runs_again_an_improvement():
    assert not compare.compare([cell(status="not-possible")], [cell(status="not-possible")]).findings
    assert not compare.compare([cell(status="not-possible"), virtual(1)], [virtual(1)]).findings
    for was in ("crashed", "out-of-memory"):
        assert [f.kind for f in compare.compare([cell(status=was)], [cell()]).findings] == ["improvement"]


def test_a_run_that_diverges_and_missed_its_target_before_is_worse():
    missed, diverged = virtual(status="target-missed"), virtual(status="diverged")
    assert [f.kind for f in compare.compare([missed], [diverged]).findings] == ["regression"]
    assert [f.kind for f in compare.compare([diverged], [missed]).findings] == ["improvement"]


def test_cells_that_missed_their_target_on_both_sides_are_compared_by_what_they_took():
    missed = {"status": "target-missed", "samples_to_target": None}
    (found,) = compare.compare([virtual(**missed)], [virtual(step_s=STEP_S * 1.5, **missed)]).findings
    assert (found.quantity.column, found.kind) == ("step", "regression")


@pytest.mark.parametrize("status", ["not-possible", "diverged", "ok"])
def test_nothing_compared_is_not_called_no_regression(status):
    pushed = {"synchrony": "asynchronous", "dram_tensors_peak_bytes": None, "status": status}
    found = compare.compare([cell(**pushed)], [cell(**pushed)])
    assert (found.verdict, found.verdict.exit_code) == ("nothing-compared", 5)
    assert conclusion(found).startswith("Nothing was compared: ")
    assert "no regression" not in in_text(found).lower()


# -- surroundings ------------------------------------------------------------------------------------------------------


def test_changes_of_the_environment_are_named():
    base, new = [cell()], [cell(environment=HERE | {"torch": "2.14.0", "id": "2", "driver": "570"})]
    assert environment.changed_environment(base, new) == (("torch", "2.13.0", "2.14.0"), ("driver", "none", "570"))


def test_other_devices_are_noticed_for_measured_cells_and_other_clusters_for_simulated_ones():
    def other(make: Any, mine: dict[str, Any], theirs: dict[str, Any], **changes: Any) -> tuple[Any, ...]:
        sides = ([make(environment=HERE | facts, **changes)] for facts in (mine, theirs))
        return environment.other_machines(*sides)

    cpu = {"cpu": "another"}
    assert other(cell, {}, cpu) == (("device", "a processor", "another"),)
    assert other(virtual, {}, cpu) == ()
    assert other(cell, {"gpu": "A100"}, {"gpu": "H200"}, device="cuda") == (("device", "A100", "H200"),)
    assert other(virtual, {"cluster": "dgx-h100"}, {"cluster": "ethernet"}) == (("cluster", "dgx-h100", "ethernet"),)


def test_across_devices_only_statuses_are_compared_unless_asked_for():
    other = {"environment": HERE | {"cpu": "another", "torch": "2.14.0"}}
    base = [cell(), cell("b"), virtual(point="c")]
    new = [cell(bytes_sent_per_step=9e9, **other), cell("b", **other), virtual(point="c")]
    found = compare.compare(base, new)
    assert (found.findings, found.verdict, found.verdict.exit_code) == ((), "refused", 2)
    assert "no regression" not in in_text(found).lower()
    assert "--allow-other-device" in conclusion(found)
    assert compare.compare(base, new, allow_other=True).verdict == "regression"
    crashed = compare.compare(base, [new[0], cell("b", status="crashed", **other)])
    assert (crashed.verdict, [f.quantity.column for f in crashed.regressions]) == ("regression", ["status", "status"])
    lines = in_text(crashed).splitlines()
    assert lines[1:3] == ["changed: cpu: a processor before, another now", "changed: torch: 2.13.0 before, 2.14.0 now"]
    assert "--allow-other-device" in lines[-1]


def test_words_say_what_was_compared_and_escape_names():
    strange = {"strategy": "a|b*<script>"}
    result: compare.Comparison = compare.compare([cell(**strange)], [cell(bytes_sent_per_step=9e9, **strange)])
    assert conclusion(result).startswith("1 regression in 1 point (1 cell compared).")
    assert r"a\|b\*\<script\>" in in_markdown(result)
    content = json.loads(document_text(compare_document(result, "a", "b")))
    assert content["regression"] is True
    assert content["findings"][0]["quantity"] == "bytes_sent_per_step"
    assert in_text(result).splitlines()[-1] == conclusion(result)


# -- the command -------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["compare", *map(str, arguments)])
    return done.exit_code, done.output


def test_a_regression_ends_with_one_and_none_with_zero(tmp_path):
    base, same = store(tmp_path / "base"), store(tmp_path / "same", mark=1)
    slower = store(tmp_path / "slower", STEP_S * 1.5)
    code, text = run(base, same)
    assert code == 0, text
    assert text.splitlines()[-1].startswith("No regression in 2 cells (")
    assert "Smallest detectable increase: step time +5.0 %" in text
    code, text = run(base, slower)
    assert code == 1
    assert "REGRESSION: single on 1 simulated CPU core, global batch 32" in text
    assert json.loads(run(base, slower, "--json")[1])["regression"]
    assert run(base, slower, "--markdown")[1].startswith("**2 regressions in 2 points")
    assert run(base, slower, "--min-effect", 0.6)[0] == 0


def test_nothing_to_compare_ends_with_five_and_says_what_to_do(tmp_path):
    base, new = store(tmp_path / "base"), store(tmp_path / "new")
    code, text = run(tmp_path / "none" / "yet", new)
    assert code == 5
    assert f"cp -r {new} {tmp_path / 'none' / 'yet'}" in text
    code, text = run(base, new)
    assert code == 5
    assert "the same measurements (2 cells)" in text
    code, text = run(base, store(tmp_path / "other", sweep__learning_rate=[0.2]))
    assert code == 5
    assert "no cell in common" in text


def crash(folder: Path) -> Path:
    """Let every cell of a stored night have crashed."""
    for path in (folder / "cells").glob("*/record.json"):
        record = json.loads(path.read_text()) | {"status": "crashed", "reason": "a dependency broke"}
        path.write_text(json.dumps(record | {"row": record["row"] | {"status": "crashed"}}))
    return folder


def test_a_night_in_which_every_cell_crashed_ends_with_one_even_after_another(tmp_path):
    base, new = (
        crash(store(tmp_path / "base")),
        crash(store(tmp_path / "new")),
    )  # alike to the byte: no second was measured
    code, text = run(base, new)
    assert code == 1
    assert text.splitlines()[-1] == "2 regressions in 2 points (2 cells compared)."
    code, text = run(base, store(tmp_path / "whole"))
    assert code == 5
    assert text.count("improvement: ") == 2
    assert "no cell ran to the same end on both sides" in text.splitlines()[-1]


def test_a_slower_machine_breaks_no_build_unless_it_is_trusted(tmp_path):
    base = store(tmp_path / "base", engine="real", sweep__seeds=5)
    new = store(tmp_path / "new", STEP_S * 1.5, engine="real", sweep__seeds=5)
    for option, code in (((), 0), (("--trust-machine",), 1)):
        assert run(base, new, *option)[0] == code


def test_refusals(tmp_path):
    base = store(tmp_path / "base", engine="real", sweep__seeds=5)
    other = store(tmp_path / "other", environment=HERE | {"cpu": "another"}, engine="real", sweep__seeds=5)
    code, text = run(base, other)
    assert code == 2
    assert "a processor" in text
    assert "--allow-other-device" in text
    assert run(base, other, "--allow-other-device")[0] == 0
    assert run(base, tmp_path / "nowhere")[0] == 2
    assert run(base, other, "--min-effect", -1)[0] == 2


def test_another_simulated_cluster_is_named_first_and_its_times_are_refused(tmp_path):
    faster = {"device": {"samples_per_second": 9000, "batch_size": 32}}
    base, new = store(tmp_path / "base"), store(tmp_path / "new", STEP_S * 2, cluster=faster, mark=1)
    code, text = run(base, new)
    assert code == 2
    assert text.splitlines()[1].startswith(
        "changed: cluster: this-machine; 1000 samples/s at 32 a step; 8 Gb/s after 50 us"
    )
    assert "another cluster: this-machine; 1000 samples/s" in text.splitlines()[-1]
    code, text = run(base, new, "--allow-other-device")
    assert code == 1
    assert text.count("REGRESSION: ") == 2


def test_what_the_scenario_says_beside_the_point_is_named(tmp_path):
    base = store(tmp_path / "base", name="one")
    text = run(base, store(tmp_path / "new", name="two", measure={"warmup_steps": 3}, mark=1))[1]
    assert "changed: scenario: one before, two now" in text
    assert "changed: warm-up steps: 10 before, 3 now" in text


def test_scenarios_are_paired_by_name_and_one_that_is_there_twice_is_refused(tmp_path):
    for side, step_s in (("base", STEP_S), ("new", STEP_S * 1.5)):
        store(tmp_path / side / "one", name="one", mark=side)
        store(tmp_path / side / "two", step_s, name="two", mark=side)
    code, text = run(tmp_path / "base", tmp_path / "new")
    assert code == 1
    regressions = [line for line in text.splitlines() if line.startswith("REGRESSION")]
    assert len(regressions) == 2
    assert all(line.startswith("REGRESSION: two, s") for line in regressions)
    store(tmp_path / "new" / "copy", name="two")
    code, text = run(tmp_path / "base", tmp_path / "new")
    assert code == 2
    assert "scenario two is in several folders" in text


def test_cells_that_were_kept_from_before_are_not_measured_again(tmp_path):
    base, new = store(tmp_path / "base"), store(tmp_path / "new")
    folder = next((new / "cells").glob("single*"))
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"detail": {"mark": 7}}))
    code, text = run(base, new)
    assert code == 0
    assert "2 cells in common; 1 of them is the same measurement on both sides and not compared" in text


def test_an_edited_strategy_is_still_the_same_cell(tmp_path):
    base, new = store(tmp_path / "base"), store(tmp_path / "new", mark=1)
    for path in (new / "cells").glob("*/record.json"):
        record = json.loads(path.read_text())
        renamed = record["cell"]["cell_id"][:-8] + "00000000"
        record["cell"]["cell_id"] = record["row"]["cell_id"] = renamed
        path.write_text(json.dumps(record))
        path.parent.rename(path.parent.with_name(renamed))
    plan = json.loads((new / "plan.json").read_text())
    for planned in plan["cells"]:
        planned["cell_id"] = planned["cell_id"][:-8] + "00000000"
    (new / "plan.json").write_text(json.dumps(plan))
    assert run(base, new)[0] == 0


def test_times_to_target_are_compared_seed_by_seed():
    """Seeds differ by a factor of three, the same seed on two nights by 2 %: only pairs tell 10 % apart."""
    rng = np.random.default_rng(5)

    def side(scale: float) -> list[compare.MeasuredCell]:
        times = [(1 + seed / 2) * scale * math.exp(rng.normal(0, 0.02)) for seed in range(5)]
        return [cell(seed=seed, time_to_target_s=time) for seed, time in enumerate(times)]

    found = [judged(side(1.0), side(1.1)).regressions for _ in range(50)]
    assert sum([f.quantity.column for f in each] == ["time_to_target_s"] for each in found) >= 45
    assert sum(bool(judged(side(1.0), side(1.0)).findings) for _ in range(50)) <= 2
