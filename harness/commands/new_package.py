"""Write an installable package around a plugin: what `harness new KIND NAME --package` leaves in a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from harness.core.errors import InputError
from harness.scenario.bundled import STRATEGY

Kind = Literal["strategy", "workload", "probe"]

PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "harness-{name}"
version = "0.1.0"
description = "{purpose}"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["parallelism-harness"]

[project.optional-dependencies]
test = ["pytest>=8"]

# How the harness finds the plugin. The name on the left is what `harness plugins` calls it where it is broken.
[project.entry-points.harness]
{name} = "{module}"

[tool.hatch.build.targets.wheel]
packages = ["src/{module}"]

[tool.pytest.ini_options]
testpaths = ["tests"]
"""

WORKFLOW = """\
name: check
on: [push, pull_request]
jobs:
  check:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install ".[test]"
      - run: pytest
"""

README = """\
# harness-{name}

{purpose}

```sh
pip install .
harness plugins {name}
{shown}
```

`harness plugins` says why, where it refuses the plugin.

## Test

```sh
pip install ".[test]"
pytest
```

{tested}
"""

STRATEGY_TEST = '''\
"""The strategy keeps what every strategy promises: `harness check` says line by line what that is."""

import subprocess
import sys


def test_the_strategy_passes_the_check():
    command = [sys.executable, "-m", "harness", "check", "{name}", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
'''

WORKLOAD = '''\
"""{name}: a model and the data that it is trained on."""

from __future__ import annotations

import hashlib

from pydantic import Field

from harness import Dataset, DatasetSize, DataShape, Model, Options, RawData, hookimpl

SIDE, CLASSES = 8, 10


class ModelOptions(Options):
    """What a scenario may set: workload.model = {{ name = "{name}", hidden = 64 }}."""

    hidden: int = Field(32, ge=1, description="units of the hidden layer")


class DataOptions(Options):
    """What a scenario may set: workload.dataset = {{ name = "{name}", samples = 500 }}."""

    samples: int = Field(1000, ge=100, description="samples to train on")
    noise: float = Field(1.0, ge=0, description="standard deviation of each pixel")


def build(options: ModelOptions, shape: DataShape):
    """Return the network."""
    from torch import nn  # imported when the model is built: `harness plan` needs no torch

    pixels = shape.channels * shape.height * shape.width
    return nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, options.hidden), nn.ReLU(), nn.Linear(options.hidden, shape.classes)
    )


def size(options: DataOptions) -> DatasetSize:
    """Say how much there is without loading it."""
    return DatasetSize(options.samples, options.samples // 4, DataShape(1, SIDE, SIDE, CLASSES))


def load(options: DataOptions) -> RawData:
    """Draw a picture for each class, then samples of them with noise: the same ones every time."""
    import numpy as np

    stream = np.random.default_rng(0)
    pictures = stream.standard_normal((CLASSES, SIDE, SIDE))

    def draw(count: int):
        targets = stream.integers(CLASSES, size=count)
        noise = options.noise * stream.standard_normal((count, SIDE, SIDE))
        return (pictures[targets] + noise).astype("float32"), targets

    (train, train_targets), (test, test_targets) = draw(options.samples), draw(options.samples // 4)
    content = hashlib.sha256(train.tobytes() + test.tobytes()).hexdigest()
    return RawData(train, train_targets, test, test_targets, CLASSES, 1.0, content)


@hookimpl
def harness_models():
    summary, source = "one hidden layer", "harness-{name}"
    return [Model("{name}", summary, source, ModelOptions, learning_rate=0.1, input_size=None, build=build)]


@hookimpl
def harness_datasets():
    summary, source = "noisy pictures of ten classes", "harness-{name}"
    return [Dataset("{name}", summary, source, DataOptions, size, 0.9, load, checksum=lambda options: None)]
'''

WORKLOAD_TEST = '''\
"""The model trains on the data: one device reaches what the data set asks for."""

import json
import subprocess
import sys

SCENARIO = """
engine = "real"
[workload]
model = "{name}"
dataset = "{name}"
[goal]
max_epochs = 20
[sweep]
strategy = "single"
gpus = 1
seeds = 1
"""


def test_one_device_reaches_the_target(tmp_path):
    (tmp_path / "trial.toml").write_text(SCENARIO)
    command = [sys.executable, "-m", "harness"]
    done = subprocess.run([*command, "run", "trial.toml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    show = [*command, "show", "trial", "--json"]
    shown = subprocess.run(show, cwd=tmp_path, capture_output=True, text=True, check=True)
    (scenario,) = json.loads(shown.stdout)["scenarios"]
    assert scenario["statuses"] == {{"ok": 1}}, shown.stdout
'''

