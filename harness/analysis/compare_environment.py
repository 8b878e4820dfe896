"""What surrounds two sets of records: what differs in machine and scenario, and whether times can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.analysis.compared import Changed, MeasuredCell

Surroundings = Mapping[str, object]
"""By name, of one cell."""

CLUSTER = "cluster"
"""The fact that names the cluster of a simulated cell."""

NAMED_FIRST = (CLUSTER, "gpu", "cpu", "torch", "driver", "scenario")
"""Surroundings that explain most: they stand before the others; chosen."""


def changed_environment(base: Iterable[MeasuredCell], new: Iterable[MeasuredCell]) -> tuple[Changed, ...]:
    """Return every fact about machine, versions and scenario that is not the same on both sides, with its values."""
    return changed_facts([cell.environment for cell in base], [cell.environment for cell in new])


def changed_facts(base: Iterable[Surroundings], new: Iterable[Surroundings]) -> tuple[Changed, ...]:
    """Return every fact that is not the same on both sides; what explains most comes first."""
    before, after = _facts(base), _facts(new)
    keys = [key for key in dict.fromkeys([*NAMED_FIRST, *before, *after]) if key != "id"]
    return tuple(
        (key, _listed(before.get(key)), _listed(after.get(key))) for key in keys if before.get(key) != after.get(key)
    )


def other_machines(base: Sequence[MeasuredCell], new: Sequence[MeasuredCell]) -> tuple[Changed, ...]:
    """Return the devices of measured cells and the clusters of simulated ones where the sides differ in them."""
    sides = tuple((_devices(side), _clusters(side)) for side in (base, new))
    return tuple(
        (what, _listed(before), _listed(after))
        for what, before, after in zip(("device", CLUSTER), *sides, strict=True)
        if before and after and before != after
    )


def _devices(side: Iterable[MeasuredCell]) -> set[str]:
    return {str(c.environment.get("cpu" if c.row["device"] == "cpu" else "gpu")) for c in side if c.real}


def _clusters(side: Iterable[MeasuredCell]) -> set[str]:
    return {str(cell.environment[CLUSTER]) for cell in side if not cell.real and CLUSTER in cell.environment}


def _listed(values: set[str] | None) -> str:
    return ", ".join(sorted(values or {"none"}))


def _facts(side: Iterable[Surroundings]) -> dict[str, set[str]]:
    facts: dict[str, set[str]] = {}
    for environment in side:
        for key, value in environment.items():
            facts.setdefault(key, set()).add(str(value) if value not in ("", None) else "none")
    return facts
