"""Every text that a user reads, figures masked, against tests/golden/: a change of words is visible in review.

`pytest tests/test_golden.py --update-golden` writes the files as the texts read now.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from golden_texts import (
    GOLDEN,
    first_screen,
    hold,
    main,
    mask_figures,
    mask_machine,
    mask_places,
    mask_predictions,
    typed,
)
from stub_driver import environment

from harness.commands.node_links_text import Rated, describe_nodes
from harness.costs.profiles import ExchangeTimes, InterfaceFacts, NodeLinks

Hold = Callable[[str, str], None]

# The clock of a given device is exact and so is fp64: the same words on every machine.
TINY = """\
description = "Three strategies on a small virtual cluster."
engine = "virtual"

[workload]
model = "softmax"
dataset = "digits"
precision = "fp64"

[sweep]
strategy = ["single", "sync-ddp", "async-ps"]
gpus = [1, 2]
global_batch_size = 32
learning_rate = [0.1, 0.2]
seeds = 2
exclude = [{ strategy = "async-ps", gpus = 1 }]

[goal]
target_accuracy = 0.9
max_epochs = 4

[cluster]
device = { step_time = "10 ms", batch_size = 32 }
inter_node = { bandwidth = "1 GB/s", latency = "50 us" }
"""

STRATEGY = """\
from harness import Strategy, hookimpl

ROUNDS = 1


class Mine(Strategy):
    name = "mine"

    async def work(self, worker):
        other = 1 - worker.rank
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            for _ in range(ROUNDS):
                await worker.send(worker.weights, to=other)
                await worker.load((await worker.receive(other)).value)


@hookimpl
def harness_strategies():
    return [Mine]
"""
TALKATIVE = 61  # odd as one is: the same weights end up on both sides, so it trains the same
APPLY = "await worker.apply(await worker.gradient(batch))"

MODEL = """\
from torch import nn


def build(classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def build_number(classes):
    return 3
"""

DATA = """\
import numpy as np


def three():
    return np.zeros((64, 8, 8)), np.zeros(64), np.zeros((16, 8, 8))
"""


# A step's slip in the middle of the training, and no more than a dictionary to make it.
CRASH = f"""\
{APPLY}
            if batch.step == 2:
                {{"momentum": True}}["momentun"]"""

NO_LINK = """\
engine = "virtual"
[sweep]
strategy = "sync-ddp"
gpus = 4
[cluster]
device = { step_time = "10 ms", batch_size = 32 }
gpus_per_node = 2
"""

PRINTED = """\
# nccl-tests version 2.18.3 nccl-headers=23003 nccl-library=23003
# Collective test starting: {name}_perf
# nThread 1 nGpus 1 minBytes 1048576 maxBytes 67108864 step: 8(factor) warmup iters: 1 iters: 20 agg iters: 1 unalign: 0
#  Rank  0 Group  0 Pid  12812 on  node-a device  0 [0000:06:00] NVIDIA A100-SXM4-80GB
#  Rank  1 Group  0 Pid  31201 on  node-b device  0 [0000:06:00] NVIDIA A100-SXM4-80GB
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)
     1048576        262144     float     sum      -1  1110.00    0.94    0.94       0  1110.00    0.94    0.94       0
     8388608       2097152     float     sum      -1  8750.00    0.96    0.96       0  8740.00    0.96    0.96       0
    67108864      16777216     float     sum      -1  69200.0    0.97    0.97       0  69100.0    0.97    0.97       0
