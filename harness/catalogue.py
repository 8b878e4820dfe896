"""What is registered, from where, with which options: the text of `harness plugins`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from harness.errors import InputError
from harness.host import Host


def list_entries(host: Host) -> str:
    """Return all names by kind, with a line each, and broken plugins with the reason."""
    lines: list[str] = []
    for kind, entries in _kinds(host):
        lines.append(f"{kind}:")
        lines += [f"  {name:<16} {_summary(entry)}" for name, entry in sorted(entries.items())]
    if host.broken:
        lines.append("broken:")
        lines += [f"  {plugin}: {reason}" for plugin, reason in host.broken.items()]
    return "\n".join([*lines, "", "harness plugins NAME shows options, defaults and where it is from."])


def describe_entry(host: Host, name: str) -> str:
    """Return one entry's description, options with defaults, and origin.

    Raises:
        InputError: nothing is called that.
    """
    for kind, entries in _kinds(host):
        if name in entries:
            return "\n".join(_entry(host, kind.removesuffix("s"), name, entries[name]))
    for plugin, reason in host.broken.items():
        if name in plugin:
            raise InputError([f"{plugin} is broken: {reason}"])
    raise InputError([f"{name}: nothing is called that{host.suggest(name)}; `harness plugins` lists all names"])


def _kinds(host: Host) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "strategies", dict(host.strategies)
    yield "models", host.models
    yield "datasets", host.datasets
    yield "probes", host.probes


def _summary(entry: Any) -> str:
    if hasattr(entry, "synchrony"):
        return f"[{entry.synchrony}] {_first_line(entry)}"
    return str(getattr(entry, "summary", "")) or _first_line(entry)


def _first_line(entry: Any) -> str:
    return (inspect.getdoc(entry) or "").partition("\n")[0]


def _entry(host: Host, kind: str, name: str, entry: Any) -> Iterator[str]:
    kind = {"strategie": "strategy"}.get(kind, kind)
    yield f"{name} ({kind})"
    yield inspect.getdoc(entry) or "" if kind == "strategy" else _summary(entry)
    if getattr(entry, "source", ""):
        yield f"source: {entry.source}"
    if kind == "strategy":
        yield f"synchrony: {entry.synchrony}; must equal: {entry.equals or '-'}; model at: {entry.model_at}"
        yield f"also known as: {', '.join(entry.also_known_as) or '-'}"
    yield f"from: {host.origins.get((kind, name), 'built in')}"
    fields = getattr(getattr(entry, "Options", None), "model_fields", {})
    yield "options:" if fields else "options: none"
    for option, field in fields.items():
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        yield f"  {option} = {default}  {field.description or ''}"
