"""The script for the first hour on a GPU: its limits, what a failing section leaves, wheels, page and archive."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cells import host, make_cell
from lazy import lazy
from places import ROOT, TESTS

from harness.core.machine import Machine
from harness.engines.telemetry import Sample
from harness.scenario.plan import make_plan
from harness.scenario.read import parse_scenario
from harness.workloads.entries import training_size

torch = lazy("torch")

FOLDER = ROOT / "benchmarks" / "gpu_hour"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="an installed package has no benchmarks beside it")


@pytest.fixture(scope="module")
def script():
    """Return the script's modules by name."""
    sys.path.append(str(FOLDER))
    names = ("hour", "machine", "page", "sections")
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(FOLDER))
    for name in names:
        del sys.modules[name]


# -- time --------------------------------------------------------------------------------------------------------------


def hour_of(script, folder: Path, limit_s: float, programs: dict[str, str], budgets: dict[str, float] | None = None):
    """Run programs as sections; each has the notebook and writes with it. Return the findings and what was said."""
    hour, said = script["hour"], list[str]()
    head = f"import os, sys, time; sys.path.insert(0, {str(FOLDER)!r})\nfrom hour import *\n"

    def command(key: str, seconds: float) -> list[str]:
        notes = f"notes = Notebook(Path({str(folder / 'findings.jsonl')!r}), {key!r})\n"
        return [sys.executable, "-S", "-c", head + notes + programs[key]]

    run = hour.Hour(folder, limit_s, command, say=said.append, grace_s=0.5, least_s=0.2)
    run.run([hour.Section(key, f"part {key}", (budgets or {}).get(key, 1.0), print) for key in programs])
    return hour.read_findings(run.findings), said


def of(findings: list[Any], key: str) -> list[tuple[str, str]]:
    return [(found.what, str(found.verdict)) for found in findings if found.section == key]


def test_a_section_without_end_is_stopped_at_its_limit_and_what_it_found_is_kept(script, tmp_path):
    programs = {"a": "notes.seen('first', 1); time.sleep(60)", "b": "notes.seen('second', 2)"}
    began = time.monotonic()
    findings, said = hour_of(script, tmp_path, 6, programs)
    assert time.monotonic() - began < 6
    assert of(findings, "a") == [("first", "seen"), ("part a", "FAILED")]
    assert "stopped at its limit of 3 s" in findings[1].why
    assert of(findings, "b") == [("second", "seen")]
    assert "  a  first: 1 seen" in said


def test_whatever_ends_a_section_is_kept_and_the_next_one_runs(script, tmp_path):
    programs = {
        "a": "raise ValueError('what went wrong')",
        "b": "print('on its way', flush=True); os.kill(os.getpid(), 11)",
        "c": "notes.holds('it', True)",
    }
    findings, _ = hour_of(script, tmp_path, 12, programs)
    first, second, third = findings
    assert "ValueError: what went wrong" in first.why
    assert "exit code 1" in first.why
    assert "on its way" in second.why
    assert "signal 11" in second.why
    assert third.verdict == "ok"


def test_what_has_no_time_left_is_said_and_not_begun(script, tmp_path):
    stubborn = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    findings, said = hour_of(script, tmp_path, 1.5, {"a": stubborn, "b": "notes.seen('never', 1)"}, {"a": 9, "b": 1})
    assert of(findings, "b") == [("part b", "not run here")]
    assert any("were left of 2" in line for line in said)


def test_time_that_a_section_leaves_goes_to_those_after_it(script, tmp_path):
    _, said = hour_of(script, tmp_path, 100, {"a": "", "b": ""}, {"a": 1, "b": 1})
    assert said[0] == "a. part a: at most 50 s"
    assert int(said[1].split()[-2]) >= 95


