"""Results whose runs took turns with others: beside them stands with which.

results/<scenario>/interleaved.json   {"with": the other results, relative to these}
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from harness.core.atomic_files import write_atomically
from harness.results.beside_records import read_beside

INTERLEAVED_FILE = "interleaved.json"


def mark_interleaved(folder: Path, other: Path) -> None:
    """Say that the runs of a scenario's results took turns with those of others."""
    content = {"with": os.path.relpath(other.resolve(), folder.resolve())}
    write_atomically(folder / INTERLEAVED_FILE, json.dumps(content) + "\n")


def took_turns(folder: Path, other: Path) -> bool:
    """Say whether the runs in one folder took turns with those of the other."""
    try:
        named = read_beside(folder / INTERLEAVED_FILE, folder).get("with")
    except (OSError, ValueError):
        return False
    return isinstance(named, str) and (folder.resolve() / named).resolve() == other.resolve()
