"""New over base: every time that was compared with its interval, and where a step that got worse has grown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from harness.analysis.compare_statuses import FALSE_ALARMS
from harness.analysis.compare_times import changed_part
from harness.analysis.compare_words import point_in_words, short_names
from harness.analysis.compared import SLOWER, Change, ChangeKind
from harness.analysis.time_parts import TRAINING
from harness.core.words import change_in_percent, duration
from harness.report.draw_time import draw_steps_of
from harness.report.lettering import wrapped
from harness.report.marks import mark
from harness.report.svg import (
    INK,
    LINE_ROWS,
    MOST_MARKED,
    ROW_INCH,
    Panel,
    hide_y,
    kind_in_words,
    legend_below,
    rows_of,
    sample,
    write,
)

MOST_GROWN = 6
"""Points whose step is drawn before and after, the worst; chosen: the answer is in the first of them."""

TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100)
NEAREST_TICKS = 0.12
"""Share of the axis that two ticks are apart at least: their numbers would touch."""

BEYOND = 2.0
"""How far past the outermost ratio an interval may stretch the axis, as a factor; chosen: of few runs it may reach
anywhere, and the ratios would all lie on one spot."""


NO_CHANGE = "no clear change"
"""What is neither worse nor better: too small a change, or within the noise."""


@dataclass(frozen=True)
class KindMark:
    """How a kind of change looks: told apart by shape as well as by colour."""

    colour: str
    shape: str
    size: float
    name: str


KIND_MARKS: Mapping[ChangeKind | None, KindMark] = {
    ChangeKind.REGRESSION: KindMark("#d55e00", ">", 8, "worse"),
    ChangeKind.SUSPECT: KindMark("#de8f05", "^", 8, "suspect"),
    ChangeKind.IMPLAUSIBLE: KindMark("#cc78bc", "X", 8, "too good to be true"),
    ChangeKind.IMPROVEMENT: KindMark("#0173b2", "<", 8, "better"),
    None: KindMark(INK, "o", 4.5, NO_CHANGE),
}
"""Source of the colours: seaborn's palette for colour-blind eyes, as everywhere on the page."""


def ratio_panel(changes: Sequence[Change], min_effect: float, exactly: str) -> Panel | None:
    """Draw new over base of every point, quantity by quantity, the worst first; None where no time was compared.

    Args:
        changes: all times that were compared.
        min_effect: share that a time must grow by to count.
        exactly: what was compared without an interval, in a sentence.
    """
    if not changes:
        return None
    drawn = _drawn(changes)
    names = short_names([change.row for change in drawn])
    labels = [wrapped(f"{n}: {change_in_percent(c.ratio)}") for n, c in zip(names, drawn, strict=True)]
    places, headings, bottom = _places(drawn, labels)

    def draw(axes: Axes, _: object) -> None:
        low, high = _limits(drawn, min_effect)
        for place, label, change in zip(places, labels, drawn, strict=True):
            _unchanged(axes, place, min_effect)
            _row(axes, place, change, low, high)
            write(axes, place - 0.22, label)
        for place, name in headings:
            write(axes, place, name, fontweight="bold")
        _axis(axes, low, high, bottom)
        _legend(axes, drawn, min_effect)

    return Panel(
        title="New against base",
        height_inch=0.7 + ROW_INCH * bottom,
        draw=draw,
        caption=f"{_caption(changes, drawn, min_effect)} {exactly}",
        details=" ".join(map(_in_words, drawn)),
        table=_table(changes),
    )


def _drawn(changes: Sequence[Change]) -> list[Change]:
    """Return what is drawn: findings before the rest, the largest changes first; then by quantity, the worst first."""
    kinds, quantities = list(KIND_MARKS), list(dict.fromkeys(change.quantity for change in changes))
    order = sorted(changes, key=lambda c: (kinds.index(c.kind), quantities.index(c.quantity), -abs(math.log(c.ratio))))
    return sorted(order[:MOST_MARKED], key=lambda c: (quantities.index(c.quantity), c.kind not in SLOWER, -c.ratio))


