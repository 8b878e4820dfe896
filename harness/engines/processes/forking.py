"""The servers that all processes of cells, calibrations and telemetry are forked from. Imports no torch.

The first server has imported torch and the engines. A scenario that names files of the user's gets a server of its own,
forked from the first, that has imported them too: a library that takes ten seconds to import is imported once for
a scenario and not by every process of every cell. Another text of a file, or of a neighbour that it imports, is another
server. `multiprocessing` has one server per program and a short path to its socket at heart; so this file has its own.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import io
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, popen_forkserver, reduction, resource_tracker, spawn, util
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.context import ForkServerProcess, set_spawning_popen
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import HarnessError, MachineError
from harness.core.held_files import contents
from harness.core.parents import born_deaf, die_with_parent, guarded
from harness.engines.processes.hearing import Silent, reap, receive, send
from harness.engines.processes.serving import Imported, ToImport, serve_with_user_files
from harness.engines.processes.slots import Descriptor
from harness.engines.shared.kept_data import data_key
from harness.workloads.user_files import user_functions

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from harness.core.cell import Cell

_Target = Callable[..., object]

FORKING_S = 600.0
"""Longest that a server may take to fork a process; chosen: importing torch before its first takes two minutes where
the disk is slow and other processes keep all cores busy."""

IMPORTING_S = 300.0
"""Longest that the user's files may take to import before every process does so by itself; chosen: transformers takes
15 s on two busy cores."""

MOST_SERVERS = 4
"""Servers with files of the user's, or with data, that are kept; chosen: each holds 20 MB and more."""

GONE_S = 2.0
"""Longest that the end of all processes is waited for; chosen: what a driver holds longer goes when it lets go."""

_LONGEST_PATH = 100
"""Of a socket, in bytes: the system's structure has room for 108 on Linux and 104 on macOS (unix(7), sys/un.h)."""


class Forking:
    """Where processes come from: what `multiprocessing` calls a context, of one server.

    Attributes:
        note: why the user's files were not imported in the server, for the record; empty where they were, or where
            each process will say what is wrong with them.
    """

    def __init__(self, server: _Server, note: str = "") -> None:
        self._server, self.note = server, note

    @property
    def address(self) -> str:
        """Return where the server's socket lies; empty where it does not run."""
        return self._server.address

    @staticmethod
    def Pipe() -> tuple[Connection, Connection]:  # noqa: N802  # as a context calls it
        """Return the two ends of a pipe."""
        return Pipe()

    def Process(  # noqa: N802  # as a context calls it
        self, target: _Target, args: tuple[object, ...] = (), *, name: str | None = None, daemon: bool | None = None
    ) -> ForkedProcess:
        """Return a process that is not started yet; the options are those of `multiprocessing.Process`."""
        return ForkedProcess(self._server, target, args, name, daemon)


class ForkedProcess(ForkServerProcess):
    """A process that one of our servers forks."""

    def __init__(
        self, server: _Server, target: _Target, args: tuple[object, ...], name: str | None, daemon: bool | None
    ) -> None:
        super().__init__(target=target, args=args, name=name, daemon=daemon)
        self.server = server

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> _Popen:  # type: ignore[override]  # noqa: N802  # multiprocessing's name
        return _Popen(process_obj)

    def run(self) -> None:
        """Do what the process is for; from a signal to all of a group it is spared, as its server is."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whoever started it ends it that way
        die_with_parent()
        for name in os.listdir("/dev/fd"):
            with contextlib.suppress(OSError):  # the listing's own
                os.set_inheritable(int(name), int(name) < 3)  # what came through a socket would pass through exec too
        super().run()

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"server": None}  # the process itself has no use for it


class _Popen(popen_forkserver.Popen):
    """Asks the process's own server; `multiprocessing` asks the only one that it knows."""

    def _launch(self, process_obj: ForkedProcess) -> None:
        buffer = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(_preparation(process_obj.name), buffer)
            reduction.dump(process_obj, buffer)
        finally:
            set_spawning_popen(None)
        try:
            self.sentinel, writing = process_obj.server.connect_to_new_process(self._fds)  # type: ignore[attr-defined]
            kept = os.dup(writing)  # its end tells the process that this one is gone
            self.finalizer = util.Finalize(self, util.close_fds, (kept, self.sentinel))  # type: ignore[attr-defined]
            try:
                send(writing, buffer.getbuffer(), FORKING_S)
                if not wait([self.sentinel], FORKING_S):
                    raise Silent
            finally:
                os.close(writing)
            self.pid = forkserver.read_signed(self.sentinel)
        except Silent:
            end_all()  # the next process is asked of a new server
            raise MachineError(
                f"the server that processes are forked from gave no answer for {FORKING_S:g} s; run the command again"
            ) from None
        except (EOFError, ConnectionError):
            end_all()
            raise MachineError(
                "the server that processes are forked from has ended. Something outside killed it, such as a limit "
                "(`ulimit -t`) or the kernel for lack of memory; run the command again"
            ) from None
        except BaseException:
            end_all()  # a server that still imports would give birth later to what nobody knows of any more
            raise


