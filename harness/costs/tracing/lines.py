"""From two traced passes to a model's shape: every quantity is a line through the two numbers of samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.costs.profiles.allocations import Event, EventKind, Passes, Timeline
from harness.costs.profiles.shape import LayerShape, Linear, ModelShape
from harness.costs.tracing.watch import Phase, TracedPass


@dataclass(frozen=True)
class Held:
    """What a layer holds whatever its input; fields as of `LayerShape`."""

    tensors: tuple[int, ...]
    rows: tuple[int, ...]
    buffers_bytes: int
    split: float
    shared: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Sums:
    """One pass's quantities of one layer, in bytes and operations."""

    activations: int
    divided: int
    copies: int
    output: int
    workspace: int
    flops: float


def model_shape(held: Sequence[Held], runs: Sequence[TracedPass], element_bytes: int, origin: str) -> ModelShape:
    """Return the shape of a model from what its layers hold and from two passes with different numbers of samples."""
    layers = runs[0].layers
    sums = [[_sums(run, traced) for traced in range(len(layers.outputs))] for run in runs]
    pairs = list(zip(*sums, strict=True))
    samples = [run.samples for run in runs]
    named = zip(layers.names, held, layers.stands_for, strict=True)
    return ModelShape(
        layers=tuple(_layer_shape(name, what, pairs[traced], samples) for name, what, traced in named),
        input_bytes=_line([run.input_bytes for run in runs], samples),
        element_bytes=element_bytes,
        origin=origin,
        timeline=_timeline(runs),
    )


def _layer_shape(name: str, held: Held, sums: Sequence[_Sums], samples: Sequence[int]) -> LayerShape:
    kept = sums[-1].activations
    return LayerShape(
        name=name,
        tensors=held.tensors,
        rows=held.rows,
        buffers_bytes=held.buffers_bytes,
        split=held.split,
        shared=held.shared,
        activation_bytes=_line([s.activations for s in sums], samples),
        activation_split=sums[-1].divided / kept if kept else 0.0,
        copies_bytes=sums[-1].copies,
        output_bytes=_line([s.output for s in sums], samples),
        workspace_bytes=_line([s.workspace for s in sums], samples),
        forward_flops=_line([s.flops for s in sums], samples),
    )


def _line(values: Sequence[float], samples: Sequence[int]) -> Linear:
    """Return the line through two points, or the steepest one from zero where the line would start below it."""
    slope = (values[1] - values[0]) / (samples[1] - samples[0])
    fixed = values[0] - slope * samples[0]
    return Linear(fixed, slope) if fixed >= 0 else Linear(0.0, max(v / n for v, n in zip(values, samples, strict=True)))


def _sums(run: TracedPass, layer: int) -> _Sums:
    sizes = {event.number: event.num_bytes for event in run.events if event.num_bytes}
    kept = [number for number, keeper in run.saved.items() if keeper == layer]
    activations = [number for number in kept if number not in run.copies]
    return _Sums(
        activations=sum(sizes.get(number, 0) for number in activations),
        divided=sum(sizes.get(number, 0) for number in activations if number in run.divided),
        copies=sum(sizes.get(number, 0) for number in kept if number in run.copies),
        output=run.layers.outputs[layer].num_bytes,
        workspace=_workspace(run, layer, sizes),
        flops=run.flops.get(Phase(layer, False), 0.0),
    )


def _workspace(run: TracedPass, layer: int, sizes: dict[int, int]) -> int:
    """Return how far a pass of the layer rises above what is kept when it is over (forward) or begins (backward)."""
    level = {False: [0], True: [0]}
    for event in run.events:
        if event.phase.layer != layer or event.number in run.gradients:
            continue
        change = event.num_bytes or -sizes.get(event.number, 0)
        level[event.phase.backward].append(level[event.phase.backward][-1] + change)
    return max(max(level[False]) - level[False][-1], max(level[True]))


def _timeline(runs: Sequence[TracedPass]) -> Timeline:
    """Return the events of all layers with sizes as lines; of the larger pass alone where the two differ in kind."""
    alike = [(e.phase, e.number, e.num_bytes > 0) for e in runs[0].events] == [
        (e.phase, e.number, e.num_bytes > 0) for e in runs[1].events
    ]
    large = runs[1]
    small = {e.number: e.num_bytes for e in runs[0].events if e.num_bytes} if alike else {}
    lines = {
        e.number: _line([small.get(e.number, 0), e.num_bytes], [runs[0].samples if alike else 0, large.samples])
        for e in large.events
        if e.num_bytes
    }
    slots = _slots(large)
    passes = tuple(
        Passes(
            tuple(_events(large, Phase(layer, False), lines, slots)),
            tuple(_events(large, Phase(layer, True), lines, slots)),
            _relative(slots, output.number, layer),
        )
        for layer, output in enumerate(large.layers.outputs)
    )
    if not large.layers.repeats:
        return Timeline(passes, large.layers.stands_for)
    places = {each: place for place, each in enumerate(dict.fromkeys(passes))}
    return Timeline(tuple(places), tuple(places[each] for each in passes))


def _slots(run: TracedPass) -> dict[int, tuple[int, int]]:
    """Return for each allocation the layer that made it, and which of that layer's it is."""
    counts: Counter[int] = Counter()
    slots = {}
    for event in run.events:
        if event.num_bytes:
            slots[event.number] = (event.phase.layer, counts[event.phase.layer])
            counts[event.phase.layer] += 1
    return slots


def _relative(slots: dict[int, tuple[int, int]], number: int | None, layer: int) -> tuple[int, int] | None:
    if number is None or number not in slots:
        return None
    owner, slot = slots[number]
    return owner - layer, slot


def _events(
    run: TracedPass, phase: Phase, lines: dict[int, Linear], slots: dict[int, tuple[int, int]]
) -> Iterator[Event]:
    for event in run.events:
        where = _relative(slots, event.number, phase.layer)
        if event.phase != phase or where is None:
            continue
        kind: EventKind = "free"
        if event.num_bytes:
            kind = "gradient" if event.number in run.gradients else "copy" if event.number in run.copies else "tensor"
        yield Event(kind, *where, *(lines[event.number] if event.num_bytes else ()))
