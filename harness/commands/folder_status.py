"""`harness status`: how far a results folder is, who works there and on what, what is left and what it has cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median

from harness.api.host import Host, load_host
from harness.commands.run_times import run_times, time_left, took_s
from harness.core.cell import Cell, Plan
from harness.core.errors import InputError
from harness.core.leases import HeldLease, held_by_harnesses, held_cells
from harness.core.outside_text import visible
from harness.core.units import SECONDS_PER_HOUR
from harness.core.words import counted, duration, three
from harness.costs.price import steps_of
from harness.executors.slurm_jobs import cells_at_work, tasks_under_way
from harness.executors.slurm_queue import QueuedTask
from harness.executors.slurm_task import Beginning
from harness.results.store import Record, Results

NAME_CHARACTERS = 100
"""Of a name in a lease that is shown; chosen: host names have 64 at most."""


class Progressing(StrEnum):
    """What goes on in a results folder."""

    RUNNING = "running"
    """A harness works there."""
    COMPLETE = "complete"
    """Every cell of the plan has its result."""
    STOPPED = "stopped"
    """Cells are left, and nobody runs them."""
    DEAD = "dead"
    """Cells are left, and whoever ran them ended without a word, or gives no sign of life."""
    EMPTY = "empty"
    """Nothing was planned there yet."""


@dataclass(frozen=True)
class HarnessAtWork:
    """A harness that writes to the folder, or did until it died.

    Attributes:
        since: when it began, ISO 8601 by its host's clock.
        joins: whether others may work beside it.
        live: whether it lives, as far as can be told; silent_s: since its last sign of life.
    """

    host: str
    process: int
    since: str
    joins: bool
    live: bool
    silent_s: float


@dataclass(frozen=True)
class CellAtWork:
    """A cell that runs.

    Attributes:
        host, process: where it is supervised.
        since: when it was taken, ISO 8601.
        step: updates that it has made; steps: that it makes at most; None where that is not known.
    """

    cell_id: str
    host: str
    process: int
    since: str
    step: int | None
    steps: int | None


@dataclass(frozen=True)
class FolderStatus:
    """How far one folder is.

    Attributes:
        planned: cells of the plan; done: those that no run takes up again.
        statuses: stored cells by status.
        batch_tasks: tasks of Slurm's that have not ended; None where Slurm gives no answer, or is not on this machine.
        seconds_left: for the cells that are left, on as many cores as cells run now; None before any has ended.
        unlike: cells left that are like none that ran: each is counted as long as the median of those that have.
        cost: of measured cells up to now, in `currency`; None where the scenario has no price or none was measured.
    """

    folder: Path
    scenario: str
    state: Progressing
    planned: int
    done: int
    statuses: Mapping[str, int]
    failed: tuple[str, ...]
    running: tuple[CellAtWork, ...]
    harnesses: tuple[HarnessAtWork, ...]
    batch_tasks: tuple[QueuedTask, ...] | None
    seconds_left: float | None
    unlike: int
    cost: float | None
    currency: str


def statuses_at(what: str, root: Path) -> list[FolderStatus]:
    """Return the status of the folders that a path or a scenario's name stands for.

    Raises:
        InputError: there is no such folder.
    """
    path = Path(what) if Path(what).exists() else root / what
    if not path.is_dir():
        raise InputError([f"{what}: no results folder of this name; give results/SCENARIO, or the name of a scenario"])
    below = sorted({found.parent for name in ("plan.json", "leases") for found in path.glob(f"*/{name}")})
    folders = below if below and not (path / "plan.json").is_file() else [path]
    return [status_of(folder) for folder in folders]


def status_of(folder: Path) -> FolderStatus:
    """Return how far a folder is; it is only read.

    Raises:
        InputError: its plan or a record cannot be read.
    """
    results = Results(folder)
    harnesses = tuple(_harness(held) for held in held_by_harnesses(folder))
    if not (folder / "plan.json").is_file():
        state = _state(harnesses, left=True, planned=False)
        return FolderStatus(folder, folder.name, state, 0, 0, {}, (), (), harnesses, (), None, 0, None, "")
    plan = results.plan()
    records = results.records_of(plan.cells)
    left = [cell for cell in plan.cells if not (known := records.get(cell.cell_id)) or not known.final]
    host = load_host()  # none of the plan's own plugins: to look at results runs none of their code
    at_work = {name: held for name, held in held_cells(folder).items() if held.live}
    under_way = tasks_under_way(results)
    in_batch = cells_at_work(results, under_way or ())
    times = run_times(plan, results, records, host)
    ahead = time_left(left, times)
    took = [seconds for record in records.values() if record.status.tried and (seconds := took_s(record))]
    unlike = ahead.cells - ahead.known
    foretold = not unlike or bool(took)
    seconds = ahead.seconds + (unlike * median(took) if took else 0.0)
    cost = _cost(records.values())
    return FolderStatus(
        folder=folder,
        scenario=plan.name,
        state=Progressing.RUNNING if under_way else _state(harnesses, left=bool(left), planned=True),
        planned=len(plan.cells),
        done=len(plan.cells) - len(left),
        statuses={str(status): count for status, count in Counter(r.status for r in records.values()).items()},
        failed=tuple(cell_id for cell_id, record in records.items() if record.status.failed),
        running=(
            *(_cell(cell, at_work[cell.cell_id], host) for cell in plan.cells if cell.cell_id in at_work),
            *(_cell_in_batch(cell, in_batch[cell.cell_id], host) for cell in plan.cells if cell.cell_id in in_batch),
        ),
        harnesses=harnesses,
        batch_tasks=None if under_way is None else tuple(task for task, _ in under_way),
        seconds_left=seconds / max(1, len(at_work) + len(in_batch)) if foretold else None,
        unlike=unlike,
        cost=cost,
        currency=_currency(plan) if cost is not None else "",
    )


def _state(harnesses: Sequence[HarnessAtWork], *, left: bool, planned: bool) -> Progressing:
    if any(each.live for each in harnesses):
        return Progressing.RUNNING
    if harnesses and left:
        return Progressing.DEAD
    if not planned:
        return Progressing.EMPTY
    return Progressing.STOPPED if left else Progressing.COMPLETE


def _harness(held: HeldLease) -> HarnessAtWork:
    host, process, since = _holder(held.facts)
    return HarnessAtWork(host, process, since, held.facts.get("joins") is True, held.live, held.silent_s)


def _cell(cell: Cell, held: HeldLease, host: Host) -> CellAtWork:
    _, _, since = _holder(held.facts)
    where = held.facts.get("where")
    at, process, _ = _holder(where if isinstance(where, dict) else held.facts)
    step = held.facts.get("step")
    step = step if isinstance(step, int) and not isinstance(step, bool) else None
    return CellAtWork(cell.cell_id, at, process, since, step, steps_of(cell, host))


def _cell_in_batch(cell: Cell, begun: Beginning, host: Host) -> CellAtWork:
    return CellAtWork(cell.cell_id, begun.host, begun.process, begun.when, None, steps_of(cell, host))


def _holder(facts: Mapping[str, object]) -> tuple[str, int, str]:
    """Return host, process and beginning as a lease names them; anybody may have written it."""
    process = facts.get("process")
    host, since = (visible(str(facts.get(key, "?"))[:NAME_CHARACTERS]) for key in ("host", "since"))
    return host, process if isinstance(process, int) else 0, since


def _cost(records: Iterable[Record]) -> float | None:
    """Return what measured cells have cost: their devices, as long as each took; simulated ones cost nothing."""
    costs = [
        record.cell.gpus * record.cell.per_gpu_hour * seconds / SECONDS_PER_HOUR
        for record in records
        if record.cell.engine == "real" and record.cell.per_gpu_hour is not None and (seconds := took_s(record))
    ]
    return sum(costs) if costs else None


def _currency(plan: Plan) -> str:
    return next((cell.currency for cell in plan.cells if cell.currency), "")


# -- in words ----------------------------------------------------------------------------------------------------------


def status_text(found: FolderStatus) -> str:
    """Return a folder's status as text."""
    return "\n".join([f"{found.scenario}: {_STATE[found.state](found)}", *(f"  {line}" for line in _lines(found))])