def _preparation(name: str) -> dict[str, object]:
    """Return what a process takes over from this one; not its main module, which none of ours needs."""
    data = {key: value for key, value in spawn.get_preparation_data(name).items() if "init_main" not in key}
    with contextlib.suppress(FileNotFoundError):
        data["dir"] = os.getcwd()
    return data | {"sys_path": search_path()}


def search_path() -> list[str]:
    """Return where our processes import from: as here, but never from the folder where we happen to stand.

    A `signal.py` there would be taken for Python's. What the user put into PYTHONPATH stays, and so does the folder
    that this package itself lies in.
    """
    own = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    kept = {os.path.abspath(entry) for entry in (*own, str(Path(__file__).parents[3]))}
    here = "" if sys.flags.safe_path else os.path.abspath(os.curdir)
    entries = [entry for entry in sys.path if entry]
    if entries and os.path.abspath(entries[0]) == here and here not in kept:
        del entries[0]
    return entries


class _Server(forkserver.ForkServer):
    """A server of our own beside the only one that `multiprocessing` knows, under a guard.

    Attributes:
        folder: of its socket, and of all temporary files of its processes; the guard removes it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = ""
        self._guard: int | None = None  # the end of the pipe that tells it of us

    @property
    def address(self) -> str:
        """Return where its socket lies; empty where it does not run."""
        return self._forkserver_address or ""

    def ensure_running(self) -> None:
        """Start the server where it does not run."""
        with self._lock:  # type: ignore[attr-defined]
            with _safe_path():
                resource_tracker.ensure_running()
            if not self._runs():
                self._start()

    def _runs(self) -> bool:
        if self._forkserver_pid is None:
            return False
        pid, _ = os.waitpid(self._forkserver_pid, os.WNOHANG)
        if not pid:
            return True
        self.forget()
        return False

    def _start(self) -> None:
        listener, alive_r, alive_w = self.listen()
        told, telling = os.pipe()
        try:
            command = (
                f"import sys; sys.path[:] = {search_path()!r}; from harness.engines.processes.serving import serve"
            )
            command += f"; serve({listener.fileno()}, {alive_r})"
            flags = [flag for flag in util._args_from_interpreter_flags() if flag != "-P"]  # type: ignore[attr-defined]
            program = os.fsencode(spawn.get_executable())
            arguments = guarded([os.fsdecode(program), *flags, "-P", "-c", command], told, self.folder)
            passed = [listener.fileno(), alive_r, told]
            with born_deaf():
                pid = util.spawnv_passfds(program, arguments, passed)  # type: ignore[attr-defined]
                self._forkserver_pid, self._forkserver_alive_fd, self._guard = pid, alive_w, telling
        except BaseException:
            if self._guard is None:
                os.close(alive_w)
                os.close(telling)
            raise
        finally:
            os.close(alive_r)
            os.close(told)
            listener.close()

    def listen(self) -> tuple[socket.socket, int, int]:
        """Return the server's socket and both ends of the pipe that ends the server when nobody holds its writing end.

        The socket is a file; its folder is elsewhere where the temporary folder's name is too long for one.
        """
        for place in (_first.folder or None, "/tmp", "/var/tmp", "/dev/shm"):
            self.folder = tempfile.mkdtemp(prefix="harness-", dir=place)
            address = str(Path(self.folder) / "socket")
            if len(os.fsencode(address)) <= _LONGEST_PATH:
                break
            os.rmdir(self.folder)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        os.chmod(address, 0o600)
        listener.listen()
        self._forkserver_address = address
        return (listener, *os.pipe())

    def forget(self) -> None:
        """Let the server end with all that was forked from it, and remove its folder."""
        for descriptor in (self._forkserver_alive_fd, self._guard):
            if descriptor is not None:
                os.close(descriptor)
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder, self._guard = "", None
        for name in ("address", "alive_fd", "pid"):  # the class's own way to say that it does not run
            setattr(self, f"_forkserver_{name}", None)

    def end(self) -> None:
        """End the server and all that was forked from it, and wait for that."""
        pid, until = self._forkserver_pid, time.monotonic() + GONE_S
        self.forget()
        while pid is not None and time.monotonic() < until:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    return
            time.sleep(0.002)

    def sweep(self) -> None:
        """Have the guard end what has lost its parent: what a process started and did not end."""
        if self._guard is not None:
            with contextlib.suppress(OSError):  # the guard has gone, and all with it
                os.write(self._guard, b"s")


class _UserServer(_Server):
    """A server that has imported files of the user's: a process of the first server."""

    def __init__(self) -> None:
        super().__init__()
        self.process: ForkedProcess | None = None

    @property
    def alive(self) -> bool:
        """Whether processes can be forked from it."""
        return self.process is not None and self.process.is_alive()

    def ensure_running(self) -> None:
        """Make sure of the tracker only: whoever hands this server out looks whether it runs."""
        with _safe_path():
            resource_tracker.ensure_running()

    def take(self, alive: int) -> None:
        """Keep the end of the pipe whose closing ends the server."""
        self._forkserver_alive_fd = alive


