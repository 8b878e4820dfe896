"""Attacks on what is read: scenarios, tables, data files, records and plans that nobody meant well."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import (
    VALUES,
    Tally,
    below,
    limited,
    mutated_bytes,
    mutated_json,
    mutated_toml,
    no_gigabyte,
    toml_of,
    tried,
    wrong_with,
)
from cells import make_cells
from lazy import lazy
from places import ROOT
from recorded import evaluations, record_of, results_at

from harness.core.errors import HarnessError, MachineError
from harness.core.outcome import STEP_COLUMNS
from harness.workloads.entries import TableOptions

np = lazy("numpy")
files = lazy("harness.workloads.files")
table_files = lazy("harness.workloads.table_files")

pytestmark = pytest.mark.fault

SEED = 14

BASE = """\
engine = "virtual"
[workload]
model = { parameters = "335 M", layers = 24, sequence = 128 }
[sweep]
strategy = ["sync-ddp", "single"]
gpus = [1, 2]
[goal]
max_steps = 3
[cluster]
device = { samples_per_second = 52, batch_size = 16 }
inter_node = "25 Gb/s"
[strategy.local-sgd]
steps = [4, 16]
[faults]
compute_jitter = 0.1
stragglers = [{ rank = 1, slowdown = 3.0 }]
[limits]
dram = "16 GB"
[[observed]]
strategy = "single"
throughput = "20 samples/s"
"""

PROFILE = b"name,forward_ms,backward_ms,activation_bytes,parameter_bytes\na,1.0,2.0,4096,1024\nb,0.5,1.0,2048,512\n"
BRANCHED = b"index,name,kind,predecessors,forward_ms,backward_ms,activation_bytes,parameter_bytes\n" + (
    b"1,in,Input,,1,2,40,0\n2,a,Conv,1,1,2,40,8\n3,b,Conv,1;2,1,2,40,8\n"
)
REDUCES = b"gpu,n,bytes,seconds\nA,2,1024,0.001\nA,2,1048576,0.01\nA,4,1024,0.002\n"
PRINTED = (
    b"# nThread 1 nGpus 2\n#  Rank  0 Group  0 Pid     10 on      a device  0 [0x01] X\n"
    b"#  Rank  1 Group  0 Pid     10 on      a device  1 [0x02] X\n# size count type redop root time algbw\n"
    b"     1024           256     float     sum      -1    12.34    0.08\n     4096  1024 float sum -1 20.1 0.2\n"
)


def test_scenarios(attacks: Callable[[int, int], int], tmp_path, monkeypatch) -> None:
    """Mutants of a scenario with nearly every table, and of the bundled ones that plan fast."""
    monkeypatch.chdir(tmp_path)
    draw, tally = random.Random(SEED), Tally("mutated scenarios")
    texts = [BASE] * 3 + [(ROOT / "scenarios" / f"{name}.toml").read_text() for name in ("ticket", "lenet", "speed")]
    Path("s.toml").write_text(BASE)
    tried("plan", "s.toml")
    usual_s = {}
    for text in texts:
        Path("s.toml").write_text(text)
        usual_s[text] = tried("plan", "s.toml")[1]
    with no_gigabyte(tally):
        for number in range(attacks(50, 5000)):
            text = draw.choice(texts)
            mutant = mutated_toml(text, draw)
            Path("s.toml").write_bytes(mutant.encode("utf-8", "surrogatepass"))
            wrong = wrong_with(*tried("plan", "s.toml"), usual_s[text])
            tally.count(f"{number}: {mutant}" if wrong else "", wrong or _foreign_files(tmp_path, {"s.toml"}))
    tally.close()


def _foreign_files(folder: Path, known: set[str]) -> str:
    new = {path.name for path in folder.iterdir()} - known
    return f"wrote {sorted(new)}" if new else ""


CHOSEN = {
    "nested": lambda d: f"description = {'[' * d}{']' * d}\n" + BASE,
    "inline": lambda d: BASE.replace('"25 Gb/s"', "{a=" * d + "1" + "}" * d),
    "dotted": lambda d: ".".join(["a"] * d) + " = 1\n" + BASE,
    "quoted": lambda d: ".".join(['"a"'] * d) + " = 1\n" + BASE,
    "header": lambda d: BASE + "[" + ".".join(["a"] * d) + "]\n",
    "keys": lambda d: "".join(f"k{k} = 1\n" for k in range(d)) + BASE,
    "tables": lambda d: BASE + "".join(f"[t{k}]\n" for k in range(d)),
    "observed": lambda d: BASE + "[[observed]]\n" * d,
    "options": lambda d: BASE.replace("[4, 16]", str(list(range(1, d + 1)))),
    "gpus": lambda d: BASE.replace("[1, 2]", str(list(range(1, d + 1)))),
    "layers": lambda d: BASE.replace("layers = 24", f"layers = {d}"),
    "digits": lambda d: BASE.replace("max_steps = 3", "max_steps = " + "9" * d),
    "hex": lambda d: BASE.replace("max_steps = 3", "max_steps = 0x" + "f" * d),
    "words": lambda d: f'description = "{"x" * d}"\n' + BASE,
    "comment": lambda d: "#" * d + "\n" + BASE,
}  # fmt: skip


@pytest.mark.parametrize("kind", CHOSEN)
def test_large_scenarios(kind, attacks, tmp_path, monkeypatch) -> None:
    """The same shape small and very large: it is refused in time, whatever grows."""
    monkeypatch.chdir(tmp_path)
    tally = Tally(f"large scenarios, {kind}")
    Path("s.toml").write_text(BASE)
    usual_s = max(tried("plan", "s.toml")[1] for _ in range(2))
    with no_gigabyte(tally):
        for size in (4301, 30_000, *(60, 310, 900, 100_000, 1_000_000)[: attacks(0, 5)]):
            Path("s.toml").write_text(CHOSEN[kind](size))
            tally.count(str(size), wrong_with(*tried("plan", "s.toml"), usual_s))
    tally.close()


def test_sets(attacks, tmp_path, monkeypatch) -> None:
    """--set with every key and hostile values."""
    monkeypatch.chdir(tmp_path)
    draw, tally = random.Random(SEED), Tally("--set")
    Path("s.toml").write_text(BASE)
    usual_s = max(tried("plan", "s.toml")[1] for _ in range(2))
    keys = ("gpus", "goal.max_steps", "cluster.device", "learning_rate", "model", "faults.deaths", "strategy.single.x",
            "workload.optimizer.momentum", "limits.dram", "plugins", "a." * 100 + "b", "", "seeds")  # fmt: skip
    for _ in range(attacks(16, 1000)):
        word = f"{draw.choice(keys)}={toml_of(draw.choice(VALUES))}".replace("\0", "")
        tally.count(word, wrong_with(*tried("plan", "s.toml", "--set", word), usual_s))
    tally.close()


@pytest.mark.parametrize("kind", ["profile", "table"])
def test_tables_of_times(kind, attacks, tmp_path, monkeypatch) -> None:
    """Files of layers' times and of all-reduces, as a scenario names them."""
    monkeypatch.chdir(tmp_path)
    draw, tally = random.Random(SEED), Tally(f"files of times: {kind}")
    profile = BASE.replace(
        '{ parameters = "335 M", layers = 24, sequence = 128 }', '{ profile = "t.csv", batch_size = 4 }'
    )
    profile = profile.replace("device = { samples_per_second = 52, batch_size = 16 }", "")
    table = BASE.replace('"25 Gb/s"', '{ table = "t.csv" }')
    Path("s.toml").write_text({"profile": profile, "table": table}[kind])
    good = {"profile": (PROFILE, BRANCHED), "table": (REDUCES, PRINTED)}[kind]
    usual_s = 0.0
    for content in (*good, *good):
        Path("t.csv").write_bytes(content)
        done, usual_s = tried("plan", "s.toml")
        assert done.exit_code == 0, done.output
    with no_gigabyte(tally):
        for _ in range(attacks(24, 1000)):
            content = mutated_bytes(draw.choice(good), draw)
            Path("t.csv").write_bytes(content)
            tally.count(repr(content), wrong_with(*tried("plan", "s.toml"), usual_s))
    tally.close()


