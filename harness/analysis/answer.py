"""The answer in words: which strategy, how sure, why the others lost, and what would turn it.

Imports the standard library only, so that `harness show` answers at once. Works on rows of cells.csv, None standing
for what was not measured.

Rules: the seeds of a point stand together; each strategy stands with its best point; measured and simulated are never
in one ranking; what fails the entry exam is in none. Where cells have a target the shortest time to it wins: the median
where every seed reached it, else the expected time with failed runs repeated, and points that half of the seeds miss
come last. Without a target the highest median throughput wins. Medians of fewer than five seeds get no interval. Of
those that enough seeds do not tell from the fastest, the one on the fewest devices is recommended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.analysis.winners import price_of
from harness.core.words import aligned, counted, escaped, memory_size

if TYPE_CHECKING:
    from harness.analysis.points import Row
    from harness.core.cell import Plan

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from harness.analysis import exam as exams
from harness.analysis.caveats import about, caveats_of
from harness.analysis.confidence import achieves, evidence, level, open_against, recommended_first, told_apart
from harness.analysis.ledger import (
    Entry,
    at_one_rate,
    edges,
    ledger,
    one_rate_in_words,
    one_rate_rows,
    rate_advice,
    too_large,
    too_large_for,
    tried_in_words,
)
from harness.analysis.lost import because, failure, fewer, hardly, hardly_faster, pays_down_to, scaling_in_words, why
from harness.analysis.point_names import devices_in_words, differs, label, real, setting
from harness.analysis.points import (
    TRIED,
    Point,
    Row,
    has_target,
    not_ranked,
    number,
    points,
    ranked_rows,
    status_counts,
    without_controls,
)
from harness.analysis.ranking import ENOUGH, Standing, best_standings
from harness.analysis.winners import DRAM, Price, winners

__all__ = [
    "Answer",
    "answer",
    "devices_in_words",
    "in_markdown",
    "in_text",
    "pool_of",
    "status_counts",
    "with_flips",
]

SIMULATED = "Simulated: "
"""Begins what no real device has shown."""

MOST_SETTINGS = 3
"""Other settings of a single strategy that the answer speaks of; chosen: the best few, the table of cells has all."""


@dataclass(frozen=True)
class Answer:
    """What the results say.

    Attributes:
        sentence: the recommendation, with its number of seeds and interval; or that there is none yet.
        runner_up: the next best strategy and whether it is told apart; empty where there is none.
        why: one sentence for each other strategy: what it lost by.
        caveats: what a reader must know before acting on it.
        leader: cell id of the winning point's median seed; None without a winner.
        flips: what would make another strategy win.
        failed_exam: who promises to train what single trains, and does not.
        exam: who does, so that only speed and memory are left to choose by.
        no_promise: who makes no such promise; empty for none.
        one_rate: the second comparison, at one learning rate for all; empty where the first is at one already.
        one_rate_rows: the same as a table: strategy, devices, rate, global batch, what it came to, seeds.
        too_large: from which learning rate on training suffers, by strategy and devices; empty where none did.
        advice: what to try next: rates beyond those tried.
        winners: (measure, strategy with its devices, value) by time, cost, energy and memory.
        ledger: the settings that each strategy stands with, and what it could choose from.
        contest: (cell id, name, seconds) of the winner and of whoever could take its place, where both are simulated.
        poor: cell ids of the winner on few devices and on many, where that is the answer: many are hardly faster.
    """

    sentence: str
    runner_up: str = ""
    why: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    leader: str | None = None
    flips: tuple[str, ...] = ()
    failed_exam: tuple[str, ...] = ()
    exam: tuple[str, ...] = ()
    no_promise: str = ""
    one_rate: str = ""
    one_rate_rows: tuple[tuple[str, ...], ...] = ()
    too_large: str = ""
    advice: tuple[str, ...] = ()
    winners: tuple[tuple[str, str, str], ...] = ()
    ledger: tuple[Entry, ...] = ()
    contest: tuple[tuple[str, str, float], ...] = ()
    poor: tuple[str, str] | None = None

    @property
    def headline(self) -> tuple[str, str]:
        """The sentence in two: what to do, and what that rests on."""
        simulated = SIMULATED if self.sentence.startswith(SIMULATED) else ""
        sentence = self.sentence.removeprefix(simulated)
        end = _colon(sentence)
        return (f"{simulated}{sentence[:end]}", sentence[end:].strip()) if end else (self.sentence, "")


def _colon(sentence: str) -> int:
    """Return where a sentence's first part ends, behind its colon; 0 where it has none. A setting may hold one too."""
    depth = 0
    for place, letter in enumerate(sentence):
        depth += (letter in "({[") - (letter in ")}]")
        if letter == ":" and depth == 0 and sentence[place + 1 : place + 2] == " ":
            return place + 1
    return 0


