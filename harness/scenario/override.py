"""`--set KEY=VALUE` on a scenario that was read, before anything in it is judged."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any

from harness.core.errors import MOST_CHARACTERS, unknown
from harness.core.outside_files import DEEPEST, refusal
from harness.core.records import Json
from harness.core.words import shortened
from harness.scenario.mistakes import Source
from harness.scenario.schema import WorkloadSection

EXCLUSIVE = (
    ("sweep.batch_size", "sweep.global_batch_size"),
    ("sweep.micro_batch_size", "sweep.microbatches"),
    ("sweep.seeds", "sweep.seed"),
    ("goal.target_accuracy", "goal.target_loss"),
)
"""Of each pair one may be written, and setting one takes the other away."""

WITH_OPTIONS = ("workload.model", "workload.dataset", "workload.optimizer", "workload.lr_schedule")
"""Keys whose value is a name with options, each of which has a path too: workload.optimizer.momentum."""

TABLES = ("cluster.servers", "workload.loading", "workload.metric", "goal.target")
"""Keys whose value is a table of fixed keys, each of which has a path too: cluster.servers.count."""

_OUTSIDE_BRACKETS = re.compile(r",(?![^\[{]*[\]}])")


def parse_value(text: str) -> object:
    """Read VALUE: TOML, or words separated by commas, each of which is TOML or plain text."""
    value = _toml(text)
    if value is not None:
        return value
    parts = [part.strip() for part in _OUTSIDE_BRACKETS.split(text)]
    words = [part if (value := _toml(part)) is None else value for part in parts if part]
    return words[0] if len(words) == 1 and "," not in text else words


def _toml(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else None
    except (ValueError, RecursionError):  # what is no TOML, or of more digits or depth than can be read
        return None


def resolve_key(key: str, known: Iterable[str]) -> tuple[str | None, str]:
    """Find the path that KEY means: a whole path, or the last word of exactly one.

    Returns:
        The path and nothing, or None and what is wrong with the key.
    """
    paths = list(known)
    if key in paths:
        return key, ""
    ends = [path for path in paths if path.rsplit(".", 1)[-1] == key]
    if len(ends) == 1:
        return ends[0], ""
    if ends:
        return None, f"{key} matches several keys; write one of {', '.join(ends)}"
    forms = [*paths, *(path.rsplit(".", 1)[-1] for path in paths)]
    return None, unknown("no such key", key, forms, "Write its path, such as sweep.gpus, or the last word of the path")


def apply_sets(content: Json, sets: Sequence[str], known: Iterable[str], source: Source) -> None:
    """Write each `KEY=VALUE` into `content`; what cannot be understood becomes a problem of `source`."""
    paths = list(known)
    for written in sets:
        key, equals, value = written.partition("=")
        if not equals or not key.strip() or not value.strip():
            source.problem((), f"--set {shortened(written)}: write KEY=VALUE, such as --set gpus=1,2")
            continue
        path, wrong = _open_path(key.strip(), paths)
        if path is None:
            source.problem((), f"--set {shortened(written)}: {wrong}")
        elif refused := refusal(parsed := parse_value(value.strip()), MOST_CHARACTERS):
            source.problem((), f"--set {shortened(written)}: {refused.why}")
        else:
            # An option may itself be a list, so only a list without brackets sweeps it.
            one = path.rpartition(".")[0] in WITH_OPTIONS and value.strip().startswith("[")
            _write(content, path, parsed, written, source, one)


def _open_path(key: str, paths: list[str]) -> tuple[str | None, str]:
    """Allow a known path followed by an option's name: workload.optimizer.momentum, strategy.NAME.option."""
    if key.count(".") >= DEEPEST:
        return None, f"a key of more than {DEEPEST} parts"
    parent = key.rpartition(".")[0]
    if parent in (*WITH_OPTIONS, *TABLES) or (key.startswith("strategy.") and key.count(".") >= 2):
        return key, ""
    return resolve_key(key, paths)


def _write(content: Json, path: str, value: object, written: str, source: Source, one: bool) -> None:
    for pair in EXCLUSIVE:
        if path in pair:
            for other in pair:
                drop(content, other)
    drop_swept(content, path)
    swept = isinstance(value, list) and not one and not path.startswith(("sweep.", "strategy."))
    if swept and path != "plugins":
        if isinstance(content.setdefault("sweep", {}), dict):
            content["sweep"][path] = value
        source.sets["sweep", path] = written
    else:
        put(content, path, value)
        source.sets[tuple(path.split("."))] = written


def put(content: Json, path: str, value: Any) -> None:
    """Write `value` at a dotted path; a name on the way becomes a table with that name."""
    *tables, last = path.split(".")
    for key in tables:
        inner = content.get(key, _default_name(path, key))
        # Copied, not changed in place: swept settings share everything that they do not change.
        inner = dict(inner) if isinstance(inner, dict) else {"name": inner}
        content[key] = inner
        content = inner
    content[last] = value


def _default_name(path: str, key: str) -> object:
    """Return the name that an option belongs to where the scenario leaves the name to the default."""
    named = path.rpartition(".")[0] in WITH_OPTIONS and path.split(".")[1] == key
    return WorkloadSection.model_fields[key].default if named else {}


def drop(content: Json, path: str) -> None:
    """Take the key at a dotted path away, if it is there."""
    *tables, last = path.split(".")
    for key in tables:
        inner = content.get(key)
        if not isinstance(inner, dict):
            return
        content = inner
    content.pop(last, None)


def drop_swept(content: Json, path: str) -> None:
    """Take a key away from [sweep], where it stands by its path, quoted or not."""
    if path.startswith("sweep."):
        return
    drop(content, f"sweep.{path}")
    sweep = content.get("sweep")
    if isinstance(sweep, dict):
        sweep.pop(path, None)
