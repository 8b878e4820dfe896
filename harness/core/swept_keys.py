"""What a key that is swept by its path asks about: another problem, another environment, or a choice to be made."""

from __future__ import annotations

PROBLEMS = ("workload.model", "workload.dataset", "workload.loss", "workload.metric", "goal.")
"""How keys begin that make another problem of it: what is trained, on what, to where."""

ENVIRONMENTS = ("cluster.", "faults.", "limits.", "cost.", "measure.", "device")
"""How keys begin that are found rather than chosen: links, devices, nodes, prices, faults, limits."""


def is_problem(key: str) -> bool:
    """Say whether values of a key are different problems, which no strategy is ranked across."""
    return key.startswith(PROBLEMS)


def is_environment(key: str) -> bool:
    """Say whether a key's value is found rather than chosen: then each has an answer of its own."""
    return key.startswith(ENVIRONMENTS)
