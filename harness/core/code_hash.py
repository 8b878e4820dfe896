"""Hash code by what it does, not by where or how it is written.

Comments, docstrings, layout, annotations of functions, the words of errors and names of files leave a hash as it is.
What is reached from the code counts too: names of the same file, and of files of the same package or beside it.
Nothing is imported or run.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from harness.core.held_files import read_held

BY_HAND = "CODE_VERSION"
"""A file that sets this name at its top stands in hashes with that number alone: for code whose form says little of
what it returns, such as how a file is fetched."""

_Function = (ast.FunctionDef, ast.AsyncFunctionDef)
_WithDocstring = (*_Function, ast.ClassDef, ast.Module)


def text_hash(text: str) -> str:
    """Return the hash of a text of Python alone.

    Raises:
        SyntaxError: it is not Python.
    """
    return _digest([_written(ast.parse(text))])


@lru_cache(maxsize=64)
def parsed(content: bytes, name: str) -> ast.Module:
    """Return a file's syntax tree, not to be changed: a plugin is read for what it may import, then for its hash.

    Raises:
        SyntaxError: it is not Python.
        ValueError: it holds a null byte.
    """
    return ast.parse(content, filename=name)


def file_hash(path: Path, text: str | None = None) -> str:
    """Return the hash of a whole file and of the files beside it that it imports, and so on.

    What is not Python counts as it is written.

    Args:
        path: where it lies; what it imports is looked up beside it.
        text: its content, where it was read already.
    """
    found: dict[Path, str] = {}
    _gather_files(path.resolve(), text, found)
    return _digest(found.values())


def files_reached(path: Path, text: str | None = None) -> list[Path]:
    """Return a file and the files beside it that it imports, and so on, resolved: those that `file_hash` hashes."""
    found: dict[Path, str] = {}
    _gather_files(path.resolve(), text, found)
    return list(found)


def function_hash(function: Callable[..., Any]) -> str:
    """Return the hash of a function and of every definition of its package that it reaches.

    A function without a name of its own (a lambda, an inner function) stands with its whole file; one whose source is
    not to be had answers with nothing.
    """
    function = _unwrapped(function)
    try:
        path = Path(inspect.getsourcefile(function) or "")
    except (TypeError, OSError):  # compiled, or typed at a prompt
        path = Path()
    if not path.is_file():
        return ""
    path, name = path.resolve(), function.__qualname__.partition(".")[0]
    modules = _Modules(_Surroundings.of(path))
    if name not in modules.read(path).definitions:
        return file_hash(path)
    return _digest(modules.reached(path, name))


def _unwrapped(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(getattr(function, "__func__", function))
    return function if hasattr(function, "__qualname__") else type(function)


@dataclass(frozen=True)
class _Surroundings:
    """Where the imports of a file lead that count with it.

    Attributes:
        root: the folder that absolute imports start from.
        package: the only package looked into; without one, all files beside it count.
    """

    root: Path
    package: str

    @classmethod
    def of(cls, path: Path) -> _Surroundings:
        folder, package = path.parent, ""
        while (folder / "__init__.py").is_file():
            folder, package = folder.parent, folder.name
        return cls(folder, package)

    def files(self, path: Path, module: str) -> list[Path]:
        """Return the file of a module that `path` imports, its packages' before it; nothing where it lies elsewhere."""
        name = module.lstrip(".")
        level = len(module) - len(name)
        if not level and self.package and name.partition(".")[0] != self.package:
            return []
        folder = path.parents[level - 1] if level else self.root
        found, parts = [], name.split(".") if name else []
        for length in range(1, len(parts) + 1):
            base = folder.joinpath(*parts[:length])
            places = [place for place in (base.with_suffix(".py"), base / "__init__.py") if place.is_file()]
            if not places:
                return []
            found.append(places[0].resolve())
        return found or ([folder / "__init__.py"] if (folder / "__init__.py").is_file() else [])


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in sorted(set(parts)):
        digest.update(len(part).to_bytes(8, "big") + part.encode())
    return digest.hexdigest()


# -- whole files -------------------------------------------------------------------------------------------------------


def _gather_files(path: Path, text: str | None, found: dict[Path, str]) -> None:
    if path in found:
        return
    try:
        content = read_held(path) if text is None else text
    except OSError:  # whoever imports it will hear of it
        found[path] = ""
        return
    try:
        found[path], imports = _whole(content, str(path))
    except (SyntaxError, ValueError):  # ValueError: a null byte; whoever imports it will hear of it
        found[path] = (content.encode() if isinstance(content, str) else content).hex()
        return
    around = _Surroundings.of(path)
    for module, name in imports:
        inner = around.files(path, _inner(module, name)) if name else []
        for other in inner or around.files(path, module):
            _gather_files(other, None, found)


@lru_cache(maxsize=64)
def _whole(content: bytes | str, name: str) -> tuple[str, tuple[tuple[str, str | None], ...]]:
    """Return a file written out and what it imports, (module, name in it): every plan asks for those of its strategies.

    Raises:
        SyntaxError: it is not Python.
        ValueError: it holds a null byte.
    """
    tree = parsed(content, name)  # bytes are decoded as they declare; a text is decoded already
    return _written(tree), tuple((module, of_it) for node in _statements(tree) for module, of_it, _ in _bindings(node))


def _inner(module: str, name: str) -> str:
    return f"{module}{'' if module.endswith('.') else '.'}{name}"


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it but expressions, in `ast.walk`'s order: no import stands in an expression."""
    waiting = deque([node])
    while waiting:
        node = waiting.popleft()
        waiting.extend(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr))
        yield node


