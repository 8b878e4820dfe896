"""The whole model again, on rank 0, from the stages of a pipeline: tensors travel by the names of the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from harness.api.strategy import Layout
from harness.engines.real.layouts.grid import rank_at
from harness.engines.shared.replica import Replica
from harness.engines.shared.setup import Setup


class _Travels(NamedTuple):
    name: str
    shape: torch.Size
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return int(self.shape.numel() * self.dtype.itemsize)


class Assembly:
    """Which stage sends which tensors: trained parameters, and buffers. What is frozen is as it was built.

    Args:
        model: the whole one; only its names and shapes are kept.
        owners: the stage that sends each tensor.
    """

    def __init__(self, model: nn.Module, owners: Mapping[str, int], layout: Layout, rank: int) -> None:
        self._layout, self._rank = layout, rank
        self._of_stage: list[list[_Travels]] = [[] for _ in range(layout.stages)]
        for name, tensor in _moving(model).items():
            self._of_stage[owners[name]].append(_Travels(name, tensor.shape, tensor.dtype))

    def bring(self, setup: Setup, mine: Mapping[str, torch.Tensor], device: torch.device) -> Replica | None:
        """Return the whole model on rank 0; None elsewhere. Every rank calls it.

        Args:
            mine: this device's tensors by name, each in one piece.
        """
        found: dict[str, torch.Tensor] = {}
        for stage, travels in enumerate(self._of_stage):
            source = rank_at(self._layout, 0, stage % self._layout.pipeline, 0)
            if self._rank not in (0, source) or not travels:
                continue
            if source == 0:
                found.update({each.name: mine[each.name] for each in travels})
            elif self._rank == source:
                dist.send(torch.cat([_as_bytes(mine[each.name]) for each in travels]), 0)
            else:
                sizes = [each.num_bytes for each in travels]
                received = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
                dist.recv(received, source)
                for each, part in zip(travels, received.split(sizes), strict=True):
                    # A copy: a part may begin where a number of its type may not.
                    found[each.name] = part.clone().view(each.dtype).view(each.shape)
        return None if self._rank > 0 else _filled(setup.replica(), found)


def _filled(replica: Replica, values: Mapping[str, torch.Tensor]) -> Replica:
    with torch.no_grad():
        for name, tensor in _moving(replica.module).items():
            tensor.copy_(values[name].view(tensor.shape))
    return replica


def _moving(model: nn.Module) -> dict[str, torch.Tensor]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {**trained, **dict(model.named_buffers())}


def _as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
