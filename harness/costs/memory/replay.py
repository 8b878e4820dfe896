"""Play a step's allocations on an allocator: what is reserved at most, and how much of it is really used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.api.strategy import Action
from harness.costs.memory.allocator import Allocator, MemoryBlock
from harness.costs.profiles.allocations import Event, Timeline
from harness.costs.profiles.shape import ModelShape

_STEPS = 2
"""Steps played: the second one finds what the first has left reserved, and the optimizer's state; a third adds
nothing (all bundled models, one device)."""


@dataclass(frozen=True)
class DevicePart:
    """What one device does of a step.

    Attributes:
        layers: numbers of the layers of each stage that it holds, by the stage's number.
        actions: passes in order, of these stages.
        samples: of one micro-batch.
        fixed: tensors that are always there, in bytes: parameters, buffers, data.
        states: tensors of the optimizer, made in the first step.
        temporary_bytes: of the optimizer while it steps.
        gradients_stay: gradients keep their memory from step to step, as buckets do.
        recompute: layers keep their inputs only.
        tensor: devices over which a layer is cut.
        gradient_share: bytes of a gradient that is kept over those of one as it was traced.
    """

    layers: Mapping[int, range]
    actions: Sequence[Action]
    samples: int
    fixed: Sequence[float]
    states: Sequence[float]
    temporary_bytes: float = 0.0
    gradients_stay: bool = True
    recompute: bool = False
    tensor: int = 1
    gradient_share: float = 1.0


def replay(shape: ModelShape, timeline: Timeline, part: DevicePart, allocator: Allocator) -> None:
    """Play some steps; the allocator knows afterwards.

    Raises:
        OutOfMemory: the allocator has an end, and it was reached.
    """
    for size in part.fixed:
        allocator.allocate(size)
    player = _Player(shape, timeline, part, allocator)
    for step in range(_STEPS):
        for action in part.actions:
            player.play(action)
        if step == 0:
            for size in part.states:
                allocator.allocate(size)
        if part.temporary_bytes:
            allocator.free(allocator.allocate(part.temporary_bytes))
        player.end_step()


@dataclass
class _Player:
    """Blocks by what they hold: (micro-batch, layer, slot).

    Attributes:
        kept: inputs of layers that are computed again, by (micro-batch, layer that made them).
        gradients: by (layer, slot).
    """

    shape: ModelShape
    timeline: Timeline
    part: DevicePart
    allocator: Allocator
    live: dict[tuple[int, int, int], MemoryBlock] = field(default_factory=dict)
    kept: dict[tuple[int, int], MemoryBlock] = field(default_factory=dict)
    gradients: dict[tuple[int, int], MemoryBlock] = field(default_factory=dict)
    copies: dict[tuple[int, int], MemoryBlock] = field(default_factory=dict)

    def play(self, action: Action) -> None:
        """Play one action of the table."""
        layers = self.part.layers[action.stage]
        micro = action.microbatch
        if action.kind == "forward":
            self._receive(micro, layers[0])
            for layer in layers:
                self._forward(micro, layer)
        elif action.kind != "backward_input":  # what a split backward pass needs stays until its second half
            for layer in reversed(layers):
                self._backward(micro, layer)
            self._forget(micro, layers)

    def end_step(self) -> None:
        """Let go of what lasts for a step."""
        self._free_all(self.copies)
        if not self.part.gradients_stay:
            self._free_all(self.gradients)

    def _receive(self, micro: int, first: int) -> None:
        """Take in a stage's input: the batch, or what the stage before has sent."""
        inputs = self.shape.input_bytes if first == 0 else self.shape.layers[first - 1].output_bytes
        self.kept[micro, first - 1] = self.allocator.allocate(inputs.at(self.part.samples))

    def _forward(self, micro: int, layer: int) -> None:
        passes = self.timeline.of(layer)
        self._play(micro, layer, passes.forward, recomputed=self.part.recompute)
        if self.part.recompute:
            self._keep_output(micro, layer)

    def _backward(self, micro: int, layer: int) -> None:
        passes = self.timeline.of(layer)
        if self.part.recompute:
            self._play(micro, layer, passes.forward, recomputed=True)
        self._play(micro, layer, passes.backward)
        if self.part.recompute:
            if passes.output is not None and passes.output[0] == 0:
                self._free((micro, layer, passes.output[1]))
            self._free_kept((micro, layer))

    def _play(self, micro: int, layer: int, events: Iterable[Event], recomputed: bool = False) -> None:
        for event in events:
            if event.kind == "free":
                if not (recomputed and event.owner):  # inputs are kept
                    self._free((micro, layer + event.owner, event.slot))
            elif event.kind == "gradient":
                self._gradient((layer, event.slot), self.part.gradient_share * self._bytes(layer, event))
            elif event.kind == "copy":
                if (layer, event.slot) not in self.copies:
                    self.copies[layer, event.slot] = self.allocator.allocate(self._bytes(layer, event))
            else:
                self.live[micro, layer, event.slot] = self.allocator.allocate(self._bytes(layer, event))

    def _bytes(self, layer: int, event: Event) -> float:
        shape, tensor = self.shape.layers[layer], self.part.tensor
        share = shape.activation_split if event.kind == "tensor" else shape.split
        return (event.fixed + self.part.samples * event.per_sample) * (1 - share * (1 - 1 / tensor))

    def _gradient(self, key: tuple[int, int], num_bytes: float) -> None:
        block = self.allocator.allocate(num_bytes)
        if key in self.gradients:
            self.allocator.free(block)  # added to the one that is there
        else:
            self.gradients[key] = block

    def _keep_output(self, micro: int, layer: int) -> None:
        """Drop all that the forward pass has left but what it hands on."""
        output = self.timeline.of(layer).output
        for key in [key for key in self.live if key[:2] == (micro, layer)]:
            if output == (0, key[2]):
                self.kept[micro, layer] = self.live.pop(key)
            else:
                self._free(key)

    def _forget(self, micro: int, layers: range) -> None:
        """Drop what a micro-batch has left in a stage."""
        for key in [key for key in self.live if key[0] == micro and key[1] in layers]:
            self._free(key)
        for layer in range(layers[0] - 1, layers[-1] + 1):
            self._free_kept((micro, layer))

    def _free(self, key: tuple[int, int, int]) -> None:
        block = self.live.pop(key, None)
        if block is not None:
            self.allocator.free(block)

    def _free_kept(self, key: tuple[int, int]) -> None:
        block = self.kept.pop(key, None)
        if block is not None:
            self.allocator.free(block)

    def _free_all(self, blocks: dict[tuple[int, int], MemoryBlock]) -> None:
        for block in blocks.values():
            self.allocator.free(block)
        blocks.clear()
