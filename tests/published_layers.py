"""The layers of the networks in scenarios/published, by arithmetic; as a program it writes them there.

A layer's share of the step is its share of the multiplications, a backward pass takes twice its forward pass, and a
step of one sample takes one second: a scenario scales the shares to the rate that it states. Sizes are of fp32.
Normalisations and pools multiply nothing, but their outputs are kept; ReLU works in place. Architectures: Simonyan and
Zisserman 2014 (VGG-16), He et al. 2015 (ResNets, stride in the 3x3 convolution), Krizhevsky et al. 2012 without groups
(Caffe's layout), and AlexNet as in tf_cnn_benchmarks.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent.parent / "scenarios" / "published" / "layers"
HEAD = "name,forward_ms,backward_ms,activation_bytes,parameter_bytes"


class Network:
    """Layers as they are added, each from what the one before hands on.

    Attributes:
        channels: channels of the last output.
        side: height and width of the last output.
        layers: name, multiplications of one forward pass of one sample, outputs and parameters of each layer.
    """

    def __init__(self, side: int, channels: int = 3) -> None:
        self.side = side
        self.channels = channels
        self.layers: list[tuple[str, int, int, int]] = []

    def convolution(
        self, name: str, outputs: int, kernel: int, stride: int = 1, padding: int | None = None, norm: bool = False
    ) -> None:
        """Add a convolution with a bias, or one without it and its normalisation."""
        self.side = (self.side + 2 * (kernel // 2 if padding is None else padding) - kernel) // stride + 1
        weights = self.channels * outputs * kernel * kernel
        pixels = self.side * self.side
        self.layers.append((name, weights * pixels, outputs * pixels, weights + (0 if norm else outputs)))
        if norm:
            self.layers.append((f"{name}.norm", 0, outputs * pixels, 2 * outputs))
        self.channels = outputs

    def pool(self, kernel: int, stride: int, padding: int = 0) -> None:
        """Add a pool over each channel."""
        self.side = (self.side + 2 * padding - kernel) // stride + 1
        self.layers.append((f"pool{len(self.layers)}", 0, self.channels * self.side * self.side, 0))

    def linear(self, name: str, outputs: int) -> None:
        """Add a linear layer over all of the last output."""
        inputs = self.channels * self.side * self.side
        self.layers.append((name, inputs * outputs, outputs, inputs * outputs + outputs))
        self.channels, self.side = outputs, 1

    def table(self) -> str:
        """Return the text of the layers' file."""
        total = sum(multiplications for _, multiplications, _, _ in self.layers)
        lines = [HEAD]
        for name, multiplications, outputs, parameters in self.layers:
            forward_ms = 1000 / 3 * multiplications / total
            lines.append(f"{name},{forward_ms:.6g},{2 * forward_ms:.6g},{4 * outputs},{4 * parameters}")
        return "\n".join(lines) + "\n"


def vgg16() -> Network:
    network = Network(224)
    for block, (repeats, outputs) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1):
        for index in range(repeats):
            network.convolution(f"conv{block}_{index + 1}", outputs, 3)
        network.pool(2, 2)
    for name, outputs in (("fc6", 4096), ("fc7", 4096), ("fc8", 1000)):
        network.linear(name, outputs)
    return network


def resnet(blocks: tuple[int, ...]) -> Network:
    network = Network(224)
    network.convolution("conv1", 64, 7, stride=2, norm=True)
    network.pool(3, 2, padding=1)
    for stage, (repeats, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), 1):
        for index in range(repeats):
            name = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            into, side = network.channels, network.side
            network.convolution(f"{name}.conv1", width, 1, norm=True)
            network.convolution(f"{name}.conv2", width, 3, stride=stride, norm=True)
            network.convolution(f"{name}.conv3", 4 * width, 1, norm=True)
            if index == 0:
                network.channels, network.side = into, side
                network.convolution(f"{name}.downsample", 4 * width, 1, stride=stride, norm=True)
    network.pool(7, 1)
    network.linear("fc", 1000)
    return network


def alexnet(outputs: tuple[int, ...], classes: int, paddings: tuple[int, ...]) -> Network:
    network = Network(227)
    for index, (channels, kernel, padding) in enumerate(zip(outputs, (11, 5, 3, 3, 3), paddings, strict=True), 1):
        network.convolution(f"conv{index}", channels, kernel, stride=4 if index == 1 else 1, padding=padding)
        if index in {1, 2, 5}:
            network.pool(3, 2)
    for name, width in (("fc6", 4096), ("fc7", 4096), ("fc8", classes)):
        network.linear(name, width)
    return network


NETWORKS = {
    "alexnet-bvlc-ungrouped": alexnet((96, 256, 384, 384, 256), 1000, (0, 2, 1, 1, 1)),
    "alexnet-tf": alexnet((64, 192, 384, 384, 256), 1001, (0, 2, 1, 1, 1)),
    "resnet101": resnet((3, 4, 23, 3)),
    "resnet50": resnet((3, 4, 6, 3)),
    "vgg16": vgg16(),
}

if __name__ == "__main__":
    for name, network in NETWORKS.items():
        (FOLDER / f"{name}.csv").write_text(network.table())
