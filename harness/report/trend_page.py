"""The history as a page: what changed since when, the figures, the points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.analysis.trend_words import (
    POINT_HEAD,
    cause_in_words,
    heading,
    names_by_key,
    night_names,
    point_cells,
    remarks,
    verdict,
    what_changed,
)
from harness.analysis.trends import ChangedBy, Shift, Trends
from harness.core.version import __version__
from harness.core.words import change_in_percent
from harness.report.draw_trends import machine_panel, point_panel
from harness.report.figures import Page
from harness.report.page import templates
from harness.report.svg import Drawing, Panel, colours

OPEN_AT_ONCE, MOST_DRAWN = 8, 32
"""Points whose figures are seen at once, those that changed last, and points that are drawn at all.

Chosen: 200 nights of a point take 80 kB."""

CHANGED_BY_WORDS = {
    ChangedBy.MACHINE: "Machine",
    ChangedBy.ENVIRONMENT: "Environment",
    ChangedBy.CODE: "Code",
    ChangedBy.UNKNOWN: "Code or machine",
}
"""Who changed it, in a word or two."""


@dataclass(frozen=True)
class ShownShift:
    """A change as the template takes it.

    Attributes:
        kind: names its colour: worse or better, or the machine's own.
    """

    night: str
    badge: str
    kind: str
    what: str
    change: str
    cause: str


class TrendsShown:
    """One scenario on one machine as the template takes it."""

    def __init__(self, found: Trends, page: Page) -> None:
        self.found, self._page = found, page
        self.title = f"{found.scenario} on {found.machine}" if found.machine else found.scenario
        self.heading, self.verdict, self.remarks = heading(found), verdict(found), remarks(found)
        self.rows = point_cells(found)

    @property
    def not_drawn(self) -> int:
        """Points without a figure."""
        return max(0, len(self.found.points) - MOST_DRAWN)

    @property
    def shifts(self) -> Iterator[ShownShift]:
        """What changed, the newest first."""
        names = night_names((*self.found.nights, *self.found.left_out))
        for shift in self.found.shifts:
            yield ShownShift(
                night=names[shift.after.night],
                badge=CHANGED_BY_WORDS[shift.by],
                kind=_kind(shift),
                what=what_changed(shift, self.found),
                change=change_in_percent(shift.factor),
                cause=cause_in_words(shift, self.found),
            )

    @cached_property
    def figures(self) -> tuple[Drawing, ...]:
        """The machine, and the points that changed last."""
        return self._page.drawn([*self._panels[:OPEN_AT_ONCE], machine_panel(self.found)])

    @cached_property
    def more(self) -> tuple[Drawing, ...]:
        """The other points."""
        return self._page.drawn(self._panels[OPEN_AT_ONCE:])

    @cached_property
    def _panels(self) -> list[Panel | None]:
        """The points, those that changed last first, and behind all what runs no longer."""
        names, current = names_by_key(self.found), self.found.current
        changed = sorted(self.found.points, key=lambda p: -max((step.place for step in p.shifts), default=-1))
        ordered = sorted(changed, key=lambda point: point not in current)[:MOST_DRAWN]
        return [point_panel(point, names[point.key], self.found) for point in ordered]


def _kind(shift: Shift) -> str:
    if shift.by is ChangedBy.MACHINE:
        return "undecided"
    return "regression" if shift.factor > 1 else "improvement"


def render_trends(all_found: Sequence[Trends]) -> str:
    """Return the page as HTML: one file, nothing from the network, readable without scripts."""
    strategies = dict.fromkeys(str(point.row["strategy"]) for found in all_found for point in found.points)
    palette = colours(strategies)
    shown = [TrendsShown(found, Page(palette, f"t{number}-")) for number, found in enumerate(all_found)]
    return (
        templates(named=False)
        .get_template("trends.html.j2")
        .render(
            all_shown=shown, point_head=POINT_HEAD, version=__version__, title=", ".join(item.title for item in shown)
        )
    )
