"""Plugins: found in every way, judged one by one, and broken ones never in the way of the others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from click.testing import CliRunner

import harness.api.host
from harness.api.host import INSTEAD, Host, bundled, load_host
from harness.commands.cli import main
from harness.commands.list_plugins import describe_entry, list_entries
from harness.core.errors import InputError, PluginError

GOOD = """\
from harness import Strategy, hookimpl


class Mine(Strategy):
    \"\"\"One of a stranger's own.\"\"\"

    name = "mine"
    also_known_as = ("my-own",)


@hookimpl
def harness_strategies():
    return [Mine]
"""

BUILT_IN = {"single", "sync-ddp", "sync-ps", "async-ps", "local-sgd", "model-split", "softsync", "fsdp", "hybrid"}
BUILT_IN |= {"stale-sync", "backup-workers", "elastic-averaging", "gossip", "diloco"}
BUILT_IN |= {"zero-1", "zero-2", "hsdp", "ensemble"}
BUILT_IN |= {"bf16-wire", "powersgd", "top-k", "signsgd", "qsgd"}

SCENARIO = """\
engine = "virtual"
[workload]
model = "softmax"
[sweep]
strategy = {strategy}
gpus = 1
"""


@pytest.fixture
def plugin(tmp_path: Path):
    """Return a function that writes a plugin file."""

    def write(text: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def only_broken(host: Host) -> tuple[str, str]:
    ((name, reason),) = host.broken.items()
    return name, reason


def plan(tmp_path: Path, strategy: str, *arguments: str):
    scenario = tmp_path / "s.toml"
    scenario.write_text(SCENARIO.format(strategy=strategy))
    return CliRunner().invoke(main, ["plan", str(scenario), *arguments])


# -- discovery ---------------------------------------------------------------------------------------------------------


def test_built_in_files_register_strategies_models_datasets_and_probes():
    host = load_host()
    assert set(host.strategies) >= BUILT_IN
    assert set(host.models) >= {"softmax", "mlp", "lenet5", "resnet18"}
    assert set(host.datasets) >= {"digits", "mnist", "fashion-mnist", "idx", "synthetic"}
    assert set(host.probes) >= {"nvml", "host"}
    assert host.broken == {}


def test_every_built_in_strategy_is_one_file_that_names_its_source():
    host = load_host()
    files = {host.origins["strategy", name] for name in host.strategies}
    assert len(files) == len(host.strategies)
    assert {str(path.resolve()) for path in bundled("plugins").glob("*.py")} == files
    for name, strategy in host.strategies.items():
        assert "Source:" in Path(host.origins["strategy", name]).read_text(encoding="utf-8"), name
        assert strategy.also_known_as, name


def test_a_file_named_by_its_path_is_loaded(plugin):
    path = plugin(GOOD)
    host = load_host([path])
    assert host.strategies["mine"].__doc__ == "One of a stranger's own."
    assert host.origins["strategy", "mine"] == str(path)


def test_a_folder_gives_all_its_files_but_private_ones(plugin, tmp_path):
    plugin(GOOD)
    plugin(GOOD.replace("mine", "other"), "other.py")
    plugin("raise RuntimeError('not to be loaded')", "_helper.py")
    plugin("not python", "readme.txt")
    host = load_host([tmp_path])
    assert set(host.strategies) >= {"mine", "other"}
    assert host.broken == {}


def test_a_path_given_twice_is_loaded_once(plugin, tmp_path):
    host = load_host([plugin(GOOD), tmp_path, str(tmp_path / ".." / tmp_path.name / "mine.py")])
    assert "mine" in host.strategies
    assert host.broken == {}


def test_a_path_that_is_not_there_is_fatal_since_it_was_named(tmp_path):
    with pytest.raises(InputError, match="neither a file nor a folder; give the path"):
        load_host([tmp_path / "nothing.py"])


def test_entry_points_are_loaded_and_a_broken_one_is_listed(monkeypatch):
    module = ModuleType("a_package")
    exec(GOOD, module.__dict__)
    good = SimpleNamespace(name="a-package", value="a_package", load=lambda: module)
    own = list(metadata.entry_points(group="harness"))

    lost = metadata.EntryPoint("lost", "a_module_that_is_gone", "harness")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [*own, good, lost])
    host = load_host()
    assert host.origins["strategy", "mine"] == "a-package"
    name, reason = only_broken(host)
    assert name == "lost"
    assert "ModuleNotFoundError: No module named 'a_module_that_is_gone'" in reason


def test_an_entry_point_of_a_module_that_is_registered_already_is_named_and_nothing_else(monkeypatch):
    module = ModuleType("a_package")
    exec(GOOD, module.__dict__)
    first, again = (SimpleNamespace(name=name, value="a_package", load=lambda: module) for name in ("first", "second"))
    own = list(metadata.entry_points(group="harness"))
    monkeypatch.setattr(metadata, "entry_points", lambda group: [*own, first, again])
    assert only_broken(load_host()) == (
        "second",
        "second: this module is registered already, as first; register it once",
    )


def test_the_name_that_a_broken_plugin_should_bring_is_answered_with_what_broke_it(plugin):
    path = plugin(GOOD.replace("):", ")", 1), "other.py")
    with pytest.raises(InputError, match=r"mine: the plugin is broken: .*SyntaxError"):
        describe_entry(load_host([path]), "mine")


def test_an_installed_distribution_is_found_by_its_metadata(tmp_path):
    (tmp_path / "strange_package.py").write_text(GOOD)
    info = tmp_path / "strange_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[harness]\nstrange = strange_package\n")
    code = "from harness.api.host import load_host; h = load_host(); print(h.origins['strategy', 'mine'], h.broken)"
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{tmp_path / 'strange_package.py'} {{}}"


def test_workloads_and_telemetry_register_through_the_same_hooks(monkeypatch):
    import harness.engines.telemetry
    import harness.workloads

    for module, hooks in ((harness.workloads, ("models", "datasets")), (harness.engines.telemetry, ("probes",))):
        for hook in hooks:
            assert hasattr(getattr(module, f"harness_{hook}"), "harness_impl")
            monkeypatch.delattr(getattr(module, f"harness_{hook}"), "harness_impl")
    monkeypatch.setattr("harness.api.host._loaded", None)  # what was loaded before has them
    host = load_host()
    assert (host.models, host.datasets, host.probes) == ({}, {}, {})
    assert set(host.strategies) >= BUILT_IN


def test_models_datasets_probes_listeners_trackers_and_sections_come_through_hooks(plugin):
    path = plugin(
        "from types import SimpleNamespace\n"
        "from harness import Listener, hookimpl\n"
        + "".join(
            f"@hookimpl\ndef harness_{kind}():\n    return [{answer}]\n"
            for kind, answer in {
                "models": "SimpleNamespace(name='my-model')",
                "datasets": "SimpleNamespace(name='my-data')",
                "probes": "SimpleNamespace(name='my-probe')",
                "listeners": "Listener()",
                "trackers": "SimpleNamespace(name='my-tracker')",
                "report_sections": "lambda frame: ('title', 'html')",
            }.items()
        )
    )
    host = load_host([path])
    assert host.broken == {}
    assert "my-model" in host.models
    assert "my-data" in host.datasets
    assert "my-probe" in host.probes
    assert "my-tracker" in host.trackers
    assert host.origins["model", "my-model"] == host.origins["probe", "my-probe"] == str(path)
    assert (len(host.listeners), len(host.report_sections)) == (1, 1)


# -- broken plugins ----------------------------------------------------------------------------------------------------


def test_a_syntax_error_is_listed_with_its_line(plugin):
    path = plugin("x = 1\ndef broken(:\n")
    name, reason = only_broken(load_host([path]))
    assert name == str(path)
    assert reason.startswith(f"{path}:2: SyntaxError: ")


def test_an_exception_at_import_is_listed_with_its_line(plugin):
    path = plugin("x = 1\n\nx / 0\n")
    _, reason = only_broken(load_host([path]))
    assert reason == f"{path}:3: ZeroDivisionError: division by zero\n    x / 0"


def test_an_exception_in_a_hook_is_listed_with_its_line(plugin):
    path = plugin("from harness import hookimpl\n\n@hookimpl\ndef harness_strategies():\n    return [missing]\n")
    _, reason = only_broken(load_host([path]))
    assert reason.startswith(f"{path}:5: NameError: ")


def test_a_file_that_is_not_text_is_listed(plugin, tmp_path):
    path = tmp_path / "binary.py"
    path.write_bytes(b"\xff\xfe\x00")
    assert only_broken(load_host([path]))[0] == str(path)


def test_a_misspelt_hook_is_listed_with_the_hooks_there_are(plugin):
    path = plugin(GOOD.replace("harness_strategies", "harness_strategy"))
    host = load_host([path])
    _, reason = only_broken(host)
    assert "harness_strategy" in reason
    assert reason.endswith(
        "hooks are called harness_clusters, harness_datasets, harness_devices, harness_links, harness_listeners, "
        "harness_models, harness_probes, harness_report_sections, harness_strategies, harness_trackers"
    )
    assert "mine" not in host.strategies


def test_a_misspelt_hook_does_not_spoil_the_plugins_after_it(plugin):
    wrong = plugin(GOOD.replace("harness_strategies", "harness_strategy"), "a_wrong.py")
    host = load_host([wrong, plugin(GOOD)])
    assert "mine" in host.strategies
    assert list(host.broken) == [str(wrong)]


def test_two_strategies_of_one_name_name_both_files(plugin):
    first, second = plugin(GOOD), plugin(GOOD, "second.py")
    host = load_host([first, second])
    assert host.origins["strategy", "mine"] == str(first)
    assert host.broken == {str(second): f"{second}: a strategy called mine exists already, in {first}"}


def test_a_strategy_may_not_take_a_built_in_name(plugin):
    _, reason = only_broken(load_host([plugin(GOOD.replace('"mine"', '"single"'))]))
    assert "a strategy called single exists already, in " in reason


@pytest.mark.parametrize("method", ["work", "serve"])
def test_a_program_that_is_not_async_is_refused(plugin, method):
    program = f"\n\n    def {method}(self, worker):\n        return 1\n"
    path = plugin(GOOD.replace('    name = "mine"', f'    name = "mine"{program}'))
    assert only_broken(load_host([path]))[1] == f"{path}: Mine.{method} must be an async function"


@pytest.mark.parametrize("name", ['"with space"', '""', "3", '"a/b"'])
def test_a_strategy_whose_name_is_no_word_is_refused(plugin, name):
    _, reason = only_broken(load_host([plugin(GOOD.replace('"mine"', name))]))
    assert "Mine.name must be a word of letters, digits and -" in reason


def test_what_is_no_strategy_is_refused_in_words(plugin):
    path = plugin(GOOD.replace("[Mine]", "[Mine()]"))
    _, reason = only_broken(load_host([path]))
    assert reason.startswith(f"{path}: ")
    assert "must return subclasses of Strategy, not <" in reason


# -- imports that exist on one clock only ------------------------------------------------------------------------------

FORBIDDEN = {
    "import asyncio": "await the methods of Worker",
    "import asyncio.tasks as t": "await the methods of Worker",
    "from threading import Thread": "call a method of Worker without await",
    "import concurrent.futures": "call a method of Worker without await",
    "import multiprocessing": "ask for servers with Strategy.servers",
    "from datetime import datetime": "decide by batches and messages",
    "import subprocess": "ask for servers with Strategy.servers",
    "import socket": "worker.send and worker.receive",
    "import time": "worker.compute(function)",
    "from time import sleep": "worker.compute(function)",
    "import random": "worker.random(name)",
    "import torch": "import it inside the function",
    "import torch.nn.functional as F": "import it inside the function",
    "from torch import distributed": "worker.mean exchanges values",
    "import torch.distributed as dist": "worker.mean exchanges values",
    "import torch.multiprocessing": "ask for servers with Strategy.servers",
    "from torch import cuda": "worker.compute(function)",
    "from torch import manual_seed, rand": "worker.random(name)",
    "from torch import rand": "worker.random(name)",
    "from torch import randn": "worker.random(name)",
    "from torch import randint": "worker.random(name)",
    "from torch import randperm": "worker.random(name)",
    "import torch.random": "worker.random(name)",
    "import numpy.random": "worker.random(name)",
    "from numpy import random": "worker.random(name)",
    "from numpy.random import default_rng": "worker.random(name)",
}


@pytest.mark.parametrize("line", FORBIDDEN)
def test_a_forbidden_import_is_refused_with_the_word_to_use(plugin, line):
    path = plugin(f'"""A plugin."""\n\n{line}\n{GOOD}')
    _, reason = only_broken(load_host([path]))
    assert reason.startswith(f"{path}:3: a strategy must not import ")
    assert FORBIDDEN[line] in reason.partition("; instead: ")[2]


def test_every_forbidden_module_has_an_example_here():
    written = " ".join(FORBIDDEN)
    assert all(module.rpartition(".")[0] in written and module.rpartition(".")[2] in written for module in INSTEAD)


def test_a_forbidden_import_inside_a_function_is_found_too(plugin):
    path = plugin(GOOD.replace("    return [Mine]", "    import time\n    return [Mine]"))
    assert f"{path}:13: a strategy must not import time" in only_broken(load_host([path]))[1]


def inside(line: str, body: str = "pass") -> str:
    return f"\n\ndef arithmetic(tensor):\n    {line}\n    {body}\n{GOOD}"


@pytest.mark.parametrize("line", ["import torch", "from torch import Tensor", "import torch.nn.functional as F"])
def test_torch_is_imported_inside_the_functions_that_compute_with_it(plugin, line):
    assert load_host([plugin(inside(line))]).broken == {}


@pytest.mark.parametrize("body", ["torch.distributed.barrier()", "x = torch.randn(3)", "torch.cuda.synchronize()"])
def test_what_exists_on_one_clock_only_is_not_reached_through_torch(plugin, body):
    path = plugin(inside("import torch", body))
    name = body.replace("x = ", "").split("(")[0]
    reason = only_broken(load_host([path]))[1]
    assert reason.startswith(f"{path}:5: a strategy must not import {'.'.join(name.split('.')[:2])}; instead: ")


@pytest.mark.parametrize("line", ["from torch import Tensor", "import torch"])
def test_an_import_for_types_only_is_allowed(plugin, line):
    block = f"\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    {line}\n\n\nclass"
    text = GOOD.replace("\n\n\nclass", block, 1)
    host = load_host([plugin(text)])
    assert host.broken == {}
    assert "mine" in host.strategies


@pytest.mark.parametrize("line", ["import math", "import numpy as np", "import timeit", "import statistics"])
def test_other_imports_are_the_plugins_own_business(plugin, line):
    assert load_host([plugin(f"{line}\n{GOOD}")]).broken == {}


def test_a_file_without_strategies_may_import_what_it_likes(plugin):
    listener = "import time\nfrom harness import hookimpl\n@hookimpl\ndef harness_listeners():\n    return []\n"
    assert load_host([plugin(listener)]).broken == {}


# -- broken is fatal only if named -------------------------------------------------------------------------------------


def test_a_broken_plugin_stops_only_a_scenario_that_names_it(plugin, tmp_path):
    path = str(plugin("import asyncio\n" + GOOD))
    assert plan(tmp_path, '"single"', "--plugins", path).exit_code == 0
    named = plan(tmp_path, '["single", "mine"]', "--plugins", path)
    assert named.exit_code == 1
    assert f"{path}:1: a strategy must not import asyncio" in named.output
    assert "Traceback" not in named.output


def test_host_names_the_reason_where_a_broken_strategy_is_asked_for(plugin):
    path = plugin("x / 0", "my_broken.py")
    with pytest.raises(PluginError, match="NameError"):
        load_host([path]).strategy("my-broken")


def test_plugins_lists_what_is_broken_and_goes_on(plugin):
    path = plugin("x = \n")
    text = list_entries(load_host([path]))
    assert "single" in text
    assert f"broken:\n  {path}:1: SyntaxError" in text
    with pytest.raises(InputError, match=r"is broken: .*SyntaxError"):
        describe_entry(load_host([path]), "mine")


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *(("dp", "sync-ddp"), ("DP", "sync-ddp"), ("all_reduce", "sync-ddp"), ("gpipe", "model-split")),
        *(("downpour", "async-ps"), ("baseline", "single"), ("sync-dpp", "sync-ddp"), ("fedavg", "local-sgd")),
    ],
)
def test_synonyms_and_near_misses_are_suggested(tmp_path, written, meant):
    assert load_host().suggest(written) == f"; did you mean {meant}?"
    with pytest.raises(PluginError, match=f"did you mean {meant}"):
        load_host().strategy(written)
    refused = plan(tmp_path, f'"{written}"')
    assert refused.exit_code == 2
    assert f"did you mean {meant}?" in refused.output


def test_a_plugins_own_synonyms_are_suggested_too(plugin):
    assert load_host([plugin(GOOD)]).suggest("my-own") == "; did you mean mine?"


def test_a_name_like_nothing_gets_no_suggestion():
    assert load_host().suggest("zzzzzzzz") == ""


def test_a_strategy_is_known_by_the_code_of_its_file(plugin):
    before = load_host([plugin(GOOD)]).strategy_hash("mine")
    assert load_host([plugin(GOOD + "\n# a remark\n")]).strategy_hash("mine") == before
    assert load_host([plugin(GOOD + "\nEDITED = True\n")]).strategy_hash("mine") != before
    assert load_host().strategy_hash("no-such-strategy") == ""


# -- plugins/ is ours and nothing special ------------------------------------------------------------------------------


@pytest.mark.parametrize("deleted", ["sync_ddp", "model_split"])
def test_deleting_a_file_of_plugins_breaks_only_scenarios_that_name_it(tmp_path, monkeypatch, deleted):
    copy = tmp_path / "plugins"
    shutil.copytree(bundled("plugins"), copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / f"{deleted}.py").unlink()
    monkeypatch.setattr(harness.api.host, "bundled", lambda kind: copy if kind == "plugins" else bundled(kind))
    name = deleted.replace("_", "-")
    host = load_host()
    assert set(host.strategies) >= BUILT_IN - {name}
    assert name not in host.strategies
    assert host.broken == {}
    others = ", ".join(f'"{other}"' for other in sorted(BUILT_IN - {name, "model-split"}))
    assert plan(tmp_path, f"[{others}]").exit_code == 0
    refused = plan(tmp_path, f'["single", "{name}"]')
    assert refused.exit_code == 2
    assert name in refused.output


def test_what_is_built_in_is_executed_once_and_lent_to_nobody(plugin):
    first = load_host()
    first.strategies.clear()
    first.broken["x"] = "y"
    mine = load_host([plugin(GOOD)])
    again = load_host()
    assert set(again.strategies) >= BUILT_IN
    assert again.broken == {}
    assert set(mine.strategies) - set(again.strategies) == {"mine"}
    assert mine.strategies["single"] is again.strategies["single"]
