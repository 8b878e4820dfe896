"""A directory of published measurements: its cases, models and rows, read strictly."""

from __future__ import annotations

import csv
import re
import shutil
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import StringIO
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from harness.commands.validate.layout_rows import LayoutRow, layout_rows
from harness.core.errors import InputError
from harness.core.outside_files import read_outside
from harness.core.records import Json
from harness.core.units import GIB, MIB
from harness.scenario.mistakes import parse_toml

TomlTable = Mapping[str, Any]
"""A table of cases.toml, whose keys are up to whoever writes one."""

FORMAT_VERSION = 2
"""Of cases.toml; another version may mean something else by the same key."""

THROUGHPUT_COLUMNS = (
    *("case", "series", "model", "strategy", "precision", "gpus", "nodes", "batch_per_gpu", "microbatches"),
    *("metric", "unit", "value", "inputs_allowed"),
)
COLLECTIVES_COLUMNS = ("case", "gpu", "n", "bytes", "seconds")
STEPS_COLUMNS = (
    *("hidden", "layers", "heads", "seq", "micro_batch", "microbatches", "global_batch", "dp", "tp", "pp", "gpus"),
    *("ms_per_iteration", "kind", "inputs_allowed"),
)
PROFILE_COLUMNS = ("index", "name", "kind", "forward_ms", "backward_ms", "activation_bytes", "parameter_bytes")

KIND_BY_METRIC = {
    "bubble": "pipeline bubble",
    "gpu_utilisation": "utilisation",
    "throughput_change": "bucket effect",
    "collective_time": "collectives",
    "macs": "arithmetic",
}
POINTS_KINDS = ("pipeline bubble", "utilisation", "bucket effect")
"""Kinds whose error is a difference in percentage points."""

SPLIT_STRATEGIES = ("model-split", "gpipe", "1f1b", "1f1b-interleaved", "zb-1p", "zb-2p")
"""One mini-batch passes through all devices: more of them do not mean more samples."""


@dataclass(frozen=True)
class Degrees:
    """What a row of a table of transformer steps says beyond the common columns.

    Attributes:
        parameters: of the model, where the table prints them.
    """

    hidden: int
    layers: int
    heads: int
    sequence: int
    micro_batch: int
    global_batch: int
    data: int
    tensor: int
    pipeline: int
    parameters: float | None = None


@dataclass(frozen=True)
class TableRow:
    """One published number.

    Attributes:
        table: name of the file without its ending.
        line: in the file.
        series: as results are grouped; of a collective the chip and the group size.
        block_series: as the filters of system blocks name it.
        batch_per_gpu: as the table has it; of a pipeline the mini-batch of the whole pipeline.
        microbatches: None where the table does not say.
        value: in `unit`; NaN-free.
        is_input: a predictor may use it.
        degrees: of transformer steps, else None.
        num_bytes: of a measured collective, else None.
        bus_bytes_per_s: of a measured collective as the table prints it, else None.
        layout: of a layout of LLM training, else None.
        scored: whether it is a target; facts kept for reading are not.
    """

    table: str
    line: int
    case: str
    series: str
    model: str
    strategy: str
    precision: str
    metric: str
    unit: str
    value: float
    is_input: bool
    kind: str
    block_series: str = ""
    gpus: int | None = None
    nodes: int | None = None
    batch_per_gpu: float | None = None
    microbatches: int | None = None
    degrees: Degrees | None = None
    num_bytes: float | None = None
    bus_bytes_per_s: float | None = None
    layout: LayoutRow | None = None
    scored: bool = True

    @property
    def name(self) -> str:
        """What tells it from its neighbours, in words."""
        parts = [self.case, self.series, self.model, self.strategy, self.precision, f"{self.gpus or '?'} GPUs"]
        if self.degrees:
            d = self.degrees
            parts += [f"layers {d.layers} dp {d.data} tp {d.tensor} pp {d.pipeline} micro-batch {d.micro_batch}"]
            parts += [f"x {self.microbatches}"]
        elif self.layout:
            parts += [self.layout.name]
        elif self.num_bytes:
            parts += [f"{self.num_bytes / MIB:g} MiB"]
        else:
            parts += [] if self.batch_per_gpu is None else [f"batch {self.batch_per_gpu:g}"]
            parts += [] if self.microbatches is None else [f"x {self.microbatches}"]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class LayerLine:
    """One node of a per-layer profile."""

    name: str
    kind: str
    forward_s: float
    backward_s: float
    activation_bytes: float
    parameter_bytes: int


