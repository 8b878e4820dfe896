"""The one real model behind a virtual cluster: computes gradients and updates for every endpoint's immutable state."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from harness.api.strategy import Codec, Table, Value
from harness.core.addresses import Address
from harness.core.not_known import NotKnown
from harness.core.outcome import CountedDram
from harness.core.streams import stream_seed
from harness.costs.memory import Placement
from harness.engines.shared.buckets import BucketForm, bucket_forms, noting_ready
from harness.engines.shared.dram_count import count_dram
from harness.engines.shared.encoded import EncodedFlat, encode, encoded_mean
from harness.engines.shared.endpoint import Course
from harness.engines.shared.flat import Flat, force
from harness.engines.shared.layer_timing import describe_stages
from harness.engines.shared.optimizers import group_state, set_group_state
from harness.engines.shared.padding import fills_up
from harness.engines.shared.pieces import Piece, make_pieces
from harness.engines.shared.plain_state import PlainState
from harness.engines.shared.replica import Replica, mergeable, seed_step
from harness.engines.shared.sample_order import Indices, cut
from harness.engines.shared.setup import Setup
from harness.engines.virtual.lazy import Average, Gradient
from harness.engines.virtual.replica_draws import DrawsOfReplicas
from harness.workloads.user_files import is_user_function

State = dict[int, dict[str, Any]]
"""An optimizer's state by parameter number: immutable here, copied in before every step."""

_GROUPS = -1
"""Stands in a state for the number of a parameter: what the optimizer's groups hold."""

Reducer = Callable[[BucketForm, Sequence[Value]], object]
"""Runs a layout's `reduce` for one bucket: its form, and the gradient of each replica."""


class Parts(NamedTuple):
    """What the replicas of a worker computed.

    Attributes:
        gradients: of each replica, by parameter.
    """

    gradients: list[list[torch.Tensor]]
    buffers: torch.Tensor | None
    loss: torch.Tensor


REMEMBERED_STEPS = 64
"""Updates kept for endpoints that take the same step from the same state; more workers than this recompute."""


