"""`harness compare BASE NEW`: what two results folders have in common, and whether it got worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.besides import History, beside, notes_of
from harness.commands.scenario_facts import scenario_facts
from harness.core.cell import point_key
from harness.core.errors import InputError, NothingDone
from harness.core.text import Text
from harness.core.words import counted
from harness.results.interleaved_with import took_turns
from harness.results.store import Record, Results, find_results
from harness.results.tables import read_parquet

if TYPE_CHECKING:
    from harness.analysis.compare import Comparison, MeasuredCell
    from harness.report.against import Against


IN_TURNS = Text("each run took turns with the same of the other side, so drift of the machine is in no ratio")


class NoBase(NothingDone):
    """There is nothing to compare with yet: the first night."""


@dataclass(frozen=True)
class Stored:
    """A record with the file that it was read from.

    Attributes:
        scenario: its name, where either side has several.
        plan_name: the name of its scenario.
    """

    record: Record
    results: Results
    point: str
    scenario: str = ""
    plan_name: str = ""

    @property
    def key(self) -> tuple[str, int]:
        """What pairs it with a record of the other side."""
        return self.point, self.record.cell.seed

    def same_as(self, other: Stored) -> bool:
        """Whether both are one measurement: two runs that ended never agree in every second that they took."""
        if not self.record.status.trained:
            return False  # what breaks off at once measures nothing, and does so alike every night
        mine, theirs = (
            s.results.cell_folder(s.record.cell.cell_id).joinpath("record.json").read_bytes() for s in (self, other)
        )
        return mine == theirs


@dataclass(frozen=True)
class NightPair:
    """Two nights, cell by cell.

    Attributes:
        before, after: of BASE and NEW, by point and seed.
        never_run: cells that NEW plans and neither side has a result of.
    """

    before: Mapping[tuple[str, int], Stored]
    after: Mapping[tuple[str, int], Stored]
    never_run: int


def paired(base: Path, new: Sequence[Path]) -> NightPair:
    """Return two nights side by side; of several scenarios those that have the same name.

    Raises:
        InputError: NEW holds no results, or a scenario twice.
        NothingDone: there is no BASE, or no cell in common.
    """
    folders, named = [found for path in new for found in find_results(path)], " ".join(map(str, new))
    old = _asked_for(_base(base, new), new, folders)
    before, after = _stored(old, folders), _stored(folders, old)
    if not before.keys() & after.keys():
        raise NothingDone(
            f"no cell in common: {base} has {len(before)}, {named} has {len(after)}, and no two agree in strategy, "
            "workload, batch, learning rate, devices, engine, goal and seed. Run the scenario that BASE was made with."
        )
    planned = {
        (_scenario(results, folders, old) + point_key(cell), cell.seed)
        for results in folders
        for cell in results.plan().cells
    }
    return NightPair(before, after, len(planned - before.keys() - after.keys()))


def compare_results(
    base: Path,
    new: Sequence[Path],
    min_effect: float,
    allow_other_device: bool,
    trust_machine: bool,
    history: History | None = None,
    *,
    rerun: bool = False,
) -> Comparison:
    """Compare results with those in the folder `base`, beside the references and fresh runs that there are.

    Args:
        history: earlier nights.
        rerun: whether fresh runs were asked for, to say why there are none.

    Raises:
        InputError: NEW holds no results, or a scenario twice.
        NothingDone: there is no BASE, no cell in common, or both are the same measurements.
    """
    from harness.analysis.compare import compare

    if not 0 < min_effect < 10:
        raise InputError([f"--min-effect {min_effect:g}: a share above 0, such as 0.05 for 5 %"])
    pair = paired(base, new)
    common = [(pair.before[key], pair.after[key]) for key in pair.before if key in pair.after]
    copies = frozenset(one.key for one, other in common if one.same_as(other))
    if len(copies) == len(common):
        raise NothingDone(
            f"{base} and {' '.join(map(str, new))} hold the same measurements ({counted(len(common), 'cell')}). "
            "Measure again with `harness run SCENARIO --fresh`, or into another folder with --results."
        )
    before, after = (
        {stored.scenario: stored.results for stored in side.values()} for side in (pair.before, pair.after)
    )
    besides = {name: beside(before.get(name), results, name, history) for name, results in after.items()}
    earlier, later = ([_measured(stored) for stored in side.values()] for side in (pair.before, pair.after))
    in_turns = all(
        name in before and took_turns(results.folder, before[name].folder) for name, results in after.items()
    )
    found = compare(
        earlier,
        later,
        min_effect,
        copies,
        allow_other=allow_other_device,
        trust_machine=trust_machine,
        besides=besides,
        never_run=pair.never_run,
        interleaved=in_turns,
    )
    more = [IN_TURNS] if in_turns else notes_of(besides, history, rerun=rerun)
    return replace(found, notes=(*found.notes, *more))


def _base(base: Path, new: Sequence[Path]) -> list[Results]:
    try:
        return find_results(base)
    except InputError:
        raise NoBase(
            f"no BASE yet: {base} holds no results. To make NEW the first BASE: "
            f"mkdir -p {base.parent if len(new) == 1 else base} && cp -r {' '.join(map(str, new))} {base}"
        ) from None


def _asked_for(old: Sequence[Results], new: Sequence[Path], folders: Sequence[Results]) -> Sequence[Results]:
    """Return the base's scenarios that NEW names one by one; all where it is a root: one that is lost is a finding."""
    if not {path.resolve() for path in new} <= {found.folder.resolve() for found in folders}:
        return old
    names = {found.plan().name for found in folders}
    return [found for found in old if found.plan().name in names] or old


