"""Zero-bubble schedules that know how long passes take: forward passes run ahead, weights fill the gaps.

The tables of `harness.api.schedules.zb_1p` and `zb_2p` are fixed, and lose time where weights take less than the other
passes. This planner plays the step through with given times and writes down what it did.
"""

from __future__ import annotations

import heapq
from typing import Literal, NamedTuple

from harness.api.strategy import Action, Schedule, Table

PassKind = Literal["forward", "backward_input", "backward_weight"]

LATER = (0.0, 0.5, 1.0)
"""Parts of a forward pass by which the last one of the warm-up may delay the first backward pass; the best is taken.

Source: Qi et al. 2023, section 3.1, decide it by a search over yes and no; a half in between: chosen, because messages
delay the first gradient by less than a whole pass.
"""

_ROUNDING = 1e-9
"""Part of a forward pass below which two moments are one: chosen, as sums of floats differ by less."""


class PassTimes(NamedTuple):
    """Seconds of one micro-batch in any stage, all alike; `hop_s` of a message to the next stage."""

    forward_s: float
    backward_input_s: float
    backward_weight_s: float
    hop_s: float = 0.0


def zero_bubble(times: PassTimes, keep: float, weight_share: float = 1.0) -> Schedule:
    """Return a schedule without bubbles as far as memory allows.

    A device runs forward passes until the first gradient is back, then forward and backward passes in turn. It computes
    gradients of weights where it would wait for as long, where waiting would make it the device that has waited
    longest, or where it may keep no further activations; the rest at the end.

    Source: Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 3.1.

    Args:
        keep: activations that a device may keep at once, in those of 1F1B's first stage: 1 for what the paper calls
            ZB-1p, 2 for ZB-2p.
        weight_share: share of a micro-batch's activations that only its weights' gradients still need, 0..1.

    Raises:
        ValueError: `keep` is below 1: the first stage would wait for itself.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}: a pipeline does not run with less than its first stage keeps under 1F1B, 1")

    def schedule(ranks: int, microbatches: int) -> Table:
        plans = [_Plan(times, ranks, microbatches, keep * ranks, weight_share, later) for later in LATER]
        return min(plans, key=_Plan.longest_s).table()

    return schedule


class _Device:
    """One device's progress.

    Attributes:
        done: micro-batches behind it, by kind of pass.
        arrived: when each micro-batch's input is there, as far as known.
        turn: what is next where a forward and a backward pass could both begin.
        wake_s: when it decides next; infinity where nothing that it could wait for is known.
        waits: it does not compute until then.
    """

    def __init__(self, rank: int, microbatches: int) -> None:
        self.rank = rank
        self.order: list[Action] = []
        self.done: dict[PassKind, int] = {"forward": 0, "backward_input": 0, "backward_weight": 0}
        self.arrived: dict[PassKind, list[float]] = {"forward": [], "backward_input": []}
        if rank == 0:
            self.arrived["forward"] = [0.0] * microbatches
        self.kept = self.idle_s = self.free_s = 0.0
        self.begun_s: float | None = None
        self.turn: PassKind = "backward_input"
        self.wake_s, self.waits = 0.0, False

    def input_s(self, kind: PassKind) -> float:
        """Return when the next micro-batch's input is there; infinity where that is unknown, or there is none."""
        arrived, number = self.arrived[kind], self.done[kind]
        return arrived[number] if number < len(arrived) else float("inf")


