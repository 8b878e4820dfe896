"""Whatever the rows: an answer, never from a cell that failed, never from two engines at once."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.answer import Recommendation, answer, answer_as_markdown, answer_as_text
from harness.analysis.confirmation import FreshSeeds, Ground
from harness.analysis.exam import combination_of, exams, failed
from harness.analysis.loss_shape import SHAPES
from harness.analysis.points import POINT_COLUMNS, has_target, points, ranked_rows
from harness.analysis.ranking import Standing, rank
from harness.analysis.result_findings import findings_of
from harness.analysis.winners import DevicePrice
from harness.core.endings import Status

Row = dict[str, Any]

amount = st.one_of(st.none(), st.floats(0, 1e9), st.just(math.nan))
some = st.one_of(st.none(), st.floats(1e-6, 1e9))


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    count = draw(st.integers(0, 14))
    found = [draw(a_row()) for _ in range(count)]
    return [row | {"cell_id": f"cell-{number}"} for number, row in enumerate(found)]


@st.composite
def a_row(draw: st.DrawFn) -> Row:
    status = draw(st.sampled_from(["ok", "ok", "ok", *Status]))
    row: Row = {
        "strategy": draw(st.sampled_from(["single", "sync-ddp", "async-ps", "x|<b>"])),
        "options": draw(st.sampled_from(["{}", '{"every": 4}'])),
        "synchrony": draw(st.sampled_from(["synchronous", "asynchronous"])),
        "equivalence": draw(st.sampled_from([None, "single"])),
        "engine": draw(st.sampled_from(["real", "virtual"])),
        "device": draw(st.sampled_from(["cpu", "cuda"])),
        "gpus": draw(st.sampled_from([1, 2, 16])),
        "batch_size": 16,
        "micro_batch_size": draw(st.sampled_from([4, 16])),
        "global_batch_size": draw(st.sampled_from([16, 64])),
        "learning_rate": draw(st.sampled_from([0, 0.1, 1.0])),
        "seed": draw(st.integers(0, 3)),
        "status": status,
        "notes": draw(st.sampled_from(["", "queue oversubscribed"])),
        "ranked": draw(st.sampled_from([None, True, False])),
        "regime": draw(st.sampled_from([None, *SHAPES])),
        "trajectory_id": draw(st.sampled_from(["a", "b"])),
        "noisy": draw(st.sampled_from([None, True])),
        "time_to_target_s": draw(some) if status != "target-missed" else None,
        "steps": draw(st.one_of(st.none(), st.integers(0, 500))),
        "throughput_samples_per_s": draw(some),
    }
    keys = ["samples_to_target", "samples_seen", "wall_s", "input_s", "compute_s", "communication_s", "idle_s"]
    keys += ["other_s", "validation_loss", "train_loss", "validation_accuracy", "energy_j", "stated_error"]
    keys += ["dram_tensors_peak_bytes", "dram_allocated_peak_bytes"]
    return row | {key: draw(amount) for key in keys}


@settings(max_examples=80)
@given(rows(), st.sampled_from([None, DevicePrice(2.8, "EUR")]))
def test_any_rows_have_an_answer(found: list[Row], price: DevicePrice | None) -> None:
    told = answer(found, len(found) + 1, price)
    for text in (answer_as_text(told), answer_as_markdown(told)):
        assert text.strip()
        assert "nan" not in text
        assert "inf" not in text.replace("information", "")
        assert "None" not in text
    assert "<b>" not in answer_as_markdown(told)


@settings(max_examples=80)
@given(rows())
def test_what_is_recommended_ended_well_and_is_ranked(found: list[Row]) -> None:
    told = answer(found, len(found))
    by_id = {row["cell_id"]: row for row in found}
    if told.leader is None:
        return
    leader = by_id[told.leader]
    assert leader["status"] == "ok"
    assert leader["ranked"] is not False
    assert combination_of(leader) not in failed(exams(found))
    without = {Recommendation.NONE_REACHED, Recommendation.NO_RESULT, Recommendation.NOTHING_YET}
    assert told.kind not in without
    assert told.simulated == (leader["engine"] == "virtual")
    assert told.sentence.startswith("Simulated: ") == told.simulated
    simulated = [line for line in (told.runner_up, *told.why, told.one_rate) if " simulated " in line]
    assert not simulated or leader["engine"] == "virtual"


@settings(max_examples=60)
@given(rows())
def test_rankings_never_mix_engines_and_run_from_best_to_worst(found: list[Row]) -> None:
    pool = ranked_rows(found)
    assert len({row["engine"] for row in pool}) <= 1
    best = rank(points(pool, has_target(pool))).best
    assert [standing.rank for standing in best] == sorted(standing.rank for standing in best)
    assert len({standing.point.strategy for standing in best}) == len(best)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=8), st.integers(1, 8), st.floats(0.1, 100))
def test_failed_runs_are_paid_for(times: list[float], missed: int, budget: float) -> None:
    head: Row = {"strategy": "a", "engine": "real", "gpus": 1}
    rows = [head | {"status": "ok", "time_to_target_s": time} for time in times]
    lost = [head | {"status": "target-missed", "time_to_target_s": None, "wall_s": budget}] * missed
    (point,) = points([*rows, *lost], by_target=True)
    assert math.isclose(Standing(point).seconds, (sum(times) + missed * budget) / len(times))
    assert Standing(point).rank[0] == (missed > len(times))


@settings(max_examples=60)
@given(rows(), st.data())
def test_any_fresh_seeds_have_an_answer_that_rests_on_them_or_says_why_not(
    found: list[Row], data: st.DataObject
) -> None:
    number = data.draw(st.integers(1, 4))
    asked = FreshSeeds(number)
    picks = [pick for each in findings_of(found, asked).questions for pick in each.confirmation.picks]
    of_point = (*POINT_COLUMNS, "synchrony", "equivalence", "ranked")
    fresh = [
        data.draw(a_row())
        | {key: pick.point.row.get(key) for key in of_point}
        | {"seed": 1000 + place, "cell_id": f"fresh-{which}-{place}", "confirms": True}
        for which, pick in enumerate(picks)
        for place in range(data.draw(st.sampled_from([number, number, number - 1])))
    ]
    told = answer([*found, *fresh], len(found) + len(fresh), None, asked=asked)
    for text in (answer_as_text(told), answer_as_markdown(told)):
        assert "nan" not in text
        assert "inf" not in text.replace("information", "")
        assert "None" not in text
    rests = told.confirmation.ground in (Ground.FRESH, Ground.OVERTURNED)
    assert str(told.leader or "").startswith("fresh") == rests
    if told.findings is not None and told.findings.questions:
        assert told.confirmation.ground is not Ground.SWEEP
        assert told.confirmation.words in answer_as_text(told)
