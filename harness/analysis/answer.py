"""The answer in words: which strategy, how sure, why the others lost, and what would turn it.

Imports the standard library only, so that `harness show` answers at once. Works on rows of cells.csv, None standing
for what was not measured.

Rules: the seeds of a point stand together; each strategy stands with its best point; measured and simulated are never
in one ranking; what fails the entry exam is in none. Several models, data sets, links or faults are several questions,
each with an answer of its own. Where cells have a target the shortest time to it wins: the geometric mean where every
seed reached it, else the expected time with failed runs repeated, and points that half of the seeds miss come last.
Without a target the highest throughput wins. Of those that nobody surely beats by more than 5 %, the one on the fewest
devices is recommended. Where fresh seeds bear the best two out, advice, intervals and comparison are from them alone;
what is said of all others, and of rates, is the sweep's.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from harness.analysis import exam as exams
from harness.analysis.caveats import about, caveats_of, unequal, unsearched
from harness.analysis.confidence import (
    achieves,
    evidence,
    is_level,
    lead_in_words,
    open_in_words,
    recommended_first,
    target_reading,
)
from harness.analysis.confirmation import NO_FRESH_SEEDS, NOT_ASKED, Confirmation, FreshSeeds, Ground, settings_of_one
from harness.analysis.contrast import Contrast, Verdict, contrast
from harness.analysis.input_bound import input_bound, input_bound_in_words
from harness.analysis.judged_rows import sought_of
from harness.analysis.ledger import (
    LedgerEntry,
    at_one_rate,
    edges_in_words,
    ledger,
    one_rate_in_words,
    one_rate_rows,
    rate_advice,
    too_large,
    tried_in_words,
    unsteady,
)
from harness.analysis.lost import because, failure, fewer, hardly, hardly_faster, pays_down_to, scaling_in_words, why
from harness.analysis.point_names import device_noun, devices_in_words, differs, label, real, sentences, setting
from harness.analysis.points import Row, number, point_of, status_counts
from harness.analysis.ranking import ENOUGH, Ranking, Standing
from harness.analysis.result_findings import Question, ResultFindings, findings_of
from harness.analysis.winners import DRAM, DevicePrice, price_of, winners
from harness.core.endings import Status
from harness.core.metrics import Judged
from harness.core.text import NO_TEXT, Text
from harness.core.words import aligned, counted, escaped, listed, memory_size

if TYPE_CHECKING:
    from harness.core.cell import Cell, Plan

__all__ = [
    "Answer",
    "Recommendation",
    "answer",
    "answer_as_markdown",
    "answer_as_text",
    "devices_in_words",
    "judged",
    "status_counts",
    "with_flips",
]

MOST_AT_ONCE = 4
"""Questions whose answers stand in the headline's grounds too; chosen: of more the list below is sooner read."""

TARGET = "the target"


class Recommendation(StrEnum):
    """What kind of advice an answer gives."""

    USE = "use"
    """One setting is recommended."""
    STAY = "stay"
    """One device is, and why several lose is known."""
    HARDLY_FASTER = "hardly-faster"
    """One strategy was asked about, and its devices do less than half the work that they could."""
    UNRELIABLE = "unreliable"
    """No setting reaches the target with half of its seeds."""
    EACH = "each"
    """Several models, data sets or environments were asked about: each has an answer of its own."""
    NONE_REACHED = "none-reached"
    NO_RESULT = "no-result"
    NOTHING_YET = "nothing-yet"


@dataclass(frozen=True)
class Case:
    """One of several questions with its answer.

    Attributes:
        of: what was asked about, such as `cluster.inter_node "25 Gb/s"`.
    """

    of: Text
    answer: Answer

    @property
    def lines(self) -> tuple[Text, ...]:
        """What the answer says beside its headline and grounds."""
        given = self.answer
        about_training = (*given.failed_exam, *given.exam, given.not_judged, *given.input_bound)
        said = (*about_training, given.runner_up, *given.why, *given.flips, given.reading, given.one_rate)
        return tuple(line for line in (*said, *given.try_next, *edges_in_words(given.ledger), *given.caveats) if line)


