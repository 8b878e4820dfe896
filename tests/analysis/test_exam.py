from __future__ import annotations

from typing import Any

import pytest

from harness.analysis.answer import answer, answer_as_text
from harness.analysis.exam import (
    Moment,
    combination_of,
    exams,
    failed,
    failures_in_words,
    not_examined_in_words,
    not_judged_in_words,
    passes_in_words,
    same_model,
)

Row = dict[str, Any]


def row(strategy: str, loss: float | None, seed: int = 0, **changes: Any) -> Row:
    given: Row = {"cell_id": f"{strategy}-{seed}", "strategy": strategy, "engine": "real", "device": "cpu"}
    given |= {"status": "ok", "seed": seed, "gpus": 1 if strategy == "single" else 2, "equivalence": "single"}
    given |= {"validation_loss": loss, "train_loss": loss, "trajectory_id": f"t{seed}", "samples_seen": 3200}
    given |= {"batch_size": 32, "global_batch_size": 32, "learning_rate": 0.1, "time_to_target_s": 2.0, "options": "{}"}
    return given | {"throughput_samples_per_s": 10.0} | changes


def test_rounding_passes_and_is_said_with_its_size() -> None:
    rows = [row("single", 0.25), row("sync-ddp", 0.25 * (1 + 4e-7)), row("fsdp", 0.25)]
    found = exams(rows)
    assert [(exam.strategy, exam.passed, exam.pairs) for exam in found] == [("sync-ddp", True, 1), ("fsdp", True, 1)]
    assert passes_in_words(found, "real") == (
        "single, sync-ddp and fsdp train the same model to 4e-7 (2 pairs of runs). "
        "Choose between them by speed and memory.",
    )


def test_a_gradient_summed_where_it_should_be_averaged_fails_and_is_not_ranked() -> None:
    rows = [row("single", 0.25, s) for s in range(3)]
    rows += [row("wrong", 0.6, s, time_to_target_s=0.5) for s in range(3)]
    assert failed(exams(rows)) == {combination_of(rows[-1])}
    found = answer(rows, 6)
    assert found.sentence.startswith("Use single")
    told = "wrong does not train the same model as single, so it is not ranked. With the same seed and learning rate, "
    assert f"{told}its validation loss differs by 58 % (median; the limit is 5 %)." in answer_as_text(found)


def test_who_fails_is_told_before_who_passes_and_who_makes_no_promise_last() -> None:
    rows = [
        row("single", 0.25, regime="good"),
        row("wrong", 0.6),
        row("fsdp", 0.25),
        row("gossip", 0.3, equivalence=""),
    ]
    found = answer(rows, 4)
    assert found.failed_exam == failures_in_words(exams(rows), "real")
    assert [line.split()[0] for line in (*found.failed_exam, *found.exam, found.no_promise)] == [
        "wrong", "single", "gossip",
    ]  # fmt: skip
    assert found.no_promise == "gossip is not mathematically equivalent to single. Compare their curves."
    both = not_examined_in_words([*rows, row("async-ps", 0.3, equivalence=None)], "real")
    assert both == "gossip and async-ps are not mathematically equivalent to single. Compare their curves."
    assert not_examined_in_words(rows, "virtual") == ""


def test_where_nobody_trains_there_is_no_promise_to_make() -> None:
    assert answer([row("single", None), row("gossip", None, equivalence="")], 2).no_promise == ""


def test_what_was_compared_is_named_and_a_large_difference_has_no_exponent() -> None:
    still = [row("single", 0.25, displacement=0.4), row("wrong", 0.25, displacement=0.0)]
    assert "the distance that its weights move differs by 100 % (median" in failures_in_words(exams(still), "real")[0]
    loss = [row("single", 0.25, validation_loss=None), row("wrong", 0.9, validation_loss=None)]
    assert "its training loss differs by 72 %" in failures_in_words(exams(loss), "real")[0]


def test_one_rate_at_the_edge_of_stability_fails_nobody() -> None:
    rows = [row("single", 0.25, s) for s in range(3)] + [row("fsdp", 0.25, s) for s in range(2)]
    exam = exams([*rows, row("fsdp", 0.5, 2)])[0]
    assert exam.passed
    assert exam.worst == 0.5


def test_only_the_same_trajectory_on_the_same_engine_after_as_many_samples_is_compared() -> None:
    base = row("single", 0.25)
    assert exams([base, row("fsdp", 0.5, trajectory_id="other")]) == []
    assert exams([base, row("fsdp", 0.5, engine="virtual")]) == []
    assert exams([base, row("fsdp", 0.5, samples_seen=1600)]) == []
    assert exams([base, row("async-ps", 0.5, equivalence=None)]) == []
    assert exams([base, row("fsdp", None)]) == []


