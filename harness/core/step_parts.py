"""What a step of training consists of, and what its parts are called in records."""

from __future__ import annotations

from enum import StrEnum


class Part(StrEnum):
    """What a device's time goes into.

    Attributes:
        column: of the tables of steps and cells, in seconds.
        OTHER: of a run as a whole only: what no span of a step holds. It is the host's own work (the program, rows,
            seeds, small messages) and, on the real engine, what lies between the steps.
    """

    column: str

    INPUT = "input"
    COMPUTE = "compute"
    COMMUNICATION = "communication"
    IDLE = "idle"
    OTHER = "other"

    def __new__(cls, value: str) -> Part:
        """Make a part that knows its column."""
        part = str.__new__(cls, value)
        part._value_ = value
        part.column = f"{value}_s"  # asked for with every word of a program: not put together each time
        return part


STEP_PARTS = (Part.INPUT, Part.COMPUTE, Part.COMMUNICATION, Part.IDLE)
"""Parts of a step on a device; what the host does beside them makes the step longer, and counts as OTHER of the run."""


PART_COLUMNS = tuple(part.column for part in STEP_PARTS)