@dataclass(frozen=True, eq=False)
class Tables:
    """A directory that was read; two of them are never equal, so that what is derived from one can be cached.

    Attributes:
        cases: tables of cases.toml by id.
        models: tables of cases.toml by key.
        link_graphs: by name.
        rows: of all tables, inputs included.
        profiles: per-layer profiles by the model's name.
        profile_batches: samples that each profile was taken with.
        outcomes: rows of convergence.csv; they are not predicted by costs.
    """

    path: Path
    cases: Mapping[str, TomlTable]
    models: Mapping[str, TomlTable] = field(default_factory=dict)
    link_graphs: Mapping[str, TomlTable] = field(default_factory=dict)
    rows: tuple[TableRow, ...] = ()
    profiles: Mapping[str, tuple[LayerLine, ...]] = field(default_factory=dict)
    profile_batches: Mapping[str, float] = field(default_factory=dict)
    outcomes: int = 0

    @cached_property
    def scenarios(self) -> Path:
        """A folder for what rows are written as, which goes with this object."""
        folder = mkdtemp(prefix="harness-validate-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    @cached_property
    def inputs(self) -> tuple[TableRow, ...]:
        """Rows that a predictor may use."""
        return tuple(row for row in self.rows if row.is_input)

    @cached_property
    def targets(self) -> tuple[TableRow, ...]:
        """Rows to be predicted and scored."""
        return tuple(row for row in self.rows if not row.is_input and row.scored)


def input_of(published: Tables, model: str) -> str:
    """Return what cases.toml says of a model's input, in words."""
    return str(published.models.get(model, {}).get("input", ""))


def words_of(published: Tables, model: str) -> str:
    """Return what cases.toml says of a model: its name and its input."""
    return f"{published.models.get(model, {}).get('name', '')} {input_of(published, model)}"


def stated(text: str, pattern: str) -> int | None:
    """Return the number that a pattern's group finds in words; None where it is not there."""
    found = re.search(pattern, text)
    return int(found[1]) if found else None


def read_directory(path: Path) -> Tables:
    """Read all tables of a directory.

    Raises:
        InputError: not such a directory, or something in it is malformed; lists everything that is wrong.
    """
    if path.is_file():
        raise InputError(
            [f"{path} is a file; validate takes a folder with cases.toml. To look at a scenario: harness plan {path}"]
        )
    if not path.is_dir():
        raise InputError(
            [f"{path}: no such directory; give one that holds cases.toml and tables such as throughput.csv"]
        )
    content = _cases(path)
    problems: list[str] = []
    rows = list(_all_rows(path, content, problems))
    profiles = {file.stem: _profile(file, problems) for file in sorted((path / "profiles").glob("*.csv"))}
    if not rows and not problems:
        problems = ["no table with rows: expected throughput.csv, vtrain_*.csv or collectives.csv"]
    if problems:
        raise InputError(problems[:20], where=str(path))
    batches = {name: size for case in content["cases"].values() for name, size in case.get("batch", {}).items()}
    outcomes = path / "convergence.csv"
    return Tables(
        path,
        content["cases"],
        content.get("models", {}),
        content.get("link_graphs", {}),
        tuple(rows),
        profiles,
        batches,
        sum(1 for _ in _lines(outcomes, (), problems)) if outcomes.is_file() else 0,
    )


def _text_of(file: Path) -> str:
    """Return what a file of the directory holds.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        return read_outside(file).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError([f"cannot be read: {reason}"], where=str(file)) from None


def _cases(path: Path) -> Json:
    file = path / "cases.toml"
    if not file.is_file():
        raise InputError(
            [f"{file}: missing; validate takes scenarios with [[observed]], or tables that cases.toml describes"]
        )
    content, _ = parse_toml(_text_of(file), str(file))
    version = content.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise InputError([f"format_version = {version!r}; this version reads {FORMAT_VERSION}"], where=str(file))
    problems = list(_shape_problems(content))
    if problems:
        raise InputError(problems, where=str(file))
    return content


def _shape_problems(content: TomlTable) -> Iterable[str]:
    for name in ("cases", "models", "link_graphs"):
        tables = content.get(name, {} if name != "cases" else None)
        if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
            yield f"[{name}]: expected one table per entry"
    cases = content.get("cases")
    for key, case in cases.items() if isinstance(cases, dict) else ():
        blocks = case.get("systems", []) if isinstance(case, dict) else []
        if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
            yield f"cases.{key}.systems: expected [[cases.{key}.systems]] tables"
            continue
        for number, block in enumerate(blocks, 1):
            for required in ("device", "gpus_per_node"):
                if required not in block:
                    yield f"cases.{key}.systems, block {number}: {required} is missing"
            if not isinstance(block.get("link"), dict) or "kind" not in block["link"]:
                yield f"cases.{key}.systems, block {number}: link.kind is missing"


def _all_rows(path: Path, content: TomlTable, problems: list[str]) -> Iterable[TableRow]:
    cases = content["cases"]
    readers: list[tuple[Path, Sequence[str], Callable[[Path, Mapping[str, str], int, TomlTable], TableRow]]] = [
        *((file, THROUGHPUT_COLUMNS, _throughput_row) for file in path.glob("throughput.csv")),
        *((file, STEPS_COLUMNS, _steps_row) for file in sorted(path.glob("vtrain_*.csv"))),
        *((file, COLLECTIVES_COLUMNS, _collective_row) for file in path.glob("collectives.csv")),
    ]
    yield from _layout_rows(path / "layouts", problems)
    for file, columns, reader in readers:
        for line, entry in _lines(file, columns, problems):
            try:
                yield reader(file, entry, line, cases)
            except (ValueError, KeyError) as error:
                problems.append(f"{file.name}, line {line}: {error.args[0] if error.args else error}")


def _layout_rows(folder: Path, problems: list[str]) -> Iterable[TableRow]:
    """Yield the measured memory of layouts, which lie in a folder of their own beside what they are of."""
    if not (folder / "layouts.csv").is_file():
        return
    try:
        for line, row in layout_rows(folder):
            names = ("layouts", line, row["source"], row["panel"], row["model"], "3d", row["precision"])
            kind = f"memory of {row['source']}"
            yield TableRow(
                *names,
                "peak_memory",
                "GB",
                float(row["peak_memory_gb"]),
                False,
                kind,
                gpus=int(row["gpus"]),
                layout=row,
            )
    except (OSError, KeyError, ValueError) as error:
        problems.append(f"{folder.name}: {type(error).__name__}: {error}")


def _lines(file: Path, columns: Sequence[str], problems: list[str]) -> Iterable[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(StringIO(_text_of(file), newline=""), restval="")
    try:
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            problems.append(f"{file.name}: column missing: {', '.join(missing)}; it has {reader.fieldnames}")
            return
        for entry in reader:
            if None in entry:
                problems.append(f"{file.name}, line {reader.line_num}: more cells than the {len(columns)} columns")
                continue
            yield reader.line_num, entry
    except csv.Error as error:
        problems.append(f"{file.name}, line {reader.line_num}: {error}")


def _number(entry: Mapping[str, str], column: str) -> float:
    text = entry[column].strip()
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{column} = {text!r}: expected a number") from None
    if value != value or abs(value) == float("inf"):
        raise ValueError(f"{column} = {text!r}: expected a finite number")
    return value


def _positive(entry: Mapping[str, str], column: str) -> float:
    value = _number(entry, column)
    if value <= 0:
        raise ValueError(f"{column} = {entry[column]!r}: expected a number above 0")
    return value


def _optional(entry: Mapping[str, str], column: str) -> float | None:
    return _positive(entry, column) if entry[column].strip() else None


def _count(entry: Mapping[str, str], column: str) -> int | None:
    value = _optional(entry, column)
    if value is not None and value != int(value):
        raise ValueError(f"{column} = {entry[column]!r}: expected a whole number")
    return None if value is None else int(value)


def _needed(entry: Mapping[str, str], column: str) -> int:
    value = _count(entry, column)
    if value is None:
        raise ValueError(f"{column}: empty; expected a whole number")
    return value


def _allowed(entry: Mapping[str, str]) -> bool:
    text = entry["inputs_allowed"].strip()
    if text not in ("yes", "no"):
        raise ValueError(f"inputs_allowed = {text!r}: expected yes or no")
    return text == "yes"


def _throughput_row(file: Path, entry: Mapping[str, str], line: int, cases: TomlTable) -> TableRow:
    case, series, metric = entry["case"], entry["series"], entry["metric"]
    if case not in cases:
        raise ValueError(f"case = {case!r}: not in cases.toml, which has {', '.join(sorted(cases))}")
    table = cases[case]
    kind = "memory" if metric.endswith("_memory") else KIND_BY_METRIC.get(metric, table.get("kind", metric))
    # A bubble, a utilisation and a change may be zero or negative; everything else is divided by.
    value = _number(entry, "value") if kind in POINTS_KINDS else _positive(entry, "value")
    return TableRow(
        *(file.stem, line, case, series, entry["model"], entry["strategy"], entry["precision"], metric, entry["unit"]),
        value,
        _allowed(entry),
        table.get("kind_by_series", {}).get(series, kind),
        block_series=series,
        gpus=_count(entry, "gpus"),
        nodes=_count(entry, "nodes"),
        batch_per_gpu=_optional(entry, "batch_per_gpu"),
        microbatches=_count(entry, "microbatches"),
        scored=series not in table.get("unscored_series", ()),
    )


def _steps_row(file: Path, entry: Mapping[str, str], line: int, cases: TomlTable) -> TableRow:
    case = next((key for key, table in cases.items() if table.get("file") == file.name), "")
    if not case:
        raise ValueError(f'no case of cases.toml says file = "{file.name}"')
    billions = _optional(entry, "params_billion") if "params_billion" in entry else None
    degrees = Degrees(
        hidden=_needed(entry, "hidden"),
        layers=_needed(entry, "layers"),
        heads=_needed(entry, "heads"),
        sequence=_needed(entry, "seq"),
        micro_batch=_needed(entry, "micro_batch"),
        global_batch=_needed(entry, "global_batch"),
        data=_needed(entry, "dp"),
        tensor=_needed(entry, "tp"),
        pipeline=_needed(entry, "pp"),
        parameters=None if billions is None else billions * 1e9,
    )
    strategy = "sync-ddp" if degrees.tensor == degrees.pipeline == 1 else "hybrid"
    return TableRow(
        *(file.stem, line, case, f"hidden {degrees.hidden}", "gpt", strategy),
        cases[case].get("precision", [""])[0],
        *("step_time", "ms", _positive(entry, "ms_per_iteration"), _allowed(entry), entry["kind"]),
        gpus=_needed(entry, "gpus"),
        batch_per_gpu=degrees.micro_batch,
        microbatches=_needed(entry, "microbatches"),
        degrees=degrees,
    )


def _collective_row(file: Path, entry: Mapping[str, str], line: int, cases: TomlTable) -> TableRow:
    case, ranks, num_bytes = entry["case"], _needed(entry, "n"), _positive(entry, "bytes")
    if case not in cases:
        raise ValueError(f"case = {case!r}: not in cases.toml, which has {', '.join(sorted(cases))}")
    bus = _optional(entry, "bus_bandwidth_GBps") if "bus_bandwidth_GBps" in entry else None
    return TableRow(
        *(file.stem, line, case, f"{entry['gpu']} n={ranks}", "all-reduce", "collective"),
        cases[case].get("precision", [""])[0],
        *("seconds", "s", _positive(entry, "seconds"), num_bytes in (MIB, GIB), "collectives"),
        block_series=entry["gpu"],
        gpus=ranks,
        num_bytes=num_bytes,
        bus_bytes_per_s=None if bus is None else bus * 1e9,
    )


def _profile(file: Path, problems: list[str]) -> tuple[LayerLine, ...]:
    lines = []
    for line, entry in _lines(file, PROFILE_COLUMNS, problems):
        try:
            numbers = [_number(entry, column) for column in PROFILE_COLUMNS[3:]]
        except ValueError as error:
            problems.append(f"profiles/{file.name}, line {line}: {error}")
            continue
        forward_ms, backward_ms, kept, parameters = numbers
        lines.append(
            LayerLine(entry["name"], entry["kind"], forward_ms / 1e3, backward_ms / 1e3, kept, int(parameters))
        )
    return tuple(lines)
