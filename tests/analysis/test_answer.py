from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from answered_rows import Row, row
from cells import make_cell

from harness.analysis.answer import (
    Answer,
    Recommendation,
    answer,
    answer_as_markdown,
    answer_as_text,
    status_counts,
    target_in_words,
)
from harness.analysis.contrast import Basis, Verdict
from harness.analysis.exact import median_interval
from harness.analysis.ledger import Edge, edges_in_words
from harness.analysis.winners import DevicePrice
from harness.core.text import Text
from harness.core.words import duration


def seeds(strategy: str, times: list[float], **changes: Any) -> list[Row]:
    return [row(strategy, seed, time_to_target_s=time, **changes) for seed, time in enumerate(times)]


WOBBLE = (1.0, 1.01, 0.99, 1.015, 0.985)
"""What runs of one setting differ by."""

SPLIT = {"gpus": 2, "compute_s": 0.2, "communication_s": 0.15, "idle_s": 0.05}


def test_the_fastest_to_the_target_wins_with_its_seeds_and_interval() -> None:
    found = answer(
        [*seeds("fast", [1, 2, 3, 4, 5], gpus=2), *seeds("slow", [6, 7, 8, 9, 10], gpus=2, compute_s=0.9)], 10
    )
    assert found.sentence.startswith("Use fast on 2 CPU cores (global batch 32, learning rate 0.1)")
    assert "It reaches the target in 2.61 s (mean of 5 seeds, 95 % interval 1.18 s to 5.73 s)." in found.grounds
    assert found.runner_up.startswith("Runner-up: slow on 2 CPU cores")
    assert "cannot separate" not in found.sentence + found.runner_up
    assert found.leader == "fast-2-s2"
    assert "Most of the difference is computing (9.00 ms against 3.00 ms)" in found.why[0]


def test_a_headline_says_what_to_do_and_the_rest_why() -> None:
    found = answer(seeds("fast", [1, 2, 3, 4, 5], gpus=2), 5)
    assert (found.kind, found.simulated) == (Recommendation.USE, False)
    assert found.headline == found.advice == "Use fast on 2 CPU cores (global batch 32, learning rate 0.1)."
    assert " ".join([found.headline, *found.grounds]) == found.sentence
    simulated = answer(seeds("fast", [1, 2, 3, 4, 5], gpus=2, engine="virtual"), 5)
    assert simulated.simulated
    assert simulated.headline.startswith("Simulated: Use fast on 2 simulated CPU cores")
    assert " ".join([simulated.headline, *simulated.grounds]) == simulated.sentence
    assert answer([], 3).headline == "Nothing has finished yet: 0 of 3 cells."


def test_the_target_is_named_where_it_is_known() -> None:
    found = answer(seeds("fast", [1, 2, 3, 4, 5]), 5, target="95 % accuracy")
    assert found.grounds[0].startswith("It reaches 95 % accuracy in 2.61 s")


@pytest.mark.parametrize(
    ("goals", "words"),
    [
        ([(0.985, None)], "98.5 % accuracy"),
        ([(0.9, None), (0.95, None)], "the target"),
        ([(0.9, 0.3)], "the target"),
        ([(None, 0.3)], "a loss of 0.3"),
    ],
)
def test_a_target_is_put_in_words_where_all_cells_have_the_same_accuracy(goals: list[Any], words: str) -> None:
    cells = [make_cell(goal={"target_accuracy": 0.9, "max_epochs": 1}, sweep__strategy="single")]
    goal = cells[0].goal
    cells = [replace(cells[0], goal=replace(goal, target_accuracy=a, target_loss=b)) for a, b in goals]
    assert target_in_words(cells) == words


def test_a_lead_that_seeds_do_not_agree_on_is_open_and_says_what_would_settle_it() -> None:
    found = answer([*seeds("a", [1.0, 1.1, 1.2, 1.3, 1.4]), *seeds("b", [1.25, 1.0, 1.5, 1.2, 1.45])], 10)
    assert found.contrast is not None
    assert (found.contrast.verdict, found.contrast.basis) == (Verdict.OPEN, Basis.TARGET)
    settled = found.contrast.settled_by
    assert settled is not None
    apart = "b on 1 CPU core looks slower (1.27 s), but 5 seeds cannot separate the two. "
    ask = f"Set seeds = {settled.blocks}. That settles it in 8 of 10 sweeps: "
    ask += "one is faster, or the two are the same within 20 %."
    assert found.grounds[1] == apart + ask
    told = "a is 1.06 times as fast (95 % interval 0.88 to 1.29 times): 5 seeds cannot separate the two."
    assert found.runner_up.endswith(told)


def test_seeds_that_all_agree_tell_two_apart_however_much_they_differ_from_each_other() -> None:
    times = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = answer(
        [*seeds("a", times), *seeds("b", [1.2 * time * w for time, w in zip(times, WOBBLE, strict=True)])], 10
    )
    assert found.contrast is not None
    assert found.contrast.verdict is Verdict.FASTER
    assert found.runner_up.endswith("a is 1.20 times as fast (at least 1.18 times).")


def test_what_differs_by_less_than_a_twentieth_is_the_same_and_the_fewest_devices_are_recommended() -> None:
    few = [1.0, 2.0, 3.0, 4.0, 5.0]
    many = [0.98 * time * w for time, w in zip(few, WOBBLE, strict=True)]
    found = answer([*seeds("single", few), *seeds("async-ps", many, **SPLIT)], 10)
    assert found.advice == "Stay on one CPU core."
    assert found.contrast is not None
    assert found.contrast.verdict is Verdict.SAME
    assert found.grounds[1] == "async-ps on 2 CPU cores is as fast: the two are the same within 5 %."
    assert "The two are the same within 5 % (95 % interval 1.00 to 1.04 times)." in found.runner_up