def test_what_a_section_started_ends_with_it(script, tmp_path):
    program = f"import subprocess; p = subprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(60)'])\n"
    findings, _ = hour_of(script, tmp_path, 12, {"a": program + "notes.seen('process', p.pid)"})
    for _ in range(50):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(findings[0].value), 0)
            if Path(f"/proc/{int(findings[0].value)}/stat").read_text().split()[2] != "Z":
                time.sleep(0.1)
                continue
        return
    pytest.fail("it is still there")


def test_a_line_that_was_cut_off_is_left_out(script, tmp_path):
    path = tmp_path / "findings.jsonl"
    script["hour"].Notebook(path, "a").seen("whole", 1)
    path.write_text(path.read_text() + '{"section": "a", "wh')
    assert [found.what for found in script["hour"].read_findings(path)] == ["whole"]


def test_the_budgets_of_all_sections_are_eight_minutes_but_for_the_page(script):
    budgets = [section.budget_s for section in script["sections"].SECTIONS]
    assert sum(budgets) + 10 == 8 * 60


# -- figures -----------------------------------------------------------------------------------------------------------


def test_figures_are_judged_by_their_aims(script, tmp_path):
    notes = script["hour"].Notebook(tmp_path / "findings.jsonl", "a")
    notes.at_least("ratio", 0.97, 0.98)
    notes.within("step", 10.4, 10.0, 0.05, "ms", ["one"])
    notes.within("step", 10.6, 10.0, 0.05, "ms", ["two"])
    found = script["hour"].read_findings(notes.path)
    assert [str(finding.verdict) for finding in found] == ["MISSED", "ok", "MISSED"]
    assert found[1].aim == "10 ms +- 5 %"
    assert script["page"].confirmed(found) == ["one"]


def test_a_series_knows_means_and_rises_between_two_moments(script):
    samples = [Sample(t, "nvml", "gpu0", "nvml_energy", 100.0 + 50 * t, "J") for t in (0.0, 1.0, 2.0, 9.0)]
    series = script["sections"].Series(samples)
    assert series.mean("nvml_energy", 0, 2) == 150
    assert series.rise("nvml_energy", 0.5, 4.5) == pytest.approx(200)  # 50 W over 4 s, from two samples
    assert series.mean("nvml_power", 0, 2) is None
    assert series.rise("nvml_energy", 5, 9) is None


# -- what a section makes of a GPU's figures ---------------------------------------------------------------------------


@pytest.fixture
def on_gpu(script, tmp_path):
    """Return what sections are given on a GPU, and what reads their findings by name."""
    sections, hour = script["sections"], script["hour"]
    notes = hour.Notebook(tmp_path / "findings.jsonl", "b")
    look = sections.Look("cuda", replace(sections.SIZES["tiny"], seconds=1.4), tmp_path, notes, time.monotonic() + 60)
    return look, lambda: {found.what: found for found in hour.read_findings(notes.path)}


def series_of(begin: float, end: float, **quantities: float) -> list[Sample]:
    """Return samples every 20 ms; a quantity called energy rises by its value every second."""
    times = [begin + 0.02 * k for k in range(int((end - begin) / 0.02))]
    return [
        Sample(t, "nvml", "gpu0", f"nvml_{name}", value * (t if name == "energy" else 1), "")
        for t in times
        for name, value in quantities.items()
    ]


