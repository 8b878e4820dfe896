"""How the steps of a layout are executed: as Python calls torch, or as torch.compile made them before the run."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn

from harness.core import cache
from harness.core.errors import Impossible
from harness.core.words import counted, duration
from harness.workloads.entries import COMPILED


class Execution:
    """Eager steps: each operation as Python calls it.

    Attributes:
        prepared_s: seconds that first steps have taken, where they do more than compute; before the clock.
    """

    prepared_s = 0.0

    def first(self, step: Callable[[], object]) -> None:
        """Take a step of the warm-up."""
        step()

    def settle(self) -> None:
        """Called once after the warm-up: from now on nothing is prepared any more."""

    def notes(self) -> list[str]:
        """Return what the user should know about these steps."""
        return []

    def close(self) -> None:
        """Let go of what holds the model."""


class Compiled(Execution):
    """Forward and backward passes by torch.compile; losses, exchanges and updates stay eager.

    Every size of what passes at once is compiled for itself, in the first steps of the warm-up. Nothing is compiled
    later: what passes in another size, such as the last batch of a pass over the data, is computed eagerly.

    Source: Ansel et al. 2024, "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and
    Graph Compilation".
    """

    def __init__(self, model: str, modules: Sequence[nn.Module], device: torch.device) -> None:
        """Compile the forward passes of modules, each for itself, and what autograd makes of them."""
        from harness.engines.real.layouts.private import compile_each_size

        self.model = model
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache.folder() / "inductor"))
        compile_each_size(alone=device.type == "cpu")
        for module in modules:
            # Not the module: hooks, and what a layout wraps around it, stay outside of what is compiled.
            module.forward = _compiled(module.forward)

    def first(self, step: Callable[[], object]) -> None:
        """Take a step of the warm-up; the first one of its size is compiled meanwhile.

        Raises:
            Impossible: torch.compile does not take the model, or finds no C++ compiler.
        """
        from harness.engines.real.layouts.private import is_of_compiler

        began = time.monotonic()
        try:
            step()
        except Exception as error:
            if not is_of_compiler(error):
                raise
            reason = " ".join(str(error).split("\n\n")[0].split())
            raise Impossible(
                f'workload.step = "{COMPILED}": torch.compile fails on {self.model}: {reason} Set workload.step = '
                '"eager"'
            ) from error
        self.prepared_s += time.monotonic() - began

    def settle(self) -> None:
        """Compile nothing from now on.

        Raises:
            Impossible: torch.compile has left everything to Python.
        """
        from harness.engines.real.layouts.private import compiled_graphs

        if not compiled_graphs():
            raise Impossible(
                f'workload.step = "{COMPILED}": torch.compile finds nothing in {self.model} that it can compile. Set '
                'workload.step = "eager"'
            )
        torch.compiler.set_stance("eager_on_recompile")

    def notes(self) -> list[str]:
        """Return what was compiled, and how long that took."""
        from harness.engines.real.layouts.private import compiled_graphs

        graphs = counted(compiled_graphs(), "graph")
        return [f"compiled: {graphs} of {self.model} before the clock started, in {duration(self.prepared_s)}"]

    def close(self) -> None:
        """Forget what was compiled: it holds the model."""
        torch.compiler.reset()


def _compiled(forward: Callable[..., object]) -> Callable[..., object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own, while its compiler is imported
        compiled: Callable[..., object] = torch.compile(forward, dynamic=False)
        return compiled