def idx(shape: tuple[int, ...], values: bytes) -> bytes:
    return struct.pack(f">{1 + len(shape)}I", 2048 + len(shape), *shape) + values


def test_data_files(attacks, tmp_path) -> None:
    """IDX, plain and packed, and tables of data: each is read, or refused in words."""
    draw, tally = random.Random(SEED), Tally("data files")
    good = idx((5, 4, 4), bytes(80))
    table = b"a,b,y\n" + b"".join(b"%d,%d.5,%d\n" % (k, k * 3, k % 2) for k in range(40))
    path = tmp_path / "t.csv"
    with no_gigabyte(tally):
        for _ in range(attacks(80, 2000)):
            content = mutated_bytes(draw.choice((good, gzip.compress(good))), draw)
            tally.count(repr(content[:99]), _refused_in_words(lambda c=content: files.parse_idx(path, c, (3, 4))))
        for _ in range(attacks(20, 1000)):
            path.write_bytes(content := mutated_bytes(table, draw))
            options = TableOptions(path=path, target="y")
            tally.count(repr(content[:99]), _refused_in_words(lambda o=options: table_files.load_table(o)))
    tally.close()


def _refused_in_words(read: Callable[[], object]) -> str:
    began = time.process_time()
    try:
        with limited():
            read()
    except HarnessError:
        pass
    except BaseException as error:
        return repr(error)
    spent_s = time.process_time() - began
    return f"{spent_s:.1f} s" if spent_s > 2 else ""


