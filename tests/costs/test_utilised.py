"""Model FLOPs utilisation: counted by hand, and empty wherever its peak would be a guess."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cells import host, make_cell

from harness.core.cell import Cell
from harness.core.endings import Status
from harness.core.given_cluster import ClusterFigures
from harness.costs.cells import Utilisation, utilisation
from harness.executors.admission import with_utilisation
from harness.results.store import Record


def sized(precision: str = "bf16", **changes: Any) -> Cell:
    model = {"parameters": "1 B", "layers": 4, "hidden": 64, "forward_flops": 2e12}
    work = {"workload": {"model": model, "precision": precision}, "cluster": {"device": "a100"}}
    return make_cell(**{"sweep__gpus": [4], "sweep__strategy": "sync-ddp", "goal": {"max_steps": 3}} | work | changes)


def here(cell: Cell, device: str = "cuda") -> Cell:
    return replace(cell, engine="real", device=device, cluster=ClusterFigures())


def found(cell: Cell, gpu: str = "NVIDIA H200", gpus: int = 4, rate: float = 10.0) -> Utilisation:
    seen = utilisation(cell, host(), rate, gpu, gpus)
    assert seen is not None
    return seen


def test_a_simulated_device_is_measured_against_its_own_data_sheet():
    seen = found(sized(), gpu="")
    assert (seen.device, seen.arithmetic, seen.peak_flops_per_s) == ("A100-SXM4-80GB", "bf16", 312e12)
    assert seen.source == "NVIDIA A100 data sheet"
    assert seen.flops_per_sample == pytest.approx(6e12)
    assert seen.mfu == pytest.approx(6e12 * 10 / 4 / 312e12)


def test_a_real_gpu_is_found_by_what_its_driver_calls_it():
    seen = found(here(sized()))
    assert (seen.device, seen.peak_flops_per_s) == ("H200-SXM-141GB", 989.4e12)
    assert seen.mfu == pytest.approx(6e12 * 10 / 4 / 989.4e12)


def test_workers_that_share_a_gpu_share_its_peak():
    alone, shared = found(here(sized()), gpus=4), found(here(sized()), gpus=1)
    assert shared.mfu == pytest.approx(4 * alone.mfu)


@pytest.mark.parametrize(
    ("cell", "gpu"),
    [
        (here(sized()), "a card that nobody knows"),
        (here(sized()), "NVIDIA H200 MIG 1g.18gb"),
        (here(sized()), ""),
        (here(sized(), "cpu"), "NVIDIA H200"),
        (here(sized("fp32")), "NVIDIA H200"),  # convolutions in TF32, products without: not one peak
        (here(sized()), "Tesla V100-SXM2-16GB"),  # it has no bf16
        (sized(cluster={"device": {"samples_per_second": 1000, "batch_size": 32}}), "NVIDIA H200"),
    ],
)
def test_no_peak_is_guessed(cell, gpu):
    assert utilisation(cell, host(), 10.0, gpu, 1) is None


@pytest.mark.parametrize(("tf32", "peak"), [(True, 494.7e12), (False, 67e12)])
def test_single_precision_has_one_peak_where_it_is_said_which(tf32, peak):
    work = {"model": {"parameters": "1 B", "layers": 4, "hidden": 64, "forward_flops": 2e12}, "tf32": tf32}
    assert found(here(sized(workload=work, cluster={"device": "h200"}))).peak_flops_per_s == peak


def test_a_gpu_without_tf32_has_one_peak_in_single_precision():
    assert found(here(sized("fp32")), "Tesla V100-SXM2-16GB").peak_flops_per_s == 15.7e12


def test_a_model_of_unknown_operations_has_none():
    model = {"parameters": "1 B", "layers": 4}
    assert utilisation(here(sized(workload={"model": model, "precision": "bf16"})), host(), 10.0, "NVIDIA H200") is None


def test_the_record_names_what_it_was_divided_by():
    record = Record(here(sized()), Status.OK, "", (), {"throughput_samples_per_s": 10.0}, {"gpu": "NVIDIA H200"})
    told = with_utilisation(record, host())
    assert told.row["mfu"] == pytest.approx(6e12 * 10 / 4 / 989.4e12)
    assert told.detail is not None
    assert told.detail["facts"]["utilisation"]["source"].startswith("NVIDIA H200 data sheet")
    assert with_utilisation(replace(record, row={}), host()).row == {}
