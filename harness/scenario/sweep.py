"""The axes of a sweep: every list and range in [sweep] and [strategy.NAME], each value judged where it stands."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.core.cell import Named
from harness.core.errors import nearest, unknown
from harness.core.records import Json, to_json
from harness.core.words import listed, show
from harness.scenario.mistakes import Source, key_problems, validated
from harness.scenario.optimizer_options import OPTIMIZERS
from harness.scenario.override import EXCLUSIVE, TABLES, WITH_OPTIONS, resolve_key
from harness.scenario.schema import NOT_SWEPT, SweepSection, key_paths, sections
from harness.scenario.settings import builtin, refuse_name
from harness.scenario.synonyms import read_as_registered
from harness.scenario.toml_lines import Path

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.api.strategy import Strategy

Values = dict[str, tuple[Any, ...]]
"""By key, the values that it is swept over, or left out with."""

Lists = dict[str, list[Any]]
"""By key of [sweep], the values that were read."""

MOST_CELLS = 100_000
"""Chosen: planning this many takes a minute, running them months."""

GLOBAL_BATCH_BY_DEFAULT = 32
_RANGE = {"from", "to", "points"}


@dataclass(frozen=True)
class Variant:
    """A strategy with one choice of its options, and the optimizer where [strategy.NAME] overrides it."""

    strategy: str
    options: Json
    optimizer: Named | None = None


@dataclass(frozen=True)
class Axes:
    """The lists whose product is the plan; None or (None,) where a default depends on the machine or the model.

    Attributes:
        batch_key: "batch_size" or "global_batch_size", whichever the scenario gives.
        micro_key: "micro_batch_size" or "microbatches".
        paths: keys swept by their path, with the values as written.
        exclude: partial points, by full key, each key with the values that are left out.
    """

    variants: tuple[Variant, ...]
    gpus: tuple[int, ...] | None
    batch_key: str
    batches: tuple[int | str, ...]
    micro_key: str
    micros: tuple[int | None, ...]
    learning_rates: tuple[float | None, ...]
    lr_scalings: tuple[str, ...]
    seeds: Sequence[int]
    paths: Values
    exclude: tuple[Values, ...]
    notes: tuple[str, ...] = ()


def read_axes(content: Json, host: Host, source: Source) -> Axes:
    """Return the axes of a scenario; where problems were added to `source`, of what holds in it."""
    synonyms = read_as_registered(content, host, source)
    fixed, paths = _split(content, source)
    strategies = fixed.pop("strategy", None)
    if strategies is None:
        source.problem(
            ("sweep", "strategy"), f"required: the names of one or more strategies, such as {show(_first(host))}"
        )
    variants, notes = _variants(strategies, content.get("strategy", {}), host, source)
    exclude = fixed.pop("exclude", [])
    lists = {key: _checked(key, raw, source) for key, raw in fixed.items()}
    for one, other in EXCLUSIVE:
        if _last(one) in lists and _last(other) in lists:
            source.problem(("sweep", _last(other)), f"give {_last(one)} or {_last(other)}, not both")
    swept = ["strategy", *lists, *paths]
    excluded = _exclusions(exclude, swept, host, source)
    return _axes(lists, variants, paths, _seeds(fixed, lists), excluded, [*synonyms, *notes])


def _axes(
    lists: Lists,
    variants: list[Variant],
    paths: Values,
    seeds: Sequence[int],
    exclude: list[Values],
    notes: list[str],
) -> Axes:
    batch_key = "batch_size" if "batch_size" in lists else "global_batch_size"
    micro_key = "microbatches" if "microbatches" in lists else "micro_batch_size"
    return Axes(
        variants=tuple(variants),
        gpus=tuple(lists["gpus"]) if "gpus" in lists else None,
        batch_key=batch_key,
        batches=tuple(lists.get(batch_key, [GLOBAL_BATCH_BY_DEFAULT])),
        micro_key=micro_key,
        micros=tuple(lists.get(micro_key, [None])),
        learning_rates=tuple(lists.get("learning_rate", [None])),
        lr_scalings=tuple(lists.get("lr_scaling", ["none"])),
        seeds=seeds,
        paths=paths,
        exclude=tuple(exclude),
        notes=tuple(notes),
    )


def _first(host: Host) -> list[str]:
    return [name for name in ("single", "sync-ddp") if name in host.strategies] or sorted(host.strategies)[:2]


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _split(content: Json, source: Source) -> tuple[Json, Values]:
    """Separate the keys that [sweep] has of its own from the ones swept by their path."""
    sweep = content.get("sweep", {})
    if not isinstance(sweep, dict):
        source.problem(("sweep",), "a table, [sweep], with at least a strategy", sweep)
        return {}, {}
    fixed = {key: value for key, value in sweep.items() if key in SweepSection.model_fields}
    paths: Values = {}
    for path, at, raw in _other_keys({key: value for key, value in sweep.items() if key not in fixed}):
        if path.startswith("strategy."):
            _move_to_strategy(content, path, at, raw, source)
        elif _may_be_swept(path, at, source):
            paths[path] = tuple(value for value, _ in values_of(raw, at, source))
    return fixed, paths


def _other_keys(table: Mapping[str, object]) -> Iterator[tuple[str, Path, object]]:
    """Yield keys swept by their path: `"workload.precision" = [...]`, or the same without quotes, as TOML nests it."""
    tables = {"strategy", *sections()}
    for key, raw in table.items():
        if key not in tables or not isinstance(raw, dict):
            yield key, ("sweep", key), raw
            continue
        for inner, value in raw.items():
            if key == "strategy" and isinstance(value, dict):
                yield from ((f"strategy.{inner}.{k}", ("sweep", key, inner, k), v) for k, v in value.items())
            else:
                yield f"{key}.{inner}", ("sweep", key, inner), value


def _may_be_swept(path: str, at: Path, source: Source) -> bool:
    known = [key for key in key_paths() if not key.startswith(NOT_SWEPT)]
    parent = path.rpartition(".")[0]
    if path in known or parent in (*WITH_OPTIONS, *TABLES):
        return True
    if path in key_paths():
        source.problem(at, "cannot be swept")
        return False
    meant, _ = resolve_key(path, known)
    hint = f'; did you mean "{meant}"?' if meant else nearest(path, [*SweepSection.model_fields, *known])
    own = ", ".join(SweepSection.model_fields)
    keys = f"Keys here: {own}. Any other key may stand here too, by its path in quotes"
    source.problem(at, f"no such key{hint or '.'} {keys}")
    return False


def _move_to_strategy(content: Json, path: str, at: Path, raw: object, source: Source) -> None:
    _, name, *rest = path.split(".", 2)
    tables = content.get("strategy", {})
    if not rest or not isinstance(tables, dict) or not isinstance(tables.get(name, {}), dict):
        source.problem(at, 'name the option too: "strategy.NAME.option" = [...]')
        return
    content["strategy"] = {**tables, name: {**tables.get(name, {}), rest[0]: raw}}
    moved = ("strategy", name, rest[0])
    for key, line in list(source.lines.items()):
        if key[: len(at)] == at:
            source.lines[(*moved, *key[len(at) :])] = line


def values_of(raw: object, at: Path, source: Source, integral: bool = True) -> list[tuple[object, Path]]:
    """Return the values of a list, a geometric range, or a single value, each with the path it stands at.

    With `integral`, a range between two whole numbers is rounded to whole numbers.
    """
    if isinstance(raw, dict) and (_RANGE & set(raw)) and "name" not in raw:
        return [(value, at) for value in _range(raw, at, source, integral)]
    if not isinstance(raw, list):
        return [(raw, at)]
    if not raw:
        source.problem(at, "the list is empty; write at least one value", raw)
    for place in _repeated(map(_as_text, raw)):
        source.problem((*at, place), "is in the list twice; remove one", raw[place])
    return [(value, (*at, place)) for place, value in enumerate(raw)]


def _as_text(value: object) -> str:
    """Return a text that two values share if they are equal and of one type; 1, 1.0 and true are of three."""
    return json.dumps(value, sort_keys=True, default=repr)


def _repeated(values: Iterable[str]) -> Iterator[int]:
    """Yield the places of values that stood before."""
    seen: set[str] = set()
    for place, value in enumerate(values):
        if value in seen:
            yield place
        seen.add(value)


def _range(raw: Json, at: Path, source: Source, integral: bool) -> list[float | int]:
    form = "a range, such as { from = 1e-3, to = 1.0, points = 7 }: both ends above 0, at least 2 points"
    low, high, points = raw.get("from"), raw.get("to"), raw.get("points")
    numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) and end > 0 for end in (low, high))
    if set(raw) != _RANGE or not numbers or type(points) is not int or not 2 <= points <= 1000 or low == high:
        source.problem(at, form, raw)
        return []
    assert isinstance(low, (int, float))
    assert isinstance(high, (int, float))
    inner = [low * (high / low) ** (k / (points - 1)) for k in range(1, points - 1)]
    if integral and isinstance(low, int) and isinstance(high, int):
        values: list[float | int] = [low, *(round(value) for value in inner), high]
        if len(set(values)) < points:
            source.problem(at, f"{points} points between {low} and {high} would repeat values; ask for fewer", raw)
        return values
    # Six digits are more than a rate needs, and keep what the tables show equal to what is run.
    return [float(low), *(float(f"{value:.6g}") for value in inner), float(high)]


def _checked(key: str, raw: object, source: Source) -> list[object]:
    """Return the values of one of [sweep]'s own keys, as its type says; those that do not hold become problems."""
    values = []
    # As a list, `seeds` names them and 0 is one of them; as a number it counts them.
    kind = "seed" if key == "seeds" and not isinstance(raw, int) else key
    for value, at in values_of(raw, ("sweep", key), source, integral=key != "learning_rate"):
        content = {"strategy": "any", kind: value}
        problems = key_problems(SweepSection, kind, content)
        for inner, allowed, got in problems:
            source.problem((*at, *inner), allowed, got)
        if not problems:
            values.append(getattr(SweepSection.model_validate(content), kind))
    return values


