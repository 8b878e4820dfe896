"""Mistakes in a plugin: named by its own file and line, with no frame of ours, on both engines."""

from __future__ import annotations

from pathlib import Path

import pytest
from cells import make_cell
from mistaken_plugin import HEAD, TAIL, command, run, write

from harness.engines.processes.launch import Result
from harness.executors.make_record import make_record

# What stands in the loop over batches, and what must be said about it; the marked line is the one to name.
MISTAKES = {
    "raises": ("step = 1 / (2 - batch.step)  # <-", ["ZeroDivisionError", "1 / (2 - batch.step)"]),
    "raises in a function of its own": ("helper(batch)", ["LookupError: not here"]),
    "forgets an await": (
        "await worker.apply(worker.gradient(batch))  # <-",
        ["gradient(...) is used before it is awaited; write await gradient(...)"],
    ),
    "uses a word in arithmetic": (
        "half = worker.gradient(batch) * 0.5  # <-",
        ["gradient(...) is used before it is awaited"],
    ),
    "uses an attribute of a word": (
        "n = worker.gradient(batch).num_samples  # <-",
        ["gradient(...) is used before it is awaited"],
    ),
    "asks a word whether it is true": (
        "while worker.receive(): pass  # <-",
        ["receive(...) is used before it is awaited"],
    ),
    "awaits something foreign": (
        "await Foreign()  # <-",
        ["awaited Foreign, which is not a word of Worker"],
    ),
    "awaits a number": ("await 3  # <-", ["TypeError", "await"]),
    "awaits something foreign inside a function": (
        "await nested()",
        ["awaited Foreign, which is not a word of Worker"],
    ),
    "writes into a gradient": (
        "(await worker.gradient(batch)).tensor().mul_(0.5)  # <-",
        ["mul_ writes into a value, and values are immutable", "value.with_tensor(changed)"],
    ),
    "writes into a layer of the weights": (
        "next(iter(worker.layers(worker.weights).values()))[0] = 0  # <-",
        ["__setitem__ writes into a value"],
    ),
    "subtracts a tensor from a value": (
        "rest = worker.weights - worker.weights.tensor()  # <-",
        ["- takes a value", "got ReadOnly. Make a value of a tensor by value.with_tensor(tensor)"],
    ),
    "averages a tensor over the workers": (
        "await worker.mean(worker.weights.tensor())  # <-",
        ["mean takes a value", "value.with_tensor(tensor)"],
    ),
    "makes a value of half the numbers": (
        "worker.weights.with_tensor(worker.weights.tensor()[:3])  # <-",
        ["with_tensor takes a tensor of shape (650,)", "got torch.float32 of shape (3,)"],
    ),
    "applies what is no gradient": ("await worker.apply(3)  # <-", ["apply"]),
    "uses a word that there is not": ("await worker.sleep(1)  # <-", ["AttributeError", "sleep"]),
}


def check_named(path: Path, line: int, words: list[str], result: Result) -> None:
    assert (result.status, result.cause) == ("crashed", "user"), result.reason
    assert result.failure.raised_at in (None, (str(path), line)), "an await of something foreign passes no frame"
    assert f"{path}:{line}:" in result.reason, result.reason
    assert any(word in result.reason for word in words), result.reason
    others = [part for part in result.reason.split() if ".py:" in part and not part.startswith(str(path))]
    assert others == [], "frames of ours are none of the author's business"
    assert "Traceback" not in result.reason


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_named_on_the_virtual_engine(tmp_path, mistake):
    body, words = MISTAKES[mistake]
    path, line = write(tmp_path, body)
    check_named(path, line, words, run(path, "virtual"))


@pytest.mark.dist
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_named_on_the_real_engine(tmp_path, mistake):
    body, words = MISTAKES[mistake]
    path, line = write(tmp_path, body)
    check_named(path, line, words, run(path, "real"))


NEVER = "worker.apply(await worker.gradient(batch))  # <-"


def check_noted(path: Path, line: int, result: Result, engine: str) -> None:
    assert result.finished, result.reason
    cell = make_cell(engine=engine, plugins=(str(path),), sweep__strategy="mine")
    record, _ = make_record(cell, result, None, {"id": "env"}, 1)
    assert f"apply ({path}:{line}) was started 4 times and never awaited" in record.notes


def test_words_never_awaited_are_noted_on_the_virtual_engine(tmp_path):
    path, line = write(tmp_path, NEVER)
    check_noted(path, line, run(path, "virtual"), "virtual")


@pytest.mark.dist
def test_words_never_awaited_are_noted_on_the_real_engine(tmp_path):
    path, line = write(tmp_path, NEVER)
    check_noted(path, line, run(path, "real"), "real")


@pytest.mark.dist
@pytest.mark.parametrize("engine", ["virtual", "real"])
def test_mistake_of_a_server_is_named(tmp_path, engine):
    text = (
        HEAD
        + "    def servers(self, workers):\n        return 1\n\n"
        + "    async def work(self, worker):\n        for batch in worker.batches():\n"
        + "            await worker.send(await worker.gradient(batch), to=SERVER)\n"
        + "            await worker.receive(SERVER)\n\n"
        + "    async def serve(self, server):\n        message = await server.receive()\n        message.nothing\n"
        + TAIL
    )
    path = tmp_path / "mine.py"
    path.write_text(text)
    line = text.splitlines().index("        message.nothing") + 1
    result = run(path, engine)
    check_named(path, line, ["AttributeError: 'Message' object has no attribute 'nothing'"], result)
    assert result.reason.startswith("server: ") or engine == "virtual"


# -- the whole way, by the command -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["virtual", pytest.param("real", marks=pytest.mark.dist)])
@pytest.mark.parametrize("mistake", ["raises", "forgets an await", "awaits something foreign"])
def test_run_of_a_broken_program_ends_with_1_and_names_the_line(tmp_path, engine, mistake):
    body, words = MISTAKES[mistake]
    path, line = write(tmp_path, body)
    done = command(tmp_path, path, engine)
    assert done.code == 1
    assert f"{path}:{line}:" in done.output
    assert any(word in done.output for word in words)
    assert "Traceback" not in done.output
    assert "bug of the harness" not in done.output
    assert "next: harness show mine-b32-" in done.output


def test_run_of_a_plugin_that_imports_asyncio_ends_with_1_and_the_word_to_use(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import asyncio\n" + HEAD + TAIL)
    done = command(tmp_path, path, "virtual")
    assert done.code == 1
    assert f"{path}:1: a strategy must not import asyncio; instead: await the methods of Worker" in done.output
    assert "Traceback" not in done.output


def test_layout_that_raises_ends_with_1_and_names_the_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(HEAD + "    def layout(self, gpus):\n        return gpus / 0\n" + TAIL)
    done = command(tmp_path, path, "virtual")
    assert done.code == 1
    assert f"{path}:9: ZeroDivisionError" in done.output
    assert "Traceback" not in done.output


def test_debug_of_a_broken_program_names_the_line_too(tmp_path):
    path, line = write(tmp_path, MISTAKES["raises"][0])
    done = command(tmp_path, path, "virtual", "--debug")
    assert done.code == 1
    assert f"{path}:{line}:" in done.output
    assert "bug of the harness" not in done.output
