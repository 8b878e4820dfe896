"""Rows with a known truth, drawn many times and given to the product's own answer; `statistics.py` beside it runs them.

Nothing here knows how the answer is found: generated rows have the columns that a record has, and what is counted is
what `harness.analysis.answer` says of them.
"""

from __future__ import annotations

import argparse
import itertools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.answer import Answer, answer
from harness.analysis.confidence import interval
from harness.analysis.contrast import Verdict

Row = dict[str, Any]
"""One cell, columns as in cells.csv."""

SAMPLES, PACE_S = 6400.0, 1e-3
"""Of the typical run: samples to the target, seconds of a sample."""


@dataclass(frozen=True)
class Strategy:
    """A generated strategy.

    Attributes:
        pace: seconds of a sample, as a multiple; samples: to the target, as a multiple by setting.
        same: whether it trains what single trains.
    """

    name: str
    gpus: int = 2
    pace: float = 1.0
    samples: tuple[float, ...] = (1.0,)
    same: bool = False


@dataclass(frozen=True)
class World:
    """What rows are drawn from, in standard deviations of logarithms.

    Attributes:
        timing: of the time of a sample from run to run; rounds: of what all runs of a round share.
        spread: of the samples to the target over seeds; correlation: of what strategies share of it.
        flips: share of runs whose reading of the target is off by some evaluations.
        bursts: share of runs that take 40 % longer.
    """

    strategies: tuple[Strategy, ...]
    seeds: int = 5
    timing: float = 0.0
    rounds: float = 0.0
    spread: float = 0.14
    correlation: float = 0.5
    flips: float = 0.0
    bursts: float = 0.0


def draw(world: World, random: np.random.Generator) -> list[Row]:
    """Return one sweep: every strategy with every setting and seed."""
    rates = max(len(s.samples) for s in world.strategies)
    seed_effect = random.normal(0, world.spread * math.sqrt(world.correlation), world.seeds)
    shared = random.normal(0, world.spread * math.sqrt(1 - world.correlation), (rates, world.seeds)) + seed_effect
    round_effect = random.normal(0, world.rounds, (rates, world.seeds))
    rows = []
    for strategy in world.strategies:
        for rate, multiple in enumerate(strategy.samples):
            own = random.normal(0, world.spread * math.sqrt(1 - world.correlation), world.seeds) + seed_effect
            flipped = (random.random(world.seeds) < world.flips) * random.normal(0, 0.2, world.seeds)
            samples = SAMPLES * multiple * np.exp((shared[rate] if strategy.same else own) + flipped)
            burst = 1 + 0.4 * (random.random(world.seeds) < world.bursts)
            noise = random.normal(0, world.timing, world.seeds) + round_effect[rate]
            pace = PACE_S * strategy.pace * np.exp(noise) * burst
            rows += [_row(strategy, rate, s, float(samples[s]), float(pace[s])) for s in range(world.seeds)]
    return rows


def _row(strategy: Strategy, rate: int, seed: int, samples: float, pace_s: float) -> Row:
    computing = 0.9 * pace_s * 32 / strategy.gpus
    return {
        "cell_id": f"{strategy.name}-{rate}-{seed}",
        "strategy": strategy.name,
        "options": "{}",
        "synchrony": "synchronous",
        "equivalence": "single" if strategy.same else None,
        "engine": "real",
        "device": "cuda",
        "precision": "fp32",
        "gpus": strategy.gpus,
        "nodes": 1,
        "batch_size": 32 // strategy.gpus,
        "micro_batch_size": 32 // strategy.gpus,
        "global_batch_size": 32,
        "learning_rate": 0.01 * (rate + 1),
        "lr_rule": "",
        "seed": seed,
        "status": "ok",
        "steps": round(samples / 32),
        "samples_seen": samples,
        "samples_to_target": samples,
        "time_to_target_s": samples * pace_s,
        "wall_s": samples * pace_s,
        "throughput_samples_per_s": 1 / pace_s,
        "compute_s": computing * samples / 32,
        "displacement": 1.0,
        "validation_accuracy": 0.96,
        "trajectory_id": f"{rate}-{seed}" if strategy.same else f"{strategy.name}-{rate}-{seed}",
    }