def answer(rows: Sequence[Row], planned: int, price: Price | None = None) -> Answer:
    """Answer "which strategy should I use, and why?".

    Args:
        rows: finished cells, keys as in cells.csv.
        planned: cells of the plan, finished or not.
        price: of a device; without one device time stands for money.
    """
    examined = exams.exams(rows)
    pool = pool_of(rows, exams.failed(examined))
    found = without_controls(points(pool, has_target(pool)))
    best = best_standings(found)
    caveats = caveats_of(rows, planned, pool)
    if not best:
        return Answer(_nothing(rows, planned), caveats=caveats if rows else ())
    engine = str(pool[0]["engine"])
    at_one = at_one_rate(found, best)
    common = Answer(
        sentence="",
        caveats=caveats,
        failed_exam=exams.failures_in_words(examined, engine),
        exam=exams.in_words(examined, engine),
        no_promise=_no_promise(rows, found, engine),
        one_rate=one_rate_in_words(at_one),
        one_rate_rows=one_rate_rows(at_one),
        too_large=too_large(found),
        advice=rate_advice(found),
        ledger=ledger(found, best),
    )
    if not best[0].reached:
        return replace(common, sentence=_none_reached(best[0]), why=tuple(failure(standing) for standing in best))
    return _ranked(common, recommended_first(best, found), found, price)


def pool_of(rows: Sequence[Row], barred: AbstractSet[tuple[str, str]] = frozenset()) -> list[Row]:
    """Return what is ranked: cells of one engine that were tried, with a device for each worker.

    Args:
        barred: (strategy, engine) of those that failed the entry exam.
    """
    tried = [row for row in rows if row["status"] in TRIED and not not_ranked(row)]
    return ranked_rows([row for row in tried if (row["strategy"], row["engine"]) not in barred])


def _no_promise(rows: Sequence[Row], found: Sequence[Point], engine: str) -> str:
    """Return who makes no promise to train what single trains; where nobody trains there is none to make."""
    trained = any(row.get("regime") for point in found for row in point.rows)
    return exams.not_examined_in_words(rows, engine) if trained else ""


def with_flips(given: Answer, flips: Sequence[str]) -> Answer:
    """Return the answer with what would turn it, found by simulating."""
    return replace(given, flips=(*given.flips, *flips))


# -- as text -----------------------------------------------------------------------------------------------------------


def in_text(given: Answer) -> str:
    """Return the answer as lines for a terminal."""
    notes = [f"note: {line}" for line in (*given.caveats, *edges(given.ledger))]
    lines = [given.sentence, *_body(given), *_winners_in_lines(given), *notes]
    return "\n".join(line for line in lines if line)


def in_markdown(given: Answer) -> str:
    """Return the answer as Markdown; nothing in it is taken for markup."""
    items = [*_body(given), *(f"Note: {line}" for line in (*given.caveats, *edges(given.ledger)))]
    head = f"**{escaped(given.sentence)}**\n"
    head += "".join(f"\n- {escaped(item)}" for item in items) + ("\n" if items else "")
    if not given.winners:
        return head
    table = [("best by", "is", "with"), ("---", "---", "---"), *(map(escaped, line) for line in given.winners)]
    return head + "\n" + "".join(f"| {' | '.join(line)} |\n" for line in table)


