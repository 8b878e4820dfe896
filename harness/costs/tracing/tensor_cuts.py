"""Which linear layers tensor parallelism cuts, and along which side; read by both engines.

Layers are cut in pairs, so that two layers cost one exchange in each pass: the first by its outputs (each device
computes some of the hidden units), the second by its inputs (each device adds up what its hidden units contribute).

Source: Shoeybi, Patwary, Puri, LeGresley, Casper and Catanzaro 2019, "Megatron-LM", section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from torch import nn
from torch.nn.utils import parametrize

from harness.core.errors import Impossible, PluginError
from harness.workloads.nets import Maxout

TensorCut = Literal["colwise", "rowwise"]
"""A linear layer's weight is cut by outputs ("colwise", as papers write x W) or by inputs ("rowwise")."""

TensorPlan = Mapping[str, TensorCut]
"""Cuts by dotted name of the linear layer."""

ELEMENTWISE = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Identity, Maxout)
"""What may stand between two cut layers. Maxout joins neighbouring units, which a cut keeps together. Dropout may not:
devices would draw other masks than one device does."""


def tensor_plan(module: nn.Module, ways: int) -> dict[str, TensorCut]:
    """Return the cuts of a model over so many devices; a layer that does not divide evenly stays whole on each.

    A module says what may be cut inside it with a class attribute, `tensor_plan = {"up": "colwise", "down":
    "rowwise"}`, and with an attribute `tensor_parts` into how many equal parts at most (attention: its heads). In a
    `nn.Sequential` every two linear layers with nothing but elementwise functions between them are a pair.

    Raises:
        Impossible: `not_plain` says so.
        PluginError: a module's own plan names something that is no linear layer of it.
    """
    if ways == 1:
        return {}
    if problem := not_plain(module):
        raise Impossible(problem)
    return found_plan(module, ways)


def not_plain(module: nn.Module) -> str:
    """Say why nobody knows how to cut a model by tensor parallelism; nothing where it can be.

    That is known of what is passed through in order, and of modules that declare a plan. Any other forward may use a
    layer in ways that only its author knows: it may read a weight, or a value between two layers.
    """
    open_modules = [("", module)]
    for name, part in open_modules:
        if getattr(type(part), "tensor_plan", None) is not None:
            continue
        if is_sequence(part):
            open_modules += [(f"{name}.{inner}".lstrip("."), child) for inner, child in part.named_children()]
        elif any(isinstance(inner, nn.Linear) for inner in part.modules()) and not isinstance(part, nn.Linear):
            where = f"{name} is a {type(part).__name__}" if name else f"this model is a {type(part).__name__}"
            return (
                f"tensor parallelism cuts pairs of nn.Linear in an nn.Sequential; {where}, whose forward may use its "
                'layers otherwise. Say how it is cut with a class attribute: tensor_plan = {"up": "colwise", "down": '
                '"rowwise"}'
            )
    return ""


def is_sequence(module: nn.Module) -> bool:
    """Whether a module passes its layers in order, and does nothing else."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def found_plan(module: nn.Module, ways: int) -> dict[str, TensorCut]:
    """Return the cuts of what can be cut, wherever it stands."""
    plan: dict[str, TensorCut] = {}
    for name, part in module.named_modules():
        prefix = f"{name}." if name else ""
        declared = getattr(type(part), "tensor_plan", None)
        if declared is not None:
            found = _declared(part, declared, ways)
        elif is_sequence(part):
            found = dict(_pairs(part, ways))
        else:
            continue
        plan |= {prefix + inner: cut for inner, cut in found.items()}
    return plan


def _declared(module: nn.Module, declared: TensorPlan, ways: int) -> dict[str, TensorCut]:
    layers = dict(module.named_modules())
    wrong = [name for name in declared if not isinstance(layers.get(name), nn.Linear)]
    if wrong:
        raise PluginError(f"{type(module).__name__}.tensor_plan: no nn.Linear is called {', '.join(wrong)}")
    parts = getattr(module, "tensor_parts", ways)
    even = parts % ways == 0 and all(_divides(layers[name], cut, ways) for name, cut in declared.items())
    return dict(declared) if even else {}


def _pairs(module: nn.Sequential, ways: int) -> Iterator[tuple[str, TensorCut]]:
    first: str | None = None
    for name, layer in module.named_children():
        if type(layer) is not nn.Linear or parametrize.is_parametrized(layer):
            first = first if isinstance(layer, ELEMENTWISE) else None
        elif first is not None and _divides(layer, "rowwise", ways) and _hidden_divides(module, first, layer, ways):
            yield first, "colwise"
            yield name, "rowwise"
            first = None
        else:
            first = name


def _hidden_divides(module: nn.Sequential, first: str, second: nn.Linear, ways: int) -> bool:
    """Whether the cut of the first layer hands the second one whole inputs: a maxout unit must not be cut apart."""
    outputs = module.get_submodule(first).out_features
    return bool(outputs % second.in_features == 0 and outputs % ways == 0)


def _divides(layer: Any, cut: TensorCut, ways: int) -> bool:
    side = layer.out_features if cut == "colwise" else layer.in_features
    return bool(side % ways == 0)


def split_shares(module: nn.Module, plan: TensorPlan, layers: Iterable[tuple[str, nn.Module]]) -> dict[str, float]:
    """Return for every layer the share of its parameters that the plan divides, 0..1."""
    shares = {}
    for name, layer in layers:
        total = sum(p.numel() for p in layer.parameters())
        cuts = {full: cut for full, cut in plan.items() if full == name or full.startswith(f"{name}.")}
        divided = sum(_divided(module.get_submodule(full), cut) for full, cut in cuts.items())
        shares[name] = divided / total if total else 0.0
    return shares


def _divided(linear: Any, cut: TensorCut) -> int:
    """Return how many scalars a cut divides: a layer that is cut by its inputs keeps its bias whole everywhere."""
    count = int(linear.weight.numel())
    return count + (linear.bias.numel() if cut == "colwise" and linear.bias is not None else 0)
