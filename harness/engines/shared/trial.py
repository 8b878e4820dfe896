"""A few steps of a user's model before anything is measured: does it fit the data, and what must a run know of it?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.api.host import describe
from harness.core.errors import Misfit, PluginError, Untrainable
from harness.engines.processes.foreign import lacks_memory
from harness.engines.processes.torch_errors import mending
from harness.engines.shared.misfit import GivenBatch, classes_expected, not_taken
from harness.engines.shared.plain_state import changed, plain_state
from harness.engines.shared.replica import BATCH_NORMS, DTYPES, convert, seeded
from harness.engines.shared.shown import GENERATORS, Trial
from harness.workloads.batches import Inputs, Samples, as_written, call, outputs_of, tensors_of
from harness.workloads.generators import generator_states
from harness.workloads.losses import OwnLoss, Reduces, how_it_reduces, weighted_loss

if TYPE_CHECKING:
    from harness.core.cell import Workload
    from harness.workloads.data import Data

TRIAL_SAMPLES = 2
"""Of a trial step. Not one: BatchNorm over a single value is refused."""

TRIAL_STEPS = 3
"""Of a model that looks at values, or keeps some: other samples may take another way through it."""

REDUCED_SAMPLES = 16
"""Whose losses tell how a loss of the user's own reduces: several classes, which it may weigh differently."""

_LOOKS = frozenset(
    ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "bincount", "is_nonzero")
)
"""Operations of torch by which values, not shapes, decide what runs next."""

_REENTRANT = "CheckpointFunctionBackward"
"""What torch calls the node of checkpoint(..., use_reentrant=True) in a graph."""


def try_model(
    module: nn.Module, data: Data, work: Workload, seed: int, files: list[str], loss: str | OwnLoss = ""
) -> Trial:
    """Take training steps, gradients only, on a copy of the model.

    Args:
        module: as it was built; left untouched.
        files: the user's own, for errors in his terms.
        loss: the workload's, where it is a function of the user's own.

    Raises:
        Misfit: the model does not take the data, or its output does not fit the targets.
        Untrainable: nothing of it can be trained.
        PluginError: it cannot be copied.
    """
    name = work.model.name
    refuse_untrainable(name, module)
    seen = _Seen(name, work, files, loss or work.loss)
    copied = convert(_copied(name, module, files), data.train.device, DTYPES[work.precision]).train()
    with seeded(seed, "trial", device=data.train.device), as_written():
        blocks = iter(_blocks(data))
        seen.step(copied, data, next(blocks))
        if seen.looks or seen.keeps or {"random", "numpy"} & seen.generators:
            for block in blocks:
                seen.step(copied, data, block)
        seen.largest(copied, data)
    return Trial(
        without_gradient=tuple(n for n, _ in copied.named_parameters() if n in seen.without),
        generators=tuple(g for g in GENERATORS if g in seen.generators),
        looks=seen.looks,
        keeps=tuple(sorted(seen.keeps)),
        reentrant=seen.reentrant,
        sparse=tuple(n for n, _ in copied.named_parameters() if n in seen.sparse | _embeddings(copied)),
        norms=tuple(seen.norms),
        norms_of_one=tuple(n for n, values in seen.norms.items() if values == 1),
        reduces=seen.reduces,
    )


def refuse_untrainable(name: str, module: nn.Module) -> None:
    """Refuse a model that nothing can be trained of.

    Raises:
        Untrainable: it has no parameters, or all are frozen.
    """
    if any(p.requires_grad for p in module.parameters()):
        return
    if next(module.parameters(), None) is None:
        raise Untrainable(f"{name}: there is nothing to train: it has no parameters. Give it layers with weights")
    raise Untrainable(
        f"{name}: there is nothing to train: all its parameters are frozen. Set requires_grad = True on those to train"
    )


def _copied(name: str, module: nn.Module, files: list[str]) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:
        reason = describe(error, files)
        raise PluginError(
            f"{name}: cannot be copied, which a trial step before the run needs: {reason}. Keep what Python cannot "
            "copy (an open file, a lock, a tensor with a history) outside the module, or detach it"
        ) from error


def _blocks(data: Data) -> Iterator[torch.Tensor]:
    """Yield numbers of samples; where samples differ in how many targets count, the first two that differ most."""
    rows, total = min(TRIAL_SAMPLES, len(data.train)), len(data.train)
    if data.counts is not None and total > 1:
        counts = np.where(data.counts > 0, data.counts, data.counts.max())
        yield torch.tensor([int(counts.argmin()), int(data.counts.argmax())], device=data.train.device)
    for step in range(TRIAL_STEPS):
        start = (step * rows) % max(1, total - rows + 1)
        yield torch.arange(start, start + rows, device=data.train.device)