@dataclass(frozen=True)
class Answer:
    """What the results say.

    Attributes:
        kind: of advice.
        advice: what to do, in a sentence; or that there is no telling yet.
        grounds: what it rests on, with its number of seeds and interval.
        simulated: no real device has shown it.
        runner_up: the next best strategy and whether the two can be separated; empty where there is none.
        why: for each other strategy what it lost by.
        caveats: what a reader must know before acting on it.
        leader: cell id of the winning point's median seed; None without a winner.
        flips: what would make another strategy win.
        failed_exam: who promises to train what single trains, and does not.
        exam: who does, so that only speed and memory are left to choose by.
        not_judged: of whom it could not be found out; empty for none.
        no_promise: who makes no such promise; empty for none.
        input_bound: who waits for its data, and what would help.
        one_rate: the second comparison, at one learning rate for all; empty where the first is at one already.
        one_rate_rows: the same as a table: strategy, devices, rate, global batch, what it came to, seeds.
        too_large: from which learning rate on training suffers, by strategy and devices; empty where none did.
        try_next: rates beyond those tried.
        winners: (measure, strategy with its devices, value) by time, cost, energy and memory.
        ledger: the settings that each strategy stands with, and what it could choose from.
        contest: (cell id, name, seconds) of the winner and of whoever could take its place, where both are simulated.
        poor: cell ids of the winner on few devices and on many, where that is the answer: many are hardly faster.
        reading: how it was read off when the target was reached; empty for the plain way.
        contrast: the runner-up beside the recommended one; None without.
        confirmation: which seeds it rests on.
        cases: the answers where there are several questions.
        findings: what all of this was read from.
    """

    kind: Recommendation
    advice: Text
    grounds: tuple[Text, ...] = ()
    simulated: bool = False
    runner_up: Text = NO_TEXT
    why: tuple[Text, ...] = ()
    caveats: tuple[Text, ...] = ()
    leader: str | None = None
    flips: tuple[Text, ...] = ()
    failed_exam: tuple[Text, ...] = ()
    exam: tuple[Text, ...] = ()
    not_judged: Text = NO_TEXT
    no_promise: Text = NO_TEXT
    input_bound: tuple[Text, ...] = ()
    one_rate: Text = NO_TEXT
    one_rate_rows: tuple[tuple[str, ...], ...] = ()
    too_large: Text = NO_TEXT
    try_next: tuple[Text, ...] = ()
    winners: tuple[tuple[str, str, str], ...] = ()
    ledger: tuple[LedgerEntry, ...] = ()
    contest: tuple[tuple[str, str, float], ...] = ()
    poor: tuple[str, str] | None = None
    reading: Text = NO_TEXT
    contrast: Contrast | None = None
    confirmation: Confirmation = NOT_ASKED
    cases: tuple[Case, ...] = ()
    findings: ResultFindings | None = field(default=None, compare=False, repr=False)

    @property
    def headline(self) -> Text:
        """The advice, marked where only simulation stands behind it."""
        return Text(f"Simulated: {self.advice}" if self.simulated else self.advice)

    @property
    def sentence(self) -> Text:
        """The advice with its grounds."""
        return sentences(self.headline, *self.grounds)


def answer(
    rows: Sequence[Row],
    planned: int,
    price: DevicePrice | None = None,
    target: str = TARGET,
    asked: FreshSeeds = NO_FRESH_SEEDS,
) -> Answer:
    """Answer "which strategy should I use, and why?".

    Args:
        rows: finished cells, keys as in cells.csv.
        planned: cells of the plan, finished or not.
        price: of a device; without one device time stands for money.
        target: the target in words.
        asked: what the plan asks of fresh seeds.
    """
    found = findings_of(rows, asked)
    caveats = caveats_of(rows, planned, found)
    if not found.questions:
        return replace(_nothing(rows, planned), caveats=caveats if rows else (), findings=found)
    engine = str(found.pool[0]["engine"])
    common = Answer(
        kind=Recommendation.NONE_REACHED,
        advice=NO_TEXT,
        simulated=engine == "virtual",
        caveats=caveats,
        no_promise=_no_promise(found, engine),
        findings=found,
    )
    parts = [_of_question(common, found, question, price, target) for question in found.questions]
    if len(parts) == 1:
        return parts[0]
    return _for_each(common, found.questions, parts)


