"""Count what makes a house: rooms, imports against their order, circles, names that stand twice. Run it to see all.

python tests/house.py [FOLDER]       of this harness/, or of another one
"""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOMS = (
    *("core", "api", "workloads", "costs", "scenario", "engines", "analysis", "results", "executors", "report"),
    "commands",
    "__main__",
)
"""In order: a file imports from its own room and from those before it. The face, harness/__init__, stands outside."""

TWINS = frozenset({"clock", "endpoints", "messages", "spans"})
"""File names that engines/real and engines/virtual share on purpose: the same nouns in the same places."""

WORDS_OF_EVERY_STRATEGY = frozenset({"Worker", "Server"})


@dataclass
class House:
    """The modules of a package, parsed.

    Attributes:
        modules: name without the package's own ("core.units"; "" is the face) to its tree.
    """

    root: Path
    modules: dict[str, ast.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in sorted(self.root.rglob("*.py")):
            if "_bundled" in path.parts:
                continue
            parts = path.relative_to(self.root).with_suffix("").parts
            name = ".".join(part for part in parts if part != "__init__")
            self.modules[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))

    # -- rooms and imports ---------------------------------------------------------------------------------------------

    @property
    def rooms(self) -> list[str]:
        """Return the folders that lie in the package."""
        return sorted({path.name for path in self.root.iterdir() if (path / "__init__.py").is_file()})

    @property
    def loose(self) -> list[str]:
        """Return modules beside `__init__` and `__main__` that lie in no folder."""
        return sorted(p.stem for p in self.root.glob("*.py") if p.stem not in ("__init__", "__main__"))

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Return what each module imports: at its top, in functions and for types only."""
        return {name: set(self._imported(tree)) - {name} for name, tree in self.modules.items()}

    def _imported(self, tree: ast.Module) -> Iterator[str]:
        package = self.root.name
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                full = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                inner = [f"{module}.{alias.name}" for alias in node.names]
                full = [name if self._short(name) in self.modules else module for name in inner]
            else:
                continue
            for name in full:
                if name.split(".")[0] == package and self._short(name) in self.modules:
                    yield self._short(name)

    def _short(self, name: str) -> str:
        return name.removeprefix(self.root.name).removeprefix(".")

    @property
    def upward(self) -> list[tuple[str, str]]:
        """Return imports of a room that comes later, or of the face from inside."""
        place = {room: number for number, room in enumerate(ROOMS)}
        found = []
        for name, others in self.imports.items():
            here = place.get(name.split(".")[0])
            for other in sorted(others):
                there = place.get(other.split(".")[0]) if other else len(ROOMS)
                if name and here is not None and there is not None and there > here:
                    found.append((name, other))
        return found

    @property
    def circles(self) -> list[list[str]]:
        """Return groups of modules that import each other, late and types-only imports counted."""
        graph = {name: {other for other in others if other} for name, others in self.imports.items() if name}
        found = []
        while True:
            try:
                list(TopologicalSorter(graph).static_order())
            except CycleError as error:
                circle = error.args[1]
                found.append(circle[:-1])
                graph[circle[1]] = graph[circle[1]] - {circle[0]}
            else:
                return found

    @property
    def doors(self) -> list[str]:
        """Return the modules of costs/ that files outside it import."""
        outside = {other for name, others in self.imports.items() if name.split(".")[0] != "costs" for other in others}
        return sorted(other for other in outside if other.split(".")[0] == "costs")

    # -- names ---------------------------------------------------------------------------------------------------------

    @property
    def file_collisions(self) -> list[str]:
        """Return file names that stand in several folders, twins left out."""
        names = Counter(name.rpartition(".")[2] for name in self.modules if name and not self._is_package(name))
        return sorted(name for name, count in names.items() if count > 1 and name not in TWINS)

    def _is_package(self, name: str) -> bool:
        return (self.root / Path(*name.split(".")) / "__init__.py").is_file()

    @property
    def name_collisions(self) -> dict[str, list[str]]:
        """Return public names that several modules define at their top; twins, hooks and re-exports left out."""
        places: dict[str, list[str]] = defaultdict(list)
        for module, tree in self.modules.items():
            for name in _defined(tree):
                places[name].append(module)
        found = {name: modules for name, modules in places.items() if len(modules) > 1}
        return {
            n: m for n, m in sorted(found.items()) if not n.startswith(("_", "harness_")) and not self._are_twins(m)
        }

    def _are_twins(self, modules: list[str]) -> bool:
        sides = {name.split(".")[1] if name.startswith("engines.") else name for name in modules}
        return len(modules) == 2 and sides == {"real", "virtual"}

    # -- figures -------------------------------------------------------------------------------------------------------

    @property
    def anys(self) -> int:
        """Return how often the name Any stands in code."""
        trees = self.modules.values()
        return sum(isinstance(node, ast.Name) and node.id == "Any" for tree in trees for node in ast.walk(tree))

    @property
    def code_lines(self) -> int:
        """Return lines of code: without docstrings, comments and blanks."""
        paths = [path for path in self.root.rglob("*.py") if "_bundled" not in path.parts]
        return sum(_code_lines(path.read_text(encoding="utf-8")) for path in paths)


def _defined(tree: ast.Module) -> set[str]:
    found = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def _code_lines(text: str) -> int:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") and n not in docstrings for n, line in lines)


def main() -> None:
    """Print the figures, and what is behind those that should be small."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "harness"
    house = House(root.resolve())
    print(f"folders {len(house.rooms)}: {', '.join(house.rooms)}")
    print(f"modules beside __init__ and __main__: {len(house.loose)}")
    print(f"modules {len(house.modules)}, lines of code {house.code_lines}, names Any {house.anys}")
    print(f"imports upward {len(house.upward)}")
    print(*(f"  {name} -> {other}" for name, other in house.upward), sep="\n")
    print(f"circles {len(house.circles)}")
    print(*(f"  {' -> '.join(circle)}" for circle in house.circles), sep="\n")
    print(f"doors into costs {len(house.doors)}: {', '.join(house.doors)}")
    print(f"file names that collide {len(house.file_collisions)}: {', '.join(house.file_collisions)}")
    print(f"public names that collide {len(house.name_collisions)}:")
    print(*(f"  {name}: {', '.join(modules)}" for name, modules in house.name_collisions.items()), sep="\n")


if __name__ == "__main__":
    main()
