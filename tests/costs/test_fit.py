"""Cells that do not fit into their devices' memory, and micro-batches that are found."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from cells import host, make_cell
from lazy import lazy
from places import ROOT

from harness.core.cell import LARGEST
from harness.core.records import to_json
from harness.costs.cells.kept import find_shape
from harness.costs.memory.fit import memory_of, memory_verdict, resolve_largest
from harness.engines.shared.setup import make_setup
from harness.executors.admission import admit

trace_or_find = lazy("harness.engines.shared.trace_or_find")

GPT = {"name": "gpt", "layers": 4, "hidden": 128, "heads": 4}
TEXTS = {"name": "tokens", "samples": 400, "test_samples": 8, "sequence": 64, "vocabulary": 500}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.setattr("harness.engines.shared.trace_or_find._known", {})


def cell_of(**changes):
    given = {
        "workload": {"model": GPT, "dataset": TEXTS, "optimizer": "adamw"},
        "goal": {"target_accuracy": "none", "max_steps": 3},
        "sweep__strategy": ["sync-ddp"],
        "sweep__gpus": [4],
        "sweep__batch_size": [30],
        "device": "cuda",
    }
    return make_cell(**given | changes)


def limited_to(share, cell, shape):
    """Give a device the share of what the cell needs beside the context."""
    needed = memory_of(cell, host(), shape).fullest
    return round(needed.context_bytes + share * needed.reserved_bytes)


def test_a_shape_is_found_once_it_was_traced_and_only_for_the_same_workload():
    cell = cell_of()
    assert find_shape(cell, host()) is None
    traced = trace_or_find.trace_cell(cell, host())
    assert find_shape(cell, host()) == traced
    assert find_shape(cell_of(sweep__batch_size=[6]), host()) == traced
    other = {"model": {**GPT, "layers": 5}, "dataset": TEXTS, "optimizer": "adamw"}
    assert find_shape(cell_of(workload=other), host()) is None
    assert find_shape(replace(cell, workload=replace(cell.workload, precision="bf16")), host()) is None
    assert find_shape(replace(cell, device="cpu"), host()) is None


def test_the_cell_that_is_run_has_the_shape_that_was_found():
    cell = replace(cell_of(), device="cpu")
    assert (
        trace_or_find.shape_of(make_setup(cell)) == trace_or_find.trace_cell(cell, host()) == find_shape(cell, host())
    )


def test_finding_and_judging_do_not_import_torch():
    cell = replace(cell_of(), dram_bytes=10**9)
    trace_or_find.trace_cell(cell, host())
    code = (
        "import json, sys; from harness.costs.cells.kept import find_shape\n"
        "from harness.costs.memory.fit import memory_verdict\n"
        "from harness.api.host import load_host; from harness.scenario.plan import Cell\n"
        "from harness.core.records import from_json\n"
        "cell = from_json(Cell, json.loads(sys.argv[1])); host = load_host()\n"
        "print(memory_verdict(cell, host, find_shape(cell, host)), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, json.dumps(to_json(cell))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None False"


def test_a_batch_that_needs_more_is_out_of_memory_and_the_one_named_fits():
    cell = cell_of()
    shape = trace_or_find.trace_cell(cell, host())
    needed = memory_of(cell, host(), shape).fullest.total_bytes
    limit = limited_to(0.6, cell, shape)
    limited = replace(cell, dram_bytes=limit)
    said = memory_verdict(limited, host(), shape)
    assert said is not None
    sizes = [f"{size / 2**20:.3g} MiB" for size in (needed, limit, needed - limit)]
    assert said.startswith("a device needs {} but has {} ({} too little). The largest layer is ".format(*sizes))
    most = int(said.partition("At most ")[2].split()[0])
    even = int(said.rpartition("micro_batch_size = ")[2])
    assert 0 < even <= most < 30
    assert 30 % even == 0
    for size, fits in ((most, True), (most + 1, False)):
        smaller = replace(limited, batch_size=size, micro_batch_size=size)
        assert (memory_verdict(smaller, host(), shape) is None) == fits
    assert memory_verdict(replace(limited, micro_batch_size=even), host(), shape) is None
    assert memory_verdict(cell, host(), shape) is None  # no limit


def test_nothing_fits_is_said():
    cell = replace(cell_of(), dram_bytes=10**6)
    said = memory_verdict(cell, host(), trace_or_find.trace_cell(cell, host()))
    assert said is not None
    assert "Not even a single sample fits" in said


def test_the_largest_micro_batch_is_found_before_a_cell_starts():
    cell = cell_of(sweep__micro_batch_size=["largest"])
    assert cell.micro_batch_size == LARGEST
    shape = trace_or_find.trace_cell(cell, host())
    assert resolve_largest(cell, host(), shape).micro_batch_size == 30
    limited = replace(cell, dram_bytes=limited_to(0.6, replace(cell, micro_batch_size=30), shape))
    found, verdict = admit(limited, host(), ())
    assert (verdict, 30 % found.micro_batch_size) == ("", 0)
    assert 1 < found.micro_batch_size < 30
    assert found.cell_id == cell.cell_id
    assert admit(replace(limited, dram_bytes=10**6), host(), ())[1]


def test_a_cell_without_limit_is_neither_traced_nor_changed(monkeypatch):
    cell = cell_of()
    monkeypatch.setattr("harness.engines.calibration.trace_in_child.find_or_trace", None)
    assert admit(cell, host(), ()) == (cell, "")


def test_stages_stay_below_the_memory_of_their_device():
    changes = {"sweep__strategy": ["model-split"], "sweep__gpus": [2], "sweep__micro_batch_size": [5]}
    cell = replace(cell_of(**changes), device="cpu")
    shape = trace_or_find.trace_cell(cell, host())
    free = memory_of(cell, host(), shape)
    assert len(free.devices) == 2
    assert memory_verdict(replace(cell, dram_bytes=free.fullest.total_bytes), host(), shape) is None
    said = memory_verdict(replace(cell, dram_bytes=free.fullest.total_bytes // 4), host(), shape)
    assert said is not None
    assert said.startswith("stage ")
