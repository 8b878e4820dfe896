"""Pipeline tables in time, against closed forms whose sources stand beside the code."""

from __future__ import annotations

import time
from itertools import groupby, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Action
from harness.api.schedules import find_schedule, gpipe, interleaved, one_forward_one_backward, zb_1p, zb_2p
from harness.costs.steps.table_time import PipelineTimes, StageTimes, pipeline_cost

WHOLE = ("naive", "gpipe", "1f1b")
"""Schedules of one stage a device whose backward passes are whole."""

NAMES = (*WHOLE, "interleaved-1f1b", "zb-1p", "zb-2p")


def timed(name: str, stages, microbatches: int, hop=0.0, **options) -> PipelineTimes:
    """Run a schedule by name; `hop` is one figure for all boundaries, or a list of them."""
    schedule, chunks = find_schedule(name)
    table = schedule(len(stages) // chunks, microbatches)
    hops = hop if isinstance(hop, list) else [hop] * len(stages)
    return pipeline_cost(table, [StageTimes(*stage) for stage in stages], hops.__getitem__, **options)


def stages_of(forward, backward):
    return list(zip(forward, backward, strict=True))


SECONDS = st.integers(0, 9)
STAGE = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
STAGES = st.lists(STAGE, min_size=1, max_size=6)


def even(stages, name):
    """Interleaving wants as many stages on every device."""
    return stages + stages if name == "interleaved-1f1b" else stages


# -- closed forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stages", "microbatches", "seconds", "stash"),
    [
        ("gpipe", [(1, 2)] * 4, 8, 33, (8, 8, 8, 8)),
        ("1f1b", [(1, 2)] * 4, 8, 33, (4, 3, 2, 1)),
        ("interleaved-1f1b", [(0.5, 1)] * 8, 8, 28.5, None),
        ("1f1b", [(1, 1, 1)] * 4, 8, 33, (4, 3, 2, 1)),
        ("zb-1p", [(1, 1, 1)] * 4, 8, 27, (4, 4, 4, 4)),
        ("zb-2p", [(1, 1, 1)] * 4, 8, 24, (7, 7, 7, 7)),
        ("gpipe", stages_of((1, 2, 1), (2, 4, 2)), 4, 30, (4, 4, 4)),
        ("1f1b", stages_of((1, 2, 1), (2, 4, 2)), 4, 28, (3, 2, 1)),
        ("gpipe", stages_of((3, 1, 2, 5), (1, 7, 2, 3)), 6, 84, (6, 6, 6, 6)),
        ("1f1b", stages_of((3, 1, 2, 5), (1, 7, 2, 3)), 6, 64, (4, 3, 2, 1)),
        ("naive", stages_of((1, 2, 1), (2, 4, 2)), 4, 48, (1, 1, 1)),
        ("naive", stages_of((3, 1, 2, 5), (1, 7, 2, 3)), 1, 24, (1, 1, 1, 1)),
    ],
)
def test_schedules_take_and_keep_what_the_literature_says(name, stages, microbatches, seconds, stash):
    found = timed(name, stages, microbatches)
    assert found.period_s == seconds
    assert stash in (None, found.stash)
    busy = microbatches * sum(map(sum, stages))
    assert sum(found.busy_s) == busy
    assert found.bubble_fraction == pytest.approx(1 - busy / len(found.busy_s) / seconds, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "stages", "bubble"),
    [
        ("gpipe", [(1, 2)] * 4, 3 / 11),
        ("1f1b", [(1, 2)] * 4, 3 / 11),
        ("interleaved-1f1b", [(0.5, 1)] * 8, 3 / 19),
        ("zb-1p", [(1, 1, 1)] * 4, 1 / 9),
        ("zb-2p", [(1, 1, 1)] * 4, 0),
    ],
)
def test_bubbles_of_four_devices_and_eight_micro_batches(name, stages, bubble):
    assert timed(name, stages, 8).bubble_fraction == pytest.approx(bubble, abs=1e-12)


@given(st.integers(1, 8), st.integers(1, 20), st.integers(1, 9), st.integers(1, 9), st.sampled_from(["gpipe", "1f1b"]))
def test_balanced_pipelines_fill_and_drain_once(ranks, microbatches, forward, backward, name):
    found = timed(name, [(forward, backward)] * ranks, microbatches)
    assert found.makespan_s == found.period_s == (microbatches + ranks - 1) * (forward + backward)
    assert found.bubble_fraction == pytest.approx((ranks - 1) / (microbatches + ranks - 1), abs=1e-12)


