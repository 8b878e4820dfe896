"""What is registered, from where, with which options or figures: the text of `harness plugins`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from harness.api.host import Host
from harness.api.listeners import Listener, Tracker
from harness.core.errors import InputError
from harness.core.given_cluster import THIS_MACHINE
from harness.core.records import Json
from harness.core.words import aligned, bandwidth, exact_duration, memory_size, share_in_percent, show
from harness.costs.catalogue import Device, Link, Preset, efficiency, find_devices

_SINGULAR = {"strategies": "strategy"}


def list_entries(host: Host) -> str:
    """Return all names by kind, with a line each, and broken plugins with the reason."""
    lines: list[str] = []
    for kind, entries in _kinds(host):
        lines.append(f"{kind}:")
        rows = [(name, _summary(entry)) for name, entry in sorted(entries.items())]
        rows += [(THIS_MACHINE, "this machine, with its measured devices and links")] * (kind == "clusters")
        lines += [f"  {line}" for line in aligned(rows)]
    if host.broken:
        lines.append("broken:")
        # A reason mostly begins with the plugin's own file and line.
        named = [why if why.startswith(plugin) else f"{plugin}: {why}" for plugin, why in host.broken.items()]
        lines += [f"  {line}" for line in named]
    return "\n".join([*lines, "", "`harness plugins NAME` shows options, defaults, figures and origin."])


def describe_entry(host: Host, name: str) -> str:
    """Return one entry's description, its options with defaults or its figures, and its origin.

    A device may be named as in a scenario: "a100" shows every form of it.

    Raises:
        InputError: nothing is called that.
    """
    named = host.named(name)
    if named is not None and named != name:
        return f"{name} is read as {named}\n{describe_entry(host, named)}"
    for kind, entries in _kinds(host):
        if name in entries:
            return "\n".join(_entry(host, _SINGULAR.get(kind, kind.removesuffix("s")), name, entries[name]))
    _, devices = find_devices(name, host.devices.values())
    if devices:
        return "\n\n".join("\n".join(_entry(host, "device", device.name, device)) for device in devices)
    reason = host.why_broken(name)
    if reason is not None:
        raise InputError([f"{name}: the plugin is broken: {reason}"])
    raise InputError([f"{name}: no such name{host.suggest(name) or '.'} `harness plugins` lists all"])


def _kinds(host: Host) -> Iterator[tuple[str, Json]]:
    yield "strategies", dict(host.strategies)
    yield "models", host.models
    yield "datasets", host.datasets
    yield "devices", host.devices
    yield "links", host.links
    yield "clusters", host.clusters
    yield "probes", host.probes
    yield "trackers", dict(host.trackers)
    if host.listeners:
        yield "listeners", {type(listener).__name__: listener for listener in host.listeners}


def _summary(entry: object) -> str:
    if hasattr(entry, "synchrony"):
        return f"[{entry.synchrony}] {_first_line(entry)}"
    return str(getattr(entry, "summary", "")) or _first_line(entry)


def _first_line(entry: object) -> str:
    return (inspect.getdoc(entry) or "").partition("\n")[0]


def _entry(host: Host, kind: str, name: str, entry: Any) -> Iterator[str]:
    yield f"{name} ({kind})"
    yield inspect.getdoc(entry) or "" if kind == "strategy" else _summary(entry)
    if getattr(entry, "source", ""):
        yield f"source: {entry.source}"
    if getattr(entry, "doubt", ""):
        yield f"in doubt: {entry.doubt}"
    if kind == "strategy":
        yield f"synchrony: {entry.synchrony}; must equal: {entry.equals or '-'}; alone: {entry.alone or '-'}"
        yield f"trained model taken from: {entry.model_at}"
        yield f"also known as: {', '.join(entry.also_known_as) or '-'}"
    yield f"from: {host.origins.get((kind, name), 'built in')}"
    if isinstance(entry, (Device, Link, Preset)):
        yield from _figures(entry)
        return
    if isinstance(entry, Tracker):
        yield from _how_to_ask(entry)
        return
    if isinstance(entry, Listener):
        return
    fields = getattr(getattr(entry, "Options", None), "model_fields", {})
    yield "options:" if fields else "options: none"
    for option, field in fields.items():
        default = "required" if field.is_required() else show(field.get_default(call_default_factory=True))
        yield f"  {option} = {default}  {field.description or ''}"


def _how_to_ask(entry: Tracker) -> Iterator[str]:
    """Say how a run asks for a tracker, and what has to be installed."""
    yield f"harness run SCENARIO --track {entry.name}"
    yield f"harness run SCENARIO --track {entry.name}=WHERE; WHERE: {entry.where}"
    if entry.install:
        yield f"needs: pip install '{entry.install}'"


def _figures(entry: Device | Link | Preset) -> Iterator[str]:
    """Say what is computed with, in units."""
    if isinstance(entry, Device):
        yield f"memory: {memory_size(entry.memory_bytes)} nominal, {memory_size(entry.usable_bytes)} usable"
        yield f"link: {entry.link}"
        shares = ", ".join(f"{p} {share_in_percent(efficiency(entry, p, 'gemm'))}" for p in entry.peak_flops_per_s)
        yield f"assumed efficiency (share of the peak that a layer reaches): {shares}"
        yield f"assumed time of one operator at least: {exact_duration(entry.launch_s)}"
    elif isinstance(entry, Preset):
        yield f"host: {entry.host_link}, shared by {entry.host_shared_by}"
        for size, (latency_s, rate) in entry.by_group.items():
            yield f"all-reduce over {size}: {bandwidth(rate, 4)}, {exact_duration(latency_s, 3)} a message"
        yield from ("spelled out:", "  [cluster]", *(f"  {key} = {show(value)}" for key, value in entry.parts.items()))
