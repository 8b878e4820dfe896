"""Where a mistake stands in a scenario, and how it is worded; all of them are collected before any is reported."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from harness.core.errors import MOST_CHARACTERS, InputError, one_of, unknown
from harness.core.outside_files import DEEPEST, refusal
from harness.core.records import Json
from harness.core.words import counted, shortened, show, show_path
from harness.scenario.toml_lines import Path, line_numbers, line_of

MOST_PROBLEMS = 100
"""Found before reading stops; chosen: nobody mends more at once, and a file with more is rarely a scenario."""

MOST_WRITTEN = 10_000
"""Keys, tables and elements of lists in one scenario; chosen: ten times those of the largest that we know."""

MOST_TEXT = 2_000_000
"""Of a scenario's text; chosen: 200 for each value that it may hold."""

_KEY_PART = r"""(?:[\w-]++|"[^"\n]*"|'[^'\n]*')[ \t]*+\.[ \t]*+"""
_LONG_KEY = re.compile(rf"(?<![\w.-])(?:{_KEY_PART}){{{DEEPEST}}}")
ABSENT = object()
"""Stands for a value where there is none: a missing key, or one that should not be there."""
_BOUNDS = {
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "below {lt:g}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
}
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text in quotes",
    "path": "a path in quotes",
    "list": "a list",
    "tuple": "a list",
    "dict": "a table",
    "model": "a table",
}


class Problem(NamedTuple):
    """One mistake, worded, and the line that it stands on; 0 where it stands on none."""

    line: int
    text: str


@dataclass
class Source:
    """A scenario's text and the problems found in it so far.

    Attributes:
        where: the file, for the head of the report.
        lines: line of every key, by path.
        sets: what `--set` wrote, by path; it stands on no line.
        broken_plugin: whether one of the problems is that a named plugin is broken.
    """

    where: str
    lines: dict[Path, int] = field(default_factory=dict)
    sets: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken_plugin: bool = False
    _known: set[Problem] = field(default_factory=set)

    def problem(self, path: Sequence[str | int], allowed: str, got: object = ABSENT) -> None:
        """Add a problem once: key path, what was got, what is allowed, where it was written."""
        value = "" if got is ABSENT else f" = {shortened(show(got))}"
        self.add(path, f"{shortened(show_path(path))}{value}: {allowed}" if path else allowed)

    def add(self, path: Sequence[str | int], words: str) -> None:
        """Add a problem once that names its key itself, with where that was written.

        Raises:
            InputError: it is one too many; it carries those before it.
        """
        line, written = self._written(path)
        problem = Problem(line, f"{words}{written}")
        if problem in self._known:
            return
        if len(self.problems) == MOST_PROBLEMS:
            self.problems.append(Problem(sys.maxsize, "and more, which were not looked for"))
            self.raise_problems()
        self._known.add(problem)
        self.problems.append(problem)

    def raise_problems(self) -> None:
        """Refuse the scenario if anything was found.

        Raises:
            InputError: there are problems; it carries all of them.
        """
        if self.problems:
            ordered = sorted(self.problems, key=lambda problem: problem.line)
            raise InputError([text for _, text in ordered], self.where, broken_plugin=self.broken_plugin)

    def _written(self, path: Sequence[str | int]) -> tuple[int, str]:
        """Return the line that a key stands on, and where it was written in words."""
        for length in range(len(path), 0, -1):
            if tuple(path[:length]) in self.sets:
                return 0, f" (--set {shortened(self.sets[tuple(path[:length])])})"
        line = line_of(self.lines, path)
        return (line, f" (line {line})") if line else (0, "")


def parse_toml(text: str, where: str) -> tuple[Json, Source]:
    """Return a TOML text's content and a `Source` that knows its lines.

    Raises:
        InputError: it is not TOML; the message has the line.
    """
    if len(text) > MOST_TEXT:
        raise InputError([f"{len(text):,} characters, and a scenario has at most {MOST_TEXT:,}"], where)
    if found := _LONG_KEY.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise InputError([f"a key of more than {DEEPEST} parts (line {line})"], where)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError([f"not valid TOML: {_with_line(str(error))}"], where) from None
    except RecursionError:
        raise InputError([f"not valid: nested more than {DEEPEST} deep"], where) from None
    except ValueError:
        raise InputError(["not valid TOML: a whole number of more than 64 bits"], where) from None
    refused = refusal(content, MOST_CHARACTERS)
    if refused and len(refused.path) == 1:  # too deep to look for its line, perhaps
        raise InputError([f"{shortened(show_path(refused.path))}: {refused.why}"], where)
    if (count := _num_values(content)) > MOST_WRITTEN:
        raise InputError([f"{counted(count, 'value')}, and a scenario has at most {MOST_WRITTEN:,}"], where)
    source = Source(where, line_numbers(text.replace("\r\n", "\n")))
    if refused:
        source.problem(refused.path, refused.why, refused.got)
        source.raise_problems()
    return content, source


