"""Models that nobody here wrote, under every strategy on two processes: they train as plain PyTorch would."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import cycle, product

import pytest
from foreign_models import LIMITS, NAMES, STRATEGIES, verdict

CUT = "model-split"
"""What depends most on how a model is written."""

SHORT = frozenset(
    pair
    for name, other in zip(NAMES[::3], cycle(strategy for strategy in STRATEGIES if strategy != CUT), strict=False)
    for pair in ((name, CUT), (name, other))
)
"""A third of the models, each cut into stages and under one other strategy, so that each strategy trains some."""


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strategy"),
    [pytest.param(*pair, marks=() if pair in SHORT else pytest.mark.long) for pair in product(NAMES, STRATEGIES)],
)
def test_models_train_as_in_plain_pytorch(name, strategy):
    package = "timm" if name.startswith("timm_") else "transformers"
    if find_spec(package) is None:  # not by importing it: timm wants torchvision's names, which the file gives it
        pytest.skip(f"{package} is not installed")
    status, reason, error = verdict(name, strategy)
    assert status == "ok", reason
    assert error is not None
    assert error < LIMITS.get(name, 1e-9)
