"""Run simulated cells on all cores of this machine at once, and measured ones alone."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

from harness.api.host import Host
from harness.core.endings import Cause
from harness.core.interrupts import Interruptible
from harness.engines.processes.forking import end_all, sweep
from harness.engines.processes.launch import Result
from harness.executors.protocol import CellTask, Ended, Watcher, Whereabouts
from harness.executors.run_one import run_one, without_running
from harness.executors.supervising import Supervisor, SupervisorLost

UNHEARD_S = 1.0
"""Between two looks at supervisors that say nothing; chosen."""

WORTH_S = 5.0
"""Of cells that are timed without being computed, this process runs so many seconds before it shares them out; chosen:
as long as the other processes take to start, which import torch."""

MOST_LOST = 2
"""Supervisors that a cell may lose before that is its result; chosen: the first time somebody else may be to blame."""


class Local:
    """All cores of this machine.

    This process takes in what ends and runs what must not run beside others. Supervising processes
    (`executors/supervising.py`), as many as cells run at once, run the rest. They live until the executor is left.
    """

    goes_on = ""

    def __init__(self, host: Host, at_once: int) -> None:
        self.host, self.at_once = host, at_once
        self.place = Whereabouts(socket.gethostname(), os.getpid())
        self.free: list[Supervisor] = []
        self.busy: list[Supervisor] = []
        self.again: deque[CellTask] = deque()
        self.ended: deque[Ended] = deque()
        self.told: set[str] = set()
        self.lost: Counter[str] = Counter()
        self.timed_s = 0.0

    def __enter__(self) -> Self:
        """Nothing is started before there is something to run."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the supervising processes."""
        supervisors = self.free
        self.free = []
        for each in supervisors:
            each.leave()
        for each in supervisors:
            each.reap()

    def run(self, tasks: Iterable[CellTask], watcher: Watcher) -> Generator[Ended]:
        """Run tasks.

        Raises:
            KeyboardInterrupt: a signal came.
            MachineError: what processes are forked from cannot be started.
        """
        feed, due = iter(tasks), None
        self.again, self.ended, self.told = deque(), deque(), set()
        try:
            while True:
                # First new work for whoever is free, then what has come home: nobody waits for a record to be written.
                while len(self.busy) < self.at_once:
                    if due is None:
                        due = self.again.popleft() if self.again else next(feed, None)
                    if due is None or self._is_for_here(due) or not self._has_room(due):
                        break
                    self._start(due, watcher)
                    due = None
                if self.ended:
                    yield self.ended.popleft()
                elif due is not None and self._is_for_here(due) and not (due.alone and self.busy):
                    yield self._run_here(due, watcher)
                    due = None
                elif self.busy:
                    self._hear(watcher)
                elif due is None and not self.again:
                    return
        finally:
            if self.busy:
                self._abandon()

    def _is_for_here(self, task: CellTask) -> bool:
        """Whether this process runs a task: it measures the machine, or takes no longer than to be handed on."""
        timed = task.cell.timing_only and self.timed_s < WORTH_S
        return task.alone or timed or bool(task.cell.not_possible)

    def _has_room(self, task: CellTask) -> bool:
        """Whether there are cores for all threads of a task; a task of more than all runs alone."""
        threads = sum(each.task.cell.threads_per_device for each in self.busy if each.task is not None)
        return not self.busy or threads + task.cell.threads_per_device <= self.at_once

    def _run_here(self, task: CellTask, watcher: Watcher) -> Ended:
        watcher.started(task, self.place)
        began = time.monotonic()
        ended = run_one(task, self.host, lambda reached: watcher.reached(task, reached))
        if task.cell.timing_only:
            self.timed_s += time.monotonic() - began
        return ended

    def _start(self, task: CellTask, watcher: Watcher) -> None:
        supervisor = self.free.pop() if self.free else Supervisor(self.place.host)
        self.busy.append(supervisor)
        if task.cell_id not in self.told:
            self.told.add(task.cell_id)
            watcher.started(task, supervisor.place)
        try:
            supervisor.give(task)
        except SupervisorLost as lost:
            self._take_loss(supervisor, str(lost))

    def _hear(self, watcher: Watcher) -> None:
        """Wait until a supervisor says something, and take it in."""
        with Interruptible():
            ready = wait([each.fileno() for each in self.busy], timeout=UNHEARD_S)
        for each in list(self.busy):
            try:
                for word in each.heard(each.fileno() in ready):
                    if isinstance(word, Ended):
                        self.ended.append(word)
                        self.busy.remove(each)
                        self.free.append(each)
                        sweep()
                    elif each.task is not None:
                        watcher.reached(each.task, word)
            except SupervisorLost as lost:
                self._take_loss(each, str(lost))
                return

    def _take_loss(self, supervisor: Supervisor, words: str) -> None:
        """Run a cell again whose supervisor has gone, once; all others that run start anew beside it.

        Processes of the cell that lost its supervisor may be left, and only the end of all reaches them.
        """
        task = supervisor.task
        self.busy.remove(supervisor)
        self._abandon()
        supervisor.reap()
        if task is None:
            return
        self.lost[task.cell_id] += 1
        if self.lost[task.cell_id] < MOST_LOST:
            self.again.append(task)
        else:
            self.ended.append(without_running(task, Result.ended_by(Cause.KILLED, words)))

    def _abandon(self) -> None:
        """End everything that runs at once, to be run again where this run goes on."""
        self.again.extend(each.task for each in self.busy if each.task is not None)
        end_all()
        for each in (*self.busy, *self.free):
            each.reap()
        self.busy, self.free = [], []
