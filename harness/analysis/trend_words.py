"""Trends in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from harness.analysis.change_points import FIRST_NIGHTS
from harness.analysis.compare_words import short_names
from harness.analysis.nights import Night
from harness.analysis.point_names import sentences
from harness.analysis.trends import ChangedBy, PointTrend, Shift, Trends, same_code
from harness.core.disturbances import REPEAT, was_disturbed
from harness.core.endings import Status
from harness.core.text import NO_TEXT, Text
from harness.core.words import change_in_percent, counted, duration, listed, share_in_percent, table

COMMIT_LETTERS = 10
"""Of a commit's name; chosen: enough for the largest repositories."""

REFERENCE_MOVED = 0.02
"""Share by which the reference moves before it is worth a word; chosen: machines drift by as much in a week."""

WITHOUT_REFERENCE = (
    "No reference ran beside these nights, so code and machine cannot be told apart: in 100 nights of 8 points a "
    "machine that drifts by 3 % makes about 13 changes that are none, with a reference fewer than 1. "
    "`harness run --reference` runs one."
)
"""Source: `benchmarks/statistics.py --only history`."""

POINT_HEAD = ("point", "nights", "last night", "at usual speed", "last change", "a night varies by")


def night_names(nights: Iterable[Night]) -> dict[str, str]:
    """Return what nights are called: their day, with as much of the time as tells those of one day apart."""
    found = {night.night: night.began for night in nights}
    names = {name: f"{began:%Y-%m-%d}" for name, began in found.items()}
    for form in ("%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"):
        twice = {words for words, count in Counter(names.values()).items() if count > 1}
        names |= {name: f"{found[name]:{form}}" for name, words in names.items() if words in twice}
    return names


def heading(found: Trends) -> Text:
    """Return the scenario with what there is of it."""
    names = night_names(found.nights)
    where = f"{found.scenario} on {found.machine}" if found.machine else found.scenario
    runs = sum(len(night.rows) for night in found.nights)
    count = f"{counted(len(found.nights), 'night')}, {counted(len(found.points), 'point')}, {counted(runs, 'run')}"
    first, last = (names[found.nights[place].night] for place in (0, -1))
    return Text(f"{where}: {count}, {first} to {last}" if first != last else f"{where}: {count}, {first}")


def verdict(found: Trends) -> Text:
    """Return what the nights come to."""
    changes = [shift for shift in found.shifts if shift.by is not ChangedBy.MACHINE]
    machine = len(found.shifts) - len(changes)
    anew = f" and {counted(machine, 'change')} of the machine" if machine else ""
    if found.nights_needed and not changes:
        since = " since the machine changed" if found.anew else ""
        more = f"{counted(found.nights_needed, 'more night')} needed: changes are found from {FIRST_NIGHTS} nights on"
        return Text(f"{more}{since}.")
    if not changes:
        return Text(f"No change of a time{anew} in {counted(len(found.nights), 'night')}.")
    count = f"{counted(len(changes), 'change')} of a time{anew} in {counted(len(found.nights), 'night')}."
    newest, when = changes[0], night_names(found.nights)[changes[0].after.night]
    which = "The newest: " if len(changes) > 1 else "It is "
    return sentences(count, f"{which}{what_changed(newest, found)}, {change_in_percent(newest.factor)} since {when}.")


def remarks(found: Trends) -> list[Text]:
    """Return what has to be known of the nights beside their changes."""
    said = [_machine_drift(found), _broken(found), *_around(found)]
    return [text for text in said if text]


def _machine_drift(found: Trends) -> Text:
    """Say how the machine drifted, by the reference; or that nobody can."""
    if not found.drift:
        return Text(WITHOUT_REFERENCE) if any(not point.simulated for point in found.points) else NO_TEXT
    since = found.drift[-(len(found.nights) - max(found.anew, default=0)) :]
    low, last, high = (change_in_percent(f) for f in (min(since), since[-1], max(since)))
    over = f"{low} to {high} in {counted(len(since), 'night')}{' since it changed' if found.anew else ''}"
    return Text(f"By the reference the machine's times were {last} off their usual value in the last night ({over}).")


def _broken(found: Trends) -> Text:
    """Name the points that did not run to their end in the last night."""
    names, last = names_by_key(found), len(found.nights) - 1
    broken = [
        f"{names[point.key]} ({listed(point.statuses) if point.last == last else 'missing'})"
        for point in found.current
        if point.last < last or not any(Status(status).trained for status in point.statuses)
    ]
    return Text(f"Without a result in the last night: {'; '.join(broken)}.") if broken else NO_TEXT


