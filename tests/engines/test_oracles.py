"""Closed-form oracles of asynchrony, stragglers, servers and equal numbers, put to the engine that runs cells.

Programs are the bundled ones, times are injected; gradients are never merged, so that what must come out equal is
computed twice. Everything is seeded.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from cells import make_cell
from constant_costs import constant_costs
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy
from places import TESTS

from harness import SERVER, Strategy
from harness.core.given_cluster import LinkFigures
from harness.core.outcome import Outcome
from harness.engines.shared.setup import Setup, make_setup
from harness.engines.virtual.prices import Costs
from harness.engines.virtual.sizes import Sizes

torch = lazy("torch")
virtual_engine = lazy("harness.engines.virtual.engine")

BOWL = f"{TESTS}/models/bowl.py:bowl"
CURVATURE, CLASSES = 2.0, 10
AT_ONCE = LinkFigures(latency_s=0.0, bandwidth_bytes_per_s=1e30)


def setup_of(strategy: str, workers: int, steps: int, **changes: Any) -> Setup:
    """Return a cell of `steps` updates that nobody evaluates, put together."""
    changes = {"workload": {"model": "softmax"}, "sweep__global_batch_size": [workers], **changes}
    changes["goal"] = {"target_accuracy": "none", "max_steps": steps}
    return make_setup(make_cell(sweep__strategy=strategy, sweep__gpus=[workers], **changes))


def costs_of(
    gradient_s: float = 1.0, apply_s: float = 0.0, link: LinkFigures = AT_ONCE, num_bytes: int = 1000
) -> Costs:
    """Return costs of a gradient that takes as long at any batch size."""
    return constant_costs(gradient_s, 0.0, apply_s, link, num_bytes)


class Drawn:
    """Stands where a cell's faults do: the gradients of a run take the next of a list of factors, over and over."""

    def __init__(self, times: Sequence[float]) -> None:
        self.times = itertools.cycle(times)

    def of(self, ranks: Sequence[int], step: int) -> tuple[float, ...]:
        """Return the next factor for each rank."""
        return tuple(next(self.times) for _ in ranks)

    def raise_if_lost(self, ranks: Sequence[int], steps: int, clock_s: float) -> None:
        """Lose nobody."""


def run_sizes(setup: Setup, costs: Costs, num_bytes: int = 1000, times: Sequence[float] = ()) -> Outcome:
    """Run a cell's program on the virtual cluster without computing numbers.

    Args:
        times: of the gradients, in the order in which they start, as factors; empty: what the cell says.
    """
    engine = virtual_engine.build(setup, costs=costs, executor=Sizes(setup, num_bytes, 0, dict))
    if times:
        engine.cluster.faults = Drawn(times)
    return engine.run()


def run_numbers(setup: Setup) -> Outcome:
    """Run a cell on the virtual cluster with its real gradients, each computed on its own."""
    # A pipeline needs to know its stages, so it finds its costs itself; times do not change its numbers.
    costs = costs_of() if setup.layout.pipeline == 1 else None
    return virtual_engine.build(setup, costs=costs, merge=False).run()


def step_times(outcome: Outcome) -> list[float]:
    """Return the time between the starts of one worker's steps."""
    starts = [s for s, w in zip(outcome.steps["start_s"], outcome.steps["worker"], strict=True) if w == 0]
    return [later - earlier for earlier, later in itertools.pairwise([*starts, outcome.training_s])]


def within_4_standard_errors(values: Sequence[float], expected: float) -> bool:
    error = statistics.stdev(values) / math.sqrt(len(values))
    return abs(statistics.fmean(values) - expected) <= 4 * error


def harmonic(n: int, power: int = 1) -> float:
    return math.fsum(1 / k**power for k in range(1, n + 1))


# -- 1. staleness of asynchronous updates ------------------------------------------------------------------------------


def last_indices(log: dict[str, list[Any]]) -> int:
    """Return the sum over workers of the index of its last applied gradient, from 1."""
    return sum(dict(zip(log["worker"], log["update"], strict=True)).values())


