"""The virtual cluster: who waits for whom and how long, held to closed formulas; and the books it keeps."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from cells import make_cell
from constant_costs import constant_costs
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy

from harness import ANY, SERVER, Layout, Strategy
from harness.core.budget import Budget, Evaluation, Goal, Marks, Referee, target_reached
from harness.core.errors import HarnessError
from harness.core.given_cluster import LinkFigures
from harness.core.outcome import Outcome
from harness.engines.shared.setup import Setup, make_setup
from harness.engines.virtual.prices import Costs

torch = lazy("torch")
virtual_engine = lazy("harness.engines.virtual.engine")

WEIGHT_BYTES = 4 * (64 * 10 + 10)  # softmax on 8 x 8 digits, fp32
GRADIENT_S, APPLY_S, LATENCY_S = 1.0, 0.25, 0.5
LINK = LinkFigures(latency_s=LATENCY_S, bandwidth_bytes_per_s=WEIGHT_BYTES)  # one second for one set of weights


def costs_with(
    gradient_s: float = GRADIENT_S, per_sample_s: float = 0.0, apply_s: float = APPLY_S, link: LinkFigures = LINK
) -> Costs:
    """Return constant costs with some of them changed."""
    return constant_costs(gradient_s, per_sample_s, apply_s, link, WEIGHT_BYTES, "the test")


COSTS = costs_with()
WIRE_S = 1.0
SMALL = {"workload": {"model": "softmax"}, "goal": {"target_accuracy": "none", "max_steps": 6}}


@cache
def setup_of(strategy: str = "single", gpus: int = 1, max_steps: int = 6) -> Setup:
    goal = {"target_accuracy": "none", "max_steps": max_steps}
    changes = SMALL | {"goal": goal, "sweep__strategy": strategy, "sweep__gpus": [gpus]}
    changes["sweep__global_batch_size"] = [60]  # cut evenly over 1 to 6 workers
    return make_setup(make_cell(**changes))


def engine_of(
    work: Any, serve: Any = None, *, workers: int = 2, costs: Costs = COSTS, **kind: Any
) -> virtual_engine.VirtualEngine:
    """Return an engine around programs written in a test."""
    body = {"name": "a-test", "work": work, **kind} | ({"serve": serve} if serve is not None else {})
    setup, servers = setup_of(), int(serve is not None)
    cell = replace(setup.cell, workers=workers, gpus=workers, servers=servers)
    return virtual_engine.build(replace(setup, cell=cell, strategy=type("ATest", (Strategy,), body)()), costs=costs)


def run_programs(work: Any, serve: Any = None, **options: Any) -> Outcome:
    return engine_of(work, serve, **options).run()


def one_batch(worker: Any) -> Any:
    return next(worker.batches())


async def nothing(self, worker):
    """A program that leaves at once."""


# -- messages ----------------------------------------------------------------------------------------------------------


def test_send_waits_for_the_wire_and_never_for_the_receiver():
    times = []

    async def work(self, worker):
        if worker.rank == 0:
            for _ in range(3):
                await worker.send(worker.weights, to=1)
                times.append(engine.cluster.env.now)
        else:
            one_batch(worker)
            await worker.compute(lambda: None)

    engine = engine_of(work)
    engine.run()
    assert times == pytest.approx([WIRE_S, 2 * WIRE_S, 3 * WIRE_S])


def test_a_message_arrives_a_latency_after_its_last_byte():
    times = []

    async def work(self, worker):
        if worker.rank == 0:
            await worker.send(worker.weights, to=1)
        else:
            assert (await worker.receive(0)).source == 0
            times.append(engine.cluster.env.now)

    engine = engine_of(work)
    engine.run()
    assert times == pytest.approx([WIRE_S + LATENCY_S])


def test_two_senders_share_the_receivers_interface():
    times = []

    async def work(self, worker):
        if worker.rank < 2:
            await worker.send(worker.weights, to=2)
        else:
            for _ in range(2):
                await worker.receive()
                times.append(engine.cluster.env.now)

    engine = engine_of(work, workers=3)
    engine.run()
    assert times == pytest.approx([WIRE_S + LATENCY_S, 2 * WIRE_S + LATENCY_S])


def test_receive_from_a_source_leaves_earlier_messages_of_others_for_later():
    seen = []

    async def work(self, worker):
        if worker.rank == 0:
            await worker.send("early", to=2)
        elif worker.rank == 1:
            await worker.send(worker.weights, to=0)  # occupies the interface for a second
            await worker.send("late", to=2)
        else:
            seen.append((await worker.receive(1)).value)
            seen.append((await worker.receive()).value)

    run_programs(work, workers=3)
    assert seen == ["late", "early"]


def test_receives_started_together_are_answered_in_the_order_in_which_they_were_called():
    seen = []

    async def work(self, worker):
        if worker.rank < 2:
            if worker.rank == 0:
                await worker.load(worker.weights)  # a second late
            await worker.send(worker.rank, to=2)
        else:
            first, second = worker.receive(0), worker.receive(1)
            seen.append((await second).value)
            seen.append((await first).value)

    run_programs(work, workers=3)
    assert seen == [1, 0]


def test_plain_values_cross_as_they_would_between_processes():
    seen = []

    async def work(self, worker):
        if worker.rank == 0:
            sent = {"pair": (1, 2)}
            await worker.send(sent, to=1)
            sent["pair"] = None
        else:
            seen.append((await worker.receive(0)).value)

    run_programs(work)
    assert seen == [{"pair": [1, 2]}]


def test_what_cannot_cross_between_processes_is_refused_here_too():
    async def work(self, worker):
        await worker.send(object(), to=1 - worker.rank)

    with pytest.raises(virtual_engine.Crash) as crash:
        run_programs(work)
    assert isinstance(crash.value.__cause__, TypeError)


def test_receive_answers_none_when_nobody_is_left_to_send():
    seen = []

    async def serve(self, server):
        while message := await server.receive():
            seen.append(message.source)
        seen.append("nobody left")

    async def work(self, worker):
        await worker.send(None, to=SERVER)

    run_programs(work, serve, workers=3)
    assert seen == [0, 1, 2, "nobody left"]


def test_receive_from_one_that_has_left_answers_none_after_its_messages():
    seen = []

    async def serve(self, server):
        seen.append(await server.receive(0))
        seen.append(await server.receive(0))
        seen.append(server.workers)
        seen.append((await server.receive(1)).value)

    async def work(self, worker):
        if worker.rank == 0:
            await worker.send("last words", to=SERVER)
        else:
            await worker.send(worker.weights, to=0)
            await worker.send("still here", to=SERVER)

    run_programs(work, serve)
    assert seen == [(0, "last words"), None, (1,), "still here"]


def test_one_that_has_left_counts_as_there_until_its_messages_are_taken():
    seen = []

    async def serve(self, server):
        await server.load(server.weights)  # meanwhile everything has arrived
        while await server.receive():
            seen.append(server.workers)
        seen.append(server.workers)

    async def work(self, worker):
        await worker.send(1, to=SERVER)
        await worker.send(2, to=SERVER)

    run_programs(work, serve, workers=1)
    assert seen == [(0,), (0,), ()]


def test_leavers_are_messages_without_a_value_where_asked_for():
    seen = []

    async def serve(self, server):
        while message := await server.receive(ANY, leavers=True):
            seen.append((message.source, message.value))

    async def work(self, worker):
        await worker.send(worker.rank + 10, to=SERVER)

    run_programs(work, serve)
    assert sorted(seen, key=str) == [(0, 10), (0, None), (1, 11), (1, None)]
    assert all(seen.index((rank, rank + 10)) < seen.index((rank, None)) for rank in (0, 1))


def test_arrived_returns_what_is_here_without_waiting():
    seen = []

    async def serve(self, server):
        seen.extend(["before", [m.value for m in server.arrived()]])
        await server.receive(1)  # comes last, a second later than the other two
        seen.extend(["after", [m.value for m in server.arrived()]])

    async def work(self, worker):
        if worker.rank == 0:
            await worker.send(1, to=SERVER)
            await worker.send(2, to=SERVER)
        else:
            await worker.load(worker.weights)
            await worker.send(3, to=SERVER)

    run_programs(work, serve)
    assert seen == ["before", [], "after", [1, 2]]


def test_a_wait_for_each_other_is_a_deadlock_in_words():
    async def work(self, worker):
        one_batch(worker)
        await worker.receive(1 - worker.rank)

    with pytest.raises(
        virtual_engine.Deadlock,
        match=r"worker 0 waits in receive\(1\) from 0 s on; worker 1 waits in receive\(0\) from",
    ):
        run_programs(work)


def test_a_mean_that_one_worker_never_joins_is_a_deadlock():
    async def work(self, worker):
        gradient = await worker.gradient(one_batch(worker))
        if worker.rank == 0:
            await worker.mean(gradient)

    with pytest.raises(virtual_engine.Deadlock, match=r"worker 0 waits in mean\(\) from 1 s on"):
        run_programs(work)


def test_a_programs_own_exception_is_kept():
    async def work(self, worker):
        raise LookupError("mine")

    with pytest.raises(virtual_engine.Crash, match="worker 0 failed") as crash:
        run_programs(work)
    assert isinstance(crash.value.__cause__, LookupError)


# -- means and overlap -------------------------------------------------------------------------------------------------


def test_mean_ends_for_all_when_the_slowest_has_come_and_the_ring_is_done():
    ends, results = [], []

    async def work(self, worker):
        gradient = await worker.gradient(one_batch(worker))
        if worker.rank == 2:
            await worker.load(worker.weights)  # a second late
        results.append(await worker.mean(gradient))
        ends.append(engine.cluster.env.now)

    engine = engine_of(work, workers=3)
    engine.run()
    ring = 2 * (3 - 1) * (LATENCY_S + WIRE_S / 3)
    assert ends == pytest.approx([GRADIENT_S + 1.0 + ring] * 3)
    assert results[0] is results[1] is results[2]
    assert results[0].num_samples == 60


def test_mean_by_samples_weights_each_value():
    results = []

    async def work(self, worker):
        value = worker.weights * (worker.rank + 1)
        value.num_samples = (1, 3)[worker.rank]
        results.append(((await worker.mean(value, by_samples=True)).tensor(), worker.weights.tensor()))

    run_programs(work)
    mean, weights = results[0]
    torch.testing.assert_close(mean, weights * (1 * 1 + 2 * 3) / 4)


def test_a_word_started_before_another_overlaps_with_it():
    ring = 2 * (LATENCY_S + WIRE_S / 2)
    ends = {}

    def program(hot):
        async def work(self, worker):
            batches = worker.batches()
            gradient = await worker.gradient(next(batches))
            pending = worker.mean(gradient)
            if not hot:
                await pending
            await worker.gradient(next(batches))
            if hot:
                await pending
            ends[hot] = engine.cluster.env.now

        return work

    for hot in (False, True):
        engine = engine_of(program(hot))
        engine.run()
    assert ends[False] == pytest.approx(GRADIENT_S + ring + GRADIENT_S)
    assert ends[True] == pytest.approx(GRADIENT_S + max(ring, GRADIENT_S))


def test_words_of_one_device_run_one_after_another_however_they_are_started():
    async def work(self, worker):
        batches = worker.batches()
        started = [worker.gradient(next(batches)) for _ in range(3)]
        for word in started:
            await word

    engine = engine_of(work, workers=1)
    engine.run()
    assert engine.cluster.env.now == pytest.approx(3 * GRADIENT_S)


@pytest.mark.parametrize("awaited_first", ["mean", "gradient"])
def test_overlapped_exchange_is_not_counted_beside_the_computing_that_hides_it(awaited_first):
    """The parts are means without overlap: they may not add up to more than the time that passed."""

    async def work(self, worker):
        batches = worker.batches()
        pending, ahead = worker.mean(await worker.gradient(next(batches))), worker.gradient(next(batches))
        for word in (pending, ahead) if awaited_first == "mean" else (ahead, pending):
            await word
        ends.append(engine.cluster.env.now)

    ends = []
    engine = engine_of(work)
    outcome = engine.run()
    ring = 2 * (LATENCY_S + WIRE_S / 2)
    mine = [k for k, worker in enumerate(outcome.steps["worker"]) if worker == 0]
    total = {part: sum(outcome.steps[part][k] for k in mine) for part in ("compute_s", "communication_s", "idle_s")}
    assert total["compute_s"] == pytest.approx(2 * GRADIENT_S)
    assert total["communication_s"] == pytest.approx(ring - GRADIENT_S)
    assert sum(total.values()) == pytest.approx(ends[0])


def test_waiting_for_a_later_worker_is_idle_and_the_exchange_is_communication():
    async def work(self, worker):
        gradient = await worker.gradient(one_batch(worker))
        if worker.rank == 1:
            await worker.load(worker.weights)
        await worker.mean(gradient)

    steps = run_programs(work).steps
    ring = 2 * (LATENCY_S + WIRE_S / 2)
    assert steps["idle_s"] == pytest.approx([1.0, 0.0])
    assert steps["communication_s"] == pytest.approx([ring, 1.0 + ring])


def test_words_never_awaited_are_counted_with_their_place():
    async def work(self, worker):
        worker.send(worker.weights, to=1 - worker.rank)

    unawaited = run_programs(work).unawaited
    (place,) = unawaited
    assert place.startswith(f"send ({__file__}:")
    assert unawaited[place] == 2


def test_a_word_used_as_a_value_says_that_an_await_is_missing():
    async def work(self, worker):
        worker.gradient(one_batch(worker)) * 2

    with pytest.raises(virtual_engine.Crash) as crash:
        run_programs(work)
    assert f"{__file__}:" in str(crash.value.__cause__)
    assert "gradient(...) is used before it is awaited" in str(crash.value.__cause__)


def test_an_awaitable_that_is_no_word_is_refused_with_its_place():
    class Foreign:
        def __await__(self):
            yield self

    async def work(self, worker):
        await Foreign()

    with pytest.raises(virtual_engine.Crash) as crash:
        run_programs(work)
    assert isinstance(crash.value.__cause__, HarnessError)
    assert f"{__file__}:" in str(crash.value.__cause__)
    assert "awaited Foreign, which is not a word of Worker or Server" in str(crash.value.__cause__)


# -- formulas, with the values that they give for small examples typed in ---------------------------------------------


def test_ring_all_reduce_follows_its_formula():
    costs = costs_with(link=LinkFigures(latency_s=5e-6, bandwidth_bytes_per_s=10e9))
    assert costs.mean_s(4, Layout(), 100e6, 1.0) == pytest.approx(15.030e-3)
    assert costs.mean_s(1, Layout(), 100e6, 1.0) == 0.0
    assert costs.step(Layout(data=4), 32, 32).bytes_sent == pytest.approx(1.5 * WEIGHT_BYTES)


def test_accumulation_pays_the_fixed_cost_once_a_piece():
    costs = costs_with(gradient_s=1.0, per_sample_s=0.5)
    assert costs.step(Layout(), 32, 8).compute_s == pytest.approx(4 * 1.0 + 32 * 0.5)


# -- asynchrony --------------------------------------------------------------------------------------------------------


def run_async(workers: int, max_steps: int, costs: Costs = COSTS) -> Outcome:
    return virtual_engine.build(setup_of("async-ps", workers, max_steps), costs=costs).run()


def test_equal_workers_take_turns_and_staleness_is_workers_minus_one():
    fast = costs_with(apply_s=0.0, link=LinkFigures(latency_s=0.0, bandwidth_bytes_per_s=1e15))
    log = run_async(4, 40, fast).updates_log
    assert log["staleness"] == [0, 1, 2] + [3] * 37
    assert log["worker"] == [0, 1, 2, 3] * 10


def test_constant_times_give_the_rate_of_the_closed_queue():
    """t_c = 0.1 s, t_s = 0.02 s: 33.3 gradients a second with 4 workers, at most 50 with 8."""
    costs = costs_with(gradient_s=0.1, apply_s=0.02, link=LinkFigures(latency_s=0.0, bandwidth_bytes_per_s=1e15))
    for workers, rate in ((1, 8.333333), (2, 16.666667), (4, 33.333333), (8, 50.0)):
        times = run_async(workers, 60, costs).updates_log["time_s"]
        assert 40 / (times[59] - times[19]) == pytest.approx(rate, rel=1e-6)


@settings(max_examples=8)
@given(workers=st.integers(1, 7), max_steps=st.integers(1, 24), latency=st.sampled_from([0.0, 0.3, 5.0]))
def test_an_asynchronous_runs_books_balance(workers, max_steps, latency):
    costs = costs_with(link=LinkFigures(latency_s=latency, bandwidth_bytes_per_s=WEIGHT_BYTES * 8))
    outcome = run_async(workers, max_steps, costs)
    log = outcome.updates_log
    assert outcome.updates == len(log["update"]) == max_steps
    assert outcome.samples == sum(log["samples"])
    assert log["update"] == list(range(1, max_steps + 1))
    assert len(set(zip(log["worker"], log["step"], strict=True))) == max_steps
    assert log["time_s"] == sorted(log["time_s"])
    last = dict(zip(log["worker"], log["update"], strict=True))
    in_flight = sum(max_steps - last.get(worker, 0) for worker in range(workers))
    assert sum(log["staleness"]) + in_flight == (workers - 1) * max_steps


@settings(max_examples=6)
@given(workers=st.integers(1, 6), strategy=st.sampled_from(["sync-ps", "local-sgd"]))
def test_every_second_of_every_worker_is_in_one_part(workers, strategy):
    outcome = virtual_engine.build(setup_of(strategy, workers, 9), costs=COSTS).run()
    for worker in range(workers):
        rows = [k for k, w in enumerate(outcome.steps["worker"]) if w == worker]
        parts = [
            sum(outcome.steps[part][k] for part in ("input_s", "compute_s", "communication_s", "idle_s")) for k in rows
        ]
        starts = [outcome.steps["start_s"][k] for k in rows]
        assert [b - a for a, b in itertools.pairwise(starts)] == pytest.approx(parts[:-1])
    assert sum(outcome.steps["samples"]) == outcome.samples


@pytest.mark.parametrize("strategy", ["sync-ps", "async-ps", "local-sgd"])
def test_the_same_cell_gives_the_same_run_twice(strategy):
    first, second = (virtual_engine.build(setup_of(strategy, 3, 20), costs=COSTS).run() for _ in range(2))
    assert torch.equal(first.weights, second.weights)
    assert (first.training_s, first.updates_log, first.steps) == (second.training_s, second.updates_log, second.steps)
    assert first.deliveries == second.deliveries


def test_all_times_scale_with_all_costs():
    slower = costs_with(3 * GRADIENT_S, apply_s=3 * APPLY_S, link=LinkFigures(3 * LATENCY_S, WEIGHT_BYTES / 3))
    one, three = run_async(3, 20), run_async(3, 20, slower)
    assert three.training_s == pytest.approx(3 * one.training_s)
    assert three.updates_log["staleness"] == one.updates_log["staleness"]


def test_a_faster_link_never_makes_a_step_longer():
    times = []
    for factor in (1, 2, 8, 1e9):
        link = LinkFigures(LATENCY_S / factor, WEIGHT_BYTES * factor)
        times.append(virtual_engine.build(setup_of("sync-ps", 3, 8), costs=costs_with(link=link)).run().training_s)
    assert times == sorted(times, reverse=True)
    assert times[-1] == pytest.approx(8 * (GRADIENT_S + APPLY_S))


# -- budgets, marks, the referee ---------------------------------------------------------------------------------------

GOAL = Goal(evaluate_every="0.25 epoch", target_accuracy=0.9)


def at(samples: int, accuracy: float | None, loss: float | None = 1.0, time_s: float = 0.0) -> Evaluation:
    return Evaluation(samples, samples // 32, time_s, loss, accuracy)


def test_budget_ends_at_whichever_limit_comes_first():
    budget = Budget.of(replace(GOAL, max_epochs=2, max_steps=5), 100)
    assert (budget.max_samples, budget.evaluate_every) == (200, 25)
    assert not budget.spent(199, 4)
    assert budget.spent(200, 4)
    assert budget.spent(10, 5)


def test_budget_without_evaluations_still_has_marks():
    budget = Budget.of(replace(GOAL, evaluate_every=None, target_accuracy=None), 100)
    assert (budget.evaluates, budget.has_target, budget.evaluate_every) == (False, False, 25)


def test_marks_come_at_the_first_moment_at_or_after_each_multiple():
    marks = Marks(every=100)
    assert [n for n in range(32, 500, 32) if marks.reached(n)] == [128, 224, 320, 416]


def test_marks_that_were_jumped_over_are_one_mark():
    marks = Marks(every=10)
    assert marks.reached(35)
    assert not marks.reached(39)
    assert marks.reached(40)


def test_target_is_reached_at_the_first_of_two_evaluations_in_a_row():
    budget = Budget.of(GOAL, 100)
    seen = [at(25, 0.95), at(50, 0.8), at(75, 0.91)]
    assert target_reached(seen, budget) is None
    assert target_reached([*seen, at(100, 0.9)], budget).samples == 75


def test_target_in_both_accuracy_and_loss_asks_for_both():
    budget = Budget.of(replace(GOAL, target_loss=0.5), 100)
    assert not budget.met_by(at(25, 0.95, loss=0.6))
    assert budget.met_by(at(25, 0.95, loss=0.5))


def test_referee_prefers_divergence_to_the_target_and_the_target_to_seconds():
    budget = Budget.of(replace(GOAL, max_seconds=10.0), 100)
    referee = Referee(budget)
    assert referee.judge(at(25, 0.95, time_s=1.0)) is None
    assert referee.judge(at(50, 0.95, time_s=11.0)) == "target"
    assert referee.judge(at(75, 0.1, loss=math.nan, time_s=12.0)) == "diverged"
    assert Referee(budget).judge(at(25, 0.95), finite=False) == "diverged"
    assert Referee(budget).judge(at(25, 0.2, time_s=10.0)) == "seconds"
