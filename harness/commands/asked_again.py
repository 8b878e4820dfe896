"""Stored cells asked again: simulated anew with other figures, to explain what was seen. Anybody may have written them.

Imports neither torch nor pandas.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from harness.core.deadlines import OutOfTime, ended_after
from harness.core.errors import HarnessError, words_of_error
from harness.core.text import Text
from harness.core.words import duration, shortened

if TYPE_CHECKING:
    from harness.core.cell import Cell
    from harness.engines.virtual.whatif import WhatIf

T = TypeVar("T")

ASKED_S = 20.0
"""Longest that one question may take; chosen: people wait for the answer, and ours take a second."""


def asked_again(cells: Sequence[Cell], plugins: Sequence[str], ask: Callable[[Sequence[WhatIf]], T]) -> T | Text:
    """Return what is found by simulating cells anew, or why nobody can say.

    Args:
        plugins: files whose strategies may run again.
        ask: finds it; called with the cells, whose figures can be changed.

    Raises:
        KeyboardInterrupt: a signal came.
    """
    from harness.api.host import load_host
    from harness.costs.cells import find_shape
    from harness.engines.processes.torch_errors import causes_of
    from harness.engines.virtual.whatif import what_if

    host = load_host(tuple(plugins))
    missing = next((cell.strategy for cell in cells if cell.strategy not in host.strategies), None)
    if missing is not None:
        return Text(f"{missing} is in no loaded plugin. Load it with --plugins.")
    began_s = time.monotonic()
    try:
        with ended_after(ASKED_S):
            return ask([what_if(cell, host, find_shape(cell, host)) for cell in cells])
    except (OutOfTime, HarnessError) as error:
        # A program passes on what interrupts it as its own error.
        if interrupt := next((each for each in causes_of(error) if isinstance(each, KeyboardInterrupt)), None):
            raise interrupt from None
        if time.monotonic() - began_s >= ASKED_S:
            return Text(f"Unknown: to simulate it again takes more than {duration(ASKED_S)}.")
        return Text(f"Unknown: {error}")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of values that do not fit
        words = shortened(f"{type(error).__name__}: {words_of_error(error)}", MOST_WORDS)
        return Text(f"Unknown: with what its record says it cannot be simulated again: {words}")


MOST_WORDS = 300
"""Characters of what an error says; chosen."""