def test_probes_are_judged_by_the_loads_that_they_watched(script, on_gpu, monkeypatch):
    look, found = on_gpu
    sections, loads = script["sections"], importlib.import_module("loads")
    began = time.monotonic()

    @contextlib.contextmanager
    def sampled(_: object) -> Iterator[Any]:
        def stop() -> SimpleNamespace:
            rates = {"gpu_utilisation": 0.5, "sm_activity": 0.9, "power": 300.0, "energy": 301.0, "used": 1e9}
            return SimpleNamespace(samples=series_of(began, time.monotonic(), **rates), unavailable={})

        yield stop

    monkeypatch.setattr(loads, "sampled", sampled)
    monkeypatch.setattr(sections, "own_device", lambda _: torch.device("cpu"))
    monkeypatch.setattr(sections, "_allocated", lambda *_: (began, began + 0.5, 2**30))
    monkeypatch.setattr(sections, "catalogue_bandwidth", lambda: None)
    sections.known_loads(look)
    seen = found()
    assert seen["known load: NVML's utilisation"].confirms == ("nvml-utilisation",)
    assert seen["known load: GPM's SM activity"].verdict == "MISSED"
    energy = seen["known load: energy counter over its time, against the mean of the power samples"]
    assert (energy.verdict, energy.confirms) == ("ok", ("energy",))
    assert energy.value == pytest.approx(301, rel=0.01)
    assert seen["known copies: GPM's DRAM bandwidth"].verdict == "not run here"
    block = seen["known block: NVML's memory, against the allocator's"]
    assert (block.verdict, block.value, block.aim) == ("MISSED", 0, "1,024 MiB +- 1 %")


def test_copies_of_a_known_size_judge_the_bandwidth_that_gpm_tells(script, on_gpu, monkeypatch):
    look, found = on_gpu
    loads = importlib.import_module("loads")
    copies = loads.Load(10.0, 14.0, 0.5, 1.0, times=500)
    share = 2 * look.sizes.block_bytes * 500 / 4 / 5e9
    monkeypatch.setattr(script["sections"], "catalogue_bandwidth", lambda: 5e9)
    series = script["sections"].Series(series_of(10.0, 14.0, dram_bandwidth_utilisation=share * 1.05))
    script["sections"]._dram_traffic(look, series, copies)
    assert found()["known copies: GPM's DRAM bandwidth"].confirms == ("gpm",)


def test_a_block_of_memory_is_seen_in_the_drivers_figure(script, on_gpu):
    look, found = on_gpu
    samples = [*series_of(0.0, 1.0, used=3e9), *series_of(1.0, 2.0, used=3e9 + 2**30)]
    script["sections"]._memory_of_block(look.notes, script["sections"].Series(samples), 0.2, 1.1, 2**30)
    assert found()["known block: NVML's memory, against the allocator's"].confirms == ("nvml-memory",)


def record_of(row: dict[str, Any], facts: dict[str, Any] | None = None, **changes: Any) -> SimpleNamespace:
    detail = {"facts": facts or {}, "telemetry": {"unavailable": {}, "notes": ["gpu0: temperature: left out"]}}
    cell = make_cell(**{"engine": "real", "sweep__strategy": "single", "workload": {"model": "lenet5"}} | changes)
    return SimpleNamespace(cell=cell, row=row, detail=detail)


MIB = 2**20
SAMPLED = {"throughput_samples_per_s": 9e3, "nvml_utilisation_mean": 0.9, "busy_fraction": 0.8, "energy_j": 50.0}
SAMPLED |= {"dram_reserved_peak_bytes": 100 * MIB, "nvml_used_peak_bytes": 560 * MIB}


def test_a_sampled_cell_says_what_nvml_counts_beside_the_allocator(script, on_gpu):
    look, found = on_gpu
    script["sections"]._sampled_cell(look, record_of(SAMPLED))
    seen = found()
    assert seen["lenet5 single: energy_j"].value == 50
    assert seen["lenet5 single: a probe says"].why == "gpu0: temperature: left out"
    context = seen["lenet5 single: memory that NVML counts beside the allocator's"]
    assert (context.value, context.verdict, context.confirms) == (460, "ok", ("context-memory",))
    assert seen["lenet5 single: NVML counts at least what the allocator holds"].verdict == "ok"


def test_what_a_gpu_should_have_told_and_did_not_has_failed(script, on_gpu):
    look, found = on_gpu
    record = record_of({"throughput_samples_per_s": 9e3})
    record.detail["telemetry"]["unavailable"] = {"nvml": "no library", "amdsmi": "no library"}
    script["sections"]._sampled_cell(look, record)
    failed = [name for name, finding in found().items() if finding.verdict == "FAILED"]
    assert failed == [
        "lenet5 single: probe nvml",
        *(f"lenet5 single: {key}" for key in ("nvml_utilisation_mean", "busy_fraction", "energy_j")),
    ]


