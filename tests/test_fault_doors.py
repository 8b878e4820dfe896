"""Attacks on what outsiders reach: the port of a node, printed measurements, names, and those who listen to a run."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import PAYLOADS, Tally, mutated_bytes, no_gigabyte, tried, wrong_with

pytestmark = pytest.mark.fault

SEED = 14

# -- the port of a node ------------------------------------------------------------------------------------------------

LISTENS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
from harness.engines.processes.doors import Door
door = Door("127.0.0.1", 0, b"0123456789abcdef")
print(door.port, flush=True)
for line in sys.stdin:
    taken = door.take(("node", int(line)), 20.0)
    print("came" if taken else "nobody", flush=True)
"""

CALLS: dict[str, Callable[[random.Random], bytes]] = {
    "nothing": lambda draw: b"",
    "a web page": lambda draw: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "noise": lambda draw: draw.randbytes(draw.randrange(1, 5000)),
    "a word without its end": lambda draw: b"\x00\x00\x00\x20" + b"x" * 7,
    "a word of two gigabytes": lambda draw: b"\x7f\xff\xff\xff" + b"x" * 100,
    "a word of less than nothing": lambda draw: b"\xff\xff\xff\xff" + b"\xff" * 8 + b"x" * 100,
    "a wrong proof": lambda draw: b"\x00\x00\x00\x10" + draw.randbytes(16),
    "a challenge": lambda draw: b"\x00\x00\x00\x1f#CHALLENGE#" + draw.randbytes(20),
    "a pickle": lambda draw: b"\x00\x00\x00\x1ecos\nsystem\n(S'touch ran'\ntR." + b"x" * 4,
}

SILENT = ("nothing", "a word without its end")


@pytest.mark.dist
def test_garbage_on_a_nodes_port_keeps_nobody_out(attacks, tmp_path) -> None:
    """Many who say anything or nothing, and stay: whoever knows the key comes in, also where files run out."""
    from harness.engines.processes.doors import dial

    draw, tally = random.Random(SEED), Tally("callers of a node")
    listens = subprocess.Popen(
        [sys.executable, "-c", LISTENS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, text=True
    )
    assert listens.stdin is not None
    assert listens.stdout is not None
    port = int(listens.stdout.readline())
    with contextlib.ExitStack() as stay:
        for number in range(attacks(3, 30)):
            for _ in range(100):
                kind = draw.choice((*CALLS, *SILENT * 4))
                caller = stay.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10.0))
                with contextlib.suppress(OSError):  # it has hung up already
                    caller.sendall(CALLS[kind](draw))
                if draw.random() < 0.2:
                    caller.close()
                tally.count(kind, "" if listens.poll() is None else "it has ended")
            began = time.monotonic()
            dial(("127.0.0.1", port), b"0123456789abcdef", ("node", number), began + 20.0)
            print(number, file=listens.stdin, flush=True)
            came = listens.stdout.readline().strip()
            took_s = time.monotonic() - began
            tally.count(f"node {number}", "" if came == "came" and took_s < 15 else f"{came}, {took_s:.1f} s")
    listens.stdin.close()
    tally.count("its end", "" if listens.wait(20) == 0 else str(listens.returncode))
    tally.count("what it ran", "a pickle" if (tmp_path / "ran").exists() else "")
    listens.stdout.close()
    tally.close()


# -- printed measurements ----------------------------------------------------------------------------------------------

PRINTED = """\
# nccl-tests version 2.18.3 nccl-headers=23003 nccl-library=23003
# Collective test starting: all_reduce_perf
# nThread 1 nGpus 1 minBytes 8 maxBytes 16777216 step: 2(factor) warmup iters: 1 iters: 20 agg iters: 1 unalign: 0
#  Rank  0 Group  0 Pid  12812 on  node-a device  0 [0000:06:00] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid  12813 on  node-b device  0 [0000:06:00] NVIDIA H100 80GB HBM3
#       size      count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
#        (B) (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)
     1048576     262144     float     sum      -1    400.0    2.62    2.62       0    390.0    2.69    2.69       0
     4194304    1048576     float     sum      -1   1500.0    2.80    2.80       0   1510.0    2.78    2.78       2
# Avg bus bandwidth    : 2.7
"""

NUMBERS = (
    "0",
    "-1",
    "nan",
    "inf",
    "1e308",
    "1e-308",
    "9" * 400,
    "9" * 4301,
    "²",
    "٣",
    "N/A",
    "0x10",
    "",
    *PAYLOADS[:9],
)


