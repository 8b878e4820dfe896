"""Telemetry: the probes against a real driver library (a stub in C) and real processes, the sampler as a process."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import defaultdict

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT, TESTS

from harness.commands.doctor import _quota_v2, describe_machine
from harness.engines.telemetry import Probe, ProbeUnavailable, Sample, Target, harness_probes
from harness.engines.telemetry.bench import Bench, load_probe, probe_path
from harness.engines.telemetry.columns import Columns
from harness.engines.telemetry.cpu import HostProbe, Meter
from harness.engines.telemetry.driver import cuda_index
from harness.engines.telemetry.nvml import CLOCK_REASONS, decode_clock_reasons
from harness.engines.telemetry.sampler import Sampler, Telemetry, Ticks
from harness.engines.telemetry.summary import summarise, summary_notes

pytestmark = pytest.mark.filterwarnings("error")

GIB = 2**30


def until(condition, timeout_s=10.0):
    """Wait for a condition on another process; answer whether it came."""
    deadline_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return bool(condition())


def is_running(pid):
    """Answer whether a process lives; one that nobody has waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def by_series(samples):
    groups = defaultdict(list)
    for sample in samples:
        groups[sample.device, sample.quantity].append(sample)
    return dict(groups)


# What a fresh interpreter does with the driver library that its environment leads to.
SAMPLE_NVML = """
import json, sys
from harness.engines.telemetry import ProbeUnavailable, Target
from harness.engines.telemetry.nvml import NvmlProbe
request = json.loads(sys.argv[1])
probe = NvmlProbe()
try:
    probe.open([Target(*target) for target in request["targets"]])
except ProbeUnavailable as unavailable:
    print(json.dumps({"unavailable": unavailable.reason}))
else:
    samples = [s for tick in range(request["ticks"]) for s in probe.sample(request["interval_s"] * tick)]
    print(json.dumps({"samples": samples, "notes": probe.notes()}))
    probe.close()
    probe.close()
"""


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """A folder with a libnvidia-ml.so.1 that is the stub."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the stub of the NVIDIA driver library")
    folder = tmp_path_factory.mktemp("driver")
    source = TESTS / "nvml_stub.c"
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", folder / "libnvidia-ml.so.1"], check=True)
    return folder


def environment(library_folder, **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "NVML_"))}
    return kept | {"LD_LIBRARY_PATH": str(library_folder), "PYTHONPATH": str(ROOT)} | variables


def sample_nvml(library_folder, targets=((7, "worker 0", "cuda:0"),), ticks=3, interval_s=0.2, **variables):
    """Return what the NVML probe answers in a process with this driver library."""
    request = json.dumps({"targets": targets, "ticks": ticks, "interval_s": interval_s})
    command = [sys.executable, "-W", "error", "-c", SAMPLE_NVML, request]
    done = subprocess.run(
        command, env=environment(library_folder, **variables), capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return answer | {"samples": [Sample(*sample) for sample in answer.get("samples", [])]}


def test_nvml_every_quantity_has_its_value_and_unit(driver):
    answer = sample_nvml(driver, NVML_STUB_PIDS="7,8")
    series = by_series(answer["samples"])
    expected = {
        ("gpu0", "nvml_used"): ("bytes", [10 * GIB, 11 * GIB, 12 * GIB]),
        ("gpu0", "nvml_total"): ("bytes", [80 * GIB] * 3),
        ("gpu0", "nvml_gpu_utilisation"): ("fraction", [0.5, 0.6, 0.7]),
        ("gpu0", "nvml_memory_utilisation"): ("fraction", [0.25] * 3),
        ("gpu0", "nvml_sm_clock"): ("MHz", [1500, 1501, 1502]),
        ("gpu0", "nvml_power"): ("W", [200, 210, 220]),
        ("gpu0", "nvml_energy"): ("J", [5_000_000, 5_000_002.5, 5_000_005]),
        ("gpu0", "nvml_temperature"): ("C", [40, 41, 42]),
        ("gpu0", "nvml_throttle_reasons"): ("bitmask", [1, 4, 4]),
        ("gpu0", "nvml_targets_used"): ("bytes", [GIB] * 3),
        ("worker 0 on gpu0", "nvml_process_used"): ("bytes", [GIB] * 3),
        ("gpu0", "nvml_sm_activity"): ("fraction", [0.2, 0.3]),
        ("gpu0", "nvml_dram_bandwidth_utilisation"): ("fraction", [0.1, 0.15]),
    }
    assert series.keys() == expected.keys()
    for key, (unit, values) in expected.items():
        assert {sample.unit for sample in series[key]} == {unit}, key
        assert [sample.value for sample in series[key]] == pytest.approx(values), key
    assert [sample.time_s for sample in series["gpu0", "nvml_used"]] == pytest.approx([0, 0.2, 0.4])
    assert {sample.source for sample in answer["samples"]} == {"nvml"}
    assert answer["notes"] == ["gpu0: clocks were limited by: idle, power cap (software)"]


def test_nvml_samples_sum_up_to_a_record(driver):
    samples = sample_nvml(driver, NVML_STUB_PIDS="7")["samples"]
    assert summarise(samples) == pytest.approx(
        {"nvml_used_peak_bytes": GIB, "nvml_utilisation_mean": 0.6, "energy_j": 5.0}
    )
    assert summary_notes(samples) == ["nvml_used_peak_bytes: memory of this cell's processes on the busiest GPU"]


def test_nvml_gpm_waits_for_its_window(driver):
    answer = sample_nvml(driver, ticks=11, interval_s=0.02)
    assert len(by_series(answer["samples"])["gpu0", "nvml_sm_activity"]) == 2


ALL_REFUSED = "power,energy,clock,temperature,throttle,utilisation,memory,processes,gpm"


@pytest.mark.parametrize(
    ("refused", "lacking", "notes"),
    [
        ("power", {"nvml_power"}, ["gpu0: power: not supported by this device"]),
        (
            "energy,gpm",
            {"nvml_energy", "nvml_sm_activity", "nvml_dram_bandwidth_utilisation"},
            [
                "gpu0: SM activity and DRAM bandwidth (GPM): not supported by this device",
                "gpu0: energy: not supported by this device",
            ],
        ),
    ],
)
def test_nvml_unsupported_quantities_are_absent_with_a_reason_each(driver, refused, lacking, notes):
    everything = {sample.quantity for sample in sample_nvml(driver, NVML_STUB_PIDS="7")["samples"]}
    answer = sample_nvml(driver, NVML_STUB_PIDS="7", NVML_STUB_UNSUPPORTED=refused)
    assert everything - {sample.quantity for sample in answer["samples"]} == lacking
    assert [note for note in answer["notes"] if "not supported" in note] == notes


def test_nvml_device_without_anything_gives_only_reasons(driver):
    answer = sample_nvml(driver, NVML_STUB_UNSUPPORTED=ALL_REFUSED)
    assert answer["samples"] == []
    assert len(answer["notes"]) == 9
    assert summarise(answer["samples"]) == {}


def test_nvml_energy_is_integrated_from_power_where_there_is_no_counter(driver):
    samples = sample_nvml(driver, NVML_STUB_UNSUPPORTED="energy")["samples"]
    assert summarise(samples)["energy_j"] == pytest.approx(0.2 * 205 + 0.2 * 215)
    assert "energy_j: integral of the power samples on gpu0" in summary_notes(samples)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"NVML_STUB_HIDE_PIDS": "1"}, "lists none of this cell's processes"),
        ({"NVML_STUB_PIDS": "999"}, "lists none of this cell's processes"),
        ({"NVML_STUB_PIDS": "7", "NVML_STUB_NO_PROCESS_MEMORY": "1"}, "the driver does not tell it"),
    ],
)
def test_nvml_hidden_process_memory_is_absent_and_the_devices_stands_in(driver, variables, reason):
    answer = sample_nvml(driver, **variables)
    assert not {"nvml_process_used", "nvml_targets_used"} & {sample.quantity for sample in answer["samples"]}
    assert any("memory of each process" in note and reason in note for note in answer["notes"])
    assert summarise(answer["samples"])["nvml_used_peak_bytes"] == 12 * GIB
    assert "other processes' included" in summary_notes(answer["samples"])[0]


def test_nvml_older_driver_is_asked_the_older_way(driver):
    answer = sample_nvml(driver, NVML_STUB_PIDS="7", NVML_STUB_OLD="1")
    series = by_series(answer["samples"])
    assert series["gpu0", "nvml_used"][0].value == 11 * GIB
    assert series["gpu0", "nvml_temperature"][0].value == 40
    assert series["gpu0", "nvml_targets_used"][0].value == GIB
    assert "gpu0: SM activity and DRAM bandwidth (GPM): needs a newer driver" in answer["notes"]


def test_nvml_a_reading_that_fails_at_times_goes_on_and_is_counted(driver):
    answer = sample_nvml(driver, ticks=4, NVML_STUB_FLAKY="1")
    assert [sample.value for sample in by_series(answer["samples"])["gpu0", "nvml_power"]] == [200, 220]
    assert "gpu0: power: failed with Unknown Error, 2 times" in answer["notes"]


@pytest.mark.parametrize(
    ("visible", "device", "first_gib"),
    [
        (None, "cuda:1", 20),
        (None, "cuda", 10),
        ("1", "cuda:0", 20),
        ("1,0", "cuda:1", 10),
        ("GPU-bbbb2222-stub", "cuda:0", 20),
        ("GPU-bbbb", "cuda:0", 20),
    ],
)
def test_nvml_counts_gpus_as_cuda_does(driver, visible, device, first_gib):
    variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    samples = sample_nvml(driver, [(7, "worker 0", device)], ticks=1, **variables)["samples"]
    assert by_series(samples)[f"gpu{cuda_index(device)}", "nvml_used"][0].value == first_gib * GIB


@pytest.mark.parametrize(
    ("device", "variables", "reason"),
    [
        ("cpu", {}, "no process of this cell computes on a GPU"),
        ("cuda:0", {"NVML_STUB_NO_GPU": "1"}, "the NVIDIA driver sees no GPU on this machine"),
        ("cuda:0", {"NVML_STUB_NO_DRIVER": "1"}, "the NVIDIA driver is not loaded"),
        (
            "cuda:1",
            {"CUDA_VISIBLE_DEVICES": "0,-1"},
            "CUDA shows no cuda:1: 1 GPU of 2, since CUDA_VISIBLE_DEVICES is '0,-1'",
        ),
        (
            "cuda:0",
            {"CUDA_VISIBLE_DEVICES": "GPU-cccc"},
            "CUDA shows no cuda:0: 0 GPUs of 2, since CUDA_VISIBLE_DEVICES is 'GPU-cccc'",
        ),
        ("cuda:5", {}, "CUDA shows no cuda:5: 2 GPUs of 2"),
    ],
)
def test_nvml_that_cannot_work_says_why(driver, device, variables, reason):
    answer = sample_nvml(driver, [(7, "worker 0", device)], **variables)
    assert answer["unavailable"].startswith(reason)


def test_nvml_without_a_driver_library_says_so(tmp_path):
    # A file that is no library hides a real one from the loader, so that this holds on GPU machines too.
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"")
    answer = sample_nvml(tmp_path)
    assert answer["unavailable"] == "no NVIDIA driver library (libnvidia-ml.so.1) on this machine"


def test_nvml_warns_where_cuda_may_count_differently(driver):
    mixed = {"NVML_STUB_MIXED": "1"}
    assert "GPUs of different kinds" in sample_nvml(driver, **mixed)["notes"][0]
    in_order = sample_nvml(driver, CUDA_DEVICE_ORDER="PCI_BUS_ID", **mixed)
    assert not any("different kinds" in note for note in in_order["notes"])


@pytest.mark.parametrize(
    ("visible", "gpus", "first"),
    [
        (None, 2, "Stub 1000"),
        ("", 0, ""),
        ("1", 1, "Stub 2000"),
        ("1,0", 2, "Stub 2000"),
        ("GPU-bbbb", 1, "Stub 2000"),
        ("GPU-bbbb2222-stub,-1,0", 1, "Stub 2000"),
        ("GPU-cccc,0", 0, ""),
        ("GPU-", 0, ""),
        ("MIG-cccc", 0, ""),
    ],
)
def test_a_plan_counts_gpus_by_the_rule_of_the_probe(driver, visible, gpus, first):
    script = "from harness.core.machine import detect_machine; from harness.core.nvidia_driver import driver_version; "
    script += "m = detect_machine(); print(m.gpus, driver_version(), m.gpu_name)"
    variables = {"NVML_STUB_MIXED": "1"} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment(driver, **variables),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{gpus} 999.1 {first}".strip()


def test_clock_reasons_are_decoded_with_what_is_unknown_named():
    assert decode_clock_reasons(0) == []
    assert decode_clock_reasons(0x44) == ["power cap (software)", "temperature (hardware)"]
    assert decode_clock_reasons(0x1001) == ["idle", "unknown bits 0x1000"]


def test_clock_reasons_match_those_of_pynvml():
    pynvml = pytest.importorskip("pynvml")
    assert sum(CLOCK_REASONS) == pynvml.nvmlClocksThrottleReasonAll


@pytest.fixture
def busy_child():
    """A process that keeps one core busy."""
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield child
    child.kill()
    child.wait()


@pytest.fixture(scope="session")
def context():
    return multiprocessing.get_context("forkserver")


def test_meter_turns_a_counter_into_cores():
    meter = Meter()
    assert [meter.cores(1.0, 5.0), meter.cores(2.0, 7.0), meter.cores(2.0, 7.0)] == [None, 2.0, None]


def test_host_target_that_exits_ends_its_series_quietly(busy_child):
    probe = HostProbe()
    probe.open([Target(busy_child.pid, "worker 0", "cpu"), Target(os.getpid(), "server", "cpu")])
    assert {sample.device for sample in probe.sample(0.0)} == {"worker 0", "server", "host"}
    busy_child.kill()
    assert until(lambda: not is_running(busy_child.pid))  # not waited for: what is left of it has no memory
    after = list(probe.sample(1.0))
    assert "worker 0" not in {sample.device for sample in after}
    assert all(sample.value > 0 for sample in after if sample.quantity == "host_rss")
    busy_child.wait()
    assert "worker 0" not in {sample.device for sample in probe.sample(2.0)}


def test_host_target_that_is_gone_at_the_start_has_no_series(busy_child):
    busy_child.kill()
    busy_child.wait()
    probe = HostProbe()
    probe.open([Target(busy_child.pid, "worker 0", "cpu")])
    assert {sample.device for sample in probe.sample(0.0)} == {"host"}


def cpu_seconds(process):
    times = process.cpu_times()
    return times.user + times.system


def test_sampler_follows_a_busy_process(context, busy_child):
    sampler = Sampler(context, [Target(busy_child.pid, "worker 0", "cpu")], 0.02)
    sampler.start()
    assert sampler.ready(10)
    process = psutil.Process(busy_child.pid)
    began_s, cpu_before_s = time.monotonic(), cpu_seconds(process)
    time.sleep(0.6)
    cores = (cpu_seconds(process) - cpu_before_s) / (time.monotonic() - began_s)
    telemetry = sampler.stop(5)
    series = by_series(telemetry.samples)

    shares = [sample.value for sample in series["worker 0", "host_cpu"]]
    assert sum(shares) / len(shares) == pytest.approx(cores, abs=0.3)  # about 1 where no other takes the core away
    assert summarise(telemetry.columns)["host_rss_peak_bytes"] > 2**20
    assert summarise(telemetry.columns)["host_cpu_other_cores"] >= 0
    assert {key for key in series if key[0] == "host"} == {
        ("host", "host_memory_available"),
        ("host", "host_cpu_all"),
        ("host", "host_cpu_other"),
    }
    times_s = [sample.time_s for sample in telemetry.samples]
    assert times_s == sorted(times_s)
    assert began_s - 5 < times_s[0] <= times_s[-1] <= time.monotonic()

    num_ticks = len(series["worker 0", "host_rss"])
    assert num_ticks + telemetry.missed_ticks >= 0.6 / 0.02 - 5
    assert num_ticks >= 10
    assert telemetry.interval_s == pytest.approx(0.02 * (1 + telemetry.missed_ticks / num_ticks), rel=0.25)
    assert telemetry.sampler_cpu_cores < 0.3
    assert telemetry.unavailable == {"nvml": "no process of this cell computes on a GPU"}
    assert not is_running(sampler.pid)
    assert sampler.stop(5) is telemetry


@pytest.fixture
def wide_probe(tmp_path):
    """The path of a probe in a plugin file whose samples of one tick are more than a pipe holds."""
    file = tmp_path / "wide.py"
    file.write_text(
        textwrap.dedent("""
            from harness.engines.telemetry import Probe, Sample

            class Wide(Probe):
                name = "wide"

                def open(self, targets):
                    self.labels = [target.label for target in targets]

                def sample(self, now):
                    return [Sample(now, "wide", label, "x", 1.0, "cores") for label in self.labels for _ in range(9000)]

                def notes(self):
                    return [f"watched {label}" for label in self.labels]

                def close(self):
                    pass
        """)
    )
    return f"{file}:Wide"


def test_sampler_hands_back_a_large_answer_and_watches_new_targets(context, wide_probe):
    sampler = Sampler(context, [Target(1, "first", "cpu")], 0.02, [wide_probe])
    sampler.start()
    sampler.watch([Target(2, "second", "cpu")])
    assert sampler.ready(10)
    time.sleep(0.1)
    telemetry = sampler.stop(5)
    assert len(telemetry.columns) >= 9000
    assert telemetry.columns.series[-1].device == "second"
    assert telemetry.notes == ["watched first", "watched second"]
    assert telemetry.unavailable == {}


def test_sampler_that_freezes_in_the_middle_of_its_answer_is_killed(context, wide_probe):
    sampler = Sampler(context, [Target(1, "worker 0", "cpu")], 0.02, [wide_probe])
    sampler.start()
    assert sampler.ready(10)
    time.sleep(0.1)
    sampler._send(("stop",))
    assert sampler._connection.poll(5)  # the answer has begun, and the pipe cannot hold it
    os.kill(sampler.pid, signal.SIGSTOP)
    began_s = time.monotonic()
    telemetry = sampler.stop(0.3)
    assert time.monotonic() - began_s < 5
    assert "gave no answer within 0.3 s" in telemetry.unavailable[wide_probe]
    assert not is_running(sampler.pid)


def test_sampler_that_was_killed_is_reported_not_waited_for(context):
    sampler = Sampler(context, [Target(os.getpid(), "worker 0", "cpu")], 0.02)
    sampler.start()
    assert sampler.ready(10)
    os.kill(sampler.pid, signal.SIGKILL)
    began_s = time.monotonic()
    telemetry = sampler.stop(20)
    assert time.monotonic() - began_s < 10
    assert telemetry.samples == []
    assert telemetry.unavailable["host"] == "the sampler process was ended by signal 9; its samples are lost"
    assert telemetry.interval_s is None


def test_sampler_that_is_frozen_is_killed_at_the_deadline(context):
    sampler = Sampler(context, [Target(os.getpid(), "worker 0", "cpu")], 0.02)
    sampler.start()
    assert sampler.ready(10)
    os.kill(sampler.pid, signal.SIGSTOP)
    began_s = time.monotonic()
    telemetry = sampler.stop(0.3)
    assert 0.25 < time.monotonic() - began_s < 5
    assert telemetry.unavailable["host"].startswith("the sampler process gave no answer within 0.3 s")
    assert not is_running(sampler.pid)


def test_sampler_of_a_cell_shorter_than_its_interval_has_a_first_and_a_last_reading(context):
    sampler = Sampler(context, [Target(os.getpid(), "worker 0", "cpu")], 60.0)
    sampler.start()
    began_s = time.monotonic()
    telemetry = sampler.stop(10)
    assert time.monotonic() - began_s < 9  # told to stop, it does not sleep until its next tick
    assert len(by_series(telemetry.samples)["worker 0", "host_rss"]) == 2
    assert (telemetry.missed_ticks, telemetry.interval_s) == (0, None)


def test_sampler_that_was_never_started_says_so(context):
    sampler = Sampler(context, [], 0.02)
    assert sampler.stop(1).unavailable["host"] == "the sampler process was never started"


def test_sampler_leaves_ctrl_c_to_its_parent(context):
    sampler = Sampler(context, [Target(os.getpid(), "worker 0", "cpu")], 0.02)
    sampler.start()
    assert sampler.ready(10)
    os.kill(sampler.pid, signal.SIGINT)
    assert sampler.stop(5).samples


@pytest.mark.parametrize("interval_s", [0, -1, math.nan])
def test_sampler_refuses_an_interval_that_is_none(context, interval_s):
    with pytest.raises(ValueError, match="allowed are seconds above 0"):
        Sampler(context, [], interval_s)


# A parent that starts a sampler, tells its pid, and answers "stop" on its standard input; with a file it is spawn-safe.
PARENT = """
import json, multiprocessing, os, sys
from harness.engines.telemetry import Target
from harness.engines.telemetry.sampler import Sampler

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    sampler = Sampler(context, [Target(os.getpid(), "worker 0", "cuda:0")], 0.02)
    sampler.start()
    assert sampler.ready(10)
    print(sampler.pid, flush=True)
    sys.stdin.readline()
    telemetry = sampler.stop(5)
    print(json.dumps({"quantities": sorted({s.quantity for s in telemetry.samples}), "un": telemetry.unavailable}))
