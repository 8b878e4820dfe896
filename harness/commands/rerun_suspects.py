"""`harness compare --rerun`: the cells of what looks slower, and the reference, run again at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.analysis.gate import FRESH_RUNS
from harness.api.host import Host, load_host
from harness.commands.pair_results import Stored, paired
from harness.commands.progress import ending
from harness.commands.reference_runs import ReferenceRuns
from harness.commands.rounds import run_cells
from harness.core.cell import Cell, Plan
from harness.core.environment import describe_environment
from harness.core.errors import MachineError
from harness.core.one_writer import sole_writer
from harness.core.words import counted
from harness.engines.processes.status import Reached
from harness.results.reruns import RERUNS, rerun_folder
from harness.results.store import Record, Results
from harness.scenario.plan import detect_machine


class Told:
    """Says each fresh run as it ends."""

    def __init__(self, number: int, say: Callable[[str], None]) -> None:
        self.number, self.say = number, say

    def started(self, cell: Cell, number: int, of: int) -> None:
        """Show nothing yet."""

    def reached(self, cell: Cell, reached: Reached) -> None:
        """Show nothing of single steps."""

    def finished(self, record: Record, seconds: float) -> None:
        """Say how the run ended."""
        words = f"fresh run {self.number} of {FRESH_RUNS}: {record.cell.cell_id} ({seconds:.1f} s): {ending(record)}"
        self.say(words)

    def elsewhere(self, record: Record, of: int) -> None:
        """Nobody else runs them."""

    def waiting(self, num_cells: int) -> None:
        """Nobody is waited for."""

    def round_ended(self, results: Results) -> None:
        """Show nothing more."""


def rerun_suspects(
    base: Path, new: Sequence[Path], points: Sequence[str], plugins: Sequence[str], say: Callable[[str], None]
) -> None:
    """Run the cells of points again, round by round with the reference; what an earlier call has run is kept.

    Args:
        points: as the comparison names them.
        plugins: files beside those that the night loaded.

    Raises:
        MachineError: NEW is from another machine or other versions, the code is another by now, or another harness
            writes to NEW.
    """
    suspects: dict[Path, dict[str, list[Stored]]] = {}
    for stored in paired(base, new).after.values():
        if stored.point in points and stored.record.status.trained:
            suspects.setdefault(stored.results.folder, {}).setdefault(stored.point, []).append(stored)
    for of_point in suspects.values():
        night = next(iter(of_point.values()))[0].results
        plan = replace(night.plan(), machine=detect_machine())
        host = load_host(files := tuple(dict.fromkeys((*plan.plugins, *plugins))))
        for stored in (stored for seeds in of_point.values() for stored in seeds):
            _refuse_another(stored, plan, host)
        with sole_writer(night.folder, say=say) as refuse_replaced:
            _rerun(night, plan, of_point, host, files, say, refuse_replaced)


def _rerun(
    night: Results,
    plan: Plan,
    of_point: Mapping[str, Sequence[Stored]],
    host: Host,
    files: Sequence[str],
    say: Callable[[str], None],
    refuse_replaced: Callable[[], None],
) -> None:
    say(f"{plan.name}: {counted(len(of_point), 'suspect')}, {counted(FRESH_RUNS, 'fresh run')} each")
    loops = ReferenceRuns(Results(night.folder / RERUNS), plan.cells, FRESH_RUNS, say)
    for number in range(1, FRESH_RUNS + 1):
        refuse_replaced()
        night.refuse_links(rerun_folder(night, number).folder)
        if len(loops.stored.runs) < number:
            loops.run_once(after_cells=(number - 1) * len(of_point))
        cells = [seeds[(number - 1) % len(seeds)].record.cell for seeds in of_point.values()]
        _run(replace(plan, cells=tuple(cells)), rerun_folder(night, number), host, files, Told(number, say))


def _run(plan: Plan, results: Results, host: Host, plugins: Sequence[str], told: Told) -> None:
    """Run the cells of one round, beside those of earlier suspects.

    Raises:
        KeyboardInterrupt: it was stopped; what has run is kept.
    """
    known = results.plan().cells if (results.folder / "plan.json").is_file() else ()
    cells = {cell.cell_id: cell for cell in (*known, *plan.cells)}
    results.write_plan(replace(plan, cells=tuple(cells.values())))
    if run_cells(plan, plan.cells, results, host, plugins, told).interrupted:
        raise KeyboardInterrupt


def _refuse_another(stored: Stored, plan: Plan, host: Host) -> None:
    """Refuse to run anything but what the night ran: it would be judged as the night's."""
    cell, then = stored.record.cell, "run it again where and with what NEW was made"
    if stored.record.environment.get("id") != describe_environment(plan.machine)["id"]:
        raise MachineError(f"--rerun: {cell.cell_id} ran on another machine, or with other versions; {then}")
    if cell.strategy not in host.strategies or host.strategy_hash(cell.strategy) != cell.code.get("strategy", ""):
        raise MachineError(f"--rerun: the code of {cell.strategy} is not what {cell.cell_id} ran; {then}")
