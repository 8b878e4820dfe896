"""What one process of a real cell does, from its first line to its last."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import random
import sys
import time
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NoReturn

from harness.core.addresses import Address
from harness.core.cell import Cell
from harness.core.held_files import give
from harness.core.records import Json
from harness.core.streams import stream_seed
from harness.engines.processes.blame import explain_in, own_files, print_blamed
from harness.engines.processes.hearing import receive
from harness.engines.processes.network import Meeting, join_group
from harness.engines.processes.stacks import answer_when_asked
from harness.workloads.user_import import changes_by_user_files, environment_of_user_files

if TYPE_CHECKING:
    import torch

    from harness.api.strategy import Strategy
    from harness.core.outcome import Outcome
    from harness.engines.processes.status import StatusLine
    from harness.engines.real.clock import Ledger
    from harness.engines.real.endpoints import RealEndpoint, RealServer, RealWorker
    from harness.engines.real.layouts.one_device import OneDevice
    from harness.engines.real.messages import Post
    from harness.engines.shared.fault_draws import Lost
    from harness.engines.shared.setup import Setup


_PATIENCE = 2
"""Of a process that is ready, in limits of the cell: the supervisor's deadline comes first, and a dead one is heard."""

_kept: list[object] = []
"""What has to stay open as long as this process is."""


@dataclass
class Job:
    """What the supervisor hands to a process; it crosses a process boundary, so it holds names and descriptors.

    Attributes:
        plugins: files to load besides the built-in ones.
        kind: "worker", "server" or "virtual".
        address: of the worker or server.
        device_rank: which device of its worker.
        device: torch device.
        evaluates_on: torch device of a server's evaluations: it computes on the CPU, and evaluates where workers do.
        label: what messages and traces call the process.
        line: which line of the status board is this process's.
        pipes, slots: to every other endpoint: a connection, and descriptors (outgoing, incoming).
        node: the machine that the process runs on; 0 is the supervisor's.
        far: to every endpoint of other machines: a connection.
        meeting: where its process group meets; None where it needs none.
        clock_offset_s: its machine's clock less that of node 0.
        spread: whether the cell has processes on several machines.
        stack: file that the process writes its stack to when it is asked where it is; empty: nobody asks.
        lost: endpoints that went without a word, as far as this process knows.
        environment: the supervisor's environment variables; the fork server may be older than they are.
        sources: the user's files as they were held, by path.
    """

    cell: Cell
    plugins: list[str]
    kind: str
    address: Address = 0
    device_rank: int = 0
    device: str = "cpu"
    evaluates_on: str = "cpu"
    line: int = 0
    lines: int = 1
    status: Any = None
    pipes: dict[Address, Connection] = field(default_factory=dict)
    slots: dict[Address, tuple[Any, Any]] = field(default_factory=dict)
    node: int = 0
    far: dict[Address, Connection] = field(default_factory=dict)
    meeting: Meeting | None = None
    clock_offset_s: float = 0.0
    spread: bool = False
    stack: str = ""
    lost: set[Address] = field(default_factory=set)
    group_rank: int = 0
    group_size: int = 1
    label: str = ""
    log: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    sources: dict[str, bytes] = field(default_factory=dict)


def run_process(job: Job, control: Connection) -> None:
    """Run one process of a cell; everything it has to say goes through `control`."""
    # Its end tells the supervisor that this process is gone, whatever the user's code has forked and left behind.
    os.register_at_fork(after_in_child=control.close)
    _enter(job)
    try:
        answer = _run_virtual(job, control) if job.kind == "virtual" else _run_real(job, control)
        control.send(("done", answer))
    except BaseException as error:
        at_s, follows = time.monotonic() - job.clock_offset_s, bool(job.lost)
        failure = replace(explain_in(job.cell, job.plugins, error, job.line), at_s=at_s, follows=follows)
        with contextlib.suppress(
            Exception
        ):  # the user's code may have closed the stream: the failure is told all the same
            print_blamed(error, failure, own_files(job.cell, job.plugins))
            sys.stderr.flush()
        control.send(("failed", failure))
        # Peers may be inside a collective with this process: leaving at once is what tells them.
        os._exit(1)