def test_time_and_memory_that_were_predicted_are_judged_by_what_was_measured(script, on_gpu):
    look, found = on_gpu
    real = record_of({"step_time_s": 0.01, "dram_allocated_peak_bytes": 200 * MIB, "dram_reserved_peak_bytes": 2**28})
    memory = {"allocated_bytes": 210 * MIB, "reserved_bytes": 2**28}
    virtual = record_of({"step_time_s": 0.0104}, {"memory": memory}, engine="virtual")
    script["sections"]._predicted(look, "lenet5 single", real, virtual)
    seen = found()
    assert seen["lenet5 single: predicted step"].confirms == ("profile-time",)
    assert seen["lenet5 single: predicted allocated memory"].verdict == "MISSED"
    assert seen["lenet5 single: predicted reserved memory"].confirms == ("reserved-of-training",)


def test_real_and_simulated_cells_of_one_point_are_twins(script):
    rows = [
        {"cell_id": f"{k}", "strategy": "single", "engine": e, "gpus": 1} for k, e in enumerate(("real", "virtual"))
    ]
    base = {"options": "{}", "global_batch_size": 32, "batch_size": 32, "micro_batch_size": 32, "learning_rate": 0.1}
    records = [record_of(base | row, engine=row["engine"]) for row in rows]
    ((real, virtual),) = script["sections"].twins(records)
    assert (real.cell.engine, virtual.cell.engine) == ("real", "virtual")


def test_a_large_model_says_its_share_of_the_peak_and_whose_peak_that_is(script, on_gpu):
    look, found = on_gpu
    look.sizes = script["sections"].SIZES["full"]
    peak = {"peak_flops_per_s": 989.4e12, "arithmetic": "bf16", "source": "NVIDIA H200 data sheet"}
    layers = [{"parameters": 4 * 124_439_807}, {"parameters": 4}]
    facts = {"memory": {"layers": layers}, "utilisation": peak}
    row = {"throughput_samples_per_s": 300.0, "mfu": 0.42, "dram_reserved_peak_bytes": 2**34}
    script["sections"]._large(look, "gpt-small", record_of(row, facts))
    seen = found()
    assert seen["gpt-small: MFU"].value == 0.42
    assert seen["gpt-small: MFU"].why == "of 989.4 Tflop/s in bf16: NVIDIA H200 data sheet"
    assert seen["gpt-small: as many as were published"].verdict == "ok"


def load_size(cell: Any) -> int:
    dataset = host().datasets[cell.workload.dataset.name]
    size = dataset.size(dataset.Options(**cell.workload.dataset.options))
    return training_size(size.num_train, cell.goal.validation_fraction)


@pytest.mark.parametrize("size", ["full", "tiny"])
def test_every_scenario_of_it_can_be_planned_for_one_gpu(script, tmp_path, monkeypatch, size):
    """As it stands, but for the GPU, which this machine may lack."""
    sections, planned = script["sections"], []

    def cells(self: object, name: str, text: str) -> list[Any]:
        scenario = parse_scenario(text, host(), tmp_path / f"{name}.toml")
        planned.extend(make_plan(scenario, host(), Machine(cores=16, gpus=1, gpu_name="NVIDIA H200")).cells)
        return []

    monkeypatch.setattr(sections.Look, "cells", cells)
    notes = script["hour"].Notebook(tmp_path / "findings.jsonl", "e")
    look = sections.Look("cuda", sections.SIZES[size], tmp_path, notes, time.monotonic() + 60)
    for model in look.sizes.models:
        sections.small_cells(look, model, "both")
    sections.large_models(look)
    assert all(not cell.not_possible for cell in planned), [cell.not_possible for cell in planned]
    small = [cell for cell in planned if cell.workload.precision == "fp32"]
    assert {(cell.strategy, cell.engine, cell.gpus) for cell in small} == {
        *(("single", engine, 1) for engine in ("real", "virtual")),
        *(("async-ps", engine, 2) for engine in ("real", "virtual")),
    }
    for cell in planned:
        assert load_size(cell) % cell.global_batch_size == 0, "the last batch of a pass would be timed among the others"
    large = [cell.workload.model.name for cell in planned if cell.workload.precision == "bf16"]
    assert large == ["resnet50", "gpt", "gpt"]