def test_few_seeds_get_no_interval() -> None:
    found = answer([*seeds("a", [1, 2]), *seeds("b", [3, 4])], 4)
    assert "(mean of 2 seeds; set seeds = 5 to get a confidence interval)" in found.sentence
    assert "% interval" not in answer_as_text(found)


@pytest.mark.parametrize(
    ("n", "low", "high", "coverage"),
    [(5, 1, 5, 0.9375), (6, 1, 6, 0.96875), (8, 1, 8, 0.992188), (9, 2, 8, 0.960938)],
)
def test_order_statistics_cover_what_the_binomial_law_says(n: int, low: int, high: int, coverage: float) -> None:
    found = median_interval(range(1, n + 1))
    assert found is not None
    assert found[:2] == (low, high)
    assert math.isclose(found[2], coverage, abs_tol=1e-6)


def test_four_values_have_no_interval() -> None:
    assert median_interval([1, 2, 3, 4]) is None


MISSED = {"status": "target-missed", "time_to_target_s": None, "wall_s": 10.0}


def test_a_point_that_missed_with_one_seed_pays_for_trying_again() -> None:
    fast = [*seeds("fast", [0.1] * 4), row("fast", 4, **MISSED)]
    found = answer([*fast, *seeds("sure", [2, 2, 2, 2, 2])], 10)
    assert found.sentence.startswith("Use sure")  # expected time of fast: (4 x 0.1 s + 10 s) / 4 = 2.6 s
    assert (
        "fast on 1 CPU core (global batch 32, learning rate 0.1) should reach the target in 2.60 s" in found.runner_up
    )
    assert (
        "if failed runs are repeated (4 of 5 seeds reached it; 95 % interval for the success rate 28 to 99 %)"
        in found.runner_up
    )
    assert found.contrast is not None
    assert found.contrast.basis is Basis.ORDER  # there is no time of a seed that never got there
    assert "but 5 seeds cannot separate the two. Give runs a larger budget" in found.grounds[1]


def test_a_point_that_misses_now_and_then_wins_where_trying_again_is_still_faster() -> None:
    fast = [*seeds("fast", [0.1] * 4), row("fast", 4, **MISSED)]
    found = answer([*fast, *seeds("sure", [20, 20, 20, 20, 20])], 10)
    assert found.sentence.startswith("Use fast on 1 CPU core")
    assert "It should reach the target in 2.60 s" in found.sentence
    assert found.leader == "fast-1-s1"


def test_a_point_that_half_of_its_seeds_miss_wins_against_none() -> None:
    lucky = [row("lucky", 0, time_to_target_s=0.1), *(row("lucky", s, **MISSED | {"wall_s": 0.1}) for s in (1, 2))]
    found = answer([*lucky, *seeds("sure", [20] * 3)], 6)
    assert found.sentence.startswith("Use sure")
    alone = answer(lucky, 3)
    assert alone.kind is Recommendation.UNRELIABLE
    assert alone.sentence.startswith(
        "No setting reaches the target with half of its seeds. The closest is lucky on 1 CPU core"
    )


def test_a_seed_that_crashed_counts_against_a_point() -> None:
    rows = [*seeds("fast", [0.1] * 4), row("fast", 4, status="crashed", time_to_target_s=None)]
    found = answer([*rows, *seeds("sure", [2] * 5)], 10)
    assert found.sentence.startswith("Use sure")
    assert found.runner_up.endswith("reached the target with 4 of 5 seeds (1 crashed).")


def test_no_seed_of_any_reached_the_target() -> None:
    rows = [row("a", seed, status="target-missed", time_to_target_s=None, validation_accuracy=0.9) for seed in (0, 1)]
    found = answer(rows, 2)
    assert found.kind is Recommendation.NONE_REACHED
    assert found.sentence.startswith("No recommendation: no cell reached the target. a on 1 CPU core")
    assert found.sentence.endswith("came closest: validation accuracy 0.900 (2 seeds).")
    assert found.leader is None


def test_each_strategy_stands_with_its_best_point() -> None:
    rows = [*seeds("a", [5] * 5, learning_rate=0.05), *seeds("a", [2] * 5), *seeds("b", [3] * 5)]
    assert "learning rate 0.1" in answer(rows, 15).sentence


def test_varied_options_are_named() -> None:
    rows = [
        *seeds("local", [2] * 5, options='{"every": 4, "x": 1}'),
        *seeds("local", [1] * 5, options='{"every": 8, "x": 1}'),
    ]
    assert "learning rate 0.1, every 8)" in answer(rows, 10).sentence


def test_without_a_target_throughput_decides() -> None:
    rows = [
        row(name, seed, time_to_target_s=None, throughput_samples_per_s=rate)
        for name, rate in (("a", 1500.0), ("b", 900.0))
        for seed in range(5)
    ]
    found = answer(rows, 10)
    assert "Use a on 1 CPU core" in found.sentence
    assert "trains 1,500 samples/s" in found.sentence


