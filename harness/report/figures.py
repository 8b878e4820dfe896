"""Which figures a scenario's page has, section by section, in the order in which they are looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import pandas as pd

from harness.analysis.predicted import compare_twins
from harness.analysis.ranking import Standing
from harness.analysis.rate_regimes import map_frame
from harness.report.draw_bars import throughput_panels
from harness.report.draw_batches import batch_panels
from harness.report.draw_curves import LEARNT_LOSS, best_panels, curve_panels, learnt_of, panels_left_out
from harness.report.draw_fit import fit_panels
from harness.report.draw_memory import memory_panels
from harness.report.draw_noise import noise_panels
from harness.report.draw_predicted import predicted_panels
from harness.report.draw_rates import is_a_map, rate_panels
from harness.report.draw_scaling import scaling_panels
from harness.report.draw_steps import tail_panels
from harness.report.draw_target import SAMPLES, TIME, target_panels
from harness.report.draw_time import bubble_panels, part_panels, staleness_panels, timeline_panels
from harness.report.draw_usage import limit_panels, usage_panels
from harness.report.first_screen import first_panels, to_target
from harness.report.frames import PageFrames, steps_by_part
from harness.report.scenario_results import ScenarioResults
from harness.report.shades import Palette, colours
from harness.report.svg import Drawing, Panel
from harness.report.timeline import timeline_frame

CURVES_OPEN = 2
"""Curves of a kind that are seen at once; the rest is one click away; chosen."""

LOSSES_SHOWN = 2
"""Combinations of batch and rate whose losses are drawn, those with the best accuracy; chosen: the page stays small."""


MOST_NOTES = 12
"""Notes of probes on a page; chosen: of several GPUs each has its own, and they repeat themselves."""


@dataclass(frozen=True)
class Gallery:
    """Figures under one heading.

    Attributes:
        more: one click away.
        remarks: sentences on what is not drawn.
        notes: what the probes had to say, one click away.
    """

    title: str
    drawings: tuple[Drawing, ...]
    more: tuple[Drawing, ...] = ()
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figures:
    """All figures of a scenario.

    Attributes:
        maps: of learning rates by workers, where the sweep has several of both: then they come first.
        first: three small pictures of each strategy at its best.
    """

    maps: tuple[Drawing, ...]
    first: tuple[Drawing, ...]
    galleries: tuple[Gallery, ...]


class Page:
    """Where figures are drawn: it knows the colours, and numbers the ids inside the SVGs.

    Args:
        palette: colour by strategy.
        prefix: starts the ids; no other page of the file has it.
    """

    def __init__(self, palette: Palette, prefix: str) -> None:
        self.palette, self._prefix, self._numbers = palette, prefix, count()

    def drawn(self, panels: Iterable[Panel | None]) -> tuple[Drawing, ...]:
        """Draw what there is to draw."""
        return tuple(p.drawing(self.palette, f"{self._prefix}{next(self._numbers)}") for p in panels if p is not None)


def figures_of(scenario: ScenarioResults, page: Page) -> Figures:
    """Draw a scenario."""
    frames = PageFrames(scenario)
    rates = map_frame(frames.findings.standings)
    maps, first = page.drawn(rate_panels(rates)), is_a_map(rates)
    pictures = page.drawn(first_panels(frames))
    galleries = [
        Gallery("Learning rates", () if first else maps),
        _convergence(frames, page),
        Gallery("Throughput and scaling", page.drawn(_speed(frames))),
        Gallery("Where the time went", page.drawn(_time(frames))),
        _devices(frames, page),
        Gallery("Memory", page.drawn(memory_panels(frames.bars))),
        Gallery("Predicted and measured", page.drawn(_predicted(scenario))),
    ]
    return Figures(
        maps=maps if first else (),
        first=pictures,
        galleries=tuple(item for item in galleries if item.drawings or item.remarks or item.notes),
    )


def _convergence(frames: PageFrames, page: Page) -> Gallery:
    known = frames.curves.dropna(subset=["accuracy"])
    if known.empty:
        missing = "No curves: no finished cell measured a validation accuracy or another metric."
        return Gallery("Convergence", (), remarks=(missing,) if frames.scenario.records else ())
    accuracies = curve_panels(known, learnt_of(frames.metric), frames.target)
    losses = curve_panels(pd.concat(best_panels(known, LOSSES_SHOWN, not frames.metric.higher)), LEARNT_LOSS)
    shown = [*_to_target(frames), *accuracies[:CURVES_OPEN], *losses[:CURVES_OPEN]]
    fits = {row["cell_id"]: row["fitting"] for row in frames.scenario.rows if row.get("fitting")}
    shown += fit_panels(frames.best_curves, fits)
    drawings, more = page.drawn(shown), page.drawn([*accuracies[CURVES_OPEN:], *losses[CURVES_OPEN:]])
    left_out = panels_left_out(known)
    remarks = (f"{left_out} more combinations of batch and rate are in the table only.",) if left_out else ()
    return Gallery("Convergence", drawings, more, remarks)


def _devices(frames: PageFrames, page: Page) -> Gallery:
    """Draw how busy devices were, and say what the probes of GPUs did not tell."""
    drawings = page.drawn([*usage_panels(frames.usage), *limit_panels(frames.limits)])
    notes = [f"{note} ({'; '.join(labels)})" for note, labels in frames.probe_notes.items()]
    more = (f"{len(notes) - MOST_NOTES} more notes of probes are in the records.",) if len(notes) > MOST_NOTES else ()
    return Gallery("Devices over time", drawings, notes=(*notes[:MOST_NOTES], *more))


def _to_target(frames: PageFrames) -> Iterator[Panel]:
    """Draw each strategy on each number of devices at its best rate and batch."""
    scenario = frames.scenario
    best: dict[tuple[str, str, str, int], Standing] = {}
    for standing in (found for found in frames.findings.standings if found.point.by_target):
        point = standing.point
        best.setdefault((point.row["engine"], point.strategy, point.details, point.gpus), standing)
    order = {cell.strategy: place for place, cell in reversed(list(enumerate(scenario.plan.cells)))}
    ordered = sorted(best.values(), key=lambda s: (order.get(s.point.strategy, 0), s.point.details, s.point.gpus))
    for measure in (TIME, SAMPLES):
        ways = [way for standing in ordered if (way := to_target(standing, frames, measure)) is not None]
        yield from target_panels(ways, measure)


def _speed(frames: PageFrames) -> Iterator[Panel]:
    yield from scaling_panels(frames.scaling)
    yield from throughput_panels(frames.bars)
    yield from batch_panels(frames.cells)
    yield from noise_panels(frames.noise)


def _time(frames: PageFrames) -> Iterator[Panel]:
    yield from part_panels(steps_by_part(frames.bars))
    yield from tail_panels(frames.tails)
    yield from timeline_panels(timeline_frame(frames))
    yield from bubble_panels(frames.bubbles)
    yield from staleness_panels(frames.staleness)


def _predicted(scenario: ScenarioResults) -> Iterator[Panel]:
    yield from predicted_panels(compare_twins(scenario.rows), "Predicted and measured")
    yield from predicted_panels(scenario.observed, "Predicted and observed")


def palette_of(scenarios: Sequence[ScenarioResults]) -> Palette:
    """Return the colours of a page: each strategy has one on all of it, and each of its device counts a shade."""
    counts: dict[str, list[int]] = {}
    for cell in (cell for scenario in scenarios for cell in scenario.plan.cells):
        counts.setdefault(cell.strategy, []).append(cell.gpus)
    return Palette(colours(strategies_of(scenarios)), counts)


def strategies_of(scenarios: Sequence[ScenarioResults]) -> list[str]:
    """Return all strategies of a page, in the order in which they come: each has one colour on all of it."""
    return list(dict.fromkeys(cell.strategy for scenario in scenarios for cell in scenario.plan.cells))
