"""The page of cells on GPUs, from the series that the NVML probe reads of the stub driver."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import make_cells
from recorded import Seen, evaluations, record_of, results_at
from stub_driver import sample_nvml

from harness.core.cell import Cell
from harness.core.machine import Machine
from harness.engines.processes.launch import Result
from harness.engines.telemetry.columns import Columns
from harness.engines.telemetry.sampler import Telemetry
from harness.executors.make_record import _with_telemetry
from harness.report import write_report
from harness.results.store import Results

ON_BOTH = ((7, "worker 0", "cuda:0"), (8, "worker 1", "cuda:1"))


def recorded(results: Results, cell: Cell, answer: dict[str, Any]) -> None:
    """Write the record of a cell with what the probe answered, as a run does."""
    telemetry = Telemetry(Columns(answer["samples"]), {}, answer["notes"], interval_s=0.05, lost=answer["lost"])
    record = _with_telemetry(record_of(cell), telemetry, Result(None, started_s=0.0))
    results.write_record(record, {"evals.csv": evaluations(cell), "telemetry.parquet": telemetry.columns.table()})


@pytest.fixture(scope="module")
def folder(driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scenario of two cells on GPUs: one reads everything, the other loses its second GPU midway."""
    cells = [
        replace(cell, device="cuda")
        for cell in make_cells(engine="real", cores=2, sweep__strategy=["single", "sync-ddp"], sweep__gpus=[1, 2])
    ]
    alone, both = cells[0], cells[-1]
    assert (alone.gpus, both.gpus) == (1, 2)
    at = tmp_path_factory.mktemp("gpus")
    results = results_at(at, [alone, both], run=0, machine=Machine(cores=2, gpus=2, gpu_name="Stub 1000"))
    recorded(results, alone, sample_nvml(driver, ticks=40, interval_s=0.05, NVML_STUB_PIDS="7"))
    lost = {"NVML_STUB_PIDS": "7,8", "NVML_STUB_LOST": "1:20", "NVML_STUB_UNSUPPORTED": "gpm,energy"}
    recorded(results, both, sample_nvml(driver, ON_BOTH, ticks=40, interval_s=0.05, **lost))
    return at


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    write_report([Results(folder)], folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_every_series_of_a_gpu_has_its_figure(page: str) -> None:
    for what in (
        "GPU utilisation",
        "SMs busy",
        "Tensor cores busy",
        "DRAM bandwidth",
        "SM clock",
        "Power",
        "Memory in use",
    ):
        assert f"{what} as NVML reports it, measured" in page, what
    assert "What held the clocks back, measured" in page
    assert "power cap (software)" in page


def test_what_was_not_told_stands_beside_the_figures(page: str) -> None:
    text = " ".join(Seen(page).texts)
    assert "gpu1: the driver lost this GPU (sync-ddp, 2 x Stub 1000)" in text
    assert "gpu1 gave no figures from 0.950 s after training began (sync-ddp, 2 x Stub 1000)" in text
    assert "energy_j: left out, because gpu1 gave no figures to the end (sync-ddp, 2 x Stub 1000)" in text
    assert "gpu0: energy: not supported by this device" in text
    assert "(GPM): nvml_nvlink_sent: not supported by this device (single, 1 x Stub 1000)" in text


def test_a_record_says_from_when_on_a_gpu_gave_no_figures(folder: Path) -> None:
    found = {record.cell.strategy: record for record in Results(folder).records().values()}
    lost, whole = found["sync-ddp"], found["single"]
    assert lost.detail is not None
    assert whole.detail is not None
    assert lost.detail["telemetry"]["lost"] == {"gpu1": pytest.approx(0.95)}
    assert "energy_j" not in lost.row
    assert whole.row["energy_j"] == pytest.approx(39 * 2.5)
    energy = whole.detail["telemetry"]["energy"]["gpu0"]
    assert energy["counter_j"] == pytest.approx(39 * 2.5)
    assert energy["power_integral_j"] == pytest.approx(39 * 0.05 * (200 + 590) / 2)
