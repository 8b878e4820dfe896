"""Models, optimizers, losses and schedules as people bring them, small enough to compare steps digit by digit."""

import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Body(nn.Module):
    """Two linear layers, and room for what a case adds."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.c(self.b(self.a(x.flatten(1)).relu()).relu())


def body():
    return Body()


def frozen():
    model = Body()
    model.b.requires_grad_(False)
    return model


class Unused(Body):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(16, 16)


class Branches(Body):
    """Every second forward pass goes another way: what it counts is no buffer."""

    def __init__(self):
        super().__init__()
        self.ways = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return self.c(self.ways[self.passes % 2](self.a(x.flatten(1)).relu()).relu())


class ByValue(Body):
    """A layer that only some batches reach."""

    def forward(self, x):
        h = self.a(x.flatten(1)).relu()
        if h.mean().item() > 0.27:
            h = self.b(h).relu()
        return self.c(h)


class Tied(Body):
    def __init__(self):
        super().__init__()
        self.back = nn.Linear(16, 16)
        self.back.weight = self.b.weight

    def forward(self, x):
        return self.c(self.back(self.b(self.a(x.flatten(1)).relu())).relu())


class Reentrant(Body):
    def forward(self, x):
        return self.c(checkpoint(lambda t: self.b(t).relu(), self.a(x.flatten(1)), use_reentrant=True))


class ReentrantUnused(Reentrant):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(16, 16)


class ReentrantBranches(Branches):
    def forward(self, x):
        self.passes += 1
        way = self.ways[self.passes % 2]
        return self.c(checkpoint(lambda t: way(t).relu(), self.a(x.flatten(1)), use_reentrant=True))


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.c = nn.Embedding(17, 4, sparse=True), nn.Linear(4 * 64, 10)

    def forward(self, x):
        return self.c(self.table((x.flatten(1) * 2).long().clamp(0, 16)).flatten(1))


class SparseFunction(Sparse):
    """Asks for sparse gradients where no layer shows it."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(0.1 * torch.randn(17, 4))

    def forward(self, x):
        codes = (x.flatten(1) * 2).long().clamp(0, 16)
        return self.c(functional.embedding(codes, self.table, sparse=True).flatten(1))


class Counter(Body):
    """Counts in a whole number, replaces a buffer, and does both in evaluations too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x):
        self.seen += 5_000_000_000
        h = self.a(x.flatten(1)).relu()
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return self.c(self.b(h - self.mean).relu())


class Parametrized(Body):
    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.a)
        nn.utils.parametrizations.spectral_norm(self.b)


class Complex(Body):
    def __init__(self):
        super().__init__()
        self.phase = nn.Parameter(torch.randn(16, dtype=torch.cfloat))

    def forward(self, x):
        return self.c((self.a(x.flatten(1)).relu() * self.phase).abs())


class Scalars(nn.Module):
    def __init__(self):
        super().__init__()
        self.ws = nn.ParameterList([nn.Parameter(torch.randn(64, 32) * 0.1), nn.Parameter(torch.randn(32, 10) * 0.1)])
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return (x.flatten(1) @ self.ws[0]).relu() @ self.ws[1] * self.scale


def half():
    return Body().half()


class DoubleOut(Body):
    def forward(self, x):
        return super().forward(x).log_softmax(1).double()


class InPlace(Body):
    def forward(self, x):
        return super().forward(x.mul_(0.5))


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(10))


def batchnorm():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def dropout():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))


def batchnorm2d():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


class Drops(Body):
    def forward(self, x):
        return self.c(functional.dropout(self.a(x.flatten(1)).relu(), 0.5, self.training))


def batchnorm_drops():
    layers = [nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 16), nn.BatchNorm1d(16)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Dropout(0.2), nn.Linear(16, 10))


class NormalisedNoise(Body):
    """Draws of torch by rows, of numpy and of torch for all rows together."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.norm = kind, nn.BatchNorm1d(16)

    def forward(self, x):
        h = self.norm(self.a(x.flatten(1)))
        if self.training:
            h = h * {"rows": torch.randn_like, "numpy": self.of_numpy, "all": self.of_all}[self.kind](h)
        return self.c(h)

    def of_numpy(self, h):
        return float(np.random.normal())

    def of_all(self, h):
        return torch.rand(16, dtype=h.dtype)


def normalised_rows():
    return NormalisedNoise("rows")


def normalised_numpy():
    return NormalisedNoise("numpy")


def normalised_all():
    return NormalisedNoise("all")


class NumpyNoise(Body):
    def forward(self, x):
        if self.training:
            x = x + 0.1 * float(np.random.normal()) + 0.1 * random.random()
        return super().forward(x)


def seeds_itself():
    torch.manual_seed(0)
    return Body()


def unseeded():
    generator = np.random.default_rng()
    model = Body()
    with torch.no_grad():
        model.a.weight.copy_(torch.from_numpy(generator.normal(size=(16, 64))))
    return model


def all_frozen():
    return Body().requires_grad_(False)


def nothing():
    return nn.Flatten()


def compiled():
    return torch.compile(Body())


# -- built by functions -----------------------------------------------------------------------------------------


def unused():
    return Unused()


def branches():
    return Branches()


def by_value():
    return ByValue()


