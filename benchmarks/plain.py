"""What people write without a harness: a plain loop, the usual DataLoader script, a torchrun DDP script.

Run by overhead.py as `python plain.py KIND STEPS`; prints samples per second after ten steps of warm-up.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import nn

BATCH, RATE, WARM = 64, 0.05, 10

sys.path.insert(0, str(Path(__file__).resolve().parent))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """The same tensors that the harness trains on."""
    from overhead import prepared_data

    made = prepared_data()
    return made.train.inputs, made.train.targets


def model() -> nn.Module:
    from harness.workloads.entries import DataShape
    from harness.workloads.nets import lenet5

    torch.manual_seed(0)
    return lenet5(DataShape(1, 32, 32, 10), "relu")


def train(net: nn.Module, batches, steps: int) -> float:
    """Train for WARM + steps batches and return samples per second of the last `steps`."""
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    loss_of = nn.CrossEntropyLoss()
    began, seen = 0.0, 0
    for step, (inputs, targets) in enumerate(batches):
        if step == WARM:
            began = time.perf_counter()
        if step == WARM + steps:
            break
        optimizer.zero_grad()
        loss_of(net(inputs), targets).backward()
        optimizer.step()
        seen += len(targets) if step >= WARM else 0
    return seen / (time.perf_counter() - began)


def plain(steps: int, batch: int = BATCH, rank: int = 0) -> float:
    inputs, targets = data()

    def batches():
        while True:
            for index in torch.randperm(len(targets)).split(batch):
                yield inputs[index], targets[index]

    return train(model(), batches(), steps)


class Pictures(torch.utils.data.Dataset):
    """A data set as the introductions have it: bytes in memory, transformed one picture at a time."""

    def __init__(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        picture = self.images[index].float().div(255).unsqueeze(0)  # ToTensor
        picture = nn.functional.pad(picture, (2, 2, 2, 2))  # Pad(2)
        return (picture - 0.1307) / 0.3081, self.targets[index]  # Normalize


def dataloader(steps: int) -> float:
    from overhead import raw_pictures

    loader = torch.utils.data.DataLoader(Pictures(*raw_pictures()), batch_size=BATCH, shuffle=True, num_workers=2)

    def batches():
        while True:
            yield from loader

    return train(model(), batches(), steps)


def ddp(steps: int) -> float:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    inputs, targets = data()
    net = nn.parallel.DistributedDataParallel(model(), gradient_as_bucket_view=True)

    def batches():
        generator = torch.Generator().manual_seed(0)
        while True:
            for index in torch.randperm(len(targets), generator=generator).split(BATCH):
                mine = index.tensor_split(world)[rank]
                yield inputs[mine], targets[mine]

    speed = train(net, batches(), steps) * world
    del net
    dist.destroy_process_group()
    return speed if rank == 0 else 0.0


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {"plain": plain, "dataloader": dataloader, "ddp": ddp}[sys.argv[1]](int(sys.argv[2]))
    if found:
        print(f"samples_per_s {found}")
