"""What commands print with --json: these classes are what is written and what is documented.

Text in a document is for people and may change; programs decide by enums, ids and numbers. A number that was not
measured, or is not finite, is null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from harness.analysis.compared import ChangeKind, UsualFrom, Verdict
from harness.analysis.confirmation import Ground
from harness.analysis.trends import ChangedBy
from harness.commands.check.verdicts import Grade, Line
from harness.commands.folder_status import Progressing
from harness.commands.run_times import TimedBy
from harness.core.disturbances import Disturbance
from harness.core.endings import Cause, Status
from harness.core.records import Json, to_json
from harness.results.store import jsonable

DOCUMENT_SCHEMA = 1
"""Rises when a key of a document goes, or no longer means the same; new keys do not raise it."""


def described(text: str) -> object:
    """Describe a key."""
    return Field(description=text)


Schema = Annotated[int, described("version of this form; it rises when a key goes or changes its meaning")]
Words = Annotated[str, described("for people; may change")]


# -- compare -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fact:
    """Something that surrounds the cells and is not the same on both sides."""

    what: Annotated[str, described("cluster, gpu, cpu, torch, driver, scenario, and what else there is")]
    base: str
    new: str


@dataclass(frozen=True)
class BesideEntry:
    """A time beside the reference, a plain PyTorch loop that ran in the same nights."""

    basis: Annotated[UsualFrom, described("whether a history or BASE alone says what is usual")]
    nights: Annotated[int, described("that say it")]
    relative: Annotated[float, described("factor over what is usual, the machine's own change taken out")]
    limit: Annotated[float, described("factor that it has to exceed to be slower")]
    fresh: Annotated[int, described("fresh runs that decided; 0: the night itself")]


@dataclass(frozen=True)
class TogetherEntry:
    """All measured points of a scenario beside the reference, as one."""

    scenario: Annotated[str, described("empty where there is one only")]
    points: int
    kind: Annotated[ChangeKind | None, described("null where they are neither slower nor faster")]
    beside: BesideEntry


@dataclass(frozen=True)
class FoundEntry:
    """One thing that changed."""

    kind: ChangeKind
    cell_id: Annotated[str, described("of one cell of the point, in NEW where it is there")]
    point: Words
    quantity: Annotated[str, described("column of cells.csv; step: the time of an update; status")]
    base: Annotated[float | str | None, described("mean or median over seeds, or a status")]
    new: Annotated[float | str | None, described("mean or median over seeds, or a status")]
    change: Annotated[float | None, described("new over base; null of statuses")]
    interval: Annotated[
        tuple[float, float] | None, described("of the change; null where it is exact, or beside the reference")
    ]
    coverage: Annotated[float | None, described("of the interval, as a fraction")]
    runs: Annotated[tuple[int, int], described("on either side")]
    exact: Annotated[bool, described("whether the same code must give the same value again")]
    beside: Annotated[BesideEntry | None, described("null where no reference ran, or of what is no time")]
    where: Annotated[str, described("the part of the step that changed most, for people")]
    detail: Words
    sentence: Words


@dataclass(frozen=True)
class ChangeEntry:
    """One quantity of one point that was compared, changed or not."""

    cell_id: Annotated[str, described("of one cell of the point in NEW")]
    point: Words
    quantity: Annotated[str, described("column of cells.csv; step: the time of an update")]
    base: float
    new: float
    change: Annotated[float, described("new over base")]
    interval: Annotated[
        tuple[float, float] | None, described("of the change; null where it is exact, or beside the reference")
    ]
    kind: Annotated[ChangeKind | None, described("null where the change is not both certain and large enough")]
    beside: Annotated[BesideEntry | None, described("null where no reference ran, or of what is no time")]
    parts: Annotated[dict[str, dict[str, float]], described("seconds of an update by part of the step: base, new")]


@dataclass(frozen=True)
class DetectableEntry:
    """The smallest growth that would have been found in four nights of five."""

    point: Words
    quantity: str
    factor: float


@dataclass(frozen=True)
class DisturbedEntry:
    """How many of the compared cells something else disturbed: their times may be too long."""

    base: int
    new: int
    by: Annotated[tuple[str, ...], described(f"most often first: {', '.join(Disturbance)}")]


@dataclass(frozen=True)
class CompareDocument:
    """What `harness compare BASE NEW --json` prints."""

    schema: Schema
    base: Annotated[str, described("as it was given")]
    new: Annotated[str, described("as it was given")]
    verdict: Annotated[Verdict, described("what it comes to")]
    exit_code: Annotated[int, described("what the command ends with")]
    sentence: Annotated[str, described("the verdict for people")]
    regression: Annotated[bool, described("whether anything got worse")]
    cells: Annotated[int, described("cells that both sides have")]
    ended: Annotated[int, described("cells that ran to the same end on both sides, and were compared")]
    copies: Annotated[int, described("cells that are the same measurement on both sides, and were not")]
    only_new: Annotated[int, described("cells that BASE lacks")]
    never_run: Annotated[int, described("cells that NEW plans and neither side has a result of")]
    disturbed: DisturbedEntry
    exact: Annotated[int, described("values that were compared exactly")]
    min_effect: Annotated[float, described("share that a time had to grow by")]
    changed: Annotated[tuple[Fact, ...], described("what differs around the cells; what explains most comes first")]
    refused: Annotated[tuple[Fact, ...], described("devices and clusters for which only statuses were compared")]
    findings: Annotated[tuple[FoundEntry, ...], described("what matters most comes first")]
    changes: Annotated[tuple[ChangeEntry, ...], described("all times and allocated memory that were compared")]
    learnt: Annotated[tuple[ChangeEntry, ...], described("all accuracies, losses, metrics and samples that were")]
    together: Annotated[tuple[TogetherEntry, ...], described("all points as one beside the reference, by scenario")]
    detectable: tuple[DetectableEntry, ...]
    notes: tuple[str, ...]


# -- show --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CellEntry:
    """One finished cell."""

    cell_id: str
    status: Status
    cause: Annotated[Cause | None, described("what ended it before its training did; else null")]
    reason: Words
    notes: tuple[str, ...]
    row: Annotated[Json, described("its columns of cells.csv")]
    environment: Annotated[Json, described("versions and hardware")]
    disturbances: Annotated[Json, described(f"what else went on, with its amount: {', '.join(Disturbance)}")]


@dataclass(frozen=True)
class ConfirmationEntry:
    """Which seeds a recommendation rests on."""

    rests_on: Annotated[Ground, described("sweep: on the seeds that chose; fresh-seeds, overturned: on others alone")]
    seeds: Annotated[tuple[int, ...], described("fresh ones that have run")]
    done: Annotated[int, described("runs with fresh seeds that have ended")]
    of: Annotated[int, described("runs with fresh seeds that were asked for")]
    sentence: Words


@dataclass(frozen=True)
class CaseEntry:
    """The recommendation for one of several models, data sets or environments."""

    of: Annotated[str, described("what tells it from the others: swept keys with their values")]
    kind: Annotated[str, described("of advice")]
    headline: Words
    leader: Annotated[str | None, described("cell id of the median seed of the point that leads; null without one")]
    caveats: tuple[str, ...]
    confirmation: ConfirmationEntry


@dataclass(frozen=True)
class AnswerEntry:
    """The recommendation."""

    kind: Annotated[str, described("of advice")]
    headline: Words
    sentence: Annotated[str, described("headline and grounds, for people")]
    leader: Annotated[str | None, described("cell id of the median seed of the point that leads; null without one")]
    caveats: tuple[str, ...]
    cases: Annotated[tuple[CaseEntry, ...], described("one for each question; empty where there is only one")]
    confirmation: Annotated[ConfirmationEntry, described("of several questions each case has its own")]


@dataclass(frozen=True)
class ScenarioEntry:
    """The results of one scenario."""

    name: str
    planned: Annotated[int, described("number of its cells")]
    statuses: Annotated[dict[str, int], described("finished cells by status")]
    answer: AnswerEntry
    cells: tuple[CellEntry, ...]


@dataclass(frozen=True)
class ShowDocument:
    """What `harness show WHAT --json` prints."""

    schema: Schema
    scenarios: Annotated[tuple[ScenarioEntry, ...], described("of a folder; empty where cells were named")]
    cells: Annotated[tuple[CellEntry, ...], described("the cells that were named; empty of a folder")]


# -- plan --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PredictionEntry:
    """What is known of a simulated cell before it runs; null where it is not."""

    step_time_s: float | None
    throughput_samples_per_s: float | None
    throughput_tokens_per_s: Annotated[float | None, described("where the data are tokens")]
    training_s: Annotated[float | None, described("of the whole cell on its own clock, where no target ends it before")]
    tensor_bytes: Annotated[float | None, described("most at once, counted on the fullest device")]
    dram_bytes: Annotated[float | None, described("that device must have")]
    micro_batch_size: int | None
    cost: Annotated[float | None, described("of the whole cell at most, in its currency")]
    error: Annotated[float, described("relative uncertainty of the step's time, one standard deviation")]
    out_of_memory: Annotated[str, described("what is missing, for people; empty where it fits")]
    reason: Annotated[str, described("why there is no time, for people")]


@dataclass(frozen=True)
class PlannedEntry:
    """One cell of the plan."""

    cell_id: str
    strategy: str
    options: Json
    synchrony: str
    engine: str
    device: str
    gpus: int
    workers: int
    batch_size: Annotated[int, described("samples of one update that one data-parallel rank brings")]
    micro_batch_size: Annotated[int, described("0: the largest that fits, still to be found")]
    global_batch_size: int
    learning_rate: float
    seed: int
    swept: Annotated[Json, described("keys swept by their path")]
    confirms: Annotated[bool, described("its seed has no part in the choice, and bears it out")]
    status: Annotated[Status | None, described("of its record in the results folder; null where it has none")]
    finished: Annotated[bool, described("whether `harness run` would keep that record")]
    not_possible: Annotated[str, described("why it cannot be run, for people; empty where it can")]
    notes: tuple[str, ...]
    predicted: PredictionEntry | None
    run_s: Annotated[float | None, described("seconds of this machine that it takes; null where nothing tells")]
    run_s_from: Annotated[
        TimedBy | None, described("seeds, rates: such cells took so long here; step: its steps take so long at most")
    ]


@dataclass(frozen=True)
class LeftOutEntry:
    """A point of the product that is no cell."""

    strategy: str
    point: Words
    kind: Literal["excluded", "impossible"]
    reason: Words


@dataclass(frozen=True)
class PlanDocument:
    """What `harness plan SCENARIO --json` prints."""

    schema: Schema
    name: str
    description: str
    results: Annotated[str, described("the folder that was looked into for finished cells")]
    understood: Annotated[tuple[str, ...], described("quantities with units, as they were read")]
    cells: Annotated[tuple[PlannedEntry, ...], described("in the order in which they run")]
    left_out: tuple[LeftOutEntry, ...]
    notes: tuple[str, ...]
    confirm: Annotated[int, described("fresh seeds that are to bear the answer out; 0: none")]
    confirm_cells: Annotated[int, described("cells that they make: until the sweep has run, the most they may make")]
    confirm_s: Annotated[float | None, described("seconds of this machine that they take at most; null: not known")]
    left_cells: Annotated[int, described("cells that would run")]
    left_known: Annotated[int, described("those of them of which it is known how long")]
    left_s: Annotated[float, described("seconds of this machine that these take")]


# -- history -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NightEntry:
    """One night."""

    night: Annotated[str, described("start of its run, in UTC: what names it elsewhere")]
    commit: Annotated[str, described("of the user's repository; empty where it is not known")]
    dirty: Annotated[bool | None, described("whether tracked files differed from the commit; null where nobody knows")]
    runs: int
    reference_kind: Annotated[str, described("the loop that ran beside the cells; empty where none did")]
    reference_s: Annotated[float | None, described("of a run of it")]


@dataclass(frozen=True)
class LevelEntry:
    """Nights between two changes of a point."""

    first: Annotated[str, described("night")]
    last: Annotated[str, described("night")]
    seconds: Annotated[float, described("of an update at the machine's usual speed, the median")]


@dataclass(frozen=True)
class TrendEntry:
    """One point over the nights; its lists go together."""

    key: Annotated[str, described("what pairs its cells; a point of the history's tables")]
    point: Words
    engine: str
    nights: Annotated[tuple[str, ...], described("those with a time")]
    measured_s: Annotated[tuple[float, ...], described("of an update, the middle of the night's runs")]
    adjusted_s: Annotated[tuple[float, ...], described("the same at the machine's usual speed, by the reference")]
    runs: tuple[int, ...]
    levels: tuple[LevelEntry, ...]
    run_spread: Annotated[float | None, described("standard deviation between runs of a night, of logarithms")]
    night_spread: Annotated[float | None, described("standard deviation of a night about its level, of logarithms")]
    statuses: Annotated[dict[str, int], described("how its cells ended in the last night that it ran in")]


@dataclass(frozen=True)
class ShiftEntry:
    """A change of a time, or of the machine."""

    by: Annotated[ChangedBy, described("who made it, as far as the nights tell")]
    points: Annotated[tuple[str, ...], described("keys of the points that changed; none where the reference did")]
    together: Annotated[bool, described("whether all measured points changed as one")]
    factor: Annotated[float, described("new time over old, at the machine's usual speed")]
    before: Annotated[str, described("last night at the old time")]
    after: Annotated[str, described("first night at the new time")]
    seen: Annotated[str, described("night from which on it could be told")]
    earliest: Annotated[str, described("the first night at the new time is this one at the earliest")]
    latest: Annotated[str, described("and this one at the latest")]
    good_commit: Annotated[str, described("of the last night that surely was at the old time")]
    bad_commit: Annotated[str, described("of the latest night")]
    changed: Annotated[tuple[Fact, ...], described("what else changed: base before, new since")]
    reference: Annotated[float | None, described("factor by which the reference moved; null without one")]
    sentence: Words


@dataclass(frozen=True)
class TrendsEntry:
    """One scenario on one machine."""

    scenario: str
    machine: Annotated[str, described("as `history add --machine` named it; else empty")]
    verdict: Annotated[str, described("for people")]
    nights: Annotated[tuple[NightEntry, ...], described("the oldest first")]
    left_out: Annotated[tuple[str, ...], described("nights without a reference, though earlier ones have one")]
    nights_needed: Annotated[int, described("nights that are missing before a change can be found")]
    drift: Annotated[tuple[float, ...], described("the reference over its median, night by night")]
    shifts: Annotated[tuple[ShiftEntry, ...], described("the newest first")]
    points: tuple[TrendEntry, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class HistoryDocument:
    """What `harness history show FOLDER --json` prints."""

    schema: Schema
    trends: Annotated[tuple[TrendsEntry, ...], described("of each scenario on each machine")]


# -- check -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VerdictEntry:
    """What one line of the check found."""

    line: Line
    grade: Grade
    title: Words
    found: Annotated[str, described("what was seen, or why the line does not apply; for people")]
    where: Annotated[str, described("of a failure: the file and line, or the run that showed it; for people")]
    cause: Annotated[str, described("of a failure: what most likely lies behind it; for people")]
    seconds: Annotated[float, described("that the line took")]


@dataclass(frozen=True)
class CheckedEntry:
    """One strategy."""

    name: Annotated[str, described("of the strategy; the path of a plugin that could not be loaded")]
    passed: Annotated[bool, described("whether no line failed")]
    lines: Annotated[tuple[VerdictEntry, ...], described("in the order in which they ran")]


@dataclass(frozen=True)
class CheckDocument:
    """What `harness check WHAT --json` prints."""

    schema: Schema
    quick: Annotated[bool, described("whether what is examined twice was left out")]
    passed: Annotated[bool, described("whether no line of any strategy failed")]
    strategies: tuple[CheckedEntry, ...]


# -- status ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HarnessEntry:
    """A harness that writes to a folder, or did until it died."""

    host: str
    process: int
    since: Annotated[str, described("when it began, ISO 8601 by its host's clock")]
    joins: Annotated[bool, described("whether others may work beside it")]
    live: Annotated[bool, described("whether it lives, as far as can be told from here")]
    silent_s: Annotated[float, described("since its last sign of life, by the file system's clock")]


@dataclass(frozen=True)
class RunningEntry:
    """A cell that runs."""

    cell_id: str
    host: Annotated[str, described("where it is supervised")]
    process: Annotated[int, described("that supervises it there; 0 where nobody can tell")]
    since: Annotated[str, described("when it was taken, ISO 8601 by the clock of who took it")]
    step: Annotated[int | None, described("updates that it has made; null where it has not said")]
    steps: Annotated[int | None, described("updates that it makes at most; null where only running it tells")]


@dataclass(frozen=True)
class BatchTaskEntry:
    """A task of an array job of Slurm's that has not ended."""

    key: Annotated[str, described("JOB_TASK, or JOB of a job that is no array")]
    state: Annotated[str, described("Slurm's word, such as PENDING or RUNNING")]
    node: Annotated[str, described("where it runs; empty where it waits")]
    why: Annotated[str, described("Slurm's word for why it waits, such as Resources")]


