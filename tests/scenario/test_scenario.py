"""Scenarios: what is read, and that every mistake is answered with its key, its line and what is allowed."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from harness.api.host import Host, load_host
from harness.core.cell import Measure, Named
from harness.core.errors import InputError
from harness.core.given_cluster import ClusterFigures, GivenLink, StepFigures
from harness.core.words import show
from harness.scenario.override import parse_value, resolve_key
from harness.scenario.read import Scenario, load_scenario, parse_scenario, plugins_of
from harness.scenario.schema import json_schema, key_paths, schema_text
from harness.scenario.toml_lines import line_numbers, line_of

SWEEP = '[sweep]\nstrategy = "single"\n'
BUNDLED = ROOT / "scenarios"


@cache
def host() -> Host:
    return load_host()


def read(text: str, *sets: str, path: Path = Path("test.toml")) -> Scenario:
    return parse_scenario(text, host(), path, sets)


def problems(text: str, *sets: str) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        read(text, *sets)
    assert caught.value.exit_code == 2
    return caught.value.problems


@pytest.mark.parametrize(
    ("option", "allowed"),
    [
        ("[strategy.stale-sync]\nslack", 'a whole number, or one of "none", in quotes'),
        ("[strategy.hybrid]\nplacement", 'one of "time", "parameters", in quotes, or a list'),
    ],
)
def test_a_table_where_one_of_several_types_belongs_is_one_problem_of_the_key_itself(option, allowed):
    strategy, _, key = option.removeprefix("[strategy.").partition("]\n")
    (problem,) = problems(f'[sweep]\nstrategy = "{strategy}"\n{option} = {{ wrong = true }}\n')
    assert problem.startswith(f"strategy.{strategy}.{key} = {{ wrong = true }}: {allowed}")


GIVEN = "[workload]\nmodel = { parameters = '1 M', layers = 2 }\n"

# Text after [sweep] and strategy, which are lines 1 and 2; the start of the problem; what it must say; its line.
MALFORMED = [
    ("gpus = 0", "sweep.gpus = 0: ", "a whole number, at least 1", 3),
    ("gpus = 1.5", "sweep.gpus = 1.5: ", "a whole number", 3),
    ("gpus = true", "sweep.gpus = true: ", "a whole number", 3),
    ("gpus = [\n 1,\n 'two',\n]", 'sweep.gpus = "two": ', "a whole number", 5),
    ("gpus = []", "sweep.gpus = []: ", "the list is empty", 3),
    ("gpus = [1, 1]", "sweep.gpus = 1: ", "is in the list twice", 3),
    ("gpu = 2", "sweep.gpu: ", "no such key; did you mean", 3),
    ("seeds = 0", "sweep.seeds = 0: ", "at least 1", 3),
    ("seeds = 99999999999999999999", "sweep.seeds = 99999999999999999999: ", "at most 9,223,372,036,854,775,807", 3),
    ("gpus = [1, 2]\nseeds = 1000000", "sweep: ", "2,000,000 cells", 1),
    ("seeds = [0, -1]", "sweep.seeds = -1: ", "at least 0", 3),
    ("seed = 1\nseeds = 2", "sweep.seed: ", "give seeds or seed, not both", 3),
    ("batch_size = 8\nglobal_batch_size = 8", "sweep.global_batch_size: ", "not both", 4),
    ("microbatches = 2\nmicro_batch_size = 8", "sweep.microbatches: ", "not both", 3),
    ("batch_size = 'all'", 'sweep.batch_size = "all": ', 'or "full"', 3),
    ("micro_batch_size = 'largset'", 'sweep.micro_batch_size = "largset": ', 'at least 1, or "largest"', 3),
    ("learning_rate = -0.1", "sweep.learning_rate = -0.1: ", "a number above 0", 3),
    ("learning_rate = nan", "sweep.learning_rate = nan: ", "a number above 0", 3),
    ("learning_rate = { from = 0, to = 1, points = 3 }", "sweep.learning_rate = { from = 0", "a range, such as", 3),
    ("gpus = { from = 1, to = 2, points = 4 }", "sweep.gpus = { from = 1", "would repeat values", 3),
    ("lr_scaling = 'linaer'", 'sweep.lr_scaling = "linaer": ', "did you mean linear?", 3),
    ("precision = ['fp32']", "sweep.precision: ", 'did you mean "workload.precision"?', 3),
    ("'workload.precision' = ['fp32', 'fp31']", 'workload.precision = "fp31": ', "did you mean fp32?", 3),
    ("'limits.cell_timeout' = ['1 s', '2 s']", 'sweep."limits.cell_timeout": ', "cannot be swept", 3),
    ("exclude = 3", "sweep.exclude = 3: ", "a list of points", 3),
    ("exclude = [{ precision = 'fp32' }]", "sweep.exclude.precision: ", "You can exclude by", 3),
    ("exclude = [{ strategy = 'singel' }]", 'sweep.exclude.strategy = "singel": ', "did you mean single?", 3),
    ("[goal]\ntarget_accuracy = 97", "goal.target_accuracy = 97: ", "for 97 % write 0.97", 4),
    ("[goal]\ntarget_accuracy = 0", "goal.target_accuracy = 0: ", "a fraction above 0", 4),
    ("[goal]\ntarget_accuracy = 0.9\ntarget_loss = 1", "goal.target_loss = 1.0: ", "not both", 5),
    ("[goal]\nmax_epoch = 3", "goal.max_epoch: ", "did you mean max_epochs?", 4),
    ("[goal]\nmax_epochs = 'ten'", 'goal.max_epochs = "ten": ', "a number above 0", 4),
    ("[goal]\nevaluate_every = '1 lap'", 'goal.evaluate_every = "1 lap": ', '"0.25 epoch"', 4),
    ("[goal]\nvalidation_fraction = 1", "goal.validation_fraction = 1: ", "between 0 and 1", 4),
    ("[workload]\nmodel = 'lenet'", 'workload.model = "lenet": ', "did you mean lenet5?", 4),
    ("[workload]\nmodel = { parameters = '335 M' }", "workload.model.layers: ", "missing", 4),
    (
        "[workload]\nmodel = { parameters = 0, layers = 2 }",
        "workload.model.parameters = 0: ",
        'such as 335000000 or "335',
        4,
    ),
    ("[workload]\nmodel = { layers = 2 }", "workload.model = { layers = 2 }: ", "sizes only, for timing", 4),
    ("[workload]\nmodel = { profile = 'no.csv', batch_size = 1 }", 'workload.model.profile = "no.csv": ', "be read", 4),
    (GIVEN + "dataset = 'digits'", "workload.dataset: ", "reads no data", 5),
    (GIVEN + "[goal]\nmax_epochs = 2", "goal.max_epochs = 2: ", "timed, not trained", 6),
    ("[workload]\nmodel = { name = 'lenet5', form = 'x' }", 'workload.model.form = "x": ', "one of relu, 1998", 4),
    ("[workload]\nmodel = 'no.py:build'", 'workload.model = "no.py:build": ', "cannot be read", 4),
    ("[workload]\ndataset = 'minst'", 'workload.dataset = "minst": ', "did you mean mnist?", 4),
    ("[workload]\nloss = 'crossentropy'", 'workload.loss = "crossentropy": ', "did you mean cross-entropy?", 4),
    ("[workload]\noptimizer = 'adamx'", 'workload.optimizer = "adamx": ', "did you mean adam", 4),
    ("[workload]\noptimizer = { name = 'sgd', lr = 1 }", "workload.optimizer.lr: ", "sweep.learning_rate", 4),
    ("[workload]\noptimizer.name = 'sgd'\noptimizer.momentum = 1", "workload.optimizer.momentum = 1: ", "below 1", 5),
    ("[workload]\noptimizer = { name = 'sgd', nesterov = true }", "workload.optimizer: ", "momentum above 0", 4),
    ("[workload]\nprecision = ['fp32', 'bf16']", "workload.precision = [", 'write "workload.precision" = [...]', 4),
    ("[workload]\nstep = 'compile'", 'workload.step = "compile": ', "did you mean compiled?", 4),
    ("[workload]\ntf32 = 'yes'", 'workload.tf32 = "yes": ', "true or false", 4),
    ("[workload]\noptimizer = { name = 'rmsprop', fused = true }", "workload.optimizer.fused: ", "sgd, adam, adamw", 4),
    (
        "[workload]\ntf32 = true\n[cluster]\ndevice = 'v100-sxm2-32gb'",
        "workload.tf32 = true: ",
        "does not compute in",
        4,
    ),
    ("[workload]\ngpus = 2", "workload.gpus: ", "did you mean sweep.gpus?", 4),
    ("[strategy.single]\nfast = true", "strategy.single.fast: ", "no such key", 4),
    ("[strategy.sync-ddp]\nbucket_mib = [25, -1]", "strategy.sync-ddp.bucket_mib = -1: ", "above 0", 4),
    ("[strategy.dp]\nbucket_mib = 2", 'strategy.dp = "dp": ', "did you mean sync-ddp?", 3),
    ("[strategy.model-split]\nschedule = '1f1c'", 'strategy.model-split.schedule = "1f1c": ', "did you mean 1f1b?", 4),
    ("[cluster]\npreset = 'dgx-h10'", 'cluster.preset = "dgx-h10": ', "did you mean dgx-h100?", 4),
    ("[cluster]\ndevice = 'h20'", 'cluster.device = "h20": ', "did you mean h200?", 4),
    ("[cluster]\ndevice = 'rtx'", 'cluster.device = "rtx": ', "one of RTX-2080-Ti-11GB, RTX-3090-24GB", 4),
    ("[cluster]\ndevice = {}", "cluster.device = {  }: ", "a device such as", 4),
    (
        "[cluster]\ndevice = 'v100'\n[workload]\nprecision = 'bf16'",
        'workload.precision = "bf16": ',
        "fp32, fp64, fp16, mixed",
        6,
    ),
    ("[cluster]\ndevice = { step_time = 3, batch_size = 1 }", "cluster.device = {", "step_time: a time such as", 4),
    ("[cluster]\ninter_node = '25 gb/s'", 'cluster.inter_node = "25 gb/s": ', "GB/s or Gb/s", 4),
    ("[cluster]\ninter_node = 'nvlink'", 'cluster.inter_node = "nvlink": ', "did you mean nvlink", 4),
    ("[cluster]\ninter_node = { table = 'x.csv' }", 'cluster.inter_node.table = "x.csv": ', "cannot be read", 4),
    ("[cluster]\nintra_node = { bus_bandwidth = { 1 = '2 GB/s' } }", "cluster.intra_node = {", "by group size", 4),
    (
        "[cluster]\nintra_node = { bus_bandwidth = { 2 = '2' } }",
        "cluster.intra_node = {",
        "bus_bandwidth: 2: a rate",
        4,
    ),
    ("[cluster]\ngpus_per_node = 0", "cluster.gpus_per_node = 0: ", "at least 1", 4),
    ("[faults]\ncompute_jitter = 3", "faults.compute_jitter = 3: ", "the sigma of a lognormal, 0 to 2", 4),
    ("[limits]\ndram = 16", "limits.dram = 16: ", "a size in bytes such as", 4),
    ("[limits]\ncell_timeout = 15", "limits.cell_timeout = 15: ", "in quotes, with a unit", 4),
    ("[cost]\nper_gpu_hour = 2", "cost.per_gpu_hour = 2: ", 'such as "2.80 EUR"', 4),
    ("[[observed]]\ngpus = 16", "observed: ", 'a throughput = "205 samples/s"', 3),
    ("[[observed]]\nthroughput = 205", "observed.throughput = 205: ", 'such as "205 samples/s"', 4),
    ("[[observed]]\nstep_time = '1 s'\ngpu = 3", "observed.gpu: ", "did you mean gpus?", 5),
    ("[[observed]]\nstep_time = '1 s'\nstrategy = 'singel'", 'observed.strategy = "singel": ', "mean single?", 5),
    ("[observed]\nstep_time = '1 s'", "observed = {", "[[observed]]", 3),
    ("[wrokload]\nmodel = 'mlp'", "wrokload: ", "did you mean workload?", 3),
    ("[measure]\ntelemetry_interval = '-1 ms'", 'measure.telemetry_interval = "-1 ms": ', "a time such as", 4),
]


@pytest.mark.parametrize(("text", "start", "says", "line"), MALFORMED, ids=[case[1][:40] for case in MALFORMED])
def test_a_mistake_is_named_with_its_key_and_line(text: str, start: str, says: str, line: int) -> None:
    found = problems(SWEEP + text)
    assert len(found) == 1, found
    assert found[0].startswith(start)
    assert says in found[0]
    assert found[0].endswith(f"(line {line})")


def test_the_wording_of_the_design() -> None:
    text = SWEEP + "\n" * 14 + "[goal]\ntarget_accuracy = 97\n"
    wording = "goal.target_accuracy = 97: a fraction above 0 and at most 1; for 97 % write 0.97 (line 18)"
    assert problems(text) == (wording,)


@pytest.mark.parametrize(
    "key", ["name = 'a b'", "engine = 'rael'", "device = 'gpu'", "threads_per_device = 0", "plugins = 3"]
)
def test_mistakes_above_the_first_table(key: str) -> None:
    (problem,) = problems(f"{key}\n{SWEEP}")
    assert problem.startswith(key.partition(" ")[0])
    assert problem.endswith("(line 1)")


def test_all_mistakes_are_reported_at_once_in_the_order_of_lines() -> None:
    text = """
    name = "a b"
    [workload]
    model = "lenet"
    step = "compile"
    [sweep]
    strategy = ["dp", "single"]
    gpus = [0]
    "workload.clip_norm" = [1, -1]
    [goal]
    target_accuracy = 97
    """
    keys = [problem.split(" ")[0] for problem in problems(text)]
    assert keys == [
        "name",
        "workload.model",
        "workload.step",
        "sweep.strategy",
        "sweep.gpus",
        "workload.clip_norm",
        "goal.target_accuracy",
    ]


def test_broken_toml_has_its_line() -> None:
    (problem,) = problems("[sweep]\nstrategy = \n")
    assert problem.startswith("not valid TOML")
    assert "(line 2" in problem


@pytest.mark.parametrize("text", ["", "[sweep]\n", "sweep = 3\n", "[workload]\nmodel = 'mlp'\n"])
def test_a_missing_strategy_is_asked_for(text: str) -> None:
    assert any(problem.startswith("sweep.strategy: required") for problem in problems(text))


def test_a_strategy_of_a_broken_plugin_is_answered_with_the_reason(tmp_path: Path) -> None:
    plugin = tmp_path / "my_own.py"
    plugin.write_text("raise RuntimeError('no such thing')\n")
    with pytest.raises(InputError) as caught:
        parse_scenario('[sweep]\nstrategy = "my-own"', load_host([plugin]), Path("test.toml"))
    assert "the plugin is broken" in caught.value.problems[0]
    assert "no such thing" in caught.value.problems[0]


def test_the_smallest_scenario_has_defaults_for_everything() -> None:
    scenario = read(SWEEP)
    (settings,) = scenario.settings
    assert scenario.name == "test"
    assert settings.workload.model == Named("lenet5", {"form": "relu"})
    assert settings.goal.target_accuracy == 0.95
    assert settings.goal.max_epochs == 10
    assert settings.goal.evaluate_every == "0.25 epoch"
    assert settings.cell_timeout_s == 900
    assert settings.measure == Measure(warmup_steps=10, telemetry_interval_s=0.1)
    assert scenario.axes.batches == (32,)
    assert tuple(scenario.axes.seeds) == (0,)


@pytest.mark.parametrize(
    ("text", "seeds"), [("seeds = 3", (0, 1, 2)), ("seeds = [4, 0]", (4, 0)), ("seed = 7", (7,)), ("seed = [0]", (0,))]
)
def test_seeds_are_counted_or_named(text: str, seeds: tuple[int, ...]) -> None:
    assert tuple(read(SWEEP + text).axes.seeds) == seeds


def test_ranges_are_geometric() -> None:
    axes = read(
        SWEEP + "learning_rate = { from = 1e-3, to = 1, points = 4 }\ngpus = { from = 1, to = 8, points = 4 }"
    ).axes
    assert axes.learning_rates == (0.001, 0.01, 0.1, 1.0)
    assert axes.gpus == (1, 2, 4, 8)


@pytest.mark.parametrize("key", ['"workload.precision" = ["fp32", "bf16"]', 'workload.precision = ["fp32", "bf16"]'])
def test_any_key_is_swept_by_its_path(key: str) -> None:
    scenario = read(SWEEP + key)
    assert [item.workload.precision for item in scenario.settings] == ["fp32", "bf16"]
    assert [item.swept for item in scenario.settings] == [
        {"workload.precision": "fp32"},
        {"workload.precision": "bf16"},
    ]


def test_an_option_of_a_name_is_swept_by_its_path() -> None:
    scenario = read(SWEEP + '"workload.optimizer.momentum" = [0.0, 0.9]\n"workload.model.form" = ["relu", "1998"]')
    assert [item.workload.optimizer.options["momentum"] for item in scenario.settings] == [0.0, 0.0, 0.9, 0.9]


def test_lists_of_strategy_options_are_swept_unless_the_option_is_a_list() -> None:
    text = '[sweep]\nstrategy = ["sync-ddp", "model-split"]\n[strategy.sync-ddp]\nbucket_mib = [1, 25]\n'
    text += '[strategy.model-split]\nplacement = [["a"], ["b"]]\nschedule = ["gpipe", "1f1b"]'
    variants = read(text).axes.variants
    assert [item.options["bucket_mib"] for item in variants[:2]] == [1, 25]
    assert [item.options["schedule"] for item in variants[2:]] == ["gpipe", "1f1b"]
    assert all(item.options["placement"] == [["a"], ["b"]] for item in variants[2:])


def test_an_option_that_is_a_list_is_swept_by_a_list_of_lists() -> None:
    text = '[sweep]\nstrategy = "model-split"\n[strategy.model-split]\nplacement = [[["a"], ["b"]], "time"]'
    assert [item.options["placement"] for item in read(text).axes.variants] == [[["a"], ["b"]], "time"]


def test_a_strategy_option_is_swept_by_its_path_too() -> None:
    text = '[sweep]\nstrategy = "sync-ddp"\n"strategy.sync-ddp.bucket_mib" = [1, 0]'
    assert problems(text) == ("strategy.sync-ddp.bucket_mib = 0: above 0 (line 3)",)
    assert len(read(text.replace("0]", "2]")).axes.variants) == 2


def test_a_strategy_may_carry_its_options_in_the_list() -> None:
    text = '[sweep]\nstrategy = ["local-sgd", { name = "local-sgd", steps = 4 }]'
    assert [item.options["steps"] for item in read(text).axes.variants] == [8, 4]
    (problem,) = problems('[sweep]\nstrategy = ["local-sgd", { name = "local-sgd", steps = 8 }]')
    assert "is listed twice with the same options" in problem


def test_an_optimizer_of_one_strategy() -> None:
    text = '[sweep]\nstrategy = "async-ps"\n[strategy.async-ps]\noptimizer = { name = "sgd", momentum = 0.5 }'
    (variant,) = read(text).axes.variants
    assert variant.optimizer == Named("sgd", {"momentum": 0.5, "nesterov": False, "weight_decay": 0.0})


def test_options_of_a_strategy_outside_the_sweep_are_noted() -> None:
    assert read(SWEEP + "[strategy.sync-ddp]\nbucket_mib = 2").axes.notes == (
        "[strategy.sync-ddp] is never used: sweep.strategy does not list sync-ddp",
    )


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        ("target_accuracy = 'none'", (None, None, 60, None)),
        ("target_accuracy = 'none'\nmax_epochs = 2", (None, 2.0, None, None)),
        ("max_steps = 100", (0.95, None, 100, "0.25 epoch")),
        ("evaluate_every = 500", (0.95, 10.0, None, 500)),
        ("evaluate_every = '500 samples'", (0.95, 10.0, None, 500)),
        ("target_loss = 0.2", (None, 10.0, None, "0.25 epoch")),
    ],
)
def test_goals_are_completed(goal: str, expected: tuple[object, ...]) -> None:
    got = read(f"{SWEEP}[goal]\n{goal}").settings[0].goal
    assert (got.target_accuracy, got.max_epochs, got.max_steps, got.evaluate_every) == expected


def test_synthetic_data_has_no_target() -> None:
    goal = read(f"{SWEEP}[workload]\ndataset = 'synthetic'").settings[0].goal
    assert (goal.target_accuracy, goal.max_steps, goal.evaluate_every) == (None, 60, None)


def test_figures_of_a_cluster() -> None:
    text = SWEEP + '[cluster]\ndevice = { step_time = "312 ms", batch_size = 64 }\n'
    text += 'intra_node = { bandwidth = "25 GB/s", latency = "3 us" }\ninter_node = "25 Gb/s"'
    scenario = read(text)
    assert scenario.settings[0].cluster == ClusterFigures(
        device=StepFigures(64, step_time_s=0.312),
        intra_node=GivenLink(3e-6, 25e9),
        inter_node=GivenLink(30e-6, 3.125e9, medium="ethernet"),
    )
    text = "cluster.inter_node carries 3.125 GB/s (25 Gb/s), latency 30 us (of Ethernet; set latency or medium"
    assert f"{text} to change it)" in scenario.understood


def cluster(text: str, *sets: str) -> ClusterFigures:
    return read(f"{SWEEP}[cluster]\n{text}", *sets).settings[0].cluster


def test_a_preset_is_coherent_and_single_keys_override_it() -> None:
    whole = cluster('preset = "dgx-a100"')
    assert (whole.device.name, whole.gpus_per_node) == ("A100-SXM4-80GB", 8)
    assert whole.intra_node.by_group[8].bandwidth_bytes_per_s == 227e9
    assert whole.inter_node.bandwidth_bytes_per_s == pytest.approx(8 * 25e9 * 0.95)
    slower = cluster('preset = "dgx-a100"\ninter_node = "25 Gb/s"')
    assert slower == replace(whole, inter_node=GivenLink(30e-6, 3.125e9, medium="ethernet"))


def test_figures_of_a_device_keep_a_presets_links_and_another_device_brings_its_own() -> None:
    whole = cluster('preset = "dgx1-v100"')
    same = cluster('preset = "dgx1-v100"\ndevice = { samples_per_second = 52, batch_size = 16 }')
    assert same == replace(whole, device=StepFigures(16, samples_per_second=52.0))
    other = cluster('preset = "dgx1-v100"\ndevice = "a100"')
    assert other.intra_node.name == "nvlink3"
    assert not other.intra_node.by_group


def test_a_device_alone_comes_with_its_usual_node() -> None:
    assert cluster('device = "h200"').gpus_per_node == 8
    four = cluster('device = "4 x A100-PCIe-40GB"')
    assert (four.gpus_per_node, four.intra_node.name) == (4, "pcie4x16")
    assert cluster('device = "4 x A100"\ngpus_per_node = 2').gpus_per_node == 2


def test_bus_bandwidths_and_tables_are_kept_by_group(tmp_path: Path) -> None:
    link = cluster('intra_node = { bus_bandwidth = { 8 = "134 GB/s", 2 = "22 GB/s" }, latency = "5 us" }').intra_node
    assert list(link.by_group) == [2, 8]
    assert (link.bandwidth_bytes_per_s, link.latency_s) == (134e9, pytest.approx(5e-6))
    (tmp_path / "links.csv").write_text("n,bytes,seconds\n2,1000000,1e-4\n2,2000000,1.5e-4\n")
    text = SWEEP + '[cluster]\nintra_node = { table = "links.csv" }'
    found = parse_scenario(text, host(), tmp_path / "a.toml").settings[0].cluster.intra_node
    assert found.tables == {2: ((1e6, 1e-4), (2e6, 1.5e-4))}


def test_links_devices_and_limits_may_be_swept() -> None:
    text = SWEEP + '"cluster.inter_node" = ["25 Gb/s", "infiniband-hdr", { bandwidth = "1 GB/s", latency = "9 us" }]\n'
    text += '"cluster.device" = ["a100", "h200"]\n"limits.dram" = ["16 GB", "16 GiB"]'
    found = read(text).settings
    assert len(found) == 12
    assert {item.cluster.device.chip for item in found} == {"A100", "H200"}
    assert {item.dram_bytes for item in found} == {16 * 10**9, 2**34}
    assert {item.cluster.inter_node.latency_s for item in found} == {3e-5, 1e-5, 9e-6}


def test_a_model_without_mathematics_reads_no_data_and_is_timed() -> None:
    (settings,) = read(SWEEP + GIVEN).settings
    assert settings.timing_only
    assert settings.workload.model.name == "1M parameters in 2 layers"
    assert settings.workload.model.options["parameters"] == 1e6
    assert settings.workload.dataset == Named("none")
    assert (settings.goal.target_accuracy, settings.goal.max_steps) == (None, 60)


def test_sizes_of_a_model_may_be_swept() -> None:
    found = read(SWEEP + '"workload.model.parameters" = ["1 M", "1 B"]\n' + GIVEN).settings
    assert [item.workload.model.options["parameters"] for item in found] == [1e6, 1e9]


@pytest.mark.parametrize("key", ["engine = 'real'", "engine = 'virtual'"])
def test_a_model_without_mathematics_is_never_real(key: str) -> None:
    text = f"{key}\n{SWEEP}{GIVEN}"
    if "virtual" in key:
        assert read(text).settings[0].timing_only
    else:
        assert problems(text) == (
            'engine = "real": this model has sizes or times only and runs on the virtual engine only; write "auto" '
            "(line 1)",
        )


def test_measurements_from_elsewhere_are_read() -> None:
    text = SWEEP + '"cluster.inter_node" = ["25 Gb/s"]\n'
    text += (
        '[[observed]]\ngpus = 16\n"cluster.inter_node" = "25 Gb/s"\nthroughput = "205 images/s"\nstep_time = "1.2 s"'
    )
    (found,) = read(text).observed
    assert found.keys == {"gpus": 16, "cluster.inter_node": "25 Gb/s"}
    assert (found.throughput_samples_per_s, found.step_time_s) == (205.0, 1.2)


@given(st.floats(1e-3, 1e6), st.sampled_from(["EUR", "USD", "$"]))
def test_a_price_is_read(amount: float, currency: str) -> None:
    (settings,) = read(f'{SWEEP}[cost]\nper_gpu_hour = "{amount:f} {currency}"').settings
    assert settings.per_gpu_hour == pytest.approx(amount, abs=1e-6)
    assert settings.currency == currency


@given(st.floats(0.01, 999), st.sampled_from([("", 1), ("k", 1e3), ("M", 1e6), ("B", 1e9), ("G", 1e9), ("T", 1e12)]))
def test_counts_are_read_as_people_write_them(number: float, unit: tuple[str, float]) -> None:
    text = f"{SWEEP}[workload]\nmodel = {{ parameters = '{number:.4f} {unit[0]}', layers = 1 }}"
    options = read(text).settings[0].workload.model.options
    assert options["parameters"] == pytest.approx(float(f"{number:.4f}") * unit[1])


def test_a_users_model_is_found_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("def build_model(classes):\n    ...\n")
    (tmp_path / "mine.toml").write_text(SWEEP + '[workload]\nmodel = "train.py:build_model"')
    (settings,) = load_scenario(tmp_path / "mine.toml", host()).settings
    assert settings.workload.model.name == "train.py:build_model"
    (tmp_path / "mine.toml").write_text(SWEEP + '[workload]\nmodel = "train.py:build_modle"')
    with pytest.raises(InputError, match=r"did you mean build_model\?.*\(line 4\)"):
        load_scenario(tmp_path / "mine.toml", host())


def test_plugins_are_relative_to_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('plugins = ["mine.py"]')
    assert plugins_of(tmp_path / "a.toml") == (tmp_path / "mine.py",)
    with pytest.raises(InputError, match="cannot be read"):
        plugins_of(tmp_path / "b.toml")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1,2", [1, 2]),
        ("[1, 2]", [1, 2]),
        ("0.1", 0.1),
        ("fp32,bf16", ["fp32", "bf16"]),
        ("25 Gb/s", "25 Gb/s"),
        ('{ name = "sgd", momentum = 0.9 }', {"name": "sgd", "momentum": 0.9}),
        ('"a,b"', "a,b"),
        ("train.py:f", "train.py:f"),
        ("single,", ["single"]),
        ("true", True),
    ],
)
def test_values_on_the_command_line_are_toml_or_words(written: str, value: object) -> None:
    assert parse_value(written) == value


def test_set_replaces_by_path_or_last_word() -> None:
    text = SWEEP + "global_batch_size = [32]\n'workload.precision' = ['fp32', 'bf16']"
    scenario = read(text, "gpus=1,2", "batch_size=8", "precision=bf16", "workload.optimizer.momentum=0.5")
    assert scenario.axes.gpus == (1, 2)
    assert (scenario.axes.batch_key, scenario.axes.batches) == ("batch_size", (8,))
    assert [item.workload.precision for item in scenario.settings] == ["bf16"]
    assert scenario.settings[0].workload.optimizer.options["momentum"] == 0.5


def test_set_with_several_values_sweeps_the_key() -> None:
    scenario = read(SWEEP, "precision=fp32,bf16", "model=mlp", "workload.model.hidden=[10, 20]")
    assert len(scenario.settings) == 2
    assert scenario.settings[0].workload.model.options["hidden"] == [10, 20]


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("gpus", "write KEY=VALUE"),
        ("gpuss=1", "did you mean gpus?"),
        ("gpus=x", 'sweep.gpus = "x": a whole number, at least 1 (--set gpus=x)'),
        (
            "precision=fp31",
            'workload.precision = "fp31": did you mean fp32? Write one of fp32, fp64, bf16, fp16, mixed (--set',
        ),
    ],
)
def test_mistakes_in_set_name_it(written: str, says: str) -> None:
    (problem,) = problems(SWEEP, written)
    assert says in problem


def test_a_last_word_of_several_keys_is_refused_with_all_of_them() -> None:
    path, wrong = resolve_key("size", ["a.size", "b.size"])
    assert path is None
    assert "a.size, b.size" in wrong


@pytest.mark.parametrize("file", sorted(BUNDLED.glob("*.toml")), ids=lambda file: file.stem)
def test_bundled_scenarios_hold(file: Path) -> None:
    assert load_scenario(file, host()).description


def test_the_schema_knows_every_key() -> None:
    schema, text = json_schema(), schema_text()
    json.dumps(schema)
    for path in key_paths():
        assert f"{path.rpartition('.')[2]}" in text
    assert schema["$defs"]["SweepSection"]["properties"]["gpus"]["anyOf"][1]["type"] == "array"
    assert '  precision = "fp32"' in text


ODD = ["1", "-1", "1.5", "true", '"x"', '"none"', "[]", "[1]", "[[1]]", "{}", "{ name = 3 }", "1979-05-27", "nan"]
ODD += [
    "{ from = 1, to = 4, points = 3 }",
    '["single", "sync-ddp"]',
    "[{ gpus = 1 }]",
    '{ name = "sgd" }',
    "{ x = {} }",
]
ANYWHERE = [
    *key_paths(),
    "strategy",
    "sweep",
    "goal",
    "strategy.single",
    "strategy.sync-ddp.bucket_mib",
    "strategy.x.y",
]
ANYWHERE += ['sweep."workload.precision"', "sweep.workload", "sweep.strategy.single.x", "workload.optimizer.momentum"]


@given(st.dictionaries(st.sampled_from(ANYWHERE), st.sampled_from(ODD), max_size=5))
def test_whatever_is_written_is_understood_or_refused(entries: dict[str, str]) -> None:
    text = "".join(f"{key} = {value}\n" for key, value in entries.items())
    problems: tuple[str, ...] = ()
    try:
        understood = bool(read(text).settings)
    except InputError as refused:
        understood, problems = False, refused.problems
    assert understood or (problems and all(problems))


NAMES = st.text("abcxyz-_ .#=[]{}\"'\\", min_size=1, max_size=8)
VALUES = st.recursive(
    st.integers(-9, 9) | st.booleans() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[ # comment ] with = signs\n" + "".join(f"{toml(item)},\n" for item in value) + "]"
    return json.dumps(value)


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=4), st.dictionaries(NAMES, VALUES, max_size=4))
def test_lines_are_found_in_any_toml(top: dict[str, object], table: dict[str, object]) -> None:
    text, expected = "# first\n", {}
    for path, entries in (((), top), (("the table",), table)):
        text += '\n["the table"]\n' if path else ""
        for key, value in entries.items():
            expected[(*path, key)] = text.count("\n") + 1
            text += f"{json.dumps(key)} = {toml(value)} # comment\n"
    if "the table" in top:
        return
    lines = line_numbers(text)
    assert {path: lines[path] for path in expected} == expected


def test_lines_of_dotted_keys_multiline_strings_and_repeated_tables() -> None:
    text = 'a.b = """\nx = 1\n"""\nc = { d = 1,\te.f = 2 }\n[[t]]\ng = 1\n[[t]]\ng = 2\n[t.u]\nh = 3\n'
    lines = line_numbers(text)
    assert [line_of(lines, path) for path in (("a", "b"), ("c", "e", "f"), ("t", 1, "g"), ("t", 1, "u", "h"))] == [
        1,
        4,
        8,
        10,
    ]
    assert line_of(lines, ("c", "unknown")) == 4
    assert line_of(lines, ("unknown",)) is None


def test_values_are_shown_as_toml_writes_them() -> None:
    assert show({"a": [1, True, "x"]}) == '{ a = [1, true, "x"] }'
