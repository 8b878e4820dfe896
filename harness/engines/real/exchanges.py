"""Exchanges of all workers that are under way: sums of tensors of several types, and everybody's bytes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist


class Sums:
    """All-reduces of tensors, those of one type joined into one; they have begun when this is made.

    Args:
        tensors: of shape (n,) each, of any n; the same types and sizes on every worker.
        group: of those who meet; default: all processes.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], group: dist.ProcessGroup | None = None) -> None:
        self._dtypes, self._sizes = [t.dtype for t in tensors], [len(t) for t in tensors]
        types = dict.fromkeys(self._dtypes)
        self._joined = {dtype: torch.cat([t for t in tensors if t.dtype == dtype]) for dtype in types}
        self._works = [dist.all_reduce(vector, group=group, async_op=True) for vector in self._joined.values()]

    @property
    def rounding(self) -> float:
        """Relative rounding of the coarsest type that is summed: sums of three and more depend on their order."""
        return max(float(torch.finfo(dtype).eps) for dtype in self._joined)

    def wait(self) -> list[torch.Tensor]:
        """Wait for the others; return the sums in the order of the tensors."""
        for work in self._works:
            work.wait()
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
