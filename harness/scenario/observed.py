"""Observations from elsewhere that a scenario holds, and the cells that they are of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.core.cell import Observation
from harness.core.errors import one_of, unknown
from harness.core.swept_keys import is_environment, is_problem
from harness.core.words import listed, show, show_path
from harness.scenario.mistakes import Source, validated
from harness.scenario.schema import ObservedSection

if TYPE_CHECKING:
    from harness.api.strategy import Strategy
    from harness.core.cell import Cell

Swept = Mapping[str, Sequence[object]]
"""By key, the values that it is swept over."""

_VALUES = ("throughput", "step_time", "source", "use")


def read_observed(
    tables: object, swept: Iterable[str], strategies: Mapping[str, type[Strategy]], source: Source
) -> tuple[Observation, ...]:
    """Return the measurements of a scenario; what is wrong with them is added to `source`.

    Args:
        tables: what [[observed]] holds.
        swept: keys swept by their path, which may tell cells apart here too.
        strategies: those that there are; options of theirs tell cells apart too, as strategy.NAME.option.
    """
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        return ()  # the document's own check words it
    options = [f"strategy.{name}.{key}" for name, known in strategies.items() for key in known.Options.model_fields]
    keys = [*swept, *options]
    found = [_measurement(place, table, keys, list(strategies), source) for place, table in enumerate(tables)]
    return tuple(item for item in found if item is not None)


def _measurement(
    place: int, table: Mapping[str, Any], more_keys: Sequence[str], strategies: Sequence[str], source: Source
) -> Observation | None:
    own = {key: value for key, value in table.items() if key in ObservedSection.model_fields}
    others = {key: value for key, value in table.items() if key not in own}
    for key in others:
        if key not in more_keys:
            own_keys = ObservedSection.model_fields
            known = f"Keys here: {', '.join(own_keys)}, keys that are swept, and strategy.NAME.option in quotes"
            source.problem(("observed", place, key), unknown("no such key", key, [*own_keys, *more_keys], known))
    read = validated(ObservedSection, own, source, ("observed", place))
    if read is None:
        return None
    if read.strategy is not None and read.strategy not in strategies:
        known = one_of(read.strategy, sorted(strategies), "harness plugins")
        source.problem(("observed", place, "strategy"), known, read.strategy)
    keys = {key: value for key, value in read.model_dump().items() if key not in _VALUES and value is not None}
    return Observation(keys | others, read.throughput, read.step_time, read.source, read.use == "calibrate")


def fits(measurement: Observation, cell: Cell) -> bool:
    """Say whether a cell is what a measurement is of: every key that was written is the cell's."""
    return all(_value(cell, key) == value for key, value in measurement.keys.items())


def _value(cell: Cell, key: str) -> Any:
    if key.startswith("strategy."):
        _, name, option = key.split(".", 2)
        return cell.options.get(option) if name == cell.strategy else None
    return cell.swept.get(key, getattr(cell, key, None))


def of_cell(measurements: Sequence[Observation], cell: Cell, swept: Swept) -> tuple[Observation, ...]:
    """Return the measurements of a cell; one that does not say in which environment it was taken is of none.

    Args:
        swept: keys swept by their path, with their values.
    """
    return tuple(item for item in measurements if fits(item, cell) and not _unsaid(item, swept))


def _unsaid(measurement: Observation, swept: Swept) -> list[str]:
    """Return the problems and environments that a scenario has several of and a measurement does not name."""
    asked = (key for key, values in swept.items() if len(values) > 1 and (is_problem(key) or is_environment(key)))
    return [key for key in asked if key not in measurement.keys]


def unmatched(measurements: Sequence[Observation], cells: Sequence[Cell], swept: Swept) -> Iterable[str]:
    """Say which measurements fit no cell, and ask for what would tell which they are of.

    Args:
        swept: keys swept by their path, with their values.
    """
    for number, item in enumerate(measurements, start=1):
        for key in _unsaid(item, swept):
            values = listed(map(show, swept[key]), "or")
            yield (
                f"[[observed]] {number} is compared with no cell: it does not say its {key}, which is swept; add "
                f"{show_path([key])} = {show(swept[key][0])}, or whichever of {values} it was"
            )
        if not any(fits(item, cell) for cell in cells):
            keys = ", ".join(f"{key} {value}" for key, value in item.keys.items())
            yield f"[[observed]] {number} ({keys or 'no key'}) matches no cell"
