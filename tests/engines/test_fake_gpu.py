"""The real engine on a GPU that is none: see `fake_gpu.py`. What only a real one can tell stands in `docs/gpu.md`."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from places import ROOT, TESTS

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.timeout(600)]

OWN = {"loss": "cross-entropy", "dataset": {"name": "synthetic", "samples": 100, "size": 8}}
SMALL = {"model": {"name": "mlp", "hidden": [16]}, "dataset": OWN["dataset"]}
FUSED = {
    "model": "own_models.py:dropout",
    "precision": "fp64",
    "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True, "fused": True},
}
STREAMED = {"workers": 0, "resident": False}


def cell(strategy: str, gpus: int = 1, workload: dict[str, Any] = SMALL, **sweep: Any) -> dict[str, Any]:
    """Return what changes in a cell: two passes over 90 samples, 16 at a time, so that the last batch is smaller."""
    return {
        "workload": workload,
        "goal": {"target_accuracy": 0.999, "max_epochs": 2},
        "sweep": {"strategy": [strategy], "gpus": [gpus], "learning_rate": [0.1], "global_batch_size": [16]} | sweep,
    }


CELLS = {
    "single": cell(
        "single", micro_batch_size=8, workload=OWN | {"model": "own_models.py:dropout", "loading": STREAMED}
    ),
    "sync-ddp": cell("sync-ddp", 2, workload=OWN | {"model": "own_models.py:batchnorm"}),
    "bf16-wire": cell("bf16-wire", 2) | {"strategy": {"bf16-wire": {"bucket_mib": 0.001}}},
    "fsdp": cell("fsdp", 2),
    "model-split": cell("model-split", 2),
    "local-sgd": cell("local-sgd", 2),
    "async-ps": cell("async-ps", 2),
    "fused": cell("single", workload=OWN | FUSED, micro_batch_size=8),
}
REPLAYED = {"step": "cuda-graph"}
"""Of the cell "fused", on the fake GPU: a CPU has no graphs."""

MEETING = ("sync-ddp", "fsdp", "model-split", "local-sgd")
"""Without `bf16-wire`: on a CPU a thread exchanges its buckets, in a group of their own, beside everything else."""

AT_MARKS = frozenset(
    (
        *("engines/real/clock.py:wait", "engines/real/clock.py:_synchronise_clocks"),
        *("engines/real/clock.py:_read_losses", "engines/real/endpoints.py:_all_finite"),
        *("engines/real/endpoints.py:_agree", "engines/real/endpoints.py:finish"),
        *("workloads/losses.py:evaluate", "workloads/losses.py:result", "workloads/losses.py:_has_ignored"),
        "engines/shared/displacement.py:_moved",
    )
)
"""Places of the product that may wait for the device while the clock stands, or once all has been done."""

OF_REPLICAS = frozenset(("engines/shared/replica.py:convert", "engines/real/layouts/assemble.py:bring"))
"""A model is built for evaluation from the parts that it is spread over."""


@pytest.fixture(scope="module")
def ran() -> dict[str, Any]:
    """Run all cells on the CPU and on the fake GPU, in a process whose children have both."""
    path = os.pathsep.join(str(folder) for folder in (ROOT, TESTS, TESTS / "fakegpu"))
    environment = {name: value for name, value in os.environ.items() if name != "FAKE_GPU_LOG"}
    traced = {"single": {"trace": 100}}
    asked = {name: {"cell": changes, "options": traced.get(name, {})} for name, changes in CELLS.items()}
    asked["fused"]["workload"] = REPLAYED
    done = subprocess.run(
        [sys.executable, str(TESTS / "fakegpu" / "run_cells.py"), json.dumps(asked)],
        env=environment | {"PYTHONPATH": path},
        cwd=TESTS / "models",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    for name, results in found.items():
        for device, result in results.items():
            assert "failure" not in result, (name, device, result, done.stderr)
    return found


def notes_of(ran: dict[str, Any], name: str, device: str = "fakegpu:0") -> dict[str, list[list[Any]]]:
    """Return what each process noted."""
    notes: dict[str, list[list[Any]]] = ran[name][device]["notes"]
    return notes


def training(notes: list[list[Any]]) -> list[list[Any]]:
    """Return what was noted once training began: peaks are forgotten just before. A server has none."""
    began = next((k for k, note in enumerate(notes) if note[:2] == ["memory", "reset_peak_memory_stats"]), -1)
    return notes[began + 1 :]


def losses(result: dict[str, Any]) -> dict[tuple[int, int, int], float]:
    """Return the loss of each row."""
    steps = result["steps"]
    return dict(zip(zip(steps["worker"], steps["device"], steps["step"], strict=True), steps["loss"], strict=True))


@pytest.mark.parametrize("name", [name for name in CELLS if name not in ("async-ps", "fused")])
def test_a_device_with_a_queue_trains_to_the_same_weights(ran, name):
    cpu, gpu = ran[name]["cpu"], ran[name]["fakegpu:0"]
    assert gpu["weights"] == cpu["weights"]
    assert gpu["evaluations"] == cpu["evaluations"]
    assert gpu["test"] == cpu["test"]
    here, there = losses(cpu), losses(gpu)  # a row that begins behind the last mark is left out, here or there
    assert len(here.keys() & there.keys()) > 10
    assert {key: here[key] for key in here.keys() & there.keys()} == {k: there[k] for k in here.keys() & there.keys()}
    assert {span[0] for span in gpu["spans"]} >= ({"forward", "backward", "apply"} if name == "single" else set())


def test_two_workers_share_a_device_and_the_server_evaluates_on_it(ran):
    gpu = ran["async-ps"]["fakegpu:0"]
    assert gpu["targets"] == ["fakegpu:0", "fakegpu:0", "cpu"]
    assert gpu["updates"] == ran["async-ps"]["cpu"]["updates"]
    assert all(loss is not None for _, loss, _ in gpu["evaluations"])
    server = notes_of(ran, "async-ps")["server"]
    assert {"workloads/losses.py:evaluate", "engines/shared/flat.py:on"} <= {note[-1] for note in server}
    assert "record" not in {note[0] for note in server}  # its own work is timed on the host


@pytest.mark.parametrize("name", CELLS)
def test_nothing_is_left_behind_by_a_copy_that_nobody_waits_for(ran, name):
    careless = [note for notes in notes_of(ran, name).values() for note in training(notes) if note[0] == "careless"]
    assert careless == []


@pytest.mark.parametrize("name", ["single", "sync-ddp", "fsdp", "model-split", "fused"])
def test_no_step_makes_the_host_wait(ran, name):
    for notes in notes_of(ran, name).values():
        places = Counter(note[-1] for note in training(notes) if note[0] == "wait")
        ours = {place for place in places if place} - AT_MARKS - OF_REPLICAS
        assert ours == set(), places


def test_a_worker_waits_for_its_device_once_for_each_value_that_it_sends_or_takes(ran):
    for name, notes in notes_of(ran, "async-ps").items():
        if name.startswith("worker"):
            waits = Counter((note[1], note[-1]) for note in training(notes) if note[0] == "wait")
            sent = waits["_local_scalar_dense", "engines/real/messages.py:_send_value"]  # the loss, with each of them
            assert sent > 3
            assert waits["from the device", "engines/real/messages.py:_send_value"] == sent  # many parameters, one copy
            assert abs(waits["to the device", "engines/shared/flat.py:<listcomp>"] - sent) <= 1


@pytest.mark.parametrize("name", CELLS)
def test_calls_to_the_device_come_in_order(ran, name):
    for process, notes in notes_of(ran, name).items():
        if process == "server":
            continue
        kinds = [note[1] if note[0] in ("memory", "wait") else note[0] for note in notes]
        assert kinds[0] == "set_device"  # before a group is joined: NCCL takes the current device
        assert "group" not in kinds or kinds.index("group") > 0
        empty, reset = kinds.index("empty_cache"), kinds.index("reset_peak_memory_stats")
        assert empty < kinds.index("record") < reset  # what set-up left is given back, then comes the warm-up
        assert kinds[reset + 1 : reset + 4] == [
            "synchronize",
            "record",
            "event.synchronize",
        ]  # clocks are tied together
        for place, kind in enumerate(kinds):
            if kind == "max_memory_allocated":
                # The device has come to its end, and all stamps are read, before anybody asks what training took.
                assert "synchronize" in kinds[place - 6 : place]


@pytest.mark.parametrize("name", ["single", "sync-ddp", "fsdp", "model-split", "local-sgd"])
def test_what_training_took_is_asked_before_an_evaluation_and_forgotten_behind_it(ran, name):
    found = notes_of(ran, name)
    notes = training(found.get("worker 0") or found["rank 0"])
    order = [
        "evaluate" if note[-1] == "workloads/losses.py:evaluate" else note[1]
        for note in notes
        if (note[0] == "memory" and "storage" not in note[1]) or note[-1] == "workloads/losses.py:evaluate"
    ]
    mark = ["max_memory_allocated", "max_memory_reserved", "evaluate", "reset_peak_memory_stats"]
    assert order[:4] == mark
    assert set(order) == set(mark)
    peaks = ran[name]["fakegpu:0"]["allocator"]
    parameters = 4 * len(ran[name]["cpu"]["weights"])
    assert peaks["reserved"] >= peaks["allocated"] > parameters / 2  # a stage, or a shard, holds half of them


@pytest.mark.parametrize("name", MEETING)
def test_processes_exchange_the_same_in_the_same_order_as_on_the_cpu(ran, name):
    def exchanges(device: str) -> dict[str, list[list[Any]]]:
        found = notes_of(ran, name, device)
        return {who: [note[1:3] for note in notes if note[0] == "collective"] for who, notes in found.items()}

    assert exchanges("fakegpu:0") == exchanges("cpu")
    assert all(len(found) > 10 for found in exchanges("cpu").values())


def test_events_stand_before_and_behind_the_work_that_they_time(ran):
    """An event's moment is the number of operations before it, so that a part's seconds count its operations."""
    steps = ran["single"]["fakegpu:0"]["steps"]
    full = [k for k, samples in enumerate(steps["samples"]) if samples == 16]
    for part in ("compute_s", "input_s"):
        counts = {round(steps[part][k] * 1e6) for k in full}
        assert len(counts) == 1, part
    (input_ops,), (compute_ops,) = ({round(steps[part][k] * 1e6) for k in full} for part in ("input_s", "compute_s"))
    # Two micro-batches: their inputs and targets are copied. Forward, backward and optimizer of three layers are more.
    assert input_ops == 4
    assert compute_ops > 40
    assert [round(steps["communication_s"][k] * 1e6) for k in full] == [0] * len(full)


@pytest.mark.parametrize("name", ["single", "sync-ddp", "fsdp"])
def test_the_parts_of_a_step_are_no_more_than_the_step(ran, name):
    """Counted in operations: what is called waiting has been taken out of computing."""
    steps = ran[name]["fakegpu:0"]["steps"]
    parts = [key for key in steps if key in ("input_s", "compute_s", "communication_s", "idle_s")]
    mine = [k for k in range(len(steps["step"])) if (steps["worker"][k], steps["device"][k]) == (0, 0)]
    counted = 0
    for this, following in itertools.pairwise(mine):
        operations = 1e6 * (steps["start_s"][following] - steps["start_s"][this])
        if abs(operations - round(operations)) > 1e-3:
            continue  # a mark lies between them, at which the device's clock is tied anew to the host's
        counted += 1
        assert 0 < 1e6 * sum(steps[part][this] for part in parts) < operations + 0.5
        assert min(steps[part][this] for part in parts) > -1e-9  # sums and differences are rounded
    assert counted > 2


def test_a_step_recorded_as_graphs_computes_what_an_eager_one_does(ran):
    """In each step other samples, and other masks of dropout; the last batch of a pass is computed eagerly."""
    cpu, gpu = ran["fused"]["cpu"], ran["fused"]["fakegpu:0"]
    # A graph reads its rate from the device, where torch's kernels want it in float32: 0.1 is 1.5e-9 more there.
    assert gpu["weights"] == pytest.approx(cpu["weights"], abs=1e-7)
    here, there = losses(cpu), losses(gpu)
    assert {k: there[k] for k in here.keys() & there.keys()} == pytest.approx(
        {k: here[k] for k in here.keys() & there.keys()}, abs=1e-7
    )
    (notes,) = notes_of(ran, "fused").values()
    kinds = Counter(note[0] for note in training(notes))
    steps, last = gpu["updates"], 2
    assert kinds["replay"] == 2 * (steps - last) + steps  # two micro-batches, and the update
    assert "capture" not in kinds  # all is recorded before the clock starts
