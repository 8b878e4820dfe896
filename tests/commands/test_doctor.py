"""What `harness doctor` says of this machine; tests/test_golden.py holds what it says of machines with GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import psutil
import pytest
from amdsmi_stub import GIB, NO_PERMISSION, AmdSmi
from lazy import lazy
from stub_driver import environment

from harness.commands import doctor
from harness.commands.amd_facts import amd_facts
from harness.commands.doctor import _quota_v2, describe_machine
from harness.commands.gpu_facts import bits_of
from harness.commands.torch_facts import build_in_words, runs_on, torch_facts
from harness.core import amd_driver
from harness.engines.telemetry import Probe, Sample, harness_probes

torch = lazy("torch")


class Mine(Probe):
    """A probe of somebody's plugin."""

    name = "mine"

    def open(self, targets):
        pass

    def sample(self, now):
        return [Sample(now, "mine", "host", "mine_answer", 42.0, "cores")]

    def close(self):
        pass


class Broken(Mine):
    """One that does not work."""

    name = "broken"

    def open(self, targets):
        raise OSError("no such sensor")


def test_this_machine_and_its_probes_are_described():
    facts = dict(describe_machine([*harness_probes(), Mine, Broken]))
    assert {"cores", "memory", "load", "busiest other processes"} <= facts.keys()
    assert "usable of" in facts["cores"]
    assert "GiB available of" in facts["memory"]
    assert facts["probe host"] == "answers: cpu, cpu_all, cpu_other, memory_available, rss"
    assert facts["probe mine"] == "answers: answer"
    assert facts["probe broken"] == "does not answer: failed in open() with OSError: no such sensor"


def test_who_is_on_a_gpu_is_named(driver):
    script = "from harness.commands.gpu_facts import nvidia_facts; print(nvidia_facts())"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment(driver, NVML_STUB_PIDS=f"{os.getpid()},4000000"),
        capture_output=True,
        text=True,
        check=True,
    )
    name = psutil.Process().name()
    users = f"{name} ({os.getpid()}) 1 GiB, a process outside this container (4000000) 2 GiB"
    assert f"('  processes', '{users}')" in done.stdout


def test_a_driver_that_does_not_return_is_named(monkeypatch):
    gone = threading.Event()
    monkeypatch.setattr(doctor, "MOST_ASKED_S", {"open": 0.1})
    monkeypatch.setattr(doctor, "nvidia_facts", lambda: gone.wait(20))
    monkeypatch.setattr(doctor, "detect_machine", lambda: gone.wait(20))
    facts = dict(describe_machine([Mine]))
    gone.set()
    assert facts["NVIDIA GPUs"] == "the driver did not return within 0.1 s: reset its GPUs, or restart the machine"
    assert facts["probe mine"] == "answers: answer"


def test_limits_of_control_groups_are_read():
    assert _quota_v2("150000 100000") == 1.5
    assert _quota_v2("max 100000") is None
    assert _quota_v2("-1 100000") is None


def test_masks_of_cores_are_read_word_by_word():
    assert bits_of([0b101, 0, 0b10]) == [0, 2, 129]


# -- torch and the GPUs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("built", "driver", "words"),
    [
        ("13.0", (13, 1), "built for CUDA 13.0"),
        ("13.0", (13, 0), "built for CUDA 13.0"),
        ("12.8", (13, 0), "built for CUDA 12.8"),
        ("13.2", (13, 0), "built for CUDA 13.2"),  # a driver runs all of its major version
        ("13.0", None, "built for CUDA 13.0"),
        (
            "13.0",
            (12, 4),
            "built for CUDA 13.0, too new for a driver of CUDA 12.4: update the driver, or install an older build",
        ),
        (
            None,
            (12, 4),
            "this torch is built without CUDA and uses no GPU; install a build for CUDA 12.4 or older",
        ),
    ],
)
def test_a_build_of_torch_is_held_against_the_driver(built, driver, words):
    assert build_in_words(built, driver) == words


@pytest.mark.parametrize(
    ("capability", "built_for", "fits"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((12, 0), ["sm_90", "sm_100"], False),
        ((12, 1), ["sm_120"], True),
        ((10, 3), ["sm_100a"], False),
        ((10, 3), ["sm_100f"], True),
        ((7, 0), ["gfx942", "sm_75"], False),
    ],
)
def test_a_gpu_that_torch_has_no_code_for_is_found(capability, built_for, fits):
    assert runs_on(capability, built_for) is fits


def test_a_torch_for_cuda_says_what_it_sees_and_lacks(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", [(9, 0), (7, 0)].__getitem__)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])
    monkeypatch.setattr("torch.cuda.nccl.version", lambda: (2, 27, 3))
    assert torch_facts() == [
        ("torch and GPUs", "built for CUDA 13.0; it sees 2 GPUs; it has no code for cuda:1: install a build for it"),
        ("NCCL", "2.27.3"),
    ]


def test_a_torch_for_rocm_says_so(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert torch_facts() == [("torch and GPUs", "built for ROCm 6.4.0; it sees 2 GPUs")]


# -- AMD, by a stand-in ------------------------------------------------------------------------------------------------


@pytest.fixture
def amdsmi(monkeypatch, tmp_path):
    library = AmdSmi()
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(amd_driver, "KFD", tmp_path / "kfd")
    monkeypatch.setitem(sys.modules, "amdsmi", library)
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    return library


def test_amds_gpus_are_described(amdsmi):
    amdsmi.processes = [(4000000, GIB)]
    amdsmi.lacking["ecc"] = NO_PERMISSION
    assert amd_facts() == [
        ("AMD driver", "6.99.1"),
        ("HIP shows", "cuda:0 is AMD GPU 1"),
        ("AMD GPU 0", "Stub Instinct 1"),
        ("  memory", "10 GiB used of 192 GiB"),
        ("  processes", "a process outside this container (4000000) 1 GiB"),
        ("  clocks", "2100 MHz now of 2100 MHz"),
        ("  power", "limit 600 W, default 750 W, 750 W at most"),
        ("  PCIe", "8 of 16 lanes"),
        ("  not told", "ECC: the driver keeps it for administrators"),
        ("AMD GPU 1", "Stub Instinct 0"),
        ("  memory", "21 GiB used of 192 GiB"),
        ("  processes", "a process outside this container (4000000) 1 GiB"),
        ("  clocks", "2101 MHz now of 2100 MHz"),
        ("  power", "limit 600 W, default 750 W, 750 W at most"),
        ("  PCIe", "8 of 16 lanes"),
        ("  not told", "ECC: the driver keeps it for administrators"),
    ]
    assert amdsmi.num_open == 0


def test_a_machine_without_amds_driver_has_no_facts_of_it(monkeypatch, tmp_path):
    monkeypatch.setattr(amd_driver, "KFD", tmp_path / "none")
    assert amd_facts() == []