@settings(max_examples=60)
@given(STAGES, st.integers(1, 8))
def test_gpipe_follows_its_formula_also_for_unequal_stages(stages, microbatches):
    forward, backward = [f for f, _, _ in stages], [i + w for _, i, w in stages]
    formula = sum(forward) + (microbatches - 1) * max(forward) + sum(backward) + (microbatches - 1) * max(backward)
    assert timed("gpipe", stages, microbatches).makespan_s == formula


@settings(max_examples=60)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
def test_interleaving_divides_the_bubble_by_the_chunks(ranks, groups, chunks, forward, backward):
    microbatches, whole = groups * ranks, chunks * (forward + backward)
    table = interleaved(chunks)(ranks, microbatches)
    found = pipeline_cost(table, [StageTimes(forward, backward)] * (ranks * chunks), lambda k: 0.0)
    assert found.period_s == pytest.approx(microbatches * whole + (ranks - 1) * whole / chunks)
    assert found.bubble_fraction == pytest.approx((ranks - 1) / (chunks * microbatches + ranks - 1), abs=1e-12)


@settings(max_examples=80)
@given(st.integers(1, 7), st.integers(0, 12), st.integers(1, 6), st.integers(0, 5), st.integers(0, 5))
def test_zero_bubble_idles_as_its_formulas_say(ranks, more, weight, forward, inputs):
    # The formulas hold while weights take no longer than the other passes: they fill gaps as long as those.
    stage, microbatches = StageTimes(weight + forward, weight + inputs, weight), 2 * ranks - 1 + more
    idle = [
        pipeline_cost(schedule(ranks, microbatches), [stage] * ranks, lambda k: 0.0).period_s
        - microbatches * sum(stage)
        for schedule in (one_forward_one_backward, zb_1p, zb_2p)
    ]
    both = stage.forward_s + stage.backward_input_s
    assert idle == [(ranks - 1) * (both + weight), (ranks - 1) * (both - weight), (ranks - 1) * (both - 2 * weight)]


@settings(max_examples=80)
@given(STAGES, st.integers(1, 8), st.sampled_from(WHOLE), st.lists(SECONDS, min_size=6, max_size=6))
def test_no_schedule_beats_the_lower_bound_and_none_loses_to_naive(stages, microbatches, name, hops):
    whole = [sum(stage) for stage in stages]
    bound = max(sum(whole[:k]) + microbatches * whole[k] for k in range(len(stages)))
    assert timed("naive", stages, microbatches).makespan_s == microbatches * sum(whole)
    assert bound <= timed(name, stages, microbatches).makespan_s <= microbatches * sum(whole)
    assert bound <= timed(name, stages, microbatches, hops).makespan_s
    assert timed("naive", stages, microbatches, hops).makespan_s == microbatches * (
        sum(whole) + 2 * sum(hops[: len(stages) - 1])
    )


@settings(max_examples=80)
@given(STAGES, st.integers(1, 12), st.sampled_from(["zb-1p", "zb-2p"]))
def test_split_backward_passes_beat_neither_the_first_arrival_nor_the_slowest_device(stages, microbatches, name):
    found = timed(name, stages, microbatches)
    arrivals = [sum(f for f, _, _ in stages[:k]) for k in range(len(stages))]
    assert found.makespan_s >= max(a + microbatches * sum(s) for a, s in zip(arrivals, stages, strict=True))
    assert found.period_s >= microbatches * max(map(sum, stages)) - 1e-9
    assert found.period_s <= found.makespan_s + 1e-9


# -- from step to step -------------------------------------------------------------------------------------------------


