"""One `harness run` from its first line of output to its last."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from harness.analysis.confirmation import Ground
from harness.api.host import Host, describe
from harness.api.listeners import Listener
from harness.commands.fresh_seeds import confirmed_as_before, was_swept, with_picks
from harness.commands.listening import audience_of
from harness.commands.plan_text import confirmation_in_words
from harness.commands.progress import watching
from harness.commands.reference_runs import ReferenceRuns, reference_in_words, set_aside
from harness.commands.rounds import Summary, missing, run_cells
from harness.commands.run_times import may_be_stepped, simulated
from harness.commands.terminal import say
from harness.core.atomic_files import write_atomically
from harness.core.cell import Cell, Plan
from harness.core.endings import Cause, Status
from harness.core.errors import HarnessError, InputError, NothingDone, PluginError
from harness.core.interrupts import Uninterrupted, exit_code
from harness.core.leases import Leases
from harness.core.not_known import NotKnown
from harness.core.records import to_json
from harness.core.units import parse_seconds
from harness.core.words import counted
from harness.executors.by_name import executor_of, runs_elsewhere
from harness.executors.slurm_jobs import refuse_under_way
from harness.results.interleaved_with import INTERLEAVED_FILE
from harness.results.reference import REFERENCE_FILE, read_reference
from harness.results.reruns import RERUNS
from harness.results.store import Record, Results
from harness.scenario.plan import select

if TYPE_CHECKING:
    from harness.analysis.answer import Answer

NO_TRACKERS: Mapping[str, Listener] = MappingProxyType({})

REPORT_SHARE = 0.25
"""Of the time of a run that may go into reports between its rounds; chosen: a sweep of many short rounds would spend
most of its time drawing what nobody looks at. The last one is always drawn, after Ctrl-C too."""

REPORT_S = 5.0
"""Taken for the cost of the first report, where cells on several cores wait for it; chosen: pandas is imported too."""


class BetweenRounds:
    """What happens between rounds: table and report are rewritten, so that any stop leaves a fair comparison."""

    def __init__(self, plan: Plan, host: Host, alone: bool = True, at_once: int = 1) -> None:
        """Begin.

        Args:
            alone: whether this harness writes them; of several that write together the last one to end does.
            at_once: cells that wait while a report is drawn, so that it costs so many cores.
        """
        self.plan, self.host, self.alone, self.at_once = plan, host, alone, at_once
        self.began_s, self.reported_s = time.monotonic(), REPORT_S if at_once > 1 else 0.0

    def __call__(self, results: Results) -> str:
        """Return the answer so far."""
        from harness.analysis.answer import judged

        if self.alone:
            results.write_cells_csv()
        began = time.monotonic()
        if self.alone and self.reported_s * self.at_once <= REPORT_SHARE * (began - self.began_s):
            write_report_of(results, self.host)
            self.reported_s += time.monotonic() - began
        found = judged(results.rows(), self.plan)
        confirms = found.confirmation
        # Until all fresh seeds have run, the answer stays that of the sweep, which was said.
        return confirms.words if confirms.ground is Ground.PENDING and confirms.done else found.sentence


def prepare(plan: Plan, host: Host, only: Sequence[str], plugins: Sequence[str]) -> bool:
    """Measure what simulated cells need and was never measured here; say whether there was anything."""
    from harness.costs.cells import missing_sizes, needs_measuring

    wanted = [cell for cell in select(plan, only) if needs_measuring(cell) and not cell.not_possible]
    simulated = [found for cell in wanted if (found := _sized(cell, host, plugins)) is not None]
    cells = [cell for cell in simulated if missing_sizes(cell, plan.machine)]
    if not cells:
        return False
    from harness.engines.calibration.workload_times import ensure_profiles

    ensure_profiles(cells, plugins, say, plan.machine, goes_on=True)
    return True


def measure_steps(plan: Plan, host: Host, plugins: Sequence[str], lacking: Collection[str]) -> None:
    """Measure a step of the cells that run here and of which nothing else tells how long they take.

    Args:
        lacking: ids of the cells of which nothing does.
    """
    twins = [simulated(cell) for cell in plan.cells if cell.cell_id in lacking and may_be_stepped(cell)]
    cells = [found for cell in twins if (found := _sized(cell, host, plugins)) is not None]
    from harness.costs.cells import missing_sizes

    if any(missing_sizes(cell, plan.machine) for cell in cells):
        from harness.engines.calibration.workload_times import ensure_profiles

        ensure_profiles(cells, plugins, say, plan.machine, goes_on=True)


def _sized(cell: Cell, host: Host, plugins: Sequence[str]) -> Cell | None:
    """Return the cell with its micro-batch found; None where it cannot be run, which running it will say."""
    from harness.executors.admission import with_micro_batch

    try:
        return with_micro_batch(cell, host, plugins)
    except Exception:  # whatever it is, it is the cell's own record that tells it
        return None


def trace_models(plan: Plan, host: Host, plugins: Sequence[str]) -> None:
    """Trace the layers of every model that was never traced: what its cells need in memory follows from them.

    Cells of one model and one sample share a trace; where it fails, the reason is said and kept.
    """
    from harness.costs.cells import find_shape
    from harness.engines.calibration.trace_in_child import trace_together

    wanted: dict[str, Cell] = {}
    for cell in plan.cells:
        work = cell.workload
        key = repr((work.model, work.dataset, work.loss, work.precision, cell.device, cell.code.get("model")))
        if key not in wanted and not cell.not_possible and find_shape(cell, host) is None:
            wanted[key] = cell
    left = list(wanted.values())
    while left:
        cells, left = left[: plan.machine.cores], left[plan.machine.cores :]
        for cell in cells:
            say(f"tracing {cell.workload.model.name} as {cell.cell_id} runs it")
        for cell, found in zip(cells, trace_together(cells, host, plugins), strict=True):
            if isinstance(found, NotKnown):
                say(f"  {cell.workload.model.name}: its layers are not known: {found.reason}")


def run(
    plan: Plan,
    host: Host,
    plugins: Sequence[str],
    root: Path,
    only: Sequence[str],
    *,
    retry: Sequence[str] = (),
    fresh: bool = False,
    confirm: int | None = None,
    budget: str | None = None,
    strict: bool = False,
    open_report: bool = False,
    trace: int | None = None,
    reference: int | None = None,
    executor: str = "local",
    leases: Leases | None = None,
    refuse_another: Callable[[], None] = lambda: None,
    trackers: Mapping[str, Listener] = NO_TRACKERS,
) -> int:
    """Run a plan, then what confirms it, and return the exit code.

    Args:
        executor: what runs the cells, as it is written after --executor.
        leases: of the results folder; None: nobody is to see what runs.
        trackers: listeners that were asked for, by name.
        reference: runs of the reference beside the cells; None: as many as the scenario says.
        refuse_another: raises where the results folder is no longer the one that this run has locked.
    """
    if confirm is not None and only:
        raise InputError(["run: --confirm bears out the answer of the whole sweep; leave out --only"])
    results = Results(root / plan.name)
    plan = confirmed_as_before(plan, results, confirm)
    alone = leases is None or not leases.joins
    if executor != "slurm":
        refuse_under_way(results)
    elif not alone:
        raise InputError(["run: --join and --executor slurm do not go together: its jobs share the folder already"])
    if leases is not None:
        leases.agree(_digest(plan), plan.name)
    if not alone and plan.reference_runs and reference is None:
        say("  note: no reference is run, because other harnesses may run cells beside it (--join)")
        reference = 0
    cells = select(plan, only)
    todo = missing(cells, results, retry, fresh)
    _announce(plan, results, cells, len(todo))
    if fresh:
        for of_the_night in (REFERENCE_FILE, RERUNS, INTERLEAVED_FILE):
            set_aside(results, of_the_night)
    budget_s, began_s = _budget(budget) or plan.budget_s, time.monotonic()
    runs_cells = executor_of(executor, host, plan, results)
    audience = audience_of(plan, results, host.listeners, trackers)
    host = replace(host, listeners=[*audience.listeners])
    beside = plan.reference_runs if reference is None else reference
    if beside and runs_elsewhere(executor):
        where = f"run: --reference (measure.reference) measures this machine, and --executor {executor} runs cells on"
        raise InputError([f"{where} others; leave it out"])

    def run_now(plan: Plan, cells: Sequence[Cell], beside: int = 0) -> Summary:
        results.write_plan(replace(plan, plugins=tuple(plugins)))
        left_s = budget_s and max(0.0, budget_s - (time.monotonic() - began_s))
        between = BetweenRounds(plan, host, alone, runs_cells.at_once)
        with watching(plan, between) as watcher, audience.saying(watcher.say):
            return run_cells(
                *(plan, cells, results, host, plugins, watcher),
                executor=runs_cells,
                retry=retry,
                fresh=fresh,
                budget_s=left_s,
                trace=trace,
                refuse_another=refuse_another,
                leases=None if executor == "slurm" else leases,  # which hands all its cells on at once
                reference=ReferenceRuns(results, plan.cells, beside, watcher.say, len(cells)).due if beside else None,
            )

    summary = Summary()
    try:
        results.write_plan(replace(plan, plugins=tuple(plugins)))  # listeners may ask what is stored of it
        audience.started()
        with runs_cells:
            summary = run_now(plan, cells if only else plan.swept, beside)
            if plan.confirm and not only and not summary.stopped:
                plan = with_picks(plan, results)
                cells = plan.cells
                fresh_ones = [cell for cell in cells if cell.confirms]
                if missing(fresh_ones, results, retry, fresh):
                    say(f"\n{confirmation_in_words(plan, swept=True)}")
                summary = summary.then(run_now(plan, fresh_ones))
    except KeyboardInterrupt:  # before or after the cells
        summary = replace(summary, interrupted=True)
    with Uninterrupted():  # a signal that comes only now ends a run that has told what it found
        last = leases is None or leases.leave()
        if last:
            results.write_cells_csv()
        try:
            found = _conclude(plan, results, summary, plugins)
            if trace:
                _tell_traces(results, cells)
        finally:
            # Drawing takes longer than all else of a simulated run: whoever asked has read the answer meanwhile.
            path = write_report_of(results, host, plugins) if last else results.folder / "report.html"
        say(f"report: {path}{'' if last else ', written by the harness that ends last'}")
        if summary.interrupted and runs_cells.goes_on:
            say(runs_cells.goes_on)
        say(f"next: {_next(summary, results)}")
    if audience.listeners and last:
        from harness.commands.show_json import answer_entry

        audience.finished(to_json(answer_entry(found)), again=not summary.interrupted)
    if open_report and last:
        click.launch(str(path))
    return _exit_code(results, summary, strict)


def _digest(plan: Plan) -> str:
    """Return what tells a plan from another of its name: the cells of its sweep, and how its answer is confirmed."""
    ids = sorted(cell.cell_id for cell in plan.swept)
    return hashlib.sha256("\n".join([*ids, f"confirm {plan.confirm}"]).encode()).hexdigest()[:16]


def _budget(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise InputError([f"--budget {text}: {error}"]) from None


def _announce(plan: Plan, results: Results, cells: Sequence[Cell], todo: int) -> None:
    from harness.core.device_words import machine_in_words
    from harness.core.environment import describe_environment

    say(f"{plan.name}: {counted(len(cells), 'cell')}, {todo} to run")
    say(f"  {'this machine' if plan.machine.nodes == 1 else 'machines'}: {machine_in_words(plan.machine)}")
    if plan.confirm:
        say(f"  {confirmation_in_words(plan, was_swept(plan, results.records_of(plan.swept)))}")
    for note in plan.notes:
        say(f"  note: {note}")
    if plan.left_out:
        say(f"  {counted(len(plan.left_out), 'point')} left out; `harness plan` shows why")
    here = describe_environment(plan.machine)["id"]
    foreign = [c for c in cells if (r := results.record(c.cell_id)) is not None and r.environment.get("id") != here]
    if foreign:
        say(f"  {counted(len(foreign), 'stored cell')} from another environment; --fresh runs them again here")


def write_report_of(results: Results, host: Host, plugins: Sequence[str] = ()) -> Path:
    """Write a scenario's report, unless the one there says the same already."""
    from harness.commands.simulator import simulator
    from harness.report import is_current, write_report

    path = results.folder / "report.html"
    if not is_current([results], path):
        write_report([results], path, sections=host.report_sections, what_if=simulator(plugins))
    return path


