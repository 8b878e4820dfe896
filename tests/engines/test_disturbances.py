"""What else went on while a cell was measured: seen, kept as data, told in the answer, and offered again."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from cells import make_cells
from compared_cells import cell as measured
from lazy import lazy
from recorded import record_of, results_at

from harness.commands.rounds import missing
from harness.commands.show_text import cell_text
from harness.core import cache, machine_counters
from harness.core.cells_here import measuring_here
from harness.core.disturbances import Disturbance, above_limits, disturbed_columns, kinds_of
from harness.core.machine_counters import MachineCounters
from harness.core.records import Unreadable, from_json, to_json
from harness.engines.telemetry.disturbed import disturbances_sampled
from harness.engines.telemetry.probe import Sample, Target
from harness.engines.telemetry.readings import CellProcesses
from harness.results.store import Record

comparing = lazy("harness.analysis.compare")
comparing_words = lazy("harness.analysis.compare_words")

QUIET = MachineCounters(steady_s=100.0, wall_s=1000.0, with_sleep_s=150.0, waiting_s=5.0, throttled_s=2.0)
TEN_S_LATER = MachineCounters(steady_s=110.0, wall_s=1010.0, with_sleep_s=160.0, waiting_s=5.0, throttled_s=2.0)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, {}),
        ({"wall_s": 1009.5}, {}),  # as NTP corrects
        ({"wall_s": 1075.0}, {Disturbance.CLOCK_JUMP: 65.0}),
        ({"wall_s": 950.0}, {Disturbance.CLOCK_JUMP: 60.0}),
        ({"wall_s": 4610.0, "with_sleep_s": 3760.0}, {Disturbance.SUSPENDED: 3600.0}),  # the calendar went on: no jump
        ({"waiting_s": 6.0}, {Disturbance.MEMORY_PRESSURE: 0.1}),
        ({"waiting_s": 5.1}, {}),
        ({"throttled_s": 4.5}, {Disturbance.THROTTLED: 0.25}),
        ({"waiting_s": None, "throttled_s": None, "with_sleep_s": None}, {}),
    ],
)
def test_counters_of_the_machine_tell_what_held_it_up(changes, found):
    assert above_limits(replace(TEN_S_LATER, **changes).since(QUIET)) == pytest.approx(found)


def test_counters_are_read_where_the_system_keeps_them(tmp_path, monkeypatch):
    pressure = tmp_path / "memory"
    pressure.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.00 total=7\n")
    for core, milliseconds in enumerate((10, 4000, "")):
        folder = tmp_path / f"cpu{core}" / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_total_time_ms").write_text(f"{milliseconds}\n")
    monkeypatch.setattr(machine_counters, "PRESSURE", pressure)
    monkeypatch.setattr(machine_counters, "THROTTLING", tmp_path)
    now = MachineCounters.now()
    assert (now.waiting_s, now.throttled_s) == (2.5, 4.0)
    monkeypatch.setattr(machine_counters, "PRESSURE", tmp_path / "none")
    monkeypatch.setattr(machine_counters, "THROTTLING", tmp_path / "none")
    here = MachineCounters.now()
    assert (here.waiting_s, here.throttled_s) == (None, None)
    assert above_limits(here.since(now)) == {}


def sample(device: str, quantity: str, value: float) -> Sample:
    return Sample(0.0, "nvml", device, quantity, value, "")


def test_telemetry_tells_of_others_on_the_device_and_of_clocks_held_back():
    samples = [sample("gpu0", "nvml_throttle_reasons", bits) for bits in (0, 0x4, 0x40, 0x24)]  # 0x4: the power cap
    samples += [sample("gpu1", "nvml_throttle_reasons", bits) for bits in (0, 0x4, 0x1, 0x2)]
    samples += [sample("gpu1", "nvml_other_processes", count) for count in (1, 3, 2)]
    found = above_limits(disturbances_sampled(samples, other_cores=0.7))
    assert found == {Disturbance.OTHER_LOAD: 0.7, Disturbance.SHARED_GPU: 3, Disturbance.THROTTLED: 0.5}
    assert above_limits(disturbances_sampled([], other_cores=0.4)) == {}
    assert above_limits(disturbances_sampled(samples[4:8], other_cores=None)) == {}


def test_a_process_on_the_gpu_is_another_ones_only_where_ours_are_seen():
    """One rank that opened the GPU of the other is none; in a container nobody can tell."""
    here, beside = Target(11, "worker 0", "cuda:0"), Target(12, "worker 1", "cuda:1")
    processes = CellProcesses("nvml", "gpu0", [here], [here, beside])
    assert [s.value for s in processes.others(0.0, [11, 12, 13, 14])] == [2]
    assert list(processes.others(0.0, [11, 12])) == []
    assert list(processes.others(0.0, [13, 14])) == []


# -- two runs on one machine -------------------------------------------------------------------------------------------

OTHER = """
import sys
from harness.core.cells_here import measuring_here
with measuring_here() as others:
    print(others(), flush=True)
    sys.stdin.readline()
    print(others(), flush=True)
