"""A module of any kind cut into stages in one process: each cut is the whole model, or is refused with the reason."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.api.strategy import Layout
from harness.core.errors import Impossible
from harness.engines.shared.chain.chain_plan import Batches, ChainPlan, find_chain, held_by, make_chain_plan
from harness.engines.shared.chain.chain_stage import ChainStage
from harness.engines.shared.chain.needs import keywords

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


MODELS = {
    "tied": Tied,
    "skips": Skips,
    "lstm": lstm,
    "keyword": Keyword,
    "zero head": ZeroHead,
    "by value": ByValue,
    "shared activation": shared_activation,
    "in place": in_place,
}


def build(kind):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return kind().double().train()


def inputs_for(kind, samples, seed):
    generator = torch.Generator().manual_seed(seed)
    if kind is Keyword:
        ids = torch.randint(9, (samples, 5), generator=generator)
        return {
            "ids": ids,
            "mask": (torch.rand(samples, 5, generator=generator) > 0.3).long().index_fill_(1, torch.tensor([0]), 1),
        }
    return torch.randn(samples, 4, generator=generator, dtype=torch.float64)


def loss_for(samples, seed=0):
    targets = torch.randint(3, (samples,), generator=torch.Generator().manual_seed(seed))
    return lambda outputs: F.cross_entropy(outputs, targets)


def batches_for(kind):
    make = partial(inputs_for, kind)
    return Batches(make(4, 1), loss_for(4, 1), make(5, 2), make(4, 3), loss_for(4, 3))


def plan_of(kind, stages, placement="parameters"):
    layout = Layout(pipeline=stages, placement=placement)
    return make_chain_plan(partial(build, kind), layout, batches_for(kind), "fp64")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stages", [2, 3])
def test_every_cut_is_proved_to_be_the_whole_model(name, stages):
    plan = plan_of(MODELS[name], stages)
    assert len(plan.cuts) == stages


def staged_steps(kind, plan: ChainPlan, orders):
    """Pass several micro-batches of several sizes through the stages, forward in one order, backward in another."""
    batches = batches_for(kind)
    stages = []
    chain, _ = find_chain(build(kind), list(plan.blocks), batches)
    for cut in plan.cuts:
        stages.append(ChainStage(build(kind), chain, cut, isinstance(batches.inputs, dict)))
        stages[-1].let_go()
    pieces = [(inputs_for(kind, n, n), loss_for(n, n)) for n in (4, 3, 7)]
    tapes, losses = {}, {}
    for m in orders[0]:
        received, tape = [], []
        for stage in stages:
            outputs = stage(*received, **keywords(pieces[m][0]))
            tape.append((received, outputs))
            if not stage.is_last:
                received = [t.detach().clone().requires_grad_(t.requires_grad) for t in outputs]
        losses[m], tapes[m] = pieces[m][1](tape[-1][1]), tape
    for m in orders[1]:
        losses[m].backward()
        received = tapes[m][-1][0]
        for before, outputs in reversed(tapes[m][:-1]):
            pairs = [(t, r.grad) for t, r in zip(outputs, received, strict=True) if r.grad is not None]
            if pairs:
                torch.autograd.backward(*map(list, zip(*pairs, strict=True)))
            received = before
    gradients = {}
    for stage in stages:
        for key, p in stage.kept().items():
            if p.grad is not None:
                gradients[key] = gradients.get(key, 0) + p.grad
    return gradients, pieces


@pytest.mark.parametrize("name", MODELS)
def test_micro_batches_in_flight_do_not_meet(name):
    from harness.workloads.batches import call, outputs_of

    kind = MODELS[name]
    plan = plan_of(kind, 2)
    gradients, pieces = staged_steps(kind, plan, ([0, 1, 2], [2, 0, 1]))
    whole = build(kind)
    for inputs, loss in pieces:
        loss(outputs_of(call(whole, inputs))).backward()
    expected = {key: p.grad for key, p in whole.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(gradients[key], gradient, rtol=1e-12, atol=1e-14)


def test_a_tied_weight_is_held_by_every_stage_that_uses_it():
    plan = plan_of(Tied, 3)
    holders = held_by(plan, build(Tied))
    assert len(holders["middle.0.weight"]) == 2
    assert holders["entry.weight"] == (0, 2)
    assert all(holders.values())


def test_stages_are_named_by_modules_at_any_depth():
    plan = plan_of(Skips, 2, placement=(("down", "up.0"), ("up.1", "up.2", "head")))
    assert plan.placement[1] == ("up.1", "up.2", "head")
    deep = plan_of(Skips, 2, placement=(("down.0.0",), ("down.0.1", "up")))
    assert deep.placement[0] == ("down.0.0",)
    with pytest.raises(Impossible, match=r"names nothing, which the model does not have"):
        plan_of(Skips, 2, placement=(("down",), ("nothing",)))
    with pytest.raises(Impossible, match=r"puts \S+ on stage \d, behind layers of stage 1"):
        plan_of(Skips, 2, placement=(("up",), ("down",)))
    with pytest.raises(Impossible, match="leaves stage 1 without a layer"):
        plan_of(Skips, 2, placement=(("down", "up", "head"), ()))


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


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Alternating, "order of calls changes between steps: call 1 was of"),
        (ChangesItsArgument, "was compared with one of the whole model.*[Ll]et blocks return what they compute"),
        (Bare, "this Bare cannot be cut.*keep it whole"),
        (ReturnsAnObject, "blocks.0 returns an object of type Box, which cannot be sent"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_reason(kind, reason):
    with pytest.raises(Impossible, match=reason):
        plan_of(kind, 2)


def test_more_stages_than_blocks_are_refused():
    with pytest.raises(Impossible, match="9 stages need as many blocks; the model has 7: 0, 1, 2"):
        plan_of(shared_activation, 9)
