"""Replicas whose gradients the layout's own `reduce` exchanges after the backward pass; also a single one's."""

from __future__ import annotations

import torch
import torch.distributed as dist

from harness.api.strategy import Batch
from harness.core.step_parts import Part
from harness.engines.real.clock import Ledger
from harness.engines.real.layouts.one_device import OneDevice
from harness.engines.real.layouts.parts import same_buffers
from harness.engines.real.layouts.reducing import Reducing
from harness.engines.real.meetings import Meetings, first_rank
from harness.engines.shared.buckets import BucketForm, bucket_forms, noting_ready
from harness.engines.shared.setup import Setup


class ReducedAfterwards(OneDevice):
    """What needs no DDP: nothing is exchanged while gradients are computed."""

    def __init__(self, setup: Setup, ledger: Ledger, worker: int, rank: int, meetings: Meetings) -> None:
        super().__init__(setup, ledger, worker, rank)
        self.number = rank
        self.replicated = setup.layout.data > 1
        self.group = meetings.replicas
        self.programs = self.reducing = Reducing(setup, self.replica, ledger, (worker, rank), self.group)
        self.forms: list[BucketForm] = []

    def gradient(self, batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor, int]:
        """Compute all pieces, then run the program of each bucket."""
        if self.replicated:
            same_buffers(self.replica, self.group, source=first_rank(self.group))
        if self.forms:
            gradients, loss, samples = super().gradient(batch)
        else:
            with noting_ready(self.replica) as ready:
                gradients, loss, samples = super().gradient(batch)
            self.forms = bucket_forms(self.setup, self.replica, ready)
        if self.replicated and self.replica.optional:
            # A parameter has a gradient where any replica has one.
            dist.all_reduce(self.replica.present, dist.ReduceOp.MAX, self.group)
        start = self.ledger.stamp()
        self.ledger.moment("_ready_s", start)
        self.ledger.row["_group"] = self.worker
        gradients = self.programs.afterwards(self.forms, gradients)
        end = self.ledger.stamp()
        self.ledger.add(Part.COMMUNICATION, start, end, "exchange")
        self.programs.account(start, end)
        return gradients, loss, samples
