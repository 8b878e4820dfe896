"""Convolutional networks for large images. Each is a `nn.Sequential` of named layers, cut anywhere by a pipeline."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import nn

from harness.workloads.catalogue import DataShape

HIDDEN = 4096
"""Units of the two hidden linear layers of AlexNet and VGG."""


def alexnet(shape: DataShape) -> nn.Sequential:
    """Return AlexNet with one tower; images of any size are averaged to 6 x 6 before the linear layers.

    Source: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", section 5; the
    averaging is what torchvision added.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(shape.channels, 64, 11, stride=4, padding=2),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(3, 2),
        conv2=nn.Conv2d(64, 192, 5, padding=2),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(3, 2),
    )
    for number, (width_in, width_out) in enumerate(((192, 384), (384, 256), (256, 256)), 3):
        layers[f"conv{number}"] = nn.Conv2d(width_in, width_out, 3, padding=1)
        layers[f"relu{number}"] = nn.ReLU()
    layers |= {"pool5": nn.MaxPool2d(3, 2), "average": nn.AdaptiveAvgPool2d(6), "flatten": nn.Flatten()}
    layers |= {"dropout1": nn.Dropout(), "linear1": nn.Linear(256 * 6 * 6, HIDDEN), "relu6": nn.ReLU()}
    layers |= {"dropout2": nn.Dropout(), "linear2": nn.Linear(HIDDEN, HIDDEN), "relu7": nn.ReLU()}
    layers["classifier"] = nn.Linear(HIDDEN, shape.classes)
    return nn.Sequential(layers)


VGG16_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(shape: DataShape) -> nn.Sequential:
    """Return VGG-16; images of any size are averaged to 7 x 7 before the linear layers.

    Source: Simonyan and Zisserman 2015, table 1, column D; the averaging is what torchvision added.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width_in = shape.channels
    for stage, widths in enumerate(VGG16_WIDTHS, 1):
        for number, width in enumerate(widths, 1):
            layers[f"conv{stage}_{number}"] = nn.Conv2d(width_in, width, 3, padding=1)
            layers[f"relu{stage}_{number}"] = nn.ReLU()
            width_in = width
        layers[f"pool{stage}"] = nn.MaxPool2d(2, 2)
    layers |= {"average": nn.AdaptiveAvgPool2d(7), "flatten": nn.Flatten()}
    layers |= {"linear1": nn.Linear(512 * 7 * 7, HIDDEN), "relu6": nn.ReLU(), "dropout1": nn.Dropout()}
    layers |= {"linear2": nn.Linear(HIDDEN, HIDDEN), "relu7": nn.ReLU(), "dropout2": nn.Dropout()}
    layers["classifier"] = nn.Linear(HIDDEN, shape.classes)
    return nn.Sequential(layers)


class Bottleneck(nn.Module):
    """Convolutions 1 x 1, 3 x 3, 1 x 1 added to their input: (n, width_in, h, w) becomes (n, 4 width, h/stride, ...).

    Source: He et al. 2016, figure 5 (right); the stride stands at the 3 x 3 convolution (Gross and Wilber 2016,
    "Training and investigating residual nets"), as in all published speeds of "v1.5".
    """

    EXPANSION = 4

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        """Make the layers; `stride` 2 halves height and width."""
        super().__init__()
        width_out = width * self.EXPANSION
        self.residual = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(width_in, width, 1, bias=False),
                norm1=nn.BatchNorm2d(width),
                relu1=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
                norm2=nn.BatchNorm2d(width),
                relu2=nn.ReLU(inplace=True),
                conv3=nn.Conv2d(width, width_out, 1, bias=False),
                norm3=nn.BatchNorm2d(width_out),
            )
        )
        self.shortcut = (
            nn.Identity() if (width_in, stride) == (width_out, 1) else _projection(width_in, width_out, stride)
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return relu(residual + shortcut)."""
        return torch.relu_(self.residual(values) + self.shortcut(values))


def _projection(width_in: int, width_out: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(width_in, width_out, 1, stride, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(width_out)))


def _bottlenecks() -> Iterator[Bottleneck]:
    width_in = 64
    for width, count, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            yield Bottleneck(width_in, width, first_stride if number == 0 else 1)
            width_in = width * Bottleneck.EXPANSION


def resnet50(shape: DataShape) -> nn.Sequential:
    """Return ResNet-50 for large images: the stem divides height and width by 4, the blocks by 8 more.

    Source: He et al. 2016, table 1.
    """
    stem = OrderedDict(
        conv=nn.Conv2d(shape.channels, 64, 7, stride=2, padding=3, bias=False),
        norm=nn.BatchNorm2d(64),
        relu=nn.ReLU(inplace=True),
        pool=nn.MaxPool2d(3, 2, padding=1),
    )
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(stem))
    for number, block in enumerate(_bottlenecks(), 1):
        layers[f"block{number}"] = block
    layers["pool"] = nn.Sequential(OrderedDict(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
    layers["classifier"] = nn.Linear(512 * Bottleneck.EXPANSION, shape.classes)
    return nn.Sequential(layers)