@settings(max_examples=25, derandomize=True)
@given(
    workers=st.integers(1, 9),
    gradients=st.integers(1, 150),
    times=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40).map(tuple),
)
def test_sum_of_staleness_is_exact_for_any_times(workers, gradients, times):
    log = run_sizes(setup_of("async-ps", workers, gradients), costs_of(), times=times).updates_log
    assert len(log["update"]) == gradients
    assert sum(log["staleness"]) == last_indices(log) - gradients


@settings(max_examples=20, derandomize=True)
@given(
    slowdowns=st.lists(st.floats(1.0, 20.0), min_size=2, max_size=8),
    gradients=st.integers(1, 200),
)
def test_sum_of_staleness_is_exact_for_any_mix_of_fast_and_slow_workers(slowdowns, gradients):
    stragglers = [{"rank": rank, "slowdown": slowdown} for rank, slowdown in enumerate(slowdowns)]
    setup = setup_of("async-ps", len(slowdowns), gradients, faults__stragglers=stragglers)
    log = run_sizes(setup, costs_of()).updates_log
    assert sum(log["staleness"]) == last_indices(log) - gradients
    assert log["time_s"] == sorted(log["time_s"])


def test_a_straggler_moves_staleness_and_leaves_its_mean():
    """One worker of four at five times: it is 15 updates late, the others 2 and a little; the mean is what it was."""
    setup = setup_of("async-ps", 4, 4001, faults__stragglers=[{"rank": 3, "slowdown": 5.0}])
    log = run_sizes(setup, costs_of()).updates_log
    by_worker = [[s for s, w in zip(log["staleness"], log["worker"], strict=True) if w == rank] for rank in range(4)]
    assert statistics.fmean(by_worker[3]) == pytest.approx(15.0, abs=0.1)
    assert [statistics.fmean(values) for values in by_worker[:3]] == pytest.approx([2.2] * 3, abs=0.05)
    assert statistics.fmean(log["staleness"]) == pytest.approx(3.0, abs=0.01)


def test_equal_workers_take_turns():
    log = run_sizes(setup_of("async-ps", 4, 1000), costs_of()).updates_log
    assert log["staleness"] == [0, 1, 2] + [3] * 997
    assert statistics.fmean(log["staleness"]) == 2.994


def test_one_asynchronous_worker_is_sequential_sgd_bit_for_bit():
    changes = {"sweep__global_batch_size": [32], "sweep__learning_rate": [0.2]}
    alone = run_numbers(setup_of("async-ps", 1, 60, **changes))
    sequential = run_numbers(setup_of("single", 1, 60, **changes))
    assert alone.updates_log["staleness"] == [0] * 60
    assert alone.steps["loss"] == sequential.steps["loss"]
    assert torch.equal(alone.weights, sequential.weights)


class PullsLater(Strategy):
    """Pushes a gradient, and asks for weights only when that has arrived and the question has travelled too."""

    name = "pulls-later"
    synchrony = "asynchronous"
    batches = "own"
    model_at = "server"

    def servers(self, workers):
        return 1

    async def work(self, worker):
        for batch in worker.batches():
            await worker.send(await worker.gradient(batch), to=SERVER)
            await worker.send(None, to=SERVER)
            await worker.load((await worker.receive(SERVER)).value)

    async def serve(self, server):
        while message := await server.receive():
            if message.value is None:
                await server.send(server.weights, to=message.source)
            else:
                await server.apply(message.value)


def test_a_pull_that_comes_later_than_the_push_lowers_the_mean():
    """While a worker holds no weights of its own, others' updates age nobody's gradient but those under way."""
    setup = replace(setup_of("async-ps", 8, 4000), strategy=PullsLater())
    times = tuple(np.random.default_rng(0).exponential(1.0, 997))
    small = LinkFigures(
        latency_s=0.0, bandwidth_bytes_per_s=64 / 0.5
    )  # a question without a value has 64 bytes: half a second
    means = {}
    for name, link in (("at once", AT_ONCE), ("later", small)):
        log = run_sizes(setup, costs_of(link=link, num_bytes=4), 0, times).updates_log
        means[name] = statistics.fmean(log["staleness"])
    assert means["at once"] == pytest.approx(7.0, abs=0.05)
    assert means["later"] < 6.0