"""

FILES = {
    "sendrecv.txt": PRINTED.format(name="sendrecv"),
    "all_reduce.txt": PRINTED.format(name="all_reduce"),
    "unnamed.txt": PRINTED.replace("# Collective test starting: {name}_perf\n", ""),
    "tiny.toml": TINY,
    "unknown-key.toml": TINY.replace("learning_rate =", "learning_rte ="),
    "list-for-one.toml": TINY.replace("max_epochs = 4", "max_epochs = [2, 4]"),
    "percent.toml": TINY.replace("= 0.9", "= 97"),
    "misspelt.toml": TINY.replace('"digits"', '"digts"'),
    "many.toml": TINY.replace("seeds = 2", "seeds = -1").replace('"softmax"', '"softmx"').replace("= 4", '= "soon"'),
    "broken.toml": TINY.replace("gpus = [1, 2]", "gpus = [1, 2"),
    "no-link.toml": NO_LINK,
    "mine.py": STRATEGY,
    "syntax.py": STRATEGY.replace("class Mine(Strategy):", "class Mine(Strategy)"),
    "threads.py": "import threading\n" + STRATEGY,
    "crash.py": STRATEGY.replace(APPLY, CRASH),
    "no_await.py": STRATEGY.replace(APPLY, "await worker.apply(worker.gradient(batch))"),
    "deadlock.py": STRATEGY.replace(APPLY, "await worker.receive(other)"),
    "train.py": MODEL,
    "data.py": DATA,
}


# -- a place to type in ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Work in a folder with every file that a command needs, as on a machine of two cores without GPUs."""
    folder = tmp_path_factory.mktemp("golden")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "80")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("HARNESS_CACHE", str(folder / "cache"))
        patch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
        yield folder


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Hold:
    """Return what holds a text against its file."""
    update = request.config.getoption("--update-golden")
    return lambda name, text: hold(name, text, update)


# -- what measures nothing ---------------------------------------------------------------------------------------------


def commands(group: click.Group, *before: str) -> Iterator[tuple[str, ...]]:
    """Yield a group and everything below it, each as it is typed."""
    yield before
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)
        else:
            yield (*before, name)


HELP = {"-".join(["help", *words]): words for words in commands(main)}


@pytest.mark.parametrize("name", HELP)
def test_help(name, golden):
    golden(name, mask_places(typed(*HELP[name], "--help")))


PLANS = {f"plan-{name}": name for name in ("lenet", "four-gpus", "ticket", "classroom")}


@pytest.mark.parametrize("name", PLANS)
def test_plan(name, golden):
    golden(name, mask_predictions(typed("plan", PLANS[name])))


TELLING = {
    "version": ("--version",),
    "run-lists-scenarios": ("run",),
    "plugins": ("plugins",),
    "plugins-sync-ddp": ("plugins", "sync-ddp"),
    "plugins-device": ("plugins", "h100"),
    "schema-text": ("schema", "--text"),
    "new-scenario": ("new", "scenario", "own", "--model", "train.py:build"),
    "new-strategy": ("new", "strategy", "pass-right"),
    "calibrate-show": ("calibrate", "--show"),
    "calibrate-import": (
        *("calibrate", "--import", "sendrecv.txt", "--import", "all_reduce.txt", "--inter-node", "ethernet-25g"),
    ),
}


@pytest.mark.parametrize("name", TELLING)
def test_what_is_told_without_running(name, golden):
    golden(name, mask_places(typed(*TELLING[name])))


def test_links_over_machines(golden):
    rates = {"send": (40e-6, 0.97e9), "all-reduce": (120e-6, 0.8e9), "all-gather": (80e-6, 1.6e9)}
    rates |= {"reduce-scatter": (90e-6, 1.5e9), "all-to-all": (85e-6, 1.7e9)}
    sizes = [4.0**k * 2**10 for k in range(9)]
    exchanges = [
        ExchangeTimes(name, 2, nodes, tuple((size, delay + size / rate / each) for size in sizes), hosts)
        for nodes, hosts, each in ((1, ("gpu-a",), 8.0), (2, ("gpu-a", "gpu-b"), 1.0))
        for name, (delay, rate) in rates.items()
    ]
    own = InterfaceFacts("gpu-a", "eth0", 1500, 10e9 / 8, "ice", {"tso": True, "gro": False}, {"eth1": 25e9 / 8})
    other = replace(own, host="gpu-b", offloads={"tso": True, "gro": True})
    links = NodeLinks("cpu", "gloo", 2, tuple(exchanges), (own, other), 0.0)
    between, inside = Rated(25e9 / 8, 0.94, "ethernet-25g"), Rated(8e9, 0.8, "given")
    golden("calibrate-nodes", describe_nodes(links, "measured 2 h ago", inside, between) + "\n")


