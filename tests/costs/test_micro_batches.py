"""Pipelines: what is cut where, how large micro-batches are, and what a step of each then takes."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cells import host
from lazy import lazy
from places import SHARED

from harness.core.cell import Cell, Plan
from harness.core.errors import InputError
from harness.core.machine import Machine
from harness.costs.cells import find_shape
from harness.costs.memory import placement_of
from harness.costs.price import price, priced_step
from harness.scenario.plan import make_plan
from harness.scenario.read import parse_scenario

fit = lazy("harness.engines.virtual.fit_observed")
whatif = lazy("harness.engines.virtual.whatif")

LAYOUTS = Path(os.environ.get("HARNESS_VALIDATION", SHARED / "validation")) / "layouts" / "layouts.csv"
needs_layouts = pytest.mark.skipif(not LAYOUTS.is_file(), reason="HARNESS_VALIDATION holds no layouts")

TEXT = """
engine = "virtual"
workload.model = { MODEL }
goal.max_steps = 3
[sweep]
SWEEP
[cluster]
preset = "dgx-a100"
device = { name = "A100-SXM4-80GB", samples_per_second = 40, batch_size = 4 }
inter_node = "200 Gb/s"
"""
BLOCKS = 'parameters = "210 M", layers = 16, hidden = 1024, heads = 16, sequence = 512'


def plan_of(sweep: str, model: str = BLOCKS, more: str = "", folder: Path = Path("x.toml")) -> Plan:
    text = TEXT.replace("MODEL", model).replace("SWEEP", sweep) + more
    return make_plan(parse_scenario(text, host(), folder), host(), Machine(cores=1))


def cell_of(sweep: str, model: str = BLOCKS) -> Cell:
    (cell,) = plan_of(sweep, model).cells
    return cell


def step_s(cell: Cell) -> float:
    return priced_step(cell, host(), find_shape(cell, host())).seconds


def test_sixteen_blocks_on_sixteen_stages_are_one_each_with_embedding_and_head_at_the_ends() -> None:
    cell = cell_of('strategy = "model-split"\ngpus = [16]\nbatch_size = [32]\nmicro_batch_size = [2]')
    shape = find_shape(cell, host())
    assert shape is not None
    placement = placement_of(cell, host(), shape)
    assert placement is not None
    assert placement[0] == ("embedding", "block 0")
    assert placement[-1] == ("block 15", "head")
    assert [len(stage) for stage in placement[1:-1]] == [1] * 14


def test_more_stages_than_blocks_are_not_possible() -> None:
    (cell,) = plan_of('strategy = "model-split"\ngpus = [17]\nbatch_size = [32]\nmicro_batch_size = [2]').cells
    assert "17 stages need at least 17 layers; there are 16" in price(cell, host()).not_possible


def test_a_micro_batch_that_does_not_divide_leaves_one_point_out() -> None:
    plan = plan_of('strategy = "model-split"\ngpus = [4]\nbatch_size = [32]\nmicro_batch_size = [4, 5]')
    assert [cell.micro_batch_size for cell in plan.cells] == [4]
    (left,) = plan.left_out
    assert left.kind == "impossible"
    assert "micro_batch_size = 5 does not divide" in left.reason


def test_where_no_micro_batch_divides_the_scenario_says_so() -> None:
    with pytest.raises(InputError, match="set a divisor of 32"):
        plan_of('strategy = "model-split"\ngpus = [4]\nbatch_size = [32]\nmicro_batch_size = [5]')


@pytest.mark.parametrize("written", ["", '\nmicro_batch_size = "fastest"'])
def test_the_fastest_micro_batch_is_faster_than_any_other_divisor(written: str) -> None:
    cell = cell_of('strategy = "model-split"\ngpus = [4]\nbatch_size = [48]' + written)
    seconds = {n: step_s(replace(cell, micro_batch_size=n)) for n in range(1, 49) if 48 % n == 0}
    assert seconds[cell.micro_batch_size] == min(seconds.values())
    assert cell.micro_batch_size < 48
    assert any(f"micro-batch {cell.micro_batch_size} is the fastest" in note for note in cell.notes)


def test_seeds_share_the_micro_batch_that_was_found() -> None:
    cells = plan_of('strategy = "model-split"\ngpus = [4]\nbatch_size = [48]\nseeds = 3').cells
    assert len(cells) == 3
    assert len({cell.micro_batch_size for cell in cells}) == 1


def test_a_pipeline_with_one_micro_batch_says_that_none_was_searched() -> None:
    cell = cell_of('strategy = "model-split"\ngpus = [4]\nbatch_size = [48]\nmicro_batch_size = [48]')
    assert any("one stage works at a time" in note for note in cell.notes)


def test_the_fastest_of_what_nobody_knows_is_not_possible() -> None:
    text = 'workload.model = "mlp"\ngoal.max_steps = 3\n[sweep]\nstrategy = "model-split"\ngpus = [2]\n'
    text += 'batch_size = [32]\nmicro_batch_size = "fastest"\n'
    plan = make_plan(parse_scenario(text, host(), Path("x.toml")), host(), Machine(cores=4))
    assert [cell.not_possible.startswith('micro_batch_size = "fastest"') for cell in plan.cells] == [True]


# -- stages that share the work ----------------------------------------------------------------------------------------


def test_replicated_stages_are_cut_and_timed_in_steady_state() -> None:
    options = 'strategy = { name = "model-split", schedule = "pipedream", replicas = [3, 1] }'
    cell = cell_of(f"{options}\ngpus = [4]\nbatch_size = [4]")
    shape = find_shape(cell, host())
    assert shape is not None
    placement = placement_of(cell, host(), shape)
    assert placement is not None
    assert 2.0 <= len(placement[0]) / len(placement[1]) <= 4.5
    # 4 samples take 0.1 s on one device; no cut of 16 blocks and a head is quite even.
    assert 0.1 / 4 <= step_s(cell) <= 0.1 / 4 * 1.35


def test_replicas_must_add_up_and_belong_to_pipedream() -> None:
    for options, says in (
        ('schedule = "pipedream", replicas = [2, 1]', "replicas add up to 3 devices, but gpus = 4"),
        ("replicas = [3, 1]", 'replicas are for schedule = "pipedream"'),
    ):
        with pytest.raises(InputError, match=says):
            plan_of(f'strategy = {{ name = "model-split", {options} }}\ngpus = [4]\nbatch_size = [4]')


def test_what_is_only_timed_is_not_trained() -> None:
    text = 'workload.model = "mlp"\ngoal.max_steps = 3\n[sweep]\ngpus = [2]\nbatch_size = [32]\n'
    text += 'strategy = { name = "model-split", recompute = "all-but-last" }\n'
    plan = make_plan(parse_scenario(text, host(), Path("x.toml")), host(), Machine(cores=4))
    assert ["is timed, not trained" in cell.not_possible for cell in plan.cells] == [True]


# -- recomputation and zero-bubble schedules ---------------------------------------------------------------------------


def test_the_last_micro_batch_is_not_computed_again() -> None:
    def seconds(recompute: str) -> float:
        options = f'strategy = {{ name = "hybrid", recompute = {recompute} }}'
        return step_s(cell_of(f"{options}\ngpus = [1]\nbatch_size = [16]\nmicro_batch_size = [4]"))

    none, some, every = (seconds(again) for again in ("false", '"all-but-last"', "true"))
    assert (some - none) / (every - none) == pytest.approx(3 / 4)


def test_a_zero_bubble_schedule_is_made_for_the_times_that_it_is_told() -> None:
    def bubble(more: str) -> float:
        options = f'strategy = {{ name = "model-split", schedule = "zb-2p"{more} }}'
        cell = cell_of(f"{options}\ngpus = [4]\nbatch_size = [64]\nmicro_batch_size = [4]")
        return priced_step(cell, host(), find_shape(cell, host())).bubble_fraction or 0.0

    # Of a block of width 1024 gradients of weights take 1024 / (1024 + 1850) of a forward pass.
    assert bubble(", weight_time = 0.356") < bubble("") - 0.02


# -- measured ----------------------------------------------------------------------------------------------------------


def bloom() -> Iterator[tuple[str, dict[int, float]]]:
    """Yield layouts of BLOOM that were measured with several micro-batches, with their steps' seconds."""
    found: dict[tuple[str, ...], dict[int, float]] = {}
    with LAYOUTS.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["source"] == "bloom-176b-prequel" and row["panel"] and row["zero"] == "1":
                key = tuple(row[name] for name in ("model", "dp", "tp", "pp", "global_batch", "date"))
                found.setdefault(key, {}).setdefault(int(row["micro_batch"]), float(row["step_time_s"]))
    for key, seconds in found.items():
        if {1, 2, 4} <= set(seconds):
            yield " ".join(key), seconds