def _around(found: Trends) -> Iterable[Text]:
    """Yield what else the nights have of their own."""
    gone = len(found.points) - len(found.current)
    if gone:
        yield Text(f"{counted(gone, 'point')} did not run in the last two nights, and can be seen with --json.")
    if found.left_out:
        left = f"{counted(len(found.left_out), 'night')} without a reference"
        yield Text(f"{left} {'is' if len(found.left_out) == 1 else 'are'} left out.")
    noisy = sum(bool(row.noisy) for row in found.nights[-1].rows)
    if noisy:
        yield Text(f"In the last night {counted(noisy, 'run')} {was_disturbed(noisy)}. {REPEAT}")


def what_changed(shift: Shift, found: Trends) -> Text:
    """Return whose time changed."""
    if not shift.points:
        return Text("the machine (reference)")
    if shift.together:
        return Text(f"all {counted(len(shift.points), 'measured point')} together")
    return Text(names_by_key(found)[shift.points[0]])


def names_by_key(found: Trends) -> dict[str, str]:
    """Return what points are called, by their keys."""
    names = short_names([point.row for point in found.points])
    return {point.key: name for point, name in zip(found.points, names, strict=True)}


def cause_in_words(shift: Shift, found: Trends) -> Text:
    """Say what came with a change: the machine or the environment before any commit."""
    names = night_names((*found.nights, *found.left_out))
    nights = f"between {names[shift.before.night]} and {names[shift.after.night]}"
    doubt = ""
    if shift.earliest != shift.latest:
        doubt = f"It may lie anywhere from {names[shift.earliest.night]} to {names[shift.latest.night]}."
    if shift.by is ChangedBy.MACHINE:
        return sentences(f"The machine changed {nights}: all series start anew.", _environment(shift))
    moved = ""
    if shift.reference is not None and abs(math.log(shift.reference)) > REFERENCE_MOVED:
        moved = f"The reference moved by {change_in_percent(shift.reference)} in these nights."
    where = f"It changed {nights}."
    return sentences(where, doubt, _environment(shift), commits_in_words(shift), moved)


def _environment(shift: Shift) -> str:
    if not shift.changed:
        return ""
    return (
        f"What changed with it: {'; '.join(f'{what} {old} before, {new} since' for what, old, new in shift.changed)}."
    )


def commits_in_words(shift: Shift) -> Text:
    """Return the commits that a change lies between, with the command that lists them."""
    before, after = shift.usual, shift.latest
    if same_code(before, after):
        return Text(f"The commit is the same on both sides ({_short(after)}): look beside the code.")
    if not before.commit or not after.commit:
        return Text("No commit is known of these nights; `harness history add` in the repository keeps it.")
    dirty = " There were changes that were not committed." if before.dirty or after.dirty else ""
    return Text(f"Commits: `git log --oneline {_short(before)}..{_short(after)}`.{dirty}")


def _short(night: Night) -> str:
    return night.commit[:COMMIT_LETTERS]


def point_cells(found: Trends) -> list[tuple[str, ...]]:
    """Return the table of points, the columns as `POINT_HEAD` has them."""
    names, nights = names_by_key(found), night_names(found.nights)
    return [_point_cells(point, names[point.key], found, nights) for point in found.current]


def _point_cells(point: PointTrend, name: str, found: Trends, names: dict[str, str]) -> tuple[str, ...]:
    if not point.nights:
        return (name, "0", *[""] * (len(POINT_HEAD) - 2))
    last = duration(point.measured_s[-1]) if point.nights[-1] == len(found.nights) - 1 else ""
    level, changed = duration(point.levels[-1].seconds), "none"
    if point.shifts:
        step = point.shifts[-1]
        changed = f"{names[found.nights[step.place].night]} {change_in_percent(math.exp(step.change))}"
    varies = "" if point.night_spread is None or point.simulated else share_in_percent(point.night_spread)
    return (name, str(len(point.nights)), last, level, changed, varies)


def trends_text(all_found: Sequence[Trends]) -> str:
    """Return all trends as lines for a terminal, the verdict of each last."""
    return "\n\n".join("\n".join(_lines(found)) for found in all_found)


def _lines(found: Trends) -> Iterable[str]:
    names = night_names((*found.nights, *found.left_out))
    yield heading(found)
    yield from table(POINT_HEAD, point_cells(found)).splitlines()
    for shift in found.shifts:
        yield f"{names[shift.after.night]}: {what_changed(shift, found)} {change_in_percent(shift.factor)}"
        yield f"  {cause_in_words(shift, found)}"
    yield from remarks(found)
    yield verdict(found)
