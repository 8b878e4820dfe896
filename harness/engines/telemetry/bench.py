"""The probes of one sampler: found by name, opened, read side by side, each one's failure kept to itself."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from harness.core.errors import one_of
from harness.engines.telemetry.columns import Columns
from harness.engines.telemetry.probe import Probe, ProbeUnavailable, ProbeUnneeded, Target


def probe_path(probe: str | type[Probe]) -> str:
    """Return what names a probe in another process: a built-in's name, "module:Class" or "file.py:Class".

    A plugin file was loaded under a module name that only this process knows, so its file stands for it.
    """
    if isinstance(probe, str):
        return probe
    if PathFinder.find_spec(probe.__module__.partition(".")[0]) is not None:
        return f"{probe.__module__}:{probe.__qualname__}"
    return f"{sys.modules[probe.__module__].__file__}:{probe.__qualname__}"


def load_probe(path: str) -> type[Probe]:
    """Return the probe class that `probe_path` named.

    Raises:
        ProbeUnavailable: it is not there, or its module cannot be imported.
    """
    where, _, name = path.rpartition(":")
    if not where:
        return _built_in(path)
    try:
        loaded = getattr(_load_module(where), name)
    except Exception as error:  # a plugin's module may raise anything; the other probes go on
        raise ProbeUnavailable(f"cannot be loaded from {where}: {type(error).__name__}: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Probe) and isinstance(getattr(loaded, "name", None), str)):
        raise ProbeUnavailable(
            f"{name} in {where} is no class derived from harness.engines.telemetry.Probe with a name"
        )
    return loaded


def _built_in(name: str) -> type[Probe]:
    """Return a built-in probe by its name."""
    from harness.engines.telemetry import harness_probes

    probes = {probe.name: probe for probe in harness_probes()}
    if name not in probes:
        raise ProbeUnavailable(f"no probe has this name; {one_of(name, probes)}")
    return probes[name]


def _load_module(where: str) -> object:
    """Import a module by name, or from its file."""
    if not where.endswith(".py"):
        return importlib.import_module(where)
    spec = importlib.util.spec_from_file_location(f"harness_probe_{Path(where).stem}", where)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


class Bench:
    """The probes of one sampler; one that fails is closed and explained, and the others go on."""

    def __init__(self, probes: Sequence[str | type[Probe]]) -> None:
        self.columns = Columns()
        self.unavailable: dict[str, str] = {}
        self.unneeded: dict[str, str] = {}
        self.lost: dict[str, float] = {}  # device, or probe, to the first tick without its figures
        self._classes: list[type[Probe]] = []
        self._open: list[Probe] = []
        self._notes: dict[str, None] = {}  # an ordered set: reopened probes repeat themselves
        for probe in probes:
            self._load(probe)

    def _load(self, probe: str | type[Probe]) -> None:
        try:
            self._classes.append(load_probe(probe) if isinstance(probe, str) else probe)
        except ProbeUnavailable as error:
            self.unavailable[str(probe)] = error.reason

    def open(self, targets: Sequence[Target]) -> None:
        """Open every probe for these targets, closing what was open for others."""
        self.close()
        for probe_class in self._classes:
            self.unavailable.pop(probe_class.name, None)
            self.unneeded.pop(probe_class.name, None)
            self._guard(probe_class.name, "open", self._open_one, probe_class, targets)

    def _open_one(self, probe_class: type[Probe], targets: Sequence[Target]) -> None:
        probe = probe_class()
        probe.open(targets)
        self._open.append(probe)

    def sample(self, now: float) -> None:
        """Read every open probe once, stamped `now` (seconds, monotonic); one that fails is not tried again."""
        for probe in tuple(self._open):
            if not self._guard(probe.name, "sample", self._read, probe, now):
                self.lost.setdefault(probe.name, now)
                self._open.remove(probe)
                self._classes.remove(type(probe))
                self._close_one(probe)

    def _read(self, probe: Probe, now: float) -> None:
        self.columns.extend(probe.sample(now))

    def close(self) -> None:
        """Close every open probe, keeping what it has to say."""
        for probe in self._open:
            self._close_one(probe)
        self._open.clear()

    def _close_one(self, probe: Probe) -> None:
        self._guard(probe.name, "notes", self._keep_notes, probe)
        self._guard(probe.name, "lost", self._keep_lost, probe)
        self._guard(probe.name, "close", probe.close)

    def _keep_notes(self, probe: Probe) -> None:
        self._notes.update(dict.fromkeys(probe.notes()))

    def _keep_lost(self, probe: Probe) -> None:
        for device, since_s in probe.lost().items():
            self.lost.setdefault(device, since_s)

    def _guard(self, name: str, what: str, action: Callable[..., object], *args: object) -> bool:
        """Do what a probe does; answer whether it went well, and keep the first reason where it did not."""
        try:
            action(*args)
        except ProbeUnneeded as error:
            self.unneeded.setdefault(name, error.reason)
        except ProbeUnavailable as error:
            self.unavailable.setdefault(name, error.reason)
        except Exception as error:  # a stranger's probe may raise anything
            self.unavailable.setdefault(name, f"failed in {what}() with {type(error).__name__}: {error}")
        else:
            return True
        return False

    @property
    def notes(self) -> list[str]:
        """What the probes that were closed had to say."""
        return list(self._notes)
