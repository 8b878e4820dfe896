"""What theory says of the bundled strategies: how fast workers agree, what stragglers cost, what links must carry.

Every closed form stands beside its test with its source. Programs are the bundled ones, on the virtual cluster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cells import host, make_cell
from constant_costs import constant_costs
from lazy import lazy
from trained import FP64, difference, virtual

from harness.core.given_cluster import LinkFigures
from harness.core.outcome import Outcome
from harness.costs.profiles import LayerShape, ModelShape, Runtime
from harness.engines.shared.setup import Setup, make_setup
from harness.engines.virtual.prices import Costs
from harness.engines.virtual.sizes import Sizes

torch = lazy("torch")
virtual_engine = lazy("harness.engines.virtual.engine")

Matrix = npt.NDArray[np.float64]
WORKERS = 8
FREE = LinkFigures(latency_s=0.0, bandwidth_bytes_per_s=1e30)


def cell_setup(strategy: str, **changes: Any) -> Setup:
    """Return a cell of 8 workers that nobody evaluates, put together."""
    options = {"workload": {"model": "softmax"} | FP64, "sweep__global_batch_size": [WORKERS], **changes}
    options.setdefault("goal", {"target_accuracy": "none", "max_steps": 480})
    return make_setup(make_cell(sweep__strategy=strategy, sweep__gpus=[WORKERS], **options))


# -- consensus: what workers differ by shrinks with the spectral gap ---------------------------------------------------


class Watched:
    """A worker that notes every weights that it loads; for all else it is the worker."""

    def __init__(self, worker: Any, loaded: list[Matrix]) -> None:
        self._worker, self._loaded = worker, loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    def load(self, weights: Any) -> Any:
        """Note the parameters, then load them."""
        self._loaded.append(weights.tensor().numpy().copy())
        return self._worker.load(weights)


def exchanges(strategy: str, rounds: int, **options: Any) -> list[Matrix]:
    """Let workers start apart and do nothing but exchange: their rate is far below what fp64 can add to a weight.

    Returns:
        Weights of all workers before the first exchange and after each, arrays of shape (workers, parameters).
    """
    goal = {"target_accuracy": "none", "max_steps": rounds}
    setup = cell_setup(
        strategy, goal=goal, sweep__learning_rate=[1e-200], **{f"strategy__{strategy}": {"steps": 1} | options}
    )
    loaded: list[list[Matrix]] = [[] for _ in range(WORKERS)]

    class Apart(host().strategy(strategy)):  # type: ignore[misc]
        async def work(self, worker: Any) -> None:
            watched = Watched(worker, loaded[worker.rank])
            generator = torch.Generator().manual_seed(worker.rank)
            values = torch.randn(worker.weights.tensor().shape, generator=generator, dtype=torch.float64)
            await watched.load(worker.weights.with_tensor(values))
            await super().work(watched)

    virtual_engine.build(replace(setup, strategy=Apart(setup.strategy.options)), costs=free_costs(), merge=False).run()
    moments = min(len(each) for each in loaded)
    assert moments > rounds // 2
    return [np.stack([each[k] for each in loaded]) for k in range(moments)]


def free_costs() -> Costs:
    return constant_costs(1.0, 0.0, 0.0, FREE, 1000)


def spread(weights: Matrix) -> float:
    """Return the workers' distance from their mean, the square root of the sum of squares over all of them."""
    return float(np.linalg.norm(weights - weights.mean(axis=0)))


def second_largest(matrix: Matrix) -> float:
    """Return the second largest absolute eigenvalue: 1 less the spectral gap."""
    return float(sorted(np.abs(np.linalg.eigvals(matrix)))[-2])


def averaging(neighbours: Callable[[int], Sequence[int]]) -> Matrix:
    """Return the matrix of an exchange in which each takes the mean of itself and its neighbours."""
    matrix = np.zeros((WORKERS, WORKERS))
    for rank in range(WORKERS):
        group = {rank, *neighbours(rank)}
        matrix[rank, list(group)] = 1 / len(group)
    return matrix