def _of_question(
    common: Answer, found: ResultFindings, question: Question, price: DevicePrice | None, target: str
) -> Answer:
    """Return the answer to one question."""
    ranking, engine, examined = question.ranking, str(found.pool[0]["engine"]), found.exams_of(question)
    rows = [row for row in found.pool if question.is_about(row)]
    at_one = at_one_rate(ranking)
    common = replace(
        common,
        failed_exam=exams.failures_in_words(examined, engine),
        exam=exams.passes_in_words(examined, engine),
        not_judged=exams.not_judged_in_words(rows, examined, engine),
        input_bound=input_bound_in_words(input_bound(ranking.points)),
        one_rate=one_rate_in_words(at_one),
        one_rate_rows=one_rate_rows(at_one),
        too_large=too_large(ranking),
        try_next=rate_advice(ranking),
        ledger=ledger(ranking),
        confirmation=question.confirmation,
    )
    common = _with_ground(common)
    again = question.confirmation.ranking
    if again is not None:
        return _by_fresh_seeds(common, question, again, price, target)
    if not ranking.best[0].reached:
        return _all_diverged(common, rows) or _none_reached(common, ranking.best, rows)
    return _ranked(common, ranking, price, target)


def _with_ground(common: Answer) -> Answer:
    """Return it with a note where fresh seeds were asked for and do not decide."""
    found = common.confirmation
    note = found.words if found.ranking is None else NO_TEXT
    return replace(common, caveats=(*common.caveats, note)) if note else common


def _by_fresh_seeds(
    common: Answer, question: Question, again: Ranking, price: DevicePrice | None, target: str
) -> Answer:
    """Return the answer of the seeds that did not choose."""
    words = question.confirmation.words
    if question.confirmation.ground is Ground.FAILED:
        found = _none_reached(common, again.best, [row for point in again.points for row in point.rows])
        return replace(found, grounds=(words, *found.grounds))
    found = _ranked(common, again, price, target, question)
    return replace(found, grounds=(*found.grounds[:1], words, *found.grounds[1:]))


def _for_each(common: Answer, questions: Sequence[Question], parts: Sequence[Answer]) -> Answer:
    """Return one answer for each question: what is swept there is nothing that a strategy could be recommended for."""
    cases = tuple(
        Case(Text(question.words), replace(part, caveats=part.caveats[len(common.caveats) :], no_promise=NO_TEXT))
        for question, part in zip(questions, parts, strict=True)
    )
    keys = listed(dict.fromkeys(key for question in questions for key, _ in question.values))
    alike = len({_recommended(part) for part in parts}) == 1 and parts[0].leader is not None
    grounds = {part.confirmation.words for part in parts if part.confirmation.ground is Ground.FRESH}
    fresh = tuple(grounds) if len(grounds) == 1 and all(part.confirmation.ranking for part in parts) else ()
    each = tuple(Text(f"{case.of}: {case.answer.advice}") for case in cases) if len(cases) <= MOST_AT_ONCE else ()
    return replace(
        common,
        kind=Recommendation.EACH,
        advice=parts[0].advice if alike else Text(f"There is one answer for each {keys}."),
        grounds=(Text(f"The answer is the same for each {keys}."), *fresh) if alike else (*each, *fresh),
        cases=cases,
        ledger=tuple(entry for part in parts for entry in part.ledger),
        winners=tuple((f"{what}, {case.of}", who, value) for case in cases for what, who, value in case.answer.winners),
        poor=next((part.poor for part in parts if part.poor), None),
    )


def _recommended(part: Answer) -> Hashable:
    """Return what two answers have in common that recommend the same, whatever was asked about."""
    rows = (*part.findings.rows, *part.findings.fresh) if part.findings else ()
    leader = next((row for row in rows if row["cell_id"] == part.leader), {})
    keys = ("strategy", "options", "gpus", "global_batch_size", "micro_batch_size", "learning_rate")
    return part.kind, *(leader.get(key) for key in keys)


def _no_promise(found: ResultFindings, engine: str) -> Text:
    """Return who makes no promise to train what single trains; where nobody trains there is none to make."""
    trained = any(row.get("regime") for row in found.pool)
    return exams.not_examined_in_words(found.rows, engine) if trained else NO_TEXT


def with_flips(given: Answer, flips: Sequence[Text]) -> Answer:
    """Return the answer with what would turn it, found by simulating."""
    return replace(given, flips=(*given.flips, *flips))


# -- as text -----------------------------------------------------------------------------------------------------------


def answer_as_text(given: Answer) -> Text:
    """Return the answer as lines for a terminal: the advice, its grounds, then one line for everything else."""
    notes = [f"note: {line}" for line in _notes(given)]
    cases = [f"\n{case.of}:\n{answer_as_text(case.answer)}" for case in given.cases]
    lines = [given.headline, " ".join(given.grounds), *_body(given), *_winners_in_lines(given), *notes, *cases]
    return Text("\n".join(line for line in lines if line))


