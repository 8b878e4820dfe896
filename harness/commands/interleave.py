"""`harness run SCENARIO --ab BASE NEW`: the same cells by two interpreters or checkouts, which take turns."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import InputError, MachineError, PluginError
from harness.core.parents import die_with_parent
from harness.core.records import Json
from harness.results.interleaved_with import mark_interleaved

SIDES = ("base", "new")

ASKED = """
import sys
import harness
print(harness.__file__)
print(harness.__version__, "on Python", sys.version.split()[0])
"""
"""What a side's interpreter is asked first: which code it would run."""

POINT_KEYS = ("strategy", "options", "swept", "engine", "device", "gpus", "micro_batch_size", "global_batch_size")
"""What pairs a cell of one side with one of the other, with its rate and seed: ids change with the code."""


@dataclass(frozen=True)
class SideToRun:
    """One of the two environments.

    Attributes:
        command: starts its harness; environment: variables that it needs.
        root: where its results go.
        code: the files of its harness; version: of them.
    """

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    root: Path
    code: str = ""
    version: str = ""

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this side's harness.

        Raises:
            HarnessError: it was refused, or could not be run; the message is its own.
        """
        asked = [*self.command, *words]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(asked, env=self.environment, preexec_fn=die_with_parent, **streams) as process:  # type: ignore[call-overload]
            try:
                out, err = process.communicate()
            except KeyboardInterrupt:
                process.send_signal(signal.SIGTERM)  # a second one at once is the same to it
                process.communicate()
                raise
        done = subprocess.CompletedProcess(asked, process.returncode, out, err)
        if done.returncode > 128:
            raise KeyboardInterrupt
        if done.returncode not in (0, 1):
            said = (done.stderr or done.stdout).strip()
            why = f"--ab: {self.name} ({self.code}) ended with exit code {done.returncode}: {said}"
            raise InputError([why]) if done.returncode == InputError.exit_code else MachineError(why)
        return done


def side_of(name: str, given: str, root: Path) -> SideToRun:
    """Return how to run the harness of an interpreter, a virtual environment or a checkout.

    Raises:
        InputError: it is none of them, or has no harness.
    """
    path = Path(given)
    python = next((p for p in (path / "bin" / "python", path / "Scripts" / "python.exe") if p.is_file()), None)
    found = python or (path if path.is_file() else shutil.which(given))
    checkout = (path / "harness" / "__init__.py").is_file() and python is None
    if not checkout and found is None:
        raise InputError(
            [
                f"--ab {given}: no virtual environment, interpreter or checkout; give a folder with bin/python, "
                "a python, or a folder with harness/ in it"
            ]
        )
    # A harness that is on the path of this process would stand before that of either side.
    entries = [e for e in os.environ.get("PYTHONPATH", "").split(os.pathsep) if e and not _is_checkout(Path(e))]
    entries = [str(path.resolve()), *entries] if checkout else entries
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entries)}
    program = sys.executable if checkout else str(found)
    asked = [program, "-P", "-c", ASKED]
    done = subprocess.run(asked, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it printed nothing"]
        raise InputError([f"--ab {given}: it cannot import harness: {last[0]}"])
    code, version = done.stdout.strip().splitlines()[-2:]
    command = (program, "-P", "-m", "harness")
    return SideToRun(name, command, environment, root / name, str(Path(code).parent), version)


def _is_checkout(folder: Path) -> bool:
    return (folder / "harness" / "__init__.py").is_file()


def run_in_turns(
    scenario: str, given: tuple[str, str], words: Sequence[str], root: Path, fresh: bool, say: Callable[[str], None]
) -> tuple[Path, Path]:
    """Run every cell on both sides, A B B A, and return the two folders of results.

    Args:
        words: options that both sides get, such as --set.
        root: the sides' results lie below it.
        fresh: run everything again.

    Raises:
        HarnessError: a side cannot be run, or refuses the scenario.
    """
    sides = [side_of(name, path, root) for name, path in zip(SIDES, given, strict=True)]
    for side in sides:
        say(f"{side.name}: {side.code}, version {side.version}")
    if sides[0].code == sides[1].code and sides[0].command == sides[1].command:
        say("  both sides are the same code: what differs is chance")
    plans = [_plan_of(side, scenario, words) for side in sides]
    turns = list(turns_of([plan["cells"] for plan in plans], fresh=fresh))
    for number, (place, only) in enumerate(turns, start=1):
        side = sides[place]
        again = ["--fresh"] if fresh else []
        done = side.run("run", scenario, *words, "--results", str(side.root), *again, "--only", only)
        ended = [line.partition("] ")[2] for line in done.stdout.splitlines() if line.startswith("[")]
        if not ended:
            raise PluginError(f"--ab: {side.name} ({side.code}) ran nothing: {(done.stderr or done.stdout).strip()}")
        say(f"[{number}/{len(turns)}] {side.name}: {'; '.join(ended)}")
    folders = [side.root / plan["name"] for side, plan in zip(sides, plans, strict=True)]
    mark_interleaved(folders[1], folders[0])
    return folders[0], folders[1]


def _plan_of(side: SideToRun, scenario: str, words: Sequence[str]) -> Json:
    done = side.run("plan", scenario, *words, "--results", str(side.root), "--json")
    try:
        content: Json = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr or done.stdout).strip()
        raise PluginError(f"--ab: {side.name} ({side.code}) printed no plan: {said}") from None
    return content


def turns_of(cells: Sequence[Sequence[Json]], *, fresh: bool) -> Iterator[tuple[int, str]]:
    """Yield which side runs next and which of its cells; simulated ones at once, as their times are exact."""
    for place, own in enumerate(cells):
        if any(cell["engine"] == "virtual" for cell in own):
            yield place, "engine=virtual"
    measured = [{_key(cell): cell for cell in own if cell["engine"] != "virtual"} for own in cells]
    for number, key in enumerate(dict.fromkeys([*measured[0], *measured[1]])):
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            cell = measured[place].get(key)
            if cell is not None and (fresh or not cell["finished"]):
                yield place, f"cell_id={cell['cell_id']}"


def _key(cell: Json) -> str:
    return json.dumps([cell[name] for name in (*POINT_KEYS, "learning_rate", "seed")], sort_keys=True)
