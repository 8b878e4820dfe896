"""Watch tensors come and go: which pass of which layer allocates what, how long it lives, what autograd keeps."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

aten = torch.ops.aten
_ATTENTION_ON_CPU = aten._scaled_dot_product_flash_attention_for_cpu


class Phase(NamedTuple):
    """A pass of a layer; the loss belongs to the last layer."""

    layer: int
    backward: bool


START = Phase(0, False)


class Seen(NamedTuple):
    """An allocation, or the end of one.

    Attributes:
        number: of the allocation, rising.
        num_bytes: 0 where it ends.
    """

    phase: Phase
    number: int
    num_bytes: int


class Output(NamedTuple):
    """What a layer hands on: its allocation, None where that is the batch itself, and its bytes."""

    number: int | None
    num_bytes: int


class TracedLayers(NamedTuple):
    """The layers of a pass.

    Attributes:
        names: of all layers.
        stands_for: for each of them, which of the traced ones it equals.
        outputs: of the traced ones.
        repeats: all were traced, so that equal ones among them may share what is kept.
    """

    names: tuple[str, ...]
    stands_for: tuple[int, ...]
    outputs: tuple[Output, ...]
    repeats: bool = False


@dataclass(frozen=True)
class TracedPass:
    """One forward and backward pass, as it was seen; layers are numbered as they were traced.

    Attributes:
        saved: allocation to the layer that kept it for its backward pass first.
        divided: kept allocations that tensor parallelism divides.
        copies: allocations that are casts of parameters.
        gradients: allocations that ended as a parameter's gradient.
        flops: multiplications and additions by pass.
    """

    samples: int
    input_bytes: int
    layers: TracedLayers
    events: tuple[Seen, ...]
    saved: Mapping[int, int]
    divided: frozenset[int]
    copies: frozenset[int]
    gradients: frozenset[int]
    flops: Mapping[Phase, float]


@dataclass(eq=False)
class AllocationRecorder(TorchDispatchMode):
    """Record every storage that operations make while it is active.

    Attributes:
        known: storages that were there before, which are not counted: parameters, buffers, the batch.
        parameters: storages of parameters; what is cast from them is a copy of weights.
        events: in order.
        saved: number of an allocation to the layer that kept it for its backward pass first.
        inside: numbers of kept allocations that tensor parallelism divides.
        copies: numbers of allocations that are casts of parameters.
        flops: by phase, multiplications and additions.
        loose: storages of parameters and buffers outside of all layers.
        users: those of them that were used, to the layer that did so first.
    """

    known: set[int]
    parameters: set[int]
    loose: set[int] = field(default_factory=set)
    users: dict[int, int] = field(default_factory=dict)
    phase: Phase = START
    divided: bool = False
    events: list[Seen] = field(default_factory=list)
    saved: dict[int, int] = field(default_factory=dict)
    inside: set[int] = field(default_factory=set)
    copies: set[int] = field(default_factory=set)
    flops: dict[Phase, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._numbers: dict[int, int] = {}
        self._watches: dict[int, weakref.ref[Any]] = {}
        self._count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and note what it made."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self._count_flops(func, args, kwargs, out)
        for storage in storages(tree_leaves(out)):
            self._see(storage)
        if func is aten._to_copy.default and storage_keys([args[0]]) & self.parameters:
            self.copies |= {self._numbers[key] for key in storage_keys([out]) if key in self._numbers}
        if self.loose:
            for key in storage_keys(tree_leaves((args, kwargs))) & self.loose:
                self.users.setdefault(key, self.phase.layer)
        return out

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Note what autograd keeps; the first half of a pair of saved-tensor hooks."""
        for key in storage_keys([tensor]):
            number = self._numbers.get(key)
            if number is not None and number not in self.saved:
                self.saved[number] = self.phase.layer
                if self.divided:
                    self.inside.add(number)
        return tensor

    def number_of(self, tensor: torch.Tensor) -> int | None:
        """Return the number of a tensor's allocation; None where it was there before, or has no memory of its own."""
        return self._numbers.get(storage_key(tensor)) if tensor.layout == torch.strided else None

    def entering(self, phase: Phase) -> Callable[[object], None]:
        """Return a hook that says which pass begins."""

        def enter(_: object) -> None:
            self.phase = phase

        return enter

    def run(
        self, inputs: Sequence[torch.Tensor], layers: TracedLayers, gradients: Iterable[torch.Tensor]
    ) -> TracedPass:
        """Return what was seen so far; what ends from now on is not part of it."""
        return TracedPass(
            samples=len(inputs[0]),
            input_bytes=sum(tensor.numel() * tensor.element_size() for tensor in inputs),
            layers=layers,
            events=tuple(self.events),
            saved=dict(self.saved),
            divided=frozenset(self.inside),
            copies=frozenset(self.copies),
            gradients=frozenset(self._numbers[key] for key in storage_keys(gradients) & set(self._numbers)),
            flops=dict(self.flops),
        )

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.known or key in self._numbers:
            return
        number = self._count
        self._count += 1
        self._numbers[key] = number
        self.events.append(Seen(self.phase, number, storage.nbytes()))
        self._watches[key] = weakref.ref(storage, lambda _: self._end(key))

    def _end(self, key: int) -> None:
        del self._watches[key]
        self.events.append(Seen(self.phase, self._numbers.pop(key), 0))

    def _count_flops(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        packet = func._overloadpacket
        if packet in flop_registry:
            flops = flop_registry[packet](*args, **kwargs, out_val=out)
        elif packet is _ATTENTION_ON_CPU:  # torch counts its siblings on CUDA only
            flops = sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
        elif packet is aten._grouped_mm:  # of experts, each over its own rows; torch does not count it
            flops = 2 * args[0].numel() * args[1].shape[-1]
        else:
            return
        self.flops[self.phase] = self.flops.get(self.phase, 0) + flops


def storage_key(tensor: torch.Tensor) -> int:
    """Return what tells a tensor's memory from any other that is alive."""
    key: int = tensor.untyped_storage()._cdata
    return key


def storage_keys(values: Iterable[object]) -> set[int]:
    """Return the keys of all tensors among these values."""
    return {storage._cdata for storage in storages(values)}


def storages(values: Iterable[object]) -> Iterator[torch.UntypedStorage]:
    """Yield the memory of all tensors among these values; a sparse one has that of its indices and its numbers."""
    for value in values:
        if not isinstance(value, torch.Tensor):
            continue
        if value.layout == torch.sparse_coo:
            yield from storages((value._indices(), value._values()))
        elif value.layout == torch.strided:
            yield value.untyped_storage()
