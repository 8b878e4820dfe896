"""Memory of models that are given by their sizes: number formats, sharding, logits, and published layouts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from cells import host, make_cell
from places import SHARED

from harness.commands.validate.as_layout import layout_scenario
from harness.commands.validate.case_scenario import fullest_device
from harness.commands.validate.layout_rows import LayoutRow, layout_rows
from harness.core.cell import Cell
from harness.core.errors import InputError
from harness.costs.cells import given_shape, profile_of
from harness.costs.memory import memory_of
from harness.costs.memory.device import DeviceMemory

LAYOUTS = Path(os.environ.get("HARNESS_VALIDATION", SHARED / "validation")) / "layouts"
needs_layouts = pytest.mark.skipif(not LAYOUTS.is_dir(), reason="HARNESS_VALIDATION names no directory of layouts")

THIRTY_BILLION = {"parameters": "30 B", "layers": 48, "hidden": 7168, "sequence": 2048}


def sized(strategy: str = "fsdp", gpus: int = 8, options: Any = None, **workload: Any) -> Cell:
    work = {"model": THIRTY_BILLION, "optimizer": "adam", "precision": "bf16"} | workload
    return make_cell(
        sweep={"strategy": strategy, "gpus": [gpus], "batch_size": 1},
        workload=work,
        goal={"max_steps": 3},
        **{f"strategy__{strategy}": options} if options else {},
    )


def memory(cell: Cell) -> DeviceMemory:
    shape = given_shape(cell)
    assert shape is not None
    return memory_of(cell, host(), shape).fullest


# -- sharding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_under_fsdp_falls_as_one_part_in_so_many_and_a_constant(precision):
    """What is gathered and what is kept for the backward pass stays; of the rest each of N devices has 1/N."""
    totals = {n: memory(sized(gpus=n, precision=precision)).allocated_bytes for n in (64, 128, 256, 512, 1024)}
    # Two of them give the line; the others lie on it, to padding and the shards that a gathered unit stands on.
    slope = (totals[64] - totals[128]) * 128
    constant = totals[64] - slope / 64
    assert [totals[n] for n in (256, 512, 1024)] == pytest.approx(
        [slope / n + constant for n in (256, 512, 1024)], 0.01
    )
    assert slope == pytest.approx(16 * 30e9, rel=0.05)


def test_copies_in_bf16_go_with_their_unit():
    half, whole = memory(sized(gpus=1024)), memory(sized(gpus=1024, precision="fp32"))
    assert "copies" not in half.kinds
    assert half.allocated_bytes < whole.allocated_bytes
    unit = 2 * 12 * 7168**2
    assert half.kinds["gathered"] < 5 * unit
    assert memory(sized("sync-ddp")).kinds["copies"] == pytest.approx(48 * unit, rel=0.01)


@pytest.mark.parametrize(("framework", "lasting", "shared"), [("megatron", 6, 12), ("deepspeed", 4, 12)])
def test_states_are_shared_out_beside_tensor_and_pipeline_parallelism(framework, lasting, shared):
    options = {"data": 4, "pipeline": 4, "tensor": 2}
    held = {}
    for shard in ("none", "states"):
        cell = sized("hybrid", 32, options | {"shard": shard}, formats={"framework": framework})
        kinds = memory(cell).kinds
        held[shard] = sum(kinds[kind] for kind in ("parameters", "gradients", "optimizer"))
    assert held["states"] / held["none"] == pytest.approx((lasting + shared / 4) / (lasting + shared), rel=1e-3)


def test_real_devices_are_refused_what_only_simulated_ones_have():
    for said in ({"shard": "states"}, {"sequence_parallel": True}):
        cell = make_cell(
            sweep={"strategy": "hybrid", "gpus": [4], "learning_rate": [0.1]},
            workload={"model": {"name": "gpt", "layers": 2, "hidden": 32, "heads": 2, "tied": False}}
            | {"dataset": {"name": "tokens", "labels": "next"}},
            goal={"max_steps": 2},
            engine="real",
            cluster={},
            strategy__hybrid={"data": 2, "tensor": 2} | said,
        )
        assert "virtual engine only" in cell.not_possible


# -- number formats in a scenario --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ({"precision": "fp32"}, 4),
        ({"precision": "bf16"}, 4),
        ({"precision": "fp16"}, 4),
        ({"precision": "mixed"}, 2),
        ({"precision": "bf16", "formats": {"framework": "megatron"}}, 4),
        ({"precision": "bf16", "formats": {"framework": "deepspeed"}}, 2),
        ({"precision": "bf16", "gradients": "bf16"}, 2),
        ({"precision": "bf16", "formats": {"gradients": "bf16"}}, 2),
    ],
)
def test_gradients_are_sent_as_the_framework_keeps_them(said, sent):
    assert profile_of(sized("sync-ddp", **said)).shape.element_bytes == sent


def test_states_that_are_shared_out_scatter_gradients_and_gather_weights():
    shared = {"data": 4, "tensor": 2, "shard": "states"}
    assert profile_of(sized("hybrid", formats={"framework": "megatron"}, options=shared)).shape.element_bytes == 3
    assert profile_of(sized("hybrid", formats={"framework": "deepspeed"}, options=shared)).shape.element_bytes == 2


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        ({"precision": "half"}, "one of fp32, fp64, bf16, fp16, mixed"),
        ({"formats": {"framework": "megatrn"}}, "did you mean megatron"),
        ({"formats": {"master": "bf16"}}, "fp32, none"),
    ],
)
def test_unknown_formats_are_refused_in_words(workload, words):
    with pytest.raises(InputError, match=words):
        sized("sync-ddp", **workload)


@pytest.mark.parametrize("workload", [{"precision": "fp16"}, {"precision": "mixed"}])
def test_nothing_is_trained_without_a_scaled_loss(workload):
    with pytest.raises(InputError, match="nothing is trained in it"):
        make_cell(sweep__strategy="single", workload=workload)


@pytest.mark.parametrize("workload", [{"formats": {"framework": "megatron"}}, {"gradients": "bf16"}])
def test_formats_need_simulated_devices(workload):
    with pytest.raises(InputError, match="needs simulated devices"):
        make_cell(sweep__strategy="sync-ddp", sweep__gpus=[2], workload=workload, cluster={})


# -- logits ------------------------------------------------------------------------------------------------------------


def test_logits_are_kept_in_single_precision_with_their_gradient():
    plain = memory(sized("single", 1, model=THIRTY_BILLION))
    with_head = memory(sized("single", 1, model=THIRTY_BILLION | {"vocabulary": 50000}))
    # Halves and their fp32 form are kept, the gradient passes: more than a block's widest tensors here.
    block = 16 * 7168 * 2048
    assert with_head.allocated_bytes - plain.allocated_bytes == 50000 * 2048 * (2 + 4 + 4) - block


def test_tensor_parallelism_cuts_logits_and_with_sequences_everything_else():
    model = THIRTY_BILLION | {"vocabulary": 50000}
    kinds = {
        key: memory(sized("hybrid", 8, {"tensor": 8, "sequence_parallel": key}, model=model)).kinds["activations"]
        for key in (False, True)
    }
    whole = memory(sized("single", 1, model=model)).kinds["activations"]
    assert kinds[True] == pytest.approx(whole / 8, rel=1e-6)
    # Without, 10 of 34 bytes of a block stay whole, and what is embedded (Korthikanti et al. 2022, equation 2).
    assert kinds[False] - kinds[True] == pytest.approx((48 * 10 + 2) * 2048 * 7168 * 7 / 8, rel=1e-6)


# -- published layouts -------------------------------------------------------------------------------------------------


def rows_of(source: str) -> list[LayoutRow]:
    return [row for _, row in layout_rows(LAYOUTS) if row["source"] == source]


@needs_layouts
def test_layouts_of_bloom_that_ran_are_not_refused(tmp_path):
    """On an A100 of 80 GB, with what a device of the catalogue lets tensors have."""
    rows = rows_of("bloom-176b-prequel")
    assert len(rows) == 53
    for row in rows:
        # One that is not possible raises.
        assert fullest_device(layout_scenario(row), tmp_path).total_bytes < 79 * 2**30, row.name


@needs_layouts
def test_allocated_memory_of_megatron_is_met(tmp_path):
    """Source: MooreThreads/SimuMax, b200 release: max_memory_allocated; rows with context parallelism are not said."""
    found = [row for row in rows_of("simumax-b200") if row["cp"] == "1"]
    held = [fullest_device(layout_scenario(row), tmp_path).allocated_bytes for row in found]
    errors = [num_bytes / (float(row["peak_memory_gb"]) * 1e9) - 1 for num_bytes, row in zip(held, found, strict=True)]
    assert len(errors) == 12
    assert max(map(abs, errors)) < 0.025