def packed_zeros(head: bytes, num_bytes: int) -> bytes:
    """Return a gzip file of a head and so many zeros."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9) as stream:
        stream.write(head)
        for _ in range(num_bytes // 2**20):
            stream.write(bytes(2**20))
    return packed.getvalue()


@pytest.mark.parametrize("shape", [(5, 4, 4), (2**31, 2**31, 2**31)])
def test_a_gzip_bomb_is_unpacked_no_further_than_its_header_says(attacks, shape) -> None:
    tally = Tally(f"gzip bombs, {shape}")
    bomb = packed_zeros(idx(shape, b""), attacks(2**26, 2**31))
    with no_gigabyte(tally), pytest.raises(MachineError, match="not what its header says"):
        files.parse_idx(Path("bomb.gz"), bomb, (3,))
    tally.close()


def parquet_bomb(kind: str, path: Path) -> None:
    """Write some thousand bytes that unpack to gigabytes: one number, one long text, or one list, repeated."""
    import pyarrow
    from pyarrow import parquet

    rows = 2 * 10**6
    zeros = pyarrow.array(np.zeros(rows))
    table = {
        "numbers": pyarrow.table({f"column {k}": zeros for k in range(40)}),
        "texts": pyarrow.table(
            {"night": pyarrow.DictionaryArray.from_arrays(np.zeros(1000, "int32"), ["x" * 10**6, "y"])}
        ),
        "lists": pyarrow.table({"reference_runs_s": pyarrow.array([np.zeros(6 * 10**7)])}),
        "columns": pyarrow.table({f"c{k}": [0] for k in range(300)}),
    }[kind]
    groups = {"columns": 400}.get(kind, 1)
    with parquet.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(groups):
            writer.write_table(table)


@pytest.mark.parametrize(
    "kind", ["texts", *(pytest.param(k, marks=pytest.mark.slow) for k in ("numbers", "lists", "columns"))]
)
def test_a_parquet_bomb_is_counted_before_it_is_unpacked(kind, tmp_path) -> None:
    """Beside a record, in a history, and as data: each in a process of its own, whose memory is looked at."""
    tally = Tally(f"parquet bombs, {kind}")
    (tmp_path / "nights").mkdir()
    bomb = tmp_path / "nights" / "1.parquet"
    parquet_bomb(kind, bomb)
    code = BOMBED.format(nights=str(tmp_path), bomb=str(bomb))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    told = done.stdout.splitlines()
    tally.count("memory", "" if done.returncode == 0 and int(told[-1]) < 10**9 else done.stdout + done.stderr)
    for line in told[:-1]:
        allowed = kind == "texts" and line.startswith("frame: read")  # a text that is repeated is kept once
        tally.count(line, "" if allowed or "InputError" in line or "MachineError" in line else line)
    tally.close()


BOMBED = """
import resource
from pathlib import Path
import pandas, pyarrow.parquet
from harness.results.history import read_history
from harness.results.tables import read_parquet
from harness.workloads.entries import TableOptions
from harness.workloads.table_files import load_table
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def attempt(name, read):
    try:
        read()
        print(name + ": read")
    except Exception as error:
        print(name + ":", type(error).__name__, str(error).replace(chr(10), " ")[:300])
