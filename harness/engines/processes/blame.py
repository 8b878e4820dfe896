"""Whose a failure is: told by the error's type and by the frames that it passed, never by its words."""

from __future__ import annotations

import dis
import os
import sys
import traceback
from collections.abc import Collection, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

from harness.api.host import bundled, describe
from harness.core.cell import Cell
from harness.core.endings import Cause
from harness.core.errors import HarnessError, words_of_error
from harness.core.failure import Failure, SourceLine
from harness.core.text import Text
from harness.engines.processes.foreign import has_lost_peer, has_no_memory, is_of_memory, of_torch
from harness.engines.processes.torch_errors import causes_of, mending
from harness.workloads.user_files import UserFunction, user_functions
from harness.workloads.user_import import user_sources

_PACKAGE = str(Path(__file__).parents[2]) + os.sep

_RAISE = dis.opmap["RAISE_VARARGS"]


def explain(error: BaseException, files: Collection[str], process: int = 0, his: str = "") -> Failure:
    """Say what a process failed of, by the user's own file and line where the error passed one.

    The user's program and model are on the way of nearly every error: a worker that runs out of memory does so inside
    `worker.gradient`. So the errors are asked one by one, from the one that was raised last to the one that caused it,
    until one tells by itself; only then is it enough that a line of the user's was on the way. Where none was, but the
    workload is his and torch raised, it is his model that does not do under this strategy. What a frame of ours raised
    without any of his is a bug of ours.

    Args:
        error: what ended the process.
        files: the user's own, from `own_files`.
        process: number of the process.
        his: what of the workload is the user's, from `named_by_user`; empty where nothing is.
    """
    errors = list(causes_of(error))
    for each in errors:
        cause = _cause(each, files)
        if cause is not None:
            return _failure(cause, each, files, process)
    passed = [each for each in errors if _own_lines(each, files)]
    if passed:  # the first cause is the nearest to the mistake: torch's pipelines raise an error of their own around it
        return _failure(Cause.USER, passed[-1], files, process)
    of_torch = [each for each in errors if _torch_raised(each) or mending(each)] if his else []
    if of_torch:
        return _failure(Cause.USER, of_torch[-1], files, process, his)
    return _failure(Cause.HARNESS, errors[0], files, process)


def explain_in(cell: Cell, plugins: Sequence[str], error: BaseException, process: int = 0) -> Failure:
    """Say what a process of a cell failed of, as `explain` does."""
    return explain(error, own_files(cell, plugins), process, named_by_user(cell))


def print_blamed(error: BaseException, failure: Failure, files: Collection[str]) -> None:
    """Print an error's traceback; of one that is the user's it ends at his line, and not in ours below it."""
    if isinstance(error, HarnessError) and error.cause is None and error.__cause__ is not None:
        error = error.__cause__  # the program's own error: around it is only how we run programs
    shown = traceback.TracebackException.from_exception(error)
    own = [place for place, frame in enumerate(shown.stack) if frame.filename in files]
    if failure.cause is Cause.USER and own and all(_is_ours(frame.filename) for frame in shown.stack[own[-1] + 1 :]):
        shown.stack = traceback.StackSummary.from_list(shown.stack[: own[-1] + 1])
    print("".join(shown.format()), end="", file=sys.stderr)


def _is_ours(filename: str) -> bool:
    return filename.startswith((_PACKAGE, str(bundled("plugins")) + os.sep))


def _torch_raised(error: BaseException) -> bool:
    """Whether we called torch, and what raised is torch or what it called, such as the model."""
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [place for place, filename in enumerate(frames) if _is_ours(filename)]
    torch = sys.modules.get("torch")
    if torch is None or torch.__file__ is None:
        return False
    below = frames[ours[-1] + 1 :] if ours else frames
    return bool(below) and below[0].startswith(os.path.dirname(torch.__file__) + os.sep)


def _cause(error: BaseException, files: Collection[str]) -> Cause | None:
    """Return what one error tells by itself; None where what it came from has to be asked."""
    if isinstance(error, HarnessError):
        inside = error.__cause__  # within our words stands what a model, a loss or a file of the user's raised
        lacking = error.cause is not None and inside is not None and _cause(inside, files) is Cause.MEMORY
        return Cause.MEMORY if lacking else error.cause
    if is_of_memory(error):
        return Cause.MEMORY
    last = _last(error)
    in_own_file = last is not None and last.tb_frame.f_code.co_filename in files
    if last is not None and in_own_file and last.tb_frame.f_code.co_code[last.tb_lasti] == _RAISE:
        return Cause.USER  # by a `raise` that the user wrote: whatever it is called, it is not torch's or the system's
    if has_no_memory(error):
        return Cause.MEMORY
    if isinstance(error, of_torch("DistError", "torch.distributed")) or has_lost_peer(error) or is_end_of_pipe(error):
        return Cause.PEER
    return Cause.USER if in_own_file else None


def _last(error: BaseException) -> Any:
    """Return the traceback's entry of the frame in which the error came up."""
    entry = error.__traceback__
    while entry is not None and entry.tb_next is not None:
        entry = entry.tb_next
    return entry


def is_end_of_pipe(error: BaseException) -> bool:
    """Whether the other end of a pipe between processes is gone; files and sites end and refuse with the same types."""
    last = _last(error)
    of_a_pipe = last is not None and last.tb_frame.f_code.co_filename == connection.__file__
    return of_a_pipe and isinstance(error, (ConnectionError, EOFError))


def _own_lines(error: BaseException, files: Collection[str]) -> list[SourceLine]:
    frames = traceback.extract_tb(error.__traceback__)
    return [SourceLine(frame.filename, frame.lineno or 0) for frame in frames if frame.filename in files]


def _failure(cause: Cause, error: BaseException, files: Collection[str], process: int, his: str = "") -> Failure:
    # Within our words stands what a line of the user's raised.
    own = next((lines for each in causes_of(error) if (lines := _own_lines(each, files))), [])
    reason = (
        f"{his}: {type(error).__name__}: {words_of_error(error).strip()}" if his else _reason(cause, error, list(files))
    )
    mended = mending(error) if cause is Cause.USER and not isinstance(error, HarnessError) else ""
    return Failure(cause, Text(f"{reason}\n  {mended}" if mended else reason), process, own[-1] if own else None)


def _reason(cause: Cause, error: BaseException, files: Sequence[str]) -> str:
    words = words_of_error(error).strip()
    if isinstance(error, HarnessError):
        return words
    if cause is Cause.MEMORY:
        return words.splitlines()[0] if words else "out of memory"
    return describe(error, files) if cause is Cause.USER else f"{type(error).__name__}: {words}"


def own_files(cell: Cell, plugins: Sequence[str]) -> list[str]:
    """Return the files whose frames are the user's: plugins, and those that a workload names with their neighbours."""
    files = [name for function in _functions(cell) for name in sorted(user_sources(function))]
    for plugin in plugins:
        path = Path(plugin).resolve()
        files += [str(p) for p in path.glob("*.py")] if path.is_dir() else [str(path)]
    return list(dict.fromkeys(files))


def named_by_user(cell: Cell) -> str:
    """Return what of a cell's workload is the user's, as the scenario names it; empty where nothing is."""
    return " with ".join(dict.fromkeys(function.written for function in _functions(cell)))


def _functions(cell: Cell) -> list[UserFunction]:
    try:
        return user_functions(cell)
    except HarnessError:  # and that is what the process failed of
        return []
