"""The entries that scenarios choose from: what a model and a data set are, and the ones that ship with the harness.

`plan` reads this file, so it imports neither torch nor numpy: whatever needs them is imported by the function that an
entry carries, when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from harness.errors import InputError
from harness.strategy import Options

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn

LOSSES = ("cross-entropy", "mse")
PRECISIONS = ("fp32", "fp64", "bf16")


@dataclass(frozen=True)
class DataShape:
    """What a model has to know of the data: one image is (channels, height, width) pixels, of one of `classes`.

    A sample of text is 1 x 1 x `width` tokens.

    Attributes:
        vocabulary: how many different tokens there are; 0 where samples are images.
        labels_per_token: every token has a label of its own, not the sample as a whole.
    """

    channels: int
    height: int
    width: int
    classes: int
    vocabulary: int = 0
    labels_per_token: bool = False


@dataclass(frozen=True)
class DatasetSize:
    """What is known of a data set before it is loaded; `num_train` still holds what becomes the validation split."""

    num_train: int
    num_test: int
    shape: DataShape


@dataclass(frozen=True)
class SourceFile:
    """A file of the user's, as it was when the scenario was read: what runs is `text`, and `text` is what is hashed."""

    path: Path
    text: str


@dataclass(frozen=True)
class RawData:
    """A data set as its publisher made it, in numpy arrays.

    Attributes:
        train_images: uint8 or float32, (n, height, width) or (n, channels, height, width); tokens: int64, (n, width).
        train_labels: int64, (n,), in 0..classes-1; (n, width) where every token has its own.
        test_images: like train_images.
        test_labels: like train_labels.
        classes: number of classes.
        full_scale: the pixel value that becomes 1: 255 for bytes, 16 for the digits, 1 for floats.
        checksum: sha256 in hex, of the content; part of the identity of every cell.
        vocabulary: how many different tokens there are; 0 where samples are images.
    """

    train_images: npt.NDArray[Any]
    train_labels: npt.NDArray[Any]
    test_images: npt.NDArray[Any]
    test_labels: npt.NDArray[Any]
    classes: int
    full_scale: float
    checksum: str
    vocabulary: int = 0

    @property
    def shape(self) -> DataShape:
        """Shape of one image before it is enlarged; images without a channel axis have one channel."""
        if self.vocabulary:
            width = self.train_images.shape[1]
            return DataShape(1, 1, width, self.classes, self.vocabulary, self.train_labels.ndim == 2)
        *channels, height, width = self.train_images.shape[1:]
        return DataShape(channels[0] if channels else 1, height, width, self.classes)


@dataclass(frozen=True)
class Model:
    """A model that scenarios can name.

    Attributes:
        name: what scenarios call it.
        summary: one line for `harness plugins`.
        source: author, year, and section where there is one.
        Options: pydantic model of what the user may set; unknown keys are refused.
        learning_rate: used where the scenario gives none; for plain SGD at about 32 samples an update.
        input_size: images are enlarged to this many pixels on both sides; None: the model takes any size.
        build: makes the torch module from options and the shape of the data; a `nn.Sequential` can be cut anywhere
            by a pipeline, any other module only where its own children are.
        file: the user's own file, where the model comes from one.
        takes: what one sample is.
        least_size: fewest pixels on either side that its layers leave anything of.
    """

    name: str
    summary: str
    source: str
    Options: type[Options]
    learning_rate: float
    input_size: int | None
    build: Callable[[Any, DataShape], nn.Module]
    file: SourceFile | None = None
    takes: Literal["images", "tokens"] = "images"
    least_size: int = 1


@dataclass(frozen=True)
class Dataset:
    """A data set that scenarios can name.

    Attributes:
        name: what scenarios call it.
        summary: one line for `harness plugins`.
        source: author, year, licence.
        Options: pydantic model of what the user may set; unknown keys are refused.
        size: counts and shape by options, without loading; None where only loading tells.
        target_accuracy: the default goal, a fraction on the validation split; None: speed and memory only.
        load: reads the data, downloading it first where it can.
        checksum: what `load(options).checksum` will be, without decoding images; None where only loading tells.
        file: the user's own file, where the data set comes from one.
    """

    name: str
    summary: str
    source: str
    Options: type[Options]
    size: Callable[[Any], DatasetSize | None]
    target_accuracy: float | None
    load: Callable[[Any], RawData]
    checksum: Callable[[Any], str | None]
    file: SourceFile | None = None


