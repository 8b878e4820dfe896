"""Data parallelism whose replicas share out parameters, gradients and optimizer: torch's `fully_shard`."""

from __future__ import annotations

import gc
import warnings

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from harness.api.strategy import Batch
from harness.core.step_parts import Part
from harness.costs.profiles import LayerShape, ModelShape
from harness.costs.steps import bytes_sent, fsdp_step_messages
from harness.engines.real.clock import Ledger, Stamp
from harness.engines.real.layouts.one_device import OneDevice
from harness.engines.real.layouts.parts import Parts, assembled, parts_replica, same_buffers, whole
from harness.engines.real.layouts.private import time_exchanges
from harness.engines.shared.replica import Piece, Replica, make_pieces
from harness.engines.shared.setup import Setup


class FullySharded(OneDevice):
    """Each top-level layer with parameters is gathered before it computes, its gradient scattered afterwards.

    Where only the optimizer is shared out, parameters stay gathered from the forward pass to the end of the backward
    pass: `reshard_after_forward=False`. torch's ZeroRedundancyOptimizer would keep all gradients on every replica and
    send the updated parameters on top of DDP's exchange; this sends what DDP sends.

    Source: Rajbhandari et al. 2020, "ZeRO", section 5; Zhao et al. 2023, "PyTorch FSDP", section 3.
    """

    def __init__(self, setup: Setup, ledger: Ledger, worker: int, rank: int) -> None:
        super().__init__(setup, ledger, worker, rank)
        self.number = rank
        self._spans: list[tuple[str, Stamp, Stamp]] = []
        self._reshards = setup.layout.shard == "parameters"
        # torch warns of a view that we never write to.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)
        self.sharded = shard_module(self.replica.module, self.replica.device.type, setup.layout.data, self._reshards)
        self.replica = parts_replica(setup, self.sharded, self.sharded, self.replica)
        self.replica.sum_over_ranks = torch.distributed.all_reduce
        self.parts: Parts = self.replica.module  # type: ignore[assignment]
        time_exchanges(ledger, self.sharded, self._spans)

    def pieces(self, batch: Batch) -> list[Piece]:
        """Return this replica's part, in as many pieces as the largest part: all must exchange equally often."""
        pieces, largest = super().pieces(batch), -(-len(batch.indices) // self.setup.layout.data)
        missing = -(-largest // self.setup.cell.micro_batch_size) - len(pieces)
        return pieces + make_pieces(batch.indices[:0], 0.0, 1, pad=False) * missing

    def gradient(self, batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor, int]:
        """Return this device's parts of the mean gradient; gathering and scattering are part of both passes."""
        same_buffers(self.replica, group=None, source=0)
        pieces = self.pieces(batch)
        self.seed(batch)
        losses = [self.one_piece(piece, last=piece is pieces[-1]) for piece in pieces]
        self._account()
        self.parts.take_gradients()
        return self.replica.take_gradients(), torch.stack(losses).sum(), sum(p.num_samples for p in pieces)

    def one_piece(self, piece: Piece, last: bool) -> torch.Tensor:
        """Compute one piece; without sharded parameters only the last one scatters."""
        if not self._reshards:
            self.sharded.set_requires_gradient_sync(last)
            self.sharded.set_reshard_after_backward(last)
        self.sharded.set_is_last_backward(last)
        return super().one_piece(piece, last)

    def _account(self) -> None:
        """Take waits out of computing, and note when each began: who was late is found out later."""
        for number, (name, start, end) in enumerate(self._spans):
            self.ledger.add(Part.COMMUNICATION, start, end, name)
            self.ledger.add(Part.COMPUTE, end, start)
            self.ledger.moment(f"_wait_{number}", start)
            self.ledger.moment(f"_waited_{number}", end)
        self.ledger.row["_waits"] = len(self._spans)
        self._spans.clear()

    def whole(self) -> Replica:
        """Gather all parameters, one after another; rank 0 builds a model of them."""
        with torch.no_grad():
            full = [whole(p) if self.rank == 0 else whole(p)[:0] for p in self.parts.sources]
        return assembled(self.setup, full, self.replica.buffer_vector()) if self.rank == 0 else self.replica

    def bytes_sent_per_step(self) -> float:
        """Return a ring's share of all gathers and scatters of a full batch."""
        cell, layout = self.setup.cell, self.setup.layout
        pieces = -(-cell.batch_size // cell.micro_batch_size)
        return bytes_sent(fsdp_step_messages(module_shape(self.sharded), layout, pieces), layout.data)

    def close(self) -> None:
        """Let go of the module before its process group."""
        del self.sharded, self.parts, self.replica
        gc.collect()


def shard_module(module: nn.Module, device_type: str, ranks: int, reshard: bool) -> nn.Module:
    """Spread the parameters over all ranks, each top-level layer a unit; any other module than a sequence is one unit.

    Args:
        reshard: give a unit's parameters back after its forward pass.
    """
    mesh = init_device_mesh(device_type, (ranks,))
    units = [layer for layer in module.children() if next(layer.parameters(), None) is not None]
    for unit in units if isinstance(module, nn.Sequential) else []:
        # What the backward pass needs first is not given back: it would be gathered again at once.
        fully_shard(unit, mesh=mesh, reshard_after_forward=reshard and unit is not units[-1])
    return fully_shard(module, mesh=mesh, reshard_after_forward=False)


def module_shape(module: nn.Module) -> ModelShape:
    """Return the tensors of every layer, as far as sharing them out asks for them; they may be spread already."""
    layers = dict(module.named_children()) if isinstance(module, nn.Sequential) else {type(module).__name__: module}
    tensors = {name: list(layer.parameters()) for name, layer in layers.items()}
    shapes = [
        LayerShape(name, tuple(p.numel() for p in found), rows=tuple(len(p) for p in found))
        for name, found in tensors.items()
    ]
    return ModelShape(tuple(shapes), element_bytes=next(module.parameters()).element_size())
