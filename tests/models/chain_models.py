"""Modules that a list of layers cannot stand for, and some that no pipeline can cut."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

WIDTH = 6


class Tied(nn.Module):
    """Two layers hold one weight; the last one is looked up in the first without a call."""

    def __init__(self):
        super().__init__()
        self.entry = nn.Linear(4, WIDTH)
        self.middle = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.middle[2].weight = self.middle[0].weight
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, values):
        values = self.entry(values) * self.scale
        for layer in self.middle:
            values = layer(values).tanh()
        return self.head(values) + F.linear(values, self.entry.weight.t()[:3, :].repeat(1, 2)[:, :WIDTH])


class Skips(nn.Module):
    """A small U-Net: what the way down computes is used on the way up; BatchNorm keeps statistics."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(3))
        self.up = nn.ModuleList(nn.Linear(8, 4) for _ in range(3))
        self.head = nn.Linear(4, 3)

    def forward(self, values):
        kept = []
        for layer in self.down:
            values = layer(values).relu()
            kept.append(values)
        for layer in self.up:
            values = layer(torch.cat([values, kept.pop()], 1)).relu_()
        return {"logits": self.head(values)}


class Redone(nn.Module):
    """Computes its blocks again in the backward pass; which of them draw, `share` tells."""

    share = 0.5

    def __init__(self):
        super().__init__()
        self.entry = nn.Linear(4, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(self.share), nn.Tanh()) for _ in range(3)
        )
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, values):
        values = self.entry(values)
        for block in self.blocks:
            values = values + checkpoint(block, values, use_reentrant=False)
        return self.head(values)


class RedoneWithoutDraws(Redone):
    share = 0.0


class Inside(nn.Sequential):
    again = True

    def forward(self, values):
        if not self.again:
            return super().forward(values)
        return checkpoint(super().forward, values, use_reentrant=False)


class RedoneInside(nn.Module):
    """As Redone, but each block does it for itself."""

    def __init__(self):
        super().__init__()
        self.entry = nn.Linear(4, WIDTH)
        self.blocks = nn.ModuleList(Inside(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5), nn.Tanh()) for _ in range(3))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, values):
        values = self.entry(values)
        for block in self.blocks:
            values = values + block(values)
        return self.head(values)


class Rows(nn.Module):
    def forward(self, values):
        return values.view(-1, 2, 2)


class Last(nn.Module):
    def forward(self, output):
        return output[0][:, -1]


class Keyword(nn.Module):
    """Takes its inputs by keyword, computes a mask of one of them for every block, and has a frozen embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, WIDTH)
        self.embed.weight.requires_grad_(False)
        self.blocks = nn.ModuleList(nn.MultiheadAttention(WIDTH, 2, batch_first=True) for _ in range(3))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, ids, mask):
        values, hidden = self.embed(ids), mask == 0
        for block in self.blocks:
            values = values + block(values, values, values, key_padding_mask=hidden, need_weights=False)[0]
        return (self.head(values.mean(1)), values)


class ZeroHead(nn.Module):
    """A head of zeros, whose gradients prove nothing; one layer is called three times."""

    def __init__(self):
        super().__init__()
        self.entry, self.again, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, values):
        values = self.entry(values)
        for _ in range(3):
            values = self.again(values).tanh()
        return self.head(values)


class ByValue(nn.Module):
    """Uses a tensor of an early block later, detached and as a whole number."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, values):
        first = self.a(values)
        gate = first.detach().sigmoid()
        third = self.c(self.b(first).relu())
        return self.head(third * gate)[:, :3]


def shared_activation():
    act = nn.Tanh()
    return nn.Sequential(nn.Linear(4, 5), act, nn.Linear(5, 5), act, nn.Linear(5, 5), act, nn.Linear(5, 3))


def in_place():
    return nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)
    )


def lstm():
    return nn.Sequential(Rows(), nn.LSTM(2, WIDTH, batch_first=True), Last(), nn.Linear(WIDTH, 3))


class Alternating(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.ModuleList(nn.Linear(4, 4) for _ in range(2)), nn.Linear(4, 3)
        self.n = 0

    def forward(self, values):
        self.n += 1
        return self.c(self.b[self.n % 2](self.a(values)))


class ChangesItsArgument(nn.Module):
    """Blocks that write to a dictionary and return nothing."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, state):
            state["values"] = self.inner(state["values"])

    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(self.Block() for _ in range(4)), nn.Linear(4, 3)

    def forward(self, values):
        state = {"values": values}
        for block in self.blocks:
            block(state)
        return self.head(state["values"])


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3))

    def forward(self, values):
        return values @ self.weight


class ReturnsAnObject(nn.Module):
    class Box:
        def __init__(self, values):
            self.values = values

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, box):
            return ReturnsAnObject.Box(self.inner(box.values))

    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(self.Block() for _ in range(2)), nn.Linear(4, 3)

    def forward(self, values):
        box = self.Box(values)
        for block in self.blocks:
            box = block(box)
        return self.head(box.values)


class Blocks(nn.Module):
    """Eight equal blocks in a list between two ends, an activation without parameters, and a position of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in range(8))
        self.head = nn.Linear(8, 2)
        self.act = nn.Tanh()
        self.place = nn.Parameter(torch.zeros(8))

    def forward(self, values):
        values = self.act(self.entry(values)) + self.place
        for block in self.blocks:
            values = values + block(values)
        return self.head(values)


def compiled():
    return torch.compile(Skips())


class Fussy(nn.Module):
    """Looks at what its blocks return, and refuses what is not a number: where a block is stood in for, too."""

    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(nn.Linear(4, 4) for _ in range(4)), nn.Linear(4, 3)

    def forward(self, values):
        for block in self.blocks:
            values = block(values)
            if not values.isfinite().all():
                raise FloatingPointError("not a number")
        return self.head(values)
