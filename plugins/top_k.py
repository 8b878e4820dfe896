"""Top-k: every worker sends only the largest numbers of its gradient, and remembers what it has not sent."""

from __future__ import annotations

import math

from pydantic import Field

from harness import Bucket, Codec, DataParallel, Value, average, hookimpl


class Largest(Codec):
    """Of each layer the share of numbers that are largest in size, each with its place."""

    encode_passes, decode_passes = 40.0, 1.3

    def __init__(self, share: float) -> None:
        self.share = share

    def encode(self, layer, name):
        """Return numbers and places, each of shape (k,)."""
        flat = layer.reshape(-1)
        places = flat.abs().topk(math.ceil(self.share * flat.numel()), sorted=False).indices
        return flat[places], places.int()

    def decode(self, parts, shape, name):
        """Put the numbers in their places, and zeros everywhere else."""
        numbers, places = parts
        return numbers.new_zeros(shape.numel()).index_copy(0, places.long(), numbers).view(shape)


class TopK(DataParallel):
    """Each worker sends the largest `share` of every layer's gradient; all average what all have sent.

    What was not sent is added to the next gradient, so that every number is sent in the end. Without this error
    feedback training may stall or diverge. A number takes its own bytes and 4 of its place, and reaches each of the
    others: in fp32 a worker sends 8 * share * parameters * (workers - 1) bytes a step, less than `sync-ddp` where
    share < 1 / workers.

    Source: Stich, Cordonnier and Jaggi 2018, "Sparsified SGD with Memory", algorithm 1; Lin et al. 2018, "Deep Gradient
    Compression", who choose the largest by layer.
    """

    name = "top-k"
    also_known_as = ("topk", "sparsified-sgd")
    suggested_for = ("sparse", "sparsification", "deep-gradient-compression", "dgc")
    alone = None

    class Options(DataParallel.Options):
        """How little is sent, and whether the rest is remembered."""

        share: float = Field(0.01, gt=0, le=1, description="part of each layer's numbers that is sent, at least one")
        error_feedback: bool = Field(True, description="add what was not sent to the next gradient; false: forget it")

    async def reduce(self, bucket: Bucket) -> Value:
        """Send the largest numbers; keep the others for later."""
        wanted = bucket.gradient + bucket.kept.get("unsent", bucket.gradient.zeros())
        sent = await bucket.encode(wanted, Largest(self.options.share))
        if self.options.error_feedback:
            bucket.kept["unsent"] = wanted - sent
        return average(await bucket.gather(sent))


@hookimpl
def harness_strategies():
    return [TopK]
