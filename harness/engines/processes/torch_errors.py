"""What usually mends torch's commonest errors, in the terms of whoever wrote the model.

Known by torch's own words, as in `foreign.py`: nothing but advice follows from them, and which errors of a user's model
count as his. A test raises every error that a CPU can raise, so that a new release's wording is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from re import Pattern

from harness.core.errors import words_of_error


@dataclass(frozen=True)
class Mend:
    """An error of torch's and what to do about it.

    Attributes:
        says: what its message contains.
        text: one or two sentences.
    """

    says: Pattern[str]
    text: str


def _mend(says: str, text: str) -> Mend:
    return Mend(re.compile(says, re.DOTALL), text)


MENDS: dict[str, Mend] = {
    "unused parameters": _mend(
        r"Expected to have finished reduction in the prior iteration",
        "DDP waits for a gradient of every parameter, and some got none in a step. Remove the parameters that the "
        "output does not depend on, or set requires_grad = False on them before training.",
    ),
    "marked twice": _mend(
        r"Expected to mark a variable ready only once|marked as? ready twice",
        "DDP saw two gradients of one parameter in one step. Checkpoint with use_reentrant=False, and call a layer "
        "that is used several times inside one forward of the whole model.",
    ),
    "changed in place": _mend(
        r"one of the variables needed for gradient computation has been modified by an inplace operation",
        "A tensor that backward still needs was overwritten. Write x = x + y in place of x += y, use inplace=False "
        "in activations, and register as a buffer what forward only updates.",
    ),
    "one value per channel": _mend(
        r"Expected more than 1 value per channel when training",
        "BatchNorm cannot take the statistics of a single sample. Choose a batch size that leaves more than one sample "
        "to the last batch on each device, or use GroupNorm or LayerNorm.",
    ),
    "no graph": _mend(
        r"does not require grad and does not have a grad_fn",
        "No parameter that can be trained leads to the loss. Look for detach(), no_grad(), .item(), argmax or frozen "
        "parameters between them.",
    ),
    "sizes of a product": _mend(
        r"mat1 and mat2 shapes cannot be multiplied|size mismatch, got input",
        "A Linear layer gets rows of another length than its in_features. Print the shape before it: the size of the "
        "images, or a Flatten, is often another one than the layer was written for.",
    ),
    "several devices": _mend(
        r"Expected all tensors to be on the same device",
        "A tensor was made on another device than the inputs. Make it with device=x.device, or register it as a "
        "buffer, so that it moves with the model.",
    ),
    "several types": _mend(
        r"expected scalar type|mat1 and mat2 must have the same dtype|must have the same dtype"
        r"|expected m1 and m2 to have the same dtype|Input type .* and (?:weight|bias) type .* should be the same",
        "Two tensors of different precision meet. Convert with x.to(self.layer.weight.dtype) inside forward, and make "
        "constants with dtype=x.dtype.",
    ),
    "nothing for DDP": _mend(
        r"DistributedDataParallel is not needed when a module doesn't have any parameter",
        "The model has no parameter that can be trained, so that there is nothing to exchange. Set requires_grad on "
        "what is to be trained.",
    ),
    "shared under FSDP": _mend(
        r"FSDP .*shared parameters|shared parameters? .*FSDP|expects? .*shared parameter",
        "FSDP shards a tied weight once for each place that holds it. Keep the layers that share it in one block, or "
        "choose sync-ddp.",
    ),
    "tensor and shard": _mend(
        r"got mixed torch\.Tensor and DTensor",
        "A shard met a whole tensor: a weight is used outside the block that owns it. Call the block that holds the "
        "weight, in place of using its weight from elsewhere, or choose sync-ddp.",
    ),
    "second backward": _mend(
        r"Trying to backward through the graph a second time",
        "Something that was computed in an earlier step is used again. Compute it inside forward, or detach() what is "
        "kept from one step to the next.",
    ),
    "target too large": _mend(
        r"Target -?\d+ is out of bounds|Assertion `?t >= 0 && t < n_classes",
        "A label is no class of the model: classes count from 0, and the last layer needs one output for each. Look at "
        "the labels' least and largest value.",
    ),
    "targets of pixels": _mend(
        r"only batches of spatial targets supported|Expected target size|Expected floating point type for target",
        "The targets' shape or type does not fit the outputs: cross-entropy takes outputs (n, classes, ...) and whole "
        "numbers of shape (n, ...).",
    ),
    "cannot be pickled": _mend(
        r"Caught PicklingError|Can't pickle|cannot pickle|Can't get local object",
        "Something cannot be sent to another process. Define functions and classes at the file's top level: no "
        "lambda, no open file and no generator can travel.",
    ),
    "not initialised": _mend(
        r"[Uu]ninitialized parameters?|is not initialized yet|has not been initialized",
        "A lazy layer has no weights before its first input. Pass one batch through the model at the end of the "
        "function that builds it.",
    ),
    "values that a trace has not": _mend(
        r"Cannot access data pointer of Tensor that doesn't have storage|DynamicOutputShapeException"
        r"|DataDependentOutputException|aten\._local_scalar_dense|aten\.nonzero",
        "The model decides by the values of its tensors, which are not there when it is only traced. Training does "
        "not need the trace; .item(), nonzero() and boolean masks are what hinders it.",
    ),
    "weights of another shape": _mend(
        r"Error\(s\) in loading state_dict|size mismatch for ",
        "Weights that are loaded were saved by a model of another shape. Build it with the saved sizes, or load with "
        "strict=False and leave the changed layers out.",
    ),
    "index of an embedding": _mend(
        r"index out of range in self|Assertion `?srcIndex < srcSelectDimSize",
        "An Embedding is asked for a row that it does not have. Make num_embeddings larger than the largest token or "
        "position.",
    ),
    "view": _mend(
        r"view size is not compatible with input tensor's size and stride",
        "The tensor does not lie in one piece after a transpose or permute. Write reshape in place of view.",
    ),
    "not in one piece": _mend(
        r"[Tt]ensors? (?:has to|must|need to) be contiguous|non-contiguous",
        "Processes exchange only tensors that lie in one piece. Call .contiguous() on what a layer returns after a "
        "transpose, permute or slice.",
    ),
    "assertion on the device": _mend(
        r"device-side assert",
        "A kernel met an index that is out of range, nearly always a label or a token. Run the cell on CPU, or with "
        "CUDA_LAUNCH_BLOCKING=1, and the line is named.",
    ),
    "collective in time": _mend(
        r"Watchdog caught collective operation timeout|wait timeout after \d+|Timed out waiting \d+ms",
        "One process did not come to an exchange that the others wait in. A branch that only some ranks take, or one "
        "that ends its loop earlier, does that; the others' logs show where it is.",
    ),
    "shapes that do not fit": _mend(
        r"The size of tensor a \(\d+\) must match the size of tensor b|shape '\[.*\]' is invalid for input of size"
        r"|Sizes of tensors must match|Given groups=\d+, weight of size|expected input.*to have \d+ channels",
        "Two shapes do not fit. Print them where the line is: the number of channels, the size of the images or the "
        "batch, written as a number, is often what differs.",
    ),
}
"""By what is wrong. From torch 2.13: c10d/reducer.cpp, nn/functional.py, autograd/, aten/, distributed/."""


def mending(error: BaseException) -> str:
    """Return what usually mends an error, or what it came from; empty where nothing is known."""
    for each in causes_of(error):
        # A KeyError's words are in quotes, and what torch's own wrapper adds comes behind: searched, not matched.
        words = f"{type(each).__name__}: {words_of_error(each)}"
        for mend in MENDS.values():
            if mend.says.search(words):
                return mend.text
    return ""


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from, as Python's own tracebacks follow them."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)
