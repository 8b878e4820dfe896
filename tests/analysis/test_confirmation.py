"""Seeds that did not choose: when the answer rests on them, and what it says then."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from answered_rows import Row, row

from harness.analysis.answer import Recommendation, answer, answer_as_text
from harness.analysis.confidence import recommended_first
from harness.analysis.confirmation import FreshSeeds, Ground
from harness.analysis.result_findings import findings_of

SEEDS = 5
FRESH = range(1000, 1000 + SEEDS)
SPREAD = (0.98, 1.01, 0.99, 1.02, 1.0)


def runs(strategy: str, seconds: float, seeds: Any = range(SEEDS), **changes: Any) -> list[Row]:
    """Return runs that reach the target about then, each with samples of its own."""
    confirms = {"confirms": True} if seeds is FRESH else {}
    return [
        row(
            strategy,
            seed,
            cell_id=f"{strategy}-{changes.get('learning_rate', 0.1)}-s{seed}",
            time_to_target_s=seconds * spread,
            samples_to_target=int(3200 * seconds * spread),
            **{**confirms, **changes},
        )
        for seed, spread in zip(seeds, SPREAD, strict=False)
    ]


def sweep() -> list[Row]:
    """Return a sweep that local-sgd wins, ahead of async-ps and of single."""
    return [*runs("local-sgd", 1.0, gpus=2), *runs("async-ps", 1.3, gpus=2), *runs("single", 1.9)]


def told(rows: list[Row], number: int = SEEDS, **changes: Any) -> Any:
    return answer(rows, len(rows), asked=FreshSeeds(number, **changes))


def test_an_answer_that_nobody_confirms_rests_on_the_sweep() -> None:
    found = told(sweep(), 0)
    assert found.confirmation.ground is Ground.SWEEP
    assert not found.confirmation.words
    assert found == answer(sweep(), len(sweep()))


def test_until_all_fresh_seeds_have_run_the_answer_rests_on_those_that_chose() -> None:
    some = [*runs("local-sgd", 1.2, FRESH, gpus=2), *runs("async-ps", 1.3, FRESH, gpus=2)[:3]]
    found = told([*sweep(), *some])
    assert found.confirmation.ground is Ground.PENDING
    assert (found.confirmation.done, found.confirmation.of) == (8, 10)
    assert found.sentence == told(sweep(), 0).sentence
    assert "Not confirmed yet: 8 of 10 runs with fresh seeds have ended." in answer_as_text(found)


def test_what_fresh_seeds_bear_out_is_said_with_their_times_alone() -> None:
    """The sweep's best was lucky: 1.0 s in the sweep, 1.2 s with seeds that had no part in the choice."""
    fresh = [*runs("local-sgd", 1.2, FRESH, gpus=2), *runs("async-ps", 1.5, FRESH, gpus=2)]
    found = told([*sweep(), *fresh])
    assert found.confirmation.ground is Ground.FRESH
    assert found.confirmation.seeds == tuple(FRESH)
    assert found.advice.startswith("Use local-sgd on 2 CPU cores")
    assert "It reaches the target in 1.20 s (mean of 5 seeds, 95 % interval" in found.grounds[0]
    assert found.grounds[1] == "This rests on 5 fresh seeds (1000-1004), which had no part in the choice."
    assert "1.50 s" in found.runner_up
    assert str(found.leader).startswith("local-sgd-0.1-s100")


def test_the_best_of_many_settings_is_not_widened_once_fresh_seeds_speak() -> None:
    """Nine rates lend the picked one luck, which its interval allows for; fresh seeds owe none."""
    rates = [each for place in range(2, 10) for each in runs("local-sgd", 1.0 + place / 50, gpus=2,
             learning_rate=place / 10)]  # fmt: skip
    rows = [*sweep(), *rates]
    assert "for the best of 9 settings" in told(rows, 0).grounds[0]
    fresh = [*runs("local-sgd", 1.0, FRESH, gpus=2), *runs("async-ps", 1.3, FRESH, gpus=2)]
    found = told([*rows, *fresh])
    assert found.confirmation.ground is Ground.FRESH
    assert "for the best of" not in found.grounds[0]


