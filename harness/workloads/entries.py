"""What a model and a data set are: the entries that plugins register, and their options.

`plan` reads this file, so it imports neither torch nor numpy: whatever needs them is imported by the function that an
entry carries, when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import Field, PositiveInt, model_validator

from harness.api.strategy import Options
from harness.core.code_hash import file_hash, function_hash
from harness.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    Arrays = npt.NDArray[np.generic] | dict[str, npt.NDArray[np.generic]]
    Keeps = Callable[[int, bool], bool]

LOSSES = ("cross-entropy", "mse", "bce-with-logits")

IGNORED = -100
"""A class that a target may have so that it counts in no loss and no accuracy; torch's own number for it."""


EXECUTIONS = EAGER, COMPILED, CUDA_GRAPH = ("eager", "compiled", "cuda-graph")
"""How a step is executed."""


@dataclass(frozen=True)
class Feature:
    """One tensor of a sample.

    Attributes:
        name: the keyword that the model takes it by; "" where a sample is this one tensor.
        shape: of one sample.
        dtype: "float" (whatever precision the cell computes in), or torch's name of a type of whole numbers.
        bound: whole numbers are below it; 0 where nobody knows.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float"
    bound: int = 0


@dataclass(frozen=True)
class DataShape:
    """What a model has to know of the data.

    An image is (channels, height, width) pixels, of one of `classes`; a sample of text is 1 x 1 x `width` tokens. What
    is neither says so in `features`; its channels, height and width are its last three axes, 1 where it has fewer.

    Attributes:
        classes: how many there are; 0 where targets are numbers to be met.
        vocabulary: how many different tokens there are; 0 where samples are no text.
        labels_per_token: every token has a label of its own, not the sample as a whole.
        features: the inputs, where they are neither images nor tokens.
        target: of one sample, where it is neither one class nor one class for each token.
    """

    channels: int
    height: int
    width: int
    classes: int
    vocabulary: int = 0
    labels_per_token: bool = False
    features: tuple[Feature, ...] = ()
    target: Feature | None = None

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """The tensors of one sample that go into the model."""
        if self.features:
            return self.features
        if self.vocabulary:
            return (Feature("", (self.width,), "int64", self.vocabulary),)
        return (Feature("", (self.channels, self.height, self.width)),)

    @property
    def targets(self) -> Feature:
        """What the model's output for one sample is compared with."""
        if self.target is not None:
            return self.target
        return Feature("", (self.width,) if self.labels_per_token else (), "int64", self.classes)


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


