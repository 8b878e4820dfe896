"""axe-core, which finds what people with disabilities could not use: fetched into the test environment, or absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from chromium import Browser
from places import ROOT

VARIABLE = "HARNESS_AXE"
"""Names axe.min.js where it lies elsewhere than `make` puts it."""

_CANDIDATES = (os.environ.get(VARIABLE), ROOT / ".venv" / "axe" / "node_modules" / "axe-core" / "axe.min.js")
AXE = next((Path(path) for path in _CANDIDATES if path and Path(path).is_file()), None)

RUN = """axe.run(document, {resultTypes: ['violations']}).then(found => found.violations
    .filter(item => ['serious', 'critical'].includes(item.impact))
    .map(item => [item.id, item.help, item.nodes.slice(0, 3).map(node => node.html.slice(0, 200))]))"""


def serious_violations(browser: Browser) -> list[list[Any]]:
    """Return what axe-core calls serious or critical on the page as it stands: rule, meaning and examples."""
    assert AXE is not None, "tests that need axe-core skip where it is absent"
    browser.run(AXE.read_text(encoding="utf-8") + ";undefined")
    return list(browser.run(RUN))
