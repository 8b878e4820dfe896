"""What was measured or traced once, kept on disk: JSON by kind and content, for every later run on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.core.atomic_files import write_atomically
from harness.core.records import Json

SCHEMA = 1
"""Rises when stored content would no longer mean the same; everything is then measured and traced again."""


_OWN = "HARNESS_CACHE"


def folder() -> Path:
    """Return where entries are kept: $HARNESS_CACHE, else $XDG_CACHE_HOME/harness, else ~/.cache/harness."""
    if own := os.environ.get(_OWN):
        return Path(own)
    # The specification has relative paths ignored (XDG Base Directory Specification 0.8, section 2).
    shared = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache") / "harness"


@contextlib.contextmanager
def kept_in(place: str) -> Iterator[None]:
    """Keep entries in another folder for the duration of a block, in this process and in those that it starts."""
    before = os.environ.get(_OWN)
    os.environ[_OWN] = place
    try:
        yield
    finally:
        if before is None:
            del os.environ[_OWN]
        else:
            os.environ[_OWN] = before


def load(kind: str, key: Mapping[str, Any]) -> Json | None:
    """Return what was saved under this key, or None; what cannot be read counts as absent.

    Args:
        kind: what sort of entry, a plain word such as "shape" or "profile".
        key: everything that the content follows from; JSON throughout.
    """
    try:
        entry = json.loads(_path(kind, key).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(entry, dict) or entry.get("key") != _plain(key):
        return None
    content = entry.get("content")
    return content if isinstance(content, dict) else None


def save(kind: str, key: Mapping[str, object], content: Mapping[str, object]) -> bool:
    """Keep `content` under `key`; say whether that was possible.

    A folder that cannot be written to costs time on every run, never a result: nothing is raised for it.
    """
    path = _path(kind, key)
    written = json.dumps({"key": _plain(key), "content": content})
    try:
        write_atomically(path, written)
    except OSError:
        return False
    return True


def _path(kind: str, key: Mapping[str, object]) -> Path:
    canonical = json.dumps({"schema": SCHEMA, "key": key}, sort_keys=True, separators=(",", ":"))
    return folder() / kind / f"{hashlib.sha256(canonical.encode()).hexdigest()[:24]}.json"


def _plain(key: Mapping[str, object]) -> object:
    """Return the key as JSON gives it back: tuples as lists."""
    return json.loads(json.dumps(key))
