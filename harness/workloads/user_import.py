"""Run the user's files: import each once in a process, beside its neighbours, and leave the process as it was.

A file's folder goes to the end of `sys.path` and stays there, so that neighbours are found whenever they are imported,
inside `forward` too, and hide nothing: a `signal.py` beside the scenario is not what Python means by `signal`. Files
run as they were held (`core/held_files`), and no bytecode is written beside them.

Two files of different folders may have neighbours of one name; each gets its own while it is imported. What it imports
later, by such a name, is the neighbour of the one that was imported last.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import linecache
import os
import random
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    PathFinder,
    SourceFileLoader,
)
from pathlib import Path
from types import ModuleType

from harness.core.errors import HarnessError, PluginError, words_of_error
from harness.core.held_files import read_held
from harness.core.words import listed
from harness.workloads.user_files import PARSES_ARGUMENTS, UserFunction, wrong_parameters

_HARNESS = str(Path(__file__).resolve().parents[1])

_PARSERS = frozenset({"argparse", "optparse", "getopt", "click", "typer", "absl", "fire", "hydra", "docopt"})

_roots: list[str] = []
"""Folders of the user's files, the one that was imported last at the end."""

_imported: dict[str, str] = {}
"""Modules of files that a scenario names, to a hash of the text that they were run from, neighbours included."""

_changes: list[str] = []
"""What files changed in this process that was set back, in words."""

_environment: dict[str, str] = {}
"""Environment variables that files set when they were imported."""


def call_user_function(function: UserFunction, values: Mapping[str, object]) -> object:
    """Run what a scenario names with those of `values` that it takes; its file is imported where it was not yet.

    Raises:
        PluginError: it cannot be called so, or it, or its file, raised; the message names the user's own line.
    """
    found = user_object(function)
    with own_errors(function), _left_as_it_was(function.file.path.name):
        return _callable(function, found)(**_accepted(function, found, values))


def user_object(function: UserFunction) -> object:
    """Return what a scenario names, its file imported.

    Raises:
        PluginError: the file raised, or has no such name; the message names the user's own line.
    """
    with own_errors(function):
        found: object = import_user_file(function)
        for part in function.name.split("."):
            if not hasattr(found, part):
                raise PluginError(f"{function.file.path}: there is no {function.name} once the file is imported")
            found = getattr(found, part)
        return found


def changes_by_user_files() -> tuple[str, ...]:
    """Return what files of the user's changed in this process, or in the one it was forked from, and was set back."""
    return tuple(_changes)


def environment_of_user_files() -> dict[str, str]:
    """Return the environment variables that files of the user's set when they were imported."""
    return dict(_environment)


def user_sources(function: UserFunction) -> set[str]:
    """Return the files whose frames are the user's: the named one, what it imports, what it imported meanwhile."""
    found = {str(function.file.path), *map(str, function.sources)}
    loaded = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
    return found | {str(spec.origin) for spec in loaded if spec is not None and isinstance(spec.loader, _HeldLoader)}


# -- calling -----------------------------------------------------------------------------------------------------------


def _callable(function: UserFunction, found: object) -> Callable[..., object]:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(found, torch.nn.Module):
        built = "is a module that is built already, the same one for every cell"
        raise function.refused(f"{built}; name a function that builds it: def build(): return ...")
    if not callable(found):
        raise function.refused(f"is of type {type(found).__name__}, which cannot be called; name a function or a class")
    if inspect.iscoroutinefunction(found):
        raise function.refused("is async; write a plain function")
    return found


