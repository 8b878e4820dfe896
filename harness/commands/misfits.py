"""Models of the user's that do not take their data, found before anything runs: one trial step of each pair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from harness.commands.terminal import say
from harness.core.errors import InputError, PluginError
from harness.core.not_known import NotKnown
from harness.scenario.plan import about_batch_norm
from harness.workloads.user_files import is_user_function

if TYPE_CHECKING:
    from harness.core.cell import Cell, Plan


class Misfits(NamedTuple):
    """What is to be said of several pairs of model and data.

    Attributes:
        misfits: what is wrong with some of them.
        unknown: of which nobody knows, and why; running them tells.
        differing: which strategies will not train what one device trains, as trial steps have shown.
    """

    misfits: list[str]
    unknown: list[str]
    differing: list[str]

    @property
    def told(self) -> list[str]:
        """All of it."""
        return [*self.misfits, *self.unknown, *self.differing]


def refuse_misfits(cells: Sequence[Cell], plugins: Sequence[str]) -> Misfits:
    """Try every model on its data where one of them, or the loss, is the user's own; others are known to fit.

    Cells that are timed without any training are left out: they need no data.

    Raises:
        InputError: not one cell can be trained.
    """
    cells = [cell for cell in cells if not cell.not_possible]
    tried = [cell for cell in cells if not cell.timing_only and _is_own(cell)]
    if not tried:
        return Misfits([], [], [])
    from harness.engines.calibration.fit_in_child import (
        Fits,
        fit_in_child,
        trial_key,
    )  # late: built-in models need no trial

    by_pair: dict[str, list[Cell]] = {}
    for cell in tried:
        by_pair.setdefault(json.dumps(trial_key(cell), sort_keys=True), []).append(cell)
    found = {key: fit_in_child(pair[0], plugins, _tell) for key, pair in by_pair.items()}
    refused = {key: error for key, error in found.items() if isinstance(error, PluginError)}
    told = list(dict.fromkeys(map(str, refused.values())))
    if len(tried) == len(cells) and len(refused) == len(by_pair):
        raise InputError(told)
    unknown = [_unknown(by_pair[key][0], why) for key, why in found.items() if isinstance(why, NotKnown)]
    normalising = [pair for key, pair in by_pair.items() if isinstance(fits := found[key], Fits) and fits.batch_norm]
    return Misfits(told, unknown, list(about_batch_norm(list(chain.from_iterable(normalising)))))


def _tell(text: str) -> None:
    """Say what takes seconds, and leave the output to the plan."""
    say(text, err=True)


def _is_own(cell: Cell) -> bool:
    work = cell.workload
    return any(map(is_user_function, (work.model.name, work.dataset.name, work.loss)))


def _unknown(cell: Cell, why: NotKnown) -> str:
    return f"whether {cell.workload.model.name} takes {cell.workload.dataset.name} is not known yet: {why.reason}"


def with_notes(plan: Plan, notes: Sequence[str]) -> Plan:
    """Return the plan with what trials have shown."""
    return replace(plan, notes=(*plan.notes, *notes))
