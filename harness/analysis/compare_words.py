"""A comparison in words: for a terminal, as Markdown, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from harness.analysis.compared import Change, Comparison, Detectable, Finding, Quantity
from harness.analysis.point_names import devices_in_words, micro_batch
from harness.analysis.points import Row, settings_of
from harness.core.words import change_in_percent, counted, duration, escaped

WORDS = {
    "regression": "REGRESSION",
    "implausible": "TOO GOOD",
    "undecided": "undecided",
    "improvement": "improvement",
}

_HOW_IMPLAUSIBLE = "check that the same work is still done"


def verdict(found: Comparison) -> str:
    """Return the verdict in one sentence."""
    counts = {kind: sum(f.kind == kind for f in found.findings) for kind in WORDS}
    compared = f"{counted(found.cells - found.copies, 'cell')} compared"
    if not counts["regression"]:
        extra = f", {counted(counts['implausible'], 'implausible improvement')}" if counts["implausible"] else ""
        return f"No regression: {compared}, {found.exact} exact and {found.timed} timed comparisons{extra}."
    points = dict.fromkeys(where(f.row) for f in found.regressions)
    return f"{counted(counts['regression'], 'regression')} in {counted(len(points), 'point')}: {compared}."


def in_text(found: Comparison, names: tuple[str, str] = ("BASE", "NEW")) -> str:
    """Return the comparison as lines for a terminal, the verdict last."""
    lines = [f"{names[0]} against {names[1]}: {in_common(found)}"]
    lines += [f"{WORDS[finding.kind]}: {sentence(finding)}" for finding in found.findings]
    lines += _around(found)
    return "\n".join([*lines, verdict(found)])


def in_markdown(found: Comparison, names: tuple[str, str] = ("BASE", "NEW")) -> str:
    """Return the comparison as Markdown, the verdict first; nothing in it is taken for markup."""
    lines = [f"**{escaped(verdict(found))}**", ""]
    if found.findings:
        lines += ["| | point | quantity | before | after | change | where |", "|---|---|---|---|---|---|---|"]
        lines += ["| " + " | ".join(map(escaped, _cells(finding))) + " |" for finding in found.findings] + [""]
    about = [f"{names[0]} against {names[1]}: {in_common(found)}", *_around(found)]
    return "\n".join([*lines, *(f"- {escaped(line)}" for line in about)]) + "\n"


def in_json(found: Comparison, names: tuple[str, str] = ("BASE", "NEW")) -> str:
    """Return the comparison as JSON."""
    content = {
        "base": names[0],
        "new": names[1],
        "verdict": verdict(found),
        "regression": bool(found.regressions),
        "cells": found.cells,
        "copies": found.copies,
        "only_new": found.only_new,
        "findings": [_finding(finding) for finding in found.findings],
        "changes": [_as_data(change) for change in found.changes],
        "min_effect": found.min_effect,
        "detectable": [
            {"point": where(d.row), "quantity": d.quantity.column, "factor": d.factor} for d in found.detectable
        ],
        "changed": [{"what": what, "base": before, "new": after} for what, before, after in found.changed],
        "notes": list(found.notes),
    }
    return json.dumps(content, indent=1)


def _finding(finding: Finding) -> dict[str, Any]:
    interval = [finding.interval.low, finding.interval.high] if finding.interval else None
    return {
        "kind": finding.kind,
        "point": where(finding.row),
        "quantity": finding.quantity.column,
        "base": finding.base,
        "new": finding.new,
        "change": finding.change,
        "interval": interval,
        "coverage": finding.interval.coverage if finding.interval else None,
        "runs": list(finding.runs),
        "where": finding.where,
        "detail": finding.detail,
        "sentence": sentence(finding),
    }


def _as_data(change: Change) -> dict[str, Any]:
    return {
        "point": where(change.row),
        "quantity": change.quantity.column,
        "base": change.base,
        "new": change.new,
        "change": change.ratio,
        "interval": [change.interval.low, change.interval.high] if change.interval else None,
        "kind": change.kind,
        "parts": {"base": dict(change.parts[0]), "new": dict(change.parts[1])},
    }


# -- sentences ---------------------------------------------------------------------------------------------------------


def sentence(finding: Finding) -> str:
    """Return one finding in a sentence."""
    if finding.quantity.column == "status":
        return f"{where(finding.row)}: {finding.base} before, {finding.new} now ({finding.detail})"
    before, after = (value_in_words(finding.quantity, value) for value in (finding.base, finding.new))
    parts = [f"{where(finding.row)}: {finding.quantity.name} {after}, {before} before", _change(finding)]
    parts += [f"most of it is {finding.where}"] if finding.where else []
    parts += [finding.detail] if finding.detail else []
    parts += [_HOW_IMPLAUSIBLE] if finding.kind == "implausible" else []
    return "; ".join(filter(None, parts))


def where(row: Row) -> str:
    """Return such as "sync-ddp on 2 CPU cores, global batch 32, learning rate 0.1"."""
    return ", ".join(_traits(row).values())


def short_names(rows: Sequence[Row]) -> list[str]:
    """Return what tells points from each other: strategy, devices, and of the rest only what they differ in."""
    traits = [_traits(row) for row in rows]
    values: dict[str, set[str]] = {}
    for known in traits:
        for key, text in known.items():
            values.setdefault(key, set()).add(text)
    return [", ".join(t for key, t in known.items() if key == "point" or len(values[key]) > 1) for known in traits]


def _traits(row: Row) -> dict[str, str]:
    """Return what a point is known by, in words; its scenario where several were compared."""
    known = {"scenario": str(row.get("scenario") or ""), "point": f"{row['strategy']} on {devices_in_words(row)}"}
    known |= {"batch": f"global batch {row['global_batch_size']}", "micro-batch": micro_batch(row)}
    known |= {"rate": f"learning rate {row['learning_rate']:g}"}
    known |= {f"setting {key}": f"{key} {value}" for key, value in settings_of(row).items()}
    return {key: text for key, text in known.items() if text}


def value_in_words(quantity: Quantity, value: float) -> str:
    """Write a value with its unit."""
    if quantity.unit == "s":
        return duration(value)
    return f"{value:,.6g}" + (f" {quantity.unit}" if quantity.unit else "")


def _change(finding: Finding) -> str:
    if finding.change is None:
        return ""
    interval = interval_in_words(finding)
    return change_in_percent(finding.change) + (f" ({interval})" if interval else "")


def interval_in_words(finding: Finding) -> str:
    """Return the interval of a change, its coverage and the runs behind it; "" where it is exact."""
    if finding.interval is None:
        return ""
    low, high = change_in_percent(finding.interval.low), change_in_percent(finding.interval.high)
    base, new = finding.runs
    runs = counted(base, "run") if base == new else f"{base} and {counted(new, 'run')}"
    return f"{low} to {high} at {100 * finding.interval.coverage:.4g} %; {runs} on either side"


def _cells(finding: Finding) -> Sequence[str]:
    if finding.quantity.column == "status":
        return WORDS[finding.kind], where(finding.row), "status", finding.base, finding.new, finding.detail, ""
    before, after = (value_in_words(finding.quantity, value) for value in (finding.base, finding.new))
    last = finding.where or finding.detail
    return WORDS[finding.kind], where(finding.row), finding.quantity.name, before, after, _change(finding), last


def in_common(found: Comparison) -> str:
    """Say how many cells were there to compare."""
    parts = [f"{counted(found.cells, 'cell')} in common"]
    parts += [f"{found.copies} of them the same measurement on both sides, not compared"] if found.copies else []
    parts += [f"{counted(found.only_new, 'cell')} in NEW only"] if found.only_new else []
    return ", ".join(parts)


def _around(found: Comparison) -> list[str]:
    lines = [could_detect(found.detectable)] if found.detectable else []
    lines += [f"changed: {what}: {before} before, {after} now" for what, before, after in found.changed]
    notes = [noisy_in_words(found), *found.notes]
    return [*lines, *(f"note: {note}" for note in notes if note)]


def noisy_in_words(found: Comparison) -> str:
    """Say how many cells ran beside other processes, which makes times longer; empty where none did."""
    base, new = (str(count) if count else "none" for count in found.noisy)
    if not any(found.noisy):
        return ""
    ran = f"{new} of the {found.cells - found.copies} cells of NEW and {base} of BASE"
    return f"{ran} ran while other processes used the machine"


def could_detect(detectable: Sequence[Detectable]) -> str:
    """Say what growth would have been found in four cases of five, quantity by quantity: at best and at worst."""
    parts = []
    for name in dict.fromkeys(d.quantity.name for d in detectable):
        known = sorted((d for d in detectable if d.quantity.name == name), key=lambda d: d.factor)
        least, most = known[0], known[-1]
        text = f"{name} from {change_in_percent(least.factor)} on"
        if most.factor > 1.01 * least.factor:
            text += f" (at worst from {change_in_percent(most.factor)} on: {where(most.row)})"
        parts.append(text)
    return f"could have detected: {'; '.join(parts)}"
