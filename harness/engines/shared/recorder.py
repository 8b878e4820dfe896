"""Keep the spans of the first steps of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.core.span import Span

MOST_SPANS = 200_000
"""Of one process's recording; chosen: about 30 MB in the file, which a browser still scrolls through."""


@dataclass
class Recorder:
    """Keeps spans until enough steps have been seen.

    Attributes:
        steps: steps of a worker from the first one on.
    """

    steps: int
    spans: list[Span] = field(default_factory=list)

    def wants(self, step: int | None) -> bool:
        """Whether a span of this step is kept; what has no step, as at a server, always is."""
        return (step is None or step < self.steps) and len(self.spans) < MOST_SPANS

    def add(self, span: Span) -> None:
        """Keep a span, if it lasted at all."""
        if span.end_s > span.start_s and self.wants(span.step):
            self.spans.append(span)

    def carve(self, begin_s: float, end_s: float, category: str) -> None:
        """Take a time out of the spans of a category that were kept last."""
        for place in range(len(self.spans) - 1, -1, -1):
            span = self.spans[place]
            if span.end_s <= begin_s and span.category == category:
                return
            if span.category == category and span.start_s < end_s:
                left = span._replace(end_s=min(span.end_s, begin_s))
                right = span._replace(start_s=max(span.start_s, end_s))
                self.spans[place : place + 1] = [part for part in (left, right) if part.end_s > part.start_s]
