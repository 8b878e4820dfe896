"""Whether a pipeline may fill the last micro-batch up with samples that do not count."""

from __future__ import annotations

from torch import nn

from harness.engines.shared.setup import Setup


def fills_up(setup: Setup, module: nn.Module) -> bool:
    """Whether a sample's output is known not to depend on the others in its micro-batch.

    Not so where BatchNorm is, whose statistics padding would enter, nor in a model of the user's own. Their samples are
    cut evenly instead, as without a pipeline.
    """
    return setup.model.file is None and next(module.buffers(), None) is None