def _enter(job: Job) -> None:
    """Settle output and threads before torch does anything."""
    if job.log:
        descriptor = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
    faulthandler.enable()
    if job.stack:
        _kept.append(answer_when_asked(job.stack))
    gc.freeze()  # what came from the fork server is shared memory: a collection that walks it would copy it
    os.environ.update(job.environment | environment_of_user_files())
    os.environ["OMP_NUM_THREADS"] = str(job.cell.threads_per_device)
    give(job.sources)
    import numpy as np
    import torch

    torch.set_num_threads(job.cell.threads_per_device)
    # Processes of one server are born with the same state: without this, every seed would draw the same numbers.
    random.seed(stream_seed(job.cell.seed, "process"))
    np.random.seed(stream_seed(job.cell.seed, "process") % 2**32)


# -- virtual -----------------------------------------------------------------------------------------------------------


def _run_virtual(job: Job, control: Connection) -> Outcome:
    from harness.engines.processes.status import StatusLine
    from harness.engines.shared.setup import make_setup
    from harness.engines.virtual.engine import run_virtual

    began = time.monotonic()
    setup = make_setup(job.cell, job.plugins, "cpu")
    control.send(("ready", {}))
    receive(control, _PATIENCE * job.cell.cell_timeout_s)
    prepared = time.monotonic()
    options = {key: value for key, value in job.options.items() if key != "keep_weights"}
    status = StatusLine(job.status.detach(), job.line, job.lines)
    outcome = run_virtual(setup, status=status, **options)
    outcome.setup_s = prepared - began
    outcome.facts["num_train"] = setup.num_train
    outcome.facts["data_checksum"] = setup.data.checksum
    outcome.facts |= setup.model_facts()
    outcome.weights = outcome.weights.numpy() if job.options.get("keep_weights") else None
    outcome.notes += changes_by_user_files()
    return outcome


# -- real --------------------------------------------------------------------------------------------------------------


def _run_real(job: Job, control: Connection) -> Json:
    import torch

    from harness.engines.processes.status import StatusLine
    from harness.engines.real.endpoints import RealServer
    from harness.engines.real.layouts.captured import allow_tf32
    from harness.engines.shared.fault_draws import Lost
    from harness.engines.shared.setup import make_setup
    from harness.workloads.accelerator import forget_peaks, has_queue, module_of

    began = time.monotonic()
    status = StatusLine(job.status.detach(), job.line, job.lines)
    device = torch.device(job.device)
    if has_queue(device):
        module_of(device).set_device(device)
    allow_tf32(job.cell.workload.tf32)
    setup = make_setup(job.cell, job.plugins, job.device)
    ledger = _make_ledger(job, device, status)
    make = _make_server if job.kind == "server" else _make_worker
    endpoint = make(job, setup, ledger, status)
    if job.spread and isinstance(endpoint, RealServer):
        endpoint.standstill.tell_elsewhere(lambda word, seconds: control.send((word, seconds)))
    control.send(("ready", {"data": setup.data.checksum}))
    started = receive(control, _PATIENCE * job.cell.cell_timeout_s)
    forget_peaks(device)
    ledger.start(started)
    setup.let_read()
    try:
        _drive(setup.strategy, endpoint, job.kind)
    except Lost as lost:
        _die(job, setup, endpoint, lost, control, started - began)
    endpoint.post.leave()
    if endpoint.ended_s is None:
        endpoint.ended_s = ledger.now()
    ledger.resolve()
    answer = _collect(job, setup, endpoint, started - began)
    _close(job, endpoint)
    return answer


def _make_ledger(job: Job, device: torch.device, status: StatusLine) -> Ledger:
    from harness.engines.real.clock import Ledger
    from harness.engines.shared.recorder import Recorder

    if not job.options.get("trace"):
        return Ledger(device, job.address, job.device_rank, status)
    from harness.engines.real.spans import TracingLedger

    recorder = Recorder(job.options["trace"])
    return TracingLedger(device, job.address, job.device_rank, status, job.label, recorder)


