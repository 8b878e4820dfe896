"""Plans: which cells a sweep has, where they run, what is left out, and what their ids depend on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from harness.api.host import Host, load_host
from harness.api.strategy import Layout, Options, Strategy
from harness.commands.plan_text import describe
from harness.core.cell import Cell, LayoutDegrees, Plan
from harness.core.device_words import engine_in_words
from harness.core.errors import InputError, PluginError
from harness.core.nvidia_driver import shown
from harness.core.records import from_json, to_json
from harness.costs.price import Prediction, price
from harness.scenario.plan import Machine, detect_machine, make_plan, select
from harness.scenario.read import load_scenario, parse_scenario

LAPTOP = Machine(cores=2)
FOUR_GPUS = Machine(cores=32, gpus=4, gpu_name="NVIDIA A100")
ONE_GPU = Machine(cores=8, gpus=1, gpu_name="NVIDIA H200")


class Nodes(Strategy):
    """Asynchronous workers of two data-parallel devices each."""

    name = "nodes"
    synchrony = "asynchronous"
    batches = "own"

    def layout(self, gpus: int) -> Layout:
        """Put two devices into each worker."""
        return Layout(data=2)

    def servers(self, workers: int) -> int:
        """Run one server."""
        return 1


class Sharded(Strategy):
    """What neither engine can do yet."""

    name = "sharded"

    def layout(self, gpus: int) -> Layout:
        """Shard over half of the devices, and cut layers over pairs."""
        return Layout(data=gpus // 2, tensor=2, shard="parameters")


class Pieces(Strategy):
    """Computes each batch in pieces."""

    name = "pieces"

    class Options(Options):
        """How many."""

        accumulate: int = 4

    def layout(self, gpus: int) -> Layout:
        """Accumulate."""
        if self.options.accumulate > 100:
            raise RuntimeError("far too many")
        return Layout(accumulate=self.options.accumulate)


@cache
def host() -> Host:
    loaded = load_host()
    for strategy in (Nodes, Sharded, Pieces):
        loaded.strategies[strategy.name] = strategy
    return loaded


def plan(text: str, machine: Machine = LAPTOP, *sets: str, name: str = "test") -> Plan:
    return make_plan(parse_scenario(text, host(), Path(f"{name}.toml"), sets), host(), machine)


def sweep(strategy: str, rest: str = "") -> str:
    return f"[sweep]\nstrategy = {json.dumps(strategy.split())}\n{rest}\n"


def shapes(found: Plan) -> list[tuple[str, int, str]]:
    return [(cell.strategy, cell.gpus, cell.engine) for cell in found.cells]


def test_lenet_has_sixty_cells_on_two_cores() -> None:
    found = make_plan(load_scenario(ROOT / "scenarios" / "lenet.toml", host()), host(), LAPTOP)
    assert len(found.cells) == len({cell.cell_id for cell in found.cells}) == 60
    assert {(cell.strategy, cell.gpus) for cell in found.cells} == {
        ("single", 1),
        ("sync-ddp", 1),
        ("sync-ddp", 2),
        ("async-ps", 1),
        ("async-ps", 2),
        ("model-split", 2),
    }
    assert all(cell.engine == "real" and cell.device == "cpu" and not cell.not_possible for cell in found.cells)
    assert {(item.strategy, item.kind) for item in found.left_out} == {
        ("single", "impossible"),
        ("model-split", "impossible"),
    }


def test_cells_go_in_rounds_of_seeds() -> None:
    found = plan(sweep("single", "learning_rate = [0.1, 0.2]\nseeds = 2"))
    assert [(cell.seed, cell.learning_rate) for cell in found.cells] == [(0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2)]


def test_device_counts_default_to_what_is_there() -> None:
    assert [cell.gpus for cell in plan(sweep("sync-ddp")).cells] == [1, 2]
    assert [cell.gpus for cell in plan(sweep("sync-ddp"), FOUR_GPUS).cells] == [1, 4]
    assert [cell.gpus for cell in plan(sweep("sync-ddp"), ONE_GPU).cells] == [1]
    assert [cell.device for cell in plan('device = "cpu"\n' + sweep("sync-ddp"), FOUR_GPUS).cells] == ["cpu", "cpu"]


def test_cells_are_real_up_to_the_devices_present_and_virtual_beyond() -> None:
    found = plan(sweep("sync-ddp", "gpus = [1, 2, 4]"))
    assert shapes(found) == [("sync-ddp", 1, "real"), ("sync-ddp", 2, "real"), ("sync-ddp", 4, "virtual")]
    found = plan("threads_per_device = 2\n" + sweep("sync-ddp", "gpus = [1, 2]"))
    assert shapes(found) == [("sync-ddp", 1, "real"), ("sync-ddp", 2, "virtual")]


def test_both_gives_every_real_cell_a_virtual_twin() -> None:
    found = plan('engine = "both"\n' + sweep("sync-ddp", "gpus = [2, 4]"))
    assert shapes(found) == [("sync-ddp", 2, "real"), ("sync-ddp", 2, "virtual"), ("sync-ddp", 4, "virtual")]
    assert len({cell.cell_id for cell in found.cells}) == 3


def test_real_beyond_the_cores_is_oversubscribed() -> None:
    (cell,) = plan('engine = "real"\n' + sweep("sync-ddp", "gpus = 4")).cells
    assert (cell.engine, cell.oversubscribed, cell.not_possible) == ("real", True, "")
    assert "4 devices share 2 CPU cores" in cell.notes[0]


def test_real_beyond_the_gpus_is_not_possible_and_stays_a_cell() -> None:
    (cell,) = plan('engine = "real"\n' + sweep("sync-ddp", "gpus = 4"), ONE_GPU).cells
    assert cell.not_possible.startswith("needs 4 GPUs, but this machine has 1")
    assert not cell.oversubscribed


@pytest.mark.parametrize("engine", ["auto", "real"])
def test_two_asynchronous_workers_share_one_gpu(engine: str) -> None:
    (cell,) = plan(f'engine = "{engine}"\n' + sweep("async-ps", "gpus = 2"), ONE_GPU).cells
    assert (cell.engine, cell.oversubscribed) == ("real", True)
    assert cell.notes[0].startswith("2 workers share one GPU")


def test_more_asynchronous_workers_share_one_gpu_only_where_real_is_asked_for() -> None:
    text = sweep("async-ps", "gpus = 4")
    assert plan(text, ONE_GPU).cells[0].engine == "virtual"
    assert plan('engine = "real"\n' + text, ONE_GPU).cells[0].engine == "real"


def test_several_workers_of_several_devices_with_a_server_are_virtual_only() -> None:
    text = sweep("nodes", "gpus = 4")
    (cell,) = plan(text, FOUR_GPUS).cells
    assert (cell.engine, cell.workers, cell.servers) == ("virtual", 2, 1)
    assert (cell.batch_size, cell.global_batch_size) == (16, 32)
    (cell,) = plan('engine = "real"\n' + text, FOUR_GPUS).cells
    assert "real processes run those whose devices are replicas under DDP and that need no server" in cell.not_possible


def test_several_workers_of_replicas_that_need_no_server_run_on_real_processes() -> None:
    (cell,) = plan(sweep("diloco", "gpus = 4") + "\n[strategy.diloco]\nreplicas = 2\n", FOUR_GPUS).cells
    assert (cell.engine, cell.workers, cell.servers, cell.not_possible) == ("real", 2, 0, "")


def test_layouts_of_later_versions_are_not_possible_on_either_engine() -> None:
    found = plan('engine = "both"\n' + sweep("sharded", "gpus = 4"))
    assert [cell.not_possible for cell in found.cells] == [
        "sharding (shard = 'parameters') inside data 2 x pipeline 1 x tensor 2 = 4 is not supported yet"
    ]


def test_devices_that_a_layout_does_not_divide_are_left_out_with_the_equation() -> None:
    found = plan(sweep("nodes", "gpus = [2, 3]"))
    assert "data 2 x pipeline 1 x tensor 1 = 2" in found.left_out[0].reason
    assert "3 devices" in found.left_out[0].reason


@pytest.mark.parametrize(
    ("strategy", "gpus", "batch", "ranks", "workers"),
    [("sync-ps", 4, 8, 4, 4), ("sync-ddp", 4, 8, 4, 1), ("model-split", 4, 32, 1, 1), ("async-ps", 4, 32, 1, 4)],
)
def test_the_global_batch_is_cut_over_data_parallel_ranks(
    strategy: str, gpus: int, batch: int, ranks: int, workers: int
) -> None:
    (cell,) = plan(sweep(strategy, f"gpus = {gpus}")).cells
    assert (cell.batch_size, cell.global_batch_size, cell.workers) == (batch, batch * ranks, workers)
    (cell,) = plan(sweep(strategy, f"gpus = {gpus}\nbatch_size = 8")).cells
    assert (cell.batch_size, cell.global_batch_size) == (8, 8 * ranks)


@given(st.integers(1, 64), st.integers(1, 256))
def test_a_global_batch_divides_or_is_refused_with_the_products(gpus: int, batch: int) -> None:
    text = sweep("sync-ddp", f"gpus = {gpus}\nglobal_batch_size = {batch}")
    if batch % gpus == 0:
        (cell,) = plan(text).cells
        assert cell.batch_size * gpus == cell.global_batch_size == batch
    else:
        with pytest.raises(
            InputError, match=rf"{gpus} x {batch // gpus + 1} = {gpus * (batch // gpus + 1)}.*\(line 4\)"
        ):
            plan(text)


@given(st.integers(1, 64), st.integers(1, 64))
def test_micro_batches_divide_or_are_refused(batch: int, micro: int) -> None:
    text = sweep("single", f"batch_size = {batch}\nmicro_batch_size = {micro}")
    if batch % micro == 0:
        assert plan(text).cells[0].micro_batch_size == micro
        assert plan(text.replace("micro_batch_size", "microbatches")).cells[0].micro_batch_size == batch // micro
    else:
        with pytest.raises(InputError, match=rf"micro_batch_size = {micro} does not divide .*set a divisor of {batch}"):
            plan(text)


def test_all_batches_that_do_not_divide_are_refused_at_once() -> None:
    with pytest.raises(InputError) as caught:
        plan(sweep("sync-ddp", "gpus = [2, 3]\nglobal_batch_size = [32, 33]"))
    assert len(caught.value.problems) == 2


def test_a_refused_plan_does_not_spoil_the_next() -> None:
    scenario = parse_scenario(sweep("sync-ddp", "global_batch_size = 31"), host(), Path("test.toml"))
    with pytest.raises(InputError):
        make_plan(scenario, host(), LAPTOP)
    assert len(make_plan(scenario, host(), ONE_GPU).cells) == 1


def test_a_full_batch_is_the_training_set() -> None:
    (cell,) = plan(sweep("single", 'batch_size = "full"')).cells
    assert cell.global_batch_size == cell.batch_size == 1437 - 144


def test_accumulating_layouts_set_the_micro_batch() -> None:
    (cell,) = plan(sweep("pieces", "gpus = 1")).cells
    assert cell.micro_batch_size == 8
    with pytest.raises(InputError, match="in 4 equal pieces"):
        plan(sweep("pieces", "gpus = 1\nglobal_batch_size = 30"))


def test_a_layout_that_raises_is_reported_with_its_line() -> None:
    with pytest.raises(PluginError, match=r"test_plan.py:\d+: RuntimeError: far too many"):
        plan(sweep("pieces", "[strategy.pieces]\naccumulate = 101"))


@pytest.mark.parametrize(("scaling", "rates"), [("none", [0.1, 0.1]), ("linear", [0.1, 0.4]), ("sqrt", [0.1, 0.2])])
def test_rates_scale_from_the_smallest_global_batch(scaling: str, rates: list[float]) -> None:
    text = sweep("single", f'learning_rate = 0.1\nglobal_batch_size = [32, 128]\nlr_scaling = "{scaling}"')
    found = plan(text)
    assert [cell.learning_rate for cell in found.cells] == pytest.approx(rates)
    assert found.cells[1].lr_rule.startswith("" if scaling == "none" else f"{scaling}: 0.1 x ")


def test_the_models_own_rate_is_the_default() -> None:
    assert [cell.learning_rate for cell in plan(sweep("single"), LAPTOP, "model=softmax,lenet5").cells] == [0.05, 0.1]


def test_excluded_points_are_left_out_by_name() -> None:
    text = sweep("single sync-ddp", 'gpus = [1, 2]\nexclude = [{ strategy = "sync-ddp", gpus = [1] }]')
    found = plan(text)
    assert shapes(found) == [("single", 1, "real"), ("sync-ddp", 2, "real")]
    assert [(item.strategy, item.kind) for item in found.left_out] == [
        ("single", "impossible"),
        ("sync-ddp", "excluded"),
    ]


@pytest.mark.parametrize("key", ["workload.precision", "precision"])
def test_points_are_excluded_by_swept_paths(key: str) -> None:
    text = sweep("single", f'"workload.precision" = ["fp32", "bf16"]\nexclude = {{ "{key}" = "bf16" }}')
    assert [cell.workload.precision for cell in plan(text).cells] == ["fp32"]


def test_nothing_left_is_refused_with_the_reasons() -> None:
    with pytest.raises(InputError, match="no cell is left to run: model-split: model-split needs at least 2"):
        plan(sweep("model-split", "gpus = 1"))


def test_cells_that_differ_in_nothing_that_matters_are_run_once() -> None:
    found = plan(sweep("sync-ddp", 'gpus = [1, 4]\n"cluster.inter_node" = ["25 Gb/s", "100 Gb/s"]'))
    assert shapes(found) == [("sync-ddp", 1, "real"), ("sync-ddp", 4, "virtual"), ("sync-ddp", 4, "virtual")]
    assert any("1 duplicate combination merged" in note for note in found.notes)


def test_what_changes_the_answer_is_noted() -> None:
    text = sweep("async-ps", "gpus = 2") + '[strategy.async-ps]\noptimizer = { name = "sgd", momentum = 0.9 }'
    (cell,) = plan(text).cells
    notes = " / ".join(cell.notes)
    assert "the server shares the machine's 2 cores with 2 workers" in notes
    assert "optimizer from [strategy.async-ps]" in notes
    assert "momentum 0.9 with 2 asynchronous workers: staleness acts like extra momentum" in notes
    assert cell.workload.optimizer.options["momentum"] == 0.9


def test_only_narrows_by_path_or_last_word() -> None:
    found = plan(sweep("single sync-ddp", "gpus = [1, 2]\nseeds = 2"))
    assert {cell.strategy for cell in select(found, ["strategy=single"])} == {"single"}
    assert {cell.gpus for cell in select(found, ["sweep.gpus=2"])} == {2}
    assert len(select(found, ["gpus=1,2", "seed=0"])) == 3
    assert len(select(found, ["bucket_mib=25"])) == 4
    assert len(select(found, ["workload.precision=fp32", "model=lenet5"])) == 6
    assert select(found, []) == found.cells


@pytest.mark.parametrize(
    ("only", "says"),
    [
        ("gpus", "write KEY=VALUE"),
        ("gpu=1", "no such key; did you mean gpus?"),
        ("gpus=3", "matches no cell; gpus is one of 1, 2"),
    ],
)
def test_only_that_fits_nothing_is_refused(only: str, says: str) -> None:
    with pytest.raises(InputError, match="--only") as caught:
        select(plan(sweep("sync-ddp")), [only])
    assert says in caught.value.problems[0]


# -- how steps are executed --------------------------------------------------------------------------------------------


def test_steps_are_swept_and_those_that_a_strategy_cannot_execute_are_left_out() -> None:
    ways = '"workload.step" = ["eager", "compiled", "cuda-graph"]'
    found = plan(sweep("single sync-ddp model-split hybrid", f"gpus = [1, 4]\n{ways}"), FOUR_GPUS)
    ran = {(cell.strategy, cell.workload.step) for cell in found.cells}
    assert ran == {
        *(("single", step) for step in ("eager", "compiled", "cuda-graph")),
        *(("sync-ddp", step) for step in ("eager", "compiled", "cuda-graph")),  # cuda-graph on one device
        *(("hybrid", step) for step in ("eager", "compiled", "cuda-graph")),
        ("model-split", "eager"),
    }
    reasons = {item.reason for item in found.left_out if "workload.step" in item.reason}
    assert reasons == {
        'workload.step = "compiled": pipeline stages are not compiled. Set workload.step = "eager"',
        'workload.step = "cuda-graph": only a step of one device alone is captured, that of single. Set workload.step '
        '= "eager" or "compiled"',
    }


@pytest.mark.parametrize(
    ("strategy", "changes", "says"),
    [
        ("fsdp", ["workload.channels_last=true"], "only whole models on one device or under torch's DDP"),
        ("fsdp", ["workload.step=compiled", "strategy.fsdp.recompute=true"], "computed again are not compiled"),
        ("single", ["workload.step=cuda-graph", "optimizer=nadam", "gpus=1"], "of sgd, adam and adamw can be captured"),
    ],
)
def test_what_no_machine_can_do_is_left_out(strategy: str, changes: list[str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(sweep(strategy, "gpus = 2"), FOUR_GPUS, *changes)
    assert says in caught.value.problems[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("workload.step=cuda-graph", "a CPU has no CUDA graphs"),
        ("workload.tf32=true", "TF32 is arithmetic of NVIDIA GPUs"),
        ("workload.step=compiled", "torch.compile needs a C++ compiler, and there is no no-such-compiler"),
    ],
)
def test_what_a_cpu_cannot_do_ends_its_cell_only(change: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    for engine in ("real", "virtual"):
        (cell,) = plan(sweep("single", "gpus = 1"), LAPTOP, change, f"engine={engine}").cells
        assert says in cell.not_possible
    (cell,) = plan(sweep("single", "gpus = 1"), FOUR_GPUS, change).cells
    assert cell.not_possible == ""


def test_a_data_sheet_tells_times_of_eager_steps_only() -> None:
    """TF32 is in it; a compiled step has to be measured, or given as a whole."""
    text = sweep("single", "gpus = 1") + "[workload]\nmodel = { parameters = '1 G', layers = 8, sequence = 128 }\n"
    found = {
        change: price(plan(text, FOUR_GPUS, "cluster.device=h100-sxm-80gb", change).cells[0], host())
        for change in ("workload.tf32=false", "workload.tf32=true", "workload.step=compiled")
    }
    plain, tf32, compiled = found.values()
    assert plain.step_time_s > 2 * tf32.step_time_s > 0
    assert "a data sheet tells the time of eager steps only" in compiled.not_possible
    given = 'cluster.device={ step_time = "5 ms", batch_size = 32 }'
    (cell,) = plan(text, FOUR_GPUS, given, "workload.step=compiled").cells
    assert price(cell, host()).step_time_s == pytest.approx(5e-3, rel=0.01)


def test_plans_and_cells_survive_json() -> None:
    found = plan(sweep("model-split sync-ddp single", "seeds = 2") + '[cluster]\ninter_node = "25 Gb/s"')
    assert from_json(Plan, json.loads(json.dumps(to_json(found)))) == found
    (cell, *_) = found.cells
    assert from_json(Cell, json.loads(json.dumps(to_json(cell)))) == cell


def identity(text: str, machine: Machine = LAPTOP, *sets: str) -> str:
    return plan(text, machine, *sets).cells[0].cell_id


BASE = sweep("sync-ddp", "gpus = 2\nlearning_rate = 0.1")


def test_ids_are_readable() -> None:
    assert identity(BASE).startswith("sync-ddp-b32-lr0.1-g2-s0-")
    assert len(identity(BASE).rpartition("-")[2]) == 8


@pytest.mark.parametrize(
    "change",
    [
        "model=mlp",
        'workload.model.form="1998"',
        "dataset=mnist",
        "loss=mse",
        "optimizer=adam",
        "workload.optimizer.momentum=0.5",
        "workload.optimizer.fused=true",
        "workload.step=compiled",
        "workload.channels_last=true",
        "workload.tf32=false",
        "precision=bf16",
        "lr_schedule=cosine",
        "lr_warmup=1",
        "clip_norm=1",
        "strategy.sync-ddp.bucket_mib=1",
        "global_batch_size=64",
        "micro_batch_size=8",
        "learning_rate=0.1000001",
        "gpus=1",
        "seed=1",
        "target_accuracy=0.9",
        "target_loss=0.1",
        "max_epochs=3",
        "max_steps=3",
        "max_seconds=3",
        "evaluate_every=100",
        "validation_fraction=0.2",
        "engine=virtual",
        "threads_per_device=2",
        "warmup_steps=1",
        'telemetry_interval="50 ms"',
    ],
)
def test_ids_depend_on_what_decides_the_outcome(change: str) -> None:
    assert identity(BASE, LAPTOP, change).rpartition("-")[2] != identity(BASE).rpartition("-")[2]


@pytest.mark.parametrize(
    "change",
    [
        *("name=other", "description=text", 'cell_timeout="1 min"', 'budget="1 h"', 'inter_node="25 Gb/s"'),
        *("device=cpu", "workload.step=eager", "workload.channels_last=false", "workload.optimizer.fused=false"),
    ],
)
def test_ids_do_not_depend_on_anything_else(change: str) -> None:
    assert identity(BASE, LAPTOP, change) == identity(BASE)


def test_ids_do_not_depend_on_the_order_or_on_other_cells() -> None:
    one = {cell.cell_id for cell in plan(sweep("single sync-ddp", "learning_rate = [0.1, 0.2]")).cells}
    other = {cell.cell_id for cell in plan(sweep("async-ps sync-ddp single", "learning_rate = [0.2, 0.1]")).cells}
    assert one < other


def test_ids_of_virtual_cells_depend_on_the_cluster() -> None:
    text = 'engine = "virtual"\n' + BASE
    assert identity(text, LAPTOP, 'inter_node="25 Gb/s"') != identity(text)


def test_ids_depend_on_the_device_kind() -> None:
    assert identity(BASE, FOUR_GPUS) != identity(BASE, LAPTOP)


def test_ids_depend_on_the_source_of_the_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(BASE)
    monkeypatch.setattr(host(), "strategy_hash", lambda name: "edited")
    assert identity(BASE) != before


def test_ids_depend_on_the_users_file(tmp_path: Path) -> None:
    text = BASE + '\n[workload]\nmodel = "train.py:build"'
    ids = []
    for source in ("def build():\n    return 1\n", "def build():\n    return 2\n"):
        (tmp_path / "train.py").write_text(source)
        ids.append(make_plan(parse_scenario(text, host(), tmp_path / "a.toml"), host(), LAPTOP).cells[0].cell_id)
    assert ids[0] != ids[1]


PROGRAM = """
import sys
from pathlib import Path
from harness.commands.plan_text import describe
from harness.api.host import load_host
from harness.scenario.plan import Machine, make_plan
from harness.scenario.read import load_scenario
host = load_host()
plan = make_plan(load_scenario(Path("scenarios/lenet.toml"), host), host, Machine(2))
describe(plan)
print(*[cell.cell_id for cell in plan.cells])
print(*sorted({"torch", "pandas", "numpy"} & set(sys.modules)))
"""


def test_ids_are_the_same_in_every_process_and_nothing_heavy_is_imported() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for seed in ("1", "2")
    ]
    here = make_plan(load_scenario(ROOT / "scenarios" / "lenet.toml", host()), host(), LAPTOP)
    assert outputs[0] == outputs[1] == [" ".join(cell.cell_id for cell in here.cells), ""]


def test_predictions_import_nothing_heavy() -> None:
    published = sorted((ROOT / "scenarios" / "published").glob("*.toml"))
    names = ["ticket", "four-gpus", "pretrain"]
    names += [str(path) for path in published if 'use = "calibrate"' not in path.read_text(encoding="utf-8")]
    assert len(published) - len(names) < 2  # to calibrate is to fit: those few import an optimizer
    code = "import sys\nfrom harness.commands.cli import main\n"
    code += f"for name in {names}: main(['plan', name], prog_name='harness', standalone_mode=False)\n"
    code += "print(sorted({'torch', 'pandas', 'numpy', 'simpy', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stdout.count("(observed ") > 20


def test_the_description_says_what_is_run_and_what_is_not() -> None:
    text = describe(plan(sweep("single sync-ddp async-ps", "gpus = [1, 2, 16]\nseeds = 5\nbatch_size = 8")))
    assert 'no GPU (a "gpu" of the scenario is one core)' in text
    assert "16 simulated CPU cores" in text
    assert "8 x 2 = 16" in text
    assert "0-4" in text
    assert "asynchronous" in text
    assert "impossible (single runs on 1 device, not 2)" in text
    assert "a cell is stopped after 15 min" in text


BERT = '[workload]\nmodel = { parameters = "335 M", layers = 24, hidden = 1024, sequence = 512 }\n'
GIVEN_SIZES = '[workload]\nmodel = { parameters = "25 M", layers = 50 }\n'
ELSEWHERE = '[cluster]\npreset = "dgx-a100"\n'


def test_a_cluster_elsewhere_is_simulated_whole_and_said_so() -> None:
    found = plan(sweep("sync-ddp", "gpus = [1, 2, 16]") + ELSEWHERE)
    assert [cell.engine for cell in found.cells] == ["virtual"] * 3
    assert [cell.nodes for cell in found.cells] == [1, 1, 2]
    assert {cell.device for cell in found.cells} == {"cuda"}
    assert "the cluster is not this machine, so every cell is simulated" in found.notes
    assert "16 simulated A100" in describe(found, host())
    assert [cell.engine for cell in plan('engine = "real"\n' + sweep("sync-ddp", "gpus = 2") + ELSEWHERE).cells] == [
        "real"
    ]
    both = plan('engine = "both"\n' + sweep("sync-ddp", "gpus = 2") + ELSEWHERE)
    assert [(cell.engine, cell.device) for cell in both.cells] == [("real", "cpu"), ("virtual", "cuda")]


def test_links_alone_leave_this_machines_cells_real() -> None:
    found = plan(sweep("sync-ddp", "gpus = [2, 4]") + '[cluster]\ninter_node = "25 Gb/s"')
    assert [cell.engine for cell in found.cells] == ["real", "virtual"]
    assert any("combine this machine's measured devices" in note for note in found.notes)


def test_a_model_without_mathematics_is_simulated_on_every_machine_with_one_id() -> None:
    text = sweep("sync-ddp", "gpus = 4") + BERT + "[cluster]\ndevice = { samples_per_second = 52, batch_size = 16 }"
    (cell,), (other,) = plan(text).cells, plan(text, FOUR_GPUS).cells
    assert (cell.engine, cell.timing_only, cell.device) == ("virtual", True, "cuda")
    assert cell.cell_id == other.cell_id
    assert "timing only" in describe(plan(text), host())


def test_times_are_predicted_where_costs_are_known() -> None:
    text = sweep("single sync-ddp", "gpus = [1, 4]\nbatch_size = 16") + BERT
    text += "[cluster]\ndevice = { samples_per_second = 52, batch_size = 16 }\n[goal]\nmax_steps = 3600\n"
    text += '[cost]\nper_gpu_hour = "2.50 EUR"\n[[observed]]\ngpus = 4\nthroughput = "205 samples/s"'
    shown = describe(plan(text), host())
    (single, *_) = [line for line in shown.splitlines() if line.startswith("single")]
    # 16 samples at 52 a second take 308 ms, and 3,600 such steps 0.31 hours at 2.50 EUR.
    assert "308 ms ±7 %" in single  # two standard deviations, as the answer has them
    assert "18.5 min" in single
    assert single.split()[-2:] == ["0.769", "EUR"]
    assert sum("(observed 205)" in line for line in shown.splitlines()) == 1
    assert "given by the scenario for a whole step" in shown


def test_what_is_not_known_before_it_runs_is_a_question_mark() -> None:
    text = sweep("sync-ps", "gpus = 4") + BERT + ELSEWHERE
    (line,) = [line for line in describe(plan(text), host()).splitlines() if line.startswith("sync-ps  ")]
    assert line.split()[-4:] == ["?", "?", "?", "?"]
    assert "not predicted: sync-ps on 4: it depends on how workers communicate" in describe(plan(text), host())
    assert "step  " not in describe(plan(sweep("sync-ps", "gpus = 2")), host())


def test_the_largest_micro_batch_is_left_to_be_found() -> None:
    found = plan(sweep("sync-ddp", 'gpus = 4\nmicro_batch_size = "largest"') + BERT + ELSEWHERE)
    assert [cell.micro_batch_size for cell in found.cells] == [0]
    assert "8 x 4 = 32, largest micro-batch" in describe(found, host())


def test_what_does_not_fit_is_said_before_it_runs_and_the_largest_that_fits_does() -> None:
    text = sweep("sync-ddp", "gpus = 4\nbatch_size = 32\nmicro_batch_size = [32, 1]") + BERT + ELSEWHERE
    shown = describe(plan(text + '[limits]\ndram = "16 GB"'), host()).splitlines()
    full, fitting = [line for line in shown if line.startswith("sync-ddp  ")]
    assert full.split()[-5:] == ["?", "?", "out", "of", "memory"]
    assert "GiB" in fitting
    (reason,) = [line for line in shown if "GiB too little" in line]
    assert "The largest layer is block 0" in reason
    assert "at once: for the batch of 32, set micro_batch_size = " in reason

    def largest(dram: str) -> Prediction:
        asked = text.replace("[32, 1]", '"largest"') + f'[limits]\ndram = "{dram}"'
        return price(plan(asked).cells[0], host())

    found, more, none = largest("16 GB"), largest("32 GB"), largest("1 GB")
    assert found.micro_batch_size is not None
    assert found.dram_bytes is not None
    assert 32 % found.micro_batch_size == 0
    assert found.dram_bytes <= 16e9
    assert more.micro_batch_size is not None
    assert found.micro_batch_size < more.micro_batch_size
    assert none.micro_batch_size == 1
    assert "Not even a single sample fits" in none.out_of_memory


def test_the_largest_micro_batch_is_the_whole_batch_without_a_limit_and_needs_activations() -> None:
    text = sweep("sync-ddp", 'gpus = 4\nmicro_batch_size = "largest"')
    device = "[cluster]\ndevice = { samples_per_second = 52, batch_size = 16 }\n"
    assert price(plan(text + BERT + device).cells[0], host()).micro_batch_size == 8
    sizes = text + GIVEN_SIZES + device + '[limits]\ndram = "16 GB"'
    assert "does not give its activations" in price(plan(sizes).cells[0], host()).reason


def test_measurements_from_elsewhere_go_to_the_cells_that_their_keys_fit() -> None:
    text = sweep("sync-ddp model-split", "gpus = [2, 4]") + BERT + ELSEWHERE
    text += '[strategy.model-split]\nschedule = ["gpipe", "1f1b"]\n'
    for keys in ("gpus = 4", '"strategy.model-split.schedule" = "gpipe"\ngpus = 2', "gpus = 3", "nodes = 1"):
        text += f'[[observed]]\n{keys}\nstep_time = "1 s"\nsource = "{keys.count("gpus")}"\n'.replace(
            'source = "1"\n', ""
        )
    found = plan(text)
    counts = {(cell.strategy, cell.options.get("schedule"), cell.gpus): len(cell.observed) for cell in found.cells}
    assert counts == {
        ("sync-ddp", None, 2): 1,
        ("sync-ddp", None, 4): 2,
        ("model-split", "gpipe", 2): 2,
        ("model-split", "1f1b", 2): 1,
        ("model-split", "gpipe", 4): 2,
        ("model-split", "1f1b", 4): 2,
    }
    assert "[[observed]] 3 (gpus 3) matches no cell" in found.notes
    assert from_json(Plan, json.loads(json.dumps(to_json(found)))) == found


def test_a_measurement_that_does_not_say_its_environment_is_asked_for_it_and_compared_with_no_cell() -> None:
    text = sweep("sync-ddp", 'gpus = 4\n"cluster.inter_node" = ["25 Gb/s", "100 Gb/s"]') + BERT
    text += ELSEWHERE + '[[observed]]\ngpus = 4\nstep_time = "1 s"\n'
    found = plan(text)
    assert [cell.observed for cell in found.cells] == [(), ()]
    assert any(
        note == "[[observed]] 1 is compared with no cell: it does not say its cluster.inter_node, which is swept; add "
        '"cluster.inter_node" = "25 Gb/s", or whichever of "25 Gb/s" or "100 Gb/s" it was'
        for note in found.notes
    )
    named = plan(text + '"cluster.inter_node" = "100 Gb/s"\n')
    assert [len(cell.observed) for cell in named.cells] == [0, 1]


def test_memory_is_the_devices_own_or_what_the_scenario_allows() -> None:
    text = sweep("sync-ddp", "gpus = 2")
    assert plan(text).cells[0].dram_bytes is None
    assert plan(text + ELSEWHERE).cells[0].dram_bytes == round(79.15 * 2**30)
    assert plan(text + ELSEWHERE + '[limits]\ndram = "16 GB"').cells[0].dram_bytes == 16 * 10**9
    figures = "device = { samples_per_second = 52, batch_size = 16 }"
    assert plan(text + ELSEWHERE + figures).cells[0].dram_bytes == round(79.15 * 2**30)
    assert plan(text + "[cluster]\n" + figures).cells[0].dram_bytes is None
    assert plan(text + '[limits]\ndram = "16 GB"').cells[0].dram_bytes == 16 * 10**9


def test_cells_say_how_their_devices_are_spread() -> None:
    cells = {cell.strategy: cell for cell in plan(sweep("sync-ddp model-split fsdp", "gpus = 4")).cells}
    assert cells["sync-ddp"].layout == LayoutDegrees(data=4, pipeline=1, tensor=1, shard="none")
    assert cells["model-split"].layout.pipeline == 4
    assert cells["fsdp"].layout.shard == "parameters"


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ('dram="16 GB"', False),
        ("cluster.device=h100", False),
        ("cluster.preset=dgx1-v100", False),
        ('cluster.inter_node="25 Gb/s"', False),
        ("cluster.gpus_per_node=4", False),
        ("workload.model.parameters=1000000000", False),
        ('per_gpu_hour="2 EUR"', True),
        ("description=text", True),
        ('budget="1 h"', True),
    ],
)
def test_ids_of_simulated_cells_depend_on_the_cluster_and_not_on_money(change: str, same: bool) -> None:
    text = sweep("sync-ddp", "gpus = 2") + BERT + ELSEWHERE
    assert (identity(text, LAPTOP, change) == identity(text)) == same


def test_ids_of_simulated_cells_do_not_depend_on_where_figures_are_from(monkeypatch: pytest.MonkeyPatch) -> None:
    text = sweep("sync-ddp", "gpus = 2") + ELSEWHERE
    before = identity(text)
    entry = host().devices["A100-SXM4-80GB"]
    monkeypatch.setitem(host().devices, entry.name, replace(entry, source="another sheet", doubt="none"))
    assert identity(text) == before
    monkeypatch.setitem(host().devices, entry.name, replace(entry, memory_bandwidth_bytes_per_s=2e12))
    assert identity(text) != before


@pytest.mark.parametrize(
    "path", sorted((ROOT / "scenarios").rglob("*.toml")), ids=lambda path: str(path.relative_to(ROOT / "scenarios"))
)
def test_every_scenario_that_ships_is_planned(path: Path) -> None:
    found = make_plan(load_scenario(path, host()), host(), LAPTOP)
    assert not [cell.not_possible for cell in found.cells if cell.not_possible]
    shown = describe(found, host())
    assert found.name in shown
    if "[[observed]]" in path.read_text(encoding="utf-8"):
        assert any(cell.observed for cell in found.cells)
        assert not any("fits no cell" in note for note in found.notes)
        assert all(cell.timing_only and cell.engine == "virtual" for cell in found.cells)


def test_published_scenarios_are_predicted_near_what_was_published() -> None:
    errors = []
    for path in (ROOT / "scenarios" / "published").glob("*.toml"):
        for cell in make_plan(load_scenario(path, host()), host(), LAPTOP).cells:
            prediction = price(cell, host())
            if cell.observed and prediction.throughput_samples_per_s:
                (seen,) = cell.observed
                rate = seen.throughput_samples_per_s or cell.global_batch_size / seen.step_time_s
                errors.append(abs(prediction.throughput_samples_per_s / rate - 1))
    assert len(errors) > 25
    # Equal layers are all that { parameters, layers } says, so this is a bound against nonsense, not a score.
    assert sorted(errors)[len(errors) // 2] < 0.06
    assert max(errors) < 0.35


def test_large_plans_are_described_in_no_time() -> None:
    text = sweep(
        "sync-ddp local-sgd", "gpus = [1, 2, 4]\nlearning_rate = { from = 1e-3, to = 1, points = 20 }\nseeds = 50"
    )
    found = plan(text)
    assert len(found.cells) == 6000
    assert describe(found).count("0-49") == 120


def test_engines_are_put_into_words() -> None:
    (cell,) = plan(sweep("sync-ddp", "gpus = 4"), FOUR_GPUS).cells
    assert engine_in_words(cell, "NVIDIA A100") == "4 x NVIDIA A100"
    assert engine_in_words(replace(cell, engine="virtual")) == "4 x simulated GPU"
    assert engine_in_words(replace(cell, device="cpu", gpus=1)) == "1 CPU core"
    assert engine_in_words(replace(cell, device="cpu", threads_per_device=2)) == "4 x 2 CPU cores"


@pytest.mark.parametrize(
    ("variable", "found"),
    [
        (None, "abcd"),
        ("", ""),
        ("0", "a"),
        ("3,1", "db"),
        ("-1", ""),
        ("2, GPU-a ,-1,0", "ca"),
        ("0,9,1", "a"),
        ("GPU-d,GPU-a", "da"),
        ("GPU-nobody,0", ""),
        ("MIG-m,1", "mb"),
        ("0,MIG-nobody", "a"),
    ],
)
def test_hidden_gpus_are_not_counted(variable: str | None, found: str) -> None:
    uuids = {f"GPU-{name}": name for name in "abcd"} | {"MIG-m": "m"}
    assert "".join(shown(variable, "abcd", uuids.get)) == found


def test_this_machine_has_cores() -> None:
    assert detect_machine().cores >= 1


def test_a_plan_names_batch_norm_as_a_cause_of_differences(tmp_path):
    sweep = '[sweep]\nstrategy = ["single", "sync-ddp", "sync-ps"]\ngpus = [1, 2]\n'
    text = f'engine = "virtual"\n[workload]\nmodel = "resnet18"\n{sweep}'
    plan = planned(text, tmp_path)
    (told,) = [note for note in plan.notes if "BatchNorm" in note]
    assert told == (
        "resnet18 has BatchNorm: under sync-ddp and sync-ps each replica normalises by its own samples, so the "
        "weights differ from those of single; workload.sync_batchnorm = true makes replicas of sync-ddp and fsdp share "
        "statistics"
    )
    shared = planned(text.replace("[sweep]", "sync_batchnorm = true\n[sweep]"), tmp_path)
    (told,) = [note for note in shared.notes if "BatchNorm" in note]
    assert told.startswith("resnet18 has BatchNorm: under sync-ps each")
    assert {c.cell_id for c in plan.cells}.isdisjoint(c.cell_id for c in shared.cells)


def planned(text, folder):
    return make_plan(parse_scenario(text, host(), folder / "s.toml"), host(), Machine(cores=8))