@dataclass(frozen=True)
class FolderEntry:
    """How far the results of one scenario are."""

    folder: str
    scenario: str
    state: Progressing
    planned: Annotated[int, described("cells of the plan")]
    done: Annotated[int, described("cells that no run takes up again")]
    statuses: Annotated[dict[str, int], described("stored cells by status")]
    failed: Annotated[tuple[str, ...], described("ids of cells that crashed, hung or were killed")]
    running: tuple[RunningEntry, ...]
    harnesses: tuple[HarnessEntry, ...]
    batch_tasks: Annotated[
        tuple[BatchTaskEntry, ...] | None,
        described("of Slurm's that run cells of it; null where that is not known on this machine"),
    ]
    seconds_left: Annotated[float | None, described("at the cells that run at once now; null before any has ended")]
    unlike: Annotated[int, described("cells left that are like none that ran: counted as long as the median of all")]
    cost: Annotated[float | None, described("of measured cells so far; null without a price, or before any has ended")]
    currency: str


@dataclass(frozen=True)
class StatusDocument:
    """What `harness status RESULTS --json` prints."""

    schema: Schema
    folders: tuple[FolderEntry, ...]


# -- writing -----------------------------------------------------------------------------------------------------------

JsonDocument = CompareDocument | ShowDocument | PlanDocument | HistoryDocument | CheckDocument | StatusDocument

DOCUMENTS: Mapping[str, type[JsonDocument]] = {
    "compare": CompareDocument,
    "show": ShowDocument,
    "plan": PlanDocument,
    "history": HistoryDocument,
    "check": CheckDocument,
    "status": StatusDocument,
}
"""By the command that prints it."""


def document_text(document: JsonDocument) -> str:
    """Return a document as JSON."""
    return json.dumps(jsonable(to_json(document)), indent=1)


def document_schema(command: str) -> Json:
    """Return the JSON Schema of what a command prints with --json."""
    schema: Json = TypeAdapter(DOCUMENTS[command]).json_schema()
    title = f"harness {'history show' if command == 'history' else command} --json"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}