def test_fresh_seeds_that_put_the_runner_up_first_overturn_the_sweep() -> None:
    fresh = [*runs("local-sgd", 2.0, FRESH, gpus=2), *runs("async-ps", 1.3, FRESH, gpus=2)]
    found = told([*sweep(), *fresh])
    assert found.confirmation.ground is Ground.OVERTURNED
    assert found.advice.startswith("Use async-ps on 2 CPU cores")
    assert found.grounds[1] == (
        "The sweep had put local-sgd first; 5 fresh seeds (1000-1004), which had no part in that, put async-ps first."
    )


def test_fresh_seeds_of_which_none_got_there_leave_nothing_to_recommend() -> None:
    missed = {"status": "target-missed", "gpus": 2}
    fresh = [*runs("local-sgd", 2.0, FRESH, **missed), *runs("async-ps", 1.3, FRESH, **missed)]
    fresh = [each | {"time_to_target_s": None, "samples_to_target": None} for each in fresh]
    found = told([*sweep(), *fresh])
    assert found.confirmation.ground is Ground.FAILED
    assert found.kind is Recommendation.NONE_REACHED
    assert found.grounds[0] == "0 of 5 fresh seeds (1000-1004) got there with what the sweep had picked."


def test_strategies_that_did_not_run_again_keep_what_the_sweep_says_of_them() -> None:
    missed = {"status": "target-missed", "time_to_target_s": None, "samples_to_target": None}
    third = [each | missed for each in runs("softsync", 9.0, gpus=2)]
    fresh = [*runs("local-sgd", 1.2, FRESH, gpus=2), *runs("async-ps", 1.5, FRESH, gpus=2)]
    found = told([*sweep(), *third, *fresh])
    assert any("softsync" in line and "0 of 5 seeds" in line for line in found.why)


def test_the_fastest_is_looked_for_among_those_that_ran_again() -> None:
    """Else the sweep's third, lucky too, would be called faster than what the headline recommends."""
    third = runs("softsync", 1.4, gpus=2)
    fresh = [*runs("local-sgd", 1.6, FRESH, gpus=2), *runs("async-ps", 1.9, FRESH, gpus=2)]
    found = told([*sweep(), *third, *fresh])
    assert found.winners[0][:2] == ("time to the target", "local-sgd on 2 CPU cores")


def test_one_strategy_alone_is_confirmed_alone() -> None:
    found = told([*runs("single", 1.0), *runs("single", 1.1, FRESH)])
    assert found.confirmation.ground is Ground.FRESH
    assert found.confirmation.of == SEEDS
    assert "reaches the target in 1.10 s" in found.grounds[0]


def test_whoever_never_got_there_does_not_run_again() -> None:
    missed = {"status": "target-missed", "time_to_target_s": None, "samples_to_target": None}
    rows = [*runs("single", 1.0), *(each | missed for each in runs("local-sgd", 1.0, gpus=2))]
    (question,) = findings_of(rows, FreshSeeds(SEEDS)).questions
    assert [pick.point.strategy for pick in question.confirmation.picks] == ["single"]


def test_where_nobody_got_there_nothing_can_be_confirmed() -> None:
    missed = {"status": "target-missed", "time_to_target_s": None, "samples_to_target": None}
    found = told([each | missed for each in sweep()])
    assert found.confirmation.ground is Ground.NOTHING
    assert "Nothing to confirm: no setting got there with half of its seeds." in found.caveats


def test_what_every_seed_ends_alike_needs_no_confirming() -> None:
    rows = [each | {"engine": "virtual"} for each in sweep()]
    found = told(rows, needless=frozenset(each["cell_id"] for each in rows))
    assert found.confirmation.ground is Ground.NEEDLESS
    assert "Nothing needs confirming: simulated speed is the same with every seed." in found.caveats


def test_fresh_seeds_choose_nothing() -> None:
    """However fast they are: neither settings nor the exam may know them."""
    fresh = [*runs("single", 0.1, FRESH), *runs("local-sgd", 1.2, FRESH, gpus=2)]
    found = findings_of([*sweep(), *fresh], FreshSeeds(SEEDS))
    assert found.pool == findings_of(sweep()).pool
    assert found.exams == findings_of(sweep()).exams
    (question,) = found.questions
    assert [pick.point.strategy for pick in question.confirmation.picks] == ["local-sgd", "async-ps"]
    assert question.confirmation.ground is Ground.PENDING