def _die(job: Job, setup: Setup, endpoint: RealEndpoint, lost: Lost, control: Connection, setup_s: float) -> NoReturn:
    """End this process as if its machine were lost: no farewell to anybody but the supervisor, who keeps its rows."""
    from harness.core.faults import can_go_on

    endpoint.ended_s = endpoint.ledger.now()
    endpoint.ledger.resolve()
    others_go_on = can_go_on(setup.cell.synchrony, setup.cell.server_counts)
    answer = _collect(job, setup, endpoint, setup_s) if others_go_on else None
    control.send(("died", {"rank": lost.rank, "when": lost.when, "answer": answer}))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _drive(strategy: Strategy, endpoint: Any, kind: str) -> None:
    """Run the program to its end: its words block inside, so it never yields."""
    from harness.engines.shared.started_words import foreign

    if kind == "server":
        endpoint.begin()
    program = strategy.serve(endpoint) if kind == "server" else strategy.work(endpoint)
    try:
        yielded = program.send(None)
    except StopIteration:
        return
    error = foreign(program, yielded)
    program.close()
    raise error


def _make_post(job: Job, shape: tuple[int, int], dtype: torch.dtype) -> Post:
    from harness.engines.real.far_lines import FarLines
    from harness.engines.real.messages import FarPeer, NearPeer, Peer, Post, Slots

    num_bytes = sum(shape) * dtype.itemsize
    peers: dict[Address, Peer] = {}
    for address, connection in job.pipes.items():
        outgoing, incoming = (Slots(slot.detach(), num_bytes) for slot in job.slots[address])
        peers[address] = NearPeer(address, connection, outgoing, incoming)
    if job.far:
        lines = FarLines(job.far)
        peers |= {address: FarPeer(address, lines) for address in job.far}
    return Post(peers, shape, dtype, lost=job.lost)


def _make_server(job: Job, setup: Setup, ledger: Ledger, status: StatusLine) -> RealServer:
    from harness.engines.real.endpoints import RealServer

    replica = setup.replica()
    shape = (replica.num_parameters, replica.num_buffer_values)
    server = RealServer(setup, job.address, replica, ledger, _make_post(job, shape, replica.dtype), status)
    if job.evaluates_on != job.device:
        from harness.engines.shared.setup import make_setup

        server.make_evaluator = lambda: make_setup(setup.cell, job.plugins, job.evaluates_on).replica()
    return server


def _make_worker(job: Job, setup: Setup, ledger: Any, status: StatusLine) -> RealWorker:
    import torch

    from harness.engines.real.endpoints import RealWorker
    from harness.engines.real.layouts.choose import make_runner
    from harness.engines.real.meetings import Meetings

    notes = []
    if job.meeting is not None:
        place = torch.device(job.device)
        notes = join_group(job.meeting, job.group_rank, job.group_size, place, job.cell.cell_timeout_s)
    layout, workers = setup.layout, job.cell.workers
    beside = layout.reduce is not None and layout.overlap
    meetings = Meetings.of(workers, layout.devices, job.address, job.device_rank, beside)
    runner = make_runner(setup, ledger, job.address, job.device_rank, meetings)
    if job.options.get("trace"):
        ledger.watch(runner)
    post = _make_post(job, runner.shape, runner.replica.dtype)
    worker = RealWorker(setup, job.address, runner, ledger, post, status, job.group_size, meetings)
    worker.notes += notes
    _warm_up(setup, runner, worker)
    if runner.reducing is not None:
        runner.reducing.report_to(worker, worker.unawaited)
    worker.layout_bytes = runner.bytes_sent_per_step()
    runner.read_ahead()
    return worker