class _Borrowed(_Server):
    """A server of the process that this one was forked for: asked for processes, never started or ended from here."""

    def __init__(self, address: str, folder: str) -> None:
        super().__init__()
        self.folder, self._forkserver_address = folder, address
        # What `multiprocessing` hands on to each process, so that a server lives as long as anybody needs it.
        self._forkserver_alive_fd = forkserver._forkserver._forkserver_alive_fd  # type: ignore[attr-defined]

    def ensure_running(self) -> None:
        """Make sure of the tracker only; where the server has ended, asking it says so."""
        with _safe_path():
            resource_tracker.ensure_running()

    def forget(self) -> None:
        """Leave it to its owner."""

    def end(self) -> None:
        """Leave it to its owner."""


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Let Python processes that are started meanwhile not import from the folder where we stand."""
    name = "PYTHONSAFEPATH"
    if name in os.environ:
        yield
        return
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]


@dataclass
class _Kept:
    forking: Forking
    server: _UserServer | None = None

    @property
    def usable(self) -> bool:
        return self.server is None or self.server.alive


_first = _Server()
_kept: dict[str, _Kept] = {}
_lent: Counter[str] = Counter()
_owner = os.getpid()


def fork_server(
    cell: Cell | None = None, plugins: Sequence[str] = (), log: str = "", *, with_data: bool = False
) -> Forking:
    """Return where processes come from, its server started and warm.

    Args:
        cell: what the processes are for: where it names files of the user's, they are imported there.
        plugins: files that the cell's processes load.
        log: file that the output of importing is appended to.
        with_data: whether they train, so that data which many cells share may be loaded there.
    """
    first = Forking(_first)
    key = "" if cell is None else _key_of(cell, with_data)
    if cell is None or not key:
        return first
    if key not in _kept or not _kept[key].usable:
        _drop(key)
        sources = sources_of(cell)
        if not sources and len(_kept) >= MOST_SERVERS:
            return first  # its processes load their data themselves, which costs less than a server for each in turn
        _make_room()
        wanted = ToImport(cell, tuple(plugins), sources, log, data=not sources)
        _kept[key] = _with_user_files(wanted)
    return _kept[key].forking


def _make_room() -> None:
    """End the oldest servers where there are too many, but for those whose processes may be running."""
    for key in [key for key in _kept if not _lent[key]][: max(0, len(_kept) + 1 - MOST_SERVERS)]:
        _drop(key)


@dataclass(frozen=True)
class Lent:
    """Servers that a process forked from the first one may ask for processes, as the process that started them does.

    Attributes:
        address: of the first server's socket; folder: where its processes put temporary files.
        own: address of the server that has a cell's files or data; empty where it has none.
        key: of what that server has; note: as `Forking.note`.
    """

    address: str
    folder: str
    own: str = ""
    key: str = ""
    note: str = ""


def lend(cell: Cell, plugins: Sequence[str] = (), log: str = "") -> Lent:
    """Return what another process needs to have a cell's processes forked as from here, the servers started and warm.

    They are kept until they are given back.

    Args:
        cell, plugins, log: as `fork_server` takes them.
    """
    forking = fork_server(cell, plugins, log, with_data=True)
    _first.ensure_running()
    key = _key_of(cell, with_data=True)
    _lent[key] += 1
    own = forking.address if forking.address != _first.address else ""
    return Lent(_first.address, _first.folder, own, key, forking.note)


def give_back(lent: Lent) -> None:
    """Let servers that were lent be ended when others are wanted."""
    _lent[lent.key] -= 1


def borrow(lent: Lent) -> None:
    """Have this process's cells forked from the servers of another; this process itself was forked from the first."""
    global _first
    if _first.address != lent.address:
        _first = _Borrowed(lent.address, lent.folder)
    _kept.clear()
    if lent.key:
        server = _Borrowed(lent.own, lent.folder) if lent.own else _first
        _kept[lent.key] = _Kept(Forking(server, lent.note))