def tied():
    return Tied()


def reentrant():
    return Reentrant()


def reentrant_unused():
    return ReentrantUnused()


def reentrant_branches():
    return ReentrantBranches()


def sparse():
    return Sparse()


def sparse_function():
    return SparseFunction()


def counter():
    return Counter()


def parametrized():
    return Parametrized()


def complex():
    return Complex()


def scalars():
    return Scalars()


def double_out():
    return DoubleOut()


def in_place():
    return InPlace()


def drops():
    return Drops()


def numpy_noise():
    return NumpyNoise()


def reader():
    return Reader()


# -- optimizers ----------------------------------------------------------------------------------------------------


def two_groups(model):
    """The head learns ten times as fast and does not decay."""
    head = [model.c.weight, model.c.bias]
    rest = [p for name, p in model.named_parameters() if not name.startswith("c.")]
    return torch.optim.AdamW([{"params": rest, "weight_decay": 0.1}, {"params": head, "lr": 0.01}], lr=0.001)


def listed():
    layers = [nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(16, 10))


def by_order(model):
    """Two groups with parameters from all over the model, and one that only the last layer is in."""
    weights, biases = ([p for n, p in model.named_parameters() if n.endswith(kind)] for kind in ("weight", "bias"))
    groups = [{"params": weights[:-1], "weight_decay": 0.1}, {"params": biases, "lr": 0.01}]
    return torch.optim.AdamW([*groups, {"params": weights[-1:], "lr": 0.002, "betas": (0.8, 0.9)}], lr=0.001)


def by_axes(model):
    """Matrices decay, vectors do not and learn more slowly."""
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) is many] for many in (True, False))
    return torch.optim.AdamW([{"params": matrices, "weight_decay": 0.5}, {"params": vectors, "lr": 1e-4}], lr=0.001)


def of_parameters(params, lr):
    return torch.optim.RMSprop(params, lr=lr, alpha=0.9)


class Signs(torch.optim.Optimizer):
    """Steps by signs, and shrinks by a number that it counts for a whole group."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr, "steps": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["steps"] += 1
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad.sign(), alpha=-group["lr"] / group["steps"])


def own_class(parameters, lr):
    return Signs(parameters, lr)


class ByNorm(torch.optim.SGD):
    """Divides every gradient by its own norm: no part of a parameter can know that."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad / (p.grad.norm() + 1e-6), alpha=-group["lr"])


class ByGroup(torch.optim.SGD):
    """Divides every gradient by the norm of its group's: a stage would have to know the others'."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            norm = sum(p.grad.square().sum() for p in group["params"]) ** 0.5
            for p in group["params"]:
                p.add_(p.grad / norm, alpha=-group["lr"])


def by_group(model):
    return ByGroup(model.parameters(), lr=0.1)


class ByRow(torch.optim.SGD):
    """Divides every row of a gradient by its norm: rows may lie apart, their numbers may not."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    norm = p.grad.norm(dim=-1, keepdim=True)
                    p.add_(p.grad / (norm + 1e-6), alpha=-group["lr"])


def by_row(model):
    return ByRow(model.parameters(), lr=0.1)


def by_norm(model):
    return ByNorm(model.parameters(), lr=0.1)


def no_optimizer(model):
    return model


# -- losses and schedules ------------------------------------------------------------------------------------------


def smoothed(outputs, targets):
    return functional.cross_entropy(outputs, targets, label_smoothing=0.1)


def for_each(outputs, targets):
    return functional.cross_entropy(outputs, targets, reduction="none")


def weighted(outputs, targets):
    """Torch divides by the sum of the weights: no mean over samples."""
    weight = torch.arange(1, 11, dtype=outputs.dtype)
    return functional.cross_entropy(outputs, targets, weight=weight)


def of_tokens(outputs, targets):
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def of_each_token(outputs, targets):
    return functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none")


def not_a_loss(outputs, targets):
    return 3


def falling(step):
    return 1.0 / (1 + step)


# -- data ----------------------------------------------------------------------------------------------------------


def ragged():
    """Tokens, each with a label, from none to all of which count."""
    draw = np.random.default_rng(3)
    tokens = draw.integers(0, 12, (90, 6))
    labels = (tokens * 5 + 1) % 12
    counts = draw.integers(0, 7, 90)
    labels[np.arange(6) >= counts[:, None]] = -100
    return tokens[:80], labels[:80], tokens[80:], labels[80:]


class Reader(nn.Module):
    def __init__(self, vocabulary=12):
        super().__init__()
        self.table, self.head = nn.Embedding(12, 8), nn.Linear(8, 12)

    def forward(self, tokens):
        return self.head(self.table(tokens))


# -- metrics and numbers -------------------------------------------------------------------------------------------


def worst(outputs, targets):
    """The largest error of all: no mean of the parts'."""
    return (outputs.reshape(targets.shape) - targets).abs().max()


def no_number(outputs, targets):
    return "good"


def numbers():
    draw = np.random.default_rng(5)
    inputs = draw.normal(size=(120, 6)).astype("float32")
    targets = (inputs @ np.arange(6, dtype="float32") / 6).astype("float32")
    return inputs[:100], targets[:100], inputs[100:], targets[100:]


def regressor():
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
