"""The one place where dataclasses become JSON and JSON becomes dataclasses, checked field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

Json = dict[str, Any]
"""What a JSON object holds; its values are JSON too."""


class Unreadable(ValueError):
    """What was stored is not what it should be; the message says where in it, and what was found."""


_JSON_ALREADY = frozenset({str, int, float, bool, type(None)})


def to_json(value: object) -> Any:
    """Return a dataclass, or a container of such, as lists and dictionaries that JSON can hold.

    It builds no adapter, because every command writes cells and few read any: `plan` writes each cell for its id.
    """
    if type(value) in _JSON_ALREADY:
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value)  # members of enums, numbers of numpy's, paths


def from_json(kind: type[T], content: object) -> T:
    """Return what `to_json` was called on; keys that `kind` does not have are ignored.

    Args:
        kind: the dataclass.
        content: JSON as text or bytes, or what parsing it gave.

    Raises:
        Unreadable: a field is missing, or is not what `kind` says.
    """
    from pydantic import ValidationError

    adapter = _adapter(kind)
    try:
        if isinstance(content, (str, bytes)):
            return adapter.validate_json(content)
        return adapter.validate_python(content)
    except ValidationError as error:
        raise Unreadable(_in_words(error)) from None


_adapters: dict[type, TypeAdapter[Any]] = {}
"""Built once for each type, on first use: building takes longer than most reading."""


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    if kind not in _adapters:
        from pydantic import TypeAdapter

        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def _in_words(error: ValidationError) -> str:
    """Name the first field that does not hold, and count the others."""
    first, *others = error.errors(include_url=False)
    where = ".".join(map(str, first["loc"]))
    found = "" if first["type"] == "missing" else f", found {_short(first['input'])}"
    more = f" (and {len(others)} more)" if others else ""
    return f"{where}: {first['msg']}{found}{more}" if where else f"{first['msg']}{found}{more}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