def training_size(num_train: int, validation_fraction: float) -> int:
    """Return how many of `num_train` samples are trained on; the others are the validation split.

    The plan's step counts and the prepared data both come from here, so that they never disagree.

    Raises:
        InputError: the fraction is outside 0..1, or leaves nothing to train on.
    """
    num_validation = round(validation_fraction * num_train) if 0 <= validation_fraction < 1 else num_train
    if num_validation >= num_train:
        raise InputError(
            [
                f"goal.validation_fraction = {validation_fraction:g}: leaves none of {num_train} samples to train on; "
                "give a fraction of at least 0 and below 1, such as 0.1"
            ]
        )
    return num_train - num_validation


@dataclass(frozen=True)
class Placement:
    """Where an enlarged image lies in the model's square input: pixels repeated `factor` times, then shifted."""

    factor: int
    top: int
    left: int


def enlarge(height: int, width: int, input_size: int | None) -> Placement:
    """Say how an image becomes `input_size` pixels square.

    Every pixel is repeated by the largest whole factor that fits, so no pixel value is invented; the rest is filled
    equally on all sides, an odd row or column going to the bottom or the right.

    Raises:
        InputError: the image is larger than the input.
    """
    if input_size is None:
        return Placement(1, 0, 0)
    factor = input_size // max(height, width)
    if factor < 1:
        raise InputError(
            [
                f"workload.dataset: images of {height} x {width} pixels do not fit into the model's input of "
                f"{input_size} x {input_size}; choose a model that takes any size (softmax, mlp, a function of your "
                "own), or smaller images"
            ]
        )
    return Placement(factor, (input_size - factor * height) // 2, (input_size - factor * width) // 2)


def input_shape(shape: DataShape, input_size: int | None) -> DataShape:
    """Return the shape that the model sees: `shape` itself, or the square that its images are enlarged to.

    Raises:
        InputError: the image is larger than the input.
    """
    enlarge(shape.height, shape.width, input_size)
    if input_size is None:
        return shape
    return DataShape(shape.channels, input_size, input_size, shape.classes)


def seen_shape(shape: DataShape, model: Model) -> DataShape:
    """Return the shape in which a model sees a data set's samples.

    Raises:
        InputError: the model cannot read such samples.
    """
    kind = "tokens" if shape.vocabulary else "images"
    if kind != model.takes:
        raise InputError(
            [
                f"workload: the model {model.name} reads {model.takes}, the data set holds {kind}; "
                + ("choose the data set tokens" if kind == "images" else "choose a model of text, such as gpt")
            ]
        )
    if kind == "tokens":
        return shape
    seen = input_shape(shape, model.input_size)
    if min(seen.height, seen.width) < model.least_size:
        raise InputError(
            [
                f"workload.dataset: images of {seen.height} x {seen.width} pixels are too small for {model.name}, "
                f"which needs {model.least_size} x {model.least_size}; synthetic has an option size"
            ]
        )
    return seen


ActivationName = Literal["sigmoid", "tanh", "relu", "leaky-relu", "elu", "maxout"]


class MlpOptions(Options):
    """Options of `mlp`."""

    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (300, 100)
    """Units of each hidden layer."""

    activation: ActivationName = "relu"
    """What follows each hidden layer."""

    pieces: Annotated[int, Field(ge=2)] = 2
    """Linear pieces behind each unit; read by maxout only."""


class Lenet5Options(Options):
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
    ),
)


class IdxOptions(Options):
    """Options of `idx`: a folder with four IDX files, compressed (.gz) or not."""

    path: Path
    """The folder; a relative one is looked up from where harness was started."""

    train_images: str = "train-images-idx3-ubyte"
    train_labels: str = "train-labels-idx1-ubyte"
    test_images: str = "t10k-images-idx3-ubyte"
    test_labels: str = "t10k-labels-idx1-ubyte"


class SyntheticOptions(Options):
    """Options of `synthetic`."""

    samples: Annotated[int, Field(ge=2)] = 4096
    """Samples to train on and validate with."""

    test_samples: PositiveInt = 512
    channels: PositiveInt = 1

    size: PositiveInt = 28
    """Height and width in pixels."""

    classes: Annotated[int, Field(ge=2)] = 10

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Draws the data itself; independent of the run's seeds."""


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
        summary="1,797 handwritten digits of 8 x 8 pixels, part of scikit-learn: no download",
        source="Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits, test part; CC BY 4.0",
        Options=Options,
        size=lambda options: DatasetSize(1437, 360, DataShape(1, 8, 8, 10)),
        target_accuracy=0.95,
        load=_load_digits,
        checksum=_digits_checksum,
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
    ),
)