def _conclude(plan: Plan, results: Results, summary: Summary, plugins: Sequence[str]) -> Answer:
    """Say what was run and what came of it; return the answer."""
    from harness.analysis.answer import answer_as_text
    from harness.commands.explain_text import compared_text
    from harness.commands.turning_points import folder_answer

    counts = Counter(record.status for record in results.records().values())
    missing_cells = len(plan.cells) - sum(counts.values())
    ended = [f"{count} {status}" for status, count in sorted(counts.items())]
    say("\n" + ", ".join([*ended, *([f"{missing_cells} not run yet"] if missing_cells else [])]))
    elsewhere = f", {summary.elsewhere} run by other harnesses" if summary.elsewhere else ""
    say(f"{counted(len(summary.ran), 'cell')} run now, {summary.kept} kept from earlier runs{elsewhere}")
    if (reference := read_reference(results.folder)) is not None:
        say(f"reference: {reference_in_words(reference)}")
    for record in _bugs(results):
        log = results.cell_folder(record.cell.cell_id) / "log.txt"
        say(f"{record.cell.cell_id} hit a bug of the harness, not of your scenario; its traceback is in {log}")
    hidden = results.stored_cells() - {cell.cell_id for cell in plan.cells}
    if hidden:
        say(f"not shown: {counted(len(hidden), 'stored cell')} of another plan of this name")
    found = folder_answer(results, plugins)
    say(answer_as_text(found))
    for line in compared_text(results, plugins):
        say(line)
    return found


