"""Which cells can execute their steps as the scenario asks, as far as that is known before they run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.core.cell import Workload
from harness.core.words import listed
from harness.workloads.entries import COMPILED, CUDA_GRAPH

if TYPE_CHECKING:
    from harness.api.strategy import Layout

CAPTURABLE = ("sgd", "adam", "adamw")
"""Optimizers that a CUDA graph holds: torch's fused kernels of these read their rate from the device."""

_EAGER = 'Set workload.step = "eager"'


def why_never(work: Workload, layout: Layout, workers: int, servers: int) -> str:
    """Return why a strategy cannot execute such steps on any machine; nothing where it can."""
    return next(_reasons(work, layout, alone=workers == layout.devices == 1 and not servers), "")


def _reasons(work: Workload, layout: Layout, alone: bool) -> Iterator[str]:
    named = f'workload.step = "{work.step}"'
    eager = {
        "pipeline stages": layout.pipeline > 1,
        "layers that are cut over devices": layout.tensor > 1,
        "blocks whose activations are computed again": layout.recompute,
        "BatchNorm layers that exchange statistics": work.sync_batchnorm and layout.data > 1,
    }
    for what in (what for what, so in eager.items() if so and work.step == COMPILED):
        yield f"{named}: {what} are not compiled. {_EAGER}"
    if work.step == CUDA_GRAPH and layout.reduce is not None:
        yield f"{named}: a program of the strategy's own between backward pass and update is not captured. {_EAGER}"
    if work.step == CUDA_GRAPH and not alone:
        yield f'{named}: only a step of one device alone is captured, that of single. {_EAGER} or "compiled"'
    if work.step == CUDA_GRAPH and work.optimizer.name not in CAPTURABLE:
        yield f"{named}: updates of {listed(CAPTURABLE)} can be captured, not of {work.optimizer.name}. {_EAGER}"
    if work.channels_last and not _keeps_order(layout):
        yield (
            "workload.channels_last: only whole models on one device or under torch's DDP keep their weights in that "
            "order. Remove this key"
        )


def _keeps_order(layout: Layout) -> bool:
    return layout.pipeline * layout.tensor == 1 and not layout.gathers and (layout.data == 1 or layout.overlap)


def why_not_here(work: Workload, device: str, computed_here: bool) -> str:
    """Return why no device of this kind executes such steps here; nothing where one may.

    Args:
        device: "cpu" or "cuda".
        computed_here: whether steps run on this machine, for results or to be timed.
    """
    if device != "cpu":
        return ""
    if work.step == CUDA_GRAPH:
        return f'workload.step = "{CUDA_GRAPH}": a CPU has no CUDA graphs. {_EAGER} or "compiled", or run it on a GPU'
    if work.tf32:
        return "workload.tf32: TF32 is arithmetic of NVIDIA GPUs. Remove this key, or run it on a GPU"
    if work.step == COMPILED and computed_here and not shutil.which(compiler()):
        return (
            f'workload.step = "{COMPILED}": torch.compile needs a C++ compiler, and there is no {compiler()}. Install '
            f"g++, or name another compiler in the environment variable CXX"
        )
    return ""


def compiler() -> str:
    """Return the C++ compiler that torch.compile will ask for.

    Source: torch._inductor.config, cpp.cxx.
    """
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