"""


@pytest.fixture
def parent(tmp_path, driver):
    """A process with a sampler of its own, on a machine with the stub's GPUs."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", script],
        env=environment(driver),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_sampler_ends_with_its_parent(parent):
    sampler_pid = int(parent.stdout.readline())
    assert is_running(sampler_pid)
    parent.kill()
    assert until(lambda: not is_running(sampler_pid))


def test_sampler_reads_gpu_and_host_side_by_side(parent):
    parent.stdout.readline()
    answer = json.loads(parent.communicate("stop\n", timeout=10)[0])
    assert answer["un"] == {}
    assert {"nvml_used", "nvml_energy", "host_rss"} <= set(answer["quantities"])


@given(
    interval_s=st.floats(0.02, 2.0),
    delays=st.lists(st.tuples(st.floats(0, 3.0), st.floats(0, 5.0)), min_size=1, max_size=20),
)
def test_ticks_stay_on_their_grid(interval_s, delays):
    ticks = Ticks(100.0, interval_s)
    for late_s, busy_s in delays:
        began_s = ticks.due_s + late_s
        ended_s = began_s + busy_s
        ticks.taken(began_s, ended_s)
        assert ticks.due_s > ended_s - 1e-6  # never a burst to catch up
        assert ticks.due_s <= ended_s + interval_s * 1.001  # and no longer a pause than needed
    # Every point of the grid so far was either taken or counted as missed.
    assert ticks.due_s == pytest.approx(100.0 + (len(delays) + ticks.num_missed) * interval_s)


