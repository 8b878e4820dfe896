"""A model, and a schedule for servers, that do in the middle of training what `HARNESS_TEST_FAULT` names.

What is done is the function of that name below. One process does it: the first that asks after training has begun.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from pathlib import Path

import torch
from torch import nn

FOLDER, FAULT, PLACE = "HARNESS_TEST_FOLDER", "HARNESS_TEST_FAULT", "HARNESS_TEST_PLACE"
"""Variables: where `begun` is written when training begins and `taken` by whoever fails; what he does; where."""


class Mute(Exception):
    """Cannot tell its text."""

    def __str__(self) -> str:
        """Fail."""
        raise KeyError("no text")


class Deep(BaseException):
    """No Exception."""


def value_error(x):
    raise ValueError("a fault of the model's")


def key_error(x):
    return {}["missing"]


def index_error(x):
    return [][3]


def zero_division(x):
    return 1 / 0


def assertion(x):
    assert isinstance(x, str), "a fault of the model's"


def attribute(x):
    return x.no_such_attribute


def not_implemented(x):
    raise NotImplementedError("not yet")


def of_the_system(x):
    raise OSError(28, "No space left on device")


def missing_file(x):
    return open("/no/such/file")


def type_error(x):
    return x + "text"


def unicode_error(x):
    return b"\xff".decode()


def recursion(x):
    return recursion(x)


def lone_surrogate(x):
    raise ValueError("lone \udcff surrogate")


def mute(x):
    raise Mute


def megabyte(x):
    raise ValueError("x" * 1_000_000)


def control_characters(x):
    raise ValueError("\x1b[2J\x1b]0;title\x07\0")


def exit_0(x):
    sys.exit(0)


def exit_in_words(x):
    raise SystemExit("words of the model's")


def interrupt(x):
    raise KeyboardInterrupt


def stop_iteration(x):
    return next(iter(()))


def generator_exit(x):
    raise GeneratorExit


def no_exception(x):
    raise Deep("deep")


def memory(x):
    raise MemoryError("no room")


def terabytes_of_torch(x):
    return torch.empty(10**15)


def terabytes_of_python(x):
    return bytearray(2**62)


def like_gloo(x):
    raise RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection closed by peer [::1]:9")


def own_gloo(x):
    raise RuntimeError("timed out waiting for my own gloo")


def like_the_allocator(x):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes")


def like_a_peer(x):
    raise ConnectionResetError(104, "Connection reset by peer")


def end_of_file(x):
    raise EOFError


def timed_out(x):
    raise TimeoutError("too late")


def segfault(x):
    os.kill(os.getpid(), signal.SIGSEGV)


def abort(x):
    os.abort()


def kill(x):
    os.kill(os.getpid(), signal.SIGKILL)


def terminate(x):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def bus_error(x):
    os.kill(os.getpid(), signal.SIGBUS)


def leave_0(x):
    os._exit(0)


def leave_7(x):
    os._exit(7)


def close_all(x):
    os.closerange(3, 4096)


def stop(x):
    os.kill(os.getpid(), signal.SIGSTOP)


def hang(x):
    while True:
        time.sleep(1)


def spin(x):
    while True:
        pass


def freeze_in_the_answer(x):
    frame = sys._getframe()
    while "control" not in frame.f_locals:
        frame = frame.f_back
    os.write(frame.f_locals["control"].fileno(), struct.pack("!i", 5000) + b"x" * 100)
    os.kill(os.getpid(), signal.SIGSTOP)


def not_a_number(x):
    return x * float("nan")


def wrong_shape(x):
    return x[:, :1].repeat(1, 7)[:, None]


FEW = 4
"""Calls of a model that go well before it fails: a trial step takes fewer, a measurement more."""


class AfterFew(nn.Linear):
    """A layer that fails after a few calls, whoever calls it."""

    fault = "value_error"
    calls = 0

    def forward(self, x):
        """Return the layer's outputs a few times."""
        type(self).calls += 1
        found = super().forward(x)
        changed = globals()[self.fault](found) if self.calls > FEW else None
        return found if changed is None else changed


def _after_few(name: str):
    def build(classes):
        return nn.Sequential(nn.Flatten(), type(name, (AfterFew,), {"fault": name})(16, classes))

    return build


raises, exits, kills, leaves = map(_after_few, ("value_error", "exit_in_words", "kill", "leave_7"))
hungers, has_no_numbers = map(_after_few, ("terabytes_of_torch", "not_a_number"))


def does_not_build(classes):
    """Fail."""
    raise ValueError("a fault of the model's")


def well(classes):
    """Return a model that does not fail."""
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))


def _attacked(place: str, x):
    folder = os.environ.get(FOLDER, "")
    if os.environ.get(PLACE) != place or not os.path.exists(f"{folder}/begun"):
        return x
    name = os.environ[FAULT]
    if name in ("not_a_number", "wrong_shape") or not os.path.exists(f"{folder}/taken"):
        try:
            with open(f"{folder}/taken", "x") as file:
                file.write(f"{os.getpid()}")
        except FileExistsError:
            if name not in ("not_a_number", "wrong_shape"):
                return x
        changed = globals()[name](x)
        return x if changed is None else changed
    return x


class Attacked(nn.Linear):
    """A layer that fails."""

    def forward(self, x):
        """Return the layer's outputs, unless its process is the one that fails."""
        return _attacked("worker", super().forward(x))


def model(classes):
    """Return a network of two layers, the last of which fails."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), Attacked(8, classes))


def schedule(step):
    """Return the factor of the learning rate; on a server it fails."""
    _attacked("server", None)
    return 1.0


def line_of(name: str) -> int:
    """Return the line in which the function of that name fails."""
    lines = Path(__file__).read_text().splitlines()
    return lines.index(f"def {name}(x):") + 2