def _seeds(fixed: Json, lists: Lists) -> Sequence[int]:
    """Return the seeds: `seeds = 5` counts them, a list names them, `seed = 7` is one of them."""
    if isinstance(fixed.get("seeds"), int):
        return range(next(iter(lists["seeds"]), 1))
    return tuple(lists.get("seeds") or lists.get("seed") or [0])


def _variants(strategies: object, tables: object, host: Host, source: Source) -> tuple[list[Variant], list[str]]:
    if not isinstance(tables, dict):
        source.problem(
            ("strategy",), "tables [strategy.NAME] with options; list the strategies to run in sweep.strategy"
        )
        tables = {}
    named = [] if strategies is None else list(_named(strategies, source))
    notes = _unused(tables, {item.name for item, _ in named}, host, source)
    variants: list[Variant] = []
    for item, at in named:
        if _exists(item.name, at, host, source):
            table = tables.get(item.name, {})
            options = {**(table if isinstance(table, dict) else {}), **item.options}
            where = at if item.options else ("strategy", item.name)
            if not isinstance(table, dict):
                source.problem(("strategy", item.name), "a table of options", table)
            variants += expand_options(host.strategies[item.name], options, where, source)
    for place in _repeated(_as_text(to_json(variant)) for variant in variants):
        again = variants[place].strategy
        source.problem(("sweep", "strategy"), f"{again} is listed twice with the same options")
    return variants, notes


