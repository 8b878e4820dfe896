"""AMD's probe against a stand-in for amdsmi, by its documented interface; no test here has met an AMD GPU."""

from __future__ import annotations

import sys

import pytest
from amdsmi_stub import BUSY, GIB, NO_PERMISSION, NOT_SUPPORTED, AmdSmi

from harness.core import amd_driver
from harness.core.environment import describe_environment
from harness.core.machine import Machine, detect_machine
from harness.engines.telemetry import ProbeUnavailable, Target
from harness.engines.telemetry.amd import AmdSmiProbe
from harness.engines.telemetry.summary import summarise


@pytest.fixture
def amdsmi(monkeypatch, tmp_path):
    """The stand-in, on a machine with AMD's driver."""
    library = AmdSmi()
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(amd_driver, "KFD", tmp_path / "kfd")
    monkeypatch.setitem(sys.modules, "amdsmi", library)
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    return library


def sampled(ticks=3, devices=("cuda:0",)):
    """Return the samples by device and quantity, and the notes."""
    probe = AmdSmiProbe()
    probe.open([Target(7 + k, f"worker {k}", device) for k, device in enumerate(devices)])
    samples = [sample for tick in range(ticks) for sample in probe.sample(0.5 * tick)]
    notes = probe.notes()
    probe.close()
    probe.close()
    return samples, notes


def by_series(samples):
    groups = {}
    for sample in samples:
        groups.setdefault((sample.device, sample.quantity), []).append(sample)
    return groups


def test_every_quantity_has_its_value_and_unit(amdsmi):
    amdsmi.processes = [(7, 3 * GIB), (99, GIB)]
    samples, notes = sampled()
    expected = {
        ("gpu0", "amdsmi_used"): ("bytes", [10 * GIB, 11 * GIB, 12 * GIB]),
        ("gpu0", "amdsmi_total"): ("bytes", [192 * GIB] * 3),
        ("gpu0", "amdsmi_gpu_utilisation"): ("fraction", [0.5, 0.6, 0.7]),
        ("gpu0", "amdsmi_memory_utilisation"): ("fraction", [0.25] * 3),
        ("gpu0", "amdsmi_sm_clock"): ("MHz", [2100, 2101, 2102]),
        ("gpu0", "amdsmi_power"): ("W", [500, 510, 520]),
        ("gpu0", "amdsmi_energy"): ("J", [15250, 15265.25, 15280.5]),
        ("gpu0", "amdsmi_temperature"): ("C", [60, 61, 62]),
        ("gpu0", "amdsmi_targets_used"): ("bytes", [3 * GIB] * 3),
        ("gpu0", "amdsmi_other_processes"): ("processes", [1] * 3),
        ("worker 0 on gpu0", "amdsmi_process_used"): ("bytes", [3 * GIB] * 3),
        # Reading it takes 0.1 s, so it is read once a second only.
        ("gpu0", "amdsmi_throttle_reasons"): ("bitmask", [0x1004, 0x1004]),
    }
    series = by_series(samples)
    assert series.keys() == expected.keys()
    for key, (unit, values) in expected.items():
        assert {sample.unit for sample in series[key]} == {unit}, key
        assert [sample.value for sample in series[key]] == pytest.approx(values), key
    assert {sample.source for sample in samples} == {"amdsmi"}
    assert notes == ["gpu0: clocks were limited by: power cap (software), temperature of the memory"]
    assert amdsmi.num_open == 0
    assert summarise(samples) == pytest.approx(
        {"amdsmi_used_peak_bytes": 3 * GIB, "amdsmi_utilisation_mean": 0.6, "energy_j": 30.5}
    )


@pytest.mark.parametrize(
    ("variables", "device", "first_gib"),
    [
        ({}, "cuda:1", 20),
        ({"HIP_VISIBLE_DEVICES": "1"}, "cuda:0", 20),
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, "cuda:1", 10),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, "cuda:0", 20),
        ({"HIP_VISIBLE_DEVICES": "GPU-0000000000000001"}, "cuda:0", 20),
    ],
)
def test_gpus_are_counted_as_hip_does(amdsmi, monkeypatch, variables, device, first_gib):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    samples, _ = sampled(1, (device,))
    assert by_series(samples)[f"gpu{device[-1]}", "amdsmi_used"][0].value == first_gib * GIB


def test_a_library_without_hips_numbers_keeps_its_own_order(amdsmi):
    amdsmi.lacking["enumeration"] = NOT_SUPPORTED
    samples, _ = sampled(1)
    assert by_series(samples)["gpu0", "amdsmi_used"][0].value == 20 * GIB


