"""A plain PyTorch training loop of fixed size, run as a script of its own: `plain_loop.py DEVICE THREADS`.

It imports nothing of this package, so that what changes its time is the machine, PyTorch or the driver. It prints the
seconds that its timed steps took. To change anything here is to begin every history of nights anew: change the name
`LOOP` of the commands' `reference_runs.py` with it.
"""

from __future__ import annotations

import sys
import time

import torch
from torch import nn

LOOPS = {
    "cpu": {"width": 16, "batch": 32, "hidden": 256, "steps": 120},
    "cuda": {"width": 64, "batch": 256, "hidden": 4096, "steps": 300},
}
"""Sizes for which a core or a GPU is busy a second or a few; chosen."""

WARMING = 10
LABELS, PIXELS = 10, 32


def loop_model(width: int, hidden: int) -> nn.Module:
    """Return two convolutions and two linear layers."""
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(2 * width * (PIXELS // 4) ** 2, hidden), nn.ReLU(), nn.Linear(hidden, LABELS)),
    )


def loop_seconds(device: str, threads: int) -> float:
    """Return what the timed steps took, with everything that they had put on the device."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    sizes = LOOPS[device]
    net = loop_model(sizes["width"], sizes["hidden"]).to(device)
    inputs = torch.randn(sizes["batch"], 3, PIXELS, PIXELS, device=device)
    targets = torch.randint(LABELS, (sizes["batch"],), device=device)
    optimizer, loss_of = torch.optim.SGD(net.parameters(), lr=0.01), nn.CrossEntropyLoss()
    began = 0.0
    for step in range(WARMING + sizes["steps"]):
        if step == WARMING:
            _wait_for(device)
            began = time.perf_counter()
        optimizer.zero_grad()
        loss_of(net(inputs), targets).backward()
        optimizer.step()
    _wait_for(device)
    return time.perf_counter() - began


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.get_device_module(device).synchronize()


if __name__ == "__main__":
    print(loop_seconds(sys.argv[1], int(sys.argv[2])))
