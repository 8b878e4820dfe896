"""Whose a failure is: told by the error's type and by the frames that it passed, never by its words."""

from __future__ import annotations

import dis
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

from harness.api.host import bundled, describe
from harness.core.cell import Cell
from harness.core.endings import Cause
from harness.core.errors import HarnessError
from harness.core.failure import Failure, SourceLine
from harness.core.text import Text
from harness.engines.processes.foreign import has_lost_peer, has_no_memory

_RAISE = dis.opmap["RAISE_VARARGS"]


def explain(error: BaseException, files: Collection[str], process: int = 0) -> Failure:
    """Say what a process failed of, by the user's own file and line where the error passed one.

    The user's program and model are on the way of nearly every error: a worker that runs out of memory does so inside
    `worker.gradient`. So the errors are asked one by one, from the one that was raised last to the one that caused it,
    until one tells by itself; only then is it enough that a line of the user's was on the way.

    Args:
        error: what ended the process.
        files: the user's own, from `own_files`.
        process: number of the process.
    """
    errors = list(_chain(error))
    for each in errors:
        cause = _cause(each, files)
        if cause is not None:
            return _failure(cause, each, files, process)
    passed = [each for each in errors if _own_lines(each, files)]
    if passed:  # the first cause is the nearest to the mistake: torch's pipelines raise an error of their own around it
        return _failure(Cause.USER, passed[-1], files, process)
    return _failure(Cause.HARNESS, errors[0], files, process)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from, as Python's own tracebacks follow them."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)


def _cause(error: BaseException, files: Collection[str]) -> Cause | None:
    """Return what one error tells by itself; None where what it came from has to be asked."""
    if isinstance(error, HarnessError):
        return error.cause
    last = _last(error)
    in_own_file = last is not None and last.tb_frame.f_code.co_filename in files
    if last is not None and in_own_file and last.tb_frame.f_code.co_code[last.tb_lasti] == _RAISE:
        return Cause.USER  # by a `raise` that the user wrote: whatever it is called, it is not torch's or the system's
    if isinstance(error, (MemoryError, *_of_torch("OutOfMemoryError"))) or has_no_memory(error):
        return Cause.MEMORY
    if isinstance(error, _of_torch("DistError", "torch.distributed")) or has_lost_peer(error) or _ended_pipe(error):
        return Cause.PEER
    return Cause.USER if in_own_file else None


def _last(error: BaseException) -> Any:
    """Return the traceback's entry of the frame in which the error came up."""
    entry = error.__traceback__
    while entry is not None and entry.tb_next is not None:
        entry = entry.tb_next
    return entry


def _of_torch(name: str, module: str = "torch") -> tuple[type[BaseException], ...]:
    """Return a class of torch's, or nothing in a process that has never imported it."""
    loaded = sys.modules.get(module)
    return (getattr(loaded, name),) if loaded is not None and hasattr(loaded, name) else ()


def _ended_pipe(error: BaseException) -> bool:
    """Whether the other end of a pipe between processes is gone; files and sites end and refuse with the same types."""
    last = _last(error)
    of_a_pipe = last is not None and last.tb_frame.f_code.co_filename == connection.__file__
    return of_a_pipe and isinstance(error, (ConnectionError, EOFError))


def _own_lines(error: BaseException, files: Collection[str]) -> list[SourceLine]:
    frames = traceback.extract_tb(error.__traceback__)
    return [SourceLine(frame.filename, frame.lineno or 0) for frame in frames if frame.filename in files]


def _failure(cause: Cause, error: BaseException, files: Collection[str], process: int) -> Failure:
    own = _own_lines(error, files)
    return Failure(cause, Text(_reason(cause, error, list(files))), process, own[-1] if own else None)


def _reason(cause: Cause, error: BaseException, files: Sequence[str]) -> str:
    words = str(error).strip()
    if isinstance(error, HarnessError):
        return words
    if cause is Cause.MEMORY:
        return words.splitlines()[0] if words else "out of memory"
    return describe(error, files) if cause is Cause.USER else f"{type(error).__name__}: {words}"


def own_files(cell: Cell, plugins: Sequence[str]) -> list[str]:
    """Return the files whose frames are the user's: plugins, and workloads named by path."""
    named = [work.name.rpartition(":")[0] for work in (cell.workload.model, cell.workload.dataset)]
    files = [str((Path(cell.folder) / name).resolve()) for name in named if name.endswith(".py")]
    files += [str(path.resolve()) for path in bundled("plugins").glob("*.py")]
    for plugin in plugins:
        path = Path(plugin).resolve()
        files += [str(p) for p in path.glob("*.py")] if path.is_dir() else [str(path)]
    return files