def repeated(name, stages, microbatches, steps, hop=0.0):
    """Return the makespan of steps one directly behind the other, as a single long table."""
    schedule, chunks = find_schedule(name)
    once = schedule(len(stages) // chunks, microbatches)
    table = [
        [Action(kind, stage, m + step * microbatches) for step in range(steps) for kind, stage, m in actions]
        for actions in once
    ]
    return pipeline_cost(table, [StageTimes(*stage) for stage in stages], lambda k: hop).makespan_s


@settings(max_examples=60)
@given(STAGES, st.integers(1, 6), st.sampled_from(NAMES), st.integers(0, 4))
def test_steps_in_a_row_take_a_period_each_and_never_more(stages, microbatches, name, hop):
    stages = even(stages, name)
    found = timed(name, stages, microbatches, hop)
    one, two, nine, ten = (repeated(name, stages, microbatches, steps, hop) for steps in (1, 2, 9, 10))
    assert one == found.makespan_s
    assert ten - nine <= found.period_s + 1e-9
    if name not in ("zb-1p", "zb-2p"):
        assert two == pytest.approx(2 * found.period_s)


def test_zero_bubble_steps_tile_although_each_takes_longer():
    assert timed("zb-2p", [(1, 1, 1)] * 4, 8).makespan_s == 27
    assert [repeated("zb-2p", [(1, 1, 1)] * 4, 8, steps) for steps in (1, 2, 3)] == [27, 51, 75]


# -- links -------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(STAGES, st.integers(1, 8), st.lists(SECONDS, min_size=6, max_size=6))
def test_a_link_is_like_a_further_stage_with_the_transfer_time_in_each_direction(stages, microbatches, hops):
    with_links = [stages[0]]
    for stage, hop in zip(stages[1:], hops, strict=False):
        with_links += [(hop, hop), stage]
    found = timed("gpipe", stages, microbatches, hops)
    assert found.makespan_s == timed("gpipe", with_links, microbatches).makespan_s


def test_a_hop_delays_every_crossing_of_a_single_micro_batch():
    for name in WHOLE:
        assert timed(name, [(1, 2)] * 3, 1, 0.5).makespan_s == 9 + 2 * 2 * 0.5


def test_directions_of_a_link_do_not_wait_for_each_other():
    # The first device runs ahead and sends while the gradients of earlier micro-batches come back.
    found = timed("zb-2p", [(1, 1, 1)] * 2, 6, 2.0, tasks=True)
    forth = [t for t in found.tasks if t.device == 0 and t.name.startswith("send activation")]
    back = [t for t in found.tasks if t.device == 1 and t.name.startswith("send gradient")]
    assert any(a.start_s < b.end_s and b.start_s < a.end_s for a in forth for b in back)
    assert found.link_s == (12.0, 12.0)


def test_latency_delays_messages_but_leaves_the_link_free():
    busy = timed("gpipe", [(1, 1)] * 2, 6, 3.0)
    waits = timed("gpipe", [(1, 1)] * 2, 6, 0.0, latency_s=3.0)
    # Alone on the link every message takes 3 s; of six in a row each waits for those before.
    assert waits.makespan_s == 2 * (2 + 5 * 1 + 3)
    assert busy.makespan_s == 2 * (2 + 5 * 3 + 3)


def test_a_device_that_waits_until_its_message_has_left_computes_later():
    hidden = timed("gpipe", [(1, 1)] * 2, 4, 1.0)
    shown = timed("gpipe", [(1, 1)] * 2, 4, 1.0, overlapped=False)
    assert hidden.makespan_s == 2 * (2 + 3 + 1)
    # Each of four passes is followed by its own second on the link before the next one begins.
    assert shown.makespan_s == 2 * (4 * 2 + 1)
    assert shown.exposed_s[0] >= 4.0


def test_messages_that_cost_computing_time_cost_it_at_both_ends():
    assert timed("gpipe", [(1, 2)] * 2, 1, 0.5, message_s=0.25).makespan_s == 6 + 2 * 0.5 + 2 * 0.25
    # The first device pays for four messages out while it still computes, the second for four in.
    found = timed("gpipe", [(1, 1)] * 2, 4, message_s=0.25)
    assert found.makespan_s == pytest.approx(2 * (2 + 0.25 + 3 * 1.25))
    assert found.busy_s == (8, 8)


def test_stages_of_one_device_hand_over_without_a_message():
    table = interleaved(3)(1, 4)
    found = pipeline_cost(table, [StageTimes(1, 2)] * 3, lambda k: 7.0, latency_s=1.0, message_s=1.0, overlapped=False)
    assert (found.makespan_s, found.exposed_s, found.link_s) == (36, (0,), (0,))


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))
def test_two_devices_have_one_link_each_way_whatever_crosses_it(microbatches, seconds, hop):
    # With chunks, activations of one boundary and gradients of another go the same way.
    table = interleaved(2)(2, microbatches)
    found = pipeline_cost(table, [StageTimes(seconds, seconds)] * 4, lambda k: hop, tasks=True)
    for device in (0, 1):
        sends = sorted((t.start_s, t.end_s) for t in found.tasks if t.device == device and t.stream == "communication")
        assert all(end <= start for (_, end), (start, _) in pairwise(sends))