def test_ticks_need_two_for_an_interval():
    ticks = Ticks(0.0, 1.0)
    assert ticks.achieved_s is None
    ticks.taken(0.0, 0.1)
    assert ticks.achieved_s is None
    ticks.taken(1.5, 3.2)
    assert (ticks.achieved_s, ticks.num_missed, ticks.due_s) == (1.5, 2, 4.0)


class Failing(Probe):
    """Works twice, then raises what a stranger's probe may raise."""

    name = "failing"
    num_closed = 0

    def open(self, targets):
        self.num_ticks = 0

    def sample(self, now):
        self.num_ticks += 1
        if self.num_ticks > 2:
            raise KeyError("counter")
        return [Sample(now, "failing", "d", "q", 1.0, "W")]

    def close(self):
        Failing.num_closed += 1


def test_bench_a_failing_probe_is_closed_and_the_others_go_on():
    bench = Bench([Failing, HostProbe, "nvmll", "no.such.module:Probe"])
    bench.open([Target(os.getpid(), "worker 0", "cpu")])
    for tick in range(4):
        bench.sample(float(tick))
    assert bench.unavailable["failing"] == "failed in sample() with KeyError: 'counter'"
    assert bench.unavailable["nvmll"] == "no probe has this name; did you mean nvml? Write one of nvml, host"
    assert bench.unavailable["no.such.module:Probe"].startswith("cannot be loaded from no.such.module: ModuleNotFound")
    assert Failing.num_closed == 1
    bench.open([Target(os.getpid(), "worker 0", "cpu")])
    assert "failing" in bench.unavailable  # not tried again: its series would have a hole that nothing explains
    series = by_series(bench.columns)
    assert len(series["d", "q"]) == 2
    assert len(series["worker 0", "host_rss"]) == 4


