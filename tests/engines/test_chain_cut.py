"""A module of any kind cut into stages in one process: each cut is the whole model, or is refused with the reason."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from cells import make_cell
from lazy import lazy

from harness.api.strategy import Layout
from harness.core.errors import Impossible

torch = lazy("torch")
functional = lazy("torch.nn.functional")
models = lazy("models.chain_models")
batches = lazy("harness.workloads.batches")
chain_plan = lazy("harness.engines.shared.chain.chain_plan")
chain_stage = lazy("harness.engines.shared.chain.chain_stage")
kept_times = lazy("harness.engines.shared.kept_times")
layer_timing = lazy("harness.engines.shared.layer_timing")
needs = lazy("harness.engines.shared.chain.needs")
try_on = lazy("harness.engines.shared.chain.try_on")

MODELS = ["Tied", "Skips", "lstm", "Keyword", "ZeroHead", "ByValue", "shared_activation", "in_place", "compiled"]

TORCH_WARNS = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
"""Importing torch's compiler warns of torch itself."""


def build(kind):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return getattr(models, kind)().double().train()


def inputs_for(kind, samples, seed):
    generator = torch.Generator().manual_seed(seed)
    if kind == "Keyword":
        ids = torch.randint(9, (samples, 5), generator=generator)
        return {
            "ids": ids,
            "mask": (torch.rand(samples, 5, generator=generator) > 0.3).long().index_fill_(1, torch.tensor([0]), 1),
        }
    return torch.randn(samples, 4, generator=generator, dtype=torch.float64)


def loss_for(samples, seed=0):
    targets = torch.randint(3, (samples,), generator=torch.Generator().manual_seed(seed))
    return lambda outputs: functional.cross_entropy(outputs, targets)


def batches_for(kind):
    make = partial(inputs_for, kind)
    return try_on.Batches(make(4, 1), loss_for(4, 1), make(5, 2), make(4, 3), loss_for(4, 3))


def plan_of(kind, stages, placement="parameters", seed_of=None):
    layout = Layout(pipeline=stages, placement=placement)
    return chain_plan.make_chain_plan(partial(build, kind), layout, batches_for(kind), "fp64", seed_of=seed_of)


def seed_of_event(event):
    return 100 + event


@TORCH_WARNS
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stages", [2, 3])
def test_every_cut_is_proved_to_be_the_whole_model(name, stages):
    plan = plan_of(name, stages)
    assert len(plan.cuts) == stages


def staged_steps(kind, plan, orders, seed_of=None):
    """Pass several micro-batches of several sizes through the stages, forward in one order, backward in another."""
    tried = batches_for(kind)
    stages = []
    chain, _ = try_on.find_chain(build(kind), list(plan.blocks), tried)
    for cut in plan.cuts:
        stages.append(chain_stage.ChainStage(build(kind), chain, cut, isinstance(tried.inputs, dict)))
        stages[-1].let_go()
        stages[-1].seed_of = seed_of
    pieces = [(inputs_for(kind, n, n), loss_for(n, n)) for n in (4, 3, 7)]
    tapes, losses = {}, {}
    for m in orders[0]:
        received, tape = [], []
        for stage in stages:
            outputs = stage(*received, **needs.keywords(pieces[m][0]))
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


