"""Figures of a simulated cluster found from measurements: a device's speed, then its links, then its servers' rate.

By least squares of relative errors. Measurements on the fewest devices decide the speed, the others what they pass
through, and earlier figures count more. Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from harness.core.cell import Cell, Observation, Plan, cell_id
from harness.core.errors import HarnessError, InputError
from harness.core.given_cluster import ClusterFigures, GivenLink, is_elsewhere
from harness.core.records import to_json
from harness.core.words import bandwidth, bit_rate, counted, rate
from harness.costs.cells import find_shape
from harness.costs.profiles import PUBLISHED, Constants
from harness.engines.virtual.whatif import BUS, NODES, SPEED, WhatIf, update_s, what_if

if TYPE_CHECKING:
    from harness.api.host import Host

MOST_TIMES = 100.0
"""Factor up to which a figure may differ from what was assumed: chosen; what is farther off is another mistake."""

EARLIER = 10.0
"""How many times as much an error counts with each figure that comes earlier: chosen, so that a link does not bend a
device's speed, and a step on one device that holds an exchange is told apart all the same."""


@dataclass(frozen=True)
class CalibratingRow:
    """A measurement beside the cell that it is of."""

    cell: Cell
    step_s: float

    def error(self, cluster: ClusterFigures, host: Host, overheads: Constants) -> float:
        """Return the logarithm of predicted over measured seconds on a cluster."""
        return math.log(update_s(replace(self.cell, cluster=cluster), host, overheads) / self.step_s)


@dataclass(frozen=True)
class Figure:
    """Something of a cluster that measurements decide.

    Attributes:
        scaled: the cluster with it multiplied.
        decides: whether a measurement that is not on the fewest devices decides it.
        words: what it is now, from a cell's figures.
    """

    name: str
    scaled: Callable[[ClusterFigures, float], ClusterFigures]
    decides: Callable[[Cell], bool]
    words: Callable[[WhatIf], str]


def calibrated(plan: Plan, observed: Sequence[Observation], host: Host, overheads: Constants = PUBLISHED) -> Plan:
    """Return the plan with clusters whose figures were fitted to the measurements that are there to calibrate.

    Args:
        observed: all measurements of the scenario.
        overheads: what no data sheet says of devices elsewhere.

    Raises:
        InputError: such a measurement is of no simulated cell of other devices, or nothing can be told of its cell.
    """
    if not any(item.calibrates for item in observed):
        return plan
    problems = list(_misplaced(plan, observed))
    if problems:
        raise InputError(problems)
    notes: list[str] = []
    found: dict[str, ClusterFigures] = {}
    groups: dict[str, list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault(_environment(cell), []).append(cell)
    for key, cells in groups.items():
        rows = [CalibratingRow(cell, seconds) for cell in cells if (seconds := _measured_s(cell)) is not None]
        if rows:
            found[key], words = _fitted(_Rows(tuple(rows), host), overheads)
            notes += words
    moved = tuple(_moved(cell, found.get(_environment(cell), cell.cluster)) for cell in plan.cells)
    return replace(plan, cells=moved, notes=(*plan.notes, *dict.fromkeys(notes)))


def _misplaced(plan: Plan, observed: Sequence[Observation]) -> Iterator[str]:
    for number, item in enumerate(observed, start=1):
        if not item.calibrates:
            continue
        cells = [cell for cell in plan.cells if item in cell.observed and cell.engine == "virtual"]
        if not any(is_elsewhere(cell.cluster) for cell in cells):
            yield (
                f'observed {number}: use = "calibrate", but no simulated cell of other devices is what was measured; '
                "sweep its gpus and batch too, and set cluster.device or cluster.preset"
            )


def _environment(cell: Cell) -> str:
    """Return what cells share whose devices and links are the same."""
    return json.dumps([to_json(cell.workload), to_json(cell.cluster)], sort_keys=True)


def _measured_s(cell: Cell) -> float | None:
    """Return the seconds of a step, a geometric mean where several measurements are of one cell."""
    rows = [item for item in cell.observed if item.calibrates] if cell.engine == "virtual" else []
    logs = [
        math.log(item.step_time_s or cell.global_batch_size / (item.throughput_samples_per_s or 1.0)) for item in rows
    ]
    return math.exp(sum(logs) / len(logs)) if logs and is_elsewhere(cell.cluster) else None


def _known(cell: Cell, cluster: ClusterFigures, host: Host) -> WhatIf:
    moved = replace(cell, cluster=cluster)
    return what_if(moved, host, find_shape(moved, host))


def _moved(cell: Cell, cluster: ClusterFigures) -> Cell:
    moved = replace(cell, cluster=cluster)
    return replace(moved, cell_id=cell_id(moved)) if cluster != cell.cluster else cell


# -- fitting -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """Measurements of one environment; equal where they say the same, whatever scenario they stand in."""

    rows: tuple[CalibratingRow, ...]
    host: Host

    def _key(self) -> str:
        return json.dumps([[to_json(replace(row.cell, cell_id="")), row.step_s] for row in self.rows], sort_keys=True)

    def __hash__(self) -> int:
        return hash(self._key())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rows) and self.host is other.host and self._key() == other._key()


