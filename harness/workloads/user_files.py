"""What a scenario names in the user's own files: `train.py:build`, or `pkg.models:build` for a dotted module.

Files are read and parsed, never run, so that `plan` checks a name without importing torch. Where the text shows a
function its parameters are checked here; any other callable (a class, a partial, what another file defines) is looked
at when it runs, in `user_import`.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.code_hash import files_reached
from harness.core.errors import InputError, PluginError, unknown
from harness.core.held_files import read_held
from harness.core.words import listed
from harness.workloads.entries import SourceFile

if TYPE_CHECKING:
    from harness.core.cell import Cell

_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


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
    """Say whether a workload's name means something in a file: `FILE.py:NAME` or `MODULE:NAME`."""
    return ".py:" in name or _DOTTED.fullmatch(name) is not None


@dataclass(frozen=True)
class UserFunction:
    """Something callable in a file of the user's, as the file's text shows it.

    Attributes:
        key: of the scenario, such as "workload.model".
        written: what the scenario says there.
        file: where it is, as it was when the scenario was read.
        name: what it is called there; with dots where it is an attribute of something.
        lineno: where the name is bound; 1 where only running the file tells.
        node: its definition, where the text has one that tells the parameters.
        root: the folder that imports of its file begin at.
        module: dotted name below `root`, of a named module and of a file that imports from its package; else empty.
    """

    key: str
    written: str
    file: SourceFile
    name: str
    lineno: int
    node: _Function | None
    root: Path
    module: str = ""

    @property
    def summary(self) -> str:
        """First line of its docstring."""
        node = self.node
        text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
        return (text or f"{self.name} in the user's own file").partition("\n")[0]

    @property
    def takes_nothing(self) -> bool:
        """Whether its text shows that it has no parameters."""
        return self.node is not None and not any(isinstance(part, ast.arg) for part in ast.walk(self.node.args))

    @property
    def place(self) -> str:
        """The line that it stands on, "file:line"."""
        return f"{self.file.path}:{self.lineno}"

    @cached_property
    def sources(self) -> list[Path]:
        """Its file and those beside it that are imported by name."""
        return files_reached(self.file.path, self.file.text)

    def check(self, allowed: Collection[str]) -> None:
        """Refuse a function that cannot be called with the keywords it names among `allowed`.

        Raises:
            UserFunctionError: it is async, or wants other parameters.
        """
        if self.node is None:
            return
        problem = wrong_parameters(_required(self.node), allowed, isinstance(self.node, ast.AsyncFunctionDef))
        if problem:
            raise UserFunctionError(self.key, self.written, f"{self.name} (line {self.lineno}) {problem}")

    def refused(self, problem: str) -> PluginError:
        """Return the error that says what is wrong with it, or with what it returned."""
        return PluginError(f"{self.place}: {self.name} {problem}")


def wrong_parameters(required: Collection[str], allowed: Collection[str], is_async: bool) -> str:
    """Say why a function cannot be called with the keywords that it names among `allowed`; nothing where it can."""
    refused = [name for name in required if name not in allowed]
    if not refused and not is_async:
        return ""
    got = f"wants {', '.join(refused)}" if refused else "is async"
    may = f"may take the keywords {', '.join(allowed)}" if allowed else "is called without arguments"
    return f"{got}; it {may}; give any other parameter a default"


def _required(function: _Function) -> list[str]:
    """Return parameters without a default; a positional-only one is spelt with its slash, so it matches no keyword."""
    arguments = function.args
    positional = [f"{argument.arg}/" for argument in arguments.posonlyargs]
    positional += [argument.arg for argument in arguments.args]
    required = positional[: len(positional) - len(arguments.defaults)]
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return required + [argument.arg for argument, default in pairs if default is None]


def user_functions(cell: Cell) -> list[UserFunction]:
    """Return what a cell's workload names in files of the user's.

    Raises:
        UserFunctionError: there is no such file or name.
    """
    work = cell.workload
    named = {"workload.model": work.model.name, "workload.dataset": work.dataset.name, "workload.loss": work.loss}
    named |= {"workload.optimizer": work.optimizer.name, "workload.lr_schedule": work.lr_schedule.name}
    named |= {"workload.metric": work.metric}
    base = Path(cell.folder)
    return [find_user_function(key, name, base) for key, name in named.items() if is_user_function(name)]


# -- finding -----------------------------------------------------------------------------------------------------------


