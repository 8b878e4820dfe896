"""Models as people bring them, for images of digits: what a pipeline of layers cannot cut, and a chain of calls can."""

import torch
from torch import nn
from torch.nn import functional as F

WIDTH = 24


class Tied(nn.Module):
    """Two layers hold one weight, a third one looks a weight up without a call; one layer is frozen."""

    def __init__(self, classes):
        super().__init__()
        self.entry = nn.Linear(64, WIDTH)
        self.middle = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.middle[3].weight = self.middle[0].weight
        self.middle[1].weight.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.rate = torch.linspace(0, 0.1, classes, dtype=torch.float64)  # a plain tensor: no buffer, no parameter
        self.unused = nn.Linear(WIDTH, 3)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, images):
        values = self.entry(images.flatten(1)) * self.scale
        for layer in self.middle:
            values = values + layer(values).tanh_()
        looked_up = F.linear(values, self.entry.weight.t()).sum(1, keepdim=True)
        return self.head(values) + looked_up * self.rate, values


class Skips(nn.Module):
    """A small U-Net with BatchNorm: what the way down computes is used on the way up."""

    def __init__(self, classes):
        super().__init__()
        self.down = nn.ModuleList(self.block(c, 4) for c in (1, 4, 4))
        self.up = nn.ModuleList(self.block(8, 4) for _ in range(3))
        self.head = nn.Linear(4 * 64, classes)

    @staticmethod
    def block(inputs, outputs):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def forward(self, images):
        kept, values = [], images
        for block in self.down:
            values = block(values)
            kept.append(values)
        for block in self.up:
            values = block(torch.cat([values, kept.pop()], 1))
        return {"logits": self.head(values.flatten(1))}


class Again(nn.Module):
    """One layer is called four times, so that its calls lie on several stages; a head of zeros ends it."""

    def __init__(self, classes):
        super().__init__()
        self.entry, self.again, self.head = nn.Linear(64, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, classes)
        nn.init.zeros_(self.head.weight)

    def forward(self, images):
        values = self.entry(images.flatten(1))
        for _ in range(4):
            values = self.again(values).tanh()
        return self.head(values)


class Rows(nn.Module):
    def forward(self, images):
        return images.squeeze(1)


class Last(nn.Module):
    def forward(self, output):
        return output[0][:, -1]


def tied(classes):
    return Tied(classes)


def skips(classes):
    return Skips(classes)


def again(classes):
    return Again(classes)


def lstm(classes):
    return nn.Sequential(Rows(), nn.LSTM(8, 16, batch_first=True), Last(), nn.Linear(16, classes))


def shared_activation(classes):
    act = nn.Tanh()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), act, nn.Linear(32, 32), act, nn.Linear(32, classes))


def in_place(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(inplace=True), nn.Linear(32, classes))


class Alternating(nn.Module):
    """Calls another layer every other time."""

    def __init__(self, classes):
        super().__init__()
        self.a, self.c, self.calls = nn.Linear(64, 32), nn.Linear(32, classes), 0
        self.b = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))

    def forward(self, images):
        self.calls += 1
        return self.c(self.b[self.calls % 2](self.a(images.flatten(1)).relu()).relu())


def alternating(classes):
    return Alternating(classes)


class Noisy(nn.Module):
    """Draws between its blocks, by function and not by a layer, and inside of them."""

    def __init__(self, classes):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.3)) for _ in range(4))
        self.head = nn.Linear(64, classes)

    def forward(self, images):
        values = images.flatten(1)
        for block in self.blocks:
            values = F.dropout(values + block(values), 0.2, self.training)
        return self.head(values)


def noisy(classes):
    return Noisy(classes)


class Scaled(nn.Module):
    """Blocks of a list, one of them tied to another, and a temperature without axes."""

    def __init__(self, classes):
        super().__init__()
        self.entry = nn.Linear(64, WIDTH)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(5))
        self.blocks[4].weight = self.blocks[1].weight
        self.head, self.temperature = nn.Linear(WIDTH, classes), nn.Parameter(torch.tensor(1.3))

    def forward(self, images):
        values = self.entry(images.flatten(1))
        for block in self.blocks:
            values = values + block(values).tanh()
        return self.head(values) * self.temperature


def scaled(classes):
    return Scaled(classes)


class Late(Alternating):
    """Calls another layer from its twelfth pass on."""

    def forward(self, images):
        self.calls += 1
        return self.c(self.b[self.calls > 12](self.a(images.flatten(1)).relu()).relu())


def late(classes):
    return Late(classes)
