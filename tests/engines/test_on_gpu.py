"""What only a GPU can show: `pytest -m gpu`. Each test names the rows of docs/gpu.md that it bears out."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cells import make_cell
from lazy import lazy
from places import TESTS
from trained import FP64, difference, real

from harness.analysis.cell_row import speed_row, time_row
from harness.core.endings import Status
from harness.core.nvidia_driver import opened, visible_gpus
from harness.core.outcome import Outcome
from harness.engines.processes.launch import run_cell
from harness.engines.processes.status import StatusBoard, StatusLine

torch = lazy("torch")
clock = lazy("harness.engines.real.clock")
single_times = lazy("harness.engines.calibration.single_times")

pytestmark = [pytest.mark.gpu, pytest.mark.dist]

FEW = {"goal": {"target_accuracy": "none", "max_steps": 40}, "sweep__learning_rate": [0.05]}
CPU, GPU = {"device": "cpu"}, {"device": "cuda"}
GIB = 2**30


@pytest.fixture(autouse=True)
def a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")


def trained(strategy: str, **changes: Any) -> Outcome:
    return real(strategy, **(FEW | changes))


def test_single_trains_on_a_gpu_as_on_a_cpu(record_property):
    record_property("confirms", "same-numbers")
    there, here = (trained("single", workload=FP64, **device) for device in (GPU, CPU))
    assert difference(there, here) < 1e-9
    assert there.samples == here.samples


def test_the_parts_of_a_step_are_timed_by_events_and_add_up(record_property):
    record_property("confirms", "event-times")
    cell = make_cell(engine="real", sweep__strategy="single", **(FEW | GPU | {"goal__max_steps": 400}))
    outcome = run_cell(cell).outcome
    parts = time_row(cell, outcome)
    assert parts["compute_s"] > 0
    total = sum(parts[key] for key in ("input_s", "compute_s", "communication_s", "idle_s", "other_s"))
    assert total == pytest.approx(outcome.training_s, rel=1e-6)
    starts = outcome.steps["start_s"]
    assert starts == sorted(starts)
    assert speed_row(cell, outcome)["step_time_s"] == pytest.approx(outcome.training_s / 400, rel=0.5)


def test_the_time_between_events_has_a_sign(record_property):
    record_property("confirms", "event-order")
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    matrix = torch.ones(2048, 2048, device="cuda")
    first.record()
    for _ in range(20):
        matrix = matrix @ matrix
    last.record()
    torch.cuda.synchronize()
    assert first.elapsed_time(last) > 0
    assert last.elapsed_time(first) == pytest.approx(-first.elapsed_time(last))


def test_events_are_tied_to_the_hosts_clock(record_property):
    record_property("confirms", "event-clock")
    status = StatusLine(StatusBoard(1).descriptor, 0, 1)
    ledger = clock.Ledger(torch.device("cuda", 0), 0, 0, status)
    ledger.start(ledger.clock())
    away = []
    for _ in range(20):
        time.sleep(0.01)
        stamp, now = ledger.stamp(), ledger.clock()
        ledger.wait()
        away.append(abs(ledger._on_host(stamp) - now))
    assert sorted(away)[10] < 2e-4


def test_no_step_makes_the_host_wait(record_property):
    record_property("confirms", "host-runs-ahead")
    record_property("confirms", "pinned-copies")
    cell = make_cell(engine="real", sweep__strategy="single", **(FEW | GPU))
    (stepper,) = single_times.prepare(cell, [], [cell.global_batch_size])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            gradient = single_times.answer_of(stepper.worker.gradient(next(stepper.batches)))
            single_times.answer_of(stepper.worker.apply(gradient))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stepper.worker.ledger.resolve()
    assert all(row["loss"] < 10 for row in stepper.worker.ledger.rows)


def test_dropout_draws_the_same_in_each_run(record_property):
    record_property("confirms", "own-generator")
    workload = {"model": f"{TESTS}/models/own_models.py:dropout", "dataset": {"name": "synthetic", "size": 8}}
    first, second = (trained("single", workload=workload, **GPU).steps["loss"] for _ in range(2))
    assert first[:5] == pytest.approx(second[:5], rel=1e-4)
    assert first[0] != first[1]


def test_data_is_read_ahead_beside_a_started_gpu(record_property):
    record_property("confirms", "fork-readers")
    loading = {"workers": 1, "resident": False}
    workload = {"model": "mlp", "dataset": {"name": "synthetic", "size": 8}, "loading": loading}
    assert trained("single", workload=workload, **GPU).updates == 40


def test_a_cpu_cell_leaves_the_gpu_alone(record_property):
    record_property("confirms", "cpu-stays-cpu")

    def used() -> int:
        with opened() as nvml:
            return int(nvml.nvmlDeviceGetMemoryInfo(visible_gpus(nvml)[0]).used)

    workload = {"model": f"{TESTS}/models/own_models.py:dropout", "dataset": {"name": "synthetic", "size": 8}}
    cell = make_cell(engine="real", sweep__strategy="single", workload=workload, **(FEW | CPU))
    before, during = used(), []
    assert run_cell(cell, on_start=lambda targets: during.append(used())).finished
    assert during[0] - before < 100 * 2**20  # a context takes several times as much


def test_the_allocators_peaks_are_those_of_training(record_property):
    record_property("confirms", "allocator-peaks")
    outcome = trained("single", **GPU)
    assert 0 < outcome.allocator["allocated"] <= outcome.allocator["reserved"] < GIB


def test_bf16_computes_under_autocast_and_learns(record_property):
    record_property("confirms", "autocast-types")
    outcome = trained("single", workload={"model": "mlp", "precision": "bf16"}, **GPU)
    losses = outcome.steps["loss"]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_two_asynchronous_workers_share_one_gpu(record_property):
    record_property("confirms", "two-processes-one-gpu")
    outcome = trained("async-ps", sweep__gpus=[2], **GPU)
    assert set(outcome.updates_log["worker"]) == {0, 1}
    assert outcome.updates >= 40


def test_workers_that_stand_still_on_a_gpu_go_on_behind_an_evaluation_there(record_property):
    record_property("confirms", "standstill")
    goal = {"goal": {"target_accuracy": 0.999, "max_epochs": 1}}
    outcome = trained("async-ps", sweep__gpus=[2], **(goal | GPU))
    assert len(outcome.evaluations) > 1
    assert set(outcome.updates_log["worker"]) == {0, 1}


def test_evaluations_on_a_gpu_find_what_those_on_a_cpu_find(record_property):
    record_property("confirms", "evaluation-of-copies")
    goal = {"goal": {"target_accuracy": 0.99, "max_epochs": 1}}
    there, here = (trained("single", workload=FP64, **(goal | device)) for device in (GPU, CPU))
    found = [[e.validation_metric for e in outcome.evaluations] for outcome in (there, here)]
    assert found[0] == pytest.approx(found[1])


def test_a_model_that_asks_for_too_much_ends_as_out_of_memory(record_property, tmp_path):
    record_property("confirms", "out-of-memory")
    (tmp_path / "greedy.py").write_text(
        "import torch\n"
        "class Greedy(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        if x.is_cuda and len(x) > 8:\n"
        "            torch.empty(2**43, dtype=torch.uint8, device=x.device)\n"
        "        return super().forward(x.flatten(1))\n"
        "def build(classes):\n"
        "    return Greedy(64, classes)\n"
    )
    model = {"model": f"{tmp_path}/greedy.py:build"}
    result = run_cell(make_cell(engine="real", sweep__strategy="single", workload=model, **(FEW | GPU)))
    assert result.status is Status.OUT_OF_MEMORY, result.reason


def test_nvml_means_the_gpu_that_cuda_means(record_property):
    record_property("confirms", "visible-devices")
    seen = torch.cuda.get_device_properties(0)
    with opened() as nvml:
        handle = visible_gpus(nvml)[0]
        assert nvml.nvmlDeviceGetName(handle) == seen.name
        assert nvml.nvmlDeviceGetMemoryInfo(handle).total == pytest.approx(seen.total_memory, rel=0.05)
        uuid = nvml.nvmlDeviceGetUUID(handle)
    assert str(seen.uuid) in uuid


NCCL = """
import sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
device = torch.device("cuda", 0)
torch.cuda.set_device(device)
store = dist.FileStore(sys.argv[1], 1)
dist.init_process_group("nccl", store=store, rank=0, world_size=1, device_id=device)
ones = torch.ones(4, device=device)
dist.all_reduce(ones)
assert ones.tolist() == [1.0] * 4
inputs = torch.randn(8, 16, device=device)
replicated = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(16, 4).to(device), device_ids=[0])
replicated(inputs).sum().backward()
sharded = fully_shard(torch.nn.Linear(16, 4).to(device), mesh=init_device_mesh("cuda", (1,)))
sharded(inputs).sum().backward()
del replicated, sharded
dist.barrier()
dist.destroy_process_group()
print("done")
"""


def test_nccl_starts_and_ends_with_ddp_and_fully_shard(record_property, tmp_path: Path):
    """With one rank: what more of them do needs more GPUs."""
    record_property("confirms", "nccl-one-rank")
    command = [sys.executable, "-c", NCCL, str(tmp_path / "rendezvous")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("done"), done.stderr


@pytest.mark.parametrize("step", ["cuda-graph", "compiled"])
def test_steps_that_are_executed_otherwise_train_as_eager_ones(record_property, step):
    record_property("confirms", f"{step}-steps")
    exact = GPU | {"sweep__learning_rate": [2**-4]}  # in single precision too, in which a graph reads it
    other, eager = (trained("single", workload=FP64 | {"step": word}, **exact) for word in (step, "eager"))
    assert difference(other, eager) < 1e-9
