"""What a value in a scenario may be: checks that pydantic runs, and whose words the user reads."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from harness.core.cell import FASTEST, LARGEST, Named
from harness.core.errors import one_of
from harness.core.given_cluster import MOST_LAYERS, StepFigures
from harness.core.records import Json
from harness.core.units import parse_bytes, parse_rate, parse_seconds
from harness.scenario.link_values import WrittenLink, part, read_link
from harness.workloads.user_files import is_user_function

LARGEST_COUNT = 2**31 - 1
"""Chosen: what every library below us still counts with."""

FOLDER_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")
"""Fewer than the 255 bytes of a name in any file system, so that something can be put behind it."""

_EVERY = re.compile(r"([0-9]*\.?[0-9]+) (epochs?|samples)")
_AMOUNT = re.compile(r"([0-9]*\.?[0-9]+) ?([kMGBT]?)")
_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
_PACE = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][0-9]+)?) ?(samples|images|sequences|examples)/s")
LARGEST_AMOUNT = 1e21
"""Chosen: a thousand times the operations of one sample in the largest models that are trained."""

_PRICE = re.compile(r"([0-9]*\.?[0-9]+) ?([A-Z]{3}|[$€£])")


@dataclass(frozen=True)
class ByName:
    """A device by what the catalogue calls it."""

    name: str


@dataclass(frozen=True)
class GivenStep:
    """A device by how fast it trains the workload, and by name where one is said."""

    figures: StepFigures
    name: str = ""


def _named(value: object) -> Named:
    if isinstance(value, Named):
        return value
    if isinstance(value, str) and value:
        return Named(value)
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return Named(value["name"], {key: item for key, item in value.items() if key != "name"})
    raise ValueError('a name in quotes, or a table with a name and options: { name = "...", option = ... }')


WITHOUT_MATHEMATICS = ("parameters", "profile")
"""Keys of a model that is given by sizes or by times: it can be timed, and not be trained."""


def _model(value: object) -> Named:
    """Accept a name with options, or a table without a name that says sizes or a file of times."""
    if isinstance(value, Mapping) and "name" not in value:
        for key in WITHOUT_MATHEMATICS:
            if key in value:
                return Named(key, dict(value))
    try:
        return _named(value)
    except ValueError as error:
        raise ValueError(
            f'{error}, or sizes only, for timing: {{ parameters = "335 M", layers = 24, ... }} or '
            '{ profile = "layers.csv", batch_size = 128 }'
        ) from None


def _folder_name(value: object) -> str:
    if isinstance(value, str) and FOLDER_NAME.fullmatch(value):
        return value
    raise ValueError("up to 200 letters, digits, - and _ (it names a folder under results/)")


def _whole(minimum: int, other: str | None = None, most: int = LARGEST_COUNT) -> Callable[[object], int | str]:
    """Accept whole numbers from `minimum` to `most`, and one word if given."""

    def check(value: object) -> int | str:
        if other is not None and value == other:
            return other
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ValueError(f"a whole number, at least {minimum}" + (f', or "{other}"' if other else ""))
        if value > most:
            raise ValueError(f"a whole number of at most {most:,}")
        return value

    return check


def _number(above: float | None = None, least: float | None = None, none: bool = False) -> Callable[[object], Any]:
    """Accept finite numbers within a bound; with `none` the word "none" stands for leaving it out."""
    bound = f"above {above:g}" if above is not None else f"at least {least:g}"

    def check(value: object) -> float | None:
        if none and (value is None or value == "none"):
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
            or (above is not None and value <= above)
            or (least is not None and value < least)
        ):
            raise ValueError(f"a number {bound}" + (', or "none"' if none else ""))
        return float(value)

    return check


def _target(value: object) -> float | str | None:
    if value is None or value == "none":
        return "none" if value else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        percent = isinstance(value, (int, float)) and not isinstance(value, bool) and 1 < value <= 100
        raise ValueError(
            "a fraction above 0 and at most 1"
            + (f"; for {value:g} % write {value / 100:g}" if percent and isinstance(value, (int, float)) else "")
            + ("" if percent else ', or "none"')
        )
    return float(value)


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ValueError("a fraction between 0 and 1, such as 0.1")
    return float(value)


def _every(value: object) -> int | str | None:
    """Accept samples as a whole number, or text such as "0.25 epoch"."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_COUNT):
        return value
    match = _EVERY.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 < float(match[1]) <= LARGEST_COUNT or (match[2] == "samples" and float(match[1]) % 1):
        raise ValueError('text such as "0.25 epoch", or a whole number of samples')
    return int(float(match[1])) if match[2] == "samples" else f"{match[1]} epoch"


def _time(value: object) -> float | None:
    return None if value is None else _above_zero(parse_seconds(value), "a time")