def _named(strategies: object, source: Source) -> Iterator[tuple[Named, Path]]:
    for value, at in values_of(strategies, ("sweep", "strategy"), source):
        problems = key_problems(SweepSection, "strategy", {"strategy": value})
        for _, allowed, got in problems:
            source.problem(at, allowed, got)
        if not problems:
            yield SweepSection.model_validate({"strategy": value}).strategy, at


def _exists(name: str, at: Path, host: Host, source: Source) -> bool:
    if name in host.strategies:
        return True
    akin = host.akin(name)
    if akin:
        source.problem(at, f"did you mean {listed(akin, 'or')}? `harness plugins` lists all", name)
        return False
    refuse_name(source, at, name, host.strategies, host)
    return False


def _unused(tables: Json, used: set[str], host: Host, source: Source) -> list[str]:
    """Judge tables of strategies that the sweep does not name, and say that they are not used."""
    notes = []
    for name, table in tables.items():
        if name not in used and _exists(name, ("strategy", name), host, source):
            if isinstance(table, dict):
                expand_options(host.strategies[name], table, ("strategy", name), source)
            notes.append(f"[strategy.{name}] is never used: sweep.strategy does not list {name}")
    return notes


def expand_options(strategy: type[Strategy], table: Json, path: Path, source: Source) -> list[Variant]:
    """Return a variant for each combination of the options' lists; empty after adding problems to `source`."""
    table = dict(table)
    optimizers: list[Named | None] = [None]
    if "optimizer" in table and "optimizer" not in strategy.Options.model_fields:
        optimizers = list(_optimizers(table.pop("optimizer"), (*path, "optimizer"), source))
    before = len(source.problems)
    lists = {key: _option_values(strategy, key, table, path, source) for key in table}
    if (count := math.prod(map(len, lists.values()))) > MOST_CELLS:
        source.problem(path, f"{count:,} combinations of options, but at most {MOST_CELLS:,} cells can be planned")
    if len(source.problems) > before:
        return []
    variants = []
    for choice in itertools.product(*lists.values()):
        options = validated(strategy.Options, dict(zip(lists, choice, strict=True)), source, path)
        if options is not None:
            filled = options.model_dump(mode="json")
            variants += [Variant(strategy.name, filled, optimizer) for optimizer in optimizers]
    return variants


