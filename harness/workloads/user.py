"""A model or a data set that is a function in the user's own file: `train.py:build_model`.

Resolving reads and parses the file but does not run it, so that `plan` checks it without importing torch. It runs
when the model is built or the data loaded; what runs is the text that was read and hashed.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from harness.api.strategy import Options
from harness.core.errors import InputError, PluginError, unknown
from harness.core.records import Json
from harness.core.words import listed
from harness.workloads.entries import Dataset, DataShape, Model, RawData, SourceFile

if TYPE_CHECKING:
    from torch import nn

    from harness.workloads.entries import Keeps

MODEL_PARAMETERS = ("channels", "height", "width", "classes", "vocabulary")
DATASET_PARAMETERS = ()

USER_LEARNING_RATE = 0.01
"""Where the scenario gives none for a user's model. Chosen: nothing is known of it, a small rate seldom diverges."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class UserFunctionError(InputError):
    """A workload names a function that is not there, or that cannot be called as it must be.

    Args:
        key: of the scenario, such as "workload.model".
        name: what the scenario says there.
        problem: what is wrong with it.
    """

    def __init__(self, key: str, name: str, problem: str) -> None:
        super().__init__([f"{key} = {name!r}: {problem}"])
        self.key, self.problem = key, problem


def is_user_function(name: str) -> bool:
    """Say whether a workload's name means a function in a file: it contains `.py:`."""
    return ".py:" in name


def user_model(name: str, base: Path) -> Model:
    """Return the entry of `FILE.py:FUNCTION`, a function that returns a torch module.

    It may take any of the keywords channels, height, width and classes; images come as large as the data set has them.

    Args:
        name: what the scenario says.
        base: the folder that a relative file is looked up in: the scenario's.

    Raises:
        UserFunctionError: there is no such file or function, it cannot be parsed, or it wants other parameters.
    """
    file, function = _resolve("workload.model", name, base)
    _check_parameters("workload.model", name, function, MODEL_PARAMETERS)
    return Model(
        name=name,
        summary=_summary(function),
        source=f"{file.path}:{function.lineno}",
        Options=Options,
        learning_rate=USER_LEARNING_RATE,
        input_size=None,
        build=lambda options, shape: _build(file, function, shape),
        file=file,
        takes="any",
    )


def user_dataset(name: str, base: Path) -> Dataset:
    """Return the entry of `FILE.py:FUNCTION`, a function that returns four arrays or tensors.

    They are train images, train labels, test images and test labels; images of (n, height, width) or (n, channels,
    height, width): bytes of 0..255, or numbers that are used as they are.

    Args:
        name: what the scenario says.
        base: the folder that a relative file is looked up in: the scenario's.

    Raises:
        UserFunctionError: there is no such file or function, it cannot be parsed, or it wants parameters.
    """
    file, function = _resolve("workload.dataset", name, base)
    _check_parameters("workload.dataset", name, function, DATASET_PARAMETERS)
    return Dataset(
        name=name,
        summary=_summary(function),
        source=f"{file.path}:{function.lineno}",
        Options=Options,
        size=lambda options: None,
        target_accuracy=None,
        load=lambda options: _load(file, function),
        stream=lambda options, keeps: _load(file, function, keeps),
        checksum=lambda options: None,
        file=file,
    )


def _resolve(key: str, name: str, base: Path) -> tuple[SourceFile, _Function]:
    path_text, _, function_name = name.rpartition(":")
    path = base / Path(path_text).expanduser()
    file = SourceFile(path, _read(key, name, path))
    functions = _functions(key, name, file)
    if function_name not in functions:
        there = f"It has {listed(functions)}" if functions else "It has no functions at its top level"
        problem = unknown(f"{path} has no function called {function_name}", function_name, functions, there)
        raise UserFunctionError(key, name, problem)
    return file, functions[function_name]


