"""What attacks share: hostile values, a command run in this process and judged, and the count of what held."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from click.testing import CliRunner, Result

from harness.commands.cli import main

MOST_EXTRA_CPU_S = 2.0
MOST_EXTRA_BYTES = 10**9
HANGS_AFTER_S = 20
OURS = 4
"""The exit code that says: a bug of the harness."""

PAYLOADS = (
    "\x1b]0;title\x07",
    "\x1b[2J\x1b[31mred",
    "back\b\b\bspace",
    "carriage\rreturn",
    "\x9b31mC1",
    "\x7fdelete",
    "right\u202eto left",
    "line\u2028separator",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "'; alert(1); '",
    "</style></svg><b>",
    "{{ 7 * 7 }}{% raw %}",
    "[link](javascript:alert(1)) ![i](http://x.example/y.png)",
    "| a | b |\n|---|---|\n# head\n```\n",
    "lone \udcff surrogate",
    "x" * 100_000,
)
"""Text that steers a terminal, a page or Markdown where nobody looks at it."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, 1e308, -1e308, 10**20, int("9" * 310), 2**31, 2**63),
    *("", "x", "none", "auto", "both", "1", "-1", "nan", "inf", "9" * 4301, "3 GB/s", "0 s", "1e999 s", "../../../x"),
    *("/dev/zero", "/dev/stdin", "~nobody/x", "x" * 300, "x\0y", "x.py:f", *PAYLOADS[:-2], "y" * 30_000),
    *(
        [],
        {},
        [[]],
        [{}],
        [1, "a"],
        [1, 1],
        {"name": "x"},
        {"a": {"b": [1]}},
        [None],
        {"from": 1, "to": 9, "points": 3},
    ),
)
"""What may stand in the place of any value of TOML or JSON; None for nothing."""


@dataclass
class Tally:
    """Tried, held, failed; what failed is kept with what it was.

    Attributes:
        usual_s: CPU of the command on what was not attacked, by what it was.
    """

    name: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)

    def count(self, what: str, wrong: str) -> None:
        """Count one try; `wrong` says what did not hold."""
        self.tried += 1
        if wrong:
            self.failures.append(f"{what[:300]}: {wrong[:600]}")

    def close(self) -> None:
        """Print the count, and fail where something did not hold."""
        held = self.tried - len(self.failures)
        print(f"{self.name}: tried {self.tried}, held {held}, failed {len(self.failures)}")
        assert self.tried
        assert not self.failures, "\n".join([f"{len(self.failures)} of {self.tried}", *self.failures[:12]])


@contextmanager
def limited(seconds: int = HANGS_AFTER_S) -> Iterator[None]:
    """Interrupt what computes for so long: a hang is counted, and the attack goes on."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, earlier)


def tried(*words: str) -> tuple[Result, float]:
    """Run a command in this process; return what it did, and the CPU seconds that it took."""
    began = time.process_time()
    with limited():
        done = CliRunner().invoke(main, list(words))
    return done, time.process_time() - began


def wrong_with(done: Result, cpu_s: float, usual_s: float, allowed: tuple[int, ...] = (0, 1, 2, 3, 5)) -> str:
    """Say what is wrong with how a command ended; nothing where all is well."""
    if done.exit_code not in allowed or isinstance(done.exception, Exception):
        return f"exit {done.exit_code}, {_traceback(done)}"
    if "Traceback" in done.output:
        return f"a traceback: {done.output[-300:]}"
    if cpu_s > usual_s + MOST_EXTRA_CPU_S:
        return f"{cpu_s:.1f} s of CPU, {usual_s:.1f} s usually"
    if len(done.output) > 3_000_000:
        return f"{len(done.output)} characters of output"
    return ""


def _traceback(done: Result) -> str:
    if done.exit_code == OURS:
        path = Path(done.output.strip().rpartition(" ")[2])
        text = path.read_text()
        path.unlink()
        return text[-500:]
    return repr(done.exception)


@contextmanager
def no_gigabyte(tally: Tally) -> Iterator[None]:
    """Count a failure where the process's peak grew by a gigabyte."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    tally.count("memory", f"{grown:,} bytes" if grown > MOST_EXTRA_BYTES else "")


