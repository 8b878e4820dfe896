"""The entries that scenarios choose from: what a model and a data set are, and the ones that ship with the harness.

`plan` reads this file, so it imports neither torch nor numpy: whatever needs them is imported by the function that an
entry carries, when it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from harness.api.strategy import Options
from harness.workloads.entries import (
    ActivationName,
    Dataset,
    DatasetSize,
    DataShape,
    IdxOptions,
    Model,
    RawData,
    SyntheticOptions,
)

if TYPE_CHECKING:
    from torch import nn


class MlpOptions(Options, defer_build=True):
    """Options of `mlp`."""

    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (300, 100)
    """Units of each hidden layer."""

    activation: ActivationName = "relu"
    """What follows each hidden layer."""

    pieces: Annotated[int, Field(ge=2)] = 2
    """Linear pieces behind each unit; read by maxout only."""


class Lenet5Options(Options, defer_build=True):
    """Options of `lenet5`."""

    form: Literal["relu", "1998"] = "relu"
    """relu: rectifiers and max pooling, as it is trained today; 1998: tanh and average pooling, as it was published."""


def _build_softmax(options: Options, shape: DataShape) -> nn.Module:
    from harness.workloads import nets

    return nets.softmax(shape)


def _build_mlp(options: MlpOptions, shape: DataShape) -> nn.Module:
    from harness.workloads import nets

    return nets.mlp(shape, options.hidden, options.activation, options.pieces)


def _build_lenet5(options: Lenet5Options, shape: DataShape) -> nn.Module:
    from harness.workloads import nets

    return nets.lenet5(shape, options.form)


def _build_resnet18(options: Options, shape: DataShape) -> nn.Module:
    from harness.workloads import nets

    return nets.resnet18(shape)


# Rates are for plain SGD with 32 samples an update. Measured on digits, 10 epochs, 0.01 to 0.2, 3 seeds each (CPU,
# torch 2.13): mlp and lenet5 at 0.1 reach 95 % on the validation split with every seed, at 0.02 with none. softmax
# gains 1 % more from 0.1, but on mnist begins to oscillate beyond that. resnet18: the rate of its paper, not measured.
MODELS = (
    Model(
        name="softmax",
        summary="one linear layer: multinomial logistic regression",
        source="Cox 1958; the linear classifier of LeCun et al. 1998, section III.C.1, with softmax",
        Options=Options,
        learning_rate=0.05,
        input_size=None,
        build=_build_softmax,
    ),
    Model(
        name="mlp",
        summary="fully connected layers, 300 and 100 rectifiers unless told otherwise",
        source="LeCun et al. 1998, section III.C.3 (300-100); maxout: Goodfellow et al. 2013",
        Options=MlpOptions,
        learning_rate=0.1,
        input_size=None,
        build=_build_mlp,
    ),
    Model(
        name="lenet5",
        summary="two convolutions and three linear layers, 61,706 parameters for one channel and ten classes",
        source="LeCun et al. 1998, section II.B",
        Options=Lenet5Options,
        learning_rate=0.1,
        input_size=32,
        build=_build_lenet5,
    ),
    Model(
        name="resnet18",
        summary="eight residual blocks for 32 x 32 images, 11.2 million parameters, BatchNorm",
        source="He et al. 2016, section 4.2 (3 x 3 stem, no max pool) with the widths of their table 1",
        Options=Options,
        learning_rate=0.1,
        input_size=32,
        build=_build_resnet18,
        batch_norm=True,
    ),
)


def _load_digits(options: Options) -> RawData:
    from harness.workloads import datasets

    return datasets.load_digits()


def _digits_checksum(options: Options) -> str:
    # 1,797 rows take 10 ms to read: no second definition of the checksum is worth its upkeep.
    return _load_digits(options).checksum


def _load_mnist(options: Options) -> RawData:
    from harness.workloads import datasets, files

    return datasets.load_published(files.MNIST)


def _mnist_checksum(options: Options) -> str:
    from harness.workloads import files

    return files.MNIST.checksum


def _load_fashion_mnist(options: Options) -> RawData:
    from harness.workloads import datasets, files

    return datasets.load_published(files.FASHION_MNIST)


def _fashion_mnist_checksum(options: Options) -> str:
    from harness.workloads import files

    return files.FASHION_MNIST.checksum


def _idx_paths(options: IdxOptions) -> tuple[Path, Path, Path, Path]:
    from harness.workloads.files import find_idx

    train_images, train_labels, test_images, test_labels = (
        find_idx(options.path, name)
        for name in (options.train_images, options.train_labels, options.test_images, options.test_labels)
    )
    return train_images, train_labels, test_images, test_labels


def _load_idx(options: IdxOptions) -> RawData:
    from harness.workloads import datasets

    return datasets.load_idx(*_idx_paths(options))


def _idx_size(options: IdxOptions) -> DatasetSize:
    from harness.workloads import datasets

    return datasets.idx_size(*_idx_paths(options))


def _idx_checksum(options: IdxOptions) -> str:
    from harness.workloads.files import files_checksum

    return files_checksum(path.read_bytes() for path in _idx_paths(options))


def _load_synthetic(options: SyntheticOptions) -> RawData:
    from harness.workloads import datasets

    return datasets.load_synthetic(options)


def _synthetic_size(options: SyntheticOptions) -> DatasetSize:
    shape = DataShape(options.channels, options.size, options.size, options.classes)
    return DatasetSize(options.samples, options.test_samples, shape)


def _synthetic_checksum(options: SyntheticOptions) -> str:
    from harness.workloads import datasets

    return datasets.synthetic_checksum(options)


DATASETS = (
    Dataset(
        name="digits",
        summary="1,797 handwritten digits of 8 x 8 pixels; nothing to download",
        source="Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits, test part; CC BY 4.0",
        Options=Options,
        size=lambda options: DatasetSize(1437, 360, DataShape(1, 8, 8, 10)),
        target_accuracy=0.95,
        load=_load_digits,
        checksum=_digits_checksum,
        fixed=True,
    ),
    Dataset(
        name="mnist",
        summary="70,000 handwritten digits of 28 x 28 pixels, 12 MB to download",
        source="LeCun, Cortes and Burges 1998; CC BY-SA 3.0, as commonly stated",
        Options=Options,
        size=lambda options: DatasetSize(60000, 10000, DataShape(1, 28, 28, 10)),
        target_accuracy=0.98,
        load=_load_mnist,
        checksum=_mnist_checksum,
        fixed=True,
    ),
    Dataset(
        name="fashion-mnist",
        summary="70,000 pictures of clothing of 28 x 28 pixels, 31 MB to download",
        source="Xiao, Rasul and Vollgraf 2017; MIT",
        Options=Options,
        size=lambda options: DatasetSize(60000, 10000, DataShape(1, 28, 28, 10)),
        target_accuracy=0.88,
        load=_load_fashion_mnist,
        checksum=_fashion_mnist_checksum,
        fixed=True,
    ),
    Dataset(
        name="idx",
        summary="any folder with four IDX files, with or without .gz",
        source="the user; the format is MNIST's own (LeCun, Cortes and Burges 1998)",
        Options=IdxOptions,
        size=_idx_size,
        target_accuracy=None,
        load=_load_idx,
        checksum=_idx_checksum,
    ),
    Dataset(
        name="synthetic",
        summary="classes of noisy pictures of any size, made up on the spot; learnable, nothing to download",
        source="the harness: a random prototype for each class plus Gaussian noise",
        Options=SyntheticOptions,
        size=_synthetic_size,
        target_accuracy=None,
        load=_load_synthetic,
        checksum=_synthetic_checksum,
        fixed=True,
    ),
)
