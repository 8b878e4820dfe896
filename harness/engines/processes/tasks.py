"""Processes that measure together: started from the warm fork server, heard, and ended whatever happens."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from harness.core.errors import MachineError
from harness.core.held_files import give
from harness.engines.processes.forking import end_all, fork_server, sources_of, sweep
from harness.workloads.user_import import environment_of_user_files

if TYPE_CHECKING:
    from harness.core.cell import Cell

ENDING_S = 2.0
"""Time for a process to leave by itself before it is ended; chosen."""

Task = Callable[..., Any]


@contextlib.contextmanager
def started(
    tasks: Sequence[tuple[Task, tuple[object, ...]]], threads: int, cell: Cell | None = None
) -> Iterator[list[connection.Connection]]:
    """Start one process for each (function, arguments) and yield a connection to each; end them all on leaving.

    A function is called with its connection behind its arguments; what it returns is sent as ("done", answer).

    Args:
        cell: whose model and data they run; None where they run neither.
    """
    context = fork_server(cell)
    sources = sources_of(cell) if cell is not None else {}
    processes, connections = [], []
    try:
        for function, arguments in tasks:
            mine, theirs = context.Pipe()
            process = context.Process(
                target=_run, args=(function, arguments, threads, dict(os.environ), sources, theirs), daemon=True
            )
            process.start()
            theirs.close()
            processes.append(process)
            connections.append(mine)
        yield connections
    except KeyboardInterrupt:
        end_all()
        raise
    finally:
        for mine in connections:
            mine.close()
        for process in processes:
            process.join(ENDING_S)
            if process.is_alive():
                process.kill()
                process.join()
        sweep()


def _run(
    function: Task,
    arguments: tuple[object, ...],
    threads: int,
    environment: dict[str, str],
    sources: dict[str, bytes],
    control: connection.Connection,
) -> None:
    os.environ.update(environment | environment_of_user_files())
    give(sources)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    try:
        control.send(("done", function(*arguments, control)))
    except (BrokenPipeError, EOFError):
        return  # whoever asked is gone, or wants no answer any more
    except Exception as error:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            control.send(("failed", f"{type(error).__name__}: {error}"))
        os._exit(1)  # peers may wait in a collective: leaving at once is what tells them


def answers(connections: Sequence[connection.Connection], what: str, timeout_s: float) -> list[Any]:
    """Return what every process answered, in their order.

    Raises:
        MachineError: one failed, died, or took longer than `timeout_s`.
    """
    return [hear(each, what, timeout_s) for each in connections]


def hear(control: connection.Connection, what: str, timeout_s: float, kind: str = "done") -> Any:
    """Return the next word of one process.

    Raises:
        MachineError: it failed, died, or took longer than `timeout_s`.
    """
    began = time.monotonic()
    try:
        if not control.poll(timeout_s):
            raise MachineError(f"{what}: no answer after {time.monotonic() - began:.0f} s")
        word, content = control.recv()
    except (EOFError, OSError):
        raise MachineError(f"{what}: the measuring process ended without a word") from None
    if word != kind:
        raise MachineError(f"{what}: {content}")
    return content