class SampleSource(Protocol):
    """Samples that are read when they are needed."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def at(self, rows: npt.NDArray[np.generic]) -> SampleSource:
        """Return some of the samples, in this order."""
        ...

    def read(
        self, rows: npt.NDArray[np.generic], before: Callable[[int], None] | None = None
    ) -> tuple[Arrays, npt.NDArray[np.generic]]:
        """Return inputs and targets of these samples, in the types that a model gets.

        Args:
            before: called with a sample's own number before it is read.
        """
        ...


@dataclass(frozen=True)
class Streams:
    """Samples that do not stay in memory.

    Attributes:
        draws: whether a sample is drawn anew each time it is read, as augmented images are.
    """

    train: SampleSource
    test: SampleSource
    draws: bool = False


@dataclass(frozen=True)
class RawData:
    """A data set as its publisher made it, in numpy arrays.

    Attributes:
        train_inputs: images: uint8 or float32, (n, height, width) or (n, channels, height, width); tokens: int64, (n,
            width); anything else: one array of n samples, or a dictionary of them by the model's keywords.
        train_targets: int64, (n,), in 0..classes-1; (n, width) where every token has its own; (n, height, width) for
            pixels; float32 (n, ...) where they are numbers to be met.
        test_inputs: like train_inputs.
        test_targets: like train_targets.
        classes: number of classes; 0 where targets are numbers.
        full_scale: the pixel value that becomes 1: 255 for bytes, 16 for the digits, 1 for floats. None: inputs are
            used as they are, neither scaled nor normalised.
        checksum: sha256 in hex, of the content; part of the identity of every cell.
        vocabulary: how many different tokens there are; 0 where samples are no text.
        remarks: what was converted or left out on the way, in words; the record keeps them.
        streams: what reads the samples; inputs are then those of a few of them only, targets those of all.
        judged: whether its targets fit the losses that it is for; the user's own are asked for every loss.
        unscaled: what is too large to be trained on as it is, in words.
    """

    train_inputs: Arrays
    train_targets: npt.NDArray[np.generic]
    test_inputs: Arrays
    test_targets: npt.NDArray[np.generic]
    classes: int
    full_scale: float | None
    checksum: str
    vocabulary: int = 0
    remarks: tuple[str, ...] = ()
    streams: Streams | None = None
    judged: bool = True
    unscaled: tuple[str, ...] = ()

    @property
    def shape(self) -> DataShape:
        """Shape of one sample before images are enlarged; images without a channel axis have one channel."""
        inputs, targets = self.train_inputs, self.train_targets
        each = targets.shape[1:]
        text = self.vocabulary and not isinstance(inputs, dict) and inputs.ndim == 2
        if text and not isinstance(inputs, dict) and self.classes and each in ((), inputs.shape[1:]):
            return DataShape(1, 1, inputs.shape[1], self.classes, self.vocabulary, len(each) == 1)
        target = None
        if each or targets.dtype.kind == "f":
            target = Feature("", each, "float" if targets.dtype.kind == "f" else "int64", self.classes)
        if self.full_scale is not None and not isinstance(inputs, dict):
            channels, height, width = (1, *inputs.shape[1:])[-3:]
            return DataShape(channels, height, width, self.classes, target=target)
        named = inputs if isinstance(inputs, dict) else {"": inputs}
        features = tuple(_feature(name, array) for name, array in named.items())
        channels, height, width = (1, 1, 1, *features[0].shape)[-3:]
        return DataShape(channels, height, width, self.classes, self.vocabulary, features=features, target=target)


def _feature(name: str, array: npt.NDArray[np.generic]) -> Feature:
    if array.dtype.kind == "f":
        return Feature(name, array.shape[1:])
    whole = array.dtype.kind in "iu"
    return Feature(name, array.shape[1:], array.dtype.name, 1 + int(array.max()) if whole and array.size else 0)


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
        takes: what one sample is; "any": that is between the model and the data.
        least_size: fewest pixels on either side that its layers leave anything of.
        check: raises InputError where the model with these options does not fit data of this shape.
        batch_norm: it has BatchNorm. Of a model from a file only a trial step tells.
    """

    name: str
    summary: str
    source: str
    Options: type[Options]
    learning_rate: float
    input_size: int | None
    build: Callable[[Any, DataShape], nn.Module]
    file: SourceFile | None = None
    takes: Literal["images", "tokens", "any"] = "images"
    least_size: int = 1
    check: Callable[[Any, DataShape], None] | None = None
    batch_norm: bool = False

    @cached_property
    def code_hash(self) -> str:
        """Hash of what decides which network is built, besides its options: an edited network is another one."""
        return f"{_code_hash(self.file, self.build)} {self.input_size} {self.takes}"


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
        stream: reads the data as `load` does, but only as much as it is told to keep (see `own_data.raw_data`); None:
            everything is always read.
        fixed: its options alone decide its data, which no file of the user's can change while a run goes on: loaded
            once, they serve every simulated cell.
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
    stream: Callable[[Any, Keeps], RawData] | None = None
    fixed: bool = False

    @cached_property
    def code_hash(self) -> str:
        """Hash of the code that loads or makes the data."""
        return _code_hash(self.file, self.load)


