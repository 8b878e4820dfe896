"""Random numbers of replicas that pass together: each replica's rows are drawn from that replica's own stream.

Replicas that share BatchNorm's statistics meet in every forward pass, so the virtual cluster passes their samples as
one batch. On processes each of them draws its masks for itself; here the same numbers come out, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from harness.core.errors import Impossible

Arguments: TypeAlias = tuple[object, ...]

_OF_SIZES = frozenset(("rand", "randn"))
"""Operations whose first argument says how large the drawn tensor is."""


class DrawsOfReplicas(TorchDispatchMode):  # type: ignore[misc]
    """Splits every operation that draws, over the replicas whose samples it is of.

    Args:
        seeds: of each replica's stream in this step.

    Attributes:
        rows: samples of each replica in what passes now.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        self._states = [torch.Generator().manual_seed(seed).get_state() for seed in seeds]
        self.rows: list[int] = []

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Arguments = (), kwargs: dict[str, object] | None = None
    ) -> object:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or _draws_nothing(func, args):
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        parts = _parts(name, args, self.rows)
        if parts is None or torch._C._current_graph_task_id() != -1:
            raise Impossible(
                f"workload.sync_batchnorm: the model draws random numbers ({name}) of which a simulated run cannot "
                'tell which replica they belong to. Set engine = "real", or leave sync_batchnorm out'
            )
        drawn = [self._drawn(number, func, part, kwargs) for number, part in enumerate(parts) if self.rows[number]]
        if name.endswith("_"):
            return args[0]
        return _joined(drawn)

    def _drawn(self, replica: int, func: OpOverload, args: Arguments, kwargs: dict[str, object]) -> object:
        """Run an operation on the rows of one replica, which its stream goes on from."""
        torch.set_rng_state(self._states[replica])
        found = func(*args, **kwargs)
        self._states[replica] = torch.get_rng_state()
        return found


def _joined(drawn: Sequence[object]) -> object:
    """Return what one operation over all rows would have returned."""
    tensors = [each for each in drawn if isinstance(each, torch.Tensor)]
    if tensors:
        return torch.cat(tensors)
    several = [each for each in drawn if isinstance(each, tuple)]
    return tuple(torch.cat(each) for each in zip(*several, strict=True))


def _draws_nothing(func: OpOverload, args: Arguments) -> bool:
    """Whether an operation that may draw does not: attention without dropout is of these."""
    given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
    return "dropout_p" in given and not given["dropout_p"]


def _parts(name: str, args: Arguments, rows: Sequence[int]) -> list[Arguments] | None:
    """Return the arguments of each replica's part; None where the operation is not of so many samples."""
    total, first = sum(rows), args[0] if args else None
    if isinstance(first, torch.Tensor) and first.dim() and first.shape[0] == total:
        cut = [_split(arg, rows) for arg in args]
        return list(zip(*cut, strict=True))
    if name in _OF_SIZES and isinstance(first, list) and first and first[0] == total:
        return [([own, *first[1:]], *args[1:]) for own in rows]
    return None


def _split(value: object, rows: Sequence[int]) -> Sequence[object]:
    """Return the rows of each replica, or the whole for each where a value is none of rows."""
    of_rows = isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[0] == sum(rows)
    return value.split(list(rows)) if isinstance(value, torch.Tensor) and of_rows else [value] * len(rows)