ON_A_FAKE_GPU = """
import json, sys, time
import torch
from torch import nn
from fake_gpu import note
from loads import copying, half_of_the_time, product, shortest_loop
from sections import _allocated
device = torch.device("fakegpu:0")
note("part", "load")
load = half_of_the_time(product(device, 32), device, 0.3)
note("part", "loop")
data = torch.randn(48, 8).to(device), torch.zeros(48, dtype=torch.int64).to(device)
shortest_loop(nn.Linear(8, 3).to(device), nn.CrossEntropyLoss(), data, 16, 0.1, 20)
note("part", "block")
_, _, reserved = _allocated(device, 2**20)
note("part", "copies")
copies = half_of_the_time(copying(device, 2**16), device, 0.2)
print(json.dumps({"times": load.times, "reserved": reserved, "duty": load.duty, "copies": copies.times}))
"""


def test_loads_wait_for_a_device_where_they_read_the_clock_and_nowhere_else(tmp_path):
    """On a device whose calls are noted, and which computes nothing by itself: `fake_gpu.py`."""
    folders = (FOLDER, ROOT, TESTS, TESTS / "fakegpu")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "FAKE_GPU_LOG": str(tmp_path)}
    command = [sys.executable, "-c", ON_A_FAKE_GPU]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (log,) = tmp_path.glob("*.jsonl")
    parts: dict[str, list[str]] = {}
    for kind, *words in map(json.loads, log.read_text().splitlines()):
        if kind == "part":
            now = parts.setdefault(words[0], [])
        elif parts:
            now.append(words[0] if kind in ("wait", "memory") else kind)
    assert parts["load"].count("synchronize") == told["times"] + 1
    assert parts["copies"].count("synchronize") == told["copies"] + 1
    # Data and weights are brought there first; then only the clock waits, before its first step and behind its last.
    assert parts["loop"] == ["to the device"] * 4 + ["synchronize"] * 2
    assert parts["block"] == ["empty_cache", "memory_reserved", "synchronize", "memory_reserved"]
    assert told["reserved"] == 2**20


# -- the machine -------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_named_with_the_way_to_bring_it(script):
    machine = script["machine"]
    assert machine.lacking(["pytest>=8", "pytest>=9999", "no-such-distribution>=1"]) == [
        "pytest>=9999",
        "no-such-distribution>=1",
    ]
    text = machine.wheels_to_bring(["simpy>=4.1", "torch>=2.9"])
    assert "pip download --dest wheels" in text
    assert "'simpy>=4.1'" in text
    assert "'torch" not in text
    assert "torch: install the build" in text


def test_everything_that_the_package_needs_is_looked_for(script):
    needed, tests = script["machine"].requirements()
    assert {"torch>=2.9", "nvidia-ml-py>=12.535"} <= set(needed)
    assert {script["machine"].name_of(text) for text in tests} == set(script["machine"].FOR_TESTS)


