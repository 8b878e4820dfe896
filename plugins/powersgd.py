"""PowerSGD: gradients of matrices are exchanged as two thin factors, by one step of power iteration."""

from __future__ import annotations

from pydantic import Field

from harness import Bucket, Codec, DataParallel, Value, codecs, hookimpl


def matrix(layer):
    """Return a layer as a matrix: one row for each output."""
    return layer.reshape(layer.shape[0], -1)


class LeftFactor(Codec):
    """Of each matrix its product with a right factor: the last step's, at first random numbers."""

    linear = True
    encode_passes, decode_passes = 0.6, 0.0

    def __init__(self, rank, right, stream):
        self.rank, self.right, self.stream = rank, right, stream

    def encode(self, layer, name):
        """Return M Q of shape (rows, rank); of a vector nothing."""
        if layer.dim() < 2:
            return ()
        rows, columns = matrix(layer).shape
        (right,) = self.right.get(name, (None,))
        if right is None:
            right = codecs.normal(self.stream, layer.new_empty(columns, min(self.rank, rows, columns)))
        return (matrix(layer) @ right,)

    def decode(self, parts, shape, name):
        """Refuse: it is half of an approximation."""
        raise NotImplementedError("a left factor alone is no gradient")


class RightFactor(Codec):
    """Of each matrix its product with an orthonormal left factor; vectors as they are."""

    linear = True
    encode_passes, decode_passes = 0.8, 0.4

    def __init__(self, left):
        import torch

        self.left = {name: torch.linalg.qr(parts[0]).Q for name, parts in left.items() if parts}

    def encode(self, layer, name):
        """Return M^T P of shape (columns, rank)."""
        return (matrix(layer).T @ self.left[name] if name in self.left else layer,)

    def decode(self, parts, shape, name):
        """Return P Q^T, the projection of M on the left factor."""
        return (self.left[name] @ parts[0].T).view(shape) if name in self.left else parts[0]


class PowerSGD(DataParallel):
    """Workers average two factors of each gradient matrix M, about P Q^T, in place of the matrix.

    P = M Q with the last step's Q, averaged and made orthonormal; then Q = M^T P, averaged. What P Q^T leaves of a
    worker's own gradient is added to its next one. Both averages are all-reduces, whose bytes do not grow with the
    number of workers: 4 * rank * (rows + columns) for a matrix in fp32. Vectors are exchanged as they are.

    Source: Vogels, Karimireddy and Jaggi 2019, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed
    Optimization", algorithms 1 and 2.
    """

    name = "powersgd"
    also_known_as = ("power-sgd",)
    suggested_for = ("low-rank", "lowrank", "rank")
    alone = None

    class Options(DataParallel.Options):
        """How thin the factors are, and what is remembered."""

        rank: int = Field(2, ge=1, description="columns of each factor; a smaller matrix has fewer")
        error_feedback: bool = Field(True, description="add what the factors leave out to the next gradient")
        warm_start: bool = Field(
            True, description="begin with the last step's right factor; false: with random numbers"
        )

    async def reduce(self, bucket: Bucket) -> Value:
        """Average left factors, then right ones; keep what they leave out."""
        options, kept, stream = self.options, bucket.kept, bucket.random("right factors", shared=True)
        wanted = bucket.gradient + kept.get("error", bucket.gradient.zeros())
        left = await bucket.mean(await bucket.encode(wanted, LeftFactor(options.rank, kept.get("right", {}), stream)))
        sent = await bucket.encode(wanted, RightFactor(left.parts))
        if options.error_feedback:
            kept["error"] = wanted - sent
        mean = await bucket.mean(sent)
        if options.warm_start:
            kept["right"] = mean.parts
        return mean


@hookimpl
def harness_strategies():
    return [PowerSGD]
