"""Strategies that become one another at the ends of their options: the same weights, or the same to rounding."""

from __future__ import annotations

from typing import Any

import pytest
from cells import make_cell
from lazy import lazy
from places import TESTS
from trained import difference

from harness.core.outcome import Outcome
from harness.engines.processes.launch import run_cell
from harness.engines.shared.setup import make_setup

engine = lazy("harness.engines.virtual.engine")

OWN = str(TESTS / "plugins" / "averages.py")
FP64 = {"precision": "fp64", "optimizer": {"name": "sgd"}}
FEW = {
    "workload": FP64,
    "goal__max_epochs": 1.2,
    "sweep__learning_rate": [0.05],
    "sweep__global_batch_size": [30],
    "plugins": (OWN,),
}


def cell(strategy: str, options: dict[str, Any], **changes: Any):
    own = {f"strategy__{strategy}": options} if options else {}
    return make_cell(sweep__strategy=strategy, **FEW | {"sweep__gpus": [3]} | own | changes)


def virtual(strategy: str, options: dict[str, Any], script: Any = None, **changes: Any) -> Outcome:
    return engine.run_virtual(make_setup(cell(strategy, options, **changes), [OWN]), merge=False, script=script)


SAME = {
    "stale-sync without slack": (("stale-sync", {"slack": 0}), ("own-sync-ps", {}), 0.0),
    "stale-sync without bound": (("stale-sync", {"slack": "none"}), ("async-ps", {}), 0.0),
    "no backups": (("backup-workers", {"backups": 0}), ("own-sync-ps", {}), 0.0),
    "local-sgd every batch": (("local-sgd", {"steps": 1}), ("sync-ddp", {}), 1e-12),
    "diloco with a plain outer step": (
        ("diloco", {"steps": 1, "outer_rate": 1, "outer_momentum": 0}),
        ("sync-ddp", {}),
        1e-12,
    ),
    "diloco in fragments that meet at once": (
        ("diloco", {"steps": 1, "fragments": 3}),
        ("diloco", {"steps": 1}),
        1e-12,
    ),
    "diloco as model averaging": (
        ("diloco", {"steps": 4, "outer_rate": 1, "outer_momentum": 0}),
        ("local-sgd", {"steps": 4}),
        1e-12,
    ),
    "gossip where all are neighbours": (("gossip", {"graph": "ring"}), ("local-sgd", {"steps": 1}), 1e-12),
    "async-ps without compensation": (("async-ps", {"compensate": 0}), ("async-ps", {}), 0.0),
}


@pytest.mark.parametrize("case", SAME)
def test_one_strategy_is_another_at_the_end_of_its_options(case):
    (one, its), (other, others), tolerance = SAME[case]
    first, second = virtual(one, its), virtual(other, others)
    assert first.samples == second.samples > 1293
    assert difference(first, second) <= tolerance


DIFFERENT = {
    "slack": (("stale-sync", {"slack": 1}), ("stale-sync", {"slack": 0})),
    "backups": (("backup-workers", {"backups": 1}), ("backup-workers", {"backups": 0})),
    "fragments": (("diloco", {"steps": 4, "fragments": 2}), ("diloco", {"steps": 4})),
    "overlap": (("diloco", {"steps": 4, "overlap": 2}), ("diloco", {"steps": 4})),
    "outer momentum": (("diloco", {"steps": 4}), ("diloco", {"steps": 4, "outer_momentum": 0})),
    "compensation": (("async-ps", {"compensate": 1.0}), ("async-ps", {})),
    "pull": (("elastic-averaging", {"pull": 0.9}), ("elastic-averaging", {"pull": 0.1})),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_an_option_takes_effect(case):
    (one, its), (other, others) = DIFFERENT[case]
    slow = {"faults": {"stragglers": [{"rank": 0, "slowdown": 3.0}]}} if case in ("slack", "backups") else {}
    assert difference(virtual(one, its, **slow), virtual(other, others, **slow)) > 1e-6


# -- two clocks --------------------------------------------------------------------------------------------------------

SYNCHRONOUS = {
    "diloco": {"steps": 4, "fragments": 3, "overlap": 2},
    "gossip": {"graph": "ring"},
    "backup-workers": {"backups": 0},
    "stale-sync": {"slack": 0},
}
REPLAYED = {
    "stale-sync": {"slack": 1},
    "backup-workers": {"backups": 1},
    "elastic-averaging": {"steps": 2},
    "async-ps": {"compensate": 0.5},
}


def real(strategy: str, options: dict[str, Any], gpus: int) -> Outcome:
    found = run_cell(cell(strategy, options, engine="real", sweep__gpus=[gpus]), [OWN], options={"keep_weights": True})
    assert found.finished, found.reason
    return found.outcome


@pytest.mark.dist
@pytest.mark.parametrize("strategy", SYNCHRONOUS)
def test_two_real_processes_equal_the_virtual_cluster(strategy):
    options = SYNCHRONOUS[strategy]
    measured, simulated = real(strategy, options, 2), virtual(strategy, options, sweep__gpus=[2])
    assert measured.updates == simulated.updates > 20
    assert difference(measured, simulated) == 0.0


@pytest.mark.dist
@pytest.mark.parametrize("strategy", REPLAYED)
def test_a_real_run_is_replayed_from_who_came_when(strategy):
    options = REPLAYED[strategy]
    measured = real(strategy, options, 2)
    replayed = virtual(strategy, options, script=measured.deliveries, sweep__gpus=[2])
    assert measured.samples == replayed.samples
    assert difference(measured, replayed) == 0.0