def _warm_up(setup: Setup, runner: OneDevice, worker: RealWorker) -> None:
    """Compute discarded gradients (DDP rebuilds its buckets after the first), then put everything back."""
    import itertools

    import torch

    from harness.engines.shared.plain_state import plain_state, put_back
    from harness.engines.shared.sample_order import shared_batches
    from harness.workloads.accelerator import give_back_unused
    from harness.workloads.generators import generators_kept

    cell, device = setup.cell, runner.replica.device
    # Off the device, and what set-up left there given back: what training reserves is measured.
    before = runner.replica.snapshot().on(torch.device("cpu"))
    give_back_unused(device)
    module = getattr(runner.replica.forward, "module", runner.replica.forward)  # below DDP's wrapper, where it has one
    kept = plain_state(module) if runner.replica.trial is not None and module is not None else None
    order = shared_batches(cell.seed, setup.num_train, cell.global_batch_size, worker.rank, cell.workers)
    batches = list(itertools.islice(order, 2))
    if runner.placement is not None:
        # An epoch's last batch may have fewer micro-batches, for which torch needs a runtime of its own.
        left = setup.num_train % cell.global_batch_size
        batches += [b for b in itertools.islice(order, setup.num_train // cell.global_batch_size) if b.size == left]
    with generators_kept(device):
        for batch in batches:
            runner.warm_up(batch)
            runner.replica.load(before.on(device))
            if kept is not None:
                put_back(module, kept)
        runner.settle()
        runner.execution.settle()
    if worker.group_size > 1:
        import torch.distributed as dist

        dist.barrier()


def _collect(job: Job, setup: Setup, endpoint: Any, setup_s: float) -> Json:
    """Return what this process knows; the one that holds the model knows most."""
    ended_at_s = endpoint.status.host_clock()
    endpoint.note_peak()  # where a mark has looked already, nothing but what is left of it
    leads = job.kind == "worker" and endpoint.leads
    holds = job.address == -1 if setup.server_counts else leads
    if job.kind == "worker" and endpoint.copies_marks:
        endpoint.evaluate_copies()
    if setup.server_counts and holds:
        endpoint.finish(endpoint.evaluation_replica())
    partial: Json = {
        "line": job.line,
        "rows": endpoint.ledger.rows if job.kind == "worker" else [],
        "notes": ([*setup.data_notes(), *setup.model_notes()] if holds else [])
        + endpoint.notes
        + ([*endpoint.runner.notes(), *endpoint.runner.execution.notes()] if leads else []),
        "recorded": endpoint.recorded,
        "unawaited": dict(endpoint.unawaited),
        "deliveries": {job.address: endpoint.post.taken},
        "bytes_sent": endpoint.sent_by_device if job.kind == "worker" else endpoint.bytes_sent,
        "allocator": endpoint.peaks,
        "ended_at_s": ended_at_s,
        "setup_s": setup_s,
        "training_s": endpoint.ended_s,
        "spans": endpoint.ledger.recorder.spans if job.options.get("trace") else [],
    }
    if holds:
        partial["outcome"] = _outcome(job, setup, endpoint)
        partial["notes"] += changes_by_user_files()
    if job.kind == "worker" and job.device_rank == 0:
        partial["dram"] = endpoint.runner.dram()
        partial["compile_s"] = endpoint.runner.execution.prepared_s
        partial["placement"] = endpoint.runner.placement
    return partial


def _outcome(job: Job, setup: Setup, endpoint: Any) -> Outcome:
    from harness.core.budget import Decision
    from harness.core.outcome import STEP_COLUMNS, UPDATE_COLUMNS, Outcome, columns
    from harness.engines.shared.displacement import learning_facts

    facts = {"num_train": setup.num_train, "data_checksum": setup.data.checksum} | setup.model_facts()
    if endpoint.sum_rounding:
        facts["sum_rounding"] = endpoint.sum_rounding
    keeps = job.options.get("keep_weights") and endpoint.final is not None
    return Outcome(
        decision=endpoint.decision or Decision.BUDGET,
        samples=endpoint.samples,
        updates=endpoint.updates,
        training_s=endpoint.ended_s,
        evaluation_s=endpoint.evaluation_s,
        evaluations=endpoint.referee.evaluations,
        test=endpoint.test,
        updates_log=columns(getattr(endpoint, "log", []), UPDATE_COLUMNS),
        steps=columns([], STEP_COLUMNS),
        facts=facts | learning_facts(setup, endpoint.final),
        weights=endpoint.final.numpy() if keeps else None,
    )


def _close(job: Job, endpoint: Any) -> None:
    """Release torch's objects in the one order that never hangs: wrappers first, then the process group."""
    if job.kind != "worker":
        return
    endpoint.setup.stop_reading()
    endpoint.runner.execution.close()
    endpoint.runner.close()
    if job.meeting is not None:
        import torch.distributed as dist

        dist.barrier()
        dist.destroy_process_group()
