"""New over base: every time that was compared with its interval, and where a step that got worse has grown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.analysis.compare import FALSE_ALARMS
from harness.analysis.compare_times import changed_part
from harness.analysis.compare_words import short_names, where
from harness.analysis.compared import Change, Kind
from harness.analysis.time_parts import TRAINING
from harness.core.words import change_in_percent, duration, time_unit
from harness.report.draw_time import SEEN, legend, segment
from harness.report.svg import (
    INK,
    Drawing,
    clock_in_words,
    drawing,
    kind_in_words,
    name_rows,
    new_figure,
    shorten,
    style,
)

MOST_ROWS = 16

MOST_STEPS = 6
"""Points whose step is drawn before and after, the worst; chosen: the answer is in the first of them."""

ROW_INCH = 0.4

LONGEST_LABEL = 66
"""Characters above a row, numbers included: nothing but the edge ends such a line, which has room for about 70."""

TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100)
NEAREST_TICKS = 0.12
"""Share of the axis that two ticks are apart at least: their numbers would touch."""

BEYOND = 2.0
"""How far past the outermost ratio an interval may stretch the axis, as a factor; chosen: of few runs it may reach
anywhere, and the ratios would all lie on one spot."""


NO_CHANGE = "no change shown"
"""What is neither worse nor better: too little, or not told from noise."""


@dataclass(frozen=True)
class Mark:
    """How a kind of change looks: told apart by shape as well as by colour."""

    colour: str
    shape: str
    size: float
    name: str


MARKS: Mapping[Kind | None, Mark] = {
    "regression": Mark("#d55e00", ">", 8, "worse"),
    "implausible": Mark("#cc78bc", "X", 8, "too good to be true"),
    "improvement": Mark("#0173b2", "<", 8, "better"),
    None: Mark(INK, "o", 4.5, NO_CHANGE),
}
"""Source of the colours: seaborn's palette for colour-blind eyes, as everywhere on the page."""


def ratio_drawing(changes: Sequence[Change], min_effect: float, exactly: str, prefix: str) -> Drawing | None:
    """Draw new over base of every point, quantity by quantity, the worst first; None where no time was compared.

    Args:
        changes: all times that were compared.
        min_effect: share that a time must grow by to count.
        exactly: what was compared without an interval, in a sentence.
        prefix: starts the ids inside the SVG.
    """
    if not changes:
        return None
    drawn = _drawn(changes)
    low, high = _limits(drawn, min_effect)
    places, headings, bottom = _places(drawn)
    with style():
        figure, axes = new_figure(1.1 + ROW_INCH * bottom)
        for place, name, change in zip(places, short_names([change.row for change in drawn]), drawn, strict=True):
            _unchanged(axes, place, min_effect)
            _row(axes, place, change, low, high)
            _write(axes, place - 0.22, _label(name, f": {change_in_percent(change.ratio)}"), "normal")
        for place, name in headings:
            _write(axes, place, name, "bold")
        _axis(axes, low, high, bottom)
        _legend(figure, axes, drawn, min_effect)
        caption = " ".join([_caption(changes, drawn, min_effect), exactly])
        details = " ".join(map(_in_words, drawn))
        return drawing(figure, "New against base", caption, details, _table(changes), prefix)


def _drawn(changes: Sequence[Change]) -> list[Change]:
    """Return what is drawn: findings before the rest, the largest changes first; then by quantity, the worst first."""
    kinds, quantities = list(MARKS), list(dict.fromkeys(change.quantity for change in changes))
    order = sorted(changes, key=lambda c: (kinds.index(c.kind), quantities.index(c.quantity), -abs(math.log(c.ratio))))
    return sorted(order[:MOST_ROWS], key=lambda c: (quantities.index(c.quantity), c.kind != "regression", -c.ratio))