def test_do_not_split_is_explained_from_the_rows() -> None:
    found = answer([*seeds("single", [1] * 5), *seeds("sync-ddp", [2] * 5, **SPLIT)], 10)
    assert (found.kind, found.advice) == (Recommendation.STAY, "Stay on one CPU core.")
    # c1 = 3 ms, cN = 2 ms, y = 2 ms: pays from y / (c1 - cN) = 2 on
    assert found.grounds[1:] == (
        "Each step of sync-ddp on 2 CPU cores computes for 2.00 ms and spends 2.00 ms on exchange and waiting; on one "
        "device it computes for 3.00 ms. Splitting pays off once a step has at least 2x the work.",
    )


def test_splitting_that_saves_no_computing_pays_at_no_amount_of_work() -> None:
    found = answer([*seeds("single", [1] * 5), *seeds("sync-ddp", [2] * 5, **{**SPLIT, "compute_s": 0.31})], 10)
    assert "Splitting does not shorten computing here, so more work per step would not help." in found.sentence
    assert "-" not in found.sentence.replace("sync-ddp", "")


def test_stages_that_wait_in_proportion_to_the_work_pay_at_no_amount_of_it() -> None:
    stages = {**SPLIT, "pipeline": 2, "compute_s": 0.16, "communication_s": 0.02, "idle_s": 0.16}
    found = answer([*seeds("single", [1] * 5), *seeds("model-split", [2] * 5, **stages)], 10)
    assert "More work per step would not help: stages wait in proportion to it." in found.sentence
    # c1 = 3 ms, cN = 1.6 ms, waiting 0.8 ms, communication 1.2 ms: pays from 1.2 / (3 - 2.4) = 2 on
    found = answer(
        [
            *seeds("single", [1] * 5),
            *seeds("model-split", [2] * 5, **{**stages, "idle_s": 0.08, "communication_s": 0.12}),
        ],
        10,
    )
    assert "Splitting pays off once a step has at least 2x the work." in found.sentence


def test_one_that_wins_by_fewer_samples_is_not_explained_by_the_step() -> None:
    split = {"gpus": 2, "compute_s": 0.15, "communication_s": 0.01, "samples_to_target": 9600}
    found = answer([*seeds("single", [1] * 5), *seeds("async-ps", [2] * 5, **split)], 10)
    assert "async-ps needs 3.00 times the samples to reach the target (9,600 against 3,200)." in found.grounds


def test_one_device_points_of_split_strategies_stand_behind_single() -> None:
    control = seeds("sync-ddp", [0.9] * 5)
    found = answer([*seeds("single", [1] * 5), *control, *seeds("sync-ddp", [2] * 5, **SPLIT)], 15)
    assert found.kind is Recommendation.STAY
    assert "sync-ddp on 1 CPU core is shown but not ranked: on one device, single is the reference." in found.caveats


def test_where_splitting_pays_it_is_recommended() -> None:
    found = answer([*seeds("single", [2] * 5), *seeds("sync-ddp", [1] * 5, **SPLIT)], 10)
    assert found.sentence.startswith("Use sync-ddp on 2 CPU cores")


LEADS = [1.1, 0.8, 1.0, 0.9, 1.3]
"""Seconds ahead of `LEVEL` in the mean; five seeds cannot separate the two."""
LEVEL = [0.85, 1.05, 1.15, 1.2, 1.4]


def test_a_lead_that_chance_explains_as_well_is_no_reason_to_pay_for_more_devices() -> None:
    learns_less = {**SPLIT, "compute_s": 0.15, "communication_s": 0.01, "samples_to_target": 4800}
    slower = seeds("sync-ddp", [2] * 5, **SPLIT)
    found = answer([*seeds("single", LEVEL), *seeds("async-ps", LEADS, **learns_less), *slower], 15)
    assert found.advice == "Stay on one CPU core."
    assert found.grounds[0].startswith("single (global batch 32, learning rate 0.1) reaches the target in 1.12 s (mean")
    assert found.grounds[1].startswith(
        "async-ps on 2 CPU cores looks faster (1.01 s), but 5 seeds cannot separate the two. "
        "Up to 25 seeds would hardly settle it."
    )
    assert found.grounds[2].startswith("async-ps needs 1.50 times the samples to reach the target")
    assert found.leader == "single-1-s2"
    assert found.runner_up.startswith("Runner-up: async-ps on 2 CPU cores")
    assert "It is 1.11 times as fast (95 % interval 0.84 to 1.46 times)" in found.runner_up
    assert found.winners[0][1:] == ("async-ps on 2 CPU cores", "1.01 s, not told apart from single on 1 CPU core")


def test_where_the_one_that_leads_has_no_reason_to_lose_the_next_split_explains() -> None:
    leads = seeds("async-ps", LEADS, gpus=2, compute_s=0.15)
    found = answer([*seeds("single", LEVEL), *leads, *seeds("sync-ddp", [2] * 5, **SPLIT)], 15)
    assert found.grounds[1].startswith("async-ps on 2 CPU cores looks faster")
    assert found.grounds[2].startswith("Each step of sync-ddp on 2 CPU cores computes for 2.00 ms")
    assert found.why == ()  # the one that leads lost by nothing, the other is explained already


def test_a_strategy_may_be_level_with_itself_on_fewer_devices() -> None:
    many, few = [1.1, 1.7, 3.1, 3.5, 5.2], [1.0, 2.0, 3.0, 4.0, 5.0]
    rows = [*seeds("sync-ddp", many, **{**SPLIT, "gpus": 4}), *seeds("sync-ddp", few, **SPLIT)]
    found = answer([*rows, *seeds("single", [9.2] * 5)], 15)
    assert found.sentence.startswith("Use sync-ddp on 2 CPU cores")
    assert "sync-ddp on 4 CPU cores looks faster (2.54 s), but 5 seeds cannot separate the two." in found.sentence
    assert found.runner_up.startswith("Runner-up: sync-ddp on 4 CPU cores")


