"""Models that trials name by file, as a user's own: one that looks across samples, one that draws."""

from torch import nn

DIGIT_PIXELS = 64
"""Of a sample of digits."""


def batchnorm(classes: int) -> nn.Module:
    """Return a small network with BatchNorm between its two layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(DIGIT_PIXELS, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, classes)
    )


def dropout(classes: int) -> nn.Module:
    """Return a small network with dropout between its two layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(DIGIT_PIXELS, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, classes))
