"""What a look at a model and its data found. Imports no torch: it is found in another process."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.records import Json
from harness.workloads.entries import Feature


@dataclass(frozen=True)
class Guess:
    """The best answer that is the same for every sample: the commonest class, the frequencies of classes, the mean.

    Attributes:
        loss: entropy of the classes' frequencies in nats, or variance of the numbers.
        accuracy: share of the commonest class; None for numbers.
    """

    loss: float
    accuracy: float | None = None


@dataclass(frozen=True)
class DataFindings:
    """A data set that a model was tried on.

    Attributes:
        name: what a scenario calls it.
        options: of a built-in one, as far as they differ from its defaults.
        inputs: what a model gets of one sample; images as the model sees them.
        target: of one sample, as the loss takes it.
        classes: how many there are; 0 where targets are numbers.
        num_train: samples before the validation split is taken from them.
        remarks: what was converted on the way, in words.
        proposed: whether nobody named it: the model was tried on several, and this is the first that fits.
        guess: what is reached without looking at any input; None where that is not known.
        standardizes: whether its options can give numbers a scale.
        unscaled: what is too large to be trained on as it is, in words.
        load_s: what loading it took.
    """

    name: str
    options: Json
    inputs: tuple[Feature, ...]
    target: Feature
    classes: int
    vocabulary: int
    num_train: int
    num_test: int
    remarks: tuple[str, ...] = ()
    proposed: bool = False
    guess: Guess | None = None
    standardizes: bool = False
    unscaled: tuple[str, ...] = ()
    load_s: float = 0.0

    @property
    def predicts_tokens(self) -> bool:
        """Whether a sample has a token as target at each of its positions; a text may also have one class in all."""
        return self.vocabulary > 0 and bool(self.target.shape)


@dataclass(frozen=True)
class FoundBlock:
    """A part of a model that a pipeline may cut before or behind.

    Attributes:
        kind: its class.
    """

    name: str
    kind: str
    parameters: int


@dataclass(frozen=True)
class ModelFindings:
    """A model after one training step.

    Attributes:
        name: what a scenario calls it.
        parameters: numbers in all parameters, shared ones once.
        tensors: in how many parameters they are.
        frozen: names of parameters that are not trained.
        without_gradient: names of those that are to be trained and got no gradient.
        ties: groups of names that stand for one parameter.
        buffers: names.
        batch_norms: names of layers that average over the batch.
        blocks: in the order of their calls.
        chain: whether it is an `nn.Sequential` that calls each layer once.
        draws: whether it draws random numbers in training.
        normalises: whether it has LayerNorm or the like, as transformers have.
        outputs: shape for a batch, without the batch's own axis.
        result: how its outputs are taken from what it returns: "", ".logits", "[0]".
    """

    name: str
    parameters: int
    tensors: int
    frozen: tuple[str, ...]
    without_gradient: tuple[str, ...]
    ties: tuple[tuple[str, ...], ...]
    buffers: tuple[str, ...]
    batch_norms: tuple[str, ...]
    blocks: tuple[FoundBlock, ...]
    chain: bool
    draws: bool
    normalises: bool
    outputs: tuple[int, ...]
    result: str

    @property
    def most_stages(self) -> int:
        """Stages that a pipeline can have at most: each needs a block with parameters."""
        return max(1, sum(block.parameters > 0 for block in self.blocks))


@dataclass(frozen=True)
class Findings:
    """A model and the data that it was tried on.

    Attributes:
        loss: the first that fits outputs and targets.
        batch_size: samples of the step that was timed.
        step_s: of its forward and backward pass and its update on one CPU core.
    """

    model: ModelFindings
    data: DataFindings
    loss: str
    batch_size: int
    step_s: float
