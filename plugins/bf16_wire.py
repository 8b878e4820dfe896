"""Data parallelism with gradients exchanged in bfloat16: half of the bytes, and nothing else changes."""

from __future__ import annotations

from harness import Bucket, Codec, DataParallel, Value, hookimpl


class BFloat16(Codec):
    """Every number in 16 bits: the exponent of fp32, and 8 bits of its mantissa."""

    linear = True
    encode_passes, decode_passes = 0.6, 0.6

    def encode(self, layer, name):
        """Round to the nearest."""
        import torch

        return (layer.to(torch.bfloat16),)

    def decode(self, parts, shape, name):
        """Return the rounded numbers."""
        return parts[0]


class BFloat16Wire(DataParallel):
    """Trains like `sync-ddp`, but gradients travel, and are summed, in bfloat16.

    Each number is off by at most 1 part in 256 for every sum that it goes through. Bytes are half of fp32's.

    Source: torch.distributed.algorithms.ddp_comm_hooks.default_hooks, bf16_compress_hook; rounding: Micikevicius et al.
    2018, "Mixed Precision Training".
    """

    name = "bf16-wire"
    also_known_as = ("bf16-compress", "bf16-allreduce")
    suggested_for = ("bf16-hook", "half-wire", "fp16-wire")
    alone = None

    async def reduce(self, bucket: Bucket) -> Value:
        """Average rounded gradients."""
        return await bucket.mean(await bucket.encode(bucket.gradient, BFloat16()))


@hookimpl
def harness_strategies():
    return [BFloat16Wire]
