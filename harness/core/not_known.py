"""What stands where something could not be foretold: a prediction is missing then, and no cell fails for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from harness.core.text import Text


class Hurdle(StrEnum):
    """What did not work.

    Attributes:
        LOAD: the data could not be loaded, which alone tells what a sample is.
        BUILD: the model could not be made.
        STEP: a forward and a backward pass failed, with tensors that have no values and with real ones.
        PROCESS: the process that looked died, or took too long.
        COUNT: what was found could not be added up, such as the states of an optimizer that nobody knows.
    """

    LOAD = "load"
    BUILD = "build"
    STEP = "step"
    PROCESS = "process"
    COUNT = "count"


@dataclass(frozen=True)
class NotKnown:
    """Why something is not known.

    Attributes:
        reason: what was raised, for people.
    """

    hurdle: Hurdle
    reason: Text