def answers(world: World, draws: int, seed: int = 0) -> Iterator[Answer]:
    """Yield what the product says of so many sweeps."""
    random = np.random.default_rng(seed)
    for _ in range(draws):
        rows = draw(world, random)
        yield answer(rows, len(rows))


# -- what an answer says -----------------------------------------------------------------------------------------------


def leader_of(found: Answer) -> str:
    """Return the recommended strategy."""
    return found.leader.rpartition("-")[0].rpartition("-")[0]


def named(found: Answer) -> str:
    """Return the strategy that is called the faster one; empty where none is."""
    verdict = found.contrast.verdict if found.contrast else Verdict.UNKNOWN
    return leader_of(found) if verdict is Verdict.FASTER else "other" if verdict is Verdict.SLOWER else ""


def is_named(found: Answer) -> bool:
    """Say whether any strategy is called the faster one."""
    return bool(named(found))


def is_same(found: Answer) -> bool:
    """Say whether leader and runner-up are called the same within 5 %."""
    return found.contrast is not None and found.contrast.verdict is Verdict.SAME


def settled(found: Answer) -> bool:
    """Say whether nothing is left open: told apart, or the same within 5 %."""
    return found.contrast is not None and found.contrast.verdict in (Verdict.FASTER, Verdict.SLOWER, Verdict.SAME)


def covers(found: Answer, world: World) -> bool:
    """Say whether the interval of the recommended point covers what its time truly is in the mean."""
    ranking = found.findings.questions[0].ranking
    standing = next(s for s in ranking.standings if found.leader in {row["cell_id"] for row in s.point.rows})
    strategy = next(s for s in world.strategies if s.name == standing.point.strategy)
    truth = SAMPLES * strategy.samples[int(found.leader.split("-")[-2])] * PACE_S * strategy.pace
    ends = interval(standing, ranking)
    return ends is not None and ends.holds(truth)


# -- the figures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A printed figure: a share in percent, and what it has to be."""

    text: str
    share: float
    least: float = 0.0
    most: float = 100.0
    digits: int = 1

    def __str__(self) -> str:
        """Return it as a line."""
        demand = (
            f"at most {self.most:g}" if self.most < 100 else f"at least {self.least:g}" if self.least else "printed"
        )
        fine = "" if self.least <= self.share <= self.most else "  MISSED"
        return f"  {self.text:88} {self.share:5.{self.digits}f} %  ({demand}){fine}"


def share(world: World, draws: int, says: Callable[[Answer], bool]) -> float:
    """Return how often answers say something, in percent."""
    return 100 * sum(map(says, answers(world, draws))) / draws


def members(faster: float, timing: float, rates: int = 1, **given: Any) -> World:
    """Return four strategies that train the same model: single, one that is so much faster, two that are slower."""
    settings = tuple(1 + 0.3 * rate for rate in range(rates))
    rivals = (("sync-ddp", 1 / faster), ("fsdp", 1.3), ("model-split", 1.3))
    strategies = (
        Strategy("single", 1, 1.0, settings, same=True),
        *(Strategy(name, 2, pace, settings, same=True) for name, pace in rivals),
    )
    return World(strategies, timing=timing, rounds=0.05, **given)


def shared_trajectories(draws: int) -> Iterator[Line]:
    """Yield how often strategies that train the same model are told apart by the time of a sample."""
    for rates in (1, 2):
        what = f"{rates} rate{'s' * (rates > 1)}, 5 seeds"
        yield Line(
            f"identical, 5 % noise, {what}: one is named", share(members(1, 0.05, rates), draws, is_named), most=6
        )
        for faster, timing, least in ((1.15, 0.05, 95), (1.05, 0.02, 80), (1.1, 0.05, 0)):
            text = f"{100 * faster - 100:.0f} % faster, {100 * timing:.0f} % noise, {what}: found and recommended"
            world = members(faster, timing, rates, flips=0.1)
            yield Line(text, share(world, draws, lambda a: named(a) == "sync-ddp"), least=least)
    alike = tuple(Strategy(name, gpus, same=True) for name, gpus in (("single", 1), ("a", 2), ("b", 2), ("c", 2)))
    world = World(alike, timing=0.05, rounds=0.05)
    yield Line("four identical, 5 % noise: one is named", share(world, draws, is_named), most=6)
    for bursts in (0.1, 0.3):
        world = members(1, 0.03, 2, bursts=bursts)
        text = f"identical, 3 % noise, {bursts:.0%} of runs 40 % too long, 2 rates: one is named"
        yield Line(text, share(world, draws, is_named), most=6)
    two = World(alike[:2], timing=0.05, rounds=0.05)
    yield Line("two identical, 5 % noise: one is named", share(two, draws, is_named), most=6)
    pair = replace(two, strategies=(alike[0], replace(alike[1], pace=1 / 1.15)))
    yield Line("two, 15 % faster, 5 % noise: found", share(pair, draws, lambda a: named(a) == "a"))