attempt("frame", lambda: read_parquet(Path({bomb!r})))
attempt("history", lambda: read_history(Path({nights!r})))
attempt("data", lambda: load_table(TableOptions(path=Path({bomb!r}), target="y")))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""

BESIDE = {
    "reference.json": {
        "kind": "plain-loop-1-cpu-1",
        "runs": [
            {"started": "2031-01-01T01:00:00+00:00", "after_cells": k, "seconds": 1.0 + k / 100} for k in range(4)
        ],
    },
    "interleaved.json": {"with": "../base"},
}
"""What a night may have beside its cells."""


def test_what_lies_beside_the_cells_and_nights_of_strangers(recorded, attacks, tmp_path, monkeypatch) -> None:
    """Reference runs, the mark of turns taken, fresh runs and histories, mutated: read, or refused in words."""
    monkeypatch.chdir(tmp_path)
    draw, tally = random.Random(SEED), Tally("references, turns, fresh runs and nights")
    new = Path(shutil.copytree(recorded, tmp_path / "new" / "lenet"))
    shutil.copytree(recorded, again := new / "reruns" / "1")
    contents = {new / name: content for name, content in BESIDE.items()}
    contents |= {again / "plan.json": json.loads((again / "plan.json").read_bytes())}
    for path, content in contents.items():
        path.write_text(json.dumps(content))
    compare = ("compare", str(recorded), str(new), "--history", "history")
    assert tried("history", "add", str(new), "--to", "history")[0].exit_code == 0
    (night,) = Path("history/nights").iterdir()
    kept = night.read_bytes()
    usual_s = max(tried(*compare)[1] for _ in range(2))
    with no_gigabyte(tally):
        for number in range(attacks(12, 1000)):
            path = draw.choice([*contents, night, night])
            if path == night:
                path.write_bytes(content := mutated_night(kept, draw))
            else:
                path.write_bytes(content := mutated_json(contents[path], draw))
            words = draw.choice(
                (compare, ("history", "show", "history"), ("history", "add", str(new), "--to", f"h{number}"))
            )
            wrong = wrong_with(*tried(*words), usual_s)
            tally.count(f"{words[:2]} {path.name} {content[:200]!r}" if wrong else "", wrong)
            path.write_bytes(kept if path == night else json.dumps(contents[path]).encode())
    tally.close()