def _above_zero(amount: float, what: str) -> float:
    if amount <= 0:
        raise ValueError(f"{what} above 0")
    return amount


def _device_costs(value: object) -> ByName | GivenStep | None:
    """Accept a device by its name, or by its rate, or its time for a step, at a batch size."""
    forms = (
        'a device such as "h200" (`harness plugins` lists them), { samples_per_second = 52, batch_size = 16 } or '
        '{ step_time = "312 ms", batch_size = 64 }, with its name where it is in the catalogue'
    )
    if value is None:
        return None
    if isinstance(value, str) and value.strip():
        return ByName(value)
    figures = ({"samples_per_second", "batch_size"}, {"step_time", "batch_size"})
    if not isinstance(value, Mapping) or set(value) - {"name"} not in figures:
        raise ValueError(forms)
    batch, name = part("batch_size", _whole(1), value), part("name", _text, value) if "name" in value else ""
    if "step_time" in value:
        return GivenStep(StepFigures(batch, step_time_s=part("step_time", _time, value)), name)
    rate = part("samples_per_second", _number(above=0), value)
    return GivenStep(StepFigures(batch, samples_per_second=rate), name)


def _byte_rate(value: object) -> float | None:
    return None if value is None else _above_zero(parse_rate(value), "a rate")


def _text(value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError("text in quotes")


_MICRO_WORDS = {"largest": LARGEST, "fastest": FASTEST}


def _micro(value: object) -> int | None:
    """Accept a whole number, "largest" that fits, which only memory can tell, or "fastest", which prices tell."""
    if isinstance(value, str) and value in _MICRO_WORDS:
        return _MICRO_WORDS[str(value)]
    return None if value is None else int(_whole(1, 'largest" or "fastest')(value))


def _bytes(value: object) -> int | None:
    return None if value is None else round(_above_zero(parse_bytes(value), "a size"))


def _amount(value: object) -> float | None:
    """Accept a count as people write it: 335000000, 3.35e8, or "335 M"."""
    if value is None:
        return None
    match = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    plain = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    amount = float(match[1]) * _FACTORS[match[2]] if match else float(value) if plain else 0.0  # type: ignore[arg-type]
    if not 0 < amount <= LARGEST_AMOUNT:
        least = "a count above 0" if amount <= LARGEST_AMOUNT else f"a count of at most {LARGEST_AMOUNT:.0e}"
        raise ValueError(f'{least}, such as 335000000 or "335 M" (k, M, G or B, T)')
    return amount


def _pace(value: object) -> float | None:
    """Accept a throughput: samples by any of their names, because what a sample is follows from the model."""
    if value is None:
        return None
    match = _PACE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 < float(match[1]) < math.inf:
        raise ValueError('a throughput of the whole job such as "205 samples/s" (or images/s, sequences/s)')
    return float(match[1])


def _price(value: object) -> Json | None:
    if value is None:
        return None
    match = _PRICE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 < float(match[1]) < math.inf:
        raise ValueError('a price with its currency such as "2.80 EUR"')
    return {"amount": float(match[1]), "currency": match[2]}


def word(*words: str, other: str = "") -> Callable[[object], str]:
    """Accept one of a few words.

    Args:
        other: where something stands that people write here.
    """

    def check(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise ValueError(one_of(value if isinstance(value, str) else "", words) + (f"; {other}" if other else ""))

    return check


def resident(value: object) -> str | bool:
    """Check whether samples stay in memory."""
    if value == "auto" or isinstance(value, bool):
        return value  # type: ignore[return-value]
    raise ValueError('"auto", true or false')


def word_or_function(*words: str) -> Callable[[object], str]:
    """Accept one of a few words, or FILE.py:FUNCTION."""
    check_word = word(*words, other="or FILE.py:FUNCTION for a function of your own")

    def check(value: object) -> str:
        return value if isinstance(value, str) and is_user_function(value) else check_word(value)

    return check


def file_list(value: object) -> list[str]:
    """Accept one path or a list of them."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ValueError('a list of plugin files or folders, such as ["mine.py"]')


SHORTEST_TASK_S = 180.0
"""Slurm announces the end of a task as early as it was asked to, and up to 60 s before that: a shorter task would hear
of its end as it starts. Source: sbatch(1), --signal."""


def task_time(value: object) -> float:
    """Accept the longest time of a task of a batch system's."""
    seconds = _time(value)
    if seconds is None or seconds < SHORTEST_TASK_S:
        raise ValueError('a time of at least 3 min, such as "1 h": Slurm may announce its end 150 s before')
    return seconds


def shell_lines(value: object) -> list[str]:
    """Accept one line of shell or a list of them."""
    lines = [value] if isinstance(value, str) else value
    if isinstance(lines, list) and all(isinstance(line, str) for line in lines):
        return lines
    raise ValueError('lines of shell, such as ["module load cuda"]')


def sbatch_value(value: object) -> str:
    """Accept one line: options of sbatch stand in comments of a shell script, whose next line would be run."""
    if isinstance(value, str) and value.strip() and value.isprintable():
        return value
    raise ValueError("text in quotes, on one line and without control characters")


def sbatch_options(value: object) -> dict[str, str | int | bool]:
    """Accept a table of sbatch's long options; what starts with a dash or spans lines would be read as another one."""
    if isinstance(value, dict) and all(
        re.fullmatch("[a-z][a-z0-9-]*", key) and isinstance(item, (str, int)) and str(item).isprintable()
        for key, item in value.items()
    ):
        return value
    raise ValueError('long options of sbatch without dashes, with text, whole numbers or true: { mail-type = "FAIL" }')


def table_list(value: object) -> list[Json]:
    """Accept a list of tables."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return value
    raise ValueError("tables, each under a head of its own: [[observed]]")


_NAME_OR_TABLE: Json = {
    "anyOf": [{"type": "string"}, {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}]
}
_MODEL: Json = {
    "anyOf": [*_NAME_OR_TABLE["anyOf"], *({"type": "object", "required": [key]} for key in WITHOUT_MATHEMATICS)]
}
_NONE_WORD = {"const": "none"}
_TIME_SCHEMA = WithJsonSchema({"type": "string", "examples": ["312 ms", "15 min", "2 h"]})


FolderName = Annotated[str, BeforeValidator(_folder_name), WithJsonSchema({"type": "string", "pattern": "^[\\w-]+$"})]
LayerCount = Annotated[
    int, BeforeValidator(_whole(1, most=MOST_LAYERS)), WithJsonSchema({"type": "integer", "minimum": 1})
]
Count = Annotated[int, BeforeValidator(_whole(1)), WithJsonSchema({"type": "integer", "minimum": 1})]
CountFromZero = Annotated[int, BeforeValidator(_whole(0)), WithJsonSchema({"type": "integer", "minimum": 0})]
BatchSize = Annotated[
    int | str,
    BeforeValidator(_whole(1, "full")),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "full"}]}),
]
RateValue = Annotated[
    float, BeforeValidator(_number(above=0)), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})
]
AtLeastZero = Annotated[float, BeforeValidator(_number(least=0)), WithJsonSchema({"type": "number", "minimum": 0})]
Limit = Annotated[
    float | None,
    BeforeValidator(_number(above=0, none=True)),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, _NONE_WORD]}),
]
TargetValue = Annotated[
    float | str | None,
    BeforeValidator(_target),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, _NONE_WORD]}),
]
Share = Annotated[
    float,
    BeforeValidator(_share),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
]
Every = Annotated[
    int | str | None,
    BeforeValidator(_every),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "examples": ["0.25 epoch"]}]}),
]
Time = Annotated[float | None, BeforeValidator(_time), _TIME_SCHEMA]
TaskTime = Annotated[float, BeforeValidator(task_time), _TIME_SCHEMA]
NameOrTable = Annotated[Named, BeforeValidator(_named), WithJsonSchema(_NAME_OR_TABLE)]
ModelName = Annotated[Named, BeforeValidator(_model), WithJsonSchema(_MODEL)]
DeviceCosts = Annotated[
    ByName | GivenStep | None,
    BeforeValidator(_device_costs),
    WithJsonSchema({"anyOf": [{"type": "string", "examples": ["h200"]}, {"type": "object"}]}),
]
LinkValue = Annotated[
    WrittenLink | None,
    BeforeValidator(read_link),
    WithJsonSchema({"anyOf": [{"type": "string", "examples": ["25 Gb/s", "infiniband-hdr"]}, {"type": "object"}]}),
]
ByteRate = Annotated[
    float | None, BeforeValidator(_byte_rate), WithJsonSchema({"type": "string", "examples": ["2 GB/s"]})
]
MicroBatch = Annotated[
    int | None,
    BeforeValidator(_micro),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "largest"}]}),
]
Bytes = Annotated[
    int | None, BeforeValidator(_bytes), WithJsonSchema({"type": "string", "examples": ["16 GB", "16 GiB"]})
]
Amount = Annotated[
    float | None,
    BeforeValidator(_amount),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "examples": ["335 M"]}]}),
]
Pace = Annotated[
    float | None, BeforeValidator(_pace), WithJsonSchema({"type": "string", "examples": ["205 samples/s"]})
]
TextValue = Annotated[str, BeforeValidator(_text), WithJsonSchema({"type": "string"})]
PriceValue = Annotated[
    Json | None, BeforeValidator(_price), WithJsonSchema({"type": "string", "examples": ["2.80 EUR"]})
]