@settings(max_examples=15, derandomize=True)
@given(latency=st.floats(0.0, 10.0), times=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=20).map(tuple))
def test_a_slow_network_leaves_the_sum_where_the_answer_follows_the_push(latency, times):
    link = LinkFigures(latency_s=latency, bandwidth_bytes_per_s=1e30)
    log = run_sizes(setup_of("async-ps", 5, 200), costs_of(link=link), times=times).updates_log
    assert sum(log["staleness"]) == last_indices(log) - 200


# -- 2. stragglers -----------------------------------------------------------------------------------------------------

EXPONENTIAL = {"distribution": "exponential"}


# Programs with a server take 200 us for each message of a worker, a layout one step for all of its devices.
SYNCHRONOUS = [("sync-ddp", n) for n in (1, 2, 4, 8, 16, 32)] + [("sync-ps", 2), ("sync-ps", 8), ("local-sgd", 4)]


@pytest.mark.parametrize(("strategy", "workers"), SYNCHRONOUS)
def test_synchronous_steps_wait_for_the_slowest_exponential_worker(strategy, workers):
    every_step = {"strategy__local-sgd": {"steps": 1}} if strategy == "local-sgd" else {}
    setup = setup_of(strategy, workers, 1000, faults__compute_jitter=EXPONENTIAL, **every_step)
    times = step_times(run_sizes(setup, costs_of(gradient_s=2.0)))
    assert len(times) == 1000
    assert within_4_standard_errors(times, 2.0 * harmonic(workers))
    # An exponential's fourth moment is 9 variances squared: of 1,000 draws the deviation's standard error is 4.5 %.
    assert statistics.stdev(times) == pytest.approx(2.0 * math.sqrt(harmonic(workers, 2)), rel=4 * 0.045)


@pytest.mark.parametrize("workers", [2, 8])
def test_a_constant_beside_the_exponential_part_is_added_once(workers):
    constant = 0.75  # the server's update, which does not scatter
    setup = setup_of("sync-ps", workers, 1500, faults__compute_jitter=EXPONENTIAL)
    times = step_times(run_sizes(setup, costs_of(apply_s=constant)))
    assert within_4_standard_errors(times, constant + harmonic(workers))


@pytest.mark.parametrize(
    ("workers", "expected"), [(2, 0.564190), (4, 1.029375), (8, 1.423600), (16, 1.765991), (32, 2.069669)]
)
def test_the_slowest_of_lognormal_workers_is_a_normal_order_statistic(workers, expected):
    """The logarithm of the largest factor exp(sigma Z - sigma^2 / 2) is sigma Z_max - sigma^2 / 2, exactly."""
    sigma = 0.3
    setup = setup_of("sync-ddp", workers, 1000, faults__compute_jitter=sigma)
    times = step_times(run_sizes(setup, costs_of()))
    largest = [(math.log(seconds) + sigma**2 / 2) / sigma for seconds in times]
    assert within_4_standard_errors(largest, expected)
    assert statistics.fmean(largest) < math.sqrt(2 * math.log(workers)) - 0.2  # only the leading term


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_asynchronous_workers_are_as_fast_as_all_of_them_whatever_scatters(workers):
    setup = setup_of("async-ps", workers, 2500, faults__compute_jitter=EXPONENTIAL)
    times = run_sizes(setup, costs_of(gradient_s=2.0)).updates_log["time_s"]
    gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *times])]
    assert within_4_standard_errors(gaps, 2.0 / workers)


# -- 4. servers --------------------------------------------------------------------------------------------------------

GIGABYTE_PER_S = 1e9


def rate_of(outcome: Outcome, skipped: int) -> float:
    """Return gradients applied a second once the first ones are left out."""
    times = outcome.updates_log["time_s"]
    return (len(times) - 1 - skipped) / (times[-1] - times[skipped])


