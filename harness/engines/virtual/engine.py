"""Run a cell in virtual time.

Each worker and server is a coroutine of the strategy's file, driven by one guard; SimPy keeps the clock. Nothing is
computed that nobody needs, and what is computed is the real gradient of the real model.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any

import simpy

from harness.core.addresses import Address, name_of
from harness.core.budget import Evaluation, Referee
from harness.core.errors import HarnessError
from harness.core.outcome import STEP_COLUMNS, UPDATE_COLUMNS, Cause, Outcome, columns
from harness.engines.shared.displacement import learning_facts
from harness.engines.shared.fault_draws import FaultDraws, Lost, PlannedDeath, words_of_loss
from harness.engines.shared.recorder import Recorder
from harness.engines.shared.started_words import foreign
from harness.engines.virtual.cores import Cores
from harness.engines.virtual.messages import Interface, Meeting
from harness.engines.virtual.servers import ServerWays
from harness.engines.virtual.slow import StepCosts
from harness.engines.virtual.spans import Tracer

if TYPE_CHECKING:
    from harness.engines.processes.status import StatusLine
    from harness.engines.shared.flat import Flat
    from harness.engines.shared.setup import Setup
    from harness.engines.virtual.executor import Executor, State
    from harness.engines.virtual.prices import Costs

Script = dict[Address, list[Address | None]]
"""For each endpoint the sources of the messages that it took in a logged run."""


class Crash(HarnessError):
    """A strategy's program failed; `__cause__` is what it raised."""

    cause = None


class Deadlock(HarnessError):
    """Everybody waits for somebody who waits."""

    cause = Cause.DEADLOCK