def test_plugins_that_are_broken(golden):
    listed, _, broken = mask_places(typed("plugins", "--plugins", "syntax.py", "--plugins", "threads.py")).partition(
        "broken:\n"
    )
    golden("plugins-broken", f"{listed.splitlines()[0]}\n[...]\nbroken:\n{broken}")


def test_doctor(golden):
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        golden("doctor", mask_machine(typed("doctor")))
    else:
        pytest.skip("the text is that of a machine without an NVIDIA driver")


# One process looks at all of them: the stub reads its variables at every call.
GPU_MACHINES = {
    "well": {"NVML_STUB_PIDS": "4000000,4000001"},
    "with much to mend": {"NVML_STUB_WORN": "1", "NVML_STUB_MIXED": "1", "CUDA_VISIBLE_DEVICES": "1,0"},
    "split into instances": {"NVML_STUB_MIG": "1"},
    "of several users, one GPU lost": {"NVML_STUB_FORBIDDEN": "processes,ecc,gpm,powerlimit", "NVML_STUB_LOST": "1:1"},
    "with a GPU of somebody else": {"NVML_STUB_FORBIDDEN": "handle1", "CUDA_VISIBLE_DEVICES": "GPU-bbbb"},
    "with an old driver": {"NVML_STUB_OLD": "1", "NVML_STUB_UNSUPPORTED": "nvlink,ecc,appclock"},
}
LOOK_AT_MACHINES = """
import json, os, sys
from harness.commands.cli import main
for machine, variables in json.loads(sys.argv[1]).items():
    print(f"-- a machine {machine}", flush=True)
    os.environ.update(variables)
    main(["doctor"], standalone_mode=False)
    for name in variables:
        del os.environ[name]
"""