@settings(max_examples=20, derandomize=True)
@given(workers=st.integers(1, 24), compute_s=st.floats(0.0, 1.0), num_bytes=st.integers(10**6, 10**9))
def test_no_number_of_workers_beats_what_the_servers_interface_carries(workers, compute_s, num_bytes):
    link = LinkFigures(latency_s=0.0, bandwidth_bytes_per_s=1.25 * GIGABYTE_PER_S)
    setup = setup_of("async-ps", workers, 8 * workers)
    outcome = run_sizes(setup, costs_of(compute_s, link=link, num_bytes=num_bytes), num_bytes)
    cap = link.bandwidth_bytes_per_s / num_bytes
    assert rate_of(outcome, workers) <= cap * (1 + 1e-9)


def test_many_workers_reach_the_servers_cap():
    """S = 100 MB over 1.25 GB/s: 12.5 gradients a second from one server, however many workers push."""
    link = LinkFigures(latency_s=0.0, bandwidth_bytes_per_s=1.25 * GIGABYTE_PER_S)
    for workers in (16, 32):
        setup = setup_of("async-ps", workers, 30 * workers)
        outcome = run_sizes(setup, costs_of(0.1, link=link, num_bytes=10**8), 10**8)
        assert rate_of(outcome, 10 * workers) == pytest.approx(12.5, rel=1e-6)


@pytest.mark.parametrize("workers", [1, 4, 8])
def test_a_synchronous_push_takes_all_workers_bytes_through_the_servers_interface(workers):
    """S = 100 MB, 1.25 GB/s: 8 workers push for 640 ms into one server, and pull as long."""
    link = LinkFigures(latency_s=0.002, bandwidth_bytes_per_s=1.25 * GIGABYTE_PER_S)
    one_s = 10**8 / link.bandwidth_bytes_per_s
    sent = []

    class Pushes(PullsLater):
        async def work(self, worker):
            for batch in worker.batches():
                gradient = await worker.gradient(batch)
                began = engine.cluster.env.now
                await worker.send(gradient, to=SERVER)
                await worker.receive(SERVER)
                sent.append(engine.cluster.env.now - began)
                return

        async def serve(self, server):
            for _ in server.workers:
                await server.receive()
            for worker in server.workers:
                server.send(server.weights, to=worker)

    setup = replace(setup_of("async-ps", workers, 1), strategy=Pushes())
    engine = virtual_engine.build(setup, costs=costs_of(link=link), executor=Sizes(setup, 10**8, 0, dict))
    engine.run()
    assert max(sent) == pytest.approx(2 * (workers * one_s + link.latency_s))


# -- 5. an asynchronous server as a closed queue -----------------------------------------------------------------------


@settings(max_examples=15, derandomize=True)
@given(workers=st.integers(1, 12), compute_s=st.floats(0.01, 1.0), service_s=st.floats(0.01, 1.0))
def test_constant_times_give_the_rate_of_the_closed_queue_exactly(workers, compute_s, service_s):
    setup = setup_of("async-ps", workers, 12 * workers)
    outcome = run_sizes(setup, costs_of(compute_s, apply_s=service_s))
    times = outcome.updates_log["time_s"]
    rate = 4 * workers / (times[-1] - times[-1 - 4 * workers])
    assert rate == pytest.approx(min(workers / (compute_s + service_s), 1 / service_s), rel=1e-9)


@dataclass(frozen=True)
class ServedAtRandom(Costs):
    """Costs of a server whose updates take exponential times."""

    mean_service_s: float = 0.02
    stream: Any = field(default_factory=lambda: np.random.default_rng(7))

    @property
    def apply_s(self) -> float:
        """Draw the next update's time."""
        return float(self.stream.exponential(self.mean_service_s))


def mean_value_analysis(workers: int, compute_s: float, service_s: float) -> float:
    """Source: Reiser and Lavenberg 1980, "Mean-Value Analysis of Closed Multichain Queuing Networks"."""
    queue = rate = 0.0
    for count in range(1, workers + 1):
        response = service_s * (1 + queue)
        rate = count / (compute_s + response)
        queue = rate * response
    return rate