# -- what actions add --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "microbatches", "again"),
    [("none", 4, 0), ("all", 4, 4), ("all-but-last", 4, 3), ("none", 1, 0), ("all", 1, 1), ("all-but-last", 1, 1)],
)
@pytest.mark.parametrize("schedule", [gpipe, zb_1p])
def test_recomputing_adds_a_forward_pass_to_the_backward_passes_of_its_rule(schedule, rule, microbatches, again):
    found = pipeline_cost(schedule(1, microbatches), [StageTimes(1, 2, 3)], lambda k: 0.0, recompute=rule)
    assert found.makespan_s == found.busy_s[0] == microbatches * 6 + again * 1


@settings(max_examples=40)
@given(STAGES, st.integers(1, 6), st.sampled_from(NAMES))
def test_recomputing_everything_is_a_backward_pass_that_is_a_forward_pass_longer(stages, microbatches, name):
    stages = even(stages, name)
    longer = [(f, i + f, w) for f, i, w in stages]
    assert timed(name, stages, microbatches, recompute="all") == timed(name, longer, microbatches)


def test_every_action_adds_its_overhead():
    assert timed("gpipe", [(1, 2)], 3, overhead_s=0.5).makespan_s == 3 * (3 + 2 * 0.5)
    assert timed("zb-1p", [(1, 1, 1)], 3, overhead_s=0.5).makespan_s == 3 * (3 + 3 * 0.5)


# -- invariants --------------------------------------------------------------------------------------------------------

CASES = {"stages": STAGES, "microbatches": st.integers(1, 8), "name": st.sampled_from(NAMES), "hop": st.integers(0, 6)}


@settings(max_examples=60)
@given(**CASES)
def test_parts_are_of_the_period_and_add_up(stages, microbatches, name, hop):
    stages = even(stages, name)
    found = timed(name, stages, microbatches, hop, overlapped=hop % 2 == 0, message_s=hop / 4)
    for busy, exposed, link in zip(found.busy_s, found.exposed_s, found.link_s, strict=True):
        assert 0 <= exposed <= found.period_s - busy + 1e-9
        assert busy <= found.period_s + 1e-9
        assert link <= found.makespan_s
    assert 0 <= found.bubble_fraction < 1
    crossings = 2 * microbatches * (len(stages) - 1) if len(found.busy_s) > 1 else 0
    assert sum(found.link_s) == crossings * hop


@settings(max_examples=60)
@given(**CASES, factor=st.floats(1e-6, 1e6))
def test_all_times_scaled_scale_the_result(stages, microbatches, name, hop, factor):
    stages = even(stages, name)
    found = timed(name, stages, microbatches, hop, latency_s=0.5)
    scaled = timed(
        name, [tuple(factor * s for s in x) for x in stages], microbatches, factor * hop, latency_s=factor / 2
    )
    assert scaled.makespan_s == pytest.approx(factor * found.makespan_s, rel=1e-9)
    assert scaled.period_s == pytest.approx(factor * found.period_s, rel=1e-9)
    assert scaled.bubble_fraction == pytest.approx(found.bubble_fraction, abs=1e-9)


@settings(max_examples=80)
@given(**CASES, where=st.integers(0, 5), what=st.integers(0, 4), less=st.floats(0, 1))
def test_a_faster_link_or_device_never_makes_a_step_longer(stages, microbatches, name, hop, where, what, less):
    stages = even(stages, name)
    hops, latency = [hop] * len(stages), 1.0
    slow = timed(name, stages, microbatches, hops, latency_s=latency)
    at = where % len(stages)
    if what < 3:
        stages = [
            tuple(s * (less if (k, w) == (at, what) else 1) for w, s in enumerate(x)) for k, x in enumerate(stages)
        ]
    elif what == 3:
        hops = [*hops[:at], hop * less, *hops[at + 1 :]]
    else:
        latency = less
    fast = timed(name, stages, microbatches, hops, latency_s=latency)
    assert fast.makespan_s <= slow.makespan_s + 1e-9
    assert fast.period_s <= slow.period_s + 1e-9


