"""What torch says of its commonest errors, raised by torch itself, and what is advised; and whose such an error is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cells import make_cell
from lazy import lazy

from harness.core.endings import Cause
from harness.engines.processes.blame import explain, print_blamed
from harness.engines.processes.launch import run_cell
from harness.engines.processes.torch_errors import MENDS, mending

torch = lazy("torch")


def changed_in_place() -> None:
    x = torch.ones(2, requires_grad=True)
    y = x.exp()
    y += 1
    y.sum().backward()


def twice_backward() -> None:
    y = torch.ones(2, requires_grad=True).exp().sum()
    y.backward()
    y.backward()


def without_storage() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        torch.ones(2).sum().item()


def several_types() -> None:
    torch.nn.Linear(2, 2)(torch.ones(1, 2, dtype=torch.float64))


def several_devices() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        torch.empty(2, device="cuda") + torch.empty(2, device="cpu")


def cannot_be_pickled() -> None:
    import multiprocessing

    multiprocessing.get_context("spawn").Process(target=lambda: None).start()


def in_the_loader() -> None:
    import pickle

    pickle.dumps(lambda: None)


def mixed_with_a_shard() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    with alone():
        torch.ones(2) + distribute_tensor(torch.ones(2), init_device_mesh("cpu", (1,)))


def nothing_for_ddp() -> None:
    with alone():
        torch.nn.parallel.DistributedDataParallel(torch.nn.ReLU())


def unused_in_ddp() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            return self.used(x)

    with alone():
        module = torch.nn.parallel.DistributedDataParallel(Net())
        for _ in range(2):
            module(torch.ones(1, 2)).sum().backward()


def twice_ready() -> None:
    from torch.utils.checkpoint import checkpoint

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.again, self.first = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            x = self.first(x)
            for _ in range(2):
                x = checkpoint(self.again, x, use_reentrant=True)
            return x

    with alone():
        module = torch.nn.parallel.DistributedDataParallel(Net())  # kept: its hooks go with it
        module(torch.ones(1, 2)).sum().backward()


def lazy_in_ddp() -> None:
    with alone():
        torch.nn.parallel.DistributedDataParallel(torch.nn.LazyLinear(2))


class alone:  # reads as a word
    """A process group of one."""

    def __enter__(self) -> None:
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)

    def __exit__(self, *_: object) -> None:
        torch.distributed.destroy_process_group()


RAISED: dict[str, list[Callable[[], object]]] = {
    "unused parameters": [unused_in_ddp],
    "marked twice": [twice_ready],
    "changed in place": [changed_in_place],
    "one value per channel": [lambda: torch.nn.BatchNorm1d(3)(torch.ones(1, 3))],
    "no graph": [lambda: torch.ones(2).sum().backward()],
    "sizes of a product": [lambda: torch.nn.Linear(3, 2)(torch.ones(1, 2))],
    "several devices": [several_devices],
    "several types": [
        several_types,
        lambda: torch.nn.Conv2d(1, 1, 1)(torch.ones(1, 1, 2, 2, dtype=torch.float64)),
    ],
    "nothing for DDP": [nothing_for_ddp],
    "tensor and shard": [mixed_with_a_shard],
    "second backward": [twice_backward],
    "target too large": [lambda: torch.nn.functional.cross_entropy(torch.ones(1, 3), torch.tensor([10]))],
    "targets of pixels": [
        lambda: torch.nn.functional.cross_entropy(torch.ones(1, 3, 2, 2), torch.zeros(1, 1, 1, 2, 2).long()),
        lambda: torch.nn.functional.cross_entropy(torch.ones(1, 3, 2, 2), torch.zeros(1, 2).long()),
        lambda: torch.nn.functional.cross_entropy(torch.ones(2, 3), torch.ones(2, 3).long()),
    ],
    "cannot be pickled": [cannot_be_pickled, in_the_loader],
    "not initialised": [lazy_in_ddp, lambda: torch.nn.LazyLinear(2).weight.numel()],
    "values that a trace has not": [without_storage],
    "weights of another shape": [
        lambda: torch.nn.Linear(2, 2).load_state_dict(torch.nn.Linear(3, 2).state_dict()),
    ],
    "index of an embedding": [lambda: torch.nn.Embedding(2, 2)(torch.tensor([5]))],
    "view": [lambda: torch.ones(2, 3).t().view(6)],
    "shapes that do not fit": [
        lambda: torch.ones(2) + torch.ones(3),
        lambda: torch.ones(4).reshape(3),
        lambda: torch.cat([torch.ones(1, 2), torch.ones(1, 3)]),
        lambda: torch.nn.Conv2d(3, 4, 1)(torch.ones(1, 1, 2, 2)),
    ],
}


@pytest.mark.parametrize(
    ("what", "call"),
    [(what, call) for what, calls in RAISED.items() for call in calls],
    ids=[f"{what}-{number}" for what, calls in RAISED.items() for number, _ in enumerate(calls)],
)
def test_torch_still_says_what_we_know(what, call):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    assert mending(caught.value) == MENDS[what].text, f"{type(caught.value).__name__}: {caught.value}"


SAID = {
    "shared under FSDP": "FSDP requires shared parameters to be in one FSDP unit",
    "assertion on the device": "CUDA error: device-side assert triggered",
    "collective in time": "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3, OpType=ALLREDUCE)",
    "not in one piece": "input tensor has to be contiguous",
}


@pytest.mark.parametrize("what", sorted(set(MENDS) - set(RAISED)))
def test_what_only_a_gpu_or_several_processes_raise_is_known_by_its_words(what):
    assert mending(RuntimeError(SAID[what])) == MENDS[what].text


CONTIGUOUS = """
import sys, torch, torch.distributed as dist
rank = int(sys.argv[1])
dist.init_process_group("gloo", store=dist.FileStore(sys.argv[2], 2), rank=rank, world_size=2)
from harness.engines.processes.torch_errors import MENDS, mending
try:
    dist.send(torch.ones(2, 3).t(), 1) if rank == 0 else dist.recv(torch.ones(2, 3).t(), 0)