"""


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return cache.folder() / "measuring"


def another() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_runs_know_of_each_other_whoever_came_first(own_cache):
    with measuring_here() as alone:
        assert alone() == 0
        with another() as first, another() as second:
            seen = [int(first.stdout.readline()), int(second.stdout.readline())]
            assert sorted(seen) == [1, 2]  # at their beginnings: this one, and whichever of them was there before
            assert first.communicate("\n")[0] == second.communicate("\n")[0] == "2\n"
        assert alone() == 2  # both have gone: it knows all the same
        assert alone() == 2
    with measuring_here() as later:
        assert later() == 0
    assert [path for path in own_cache.rglob("*") if path.is_file()] == []


def test_a_run_that_was_killed_is_nobody_and_is_swept(own_cache):
    with another() as dead:
        dead.stdout.readline()
        dead.kill()
    (left,) = [path for path in own_cache.rglob("*") if path.is_file()]
    with measuring_here() as others:
        assert others() == 0
        assert not left.exists()


def test_where_the_cache_cannot_be_used_nobody_knows(own_cache):
    own_cache.parent.mkdir()
    own_cache.write_text("a file")
    with measuring_here() as others:
        assert others() is None


# -- kept, told and offered again --------------------------------------------------------------------------------------


def test_what_disturbed_is_kept_as_data_shown_and_offered_again(tmp_path):
    cells = make_cells(sweep__strategy=["single"], sweep__gpus=[1], sweep__seeds=2)
    results = results_at(tmp_path / "results" / "lenet", cells)
    amounts = {Disturbance.OTHER_RUN: 1.0, Disturbance.THROTTLED: 0.25}
    record = record_of(cells[0], disturbances=amounts)
    results.write_record(replace(record, row=record.row | disturbed_columns(amounts)), {})
    read = results.record(cells[0].cell_id)
    assert read.disturbances == amounts
    assert (read.row["noisy"], read.row["disturbed"]) == (True, "other-run throttled")
    shown = cell_text(results, cells[0].cell_id)
    assert "  disturbed by: another run, 1 cell\n  disturbed by: throttling, 25 % of the time\n" in shown
    assert missing(cells, results) == []
    assert missing(cells, results, retry=("noisy",)) == [(cells[0], 0)]
    broken = to_json(read) | {"disturbances": {"witchcraft": 1.0}}
    with pytest.raises(Unreadable, match="disturbances"):
        from_json(Record, broken)


def test_a_comparison_says_how_many_of_the_compared_cells_were_disturbed():
    base = [measured(seed=seed) for seed in range(3)]
    new = [measured(seed=seed, noisy=True, disturbed="clock-jump") for seed in range(2)] + [measured(seed=2)]
    found = comparing.compare(base, new)
    told = "2 of the 3 cells of NEW and none of BASE were disturbed by a clock that was set."
    assert comparing_words.noisy_in_words(found) == f"{told} `harness run SCENARIO --retry noisy` repeats them."
    assert comparing_words.noisy_in_words(comparing.compare(base, base)) == ""


def test_rows_of_before_kinds_were_kept_were_disturbed_by_load():
    rows = [{"noisy": True}, {"noisy": True, "disturbed": "other-run"}, {"noisy": True}, {"noisy": False}]
    assert kinds_of(rows) == ("other-load", "other-run")


@pytest.mark.dist
def test_a_run_beside_another_is_disturbed_by_it_and_says_so(own_cache, tmp_path):
    (tmp_path / "s.toml").write_text(SHORT)
    command = [sys.executable, "-m", "harness", "run", "s.toml"]
    with measuring_here() as others:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
        assert done.returncode == 0, done.stdout + done.stderr
        assert others() == 1
    assert "another run" in done.stdout
    assert "`harness run SCENARIO --retry noisy` repeats them." in done.stdout
    again = subprocess.run([*command, "--retry", "noisy"], cwd=tmp_path, capture_output=True, text=True)
    assert "1 cell run now, 0 kept" in again.stdout
    (record,) = (tmp_path / "results" / "s").glob("cells/*/record.json")
    assert Disturbance.OTHER_RUN not in from_json(Record, record.read_bytes()).disturbances


SHORT = """
engine = "real"
[workload]
model = "softmax"
dataset = "digits"
[sweep]
strategy = ["single"]
gpus = [1]
learning_rate = 0.1
[goal]
max_steps = 3
target_accuracy = "none"
"""
