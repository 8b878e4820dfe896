"""What people read, as a type of its own: it can be printed and joined, and nothing may be decided by reading it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

_PACKAGE = str(Path(__file__).parents[1]) + os.sep


class Text(str):
    """A sentence, or a part of one.

    Under pytest every question about its content (`in`, `startswith`, `find`, a pattern of `removeprefix`, ...) that a
    module of the harness asks raises: whoever needs to know has to be told by a field. Tests may ask.
    """

    __slots__ = ()
    questions: ClassVar[tuple[str, ...]] = (
        *("__contains__", "count", "endswith", "find", "index", "partition", "removeprefix", "removesuffix"),
        *("replace", "rfind", "rindex", "rpartition", "rsplit", "split", "startswith"),
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # late: the command line starts without pydantic

        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


NO_TEXT = Text()
"""Nothing to say."""


def _guarded(name: str) -> Callable[..., Any]:
    asked = getattr(str, name)

    def question(self: Text, *arguments: Any, **options: Any) -> Any:
        if sys._getframe(1).f_code.co_filename.startswith(_PACKAGE):
            raise AssertionError(f"text is asked {name}{arguments!r}: decide by a field, not by words: {str(self)!r}")
        return asked(self, *arguments, **options)

    return question


if "pytest" in sys.modules:
    for _name in Text.questions:
        setattr(Text, _name, _guarded(_name))
