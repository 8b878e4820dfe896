"""A plugin with one mistake in it, written to a file and run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from cells import make_cell
from click.testing import CliRunner

from harness.commands.cli import main
from harness.engines.processes.launch import Result, run_cell

HEAD = """\
from harness import SERVER, Server, Strategy, Worker, hookimpl


class Mine(Strategy):
    name = "mine"
    synchrony = "synchronous"

"""

TAIL = """

@hookimpl
def harness_strategies():
    return [Mine]
"""

HELPERS = """

class Foreign:
    def __await__(self):
        yield self


async def nested():
    await Foreign()  # <-nested


def helper(batch):
    raise LookupError("not here")  # <-helper

"""


def write(tmp_path: Path, body: str) -> tuple[Path, int]:
    """Write a plugin and return it with the number of the line to be named."""
    loop = "    async def work(self, worker: Worker) -> None:\n        for batch in worker.batches():\n"
    text = HEAD + loop + f"            {body}\n" + HELPERS + TAIL
    wanted = "<-helper" if "helper(" in body else "<-nested" if "nested(" in body else "# <-"
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    return path, next(n for n, line in enumerate(text.splitlines(), 1) if line.rstrip().endswith(wanted))


def run(path: Path, engine: str) -> Result:
    cell = make_cell(
        engine=engine,
        plugins=(str(path),),
        workload={"model": "softmax"},
        goal={"target_accuracy": "none", "max_steps": 4},
        sweep__strategy="mine",
        limits={"cell_timeout": "60 s"},
    )
    return run_cell(cell, [str(path)])


SCENARIO = """\
engine = "ENGINE"
[workload]
model = "softmax"
[sweep]
strategy = "mine"
gpus = 1
[goal]
target_accuracy = "none"
max_steps = 4
"""


def command(tmp_path: Path, path: Path, engine: str, *arguments: str) -> SimpleNamespace:
    scenario = tmp_path / "s.toml"
    scenario.write_text(SCENARIO.replace("ENGINE", engine))
    words = ["run", str(scenario), "--plugins", str(path), "--results", str(tmp_path / "results"), *arguments]
    done = CliRunner().invoke(main, words)
    return SimpleNamespace(code=done.exit_code, output=done.output)
