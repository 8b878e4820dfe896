"""What one device finds out, or every device for itself, and all must agree on before they go on together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch.distributed as dist

from harness.core.errors import Impossible

Found = TypeVar("Found")


def found_by_first(rank: int, find: Callable[[], Found]) -> Found:
    """Let rank 0 find something out and tell everybody: two measurements would cut differently.

    Raises:
        Impossible: on every rank, where rank 0 found that there is none.
    """
    told: list[object] = [None, None]
    if rank == 0:
        try:
            told[0] = find()
        except Impossible as error:
            told[1] = str(error)
    dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise Impossible(str(told[1]))
    return cast(Found, told[0])


def found_by_all(find: Callable[[], Found]) -> Found:
    """Let every rank find the same thing out for itself.

    Raises:
        Impossible: on every rank, where one of them found that there is none.
    """
    found, reason = None, None
    try:
        found = find()
    except Impossible as error:
        reason = str(error)
    reasons: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(reasons, reason)
    for each in reasons:
        if each is not None:
            raise Impossible(each)
    assert found is not None
    return found