def below(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of every file below a folder."""
    found = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in found}


# -- mutations ---------------------------------------------------------------------------------------------------------


def toml_of(value: Any) -> str:
    """Write a value as TOML does; what it cannot say as something else that is wrong."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{key}" = {toml_of(item)}' for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    return json.dumps(value) if isinstance(value, (str, bool)) else repr(value)


def mutated_toml(text: str, draw: random.Random) -> str:
    """Return a scenario with one to three mistakes."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        text = draw.choice(_OF_TOML)(text, draw)
    return text


def _other_value(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    places = [k for k, line in enumerate(lines) if "=" in line and not line.lstrip().startswith("#")]
    if places:
        place = draw.choice(places)
        lines[place] = f"{lines[place].partition('=')[0]}= {toml_of(draw.choice(VALUES))}"
    return "\n".join(lines)


def _deeper(text: str, draw: random.Random) -> str:
    depth = draw.choice((20, 70, 500, 3000))
    lines = text.split("\n")
    places = [k for k, line in enumerate(lines) if "=" in line] or [0]
    place = draw.choice(places)
    lines[place] = f"{lines[place].partition('=')[0]}= {'[' * depth}{']' * depth}"
    return "\n".join(lines)


def _moved_line(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    lines.insert(draw.randrange(len(lines)), draw.choice(lines))
    return "\n".join(lines)


def _lost_line(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    del lines[draw.randrange(len(lines))]
    return "\n".join(lines)


def _other_key(text: str, draw: random.Random) -> str:
    table = draw.choice(
        ("", "workload", "sweep", "goal", "cluster", "limits", "faults", "measure", "cost", "strategy.x")
    )
    key = draw.choice(("model", "dataset", "name", "gpus", "device", "x", "a.b.c", '"\\u001b[2J"', "observed", "table"))
    return f"{text}\n{f'[{table}]' if table else ''}\n{key} = {toml_of(draw.choice(VALUES))}\n"


def _other_character(text: str, draw: random.Random) -> str:
    if not text:
        return "\0"
    place = draw.randrange(len(text))
    return text[:place] + draw.choice("\0\x1b\"'[]{}=.,#\n\u202e9\udcff") + text[place + 1 :]


def _cut_off(text: str, draw: random.Random) -> str:
    return text[: draw.randrange(1 + len(text))]


_OF_TOML: tuple[Callable[[str, random.Random], str], ...] = (
    *(_other_value,) * 6,
    *(_deeper, _moved_line, _lost_line, _other_key, _other_key, _other_character, _cut_off),
)


def mutated_json(content: Any, draw: random.Random) -> bytes:
    """Return a record or plan with one to three changes, as bytes."""
    content = json.loads(json.dumps(content))
    for _ in range(draw.choice((1, 1, 2, 3))):
        holder, key = draw.choice(list(_places(content)))
        if draw.random() < 0.15:
            del holder[key]
        else:
            holder[key] = draw.choice(VALUES)
        if not content:
            break
    data = json.dumps(content).encode()
    if draw.random() < 0.1:
        data = data[: draw.randrange(len(data))]
    if draw.random() < 0.1:
        place = draw.randrange(1 + len(data))
        data = data[:place] + draw.choice((b"\0", b"\xff", b"NaN", b"[" * 2000, b"9" * 5000)) + data[place + 1 :]
    return data


# -- text --------------------------------------------------------------------------------------------------------------

FieldPath = tuple[str | int, ...]

KEY, FIRST = "<key>", "<first>"
"""In a path: the name of an entry itself, and the first entry, whatever its name."""


def text_fields(kind: type, example: dict[str, Any], path: FieldPath = ()) -> Iterator[FieldPath]:
    """Yield where text may stand in what a dataclass is stored as, as its types say.

    Args:
        example: of it, as JSON, in which no part is None or empty whose type is a dataclass.
    """
    hints = get_type_hints(kind)
    for each in fields(kind):
        yield from _text_in(hints[each.name], example[each.name], (*path, each.name))


def _text_in(hint: Any, example: Any, path: FieldPath) -> Iterator[FieldPath]:
    origin, parts = get_origin(hint), [part for part in get_args(hint) if part not in (type(None), ...)]
    if hint in (str, Any):
        yield path
    elif is_dataclass(hint):
        assert isinstance(example, dict), f"{path}: the example needs a {hint.__name__}"
        yield from text_fields(hint, example, path)
    elif origin in (Union, UnionType):
        shapes = [part for part in parts if is_dataclass(part)]
        own = [part for part in shapes if isinstance(example, dict) and {f.name for f in fields(part)} == set(example)]
        assert own or not shapes, f"{path}: the example needs one of {shapes}"
        for part in [*own, *(part for part in parts if part not in shapes)]:
            yield from _text_in(part, example, path)
    elif origin in (tuple, list, Sequence):
        yield from _text_in(parts[0], example[0] if example else None, (*path, 0))
    elif origin in (dict, Mapping):
        if parts[0] is str:
            yield (*path, KEY)
        yield from _text_in(parts[1], next(iter(example.values()), None), (*path, FIRST))


def with_text(content: Any, path: FieldPath, text: str) -> Any:
    """Return JSON with a text at a path that `text_fields` gave; entries that are missing are made."""
    if not path:
        return text
    key, *rest = path
    if isinstance(key, int):
        items = list(content or [None])
        return [with_text(items[0], tuple(rest), text), *items[1:]]
    table = dict(content or {})
    if key == KEY:
        return {text: next(iter(table.values()), "x"), **table}
    key = next(iter(table), "x") if key == FIRST else key
    return table | {key: with_text(table.get(key), tuple(rest), text)}


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from _places(content[key])


def mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    """Return a file with one to three changes of its bytes."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        place = draw.randrange(1 + len(content))
        new = draw.choice(_BYTES)
        content = draw.choice(
            (content[:place] + new + content[place + len(new) :], content[:place] + new, new + content)
        )
    return content


_BYTES = (
    *(
        b"",
        b"\0",
        b"\xff\xff\xff\xff",
        b"\n",
        b'"',
        b",",
        b",,,,",
        b"-1",
        b"nan",
        b"1e999",
        b"9" * 400,
        b"\r",
        b";",
        b"0",
    ),
    *(b"\x1b[2J", b"\xef\xbb\xbf", b"\x1f\x8b\x08", b"x" * 140_000, b'"a\nb"'),
)
