"""Entries for models that are worth more than one device, and the tokens that the language models read.

Like the catalogue, this imports neither torch nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field, PositiveInt, model_validator

from harness.strategy import Options
from harness.workloads.catalogue import Dataset, DatasetSize, DataShape, Model, RawData

if TYPE_CHECKING:
    from torch import nn

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


class GptOptions(Options):
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


class BertLargeOptions(Options):
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


def _build_alexnet(options: Options, shape: DataShape) -> nn.Module:
    from harness.workloads import convolutional

    return convolutional.alexnet(shape)


def _build_vgg16(options: Options, shape: DataShape) -> nn.Module:
    from harness.workloads import convolutional

    return convolutional.vgg16(shape)


def _build_resnet50(options: Options, shape: DataShape) -> nn.Module:
    from harness.workloads import convolutional

    return convolutional.resnet50(shape)


def _build_resnet101(options: Options, shape: DataShape) -> nn.Module:
    from harness.workloads import convolutional

    return convolutional.resnet101(shape)


def _build_resnet152(options: Options, shape: DataShape) -> nn.Module:
    from harness.workloads import convolutional

    return convolutional.resnet152(shape)


def _build_squeezenet(options: Options, shape: DataShape) -> nn.Module:
    from harness.workloads import convolutional

    return convolutional.squeezenet(shape)


def _build_gpt(options: GptOptions, shape: DataShape) -> nn.Module:
    from harness.workloads import transformers

    return transformers.gpt(shape, options)


def _build_bert_large(options: BertLargeOptions, shape: DataShape) -> nn.Module:
    from harness.workloads import transformers

    return transformers.bert_large(shape, options)


# Rates are those of the papers for their own batches, or usual ones; none of them is measured here.
LARGE_MODELS = (
    Model(
        name="alexnet",
        summary="five convolutions and three linear layers, 61,100,840 parameters for 1,000 classes",
        source="Krizhevsky 2014, one tower (64-192-384-256-256)",
        Options=Options,
        learning_rate=0.01,
        input_size=None,
        build=_build_alexnet,
        least_size=63,
    ),
    Model(
        name="vgg16",
        summary="thirteen convolutions and three linear layers, 138,357,544 parameters for 1,000 classes",
        source="Simonyan and Zisserman 2015, table 1, column D",
        Options=Options,
        learning_rate=0.01,
        input_size=None,
        build=_build_vgg16,
        least_size=32,
    ),
    Model(
        name="resnet50",
        summary="sixteen bottleneck blocks, 25,557,032 parameters for 1,000 classes, BatchNorm",
        source="He et al. 2016, table 1; the stride in the 3 x 3 convolution (Gross and Wilber 2016)",
        Options=Options,
        learning_rate=0.1,
        input_size=None,
        build=_build_resnet50,
        least_size=32,
    ),
    Model(
        name="resnet101",
        summary="thirty-three bottleneck blocks, 44,549,160 parameters for 1,000 classes, BatchNorm",
        source="as resnet50",
        Options=Options,
        learning_rate=0.1,
        input_size=None,
        build=_build_resnet101,
        least_size=32,
    ),
    Model(
        name="resnet152",
        summary="fifty bottleneck blocks, 60,192,808 parameters for 1,000 classes, BatchNorm",
        source="as resnet50",
        Options=Options,
        learning_rate=0.1,
        input_size=None,
        build=_build_resnet152,
        least_size=32,
    ),
    Model(
        name="squeezenet1.0",
        summary="eight fire modules between two convolutions, 1,248,424 parameters for 1,000 classes",
        source="Iandola et al. 2016, table 1",
        Options=Options,
        learning_rate=0.04,
        input_size=None,
        build=_build_squeezenet,
        least_size=21,
    ),
    Model(
        name="gpt",
        summary="a decoder that predicts the next token, from 12 blocks (small) to 96 (175b)",
        source="Radford et al. 2019 (architecture); Brown et al. 2020, table 2.1 (sizes)",
        Options=GptOptions,
        learning_rate=0.1,
        input_size=None,
        build=_build_gpt,
        takes="tokens",
    ),
    Model(
        name="bert-large",
        summary="an encoder of 24 blocks that classifies a text, 335,143,938 parameters for two classes",
        source="Devlin et al. 2019, section 3 (large)",
        Options=BertLargeOptions,
        learning_rate=0.01,
        input_size=None,
        build=_build_bert_large,
        takes="tokens",
    ),
)


class TokensOptions(Options):
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


def _load_tokens(options: TokensOptions) -> RawData:
    from harness.workloads import tokens

    return tokens.load_tokens(options)


def _tokens_checksum(options: TokensOptions) -> str:
    from harness.workloads import tokens

    return tokens.tokens_checksum(options)


def _tokens_size(options: TokensOptions) -> DatasetSize:
    each = options.labels == "next"
    classes = options.vocabulary if each else options.classes
    shape = DataShape(1, 1, options.sequence, classes, options.vocabulary, each)
    return DatasetSize(options.samples, options.test_samples, shape)


TOKENS = Dataset(
    name="tokens",
    summary="text made up on the spot by random chains of tokens; learnable, nothing to download",
    source="the harness: Markov chains of first order (Shannon 1948, section 3)",
    Options=TokensOptions,
    size=_tokens_size,
    target_accuracy=None,
    load=_load_tokens,
    checksum=_tokens_checksum,
)