def answer_as_markdown(given: Answer) -> Text:
    """Return the answer as Markdown; nothing in it is taken for markup."""
    items = [*_body(given), *(f"Note: {line}" for line in _notes(given))]
    head = " ".join([f"**{escaped(given.headline)}**", *map(escaped, given.grounds)]) + "\n"
    head += "".join(f"\n- {escaped(item)}" for item in items) + ("\n" if items else "")
    for case in given.cases:
        head += f"\n### {escaped(case.of)}\n\n{answer_as_markdown(case.answer)}"
    if not given.winners or given.cases:
        return Text(head)
    table = [("best by", "is", "with"), ("---", "---", "---"), *(map(escaped, line) for line in given.winners)]
    return Text(head + "\n" + "".join(f"| {' | '.join(line)} |\n" for line in table))


def _notes(given: Answer) -> tuple[Text, ...]:
    return given.caveats if given.cases else (*given.caveats, *edges_in_words(given.ledger))


def _body(given: Answer) -> list[str]:
    about_training = [*given.failed_exam, *given.exam, given.not_judged, given.no_promise]
    about_speed = [*given.input_bound, given.runner_up, *given.why, *given.flips]
    tried = NO_TEXT if given.cases else tried_in_words(given.ledger)
    about_rates = [tried, given.reading, given.one_rate, given.too_large, *given.try_next]
    return [line for line in (*about_training, *about_speed, *about_rates) if line]


def _winners_in_lines(given: Answer) -> list[str]:
    if not given.winners or given.cases:
        return []
    return ["best by", *(f"  {line}" for line in aligned(given.winners))]


# -- the recommendation ------------------------------------------------------------------------------------------------


def _ranked(
    common: Answer, ranking: Ranking, price: DevicePrice | None, target: str, swept: Question | None = None
) -> Answer:
    """Return the answer of a ranking that somebody got there in.

    Args:
        swept: what the sweep says, where the ranking is of fresh seeds: it speaks of those that did not run again.
    """
    best = recommended_first(ranking)
    leader, others = best[0], [*best[1:]] or settings_of_one(best[0], ranking)
    beside = [contrast(ranking, leader, other) for other in others]
    rest = swept.not_confirmed if swept else []
    standings = [standing for standing in (*ranking.standings, *rest) if standing.reached >= ENOUGH * standing.seeds]
    unheard = _best_of_others(rest, best)
    few = fewer(leader, standings)
    poor = few if few and hardly_faster(leader, few) else None
    split, reason = _explained(ranking, leader, [*others, *unheard])
    open_ = open_in_words(beside[0], leader, others[0], ranking.confirms) if others else NO_TEXT
    proof = evidence(leader, ranking)
    scaling = scaling_in_words(leader, poor, proof) if poor else ()
    if split:
        told = _stay(leader, proof, reason, open_, target)
    elif poor and not others:
        told = Recommendation.HARDLY_FASTER, hardly(leader, poor), scaling
    else:
        told = _use(leader, proof, open_, target)
    scaled = sentences(hardly(leader, poor), *scaling) if poor and others else NO_TEXT
    lost = [
        why(other, leader, ranking.is_same(leader.point) and ranking.is_same(other.point))
        for other in [*_behind(leader, others, beside), *(_behind_in_sweep(leader, unheard, swept) if swept else [])]
        if other is not split
    ]
    kind, advice, grounds = told
    behind = [s for s, found in zip(others, beside, strict=True) if s.rank > leader.rank and not is_level(found)]
    level = leader if others and beside[0].is_open and others[0].rank < leader.rank else None
    return replace(
        common,
        kind=kind,
        advice=advice,
        grounds=tuple(filter(None, grounds)),
        reading=target_reading(ranking),
        runner_up=_runner_up(beside[0], leader, others[0], ranking) if others else NO_TEXT,
        contrast=beside[0] if others else None,
        why=tuple(filter(None, [scaled, *lost])),
        caveats=(*common.caveats, *about(leader), *unequal(leader, behind), *unsearched(leader, behind)),
        leader=str(leader.middle["cell_id"]),
        flips=_closed_form(leader, standings),
        winners=winners(standings, price, level, fastest_of=ranking.standings),
        contest=_contest(leader, _rival(others, beside) or few),
        poor=(str(poor.middle["cell_id"]), str(leader.middle["cell_id"])) if poor else None,
    )


