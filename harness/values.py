"""What a value in a scenario may be: checks that pydantic runs, and whose words the user reads."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, WithJsonSchema

from harness.errors import nearest
from harness.units import RATE_FORMS, parse_rate, parse_seconds

LARGEST_COUNT = 2**31 - 1
"""Chosen: what every library below us still counts with."""

FOLDER_NAME = re.compile(r"[A-Za-z0-9_-]+")
_EVERY = re.compile(r"([0-9]*\.?[0-9]+) (epochs?|samples)")


class Named(NamedTuple):
    """A name with options: `"sgd"`, or `{ name = "sgd", momentum = 0.9 }`."""

    name: str
    options: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in a record."""
        return {"name": self.name, "options": self.options}


def _named(value: object) -> Named:
    if isinstance(value, Named):
        return value
    if isinstance(value, str) and value:
        return Named(value, {})
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return Named(value["name"], {key: item for key, item in value.items() if key != "name"})
    raise ValueError('a name in quotes, or a table with a name and options: { name = "...", option = ... }')


def _model(value: object) -> Named:
    if isinstance(value, Mapping) and "name" not in value and {"parameters", "profile"} & set(value):
        raise ValueError("workloads without mathematics are not yet supported; name a model: lenet5, mlp, ...")
    return _named(value)


def _folder_name(value: object) -> str:
    if isinstance(value, str) and FOLDER_NAME.fullmatch(value):
        return value
    raise ValueError("letters, digits, - and _ (it names a folder under results/)")


def _whole(minimum: int, other: str | None = None) -> Callable[[object], int | str]:
    """Accept whole numbers from `minimum` on, and one word if given."""

    def check(value: object) -> int | str:
        if other is not None and value == other:
            return other
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ValueError(f"a whole number, at least {minimum}" + (f', or "{other}"' if other else ""))
        if value > LARGEST_COUNT:
            raise ValueError(f"a whole number of at most {LARGEST_COUNT:,}")
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
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    match = _EVERY.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) <= 0 or (match[2] == "samples" and float(match[1]) % 1):
        raise ValueError('text such as "0.25 epoch", or a whole number of samples')
    return int(float(match[1])) if match[2] == "samples" else f"{match[1]} epoch"


def _time(value: object) -> float | None:
    return None if value is None else _above_zero(parse_seconds(value), "a time")


def _above_zero(amount: float, what: str) -> float:
    if amount <= 0:
        raise ValueError(f"{what} above 0")
    return amount


def _device_costs(value: object) -> dict[str, float] | None:
    """Accept the constant costs of a device: its rate, or its time for a step, at a batch size."""
    forms = '{ samples_per_second = 52, batch_size = 16 } or { step_time = "312 ms", batch_size = 64 }'
    if value is None:
        return None
    if isinstance(value, str):
        raise ValueError(f"devices from the catalogue are not yet supported; give its speed: {forms}")
    if not isinstance(value, Mapping) or set(value) not in (
        {"samples_per_second", "batch_size"},
        {"step_time", "batch_size"},
    ):
        raise ValueError(forms)
    batch = _part("batch_size", _whole(1), value)
    if "step_time" in value:
        return {"step_time_s": _part("step_time", _time, value), "batch_size": batch}
    return {"samples_per_second": _part("samples_per_second", _number(above=0), value), "batch_size": batch}


def _link(value: object) -> dict[str, float] | None:
    """Accept a link by its rate, or by bandwidth and latency."""
    forms = f'{RATE_FORMS}, or {{ bandwidth = "25 Gb/s", latency = "3 us" }}'
    if value is None:
        return None
    if isinstance(value, Mapping) and {"bus_bandwidth", "table"} & set(value):
        raise ValueError(f"measured links (bus_bandwidth, table) are not yet supported; give {forms}")
    if isinstance(value, str) and value[:1].isalpha():
        raise ValueError(f"links from the catalogue are not yet supported; give {forms}")
    if isinstance(value, str):
        return {"bandwidth_bytes_per_s": _above_zero(parse_rate(value), "a rate"), "latency_s": 0.0}
    if not isinstance(value, Mapping) or not {"bandwidth"} <= set(value) <= {"bandwidth", "latency"}:
        raise ValueError(forms)
    return {
        "bandwidth_bytes_per_s": _above_zero(_part("bandwidth", parse_rate, value), "a bandwidth"),
        "latency_s": _part("latency", parse_seconds, {"latency": "0 s", **value}),
    }


def _part(key: str, check: Callable[[Any], Any], table: Mapping[str, Any]) -> Any:
    try:
        return check(table[key])
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def not_yet(what: str) -> Callable[[object], None]:
    """Refuse whatever is written, as something that a later version will do."""

    def check(value: object) -> None:
        if value is not None:
            raise ValueError(f"not yet: {what}; leave it out")

    return check


def only(allowed: str, later: str) -> Callable[[object], str]:
    """Accept one word; answer the words of later versions with "not yet"."""

    def check(value: object) -> str:
        if value != allowed:
            raise ValueError(f'{later} not yet; this version knows "{allowed}"')
        return allowed

    return check


def _micro(value: object) -> int | str | None:
    if value == "largest":
        raise ValueError('"largest" is not yet supported; a whole number of samples')
    return None if value is None else _whole(1)(value)


def word(*words: str) -> Callable[[object], str]:
    """Accept one of a few words."""

    def check(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        hint = nearest(value, words) if isinstance(value, str) else ""
        raise ValueError(f"one of {', '.join(words)}{hint}")

    return check


def file_list(value: object) -> list[str]:
    """Accept one path or a list of them."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ValueError('a list of plugin files or folders, such as ["mine.py"]')


_NAME_OR_TABLE: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}]
}
_NONE_WORD = {"const": "none"}
_TIME_SCHEMA = WithJsonSchema({"type": "string", "examples": ["312 ms", "15 min", "2 h"]})


FolderName = Annotated[str, BeforeValidator(_folder_name), WithJsonSchema({"type": "string", "pattern": "^[\\w-]+$"})]
Count = Annotated[int, BeforeValidator(_whole(1)), WithJsonSchema({"type": "integer", "minimum": 1})]
CountFromZero = Annotated[int, BeforeValidator(_whole(0)), WithJsonSchema({"type": "integer", "minimum": 0})]
BatchSize = Annotated[
    int | str,
    BeforeValidator(_whole(1, "full")),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "full"}]}),
]
Rate = Annotated[float, BeforeValidator(_number(above=0)), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]
AtLeastZero = Annotated[float, BeforeValidator(_number(least=0)), WithJsonSchema({"type": "number", "minimum": 0})]
Limit = Annotated[
    float | None,
    BeforeValidator(_number(above=0, none=True)),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, _NONE_WORD]}),
]
Target = Annotated[
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
NameOrTable = Annotated[Named, BeforeValidator(_named), WithJsonSchema(_NAME_OR_TABLE)]
ModelName = Annotated[Named, BeforeValidator(_model), WithJsonSchema(_NAME_OR_TABLE)]
DeviceCosts = Annotated[dict[str, float] | None, BeforeValidator(_device_costs), WithJsonSchema({"type": "object"})]
Link = Annotated[
    dict[str, float] | None,
    BeforeValidator(_link),
    WithJsonSchema({"anyOf": [{"type": "string", "examples": ["25 Gb/s"]}, {"type": "object"}]}),
]
MicroBatch = Annotated[int | None, BeforeValidator(_micro), WithJsonSchema({"type": "integer", "minimum": 1})]
