"""The answer in words: which strategy, how sure, why the others lost, and what would turn it.

Imports the standard library only, so that `harness show` answers at once. Works on rows of cells.csv, None standing
for what was not measured.

Rules: the seeds of a point stand together; each strategy stands with its best point; measured and simulated are never
in one ranking; what fails the entry exam is in none. Where cells have a target the shortest time to it wins: the median
where every seed reached it, else the expected time with failed runs repeated, and points that half of the seeds miss
come last. Without a target the highest median throughput wins. Medians of fewer than five seeds get no interval.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.analysis import exam as exams
from harness.analysis.exact import MIN_SEEDS, share_interval
from harness.analysis.ledger import Entry, at_one_rate, ledger, one_rate_in_words, rate_advice, too_large
from harness.analysis.lost import because, failure, fewer, hardly, hardly_faster, pays_down_to, scaling_in_words, why
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
from harness.analysis.ranking import ENOUGH, Standing, best_standings, duel, seeds_to_tell
from harness.analysis.votes import vote
from harness.analysis.winners import Price, winners
from harness.analysis.words import cells, devices_in_words, differs, duration, label, listed, rate, real, setting
from harness.regime import in_words

__all__ = ["Answer", "answer", "devices_in_words", "duration", "in_markdown", "in_text", "status_counts", "with_flips"]

STATED = 2.0
"""Standard deviations that a prediction is said to be good to: 95 % of a normal."""


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
        exam: who trains what single trains, so that only speed and memory are left to choose by.
        one_rate: the second comparison, at one learning rate for all; empty where the first is at one already.
        too_large: from which learning rate on training suffers, by strategy and devices; empty where none did.
        advice: what to try next: rates beyond those tried.
        winners: (measure, strategy with its devices, value) by time, cost, energy and memory.
        ledger: the settings that each strategy stands with, and what it could choose from.
        contest: (cell id, name, seconds) of the winner and of whoever could take its place, where both are simulated.
    """

    sentence: str
    runner_up: str = ""
    why: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    leader: str | None = None
    flips: tuple[str, ...] = ()
    exam: tuple[str, ...] = ()
    one_rate: str = ""
    too_large: str = ""
    advice: tuple[str, ...] = ()
    winners: tuple[tuple[str, str, str], ...] = ()
    ledger: tuple[Entry, ...] = ()
    contest: tuple[tuple[str, str, float], ...] = ()


def answer(rows: Sequence[Row], planned: int, price: Price | None = None) -> Answer:
    """Answer "which strategy should I use, and why?".

    Args:
        rows: finished cells, keys as in cells.csv.
        planned: cells of the plan, finished or not.
        price: of a device; without one device time stands for money.
    """
    examined = exams.exams(rows)
    barred = exams.failed(examined)
    tried = [row for row in rows if row["status"] in TRIED and not not_ranked(row)]
    pool = ranked_rows([row for row in tried if (row["strategy"], row["engine"]) not in barred])
    found = without_controls(points(pool, has_target(pool)))
    best = best_standings(found)
    caveats = _caveats(rows, planned, pool)
    if not best:
        return Answer(_nothing(rows, planned), caveats=caveats if rows else ())
    engine = str(pool[0]["engine"])
    common = Answer(
        sentence="",
        caveats=caveats,
        exam=exams.in_words(examined, engine),
        one_rate=one_rate_in_words(at_one_rate(found, best)),
        too_large=too_large(found),
        advice=rate_advice(found),
        ledger=ledger(found, best),
    )
    if not best[0].reached:
        return replace(common, sentence=_none_reached(best[0]), why=tuple(failure(standing) for standing in best))
    return _ranked(common, best, found, price)


def with_flips(given: Answer, flips: Sequence[str]) -> Answer:
    """Return the answer with what would turn it, found by simulating."""
    return replace(given, flips=(*given.flips, *flips))


# -- as text -----------------------------------------------------------------------------------------------------------


def in_text(given: Answer) -> str:
    """Return the answer as lines for a terminal."""
    notes = [f"note: {line}" for line in (*given.caveats, *_edges(given))]
    lines = [given.sentence, *_body(given), *_winners_in_lines(given), *notes]
    return "\n".join(line for line in lines if line)