@settings(max_examples=40)
@given(**CASES)
def test_without_transfers_nothing_is_exposed_and_without_computing_only_transfers_are_left(
    stages, microbatches, name, hop
):
    stages = even(stages, name)
    assert set(timed(name, stages, microbatches).exposed_s) == {0.0}
    idle = timed("gpipe", [(0, 0)] * len(stages), microbatches, hop)
    crossings = len(stages) - 1 + microbatches - 1 if len(stages) > 1 else 0
    assert idle.makespan_s == 2 * crossings * hop


@settings(max_examples=30)
@given(**CASES)
def test_tasks_fill_streams_without_overlap_and_say_what_the_sums_say(stages, microbatches, name, hop):
    stages = even(stages, name)
    found = timed(name, stages, microbatches, hop, tasks=True)
    assert max(task.end_s for task in found.tasks) == found.makespan_s
    computing = sorted((t for t in found.tasks if t.stream == "compute"), key=lambda t: (t.device, t.start_s))
    for device, tasks in groupby(computing, key=lambda t: t.device):
        own = list(tasks)
        assert all(a.end_s <= b.start_s for a, b in pairwise(own))
        assert sum(t.end_s - t.start_s for t in own) == pytest.approx(found.busy_s[device])
    sent = sum(t.end_s - t.start_s for t in found.tasks if t.stream == "communication")
    assert sent == pytest.approx(sum(found.link_s))


def test_tasks_are_named_after_the_pass_and_the_micro_batch():
    found = timed("zb-1p", [(1, 1, 1)] * 2, 1, 0.5, tasks=True)
    names = [(task.device, task.name, task.start_s, task.end_s) for task in found.tasks]
    assert sorted(names) == [
        (0, "backward input 0", 4.0, 5.0),
        (0, "backward weight 0", 5.0, 6.0),
        (0, "forward 0", 0.0, 1.0),
        (0, "send activation 0", 1.0, 1.5),
        (1, "backward input 0", 2.5, 3.5),
        (1, "backward weight 0", 3.5, 4.5),
        (1, "forward 0", 1.5, 2.5),
        (1, "send gradient 0", 3.5, 4.0),
    ]
    chunked = timed("interleaved-1f1b", [(1, 1)] * 4, 1, tasks=True)
    assert {"forward 0 of stage 3", "backward 0 of stage 0"} <= {task.name for task in chunked.tasks}
    assert timed("1f1b", [(1, 1)] * 2, 2).tasks == ()


# -- tables ------------------------------------------------------------------------------------------------------------


def test_a_schedule_of_ones_own_is_interpreted_like_any_other():
    # Two ranks; the second does both forward passes first.
    table = [
        [Action("forward", 0, 0), Action("forward", 0, 1), Action("backward", 0, 1), Action("backward", 0, 0)],
        [Action("forward", 1, 0), Action("forward", 1, 1), Action("backward", 1, 1), Action("backward", 1, 0)],
    ]
    assert pipeline_cost(table, [StageTimes(1, 2), StageTimes(3, 4)], lambda k: 0.0).makespan_s == 1 + 6 + 8 + 2


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([[Action("backward", 0, 0), Action("forward", 0, 0)]], "backward.*not behind the forward pass"),
        ([[Action("forward", 0, 0)]], "missing"),
        ([[], []], "empty"),
        ([], "empty"),
    ],
)
def test_a_table_that_is_no_step_is_refused(table, words):
    with pytest.raises(ValueError, match=words):
        pipeline_cost(table, [StageTimes(1, 1)], lambda k: 0.0)


def test_64_stages_and_512_micro_batches_take_a_fraction_of_two_seconds():
    start = time.process_time()
    found = timed("1f1b", [(1, 2)] * 64, 512, 0.0)
    taken = time.process_time() - start
    assert found.makespan_s == (512 + 63) * 3
    assert taken < 2  # 0.22 s measured (one shared EPYC core, 2026-11, n = 5)
