from __future__ import annotations

from typing import Any

from harness.analysis.answer import answer, answer_as_text
from harness.analysis.exam import (
    combination_of,
    exams,
    failed,
    failures_in_words,
    not_examined_in_words,
    passes_in_words,
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