class Unmade(Probe):
    """Forgets the methods of a probe, so that it cannot be made."""

    name = "unmade"


def test_bench_a_probe_that_cannot_be_made_is_explained():
    bench = Bench([Unmade])
    bench.open([])
    assert bench.unavailable["unmade"].startswith("failed in open() with TypeError")


def test_probes_are_found_again_by_their_path():
    for probe in harness_probes():
        assert load_probe(probe_path(probe)) is probe
        assert load_probe(probe.name) is probe
    assert probe_path("host") == "host"
    with pytest.raises(ProbeUnavailable, match="is no class derived from"):
        load_probe("json:dumps")


def test_probe_of_a_plugin_file_is_named_by_its_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from harness.engines.telemetry.cpu import HostProbe\n\nclass Mine(HostProbe):\n    name = 'mine'\n"
    )
    loaded = load_probe(f"{file}:Mine")
    assert loaded.name == "mine"
    assert probe_path(loaded) == f"{file}:Mine"


@given(
    st.lists(
        st.builds(Sample, *[st.floats(allow_nan=False), *[st.sampled_from("abc")] * 3, st.floats(0, 9), st.just("W")])
    )
)
def test_columns_give_back_what_was_put_in(samples):
    columns = Columns(samples)
    assert list(columns) == samples
    assert len(columns) == len(samples)
    assert list(zip(*columns.table().values(), strict=True)) == [tuple(sample) for sample in samples]


