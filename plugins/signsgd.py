"""signSGD: every worker sends one bit for each number of its gradient, and the majority decides the direction."""

from __future__ import annotations

from pydantic import Field

from harness import Bucket, Codec, DataParallel, Value, average, codecs, hookimpl


class Signs(Codec):
    """Of each number its sign, in one bit; 0 counts as positive."""

    encode_passes, decode_passes = 3.5, 9.5

    def encode(self, layer, name):
        """Pack eight signs into a byte."""
        return (codecs.pack(layer.reshape(-1) >= 0, width=1),)

    def decode(self, parts, shape, name):
        """Return 1 and -1."""
        return codecs.unpack(parts[0], width=1, count=shape.numel()).view(shape).float() * 2 - 1


class SignSGD(DataParallel):
    """Workers vote on the sign of every number, each by its own momentum; all step by the learning rate that way.

    A step is as long whatever the gradient's size, so the learning rate is that of Adam or below, not that of SGD. A
    tie counts as positive. Votes are exchanged without a server: a worker sends (workers - 1) / 8 bytes for each
    parameter.

    Source: Bernstein, Zhao, Azizzadenesheli and Anandkumar 2019, "signSGD with Majority Vote is Communication Efficient
    and Fault Tolerant", algorithm 1.
    """

    name = "signsgd"
    also_known_as = ("sign-sgd", "signum", "majority-vote")
    suggested_for = ("1-bit", "one-bit", "sign")
    alone = None

    class Options(DataParallel.Options):
        """What votes."""

        momentum: float = Field(0.9, ge=0, lt=1, description="beta of each worker's momentum; 0: gradients vote")

    async def reduce(self, bucket: Bucket) -> Value:
        """Vote, and follow the majority."""
        beta, signs = self.options.momentum, Signs()
        before = bucket.kept.get("momentum", bucket.gradient.zeros())
        momentum = bucket.kept["momentum"] = (1 - beta) * bucket.gradient + beta * before
        votes = average(await bucket.gather(await bucket.encode(momentum, signs)))
        return await bucket.encode(votes, signs)


@hookimpl
def harness_strategies():
    return [SignSGD]
