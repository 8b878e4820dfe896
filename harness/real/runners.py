"""Which runner a layout needs."""

from __future__ import annotations

from harness.real.clock import Ledger
from harness.real.layouts import DataParallel, OneDevice
from harness.training.setup import Setup


def make_runner(setup: Setup, ledger: Ledger, worker: int, rank: int) -> OneDevice:
    """Return the runner of a layout; what only some layouts need of torch is imported for them alone."""
    layout = setup.layout
    if layout.pipeline > 1:
        from harness.real.pipelined import Pipeline

        return Pipeline(setup, ledger, worker, rank)
    if layout.tensor > 1 or (layout.data > 1 and layout.shard == "none" and not layout.overlap):
        from harness.real.exchanged import Exchanged

        return Exchanged(setup, ledger, worker, rank)
    if layout.data > 1 and layout.shard != "none":
        from harness.real.sharded import FullySharded

        return FullySharded(setup, ledger, worker, rank)
    return DataParallel(setup, ledger, worker, rank) if layout.data > 1 else OneDevice(setup, ledger, worker, rank)
