"""Rows of layouts.csv: configurations of LLM training that ran, with their models' architectures."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class LayoutRow:
    """One configuration of layouts.csv, as it stands there.

    Attributes:
        said: its columns.
        model: its architecture, of models.toml.
    """

    said: tuple[tuple[str, str], ...]
    model: tuple[tuple[str, object], ...]

    def __getitem__(self, column: str) -> str:
        return self._columns[column]

    @cached_property
    def _columns(self) -> dict[str, str]:
        return dict(self.said)

    @cached_property
    def architecture(self) -> dict[str, object]:
        """What models.toml says of its model."""
        return dict(self.model)

    @property
    def name(self) -> str:
        """What tells it from its neighbours, in words."""
        degrees = " ".join(f"{key} {self[key]}" for key in ("dp", "tp", "pp"))
        return f"{degrees} micro-batch {self['micro_batch']} zero {self['zero']}"


def layout_rows(folder: Path) -> Iterator[tuple[int, LayoutRow]]:
    """Yield (line, row) of every configuration that ran and whose memory was measured.

    Raises:
        KeyError: a model is not in models.toml, or a column is missing.
    """
    models = tomllib.loads((folder / "models.toml").read_text(encoding="utf-8"))
    with (folder / "layouts.csv").open(newline="", encoding="utf-8") as stream:
        for line, said in enumerate(csv.DictReader(stream), start=2):
            if said["status"] == "ok" and said["scored"] == "yes" and said["peak_memory_gb"]:
                yield line, LayoutRow(tuple(said.items()), tuple(models[said["model"]].items()))
