"""Optimizers of torch by name, or a function of the user's own that makes one; and the same one on parts of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from harness.core.cell import Named
from harness.core.errors import Impossible, PluginError

CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
    "adadelta": torch.optim.Adadelta,
    "asgd": torch.optim.ASGD,
}
"""By the name that scenarios call them; all treat every number of a parameter for itself."""

_GIVEN_RATE = 0.1
"""That they are built with; the rate is set before every step."""


@dataclass(frozen=True)
class OwnOptimizer:
    """A function of the user's own that makes the optimizer of a model.

    Attributes:
        name: what the scenario says.
        make: of the model; returns a torch optimizer.
    """

    name: str
    make: Callable[[nn.Module], Any]


def make_optimizer(
    module: nn.Module, spec: Named | OwnOptimizer, rate: float | torch.Tensor = _GIVEN_RATE
) -> torch.optim.Optimizer | None:
    """Build the optimizer of all parameters that require a gradient; None where there are none.

    Args:
        rate: that one of torch's is built with.

    Raises:
        PluginError: a function of the user's own returned something that cannot be stepped.
        Impossible: a fused kernel is asked for, and torch has none for these parameters.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        return None  # a pipeline stage may hold layers without parameters only; torch refuses an empty list
    if isinstance(spec, OwnOptimizer):
        return _checked(spec, module)
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in spec.options.items()}
    named: Callable[..., torch.optim.Optimizer] = CLASSES[spec.name]
    make = partial(named, lr=rate, **options)
    if options.get("fused"):
        _try_fused(spec.name, make, {(p.device, p.dtype) for p in parameters})
    return make(parameters)


def _try_fused(
    name: str, make: Callable[..., torch.optim.Optimizer], kinds: Iterable[tuple[torch.device, torch.dtype]]
) -> None:
    """Take a step on a single number of each kind: which of them a kernel takes differs from release to release.

    Raises:
        Impossible: torch refuses.
    """
    for device, dtype in kinds:
        number = nn.Parameter(torch.zeros(1, dtype=dtype, device=device))
        number.grad = torch.zeros_like(number)
        try:
            make([number]).step()
        except (RuntimeError, NotImplementedError) as error:
            kind = f"{str(dtype).removeprefix('torch.')} on {device.type}"
            reason = str(error).partition("\n")[0]
            raise Impossible(
                f"workload.optimizer.fused: torch has no fused {name} for {kind}: {reason}. Set fused = false"
            ) from error


def _checked(own: OwnOptimizer, module: nn.Module) -> torch.optim.Optimizer:
    made = own.make(module)
    where = f"workload.optimizer = {own.name}"
    if not isinstance(made, torch.optim.Optimizer):
        raise PluginError(f"{where}: returned {type(made).__name__}, expected a torch.optim.Optimizer")
    if isinstance(made, torch.optim.LBFGS):
        raise PluginError(f"{where}: LBFGS computes losses itself, which no strategy can share out; choose another")
    known = {id(p) for p in module.parameters()}
    strange = sum(id(p) not in known for group in made.param_groups for p in group["params"])
    if strange:
        raise PluginError(f"{where}: steps {strange} tensors that are no parameters of the model it was given")
    rates = [group.get("lr") for group in made.param_groups]
    if not all(isinstance(rate, int | float | torch.Tensor) for rate in rates) or not float(rates[0]) > 0:
        raise PluginError(
            f"{where}: the first group's lr is {rates[0]}; give every group a number, the first one above 0: the "
            "scenario's learning_rate is the first group's, the others keep their ratio to it"
        )
    return made


class Rates:
    """The learning rate of every group of an optimizer: the first one's as the cell says, the others in proportion."""

    def __init__(self, optimizer: torch.optim.Optimizer | None) -> None:
        groups = [] if optimizer is None else optimizer.param_groups
        self.own = [float(group["lr"]) for group in groups]
        self._ratios = [1.0 if rate == self.own[0] else rate / self.own[0] for rate in self.own]

    def set(self, optimizer: torch.optim.Optimizer, rate: float) -> None:
        """Give every group its rate."""
        for group, ratio in zip(optimizer.param_groups, self._ratios, strict=True):
            lr = rate * ratio
            group["lr"] = torch.full_like(group["lr"], lr) if isinstance(group["lr"], torch.Tensor) else lr


