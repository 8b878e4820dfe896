"""Convolutional networks for large images. Each is a `nn.Sequential` of named layers, cut anywhere by a pipeline."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import nn

from harness.workloads.entries import DataShape

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


BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Bottlenecks of the four widths by depth. Source: He et al. 2016, table 1."""


def _bottlenecks(depth: int) -> Iterator[Bottleneck]:
    width_in = 64
    for width, count, first_stride in zip((64, 128, 256, 512), BLOCKS[depth], (1, 2, 2, 2), strict=True):
        for number in range(count):
            yield Bottleneck(width_in, width, first_stride if number == 0 else 1)
            width_in = width * Bottleneck.EXPANSION


def resnet50(shape: DataShape) -> nn.Sequential:
    """Return ResNet-50 for large images: the stem divides height and width by 4, the blocks by 8 more.

    Source: He et al. 2016, table 1.
    """
    return _resnet(50, shape)


def resnet101(shape: DataShape) -> nn.Sequential:
    """Return ResNet-101: `resnet50` with 17 more blocks."""
    return _resnet(101, shape)


def resnet152(shape: DataShape) -> nn.Sequential:
    """Return ResNet-152: `resnet50` with 34 more blocks."""
    return _resnet(152, shape)


def _resnet(depth: int, shape: DataShape) -> nn.Sequential:
    stem = OrderedDict(
        conv=nn.Conv2d(shape.channels, 64, 7, stride=2, padding=3, bias=False),
        norm=nn.BatchNorm2d(64),
        relu=nn.ReLU(inplace=True),
        pool=nn.MaxPool2d(3, 2, padding=1),
    )
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(stem))
    for number, block in enumerate(_bottlenecks(depth), 1):
        layers[f"block{number}"] = block
    layers["pool"] = nn.Sequential(OrderedDict(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
    layers["classifier"] = nn.Linear(512 * Bottleneck.EXPANSION, shape.classes)
    return nn.Sequential(layers)


class Fire(nn.Module):
    """A convolution 1 x 1 to few channels, then 1 x 1 and 3 x 3 beside each other, joined.

    (n, width_in, h, w) becomes (n, 2 expanded, h, w).

    Source: Iandola et al. 2016, "SqueezeNet", section 3.2.
    """

    def __init__(self, width_in: int, squeezed: int, expanded: int) -> None:
        """Make the layers; `expanded` is the width of each of the two that stand beside each other."""
        super().__init__()
        self.squeeze = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(width_in, squeezed, 1), relu=nn.ReLU(inplace=True)),
        )
        self.near = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(squeezed, expanded, 1), relu=nn.ReLU(inplace=True)),
        )
        self.wide = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(squeezed, expanded, 3, padding=1), relu=nn.ReLU(inplace=True)),
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return both expansions of the squeezed values, one after the other along the channels."""
        squeezed = self.squeeze(values)
        return torch.cat((self.near(squeezed), self.wide(squeezed)), dim=1)


FIRES = (((16, 64), (16, 64), (32, 128)), ((32, 128), (48, 192), (48, 192), (64, 256)), ((64, 256),))
"""Squeezed and expanded channels of each module, a pooling between groups. Source: Iandola et al. 2016, table 1."""


def squeezenet(shape: DataShape) -> nn.Sequential:
    """Return SqueezeNet 1.0 without bypasses; images of any size are averaged to one value a class.

    Source: Iandola et al. 2016, table 1; without padding at the first convolution, poolings that keep their last,
    incomplete window.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(shape.channels, 96, 7, stride=2),
        relu1=nn.ReLU(inplace=True),
        pool1=nn.MaxPool2d(3, 2, ceil_mode=True),
    )
    width_in, number = 96, 2  # the paper counts the first convolution
    for group, fires in enumerate(FIRES):
        if group:
            layers[f"pool{number - 1}"] = nn.MaxPool2d(3, 2, ceil_mode=True)
        for squeezed, expanded in fires:
            layers[f"fire{number}"] = Fire(width_in, squeezed, expanded)
            width_in, number = 2 * expanded, number + 1
    layers |= {"dropout": nn.Dropout(), "conv10": nn.Conv2d(width_in, shape.classes, 1)}
    layers |= {"relu10": nn.ReLU(inplace=True), "average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential(layers)
