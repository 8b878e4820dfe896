"""Bundled scenarios, and files to start from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

from harness.api.host import bundled
from harness.core.errors import InputError, nearby, unknown
from harness.workloads.user import user_dataset, user_model
from harness.workloads.user_files import is_user_function

STRATEGY = '''\
"""{name}: say in one sentence what the workers tell each other."""

from harness import Strategy, Worker, hookimpl


class {title}(Strategy):
    """Every worker computes a gradient; all apply their mean.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2; name yours here.
    """

    name = "{name}"
    equals = "single"  # it must train exactly like one device; delete the line if it need not

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            gradient = await worker.gradient(batch)
            await worker.apply(await worker.mean(gradient))


@hookimpl
def harness_strategies():
    return [{title}]
'''


def bundled_scenarios() -> dict[str, str]:
    """Return name and description of every scenario that ships with the harness; one in a folder is FOLDER/NAME."""
    found, root = {}, bundled("scenarios")
    for path in sorted(root.rglob("*.toml"), key=lambda path: (len(path.parts), path)):
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        found[path.relative_to(root).with_suffix("").as_posix()] = str(content.get("description", ""))
    return found


def find_scenario(name: str) -> Path:
    """Return the path of a scenario: a file, or the name of a bundled one.

    Raises:
        InputError: there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = bundled_scenarios()
    # scenarios/lenet.toml works from anywhere, since the bundled ones are known by that path too.
    wanted = path.as_posix().removeprefix("scenarios/").removesuffix(".toml")
    if wanted in known:
        return bundled("scenarios") / f"{wanted}.toml"
    there = nearby(wanted, known, "harness run")
    raise InputError([unknown(f"{name}: no such file or bundled scenario", wanted, known, there)])


def write_new(name: str, make_text: Callable[[], str]) -> Path:
    """Write a scenario to NAME.toml in this folder; nothing is written where making its text fails.

    Raises:
        InputError: the file is there already, or the name will not do for a results folder.
    """
    target = _new_file(name, ".toml")
    text = make_text()
    target.write_text(text, encoding="utf-8")
    return target


def copy_scenario(name: str, source: str, model: str | None = None, dataset: str | None = None) -> Path:
    """Copy a bundled scenario to NAME.toml in this folder, with the user's model and data in it if given.

    Raises:
        InputError: the file is there already, the name will not do for a results folder, or there is no such model.
    """
    target, origin = _new_file(name, ".toml"), find_scenario(source)
    text = origin.read_text(encoding="utf-8")
    if model is not None:
        user_model(model, Path())  # refuses what is not there, before anything is written
        text = re.sub(r"(?m)^description\s*=.*$", f'description = "{model}, otherwise as {source}"', text, count=1)
        text = _with_key(text, "model", model)
    if dataset is not None:
        if is_user_function(dataset):
            user_dataset(dataset, Path())
        text = _with_key(text, "dataset", dataset)
    target.write_text(text, encoding="utf-8")
    for file in _FILE.findall(text):  # layers that the model is made of lie beside the scenario
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes((origin.parent / file).read_bytes())
    return target


_FILE = re.compile(r'(?m)^model = \{ profile = "([^"]+)"')


def _with_key(text: str, key: str, value: str) -> str:
    """Return a scenario with another value of a key of [workload]."""
    text, count = re.subn(rf"(?m)^{key}\s*=.*$", f'{key} = "{value}"', text, count=1)
    return text if count else text.replace("[workload]\n", f'[workload]\n{key} = "{value}"\n', 1)


def write_strategy(name: str) -> Path:
    """Write a working strategy to NAME.py, to be changed.

    Raises:
        InputError: the file is there already, or the name will not do for a strategy.
    """
    target = _new_file(name, ".py", file_name=name.replace("-", "_"))
    title = "".join(part.capitalize() for part in re.split(r"[-_]", name))
    target.write_text(STRATEGY.format(name=name, title=title), encoding="utf-8")
    return target


def _new_file(name: str, suffix: str, file_name: str = "") -> Path:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise InputError([f"{name!r}: a name starts with a letter and has letters, digits, - and _"])
    target = Path(f"{file_name or name}{suffix}")
    if target.exists():
        raise InputError([f"{target} already exists and was not changed; choose another name"])
    return target