def _places(drawn: Sequence[Change]) -> tuple[list[float], list[tuple[float, str]], float]:
    """Return where each row lies, where each quantity is named above its rows, and where the last row ends."""
    places: list[float] = []
    headings: list[tuple[float, str]] = []
    below = 0.0
    for number, change in enumerate(drawn):
        if not number or change.quantity != drawn[number - 1].quantity:
            below += 0.6
            headings.append((below - 0.05, change.quantity.name.capitalize()))
        places.append(below + 0.75)
        below += 1.0
    return places, headings, below + 0.1


def _label(name: str, end: str) -> str:
    return shorten(name, LONGEST_LABEL - len(end)) + end


def _write(axes: Any, place: float, text: str, weight: str) -> None:
    """Write a name above its row, as `name_rows` does: beside it, it would take the width that the row needs."""
    axes.annotate(text, (0, place), xycoords=axes.get_yaxis_transform(), xytext=(2, 0), textcoords="offset points",
                  va="bottom", fontsize=9, fontweight=weight)  # fmt: skip


def _unchanged(axes: Any, place: float, min_effect: float) -> None:
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


def _row(axes: Any, place: float, change: Change, low: float, high: float) -> None:
    mark = MARKS[change.kind]
    if change.interval is not None:
        ends = max(change.interval.low, low), min(change.interval.high, high)
        axes.plot(ends, [place, place], color=mark.colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
        for end, cut, shape in ((low, change.interval.low < low, 4), (high, change.interval.high > high, 5)):
            if cut:
                axes.plot([end], [place], marker=shape, color=mark.colour, markersize=5, zorder=2)
    hollow = change.row["engine"] == "virtual"
    axes.plot([change.ratio], [place], marker=mark.shape, markersize=mark.size, color=mark.colour, zorder=3,
              markerfacecolor="none" if hollow else mark.colour)  # fmt: skip


def _axis(axes: Any, low: float, high: float, bottom: float) -> None:
    """Write ticks from 1 outwards: a logarithm has few round numbers within a few percent."""
    least, kept = NEAREST_TICKS * math.log(high / low), [1.0]
    for side in (sorted(t for t in TICKS if t > 1), sorted((t for t in TICKS if t < 1), reverse=True)):
        last = 1.0
        for tick in side:
            if low <= tick <= high and abs(math.log(tick / last)) >= least:
                kept.append(tick)
                last = tick
    axes.set_xscale("log")
    axes.set_xticks(kept, [f"{100 * (tick - 1):+.3g} %" if tick != 1 else "0" for tick in kept])
    axes.set_xticks([], minor=True)
    axes.set(xlim=(low, high), ylim=(bottom, 0), xlabel="new against base; right of 0 is worse")
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _legend(figure: Any, axes: Any, drawn: Sequence[Change], min_effect: float) -> None:
    kinds = {change.kind for change in drawn}
    handles = [
        axes.plot([], [], marker=mark.shape, markersize=mark.size, color=mark.colour, linewidth=1.6, label=mark.name)[0]
        for kind, mark in MARKS.items()
        if kind in kinds
    ]
    handles.append(axes.fill_between([], [], color=INK, alpha=0.1, linewidth=0, label=f"within {100 * min_effect:g} %"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) if len(handles) < 4 else 2,
                  fontsize=8.5)  # fmt: skip


def _caption(changes: Sequence[Change], drawn: Sequence[Change], min_effect: float) -> str:
    coverage = {change.interval.coverage for change in changes if change.interval}
    text = ""
    if coverage and not all(change.between_runs for change in changes):
        text = (
            f"Lines: intervals at {100 * min(coverage):.4g} % each; of few runs they say how steps differ within a "
            "run, and runs may differ by more. "
        )
    elif coverage:
        text = (
            f"Lines: intervals at {100 * min(coverage):.4g} % each, so wide that all of them together raise an alarm "
        )
        text += f"in {100 * FALSE_ALARMS:g} % of nights without a change, at most. "
    text += f"Worse is what lies beyond {100 * min_effect:g} % with its whole line right of 0."
    rest = len(changes) - len(drawn)
    if rest:
        found = sum(change.kind is not None for change in changes) - sum(change.kind is not None for change in drawn)
        text += f" In the CSV only: {rest} more, {found or 'none'} of them better or worse."
    return text


def _in_words(change: Change) -> str:
    interval = change.interval
    ends = f" ({change_in_percent(interval.low)} to {change_in_percent(interval.high)})" if interval else ""
    changed = f"{change_in_percent(change.ratio)}{ends}"
    return f"{where(change.row)}, {change.quantity.name}: {changed}, {MARKS[change.kind].name}."


def _table(changes: Sequence[Change]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "point": where(change.row),
                "quantity": change.quantity.column,
                "base": change.base,
                "new": change.new,
                "ratio": change.ratio,
                "low": change.interval.low if change.interval else None,
                "high": change.interval.high if change.interval else None,
                "kind": change.kind or NO_CHANGE,
            }
            for change in changes
        ]
    )


