"""Models that nobody here wrote, under every strategy on two processes: they train as plain PyTorch would."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from foreign_models import LIMITS, NAMES, STRATEGIES, verdict

pytestmark = pytest.mark.dist


def check(name: str, strategy: str) -> None:
    package = "timm" if name.startswith("timm_") else "transformers"
    if find_spec(package) is None:  # not by importing it: timm wants torchvision's names, which the file gives it
        pytest.skip(f"{package} is not installed")
    status, reason, error = verdict(name, strategy)
    assert status == "ok", reason
    assert error is not None
    assert error < LIMITS.get(name, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", NAMES[::3])
def test_a_third_of_the_models_train_as_in_plain_pytorch(name, strategy):
    check(name, strategy)


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", [name for number, name in enumerate(NAMES) if number % 3])
def test_the_other_models_train_as_in_plain_pytorch(name, strategy):
    check(name, strategy)