def _read(key: str, name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem = f"{path} cannot be read: {reason}; write FILE.py:FUNCTION, the file relative to the scenario"
        raise UserFunctionError(key, name, problem) from error


def _functions(key: str, name: str, file: SourceFile) -> dict[str, _Function]:
    try:
        tree = ast.parse(file.text, str(file.path))
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UserFunctionError(key, name, f"{file.path}{line}: {type(error).__name__}: {text}") from error
    return {node.name: node for node in tree.body if isinstance(node, _Function)}


def _check_parameters(key: str, name: str, function: _Function, allowed: tuple[str, ...]) -> None:
    """Refuse a function that cannot be called with the keywords it names among `allowed`."""
    refused = [argument for argument in _required(function) if argument not in allowed]
    if not refused and not isinstance(function, ast.AsyncFunctionDef):
        return
    got = f"wants {', '.join(refused)}" if refused else "is async"
    may = f"may take the keywords {', '.join(allowed)}" if allowed else "is called without arguments"
    problem = f"{function.name} (line {function.lineno}) {got}; it {may}; give any other parameter a default"
    raise UserFunctionError(key, name, problem)


def _required(function: _Function) -> list[str]:
    """Return parameters without a default; a positional-only one is spelt with its slash, so it matches no keyword."""
    arguments = function.args
    positional = [f"{argument.arg}/" for argument in arguments.posonlyargs]
    positional += [argument.arg for argument in arguments.args]
    required = positional[: len(positional) - len(arguments.defaults)]
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return required + [argument.arg for argument, default in pairs if default is None]


def _accepted(function: _Function, values: Mapping[str, object]) -> Json:
    if function.args.kwarg:
        return dict(values)
    names = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    return {name: value for name, value in values.items() if name in names}


def _summary(function: _Function) -> str:
    return (ast.get_docstring(function) or f"{function.name} in the user's own file").partition("\n")[0]


def _build(file: SourceFile, function: _Function, shape: DataShape) -> nn.Module:
    built = _call(file, function, {name: getattr(shape, name) for name in MODEL_PARAMETERS})
    from torch import nn

    if not isinstance(built, nn.Module):
        raise _refused(file, function, f"returned {type(built).__name__}, expected a torch.nn.Module")
    return built


def _load(file: SourceFile, function: _Function, keeps: Keeps | None = None) -> RawData:
    from harness.workloads.own_data import Unfit, raw_data

    result = _call(file, function, {})
    try:
        return raw_data(result, keeps)
    except Unfit as error:
        raise _refused(file, function, f"returned {error}") from None


def _refused(file: SourceFile, function: _Function, problem: str) -> PluginError:
    return PluginError(f"{file.path}:{function.lineno}: {function.name} {problem}")


def _call(file: SourceFile, function: _Function, values: Mapping[str, object]) -> object:
    """Run the user's function with those of `values` that it takes.

    Raises:
        PluginError: it, or its file, raised; the message names the user's own line.
    """
    with _beside(file.path), _own_errors(file, function):
        run: Callable[..., object] = getattr(_module(file), function.name)
        return run(**_accepted(function, values))


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Let the file import its neighbours, as it can when it is run as a script."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        # By value: the user's file may have changed the list itself.
        if folder in sys.path:
            sys.path.remove(folder)


@contextmanager
def _own_errors(file: SourceFile, function: _Function) -> Iterator[None]:
    try:
        yield
    # SystemExit too: a script without a main guard would otherwise end the harness without a word.
    except (Exception, SystemExit) as error:
        line = _own_line(file.path, error)
        message = f"{line}: {type(error).__name__}: {error}"
        raise PluginError(f"{message}\n  raised while {function.name} of {file.path} was run") from error


def _own_line(path: Path, error: BaseException) -> str:
    """Return file:line of the innermost frame in the user's file, or in whatever raised where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(path)] or list(frames)
    return f"{own[-1].filename}:{own[-1].lineno}"


def _module(file: SourceFile) -> ModuleType:
    """Run the file once for each text it has had, and return it as a module.

    It is known to sys.modules, without which neither pickle nor dataclasses work inside it.
    """
    identity = hashlib.sha256(f"{file.path}\n{file.text}".encode()).hexdigest()[:12]
    name = f"harness_user_{file.path.stem}_{identity}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(file.path)
    sys.modules[name] = module
    try:
        exec(compile(file.text, str(file.path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module