def test_who_leads_is_who_ranks_first_and_not_who_is_expected_to_be_faster() -> None:
    often = [row("async-ps", seed, time_to_target_s=1.0, **SPLIT) for seed in (0, 1)]
    never = [row("async-ps", seed, **{**SPLIT, **MISSED, "wall_s": 1.2}) for seed in (2, 3, 4)]
    found = answer([*seeds("single", [10.0, 10.1, 10.2, 10.3, 10.4]), *often, *never], 10)
    assert "looks faster" not in found.sentence


def test_one_that_did_not_lose_is_not_said_to_have() -> None:
    faster = seeds("local-sgd", [1.0, 0.82, 1.12, 0.95, 1.32], **{**SPLIT, "samples_to_target": 9600})
    found = answer([*seeds("single", LEVEL), *seeds("async-ps", LEADS, **SPLIT), *faster], 15)
    assert found.leader == "single-1-s2"
    assert not any("times the samples" in line for line in found.why)


def test_a_setting_with_a_colon_does_not_end_the_headline() -> None:
    swept = {"swept workload.optimizer": {"name": "sgd", "momentum": 0.9}}
    other = {"swept workload.optimizer": {"name": "adam"}}
    found = answer([row(**swept), row(**other, time_to_target_s=2.0)], 2)
    assert found.headline.endswith(").")
    assert found.grounds[0].startswith("It reaches the target")


@pytest.mark.parametrize("count", [1, 2])
def test_where_seeds_are_too_few_to_say_how_sure_it_is_the_fastest_stands_first(count: int) -> None:
    found = answer([*seeds("single", [1.2] * count), *seeds("async-ps", LEADS[1 : count + 1], **SPLIT)], 2 * count)
    assert found.sentence.startswith("Use async-ps on 2 CPU cores")
    assert "too few to say how sure that is" in found.runner_up


def test_a_lead_that_is_certain_is_worth_its_devices() -> None:
    found = answer([*seeds("single", LEVEL), *seeds("async-ps", [t / 2 for t in LEADS], **SPLIT)], 10)
    assert found.sentence.startswith("Use async-ps on 2 CPU cores")


def test_simulated_is_never_ranked_with_measured() -> None:
    virtual = {"engine": "virtual", "gpus": 16}
    found = answer([*seeds("single", [1] * 5), *seeds("sync-ddp", [0.1] * 5, **virtual)], 10)
    assert found.sentence.startswith("Use single")
    assert found.runner_up == ""
    assert any("16 simulated CPU cores" in line and "not ranked with measured ones" in line for line in found.caveats)


def test_only_simulated_results_are_called_simulated() -> None:
    found = answer(seeds("sync-ddp", [1] * 5, engine="virtual", gpus=4), 5)
    assert found.sentence.startswith("Simulated: Use sync-ddp on 4 simulated CPU cores")


def test_oversubscribed_cells_are_shown_not_ranked() -> None:
    crowded = seeds("sync-ddp", [0.1] * 5, gpus=4, ranked=False)
    found = answer([*seeds("single", [1] * 5), *crowded], 10)
    assert found.sentence.startswith("Use single")
    assert "sync-ddp on 4 CPU cores has more workers than devices: shown, but not ranked." in found.caveats


@pytest.mark.parametrize("note", ["queue oversubscribed", "my cache is not ranked"])
def test_what_a_plugin_notes_costs_no_rank(note: str) -> None:
    found = answer([*seeds("single", [2] * 5), *seeds("noted", [1] * 5, notes=note, ranked=True)], 10)
    assert found.sentence.startswith("Use noted")
    assert found.caveats == ()


def test_noise_is_said() -> None:
    rows = seeds("single", [1] * 5)
    rows[0]["noisy"] = True
    again = "measured times may be too long. `harness run SCENARIO --retry noisy` repeats them."
    assert f"1 of 5 measured cells was disturbed by other processes: {again}" in answer(rows, 5).caveats
    rows[0]["disturbed"], rows[1]["noisy"], rows[1]["disturbed"] = "throttled other-run", True, "other-run of-tomorrow"
    by = "another run, throttling and of-tomorrow"
    assert f"2 of 5 measured cells were disturbed by {by}: {again}" in answer(rows, 5).caveats
    crashed = [row(status="crashed", noisy=True, time_to_target_s=None)]
    assert answer(crashed, 1).caveats == ("1 cell crashed; the table of cells gives the reason.",)  # it has no time


def test_nothing_finished_yet() -> None:
    assert answer([], 60) == Answer(Recommendation.NOTHING_YET, Text("Nothing has finished yet: 0 of 60 cells."))


def test_only_failures_are_told() -> None:
    found = answer([row(status="not-possible"), row(seed=1, status="interrupted")], 3)
    assert found.kind is Recommendation.NO_RESULT
    assert found.sentence == (
        "No recommendation: no cell has a result to rank. 2 of 3 cells were tried: 1 not-possible and 1 interrupted."
    )
    assert found.caveats == ("2 of 3 cells have not run yet.",)