def test_a_table_counts_seconds_from_where_training_began():
    columns = Columns([Sample(12.5, "host", "host", "host_cpu_all", 1.0, "cores")])
    assert columns.table(origin_s=12.0)["time_s"] == [0.5]


def readings(quantity, device, *points):
    return [Sample(time_s, "nvml", device, quantity, value, "?") for time_s, value in points]


def test_summary_of_nothing_is_empty():
    assert summarise([]) == {}
    assert summary_notes([]) == []


def test_summary_takes_the_busiest_device_and_the_mean_of_all():
    samples = [
        *readings("nvml_targets_used", "gpu0", (0, 5.0), (1, 9.0)),
        *readings("nvml_targets_used", "gpu1", (0, 8.0)),
        *readings("nvml_gpu_utilisation", "gpu0", (0, 1.0), (1, 0.5)),
        *readings("nvml_gpu_utilisation", "gpu1", (0, 0.25)),
        *readings("host_rss", "worker 0", (0, 3.0), (1, 2.0)),
        *readings("host_rss", "worker 1", (0, 1.0), (1, 4.0)),
        *readings("host_cpu_other", "host", (0, 0.0), (1, 1.0)),
    ]
    assert summarise(samples) == {
        "nvml_used_peak_bytes": 9.0,
        "nvml_utilisation_mean": 0.5,
        "host_rss_peak_bytes": 4.0,
        "host_cpu_other_cores": 0.5,
    }


