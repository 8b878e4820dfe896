"""Find plugins, load them, and keep what they register.

Plugins are the files of plugins/, installed entry points (group "harness"), and paths named by the scenario or on the
command line. A broken one is listed with its reason and is fatal only to a scenario that names it.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from harness.api import hooks as hookspecs
from harness.api.listeners import Listener, Tracker
from harness.core.code_hash import file_hash, parsed
from harness.core.errors import (
    MOST_CHARACTERS,
    HarnessError,
    InputError,
    MachineError,
    PluginError,
    nearest,
    words_of_error,
)
from harness.core.records import Json
from harness.core.words import listed, shortened

if TYPE_CHECKING:
    from harness.api.strategy import Strategy

PACKAGE = "parallelism-harness"
PACKAGE_PREFIX = "harness."

_DRAWS = "use worker.random(name); torch's global generator belongs to the model"

INSTEAD = {
    "asyncio": "await the methods of Worker; call one without await, and it runs while the next lines do",
    "threading": "call a method of Worker without await, and it runs while the next lines do",
    "concurrent": "call a method of Worker without await, and it runs while the next lines do",
    "multiprocessing": "workers and servers are the processes; ask for servers with Strategy.servers",
    "subprocess": "workers and servers are the processes; ask for servers with Strategy.servers",
    "socket": "use worker.send and worker.receive",
    "time": "await worker.compute(function) to put arithmetic on the clock; the engines read the clock",
    "datetime": "decide by batches and messages; what a clock says is another thing in every run",
    "random": "use worker.random(name)",
    "numpy.random": "use worker.random(name)",
    "torch.distributed": "worker.mean exchanges values with all workers, worker.send with one",
    "torch.multiprocessing": "workers and servers are the processes; ask for servers with Strategy.servers",
    "torch.cuda": "await worker.compute(function) to put arithmetic on the clock; the engines choose devices",
    "torch.manual_seed": _DRAWS,
    "torch.rand": _DRAWS,
    "torch.randn": _DRAWS,
    "torch.randint": _DRAWS,
    "torch.randperm": _DRAWS,
    "torch.random": _DRAWS,
}
"""What a file with strategies may not use, because it would exist on one clock only; and the word to use."""

INSIDE = {"torch": "import it inside the function that computes on tensors: a plan loads this file, and needs no torch"}
"""What it may import inside its functions only, and why."""


@dataclass
class Host:
    """What all loaded plugins registered, by name, and what is broken.

    Attributes:
        origins: (kind, name) to the file, or the entry point, that registered it.
        broken: plugin to the reason why it could not be loaded.
    """

    strategies: dict[str, type[Strategy]] = field(default_factory=dict)
    models: Json = field(default_factory=dict)
    datasets: Json = field(default_factory=dict)
    devices: Json = field(default_factory=dict)
    links: Json = field(default_factory=dict)
    clusters: Json = field(default_factory=dict)
    probes: Json = field(default_factory=dict)
    trackers: dict[str, Tracker] = field(default_factory=dict)
    listeners: list[Listener] = field(default_factory=list)
    report_sections: list[Callable[..., Any]] = field(default_factory=list)
    origins: dict[tuple[str, str], str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def strategy_hash(self, name: str) -> str:
        """Return the hash of the code in a strategy's file: an edited strategy is another one, a comment is no edit."""
        path = Path(self.origins.get(("strategy", name), ""))
        return file_hash(path) if path.suffix == ".py" and path.is_file() else ""

    def strategy(self, name: str) -> type[Strategy]:
        """Return a strategy class.

        Raises:
            PluginError: there is none of that name, or its file is broken.
        """
        if name in self.strategies:
            return self.strategies[name]
        reason = self.why_broken(name)
        if reason is not None:
            raise PluginError(reason)
        raise PluginError(f"no strategy is called {name!r}{self.suggest(name)}")

    def why_broken(self, name: str) -> str | None:
        """Return why the plugin that should bring a name is broken: its file is called so, or has the name in quotes.

        None where no broken plugin seems to bring it.
        """
        for plugin, reason in self.broken.items():
            path = Path(plugin)
            text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
            if path.stem.replace("_", "-") == name or f'"{name}"' in text:
                return reason
        return None

    def named(self, name: str) -> str | None:
        """Return the only strategy that a name can mean: its own name, or another by which it is known; else None."""
        if name in self.strategies:
            return name
        meant = _plain(name)
        found = [known for known, each in self.strategies.items() if meant in (_plain(known), *each.also_known_as)]
        return found[0] if len(found) == 1 else None

    def akin(self, name: str) -> list[str]:
        """Return the strategies that a name may stand for."""
        meant = _plain(name)
        known = self.strategies.items()
        return [own for own, each in known if meant in (_plain(own), *each.also_known_as, *each.suggested_for)]

    def suggest(self, name: str) -> str:
        """Return "; did you mean X?" by other names first, by spelling second."""
        akin = self.akin(name)
        return f"; did you mean {listed(akin, 'or')}?" if akin else nearest(name, self.strategies)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def bundled(kind: str) -> Path:
    """Return the folder "plugins" or "scenarios": inside an installed package, else at the top of the source tree."""
    package = Path(__file__).parents[1]
    installed = package / "_bundled" / kind
    return installed if installed.is_dir() else package.parent / kind


