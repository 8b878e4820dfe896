"""A loss that is exactly quadratic, whatever the data: what theory of optimization speaks of."""

import torch
from torch import nn


class Bowl(nn.Module):
    """One weight w, handed out as every class's output.

    The squared error to a one-hot target, a mean over `classes` outputs, is w^2 - 2 w / classes + 1 / classes for every
    sample: curvature 2, least at 1 / classes, and every batch is a full batch.
    """

    def __init__(self, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.classes = classes

    def forward(self, images):
        return self.weight.expand(len(images), self.classes)


def bowl(classes):
    return Bowl(classes)
