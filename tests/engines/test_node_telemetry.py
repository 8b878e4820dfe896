"""What is sampled on other machines counts as the cell's, at the first machine's ticks."""

from __future__ import annotations

from harness.engines.telemetry.columns import Columns
from harness.engines.telemetry.of_nodes import with_nodes
from harness.engines.telemetry.probe import Sample
from harness.engines.telemetry.sampler import Telemetry
from harness.engines.telemetry.summary import summarise


def telemetry(times: list[float], device: str, quantity: str, value: float, unit: str, **more: object) -> Telemetry:
    return Telemetry(Columns(Sample(t, "nvml", device, quantity, value, unit) for t in times), **more)


OWN = telemetry([1.0, 1.1, 1.2], "gpu0", "nvml_power", 100.0, "W")


def test_every_reading_goes_to_the_nearest_tick_and_none_counts_twice():
    there = telemetry([51.04, 51.13, 51.16, 51.2], "gpu0", "nvml_power", 50.0, "W")
    merged = with_nodes(OWN, {1: (50.0, there)})
    at = [(s.time_s, s.value) for s in merged.columns if s.device == "gpu0 of node 1"]
    assert at == [(1.0, 50.0), (1.1, 50.0), (1.2, 50.0)]
    assert [s.time_s for s in merged.columns] == sorted(s.time_s for s in merged.columns)


def test_energy_of_all_machines_adds_up():
    there = telemetry([51.0, 51.1, 51.2], "gpu0", "nvml_power", 50.0, "W")
    assert abs(summarise(with_nodes(OWN, {1: (50.0, there)}).samples)["energy_j"] - 30.0) < 1e-9


def test_what_a_node_could_not_read_or_lost_is_said_with_its_number():
    there = telemetry([51.0], "gpu0", "nvml_power", 50.0, "W", notes=["gpu0: hot"], lost={"gpu0": 51.1})
    there.unavailable["amdsmi"] = "not installed"
    merged = with_nodes(OWN, {3: (50.0, there)})
    assert merged.notes == ["node 3: gpu0: hot"]
    assert merged.unavailable == {"amdsmi of node 3": "not installed"}
    assert abs(merged.lost["gpu0 of node 3"] - 1.1) < 1e-9
