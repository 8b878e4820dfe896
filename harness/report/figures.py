"""Which figures a scenario's page has, section by section, in the order in which they are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.analysis.points import TRIED, has_target, points
from harness.analysis.predicted import compare_observed, compare_twins
from harness.analysis.ranking import Standing
from harness.analysis.rate_regimes import map_frame
from harness.report.draw_bars import throughput_drawings
from harness.report.draw_batches import batch_drawings
from harness.report.draw_curves import ACCURACY, LOSS, best_panels, curve_drawings, panels_left_out
from harness.report.draw_fit import fit_drawings
from harness.report.draw_memory import memory_drawings
from harness.report.draw_noise import noise_drawings
from harness.report.draw_predicted import predicted_drawings
from harness.report.draw_rates import is_a_map, rate_drawings
from harness.report.draw_scaling import scaling_drawings
from harness.report.draw_steps import tail_drawings
from harness.report.draw_target import SAMPLES, TIME, target_drawings
from harness.report.draw_time import bubble_drawings, part_drawings, staleness_drawings, timeline_drawings
from harness.report.draw_usage import usage_drawings
from harness.report.first_screen import best_of, pictures, to_target
from harness.report.frames import (
    bars_frame,
    bubbles,
    cells_frame,
    curves_frame,
    labels_of,
    noise,
    parts_frame,
    scaling_lines,
    staleness,
    tails,
    usage,
)
from harness.report.scenario_results import ScenarioResults
from harness.report.svg import Drawing
from harness.report.timeline import timeline_frame

OPEN = 4
"""Curves that are seen at once; the rest is one click away; chosen."""


LOSSES_SHOWN = 2
"""Combinations of batch and rate whose losses are drawn, those with the best accuracy; chosen: the page stays small."""


@dataclass(frozen=True)
class Gallery:
    """Figures under one heading.

    Attributes:
        more: one click away.
        remarks: sentences on what is not drawn.
    """

    title: str
    drawings: tuple[Drawing, ...]
    more: tuple[Drawing, ...] = ()
    remarks: tuple[str, ...] = ()


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


def figures_of(scenario: ScenarioResults, palette: Mapping[str, str], prefix: str) -> Figures:
    """Draw a scenario.

    Args:
        scenario: its plan, records and tables.
        palette: colour by strategy.
        prefix: starts the ids inside the SVGs.
    """
    cells, bars, curves = cells_frame(scenario), bars_frame(scenario), curves_frame(scenario)
    labels = labels_of(scenario)
    rates = map_frame(cells)
    scaling = scaling_lines(scenario, cells) if len(cells) else cells
    maps, first = rate_drawings(rates, prefix), is_a_map(rates)
    speed = [*scaling_drawings(scaling, palette, prefix), *throughput_drawings(bars, palette, prefix)]
    speed += [*batch_drawings(cells, palette, prefix), *noise_drawings(noise(scenario, labels), palette, prefix)]
    best = best_of(scenario.rows)
    galleries = [
        Gallery("Learning rates", () if first else tuple(maps)),
        _convergence(scenario, curves, best, labels, palette, prefix),
        Gallery("Throughput and scaling", tuple(speed)),
        Gallery("Where the time went", tuple(_time(scenario, cells, bars, labels, palette, prefix))),
        Gallery("Devices over time", tuple(_over_time(scenario, best, labels, palette, prefix))),
        Gallery("Memory", tuple(memory_drawings(bars, palette, prefix))),
        Gallery("Predicted beside measured", tuple(_predicted(scenario, palette, prefix))),
    ]
    return Figures(
        maps=tuple(maps) if first else (),
        first=tuple(pictures(best, bars, curves, scaling, palette, target_of(scenario), prefix)),
        galleries=tuple(item for item in galleries if item.drawings or item.remarks),
    )


def target_of(scenario: ScenarioResults) -> float | None:
    """Return the accuracy that all cells were to reach; None where there is none or they differ."""
    targets = {cell.goal.get("target_accuracy") for cell in scenario.plan.cells}
    (target,) = targets if len(targets) == 1 else (None,)
    return target if isinstance(target, float) else None


def _convergence(
    scenario: ScenarioResults,
    curves: pd.DataFrame,
    best: Sequence[Standing],
    labels: Mapping[str, str],
    palette: Mapping[str, str],
    prefix: str,
) -> Gallery:
    known = curves.dropna(subset=["accuracy"])
    if known.empty:
        missing = "No curves: no finished cell measured a validation accuracy."
        return Gallery("Convergence", (), remarks=(missing,) if scenario.records else ())
    drawn = curve_drawings(known, ACCURACY, palette, target_of(scenario), prefix)
    losses = curve_drawings(pd.concat(best_panels(known, LOSSES_SHOWN)), LOSS, palette, None, prefix)
    left_out = panels_left_out(known)
    remarks = (f"{left_out} more combinations of batch and rate are in the table only.",) if left_out else ()
    shown = (*_to_target(scenario, labels, palette, prefix), *drawn[: OPEN // 2], *losses[: OPEN // 2])
    shown = (*shown, *_fit(scenario, curves, best, labels, palette, prefix))
    return Gallery("Convergence", shown, (*drawn[OPEN // 2 :], *losses[OPEN // 2 :]), remarks)


def _fit(
    scenario: ScenarioResults,
    curves: pd.DataFrame,
    best: Sequence[Standing],
    labels: Mapping[str, str],
    palette: Mapping[str, str],
    prefix: str,
) -> list[Drawing]:
    ids = [row["cell_id"] for standing in best for row in standing.point.rows]
    fits = {row["cell_id"]: row["fitting"] for row in scenario.rows if row.get("fitting")}
    # One line for each point: curves of a panel are named by less than what tells the points of a strategy apart.
    chosen = curves[curves["cell_id"].isin(ids)]
    return fit_drawings(chosen.assign(line=chosen["cell_id"].map(labels)), fits, palette, prefix)


def _to_target(
    scenario: ScenarioResults, labels: Mapping[str, str], palette: Mapping[str, str], prefix: str
) -> Iterator[Drawing]:
    """Draw each strategy on each number of devices at its best rate and batch."""
    tried = [row for row in scenario.rows if row["status"] in TRIED]
    if not has_target(tried):
        return
    best: dict[tuple[str, str, str, int], Standing] = {}
    for standing in sorted(map(Standing, points(tried, by_target=True)), key=lambda standing: standing.rank):
        point = standing.point
        best.setdefault((point.row["engine"], point.strategy, point.details, point.gpus), standing)
    order = {cell.strategy: place for place, cell in reversed(list(enumerate(scenario.plan.cells)))}
    ordered = sorted(best.values(), key=lambda s: (order.get(s.point.strategy, 0), s.point.details, s.point.gpus))
    for measure in (TIME, SAMPLES):
        ways = [way for standing in ordered if (way := to_target(standing, labels, measure)) is not None]
        yield from target_drawings(ways, palette, prefix, measure)


def _time(
    scenario: ScenarioResults,
    cells: pd.DataFrame,
    bars: pd.DataFrame,
    labels: Mapping[str, str],
    palette: Mapping[str, str],
    prefix: str,
) -> Iterator[Drawing]:
    yield from part_drawings(parts_frame(bars), palette, prefix)
    for frame, draw in (
        (tails(scenario, cells, labels), tail_drawings),
        (timeline_frame(scenario, labels), timeline_drawings),
        (bubbles(cells, labels), bubble_drawings),
        (staleness(scenario, cells, labels), staleness_drawings),
    ):
        if len(frame):
            yield from draw(frame, palette, prefix)


def _over_time(
    scenario: ScenarioResults,
    best: Sequence[Standing],
    labels: Mapping[str, str],
    palette: Mapping[str, str],
    prefix: str,
) -> list[Drawing]:
    """Draw the median run of each strategy at its best."""
    rows = [standing.middle for standing in best if standing.reached]
    found = usage(scenario, rows, labels)
    return usage_drawings(found, palette, prefix) if len(found) else []


def _predicted(scenario: ScenarioResults, palette: Mapping[str, str], prefix: str) -> Iterator[Drawing]:
    observed = {cell.cell_id: cell.observed for cell in scenario.plan.cells if cell.observed}
    twins, others = compare_twins(scenario.rows), compare_observed(scenario.rows, observed)
    yield from predicted_drawings(twins, palette, "Predicted beside measured", f"{prefix}twins")
    yield from predicted_drawings(others, palette, "Predicted beside observed", f"{prefix}observed")


def strategies_of(scenarios: Sequence[ScenarioResults]) -> list[str]:
    """Return all strategies of a page, in the order in which they come: each has one colour on all of it."""
    return list(dict.fromkeys(cell.strategy for scenario in scenarios for cell in scenario.plan.cells))
