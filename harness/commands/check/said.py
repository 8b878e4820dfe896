"""Lines about what a strategy says of itself: docstring and options. Nothing is trained."""

from __future__ import annotations

import inspect
import re

from pydantic import ValidationError

from harness.api.strategy import Options
from harness.commands.check.trials import EVALUATED, Trials
from harness.commands.check.verdicts import broken
from harness.core.errors import HarnessError, InputError
from harness.core.words import counted

SOURCE = re.compile(r"^Source:.*\b(1[6-9]|20)\d\d\b", re.MULTILINE | re.DOTALL)
"""A source as docstrings name it: author, year, title."""


def documented(trials: Trials) -> str:
    """Look at the docstring.

    Raises:
        Broken: there is none, or it names no source.
    """
    strategy = trials.strategy
    where, text = _place(strategy), inspect.cleandoc(strategy.__doc__ or "")
    if not text:
        broken(
            f"{strategy.__name__} has no docstring",
            where,
            "say in the class's docstring what its workers tell each other, and where that is from",
        )
    if not SOURCE.search(text):
        broken(
            "its docstring names no source",
            where,
            'end it with a line such as "Source: Dean et al. 2012, Large Scale Distributed Deep Networks."',
        )
    return text.partition("\n")[0]


def _place(thing: type[object]) -> str:
    """Return file and line of a class."""
    try:
        return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return thing.__qualname__


def options_refused(trials: Trials) -> str:
    """Set options wrongly, one at a time, as a scenario would.

    Raises:
        Broken: a wrong one is accepted, or is refused by anything but one clear error.
    """
    strategy = trials.strategy
    where = _place(strategy.Options)
    if not issubclass(strategy.Options, Options):
        broken(
            f"{strategy.__name__}.Options is no subclass of harness.Options",
            where,
            "write `class Options(Options)`: it refuses unknown keys, and its values do not change",
        )
    try:
        strategy.Options()
    except ValidationError as error:
        missing = ", ".join(str(item["loc"][0]) for item in error.errors())
        broken(f"without a scenario's options it cannot be made: {missing}", where, "give every option a valid default")
    _refused(trials, "no_such_option", "1", where, "an unknown option", "leave `extra` of Options as it is")
    for name, field in strategy.Options.model_fields.items():
        if not field.description:
            broken(
                f"the option {name} has no description",
                where,
                f'write `{name}: ... = Field(default, description="what it does")`: `harness plugins` shows it',
            )
        typed = "give it a type that says what it may be, such as int with ge=1, or Literal"
        _refused(trials, name, "{ wrong = true }", where, f"a table in place of {name}", typed)
    known = len(strategy.Options.model_fields)
    return f"{counted(known, 'option')}, each refuses what it is not" if known else "none, and unknown ones are refused"


def _refused(trials: Trials, option: str, value: str, where: str, what: str, then: str) -> None:
    table = f'\n[strategy."{trials.name}"]\n{option} = {value}\n'
    try:
        trials.plan("engine=virtual", EVALUATED, table=table)
    except InputError as error:
        if len(error.problems) == 1:
            return
        broken(f"{what} is answered by {counted(len(error.problems), 'problem')}", where, then)
    except HarnessError:
        raise
    except Exception as error:  # a validator of the strategy's own may raise anything
        broken(f"{what} is answered by {type(error).__name__}: {error}", where, "raise ValueError in validators")
    broken(f"{what} is accepted: {option} = {value}", where, then)