class _Looks(TorchDispatchMode):  # type: ignore[misc]
    """Notes whether Python asks for values of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or func.overloadpacket.__name__ in _LOOKS
        return func(*args, **(kwargs or {}))


class _Seen:
    """What the steps have shown so far."""

    def __init__(self, name: str, work: Workload, files: list[str], loss: str | OwnLoss) -> None:
        self.name, self.work, self.files, self.loss = name, work, files, loss
        self.without: set[str] = set()
        self.sparse: set[str] = set()
        self.generators: set[str] = set()
        self.looks = self.reentrant = False
        self.keeps: set[str] = set()
        self.norms: dict[str, int] = {}
        self.reduces: Reduces | None = None

    def step(self, module: nn.Module, data: Data, index: torch.Tensor) -> None:
        """Pass forward and backward once."""
        inputs, targets = data.train.take(index)
        device = targets.device
        before, held = generator_states(device), plain_state(module)
        looks = _Looks()
        with self._watched_norms(module), looks:
            outputs = self._forward(module, inputs)
        self.looks = self.looks or looks.seen
        pairs = zip(GENERATORS, before, generator_states(device), strict=True)
        self.generators |= {name for name, old, new in pairs if old != new}
        kept = plain_state(module)
        self.keeps |= set(changed(held, kept))
        self._backward(outputs, targets, data)
        self.sparse |= {n for n, p in module.named_parameters() if p.grad is not None and p.grad.is_sparse}
        self.without |= {n for n, p in module.named_parameters() if p.requires_grad and p.grad is None}
        for parameter in module.parameters():
            parameter.grad = None

    def largest(self, module: nn.Module, data: Data) -> None:
        """Pass the samples with the largest tokens and codes: an embedding may have too few rows for them."""
        if not isinstance(data.train, Samples):
            return  # what is read as it is needed nobody has seen
        whole = [tensor for tensor in tensors_of(data.train.inputs) if not tensor.is_floating_point()]
        if whole:
            rows = torch.stack([tensor.reshape(len(tensor), -1).amax(1).argmax() for tensor in whole]).unique()
            with torch.no_grad():
                self._forward(module.eval(), data.train.take(rows)[0])

    def _forward(self, module: nn.Module, inputs: Inputs) -> torch.Tensor:
        device = tensors_of(inputs)[0].device.type
        try:
            with torch.autocast(device, torch.bfloat16, enabled=self.work.precision == "bf16"):
                result = call(module, inputs)
        except Exception as error:
            if lacks_memory(error):
                raise
            named = self.work.dataset
            sample = GivenBatch(named.name, tuple(named.options), inputs)
            raise not_taken(self.name, self.files, module, error, sample) from error
        try:
            return outputs_of(result)
        except TypeError as error:
            raise Misfit(f"{self.name}: returned {error}") from None

    def _backward(self, outputs: torch.Tensor, targets: torch.Tensor, data: Data) -> None:
        classes, rows = data.classes, len(targets)
        named = isinstance(self.loss, str) and self.loss in ("cross-entropy", "mse")
        one_class = targets.dim() == 1 and not targets.is_floating_point() and named
        if one_class and tuple(outputs.shape) != (rows, classes):
            raise Misfit(classes_expected(self.name, self.work.dataset.name, rows, classes, tuple(outputs.shape)))
        if isinstance(self.loss, OwnLoss) and self.reduces is None:
            self.reduces = _reduction(self.loss, outputs.detach(), data)
            self.loss = replace(self.loss, reduces=self.reduces)
        try:
            ragged = data.counts is not None
            loss = weighted_loss(self.loss, ragged)(outputs, targets, 1.0 / rows)
            self.reentrant = self.reentrant or _has_node(loss, _REENTRANT)
            loss.backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            if lacks_memory(error):
                raise
            reason = describe(error, self.files)
            shapes = f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}"
            known = mending(error)
            then = f"\n  {known}" if known else ""
            raise Misfit(f"{self.name}: a training step fails on {shapes}: {reason}{then}") from error

    @contextmanager
    def _watched_norms(self, module: nn.Module) -> Iterator[None]:
        """Note which BatchNorm layers use the statistics of this batch, and how many values of a channel they see."""
        hooks = [
            part.register_forward_pre_hook(self._norm_hook(name))
            for name, part in module.named_modules()
            if isinstance(part, BATCH_NORMS)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _norm_hook(self, name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def note(part: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if part.training or part.running_mean is None:
                values = inputs[0].numel() // max(1, inputs[0].shape[0] * inputs[0].shape[1])
                self.norms[name] = min(values, self.norms.get(name, values))

        return note


def _embeddings(module: nn.Module) -> set[str]:
    """Return the weights of layers that were asked for sparse gradients, whether the steps have reached them or not."""
    layers = [name for name, part in module.named_modules() if getattr(part, "sparse", False) is True]
    return {
        f"{layer}.{name}".lstrip(".") for layer in layers for name, _ in module.get_submodule(layer).named_parameters()
    }


def _reduction(loss: OwnLoss, outputs: torch.Tensor, data: Data) -> Reduces:
    """Find out how a loss makes one number of samples from all over the data; the outputs may be of any others."""
    total = len(data.train)
    numbers = np.linspace(0, total - 1, min(REDUCED_SAMPLES, total)).astype(np.int64)
    index = torch.from_numpy(numbers).to(outputs.device)
    targets = data.train.targets.index_select(0, index)
    repeated = outputs[torch.arange(len(index), device=outputs.device) % len(outputs)]
    return how_it_reduces(loss, repeated, targets, None if data.counts is None else data.counts[numbers])


def _has_node(tensor: torch.Tensor, name: str) -> bool:
    """Whether a graph holds a node of that name."""
    waiting, seen = [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == name:
            return True
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False