def bowl(count: int) -> tuple[float, ...]:
    """Return settings as rates usually are: the middle one best, the others worse by the square of their distance."""
    return tuple(math.exp(0.04 * (place - count // 2) ** 2) for place in range(count)) if count > 1 else (1.0,)


def rivals(first: tuple[float, ...], second: tuple[float, ...], slower: float = 1.0, **given: Any) -> World:
    """Return two strategies with trajectories of their own, the second so much slower."""
    return World((Strategy("a", 2, 1.0, first), Strategy("b", 2, slower, second)), **given)


def own_trajectories(draws: int) -> Iterator[Line]:
    """Yield how often strategies are told apart that train each in its own way."""
    flat = {k: (1.0,) * k for k in (1, 4, 9, 20)}
    pairs = [("4 and 4", bowl(4), bowl(4)), ("4 and 4, all alike", flat[4], flat[4]), ("9 and 9", bowl(9), bowl(9))]
    pairs += [("9 and 1", flat[9], flat[1]), ("20 and 1", flat[20], flat[1]), ("1 and 1", flat[1], flat[1])]
    for correlation in (0.5, 0.0):
        for words, first, second in pairs:
            what = f"{words} settings, correlation {correlation:g}"
            world = rivals(first, second, correlation=correlation)
            yield Line(f"identical, {what}: one is named", share(world, draws, is_named), most=6)
    for correlation in (0.5, 0.0):
        for slower, least in ((1.3, 90 if correlation else 0), (1.15, 0)):
            world = rivals(bowl(4), bowl(4), slower, correlation=correlation)
            text = f"{100 * slower - 100:.0f} % faster, 4 and 4 settings, correlation {correlation:g}: found"
            yield Line(text, share(world, draws, lambda a: named(a) == "a"), least=least)


def intervals(draws: int) -> Iterator[Line]:
    """Yield how often the interval of the point that was picked covers the truth; it states 95 %."""
    for count in (1, 4, 9, 20):
        for words, settings in (("alike", (1.0,) * count), ("as rates are", bowl(count))):
            world = World((Strategy("a", 2, 1.0, settings),))
            text = f"own trajectories, best of {count} {words}: the interval covers"
            yield Line(text, share(world, draws, lambda a, world=world: covers(a, world)), least=93.5)
    for count in (1, 4, 9):
        world = members(1, 0.05, count, flips=0.1)
        text = f"shared trajectories, 4 strategies at {count} rates: the interval covers"
        yield Line(text, share(world, draws, lambda a, world=world: covers(a, world)), least=93.5)


def equality(draws: int) -> Iterator[Line]:
    """Yield how often what truly differs by 5 % is called the same within 5 %, and what is the same."""
    for timing in (0.01, 0.02, 0.05):
        text = f"truly 5 % apart, {100 * timing:g} % noise, 2 rates: called the same within 5 %"
        yield Line(text, share(members(1.05, timing, 2), draws, is_same), most=6)
        text = f"identical, {100 * timing:g} % noise, 2 rates: called the same within 5 %"
        yield Line(text, share(members(1, timing, 2), draws, is_same))
    for spread in (0.03, 0.05, 0.14):
        world = rivals((1.0,), (1.0,), 1.05, spread=spread)
        yield Line(
            f"own trajectories, truly 5 % apart, CV {100 * spread:g} %: called the same",
            share(world, draws, is_same),
            most=6,
        )


FIRST_SEEDS, MOST_SEEDS = 5, 25
ASKED_WITHIN = 0.1


def settling(draws: int) -> Iterator[Line]:
    """Yield how often the number of seeds that is said to settle it does: the first five kept, the others added."""
    # Two settings each, the second no match: 12 degrees of freedom, as four strategies at one setting have them.
    for spread, demanded in ((0.14, True), (0.2, False)):
        for slower in (1.0, 1.05, 1.1, 1.15):
            each = spread / math.sqrt(2)
            world = rivals((1.0, 1.5), (1.0, 1.5), slower, spread=each, correlation=0.0, seeds=MOST_SEEDS)
            yield from _settled(
                world, f"sd of a difference {100 * spread:.0f} %, truth {100 * slower - 100:.0f} %", draws, demanded
            )
    for slower in (1.0, 1.05, 1.1, 1.15):
        world = replace(members(slower, 0.1), seeds=MOST_SEEDS)
        yield from _settled(world, f"shared trajectories, noise 10 %, truth {100 * slower - 100:.0f} %", draws, False)


def _settled(world: World, words: str, draws: int, demanded: bool) -> Iterator[Line]:
    random, open_ = np.random.default_rng(7), 0
    right: dict[float, list[bool]] = {}
    numbers: list[int] = []
    for _ in range(draws):
        rows = draw(world, random)
        first = [row for row in rows if row["seed"] < FIRST_SEEDS]
        found = answer(first, len(first)).contrast
        open_ += found is not None and found.verdict is Verdict.OPEN
        if found is None or found.settled_by is None:
            continue
        seeds, within = found.settled_by.blocks, found.settled_by.within
        numbers.append(seeds)
        more = [row for row in rows if row["seed"] < seeds]
        last = answer(more, len(more)).contrast
        same = last is not None and last.within is not None and last.within <= within
        right.setdefault(within, []).append(same or (last is not None and last.verdict is not Verdict.OPEN))
    told = [known for group in right.values() for known in group]
    if not told:
        return
    given = f"given in {100 * len(told) / open_:.0f} % of {open_} open, median {sorted(numbers)[len(told) // 2]}"
    bounds = (70, 97) if demanded else ()
    yield Line(f"{words}: n settles it ({given})", 100 * sum(told) / len(told), *bounds)
    for within, group in sorted(right.items()):
        bounds = (70, 97) if demanded and within == ASKED_WITHIN else ()
        text = f"  of those told apart or the same within {100 * within:g} % ({len(group)})"
        yield Line(text, 100 * sum(group) / len(group), *bounds)


# -- real runs ---------------------------------------------------------------------------------------------------------

SCENARIO = """
engine = "virtual"
[workload]
model = "softmax"
dataset = "digits"
[sweep]
strategy = ["single", "local-sgd", "async-ps"]
gpus = [1, 2, 4]
learning_rate = [0.1]
seeds = 20
exclude = [
    { strategy = "single", gpus = [2, 4] },
    { strategy = ["local-sgd", "async-ps"], gpus = 1 },
    { strategy = "async-ps", gpus = 4 },
    { strategy = "local-sgd", gpus = 2 },
]
[goal]
target_accuracy = 0.90
max_epochs = 15
"""
"""What is run where no results are given: samples to the target that no formula made."""

MEASURED = (
    *("samples_to_target", "samples_to_target_fit", "time_to_target_s", "throughput_samples_per_s"),
    *("samples_seen", "wall_s", "status", "validation_accuracy", "regime"),
)
"""Columns that say how a run came out."""

READ = {"samples_to_target": "first of two in a row", "samples_to_target_fit": "rising curve"}


FEWEST_SEEDS = 10
"""Of two points in common, to be drawn from."""


def real_rows(folders: Sequence[str]) -> list[Row]:
    """Return the rows of finished results; of a run of this script's own where there are none."""
    from harness.results.store import find_results

    if folders:
        return [row for folder in folders for results in find_results(Path(folder)) for row in results.rows()]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "softmax.toml").write_text(SCENARIO)
        command = [sys.executable, "-m", "harness", "run", "softmax.toml", "--results", "results"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return find_results(Path(folder, "results", "softmax"))[0].rows()


def real_runs(draws: int, folders: Sequence[str] = ()) -> Iterator[Line]:
    """Yield how often five seeds of real runs name one, by both readings: against themselves, and against each other.

    Against themselves: both strategies draw their seeds, with replacement, from the runs of one point. Exchanged: it is
    drawn which of two points a seed's results are of. That is printed only: where the points truly differ, the
    differences become plus or minus nearly one value, of five such all have one sign in 6.25 % of draws, and who leads
    by the same on every seed has to be named.
    """
    by_point: dict[tuple[str, int], dict[int, Row]] = {}
    for row in real_rows(folders):
        by_point.setdefault((row["strategy"], row["gpus"]), {})[row["seed"]] = row
    for read, words in READ.items():
        for (name, gpus), runs in by_point.items():
            twice = _named_of([runs, runs], draws, lambda random, seeds: random.choice(seeds, (2, 5)), read)
            yield Line(f"{name} on {gpus} against itself, {words}: one is named", twice, most=6)
        for first, second in itertools.combinations(by_point, 2):
            pair = [by_point[first], by_point[second]]
            if first[0] == second[0] or len(set(pair[0]) & set(pair[1])) < FEWEST_SEEDS:
                continue
            names = " and ".join(f"{name} on {gpus}" for name, gpus in (first, second))
            for exchanged in (True, False):
                found = _named_of(
                    pair, draws, lambda random, seeds: [random.choice(seeds, 5, replace=False)] * 2, read, exchanged
                )
                how = "exchanged by seed" if exchanged else "as they are"
                yield Line(f"{names}, {words}, {how}: one is named", found)


def _named_of(
    pair: Sequence[dict[int, Row]],
    draws: int,
    choose: Callable[[np.random.Generator, list[int]], Sequence[Sequence[int]]],
    read: str,
    exchanged: bool = False,
) -> float:
    """Return how often one of two points is named, in percent.

    Args:
        choose: five seeds of either, of those that both have.
    """
    random, count = np.random.default_rng(8), 0
    seeds = sorted(set(pair[0]) & set(pair[1]))
    for _ in range(draws):
        rows = []
        for place, chosen in enumerate(zip(*choose(random, seeds), strict=True)):
            both = [dict(side[seed]) for side, seed in zip(pair, chosen, strict=True)]
            if exchanged and random.random() < 0.5:
                came_out = [{key: row.get(key) for key in MEASURED} for row in both]
                both = [row | other for row, other in zip(both, reversed(came_out), strict=True)]
            rows += [_as_own(row, read, place, name) for row, name in zip(both, ("a", "b"), strict=True)]
        count += is_named(answer(rows, len(rows)))
    return 100 * count / draws


def _as_own(row: Row, read: str, seed: int, name: str) -> Row:
    """Return a run as one of a strategy with its own trajectories.

    As if measured: simulated speeds are exact, and what is asked is how the target is read.
    """
    fit = row.get("samples_to_target_fit") if read == "samples_to_target_fit" else None
    own = {"strategy": name, "cell_id": f"{name}-0-{seed}", "trajectory_id": f"{name}-{seed}", "seed": seed}
    own |= {"engine": "real", "equivalence": None, "synchrony": "synchronous", "samples_to_target_fit": fit}
    return row | own


def gate(draws: int) -> Iterator[Line]:
    """Yield in how many nights the gate raises an alarm, with a change and without."""
    import simulated_gate  # late: it prints lines as this module does

    yield from simulated_gate.gate_lines(draws)


def history(draws: int) -> Iterator[Line]:
    """Yield how often a step of 7 % at night 23 of 40 is found, and how often one is found that nobody made."""
    import simulated_history  # late: it prints lines as this module does

    yield from simulated_history.history(draws)


PARTS = {
    "shared": shared_trajectories,
    "own": own_trajectories,
    "intervals": intervals,
    "equality": equality,
    "settling": settling,
    "real": real_runs,
    "gate": gate,
    "history": history,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--runs", nargs="*", default=(), help="results whose seeds are drawn; else some are run")
    given = parser.parse_args(arguments)
    missed = 0
    for name, part in PARTS.items():
        if given.only in (None, name):
            began = time.perf_counter()
            print(str(part.__doc__).splitlines()[0].removeprefix("Yield ").capitalize())
            more = (given.runs,) if part is real_runs else ()
            for line in part(given.draws, *more):
                print(line, flush=True)
                missed += not line.least <= line.share <= line.most
            print(f"  {time.perf_counter() - began:.0f} s")
    return int(missed > 0)