def mutated_night(content: bytes, draw: random.Random) -> bytes:
    """Return a night of a history with damaged bytes, or whole with values that its columns do not have."""
    import pyarrow
    from pyarrow import parquet

    if draw.random() < 0.5:
        return mutated_bytes(content, draw)
    table = parquet.read_table(io.BytesIO(content))
    rows = table.to_pylist()
    for _ in range(draw.choice((1, 1, 2))):
        row, name = draw.choice(rows), draw.choice(table.column_names)
        kind = table.schema.field(name).type
        if pyarrow.types.is_string(kind):
            row[name] = str(draw.choice(VALUES)).encode("utf-8", "replace").decode()[:30_000]
        elif pyarrow.types.is_floating(kind):
            row[name] = draw.choice((0.0, -1.0, math.inf, -math.inf, math.nan, 1e308, 5e-324, None))
        elif pyarrow.types.is_integer(kind):
            row[name] = draw.choice((0, -1, 2**63 - 1, -(2**63), None))
    packed = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), packed)
    return packed.getvalue()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("records") / "results" / "lenet"
    cells = make_cells(sweep__strategy=["single", "sync-ddp"], sweep__gpus=[1, 2], sweep__seeds=2)
    results = results_at(folder, cells)
    for cell in cells:
        results.write_record(record_of(cell), {"evals.csv": evaluations(cell), "steps.parquet": STEPS})
    return folder


STEPS = {name: [0.001 * k for k in range(20)] for name in STEP_COLUMNS} | {"worker": [0] * 20, "step": list(range(20))}


@pytest.mark.slow
def test_tables_beside_records(recorded, attacks, tmp_path, monkeypatch) -> None:
    """Damaged curves and steps: drawn without, or refused in words."""
    monkeypatch.chdir(tmp_path)
    draw, tally = random.Random(SEED), Tally("tables beside records")
    cell = sorted(recorded.glob("cells/*"))[0]
    originals = {path: path.read_bytes() for path in (cell / "evals.csv", cell / "steps.parquet")}
    words = {
        "report": ("report", str(recorded), "--out", "page.html"),
        "compare": ("compare", str(recorded), str(recorded)),
        "show": ("show", str(recorded)),
    }
    usual_s = {name: max(tried(*command)[1] for _ in range(2)) for name, command in words.items()}
    with no_gigabyte(tally):
        for _ in range(attacks(2, 200)):
            path = draw.choice(list(originals))
            path.write_bytes(mutated_bytes(originals[path], draw))
            name = draw.choice(("report", "report", "compare", "show"))
            tally.count(f"{name} {path.name}", wrong_with(*tried(*words[name]), usual_s[name]))
            path.write_bytes(originals[path])
    tally.close()


def test_records_and_plans(recorded, attacks, tmp_path, monkeypatch) -> None:
    """Those of strangers: shown, compared and drawn, or refused in words; nothing outside is written."""
    monkeypatch.chdir(tmp_path)
    draw, tally = random.Random(SEED), Tally("records and plans")
    record = next(iter(sorted(recorded.glob("cells/*/record.json"))))
    originals = {path: path.read_bytes() for path in (record, recorded / "plan.json")}
    commands = {
        "show": ("show", str(recorded)),
        "cell": ("show", record.parent.name, "--results", str(recorded.parent)),
        "json": ("show", str(recorded), "--json"),
        "markdown": ("show", str(recorded), "--markdown"),
        "pair": ("show", *map(str, sorted(recorded.glob("cells/*"))[:2])),
        "status": ("status", str(recorded)),
        "compare": ("compare", str(recorded), str(recorded)),
        "report": ("report", str(recorded), "--out", "page.html"),
    }
    usual_s = {name: max(tried(*words)[1] for _ in range(2)) for name, words in commands.items()}
    before = below(recorded.parent)
    try:
        with no_gigabyte(tally):
            for number in range(attacks(14, 2000)):
                path = draw.choice((record, record, recorded / "plan.json"))
                path.write_bytes(content := mutated_json(json.loads(originals[path]), draw))
                often = [name for name in commands if name != "report"]
                name = "report" if number % 25 == 7 else draw.choice(often)
                wrong = wrong_with(*tried(*commands[name]), usual_s[name])
                what = f"{name} {path.name} {_difference(originals[path], content)}" if wrong else ""
                tally.count(what, wrong or _foreign_files(tmp_path, {"page.html"}))
                path.write_bytes(originals[path])
    finally:
        for path, content in originals.items():
            path.write_bytes(content)
    assert set(below(recorded.parent)) == set(before)
    tally.close()


