"""Telemetry: the probes against a real driver library (a stub in C) and real processes, the sampler as a process."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import defaultdict

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_driver import environment

from harness.engines.telemetry import Probe, ProbeUnavailable, Sample, Target, harness_probes
from harness.engines.telemetry.bench import MOST_ASKED_S, Bench, load_probe, probe_path
from harness.engines.telemetry.columns import Columns
from harness.engines.telemetry.cpu import HostProbe, Meter
from harness.engines.telemetry.helper import Helper
from harness.engines.telemetry.sampler import Sampler, Telemetry, Ticks
from harness.engines.telemetry.summary import summarise, summary_notes
from harness.results.store import Results, load

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
    assert telemetry.unavailable == {}  # that there is no GPU to read lacks nothing
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
from harness.engines.telemetry.helper import Helper
from harness.engines.telemetry.sampler import Sampler

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    sampler = Sampler(context, [Target(os.getpid(), "worker 0", "cuda:0")], 0.02)
    sampler.start()
    assert sampler.ready(10)
    print(sampler.pid, flush=True)
    sys.stdin.readline()
    telemetry = sampler.stop(5)
    told = {"un": telemetry.unavailable, "lost": telemetry.lost, "notes": telemetry.notes}
    told |= {"quantities": sorted({s.quantity for s in telemetry.samples})}
    told |= {"last": {s.device: s.time_s for s in telemetry.samples}}
    print(json.dumps(told))
"""

# A run on CPUs whose sampler looks at the first GPU, as the sampler of a run on GPUs does.
LOOKS_AT_A_GPU = """
from dataclasses import replace
from harness import hookimpl
from harness.engines.telemetry.nvml import NvmlProbe

class Looking(NvmlProbe):
    name = "looking"

    def open(self, targets):
        super().open([replace(target, device="cuda:0") for target in targets])

@hookimpl
def harness_probes():
    return [Looking]
"""
SHORT_RUN = """
engine = "real"
device = "cpu"
[workload]
model = "softmax"
dataset = "digits"
[sweep]
strategy = ["single"]
gpus = [1]
learning_rate = [0.1]
[goal]
target_accuracy = 0.999
max_epochs = 8
[measure]
telemetry_interval = "20 ms"
"""