def test_simulated_ones_share_a_trajectory_by_construction() -> None:
    rows = [row("single", 0.25, engine="virtual"), row("fsdp", 0.25, engine="virtual")]
    assert "single and fsdp train the same model by construction" in passes_in_words(exams(rows), "virtual")[0]


def test_how_far_the_weights_moved_is_compared_before_losses_that_rounding_drives_apart() -> None:
    rows = [row("single", 0.25, displacement=0.400), row("fsdp", 0.27, displacement=0.4004)]
    (exam,) = exams(rows)
    assert exam.worst < 0.0011
    assert passes_in_words([exam], "real")[0].startswith(
        "single and fsdp train the same model up to rounding (relative difference at the end: median 1e-3, worst 1e-3"
    )


def test_one_that_ends_elsewhere_fails_even_if_it_never_ends_after_as_many_samples() -> None:
    rows = [row("single", 0.25, displacement=0.37), row("wrong", 0.25, displacement=0.46, samples_seen=1600)]
    assert failed(exams(rows)) == {combination_of(rows[-1])}
    close = row("fsdp", 0.25, displacement=0.36, samples_seen=1600)
    (exam,) = exams([rows[0], close])
    assert exam.passed
    assert passes_in_words([exam], "real") == ()  # nothing to say of rounding


def test_cells_on_one_device_prove_nothing() -> None:
    assert exams([row("single", 0.25), row("fsdp", 0.25, gpus=1)]) == []


def test_what_cannot_be_the_same_is_named_with_its_cause_and_not_called_rounding() -> None:
    rows = [row("single", 0.25, s, displacement=1.0) for s in range(2)]
    rows += [row("sync-ddp", 0.26, s, displacement=1.08, traits="batch-norm draws") for s in range(2)]
    found = exams(rows)
    assert failed(found) == set()  # 7 % is more than rounding ever is
    (told,) = passes_in_words(found, "real")
    assert told == (
        "sync-ddp trains like single, but not the same: the distance that its weights move differs by 7.4 % "
        "(median; worst 7.4 %; 2 pairs of runs). That is not rounding: BatchNorm normalises by the samples that pass "
        "together on one device and the model draws random numbers, and every device draws its own. "
        "workload.sync_batchnorm = true makes replicas of sync-ddp and fsdp share statistics."
    )
    rows = [row("single", 0.25, displacement=1.0), row("sync-ddp", 0.25, displacement=2.0, traits="draws")]
    assert failed(exams(rows)) == {combination_of(rows[-1])}
    (told,) = failures_in_words(exams(rows), "real")
    assert told.endswith("the limit is 25 %). That is not rounding: the model draws random numbers, and every device "
                         "draws its own.")  # fmt: skip


# -- each combination by itself ----------------------------------------------------------------------------------------


def test_a_combination_that_fails_is_not_hidden_by_those_that_pass() -> None:
    """Nine models in order and one that is wrong: the median over all of them saw nothing."""
    rows = []
    for number in range(10):
        own = {"swept workload.model": f"model{number}", "trajectory_id": f"m{number}", "time_to_target_s": 2.0}
        rows += [row("single", 0.25, displacement=1.0, **own), row("fsdp", 0.25, displacement=1.0, **own)]
    rows[-1] |= {"displacement": 2.0, "cell_id": "wrong"}
    found = exams(rows)
    assert failed(found) == {combination_of(rows[-1])}
    (told,) = failures_in_words(found, "real")
    assert told.startswith(
        'fsdp (on 2 devices, global batch 32, workload.model "model9") does not train the same model'
    )
    assert "Its other combinations pass" in told
    ranked = {r["cell_id"] for r in answer(rows, 20).findings.pool if r["strategy"] == "fsdp"}
    assert "wrong" not in ranked


@pytest.mark.parametrize("column", ["precision", "options", "global_batch_size", "gpus"])
def test_precision_options_batch_and_devices_are_examined_apart(column: str) -> None:
    values = {"precision": ("fp32", "bf16"), "options": ("{}", '{"shard": "all"}'), "global_batch_size": (32, 64),
              "gpus": (2, 4)}[column]  # fmt: skip
    rows = []
    for value, moved in zip(values, (1.0, 2.0), strict=True):
        shared = {"trajectory_id": str(value)} | (
            {column: value} if column in ("precision", "global_batch_size") else {}
        )
        rows.append(row("single", 0.25, displacement=1.0, **shared))
        rows.append(row("fsdp", 0.25, displacement=moved, **(shared | {column: value})))
    assert [exam.passed for exam in exams(rows)] == [True, False]