def test_each_of_several_questions_is_confirmed_by_itself() -> None:
    links = [{"swept cluster.inter_node": link} for link in ("25 Gb/s", "100 Gb/s")]
    rows = [each | link | {"cell_id": f"{each['cell_id']}-{number}"} for number, link in enumerate(links)
            for each in sweep()]  # fmt: skip
    fresh = [*runs("local-sgd", 1.2, FRESH, gpus=2), *runs("async-ps", 1.5, FRESH, gpus=2)]
    found = told([*rows, *(each | links[0] for each in fresh)])
    assert [case.answer.confirmation.ground for case in found.cases] == [Ground.FRESH, Ground.PENDING]
    both = told([*rows, *(each | link for link in links for each in fresh)])
    assert "This rests on 5 fresh seeds (1000-1004), which had no part in the choice." in both.grounds


@pytest.mark.parametrize("number", [1, 2])
def test_few_fresh_seeds_say_how_many_more_would_give_an_interval(number: int) -> None:
    fresh = [each for each in runs("single", 1.1, FRESH) if each["seed"] < 1000 + number]
    found = told([*runs("single", 1.0), *fresh], number)
    assert "confirm with 5 fresh seeds to get a confidence interval" in found.grounds[0]


def test_the_best_of_nine_equals_looks_faster_than_it_is_and_fresh_seeds_say_what_it_is() -> None:
    """All take 1 s, with 14 % of noise: the best of nine means over five seeds is 6 % too fast."""
    random, swept, fresh = np.random.default_rng(0), [], []
    for _ in range(60):
        rates = [place / 10 for place in range(1, 10)]
        rows = [noisy(random, rate, seed) for rate in rates for seed in range(SEEDS)]
        (pick,) = findings_of(rows, FreshSeeds(SEEDS)).questions[0].confirmation.picks[:1]
        rows += [noisy(random, rate, seed, confirms=True) for rate in rates for seed in FRESH]
        again = findings_of(rows, FreshSeeds(SEEDS)).questions[0].confirmation.ranking
        assert again is not None
        swept.append(pick.seconds)
        fresh.append(recommended_first(again)[0].seconds)
    assert np.mean(swept) < 0.96
    assert np.mean(fresh) == pytest.approx(1.0, abs=0.025)


def noisy(random: np.random.Generator, rate: float, seed: int, **changes: Any) -> Row:
    seconds = math.exp(random.normal(0, 0.14))
    name = f"local-sgd-{rate}-s{seed}"
    return row("local-sgd", seed, cell_id=name, learning_rate=rate, time_to_target_s=seconds,
               samples_to_target=int(32_000 * seconds), **changes)  # fmt: skip


def test_what_was_picked_stays_first_until_fresh_seeds_certainly_say_otherwise() -> None:
    """Else they would choose too: of two equals each would be put first by half of all fresh seeds."""
    fresh = [*runs("local-sgd", 1.3, FRESH, gpus=2), *runs("async-ps", 1.29, FRESH, gpus=2)]
    found = told([*sweep(), *fresh])
    assert found.confirmation.ground is Ground.FRESH
    assert found.advice.startswith("Use local-sgd on 2 CPU cores")
    assert "It reaches the target in 1.30 s" in found.grounds[0]
    assert "async-ps on 2 CPU cores is as fast: the two are the same within 5 %." in found.grounds


def test_fresh_seeds_that_leave_a_lead_open_recommend_fewer_devices() -> None:
    """More devices are recommended only where they are certainly faster, by whatever seeds."""
    rows = [*runs("local-sgd", 1.0, gpus=2), *runs("single", 1.5)]
    wide = (0.6, 1.5, 0.9, 1.3, 1.0)
    fresh = [each | {"time_to_target_s": 1.4 * spread, "samples_to_target": int(4480 * spread)}
             for each, spread in zip(runs("local-sgd", 1.4, FRESH, gpus=2), wide, strict=True)]  # fmt: skip
    found = told([*rows, *runs("single", 1.5, FRESH), *fresh])
    assert found.confirmation.ground is Ground.OVERTURNED
    assert str(found.leader).startswith("single")
    assert "local-sgd on 2 CPU cores looks faster" in found.sentence
