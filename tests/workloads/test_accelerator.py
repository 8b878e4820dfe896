"""What is asked of a device, by whom, and what becomes of the answers; `test_fake_gpu.py` runs the whole of it."""

from __future__ import annotations

import ast
import os
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from cells import make_cell
from lazy import lazy
from places import ROOT

from harness.core.machine import Machine
from harness.core.text import Text

torch = lazy("torch")
accelerator = lazy("harness.workloads.accelerator")
clock = lazy("harness.engines.real.clock")
endpoints = lazy("harness.engines.real.endpoints")
flat = lazy("harness.engines.shared.flat")
keeping = lazy("harness.engines.shared.keeping")

ONLY_HERE = "harness/workloads/accelerator.py"
CODE = [path for folder in ("harness", "plugins") for path in (ROOT / folder).rglob("*.py")]


# -- who names CUDA ----------------------------------------------------------------------------------------------------


def names_cuda(tree: ast.AST) -> list[int]:
    """Return the lines that name torch.cuda, or ask of a tensor's device whether it is CUDA's."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.expr | ast.stmt) and _names_cuda(node)]


def _names_cuda(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="torch"), attr="cuda") | ast.Call(func=ast.Attribute(attr="cuda")):
            return True
        case ast.Import(names=names):
            return any(f"{alias.name}.".startswith("torch.cuda.") for alias in names)
        case ast.ImportFrom(module=str(module), names=names):
            return any(f"{module}.{alias.name}.".startswith("torch.cuda.") for alias in names)
        case ast.Compare(left=left, comparators=others):
            parts = [left, *others]
            asks = any(isinstance(part, ast.Attribute) and part.attr == "type" for part in parts)
            return asks and any(isinstance(part, ast.Constant) and part.value == "cuda" for part in parts)
    return False


def test_one_file_names_cuda():
    where = {str(path.relative_to(ROOT)) for path in CODE if names_cuda(ast.parse(path.read_text(encoding="utf-8")))}
    assert where == {ONLY_HERE}


@pytest.mark.parametrize(
    "line",
    [
        *("torch.cuda.synchronize()", "import torch.cuda", "from torch import cuda", "from torch.cuda import Event"),
        *("tensor.cuda()", "x = device.type == 'cuda'", "x = 'cuda' != self.device.type"),
    ],
)
def test_the_reader_sees_each_way_to_name_it(line):
    assert names_cuda(ast.parse(line)) == [1]
    assert names_cuda(ast.parse("cell.device == 'cuda'; device.type != 'cpu'; torch.backends.cuda.matmul")) == []


# -- a CPU is asked nothing --------------------------------------------------------------------------------------------


def test_a_cpu_has_no_queue_no_peaks_and_no_generator_of_its_own():
    cpu, tensor = torch.device("cpu"), torch.zeros(2)
    assert not accelerator.has_queue(cpu)
    assert accelerator.upload(tensor, cpu) is tensor
    assert accelerator.peak_bytes(cpu) == {}
    assert accelerator.generator_state(cpu) == b""
    for ask in (accelerator.wait_for, accelerator.forget_peaks, accelerator.give_back_unused):
        assert ask(cpu) is None


def test_a_value_is_itself_where_it_is_already():
    value = flat.Flat([torch.ones(3)], torch.ones(1), num_samples=4, version=2)
    assert value.on(torch.device("cpu")) is value
    moved = value.on(torch.device("meta"))
    assert (moved.tensor().device.type, moved.buffers.device.type) == ("meta", "meta")
    assert (moved.num_samples, moved.version) == (4, 2)


# -- a device with a queue ---------------------------------------------------------------------------------------------


class Event:
    """Recorded at a time of the device's own clock, in milliseconds."""

    now_ms = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Event.now_ms += 10.0
        self.at = Event.now_ms

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


@pytest.fixture
def ledger(monkeypatch) -> Any:
    """Return the ledger of a device that is none: every event comes 10 ms after the last one."""
    waits: list[object] = []
    module = SimpleNamespace(Event=Event, synchronize=waits.append)
    monkeypatch.setattr("harness.engines.real.clock.module_of", lambda device: module)
    made = clock.Ledger(SimpleNamespace(type="none"), 0, 0, SimpleNamespace(clock=time.monotonic, stood_s=lambda: 0.0))
    made.waits = waits
    made.start(0.0)
    return made


def test_a_ledger_reads_events_at_marks_only(ledger):
    from harness.core.step_parts import Part

    before = len(ledger.waits)
    row = ledger.begin(0, 0)
    with ledger.span(Part.COMPUTE):
        pass
    assert row["compute_s"] == 0.0
    assert len(ledger.waits) == before
    ledger.resolve()
    assert row["compute_s"] == pytest.approx(0.01)
    assert len(ledger.waits) > before


