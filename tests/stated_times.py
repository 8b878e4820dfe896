"""How long a bundled scenario says that it takes, and whether it does."""

from __future__ import annotations

import re

UNITS = {"second": 1, "minute": 60}


def stated_seconds(description: str) -> float:
    """Read "About 2 minutes" at the end of a description; "At most" where the scenario ends itself."""
    found = re.search(r"(?:About|At most) (\d+) (second|minute)s?\b", description)
    assert found, description
    return int(found.group(1)) * UNITS[found.group(2)]


def assert_as_stated(description: str, seconds: float) -> None:
    """Hold a run to what the description says, within a factor of 3."""
    stated = stated_seconds(description)
    assert stated / 3 <= seconds <= 3 * stated
