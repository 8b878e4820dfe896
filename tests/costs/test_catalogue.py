"""The catalogue of devices, links and clusters: coherent, sourced, found by usual names, open to plugins."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.api.host import Host, load_host
from harness.commands.list_plugins import describe_entry, list_entries
from harness.core.errors import InputError
from harness.core.given_cluster import DeviceFigures
from harness.core.records import from_json, to_json
from harness.costs.catalogue.devices import DEVICES, Device, efficiency, find_devices
from harness.costs.catalogue.named_links import CARRIED, LATENCY_S, LINKS
from harness.costs.catalogue.presets import PRESETS


@cache
def host() -> Host:
    return load_host()


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_a_device_is_coherent(device: Device) -> None:
    peaks = device.peak_flops_per_s
    assert device.source
    assert device.name.startswith(device.chip.replace(" ", "-"))
    # Narrower numbers are never slower, except that fp32 and fp64 may share matrix units.
    order = [peaks[key] for key in ("fp64", "fp32", "tf32", "bf16") if key in peaks]
    assert order == sorted(order)
    assert 0.8 < device.usable_bytes / device.memory_bytes <= 1
    # Between the oldest and the newest: what makes a typing error of a factor of ten show.
    assert 2e12 < peaks["fp32"] < 2e14
    assert 2e11 < device.memory_bandwidth_bytes_per_s < 1e13
    assert 5 < peaks["fp32"] / device.memory_bandwidth_bytes_per_s < 150
    assert 50 < device.power_w <= 1000
    assert device.link in host().links
    assert set(device.matrix) <= set(peaks)
    assert all(0 < efficiency(device, key, kind) < 1 for key in peaks for kind in ("gemm", "conv"))


def test_names_are_unique_and_survive_a_cell() -> None:
    for entries in (DEVICES, LINKS, PRESETS):
        assert len({entry.name for entry in entries}) == len(entries)
    for device in DEVICES:
        figures = device.figures()
        again = from_json(DeviceFigures, json.loads(json.dumps(to_json(figures))))
        assert again == figures
        assert again.peak_flops_per_s == device.peak_flops_per_s


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.name)
def test_a_link_carries_less_than_it_is_sold_with(link) -> None:
    assert link.source
    assert 0.5 * link.nominal_bytes_per_s < link.link().bandwidth_bytes_per_s < link.nominal_bytes_per_s
    assert link.link(4).bandwidth_bytes_per_s == pytest.approx(4 * link.link().bandwidth_bytes_per_s)
    assert 1e-6 < link.link().latency_s < 1e-4
    assert set(CARRIED) == set(LATENCY_S)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_cluster_names_what_there_is(preset) -> None:
    assert preset.source
    assert preset.device in host().devices
    assert {preset.intra_node, preset.host_link} <= set(host().links)
    assert not preset.inter_node or preset.inter_node in host().links
    nominal = host().links[preset.intra_node].nominal_bytes_per_s
    assert all(0.1 * nominal < rate < nominal for _, rate in preset.by_group.values())
    assert all(size <= preset.gpus_per_node for size in preset.by_group)


@pytest.mark.parametrize(
    ("written", "name", "count"),
    [
        ("a100", "A100-SXM4-80GB", None),
        ("A10", "A10-PCIe-24GB", None),
        ("4 x A100", "A100-SXM4-80GB", 4),
        ("8xh100", "H100-SXM-80GB", 8),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB", None),
        ("NVIDIA H100 80GB HBM3", "H100-SXM-80GB", None),
        ("NVIDIA H200", "H200-SXM-141GB", None),
        ("h100 sxm5", "H100-SXM-80GB", None),
        ("v100-32gb", "V100-SXM2-32GB", None),
        ("Tesla V100-PCIE-16GB", "V100-PCIe-16GB", None),
        ("K80-die", "K80-die-12GB", None),
        ("rtx 3090", "RTX-3090-24GB", None),
        ("NVIDIA GeForce RTX 2080 Ti", "RTX-2080-Ti-11GB", None),
        ("mi300x", "MI300X-OAM-192GB", None),
    ],
)
def test_devices_are_found_by_what_people_and_drivers_call_them(written: str, name: str, count: int | None) -> None:
    found_count, found = find_devices(written, DEVICES)
    assert (found[0].name, found_count) == (name, count)
    assert len({device.chip for device in found}) == 1


@pytest.mark.parametrize("written", ["", "a", "h", "nvidia", "gpu", "a100-pcie-141gb", "4 x", "hbm3"])
def test_what_fits_no_device_finds_none(written: str) -> None:
    assert find_devices(written, DEVICES)[1] == []


@given(st.sampled_from(DEVICES), st.integers(1, 64), st.sampled_from([str.upper, str.lower, str]))
def test_every_device_is_found_by_its_own_name(device: Device, count: int, case) -> None:
    assert find_devices(case(device.name), DEVICES) == (None, [device])
    assert find_devices(f"{count} x {case(device.name)}", DEVICES) == (count, [device])


def test_the_list_and_the_entries_tell_figures_and_sources() -> None:
    text = list_entries(host())
    assert all(f"\n{kind}:\n" in text for kind in ("devices", "links", "clusters"))
    assert "this-machine" in text
    one = describe_entry(host(), "A100-SXM4-80GB")
    assert "source: NVIDIA A100 data sheet" in one
    assert "bf16 312" in one
    assert "2039 GB/s" in one
    assert describe_entry(host(), "a100").count("(device)") == 4
    assert "in doubt: " in describe_entry(host(), "B200")
    assert "all-reduce over 2: 22.6 GB/s" in describe_entry(host(), "dgx1-v100")
    assert "IEEE 802.3" in describe_entry(host(), "ethernet-25g")
    with pytest.raises(InputError, match="no such name"):
        describe_entry(host(), "a1000")


PLUGIN = """
from harness import Device, Link, Preset, hookimpl


@hookimpl
def harness_devices():
    peaks = {"fp32": 1e13}
    return [Device("Abacus-1GB", "Abacus", peaks, 1e12, 2e9, 2e9, "string", 5, "carved in stone")]


@hookimpl
def harness_links():
    return [Link("string", "ethernet", 1e9, "two cans")]


@hookimpl
def harness_clusters():
    return [Preset("classroom", "Abacus-1GB", 30, "string", "", "a school")]
"""


def test_a_plugin_brings_devices_links_and_clusters(tmp_path: Path) -> None:
    from harness.scenario.read import parse_scenario

    (tmp_path / "mine.py").write_text(PLUGIN)
    loaded = load_host([tmp_path / "mine.py"])
    assert loaded.broken == {}
    assert "from: " + str(tmp_path / "mine.py") in describe_entry(loaded, "Abacus-1GB")
    text = '[sweep]\nstrategy = "single"\n[cluster]\npreset = "classroom"'
    cluster = parse_scenario(text, loaded, tmp_path / "a.toml").settings[0].cluster
    assert (cluster.device.chip, cluster.gpus_per_node) == ("Abacus", 30)
    assert cluster.intra_node.bandwidth_bytes_per_s == pytest.approx(0.94e9)


def test_devices_of_published_cases_are_in_the_catalogue() -> None:
    names = "P100-SXM2-16GB K80-die V100-SXM2 V100-SXM2-16GB A100-SXM4 A100-SXM4-40GB P40-24GB A100-SXM4-80GB P100"
    for name in [*names.split(), "K40m-12GB", "V100-SXM2-32GB"]:
        assert find_devices(name, DEVICES)[1], name