# The law holds for any computing time: constant ones, and once exponential ones.
SERVED = [
    (1, 8.333333, False),
    (2, 16.216216, False),
    (4, 30.082855, False),
    (8, 46.497607, False),
    (6, 40.407637, True),
]


@pytest.mark.parametrize(("workers", "expected", "scatter"), SERVED)
def test_exponential_service_follows_mean_value_analysis(workers, expected, scatter):
    assert mean_value_analysis(workers, 0.1, 0.02) == pytest.approx(expected, rel=1e-6)
    faults = {"faults__compute_jitter": EXPONENTIAL} if scatter else {}
    base = costs_of(0.1)
    outcome = run_sizes(setup_of("async-ps", workers, 4000, **faults), ServedAtRandom(base.profile, base.cluster))
    times = outcome.updates_log["time_s"]
    # Gaps of one round depend on each other: means over rounds of 100 hardly do.
    blocks = [(times[k + 100] - times[k]) / 100 for k in range(100, len(times) - 100, 100)]
    assert within_4_standard_errors(blocks, 1 / expected)


# -- quadratics: what delay does to training ---------------------------------------------------------------------------


def bowl_setup(workers: int, steps: int, rate: float, **changes: Any) -> Setup:
    workload = {"model": BOWL, "loss": "mse", "precision": "fp64"}
    changes |= {"workload": workload, "sweep__learning_rate": [rate], "sweep__global_batch_size": [1]}
    return setup_of("async-ps", workers, steps, **changes)


def stability_bound(delay: int) -> float:
    """Return the largest stable rate times curvature of descent whose gradients are `delay` updates old.

    With 1/z for the shift by one update the roots of z^(d+1) - z^d + a = 0 must lie in the unit circle.
    """
    return 2 * math.sin(math.pi / (2 * (2 * delay + 1)))


def losses_in_order(outcome: Outcome) -> list[float]:
    """Return the loss at the weights that each applied gradient came from, in the order of updates."""
    steps, log = outcome.steps, outcome.updates_log
    losses = dict(zip(zip(steps["worker"], steps["step"], strict=True), steps["loss"], strict=True))
    return [losses[push] for push in zip(log["worker"], log["step"], strict=True)]


@pytest.mark.parametrize("delay", [0, 1, 3, 7])
def test_delayed_descent_is_stable_up_to_its_bound_and_not_beyond(delay):
    """The excess of the loss over its least shrinks 2 % below the bound and grows 2 % above it."""
    # One swing takes about 4 d + 2 updates; so many that 2 % off the bound multiply the excess by 10.
    steps = 240 + 160 * delay
    growth = {}
    for share in (0.98, 1.02):
        setup = bowl_setup(delay + 1, steps, share * stability_bound(delay) / CURVATURE)
        outcome = run_numbers(setup)
        assert outcome.updates_log["staleness"][delay:] == [delay] * (steps - delay)
        least = 1 / CLASSES - 1 / CLASSES**2
        excess = [loss - least for loss in losses_in_order(outcome)]
        window = steps // 4
        growth[share] = max(excess[-window:]) / max(excess[window : 2 * window])
    assert growth[0.98] < 0.2
    assert growth[1.02] > 5


def expected_iterate(staleness: Sequence[int], length: int, rate_times_curvature: float) -> Any:
    """Return the mean course of descent with these delays from rest at 1, over all windows of the log."""
    delays = np.asarray(staleness)
    windows = np.arange(len(delays) - length)
    course = np.ones((len(windows), length + 1))
    for step in range(length):
        seen = np.maximum(0, step - delays[windows + step])
        course[:, step + 1] = course[:, step] - rate_times_curvature * course[windows, seen]
    return course.mean(axis=0)


