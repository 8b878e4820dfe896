"""What the fork servers do: import once what many processes need, then fork them. Runs in the servers themselves."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from harness.api.host import load_built_in, load_host
from harness.core.endings import Cause
from harness.core.held_files import give
from harness.engines.processes.slots import Detachable
from harness.workloads.user_files import user_functions
from harness.workloads.user_import import user_object

if TYPE_CHECKING:
    from harness.core.cell import Cell

PRELOADED = [
    "torch",
    "torch._dynamo",
    "torch.distributed",
    "torch.nn.parallel",
    "harness.engines.shared.setup",
    "harness.engines.virtual.engine",
    "harness.engines.real.endpoints",
    "harness.workloads.data",
    "harness.workloads.nets",
    "harness.workloads.losses",
    "harness.engines.telemetry.sampler",
    # What each process of a cell would import for itself: half of the time that it takes to get ready.
    "torch.distributed.pipelining",
    "torch.nn.attention.flex_attention",
    "harness.engines.processes.forking",
    "harness.engines.processes.process",
    "harness.engines.real.layouts.captured",
    "harness.engines.real.layouts.choose",
    "harness.engines.real.layouts.grid",
    "harness.engines.real.layouts.pipelined",
    "harness.engines.real.layouts.sharded",
    "harness.engines.shared.batch_norm",
    "harness.engines.shared.loads",
    "harness.engines.telemetry.amd",
    "harness.engines.telemetry.cpu",
    "harness.engines.telemetry.nvml",
    "harness.workloads.datasets",
    "harness.workloads.user",
]
"""What the first server imports, so that a cell starts in a tenth of a second instead of five."""

TRIAL_BUILD_S = 60.0
"""Longest that the first building of a model may take before a server does without what it imports; chosen."""

_NOT_INITIALIZED = 3
"""CUDA_ERROR_NOT_INITIALIZED of the driver's interface, cuda.h."""


@dataclass
class ToImport:
    """What a server imports for the cells of a scenario.

    Attributes:
        cell: one of them: its files are imported, and its model is built once in a process that is thrown away.
        sources: the files' contents, by path.
        log: file that their output is appended to; empty: where ours goes.
        data: instead, its data are loaded, which are no file of the user's.
    """

    cell: Cell
    plugins: tuple[str, ...] = ()
    sources: dict[str, bytes] = field(default_factory=dict)
    log: str = ""
    data: bool = False


@dataclass(frozen=True)
class Imported:
    """How importing went.

    Attributes:
        ready: processes may be forked from here.
        reason: why not, where no process of the cell will say so by itself; for people.
        cause: USER where a file failed, and each process will say of what.
    """

    ready: bool
    reason: str = ""
    cause: Cause | None = None


def serve(listener: int, alive: int) -> NoReturn:
    """Be the first server. What cannot be imported here fails in the process that needs it, which says so."""
    with _looking_for_gpus_without_cuda():
        for name in PRELOADED:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        with contextlib.suppress(Exception):
            load_built_in()  # a fifth of a second in each process else
    forkserver.main(listener, alive, [])
    raise SystemExit


def serve_with_user_files(listener: Detachable, alive: Detachable, control: Connection, wanted: ToImport) -> None:
    """Be a server that has imported a scenario's files: a process of the first server, and itself a server.

    Args:
        listener, alive: descriptors, to be detached.
        control: told how importing went, once.
    """
    descriptors = listener.detach(), alive.detach()
    with _output_to(wanted.log):
        imported = _imported(wanted)
    control.send(imported)
    control.close()
    if imported.ready:
        forkserver.main(*descriptors, [])


def _loaded(wanted: ToImport) -> Imported:
    from harness.engines.shared.kept_data import keep
    from harness.engines.shared.setup import entries_of, prepare_data

    try:
        with _without_threads_of_libraries():
            model, dataset = entries_of(load_host(), wanted.cell)
            keep(wanted.cell, dataset, model, prepare_data(dataset, model, wanted.cell, "cpu"))
    except BaseException:  # each process will say what is wrong
        return Imported(False)
    return Imported(not _unfit_to_fork())


def _imported(wanted: ToImport) -> Imported:
    if wanted.data:
        return _loaded(wanted)
    give(wanted.sources)
    try:
        functions = user_functions(wanted.cell)
        with _without_threads_of_libraries():
            for function in functions:
                user_object(function)
            if not (trouble := _unfit_to_fork()):
                _import_what_building_does(wanted)
                trouble = _unfit_to_fork()
    except BaseException as error:
        if wanted.log:  # else who needs it will say it
            traceback.print_exception(error)
        return Imported(False, cause=Cause.USER)
    if trouble:
        files = " or ".join(sorted({function.written.rpartition(":")[0] for function in functions}))
        return Imported(False, f"{files} {trouble} when imported, so that every process imports it anew")
    return Imported(True)