# -- where it grew -----------------------------------------------------------------------------------------------------


def grown_drawings(changes: Sequence[Change], palette: Mapping[str, str], prefix: str) -> list[Drawing]:
    """Draw the parts of each step that got worse, before and after; measured and simulated apart.

    Args:
        changes: all times that were compared.
        palette: colour by strategy.
        prefix: starts the ids inside the SVG.
    """
    worse = sorted((change for change in changes if change.kind == "regression"), key=lambda c: -c.ratio)
    steps: dict[str, Change] = {}
    for change in worse:
        if changed_part(change):
            steps.setdefault(where(change.row), change)
    found = list(steps.values())
    groups = [[c for c in found if (c.row["engine"] == "virtual") == simulated] for simulated in (False, True)]
    return [_grown(group, palette, f"{prefix}grown{number}") for number, group in enumerate(groups) if group]


def _grown(found: Sequence[Change], palette: Mapping[str, str], prefix: str) -> Drawing:
    drawn, simulated = found[:MOST_STEPS], found[0].row["engine"] == "virtual"
    names = short_names([change.row for change in drawn])
    bars = [(change, parts) for change in drawn for parts in change.parts]
    size, unit = time_unit(max(sum(parts.values()) for _, parts in bars))
    words = []
    for name, change in zip(names, drawn, strict=True):
        before, after = (duration(sum(parts.values())) for parts in change.parts)
        words += [_label(name, f", base: {before}"), f"new: {after}; {_growth(change)}"]
    with style():
        figure, axes = new_figure(1.35 + 0.44 * len(bars))
        for place, (change, parts) in enumerate(bars):
            left = 0.0
            for part, seconds in parts.items():
                colour = palette[change.row["strategy"]]
                segment(axes, place, left / size, seconds / size, 0.4, colour, part, simulated)
                left += seconds
        name_rows(axes, words)
        axes.set(xlabel=f"{clock_in_words(unit, simulated)} per step, mean over devices", xlim=(0, None))
        whole = sum(sum(parts.values()) for _, parts in bars)
        seen = [part for part in TRAINING if sum(parts.get(part, 0) for _, parts in bars) > SEEN * whole]
        legend(figure, seen, simulated)
        title = f"A step before and after, {kind_in_words(simulated)}"
        sentences = [f"{where(change.row)}: {_growth(change)}." for change in drawn]
        more = f" The worst {len(drawn)} of {len(found)} points are drawn." if len(found) > len(drawn) else ""
        about = " Medians over runs, warm-up included: so a step differs a little from the one that is judged."
        return drawing(figure, title, sentences[0] + more + about, " ".join(sentences), _parts_table(drawn), prefix)


def _growth(change: Change) -> str:
    before, after = change.parts
    part = changed_part(change)
    return f"{TRAINING[part]} {duration(after[part])}, {duration(before[part])} before"


def _parts_table(drawn: Sequence[Change]) -> pd.DataFrame:
    sides = [
        (change, side, parts) for change in drawn for side, parts in zip(("base", "new"), change.parts, strict=True)
    ]
    return pd.DataFrame([{"point": where(change.row), "side": side, **parts} for change, side, parts in sides])
