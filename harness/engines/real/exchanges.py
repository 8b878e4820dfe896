"""Exchanges of all workers that are under way: sums of tensors of several types, and everybody's bytes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from harness.engines.real.meetings import Meetings

EVERYBODY = Meetings()
"""All processes at once."""


class Sums:
    """All-reduces of tensors, those of one type joined into one; they have begun when this is made.

    Where workers have several devices, each of these meets its like in the other workers for its share of the numbers;
    then they hand their shares to each other, so that no link between workers carries anything twice.

    Args:
        tensors: of shape (n,) each, of any n; the same types and sizes on every worker.
        meetings: whom this process meets; default: all processes.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], meetings: Meetings = EVERYBODY) -> None:
        self._dtypes, self._sizes, self._meetings = [t.dtype for t in tensors], [len(t) for t in tensors], meetings
        types, (number, devices) = dict.fromkeys(self._dtypes), meetings.share
        self._joined = {dtype: torch.cat([t for t in tensors if t.dtype == dtype]) for dtype in types}
        if devices > 1:
            self._joined = {k: torch.nn.functional.pad(v, (0, -len(v) % devices)) for k, v in self._joined.items()}
        self._own = [vector.view(devices, -1)[number] for vector in self._joined.values()]
        self._works = [dist.all_reduce(vector, group=meetings.workers, async_op=True) for vector in self._own]

    @property
    def rounding(self) -> float:
        """Relative rounding of the coarsest type that is summed: sums of three and more depend on their order."""
        return max(float(torch.finfo(dtype).eps) for dtype in self._joined)

    def wait(self) -> list[torch.Tensor]:
        """Wait for the others; return the sums in the order of the tensors."""
        for work in self._works:
            work.wait()
        devices = self._meetings.share[1]
        if devices > 1:
            for own, vector in zip(self._own, self._joined.values(), strict=True):
                dist.all_gather(list(vector.view(devices, -1)), own.clone(), group=self._meetings.replicas)
        done, places = [], dict.fromkeys(self._joined, 0)
        for dtype, size in zip(self._dtypes, self._sizes, strict=True):
            begin = places[dtype]
            done.append(self._joined[dtype][begin : begin + size])
            places[dtype] = begin + size
        return done


class Gathered:
    """An all-gather of bytes, of whose number every worker may have another; it has begun when this is made."""

    def __init__(self, packed: torch.Tensor, workers: int, group: dist.ProcessGroup | None = None) -> None:
        length = torch.tensor([len(packed)], dtype=torch.int64, device=packed.device)
        lengths = [torch.empty_like(length) for _ in range(workers)]
        dist.all_gather(lengths, length, group=group)
        self._lengths = [int(each.item()) for each in lengths]
        longest = max(self._lengths)
        filled = torch.nn.functional.pad(packed, (0, longest - len(packed)))
        self._vectors = [torch.empty_like(filled) for _ in range(workers)]
        self._work = dist.all_gather(self._vectors, filled, group=group, async_op=True)

    def wait(self) -> list[torch.Tensor]:
        """Wait for the others; return everybody's bytes in the order of the ranks."""
        self._work.wait()
        return [vector[:length] for vector, length in zip(self._vectors, self._lengths, strict=True)]