def _bindings(node: ast.AST) -> Iterator[tuple[str, str | None, str]]:
    """Yield (module, name in it, name it is bound to) of an import; a relative module begins with its dots."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, None, alias.asname or alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield from ((module, alias.name, alias.asname or alias.name) for alias in node.names)


# -- definitions -------------------------------------------------------------------------------------------------------


@dataclass
class _Module:
    """A file's top level: the statements that bind each name, and what each imported name stands for."""

    tree: ast.Module
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    version: str | None = None


class _Modules:
    """The files of one package, read once each."""

    def __init__(self, around: _Surroundings) -> None:
        self.around = around

    def read(self, path: Path) -> _Module:
        return _read_module(path, path.stat().st_mtime_ns)

    def reached(self, path: Path, name: str) -> list[str]:
        """Return every definition that `name` of a file leads to, each written out."""
        waiting, seen, parts = [(path, name)], set(), []
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            module = self.read(place[0])
            if module.version is not None:
                parts.append(f"{place[1]} {module.version}")
                continue
            for statement in module.definitions.get(place[1], ()):
                used = _used(statement)
                names = self._names(place[0], module.tree, statement, used)
                parts.append(_written(statement, names))
                waiting += [names[name] for name in used if name in names]
                waiting += [(place[0], name) for name in used if name in module.definitions]
        return parts

    def _names(self, path: Path, tree: ast.Module, statement: ast.stmt, used: set[str]) -> dict[str, tuple[Path, str]]:
        """Return what of the used names, and attributes of modules, stands in files of this package."""
        found: dict[str, tuple[Path, str]] = {}
        modules: dict[str, Path] = {}
        firsts = {name.partition(".")[0] for name in used}
        for node in (*tree.body, *_statements(statement)):
            for module, name, bound in _bindings(node):
                if bound.partition(".")[0] not in firsts:
                    continue
                if files := self.around.files(path, module if name is None else _inner(module, name)):
                    modules[bound] = files[-1]
                elif name is not None and (files := self.around.files(path, module)):
                    found[bound] = (files[-1], name)
        for name in used:
            owner, _, attribute = name.rpartition(".")
            if owner in modules:
                found[name] = (modules[owner], attribute)
        return found


@lru_cache(maxsize=256)
def _read_module(path: Path, changed_ns: int) -> _Module:
    module = _Module(parsed(path.read_bytes(), str(path)))
    for statement in module.tree.body:
        for name in _bound(statement):
            module.definitions.setdefault(name, []).append(statement)
    for statement in module.definitions.get(BY_HAND, ()):
        module.version = _written(statement)
    return module


def _bound(statement: ast.AST) -> Iterator[str]:
    """Yield the names that a statement defines, in branches of it too; imported ones are not among them."""
    if isinstance(statement, (*_Function, ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, (ast.If, ast.Try, ast.With, ast.For, ast.While)):
        for child in ast.iter_child_nodes(statement):
            yield from _bound(child)
    elif isinstance(statement, ast.stmt) and not isinstance(statement, (ast.Import, ast.ImportFrom)):
        for node in ast.walk(statement):
            if isinstance(getattr(node, "ctx", None), ast.Store):
                yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name))  # `table["key"] = ...` too


def _used(statement: ast.AST) -> set[str]:
    """Return names and dotted names that stand in a statement, annotations of functions left out."""
    return {text for node in _parts(statement) if (text := _dotted(node)) is not None}


def _dotted(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value)
        return None if owner is None else f"{owner}.{node.attr}"
    return None


# -- what of a node counts ---------------------------------------------------------------------------------------------


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for _, value in _counting(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _parts(child)


_SKIPPED = frozenset({"ctx", "type_comment", "kind"})
_SKIPPED_OF_FUNCTIONS = _SKIPPED | {"annotation", "returns"}


def _counting(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a node that decide what it does."""
    skipped = _SKIPPED_OF_FUNCTIONS if isinstance(node, (*_Function, ast.arg)) else _SKIPPED
    for name in node._fields:
        value = None if name in skipped else getattr(node, name, None)
        if value is None or value == []:
            continue
        if name == "body" and isinstance(node, _WithDocstring):
            value = [part for part in value if not _is_text(part)]
        if name == "exc" and isinstance(value, ast.Call):
            value = value.func  # which error, not its words
        yield name, value


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a string that stands alone: a docstring, or one below an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _written(node: Any, names: dict[str, tuple[Path, str]] | None = None) -> str:
    """Write a node in one way on every version of Python.

    Args:
        node: of a syntax tree, or what one holds.
        names: what stands for a definition of the package: its own name is written, and no import of it.
    """
    known = names or {}
    if isinstance(node, (ast.Name, ast.Attribute)) and (text := _dotted(node)) in known:
        return f"Name(id={known[text][1]!r})"
    if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) in known for a in node.names):
        return ""
    if isinstance(node, (ast.Import, ast.ImportFrom)) and names is not None:
        bound = {alias.asname or alias.name for alias in node.names}
        if any(text.rpartition(".")[0] in bound for text in known):
            return ""
    if isinstance(node, ast.AST):
        fields = ",".join(f"{name}={_written(value, names)}" for name, value in _counting(node))
        return f"{type(node).__name__}({fields})"
    if isinstance(node, list):
        return f"[{','.join(filter(None, (_written(item, names) for item in node)))}]"
    return repr(node)