def _body(given: Answer) -> list[str]:
    about = [*given.failed_exam, *given.exam, given.no_promise]
    said = [_sentence(line) for line in about if line]
    said += [given.runner_up, *given.why, *map(_sentence, given.flips)]
    said.append(tried_in_words(given.ledger))
    return [line for line in (*said, given.one_rate, given.too_large, *map(_sentence, given.advice)) if line]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text.startswith(("all ", "the ", "no ")) else f"{text}."


def _winners_in_lines(given: Answer) -> list[str]:
    if not given.winners:
        return []
    return ["best by", *(f"  {line}" for line in aligned(given.winners))]


# -- the recommendation ------------------------------------------------------------------------------------------------


def _ranked(common: Answer, best: Sequence[Standing], found: Sequence[Point], price: Price | None) -> Answer:
    leader, others = best[0], [*best[1:]] or _settings_of_one(best[0], found)
    standings = [standing for standing in map(Standing, found) if standing.reached >= ENOUGH * standing.seeds]
    few = fewer(leader, standings)
    poor = few if few and hardly_faster(leader, few) else None
    split, reason = _explained(leader, others)
    sentence = _recommendation(leader, others, poor, (split, reason) if split else None)
    scaling = f"{label(leader.point)} on few and many devices: {scaling_in_words(leader, poor)}." if poor else ""
    lost = [why(s, leader) for s in others if s is not split and s.rank > leader.rank and not level(leader, s)]
    return replace(
        common,
        sentence=("" if real(leader.point) else SIMULATED) + sentence,
        runner_up=_runner_up(others[0], leader) if others else "",
        why=tuple(filter(None, [scaling if others else "", *lost])),
        caveats=(*common.caveats, *about(leader)),
        leader=str(leader.middle["cell_id"]),
        flips=_closed_form(leader, standings),
        winners=winners(standings, price),
        contest=_contest(leader, _rival(leader, others) or few),
        poor=(str(poor.middle["cell_id"]), str(leader.middle["cell_id"])) if poor else None,
    )


def _explained(leader: Standing, others: Sequence[Standing]) -> tuple[Standing | None, str]:
    """Return the best of several devices that measurably lost to one, with the reason; none where nothing says why."""
    if leader.point.gpus > 1:
        return None, ""
    splits = (other for other in others if other.point.gpus > 1 and real(other.point))
    reasons = ((other, because(other.point, leader.point)) for other in splits)
    return next(((other, reason) for other, reason in reasons if reason), (None, ""))


def _settings_of_one(leader: Standing, found: Sequence[Point]) -> list[Standing]:
    """Return, where one strategy is all there is, its other settings on as many devices: they are what was asked."""
    rest = [Standing(point) for point in found if point.gpus == leader.point.gpus and point is not leader.point]
    return sorted(rest, key=lambda standing: standing.rank)[:MOST_SETTINGS]


def _recommendation(
    leader: Standing, others: Sequence[Standing], poor: Standing | None, split: tuple[Standing, str] | None
) -> str:
    against = open_against(leader, others[0]) if others else ""
    if split:
        return _do_not_split(leader, *split, _lead(leader, others[0], against), its_own=split[0] is others[0])
    achieved = f"{achieves(leader)} ({evidence(leader)}){against}"
    if poor and not others:
        return f"{hardly(leader, poor)} ({evidence(leader)})."
    if leader.reached < ENOUGH * leader.seeds:
        return f"Nothing reaches the target with half of its seeds; nearest is {label(leader.point)}: it {achieved}."
    return f"Use {label(leader.point)}: it {achieved}."


def _lead(leader: Standing, second: Standing, against: str) -> str:
    """Return who leads where that is not resolved: one device may be recommended behind several; empty where it is."""
    if second.rank >= leader.rank:
        return f"one leads{against}" if against else ""
    behind = open_against(second, leader).replace(f"from {differs(leader.point, second.point)}", "from one")
    return f"{second.point.strategy} leads{behind}"