def end_all() -> None:
    """End all our processes at once, those too that are only about to be born; the next one starts its server anew."""
    _first.end()
    _lent.clear()
    for key in list(_kept):
        _drop(key)


def sweep() -> None:
    """End what the processes that have ended once started, and left behind."""
    _first.sweep()


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for our processes that is removed even where this process dies before it can do so."""
    _first.ensure_running()
    return tempfile.TemporaryDirectory(prefix="harness-", dir=_first.folder)


def sources_of(cell: Cell) -> dict[str, bytes]:
    """Return the user's files that a cell runs, by path, as they are held; none where one of them cannot be read."""
    try:
        return contents(path for function in user_functions(cell) for path in function.sources)
    except (HarnessError, OSError):  # the cell's processes will say what is wrong
        return {}


def _key_of(cell: Cell, with_data: bool) -> str:
    """Return what a cell's files are told from others by: names, places and contents; without any, its data.

    Empty where its processes come from the first server.
    """
    sources = sources_of(cell)
    if not sources:
        return data_key(cell) if with_data else ""
    names = [f"{function.key} {function.written} {function.root}" for function in user_functions(cell)]
    digest = hashlib.sha256("\n".join(sorted(names)).encode(errors="surrogatepass"))
    for path, content in sorted(sources.items()):
        digest.update(f"\n{path}\n{len(content)}\n".encode(errors="surrogatepass") + content)
    return digest.hexdigest()


def _with_user_files(wanted: ToImport) -> _Kept:
    """Start a server that imports the user's files; where that goes wrong, use the first one, and keep why."""
    _first.ensure_running()
    ours, theirs = Pipe()
    server = _UserServer()
    listener, alive_r, alive_w = server.listen()
    arguments = (Descriptor(listener.fileno()), Descriptor(alive_r), theirs, wanted)
    server.process = Forking(_first).Process(serve_with_user_files, arguments, name="user files", daemon=True)
    try:
        server.process.start()
        server.take(alive_w)
        theirs.close()  # with no copy of its end here, a dead server is the end of the pipe
        imported = _heard(ours, min(IMPORTING_S, wanted.cell.cell_timeout_s))
    except BaseException:
        _stop(server)
        raise
    finally:
        os.close(alive_r)
        listener.close()
        ours.close()
        theirs.close()
    if imported.ready:
        return _Kept(Forking(server), server)
    _stop(server)
    return _Kept(Forking(_first, "" if wanted.data else imported.reason))


def _heard(control: Connection, longest_s: float) -> Imported:
    try:
        imported: Imported = receive(control, longest_s)
    except Silent:
        reason = f"the file took more than {longest_s:g} s to import, so that every process imports it anew"
        return Imported(False, reason)
    except (EOFError, OSError):
        return Imported(False, "the file ended the process that imported it, so that every process imports it anew")
    return imported


def _drop(key: str) -> None:
    kept = _kept.pop(key, None)
    if kept is not None and kept.server is not None:
        _stop(kept.server)


def _stop(server: _UserServer) -> None:
    server.forget()
    if server.process is not None and server.process.pid is not None:
        reap([server.process], patience_s=0.0)


@atexit.register
def _stop_all() -> None:
    """Remove the folders; the guard ends all that was forked as soon as nobody holds its pipe."""
    if os.getpid() != _owner:
        return
    for key in list(_kept):
        _drop(key)
    _first.forget()