def fitted_momentum(staleness: Sequence[int], rate_times_curvature: float) -> tuple[float, float]:
    """Return the momentum and the share of the gradient that the expected course follows; least squares."""
    course = expected_iterate(staleness, 40, rate_times_curvature)
    change = np.diff(course)
    sides = np.stack([change[:-1], -rate_times_curvature * course[1:-1]], axis=1)
    momentum, share = np.linalg.lstsq(sides, change[1:], rcond=None)[0]
    return float(momentum), float(share)


EXPONENTIAL_PACE = {"faults__compute_jitter": EXPONENTIAL}


def test_weights_are_where_the_logged_delays_lead():
    """What the law below is measured on: real gradients, applied in the order that a run without numbers has too."""
    rate, updates = 0.15, 1500
    outcome = run_numbers(bowl_setup(4, updates, rate, **EXPONENTIAL_PACE))
    staleness = outcome.updates_log["staleness"]
    weights = [1.0]
    for step, delay in enumerate(staleness):
        weights.append(weights[-1] - rate * CURVATURE * (weights[step - delay] - 1 / CLASSES))
    assert losses_in_order(outcome)[:200] == pytest.approx(
        [w**2 - 2 * w / CLASSES + 1 / CLASSES for w in (weights[k - d] for k, d in enumerate(staleness[:200]))]
    )
    assert float(outcome.weights) == pytest.approx(weights[-1], abs=1e-12)
    assert run_sizes(bowl_setup(4, updates, rate, **EXPONENTIAL_PACE), costs_of()).updates_log["staleness"] == staleness


@pytest.mark.parametrize("workers", [4, 8])
def test_memoryless_workers_descend_with_momentum_one_minus_one_over_workers(workers):
    """E[d_(t+1)] = (1 - 1/M) E[d_t] - (rate/M) E[gradient], both coefficients to 2 %.

    The expected course is the mean over all windows of one long run's delays.

    Source: Mitliagkas, Zhang, Hadjis and Re 2016, "Asynchrony begets momentum", theorem 3.
    """
    setup = bowl_setup(workers, 10000, 0.15, **EXPONENTIAL_PACE)
    momentum, share = fitted_momentum(run_sizes(setup, costs_of()).updates_log["staleness"], 0.15 * CURVATURE)
    assert momentum == pytest.approx(1 - 1 / workers, rel=0.02)
    assert share == pytest.approx(1 / workers, rel=0.02)


def test_workers_of_constant_pace_do_not_descend_with_momentum():
    """Pure delay is another law, and a worse one: the test above can fail."""
    staleness = run_sizes(setup_of("async-ps", 4, 400), costs_of()).updates_log["staleness"]
    momentum, share = fitted_momentum(staleness[4:], 0.3)
    assert abs(momentum - 0.75) > 0.05
    assert abs(share - 0.25) > 0.05


# -- 7. equality of numbers --------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": {"name": "sgd"},
    "momentum": {"name": "sgd", "momentum": 0.9},
    "adam": {"name": "adam"},
}


def trained(strategy: str, gpus: int, optimizer: str = "sgd", steps: int = 45, **changes: Any) -> torch.Tensor:
    """Return the weights after steps of 30 samples: of 45, 43 are full, one has 3, one is the next epoch's first."""
    rate = 0.003 if optimizer == "adam" else 0.03
    workload = {"model": "mlp", "precision": "fp64", "optimizer": OPTIMIZERS[optimizer]}
    point = {"workload": workload, "sweep__global_batch_size": [30], "sweep__learning_rate": [rate]}
    return run_numbers(setup_of(strategy, gpus, steps, **(point | changes))).weights


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("strategy", ["sync-ddp", "sync-ps"])
def test_synchronous_workers_equal_one_with_the_whole_batch(strategy, optimizer):
    whole = trained("single", 1, optimizer)
    for gpus in (2, 3):
        assert difference(trained(strategy, gpus, optimizer), whole) < 1e-12


def test_accumulating_pieces_equals_one_pass():
    whole, pieces = trained("single", 1), trained("single", 1, sweep__micro_batch_size=[10])
    assert 0 < difference(whole, pieces) < 1e-12  # other sums, the same number