@lru_cache(maxsize=256)
def _fitted(given: _Rows, overheads: Constants) -> tuple[ClusterFigures, tuple[str, ...]]:
    """Return the cluster of the measurements with fitted figures, and what was fitted in words.

    Kept, because scenarios of one machine share the measurements that they calibrate on.

    Raises:
        InputError: how long a step of a measured cell takes cannot be told.
    """
    from scipy.optimize import least_squares  # late: few scenarios calibrate

    rows, host = given.rows, given.host
    cluster = rows[0].cell.cluster
    deciding = {figure: found for figure in FIGURES if (found := _deciding(figure, rows))}
    weighted = [(row, EARLIER**-order) for order, found in enumerate(deciding.values()) for row in found]

    def moved(logs: Sequence[float]) -> ClusterFigures:
        found = cluster
        for figure, log in zip(deciding, logs, strict=True):
            found = figure.scaled(found, math.exp(log))
        return found

    def errors(logs: Sequence[float]) -> list[float]:
        found = moved(logs)
        return [weight * row.error(found, host, overheads) for row, weight in weighted]

    farthest = math.log(MOST_TIMES)
    try:
        best = least_squares(
            errors, [0.0] * len(deciding), bounds=(-farthest, farthest), x_scale=0.1, diff_step=1e-5, xtol=1e-12
        ).x.tolist()
    except HarnessError as error:
        raise InputError([f'observed: use = "calibrate": {error}']) from None
    fitted, told = moved(best), []
    for figure, log in zip(deciding, best, strict=True):
        worst = max(abs(math.expm1(row.error(fitted, host, overheads))) for row in deciding[figure])
        now = figure.words(_known(deciding[figure][0].cell, fitted, host))
        told.append(
            f"calibrated on {counted(len(deciding[figure]), 'measurement')}: {figure.name} {now}, "
            f"{math.exp(log):.4g} times what was assumed; predicts their step times within {100 * worst:.2g} %"
        )
    return fitted, tuple(told)


def _deciding(figure: Figure, rows: Sequence[CalibratingRow]) -> list[CalibratingRow]:
    fewest = min(row.cell.gpus for row in rows)
    return [row for row in rows if figure.decides(row.cell) and (row.cell.gpus == fewest) == (figure is FIGURES[0])]


def _scaled_link(link: GivenLink | None, factor: float) -> GivenLink | None:
    if link is None:
        return None
    groups = {n: replace(g, bandwidth_bytes_per_s=g.bandwidth_bytes_per_s * factor) for n, g in link.by_group.items()}
    tables = {n: tuple((size, seconds / factor) for size, seconds in table) for n, table in link.tables.items()}
    across = link.across and replace(link.across, bandwidth_bytes_per_s=link.across.bandwidth_bytes_per_s * factor)
    rate = link.bandwidth_bytes_per_s * factor
    return replace(link, bandwidth_bytes_per_s=rate, by_group=groups, tables=tables, across=across)


def _inside(cluster: ClusterFigures, factor: float) -> ClusterFigures:
    return replace(cluster, intra_node=_scaled_link(cluster.intra_node, factor))


def _between(cluster: ClusterFigures, factor: float) -> ClusterFigures:
    return replace(cluster, inter_node=_scaled_link(cluster.inter_node, factor))


def _served(cluster: ClusterFigures, factor: float) -> ClusterFigures:
    """Return the cluster with another rate of what only servers use: their own link, or the host's memory and slots."""
    servers = cluster.servers
    if servers is not None and servers.placement == "dedicated":
        return replace(cluster, servers=replace(servers, link=_scaled_link(servers.link or cluster.inter_node, factor)))
    if cluster.host_link is not None:
        return replace(cluster, host_link=_scaled_link(cluster.host_link, factor))
    return _between(cluster, factor) if cluster.inter_node else _inside(cluster, factor)


def _served_words(known: WhatIf) -> str:
    cluster = known.cell.cluster
    link = cluster.host_link or cluster.inter_node or cluster.intra_node
    if cluster.servers is not None and cluster.servers.placement == "dedicated":
        link = cluster.servers.link
    return bit_rate(link.bandwidth_bytes_per_s, 4) if link else ""


FIGURES = (
    Figure(
        "a device computes",
        lambda cluster, factor: replace(cluster, speed=cluster.speed * factor),
        lambda _: True,
        lambda known: f"{rate(known.configured[SPEED])} with {counted(known.cell.micro_batch_size, 'sample')} at once",
    ),
    Figure(
        "links inside a node carry",
        _inside,
        lambda cell: not cell.servers and cell.nodes == 1,
        lambda known: bandwidth(known.configured[f"{BUS}.bandwidth"], 4),
    ),
    Figure(
        "links between nodes carry",
        _between,
        lambda cell: not cell.servers and cell.nodes > 1,
        lambda known: bit_rate(known.configured[f"{NODES}.bandwidth"], 4),
    ),
    Figure("the way to the servers carries", _served, lambda cell: cell.servers > 0, _served_words),
)
"""In the order in which they are fitted: each with those before it."""
