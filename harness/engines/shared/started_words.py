"""Started words: what `worker.gradient(batch)` returns before it is awaited."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Generator
from typing import Any, NoReturn

from harness.api.strategy import Value
from harness.core.errors import PluginError

Unawaited = Counter[str]
"""Words that nobody ever waited for, by name and place."""

Waiting = Generator[Any, Any, Any]
"""How a word waits: what it yields only the engine that runs it understands."""


class Word:
    """A word under way. `await` waits for it; used as anything else, it says that an await is missing."""

    def __init__(self, name: str, unawaited: Unawaited) -> None:
        self._name = name
        self._place = place_in_program()
        self._unawaited = unawaited
        self._awaited = False

    def __await__(self) -> Waiting:
        self._awaited = True
        return self._wait()

    def _wait(self) -> Waiting:
        raise NotImplementedError

    def __del__(self) -> None:
        if not self._awaited:
            self._unawaited[f"{self._name} ({self._place[0]}:{self._place[1]})"] += 1

    def _misused(self, *_: Any) -> NoReturn:
        self._awaited = True
        raise forgotten(self)

    __bool__ = __iter__ = __len__ = __getitem__ = __call__ = _misused
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _misused
    __lt__ = __gt__ = __le__ = __ge__ = __float__ = __int__ = _misused

    def __getattr__(self, attribute: str) -> NoReturn:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        self._misused()


def place_in_program() -> tuple[str, int]:
    """Return file and line where the program stands: the first frame that is neither ours nor torch's."""
    frame: Any = sys._getframe(1)
    while frame.f_globals.get("__name__", "").startswith(("harness.", "torch.")) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


class Ready(Word):
    """A word whose work is done, or whose remaining wait is one blocking call."""

    def __init__(self, name: str, unawaited: Unawaited, finish: Any) -> None:
        super().__init__(name, unawaited)
        self._finish = finish

    def _wait(self) -> Waiting:
        return self._finish()
        yield  # a generator, as __await__ must return one


def forgotten(word: Word) -> PluginError:
    """Word the commonest mistake in an async program."""
    word._awaited = True
    file, line = word._place
    name = word._name.partition("(")[0]
    return PluginError(f"{file}:{line}: {name}(...) is used before it is awaited; write await {name}(...)")


def foreign(program: Any, yielded: Any) -> PluginError:
    """Word an await of something that neither engine knows, by the line where the program stands."""
    while hasattr(getattr(program, "cr_await", None), "cr_frame"):
        program = program.cr_await
    frame = program.cr_frame
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return PluginError(f"{place}: awaited {type(yielded).__name__}, which is not a word of Worker or Server")


def mistake(what: str) -> PluginError:
    """Word a mistake in a program, with the line where the program stands."""
    file, line = place_in_program()
    return PluginError(f"{file}:{line}: {what}")


def type_name(given: object) -> str:
    """Name what stands where a value belongs; of a tensor that a program was lent, not that it is read-only."""
    if given is None:
        return "None"
    return "Tensor" if hasattr(given, "untyped_storage") else type(given).__name__


def as_value(given: object, word: str) -> Value:
    """Pass what must be a value through.

    Args:
        word: that it was given to: a method's name, or the operator.

    Raises:
        PluginError: it is none, or a word that nobody has awaited.
    """
    given = awaited(given)
    if not isinstance(given, Value):
        raise mistake(
            f"{word} takes a value (weights, a gradient, or what arithmetic on values gives); got {type_name(given)}. "
            "Make a value of a tensor by value.with_tensor(tensor)"
        )
    return given


def awaited(value: Any) -> Any:
    """Pass a word's argument through.

    Raises:
        PluginError: the argument is itself a word that nobody has awaited.
    """
    if isinstance(value, Word):
        raise forgotten(value)
    return value
