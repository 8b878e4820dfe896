"""QSGD: every number of a gradient is rounded to one of a few levels, at random, so that it is right on average."""

from __future__ import annotations

from pydantic import Field

from harness import Bucket, Codec, DataParallel, Value, average, codecs, hookimpl


class Levels(Codec):
    """Of each bucket its norm; of each number its sign, and how many parts of the norm it is, of `levels` parts."""

    encode_passes, decode_passes = 29.0, 11.0

    def __init__(self, levels, bucket, stream):
        self.levels, self.bucket, self.stream = levels, bucket, stream
        self.width = codecs.width_for(2 * levels + 1)

    def encode(self, layer, name):
        """Round up as often as a number lies close to the level above it."""
        import torch

        rows = torch.nn.functional.pad(layer.reshape(-1), (0, -layer.numel() % self.bucket)).view(-1, self.bucket)
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        scaled = rows * (self.levels / norms.clamp_min(torch.finfo(rows.dtype).tiny))
        rounded = (scaled + codecs.uniform(self.stream, scaled)).floor().clamp(-self.levels, self.levels)
        return norms, codecs.pack((rounded + self.levels).int().view(-1)[: layer.numel()], self.width)

    def decode(self, parts, shape, name):
        """Multiply levels by norms."""
        norms, packed = parts
        numbers = codecs.unpack(packed, self.width, shape.numel()) - self.levels
        return (numbers * (norms / self.levels).repeat_interleave(self.bucket)[: len(numbers)]).view(shape)


class QSGD(DataParallel):
    """Workers average gradients whose numbers have few bits: 2, 4 or 8, for up to 1, 7 or 127 levels.

    Rounding is random and right on average, so it needs no error feedback; it makes gradients noisier, by a factor of
    at most min(bucket / levels**2, sqrt(bucket) / levels) in the squared error. A worker sends
    (bits / 8 + 4 / bucket) * parameters * (workers - 1) bytes a step: all have the same number of bits, where the paper
    gives frequent levels shorter codes.

    Source: Alistarh, Grubic, Li, Tomioka and Vojnovic 2017, "QSGD: Communication-Efficient SGD via Gradient
    Quantization and Encoding", section 3.1 and theorem 3.2; buckets: section 4.
    """

    name = "qsgd"
    also_known_as = ("quantized-sgd", "quantised-sgd")
    suggested_for = ("quantized", "quantised", "terngrad", "8-bit", "4-bit")
    alone = None

    class Options(DataParallel.Options):
        """How finely gradients are rounded."""

        levels: int = Field(7, ge=1, le=2**30 - 1, description="steps between 0 and a bucket's norm")
        bucket: int = Field(512, ge=1, description="numbers that share a norm")

    async def reduce(self, bucket: Bucket) -> Value:
        """Exchange rounded gradients."""
        levels = Levels(self.options.levels, self.options.bucket, bucket.random("rounding"))
        return average(await bucket.gather(await bucket.encode(bucket.gradient, levels)))


@hookimpl
def harness_strategies():
    return [QSGD]
