"""The NVML probe against a real driver library, which is a stub in C, each time in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
from stub_driver import environment, sample_nvml

from harness.core.clock_reasons import NVML_REASONS, clock_reasons_in_words
from harness.engines.telemetry.driver import cuda_index, first_that_works
from harness.engines.telemetry.summary import energy_by_device, summarise, summary_notes

GIB = 2**30
MIB = 2**20


def by_series(samples):
    groups = {}
    for sample in samples:
        groups.setdefault((sample.device, sample.quantity), []).append(sample)
    return groups


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
        ("gpu0", "nvml_other_processes"): ("processes", [1] * 3),
        ("worker 0 on gpu0", "nvml_process_used"): ("bytes", [GIB] * 3),
        ("gpu0", "nvml_sm_activity"): ("fraction", [0.2, 0.3]),
        ("gpu0", "nvml_sm_occupancy"): ("fraction", [0.02, 0.03]),
        ("gpu0", "nvml_tensor_activity"): ("fraction", [0.02, 0.03]),
        ("gpu0", "nvml_fp64_activity"): ("fraction", [0.02, 0.03]),
        ("gpu0", "nvml_fp32_activity"): ("fraction", [0.02, 0.03]),
        ("gpu0", "nvml_fp16_activity"): ("fraction", [0.02, 0.03]),
        ("gpu0", "nvml_pcie_sent"): ("bytes/s", [200 * MIB, 300 * MIB]),
        ("gpu0", "nvml_pcie_received"): ("bytes/s", [200 * MIB, 300 * MIB]),
        ("gpu0", "nvml_nvlink_received"): ("bytes/s", [200 * MIB, 300 * MIB]),
        ("gpu0", "nvml_dram_bandwidth_utilisation"): ("fraction", [0.1, 0.15]),
    }
    assert series.keys() == expected.keys()
    for key, (unit, values) in expected.items():
        assert {sample.unit for sample in series[key]} == {unit}, key
        assert [sample.value for sample in series[key]] == pytest.approx(values), key
    assert [sample.time_s for sample in series["gpu0", "nvml_used"]] == pytest.approx([0, 0.2, 0.4])
    assert {sample.source for sample in answer["samples"]} == {"nvml"}
    assert answer["notes"] == [
        "gpu0: activity of SMs, pipes and links (GPM): nvml_nvlink_sent: not supported by this device",
        "gpu0: clocks were limited by: idle, power cap (software)",
    ]
    assert answer["lost"] == {}


def test_nvml_samples_sum_up_to_a_record(driver):
    samples = sample_nvml(driver, NVML_STUB_PIDS="7")["samples"]
    assert summarise(samples) == pytest.approx(
        {"nvml_used_peak_bytes": GIB, "nvml_utilisation_mean": 0.6, "energy_j": 5.0}
    )
    assert summary_notes(samples)[0] == "nvml_used_peak_bytes: memory of this cell's processes on the busiest GPU"


def test_nvml_gpm_waits_for_its_window(driver):
    answer = sample_nvml(driver, ticks=11, interval_s=0.02)
    assert len(by_series(answer["samples"])["gpu0", "nvml_sm_activity"]) == 2


NO_NVLINK_RATE = "gpu0: activity of SMs, pipes and links (GPM): nvml_nvlink_sent: not supported by this device"
"""The stub has no such metric."""

ALL_REFUSED = "power,energy,clock,temperature,throttle,utilisation,memory,processes,gpm"


@pytest.mark.parametrize(
    ("refused", "lacking", "notes"),
    [
        ("power", {"nvml_power"}, ["gpu0: power: not supported by this device", NO_NVLINK_RATE]),
        (
            "energy,gpm",
            {
                "nvml_energy",
                "nvml_dram_bandwidth_utilisation",
                "nvml_pcie_sent",
                "nvml_pcie_received",
                "nvml_nvlink_received",
            }
            | {f"nvml_{kind}_activity" for kind in ("sm", "tensor", "fp64", "fp32", "fp16")}
            | {"nvml_sm_occupancy"},
            [
                "gpu0: activity of SMs, pipes and links (GPM): not supported by this device",
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
    assert "gpu0: activity of SMs, pipes and links (GPM): needs a newer driver" in answer["notes"]


def test_nvml_an_older_package_is_asked_the_older_way_too():
    pynvml = pytest.importorskip("pynvml")
    old = ModuleType("pynvml")  # as nvidia-ml-py 12.535, which has no nvmlDeviceGetTemperatureV
    for name in ("NVMLError", "NVMLError_FunctionNotFound", "NVMLError_ArgumentVersionMismatch"):
        setattr(old, name, getattr(pynvml, name))
    old.NVML_ERROR_FUNCTION_NOT_FOUND = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    assert first_that_works(old, lambda: old.nvmlDeviceGetTemperatureV(), lambda: 40) == 40
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        first_that_works(old, lambda: old.nvmlDeviceGetTemperatureV())
    with pytest.raises(AttributeError):  # a mistake of ours is none of the driver's
        first_that_works(old, lambda: None.used, lambda: 40)


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
    assert counted_by_a_plan(driver, visible, {"NVML_STUB_MIXED": "1"}) == f"{gpus} 999.1 {first}".strip()


@pytest.mark.parametrize(
    ("variables", "visible", "told"),
    [
        ({"NVML_STUB_MIG": "1"}, None, "1 999.1 Stub 1000 MIG 1g.10gb"),
        ({"NVML_STUB_MIG": "1"}, "1", "1 999.1 Stub 1000"),
        ({"NVML_STUB_FORBIDDEN": "handle1"}, None, "1 999.1 Stub 1000"),
        ({"NVML_STUB_FORBIDDEN": "name,uuid"}, None, "2 999.1 GPU"),
        ({"NVML_STUB_LOST": "1:0"}, None, "1 999.1 Stub 1000"),
        ({"NVML_STUB_OLD": "1"}, None, "2 999.1 Stub 1000"),
    ],
)
def test_a_plan_counts_what_cuda_can_use(driver, variables, visible, told):
    assert counted_by_a_plan(driver, visible, variables) == told


def counted_by_a_plan(driver, visible, variables):
    """Return how many GPUs a plan finds, the driver, and what they are called."""
    script = "from harness.core.machine import detect_machine; from harness.core.nvidia_driver import driver_version; "
    script += "m = detect_machine(); print(m.gpus, driver_version(), m.gpu_name)"
    shown = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment(driver, **variables, **shown),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_clock_reasons_are_decoded_with_what_is_unknown_named():
    def words(bits):
        return clock_reasons_in_words("nvml_throttle_reasons", bits)

    assert words(0) == []
    assert words(0x44) == ["power cap (software)", "temperature (hardware)"]
    assert words(0x1001) == ["idle", "unknown bits 0x1000"]


def test_clock_reasons_match_those_of_pynvml():
    pynvml = pytest.importorskip("pynvml")
    assert sum(NVML_REASONS) == pynvml.nvmlClocksThrottleReasonAll


# -- MIG ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "visible", [None, "0", "0,1", "1,0", "MIG-cccc3333-stub", "MIG-cccc3333-stub,MIG-dddd4444-stub"]
)
def test_nvml_of_a_split_gpu_reads_the_first_instance_that_cuda_shows(driver, visible):
    variables = {"NVML_STUB_MIG": "1"} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    answer = sample_nvml(driver, NVML_STUB_PIDS="7", **variables)
    series = by_series(answer["samples"])
    assert [sample.value for sample in series["gpu0", "nvml_used"]] == [GIB, 2 * GIB, 3 * GIB]
    assert series["gpu0", "nvml_total"][0].value == 10 * GIB
    assert series["gpu0", "nvml_targets_used"][0].value == GIB
    # Clock, heat and what limits them are the whole GPU's; power and energy are too, but are no instance's.
    assert [sample.value for sample in series["gpu0", "nvml_sm_clock"]] == [1500, 1501, 1502]
    assert {"nvml_temperature", "nvml_throttle_reasons", "nvml_sm_activity"} <= {quantity for _, quantity in series}
    assert not {"nvml_power", "nvml_energy", "nvml_gpu_utilisation"} & {quantity for _, quantity in series}
    assert {
        "gpu0: utilisation: not supported by this device",
        "gpu0: power: counted for the whole GPU, and this is one MIG instance of it",
        "gpu0: energy: counted for the whole GPU, and this is one MIG instance of it",
    } <= set(answer["notes"])
    assert "energy_j" not in summarise(answer["samples"])


def test_nvml_a_second_instance_is_read_by_its_uuid(driver):
    answer = sample_nvml(driver, ticks=1, NVML_STUB_MIG="1", CUDA_VISIBLE_DEVICES="MIG-dddd4444-stub")
    assert by_series(answer["samples"])["gpu0", "nvml_total"][0].value == 10 * GIB


def test_nvml_a_process_sees_one_instance_and_no_gpu_beside_it(driver):
    answer = sample_nvml(driver, [(7, "worker 1", "cuda:1")], NVML_STUB_MIG="1")
    assert answer["unavailable"] == "CUDA shows no cuda:1: 1 GPU of 2"


def test_nvml_a_whole_gpu_beside_a_split_one_is_read_where_it_alone_is_shown(driver):
    answer = sample_nvml(driver, ticks=1, NVML_STUB_MIG="1", CUDA_VISIBLE_DEVICES="1")
    assert by_series(answer["samples"])["gpu0", "nvml_used"][0].value == 20 * GIB


# -- what the driver keeps to itself, and a GPU that is lost -----------------------------------------------------------


@pytest.mark.parametrize("call", ALL_REFUSED.split(","))
def test_nvml_without_permission_for_one_call_reads_the_others_and_says_which(driver, call):
    everything = by_series(sample_nvml(driver, NVML_STUB_PIDS="7")["samples"])
    answer = sample_nvml(driver, NVML_STUB_PIDS="7", NVML_STUB_FORBIDDEN=call)
    lacking = everything.keys() - by_series(answer["samples"]).keys()
    assert lacking
    kept = [note for note in answer["notes"] if "the driver keeps it for administrators" in note]
    assert len(kept) == 1
    assert len(everything) > len(lacking) + 2


def test_nvml_a_gpu_of_somebody_else_is_no_device_of_ours(driver):
    both = [(7, "worker 0", "cuda:0"), (8, "worker 1", "cuda:1")]
    answer = sample_nvml(driver, both, NVML_STUB_FORBIDDEN="handle1")
    assert {device for device, _ in by_series(answer["samples"])} == {"gpu0"}
    assert answer["notes"][0] == "CUDA shows no cuda:1: 1 GPU of 2"


def test_nvml_a_gpu_that_is_lost_midway_ends_its_series_and_says_from_when(driver):
    both = [(7, "worker 0", "cuda:0"), (8, "worker 1", "cuda:1")]
    answer = sample_nvml(driver, both, ticks=6, NVML_STUB_PIDS="7,8", NVML_STUB_LOST="1:3")
    series = by_series(answer["samples"])
    assert len(series["gpu0", "nvml_used"]) == 6
    assert [sample.time_s for sample in series["gpu1", "nvml_used"]] == pytest.approx([0, 0.2])
    assert answer["lost"] == {"gpu1": pytest.approx(0.4)}
    assert "gpu1: the driver lost this GPU" in answer["notes"]
    assert not any("failed with" in note for note in answer["notes"])
    # A sum up to the loss would pass for the whole.
    assert summarise(answer["samples"])["energy_j"] == pytest.approx(2.5 * (5 + 1))
    assert "energy_j" not in summarise(answer["samples"], answer["lost"])
    assert summary_notes(answer["samples"], answer["lost"])[-1] == (
        "energy_j: left out, because gpu1 gave no figures to the end"
    )


def test_nvml_a_gpu_that_is_lost_before_the_cell_leaves_the_others(driver):
    both = [(7, "worker 0", "cuda:0"), (8, "worker 1", "cuda:1")]
    answer = sample_nvml(driver, both, NVML_STUB_LOST="1:0")
    assert {device for device, _ in by_series(answer["samples"])} == {"gpu0"}
    assert answer["notes"][0] == "CUDA shows no cuda:1: 1 GPU of 2"


def test_nvml_every_metric_of_gpm_that_a_device_lacks_is_named(driver):
    answer = sample_nvml(driver, NVML_STUB_UNSUPPORTED="gpm60")
    assert [note for note in answer["notes"] if "GPM" in note] == [
        f"gpu0: activity of SMs, pipes and links (GPM): {quantity}: not supported by this device"
        for quantity in ("nvml_nvlink_sent", "nvml_nvlink_received")
    ]


def test_nvml_energy_is_told_both_ways(driver):
    samples = sample_nvml(driver)["samples"]
    assert energy_by_device(samples) == {"gpu0": {"counter_j": 5.0, "power_integral_j": pytest.approx(84.0)}}
    (disagreement,) = [note for note in summary_notes(samples) if note.startswith("energy_j")]
    assert disagreement == "energy_j: the counter of gpu0 says 5.00 J, the integral of its power samples 84.0 J"
