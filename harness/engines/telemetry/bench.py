"""The probes of one sampler: found by name, opened, read side by side, each one's failure kept to itself."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TypeVar

from harness.core.errors import one_of
from harness.engines.telemetry.columns import Columns
from harness.engines.telemetry.helper import Helper, NoReturn
from harness.engines.telemetry.probe import Probe, ProbeUnavailable, ProbeUnneeded, Sample, Target

T = TypeVar("T")


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


MOST_ASKED_S = {"open": 30.0, "sample": 3.0, "notes": 3.0, "lost": 3.0, "close": 3.0}
"""Seconds that a probe's methods may take; chosen: a driver that has to be loaded takes some, and who stops a sampler
waits 5 s for the last reading."""


def _opened(probe_class: type[Probe], targets: Sequence[Target]) -> Probe:
    probe = probe_class()
    probe.open(targets)
    return probe


def _sampled(probe: Probe, now: float) -> list[Sample]:
    return list(probe.sample(now))


class Bench:
    """The probes of one sampler; one that fails is closed and explained, and the others go on."""

    def __init__(self, probes: Sequence[str | type[Probe]]) -> None:
        self.columns = Columns()
        self.unavailable: dict[str, str] = {}
        self.unneeded: dict[str, str] = {}
        self.lost: dict[str, float] = {}  # device, or probe, to the first tick without its figures
        self._classes: list[type[Probe]] = []
        self._open: list[Probe] = []
        self._hanging: set[str] = set()
        self._helper = Helper()
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
            probe = self._guard(probe_class.name, "open", partial(_opened, probe_class, targets))
            self._open += [probe] if probe is not None else []

    def sample(self, now: float) -> None:
        """Read every open probe once, stamped `now` (seconds, monotonic); one that fails is not tried again."""
        for probe in tuple(self._open):
            samples = self._guard(probe.name, "sample", partial(_sampled, probe, now))
            if samples is not None:
                self.columns.extend(samples)
                continue
            self.lost.setdefault(probe.name, now)
            self._open.remove(probe)
            self._classes.remove(type(probe))
            self._close_one(probe)

    def close(self) -> None:
        """Close every open probe, keeping what it has to say."""
        for probe in self._open:
            self._close_one(probe)
        self._open.clear()
        self._helper.close()

    def _close_one(self, probe: Probe) -> None:
        self._notes.update(dict.fromkeys(self._guard(probe.name, "notes", lambda: list(probe.notes())) or ()))
        for device, since_s in (self._guard(probe.name, "lost", lambda: dict(probe.lost())) or {}).items():
            self.lost.setdefault(device, since_s)
        if probe.name not in self._hanging:  # its driver would not return from this either
            self._guard(probe.name, "close", probe.close)

    def _guard(self, name: str, what: str, action: Callable[[], T]) -> T | None:
        """Return what a probe answers; None where it fails or does not return, and the first reason is kept."""
        try:
            return self._helper.call(action, MOST_ASKED_S[what])
        except NoReturn as error:
            self._hanging.add(name)
            self.unavailable.setdefault(name, f"{what}() {error}")
        except ProbeUnneeded as error:
            self.unneeded.setdefault(name, error.reason)
        except ProbeUnavailable as error:
            self.unavailable.setdefault(name, error.reason)
        except Exception as error:  # a stranger's probe may raise anything
            self.unavailable.setdefault(name, f"failed in {what}() with {type(error).__name__}: {error}")
        return None

    @property
    def notes(self) -> list[str]:
        """What the probes that were closed had to say."""
        return list(self._notes)