def _tell_traces(results: Results, cells: Sequence[Cell]) -> None:
    """Say where the traces lie, and which cells have none because they had run before."""
    traced = [cell for cell in cells if (results.cell_folder(cell.cell_id) / "trace.json").is_file()]
    pairs = len(list(results.folder.glob("traces/*.json")))
    beside = f"; {pairs} of both engines side by side in {results.folder / 'traces'}" if pairs else ""
    say(
        f"traces: {counted(len(traced), 'file')} {results.folder / 'cells'}/*/trace.json{beside}; open them in Perfetto"
    )
    if len(traced) < len(cells):
        say(f"  no trace of {counted(len(cells) - len(traced), 'cell')} that had run before; --fresh runs them again")


def _next(summary: Summary, results: Results) -> str:
    if summary.interrupted:
        return "run the same command again to continue"
    if summary.out_of_budget:
        return "the budget is used up; run the same command again to continue"
    if summary.failures:
        return f"harness show {summary.failures[0].cell.cell_id} --results {results.folder.parent}"
    return f"harness report {results.folder} --open"


def _bugs(results: Results) -> list[Record]:
    """Return the cells that a bug of ours ended, now or in an earlier run: tried twice, they are not run again."""
    return [record for record in results.records().values() if record.cause is Cause.HARNESS]