def test_crashes_and_missing_cells_are_caveats() -> None:
    rows = [*seeds("a", [1] * 5), row("b", status="crashed", time_to_target_s=None)]
    told = ("1 of 7 cells has not run yet.", "1 cell crashed; the table of cells gives the reason.")
    assert answer(rows, 7).caveats == told


@pytest.mark.parametrize("value", [math.nan, None, math.inf])
def test_unmeasured_numbers_break_nothing(value: float | None) -> None:
    parts = dict.fromkeys(("compute_s", "communication_s", "idle_s", "input_s", "other_s", "steps"), value)
    rows = [*seeds("single", [1] * 5), *seeds("sync-ddp", [2] * 5, gpus=2), row("c")]
    text = answer_as_text(answer([r | parts for r in rows], 11))
    assert "nan" not in text
    assert "inf" not in text


def test_statuses_are_counted_in_a_fixed_order() -> None:
    rows = [row(status="crashed"), row(), row(status="diverged"), row()]
    assert list(status_counts(rows).items()) == [("ok", 2), ("diverged", 1), ("crashed", 1)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (2.5e-6, "2.50 us"), (0.0031, "3.10 ms"), (1.25, "1.25 s"), (600, "10.0 min"), (36000, "10.0 h")],
)
def test_durations_take_the_unit_that_people_would_choose(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_gpus_are_called_gpus() -> None:
    assert "on 1 GPU (" in answer(seeds("a", [1] * 5, device="cuda"), 5).sentence


def test_markdown_takes_nothing_for_markup() -> None:
    text = answer_as_markdown(answer(seeds("a_b*<script>", [1] * 5), 6))
    assert r"a\_b\*\<script\>" in text
    assert "\n- Note: 1 of 6 cells has not run yet." in text


def test_the_answer_imports_neither_torch_nor_pandas_nor_numpy() -> None:
    code = "import sys, harness.analysis.answer; print([m for m in ('torch', 'pandas', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- more than the sentence --------------------------------------------------------------------------------------------


def speed(strategy: str, gpus: int, per_s: float, **changes: Any) -> Row:
    timed = {"gpus": gpus, "time_to_target_s": None, "throughput_samples_per_s": per_s, "learning_rate": 0}
    return row(strategy, **{"engine": "virtual", "device": "cuda", "stated_error": 0.05} | timed | changes)


def test_more_devices_that_are_hardly_faster_are_the_answer_where_nothing_else_was_asked() -> None:
    few = speed("sync-ddp", 4, 200.0, compute_s=1.2, communication_s=0.1)
    many = speed("sync-ddp", 16, 300.0, compute_s=0.3, communication_s=0.55)
    found = answer([few, many], 2)
    assert found.kind is Recommendation.HARDLY_FASTER
    assert found.headline == "Simulated: 16 simulated GPUs are only 1.5x as fast as 4 with sync-ddp."
    assert found.grounds == (
        "They train 300 samples/s; 4 train 200 samples/s (simulated, ±10 %).",
        "Exchange and waiting take 65 % of each step.",
        "From 4 to 16 devices, computing goes from 12.0 ms to 3.00 ms per step, exchange and waiting from 1.00 ms to "
        "5.50 ms.",
        "A sample costs 2.7x the device time.",
    )
    assert [name for name, _, _ in found.contest] == ["sync-ddp-16-s0", "sync-ddp-4-s0"]


def test_devices_that_do_their_share_are_recommended() -> None:
    found = answer([speed("sync-ddp", 4, 200.0), speed("sync-ddp", 16, 700.0)], 2)
    assert found.sentence.startswith("Simulated: Use sync-ddp on 16 simulated GPUs (global batch 32)")


def test_a_simulated_lead_within_the_prediction_error_is_not_resolved() -> None:
    rows = [speed("a", 4, 200.0), speed("b", 4, 195.0), speed("c", 4, 100.0)]
    found = answer(rows, 3)
    assert found.grounds[-1] == "b on 4 simulated GPUs is as fast within the prediction error."
    assert "It is 2.6 % slower, which is within the prediction error: treat the two as equal." in found.runner_up
    assert [name for _, name, _ in found.contest] == ["a", "c"]  # what is level with the winner turns at anything


def test_memory_separates_those_that_are_level() -> None:
    rows = [
        speed("a", 4, 200.0, dram_tensors_peak_bytes=20 * 2**30),
        speed("b", 4, 195.0, dram_tensors_peak_bytes=30 * 2**30),
    ]
    found = answer(rows, 2)
    assert found.runner_up.endswith("as equal. Per device, a needs 20 GiB of memory and b 30 GiB.")
    assert found.why == ()  # what parts of a step differ by is less than they are known to
    apart = [rows[0], speed("b", 4, 100.0, dram_tensors_peak_bytes=30 * 2**30)]
    assert "memory" not in answer(apart, 2).runner_up


def test_winners_by_cost_energy_and_memory_need_not_be_the_fastest() -> None:
    fast = seeds("fast", [1] * 5, gpus=4, energy_j=50.0, samples_seen=3200, dram_tensors_peak_bytes=3 * 2**30)
    slow = seeds("slow", [2] * 5, energy_j=20.0, samples_seen=3200, dram_tensors_peak_bytes=2**20)
    found = answer([*fast, *slow], 10, DevicePrice(3.6, "EUR"))
    assert found.winners == (
        ("time to the target", "fast on 4 CPU cores", "1.00 s"),
        ("cost to the target", "slow on 1 CPU core", "0.00200 EUR"),
        ("energy of a run", "slow on 1 CPU core", "20.0 J"),
        ("counted DRAM of a device", "slow on 1 CPU core", "1 MiB"),
    )
    assert "| cost to the target | slow on 1 CPU core | 0.00200 EUR |" in answer_as_markdown(found)
    assert answer([*fast, *slow], 10).winners[1] == ("device time to the target", "slow on 1 CPU core", "2.00 s")


def test_what_was_not_measured_of_every_strategy_has_no_winner() -> None:
    found = answer([*seeds("a", [1] * 5, energy_j=1.0, samples_seen=10), *seeds("b", [2] * 5)], 10)
    assert [measure for measure, _, _ in found.winners] == ["time to the target", "device time to the target"]


def test_the_ledger_says_what_each_could_choose_from_and_where_the_list_should_be_wider() -> None:
    rows = [*seeds("a", [5] * 5, learning_rate=0.05), *seeds("a", [2] * 5), *seeds("a", [3] * 5, learning_rate=0.2)]
    rows += [*seeds("b", [9] * 5, learning_rate=0.05), *seeds("b", [8] * 5, regime="good")]
    first, second = answer(rows, 25).ledger
    assert (first.strategy, first.rate, first.rates, first.tried, first.edges) == ("a", 0.1, (0.05, 0.1, 0.2), 3, ())
    assert second.edges == (Edge("learning_rate", highest=True, value=0.1),)
    told = "note: b does best at the highest learning rate tried (0.1). Widen the list in [sweep]."
    assert told in answer_as_text(answer(rows, 25))
    assert "Each strategy is ranked at its best setting (settings tried: a 3, b 2)." in answer_as_text(answer(rows, 25))


def test_strategies_at_the_same_edge_are_told_of_together() -> None:
    rows = [r for name in "ab" for r in [*seeds(name, [9] * 5, learning_rate=0.05), *seeds(name, [8] * 5)]]
    (told,) = edges_in_words(answer(rows, 20).ledger)
    assert told == "a and b do best at the highest learning rate tried (0.1). Widen the list in [sweep]."


def test_an_edge_that_is_too_large_already_is_no_reason_to_go_on() -> None:
    rows = [*seeds("b", [9] * 5, learning_rate=0.05), *seeds("b", [8] * 5, regime="oscillating")]
    assert answer(rows, 10).ledger[0].edges == ()


def test_strategies_that_stand_at_different_rates_are_compared_at_one_too() -> None:
    rows = [*seeds("a", [1] * 5, learning_rate=0.3), *seeds("a", [3] * 5), *seeds("b", [2] * 5)]
    rows += [row("b", seed, learning_rate=0.3, **MISSED) for seed in range(5)]
    told = "With learning rate 0.1 for all: b on 1 device takes 2.00 s and a on 1 device takes 3.00 s."
    assert answer(rows, 20).one_rate == told
    assert answer(rows, 20).one_rate_rows == (
        ("b", "1 CPU core", "0.1", "32", "2.00 s", "5 of 5"),
        ("a", "1 CPU core", "0.1", "32", "3.00 s", "5 of 5"),
    )
    level = answer([*seeds("a", [3] * 5), *seeds("b", [2] * 5)], 10)
    assert (level.one_rate, level.one_rate_rows) == ("", ())


def missed_at(rate: float, regime: str, **changes: Any) -> Row:
    return row(
        "async-ps", learning_rate=rate, regime=regime, gpus=16, **MISSED | {"validation_accuracy": 0.3} | changes
    )


WHO = "async-ps on 16 CPU cores"
ALL = "All learning rates tried (0.3 and 1) are"


@pytest.mark.parametrize(
    ("regimes", "advice"),
    [
        (("oscillating", "collapsed"), f"{ALL} too large for {WHO}. Try one below 0.3."),
        (("stuck", "stuck"), f"{ALL} too small for {WHO}. Try one above 1."),
        (
            ("stuck", "slow"),
            f"{WHO} had not got far with learning rate 1 when training ended. That does not tell whether the rate is "
            "too small. Give it more epochs, or try a rate above 1.",
        ),
        (
            ("slow", "collapsed"),
            f"{WHO} had not got far with learning rate 0.3 when training ended. That does not tell whether the rate is "
            "too small. Give it more epochs, or try a rate between 0.3 and 1.",
        ),
        (
            ("stuck", "collapsed"),
            f"No learning rate tried suits {WHO}: 0.3 is too small and 1 is too large. Try one in between.",
        ),
        (
            ("good", "collapsed"),
            f"{WHO} trains steadily with learning rate 0.3, but too briefly. Give it more epochs.",
        ),
    ],
)  # fmt: skip
def test_where_no_rate_did_the_side_on_which_a_good_one_lies_is_told(regimes: tuple[str, str], advice: str) -> None:
    found = answer([missed_at(0.3, regimes[0]), missed_at(1.0, regimes[1])], 2)
    assert found.sentence.startswith("No recommendation: no cell reached the target")
    assert found.try_next == (advice,)
    assert advice in answer_as_text(found)


def test_of_those_that_all_missed_the_most_accurate_came_closest() -> None:
    rows = [missed_at(0.3, "slow"), missed_at(1.0, "slow", validation_accuracy=0.8)]
    assert "learning rate 1) came closest: validation accuracy 0.800" in answer(rows, 2).sentence


def test_splitting_that_pays_says_down_to_how_little_work() -> None:
    # c1 = 3 ms, cN = 1.5 ms, y = 0.3 ms: level at 0.2 times the work
    split = {"gpus": 2, "compute_s": 0.15, "communication_s": 0.03}
    found = answer([*seeds("single", [2] * 5), *seeds("sync-ddp", [1] * 5, **split)], 10)
    assert found.flips == (
        "sync-ddp stays ahead down to 0.2x the work per step. Below that, single on one device is faster.",
    )


def test_from_which_rate_on_training_suffers_is_told_by_devices() -> None:
    shapes = {2: ("slow", "good", "oscillating"), 16: ("slow", "oscillating", "collapsed")}
    rows = [
        row("async-ps", learning_rate=rate, regime=shape, gpus=gpus, **({} if shape == "good" else MISSED))
        for gpus, regimes in shapes.items()
        for rate, shape in zip((0.01, 0.1, 1.0), regimes, strict=True)
    ]
    told = "async-ps becomes unstable at a learning rate of 1 on 2 devices and 0.1 on 16 devices."
    assert answer(rows, 6).too_large == told
    assert told in answer_as_text(answer(rows, 6))
    assert answer(rows[:2], 2).too_large == ""
    # The same curves, but every seed reaches the target: then no rate is called too large.
    assert answer([r | {"status": "ok", "time_to_target_s": 1.0} for r in rows], 6).too_large == ""


def test_a_lead_of_few_seeds_that_did_not_all_get_there_asks_for_a_larger_budget() -> None:
    rows = [*seeds("a", [1, 1]), row("a", 2, **MISSED | {"wall_s": 1.0}), *seeds("b", [2, 2, 2])]
    told = "b on 1 CPU core looks slower (2.00 s), but 3 seeds cannot separate the two. Give runs a larger budget"
    assert told in answer(rows, 6).sentence


def test_a_winner_that_oscillated_is_recommended_with_a_warning() -> None:
    found = answer([*seeds("a", [1] * 3, regime="oscillating"), *seeds("b", [2] * 3, regime="good")], 6)
    told = "The recommended learning rate is close to unstable: the loss oscillated in 3 of 3 seeds."
    assert told in found.caveats
    assert answer(seeds("b", [2] * 3, regime="good"), 3).caveats == ()


def test_of_a_single_strategy_its_settings_are_compared_and_named_by_what_differs() -> None:
    rows = [
        speed("hybrid", 8, rate, options=f'{{"pipeline": {stages}, "x": 1}}', cell_id=f"p{stages}", compute_s=20 / rate)
        for stages, rate in ((2, 100.0), (4, 130.0), (8, 60.0))
    ]
    found = answer(rows, 3)
    assert "Use hybrid on 8 simulated GPUs (global batch 32, pipeline 4)" in found.sentence
    assert found.runner_up.startswith("Runner-up: hybrid on 8 simulated GPUs (global batch 32, pipeline 2)")
    assert "takes 2.00 ms per step; pipeline 4 takes 1.54 ms." in found.why[0]
    assert [name for _, name, _ in found.contest] == ["pipeline 4", "pipeline 2"]
    assert found.winners[0] == ("throughput", "hybrid on 8 simulated GPUs, pipeline 4", "130 samples/s")


def test_speed_alone_does_not_recommend_what_learns_otherwise_without_a_warning() -> None:
    timed = {"time_to_target_s": None, "gpus": 2}
    local = row("local-sgd", throughput_samples_per_s=2000.0, equivalence=None, **timed)
    ddp = row("sync-ddp", throughput_samples_per_s=1500.0, equivalence="single", **timed)
    told = "This ranks speed only, but local-sgd trains differently from single. Set a target in [goal] before you "
    assert f"{told}rely on it." in answer([local, ddp], 2).caveats
    assert answer([ddp], 1).caveats == ()


def test_down_to_how_little_work_splitting_pays_is_told_against_one_device_at_the_same_batch() -> None:
    split = {"gpus": 2, "compute_s": 0.15, "communication_s": 0.03}
    other = seeds("single", [1.5] * 5, global_batch_size=64, compute_s=0.9)
    found = answer([*other, *seeds("single", [2] * 5), *seeds("sync-ddp", [1] * 5, **split)], 15)
    assert "down to 0.2x the work" in found.flips[0]
    assert answer([*other, *seeds("sync-ddp", [1] * 5, **split)], 10).flips == ()


# -- several questions -------------------------------------------------------------------------------------------------

LINK, MODEL = "swept cluster.inter_node", "swept workload.model"


def test_a_link_is_no_choice_and_each_value_has_an_answer_of_its_own() -> None:
    rows = [speed("a", 4, 100.0, **{LINK: "25 Gb/s"}, cell_id="a25"), speed("b", 4, 200.0, **{LINK: "25 Gb/s"})]
    rows += [
        speed("a", 4, 900.0, **{LINK: "nvlink3"}, cell_id="an"),
        speed("b", 4, 300.0, **{LINK: "nvlink3"}, cell_id="bn"),
    ]
    found = answer(rows, 4)
    assert found.kind is Recommendation.EACH
    assert found.headline == "Simulated: There is one answer for each cluster.inter_node."
    assert found.grounds == (
        'cluster.inter_node "25 Gb/s": Use b on 4 simulated GPUs (global batch 32).',
        'cluster.inter_node "nvlink3": Use a on 4 simulated GPUs (global batch 32).',
    )
    assert [case.answer.leader for case in found.cases] == ["b-4-s0", "an"]
    text = answer_as_text(found)
    assert "2.00 times as fast" in text
    assert "9.00 times" not in text  # nobody is compared across links
    assert '### cluster.inter\\_node "nvlink3"' in answer_as_markdown(found)


def test_models_are_different_problems_and_where_all_have_one_answer_it_is_given_once() -> None:
    rows = [
        speed(name, 4, rate * times, **{MODEL: model}, cell_id=f"{name}{model}")
        for model, times in (("mlp", 1), ("softmax", 7))
        for name, rate in (("a", 100.0), ("b", 300.0))
    ]
    found = answer(rows, 4)
    assert found.sentence == (
        "Simulated: Use b on 4 simulated GPUs (global batch 32). The answer is the same for each workload.model."
    )
    assert [measure for measure, _, _ in found.winners[:1]] == ['throughput, workload.model "mlp"']


def test_an_option_that_is_swept_by_its_path_is_a_choice() -> None:
    key = "swept workload.optimizer"
    rows = [speed("a", 4, 100.0, **{key: "sgd"}), speed("a", 4, 200.0, **{key: "adam"}, cell_id="adam")]
    assert answer(rows, 2).cases == ()
    assert answer(rows, 2).leader == "adam"


def test_what_is_level_with_the_winner_is_not_said_to_lose_at_any_bandwidth() -> None:
    found = answer([speed("a", 4, 200.0), speed("b", 4, 195.0)], 2)
    assert found.contrast is not None
    assert found.contrast.verdict is Verdict.PREDICTION
    assert found.contest == ()  # nothing to look for a turning point between


# -- everything diverged -----------------------------------------------------------------------------------------------


def test_where_all_diverged_nobody_trains_the_same_and_the_rates_are_blamed_once() -> None:
    told = {"status": "diverged", "regime": "diverged", "time_to_target_s": None, "trajectory_id": "t"}
    rows = [row(**told), row("sync-ddp", gpus=2, equivalence="single", **told), row("model-split", gpus=2, **told)]
    given = answer(rows, 3)
    assert given.advice == "No recommendation: all 3 runs diverged."
    assert given.exam == given.why == ()
    (advice,) = given.try_next
    assert advice.endswith("single on 1 CPU core and sync-ddp on 2 CPU cores. Try one below 0.1.")
    assert "unstable" not in answer_as_text(given)


def test_where_all_diverged_on_one_model_only_the_other_still_has_its_answer() -> None:
    told = {"status": "diverged", "regime": "diverged", "time_to_target_s": None, MODEL: "mlp"}
    found = answer([row(**told, cell_id="m"), row(**{MODEL: "softmax"}, cell_id="s")], 2)
    assert [case.answer.kind for case in found.cases] == [Recommendation.NONE_REACHED, Recommendation.USE]
    assert found.grounds[0] == 'workload.model "mlp": No recommendation: the only run diverged.'


def test_data_without_a_scale_are_blamed_before_any_rate() -> None:
    told = {"status": "diverged", "regime": "diverged", "time_to_target_s": None}
    large = "column lot has values up to 3e+07"
    given = answer([row(unscaled=large, **told), row("sync-ddp", gpus=2, unscaled=large, **told)], 2)
    assert given.grounds == (f"The data are not scaled: {large}. Scale them before you try other learning rates.",)
    assert given.try_next == ()
    assert "not scaled" not in answer_as_text(answer([row(unscaled=large)], 1))


# -- unequal resources -------------------------------------------------------------------------------------------------

CUT = {"gpus": 2, "pipeline": 2, "equivalence": "single", "time_to_target_s": 0.7}


def test_a_lead_on_a_quieter_machine_is_called_one() -> None:
    quiet = row("sync-ddp", gpus=2, batch_size=16, time_to_target_s=0.7, other_cores=0.1)
    (said,) = answer([row(other_cores=0.9), quiet], 2).caveats
    assert said.startswith(
        "Other processes used 0.900 cores while single on 1 CPU core ran, and 0.100 while sync-ddp on 2"
    )
    assert answer([row(other_cores=0.3), quiet], 2).caveats == ()
    assert answer([row(other_cores=0.1), quiet | {"other_cores": 0.9}], 2).caveats == ()
    level = [*seeds("single", [1.0] * 5, other_cores=0.9), *seeds("sync-ddp", [0.99] * 5, gpus=2, other_cores=0.1)]
    assert answer(level, 10).caveats == ()  # nobody leads


def test_a_pipeline_without_overlap_is_not_faster_by_itself() -> None:
    (said,) = answer([row(), row("model-split", **CUT)], 2).caveats
    assert said.startswith("model-split passes one micro-batch at a time")
    assert answer([row(), row("model-split", **CUT, micro_batch_size=8)], 2).caveats == ()
    (said,) = answer([row(), row("model-split", **CUT | {"time_to_target_s": 1.5})], 2).caveats
    assert "is ranked here with one micro-batch" in said  # slower it may be for that


def test_where_a_loss_is_the_target_the_lowest_came_closest() -> None:
    missed = {"status": "target-missed", "time_to_target_s": None, "target_loss": 0.5}
    better = row(**missed, validation_loss=0.6, validation_accuracy=0.7)
    worse = row("sync-ddp", gpus=2, **missed, validation_loss=0.9, validation_accuracy=0.9)
    (ground,) = answer([worse, better], 2).grounds
    assert ground.startswith("single on 1 CPU core")
    assert "came closest: validation loss 0.6 (1 seed)" in ground