@pytest.mark.parametrize(
    ("call", "lacking"),
    [
        ("vram", {"amdsmi_used", "amdsmi_total"}),
        ("activity", {"amdsmi_gpu_utilisation", "amdsmi_memory_utilisation"}),
        ("clock", {"amdsmi_sm_clock"}),
        ("power", {"amdsmi_power"}),
        ("energy", {"amdsmi_energy"}),
        ("temperature", {"amdsmi_temperature"}),
        ("violation", {"amdsmi_throttle_reasons"}),
        ("processes", {"amdsmi_targets_used", "amdsmi_process_used"}),
    ],
)
@pytest.mark.parametrize(
    ("code", "words"),
    [(NOT_SUPPORTED, "not supported by this device"), (NO_PERMISSION, "the driver keeps it for administrators")],
)
def test_what_is_refused_is_absent_with_its_reason(amdsmi, call, lacking, code, words):
    amdsmi.processes = [(7, GIB)]
    everything = {quantity for _, quantity in by_series(sampled()[0])}
    amdsmi.lacking[call] = code
    samples, notes = sampled()
    assert everything - {quantity for _, quantity in by_series(samples)} == lacking
    assert sum(note.endswith(words) for note in notes) == 1


def test_what_the_device_does_not_have_is_no_number(amdsmi):
    amdsmi.untold = {"gfx_activity", "clk", "current_socket_power"}
    samples, notes = sampled(2)
    series = by_series(samples)
    assert not {"amdsmi_gpu_utilisation", "amdsmi_sm_clock"} & {quantity for _, quantity in series}
    assert [sample.value for sample in series["gpu0", "amdsmi_power"]] == [499, 509]  # before the MI300: the average
    assert "gpu0: SM clock (amdsmi_sm_clock): not supported by this device" in notes


def test_a_call_that_an_older_library_lacks_is_named(amdsmi, monkeypatch):
    monkeypatch.delattr(AmdSmi, "amdsmi_get_violation_status")
    assert "gpu0: throttle reasons: needs a newer driver" in sampled()[1]


def test_a_call_that_fails_at_times_is_counted(amdsmi):
    amdsmi.lacking["power"] = BUSY
    notes = sampled()[1]
    assert "gpu0: power: failed with Error code: 30 | AMDSMI_STATUS_30, 3 times" in notes


def test_processes_of_others_are_not_ours(amdsmi):
    amdsmi.processes = [(99, GIB)]
    samples, notes = sampled(1)
    assert not any(sample.quantity == "amdsmi_process_used" for sample in samples)
    assert "gpu0: memory of each process: the driver lists none of this cell's processes" in notes


def reason():
    with pytest.raises(ProbeUnavailable) as raised:
        sampled()
    return str(raised.value)


def test_a_machine_without_amds_driver_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(amd_driver, "KFD", tmp_path / "none")
    assert reason() == f"no AMD GPU driver ({tmp_path / 'none'}) on this machine"


def test_a_library_that_cannot_work_says_why(amdsmi, monkeypatch, capsys):
    amdsmi.handles = []
    assert reason() == "the AMD driver sees no GPU on this machine"
    assert amdsmi.num_open == 0
    amdsmi.lacking["init"] = 34
    assert reason() == "AMD's library does not start: Error code: 34 | AMDSMI_STATUS_34"
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    assert reason() == "the Python package amdsmi, which comes with ROCm, is not installed"


def test_a_package_without_its_library_prints_nothing(amdsmi, monkeypatch, tmp_path, capsys):
    """As amdsmi 7.0.2 of the registry does where ROCm is missing: it prints, and raises a KeyError."""
    (tmp_path / "amdsmi.py").write_text("print('Unable to find libamd_smi.so')\nraise KeyError('libamd_smi.so')\n")
    monkeypatch.delitem(sys.modules, "amdsmi")
    monkeypatch.syspath_prepend(tmp_path)
    assert reason() == "the Python package amdsmi cannot be loaded: KeyError: 'libamd_smi.so'"
    assert capsys.readouterr().out == ""


def test_a_gpu_that_hip_does_not_show_is_refused(amdsmi, monkeypatch):
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    assert reason() == "HIP shows no cuda:0: 0 GPUs"
    assert amdsmi.num_open == 0


def test_a_plan_counts_amds_gpus_where_there_are_none_of_nvidias(amdsmi, monkeypatch):
    monkeypatch.setattr("harness.core.machine.gpu_names", lambda: ())
    machine = detect_machine()
    assert (machine.gpus, machine.gpu_name) == (2, "Stub Instinct 1")
    monkeypatch.setattr("harness.core.environment.driver_version", lambda: "")
    describe_environment.cache_clear()
    assert describe_environment(Machine(4, 2, machine.gpu_name))["driver"] == "6.99.1"
    describe_environment.cache_clear()
