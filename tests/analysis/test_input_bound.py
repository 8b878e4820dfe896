"""Who waits for its data is named with what would help; who does not is left alone."""

from __future__ import annotations

import pytest
from answered_rows import row

from harness.analysis.answer import answer, answer_as_text
from harness.analysis.input_bound import LEAST_INPUT_S, LEAST_INPUT_SHARE, input_bound
from harness.analysis.points import points

UPDATES = 100
"""Of the rows."""


@pytest.mark.parametrize(
    ("input_s", "compute_s", "bound"),
    [
        (0.3, 1.0, True),
        (0.2, 1.0, False),  # a sixth of the step
        (3.0, 1.0, True),
        (0.5 * LEAST_INPUT_S * UPDATES, 1e-3, False),  # nearly all of it, but half a millisecond
        (None, 1.0, False),
    ],
)
def test_a_fifth_of_the_step_is_worth_a_word(input_s: float | None, compute_s: float, bound: bool) -> None:
    found = input_bound(points([row(input_s=input_s, compute_s=compute_s)], by_target=False))
    assert bool(found) == bound
    assert all(each.share >= LEAST_INPUT_SHARE for each in found)


def test_the_answer_names_who_loses_most_and_what_helps() -> None:
    two = {"gpus": 2, "batch_size": 16, "compute_s": 1.0}
    rows = [row(input_s=1.0, compute_s=1.0), row("sync-ddp", input_s=3.0, **two), row("fsdp", **two)]
    given = answer(rows, 3)
    assert len(given.input_bound) == 1
    assert given.input_bound[0].startswith("sync-ddp on 2 CPU cores")
    assert "75 % of a step (30.0 ms) on reading its data. So does one other setting." in given.input_bound[0]
    assert "workload.loading.workers" in answer_as_text(given)
    assert answer([row()], 1).input_bound == ()
