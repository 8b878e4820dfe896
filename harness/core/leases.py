"""Who works on what in a folder: a file for each harness and each cell that runs, which its holder keeps fresh.

FOLDER/leases/harnesses/HOST-PROCESS-RANDOM   a harness that writes to the folder
FOLDER/leases/cells/CELL.GENERATION           a cell that somebody runs

A lease is live while its file is touched. Ages are measured by the file system's own clock, because clocks of hosts
differ. Nothing here needs locks, so that it holds on network file systems without any.

**Taking.** Generation 1 of a cell is made with O_EXCL: one of all who try succeeds. Whoever finds the latest generation
dead makes the next one, again with O_EXCL, and removes the older.

**Keeping what is finished.** A holder may be stopped for minutes and wake up when somebody else has its cell. So before
it writes a result it confirms its lease: it makes the next generation itself. Where that is there already, somebody
has taken the cell over; where its own file is gone, somebody has finished it. Either way its result is thrown away.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import stat
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.core.atomic_files import host_name, is_alive, sweep_dead
from harness.core.errors import MachineError
from harness.core.outside_files import parsed_json
from harness.core.records import Json

BEAT_S = 2.0
"""Between two touches of a lease; chosen: a lease stays fresh although several touches in a row are late."""

DEAD_S = 30.0
"""Without a touch for so long a lease is dead; chosen: network file systems show a new time after 3 s, and a busy
machine lets a thread wait for seconds."""

JUMP_S = 5.0
"""By how much more the file system's clock goes than the steady one when it is taken to have jumped; chosen: far beyond
what either is late by, and far below `DEAD_S`."""

AFTER_JUMP_S = 3 * BEAT_S
"""After such a jump nobody is taken for dead by age: until then, all who live have touched their leases."""

_FOLDER, _HARNESSES, _CELLS = "leases", "harnesses", "cells"
_OF_CELL = re.compile(r"(?P<cell>.+)\.(?P<generation>[1-9][0-9]{0,8})", re.ASCII)
_MOST_BYTES = 4096
_PADDED = 512
"""Least size of a lease's text: it is rewritten in place by one call, so that a reader sees no half of two."""


@dataclass(frozen=True)
class HeldLease:
    """A lease as others see it.

    Attributes:
        name: of the harness or the cell.
        generation: of a cell's lease; 0 of a harness.
        facts: what its holder wrote; empty where it cannot be read.
        silent_s: since its last touch; of one from the future, until then: its clock has been set back.
        live: whether its holder lives, as far as can be told.
    """

    name: str
    generation: int
    facts: Json
    silent_s: float
    live: bool

    @property
    def holder(self) -> str:
        """Return the holder in words."""
        host, process, since = (str(self.facts.get(key, "?"))[:100] for key in ("host", "process", "since"))
        return f"process {process} on {host}, since {since}"


def held_by_harnesses(folder: Path) -> list[HeldLease]:
    """Return the leases of the harnesses that write to a folder, or did until they died."""
    return _held(folder / _FOLDER / _HARNESSES)


def held_cells(folder: Path) -> dict[str, HeldLease]:
    """Return the latest lease of each cell."""
    found: dict[str, HeldLease] = {}
    for held in sorted(_held(folder / _FOLDER / _CELLS), key=lambda held: held.generation):
        found[held.name] = held
    return found


def _held(place: Path) -> list[HeldLease]:
    try:
        names = [] if place.is_symlink() or place.parent.is_symlink() else os.listdir(place)  # no link leads elsewhere
    except OSError:
        return []
    now_s = _clock_s(place) if names else 0.0
    return [held for name in sorted(names) if (held := _read(place, name, now_s)) is not None]