def in_markdown(given: Answer) -> str:
    """Return the answer as Markdown; nothing in it is taken for markup."""
    items = [*_body(given), *(f"Note: {line}" for line in (*given.caveats, *_edges(given)))]
    head = f"**{_escaped(given.sentence)}**\n"
    head += "".join(f"\n- {_escaped(item)}" for item in items) + ("\n" if items else "")
    if not given.winners:
        return head
    table = [("best by", "is", "with"), ("---", "---", "---"), *(map(_escaped, line) for line in given.winners)]
    return head + "\n" + "".join(f"| {' | '.join(line)} |\n" for line in table)


def _body(given: Answer) -> list[str]:
    said = [given.runner_up, *map(_sentence, given.flips), *given.why, *map(_sentence, given.exam)]
    return [line for line in (*said, given.one_rate, given.too_large, *map(_sentence, given.advice)) if line]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text.startswith(("all ", "the ", "no ")) else f"{text}."


def _winners_in_lines(given: Answer) -> list[str]:
    if not given.winners:
        return []
    widths = [max(len(line[i]) for line in given.winners) for i in (0, 1)]
    return ["best by", *(f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in given.winners)]


def _edges(given: Answer) -> list[str]:
    return [entry.edge for entry in given.ledger if entry.edge]


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", text)


# -- the recommendation ------------------------------------------------------------------------------------------------


def _ranked(common: Answer, best: Sequence[Standing], found: Sequence[Point], price: Price | None) -> Answer:
    leader, others = best[0], [*best[1:]] or _settings_of_one(best[0], found)
    standings = [standing for standing in map(Standing, found) if standing.reached >= ENOUGH * standing.seeds]
    few = fewer(leader, standings)
    poor = few if few and hardly_faster(leader, few) else None
    split = next((other for other in others if other.point.gpus > 1), None)
    reason = because(split.point, leader.point) if split and leader.point.gpus == 1 and real(split.point) else ""
    explained = split if reason else None
    sentence = _recommendation(leader, others, poor, (split, reason) if split and reason else None)
    scaling = f"{label(leader.point)} on few and many devices: {scaling_in_words(leader, poor)}." if poor else ""
    lost = [why(other, leader) for other in others if other is not explained]
    return replace(
        common,
        sentence=("" if real(leader.point) else "Simulated: ") + sentence,
        runner_up=_runner_up(others[0], leader) if others else "",
        why=tuple(filter(None, [scaling if others else "", *lost])),
        caveats=(*common.caveats, *_unsteady(leader)),
        leader=str(leader.middle["cell_id"]),
        flips=_closed_form(leader, others),
        winners=winners(standings, price),
        contest=_contest(leader, _rival(leader, others) or few),
    )


def _settings_of_one(leader: Standing, found: Sequence[Point]) -> list[Standing]:
    """Return, where one strategy is all there is, its other settings on as many devices: they are what was asked."""
    rest = [Standing(point) for point in found if point.gpus == leader.point.gpus and point is not leader.point]
    return sorted(rest, key=lambda standing: standing.rank)[:MOST_SETTINGS]


def _recommendation(
    leader: Standing, others: Sequence[Standing], poor: Standing | None, split: tuple[Standing, str] | None
) -> str:
    against = _open(leader, others[0]) if others else ""
    if split:
        return _do_not_split(leader, *split, against)
    achieved = f"{_achieves(leader)} ({_evidence(leader)}){against}"
    if poor and not others:
        return f"{hardly(leader, poor)} ({_evidence(leader)})."
    if leader.reached < ENOUGH * leader.seeds:
        return f"Nothing reaches the target with half of its seeds; nearest is {label(leader.point)}: it {achieved}."
    return f"Use {label(leader.point)}: it {achieved}."


def _unsteady(leader: Standing) -> tuple[str, ...]:
    """Return a warning where the winner's own curves say that its rate is too large: it reached the target by luck."""
    found = vote([row.get("regime") for row in leader.point.rows])
    if found.shape is None or found.verdict != "too large":
        return ()
    seeds = f"{found.counts[found.shape]} of {found.seeds} seeds"
    return (f"the recommended learning rate is near too large: {seeds} ended {in_words(found.shape)}",)


