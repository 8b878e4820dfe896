"""Processes that measure together: started from the warm fork server, heard, and ended whatever happens."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NoReturn

from harness.core.errors import MachineError
from harness.core.held_files import give
from harness.engines.processes.blame import explain, explain_in, is_end_of_pipe
from harness.engines.processes.forking import end_all, fork_server, sources_of, sweep
from harness.engines.processes.hearing import Silent, how_ended, reap, receive
from harness.engines.processes.kernel_kills import kernel_kills
from harness.workloads.user_import import environment_of_user_files

if TYPE_CHECKING:
    from harness.core.cell import Cell

ENDING_S = 2.0
"""Time for a process to leave by itself before it is ended; chosen."""

Task = Callable[..., Any]


@dataclass(frozen=True)
class Answering:
    """A process that was started to answer."""

    process: BaseProcess
    control: connection.Connection
    kernel_kills_before: int | None


@contextlib.contextmanager
def started(
    tasks: Sequence[tuple[Task, tuple[object, ...]]], threads: int, cell: Cell | None = None
) -> Iterator[list[Answering]]:
    """Start one process for each (function, arguments) and yield them; end them all on leaving.

    A function is called with its connection behind its arguments; what it returns is sent as ("done", answer).

    Args:
        cell: whose model and data they run; None where they run neither.
    """
    context = fork_server(cell)
    sources = sources_of(cell) if cell is not None else {}
    asked: list[Answering] = []
    try:
        for function, arguments in tasks:
            mine, theirs = context.Pipe()
            process = context.Process(
                target=_run, args=(function, arguments, threads, dict(os.environ), sources, cell, theirs), daemon=True
            )
            asked.append(Answering(process, mine, kernel_kills()))
            process.start()
            theirs.close()
        yield asked
    except KeyboardInterrupt:
        end_all()
        raise
    finally:
        for each in asked:
            each.control.close()
        reap([each.process for each in asked], ENDING_S)
        sweep()


def _run(
    function: Task,
    arguments: tuple[object, ...],
    threads: int,
    environment: dict[str, str],
    sources: dict[str, bytes],
    cell: Cell | None,
    control: connection.Connection,
) -> None:
    os.environ.update(environment | environment_of_user_files())
    give(sources)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    try:
        control.send(("done", function(*arguments, control)))
    except (BrokenPipeError, EOFError) as error:
        if is_end_of_pipe(error):
            return  # whoever asked is gone, or wants no answer any more
        _tell(control, cell, error)
    except BaseException as error:  # a model may raise anything
        _tell(control, cell, error)


def _tell(control: connection.Connection, cell: Cell | None, error: BaseException) -> NoReturn:
    """Say what this process failed of, and leave at once: that is what tells peers that wait in a collective."""
    failure = explain(error, []) if cell is None else explain_in(cell, [], error)
    with contextlib.suppress(OSError):
        control.send(("failed", failure))
    os._exit(1)


def answers(asked: Sequence[Answering], what: str, timeout_s: float) -> list[Any]:
    """Return what every process answered, in their order.

    Raises:
        MachineError: one failed, died, or took longer than `timeout_s`.
    """
    until = time.monotonic() + timeout_s
    return [hear(each, what, max(0.0, until - time.monotonic())) for each in asked]


def hear(asked: Answering, what: str, timeout_s: float, kind: str = "done") -> Any:
    """Return the next word of one process.

    Raises:
        MachineError: it failed, died, or took longer than `timeout_s`.
    """
    began = time.monotonic()
    try:
        word, content = receive(asked.control, timeout_s)
    except Silent:
        raise MachineError(f"{what}: no answer after {time.monotonic() - began:.0f} s") from None
    except (EOFError, OSError):
        asked.process.join(ENDING_S)
        ended = how_ended(asked.process, asked.kernel_kills_before)
        raise MachineError(f"{what}: the measuring process {ended}") from None
    if word != kind:
        raise MachineError(f"{what}: {content.reason}")
    return content