def _num_values(value: object) -> int:
    """Return how many keys, elements of lists and plain values there are inside a value, itself counted too."""
    if isinstance(value, Mapping):
        return 1 + sum(map(_num_values, value.values()))
    return 1 + sum(map(_num_values, value)) if isinstance(value, list) else 1


def _with_line(message: str) -> str:
    return re.sub(r"\(at line (\d+), column (\d+)\)", r"(line \1, column \2)", message)


def validated(model: type[BaseModel], content: Mapping[str, Any], source: Source, path: Path = ()) -> Any:
    """Return `content` as an instance of `model`, or None after adding its problems to `source`."""
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        for inner, allowed, got in wordings(error, model, content):
            source.problem((*path, *inner), allowed, got)
        return None


def key_problems(model: type[BaseModel], key: str, content: Mapping[str, object]) -> list[tuple[Path, str, object]]:
    """Return what is wrong with one key of `content`: the path inside its value, what is allowed, what was got."""
    try:
        model.model_validate(dict(content))
    except ValidationError as error:
        found = wordings(error, model, content)
        return [(inner[1:], allowed, got) for inner, allowed, got in found if inner[:1] == (key,)]
    return []


def wordings(
    error: ValidationError, model: type[BaseModel], content: Mapping[str, Any]
) -> Iterator[tuple[Path, str, object]]:
    """Word what pydantic found: key path, what is allowed there, what was got (`ABSENT` where nothing was)."""
    found: dict[Path, list[Any]] = {}
    for item in error.errors(include_url=False):
        found.setdefault(_walked(item["loc"], content, item["type"] == "missing"), []).append(item)
    for path, items in found.items():
        absent = items[0]["type"] in ("missing", "extra_forbidden") or not path
        allowed = _listed(path, items[0], model) if len(items) == 1 else None
        yield path, allowed or _any_of(items), ABSENT if absent else items[0]["input"]


def _walked(loc: Sequence[str | int], content: object, missing: bool) -> Path:
    """Keep the parts of pydantic's location that are keys; the others name branches of a union.

    A missing key, which comes last, is the one part that does not lead anywhere and yet is kept.
    """
    path: list[str | int] = []
    for place, part in enumerate(loc, 1):
        if isinstance(content, Mapping):
            if str(part) not in content and not (missing and place == len(loc)):
                continue
            path.append(part)
            content = content.get(str(part), ABSENT)
        elif isinstance(content, (list, tuple)) and isinstance(part, int) and part < len(content):
            path.append(part)
            content = content[part]
    return tuple(path)


def _any_of(items: list[object]) -> str:
    return ", or ".join(dict.fromkeys(_allowed(item) for item in items))


def _listed(path: Path, item: Any, model: type[BaseModel]) -> str | None:
    """Word an unknown key with the known ones of its table."""
    if item["type"] != "extra_forbidden":
        return None
    keys = list(_table(model, path[:-1]).model_fields)
    return unknown("no such key", str(path[-1]), keys, f"Keys here: {', '.join(keys) or 'none'}")


def _table(model: type[BaseModel], path: Path) -> type[BaseModel]:
    for key in path:
        annotation = model.model_fields[str(key)].annotation if str(key) in model.model_fields else None
        for inner in (annotation, *get_args(annotation)):  # a table that may be left out is a union with None
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                model = inner
    return model


def _allowed(item: Any) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    if kind == "missing":
        return "required, but missing"
    if kind in ("literal_error", "enum"):
        words = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        got = item["input"]
        if isinstance(got, str):
            return one_of(got, words)
        return f"one of {', '.join(map(show, words))}, in quotes"
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**context)
    message: str = item["msg"]
    return _TYPES.get(kind.split("_")[0], message[:1].lower() + message[1:])
