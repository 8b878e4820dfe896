"""Run a cell in virtual time.

Each worker and server is a coroutine of the strategy's file, driven by one guard; SimPy keeps the clock. Nothing is
computed that nobody needs, and what is computed is the real gradient of the real model.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any

import simpy

from harness.core.addresses import Address, name_of
from harness.core.budget import Decision, Evaluation, Referee
from harness.core.endings import Cause
from harness.core.errors import HarnessError
from harness.core.not_known import NotKnown
from harness.core.outcome import STEP_COLUMNS, UPDATE_COLUMNS, CountedDram, Outcome, StepRow, columns
from harness.core.records import Json
from harness.engines.shared.displacement import early_displacement, learning_facts
from harness.engines.shared.endpoint import until_the_end
from harness.engines.shared.fault_draws import Lost, PlannedDeath, words_of_loss
from harness.engines.shared.recorder import Recorder
from harness.engines.shared.started_words import foreign
from harness.engines.virtual.cluster import VirtualCluster
from harness.engines.virtual.endpoints import VirtualEndpoint, VirtualServer, VirtualWorker
from harness.engines.virtual.spans import Tracer

if TYPE_CHECKING:
    from harness.engines.processes.status import StatusLine
    from harness.engines.shared.flat import Flat
    from harness.engines.shared.setup import Setup
    from harness.engines.virtual.executor import Executor
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
        initial: weights of all endpoints.
        status: told at marks how far the run is.
    """

    def __init__(self, cluster: VirtualCluster, initial: Flat, status: StatusLine | None = None) -> None:
        self.cluster, self.setup, self.executor, self.status = cluster, cluster.setup, cluster.executor, status
        cell = self.setup.cell
        self.workers = [VirtualWorker(cluster, self, rank, initial) for rank in range(cell.workers)]
        self.servers = [VirtualServer(cluster, self, -1 - k, initial) for k in range(cell.servers)]
        everybody: list[VirtualEndpoint] = [*self.workers, *self.servers]
        self.endpoints = {endpoint.rank: endpoint for endpoint in everybody}
        cluster.present = self.endpoints
        self.referee = Referee(self.setup.budget)
        self.arrivals: dict[int, dict[Address, tuple[Flat, float, int, int]]] = {}
        self.decision: Decision | None = None
        self.halted = False
        self.failure: tuple[Address, BaseException] | None = None
        self.evaluation_s = 0.0

    def replay(self, script: Script) -> None:
        """Let every endpoint take its messages in the order of a logged run."""
        for rank, sources in script.items():
            self.endpoints[rank].post.script = deque(sources)

    # -- running -------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run to the end and return what happened.

        Raises:
            Crash: a program raised; Deadlock: nobody can go on.
        """
        programs = [(w, self.setup.strategy.work(w)) for w in self.workers]
        programs += [(s, self.setup.strategy.serve(s)) for s in self.servers]  # type: ignore[misc]
        for endpoint, coroutine in programs:
            self.cluster.env.process(self._drive(endpoint, coroutine))
        began, evaluated = time.perf_counter(), self.evaluation_s
        while not self.halted and self.failure is None and self.cluster.env.peek() < float("inf"):
            self.cluster.env.step()
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
            began = self.cluster.env.now
            answer = yield event
            endpoint.waited(event, began)
        endpoint.leave()

    def _lose(self, worker: Any, lost: Lost) -> None:
        """Go on without a worker whose device has died, where the strategy can."""
        alone = all(other is worker or other.lost for other in self.workers)
        worker.lost = True
        goes_on, words = words_of_loss(self.setup.cell, lost.rank, lost.when, alone)
        if goes_on:
            self.cluster.notes.append(words)
        else:
            self.failure = (worker.rank, PlannedDeath(words))

    def _check_end(self) -> None:
        if self.failure is not None:
            raise Crash(f"{name_of(self.failure[0])} failed") from self.failure[1]
        stuck = [(name_of(e.rank), e.waits) for e in self.endpoints.values() if e.alive]
        if stuck and not self.halted:
            words = [f"{name} waits in {waits.words} from {waits.since_s:.3g} s on" for name, waits in stuck]
            raise Deadlock("deadlock: " + "; ".join(words))

    # -- marks and the stop --------------------------------------------------------------------------------------

    def arrive(self, mark: int, worker: VirtualWorker) -> None:
        """Note that a worker stands at a mark; the last one there brings about the evaluation.

        A worker that was faster has gone on meanwhile. That is harmless: values are immutable, so its weights at the
        mark are still there, and if the run ends here what it did since is dropped.
        """
        at_mark = self.arrivals.setdefault(mark, {})
        at_mark[worker.rank] = (worker.state, self.cluster.env.now, worker.samples, worker.updates)
        if len(at_mark) == len(self.workers):
            del self.arrivals[mark]
            self._judge_mark(at_mark)

    def _judge_mark(self, at_mark: dict[Address, Any]) -> None:
        states = [at_mark[rank][0] for rank in sorted(at_mark)]
        model = states[0]
        if self.setup.strategy.model_at in ("mean", "ensemble") and len(states) > 1:
            model = self.executor.mean_model(states, ensemble=self.setup.strategy.model_at == "ensemble")
        moment = max(entry[1] for entry in at_mark.values())
        _, _, samples, updates = at_mark[0]
        self.judge(model, samples, updates, moment)
        if self.setup.budget.spent(samples, updates):
            self.stop(Decision.BUDGET, moment)

    def judge(self, model: Flat, samples: int, updates: int, moment: float) -> None:
        """Evaluate while the clock stands, and decide."""
        began = time.perf_counter()
        loss = metric = None
        if self.setup.budget.evaluates:
            loss, metric = self.executor.evaluate(model, "validation")
        moved = early_displacement(self.setup, lambda: self.executor.vector(model), len(self.referee.evaluations))
        self._tell(updates, loss)
        self.evaluation_s += time.perf_counter() - began
        decision = self.referee.judge(Evaluation(samples, updates, moment, loss, metric, moved), self.losses_finite())
        self.model, self.samples, self.updates = model, samples, updates
        if decision is not None:
            self.stop(decision, moment)

    def _tell(self, updates: int, loss: float | None) -> None:
        if self.status is not None:
            self.status.stepped(updates)
            if loss is not None:
                self.status.evaluated(loss)

    def losses_finite(self) -> bool:
        """Whether all losses known since the last mark are numbers."""
        return all(worker.ledger.take_losses_finite() for worker in self.workers)

    def stop(self, decision: Decision, moment: float) -> None:
        """End the run: nothing is applied or counted any more."""
        if self.decision is None:
            self.decision, self.ended_s = decision, moment
        # A spent budget ends every worker's batches by itself, and a server's stop travels with its answers.
        self.halted = decision is not Decision.BUDGET and not self.setup.server_counts

    # -- the end -------------------------------------------------------------------------------------------------

    def _outcome(self) -> Outcome:
        cluster, test = self.cluster, self._last_look()
        rows, weights = self._rows(), self.executor.vector(self.model)
        steps = max(1, sum(1 for row in rows if row["worker"] == 0))
        return Outcome(
            decision=self.decision or Decision.BUDGET,
            samples=self.samples,
            updates=self.updates,
            training_s=self.ended_s,
            evaluation_s=self.evaluation_s,
            evaluations=self.referee.evaluations,
            test=test,
            steps=columns(rows, STEP_COLUMNS),
            updates_log=columns(cluster.updates_log, UPDATE_COLUMNS),
            dram=self._dram(),
            bytes_sent_per_step=cluster.bytes_sent / steps / self.setup.cell.workers,
            bubble_fraction=self._bubble(),
            notes=[*cluster.notes, *self._notes()],
            recorded=cluster.recorded,
            unawaited=dict(cluster.unawaited),
            deliveries={e.rank: e.post.taken for e in self.endpoints.values()},
            facts=self._facts() | learning_facts(self.setup, weights),
            spans=cluster.tracer.recorder.spans if cluster.tracer is not None else [],
            weights=weights,
        )

    def _last_look(self) -> tuple[float, float] | None:
        """End a run that nobody has stopped, and use the test split, once."""
        holder = self.servers[0] if self.setup.server_counts else self.workers[0]
        now = self.cluster.env.now
        if self.decision is None:
            self.stop(Decision.BUDGET, now)
        if not self.referee.evaluations:
            self.judge(holder.state, holder.samples, holder.updates, now)
        began = time.perf_counter()
        test = self.executor.evaluate(self.model, "test") if self.setup.budget.evaluates else None
        self.evaluation_s += time.perf_counter() - began
        return test

    def _rows(self) -> list[StepRow]:
        """Return all workers' steps; those of servers' pushes with the staleness that they were applied at."""
        rows = [row for worker in self.workers for row in worker.ledger.finished_rows()]
        rows = until_the_end(rows, self.setup.cell, self.updates, self.ended_s)
        if self.setup.strategy.batches == "own" and self.setup.server_counts:
            staleness = {(u["worker"], u["step"]): u["staleness"] for u in self.cluster.updates_log}
            for row in rows:
                row["staleness"] = staleness.get((row["worker"], row["step"]))
        return rows

    def _notes(self) -> list[str]:
        costs = self.cluster.costs
        told = [*self.setup.data_notes(), *self.setup.model_notes(), *self.executor.notes(costs.placement)]
        return [*told, f"virtual cluster with {costs.origin}"]

    def _facts(self) -> Json:
        costs = self.cluster.costs
        errors = costs.errors(self.setup.layout, self.setup.cell.gpus)
        return {"placement": costs.placement, "costs": costs.origin, "errors": errors, "host_s": self.host_s}

    def _bubble(self) -> float | None:
        if self.setup.layout.pipeline == 1:
            return None
        part = self.cluster.costs.step(self.setup.layout, self.setup.cell.batch_size, self.setup.cell.micro_batch_size)
        return part.idle_s / part.total_s

    def _dram(self) -> CountedDram | NotKnown:
        layout, cell = self.setup.layout, self.setup.cell
        table: Any = ()
        if layout.schedule is not None:
            table = layout.schedule(layout.pipeline, -(-cell.batch_size // cell.micro_batch_size))
        return self.executor.dram(self.cluster.costs.placement, table)


def build(
    setup: Setup,
    *,
    merge: bool = True,
    script: Script | None = None,
    costs: Costs | None = None,
    executor: Executor | None = None,
    trace: int | None = None,
    status: StatusLine | None = None,
) -> VirtualEngine:
    """Return the engine of a cell, ready to run.

    Args:
        setup: the cell, put together.
        merge: compute gradients at the same weights together; False is bit for bit what real devices compute.
        script: deliveries of a logged run to replay.
        costs: constant costs; default: from the scenario, completed by measurements.
        executor: what computes; default: the real model.
        trace: steps of each worker to keep spans of; None: none.
        status: told at marks how far the run is.

    Raises:
        HarnessError: what the scenario says is not enough to tell how long anything takes.
    """
    executor = executor or _real_model(setup, merge)
    initial = executor.initial_weights()  # before costs are found: measuring moves the replica
    tracer = Tracer(Recorder(trace), setup.layout) if trace else None
    engine = VirtualEngine(VirtualCluster(setup, costs or _costs_of(executor), executor, tracer), initial, status)
    engine.replay(script or {})
    return engine


def _real_model(setup: Setup, merge: bool) -> Executor:
    from harness.engines.virtual.executor import Executor

    return Executor(setup, merge, shared_steps=setup.strategy.model_at != "server" and setup.cell.workers > 1)


def _costs_of(executor: Executor) -> Costs:
    from harness.engines.virtual.prices import find_costs

    costs = find_costs(executor)
    executor.loaded = None  # measuring moved the replica
    return costs


def run_virtual(setup: Setup, **options: Any) -> Outcome:
    """Run a cell on the virtual cluster; options as of `build`.

    Raises:
        Crash: a program raised; Deadlock: nobody can go on.
    """
    return build(setup, **options).run()