class _Plan:
    """A step played through in time."""

    def __init__(
        self, times: PassTimes, ranks: int, microbatches: int, most_kept: float, weight_share: float, later: float
    ) -> None:
        self.seconds: dict[PassKind, float] = {
            "forward": times.forward_s,
            "backward_input": times.backward_input_s,
            "backward_weight": times.backward_weight_s,
        }
        self.frees: dict[PassKind, float] = {
            "forward": -1.0,
            "backward_input": 1 - weight_share,
            "backward_weight": weight_share,
        }
        self.hop_s, self.most_kept, self.later = times.hop_s, most_kept, later
        self.close_s = _ROUNDING * (times.forward_s + times.backward_input_s + times.backward_weight_s)
        self.devices = [_Device(rank, microbatches) for rank in range(ranks)]
        self.wakes = [(0.0, rank) for rank in range(ranks)]
        while self.wakes:
            now, rank = heapq.heappop(self.wakes)
            # A device that was woken earlier has a later wake left over.
            if now == self.devices[rank].wake_s:
                self._act(self.devices[rank], now)

    def table(self) -> Table:
        """Return what each device did."""
        return [device.order for device in self.devices]

    def longest_s(self) -> float:
        """Return the longest time between a device's first action and its last."""
        return max(device.free_s - (device.begun_s or 0.0) for device in self.devices)

    def _act(self, device: _Device, now: float) -> None:
        """Begin a pass, or look again when an input is there."""
        forward_s, backward_s = self._forward_s(device, now), device.input_s("backward_input")
        soon = now + self.close_s
        if forward_s <= soon and backward_s <= soon:
            self._begin(device, device.turn, now)
        elif backward_s <= soon:
            self._begin(device, "backward_input", now)
        elif forward_s <= soon:
            self._begin(device, "forward", now)
        elif self._fills(device, now, min(forward_s, backward_s)):
            self._begin(device, "backward_weight", now)
        else:
            device.waits = True
            self._wake(device, min(forward_s, backward_s))

    def _forward_s(self, device: _Device, now: float) -> float:
        """Return when the next forward pass may begin; infinity where it may not as things are."""
        ready = device.input_s("forward")
        if device.kept + 1 > self.most_kept + _ROUNDING:
            return float("inf")
        warming_up = device.done["forward"] > 0 and device.done["backward_input"] == 0
        forward_s, ranks = self.seconds["forward"], len(self.devices)
        behind = ranks - 1 - device.rank
        first_s = ranks * forward_s + behind * self.seconds["backward_input"] + (ranks - 1 + behind) * self.hop_s
        late = max(ready, now) + forward_s > first_s + self.later * forward_s + self.close_s
        return float("inf") if warming_up and late else ready

    def _fills(self, device: _Device, now: float, until: float) -> bool:
        """Say whether gradients of weights shall fill the time until something else can run."""
        if device.done["backward_weight"] == device.done["backward_input"]:
            return False
        most_idle_s = max(other.idle_s for other in self.devices)
        fits = until >= now + self.seconds["backward_weight"] - self.close_s
        return fits or device.idle_s + until - device.free_s > most_idle_s

    def _begin(self, device: _Device, kind: PassKind, now: float) -> None:
        end = now + self.seconds[kind]
        if device.begun_s is None:
            device.begun_s = now
        else:
            device.idle_s += now - device.free_s
        device.free_s = end
        device.order.append(Action(kind, device.rank, device.done[kind]))
        device.done[kind] += 1
        device.kept -= self.frees[kind]
        device.waits = False
        self._wake(device, end)
        if kind != "backward_weight":
            device.turn = "backward_input" if kind == "forward" else "forward"
        last = len(self.devices) - 1
        if kind == "forward" and device.rank == last:
            device.arrived["backward_input"].append(end)
        elif kind == "forward":
            self._deliver(device.rank + 1, kind, end, now)
        elif kind == "backward_input" and device.rank > 0:
            self._deliver(device.rank - 1, kind, end, now)

    def _deliver(self, rank: int, kind: PassKind, end: float, now: float) -> None:
        receiver = self.devices[rank]
        receiver.arrived[kind].append(end + self.hop_s)
        if receiver.waits:
            self._wake(receiver, now)

    def _wake(self, device: _Device, at_s: float) -> None:
        device.wake_s = at_s
        if at_s < float("inf"):
            heapq.heappush(self.wakes, (at_s, device.rank))
