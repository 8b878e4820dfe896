"""Cells for tests, made as a scenario makes them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from harness.api.host import Host, load_host
from harness.core.cell import Cell
from harness.core.machine import Machine
from harness.scenario.plan import make_plan
from harness.scenario.read import parse_scenario

DEFAULTS: dict[str, Any] = {
    "engine": "virtual",
    "goal": {"target_accuracy": 0.95, "max_epochs": 2},
    "sweep": {"gpus": [1], "learning_rate": [0.1]},
    "cluster": {
        "device": {"samples_per_second": 1000, "batch_size": 32},
        "inter_node": {"bandwidth": "1 GB/s", "latency": "50 us"},
        "overheads": False,
    },
}


TWO_STRATEGIES = """\
description = "Two strategies on a small virtual cluster."
engine = "virtual"

[workload]
model = "softmax"
dataset = "digits"

[sweep]
strategy = ["single", "local-sgd"]
gpus = [1, 2]
learning_rate = 0.1

[goal]
target_accuracy = "none"
max_steps = 4

[cluster]
device = { samples_per_second = 1000, batch_size = 32 }
inter_node = { bandwidth = "1 GB/s", latency = "50 us" }
"""
"""A scenario of three cells that take no time: single makes no sense on two devices."""


@cache
def host(plugins: tuple[str, ...] = ()) -> Host:
    """Return all plugins, loaded once."""
    return load_host(plugins)


def make_cells(*, cores: int = 64, plugins: tuple[str, ...] = (), **changes: Any) -> list[Cell]:
    """Return the cells of a scenario: DEFAULTS with sections changed by keyword, `a__b` standing for a.b."""
    document = {key: dict(value) if isinstance(value, dict) else value for key, value in DEFAULTS.items()}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            document.setdefault(section, {})[name] = value
        else:
            document[section] = dict(value) if isinstance(value, dict) else value
    scenario = parse_scenario(to_toml(document), host(plugins), Path("test.toml"))
    return list(make_plan(scenario, host(plugins), Machine(cores=cores)).cells)


def make_cell(**changes: Any) -> Cell:
    """Return the only cell of a scenario."""
    (cell,) = make_cells(**changes)
    return cell


def to_toml(document: dict[str, Any]) -> str:
    """Write a small document as TOML."""
    top = [f"{key} = {_value(value)}" for key, value in document.items() if not isinstance(value, dict)]
    tables = []
    for key, table in document.items():
        if isinstance(table, dict):
            tables += [f"[{key}]", *(f'"{name}" = {_value(value)}' for name, value in table.items())]
    return "\n".join([*top, *tables]) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{key}" = {_value(item)}' for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