RING = averaging(lambda k: [(k - 1) % 8, (k + 1) % 8])
TORUS = averaging(lambda k: [k // 4 * 4 + (k + 1) % 4, k // 4 * 4 + (k - 1) % 4, (k + 4) % 8])


def test_the_matrices_are_those_of_the_literature():
    """Source: Boyd, Diaconis and Xiao 2004: eigenvalues of a circulant matrix; a torus adds those of its rings."""
    assert second_largest(RING) == pytest.approx((1 + 2 * math.cos(2 * math.pi / 8)) / 3)
    assert second_largest(TORUS) == pytest.approx(1 / 2)  # two rows: one neighbour above, who is below too


@pytest.mark.parametrize(("graph", "matrix"), [("ring", RING), ("torus", TORUS)])
def test_gossip_is_its_matrix_and_shrinks_by_its_second_eigenvalue(graph, matrix):
    """x(k + 1) = W x(k), so that distances shrink by the second largest eigenvalue, never by less.

    Source: Lian et al. 2017, section 3, assumption 1.3 (spectral gap); Boyd et al. 2006, "Randomized Gossip
    Algorithms", theorem 3.
    """
    seen = exchanges("gossip", 25, graph=graph)
    for before, after in pairwise(seen):
        np.testing.assert_allclose(after, matrix @ before, rtol=1e-12, atol=1e-15)
    distances = [spread(weights) for weights in seen]
    shrunk = [after / before for before, after in pairwise(distances)]
    expected = second_largest(matrix)
    assert max(shrunk) <= expected + 1e-6  # 25 exchanges on a torus leave 3e-8 of a distance, rounded to 1e-16
    assert shrunk[-5] == pytest.approx(expected, rel=0.01)


def test_random_pairs_shrink_by_what_their_mean_matrix_says():
    """A matching projects: W W = W, so a random start keeps the second eigenvalue of E W of its squared distance.

    E W = I / 2 + (J - I) / (2 (n - 1)), with second eigenvalue 1/2 - 1 / (2 (n - 1)).
    Source: Boyd et al. 2006, section 2.2.
    """
    first = exchanges("gossip", 4, graph="random-pairs")
    expected = 1 / 2 - 1 / (2 * (WORKERS - 1))
    # 650 numbers a worker drawn from one Gaussian: their sum of squares is within 3 % of what is expected of it.
    assert (spread(first[1]) / spread(first[0])) ** 2 == pytest.approx(expected, rel=0.05)


def test_elastic_averaging_shrinks_by_the_second_eigenvalue_of_its_round():
    """One pull ties a worker and the centre: I - a (e_i - e_c)(e_i - e_c)^T with a = pull / workers.

    Workers of equal speed come in turn, so that a round multiplies one such matrix for each.
    Source: Zhang, Choromanska and LeCun 2015, section 2, equations 5 and 6; section 3 (round-robin).
    """
    pull, centre = 0.9, WORKERS
    pulls = []
    for rank in range(WORKERS):
        between = np.zeros(WORKERS + 1)
        between[rank], between[centre] = 1.0, -1.0
        pulls.append(np.eye(WORKERS + 1) - pull / WORKERS * np.outer(between, between))
    expected = second_largest(reduce(lambda before, one: one @ before, pulls))
    distances = [spread(weights) for weights in exchanges("elastic-averaging", 100, pull=pull)]
    shrunk = [after / before for before, after in pairwise(distances)]
    assert shrunk[-10] == pytest.approx(expected, rel=0.01)
    assert 0 < expected < 1 - pull / WORKERS / 2


# -- one straggler at half speed ---------------------------------------------------------------------------------------

SLOW = 2.0
"""Seconds of the straggler's gradient; everybody else's takes 1."""

IN_GRADIENTS_A_SECOND = {
    # All wait for the slowest: W / max t. Source: Chen et al. 2016, section 2.1 (synchronous training).
    "sync-ddp": ({}, WORKERS / SLOW),
    "sync-ps": ({}, WORKERS / SLOW),
    # The first W - b of W end a step; the straggler is never among them. Source: Chen et al. 2016, algorithms 3 and 4.
    "backup-workers": ({"backups": 1}, (WORKERS - 1) / 1.0),
    # Whoever is `slack` ahead of the slowest waits for it: in the long run all go at its pace.
    # Source: Ho et al. 2013, section 3, condition 2 (bounded difference of clocks).
    "stale-sync": ({"slack": 3}, WORKERS / SLOW),
    # Nobody waits: sum of 1 / t. Source: Dean et al. 2012, section 4.1 (Downpour SGD).
    "async-ps": ({}, (WORKERS - 1) / 1.0 + 1 / SLOW),
    # H gradients each, then a meeting: W H / max(H t). Source: Stich 2019, section 1.
    "local-sgd": ({"steps": 4}, WORKERS / SLOW),
}


@pytest.mark.parametrize("strategy", IN_GRADIENTS_A_SECOND)
def test_throughput_under_one_straggler_is_that_of_its_closed_form(strategy):
    options, expected = IN_GRADIENTS_A_SECOND[strategy]
    own = {f"strategy__{strategy}": options} if options else {}
    setup = cell_setup(strategy, faults={"stragglers": [{"rank": 0, "slowdown": SLOW}]}, **own)
    outcome = virtual_engine.build(setup, costs=free_costs(), executor=Sizes(setup, 1000, 0, dict)).run()
    # One device's part of a batch is one sample where the batch is shared, all of it where each has its own.
    samples = setup.cell.global_batch_size / WORKERS if setup.strategy.batches == "shared" else WORKERS
    assert outcome.samples / samples / outcome.training_s == pytest.approx(expected, rel=0.03)


def test_slack_is_a_head_start_and_no_more():
    """Until the bound is met nobody waits, then all go at the straggler's pace: N(T) = W T / t_max + (W - 1) slack."""
    for slack in (0, 3, 6):
        setup = cell_setup(
            "stale-sync",
            faults={"stragglers": [{"rank": 0, "slowdown": SLOW}]},
            goal={"target_accuracy": "none", "max_seconds": 60},
            **{"strategy__stale-sync": {"slack": slack}},
        )
        outcome = virtual_engine.build(setup, costs=free_costs(), executor=Sizes(setup, 1000, 0, dict)).run()
        expected = WORKERS * outcome.training_s / SLOW + (WORKERS - 1) * slack
        assert outcome.samples / WORKERS == pytest.approx(expected, abs=WORKERS / 2)


# -- what DiLoCo sends, and what it needs ------------------------------------------------------------------------------

BYTES = 400e6
"""Of the weights: 100 M parameters in single precision."""


def diloco(steps: int, bandwidth: float, fragments: int = 1, overlap: int = 0) -> Outcome:
    link = LinkFigures(latency_s=0.0, bandwidth_bytes_per_s=bandwidth)
    setup = cell_setup(
        "diloco",
        goal={"target_accuracy": "none", "max_steps": 4 * steps},
        strategy__diloco={"steps": steps, "fragments": fragments, "overlap": overlap},
    )
    costs = constant_costs(1.0, 0.0, 0.0, link, int(BYTES))
    costs = replace(costs, cluster=replace(costs.cluster, runtime=Runtime()))  # weights are loaded at no cost
    shape = ModelShape((LayerShape("model", tensors=(10**8,), rows=(10**4,)),))
    executor = Sizes(setup, int(BYTES), 0, dict, shape)
    return virtual_engine.build(setup, costs=costs, executor=executor).run()


@pytest.mark.parametrize("steps", [2, 10, 50])
def test_diloco_sends_one_hth_of_the_bytes(steps):
    """Source: Douillard et al. 2023, section 2: communication falls H times."""
    every_step = diloco(1, 1e9).bytes_sent_per_step
    assert every_step == pytest.approx(2 * (WORKERS - 1) / WORKERS * BYTES)  # what sync-ddp sends of such a gradient
    assert diloco(steps, 1e9).bytes_sent_per_step == pytest.approx(every_step / steps, rel=1e-9)


@pytest.mark.parametrize("fragments", [2, 5])
def test_fragments_send_as_much_in_all_and_a_part_of_it_at_once(fragments):
    """Source: Douillard et al. 2025, section 2.2: peak bandwidth falls by the number of fragments."""
    whole, parts = diloco(10, 1e9), diloco(10, 1e9, fragments)
    assert parts.bytes_sent_per_step == pytest.approx(whole.bytes_sent_per_step, rel=1e-6)
    assert max(parts.steps["communication_s"]) == pytest.approx(max(whole.steps["communication_s"]) / fragments)


@pytest.mark.parametrize("exchange_s", [0.5, 2.0, 5.0])
def test_what_shows_of_an_exchange_is_what_the_batches_trained_meanwhile_do_not_hide(exchange_s):
    """A batch takes a second: tau of them hide tau seconds. Source: Douillard et al. 2025, section 2.3."""
    overlap, bandwidth = 2, 2 * (WORKERS - 1) / WORKERS * BYTES / exchange_s
    hidden, shown = diloco(10, bandwidth, overlap=overlap), diloco(10, bandwidth)
    meetings = 4  # of which the last one comes after the last batch, where nothing is left to hide it
    exposed_s = (meetings - 1) * max(0.0, exchange_s - overlap) + exchange_s
    assert sum(hidden.steps["communication_s"]) / WORKERS == pytest.approx(exposed_s, abs=1e-6)
    assert hidden.bytes_sent_per_step == shown.bytes_sent_per_step
    assert sum(shown.steps["communication_s"]) / WORKERS == pytest.approx(meetings * exchange_s)


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_the_bandwidth_that_diloco_needs_for_90_percent_utilisation(steps):
    """H t / (H t + 2 (W - 1) / W S / B) = u, so B = u / (1 - u) 2 (W - 1) / W S / (H t).

    Source: Douillard et al. 2025, "Streaming DiLoCo with overlapping communication", section 3.3 and figure 4 (compute
    utilisation over bandwidth); the ring: Patarasuk and Yuan 2009.
    """
    wanted, compute_s = 0.9, 1.0
    expected = wanted / (1 - wanted) * 2 * (WORKERS - 1) / WORKERS * BYTES / (steps * compute_s)
    low, high = expected / 10, expected * 10
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        enough = utilisation(diloco(steps, middle)) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    assert math.sqrt(low * high) == pytest.approx(expected, rel=0.03)


def utilisation(outcome: Outcome) -> float:
    """Return the share of the time in which devices compute."""
    return sum(outcome.steps["compute_s"]) / (WORKERS * outcome.training_s)


# -- why identities hold for SGD only ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "equal"), [({"name": "sgd"}, True), ({"name": "adam"}, False)])
def test_averaging_weights_is_averaging_gradients_for_sgd_and_not_for_adam(optimizer, equal):
    """SGD's step is linear in the gradient, so the mean of steps is the step of the mean; Adam's divides by a root.

    Source: Stich 2019, section 2 (H = 1 is mini-batch SGD); Kingma and Ba 2015, algorithm 1.
    """
    changes = {
        "workload": FP64 | {"optimizer": optimizer, "model": "softmax"},
        "sweep__gpus": [4],
        "sweep__global_batch_size": [32],
        "sweep__learning_rate": [0.01],
        "goal": {"target_accuracy": "none", "max_steps": 20},
    }
    averaged = virtual("local-sgd", **changes, **{"strategy__local-sgd": {"steps": 1}})
    exchanged = virtual("sync-ddp", **changes)
    assert averaged.samples == exchanged.samples
    apart = difference(averaged, exchanged)
    assert apart < 1e-12 if equal else apart > 1e-3
