"""Nights with a known truth, drawn many times and given to the product's own gate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from simulated_sweeps import Line

from harness.analysis import gate
from harness.analysis.compare_statuses import FALSE_ALARMS
from harness.analysis.interleaved import ratios_of_pairs
from harness.analysis.nights import middle_log

LEAST = math.log(1.05)
FRESH = gate.FRESH_RUNS


@dataclass(frozen=True)
class Machine:
    """What nights are drawn from, in standard deviations of logarithms.

    Attributes:
        run: of a run; own: of what a night adds to a point, and to the reference; drift: of what all share in a night.
        nights: of history; runs: of a point in a night; reference: of the reference.
    """

    run: float = 0.02
    own: float = 0.01
    drift: float = 0.03
    points: int = 8
    nights: int = 20
    runs: int = 1
    reference: int = 10


def alarm(machine: Machine, slower: np.ndarray, again: bool, random: np.random.Generator) -> bool:
    """Draw nights of which the last is slower, and say whether the gate raises an alarm.

    Args:
        slower: of each point, as a logarithm.
        again: whether suspects run again.
    """
    last, shape = machine.nights, (machine.nights + 1, machine.points)
    moved = random.normal(0, machine.drift, last + 1)
    truth = moved[:, None] + random.normal(0, machine.own, shape)
    truth[-1] += slower
    beside = moved + random.normal(0, machine.own, last + 1)
    runs = truth[..., None] + random.normal(0, machine.run, (*shape, machine.runs))
    reference = beside[:, None] + random.normal(0, machine.run, (last + 1, machine.reference))
    logs = _middle(runs) - _middle(reference)[:, None]
    counts = gate.Runs(np.full(machine.points, float(machine.runs)), machine.reference)
    if last == 1:
        scatter = gate.Scatter.of([*runs.reshape(-1, machine.runs)], [*reference])
        usual = gate.usual_of_one_night(logs[0], counts, counts, scatter)
    else:
        usual = gate.usual_of_history(logs[:-1])
    points, together = gate.judge_night(usual, logs[-1], LEAST)
    # Of one night with one run each the mean over all points is a suspect only.
    as_one = last > 1 or machine.runs > 1
    if not again:
        return bool(points.alarms.any() or (as_one and together.alarms.any()))
    anew = truth[-1][:, None] + random.normal(0, machine.run, (machine.points, FRESH))
    reference_anew = beside[-1] + random.normal(0, machine.run, FRESH)
    fresh = np.full(machine.points, np.nan)
    fresh[points.suspects] = _middle(anew)[points.suspects] - middle_log(np.exp(reference_anew))
    scatter = gate.Scatter.of([*runs[-1], *anew[points.suspects]], [reference[-1], reference_anew])
    fresh_counts = gate.Runs(np.full(machine.points, float(FRESH)), FRESH)
    points, together = gate.decide(usual, logs[-1], counts, fresh, fresh_counts, scatter, LEAST)
    return bool(points.alarms.any() or (as_one and together.alarms.any()))


def in_turns(slower: float, draws: int, bursts: float = 0.0, points: int = 8, pairs: int = 5) -> float:
    """Return in how many of 100 comparisons of runs that took turns one point or more is called slower."""
    random, found = np.random.default_rng(12), 0
    for _ in range(draws):
        runs = random.normal(0, Machine.run, (2, points, pairs))
        runs += (random.random(runs.shape) < bursts) * math.log(1.4)
        runs[1, 0] += math.log1p(slower)
        logs = {str(point): (runs[1, point] - runs[0, point]).tolist() for point in range(points)}
        ratios = ratios_of_pairs(logs).values()
        found += any(r.value > math.exp(LEAST) and r.interval(1 - FALSE_ALARMS / points).low > 1 for r in ratios)
    return 100 * found / draws


def _middle(logs: np.ndarray) -> np.ndarray:
    """Read runs as the product reads them, along the last axis."""
    return np.apply_along_axis(lambda runs: middle_log(np.exp(runs)), -1, logs)


def alarms(machine: Machine, one: float, all_points: float, again: bool, draws: int) -> float:
    """Return in how many of 100 nights the gate raises an alarm."""
    random, slower = np.random.default_rng(11), np.full(machine.points, math.log1p(all_points))
    slower[0] += math.log1p(one)
    return 100 * sum(alarm(machine, slower, again, random) for _ in range(draws)) / draws


def gate_lines(draws: int) -> Iterator[Line]:
    """Yield in how many nights the gate raises an alarm, with a history and without."""
    worlds = [(Machine(), False), (Machine(), True), (Machine(runs=5), False), (Machine(runs=5), True)]
    for machine, again in worlds:
        words = f"{'1 run' if machine.runs == 1 else '5 runs'} a night{', suspects again' if again else ''}"
        yield Line(f"20 nights, {words}: alarms without a change", alarms(machine, 0, 0, again, draws), most=3)
        enough = {(1, True): 80, (5, False): 95}.get((machine.runs, again), 0)
        of_all = 65 if enough else 0
        text = f"20 nights, {words}: one point 10 % slower is found"
        yield Line(text, alarms(machine, 0.1, 0, again, draws), least=enough)
        text = f"20 nights, {words}: all points 5 % slower are found"
        yield Line(text, alarms(machine, 0, 0.05, again, draws), least=of_all)
    for bursts, words in ((0.0, ""), (0.1, ", a tenth of runs 40 % too long")):
        yield Line(
            f"in turns, 5 pairs{words}: alarms without a change", in_turns(0, draws, bursts), most=100 if bursts else 5
        )
        yield Line(f"in turns, 5 pairs{words}: one point 10 % slower is found", in_turns(0.1, draws, bursts))
    others = [("8 nights", Machine(nights=8)), ("two nights", Machine(nights=1)), ("noisy", Machine(run=0.05))]
    others += [("30 points", Machine(points=30)), ("1 point", Machine(points=1)), ("no drift", Machine(drift=0))]
    others += [("own 2 %", Machine(own=0.02)), ("two nights, own 2 %", Machine(nights=1, own=0.02))]
    for name, machine in others:
        for one, words in ((0, "alarms without a change"), (0.2, "one point 20 % slower is found")):
            yield Line(f"{name}, 1 run a night, suspects again: {words}", alarms(machine, one, 0, True, draws))
    for one, every, words in ((0.1, 0, "one point 10 % slower is found"), (0, 0.05, "all points 5 % slower are found")):
        text = f"two nights, 1 run a night, suspects again: {words}"
        yield Line(text, alarms(Machine(nights=1), one, every, True, draws))
