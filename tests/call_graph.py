"""Which functions, methods and tables of a package others reach, read from its source.

An edge goes from what mentions a name to what the name stands for: functions that are called, handed on or kept in a
table all count, through re-exports, renamed and late imports. Methods are looked for by name: whoever mentions `.foo`
reaches the `foo` of every class that is reached itself. What stands in annotations only is no edge.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Node:
    """One thing that a module defines at its top, or a method of such a class.

    Attributes:
        names: of modules and definitions, in full, that it mentions.
        attributes: words behind a point.
        methods: names of a class's methods.
    """

    names: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    methods: set[str] = field(default_factory=set)


class CallGraph:
    """The graph of a package.

    Args:
        modules: full names of modules to their trees.
        beside: a graph whose other modules this one has too.
    """

    def __init__(self, modules: Mapping[str, ast.Module], beside: CallGraph | None = None) -> None:
        self.aliases: dict[str, dict[str, str]] = dict(beside.aliases) if beside else {}
        self.nodes: dict[str, Node] = dict(beside.nodes) if beside else {}
        for module, tree in modules.items():
            self.aliases[module] = dict(_imported(tree.body)) | dict(_guarded(tree.body))
            for statement in tree.body:
                self._define(module, statement)

    # -- what is where ---------------------------------------------------------------------------------------------

    def _define(self, module: str, statement: ast.stmt) -> None:
        if isinstance(statement, FUNCTIONS):
            self.nodes[f"{module}.{statement.name}"] = self._node(module, statement)
        elif isinstance(statement, ast.ClassDef):
            whole, own = Node(), f"{module}.{statement.name}"
            for part in statement.body:
                if isinstance(part, FUNCTIONS):
                    whole.methods.add(part.name)
                    self.nodes[f"{own}.{part.name}"] = self._node(module, part)
                else:
                    self._note(module, part, whole, {})
            for part in (*statement.bases, *statement.decorator_list):
                self._note(module, part, whole, {})
            self.nodes[own] = whole
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
            for name in names:
                self.nodes.setdefault(f"{module}.{name}", Node())
                self._note(module, statement.value, self.nodes[f"{module}.{name}"], {})

    def _node(self, module: str, function: Function) -> Node:
        found = Node()
        late = dict(_imported(ast.walk(function)))
        for part in (*function.body, *function.decorator_list, *function.args.defaults, *function.args.kw_defaults):
            if part is not None:
                self._note(module, part, found, late)
        return found

    def _note(self, module: str, part: ast.AST, into: Node, late: Mapping[str, str]) -> None:
        for node in _unannotated(part):
            if isinstance(node, ast.Name):
                into.names.add(late.get(node.id) or self.aliases[module].get(node.id) or f"{module}.{node.id}")
            elif isinstance(node, ast.Attribute):
                into.attributes.add(node.attr)
                if dotted := _dotted(node):
                    first, _, rest = dotted.partition(".")
                    into.names.add(f"{late.get(first) or self.aliases[module].get(first) or first}.{rest}")

    def resolved(self, name: str) -> str | None:
        """Return the node that a full name stands for, through re-exports; None where it is none of the package's."""
        seen = set()
        while name not in self.nodes:
            if name in seen:
                return None
            seen.add(name)
            module, _, last = name.rpartition(".")
            name = self.aliases.get(module, {}).get(last, "")
        return name

    # -- who reaches what ------------------------------------------------------------------------------------------

    def reached(self, roots: Iterable[str], shut: Collection[str] = ()) -> set[str]:
        """Return all nodes that the roots reach, they themselves included; `shut` ones lead nowhere and do not count.

        Raises:
            KeyError: a root is not there.
        """
        found: set[str] = set()
        words: set[str] = set()
        waiting: dict[str, list[str]] = defaultdict(list)
        queue = list(roots)
        while queue:
            name = queue.pop()
            if name in found or name in shut:
                continue
            node, _ = self.nodes[name], found.add(name)
            queue += self.mentioned(name)
            for method in node.methods:
                if method in words or method.startswith("__"):
                    queue.append(f"{name}.{method}")
                else:
                    waiting[method].append(f"{name}.{method}")
            for word in node.attributes - words:
                words.add(word)
                queue += waiting.pop(word, [])
        return found

    def within(self, *prefixes: str) -> list[str]:
        """Return the nodes whose names begin so."""
        return [name for name in self.nodes if name.startswith(prefixes)]

    def mentioned(self, name: str) -> set[str]:
        """Return the nodes that one node mentions."""
        return {other for full in self.nodes[name].names if (other := self.resolved(full))}


def _dotted(node: ast.Attribute) -> str:
    """Return a chain of names with points between them; nothing where it is of something else."""
    inner = node.value
    if isinstance(inner, ast.Name):
        return f"{inner.id}.{node.attr}"
    if isinstance(inner, ast.Attribute) and (before := _dotted(inner)):
        return f"{before}.{node.attr}"
    return ""


def _imported(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (
                    (alias.asname or alias.name.partition(".")[0]),
                    (alias.name if alias.asname else alias.name.partition(".")[0]),
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _guarded(body: Iterable[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Return what is imported under a condition: for types only, or where something is installed."""
    for statement in body:
        if isinstance(statement, (ast.If, ast.Try)):
            yield from _imported(ast.walk(statement))


def _unannotated(part: ast.AST) -> Iterator[ast.AST]:
    """Walk everything but annotations."""
    yield part
    for name, value in ast.iter_fields(part):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _unannotated(child)