@needs_layouts
@pytest.mark.slow
def test_micro_batches_of_bloom_have_the_measured_order() -> None:
    compared = 0
    for name, seconds in bloom():
        model, data, tensor, pipeline, whole, _ = name.split()
        hidden, layers, heads = (int(part[1:]) for part in model.removeprefix("bloom-").split("-"))
        parameters = layers * (12 * hidden**2 + 13 * hidden) + 250880 * hidden
        sizes = f"parameters = {parameters:.1f}, layers = {layers}, hidden = {hidden}, heads = {heads}, sequence = 2048"
        gpus = int(data) * int(tensor) * int(pipeline)
        options = f"data = {data}, tensor = {tensor}, pipeline = {pipeline}, recompute = true"
        sweep = f'strategy = {{ name = "hybrid", {options} }}\ngpus = [{gpus}]\n'
        sweep += f"batch_size = [{int(whole) // int(data)}]\nmicro_batch_size = [1, 2, 4]"
        known = f'\n[[observed]]\nmicro_batch_size = 2\nstep_time = "{seconds[2]} s"\nuse = "calibrate"\n'
        text = TEXT.replace("MODEL", sizes).replace("SWEEP", sweep).replace("200 Gb/s", "400 Gb/s") + known
        text = text.replace("workload.model", 'workload.precision = "bf16"\nworkload.model')
        read = parse_scenario(text, host(), Path("x.toml"))
        plan = fit.calibrated(make_plan(read, host(), Machine(cores=1)), read.observed, host())
        found = {cell.micro_batch_size: whatif.update_s(cell, host()) for cell in plan.cells}
        for few, more in ((1, 2), (2, 4)):
            gain = seconds[few] / seconds[more] - 1
            if abs(gain) > 0.01:  # within one percent runs do not agree themselves
                assert (found[few] > found[more]) == (gain > 0), (name, found, seconds)
                compared += 1
    assert compared >= 6
