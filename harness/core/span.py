"""Something that occupied a stream of a device or server: what traces are made of."""

from __future__ import annotations

from typing import NamedTuple

COMPUTE, COMMUNICATION = "compute", "communication"


class Span(NamedTuple):
    """Something that occupied a stream.

    Attributes:
        process: such as "worker 1", "rank 3" or "server".
        stream: "compute" or "communication".
        category: which part of a step it is: input, compute, communication or idle.
        step: of the worker; None at a server.
    """

    process: str
    stream: str
    name: str
    category: str
    start_s: float
    end_s: float
    step: int | None
