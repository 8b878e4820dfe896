"""Replicas that exchange their gradients after the backward pass, each perhaps cut over a tensor group."""

from __future__ import annotations

import gc
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from harness.api.strategy import Batch
from harness.core.step_parts import Part
from harness.engines.real.clock import Ledger
from harness.engines.real.layouts.grid import CutLayers, Grid, describe_cuts
from harness.engines.real.layouts.one_device import OneDevice
from harness.engines.real.layouts.parts import Parts, assembled, average_gradients, parts_replica, same_buffers, whole
from harness.engines.shared.replica import Replica
from harness.engines.shared.setup import Setup


class Exchanged(OneDevice):
    """What DDP does without overlap, and what a model whose layers are cut over devices needs: DDP knows no DTensor."""

    def __init__(self, setup: Setup, ledger: Ledger, worker: int, rank: int) -> None:
        super().__init__(setup, ledger, worker, rank)
        self.grid = Grid.of(setup.layout, self.replica.device.type, rank)
        self.number = self.grid.data
        self.module: nn.Module = self.replica.module
        self.cuts = CutLayers(self.module, self.grid)
        self.replica = parts_replica(setup, self.module, self.module, self.replica)
        self.parts: Parts = self.replica.module  # type: ignore[assignment]
        self.replica.norm_shares = self.parts.norm_shares(copies=setup.layout.tensor)
        self.replica.sum_over_ranks = self.grid.sum_over_parts

    def gradient(self, batch: Batch) -> tuple[list[torch.Tensor], Any, int]:
        """Compute all pieces, then average over the replicas."""
        replicated = self.setup.layout.data > 1
        if replicated:
            same_buffers(self.replica, self.grid.group("data"), source=self.grid.tensor)
        pieces = self.pieces(batch)
        self.seed(batch)
        losses = [self.one_piece(piece, last=piece is pieces[-1]) for piece in pieces]
        self.parts.take_gradients()
        gradients = self.replica.take_gradients()
        if replicated and self.replica.optional:
            # A parameter has a gradient where any replica has one.
            dist.all_reduce(self.replica.present, dist.ReduceOp.MAX, self.grid.group("data"))
        self.ledger.moment("_ready_s", self.ledger.stamp())
        self.ledger.row["_group"] = self.grid.tensor
        if replicated:
            with self.ledger.span(Part.COMMUNICATION, "exchange"):
                gradients = average_gradients(gradients, self.grid.group("data"), self.setup.layout.bucket_bytes)
        samples = sum(p.num_samples for p in pieces) if self.grid.tensor == 0 else 0
        return gradients, torch.stack(losses).sum(), samples

    def whole(self) -> Replica:
        """Gather what is cut; rank 0 builds a model of it."""
        with torch.no_grad():
            full = [whole(p) for p in self.parts.sources]
        return assembled(self.setup, full, self.replica.buffer_vector()) if self.rank == 0 else self.replica

    def bytes_sent_per_step(self) -> float:
        """Return a ring's share of the gradients, and of what cut layers sum up."""
        n = self.setup.layout.data
        gradients = 2 * (n - 1) / n * float(self.replica.num_parameters * self.replica.dtype.itemsize)
        pieces = -(-self.setup.cell.batch_size // self.setup.cell.micro_batch_size)
        return gradients + self.cuts.sent_bytes(pieces)

    def notes(self) -> list[str]:
        """Print which layers are cut."""
        ways = self.setup.layout.tensor
        return [describe_cuts(self.cuts.plan, ways)] if ways > 1 else []

    def to_compile(self) -> list[nn.Module]:
        """Return the module: the replica holds its parameters only."""
        return [self.module]

    def settle(self) -> None:
        """Keep no hooks."""
        self.cuts.settle()

    def close(self) -> None:
        """Let go of everything that holds a process group."""
        del self.module, self.parts, self.replica, self.grid
        gc.collect()