def _do_not_split(leader: Standing, split: Standing, reason: str, lead: str, its_own: bool) -> str:
    """Say that one device is recommended, and why.

    Args:
        split: several devices, with the reason why they lost.
        lead: who leads, where that is not resolved.
        its_own: whether nobody stands between the two.
    """
    devices = devices_in_words(split.point.row)
    head = f"Do not split this job over {devices}: one is fastest"
    if lead:
        head = f"Do not split this job over {devices} yet: {lead}"
    one = f"{leader.point.strategy} with {setting(leader.point)} {achieves(leader)}"
    return f"{head} ({one}; {evidence(leader)}), {'because' if its_own else 'and'} {reason}."


def _closed_form(leader: Standing, standings: Sequence[Standing]) -> tuple[str, ...]:
    """Return from measured parts down to how little work splitting pays; simulated ones are asked anew instead."""
    if leader.point.gpus == 1 or not real(leader.point):
        return ()
    batch = leader.point.row["global_batch_size"]
    alike = (s for s in standings if s.point.gpus == 1 and s.sure and s.point.row["global_batch_size"] == batch)
    one = min(alike, key=lambda standing: standing.rank, default=None)
    if one is None:
        return ()
    return tuple(filter(None, [pays_down_to(leader.point, one.point)]))


def _rival(leader: Standing, others: Sequence[Standing]) -> Standing | None:
    """Return the best that is told from the winner, else the best: where two are level hardly anything turns them."""
    apart = (other for other in others if other.reached and not open_against(leader, other))
    return next(apart, others[0] if others else None)


def _contest(leader: Standing, rival: Standing | None) -> tuple[tuple[str, str, float], ...]:
    if rival is None or real(leader.point) or not rival.reached:
        return ()
    pairs = ((leader, rival), (rival, leader))
    return tuple((str(s.middle["cell_id"]), differs(s.point, other.point), s.seconds) for s, other in pairs)


def _runner_up(standing: Standing, leader: Standing) -> str:
    if len(standing.runs) < standing.seeds or not standing.reached:
        return f"Runner-up: {failure(standing)}"
    told = f"{label(standing.point)} {achieves(standing)} ({evidence(standing)})"
    wobbles = " Its curves say that this rate is too large." if too_large_for(standing.point) else ""
    memory = _by_memory(leader, standing) if level(leader, standing) else ""
    return f"Runner-up: {told}{told_apart(leader, standing)}.{memory}{wobbles}"


def _by_memory(leader: Standing, other: Standing) -> str:
    """Return what two that are level hold on their fullest devices, where that tells them apart."""
    for key in DRAM:
        mine, theirs = (s.point.median_of(lambda row, key=key: number(row, key)) for s in (leader, other))  # type: ignore[misc]
        if mine and theirs and f"{mine:.2g}" != f"{theirs:.2g}":
            held = f"{differs(leader.point, other.point)} holds {memory_size(mine)} on a device"
            return f" Memory tells them apart: {held}, {differs(other.point, leader.point)} {memory_size(theirs)}."
    return ""


# -- no recommendation -------------------------------------------------------------------------------------------------


def _none_reached(best: Standing) -> str:
    simulated = "" if real(best.point) else SIMULATED
    if not best.point.by_target:
        return f"{simulated}No recommendation: no cell ran to its end."
    accuracy = best.accuracy
    closest = f"; {label(best.point)} came closest, a validation accuracy of {accuracy:.3f}" if accuracy else ""
    return f"{simulated}No recommendation: no cell reached the target{closest} (n = {best.seeds})."


def _nothing(rows: Sequence[Row], planned: int) -> str:
    if not rows:
        return f"Nothing finished yet: 0 of {counted(planned, 'cell')}."
    counts = ", ".join(f"{count} {status}" for status, count in status_counts(rows).items())
    return f"No recommendation: {len(rows)} of {counted(planned, 'cell')} tried, none with a result to rank ({counts})."


def judged(rows: Sequence[Row], plan: Plan) -> Answer:
    """Return the answer of a plan's rows without simulating anything."""
    return answer(rows, len(plan.cells), price_of(plan.cells))