def test_doctor_of_machines_with_gpus(driver, golden):
    """What is told of GPUs, figures and all: they are the stub's."""
    command = [sys.executable, "-W", "error", "-c", LOOK_AT_MACHINES, json.dumps(GPU_MACHINES)]
    done = subprocess.run(command, env=environment(driver), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    of_this_machine = ("processor", "cores", "memory", "torch", "load", "busiest", "numpy", "simpy", "nvidia-nccl")
    kept = [line for line in done.stdout.splitlines() if not line.startswith(of_this_machine)]
    golden("doctor-gpus", re.sub(r"may use \d+", "may use #", "\n".join(kept)) + "\n")


# -- what is refused ---------------------------------------------------------------------------------------------------

ONE = ("--set", "gpus=1", "--set", "seeds=1", "--set", "learning_rate=0.1")
TWO = ("--set", "gpus=2", *ONE[2:])
SINGLE = ("--set", "strategy=single", *ONE)
MINE = ("--set", "strategy=mine", *TWO)

REFUSED = {
    "unknown-key": ("run", "unknown-key.toml"),
    "misspelt-value": ("run", "misspelt.toml"),
    "accuracy-in-percent": ("run", "percent.toml"),
    "list-for-one-value": ("run", "list-for-one.toml"),
    "several-mistakes": ("run", "many.toml"),
    "broken-toml": ("run", "broken.toml"),
    "batch-does-not-divide": ("run", "tiny.toml", "--set", "global_batch_size=33", "--set", "strategy=sync-ddp", *TWO),
    "missing-file": ("run", "nowhere.toml"),
    "unknown-scenario": ("run", "lennet"),
    "missing-plugin": ("run", "tiny.toml", "--plugins", "nowhere.py"),
    "broken-plugin": ("run", "tiny.toml", "--plugins", "syntax.py", *MINE),
    "unknown-strategy": ("run", "tiny.toml", "--set", "strategy=sync-dpp"),
    "missing-link": ("plan", "no-link.toml"),
    "unnamed-table": ("calibrate", "--import", "unnamed.txt"),
    "unknown-device": ("run", "tiny.toml", "--set", "cluster.device=h20"),
    "unknown-key-set": ("run", "tiny.toml", "--set", "learning_rte=0.1"),
    "set-without-value": ("run", "tiny.toml", "--set", "gpus"),
    "only-fits-nothing": ("run", "tiny.toml", "--only", "gpus=9"),
    "unknown-option": ("run", "tiny.toml", "--resluts", "mine"),
    "missing-model-function": ("run", "tiny.toml", "--set", "model=train.py:biuld", *SINGLE),
    "unknown-results": ("show", "nothing", "--results", "empty"),
    "show-of-three": ("show", "one", "two", "three"),
    "report-of-nothing": ("report", "nothing"),
    "min-effect-without-base": ("report", "nothing", "--min-effect", "0.1"),
    "check-unknown-strategy": ("check", "sync-dpp"),
    "check-unknown-line": ("check", "single", "--line", "stable"),
    "check-broken-plugin": ("check", "threads.py"),
    "validate-a-scenario": ("validate", "tiny.toml"),
    "name-of-a-strategy-taken": ("new", "strategy", "single"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name, golden):
    golden(f"error-{name}", mask_places(typed(*REFUSED[name])))


# -- what fails as it runs ---------------------------------------------------------------------------------------------


def failing(folder: str, *words: str) -> tuple[str, ...]:
    """Return the command that runs a cell into a folder of its own."""
    return ("run", "tiny.toml", "--results", f"of-{folder}", *words)


FAILING = {
    "strategy-imports-threading": failing("threads", "--plugins", "threads.py", *MINE),
    "strategy-crashes": failing("crash", "--plugins", "crash.py", *MINE),
    "strategy-forgets-await": failing("await", "--plugins", "no_await.py", *MINE),
    "strategy-deadlocks": failing("deadlock", "--plugins", "deadlock.py", *MINE),
    "model-is-no-module": failing("module", "--set", "model=train.py:build_number", *SINGLE),
    "data-of-three": failing("data", "--set", "dataset=data.py:three", *SINGLE),
    "out-of-memory": failing("memory", "--set", "limits.dram=4 kB", *SINGLE),
    "budget-is-over": failing("budget", "--budget", "1 us", *SINGLE),
}


@pytest.mark.parametrize("name", FAILING)
def test_failure(name, golden):
    golden(f"error-{name}", mask_figures(typed(*FAILING[name])))


def test_debug_of_a_strategy_that_crashes(golden):
    golden("error-strategy-crashes-in-debug", mask_figures(typed(*FAILING["strategy-crashes"], "--debug")))


def test_show_of_a_cell_that_crashed(golden):
    typed(*FAILING["strategy-crashes"])
    cell = next(Path("of-crash/tiny/cells").glob("mine-*")).name
    told, log, _ = mask_figures(typed("show", cell, "--results", "of-crash")).partition("  log (last")
    golden("show-crashed-cell", f"{told}{log} [...]\n")  # frames of ours follow


@pytest.mark.dist
def test_failure_in_real_processes(golden):
    command = failing("real", "--plugins", "crash.py", "--set", "engine=real", *MINE)
    golden("error-strategy-crashes-for-real", mask_figures(typed(*command)))


# -- a sweep, and what is said of it -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(place: Path) -> str:
    """Run the sweep once and return what was said."""
    return typed("run", "tiny.toml", "--executor", "local:1")  # beside each other cells end in any order


def cell_of(start: str) -> str:
    """Return the id of the only cell that starts so."""
    (folder,) = Path("results/tiny/cells").glob(f"{start}-*")
    return folder.name


def test_run(swept, golden):
    golden("run", mask_figures(swept))


def test_status_of_what_is_complete_and_of_what_is_not_there(swept, golden):
    Path("empty").mkdir(exist_ok=True)
    texts = (typed("status", "tiny"), typed("status", "empty"), typed("status", "nothing"))
    golden("status-complete", mask_figures("\n".join(texts)))


AT_WORK = {
    "host": "node7",
    "machine": "node7",
    "process": 4711,
    "since": "2026-11-30T22:04:05+00:00",
    "joins": True,
}


@pytest.mark.parametrize("live", [True, False], ids=["running", "dead"])
def test_status_of_a_run(live, swept, golden):
    """Half of the cells are there, and one runs on another machine, which has died or not."""
    results = Path("results/tiny")
    folder = Path(f"status-{live}") / "tiny"
    shutil.copytree(results, folder)
    done = sorted((folder / "cells").iterdir())
    for cell in done[1::2]:
        shutil.rmtree(cell)
    where = {"where": {"host": "node7", "process": 4712}, "step": 30}
    for name, facts in (("harnesses/node7-4711-0a", AT_WORK), (f"cells/{done[1].name}.1", AT_WORK | where)):
        path = folder / "leases" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts))
        if not live:
            os.utime(path, (1e9, 1e9))
    text = mask_figures(typed("status", str(folder)))
    golden(f"status-{'running' if live else 'dead'}", re.sub(r"about \S+ \w+", "about # s", text))


