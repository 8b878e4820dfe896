"""A look at a model and its data in a process of its own: this one does without torch and the user's code."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import HarnessError, InputError, PluginError, one_of
from harness.engines.processes.tasks import answers, started
from harness.engines.shared.findings import Findings
from harness.scenario.mistakes import Source, parse_toml, validated
from harness.workloads.user import user_dataset, user_model
from harness.workloads.user_files import is_user_function

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.api.strategy import Options
    from harness.core.records import Json

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
    if dataset is None:
        return
    name, options = data_as_written(dataset)
    if is_user_function(name):
        user_dataset(name, folder)
    elif name not in host.datasets:
        raise InputError([f"--data {name}: {one_of(name, host.datasets, 'harness plugins')}, or FILE.py:FUNCTION"])
    else:
        _check_options(name, host.datasets[name].Options, options)


def data_as_written(text: str) -> tuple[str, Json]:
    """Read what `--data` says: a name, or a name with options as a scenario writes them.

    Raises:
        InputError: it begins like a table of TOML and is none, or has no name.
    """
    if not text.lstrip().startswith("{"):
        return text, {}
    content, source = parse_toml(f"data = {text}", f"--data {text}")
    options: Json = content["data"]
    if not isinstance(options.get("name"), str):
        source.problem(("data",), f"has no name; write it as in a scenario: {_EXAMPLE}")
        source.raise_problems()
    return options.pop("name"), options


_EXAMPLE = """--data '{ name = "table", path = "houses.csv", target = "price" }'"""


def _check_options(name: str, kind: type[Options], options: Json) -> None:
    how = "" if options else f" (options are written as in a scenario: {_EXAMPLE})"
    source = Source(f"--data {name}{how}")
    validated(kind, options, source)
    source.raise_problems()


def _look(
    model: str, dataset: str | None, folder: Path, plugins: Sequence[str], control: connection.Connection
) -> Findings | str:
    """Return what was found, or what is to be said of it: an exception would arrive without its kind."""
    from harness.api.host import load_host
    from harness.engines.shared.look_at import look_at

    try:
        return look_at(model, None if dataset is None else data_as_written(dataset), folder, load_host(plugins))
    except HarnessError as error:
        return str(error)