def _accepted(function: UserFunction, found: object, values: Mapping[str, object]) -> dict[str, object]:
    """Return those of the values that something takes by keyword; what a partial has bound stays.

    Raises:
        PluginError: it wants something else.
    """
    try:
        parameters = inspect.signature(found).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):  # built in, without a signature
        return {}
    bound = set(found.keywords) if isinstance(found, partial) else set()
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    alone = [f"{p.name}/" for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    required = alone + [p.name for p in by_name if p.default is p.empty]
    if problem := wrong_parameters(required, list(values), is_async=False):
        raise function.refused(problem)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = set(values) if takes_all else {p.name for p in by_name}
    return {name: value for name, value in values.items() if name in names - bound}


# -- importing ---------------------------------------------------------------------------------------------------------


def import_user_file(function: UserFunction) -> ModuleType:
    """Run a file once for each text that it and its neighbours have had, and return it as a module.

    It is known to `sys.modules` by a name that is the same in every process, without which neither pickle nor
    dataclasses work inside it.
    """
    name, text = _module_name(function), _package_name(function)
    for folder in dict.fromkeys((function.file.path.resolve().parent, function.root)):
        _reach(folder)
    known = sys.modules.get(name)
    if known is not None and _imported.get(name) == text:
        return known
    _forget_others(function.root)
    before = dict(os.environ)
    with _left_as_it_was(function.file.path.name), _drawn_from_zero():
        module = importlib.import_module(name) if _is_reached_by_name(function) else _run(function, name)
    _imported[name] = text
    _environment.update({key: value for key, value in os.environ.items() if before.get(key) != value})
    return module


def _module_name(function: UserFunction) -> str:
    """Return what the file is called in `sys.modules`: its own name where that leads to it, else one below a package.

    The package has no file; its place is the folder, so that relative imports lead to neighbours.
    """
    if function.module and _is_reached_by_name(function):
        return function.module
    own = function.module or re.sub(r"\W", "_", function.file.path.stem)
    return f"{_package_name(function)}.{own}"


def _package_name(function: UserFunction) -> str:
    digest = hashlib.sha256(f"{function.file.path}\n{function.file.text}".encode(errors="surrogatepass"))
    for path in function.sources:
        digest.update(f"\n{path}\n".encode(errors="surrogatepass") + read_held(path))
    return f"harness_user_{digest.hexdigest()[:12]}"


def _is_reached_by_name(function: UserFunction) -> bool:
    """Whether a dotted module's name leads to its file, rather than to another package that is called so."""
    if not function.module:
        return False
    first = function.module.partition(".")[0]
    places = [p for p in sys.path if p not in _roots]
    spec = PathFinder.find_spec(first, places) or PathFinder.find_spec(first, [str(function.root)])
    if spec is None:
        return False
    here = [spec.origin or "", *(spec.submodule_search_locations or [])]
    return any(Path(place).resolve().is_relative_to(function.root / first) for place in here if place) or (
        function.module == first and Path(spec.origin or "").resolve() == function.file.path.resolve()
    )


def _run(function: UserFunction, name: str) -> ModuleType:
    """Run a file's text as a module of a package that stands for its folder."""
    package, path, text = _package_name(function), str(function.file.path), function.file.text
    folder = sys.modules.setdefault(package, ModuleType(package, "The folder of a file of the user's."))
    folder.__path__ = [str(function.root)]
    if function.module:
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, path, loader=_HeldLoader(name, path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)  # as it ran, for tracebacks
    try:
        exec(compile(text, path, "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    module = sys.modules.get(name, module)  # a file may have put something else there for itself
    setattr(folder, name.rpartition(".")[2], module)
    return module


def _reach(folder: Path) -> None:
    """Make the files of a folder importable from now on, after all that is importable already."""
    place = str(folder)
    if _roots[-1:] == [place] and place in sys.path:
        return
    if _finder not in sys.path_hooks:
        sys.path_hooks.insert(0, _finder)
    if place in _roots:
        _roots.remove(place)
        sys.path.remove(place) if place in sys.path else None
    if place not in sys.path:
        _roots.append(place)
        first = min((sys.path.index(root) for root in _roots if root in sys.path), default=len(sys.path))
        sys.path.insert(first, place)
        sys.path_importer_cache.pop(place, None)


def _finder(place: str) -> FileFinder:
    """Find what lies in a folder of the user's, for `sys.path_hooks`.

    Raises:
        ImportError: the place is not the user's: that of an installed package inside his folder, for example.
    """
    entries = [entry for entry in sys.path if isinstance(entry, str)]
    owners = [root for root in entries if place == root or place.startswith(root.rstrip(os.sep) + os.sep)]
    if place.startswith(_HARNESS) or max(owners, key=len, default="") not in _roots:
        raise ImportError(place)
    return FileFinder(place, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_HeldLoader, SOURCE_SUFFIXES))


class _HeldLoader(SourceFileLoader):
    """Loads a file as it was held.

    Attributes:
        content: what was loaded.
    """

    content = b""

    def get_data(self, path: str) -> bytes:
        self.content = read_held(Path(path))
        return self.content

    def path_stats(self, path: str) -> Mapping[str, object]:
        raise OSError(path)  # Python then neither reads nor writes bytecode: an old one never stands for a new text


def _forget_others(root: Path) -> None:
    """Let a file import its own neighbours although this process has imported others of the same names, or texts."""
    for name, module in list(sys.modules.items()):
        loader = getattr(getattr(module, "__spec__", None), "loader", None)
        if not isinstance(loader, _HeldLoader) or name.startswith("harness_user_"):
            continue
        first, path = root / name.partition(".")[0], Path(loader.path)
        if (first.is_dir() or first.with_suffix(".py").is_file()) and not (
            path.is_relative_to(root) and path.is_file() and read_held(path) == loader.content
        ):
            del sys.modules[name]


# -- leaving things as they were ---------------------------------------------------------------------------------------


@contextmanager
def _left_as_it_was(who: str) -> Iterator[None]:
    """Set back what a file must not change for the rest of its process, and remember what it was."""
    folder, arguments = _current_folder(), sys.argv
    kept = _torch_settings()
    sys.argv = [who]  # our own command's arguments are none of its business
    try:
        with warnings.catch_warnings():
            yield
    finally:
        sys.argv = arguments
        if folder and _current_folder() != folder:
            os.chdir(folder)
            _note(f"{who} changes the current folder; it was set back")
        for name, (value, set_back) in kept.items():
            if _torch_settings()[name][0] != value:
                set_back(value)
                _note(f"{who} sets {name}; it was set back to {value}")


@contextmanager
def _drawn_from_zero() -> Iterator[None]:
    """Let what is drawn at import be the same in every process, and what is drawn afterwards not depend on it."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    state = random.getstate()
    of_numpy = numpy.random.get_state() if numpy is not None else None
    of_torch = torch.random.get_rng_state() if torch is not None else None
    random.seed(0)
    if numpy is not None:
        numpy.random.seed(0)
    if torch is not None:
        torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(state)
        if numpy is not None:
            numpy.random.set_state(of_numpy)
        if torch is not None:
            torch.random.set_rng_state(of_torch)


def _current_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def _note(change: str) -> None:
    if change not in _changes:
        _changes.append(change)


def _torch_settings() -> dict[str, tuple[object, Callable[..., object]]]:
    """Return what torch is set to in this process and how each is set; nothing where torch was never imported."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_default_device"):
        return {}
    return {
        "torch's number of threads": (torch.get_num_threads(), torch.set_num_threads),
        "torch's default type": (torch.get_default_dtype(), torch.set_default_dtype),
        "torch's gradient mode": (torch.is_grad_enabled(), torch.set_grad_enabled),
    }


# -- errors ------------------------------------------------------------------------------------------------------------


@contextmanager
def own_errors(function: UserFunction) -> Iterator[None]:
    """Say what was raised while the user's own code ran by his own line.

    Raises:
        PluginError: it raised, or left.
    """
    try:
        yield
    except HarnessError:
        raise
    # SystemExit too: a script without a main guard would otherwise end the harness without a word.
    except (Exception, SystemExit) as error:
        line = _own_line(function, error)
        said = PARSES_ARGUMENTS if _parsed_arguments(error) else f"{type(error).__name__}: {words_of_error(error)}"
        clash = _clash(function, error)
        message = f"{line}: {said}{clash}\n  raised while {function.name} of {function.file.path} was run"
        raise PluginError(message) from error


def _own_line(function: UserFunction, error: BaseException) -> str:
    """Return file:line of the innermost frame in the user's files, or in whatever raised where there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    files = user_sources(function)
    own = [frame for frame in frames if frame.filename in files] or list(frames)
    return f"{own[-1].filename}:{own[-1].lineno}"


def _parsed_arguments(error: BaseException) -> bool:
    """Whether a parser of command-line arguments ended the program."""
    if not isinstance(error, SystemExit):
        return False
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").partition(".")[0] in _PARSERS for frame, _ in frames)


def _clash(function: UserFunction, error: BaseException) -> str:
    """Say that a neighbour was not imported because something installed, or Python's own, has its name.

    Told by the module that the error is about, which Python attaches to it.
    """
    names = []
    if isinstance(error, ImportError):
        names = [error.name or ""]
    elif isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        names = [error.obj.__name__]
    for name in (name.partition(".")[0] for name in names):
        beside = [
            path for path in (function.root / f"{name}.py", function.root / name / "__init__.py") if path.is_file()
        ]
        module = sys.modules.get(name)
        place = getattr(module, "__file__", None) or "a part of Python"
        if module is not None and beside and place != str(beside[0]):
            return (
                f".\n  {name} is {place} here, not {beside[0]}: what Python and its packages are called goes before"
                f" the files beside yours. Rename {listed([beside[0].name])}, or import it as `from . import {name}`"
            )
    return ""