def _clock_s(place: Path) -> float:
    """Return the time by the clock of the file system; by this host's where nothing can be written."""
    try:
        with tempfile.TemporaryFile(dir=place.parent) as file:
            os.utime(file.fileno())
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def _read(place: Path, name: str, now_s: float) -> HeldLease | None:
    """Return a lease; None of a file that has just gone, or is none."""
    try:
        # Opened, because a network file system asks its server for the times of a file that is opened.
        descriptor = os.open(place / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        content = os.pread(descriptor, _MOST_BYTES, 0)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    try:
        parsed = parsed_json(content)
    except ValueError:  # it is being written
        parsed = None
    facts: Json = parsed if isinstance(parsed, dict) else {}
    of_cell = _OF_CELL.fullmatch(name) if place.name == _CELLS else None
    silent_s = abs(now_s - status.st_mtime)
    live = silent_s <= DEAD_S and not _is_gone(facts)
    if of_cell is None:
        return HeldLease(name, 0, facts, silent_s, live)
    return HeldLease(of_cell["cell"], int(of_cell["generation"]), facts, silent_s, live)


def _is_gone(facts: Json) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    process = facts.get("process")
    return facts.get("machine") == host_name() and isinstance(process, int) and not is_alive(process)


@dataclass
class Lease:
    """A lease that this process holds."""

    place: Path
    name: str
    facts: Json
    generation: int = 0
    descriptor: int = -1
    _changed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def path(self) -> Path:
        """Return where its file lies."""
        return self.place / (f"{self.name}.{self.generation}" if self.generation else self.name)

    def tell(self, **facts: object) -> None:
        """Change what others read; it is written with the next touch."""
        with self._lock:
            self.facts |= facts
            self._changed = True

    def touch(self) -> None:
        """Show that the holder lives.

        Raises:
            OSError: the file system does not take it.
        """
        with self._lock:
            if self.descriptor < 0:
                return
            if self._changed:
                self._changed = False
                _write(self.descriptor, self.facts)
            os.utime(self.descriptor)

    def confirm(self) -> bool:
        """Make sure that the cell is still this holder's, and that nobody takes it from now on; say whether it is.

        Raises:
            MachineError: what lies in the place of its next generation is no lease.
            OSError: the folder cannot be written to.
        """
        own, next_one = self.path, self.place / f"{self.name}.{self.generation + 1}"
        try:
            descriptor = _made(next_one, self.facts)
        except FileExistsError:
            _refuse_no_lease(next_one)
            return False  # taken over
        with self._lock:
            before, self.descriptor = self.descriptor, descriptor
            self.generation += 1
        try:
            if os.path.samestat(os.fstat(before), own.stat()):
                own.unlink()
                return True
        except FileNotFoundError:
            pass
        finally:
            os.close(before)
        self.path.unlink(missing_ok=True)  # somebody has finished it, and has gone
        return False

    def release(self) -> None:
        """Give it up."""
        with self._lock:
            if self.descriptor < 0:
                return
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(self.descriptor), self.path.stat()):
                    self.path.unlink()
            with contextlib.suppress(OSError):
                os.close(self.descriptor)
            self.descriptor = -1


