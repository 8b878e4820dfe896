"""Figures that are fitted to measurements: what made the measurements is found again, and other rows are predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cells import host
from lazy import lazy

from harness.analysis.predicted import compare_observed
from harness.core.cell import Cell, Plan
from harness.core.errors import InputError
from harness.scenario.bundled import find_scenario
from harness.scenario.plan import Machine, make_plan
from harness.scenario.read import Scenario, parse_scenario

fit = lazy("harness.engines.virtual.fit_observed")
whatif = lazy("harness.engines.virtual.whatif")

TEXT = """
[workload]
model = { parameters = "100 M", layers = 20 }
[sweep]
strategy = ["STRATEGY"]
batch_size = [16]
gpus = [1, 4, 8, 16, 32]
[goal]
max_steps = 5
[cluster]
gpus_per_node = 4
device = { samples_per_second = SPEED, batch_size = 16 }
intra_node = "INSIDE GB/s"
inter_node = "BETWEEN Gb/s"
MORE
"""
TRUTH = {"SPEED": 52, "INSIDE": 9, "BETWEEN": 14}
ASSUMED = {"SPEED": 30, "INSIDE": 12, "BETWEEN": 25}


def scenario_of(figures: dict[str, Any], strategy: str = "sync-ddp", more: str = "", rows: str = "") -> Scenario:
    text = TEXT.replace("STRATEGY", strategy).replace("MORE", more)
    for name, value in figures.items():
        text = text.replace(name, str(value))
    return parse_scenario(text + rows, host(), Path("fit.toml"))


def planned(scenario: Scenario) -> Plan:
    plan = make_plan(scenario, host(), Machine(cores=2))
    found: Plan = fit.calibrated(plan, scenario.observed, host())
    return found


def steps_s(plan: Plan) -> dict[int, float]:
    return {cell.gpus: whatif.what_if(cell, host()).step_s({}) for cell in plan.cells}


def row(gpus: int, step_s: float, use: str = "calibrate") -> str:
    return f'[[observed]]\ngpus = {gpus}\nstep_time = "{step_s!r} s"\nuse = "{use}"\n'


def test_speed_and_both_links_are_found_again_and_other_rows_are_predicted() -> None:
    truth = steps_s(planned(scenario_of(TRUTH)))
    rows = "".join(row(gpus, truth[gpus]) for gpus in (1, 4, 16))
    plan = planned(scenario_of(ASSUMED, rows=rows))
    assert steps_s(plan) == pytest.approx(truth, rel=1e-4)
    cluster = plan.cells[0].cluster
    assert cluster.speed == pytest.approx(52 / 30, rel=1e-4)
    assert cluster.intra_node.bandwidth_bytes_per_s == pytest.approx(9e9, rel=1e-3)
    assert cluster.inter_node.bandwidth_bytes_per_s == pytest.approx(14e9 / 8, rel=1e-3)
    assert len({cell.cell_id for cell in plan.cells}) == 5
    fitted = [note for note in plan.notes if note.startswith("calibrated on 1 measurement: ")]
    assert [note.split(": ")[1].split(";")[0] for note in fitted] == [
        "a device computes 52.0 samples/s with 16 samples at once, 1.733 times what was assumed",
        "links inside a node carry 9 GB/s, 0.75 times what was assumed",
        "links between nodes carry 14 Gb/s, 0.56 times what was assumed",
    ]


def test_the_speed_of_a_device_is_solved_from_a_row_of_four() -> None:
    truth = steps_s(planned(scenario_of(TRUTH)))
    plan = planned(scenario_of(TRUTH | {"SPEED": 400}, rows=row(4, truth[4])))
    assert steps_s(plan) == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize(
    ("servers", "key"),
    [('placement = "dedicated", count = 2, link = "RATE GB/s"', "servers"), ('placement = "cpu"', "host_link")],
)
def test_the_way_to_servers_is_found_again(servers: str, key: str) -> None:
    def more(rate: float) -> str:
        host_link = f'host_link = "{rate} GB/s"\n' if key == "host_link" else ""
        return f"servers = {{ {servers.replace('RATE', str(rate))} }}\n{host_link}"

    truth = steps_s(planned(scenario_of(TRUTH, "sync-ps", more(3.0))))
    rows = row(1, truth[1]) + row(8, truth[8])
    plan = planned(scenario_of(TRUTH | {"SPEED": 70}, "sync-ps", more(7.0), rows))
    assert steps_s(plan)[8] == pytest.approx(truth[8], rel=1e-3)
    assert any("the way to the servers carries" in note for note in plan.notes)


def test_several_measurements_of_one_figure_are_right_on_average() -> None:
    truth = steps_s(planned(scenario_of(TRUTH)))
    rows = row(4, truth[4]) + row(16, truth[16] * 1.05) + row(32, truth[32] / 1.05)
    plan = planned(scenario_of(ASSUMED, rows=rows))
    found = steps_s(plan)
    (line,) = (note for note in plan.notes if "links between nodes" in note)
    assert "on 2 measurements" in line
    errors = [found[16] / truth[16] / 1.05 - 1, found[32] / truth[32] * 1.05 - 1]
    assert min(errors) < 0 < max(errors)
    assert f"within {100 * max(map(abs, errors)):.2g} %" in line
    assert found[4] == pytest.approx(truth[4], rel=2e-3)


def test_what_was_calibrated_on_is_no_test_of_a_prediction() -> None:
    truth = steps_s(planned(scenario_of(TRUTH)))
    plan = planned(scenario_of(ASSUMED, rows=row(4, truth[4]) + row(16, truth[16], "compare")))
    seen = {cell.cell_id: cell.observed for cell in plan.cells if cell.observed}
    rows = [_row(cell) for cell in plan.cells]
    assert {check.where.split(",")[0] for check in compare_observed(rows, seen)} == {"sync-ddp on 16 simulated GPUs"}


def _row(cell: Cell) -> dict[str, Any]:
    from harness.analysis.cell_row import identity_row

    return {**identity_row(cell, {}), "step_time_s": 1.0, "throughput_samples_per_s": None, "stated_error": 0.1}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (row(3, 1.0), "no simulated cell of other devices is what was measured"),
        ('[[observed]]\ngpus = 4\nstep_time = "1 s"\nuse = "guess"\n', "use"),
    ],
)
def test_a_measurement_of_no_cell_cannot_calibrate(rows: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        planned(scenario_of(TRUTH, rows=rows))
    assert says in str(caught.value)


def test_how_badly_a_figure_fits_is_said() -> None:
    truth = steps_s(planned(scenario_of(TRUTH)))
    # No link is fast enough for sixteen devices to compute in a third of the time of one.
    plan = planned(scenario_of(TRUTH, rows=row(1, truth[1]) + row(16, truth[1] / 3)))
    (line,) = (note for note in plan.notes if "links between nodes carry" in note)
    assert float(line.split("within ")[1].split(" %")[0]) > 100


def test_the_ticket_is_solved_from_a_row_of_four_gpus() -> None:
    text = find_scenario("ticket").read_text()
    plain = parse_scenario(text, host(), Path("ticket.toml"))
    before = steps_s(make_plan(plain, host(), Machine(cores=2)))
    unknown = text.replace("device = { samples_per_second = 52, batch_size = 16 }", 'device = "a100-pcie-40gb"')
    assert unknown != text
    plan = planned(parse_scenario(unknown + row(4, before[4]), host(), Path("ticket.toml")))
    # The data sheet's device divides its time among layers otherwise than one figure does.
    assert steps_s(plan) == pytest.approx(before, rel=0.02)
