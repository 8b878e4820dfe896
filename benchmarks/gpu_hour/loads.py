"""Loads that are known before anything measures them, and the shortest training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

PERIOD_S = 0.1
"""Of a load that works half of the time; chosen: shorter than the period over which a driver averages."""

WARM_STEPS = 10


def wait_for(device: torch.device) -> None:
    """Return once the device has done what it was given."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


@dataclass(frozen=True)
class Load:
    """What a load came to.

    Attributes:
        began_s, ended_s: on the clock of `time.monotonic`.
        duty: share of that time in which the device worked.
        cores: CPU time of this process over that time.
        times: repetitions of the work.
    """

    began_s: float
    ended_s: float
    duty: float
    cores: float
    times: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended_s - self.began_s


def half_of_the_time(work: Callable[[], object], device: torch.device, seconds: float) -> Load:
    """Repeat some work for half of every period, and rest for the other half."""
    work()
    wait_for(device)
    began, cpu_s, busy_s, times = time.monotonic(), time.process_time(), 0.0, 0
    while (start := time.monotonic()) < began + seconds:
        while time.monotonic() < start + PERIOD_S / 2:
            work()
            wait_for(device)
            times += 1
        busy_s += time.monotonic() - start
        time.sleep(max(0.0, start + PERIOD_S - time.monotonic()))
    ended, cpu_s = time.monotonic(), time.process_time() - cpu_s
    return Load(began, ended, busy_s / (ended - began), cpu_s / (ended - began), times)


def product(device: torch.device, side: int) -> Callable[[], object]:
    """Return a product of two square matrices."""
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def copying(device: torch.device, num_bytes: int) -> Callable[[], object]:
    """Return a copy within the device's memory, which reads and writes so many bytes."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


@contextmanager
def sampled(device: torch.device, interval_s: float = 0.05) -> Iterator[Callable[[], Any]]:
    """Sample this process with the harness's own sampler; hand out what ends it and returns its telemetry."""
    import multiprocessing
    import os

    from harness.engines.telemetry import Target
    from harness.engines.telemetry.sampler import Sampler

    where = "cpu" if device.type == "cpu" else f"{device.type}:{device.index or 0}"
    sampler = Sampler(multiprocessing.get_context("spawn"), [Target(os.getpid(), "load", where)], interval_s)
    sampler.start()
    sampler.ready(timeout_s=10.0)
    try:
        yield lambda: sampler.stop(timeout_s=5.0)
    finally:
        sampler.stop(timeout_s=5.0)


def shortest_loop(
    model: nn.Module, loss_of: nn.Module, data: tuple[torch.Tensor, torch.Tensor], batch: int, rate: float, steps: int
) -> float:
    """Return samples per second of the shortest loop that trains: data on the device, nothing looked at."""
    inputs, targets = data
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    batches = _batches(inputs, targets, batch)
    for step in range(WARM_STEPS + steps):
        if step == WARM_STEPS:
            wait_for(inputs.device)
            began = time.perf_counter()
        samples, labels = next(batches)
        optimizer.zero_grad()
        loss_of(model(samples), labels).backward()
        optimizer.step()
    wait_for(inputs.device)
    return steps * batch / (time.perf_counter() - began)


def _batches(inputs: torch.Tensor, targets: torch.Tensor, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield whole batches without end, in a new order at every pass."""
    while True:
        for index in torch.randperm(len(targets), device=inputs.device).split(batch):
            if len(index) == batch:
                yield inputs[index], targets[index]