def _difference(old: bytes, new: bytes) -> str:
    """Return what changed, as far as it is JSON still."""
    try:
        found = list(_changes(json.loads(old), json.loads(new), ""))
    except ValueError:
        return repr(new[:80])
    return "; ".join(found)[:280]


def _changes(old: object, new: object, path: str):
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _changes(old.get(key), new.get(key), f"{path}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _changes(one, other, f"{path}.{place}")
    elif old != new:
        yield f"{path} = {new!r}"[:120]


@pytest.mark.parametrize("kind", ["pipe", "zeros", "folder", "loop", "outside"])
def test_what_is_no_file_in_the_place_of_one(recorded, kind, attacks, tmp_path, monkeypatch) -> None:
    """A stranger's folder hangs nobody who looks at it, and shows him none of his own files."""
    monkeypatch.chdir(tmp_path)
    tally = Tally(f"{kind} in the place of a file")
    secret = tmp_path / "secret"
    secret.write_text("hidden words")
    make: dict[str, Callable[[Path], object]] = {
        "pipe": os.mkfifo,
        "zeros": lambda path: path.symlink_to("/dev/zero"),
        "folder": Path.mkdir,
        "loop": lambda path: path.symlink_to(path),
        "outside": lambda path: path.symlink_to(secret),
    }
    cell = sorted(recorded.glob("cells/*"))[-1]
    looks = (
        ("show", str(recorded)),
        ("show", str(cell)),
        ("show", str(cell), "--log"),
        ("compare", str(recorded), str(recorded)),
        ("report", str(recorded), "--out", "page.html"),
    )
    for name in ("record.json", "log.txt", "evals.csv"):
        path, kept = cell / name, None
        if path.exists():
            kept = path.rename(tmp_path / "kept")
        make[kind](path)
        try:
            for words in looks[: attacks(3, 5)]:
                done, cpu_s = tried(*words)
                seen = "hidden words" in done.output
                tally.count(f"{name} {words[0]}", wrong_with(done, cpu_s, 3.0) or ("showed a file" if seen else ""))
        finally:
            path.rmdir() if kind == "folder" else path.unlink()
            if kept:
                kept.rename(path)
    tally.close()


SHADOWED = """\
engine = "both"
[workload]
model = "softmax"
dataset = "digits"
[sweep]
strategy = ["sync-ddp"]
gpus = [2]
learning_rate = 0.1
[goal]
max_steps = 3
target_accuracy = "none"
"""


@pytest.mark.dist
@pytest.mark.slow
def test_nothing_is_imported_from_where_the_user_stands(tmp_path) -> None:
    """Every module of Python's, and some of ours, lies beside the scenario: none of our processes takes one."""
    tally, told = Tally("modules where the user stands"), tmp_path / "told"
    folder = tmp_path / "scenario"
    folder.mkdir()
    others = ("torch", "numpy", "pandas", "click", "pydantic", "psutil", "simpy", "pynvml", "sitecustomize")
    for name in (*(name for name in sys.stdlib_module_names if not name.startswith("__")), *others):
        (folder / f"{name}.py").write_text(f"open({str(told)!r}, 'a').write('{name} ')\nraise ImportError({name!r})\n")
    (folder / "s.toml").write_text(SHADOWED)
    code = "from harness.commands.cli import main; main()"  # as the installed command starts
    for words in (("run", "s.toml"), ("doctor",), ("show", "results/s"), ("report", "results/s")):
        done = subprocess.run([sys.executable, "-P", "-c", code, *words], cwd=folder, capture_output=True, text=True)
        taken = told.read_text() if told.exists() else ""
        tally.count(words[0], taken or (done.stdout + done.stderr)[-400:] * (done.returncode != 0))
    tally.close()


@pytest.mark.parametrize("raised", ["SystemExit(3)", "KeyError('x')", "RecursionError('deep')"])
def test_a_plugin_that_ends_itself_is_named(raised, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(f"raise {raised}\n")
    done = tried("plugins", "--plugins", "mine.py")[0]
    assert done.exit_code == 0
    assert "mine.py:1" in done.output