@contextlib.contextmanager
def _output_to(log: str) -> Iterator[None]:
    """Let what is printed meanwhile go to a file."""
    if not log:
        yield
        return
    kept = [os.dup(1), os.dup(2)]
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(target, descriptor)
    os.close(target)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        for descriptor, old in zip((1, 2), kept, strict=True):
            os.dup2(old, descriptor)
            os.close(old)


@contextlib.contextmanager
def _looking_for_gpus_without_cuda(**more: str) -> Iterator[None]:
    """Let torch look for GPUs by the driver's library: CUDA's own way starts CUDA, which a forked process then lacks.

    Args:
        more: variables for the time, where they are not set.

    Source: https://docs.pytorch.org/docs/stable/cuda_environment_variables.html
    """
    wanted = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"} | more
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _without_threads_of_libraries() -> Iterator[None]:
    """Let libraries that are loaded meanwhile start no threads of their own, and torch look for GPUs without CUDA."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _looking_for_gpus_without_cuda(OPENBLAS_NUM_THREADS="1"):  # it starts its threads when loaded
            yield
    finally:
        torch.set_num_threads(threads)


def _unfit_to_fork() -> str:
    """Say what would be broken in a process forked from this one: threads are lost there, and CUDA cannot start."""
    if threading.active_count() > 1 or _num_threads() > 1:
        return "starts threads"
    return "starts CUDA" if _has_started_cuda() else ""


_ENDS_BY_ITSELF = "jemalloc_bg_thd"
"""The thread of an allocator (pyarrow's, which pandas imports) that knows of forks: in a child it is switched off."""


def _num_threads() -> int:
    """Count this process's threads, those left out that survive a fork or are not missed there."""
    try:
        names = [Path(f"/proc/self/task/{number}/comm").read_text().strip() for number in os.listdir("/proc/self/task")]
    except OSError:  # not Linux, or a thread that has just ended
        return threading.active_count()
    return sum(name != _ENDS_BY_ITSELF for name in names)


def _has_started_cuda() -> bool:
    from harness.workloads.accelerator import cuda_is_started

    if cuda_is_started():
        return True
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            loaded = any("libcuda.so" in line for line in file)
        count = ctypes.c_int()
        # The driver answers with this error, and no other, as long as nobody in this process has started it.
        return loaded and ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(count)) != _NOT_INITIALIZED
    except OSError:
        return False


# -- what is imported when a model is built ----------------------------------------------------------------------------


def _import_what_building_does(wanted: ToImport) -> None:
    """Import here what building the cell's model imports: some libraries import most of themselves that late.

    The model is built in a process of its own, which is thrown away: nothing of the build is left here.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            names = _built_modules(wanted)
            os.write(writing, json.dumps(names).encode())
        except BaseException as error:
            if wanted.log:
                traceback.print_exception(error)
        finally:
            sys.stderr.flush()
            os._exit(0)
    os.close(writing)
    for name in _read_names(reading, child):
        with contextlib.suppress(Exception, SystemExit):
            importlib.import_module(name)


def _built_modules(wanted: ToImport) -> list[str]:
    from harness.api.host import load_host
    from harness.costs.cells import seen_by
    from harness.engines.shared.replica import build_module
    from harness.workloads.entries import DataShape
    from harness.workloads.user import user_model

    before = set(sys.modules)
    cell = wanted.cell
    seen = seen_by(cell, load_host(wanted.plugins))
    if seen is None:
        # Only loading the data tells the shape, and nobody's data are loaded for a trial that may be broken off.
        named = [function for function in user_functions(cell) if function.written == cell.workload.model.name]
        if not named or not named[0].takes_nothing:
            return []
        seen = user_model(named[0].written, Path(cell.folder)), DataShape(1, 1, 1, 1)
    model, shape = seen
    build_module(model, model.Options(**cell.workload.model.options), shape, cell.seed)
    own = ("__", "harness_user_", "harness_plugin_")
    folders = tuple(str(function.root) + os.sep for function in user_functions(cell))
    return [
        name
        for name in sys.modules
        if name not in before
        and not name.startswith(own)
        and not str(getattr(sys.modules[name], "__file__", "") or "").startswith(folders)
    ]


def _read_names(reading: int, child: int) -> Sequence[str]:
    """Return what the child wrote before it ended; nothing where it failed, or takes too long and is ended."""
    content, deadline = b"", time.monotonic() + TRIAL_BUILD_S
    try:
        while True:
            ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                os.kill(child, signal.SIGKILL)
                return []
            part = os.read(reading, 65536)
            if not part:
                break
            content += part
    finally:
        os.close(reading)
        os.waitpid(child, 0)
    names: list[str] = json.loads(content) if content else []
    return names