def mutated_print(text: str, draw: random.Random) -> bytes:
    """Return what nccl-tests printed with damaged bytes, other words, or lines lost, moved and many times."""
    kind = draw.choice(("bytes", "word", "word", "line", "many"))
    if kind == "bytes":
        return mutated_bytes(text.encode(), draw)
    lines = text.splitlines()
    place = draw.randrange(len(lines))
    if kind == "word":
        words = re.split(r"(\s+)", lines[place])
        words[draw.randrange(len(words))] = draw.choice(NUMBERS)
        lines[place] = "".join(words)
    elif kind == "line":
        line = lines.pop(place)
        lines.insert(draw.randrange(1 + len(lines)), draw.choice((line, "")))
    else:
        lines[place:place] = [lines[place]] * draw.choice((2, 2000))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def test_printed_measurements_of_strangers(attacks, tmp_path, monkeypatch) -> None:
    """What `calibrate --import` is given: shown, or refused in words."""
    monkeypatch.chdir(tmp_path)
    draw, tally = random.Random(SEED), Tally("printed measurements")
    Path("p.txt").write_text(PRINTED)
    words = ("calibrate", "--import", "p.txt")
    done, usual_s = tried(*words)
    assert done.exit_code == 0, done.output
    with no_gigabyte(tally):
        for _ in range(attacks(60, 1000)):
            Path("p.txt").write_bytes(content := mutated_print(PRINTED, draw))
            form = draw.choice(("p.txt", "p.txt", "all-reduce=p.txt", "all_gather_perf=p.txt"))
            rated = draw.choice(((), (), ("--inter-node", "25 Gb/s")))
            done, cpu_s = tried(*words[:2], form, *rated)
            wrong = wrong_with(done, cpu_s, usual_s) or ("it steers" if "\x1b" in done.output else "")
            tally.count(repr(content) if wrong else "", wrong)
    for place in ("/dev/zero", ".", "none", "x=y", "=", "all-reduce=/dev/zero", "x" * 5000):
        tally.count(place, wrong_with(*tried(*words[:2], place), usual_s))
    tally.close()


# -- names -------------------------------------------------------------------------------------------------------------

NAMES = (
    *("", ".", "..", "/", "-", "--", "-x", "a/b", "../x", "/dev/null", "~nobody/x", "a b", "a.py", ".py", "x.py/y.py"),
    *(
        "class",
        "None",
        "con",
        "a-",
        "a--b",
        "é",
        "²",
        "a\nb",
        "a\x1b[2J",
        "x" * 5000,
        "9" * 5000,
        "{name}",
        "{0.__class__}",
        "%s",
    ),
    *('a"b', "a'; touch ran; '", "$(touch ran)", *PAYLOADS),
)
COMMANDS = (
    *(("new", kind, "{}", "--package") for kind in ("strategy", "workload", "probe")),
    *(("new", "strategy", "{}"), ("new", "scenario", "{}"), ("new", "scenario", "mine", "--from", "{}")),
    *(("new", "scenario", "mine", "--model", "{}")),
    ("new", "scenario", "mine", "--model", "train.py:build", "--data", "{}"),
    *(("check", "{}", "--quick"), ("check", "single", "--line", "{}")),
    ("check", "single", "--set", "{}", "--line", "documented"),
    *(("plugins", "{}"), ("plugins", "--plugins", "{}"), ("status", "{}"), ("status", "x", "--results", "{}")),
    ("run", "lenet", "--executor", "local:{}"),
    *(("export", "{}"), ("history", "show", "{}"), ("run", "{}"), ("run", "lenet", "--track", "{}")),
    *(("run", "lenet", "--track", "tensorboard={}", "--executor", "none"), ("doctor", "--model", "{}")),
    *(("calibrate", "--nnodes", "2", "--node-rank", "0", "--rendezvous", "{}", "--show"), ("schema", "{}")),
)  # fmt: skip


