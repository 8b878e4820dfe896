"""Scenarios of published cases: written as text, read, planned, calibrated and priced as every scenario is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.api.host import Host, load_host
from harness.commands.validate.case_systems import Unpredictable
from harness.core.cell import Cell, Observation, Plan
from harness.core.errors import HarnessError
from harness.core.machine import Machine
from harness.core.words import show
from harness.costs.price import PricedStep
from harness.costs.profiles import Constants
from harness.scenario.plan import make_plan
from harness.scenario.read import parse_scenario

if TYPE_CHECKING:
    from harness.costs.memory import DeviceMemory

Keys = Mapping[str, object]
"""Keys of one table of a scenario."""

_ALONE = Machine(cores=1)


class CasePoint(NamedTuple):
    """What tells a cell of a scenario from the others.

    Attributes:
        batch_size: samples of one device and update.
        micro_batch_size: of them, those that pass forward at once.
        options: of the strategy, that tell it from the scenario's other strategies.
    """

    strategy: str
    gpus: int
    batch_size: int
    micro_batch_size: int
    options: tuple[tuple[str, object], ...] = ()

    def is_of(self, cell: Cell) -> bool:
        """Say whether a cell is this point."""
        own = (cell.strategy, cell.gpus, cell.batch_size, cell.micro_batch_size)
        return own == self[:4] and all(cell.options[key] == value for key, value in self.options)

    def observed(self, step_s: float, use: str, source: str) -> str:
        """Return the point as a measurement of a scenario."""
        keys = {name: value for name, value in self._asdict().items() if name != "options"}
        keys |= {f'"strategy.{self.strategy}.{key}"': value for key, value in self.options}
        keys |= {"step_time": f"{step_s!r} s", "use": use, "source": source}
        return "\n".join(["", "[[observed]]", *(f"{key} = {show(value)}" for key, value in keys.items()), ""])


@dataclass(frozen=True)
class CaseScenario:
    """A scenario as text, and the files that it names.

    Attributes:
        wanted: what is to be predicted.
    """

    name: str
    text: str
    wanted: CasePoint
    files: tuple[tuple[str, str], ...] = ()

    def write_files(self, folder: Path) -> Path:
        """Write the files that the scenario names; return the scenario's own path, which need not be there."""
        for name, text in self.files:
            (folder / name).write_text(text, encoding="utf-8")
        return folder / f"{self.name}.toml"


@lru_cache(maxsize=1)
def host() -> Host:
    """Return what is installed here, read once."""
    return load_host()


def predicted_s(scenario: CaseScenario, folder: Path, constants: Constants) -> float:
    """Return the predicted seconds of a step of what a scenario is to predict.

    Raises:
        Unpredictable: the scenario is refused, or says too little.
    """
    return foretold_step(scenario, folder, constants).seconds


def predicted_bubble(scenario: CaseScenario, folder: Path, constants: Constants) -> float:
    """Return the predicted bubble of the pipeline that a scenario is to predict.

    Raises:
        Unpredictable: the scenario is refused, says too little, or has no pipeline.
    """
    found = foretold_step(scenario, folder, constants).bubble_fraction
    if found is None:
        raise Unpredictable("one stage has no bubble")
    return found


def foretold_step(scenario: CaseScenario, folder: Path, constants: Constants) -> PricedStep:
    """Return the predicted step of what a scenario is to predict, with the uncertainty that `plan` states.

    Raises:
        Unpredictable: the scenario is refused, or says too little.
    """
    try:
        return _foretold(scenario, folder, constants)
    except HarnessError as error:
        raise Unpredictable(" ".join(str(error).split())) from None


@lru_cache(maxsize=4096)
def _foretold(scenario: CaseScenario, folder: Path, constants: Constants) -> PricedStep:
    from harness.engines.virtual.whatif import foretold  # late: it starts the engine

    return foretold(_calibrated_cell(scenario, folder, constants), host(), constants)


@lru_cache(maxsize=4096)
def _calibrated_cell(scenario: CaseScenario, folder: Path, constants: Constants) -> Cell:
    """Return the cell that a scenario is to predict, on the cluster that its measurements say.

    Raises:
        HarnessError: the scenario is refused, or says too little.
    """
    from harness.engines.virtual.fit_observed import calibrated  # late: it starts the engine

    plan, observed = _planned(scenario, folder)
    (folder / f"{scenario.name}.toml").write_text(scenario.text, encoding="utf-8")
    return _wanted(calibrated(plan, observed, host(), constants), scenario)


@lru_cache(maxsize=1024)
def _planned(scenario: CaseScenario, folder: Path) -> tuple[Plan, tuple[Observation, ...]]:
    read = parse_scenario(scenario.text, host(), scenario.write_files(folder))
    return make_plan(read, host(), _ALONE), read.observed


@lru_cache(maxsize=8192)
def fullest_device(scenario: CaseScenario, folder: Path) -> DeviceMemory:
    """Return what the device holds that has most to hold, of the cell that a scenario is to predict.

    Raises:
        Unpredictable: the scenario is refused, or says too little.
    """
    from harness.costs.cells import given_shape
    from harness.costs.memory import memory_of

    try:
        cell = _wanted(_planned(scenario, folder)[0], scenario)
        if cell.not_possible:
            raise Unpredictable(cell.not_possible)
        shape = given_shape(cell)
        assert shape is not None
        return memory_of(cell, host(), shape).fullest
    except HarnessError as error:
        raise Unpredictable(" ".join(str(error).split())) from None


def _wanted(plan: Plan, scenario: CaseScenario) -> Cell:
    found = [cell for cell in plan.cells if scenario.wanted.is_of(cell)]
    if not found:
        raise Unpredictable("; ".join(dict.fromkeys(item.reason for item in plan.left_out)))
    return found[0]


def toml_lines(sections: Mapping[str, Keys]) -> str:
    """Return tables of a scenario as TOML."""
    lines = []
    for head, keys in sections.items():
        lines += ["", f"[{head}]", *(f"{key} = {show(value)}" for key, value in keys.items())]
    return "\n".join(lines)


def plain_name(text: str) -> str:
    """Return what may name a file and a scenario: other signs become lines."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)


def csv_lines(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as CSV."""
    return "".join(",".join(map(str, row)) + "\n" for row in (head, *rows))