def _exit_code(results: Results, summary: Summary, strict: bool) -> int:
    if summary.interrupted:
        return exit_code()
    if _bugs(results):
        return 4
    if summary.out_of_budget and not summary.ran:
        return NothingDone.exit_code
    statuses = {record.status for record in results.records().values()}
    bad = any(status.failed or (strict and status.final and status is not Status.OK) for status in statuses)
    return int(bad)


def debug(plan: Plan, only: Sequence[str], plugins: Sequence[str], trace: int | None = None) -> None:
    """Run the first cell on the virtual engine in this process, so that breakpoint() works."""
    import torch

    from harness.engines.processes.blame import own_files
    from harness.engines.shared.setup import make_setup
    from harness.engines.virtual.engine import Crash, run_virtual
    from harness.results.trace_files import document_of, steps_to_record

    cell = replace(select(plan, only)[0], engine="virtual", device="cpu")
    say(f"debugging {cell.cell_id} on the virtual engine, in this process; nothing is stored")
    torch.set_num_threads(cell.threads_per_device)
    setup = make_setup(cell, plugins)
    try:
        outcome = run_virtual(setup, trace=steps_to_record(cell, trace) if trace else None)
    except Crash as crash:
        cause = crash.__cause__
        if cause is None or isinstance(cause, HarnessError):
            raise (cause or crash) from None
        raise PluginError(describe(cause, own_files(cell, plugins))) from cause
    status, reason = outcome.status(setup.budget)
    say(f"{status}: {reason}")
    if trace:
        path = Path(f"{cell.cell_id}.trace.json")
        write_atomically(path, json.dumps(document_of(cell, outcome, trace)) + "\n")
        say(f"trace: {path}; open it in Perfetto")
