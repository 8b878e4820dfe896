"""Where things lie, so that no test counts the folders above it."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
SHARED = ROOT.parent / "shared"
"""Data sets and published tables; they lie beside the checkout, where there are any."""