def test_a_split_model_without_micro_batches_equals_the_unsplit_one_bit_for_bit():
    """While batches are full: a pipeline computes a smaller last one padded."""
    split, whole = (
        trained(*point, steps=40, sweep__micro_batch_size=[30]) for point in (("model-split", 2), ("single", 1))
    )
    assert torch.equal(split, whole)


def test_averaging_after_every_step_equals_synchronous_sgd_where_batches_divide():
    """Of 16 samples each batch divides; with Adam it is another method."""
    even = {"sweep__global_batch_size": [16], "strategy__local-sgd": {"steps": 1}}

    def both(optimizer: str) -> float:
        steps = {"sweep__learning_rate": [0.01]} | even
        return difference(trained("local-sgd", 2, optimizer, **steps), trained("sync-ddp", 2, optimizer, **steps))

    assert both("sgd") < 1e-12
    assert both("momentum") < 1e-12
    assert both("adam") > 1e-4


# -- 9. invariants of a simulator --------------------------------------------------------------------------------------

PROGRAMS = ["sync-ps", "async-ps", "local-sgd", "sync-ddp"]


def timed(strategy: str, factor: float = 1.0, bytes_factor: float = 1.0) -> Outcome:
    num_bytes = round(4e6 * bytes_factor)
    link = LinkFigures(latency_s=3e-3 * factor, bandwidth_bytes_per_s=1e8 * bytes_factor / factor)
    return run_sizes(setup_of(strategy, 5, 40), costs_of(0.05 * factor, 0.01 * factor, link, num_bytes), num_bytes)


@settings(max_examples=12, derandomize=True)
@given(strategy=st.sampled_from(PROGRAMS), factor=st.floats(0.01, 100.0))
def test_all_times_scale_together(strategy, factor):
    assert timed(strategy, factor).training_s == pytest.approx(factor * timed(strategy).training_s, rel=1e-9)


@settings(max_examples=12, derandomize=True)
@given(strategy=st.sampled_from(PROGRAMS), factor=st.sampled_from([0.5, 2.0, 8.0, 1024.0]))
def test_bytes_and_bandwidth_scaled_alike_change_nothing(strategy, factor):
    one, other = timed(strategy), timed(strategy, bytes_factor=factor)
    # A message without a value keeps its 64 bytes: 6e-7 s of a step of 50 ms.
    assert other.training_s == pytest.approx(one.training_s, rel=1e-4)
    assert other.bytes_sent_per_step == pytest.approx(factor * one.bytes_sent_per_step, rel=1e-3)


@pytest.mark.parametrize("strategy", PROGRAMS)
def test_the_same_cell_gives_the_same_bytes(strategy):
    one, other = (
        run_sizes(setup_of(strategy, 4, 60, faults__compute_jitter=0.4), costs_of(apply_s=0.1)) for _ in range(2)
    )
    assert repr((one.training_s, one.steps, one.updates_log)) == repr(
        (other.training_s, other.steps, other.updates_log)
    )


@pytest.mark.parametrize("strategy", ["sync-ps", "local-sgd", "sync-ddp"])
def test_exchanging_identical_workers_changes_nothing(strategy):
    """The straggler may be any of them."""
    times = set()
    for rank in range(4):
        setup = setup_of(strategy, 4, 24, faults__stragglers=[{"rank": rank, "slowdown": 2.0}])
        times.add(round(run_sizes(setup, costs_of(apply_s=0.1)).training_s, 9))
    assert len(times) == 1


@pytest.mark.parametrize("strategy", PROGRAMS)
def test_free_links_leave_the_time_of_the_slowest_worker(strategy):
    setup = setup_of(strategy, 4, 24, faults__stragglers=[{"rank": 2, "slowdown": 3.0}])
    outcome = run_sizes(setup, costs_of(gradient_s=1.0))
    busy = sum(s for s, w in zip(outcome.steps["compute_s"], outcome.steps["worker"], strict=True) if w == 0)
    assert busy <= outcome.training_s * (1 + 1e-9)
    if strategy != "async-ps":
        assert outcome.training_s == pytest.approx(24 * 3.0)
