"""Data parallelism whose replicas share out parameters, gradients and optimizer: torch's `fully_shard`."""

from __future__ import annotations

import gc
import warnings
from collections import Counter

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.func import functional_call
from torch.utils._pytree import tree_map

from harness.api.strategy import Batch
from harness.core.step_parts import Part
from harness.costs.profiles import LayerShape, ModelShape
from harness.costs.steps import bytes_sent, fsdp_step_messages
from harness.costs.tracing import NamedModules, undisturbed
from harness.engines.real.clock import Ledger, Stamp
from harness.engines.real.layouts.one_device import OneDevice, mean_over_ranks
from harness.engines.real.layouts.parts import Parts, assembled, parts_replica, same_buffers, whole
from harness.engines.real.layouts.private import time_exchanges
from harness.engines.shared.chain.loose import used_without_call
from harness.engines.shared.layer_timing import blocks_of
from harness.engines.shared.pieces import Piece, make_pieces
from harness.engines.shared.replica import Replica
from harness.engines.shared.setup import Setup
from harness.workloads.batches import Inputs, call


class FullySharded(OneDevice):
    """Each block with parameters is gathered before it computes, its gradient scattered afterwards.

    Where only the optimizer is shared out, parameters stay gathered from the forward pass to the end of the backward
    pass: `reshard_after_forward=False`. Where groups of neighbours each hold all parameters, a gradient is scattered
    inside its group, and each part is averaged over the groups.

    Source: Rajbhandari et al. 2020, "ZeRO", section 5; Zhao et al. 2023, "PyTorch FSDP", section 3; groups: 3.2.2.
    """

    def __init__(self, setup: Setup, ledger: Ledger, worker: int, rank: int) -> None:
        super().__init__(setup, ledger, worker, rank)
        self.number = rank
        self._spans: list[tuple[str, Stamp, Stamp]] = []
        self._reshards = setup.layout.shard == "parameters"
        # torch warns of a view that we never write to.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)
        self.units = units_of(self.replica)
        module, device = self.replica.module, self.replica.device.type
        self._halved = computes_in_halves(self.replica, device)
        ranks, groups = setup.layout.sharers, setup.layout.groups
        self._grouped = groups > 1
        self.sharded = shard_module(module, device, ranks, self._reshards, self.units, self._halved, groups)
        self.replica = parts_replica(setup, self.sharded, self.sharded, self.replica)
        self.replica.sum_over_ranks = torch.distributed.all_reduce
        self.parts: Parts = self.replica.module  # type: ignore[assignment]
        self.replica.norm_shares = self.parts.norm_shares(copies=setup.layout.data)
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
        self._average_whole_ones()
        self.parts.take_gradients()
        return self.replica.take_gradients(), torch.stack(losses).sum(), sum(p.num_samples for p in pieces)

    def one_piece(self, piece: Piece, last: bool) -> torch.Tensor:
        """Compute one piece; without sharded parameters only the last one scatters, and only it meets other groups."""
        if not self._reshards:
            self.sharded.set_requires_gradient_sync(last)
            self.sharded.set_reshard_after_backward(last)
        if self._grouped:
            self.sharded.set_requires_all_reduce(last)
        self.sharded.set_is_last_backward(last)
        return super().one_piece(piece, last)

    def _average_whole_ones(self) -> None:
        """Exchange the gradients of what is not spread; all replicas have them, or none has."""
        whole_ones = [p for p in self.parts.sources if p.dim() == 0 and p.grad is not None]
        if whole_ones:
            with self.ledger.span(Part.COMMUNICATION, "exchange"):
                mean_over_ranks([p.grad for p in whole_ones])

    def _account(self) -> None:
        """Take waits out of computing, and note when each began: who was late is found out later."""
        for number, (name, start, end) in enumerate(self._spans):
            self.ledger.add(Part.COMMUNICATION, start, end, name)
            self.ledger.add(Part.COMPUTE, end, start)
            self.ledger.moment(f"_wait_{number}", start)
            self.ledger.moment(f"_waited_{number}", end)
        self.ledger.row["_waits"] = len(self._spans)
        self._spans.clear()

    def to_compile(self) -> list[nn.Module]:
        """Return the units: gathering and scattering stay around what is compiled."""
        return [unit for _, unit in self.units if next(unit.parameters(), None) is not None]

    def whole(self) -> Replica:
        """Gather all parameters, one after another; rank 0 builds a model of them."""
        with torch.no_grad():
            full = [whole(p) if self.rank == 0 else whole(p)[:0] for p in self.parts.sources]
        return assembled(self.setup, full, self.replica.buffer_vector()) if self.rank == 0 else self.replica

    def bytes_sent_per_step(self) -> float:
        """Return a ring's share of all gathers, scatters and averages of a full batch."""
        cell, layout = self.setup.cell, self.setup.layout
        pieces = -(-cell.batch_size // cell.micro_batch_size)
        shape = module_shape(self.sharded, self.units, 2 if self._halved else 0)
        return bytes_sent(fsdp_step_messages(shape, layout, pieces))

    def close(self) -> None:
        """Let go of the module before its process group."""
        del self.sharded, self.units, self.parts, self.replica
        gc.collect()


def units_of(replica: Replica) -> NamedModules:
    """Return the blocks that can be gathered each for itself; what is in none of them is gathered with the root.

    Not a block that shares a parameter with another one, or whose weights are used without calling it: who uses them
    would find only this device's part.
    """
    module, (inputs, _) = replica.module, replica.data.train.block(0, min(2, len(replica.data.train)))
    blocks = [(name, block) for name, block in blocks_of(replica) if block is not module]
    with replica.autocast():
        loose = used_without_call(module, [name for name, _ in blocks], inputs)
    holders = Counter(p for _, block in blocks for p in block.parameters())
    inside = {id(part) for _, block in blocks for part in block.modules()}
    outside = {p for m in module.modules() if id(m) not in inside for p in m.parameters(recurse=False)}
    rooted = loose | outside | {p for p, count in holders.items() if count > 1}
    return [(n, b) for n, b in blocks if (held := set(b.parameters())) and not held & rooted]


class _Called(nn.Module):
    """A module that is called as batches are handed to it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Inputs) -> object:
        """Return what the module answers."""
        return call(self.module, inputs)


def computes_in_halves(replica: Replica, device: str) -> bool:
    """Say whether bfloat16 is asked for and the module takes weights and inputs in it, as gathered units come.

    Others (what mixes types by itself) are gathered in single precision and cast by autocast. So is everything on CPUs:
    one of eight short runs there ended with a segmentation fault in gloo's all-gather of halves (torch 2.13).
    """
    if device == "cpu":
        return False
    module, (inputs, _) = replica.module, replica.data.train.block(0, min(2, len(replica.data.train)))
    if replica.precision != "bf16" or any(p.is_complex() for p in module.parameters()):
        return False
    halves = {f"module.{name}": _halved(p.detach()) for name, p in module.named_parameters()}
    with undisturbed(module), torch.no_grad(), replica.autocast():
        try:
            functional_call(_Called(module), halves, (tree_map(_halved, inputs),))
        except (RuntimeError, TypeError, ValueError):
            return False
    return True


def _halved(value: object) -> object:
    floats = isinstance(value, torch.Tensor) and value.dtype == torch.float32
    return value.to(torch.bfloat16) if floats else value  # type: ignore[attr-defined]


def shard_module(
    module: nn.Module,
    device_type: str,
    ranks: int,
    reshard: bool,
    units: NamedModules | None = None,
    halved: bool = False,
    groups: int = 1,
) -> nn.Module:
    """Spread the parameters over the ranks of a group, each unit gathered for itself, what is left with the root.

    A parameter without axes cannot be spread, and stays whole everywhere.

    Args:
        reshard: give a unit's parameters back after its forward pass.
        units: default: the layers of an `nn.Sequential`.
        halved: gather units as bfloat16, so that autocast copies no weights, and what it would copy goes with its unit;
            gradients are added up in single precision.
        groups: of so many neighbours each, between which gradients are averaged.
    """
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if halved else MixedPrecisionPolicy()
    blocks = [unit for _, unit in units or _layers(module) if next(unit.parameters(), None) is not None]
    axes = {"replicate": groups, "shard": ranks} if groups > 1 else {"shard": ranks}  # as torch orders them
    mesh = init_device_mesh(device_type, tuple(axes.values()), mesh_dim_names=tuple(axes))
    whole_ones = {p for p in module.parameters() if p.dim() == 0}
    for unit in blocks:
        # What the backward pass needs first is not given back: it would be gathered again at once.
        again = reshard and unit is not blocks[-1]
        fully_shard(unit, mesh=mesh, reshard_after_forward=again, mp_policy=policy, ignored_params=whole_ones)
    return fully_shard(module, mesh=mesh, reshard_after_forward=False, mp_policy=policy, ignored_params=whole_ones)


def module_shape(module: nn.Module, units: NamedModules | None = None, gathered_bytes: int = 0) -> ModelShape:
    """Return the tensors of every unit and of the root, as far as sharing them out asks for; they may be spread."""
    spread = {name: list(unit.parameters()) for name, unit in units or _layers(module)}
    inside = {id(p) for found in spread.values() for p in found}
    root = [p for p in module.parameters() if id(p) not in inside]
    if root:
        spread[type(module).__name__] = root
    shapes = [
        LayerShape(name, tuple(p.numel() for p in found), rows=tuple(len(p) if p.dim() else 1 for p in found))
        for name, found in spread.items()
    ]
    return ModelShape(
        tuple(shapes), element_bytes=next(module.parameters()).element_size(), gathered_bytes=gathered_bytes
    )


def _layers(module: nn.Module) -> NamedModules:
    return list(module.named_children()) if isinstance(module, nn.Sequential) else []