def _best_of_others(rest: Sequence[Standing], best: Sequence[Standing]) -> list[Standing]:
    """Return the best standing of each strategy that is not among the best already."""
    found: dict[str, Standing] = {}
    for standing in rest:
        found.setdefault(standing.point.strategy, standing)
    return [s for name, s in found.items() if name not in {other.point.strategy for other in best}]


def _behind(leader: Standing, others: Sequence[Standing], beside: Sequence[Contrast]) -> list[Standing]:
    """Return those that certainly lost."""
    pairs = zip(others, beside, strict=True)
    told = (s for s, found in pairs if not (is_level(found) or found.verdict is Verdict.OPEN))
    return [s for s in told if s.rank > leader.rank]


def _behind_in_sweep(leader: Standing, others: Sequence[Standing], swept: Question) -> list[Standing]:
    """Return those that certainly lost to the leader by the seeds of the sweep."""
    point = point_of(leader.point.row)
    then = next(pick for pick in swept.confirmation.picks if point_of(pick.point.row) == point)
    return _behind(then, others, [contrast(swept.ranking, then, other) for other in others])


def _explained(ranking: Ranking, leader: Standing, others: Sequence[Standing]) -> tuple[Standing | None, Text]:
    """Return the best of several devices that lost to one, with the reason; none where nothing says why."""
    if leader.point.gpus > 1:
        return None, NO_TEXT
    for other in others:
        if other.point.gpus > 1 and real(other.point):
            same = ranking.is_same(leader.point) and ranking.is_same(other.point)
            reason = because(other.point, leader.point, same)
            if reason:
                return other, reason
    return None, NO_TEXT


_Told = tuple[Recommendation, Text, tuple[Text, ...]]


def _stay(leader: Standing, proof: str, reason: Text, open_: Text, target: str) -> _Told:
    """Recommend one device, and say why several lose.

    Args:
        proof: what its time rests on.
        open_: who else could be the fastest; empty where that is known.
    """
    point = leader.point
    ground = f"{point.strategy} ({setting(point)}) {achieves(leader, target)} ({proof})."
    advice = Text(f"Stay on one {device_noun(point.row)}.")
    return Recommendation.STAY, advice, (Text(ground), open_, reason)


def _use(leader: Standing, proof: str, open_: Text, target: str) -> _Told:
    if leader.reached < ENOUGH * leader.seeds:
        ground = f"The closest is {label(leader.point)}: it {achieves(leader, target)} ({proof})."
        advice = Text("No setting reaches the target with half of its seeds.")
        return Recommendation.UNRELIABLE, advice, (Text(ground), open_)
    ground = f"It {achieves(leader, target)} ({proof})."
    return Recommendation.USE, Text(f"Use {label(leader.point)}."), (Text(ground), open_)


def _closed_form(leader: Standing, standings: Sequence[Standing]) -> tuple[Text, ...]:
    """Return from measured parts down to how little work splitting pays; simulated ones are asked anew instead."""
    if leader.point.gpus == 1 or not real(leader.point):
        return ()
    batch = leader.point.row["global_batch_size"]
    alike = (s for s in standings if s.point.gpus == 1 and s.sure and s.point.row["global_batch_size"] == batch)
    one = min(alike, key=lambda standing: standing.rank, default=None)
    if one is None:
        return ()
    return tuple(filter(None, [pays_down_to(leader.point, one.point)]))


def _rival(others: Sequence[Standing], beside: Sequence[Contrast]) -> Standing | None:
    """Return the best that is not level with the winner: what is turns at anything."""
    pairs = zip(others, beside, strict=True)
    return next((s for s, found in pairs if s.reached and not (is_level(found) or found.is_open)), None)


def _contest(leader: Standing, rival: Standing | None) -> tuple[tuple[str, str, float], ...]:
    if rival is None or real(leader.point) or not rival.reached:
        return ()
    pairs = ((leader, rival), (rival, leader))
    return tuple((str(s.middle["cell_id"]), differs(s.point, other.point), s.seconds) for s, other in pairs)


