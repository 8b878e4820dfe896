"""Samples in columns: 20 bytes each, so that an hour at 20 ms stays small enough to hand back through a pipe."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from harness.core.clock_reasons import REASONS, clock_reasons_in_words
from harness.engines.telemetry.probe import Sample


class Series(NamedTuple):
    """What the samples of one series have in common."""

    source: str
    device: str
    quantity: str
    unit: str


class Columns:
    """Samples in order of time: three arrays, and the words once per series."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self.series: list[Series] = []
        self.series_index = array("I")
        self.time_s = array("d")
        self.value = array("d")
        self._index_of: dict[Series, int] = {}
        self.extend(samples)

    def extend(self, samples: Iterable[Sample]) -> None:
        """Append samples."""
        for sample in samples:
            self.series_index.append(self._index(Series(sample.source, sample.device, sample.quantity, sample.unit)))
            self.time_s.append(sample.time_s)
            self.value.append(sample.value)

    def _index(self, series: Series) -> int:
        """Return the position of a series, entering it when it is new."""
        if series not in self._index_of:
            self._index_of[series] = len(self.series)
            self.series.append(series)
        return self._index_of[series]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.time_s)

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples in the order in which they were taken."""
        for index, time_s, value in zip(self.series_index, self.time_s, self.value, strict=True):
            source, device, quantity, unit = self.series[index]
            yield Sample(time_s, source, device, quantity, value, unit)

    def table(self, origin_s: float = 0.0) -> dict[str, list[float] | list[str]]:
        """Return one list per column of telemetry.parquet, in its order.

        Args:
            origin_s: what becomes time 0, on the clock of `time.monotonic`.
        """
        words = [self.series[index] for index in self.series_index]
        return {
            "time_s": [time_s - origin_s for time_s in self.time_s],
            "source": [series.source for series in words],
            "device": [series.device for series in words],
            "quantity": [series.quantity for series in words],
            "value": list(self.value),
            "unit": [series.unit for series in words],
            "words": [
                ", ".join(clock_reasons_in_words(series.quantity, int(value))) if series.quantity in REASONS else ""
                for series, value in zip(words, self.value, strict=True)
            ],
        }
