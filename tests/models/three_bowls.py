"""Three convex functions on which greedy top-1 sparsification climbs: each worker has one of them.

f_i(x) = <a_i, x>^2 + |x|^2 / 4 with a_1 = (-3, 2, 2) and its rotations; the mean is least at 0. At x = (t, t, t) the
gradient of f_1 is t (-11, 9, 9) / 2, so its largest number points the wrong way. The mean of what the three send is
-11 t / 6 in each place.

Source: Beznosikov, Horvath, Richtarik and Safaryan 2020, "On Biased Compression for Distributed Learning", example 1.
"""

import numpy as np
import torch
from torch import nn


def load():
    """Return one sample for each function, the 4 x 3 matrix whose product with x has f_i(x) as its squared length."""
    rows = [np.vstack([a, np.eye(3) / 2]) for a in ((-3, 2, 2), (2, -3, 2), (2, 2, -3))]
    inputs, targets = np.stack(rows).astype(np.float32), np.zeros(3, dtype=np.float32)
    return inputs, targets, inputs, targets


def product():
    """Return x as a layer, at (1, 1, 1)."""
    layer = nn.Linear(3, 1, bias=False)
    nn.init.ones_(layer.weight)
    return nn.Sequential(layer, nn.Flatten())


def squared_length(outputs, targets):
    """Return f_i(x) for each sample."""
    return torch.sum(outputs**2, dim=1)