def wheel(folder: Path, name: str, version: str) -> None:
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        info = f"{name}-{version}.dist-info"
        file.writestr(f"{name}.py", f"version = {version!r}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def test_wheels_that_were_brought_are_unpacked_where_this_python_lacks_them(script, tmp_path):
    wheel(tmp_path, "brought_along", "1.0")
    wheel(tmp_path, "pytest", "0.1")
    site = tmp_path / "site"
    assert script["machine"].install_wheels(tmp_path, site) == ["brought_along-1.0-py3-none-any.whl"]
    code = "import brought_along; print(brought_along.version)"
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "1.0", done.stderr


def test_a_checkout_that_is_not_installed_registers_what_it_ships(script, tmp_path, monkeypatch):
    monkeypatch.setattr(metadata, "entry_points", lambda group: [])
    script["machine"].register_checkout(tmp_path)
    (distribution,) = metadata.distributions(path=[str(tmp_path)])
    names = {entry.name for entry in distribution.entry_points if entry.group == "harness"}
    assert {"harness-workloads", "harness-probes", "harness-clusters"} <= names


def test_a_folder_is_named_after_the_device(script):
    assert script["machine"].folder_name("NVIDIA H200") == "nvidia-h200"


# -- the page ----------------------------------------------------------------------------------------------------------

LISTED = """
| id | what | why | state |
|---|---|---|---|
| `nvml-memory` | NVML counts a process | its manual | open |
| G2 | events are in order | torch | open |
"""


def test_the_page_shows_verdicts_tracebacks_and_what_is_still_open(script, tmp_path):
    hour, page = script["hour"], script["page"]
    notes = hour.Notebook(tmp_path / "findings.jsonl", "a")
    notes.within("memory", 99.0, 100.0, 0.02, "MiB", ["nvml-memory"])
    notes.failed("a cell", "Traceback\nValueError: a | b")
    notes.not_run("a | graph", "it needs a GPU")
    listed = page.assumptions(LISTED)
    assert listed == {"nvml-memory": "NVML counts a process", "G2": "events are in order"}
    sections = [hour.Section("a", "memory", 1, print), hour.Section("b", "never", 1, print)]
    found = hour.read_findings(notes.path)
    text = page.page(found, sections, {"a": 3.2}, {"name": "NVIDIA H200"}, listed, ["small/report.html"])
    assert text.startswith("# First hour on NVIDIA H200\n\n1 ok, 1 not run here, 1 FAILED.\n")
    assert "| memory | 99 MiB | 100 MiB +- 2 % | ok |" in text
    assert "```text\nTraceback\nValueError: a | b\n```" in text
    assert "| a \\| graph |  |  | not run here: it needs a GPU |" in text
    assert "## b. never (not run)" in text
    assert "- `nvml-memory` confirmed: NVML counts a process\n- not confirmed by this run: G2\n" in text
    assert "[small/report.html](small/report.html)" in text


def test_tests_of_a_gpu_are_read_with_what_they_bear_out(script, tmp_path):
    report = tmp_path / "tests.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.engines.test_on_gpu" name="test_one"><properties>'
        '<property name="confirms" value="event-times"/></properties></testcase>'
        '<testcase classname="test_on_gpu" name="test_two"><failure message="short">long\ntext</failure></testcase>'
        '<testcase classname="test_on_gpu" name="test_three"><skipped message="no GPU"/></testcase>'
        "</testsuite></testsuites>"
    )
    notes = script["hour"].Notebook(tmp_path / "findings.jsonl", "a")
    script["sections"].read_tests(report, notes)
    one, two, three = script["hour"].read_findings(notes.path)
    assert (one.what, one.confirms) == ("test_on_gpu::test_one", ("event-times",))
    assert (two.verdict, two.why) == ("FAILED", "long\ntext")
    assert (three.verdict, three.why) == ("not run here", "no GPU")


def test_tests_of_a_gpu_are_found_without_importing_any(script):
    assert ROOT / "tests" / "engines" / "test_on_gpu.py" in script["sections"].files_with_gpu_tests()