except Exception as error:
    print(mending(error) == MENDS["not in one piece"].text, error)
"""


@pytest.mark.dist
def test_gloo_still_says_that_a_tensor_is_not_in_one_piece(tmp_path):
    command = [sys.executable, "-c", CONTIGUOUS]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [process.communicate(timeout=60)[0] for process in ranks]
    assert [line.split(" ")[0] for line in said] == ["True", "True"], said


def test_an_error_that_nobody_knows_has_no_advice():
    assert mending(KeyError("nothing")) == ""
    assert len(MENDS) >= 20


def test_advice_is_found_behind_an_error_of_a_library():
    def stage() -> None:
        try:
            torch.nn.Linear(3, 2)(torch.ones(1, 2))
        except RuntimeError as error:
            raise RuntimeError("failed to run stage 1") from error

    with pytest.raises(RuntimeError) as caught:
        stage()
    assert mending(caught.value) == MENDS["sizes of a product"].text


# -- whose it is -------------------------------------------------------------------------------------------------------


def test_what_torch_raises_under_a_model_of_the_users_is_his_models(monkeypatch):
    monkeypatch.setattr("harness.engines.processes.blame._PACKAGE", __file__)  # as if this file ran his model
    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(3, 2)(torch.ones(1, 2))
    ours = explain(caught.value, [])
    assert ours.cause is Cause.HARNESS
    his = explain(caught.value, [], his="train.py:build")
    assert his.cause is Cause.USER
    assert his.reason == (
        "train.py:build: RuntimeError: mat1 and mat2 shapes cannot be multiplied (1x2 and 3x2)\n"
        f"  {MENDS['sizes of a product'].text}"
    )


def test_what_a_frame_of_ours_raises_is_ours_whatever_model_ran(monkeypatch):
    monkeypatch.setattr("harness.engines.processes.blame._PACKAGE", __file__)
    with pytest.raises(KeyError) as caught:
        {}["nothing"]
    assert explain(caught.value, [], his="train.py:build").cause is Cause.HARNESS


BROKEN = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.training and self.calls > {}:
            self.layer.weight.data = self.layer.weight.data[:, :3]
        return self.layer(x.flatten(1))


def build():
    return Net()
"""


@pytest.mark.parametrize("engine", ["virtual", pytest.param("real", marks=pytest.mark.dist)])
def test_a_model_that_fails_names_its_line_and_what_mends_it_and_the_log_ends_there(tmp_path, engine):
    (tmp_path / "train.py").write_text(BROKEN.format(6))
    data = {"name": "synthetic", "samples": 128, "test_samples": 32, "size": 4, "classes": 3}
    cell = make_cell(
        engine=engine,
        workload={"model": f"{tmp_path}/train.py:build", "dataset": data},
        goal={"target_accuracy": "none", "max_steps": 30},
        sweep__strategy="single",
    )
    log = tmp_path / "log.txt"
    result = run_cell(cell, log=str(log))
    line = next(number for number, text in enumerate(BROKEN.splitlines(), 1) if "return self.layer(" in text)
    assert (result.status, result.cause) == ("crashed", "user"), result.reason
    assert f"{tmp_path}/train.py:{line}: RuntimeError: mat1 and mat2" in result.reason
    assert result.reason.endswith(MENDS["sizes of a product"].text)
    assert result.failure.raised_at == (f"{tmp_path}/train.py", line)
    assert log.read_text().rstrip().splitlines()[-1].startswith("RuntimeError: mat1 and mat2")


def test_a_traceback_ends_at_the_users_line_where_the_error_is_his(tmp_path, capsys, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text("def go(call):\n    call()\n")
    names: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    monkeypatch.setattr("harness.engines.processes.blame._PACKAGE", __file__)

    def below() -> None:
        raise AttributeError("no such word")

    with pytest.raises(AttributeError) as caught:
        names["go"](below)
    print_blamed(caught.value, explain(caught.value, [str(path)]), [str(path)])
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1] == "AttributeError: no such word"
    assert Path(printed[-3].split('"')[1]) == path
    print_blamed(caught.value, explain(caught.value, []), [])
    assert "in below" in capsys.readouterr().err