PROBE = '''\
"""{name}: a probe, sampled from a process outside training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from harness import Probe, ProbeUnavailable, Sample, Target, hookimpl


class {title}(Probe):
    """Processes that want to run, over the whole machine."""

    name = "{name}"

    def open(self, targets: Sequence[Target]) -> None:
        """See whether there is anything to read.

        Raises:
            ProbeUnavailable: this system has no load average.
        """
        if not hasattr(os, "getloadavg"):
            raise ProbeUnavailable("this system has no load average")

    def sample(self, now: float) -> Iterable[Sample]:
        """Read it; what cannot be read is left out, never 0."""
        return [Sample(now, self.name, "host", "{quantity}", os.getloadavg()[0], "cores")]

    def close(self) -> None:
        """Give nothing back: nothing was taken."""


@hookimpl
def harness_probes():
    return [{title}]
'''

PROBE_TEST = '''\
"""The probe answers here, and says so to `harness doctor`."""

import subprocess
import sys
import time

from {module} import {title}


def test_a_sample_is_a_number_with_its_unit():
    probe = {title}()
    probe.open([])
    (sample,) = probe.sample(time.monotonic())
    assert sample.source == "{name}"
    assert sample.value >= 0
    assert sample.unit == "cores"
    probe.close()


def test_the_harness_knows_the_probe():
    command = [sys.executable, "-m", "harness", "plugins", "{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
'''

PLUGINS: dict[Kind, str] = {"strategy": STRATEGY, "workload": WORKLOAD, "probe": PROBE}
TESTS: dict[Kind, str] = {"strategy": STRATEGY_TEST, "workload": WORKLOAD_TEST, "probe": PROBE_TEST}
PURPOSES: dict[Kind, str] = {
    "strategy": "{name}, a parallelism strategy for parallelism-harness.",
    "workload": "{name}, a model and its data for parallelism-harness.",
    "probe": "{name}, a probe for parallelism-harness.",
}
NEXT_COMMANDS: dict[Kind, str] = {
    "strategy": "harness check {name}\nharness run lenet --set strategy=single,{name} --set gpus=1,2",
    "workload": "harness run lenet --set model={name} --set dataset={name}",
    "probe": "harness doctor",
}
TESTED: dict[Kind, str] = {
    "strategy": "The test runs `harness check {name} --quick`: what every strategy has to keep, on both engines.",
    "workload": "The test trains the model on the data until it reaches the data set's target.",
    "probe": "The tests read the probe once and look it up in `harness plugins`.",
}


def write_package(kind: Kind, name: str) -> Path:
    """Write a package into a folder of its own: plugin, test, README, and a workflow that runs the test.

    Returns:
        The folder.

    Raises:
        InputError: the folder is there already, or the name will not do.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise InputError([f"{name!r}: a package's name has small letters and digits, with - between words"])
    folder = Path(f"harness-{name}")
    if folder.exists():
        raise InputError([f"{folder} already exists and was not changed; choose another name"])
    words = {
        "name": name,
        "module": f"harness_{name.replace('-', '_')}",
        "title": "".join(part.capitalize() for part in name.split("-")),
        "quantity": name.replace("-", "_"),
    }
    words |= {key: table[kind].format(**words) for key, table in _SENTENCES.items()}
    for path, text in _files(kind, words["module"]).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text.format(**words), encoding="utf-8")
    return folder


_SENTENCES = {"purpose": PURPOSES, "shown": NEXT_COMMANDS, "tested": TESTED}


def _files(kind: Kind, module: str) -> dict[str, str]:
    return {
        "pyproject.toml": PYPROJECT,
        "README.md": README,
        f"src/{module}/__init__.py": PLUGINS[kind],
        f"tests/test_{kind}.py": TESTS[kind],
        ".github/workflows/check.yml": WORKFLOW,
    }