def find_user_function(key: str, name: str, base: Path) -> UserFunction:
    """Return what `FILE.py:NAME` or `MODULE:NAME` means; the file is parsed, not run.

    Args:
        key: of the scenario, for errors.
        name: what the scenario says there.
        base: the scenario's folder: relative files and modules are looked up there; modules then in the environment.

    Raises:
        UserFunctionError: there is no such file, module or name, or the file cannot be parsed.
    """
    where, _, wanted = name.rpartition(":")
    module = "" if ".py:" in name else where
    path, root = _module_file(key, name, where, base) if module else _file(base / Path(where).expanduser())
    file = SourceFile(path, _read(key, name, path))
    tree = _parse(key, name, file)
    _refuse_arguments_at_import(key, name, file, tree)
    if not module and (path.resolve().parent / "__init__.py").is_file() and _imports_relatively(tree):
        root, module = _package_of(path.resolve())
    bound = _bound(tree)
    first = wanted.partition(".")[0]
    if first not in bound and not ({"*", "__getattr__"} & set(bound)):
        names = [each for each, (_, shown) in bound.items() if shown]
        there = f"It has {listed(names)}" if names else "It has no functions at its top level"
        problem = unknown(f"{path} has no function called {wanted}", wanted, names, there)
        raise UserFunctionError(key, name, problem)
    by = bound.get(first, (None, False))[0]
    plain = isinstance(by, _Function) and not getattr(by, "decorator_list", []) and first == wanted
    node = by if plain and isinstance(by, _Function) else None  # a decorator may change what it takes
    return UserFunction(key, name, file, wanted, getattr(by, "lineno", 1), node, root, module)


def _imports_relatively(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


def _package_of(path: Path) -> tuple[Path, str]:
    """Return the folder above a file's outermost package, and the file's dotted name below it."""
    root = path.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    return root, ".".join(path.relative_to(root).with_suffix("").parts)


def _file(path: Path) -> tuple[Path, Path]:
    return path.absolute(), path.resolve().parent  # absolute: frames carry it, and a file may change the folder


def _module_file(key: str, name: str, module: str, base: Path) -> tuple[Path, Path]:
    """Return the file of a dotted module and the folder that its name begins at; nothing is imported."""
    for places in ([str(base.resolve())], sys.path):
        found = _located(module, places)
        if found is not None:
            depth = len(module.split(".")) - (found.name != "__init__.py")
            return found, found.parents[depth]
    problem = f"there is no module {module}, neither in {base.resolve()} nor in this environment"
    raise UserFunctionError(key, name, f"{problem}; write FILE.py:NAME for a file, relative to the scenario")


def _located(module: str, places: list[str]) -> Path | None:
    parts, path, spec = module.split("."), places, None
    for length in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:length]), path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _read(key: str, name: str, path: Path) -> str:
    try:
        return importlib.util.decode_source(read_held(path))
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem = f"{path} cannot be read: {reason}; write FILE.py:FUNCTION, the file relative to the scenario"
        if not isinstance(error, OSError):
            problem = f"{path} cannot be read: {reason}; save it as UTF-8, or declare its encoding in its first line"
        raise UserFunctionError(key, name, problem) from error


def _parse(key: str, name: str, file: SourceFile) -> ast.Module:
    try:
        return ast.parse(file.text, str(file.path))
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UserFunctionError(key, name, f"{file.path}{line}: {type(error).__name__}: {text}") from error


def _bound(tree: ast.Module) -> dict[str, tuple[ast.AST, bool]]:
    """Return the names that a file binds at its top level, branches included: by what, and whether to list it.

    What is imported, and plain numbers and texts, may be named but are not suggested.
    """
    found: dict[str, tuple[ast.AST, bool]] = {}
    for node in _statements(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node, True
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = node, False
        else:
            value = getattr(node, "value", None)
            shown = isinstance(value, ast.Lambda | ast.Call | ast.Name | ast.Attribute)
            by = value if isinstance(value, ast.Lambda) else node
            stored = [n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
            found.update({name.id: (by, shown) for name in stored})
    return found


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when a file is imported, those in branches too."""
    for node in body:
        if isinstance(node, ast.If) and _is_main_guard(node.test):
            yield from _statements(node.orelse)
            continue
        if not isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While):
            yield node
            continue
        for child in ast.iter_child_nodes(node):
            inner = child.body if isinstance(child, ast.ExceptHandler) else [child]
            yield from _statements([each for each in inner if isinstance(each, ast.stmt)])


def _is_main_guard(test: ast.expr) -> bool:
    return "__name__" in {n.id for n in ast.walk(test) if isinstance(n, ast.Name)} and "__main__" in ast.unparse(test)


PARSES_ARGUMENTS = (
    "the file parses command-line arguments when it is imported, and there are none for it here. Put what only the "
    'script does below `if __name__ == "__main__":`, and give the function defaults for what it needs'
)


def _refuse_arguments_at_import(key: str, name: str, file: SourceFile, tree: ast.Module) -> None:
    """Refuse a script that would read our own command's arguments as its own."""
    for statement in _statements(tree.body):
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and not node.args and not node.keywords:
                called = node.func
                if isinstance(called, ast.Attribute) and called.attr == "parse_args":
                    problem = f"{file.path}:{node.lineno}: {PARSES_ARGUMENTS}"
                    raise UserFunctionError(key, name, problem)