def _code_hash(file: SourceFile | None, function: Callable[..., Any]) -> str:
    return function_hash(function) if file is None else file_hash(file.path, file.text)


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
                f"goal.validation_fraction = {validation_fraction:g}: leaves none of the {num_train} samples for "
                "training; write a fraction from 0 to below 1, such as 0.1"
            ]
        )
    return num_train - num_validation


@dataclass(frozen=True)
class Enlargement:
    """Where an enlarged image lies in the model's square input: pixels repeated `factor` times, then shifted."""

    factor: int
    top: int
    left: int


def enlarge(height: int, width: int, input_size: int | None) -> Enlargement:
    """Say how an image becomes `input_size` pixels square.

    Every pixel is repeated by the largest whole factor that fits, so no pixel value is invented; the rest is filled
    equally on all sides, an odd row or column going to the bottom or the right.

    Raises:
        InputError: the image is larger than the input.
    """
    if input_size is None:
        return Enlargement(1, 0, 0)
    factor = input_size // max(height, width)
    if factor < 1:
        raise InputError(
            [
                f"workload.dataset: images of {height} x {width} pixels do not fit into the model's input of "
                f"{input_size} x {input_size}; choose a model that takes any size (softmax, mlp, a function of your "
                "own), or smaller images"
            ]
        )
    return Enlargement(factor, (input_size - factor * height) // 2, (input_size - factor * width) // 2)


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
    if model.takes == "any":
        return shape
    if shape.target is not None or len(shape.inputs) > 1 or shape.inputs[0].name:
        raise InputError(
            [
                f"workload: the model {model.name} ships with the harness and reads one image or one text, of one "
                "class or with one label for each token; these data are something else. Name a model of your own as "
                "FILE.py:FUNCTION"
            ]
        )
    shape = replace(shape, features=())
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


class IdxOptions(Options, defer_build=True):
    """Options of `idx`: a folder with four IDX files, compressed (.gz) or not."""

    path: Path
    """The folder; a relative one is looked up from where harness was started."""

    train_images: str = "train-images-idx3-ubyte"
    train_labels: str = "train-labels-idx1-ubyte"
    test_images: str = "t10k-images-idx3-ubyte"
    test_labels: str = "t10k-labels-idx1-ubyte"


class SyntheticOptions(Options, defer_build=True):
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


Chance = Annotated[float, Field(ge=0, lt=1)]


AttentionName = Literal["fused", "eager"]


class TransformerSize(NamedTuple):
    """How large a transformer is."""

    layers: int
    hidden: int
    heads: int


GPT_SIZES = {
    "small": TransformerSize(12, 768, 12),
    "medium": TransformerSize(24, 1024, 16),
    "large": TransformerSize(24, 1536, 16),
    "xl": TransformerSize(24, 2048, 16),
    "2.7b": TransformerSize(32, 2560, 32),
    "6.7b": TransformerSize(32, 4096, 32),
    "13b": TransformerSize(40, 5120, 40),
    "175b": TransformerSize(96, 12288, 96),
}
"""Source: Brown et al. 2020, table 2.1; there xl has 24 heads and 13b a width of 5140, which their own counts do not
divide: 16 heads and 5120 do."""


class GptOptions(Options, defer_build=True):
    """Options of `gpt`: a size by name, and what differs from it."""

    size: Literal["small", "medium", "large", "xl", "2.7b", "6.7b", "13b", "175b"] = "small"

    layers: PositiveInt | None = None
    """Blocks; default: of the size."""

    hidden: PositiveInt | None = None
    """Width; default: of the size."""

    heads: PositiveInt | None = None
    """Attention heads; must divide the width; default: of the size."""

    vocabulary: PositiveInt | None = None
    """Rows of the embedding and of the head; default: as many as the data has."""

    sequence: PositiveInt | None = None
    """Positions; default: as many as the data has."""

    attention: AttentionName = "fused"
    """fused: no matrix of tokens by tokens is kept; eager: scores and probabilities are."""

    tied: bool = True
    """The head shares the weights of the tokens' embedding, as the published models do; false: it has its own, so that
    a pipeline may also cut layers by tensor parallelism and split its backward passes."""

    dropout: Chance = 0.0

    @property
    def dimensions(self) -> TransformerSize:
        """The size by its name, with what was written replaced."""
        named = GPT_SIZES[self.size]
        return TransformerSize(self.layers or named.layers, self.hidden or named.hidden, self.heads or named.heads)

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> GptOptions:
        _check_heads(self.dimensions)
        return self


class BertLargeOptions(Options, defer_build=True):
    """Options of `bert-large`; the defaults are what was published."""

    layers: PositiveInt = 24
    hidden: PositiveInt = 1024
    heads: PositiveInt = 16

    vocabulary: PositiveInt = 30522
    """Rows of the embedding, at least as many as the data has tokens."""

    positions: PositiveInt = 512
    """At least as many as a sample has tokens."""

    attention: AttentionName = "eager"
    """eager: scores and probabilities are kept, as in the published measurements; fused: they are not."""

    dropout: Chance = 0.1

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> BertLargeOptions:
        _check_heads(TransformerSize(self.layers, self.hidden, self.heads))
        return self


def _check_heads(size: TransformerSize) -> None:
    if size.hidden % size.heads:
        raise ValueError(f"a width of {size.hidden} is not a multiple of {size.heads} heads")


class TokensOptions(Options, defer_build=True):
    """Options of `tokens`."""

    samples: Annotated[int, Field(ge=2)] = 2048
    """Samples to train on and validate with."""

    test_samples: PositiveInt = 256

    sequence: Annotated[int, Field(ge=2)] = 64
    """Tokens of one sample."""

    vocabulary: Annotated[int, Field(ge=2)] = 64

    labels: Literal["next", "kind"] = "next"
    """next: every token's label is the token after it; kind: a sample's label is which chain it was drawn from."""

    classes: Annotated[int, Field(ge=2)] = 2
    """Chains; read with labels = "kind" only."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Draws the data itself; independent of the run's seeds."""


class TextOptions(Options):
    """Options of `text`."""

    path: Path | None = None
    """A UTF-8 file, or a folder whose text files are read in the order of their names; default: the sources of Python's
    standard library. A relative one is looked up from where harness was started."""

    sequence: Annotated[int, Field(ge=2)] = 64
    """Bytes of one sample; each is a token."""

    samples: Annotated[int, Field(ge=2)] = 16384
    """At most so many to train on and validate with."""

    test_samples: PositiveInt = 1024


class ImageFolderOptions(Options):
    """Options of `imagefolder`."""

    path: Path
    """A folder with one folder for each class; or with train/ and test/ or val/, each with such folders. A relative one
    is looked up from where harness was started."""

    size: PositiveInt = 64
    """Height and width in pixels that every image is resized and cropped to."""

    channels: Literal[1, 3] = 3
    """3: red, green and blue; 1: grey."""

    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the images that is the test split, where there is no folder of its own."""


class TableOptions(Options):
    """Options of `table`."""

    path: Path
    """A CSV or Parquet file with a line of names. A relative one is looked up from where harness was started."""

    target: str
    """The column that a model is to tell: text or whole numbers are classes, fractions are numbers to be met."""

    test_path: Path | None = None
    """A file like it with the test rows; default: a share of the rows."""

    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1

    categories: Literal["one-hot", "codes"] = "one-hot"
    """What a column of text becomes: a column of 0 and 1 for each of its words, or one of numbers."""

    standardize: tuple[Literal["inputs", "target"], ...] = ("inputs",)
    """Numbers that get mean 0 and deviation 1, by the training rows; losses then count in the target's variance."""

    drop: tuple[str, ...] = ()
    """Columns that are left out."""