def _places(drawn: Sequence[Change], labels: Sequence[str]) -> tuple[list[float], list[tuple[float, str]], float]:
    """Return where each row lies, where each quantity is named above its rows, and where the last row ends."""
    places: list[float] = []
    headings: list[tuple[float, str]] = []
    below = 0.0
    for number, change in enumerate(drawn):
        if not number or change.quantity != drawn[number - 1].quantity:
            below += 0.6
            headings.append((below - 0.05, change.quantity.name.capitalize()))
        below += LINE_ROWS * labels[number].count("\n")
        places.append(below + 0.75)
        below += 1.0
    return places, headings, below + 0.1


def _unchanged(axes: Axes, place: float, min_effect: float) -> None:
    """Draw 1 and what is too little to count, beside the row only: the names stay free of it."""
    low, high = place - 0.2, place + 0.22
    axes.fill_betweenx([low, high], 1 / (1 + min_effect), 1 + min_effect, color=INK, alpha=0.13, linewidth=0)
    axes.plot([1, 1], [low, high], color=INK, linewidth=1, solid_capstyle="butt", zorder=1)


def _limits(drawn: Sequence[Change], min_effect: float) -> tuple[float, float]:
    ratios = [change.ratio for change in drawn] + [1 / (1 + min_effect), 1 + min_effect]
    ends = [end for change in drawn if change.interval for end in (change.interval.low, change.interval.high)]
    low = max(min(ratios + ends), min(ratios) / BEYOND)
    high = min(max(ratios + ends), max(ratios) * BEYOND)
    room = (high / low) ** 0.04
    return low / room, high * room


