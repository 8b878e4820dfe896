"""What a report asks of the virtual engine, bound to the plugins whose strategies may run again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.report.scenario_results import Simulator


def simulator(plugins: Sequence[str] = ()) -> Simulator:
    """Return what simulates stored cells again.

    Args:
        plugins: files whose strategies may be run again.
    """
    from harness.commands.explain_text import accounts_of, scaling_of
    from harness.commands.turning_points import flips_of
    from harness.report.scenario_results import Simulator

    return Simulator(
        partial(accounts_of, plugins=plugins), partial(scaling_of, plugins=plugins), partial(flips_of, plugins=plugins)
    )