def test_losses_are_read_in_one_copy_and_as_they_were(ledger, monkeypatch):
    values = [0.1, 2.5, float("inf")]
    for step, value in enumerate(values):
        ledger.begin(step, 0)["loss"] = torch.tensor(value, dtype=torch.float64)
    ledger.begin(3, 0)  # a row without a loss
    copies: list[int] = []
    real = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(len(tensor)) or real(tensor))
    assert ledger.resolve() > 0
    assert [row["loss"] for row in ledger.rows] == [*values, None]
    assert copies == [3]
    ledger.resolve()
    assert copies == [3]  # those that are new since then only


def test_what_an_evaluation_reserved_does_not_count(monkeypatch):
    answers = iter(
        [{"allocated": 5, "reserved": 8}, {"allocated": 6, "reserved": 90}, {"allocated": 9, "reserved": 90}]
    )
    monkeypatch.setattr("harness.engines.real.endpoints.peak_bytes", lambda device: next(answers))
    asked = SimpleNamespace(peaks={}, replica=SimpleNamespace(device=None))
    for expected in ((5, 8), (6, 8), (9, 9)):
        endpoints.RealEndpoint.note_peak(asked)
        assert (asked.peaks["allocated"], asked.peaks["reserved"]) == expected


def test_a_cpu_has_no_peaks(monkeypatch):
    asked = SimpleNamespace(peaks={}, replica=SimpleNamespace(device=torch.device("cpu")))
    endpoints.RealEndpoint.note_peak(asked)
    assert asked.peaks == {}


def test_processes_that_share_a_gpu_share_the_room_for_data(monkeypatch):
    monkeypatch.setattr("harness.workloads.accelerator.memory_bytes", lambda device: 100.0)
    monkeypatch.setattr(
        "harness.workloads.accelerator.module_of", lambda device: SimpleNamespace(device_count=lambda: 1)
    )
    alone, shared = make_cell(sweep__strategy=["single"]), make_cell(sweep__strategy=["async-ps"], sweep__gpus=[2])
    assert keeping.room_bytes(alone, "cuda:0") == keeping.SHARE * 100
    assert (
        keeping.room_bytes(shared, "cuda:0") == keeping.SHARE * 100 / 3
    )  # two workers, and where the server evaluates


# -- before any device is used -----------------------------------------------------------------------------------------


def test_the_first_server_looks_for_gpus_without_starting_cuda(monkeypatch):
    from harness.engines.processes import serving

    seen: list[str | None] = []
    variable = "PYTORCH_NVML_BASED_CUDA_CHECK"
    monkeypatch.delenv(variable, raising=False)
    with monkeypatch.context() as patched:
        patched.setattr(serving.importlib, "import_module", lambda name: seen.append(os.environ.get(variable)))
        patched.setattr(serving.forkserver, "main", lambda *_: None)
        with pytest.raises(SystemExit):
            serving.serve(0, 0)
    assert seen == ["1"] * len(serving.PRELOADED)
    assert variable not in os.environ


def test_each_rank_has_a_device_and_a_server_evaluates_on_the_first():
    from harness.engines.processes.launch import _Supervisor

    cell = replace(make_cell(sweep__strategy=["async-ps"], sweep__gpus=[2]), device="cuda")
    for present, expected in ((1, ["cuda:0", "cuda:0", "cpu"]), (2, ["cuda:0", "cuda:1", "cpu"])):
        supervisor = _Supervisor(cell, [], "", {}, None)
        try:
            asked: list[int] = []
            supervisor._gpus_present = lambda n=present, asked=asked: asked.append(n) or n
            jobs = supervisor._real_jobs()
            assert [job.device for job in jobs] == expected
            assert jobs[-1].evaluates_on == "cuda:0"
            assert asked == [present]  # the driver is asked once, not for each rank
        finally:
            supervisor.clean_up()


def test_only_workers_that_meet_nobody_share_a_gpu():
    """NCCL refuses two ranks on one GPU: workers share one where the server holds the model, so that none is needed."""
    from harness.scenario.placement import Hindrance, _shares_one_gpu

    def shares(**strategy: object) -> bool:
        chosen = SimpleNamespace(**({"synchrony": "asynchronous", "model_at": "server"} | strategy))
        layout = SimpleNamespace(devices=1)
        demand = SimpleNamespace(strategy=chosen, servers=1, layout=layout, device="cuda")
        return _shares_one_gpu(demand, Machine(cores=2, gpus=1), Hindrance(Text("too few"), 1))

    assert shares()
    assert not shares(model_at="worker")
    assert not shares(synchrony="synchronous")


@pytest.mark.parametrize("words", ["Cuda failure 'out of memory'", "Cuda failure 2 'out of memory'"])
def test_nccl_that_gets_no_memory_has_not_lost_a_peer(words):
    from harness.core.endings import Cause
    from harness.engines.processes.blame import explain

    said = f"NCCL error in: NCCLUtils.hpp:275, unhandled cuda error, NCCL version 2.27.5\nLast error:\n{words}"
    assert explain(torch.distributed.DistBackendError(said), []).cause is Cause.MEMORY
    other = "ncclInvalidUsage\nLast error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 10"
    assert explain(torch.distributed.DistBackendError(other), []).cause is Cause.PEER
