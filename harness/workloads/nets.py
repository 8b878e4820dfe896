"""The networks. Each is a `nn.Sequential` of named layers, so that a pipeline can cut between any two of them.

Weights start as torch starts them: linear and convolution layers uniform in +-1/sqrt(fan in), weights and biases (He
et al. 2015 with a = sqrt(5), which comes to the same); BatchNorm at 1 and 0. Nothing here draws a number of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import nn

from harness.workloads.entries import ActivationName, DataShape


class Maxout(nn.Module):
    """The largest of `pieces` linear functions for each unit: (n, units * pieces) becomes (n, units).

    Source: Goodfellow, Warde-Farley, Mirza, Courville and Bengio 2013, equation 1.
    """

    def __init__(self, pieces: int) -> None:
        """Keep the number of pieces, at least 2."""
        super().__init__()
        self.pieces = pieces

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the maximum over neighbouring groups of `pieces` columns."""
        return values.view(len(values), values.shape[1] // self.pieces, self.pieces).amax(dim=2)

    def extra_repr(self) -> str:
        """Show the pieces where the model is printed."""
        return f"pieces={self.pieces}"


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,  # torch's slope, 0.01
    "elu": nn.ELU,  # torch's alpha, 1
}


def softmax(shape: DataShape) -> nn.Sequential:
    """Return one linear layer from all pixels to all classes; the softmax itself is part of the loss."""
    pixels = shape.channels * shape.height * shape.width
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), classifier=nn.Linear(pixels, shape.classes)))


def mlp(shape: DataShape, hidden: Sequence[int], activation: ActivationName, pieces: int) -> nn.Sequential:
    """Return a fully connected network with an activation behind each hidden layer.

    Args:
        shape: of the data; images are flattened.
        hidden: units of each hidden layer.
        activation: by name; maxout gives each unit `pieces` rows of weights.
        pieces: linear pieces of a maxout unit, at least 2.
    """
    widths = [shape.channels * shape.height * shape.width, *hidden]
    wider = pieces if activation == "maxout" else 1
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (width_in, width_out) in enumerate(pairwise(widths), 1):
        layers[f"linear{number}"] = nn.Linear(width_in, width_out * wider)
        layers[f"activation{number}"] = Maxout(pieces) if activation == "maxout" else _ACTIVATIONS[activation]()
    layers["classifier"] = nn.Linear(widths[-1], shape.classes)
    return nn.Sequential(layers)


def lenet5(shape: DataShape, form: Literal["relu", "1998"]) -> nn.Sequential:
    """Return LeNet-5 for inputs of (channels, 32, 32), without padding.

    Both forms have the same weights. Of the 1998 network three things are left out, as is usual: trained
    coefficients in the pooling layers, the table that leaves out connections of the second convolution, and the
    output layer of radial basis functions.

    Source: LeCun, Bottou, Bengio and Haffner 1998, section II.B.
    """
    activation, pool = (nn.ReLU, nn.MaxPool2d) if form == "relu" else (nn.Tanh, nn.AvgPool2d)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape.channels, 6, 5),  # (6, 28, 28)
            activation1=activation(),
            pool1=pool(2),  # (6, 14, 14)
            conv2=nn.Conv2d(6, 16, 5),  # (16, 10, 10)
            activation2=activation(),
            pool2=pool(2),  # (16, 5, 5)
            flatten=nn.Flatten(),  # (400,)
            linear1=nn.Linear(400, 120),
            activation3=activation(),
            linear2=nn.Linear(120, 84),
            activation4=activation(),
            classifier=nn.Linear(84, shape.classes),
        )
    )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions added to their input: (n, width_in, h, w) becomes (n, width_out, h/stride, w/stride).

    Where the shape changes, the input passes a 1 x 1 convolution (option B of the paper).

    Source: He, Zhang, Ren and Sun 2016, section 3.2, equations 1 and 2.
    """

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        """Make the layers; `stride` 2 halves height and width."""
        super().__init__()
        self.residual = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False),
                norm1=nn.BatchNorm2d(width_out),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(width_out, width_out, 3, padding=1, bias=False),
                norm2=nn.BatchNorm2d(width_out),
            )
        )
        self.shortcut = nn.Identity() if (width_in, stride) == (width_out, 1) else _projection(width_in, width_out)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return relu(residual + shortcut)."""
        return torch.relu(self.residual(values) + self.shortcut(values))


def _projection(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(width_in, width_out, 1, stride=2, bias=False), norm=nn.BatchNorm2d(width_out))
    )


def _residual_blocks() -> Iterator[ResidualBlock]:
    width_in = 64
    for width in (64, 128, 256, 512):
        yield ResidualBlock(width_in, width, stride=1 if width == width_in else 2)
        yield ResidualBlock(width, width, stride=1)
        width_in = width


def resnet18(shape: DataShape) -> nn.Sequential:
    """Return ResNet-18 for small images: the stem keeps their 32 x 32 pixels, four stages halve them to 4 x 4.

    Source: He, Zhang, Ren and Sun 2016, table 1 (widths, 18 layers) and section 4.2 (stem for 32 x 32 images).
    """
    stem = OrderedDict(
        conv=nn.Conv2d(shape.channels, 64, 3, padding=1, bias=False), norm=nn.BatchNorm2d(64), relu=nn.ReLU()
    )
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(stem))
    for number, block in enumerate(_residual_blocks(), 1):
        layers[f"block{number}"] = block
    layers["pool"] = nn.Sequential(OrderedDict(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
    layers["classifier"] = nn.Linear(512, shape.classes)
    return nn.Sequential(layers)
