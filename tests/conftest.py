"""Settings of the whole session, made before any process starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from places import SHARED
from stub_driver import build_stub

# Two cores and many processes: more threads than cores makes everything twenty times slower.
os.environ["OMP_NUM_THREADS"] = "1"
# What was measured or traced before must not decide a test, nor a test what the user's machine remembers.
_CACHE = tempfile.TemporaryDirectory(prefix="harness-cache-")
os.environ["HARNESS_CACHE"] = _CACHE.name
if (DATA := SHARED / "data").is_dir():
    os.environ.setdefault("HARNESS_DATA", str(DATA))
# An example's time says how busy the machine is, and the first one imports what its test needs.
# The same examples in every run: a gate that draws new ones fails on changes that broke nothing. `make fuzz` draws.
settings.register_profile("harness", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=2000)
settings.load_profile("harness")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the golden texts be written anew."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/ as the texts read now")
    parser.addoption("--all-attacks", action="store_true", help="attack as often as before a change is closed")


@pytest.fixture(scope="session")
def attacks(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """Return a function that chooses how often to attack: so often in every run, or so often with --all-attacks."""
    every = request.config.getoption("--all-attacks")
    return lambda short, long: long if every else short


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a libnvidia-ml.so.1 that is the stub."""
    return build_stub(tmp_path_factory.mktemp("driver"))