class VirtualEngine:
    """One run of one cell on a virtual cluster.

    Args:
        setup: the cell, put together.
        merge: compute gradients at the same weights together; False is bit for bit what real devices compute.
        script: deliveries of a logged run to replay.
        costs: constant costs; default: from the scenario, completed by measurements.
        executor: what computes; default: the real model.
        trace: steps of each worker to keep spans of; None: none.
        status: told at marks how far the run is.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        merge: bool = True,
        script: Script | None = None,
        costs: Costs | None = None,
        executor: Executor | None = None,
        trace: int | None = None,
        status: StatusLine | None = None,
    ) -> None:
        from harness.engines.virtual.endpoints import VirtualEndpoint, VirtualServer, VirtualWorker

        self.setup, self.status = setup, status
        self.env = simpy.Environment()
        cell = setup.cell
        self.executor = executor or _real_model(setup, merge)
        initial = self.executor.initial_weights()
        self.costs = costs or _costs_of(self.executor)
        self.cores = _shared_cores(self.costs, cell)
        self.interfaces: dict[Any, Interface] = {}
        self.ways = self._ways()
        self.met_s = 0.0
        if self.ways is None:
            self.steps = StepCosts(self.costs, setup.layout, cell.micro_batch_size)
        else:
            self.steps = StepCosts(
                self.ways.costs, setup.layout, cell.micro_batch_size, waiting_fraction=self.ways.waiting_fraction
            )
        self.initial_state: State = {}
        self.referee = Referee(setup.budget)
        self.faults = FaultDraws(cell)
        self.tracer = Tracer(Recorder(trace), setup.layout) if trace else None
        self.unawaited: Counter[str] = Counter()
        self.notes: list[str] = []
        self.recorded: dict[str, float] = {}
        self.workers = [VirtualWorker(self, rank, initial) for rank in range(cell.workers)]
        self.servers = [VirtualServer(self, -1 - k, initial) for k in range(cell.servers)]
        self.endpoints: dict[Address, VirtualEndpoint] = {w.rank: w for w in self.workers}
        self.endpoints |= {s.rank: s for s in self.servers}
        for rank, sources in (script or {}).items():
            self.endpoints[rank].inbox.script = deque(sources)
        self.meetings: dict[int, Meeting] = {}
        self.arrivals: dict[int, dict[Address, tuple[Flat, float, int, int]]] = {}
        self.updates_log: list[dict[str, Any]] = []
        self.decision: str | None = None
        self.halted = False
        self.failure: tuple[Address, BaseException] | None = None
        self.evaluation_s = 0.0
        self.bytes_sent = 0.0

    # -- what endpoints share ------------------------------------------------------------------------------------

    def interface_of(self, endpoint: Any) -> Interface:
        """Return an endpoint's own interface, or its node's where there are several nodes."""
        key = ("endpoint", endpoint.rank) if endpoint.node is None else ("node", endpoint.node)
        return self.interface_at(key)

    def interface_at(self, key: Any) -> Interface:
        """Return the interface of a place."""
        return self.interfaces.setdefault(key, Interface())

    def _ways(self) -> ServerWays | None:
        """Return the ways to servers that the scenario describes; None: a server is an endpoint like any other."""
        described = self.costs.cluster.servers is not None and self.setup.cell.servers > 0
        return ServerWays(self.costs, self.setup, self.interface_at) if described else None

    @property
    def apply_s(self) -> float:
        """One update at a server, once a gradient is there."""
        return self.costs.apply_s if self.ways is None else self.ways.apply_s

    def load_s(self, num_bytes: float) -> float:
        """Return the seconds of putting weights into a model, where their way did not end in it."""
        return 0.0 if self.ways is not None and self.ways.at_devices else self.costs.load_s(num_bytes)

    def on_cores(self, address: Address, began_s: float, seconds: float) -> float:
        """Return how long a word takes that starts then, given who else uses this host's cores."""
        if self.cores is None:
            return seconds
        devices = self.setup.layout.devices if address >= 0 else 1
        return self.cores.occupy(address, began_s, seconds, devices * self.costs.cluster.runtime.threads)

    def lost_by_serving(self, num_bytes: float) -> float:
        """Return by how much a server's answer is late: more where workers and servers fight for this host's cores."""
        if self.cores is None:
            return 0.0
        cell, runtime = self.setup.cell, self.costs.cluster.runtime
        crowded = cell.gpus * runtime.threads + cell.servers > self.cores.count
        return (runtime.served if crowded else runtime.served_apart).at(num_bytes)

    # -- running -------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run to the end and return what happened.

        Raises:
            Crash: a program raised; Deadlock: nobody can go on.
        """
        programs = [(w, self.setup.strategy.work(w)) for w in self.workers]
        programs += [(s, self.setup.strategy.serve(s)) for s in self.servers]  # type: ignore[misc]
        for endpoint, coroutine in programs:
            self.env.process(self._drive(endpoint, coroutine))
        began, evaluated = time.perf_counter(), self.evaluation_s
        while not self.halted and self.failure is None and self.env.peek() < float("inf"):
            self.env.step()
        try:
            self._check_end()
        finally:
            for _, coroutine in programs:
                coroutine.close()
        self.host_s = time.perf_counter() - began - (self.evaluation_s - evaluated)
        return self._outcome()

    def _drive(self, endpoint: Any, coroutine: Coroutine[Any, Any, None]) -> Generator[simpy.Event, Any, None]:
        """Guard one coroutine: no exception passes through an event, no foreign awaitable reaches SimPy."""
        answer = None
        while True:
            try:
                event = coroutine.send(answer)
                if not isinstance(event, simpy.Event):
                    raise foreign(coroutine, event)
            except StopIteration:
                break
            except Lost as lost:
                self._lose(endpoint, lost)
                break
            except BaseException as error:
                self.failure = (endpoint.rank, error)
                return
            began = self.env.now
            answer = yield event
            endpoint.waited(event, began)
        endpoint.leave()

    def _lose(self, worker: Any, lost: Lost) -> None:
        """Go on without a worker whose device has died, where the strategy can."""
        alone = all(other is worker or other.lost for other in self.workers)
        worker.lost = True
        goes_on, words = words_of_loss(self.setup.cell, lost.rank, lost.when, alone)
        if goes_on:
            self.notes.append(words)
        else:
            self.failure = (worker.rank, PlannedDeath(words))

    def _check_end(self) -> None:
        if self.failure is not None:
            raise Crash(f"{name_of(self.failure[0])} failed") from self.failure[1]
        stuck = [e.describe_wait() for e in self.endpoints.values() if e.alive]
        if stuck and not self.halted:
            raise Deadlock("deadlock: " + "; ".join(stuck))

    # -- marks and the stop --------------------------------------------------------------------------------------

    def arrive(self, mark: int, worker: Any) -> None:
        """Note that a worker stands at a mark; the last one there brings about the evaluation.

        A worker that was faster has gone on meanwhile. That is harmless: values are immutable, so its weights at the
        mark are still there, and if the run ends here what it did since is dropped.
        """
        at_mark = self.arrivals.setdefault(mark, {})
        at_mark[worker.rank] = (worker.state, self.env.now, worker.samples, worker.updates)
        if len(at_mark) == len(self.workers):
            del self.arrivals[mark]
            self._judge_mark(at_mark)

    def _judge_mark(self, at_mark: dict[Address, Any]) -> None:
        states = [at_mark[rank][0] for rank in sorted(at_mark)]
        model = states[0]
        if self.setup.strategy.model_at == "mean" and len(states) > 1:
            model = self.executor.mean_model(states)
        moment = max(entry[1] for entry in at_mark.values())
        _, _, samples, updates = at_mark[0]
        self.judge(model, samples, updates, moment, self.setup.strategy.synchrony != "asynchronous")
        if self.setup.budget.spent(samples, updates):
            self.stop("budget", moment)

    def judge(self, model: Flat, samples: int, updates: int, moment: float, may_stop: bool) -> None:
        """Evaluate while the clock stands, and decide."""
        began = time.perf_counter()
        loss = accuracy = None
        if self.setup.budget.evaluates:
            loss, accuracy = self.executor.evaluate(model, "validation")
        self._tell(updates, loss)
        self.evaluation_s += time.perf_counter() - began
        decision = self.referee.judge(Evaluation(samples, updates, moment, loss, accuracy), self.losses_finite())
        self.model, self.samples, self.updates = model, samples, updates
        # An asynchronous run on real devices cannot stop at a target (its copies are evaluated afterwards); neither
        # does this one, so that both see the same samples.
        if decision is not None and (may_stop or decision != "target"):
            self.stop(decision, moment)

    def _tell(self, updates: int, loss: float | None) -> None:
        if self.status is not None:
            self.status.stepped(updates)
            if loss is not None:
                self.status.evaluated(loss)

    def losses_finite(self) -> bool:
        """Whether all losses known since the last mark are numbers."""
        return all(worker.take_losses_finite() for worker in self.workers)

    def stop(self, decision: str, moment: float) -> None:
        """End the run: nothing is applied or counted any more."""
        if self.decision is None:
            self.decision, self.ended_s = decision, moment
        # A spent budget ends every worker's batches by itself, and a server's stop travels with its answers.
        self.halted = decision != "budget" and not self.setup.server_counts

    # -- the end -------------------------------------------------------------------------------------------------

    def _outcome(self) -> Outcome:
        cell = self.setup.cell
        holder = self.servers[0] if self.setup.server_counts else self.workers[0]
        if self.decision is None:
            self.stop("budget", self.env.now)
        if not self.referee.evaluations:
            self.judge(holder.state, holder.samples, holder.updates, self.env.now, may_stop=False)
        began = time.perf_counter()
        test = self.executor.evaluate(self.model, "test") if self.setup.budget.evaluates else None
        self.evaluation_s += time.perf_counter() - began
        staleness = {(u["worker"], u["step"]): u["staleness"] for u in self.updates_log}
        rows = [row for worker in self.workers for row in worker.finished_rows(self.ended_s, staleness)]
        steps = max(1, sum(1 for row in rows if row["worker"] == 0))
        weights = self.executor.vector(self.model)
        return Outcome(
            decision=self.decision or "budget",
            samples=self.samples,
            updates=self.updates,
            training_s=self.ended_s,
            evaluation_s=self.evaluation_s,
            evaluations=self.referee.evaluations,
            test=test,
            steps=columns(rows, STEP_COLUMNS),
            updates_log=columns(self.updates_log, UPDATE_COLUMNS),
            dram=self._dram(),
            bytes_sent_per_step=self.bytes_sent / steps / cell.workers,
            bubble_fraction=self._bubble(),
            notes=[
                *self.notes,
                *self.executor.notes(self.costs.placement),
                f"virtual cluster with {self.costs.origin}",
            ],
            recorded=self.recorded,
            unawaited=dict(self.unawaited),
            deliveries={e.rank: e.inbox.taken for e in self.endpoints.values()},
            facts={
                "placement": self.costs.placement,
                "costs": self.costs.origin,
                "errors": (self.costs.profile.error, self.costs.cluster.error),
                "host_s": self.host_s,
                **learning_facts(self.setup, weights),
            },
            spans=self.tracer.recorder.spans if self.tracer is not None else [],
            weights=weights,
        )

    def _bubble(self) -> float | None:
        if self.setup.layout.pipeline == 1:
            return None
        part = self.costs.step(self.setup.layout, self.setup.cell.batch_size, self.setup.cell.micro_batch_size)
        return part.idle_s / part.total_s

    def _dram(self) -> dict[str, int]:
        layout, cell = self.setup.layout, self.setup.cell
        table: Any = ()
        if layout.schedule is not None:
            table = layout.schedule(layout.pipeline, -(-cell.batch_size // cell.micro_batch_size))
        return self.executor.dram(self.costs.placement, table)


def _real_model(setup: Setup, merge: bool) -> Executor:
    from harness.engines.virtual.executor import Executor

    return Executor(setup, merge, shared_steps=setup.strategy.model_at != "server" and setup.cell.workers > 1)


def _costs_of(executor: Executor) -> Costs:
    from harness.engines.virtual.prices import find_costs

    costs = find_costs(executor)
    executor.loaded = None  # measuring moved the replica
    return costs


def _shared_cores(costs: Costs, cell: Any) -> Cores | None:
    """Return the cores of the cell's host; a cell with more devices than this machine has cores is on a larger one."""
    runtime = costs.cluster.runtime
    return None if runtime.cores is None else Cores(max(runtime.cores, cell.gpus * runtime.threads))


def run_virtual(setup: Setup, **options: Any) -> Outcome:
    """Run a cell on the virtual cluster; options as of `VirtualEngine`."""
    return VirtualEngine(setup, **options).run()