def _do_not_split(leader: Standing, split: Standing, reason: str, against: str) -> str:
    devices = devices_in_words(split.point.row)
    head = f"Do not split this job over {devices}: one is fastest"
    if against:
        head = f"Splitting this job over {devices} does not visibly pay: one leads{against}"
    one = f"{leader.point.strategy} with {setting(leader.point)} {_achieves(leader)}"
    return f"{head} ({one}; {_evidence(leader)}), because {reason}."


def _closed_form(leader: Standing, others: Sequence[Standing]) -> tuple[str, ...]:
    """Return from measured parts down to how little work splitting pays; simulated ones are asked anew instead."""
    one = next((other for other in others if other.point.gpus == 1), None)
    if one is None or leader.point.gpus == 1 or not real(leader.point):
        return ()
    return tuple(filter(None, [pays_down_to(leader.point, one.point)]))


def _rival(leader: Standing, others: Sequence[Standing]) -> Standing | None:
    """Return the best that is told from the winner, else the best: where two are level hardly anything turns them."""
    apart = (other for other in others if other.reached and not _open(leader, other))
    return next(apart, others[0] if others else None)


def _contest(leader: Standing, rival: Standing | None) -> tuple[tuple[str, str, float], ...]:
    if rival is None or real(leader.point) or not rival.reached:
        return ()
    pairs = ((leader, rival), (rival, leader))
    return tuple((str(s.middle["cell_id"]), differs(s.point, other.point), s.seconds) for s, other in pairs)


def _runner_up(standing: Standing, leader: Standing) -> str:
    if len(standing.runs) < standing.seeds or not standing.reached:
        return f"Runner-up: {failure(standing)}"
    told = f"{label(standing.point)} {_achieves(standing)} ({_evidence(standing)})"
    return f"Runner-up: {told}{_told_apart(leader, standing)}."


# -- how sure ----------------------------------------------------------------------------------------------------------


def _deterministic(standing: Standing) -> bool:
    """Say whether seeds say nothing: simulated speed is what the costs add up to."""
    return not real(standing.point) and not standing.point.by_target


def _stated(standing: Standing) -> float | None:
    error = standing.point.median_of(lambda row: number(row, "stated_error"))
    return None if error is None else STATED * error


def _open(leader: Standing, other: Standing) -> str:
    """Return that the records do not tell the two apart and what would, as the end of a sentence; empty if they do."""
    if not other.reached:
        return ""
    name = differs(other.point, leader.point)
    if _deterministic(leader):
        return f", not resolved against {name}" if _tie(leader, other) else ""
    found = duel(leader, other)
    if found.interval is None and not leader.sure:
        return f", not enough evidence against {name}{_would_tell(found.probability)}"
    if found.interval is None or found.resolved:
        return ""
    return f", not resolved against {name}{_would_tell(found.probability)}"


def _tie(leader: Standing, other: Standing) -> bool:
    stated = max((_stated(leader) or 0.0, _stated(other) or 0.0))
    return other.seconds <= leader.seconds * (1 + stated)


def _would_tell(probability: float) -> str:
    seeds = seeds_to_tell(probability)
    return f": seeds = {seeds} would tell" if seeds else ": more seeds would hardly tell"


def _told_apart(leader: Standing, other: Standing) -> str:
    if _deterministic(leader):
        apart = other.seconds / leader.seconds - 1 if leader.seconds > 0 else 0.0
        near = f"; {100 * apart:.2g} % behind is less than the predictions are good to: not resolved"
        return near if _tie(leader, other) else ""
    found = duel(leader, other)
    if min(len(leader.runs), len(other.runs)) < 2:
        return ""
    beaten = f"; {differs(leader.point, other.point)} beats it with probability {found.probability:.2f}"
    if found.interval is None:
        return (
            f"{beaten}, not enough evidence: seeds = {max(MIN_SEEDS, seeds_to_tell(found.probability) or 0)} would tell"
        )
    shown = f"{beaten} ({found.interval.low:.2f} to {found.interval.high:.2f})"
    return shown if found.resolved else f"{shown}: not resolved{_would_tell(found.probability).replace(':', ',')}"


def _achieves(standing: Standing) -> str:
    if not standing.point.by_target:
        return f"trains {rate(1 / standing.seconds)}"
    if standing.sure:
        return f"reaches the target in {duration(standing.seconds)}"
    return f"is expected to reach the target in {duration(standing.seconds)}, failed runs repeated"