def load_host(paths: Iterable[str | Path] = ()) -> Host:
    """Load all plugins: the built-in ones, installed entry points, and `paths` (files or folders).

    What is built in is executed once in a process, and in those forked from it; another text of it is loaded anew.

    Raises:
        InputError: one of `paths` does not exist.
        MachineError: the harness itself is not installed, only lies in a folder.
    """
    shipped, others = _installed()
    files = [*bundled_files(), *(file for given in paths for file in _files(Path(given)))]
    built_in = _built_in(shipped)
    # Named by the scenario and on the command line it is still one plugin.
    own = [path for path in dict.fromkeys(files) if str(path) not in built_in.names]
    rest: list[tuple[str, Callable[[], object]]] = [(str(path), partial(load_file, path)) for path in own]
    rest += [(entry.name, partial(_load_installed, entry)) for entry in others]
    host = replace(built_in.host, **{each.name: copy(getattr(built_in.host, each.name)) for each in fields(Host)})
    before = set(built_in.manager.get_plugins())
    try:
        for name, loader in rest:
            _load(host, built_in.manager, name, loader)
    finally:
        for module in set(built_in.manager.get_plugins()) - before:
            built_in.manager.unregister(module)
    return host


def load_built_in() -> None:
    """Execute what is built in, so that processes forked from this one have it.

    Raises:
        MachineError: the harness itself is not installed, only lies in a folder.
    """
    _built_in(_installed()[0])


@dataclass(frozen=True)
class _BuiltIn:
    """What comes with the harness, loaded.

    Attributes:
        of: entry points and files with their times, by which another text is told.
    """

    of: tuple[object, ...]
    host: Host
    manager: pluggy.PluginManager
    names: frozenset[str]


_loaded: _BuiltIn | None = None


def _built_in(shipped: Sequence[metadata.EntryPoint]) -> _BuiltIn:
    global _loaded
    files = bundled_files()
    of = (*((entry.name, entry.value) for entry in shipped), *((path, *_identity(path)) for path in files))
    if _loaded is None or _loaded.of != of:
        host, manager = Host(), pluggy.PluginManager("harness")
        manager.add_hookspecs(hookspecs)
        for entry in shipped:
            _load(host, manager, entry.name, entry.load)
        for path in files:
            _load(host, manager, str(path), partial(load_file, path))
        _loaded = _BuiltIn(of, host, manager, frozenset(map(str, files)))
    return _loaded


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def bundled_files() -> list[Path]:
    """Return the files of the built-in strategies."""
    return _files(bundled("plugins"))


def _load(host: Host, manager: pluggy.PluginManager, name: str, loader: Callable[[], object]) -> None:
    """Register what a plugin brings; where it is broken, the host says why."""
    try:
        _register(host, manager, name, loader())
    except HarnessError as error:
        host.broken[name] = str(error)
    except (Exception, SystemExit) as error:  # a script that was meant to be run ends itself
        host.broken[name] = describe(error, [name] if name.endswith(".py") else ())


def describe(error: BaseException, within: Sequence[str] = ()) -> str:
    """Word an exception by the innermost line of the plugin that it passed: "file:line: Type: message".

    Args:
        error: what was raised.
        within: files that count as the plugin's; without any, every file outside this package does.
    """
    own = [f for f in traceback.extract_tb(error.__traceback__) if _counts(f.filename, within)]
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: SyntaxError: {error.msg}"
    words = shortened(words_of_error(error), MOST_CHARACTERS)
    if not own:
        return f"{type(error).__name__}: {words}"
    code = f"\n    {own[-1].line}" if own[-1].line else ""
    return f"{own[-1].filename}:{own[-1].lineno}: {type(error).__name__}: {words}{code}"


def _counts(filename: str, within: Sequence[str]) -> bool:
    if within:
        return filename in within
    return not filename.startswith(("<", str(Path(__file__).parents[1])))


def _installed() -> tuple[list[metadata.EntryPoint], list[metadata.EntryPoint]]:
    """Return the entry points of the harness's own, and of others.

    Raises:
        MachineError: there are none of its own.
    """
    installed = sorted(metadata.entry_points(group="harness"), key=lambda entry: entry.name)
    shipped = [entry for entry in installed if _ships(entry)]
    if not shipped:
        raise MachineError(f"{PACKAGE} is not installed, so that no model or device is registered: run `pip install .`")
    return shipped, [entry for entry in installed if not _ships(entry)]


def _load_installed(entry: metadata.EntryPoint) -> object:
    """Load an installed plugin; what a file with strategies must not import, an installed one must not either.

    Raises:
        PluginError: it imports what exists on one clock only.
    """
    with contextlib.suppress(ModuleNotFoundError, ValueError):  # loading says better what is wrong with it
        found = importlib.util.find_spec(entry.value.partition(":")[0].strip())
        if found is not None and found.origin is not None and found.origin.endswith(".py"):
            refuse_forbidden_imports(Path(found.origin))
    return entry.load()