def test_summary_uses_device_memory_unless_every_device_tells_the_cells_own():
    samples = [
        *readings("nvml_targets_used", "gpu0", (0, 5.0)),
        *readings("nvml_used", "gpu0", (0, 6.0)),
        *readings("nvml_used", "gpu1", (0, 7.0)),
    ]
    assert summarise(samples)["nvml_used_peak_bytes"] == 7.0


def test_summary_adds_counters_and_power_of_different_devices():
    samples = [
        *readings("nvml_energy", "gpu0", (0, 1e6), (2, 1e6 + 7)),
        *readings("nvml_power", "gpu0", (0, 100.0), (2, 100.0)),
        *readings("nvml_power", "gpu1", (0, 10.0), (1, 20.0), (3, 20.0)),
    ]
    assert summarise(samples)["energy_j"] == pytest.approx(7 + 15 + 40)
    assert summary_notes(samples) == ["energy_j: integral of the power samples on gpu1"]


def test_summary_leaves_energy_out_where_a_device_lacks_it():
    samples = [*readings("nvml_energy", "gpu0", (0, 1.0), (1, 2.0)), *readings("nvml_used", "gpu1", (0, 1.0))]
    assert "energy_j" not in summarise(samples)
    assert "energy_j: left out, because gpu1 tells neither energy nor power" in summary_notes(samples)