class Leases:
    """What this harness holds in a folder: a context that keeps all of it fresh.

    Args:
        joins: whether others may work beside it.
    """

    def __init__(self, folder: Path, *, joins: bool = False) -> None:
        self.folder, self.joins = folder, joins
        self._held: list[Lease] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, name="leases", daemon=True)
        host = socket.gethostname()
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self._facts: Json = {"host": host, "machine": host_name(), "process": os.getpid(), "since": since}
        self._clocks_apart_s: float | None = None
        self._settled_at_s = 0.0
        self._own = Lease(self._place(_HARNESSES), f"{host_name()}-{os.getpid()}-{secrets.token_hex(4)}", {})

    def _place(self, kind: str) -> Path:
        return self.folder / _FOLDER / kind

    def __enter__(self) -> Self:
        """Be known to others.

        Raises:
            MachineError: others work here, and one of them or this one wants to be alone; or a link leads elsewhere.
            OSError: the folder cannot be written to.
        """
        self._refuse_links()
        self._own.facts = {**self._facts, "joins": self.joins, "finished": False}
        self._own.descriptor = _made(self._own.path, self._own.facts)
        self._held.append(self._own)
        try:
            self._refuse_company()
            if not self.joins:
                self._remove_dead(everything=True)
        except BaseException:
            self._own.release()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give everything up."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        for lease in reversed(self._held):
            lease.release()
        self._held.clear()
        if not self.others():
            self._remove_dead(everything=not self.joins)
            sweep_dead(self.folder)  # half a file of one that was killed while others worked on
        for kind_of in (_CELLS, _HARNESSES, ""):
            with contextlib.suppress(OSError):  # others are there, or will be
                self._place(kind_of).rmdir()

    def others(self) -> list[HeldLease]:
        """Return the other harnesses that live."""
        return [held for held in held_by_harnesses(self.folder) if held.live and held.name != self._own.name]

    def agree(self, plan: str, scenario: str) -> None:
        """Make sure that all who work here have one plan.

        Args:
            plan: what tells it from others; scenario: its name.

        Raises:
            MachineError: another has another one.
        """
        self._own.tell(plan=plan, scenario=scenario)
        self._own.touch()
        for other in self.others():
            if other.facts.get("plan", plan) != plan:
                raise MachineError(
                    f"{self.folder}: another harness ({other.holder}) works here on another plan of this name; join it "
                    "with the same scenario, options and versions, or use another folder (--results)"
                )

    def take(self, cell: str, **facts: object) -> Lease | None:
        """Take a cell; None where somebody else has it.

        Raises:
            MachineError: what lies in the place of its lease is none.
            OSError: the folder cannot be written to.
        """
        latest = held_cells(self.folder).get(cell)
        if latest is not None and (latest.live or not (_is_gone(latest.facts) or self._ages_hold())):
            return None
        generation = 1 if latest is None else latest.generation + 1
        lease = Lease(self._place(_CELLS), cell, {**self._facts, **facts, "cell": cell}, generation)
        for place in (lease.path, lease.place / f"{cell}.{generation + 1}"):  # the cell has to run, and to be confirmed
            _refuse_no_lease(place)
        try:
            lease.descriptor = _made(lease.path, lease.facts)
        except FileExistsError:
            return None
        if latest is not None:
            for held in _held(lease.place):
                if held.name == cell and 0 < held.generation < generation:
                    (lease.place / f"{cell}.{held.generation}").unlink(missing_ok=True)
        self._held = [held for held in self._held if held.descriptor >= 0]
        self._held.append(lease)
        return lease

    def _ages_hold(self) -> bool:
        """Say whether the file system's clock has gone on evenly for long enough to tell who is dead."""
        steady_s = time.monotonic()
        apart_s, before_s = _clock_s(self._place(_CELLS)) - steady_s, self._clocks_apart_s
        self._clocks_apart_s = apart_s
        if before_s is not None and abs(apart_s - before_s) > JUMP_S:
            self._settled_at_s = steady_s + AFTER_JUMP_S
        return steady_s >= self._settled_at_s

    def leave(self) -> bool:
        """Say that this harness has run all it will run; return whether it is the last to say so."""
        self._own.tell(finished=True)
        self._own.touch()
        return all(other.facts.get("finished") for other in self.others())

    def _refuse_links(self) -> None:
        for place in (self._place(""), self._place(_HARNESSES), self._place(_CELLS)):
            if place.is_symlink():
                raise MachineError(
                    f"{place}: a link leads out of the results folder; remove it, and run the command again"
                )

    def _refuse_company(self) -> None:
        for other in self.others():
            if not self.joins:
                join = "join it (harness run --join), " if other.facts.get("joins") else ""
                raise MachineError(
                    f"{self.folder}: another harness ({other.holder}) writes here; {join}wait until it is done, or use "
                    "another folder (--results)"
                )
            if not other.facts.get("joins"):
                raise MachineError(
                    f"{self.folder}: another harness ({other.holder}) writes here alone; start it with --join too, "
                    "wait until it is done, or use another folder (--results)"
                )

    def _remove_dead(self, *, everything: bool) -> None:
        """Remove files of harnesses that are dead, and their leases: all of them where nobody else may work here."""
        for place in (self._place(_HARNESSES), self._place(_CELLS)):
            for held in _held(place):
                if held.name != self._own.name and (everything or not held.live):
                    name = f"{held.name}.{held.generation}" if held.generation else held.name
                    (place / name).unlink(missing_ok=True)

    def _keep_fresh(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
        while not self._ended.wait(BEAT_S):
            for lease in tuple(self._held):
                with contextlib.suppress(OSError):  # the folder has gone, or its disk: whoever writes there will say so
                    lease.touch()


def _refuse_no_lease(path: Path) -> None:
    """Refuse what is no file in the place of a lease: whoever waited for its holder would wait for ever.

    Raises:
        MachineError: it is a folder, a link, a device, a pipe or a socket.
    """
    with contextlib.suppress(FileNotFoundError):  # it has just been released
        if not stat.S_ISREG(path.lstat().st_mode):
            raise MachineError(f"{path}: this is no file, and no lease; remove it, and run the command again")


def _made(path: Path, facts: Json) -> int:
    """Return the descriptor of a new file.

    Raises:
        FileExistsError: it is there.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    for _ in range(3):
        with contextlib.suppress(FileNotFoundError):  # another harness has just tidied up the empty folder
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, flags, 0o600)
            try:
                _write(descriptor, facts)
                os.utime(descriptor)
            except BaseException:
                os.close(descriptor)
                path.unlink(missing_ok=True)
                raise
            return descriptor
    raise FileNotFoundError(f"{path.parent}: the folder goes as soon as it is made")


def _write(descriptor: int, facts: Json) -> None:
    content = json.dumps(facts).encode()[: _MOST_BYTES - 1].ljust(_PADDED) + b"\n"
    os.pwrite(descriptor, content, 0)
    os.ftruncate(descriptor, len(content))