def on_parts(optimizer: torch.optim.Optimizer, parts: Mapping[int, torch.Tensor]) -> torch.optim.Optimizer | None:
    """Return the same optimizer, without state, of other tensors; None where it would step none.

    Whatever its class: its attributes are kept, only groups and state are made anew.

    Args:
        parts: by the id of a parameter, what stands for it; groups lose those that nothing stands for.
    """
    groups = [
        {**group, "params": [parts[id(p)] for p in group["params"] if id(p) in parts]}
        for group in optimizer.param_groups
    ]
    return _anew(optimizer, groups) if any(group["params"] for group in groups) else None


def _anew(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    made: torch.optim.Optimizer = object.__new__(type(optimizer))
    made.__dict__.update(optimizer.__dict__)
    made.state, made.param_groups = defaultdict(dict), groups
    return made


def group_state(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return what every group holds besides parameters and rate: an optimizer may count there."""
    return [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in optimizer.param_groups]


def set_group_state(optimizer: torch.optim.Optimizer, states: Iterable[Mapping[str, Any]]) -> None:
    """Put back what `group_state` returned."""
    for group, state in zip(optimizer.param_groups, states, strict=False):
        group.update(state)


@dataclass(frozen=True)
class Separable:
    """Whether an optimizer takes the same steps where it sees parts only.

    Attributes:
        by_parameter: on a device that holds some of the parameters, each whole.
        by_row: on a device that holds some rows of each.
        by_number: on a device that holds any stretch of each, rows or not.
    """

    by_parameter: bool
    by_row: bool
    by_number: bool


def separable(optimizer: torch.optim.Optimizer) -> Separable:
    """Find out by steps on two small matrices, together and apart."""
    if type(optimizer) in CLASSES.values():
        return Separable(True, True, True)
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    gradients = [[torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in values] for _ in range(3)]
    try:
        together = _stepped(optimizer, values, gradients)
        alone = [_stepped(optimizer, [v], [[step[k]] for step in gradients])[0] for k, v in enumerate(values)]
        rows = _in_parts(optimizer, values, gradients, _HALVES)
        flat = [[g.view(-1) for g in step] for step in gradients]
        stretches = _in_parts(optimizer, [v.view(-1) for v in values], flat, _STRETCHES)
    except Exception:  # of the user's own: it does not take these, so nothing is known of it in parts
        return Separable(False, False, False)
    by_parameter = _same(together, alone)
    by_row = by_parameter and _same(together, rows)
    return Separable(by_parameter, by_row, by_row and _same([t.view(-1) for t in together], stretches))


def _in_parts(
    optimizer: torch.optim.Optimizer,
    values: Sequence[torch.Tensor],
    gradients: Sequence[Sequence[torch.Tensor]],
    parts: Sequence[slice],
) -> list[torch.Tensor]:
    return [
        torch.cat([_stepped(optimizer, [v[part]], [[step[k][part]] for step in gradients])[0] for part in parts])
        for k, v in enumerate(values)
    ]


_HALVES = (slice(0, 2), slice(2, 4))
_STRETCHES = (slice(0, 5), slice(5, 12))
"""Of the same four rows of three numbers: the first ends inside a row."""


def _stepped(
    optimizer: torch.optim.Optimizer, values: Sequence[torch.Tensor], gradients: Sequence[Sequence[torch.Tensor]]
) -> list[torch.Tensor]:
    parameters = [nn.Parameter(value.clone()) for value in values]
    made = _anew(optimizer, [{**optimizer.param_groups[0], "params": parameters}])
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        made.step()
    return [parameter.detach() for parameter in parameters]


def _same(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(one, other, strict=True))