@pytest.fixture
def parent(tmp_path, driver, request):
    """A process with a sampler of its own, on a machine with the stub's GPUs; a parameter is the stub's variables."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", script],
        env=environment(driver, **getattr(request, "param", {})),
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


@pytest.mark.parametrize("parent", [{"NVML_STUB_LOST": "0:4"}], indirect=True)
def test_sampler_goes_on_when_its_gpu_is_lost_and_says_from_when_on(parent):
    parent.stdout.readline()
    time.sleep(0.3)
    told = json.loads(parent.communicate("stop\n", timeout=10)[0])
    assert told["un"] == {}
    assert "gpu0: the driver lost this GPU" in told["notes"]
    assert told["last"]["gpu0"] <= told["lost"]["gpu0"] < told["last"]["worker 0"]


@pytest.mark.slow
@pytest.mark.dist
def test_a_cell_whose_gpu_is_lost_midway_ends_well_and_says_from_when_on_no_figures_came(tmp_path, driver):
    (tmp_path / "looking.py").write_text(LOOKS_AT_A_GPU)
    (tmp_path / "short.toml").write_text(SHORT_RUN)
    command = [sys.executable, "-m", "harness", "--plugins", "looking.py", "run", "short.toml"]
    lost = environment(driver, NVML_STUB_LOST="0:5")
    done = subprocess.run(command, env=lost, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = Results(tmp_path / "results" / "short").records().values()
    told = record.detail["telemetry"]
    assert record.status == "target-missed"  # it trained to its end
    assert list(told["lost"]) == ["gpu0"]
    samples = load(tmp_path / "results" / "short").telemetry
    of_gpu = samples[samples["device"] == "gpu0"]["time_s"]
    assert of_gpu.max() <= told["lost"]["gpu0"] < samples["time_s"].max()
    assert "gpu0: the driver lost this GPU" in told["notes"]
    assert any(note.startswith("gpu0 gave no figures from ") for note in told["notes"])
    assert "looking" not in told["unavailable"]


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
    assert bench.unavailable["nvmll"] == "no probe has this name; did you mean nvml? Write one of nvml, amdsmi, host"
    assert bench.unavailable["no.such.module:Probe"].startswith("cannot be loaded from no.such.module: ModuleNotFound")
    assert bench.lost == {"failing": 2.0}
    assert Failing.num_closed == 1
    bench.open([Target(os.getpid(), "worker 0", "cpu")])
    assert "failing" in bench.unavailable  # not tried again: its series would have a hole that nothing explains
    series = by_series(bench.columns)
    assert len(series["d", "q"]) == 2
    assert len(series["worker 0", "host_rss"]) == 4


class Hanging(Failing):
    """Reads once; then its driver does not return."""

    name = "hanging"
    gone = threading.Event()

    def sample(self, now):
        self.num_ticks += 1
        if self.num_ticks > 1:
            self.gone.wait(20)
        return super().sample(now)

    def notes(self):
        return ["read once"]


def test_bench_a_probe_that_does_not_return_is_left_alone_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr("harness.engines.telemetry.bench.MOST_ASKED_S", dict.fromkeys(MOST_ASKED_S, 0.2))
    num_closed = Failing.num_closed
    bench = Bench([Hanging, HostProbe])
    bench.open([Target(os.getpid(), "worker 0", "cpu")])
    for tick in range(3):
        bench.sample(float(tick))
    bench.close()
    Hanging.gone.set()
    assert bench.unavailable == {"hanging": "sample() did not return within 0.2 s"}
    assert bench.lost == {"hanging": 1.0}
    assert bench.notes == ["read once"]
    assert Failing.num_closed == num_closed  # its driver would not return from that either
    series = by_series(bench.columns)
    assert len(series["d", "q"]) == 1
    assert len(series["worker 0", "host_rss"]) == 3


def test_helper_ends_its_thread_and_starts_another():
    helper = Helper()
    first = helper.call(threading.get_ident, 5)
    assert helper.call(threading.get_ident, 5) == first != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        helper.call(lambda: 1 / 0, 5)
    helper.close()
    helper.close()
    assert until(lambda: first not in [thread.ident for thread in threading.enumerate()])
    assert helper.call(lambda: "again", 5) == "again"
    helper.close()


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
    assert list(zip(*columns.table().values(), strict=True)) == [(*sample, "") for sample in samples]


def test_a_table_says_in_words_what_held_clocks_back():
    reasons = [Sample(float(bits), "nvml", "gpu0", "nvml_throttle_reasons", bits, "bitmask") for bits in (0, 4, 0x24)]
    words = ["", "power cap (software)", "power cap (software), temperature (software)"]
    assert Columns(reasons).table()["words"] == words


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
    assert summary_notes(samples) == [
        "energy_j: integral of the power samples on gpu1",
        "energy_j: the counter of gpu0 says 7.00 J, the integral of its power samples 200 J",
    ]


def test_summary_leaves_energy_out_where_a_device_lacks_it():
    samples = [*readings("nvml_energy", "gpu0", (0, 1.0), (1, 2.0)), *readings("nvml_used", "gpu1", (0, 1.0))]
    assert "energy_j" not in summarise(samples)
    assert "energy_j: left out, because gpu1 tells neither energy nor power" in summary_notes(samples)


def test_summary_of_a_lost_device_has_no_energy():
    samples = readings("nvml_energy", "gpu0", (0, 1.0), (1, 2.0))
    assert summarise(samples)["energy_j"] == 1.0
    assert "energy_j" not in summarise(samples, {"gpu0": 1.5})
    for lost in ({"gpu0": 1.5}, {"nvml": 1.5}):  # the device, or the probe that read it
        assert summary_notes(samples, lost) == ["energy_j: left out, because gpu0 gave no figures to the end"]
    assert summarise(samples, {"host": 1.5})["energy_j"] == 1.0


def test_summary_of_amds_gpus_has_names_of_its_own():
    samples = [
        *readings("amdsmi_used", "gpu0", (0, 5.0), (1, 6.0)),
        *readings("amdsmi_gpu_utilisation", "gpu0", (0, 0.5), (1, 0.7)),
        *readings("amdsmi_energy", "gpu0", (0, 10.0), (1, 12.0)),
    ]
    assert summarise(samples) == pytest.approx(
        {"amdsmi_used_peak_bytes": 6.0, "amdsmi_utilisation_mean": 0.6, "energy_j": 2.0}
    )


def test_summary_energy_is_never_negative():
    reset = readings("nvml_energy", "gpu0", (0, 9.0), (1, 1.0))
    assert "energy_j" not in summarise(reset)
    assert summarise([*reset, *readings("nvml_power", "gpu0", (0, 3.0), (1, 3.0))])["energy_j"] == 3.0
    assert "energy_j" not in summarise(readings("nvml_energy", "gpu0", (0, 9.0)))


def test_telemetry_survives_the_way_through_a_pipe():
    sample = Sample(1.0, "host", "host", "host_cpu_all", 2.0, "cores")
    here, there = multiprocessing.Pipe()
    with here, there:
        there.send(Telemetry(Columns([sample]), {"nvml": "no"}, ["note"], 3, 0.02, 0.01, {"gpu0": 4.0}))
        received = here.recv()
    assert received.samples == [sample]
    received.columns.extend([sample])
    assert len(received.columns.series) == 1
    assert (received.unavailable, received.missed_ticks, received.interval_s) == ({"nvml": "no"}, 3, 0.02)
    assert received.lost == {"gpu0": 4.0}


def test_importing_telemetry_loads_no_heavy_library():
    modules = "{'torch', 'pandas', 'numpy', 'pynvml', 'psutil'} & set(sys.modules)"
    script = "import sys, harness.engines.telemetry as t, harness.engines.telemetry.sampler; "
    script += f"t.harness_probes(); print({modules})"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(""), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