def _ships(entry: metadata.EntryPoint) -> bool:
    """Whether an entry point is the harness's own: those come first, so that a stranger's collide with them."""
    return entry.value.startswith(PACKAGE_PREFIX)


def _files(path: Path) -> list[Path]:
    if os.path.isdir(path):  # a name that no file can have is none, where pathlib raises
        return sorted(p.resolve() for p in path.glob("*.py") if not p.name.startswith("_"))
    if not os.path.isfile(path):
        there = f"{shortened(str(path))} is neither a file nor a folder"
        raise InputError([f"plugins: {there}; give the path of a .py file or of a folder"])
    return [path.resolve()]


def load_file(path: Path) -> ModuleType:
    """Execute a plugin file as a module of its own; the same path in every process gives the same module."""
    refuse_forbidden_imports(path)
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"harness_plugin_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def refuse_forbidden_imports(path: Path) -> None:
    """Read a plugin's imports before it runs.

    Raises:
        PluginError: a file with strategies imports what exists on one clock only.
    """
    tree = parsed(path.read_bytes(), str(path))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if "harness_strategies" not in functions:
        return
    used = [*_imports(tree), *_uses_of_torch(tree)]
    _refuse_used([(line, name) for line, name, _ in used], INSTEAD, path)
    _refuse_used([(line, name) for line, name, inside in used if not inside], INSIDE, path)


def _refuse_used(used: Sequence[tuple[int, str]], instead: Mapping[str, str], path: Path) -> None:
    for line, name in used:
        for forbidden, word in instead.items():
            if name == forbidden or name.startswith(forbidden + "."):
                raise PluginError(f"{path}:{line}: a strategy must not import {name}; instead: {word}")


def _uses_of_torch(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Yield what is reached through `torch.`: parts of it that exist on one clock only, and its global generator."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            yield node.lineno, f"torch.{node.attr}", True


def _imports(node: ast.AST, inside: bool = False) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, name, whether in a function) of what is imported below a node, other than for types only."""
    if isinstance(node, ast.Import):
        yield from ((node.lineno, alias.name, inside) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.lineno, node.module, inside
        yield from ((node.lineno, f"{node.module}.{alias.name}", inside) for alias in node.names)
    inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    for_types = node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else []
    for child in ast.iter_child_nodes(node):
        # No import stands inside an expression, and most nodes are expressions.
        if not isinstance(child, ast.expr) and child not in for_types:
            yield from _imports(child, inside)


def _register(host: Host, manager: pluggy.PluginManager, name: str, module: Any) -> None:
    if manager.is_registered(module):  # pluggy's own words would print every plugin there is
        raise PluginError(f"{name}: this module is registered already, as {manager.get_name(module)}; register it once")
    manager.register(module, name)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        manager.unregister(module)
        raise PluginError(f"{name}: {error}; hooks are called {', '.join(sorted(_hooks()))}") from None
    origin = str(getattr(module, "__file__", name))
    tables = {"harness_models": host.models, "harness_datasets": host.datasets, "harness_probes": host.probes}
    tables |= {"harness_trackers": host.trackers}
    tables |= {"harness_devices": host.devices, "harness_links": host.links, "harness_clusters": host.clusters}
    for strategy in _answers(module, "harness_strategies"):
        _add_strategy(host, strategy, origin)
    for hook, table in tables.items():
        for entry in _answers(module, hook):
            table[entry.name] = entry
            host.origins[hook.removeprefix("harness_").removesuffix("s"), entry.name] = origin
    for listener in _answers(module, "harness_listeners"):
        host.listeners.append(listener)
        host.origins["listener", type(listener).__name__] = origin
    host.report_sections.extend(_answers(module, "harness_report_sections"))


def _hooks() -> list[str]:
    return [name for name in vars(hookspecs) if name.startswith("harness_")]


def _answers(module: Any, hook: str) -> list[Any]:
    function = getattr(module, hook, None)
    return list(function()) if function is not None and hasattr(function, "harness_impl") else []


def _add_strategy(host: Host, strategy: type[Strategy], origin: str) -> None:
    from harness.api.strategy import Strategy

    if not (inspect.isclass(strategy) and issubclass(strategy, Strategy)):
        raise PluginError(f"{origin}: harness_strategies must return subclasses of Strategy, not {strategy!r}")
    name = getattr(strategy, "name", None)
    if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
        raise PluginError(f"{origin}: {strategy.__name__}.name must be a word of letters, digits and -, not {name!r}")
    if name in host.strategies:
        raise PluginError(f"{origin}: a strategy called {name} exists already, in {host.origins['strategy', name]}")
    for method in ("work", "serve"):
        if not inspect.iscoroutinefunction(getattr(strategy, method)):
            raise PluginError(f"{origin}: {strategy.__name__}.{method} must be an async function")
    host.strategies[name] = strategy
    host.origins["strategy", name] = origin
