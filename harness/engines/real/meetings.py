"""Whom a process exchanges with where several workers have several devices each: its replicas, or other workers."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist


@dataclass(frozen=True)
class Meetings:
    """Process groups of one device.

    Attributes:
        replicas: of all devices of its worker; None: all processes, which torch takes as its own.
        beside: the same ones again, for what they exchange beside what `replicas` is used for.
        workers: of the devices that stand where it stands in every worker; None: all processes.
        share: (number, devices) where the devices of a worker share what it exchanges with the others.
    """

    replicas: dist.ProcessGroup | None = None
    beside: dist.ProcessGroup | None = None
    workers: dist.ProcessGroup | None = None
    share: tuple[int, int] = (0, 1)

    @classmethod
    def of(cls, workers: int, devices: int, worker: int, rank: int, beside: bool) -> Meetings:
        """Make the groups of a cell; every process makes all of them, in the same order.

        Args:
            workers: how many there are.
            devices: of each.
            worker: that this process belongs to.
            rank: of its device in it.
            beside: whether replicas exchange twice at once.
        """
        if devices == 1:
            return cls()
        if workers == 1:
            return cls(beside=dist.new_group() if beside else None)

        def own(groups: list[range], mine: int) -> dist.ProcessGroup:
            made: list[dist.ProcessGroup] = [dist.new_group(list(ranks)) for ranks in groups]
            return made[mine]

        each = [range(k * devices, (k + 1) * devices) for k in range(workers)]
        across = [range(k, workers * devices, devices) for k in range(devices)]
        return cls(own(each, worker), own(each, worker) if beside else None, own(across, rank), (rank, devices))


def first_rank(group: dist.ProcessGroup | None) -> int:
    """Return the rank, among all processes, of the first one of a group."""
    return 0 if group is None else dist.get_process_group_ranks(group)[0]
