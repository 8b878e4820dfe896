"""`harness compare BASE NEW`: what two results folders have in common, and whether it got worse."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.scenario_facts import scenario_facts
from harness.core.cell import POINT_FIELDS
from harness.core.errors import InputError, NothingDone
from harness.core.records import to_json
from harness.core.words import counted
from harness.results.store import Record, Results, find_results
from harness.results.tables import read_parquet

if TYPE_CHECKING:
    from harness.analysis.compare import Comparison, MeasuredCell
    from harness.report.against import Against


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


def compare_results(
    base: Path, new: Sequence[Path], min_effect: float, allow_other_device: bool, trust_machine: bool
) -> Comparison:
    """Compare results with those in the folder `base`; of several scenarios those that have the same name.

    Raises:
        InputError: NEW holds no results, or a scenario twice.
        NothingDone: there is no BASE, no cell in common, or both are the same measurements.
    """
    from harness.analysis.compare import compare

    if not 0 < min_effect < 10:
        raise InputError([f"--min-effect {min_effect:g}: a share above 0, such as 0.05 for 5 %"])
    folders, named = [found for path in new for found in find_results(path)], " ".join(map(str, new))
    old = _asked_for(_base(base, new), new, folders)
    before, after = _stored(old, folders), _stored(folders, old)
    common = [(before[key], after[key]) for key in before if key in after]
    if not common:
        raise NothingDone(
            f"no cell in common: {base} has {len(before)}, {named} has {len(after)}, and no two agree in strategy, "
            "workload, batch, learning rate, devices, engine, goal and seed. Run the scenario that BASE was made with."
        )
    copies = frozenset(one.key for one, other in common if one.same_as(other))
    if len(copies) == len(common):
        raise NothingDone(
            f"{base} and {named} hold the same measurements ({counted(len(common), 'cell')}). Measure again with "
            f"`harness run SCENARIO --fresh`, or into another folder with --results."
        )
    earlier, later = ([_measured(stored) for stored in side.values()] for side in (before, after))
    return compare(earlier, later, min_effect, copies, allow_other=allow_other_device, trust_machine=trust_machine)


def _base(base: Path, new: Sequence[Path]) -> list[Results]:
    try:
        return find_results(base)
    except InputError:
        raise NothingDone(
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
    """Return the records of one side; scenarios are told apart by name where either side has several."""
    named = len(folders) > 1 or len(others) > 1
    twice = [name for name, count in Counter(results.plan().name for results in folders).items() if count > 1]
    if twice:
        raise InputError([f"scenario {twice[0]} is in several folders; name the one to compare"])
    found = {}
    for results in folders:
        name = results.plan().name
        scenario = name if named else ""
        for record in results.records().values():
            cell = to_json(record.cell)
            point = scenario + json.dumps({key: cell[key] for key in POINT_FIELDS}, sort_keys=True)
            stored = Stored(record, results, point, scenario, name)
            found[stored.key] = stored
    return found


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