def _evidence(standing: Standing) -> str:
    n, point = standing.seeds, standing.point
    if not standing.sure:
        got = f"{standing.reached} of n = {n} seeds"
        if not point.by_target:
            return f"median of the {got} that finished"
        chance = share_interval(standing.reached, n)
        return f"{got} do, so {100 * chance.low:.0f} to {100 * chance.high:.0f} % of all would"
    if _deterministic(standing):
        stated = _stated(standing)
        return f"n = {n}, simulated" + (f", good to ±{100 * stated:.2g} %" if stated else "")
    if standing.interval is None:
        return f"median of n = {n}: no interval, seeds = {MIN_SEEDS} would tell"
    low, high, coverage = standing.interval
    shown = (duration(low), duration(high)) if point.by_target else (rate(1 / high), rate(1 / low))
    return f"median of n = {n}; {shown[0]} to {shown[1]} covers it with {100 * coverage:.4g} %"


# -- no recommendation -------------------------------------------------------------------------------------------------


def _none_reached(best: Standing) -> str:
    simulated = "" if real(best.point) else "Simulated: "
    if not best.point.by_target:
        return f"{simulated}No recommendation: no cell ran to its end."
    accuracy = best.accuracy
    closest = f"; {label(best.point)} came closest, a validation accuracy of {accuracy:.3f}" if accuracy else ""
    return f"{simulated}No recommendation: no cell reached the target{closest} (n = {best.seeds})."


def _nothing(rows: Sequence[Row], planned: int) -> str:
    if not rows:
        return f"Nothing finished yet: 0 of {cells(planned)}."
    counts = ", ".join(f"{count} {status}" for status, count in status_counts(rows).items())
    return f"No recommendation: {len(rows)} of {cells(planned)} tried, none with a result to rank ({counts})."


# -- what to know besides ----------------------------------------------------------------------------------------------


def _caveats(rows: Sequence[Row], planned: int, pool: Sequence[Row]) -> tuple[str, ...]:
    done = sum(row["status"] != "interrupted" for row in rows)
    broken = {status: n for status, n in status_counts(rows).items() if status in ("crashed", "timeout")}
    ended = {"crashed": "crashed", "timeout": "ran out of time"}
    lines = [f"{cells(planned - done)} of {planned} not run yet"] if done < planned else []
    lines += [f"{cells(count)} {ended[status]}; the table of cells says why" for status, count in broken.items()]
    lines += [
        _noisy_in_words(pool),
        _unranked_in_words(rows),
        _controls_in_words(pool),
        _simulated_in_words(rows, pool),
    ]
    return tuple(line for line in lines if line)


def _noisy_in_words(pool: Sequence[Row]) -> str:
    noisy = sum(bool(row.get("noisy")) for row in pool)
    return f"{noisy} of {cells(len(pool))} ranked ran while other processes used the machine" if noisy else ""


def _unranked_in_words(rows: Sequence[Row]) -> str:
    found = dict.fromkeys(f"{row['strategy']} on {devices_in_words(row)}" for row in rows if not_ranked(row))
    return f"{listed(found)}: more workers than devices, shown but not ranked" if found else ""


def _controls_in_words(pool: Sequence[Row]) -> str:
    found = points(pool, by_target=False)
    kept = {id(point) for point in without_controls(found)}
    controls = [point for point in found if id(point) not in kept]
    names = dict.fromkeys(point.strategy for point in controls)
    devices = devices_in_words(controls[0].row) if controls else ""
    return f"{listed(names)} on {devices}: shown, not ranked; single stands for one device" if controls else ""


def _simulated_in_words(rows: Sequence[Row], pool: Sequence[Row]) -> str:
    if not pool or pool[0]["engine"] == "virtual":
        return ""
    virtual = [row for row in rows if row["engine"] == "virtual" and row["status"] in TRIED and not not_ranked(row)]
    best = best_standings(points(virtual, has_target(virtual)))
    if not best or not best[0].reached:
        return ""
    shown = f"{label(best[0].point)} {_achieves(best[0])} on the simulated clock (n = {best[0].seeds})"
    return f"simulated, not ranked with the measured: at best {shown}"