def test_tests_that_are_asked_to_stop_say_first_what_they_have_done(tmp_path):
    said = tmp_path / "said"
    inner = (
        f"import pathlib, time; said = pathlib.Path({str(said)!r}); said.write_text('up')\n"
        "try: time.sleep(60)\nexcept KeyboardInterrupt: time.sleep(0.5); said.write_text('done')"
    )
    outer = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import sections\n"
        f"print(sections._ends_by_itself([sys.executable, '-c', 'pass']))\n"
        f"print(sections._ends_by_itself([sys.executable, '-c', {inner!r}]))"
    )
    program = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True, start_new_session=True)
    while not (said.is_file() and said.read_text(encoding="utf-8")):
        time.sleep(0.02)
        assert program.poll() is None
    os.killpg(program.pid, signal.SIGINT)
    assert program.communicate(timeout=20)[0].split() == ["True", "False"]
    assert said.read_text(encoding="utf-8") == "done"


def test_the_list_of_assumptions_names_what_there_is(script):
    """Its rows name tests and sections that exist, and these bear out rows that exist."""
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    rows = [row for row in rows if row[0] != "id" and set(row[0]) != {"-"}]
    ids = [row[0] for row in rows]
    assert len(ids) == len(set(ids)) == len(script["page"].assumptions(text))
    assert all(len(row) == 5 and all(row) for row in rows)
    tests = (ROOT / "tests" / "engines" / "test_on_gpu.py").read_text(encoding="utf-8")
    sections = {section.key for section in script["sections"].SECTIONS}
    for name, _, _, confirmed_by, _ in rows:
        for test in re.findall(r"test_\w+", confirmed_by):
            assert f"def {test}(" in tests, name
        for key in re.findall(r"section (\w)", confirmed_by):
            assert key in sections, name
    borne_out = re.findall(r'"confirms", "([\w-]+)"', tests)
    for file in FOLDER.glob("*.py"):
        for listed in re.findall(r"confirms=\[([^\]]*)\]", file.read_text(encoding="utf-8")):
            borne_out += re.findall(r'"([\w-]+)"', listed)
    assert set(borne_out) <= set(ids)


def test_the_archive_holds_all_and_names_no_path_of_the_machine(script, tmp_path):
    folder = tmp_path / "nvidia-h200"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "a.txt").write_text(f"File {ROOT}/harness/core/cell.py\n")
    script["page"].scrub(folder, {f"{ROOT}{os.sep}": ""})
    archive = script["page"].pack(folder)
    assert archive == tmp_path / "nvidia-h200.tar.gz"
    with tarfile.open(archive) as packed:
        member = packed.extractfile("nvidia-h200/logs/a.txt")
        assert member is not None
        assert member.read() == b"File harness/core/cell.py\n"


# -- all of it ---------------------------------------------------------------------------------------------------------


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(FOLDER), *arguments], capture_output=True, text=True, timeout=280)


def test_without_a_gpu_it_says_what_can_be_run(tmp_path):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(FOLDER), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 3
    assert "--device cpu --sizes tiny" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timed  # a load's share of the time, and a ratio of two runs
def test_a_cpu_runs_its_part(script, tmp_path):
    done = run_script("--device", "cpu", "--minutes", "4", "--out", str(tmp_path), "--only", "a", "b", "c")
    (archive,) = tmp_path.glob("*.tar.gz")
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    found = script["hour"].read_findings(folder / "findings.jsonl")
    assert [f for f in found if f.verdict == "FAILED"] == [], done.stdout
    seen = {finding.what: finding for finding in found}
    assert seen["known load: share of the time at work"].value == pytest.approx(0.5, abs=0.1)
    for name in ("lenet5 single", "lenet5 async-ps x 2"):
        assert seen[f"{name}: throughput"].value > 0
    assert seen["lenet5 single over the shortest loop, median of 1"].value > 0.5
    assert seen["tests marked gpu"].verdict == "not run here"
    page = (folder / "README.md").read_text()
    assert "lenet5/report.html" in page
    assert str(ROOT) not in page
    with tarfile.open(archive) as packed:
        assert f"{folder.name}/lenet5/cells.csv" in packed.getnames()
