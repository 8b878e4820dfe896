"""Other names of strategies: read as what they stand for, before anything is judged, and said so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.core.records import Json
from harness.scenario.mistakes import Source

if TYPE_CHECKING:
    from harness.api.host import Host

_OPTION = "strategy."
"""Begins the path of a strategy's option."""


def read_as_registered(content: Json, host: Host, source: Source) -> list[str]:
    """Put every strategy's own name where another name of it stands; return a note for each that was replaced."""
    reader = _Reader(host, source)
    sweep, tables, observed = (content.get(key) for key in ("sweep", "strategy", "observed"))
    if isinstance(sweep, dict):
        sweep = content["sweep"] = reader.keys(sweep, ("sweep",))
        reader.value(sweep)
        entries = sweep.get("exclude")
        for place, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            reader.entry(entry, sweep, "exclude", place)
    if isinstance(tables, dict):
        content["strategy"] = reader.tables(tables)
    if isinstance(observed, list):
        for place, entry in enumerate(observed):
            reader.entry(entry, content, "observed", place)
    return [f"{other} is read as {name}" for other, name in reader.found.items()]


def path_as_registered(written: str, host: Host) -> str:
    """Return what `--set` gave, with the strategy's own name in the path of its option."""
    key, equals, value = written.partition("=")
    return f"{_path(key.strip(), host)}{equals}{value}"


def only_as_registered(written: str, host: Host) -> str:
    """Return what `--only` gave, with strategies' own names in the path of an option and as values."""
    key, equals, value = path_as_registered(written, host).partition("=")
    if key not in ("strategy", "sweep.strategy"):
        return f"{key}{equals}{value}"
    names = (name.strip() for name in value.split(","))
    return f"{key}{equals}{','.join(host.named(name) or name for name in names)}"


def _path(key: str, host: Host) -> str:
    _, name, *option = key.split(".", 2) if key.startswith(_OPTION) else ("", "")
    own = host.named(name) if option else None
    return ".".join([_OPTION[:-1], own, *option]) if own else key


class _Reader:
    """Replaces names, and keeps which.

    Attributes:
        found: the names that were replaced, each with the strategy's own.
    """

    def __init__(self, host: Host, source: Source) -> None:
        self.host, self.source = host, source
        self.found: dict[str, str] = {}

    def name(self, given: Any) -> Any:
        """Return the strategy's own name; what is none stays as it is."""
        if isinstance(given, list):
            return [self.name(each) for each in given]
        if isinstance(given, dict) and isinstance(given.get("name"), str):
            return {**given, "name": self.name(given["name"])}
        own = self.host.named(given) if isinstance(given, str) else None
        if own is None or own == given:
            return given
        self.found[given] = own
        return own

    def value(self, table: Json) -> None:
        """Replace names under the key `strategy` of a table."""
        if "strategy" in table:
            table["strategy"] = self.name(table["strategy"])

    def keys(self, table: Json, at: tuple[str | int, ...]) -> Json:
        """Return a table with the names in paths of options replaced."""
        return {self._renamed(key, _path(key, self.host), at): value for key, value in table.items()}

    def tables(self, tables: Json) -> Json:
        """Return the tables [strategy.NAME] by the strategies' own names; what stands twice stays, to be refused."""
        named: Json = {}
        for given, table in tables.items():
            own = self.name(given)
            if own != given and own in tables:
                self.source.problem(("strategy", given), f"is another name of {own}, which has a table too; keep one")
            named[self._renamed(given, own, ("strategy",))] = table
        return named

    def entry(self, entry: Any, parent: Json, key: str, place: int) -> None:
        """Replace names in a table of a list, in its values and in paths of options."""
        if not isinstance(entry, dict):
            return
        at = tuple(part for part in ("sweep" if key == "exclude" else "", key, place) if part != "")
        read = self.keys(entry, at)
        self.value(read)
        if isinstance(parent[key], list):
            parent[key][place] = read
        else:
            parent[key] = read

    def _renamed(self, given: str, own: str, at: tuple[str | int, ...]) -> str:
        """Keep the lines of a key that is called otherwise now."""
        if own != given:
            before, after = (*at, given), (*at, own)
            for path, line in list(self.source.lines.items()):
                if path[: len(before)] == before:
                    self.source.lines[(*after, *path[len(before) :])] = line
        return own
