"""The blocks of any module: what a plan counts, FSDP gathers and a pipeline cuts between."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from harness.workloads.batches import Inputs, as_written, call
from harness.workloads.generators import generators_kept

WHOLE = "model"
"""What the one block of a module that cannot be opened is called."""
HEAVIEST = 8
"""No block holds more than one part in so many of all parameters, where it can be opened. Chosen: a cut into four
stages then misses an even one by half a stage at most."""
STAGES = 2
"""A block of a list of several is opened only where it is too heavy for one of so many stages: people think in them."""

NamedModules = list[tuple[str, nn.Module]]
"""Modules by their dotted names."""


@dataclass
class CallTree:
    """Which modules one forward pass called, in order, and from inside which others.

    Attributes:
        modules: of each call.
        parents: number of the call that each was made in; -1 outside of all.
    """

    modules: list[nn.Module] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)

    def outermost(self, among: Collection[nn.Module]) -> list[nn.Module]:
        """Return the calls of these modules that were not made inside another one of them, in order."""
        chosen = {id(module) for module in among}
        inside: list[bool] = []
        found = []
        for module, parent in zip(self.modules, self.parents, strict=True):
            covered = parent >= 0 and inside[parent]
            if id(module) in chosen and not covered:
                found.append(module)
            inside.append(covered or id(module) in chosen)
        return found


def named_blocks(module: nn.Module, inputs: Inputs, fewest: int = 1, opened: Collection[str] = ()) -> NamedModules:
    """Return the blocks of a module in the order of their first call.

    The children of an `nn.Sequential`, as far as each is called once. Of any other module the heaviest part is opened
    until none holds more than an eighth of the parameters; a block of a list stays whole unless it is too heavy for a
    stage. What lies between blocks (adding, reshaping, parameters that are used without a call) belongs to none.

    The module is run once, in its present mode and without gradients; buffers, random generators and counters are left
    as they were. Tensors may be fake.

    Args:
        inputs: one tensor, or keyword arguments.
        fewest: blocks with parameters that are asked for; whatever can be opened is, until there are as many.
        opened: names of modules that must be blocks, so that what holds them is opened.
    """
    if is_chain(module) and not opened:
        return list(module.named_children())
    calls = call_tree(module, inputs)
    parts = _opened(module, calls, fewest, opened)
    names = {id(part): name for name, part in parts.items()}
    order = dict.fromkeys(id(called) for called in calls.outermost(list(parts.values())))
    found = [(names[key] or WHOLE, parts[names[key]]) for key in order]
    return found or [(WHOLE, module)]


def is_chain(module: nn.Module) -> bool:
    """Whether a module is an `nn.Sequential` each of whose layers is called once, and is no part of another one."""
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
        return False
    held = [id(part) for layer in module for part in layer.modules()]
    return len(held) == len(set(held))


def call_tree(module: nn.Module, inputs: Inputs) -> CallTree:
    """Run a module once without gradients and return its calls."""
    tree, stack = CallTree(), [-1]

    def enter(called: nn.Module, _: object) -> None:
        tree.modules.append(called)
        tree.parents.append(stack[-1])
        stack.append(len(tree.modules) - 1)

    def leave(called: nn.Module, _: object, __: object) -> None:
        stack.pop()

    hooks = [part.register_forward_pre_hook(enter) for part in module.modules()]
    hooks += [part.register_forward_hook(leave, always_call=True) for part in module.modules()]
    try:
        with torch.no_grad(), undisturbed(module), as_written():
            call(module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return tree


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` was asked for a module, or for any part of it."""
    parts = list(module.modules())
    return any(part._compiled_call_impl is not None or "_orig_mod" in part._modules for part in parts)


COUNTERS = (bool, int, float, str, type(None))
"""Types of attributes that a module may count in."""


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Put buffers, random generators and counters back afterwards, buffers that were replaced by others too."""
    owners = list(module.modules())
    before = [{key: value for key, value in vars(owner).items() if isinstance(value, COUNTERS)} for owner in owners]
    try:
        with buffers_kept(module):
            yield
    finally:
        for owner, values in zip(owners, before, strict=True):
            vars(owner).update(values)


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Put buffers and random generators back afterwards."""
    owners = [(owner, name, b) for owner in module.modules() for name, b in owner.named_buffers(recurse=False)]
    before = [buffer.detach().clone() for _, _, buffer in owners]
    try:
        with generators_kept(next((p.device for p in module.parameters()), None)):
            yield
    finally:
        for (owner, name, buffer), values in zip(owners, before, strict=True):
            owner._buffers[name] = buffer
            # Through .data: a pass whose gradient is yet to be computed must not take it for a change of its own.
            buffer.data.copy_(values)


def _opened(module: nn.Module, calls: CallTree, fewest: int, opened: Collection[str]) -> dict[str, nn.Module]:
    """Return blocks by name: the module opened as far as `named_blocks` says."""
    called = {id(part) for part in calls.modules}
    total = num_parameters(module)
    parts: dict[str, nn.Module] = {"": module}
    while True:
        enough = sum(num_parameters(part) > 0 for part in parts.values()) >= fewest
        for name, part in sorted(parts.items(), key=lambda item: -num_parameters(item[1])):
            inner = [other for other in opened if other != name and _holds(name, other)]
            heavy = num_parameters(part) > _limit(module, name, total) or not enough
            found = _inside(name, part, called, total) if name == "" or heavy or inner else {}
            if found:
                del parts[name]
                kept = {id(other) for other in parts.values()}
                parts.update({key: child for key, child in found.items() if id(child) not in kept})
                break
        else:
            return parts


def _holds(name: str, other: str) -> bool:
    return name == "" or other == name or other.startswith(f"{name}.")


def _limit(module: nn.Module, name: str, total: int) -> float:
    """Return the most parameters that a part of this name may hold."""
    owner = module.get_submodule(name.rpartition(".")[0]) if name else module
    in_list = isinstance(owner, nn.ModuleList | nn.Sequential) and len(owner) > 1 and name != ""
    return total / (STAGES if in_list else HEAVIEST)


def _inside(name: str, part: nn.Module, called: set[int], total: int) -> dict[str, nn.Module]:
    """Return the children of a part that are called; of a container that is never called itself, its children's.

    Nothing, where too much would lie outside of all children: a parameter that is used without a call is held by every
    stage of a pipeline.
    """
    found = _called_inside(name, part, called)
    held = {id(p) for child in found.values() for p in child.parameters()}
    owners = [part, *(m for m in part.modules() if isinstance(m, nn.ParameterList | nn.ParameterDict))]
    loose = {id(p): p.numel() for owner in owners for p in owner.parameters(recurse=False) if id(p) not in held}
    return found if sum(loose.values()) <= total / HEAVIEST else {}


def _called_inside(name: str, part: nn.Module, called: set[int]) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for key, child in part.named_children():
        full = f"{name}.{key}" if name else key
        found.update({full: child} if id(child) in called else _called_inside(full, child, called))
    return found


def num_parameters(module: nn.Module) -> int:
    """Return how many numbers a module's parameters hold, shared ones once."""
    return sum(p.numel() for p in module.parameters())