def _stored(folders: Sequence[Results], others: Sequence[Results]) -> Mapping[tuple[str, int], Stored]:
    """Return the records of one side."""
    twice = [name for name, count in Counter(results.plan().name for results in folders).items() if count > 1]
    if twice:
        raise InputError([f"scenario {twice[0]} is in several folders; name the one to compare"])
    found = {}
    for results in folders:
        name, scenario = results.plan().name, _scenario(results, folders, others)
        for record in results.records().values():
            stored = Stored(record, results, scenario + point_key(record.cell), scenario, name)
            found[stored.key] = stored
    return found


def _scenario(results: Results, folders: Sequence[Results], others: Sequence[Results]) -> str:
    """Return what tells a scenario from others: its name where either side has several."""
    return results.plan().name if len(folders) > 1 or len(others) > 1 else ""


def _measured(stored: Stored) -> MeasuredCell:
    from harness.analysis.compare import MeasuredCell

    record, path = stored.record, stored.results.cell_folder(stored.record.cell.cell_id) / "steps.parquet"

    def steps() -> Sequence[float]:

        from harness.analysis.scaling import step_times

        if not path.is_file():
            return ()
        warmup = record.cell.measure.warmup_steps
        times: list[float] = step_times(read_parquet(path), warmup).tolist()
        return times

    timed = record.cell.goal.max_seconds is not None
    row = {**record.row, "status": record.status, "reason": record.reason, "scenario": stored.scenario}
    environment = {**scenario_facts(record.cell, stored.plan_name), **record.environment}
    return MeasuredCell(stored.point, row, environment, timed, steps)


def first_night(new: Path, without: str) -> str:
    """Return a night without a base as JUnit XML."""
    from harness.commands.compare_junit import first_night_text

    folders = find_results(new)
    missing = sum(len(results.plan().cells) - len(results.records()) for results in folders)
    more = f"; {counted(missing, 'cell')} of its plan without a result" if missing else ""
    stored = _stored(folders, ())
    return first_night_text([_measured(one).row for one in stored.values()], f"{without}{more}")


def against(found: Comparison, base: Path, new: Sequence[Path]) -> Against:
    """Return the comparison as a report takes it."""
    from harness.report.against import Against

    return Against(found, (str(base), " ".join(map(str, new))))


def text_of(found: Comparison, base: Path, new: Path, markdown: bool, as_json: bool) -> str:
    """Return the comparison in the form that was asked for."""
    if as_json:
        from harness.commands.compare_json import compare_document
        from harness.commands.documents import document_text

        return document_text(compare_document(found, str(base), str(new)))
    from harness.analysis.compare_words import in_markdown, in_text

    return (in_markdown if markdown else in_text)(found, (str(base), str(new)))
