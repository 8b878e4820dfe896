"""Take a strategy through all lines; find the strategies that a name, a file or a folder means."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.api.host import Host, load_host
from harness.commands.check.clocks import engines_agree, replays, staleness, timed_without_numbers
from harness.commands.check.hardship import leaves, memory_flat, slow, stops_at_budget, stops_at_target, stops_at_time
from harness.commands.check.said import documented, options_refused
from harness.commands.check.trained import alone, equal, repeats, trains
from harness.commands.check.trials import Trials
from harness.commands.check.verdicts import Broken, DoesNotApply, Grade, Line, LineVerdict
from harness.core.errors import HarnessError, InputError, MachineError, one_of
from harness.core.text import Text

LINES: dict[Line, Callable[[Trials], str]] = {
    Line.DOCUMENTED: documented,
    Line.OPTIONS: options_refused,
    Line.TRAINS: trains,
    Line.ALONE: alone,
    Line.EQUAL: equal,
    Line.REPEATS: repeats,
    Line.REPLAYS: replays,
    Line.ENGINES: engines_agree,
    Line.STALENESS: staleness,
    Line.LEAVES: leaves,
    Line.SLOW: slow,
    Line.TARGET: stops_at_target,
    Line.TIME: stops_at_time,
    Line.BUDGET: stops_at_budget,
    Line.MEMORY: memory_flat,
    Line.TIMING: timed_without_numbers,
}
"""What looks at each line, in the order in which they run."""

SAID = (Line.DOCUMENTED, Line.OPTIONS)
"""Lines for which nothing is trained."""


@dataclass(frozen=True)
class Subject:
    """A strategy to be checked, or a plugin that could not be loaded.

    Attributes:
        name: of the strategy, or the path of the plugin.
        refused: why it could not be loaded; empty where it was.
    """

    name: str
    host: Host
    files: tuple[str, ...] = ()
    refused: str = ""


def subjects(what: str, plugins: Sequence[str]) -> list[Subject]:
    """Return the strategies that a name, a plugin file or a folder of such files means.

    Raises:
        InputError: there is none.
    """
    if not what.endswith(".py") and not Path(what).is_dir():
        files = tuple(str(Path(path).resolve()) for path in plugins)
        host = load_host(files)
        name, reason = host.named(what), host.why_broken(what)
        if name is None and reason is None:
            meant = host.suggest(what) or "."
            then = "Give a strategy's name (`harness plugins` lists all), a plugin file (.py) or a folder of them"
            raise InputError([f"check {what}: no strategy is called so{meant} {then}"])
        return [Subject(name or what, host, files, "" if name else reason or "")]
    path = Path(what).resolve()
    files = (str(path), *(str(Path(each).resolve()) for each in plugins))
    host = load_host(files)
    below = [path] if path.is_file() else sorted(path.glob("*.py"))
    brought = {str(each) for each in below}
    found = [
        Subject(name, host, files) for (kind, name), at in host.origins.items() if kind == "strategy" and at in brought
    ]
    found += [Subject(at, host, files, why) for at, why in host.broken.items() if at in brought]
    if not found:
        raise InputError([f"{what}: no strategy is registered there; write harness_strategies in a file (.py) of it"])
    return found


def chosen_lines(named: Sequence[str]) -> tuple[Line, ...]:
    """Return the lines of these names, all where there is none.

    Raises:
        InputError: there is no such line.
    """
    for name in named:
        if name not in set(Line):
            raise InputError([f"check: --line {name}: {one_of(name, list(Line))}"])
    return tuple(line for line in Line if not named or line in named)


def examine(
    subject: Subject, quick: bool = False, sets: Sequence[str] = (), lines: Sequence[Line] = tuple(Line)
) -> Iterator[LineVerdict]:
    """Take a strategy through the lines, and yield what each found.

    Args:
        subject: what to check.
        quick: leave out what is examined twice.
        sets: options of the strategy, KEY=VALUE each.
        lines: those to run; what does not train is not looked at further.

    Raises:
        InputError: an option is set that there is not, or to what it cannot be.
        MachineError: this machine cannot run the trials.
    """
    if subject.refused:
        yield LineVerdict(Line.LOADS, Grade.FAILED, Text(subject.refused), Text(subject.name), Text(RULES))
        return
    if Line.LOADS in lines:
        origin = subject.host.origins["strategy", subject.name]
        yield LineVerdict(Line.LOADS, Grade.PASSED, Text(origin))
    trials = Trials(subject.name, subject.host, quick, subject.files, tuple(sets))
    if sets:
        trials.refuse_sets()
    trained = True
    with trials.around:
        for line, look in LINES.items():
            if line not in lines:
                continue
            if not trained and line not in SAID:
                yield LineVerdict(line, Grade.NOT_APPLICABLE, Text("it does not train yet; mend that first"))
                continue
            verdict = _verdict(line, look, trials)
            trained = trained and not (line is Line.TRAINS and verdict.grade is Grade.FAILED)
            yield verdict


RULES = "a strategy imports from harness, pydantic and the standard library; what exists on one clock only is refused"


def _verdict(line: Line, look: Callable[[Trials], str], trials: Trials) -> LineVerdict:
    began = time.monotonic()
    grade, where, cause = Grade.PASSED, Text(""), Text("")
    try:
        found = Text(look(trials))
    except Broken as error:
        grade, found, where, cause = Grade.FAILED, error.found, error.where, error.cause
    except DoesNotApply as error:
        grade, found = Grade.NOT_APPLICABLE, Text(str(error))
    except MachineError:
        raise
    except HarnessError as error:  # such as what its layout raises when a plan asks for it
        grade, found, where = Grade.FAILED, Text(str(error)), Text(f"{trials.name}, when its cells were planned")
        cause = Text("the message says it")
    return LineVerdict(line, grade, found, where, cause, time.monotonic() - began)