def test_run_again(swept, golden):
    golden("run-again", mask_figures(typed("run", "tiny.toml")))


SHOWN = {
    "show": ("tiny",),
    "show-markdown": ("tiny", "--markdown"),
    "show-near-name": ("tinny",),
}


@pytest.mark.parametrize("name", SHOWN)
def test_show(name, swept, golden):
    golden(name, mask_figures(typed("show", *SHOWN[name])))


def test_show_of_a_cell(swept, golden):
    golden("show-cell", mask_figures(typed("show", cell_of("async-ps-b32-lr0.1-g2-s0"))))


def test_show_of_two_cells(swept, golden):
    cells = cell_of("async-ps-b32-lr0.1-g2-s0"), cell_of("sync-ddp-b32-lr0.1-g2-s0")
    golden("show-two-cells", mask_figures(typed("show", *cells)))


def test_show_of_a_cell_that_there_is_not(swept, golden):
    golden("error-unknown-cell", mask_places(typed("show", "single-b32-lr0.1-g1-s7-00000000")))


def test_first_screen_of_a_report(swept, golden):
    golden("report-first-screen", mask_figures(first_screen(Path("results/tiny/report.html"))))


# -- a night and the next ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nights(place: Path) -> None:
    """Run a strategy three times into folders of their own; before the last it begins to talk too much."""
    words = ("--plugins", "mine.py", *MINE)
    for folder, rounds in (("base", 1), ("same", 1), ("worse", TALKATIVE)):
        Path("mine.py").write_text(STRATEGY.replace("ROUNDS = 1", f"ROUNDS = {rounds}"), encoding="utf-8")
        typed("run", "tiny.toml", "--results", f"nights/{folder}", *words)


COMPARED = {
    "compare-same": ("nights/base", "nights/same"),
    "compare-worse": ("nights/base", "nights/worse"),
    "compare-better": ("nights/worse", "nights/base"),
    "compare-markdown": ("nights/base", "nights/worse", "--markdown"),
    "compare-with-itself": ("nights/base", "nights/base"),
    "error-compare-without-base": ("nights/none", "nights/same"),
    "error-compare-without-new": ("nights/base", "nights/none"),
}


@pytest.mark.parametrize("name", COMPARED)
def test_compare(name, nights, golden):
    golden(name, mask_figures(typed("compare", *COMPARED[name])))


def test_report_of_a_comparison(nights, golden):
    told = typed("report", "nights/worse", "--base", "nights/base", "--out", "against.html")
    golden("report-against-base", mask_figures(told + first_screen(Path("against.html"))))


# -- all of them -------------------------------------------------------------------------------------------------------


def test_every_file_is_a_text_that_is_held():
    single = (
        "doctor",
        "doctor-gpus",
        "plugins-broken",
        "run",
        "run-again",
        "show-cell",
        "show-two-cells",
        "report-first-screen",
    )
    single += ("report-against-base", "error-unknown-cell", "show-crashed-cell", "calibrate-nodes")
    single += ("status-complete", "status-running", "status-dead")
    single += ("error-strategy-crashes-in-debug", "error-strategy-crashes-for-real")
    errors = {f"error-{name}" for name in (*REFUSED, *FAILING)}
    held = {*single, *errors, *HELP, *PLANS, *TELLING, *SHOWN, *COMPARED}
    assert {path.stem for path in GOLDEN.glob("*")} == held