def _runner_up(found: Contrast, leader: Standing, standing: Standing, ranking: Ranking) -> Text:
    if len(standing.runs) < standing.seeds or not standing.reached:
        return Text(f"Runner-up: {failure(standing)}")
    told = f"Runner-up: {label(standing.point)} {achieves(standing)} ({evidence(standing, ranking)})."
    memory = _by_memory(leader, standing) if is_level(found) else ""
    name = standing.point.strategy
    wobbles = f"The loss curves of {name} show that its rate is close to unstable." if unsteady(standing) else ""
    return sentences(told, lead_in_words(found, leader, standing), memory, wobbles)


def _by_memory(leader: Standing, other: Standing) -> str:
    """Return what two that are level hold on their fullest devices, where that differs."""
    for key in DRAM:
        mine, theirs = (s.point.median_of(lambda row, key=key: number(row, key)) for s in (leader, other))  # type: ignore[misc]
        if mine and theirs and f"{mine:.2g}" != f"{theirs:.2g}":
            names = differs(leader.point, other.point), differs(other.point, leader.point)
            return f"Per device, {names[0]} needs {memory_size(mine)} of memory and {names[1]} {memory_size(theirs)}."
    return ""


# -- no recommendation -------------------------------------------------------------------------------------------------


def _all_diverged(common: Answer, pool: Sequence[Row]) -> Answer | None:
    """Return the answer where no run stayed finite; None where one did."""
    if any(row["status"] != Status.DIVERGED for row in pool):
        return None
    data = _not_scaled(pool)
    return replace(
        common,
        advice=Text(f"No recommendation: {_every_run(len(pool))} diverged."),
        grounds=(data,) if data else (),
        too_large=NO_TEXT,  # the advice on rates says it
        try_next=() if data else common.try_next,
        ledger=(),
    )


def _every_run(number: int) -> str:
    return "the only run" if number == 1 else f"all {number} runs"


def _not_scaled(pool: Sequence[Row]) -> Text:
    """Say where runs diverged that the data's scale is the likelier cause than any rate; empty where it is none."""
    found = dict.fromkeys(str(row["unscaled"]) for row in pool if row.get("unscaled"))
    if not found or not any(row["status"] == Status.DIVERGED for row in pool):
        return NO_TEXT
    return Text(f"The data are not scaled: {'; '.join(found)}. Scale them before you try other learning rates.")


def _none_reached(common: Answer, best: Sequence[Standing], pool: Sequence[Row]) -> Answer:
    """Return the answer where nobody reached what was asked for."""
    closest = best[0]
    goal = "reached the target" if closest.point.by_target else "ran to its end"
    near = ""
    if closest.point.by_target and closest.learnt:
        seeds, metric = counted(closest.seeds, "seed"), sought_of(closest.point.row)
        value = metric.written(closest.learnt)
        near = f"{label(closest.point)} came closest: validation {metric.words} {value} ({seeds})."
    return replace(
        common,
        advice=Text(f"No recommendation: no cell {goal}."),
        grounds=tuple(filter(None, (Text(near), _not_scaled(pool)))),
        why=tuple(failure(standing) for standing in best),
    )


def _nothing(rows: Sequence[Row], planned: int) -> Answer:
    if not rows:
        return Answer(Recommendation.NOTHING_YET, Text(f"Nothing has finished yet: 0 of {counted(planned, 'cell')}."))
    counts = listed(f"{count} {status}" for status, count in status_counts(rows).items())
    return Answer(
        Recommendation.NO_RESULT,
        Text("No recommendation: no cell has a result to rank."),
        (Text(f"{len(rows)} of {counted(planned, 'cell')} were tried: {counts}."),),
    )


def judged(rows: Sequence[Row], plan: Plan) -> Answer:
    """Return the answer of a plan's rows without simulating anything."""
    return answer(rows, len(plan.cells), price_of(plan.cells), target_in_words(plan.cells), FreshSeeds.of(plan))


def target_in_words(cells: Sequence[Cell]) -> str:
    """Return such as "95 % accuracy"; "the target" where cells have several, or one that is more than that."""
    targets = {(cell.goal.target_accuracy, cell.goal.target_loss, cell.goal.target_metric) for cell in cells}
    metrics = {(cell.workload.metric, cell.workload.metric_better) for cell in cells}
    accuracy, loss, value = next(iter(targets)) if len(targets) == len(metrics) == 1 else (None, None, None)
    if accuracy is not None and loss is None:
        return f"{100 * accuracy:g} % accuracy"
    if loss is not None and accuracy is value is None:
        return f"a loss of {loss:g}"
    return TARGET if value is None else f"a {Judged.of(*next(iter(metrics))).words} of {value:g}"