def test_summary_energy_is_never_negative():
    reset = readings("nvml_energy", "gpu0", (0, 9.0), (1, 1.0))
    assert "energy_j" not in summarise(reset)
    assert summarise([*reset, *readings("nvml_power", "gpu0", (0, 3.0), (1, 3.0))])["energy_j"] == 3.0
    assert "energy_j" not in summarise(readings("nvml_energy", "gpu0", (0, 9.0)))


def test_telemetry_survives_the_way_through_a_pipe():
    sample = Sample(1.0, "host", "host", "host_cpu_all", 2.0, "cores")
    here, there = multiprocessing.Pipe()
    with here, there:
        there.send(Telemetry(Columns([sample]), {"nvml": "no"}, ["note"], 3, 0.02, 0.01))
        received = here.recv()
    assert received.samples == [sample]
    received.columns.extend([sample])
    assert len(received.columns.series) == 1
    assert (received.unavailable, received.missed_ticks, received.interval_s) == ({"nvml": "no"}, 3, 0.02)


def test_doctor_describes_this_machine():
    facts = dict(describe_machine())
    assert {"cores", "memory", "load", "busiest other processes"} <= facts.keys()
    assert "usable of" in facts["cores"]
    assert "GiB available of" in facts["memory"]


def test_doctor_describes_gpus_and_who_is_on_them(driver):
    script = "from harness.commands.doctor import describe_machine; print(dict(describe_machine()))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment(driver, NVML_STUB_PIDS=f"{os.getpid()},4000000"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "'NVIDIA driver': '999.1'" in done.stdout
    name = psutil.Process().name()
    assert (
        f"'GPU 1': 'Stub 1000, 20 GiB used of 80 GiB, used by {name}, a process outside this container" in done.stdout
    )


def test_doctor_reads_limits_of_control_groups():
    assert _quota_v2("150000 100000") == 1.5
    assert _quota_v2("max 100000") is None
    assert _quota_v2("-1 100000") is None


def test_importing_telemetry_loads_no_heavy_library():
    modules = "{'torch', 'pandas', 'numpy', 'pynvml', 'psutil'} & set(sys.modules)"
    script = "import sys, harness.engines.telemetry as t, harness.engines.telemetry.sampler; "
    script += f"t.harness_probes(); print({modules})"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(""), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
