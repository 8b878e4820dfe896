"""A look at a model and its data in a process of its own: this one does without torch and the user's code."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import HarnessError, InputError, PluginError, one_of
from harness.engines.processes.tasks import answers, started
from harness.engines.shared.findings import Findings
from harness.workloads.user import user_dataset, user_model
from harness.workloads.user_files import is_user_function

if TYPE_CHECKING:
    from harness.api.host import Host

LOOKING_S = 600.0
"""Longest that a look may take; chosen: libraries take 20 s to import, data sets minutes to read."""


def look_in_child(model: str, dataset: str | None, folder: Path, plugins: Sequence[str] = ()) -> Findings:
    """Return what a look at a model and its data found; see `look_at`.

    Raises:
        PluginError: one of them fails, or they do not fit; the message names the user's line.
        MachineError: the process died, or took too long.
    """
    with started([(_look, (model, dataset, folder, tuple(plugins)))], threads=1) as connections:
        (found,) = answers(connections, f"looking at {model}", LOOKING_S)
    if isinstance(found, str):
        raise PluginError(found)
    assert isinstance(found, Findings)
    return found


def refuse_unknown(model: str, dataset: str | None, folder: Path, host: Host) -> None:
    """Refuse what is not there, before a process is started.

    Raises:
        InputError: there is no such file, function or name.
    """
    if is_user_function(model):
        user_model(model, folder)
    elif model not in host.models:
        raise InputError([f"--model {model}: {one_of(model, host.models, 'harness plugins')}, or FILE.py:FUNCTION"])
    if dataset is not None and is_user_function(dataset):
        user_dataset(dataset, folder)
    elif dataset is not None and dataset not in host.datasets:
        raise InputError(
            [f"--data {dataset}: {one_of(dataset, host.datasets, 'harness plugins')}, or FILE.py:FUNCTION"]
        )


def _look(
    model: str, dataset: str | None, folder: Path, plugins: Sequence[str], control: connection.Connection
) -> Findings | str:
    """Return what was found, or what is to be said of it: an exception would arrive without its kind."""
    from harness.api.host import load_host
    from harness.engines.shared.look_at import look_at

    try:
        return look_at(model, dataset, folder, load_host(plugins))
    except HarnessError as error:
        return str(error)