@TORCH_WARNS
@pytest.mark.parametrize("name", MODELS)
def test_micro_batches_in_flight_do_not_meet(name):
    plan = plan_of(name, 2)
    gradients, pieces = staged_steps(name, plan, ([0, 1, 2], [2, 0, 1]))
    whole = build(name)
    for inputs, loss in pieces:
        loss(batches.outputs_of(batches.call(whole, inputs))).backward()
    expected = {key: p.grad for key, p in whole.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(gradients[key], gradient, rtol=1e-12, atol=1e-14)


def test_a_block_that_draws_is_not_called_through_a_checkpoint_whose_second_pass_would_draw_otherwise():
    with pytest.raises(
        Impossible, match=r"blocks\.\d draws random numbers and is called through torch.utils.checkpoint"
    ):
        plan_of("Redone", 2, seed_of=seed_of_event)
    assert len(plan_of("RedoneWithoutDraws", 2, seed_of=seed_of_event).cuts) == 2


def test_a_block_that_computes_itself_again_draws_the_same_again(monkeypatch):
    plan = plan_of("RedoneInside", 2, seed_of=seed_of_event)
    again, _ = staged_steps("RedoneInside", plan, ([0, 1, 2], [2, 0, 1]), seed_of=seed_of_event)
    monkeypatch.setattr(models.Inside, "again", False)
    plain, _ = staged_steps("RedoneInside", plan, ([0, 1, 2], [2, 0, 1]), seed_of=seed_of_event)
    assert all(torch.equal(again[name], gradient) for name, gradient in plain.items())


def test_a_tied_weight_is_held_by_every_stage_that_uses_it():
    plan = plan_of("Tied", 3)
    holders = chain_plan.held_by(plan, build("Tied"))
    assert len(holders["middle.0.weight"]) == 2
    assert holders["entry.weight"] == (0, 2)
    assert all(holders.values())


def test_stages_are_named_by_modules_at_any_depth():
    plan = plan_of("Skips", 2, placement=(("down", "up.0"), ("up.1", "up.2", "head")))
    assert plan.placement[1] == ("up.1", "up.2", "head")
    deep = plan_of("Skips", 2, placement=(("down.0.0",), ("down.0.1", "up")))
    assert deep.placement[0] == ("down.0.0",)
    with pytest.raises(Impossible, match=r"names nothing, which the model does not have"):
        plan_of("Skips", 2, placement=(("down",), ("nothing",)))
    with pytest.raises(Impossible, match=r"puts \S+ on stage \d, behind layers of stage 1"):
        plan_of("Skips", 2, placement=(("up",), ("down",)))
    with pytest.raises(Impossible, match="leaves stage 1 without a layer"):
        plan_of("Skips", 2, placement=(("down", "up", "head"), ()))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("Alternating", "order of calls changes between steps: call 1 was of"),
        ("ChangesItsArgument", "was compared with one of the whole model.*[Ll]et blocks return what they compute"),
        ("Fussy", "a stage of the model was tried without the others and failed: FloatingPointError: not a number"),
        ("Bare", "this Bare cannot be cut.*keep it whole"),
        ("ReturnsAnObject", "blocks.0 returns an object of type Box, which cannot be sent"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_reason(kind, reason):
    with pytest.raises(Impossible, match=reason):
        plan_of(kind, 2)


def test_more_stages_than_blocks_are_refused():
    with pytest.raises(Impossible, match="9 stages need as many blocks; the model has 7: 0, 1, 2"):
        plan_of("shared_activation", 9)


# -- one cut for all seeds ---------------------------------------------------------------------------------------------


def cost(name: str, seconds: float) -> Any:
    return layer_timing.LayerCost(name, seconds, seconds, 8, 1)


def test_seeds_of_a_point_are_cut_by_one_measurement(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    names, measured = ["a", "b"], []

    def costs_of(seed: int, micro: int = 8, names: Any = names, placement: str = "time") -> Any:
        def measure() -> Any:
            measured.append(seed)
            return [cost(name, 1.0 + len(measured)) for name in names]

        point = {"sweep__strategy": "model-split", "sweep__gpus": [2], "sweep__micro_batch_size": [micro]}
        cell = make_cell(engine="real", sweep__seeds=[seed], **point)
        return kept_times.kept_costs(cell, Layout(pipeline=2, placement=placement), names, measure)

    first = costs_of(0)
    assert costs_of(1) == first
    assert costs_of(2) == first
    assert measured == [0]
    costs_of(3, micro=4)
    costs_of(4, names=["a", "c"])
    costs_of(5, placement="parameters")  # no time decides
    costs_of(6, placement="parameters")
    assert measured == [0, 3, 4, 5, 6]


def test_a_chain_is_cut_by_the_costs_that_it_is_given():
    def heavy(name: str) -> Any:
        return lambda names, measure: [cost(each, 100.0 if each == name else 1.0) for each in names]

    layout = Layout(pipeline=2, placement="time")
    cuts = []
    for name in ("down.0", "head"):
        made = chain_plan.make_chain_plan(
            partial(build, "Skips"), layout, batches_for("Skips"), "fp64", costs_of=heavy(name)
        )
        cuts.append(made.placement)
    assert cuts[0][0] == ("down.0",)
    assert cuts[1][1] == ("head",)