def _of(found: FolderStatus) -> str:
    return f"{found.done} of {counted(found.planned, 'cell')} done"


_STATE: Mapping[Progressing, Callable[[FolderStatus], str]] = {
    Progressing.RUNNING: lambda found: f"running, {_of(found)}" if found.planned else "running, not planned yet",
    Progressing.COMPLETE: lambda found: f"complete, {_of(found)}",
    Progressing.STOPPED: lambda found: f"stopped, {_of(found)}; nobody runs the rest",
    Progressing.DEAD: lambda found: f"dead, {_of(found)}; run the same command again to continue",
    Progressing.EMPTY: lambda found: "empty, nothing has run here yet",
}


def _lines(found: FolderStatus) -> Iterable[str]:
    if found.statuses:
        counts = (f"{count} {status}" for status, count in sorted(found.statuses.items()))
        yield f"results: {', '.join(counts)}"
    for cell_id in found.failed:
        yield f"failed: {cell_id} (harness show {cell_id} --results {found.folder.parent})"
    for harness in found.harnesses:
        yield _harness_in_words(harness)
    if found.batch_tasks is None and found.done < found.planned:
        yield "Slurm: jobs were submitted from here; whether they go on is not known on this machine"
    elif found.batch_tasks:
        states = Counter(f"{task.state} ({task.why})" if not task.node else task.state for task in found.batch_tasks)
        jobs = sorted({task.key.partition("_")[0] for task in found.batch_tasks})
        each = ", ".join(f"{count} {state}" for state, count in states.items())
        yield f"Slurm: {each}, of {counted(len(found.batch_tasks), 'task')}; to end them: scancel {' '.join(jobs)}"
    for cell in found.running:
        yield _cell_in_words(cell)
    if found.state in (Progressing.RUNNING, Progressing.STOPPED, Progressing.DEAD) and found.planned:
        yield from _left_in_words(found)
    if found.cost is not None:
        yield f"cost so far: {three(found.cost)} {found.currency} for measured cells"


def _harness_in_words(harness: HarnessAtWork) -> str:
    who = f"harness: process {harness.process} on {harness.host}, since {harness.since}"
    if not harness.live:
        return f"{who}: dead, the last sign of life is {duration(harness.silent_s)} old"
    return f"{who}{', with others (--join)' if harness.joins else ''}"


def _cell_in_words(cell: CellAtWork) -> str:
    words = f"running: {cell.cell_id}, process {cell.process} on {cell.host}, since {cell.since}"
    if cell.step is None:
        return words
    return f"{words}, step {cell.step:,}{f' of at most {cell.steps:,}' if cell.steps else ''}"


def _left_in_words(found: FolderStatus) -> Iterable[str]:
    left = found.planned - found.done
    if not left:
        return
    known = "not known yet" if found.seconds_left is None else f"about {duration(found.seconds_left)}"
    yield f"left: {counted(left, 'cell')}, {known}"