def test_rounding_that_grows_over_ten_epochs_fails_nobody_and_is_named() -> None:
    """As on a ViT with a large rate: other weights by several percent after ten epochs, not at first."""
    early = {"early_samples": 320}
    rows = [row("single", 0.25, displacement=1.0, early_displacement=0.1, **early)]
    rows.append(row("sync-ddp", 0.30, displacement=1.08, early_displacement=0.1 * (1 + 2e-6), **early))
    (exam,) = exams(rows)
    assert exam.passed
    assert exam.same
    assert exam.grown
    assert passes_in_words([exam], "real")[0].startswith(
        "single and sync-ddp train the same model. Their weights differ by 2e-6 at the first evaluation and up to "
        "7.4 % apart at the end (1 pair of runs): they add numbers in another order, and training magnifies the "
        "rounding."
    )
    rows[1] |= {"early_displacement": 0.1}
    assert "Their weights are equal at the first evaluation and up to 7.4 %" in passes_in_words(exams(rows), "real")[0]


def test_a_wrong_gradient_is_seen_at_the_first_evaluation_though_both_end_alike() -> None:
    early = {"early_samples": 320}
    rows = [row("single", 0.25, displacement=1.0, early_displacement=0.1, **early)]
    rows.append(row("wrong", 0.25, displacement=1.0, early_displacement=0.2, **early))
    assert failed(exams(rows)) == {combination_of(rows[-1])}
    (told,) = failures_in_words(exams(rows), "real")
    assert "differs by 50 % at the first evaluation (median; the limit is 5 %)" in told


def test_first_evaluations_after_other_samples_are_not_compared() -> None:
    rows = [row("single", 0.25, displacement=1.0, early_displacement=0.1, early_samples=320)]
    rows.append(row("fsdp", 0.25, displacement=1.0, early_displacement=0.2, early_samples=640))
    assert exams(rows)[0].moment is Moment.END


def test_what_cannot_be_examined_is_said() -> None:
    rows = [row("single", 0.25), row("fsdp", 0.25), row("sync-ddp", 0.25, trajectory_id="another")]
    found = exams(rows)
    told = not_judged_in_words(rows, found, "real")
    assert told.startswith(
        "Not judged whether sync-ddp trains the same model as single in every combination: single did"
    )
    assert told in answer_as_text(answer(rows, 3))
    assert not_judged_in_words(rows[:2], found, "real") == ""
    assert same_model(found) == {"single-0", "fsdp-0"}  # the other shares no samples with them


def test_two_that_diverged_say_nothing_of_each_other_and_nothing_is_said_of_them() -> None:
    told = {"status": "diverged", "time_to_target_s": None, "early_displacement": 9.0, "early_samples": 320}
    rows = [row("single", 1e9, **told), row("sync-ddp", 3e7, **told)]
    assert exams(rows) == []
    assert not_judged_in_words(rows, [], "real") == ""
    assert failed(exams([rows[0] | {"status": "ok", "early_displacement": 0.1}, rows[1]])) == {combination_of(rows[1])}


def test_each_question_tells_of_its_own_exams_only() -> None:
    rows = []
    for model, moved in (("plain", 1.0), ("odd", 1.08)):
        own = {"swept workload.model": model, "trajectory_id": model, "learning_rate": 0.1}
        traits = {"traits": "draws"} if model == "odd" else {}
        rows.append(row("single", 0.25, displacement=1.0, cell_id=f"s{model}", **own))
        rows.append(row("fsdp", 0.25, displacement=moved, cell_id=f"f{model}", **(own | traits)))
    found = answer(rows, 4)
    assert (found.failed_exam, found.exam) == ((), ())
    assert found.cases[0].answer.exam[0].startswith("single and fsdp train the same model to the last digit (1 pair")
    assert found.cases[1].answer.exam[0].startswith("fsdp trains like single, but not the same")


def test_other_masks_pass_but_share_no_samples() -> None:
    rows = [row("single", 0.25, displacement=1.0), row("fsdp", 0.25, displacement=1.08, traits="draws")]
    (exam,) = exams(rows)
    assert (exam.passed, exam.same) == (True, False)
    assert same_model([exam]) == frozenset()