def _optimizers(raw: object, path: Path, source: Source) -> Iterator[Named]:
    keys = tuple(str(part) for part in path)
    for value, at in values_of(raw, path, source):
        problems = key_problems(SweepSection, "strategy", {"strategy": value})
        if problems:
            source.problem(at, problems[0][1], value)
            continue
        named = SweepSection.model_validate({"strategy": value}).strategy
        entry = builtin(keys, named, OPTIMIZERS, source)
        if entry is not None:
            yield entry.named(named.name)


def _option_values(strategy: type[Strategy], key: str, table: Json, path: Path, source: Source) -> list[object]:
    """Return the values to sweep for an option: a list is one value where the option takes it, else several."""
    raw, at = table[key], (*path, key)
    whole = key_problems(strategy.Options, key, {key: raw})
    is_range = isinstance(raw, dict) and set(raw) == _RANGE
    if not whole or not (isinstance(raw, list) or is_range) or key not in strategy.Options.model_fields:
        for inner, allowed, got in whole:
            source.problem((*at, *inner), allowed, got)
        return [raw]
    values = values_of(raw, at, source)
    single = [(place, key_problems(strategy.Options, key, {key: value})) for value, place in values]
    takes_list = any(inner for inner, _, _ in whole) and all(problems for _, problems in single)
    # An option whose type is a list was entered by pydantic, so what is wrong lies inside the one value.
    for place, problems in [(at, whole)] if takes_list else single:
        for inner, allowed, got in problems:
            source.problem((*place, *inner), allowed, got)
    return [value for value, _ in values]


def _exclusions(raw: object, swept: Sequence[str], host: Host, source: Source) -> list[Values]:
    entries = [raw] if isinstance(raw, dict) else raw
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        source.problem(("sweep", "exclude"), 'a list of points such as [{ strategy = "async-ps", gpus = 1 }]', raw)
        return []
    allowed = dict.fromkeys([*swept, "gpus", "learning_rate"])
    return [
        _exclusion(entry, list(allowed), ("sweep", "exclude", place), host, source)
        for place, entry in enumerate(entries)
    ]


def _exclusion(entry: Json, allowed: Sequence[str], at: Path, host: Host, source: Source) -> Values:
    if not entry:
        source.problem(at, "an empty table would exclude every point", entry)
    point: Values = {}
    for key, value in entry.items():
        own = next((known for known in allowed if key in (known, _last(known))), None)
        own = own or (key if key.startswith("strategy.") else None)
        if own is None:
            by = f"You can exclude by {', '.join(allowed)}"
            source.problem((*at, key), unknown("not swept here", key, allowed, by))
            continue
        point[own] = tuple(value) if isinstance(value, list) else (value,)
        if own == "strategy":
            for name in point[own]:
                _exists(str(name), (*at, key), host, source)
    return point