class Executor:
    """Computes on one replica what the whole virtual cluster would.

    Args:
        merge: compute gradients at the same weights together where no layer looks across samples; results then agree
            to rounding, without it bit for bit with the real engine.
        shared_steps: whether several endpoints may take the same step (then steps are remembered).
    """

    def __init__(self, setup: Setup, merge: bool = True, shared_steps: bool = False) -> None:
        self.setup = setup
        self.replica: Replica = setup.replica()
        self.merges = merge and mergeable(self.replica) and not self.replica.data.train.draws
        self._fills_up = setup.layout.pipeline > 1 and fills_up(setup, self.replica.module)
        self._forms: list[BucketForm] = []
        self._keeps = self.replica.trial is not None and bool(self.replica.trial.keeps)
        self._first_state = self.replica.plain_state() if self._keeps else {}
        self._kept: dict[tuple[int, int], PlainState] = {}
        self._own_optimizer = is_user_function(setup.cell.workload.optimizer.name)
        self.shared_steps = shared_steps
        self.loaded: Flat | None = None
        self._steps: OrderedDict[tuple[int, ...], tuple[Any, ...]] = OrderedDict()

    def course(self, rank: Address) -> Course:
        """Return a worker's way through its batches."""
        return Course(self.setup, rank)

    def initial_weights(self) -> Flat:
        """Return version 0."""
        self.loaded = self.replica.snapshot()
        return self.loaded

    def at(self, weights: Flat) -> None:
        """Make the replica hold these weights."""
        if self.loaded is None or self.loaded.pieces is not weights.pieces:
            self.replica.load(weights)
            self.loaded = weights
        elif weights.buffers is not None:
            self.replica.set_buffers(weights.buffers)

    # -- values ------------------------------------------------------------------------------------------------

    def adopt(self, weights: Value, num_samples: int) -> Flat:
        """Return the weights as an endpoint that loads them holds them."""
        flat = force(weights)
        return Flat(flat.pieces, flat.buffers, version=flat.version, num_samples=num_samples)

    def gradient_of(self, weights: Flat, indices: Indices, weight: float, origin: tuple[int, int]) -> Gradient:
        """Return the handle of a gradient that is computed when somebody needs it."""
        compute = partial(self.gradient, weights, indices, weight, origin)
        return Gradient(compute, weights, indices, weight, origin, self.merged_gradient if self.merges else None)

    def average(self, values: Sequence[Value], shares: Sequence[float] | None = None) -> Value:
        """Return the mean, weighted by `shares` where they are given; of encoded values it is encoded."""
        encoded = [value for value in values if isinstance(value, EncodedFlat)]
        if not encoded:
            return Average(values, shares)
        return encoded_mean(encoded, [float(value.num_samples) for value in encoded] if shares else None)

    def encode(self, value: Value, codec: Codec) -> EncodedFlat:
        """Compute a value, and encode it."""
        return encode(value, self.replica.named(force(value)), codec)

    def layers(self, value: Value) -> dict[str, torch.Tensor]:
        """Return a value's parameters by name, for a program to read."""
        return self.replica.named(force(value))

    # -- gradients -----------------------------------------------------------------------------------------------

    def gradient(self, weights: Flat, indices: Indices, weight: float, origin: tuple[int, int]) -> Flat:
        """Compute one worker's gradient as its layout would: replica by replica, micro-batch by micro-batch."""
        if self.merges:
            return self.merged_gradient(weights, indices, weight)
        if self.setup.shares_statistics:
            return self._gradient_of_all(weights, indices, weight, origin)
        parts = self._parts_of(weights, indices, weight, origin)
        return Flat(_mean(parts.gradients), parts.buffers, loss=parts.loss)

    def _parts_of(self, weights: Flat, indices: Indices, weight: float, origin: tuple[int, int]) -> Parts:
        """Compute what each replica's samples give."""
        replicas = self.setup.layout.data
        parts, losses, buffers = [], [], None
        self.setup.begin_step(*origin)
        for number, pieces in enumerate(self._pieces(indices, weight * replicas)):
            self.at(weights)
            seed_step(self.replica.generators, self.setup.cell.seed, *origin, number)
            with self._as_left_by(origin[0], number):
                gradients, loss = self.replica.gradient(pieces)
            parts.append(gradients)
            losses.append(loss)
            found = self.replica.buffer_vector()
            if number == 0:
                buffers = found
            elif self.replica.optional and buffers is not None and found is not None:
                tail = len(self.replica.parameters)  # a parameter has a gradient where any replica has one
                buffers[-tail:] = torch.maximum(buffers[-tail:], found[-tail:])
        return Parts(parts, buffers, torch.stack(losses).mean())

    def reduced(
        self, weights: Flat, indices: Indices, weight: float, origin: tuple[int, int], reduce: Reducer
    ) -> Gradient:
        """Return the gradient that a layout's own `reduce` makes of its replicas'.

        Args:
            weights: that it is computed at.
            indices: of the worker's samples.
            weight: of each sample.
            origin: worker and step.
            reduce: runs the programs of a bucket, given its form and each replica's part; returns what all take.
        """
        if self._forms:
            parts = self._parts_of(weights, indices, weight, origin)
        else:
            with noting_ready(self.replica) as ready:
                parts = self._parts_of(weights, indices, weight, origin)
            self._forms = bucket_forms(self.setup, self.replica, ready)
        held = [dict(enumerate(gradients)) for gradients in parts.gradients]
        found: dict[int, torch.Tensor] = {}
        for form in self._forms:
            found |= form.parts(reduce(form, [form.gradient(each) for each in held]))
        gradients = [found[place] for place in range(len(found))]
        made = Gradient(lambda: Flat(gradients, parts.buffers, loss=parts.loss), weights, indices, weight, origin)
        made.force()
        return made

    def _gradient_of_all(self, weights: Flat, indices: Indices, weight: float, origin: tuple[int, int]) -> Flat:
        """Compute the gradient of replicas that share statistics: what passes in them at once passes together."""
        self.at(weights)
        self.setup.begin_step(*origin)
        parts = cut(indices, self.setup.layout.data)
        pieces = -(-len(parts[0]) // self.setup.cell.micro_batch_size) if len(indices) else 1
        together = list(zip(*(cut(part, pieces) for part in parts), strict=True))
        losses = []
        with self._drawing(origin) as draws:
            for same in together:
                samples = np.concatenate(same)
                (piece,) = make_pieces(samples, weight, max(1, len(samples)), False)
                draws.rows = [len(part) for part in same] if len(samples) else [1]
                losses.append(self.replica.backward(*self.replica.gather(piece)))
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        return Flat(self.replica.take_gradients(), self.replica.buffer_vector(), loss=loss)

    @contextmanager
    def _drawing(self, origin: tuple[int, int]) -> Iterator[DrawsOfReplicas]:
        """Let samples that pass together draw from the streams of the replicas that they belong to."""
        seed = self.setup.cell.seed
        draws = DrawsOfReplicas([stream_seed(seed, "dropout", *origin, k) for k in range(self.setup.layout.data)])
        with draws if self.replica.draws else nullcontext():
            yield draws

    def merged_gradient(self, weights: Flat, indices: Indices, weight: Any) -> Flat:
        """Compute the gradient over all samples in one pass; `weight` is a number or one for each sample."""
        self.at(weights)
        if len(indices) == 0:
            return Flat([torch.zeros_like(weights.vector())], weights.buffers, loss=torch.zeros(()))
        gradients, loss = self.replica.gradient([Piece(indices, weight)])
        return Flat(gradients, weights.buffers, loss=loss)

    def _pieces(self, indices: Indices, weight: float) -> list[list[Piece]]:
        layout, size = self.setup.layout, self.setup.cell.micro_batch_size
        parts = cut(indices, layout.data)
        return [make_pieces(part, weight, size, self._fills_up) for part in parts]

    @contextmanager
    def _as_left_by(self, worker: int, replica: int) -> Iterator[None]:
        """Let the model find what the same worker's last step left in it besides parameters and buffers."""
        if not self._keeps:
            yield
            return
        self.replica.set_plain_state(self._kept.get((worker, replica), self._first_state))
        yield
        self._kept[worker, replica] = self.replica.plain_state()

    # -- updates -------------------------------------------------------------------------------------------------

    def step(self, weights: Flat, gradient: Value, state: State, rate: float) -> tuple[Flat, State]:
        """Return the weights and the optimizer's state after one step; the same step is taken once."""
        gradient = force(gradient)
        key = (id(weights.pieces), weights.num_samples, id(gradient), id(state), hash(rate))
        if self.shared_steps and key in self._steps:
            return self._steps[key][0], self._steps[key][1]
        self.at(weights)
        self._install(state)
        self.replica.step(gradient, rate)
        after = self.replica.snapshot(weights.version + 1, weights.num_samples + gradient.num_samples)
        self.loaded = after
        new_state = self._take_state()
        if self.shared_steps:
            # The inputs are kept too: an id is only a name for as long as its object lives.
            self._steps[key] = (after, new_state, weights, gradient, state)
            while len(self._steps) > REMEMBERED_STEPS:
                self._steps.popitem(last=False)
        return after, new_state

    def _install(self, state: State) -> None:
        optimizer, parameters = self.replica.optimizer, self.replica.parameters
        assert optimizer is not None
        optimizer.state.clear()
        set_group_state(optimizer, state.get(_GROUPS, {}).values())
        for number, entries in state.items():
            if number == _GROUPS:
                continue
            copied = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in entries.items()}
            optimizer.state[parameters[number]] = copied

    def _take_state(self) -> State:
        assert self.replica.optimizer is not None
        state = self.replica.optimizer.state
        taken = {n: dict(state[p]) for n, p in enumerate(self.replica.parameters) if p in state}
        return taken | self._group_state()

    def _group_state(self) -> State:
        """Return what a user's optimizer holds by group; torch's own hold nothing there that steps change."""
        if not self._own_optimizer:
            return {}
        assert self.replica.optimizer is not None
        return {_GROUPS: {str(n): group for n, group in enumerate(group_state(self.replica.optimizer))}}

    # -- what the engine reports -----------------------------------------------------------------------------------

    def mean_model(self, states: Sequence[Flat], ensemble: bool = False) -> Flat:
        """Return the plain mean of all workers' weights; where they are an ensemble, with them as its members."""
        mean = Average(states).force()
        mean.members = tuple(states) if ensemble else ()
        return mean

    def vector(self, weights: Flat) -> torch.Tensor:
        """Return the parameters as one flat tensor."""
        return weights.vector()

    def notes(self, placement: Placement | None) -> list[str]:
        """Return what the record should say about the model's cut."""
        return [] if placement is None else [describe_stages(self.replica.module, placement)]

    def dram(self, placement: Placement | None, table: Table) -> CountedDram | NotKnown:
        """Count the tensors on the device that holds most."""
        return count_dram(self.setup, placement)

    # -- evaluation ----------------------------------------------------------------------------------------------

    def evaluate(self, weights: Flat, split: str) -> tuple[float, float]:
        """Return (loss, metric) of these weights."""
        self.at(weights)
        self.replica.members = weights.members
        return self.replica.evaluate(split)


def _mean(parts: Sequence[list[torch.Tensor]]) -> list[torch.Tensor]:
    if len(parts) == 1:
        return parts[0]
    return [_sum(tensors) / len(parts) for tensors in zip(*parts, strict=True)]


def _sum(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