def _row(axes: Axes, place: float, change: Change, low: float, high: float) -> None:
    kind = KIND_MARKS[change.kind]
    drawn = []
    if change.interval is not None:
        ends = max(change.interval.low, low), min(change.interval.high, high)
        drawn += axes.plot(ends, [place, place], color=kind.colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
        for end, cut, shape in ((low, change.interval.low < low, 4), (high, change.interval.high > high, 5)):
            if cut:
                drawn += axes.plot([end], [place], marker=shape, color=kind.colour, markersize=5, zorder=2)
    hollow = change.row["engine"] == "virtual"
    drawn += axes.plot([change.ratio], [place], marker=kind.shape, markersize=kind.size, color=kind.colour, zorder=3,
                       markerfacecolor="none" if hollow else kind.colour)  # fmt: skip
    for artist in drawn:
        mark(artist, kind.name, _in_words(change))


def _tick(ratio: float) -> str:
    if ratio == 1:
        return "0"
    return f"{100 * (ratio - 1):+.3g} %" if ratio < 5 else f"{ratio:.3g}x"


def _axis(axes: Axes, low: float, high: float, bottom: float) -> None:
    """Write ticks from 1 outwards: a logarithm has few round numbers within a few percent."""
    least, kept = NEAREST_TICKS * math.log(high / low), [1.0]
    for side in (sorted(t for t in TICKS if t > 1), sorted((t for t in TICKS if t < 1), reverse=True)):
        last = 1.0
        for tick in side:
            if low <= tick <= high and abs(math.log(tick / last)) >= least:
                kept.append(tick)
                last = tick
    axes.set_xscale("log")
    axes.set_xticks(kept, [_tick(tick) for tick in kept])
    axes.set_xticks([], minor=True)
    axes.set(xlim=(low, high), ylim=(bottom, 0), xlabel="change from base to new; right of 0 is worse")
    hide_y(axes)


def _legend(axes: Axes, drawn: Sequence[Change], min_effect: float) -> None:
    kinds = {change.kind for change in drawn}
    handles = [
        sample(axes, mark.name, marker=mark.shape, markersize=mark.size, color=mark.colour, linewidth=1.6)
        for kind, mark in KIND_MARKS.items()
        if kind in kinds
    ]
    handles.append(axes.fill_between([], [], color=INK, alpha=0.1, linewidth=0, label=f"within {100 * min_effect:g} %"))
    legend_below(axes, handles, 3, fontsize=8.5)


def _caption(changes: Sequence[Change], drawn: Sequence[Change], min_effect: float) -> str:
    coverage = {change.interval.coverage for change in changes if change.interval}
    text = ""
    if coverage:
        text = f"Lines are {100 * min(coverage):.4g} % intervals"
        if all(change.between_runs for change in changes):
            text += (
                f", so wide that at most {100 * FALSE_ALARMS:g} % of comparisons without a real change raise an alarm. "
            )
        else:
            text += ". With so few runs they show how steps vary within a run; runs can differ by more. "
    text += f"A point is worse if it is more than {100 * min_effect:g} % slower and its whole line lies right of 0."
    rest = len(changes) - len(drawn)
    if rest:
        found = sum(change.kind is not None for change in changes) - sum(change.kind is not None for change in drawn)
        text += f" {rest} more are only in the CSV, {found or 'none'} of them better or worse."
    return text


def _in_words(change: Change) -> str:
    interval = change.interval
    ends = f" ({change_in_percent(interval.low)} to {change_in_percent(interval.high)})" if interval else ""
    changed = f"{change_in_percent(change.ratio)}{ends}"
    return f"{point_in_words(change.row)}, {change.quantity.name}: {changed}, {KIND_MARKS[change.kind].name}."


def _table(changes: Sequence[Change]) -> pd.DataFrame:
    columns = ["point", "quantity", "base", "new", "ratio", "low", "high", "kind"]
    ends = [(c.interval.low, c.interval.high) if c.interval else (None, None) for c in changes]
    rows = [
        (point_in_words(c.row), c.quantity.column, c.base, c.new, c.ratio, *both, c.kind or NO_CHANGE)
        for c, both in zip(changes, ends, strict=True)
    ]
    return pd.DataFrame(rows, columns=columns)


# -- where it grew -----------------------------------------------------------------------------------------------------


def grown_panels(changes: Sequence[Change]) -> list[Panel]:
    """Draw the parts of each step that got worse, before and after; measured and simulated apart.

    Args:
        changes: all times that were compared.
    """
    worse = sorted((change for change in changes if change.kind in SLOWER), key=lambda c: -c.ratio)
    steps: dict[str, Change] = {}
    for change in worse:
        if changed_part(change):
            steps.setdefault(point_in_words(change.row), change)
    groups = [[c for c in steps.values() if (c.row["engine"] == "virtual") == simulated] for simulated in (False, True)]
    return [_grown(group, simulated) for group, simulated in zip(groups, (False, True), strict=True) if group]


def _grown(found: Sequence[Change], simulated: bool) -> Panel:
    drawn = found[:MOST_GROWN]
    bars = [(str(change.row["strategy"]), parts) for change in drawn for parts in change.parts]
    words = []
    for name, change in zip(short_names([change.row for change in drawn]), drawn, strict=True):
        before, after = (duration(sum(parts.values())) for parts in change.parts)
        words += [f"{name}, base: {before}", f"new: {after}; {_growth(change)}"]
    rows = rows_of(words)
    sentences = [f"{point_in_words(change.row)}: {_growth(change)}." for change in drawn]
    more = f" The worst {len(drawn)} of {len(found)} points are drawn." if len(found) > len(drawn) else ""
    about = " Medians over runs, warm-up included; the step that was compared differs a little."
    return Panel(
        title=f"A step before and after, {kind_in_words(simulated)}",
        height_inch=0.75 + rows.height_inch,
        draw=lambda axes, palette: draw_steps_of(axes, palette, bars, rows, simulated),
        caption=sentences[0] + more + about,
        details=" ".join(sentences),
        table=_parts_table(drawn),
    )


def _growth(change: Change) -> str:
    before, after = change.parts
    part = changed_part(change)
    return f"{TRAINING[part]} {duration(after[part])} (was {duration(before[part])})"


def _parts_table(drawn: Sequence[Change]) -> pd.DataFrame:
    sides = [
        (change, side, parts) for change in drawn for side, parts in zip(("base", "new"), change.parts, strict=True)
    ]
    return pd.DataFrame([{"point": point_in_words(change.row), "side": side, **parts} for change, side, parts in sides])