def test_names_on_the_command_line(attacks, tmp_path, monkeypatch) -> None:
    """Every name that a command takes: refused in words, and nothing is written outside of this folder."""
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    draw, tally = random.Random(SEED), Tally("names")
    every = [(command, name.replace("\0", "")) for command in COMMANDS for name in NAMES]
    for command, name in attacks(draw.sample(every, 60), every):
        words = [word.format(name) if word.endswith("{}") else word for word in command]
        done, cpu_s = tried(*words)
        wrong = wrong_with(done, cpu_s, 5.0) or ("it steers" if "\x1b" in done.output else "")
        outside = [each.name for each in (*tmp_path.iterdir(), *place.parent.iterdir()) if each.name not in "ab"]
        tally.count(f"{words}", wrong or (f"wrote {outside}" if outside else ""))
    tally.close()


# -- those who listen --------------------------------------------------------------------------------------------------

SMALL = """\
name = "small"
engine = "virtual"
[workload]
model = { parameters = "1 M", layers = 2 }
[sweep]
strategy = ["single"]
gpus = 1
seeds = 2
[goal]
max_steps = 3
[cluster]
device = { samples_per_second = 52, batch_size = 16 }
"""

LISTENER = """\
import os, sys, time
from harness import Listener, Tracker, hookimpl

class Mute(Exception):
    def __str__(self):
        raise KeyError("mute")

def hang():
    while True:
        try:
            time.sleep(60)
        except Exception:
            pass

class Bad(Listener):
    def {method}(self, *told):
        {fault}

def listen(where):
    if {method!r} == "listen":
        {fault}
    return Bad()

@hookimpl
def harness_trackers():
    return [Tracker("bad", "Fails.", "nothing", listen, {module!r}, "bad-kit")]
"""

METHODS = ("run_started", "cell_started", "cell_finished", "run_finished", "listen")
FAULTS = {
    "hang": "hang()",
    "spin": "while True: pass",
    "exits": "sys.exit(7)",
    "mute": "raise Mute()",
    "megabyte": "raise ValueError('x' * 10**6)",
    "steers": r"raise ValueError('\x1b[2J')",
    "recursion": "listen_again = lambda: listen_again(); listen_again()",
    "closes": "sys.stdout.flush(); raise OSError(28, 'No space left on device')",
    "leaves": "os.chdir('/')",
}

IMPATIENT = """\
from harness.commands import listening
listening.HEARS_S = listening.ENDS_S = 0.5
from harness.__main__ import start
start()
"""


@pytest.mark.dist
def test_a_tracker_that_fails_or_hangs_ends_no_run(attacks, tmp_path) -> None:
    """All cells have their records; what went wrong is said once, in bounds. One that cannot be made is refused."""
    tally = Tally("trackers")
    (tmp_path / "small.toml").write_text(SMALL)
    every = [(method, fault) for method in METHODS for fault in FAULTS if (method, fault) not in ENDLESS]
    for method, fault in attacks([("cell_finished", "hang"), ("run_finished", "exits"), ("listen", "mute")], every):
        (tmp_path / "bad.py").write_text(LISTENER.format(method=method, fault=FAULTS[fault], module=""))
        results = tmp_path / f"{method}-{fault}"
        words = ("run", "small.toml", "--plugins", "bad.py", "--track", "bad", "--results", str(results))
        done = subprocess.run([sys.executable, "-c", IMPATIENT, *words], cwd=tmp_path, capture_output=True, timeout=60)
        said = (done.stdout + done.stderr).decode()
        refused = method == "listen" and fault != "leaves"
        wrong = "" if done.returncode == (3 if refused else 0) else f"exit {done.returncode}: {said[-600:]}"
        wrong = wrong or ("it steers" if "\x1b[2J" in said else "")
        wrong = wrong or (f"{len(said)} characters" if len(said) > 50_000 else "")
        if not refused:
            records = len(list(results.glob("small/cells/*/record.json")))
            wrong = wrong or ("" if records == 2 else f"{records} records")
            known = "bad." in said or "bad:" in said or fault == "leaves"
            wrong = wrong or ("" if known else f"not a word: {said[-600:]}")
        tally.count(f"{method} {fault}", wrong)
    for module in ("no_such_package", "no_such.package", ".", "", "json.no_such", "os.path"):
        (tmp_path / "bad.py").write_text(LISTENER.format(method="run_started", fault="pass", module=module))
        done, cpu_s = tried(
            "run", str(tmp_path / "small.toml"), "--plugins", str(tmp_path / "bad.py"), "--track", "bad"
        )
        tally.count(f"package {module}", wrong_with(done, cpu_s, 10.0))
    tally.close()


ENDLESS = [("listen", "hang"), ("listen", "spin")]
"""While a tracker is made nothing runs yet, and whoever gave the command is there to end it."""
