"""System blocks of cases.toml: which of them a row belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.commands.validate.published import TableRow, Tables, TomlTable

UNKNOWN_LINK_BYTES_PER_S = 12e9
"""Between devices whose link nobody states: a PCIe 3 slot after protocol; chosen, the least of data-centre machines."""

UNKNOWN_NODE_BYTES_PER_S = 12.5e9
"""Between machines whose network nobody states: one adapter of 100 Gbit/s; chosen, usual beside A100 and V100."""


INPUT_BOUND = "limited by their input"
SCORED_APART: Mapping[str, str] = {
    INPUT_BOUND: "input_bound",
    "of samples that differ in length": "uneven_samples",
    "timed with their input": "input_included",
    "on machines of which something is assumed": "assumed",
}
"""Rows that are also scored apart, by the key of a system block that says so: of models, or of all where it is true."""


def apart_of(block: TomlTable, model: str) -> tuple[str, ...]:
    """Return as which rows those of a block and model are also scored apart."""
    models = ("input_bound", "uneven_samples")
    return tuple(
        words
        for words, key in SCORED_APART.items()
        if (model in block.get(key, ()) if key in models else block.get(key))
    )


class Unpredictable(Exception):
    """A row cannot be predicted from what the directory holds; the message says what is missing."""


def block_of(published: Tables, row: TableRow) -> TomlTable:
    """Return the system block that a row belongs to: the first whose filters all match.

    Raises:
        Unpredictable: none matches.
    """
    filters = {"series": row.block_series, "models": row.model, "strategies": row.strategy}
    for block in published.cases[row.case].get("systems", ()):
        if all(name not in block or value in block[name] for name, value in filters.items()):
            return dict(block)
    raise Unpredictable(f"no system block of case {row.case} matches the row")


def first_match(entries: Sequence[TomlTable], row: TableRow) -> TomlTable | None:
    """Return the first entry of a list in a block whose conditions all match the row."""
    for entry in entries:
        wanted = (
            ("models" not in entry or row.model in entry["models"])
            and ("series" not in entry or row.block_series in _listed(entry["series"]))
            and ("gpus" not in entry or row.gpus == entry["gpus"])
            and ("microbatches" not in entry or row.microbatches == entry["microbatches"])
        )
        if wanted:
            return entry
    return None


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
