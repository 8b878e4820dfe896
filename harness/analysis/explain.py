"""Why a step takes as long as it does: parts side by side, and the one parameter that would account for a difference.

Pure functions over plain rows and over a function that predicts; imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.parameters import PARAMETERS, Parameter
from harness.analysis.point_names import devices_in_words
from harness.analysis.points import Row, number
from harness.core.words import duration, rate

Predict = Callable[[Mapping[str, float]], float]
"""Seconds of a step where some parameters are changed, by their key; those not named stay as they are."""

AGREEMENT = 0.005
"""Relative difference that is not explained: measured step times of equal runs differ by more than this; chosen."""

SOLVED = 1e-5
"""Relative accuracy in seconds at which a parameter counts as found: far below what anybody measures; chosen."""

MOST_TRIALS = 60
"""Halving an interval so often is below the resolution of a float of 53 bits; the secant needs a handful."""

TOLD = 0.1
"""Share of what one part adds from which on what another saves is said beside it; chosen."""


@dataclass(frozen=True)
class Account:
    """One parameter that alone would account for what was observed.

    Attributes:
        key: of the parameter.
        configured, value: what was assumed, and what it would have to be; SI units.
        plausibility: 1 at the configured value, 0 at the farthest that would be believed.
        sentence: the finding in words.
        look_at: where to look.
    """

    key: str
    configured: float
    value: float
    plausibility: float
    sentence: str
    look_at: str


def explain_difference(
    predict: Predict,
    configured: Mapping[str, float],
    observed_step_s: float,
    *,
    samples: float | None = None,
    origins: Mapping[str, str] | None = None,
) -> list[Account]:
    """Return the parameters that alone would turn the predicted step into the observed one, most plausible first.

    Args:
        predict: monotone in every parameter.
        configured: value of each parameter that may be varied, by key, in SI units.
        observed_step_s: seconds of a step as measured.
        samples: behind a step; then steps are worded as samples/s.
        origins: how a value came about, where it is not "configured".
    """
    predicted = predict({})
    if abs(observed_step_s - predicted) <= AGREEMENT * predicted:
        return []
    observed = rate(samples / observed_step_s) if samples else f"a step of {duration(observed_step_s)}"
    accounts = []
    for parameter in PARAMETERS:
        if parameter.key in configured:
            bound = parameter.bound(configured[parameter.key], slower=observed_step_s > predicted)
            value = solve(predict, parameter, configured[parameter.key], bound, observed_step_s)
            if value is not None:
                origin = (origins or {}).get(parameter.key, "configured")
                accounts.append(_account(parameter, configured[parameter.key], value, bound, observed, origin))
    return sorted(accounts, key=lambda account: -account.plausibility)


def _account(
    parameter: Parameter, configured: float, value: float, bound: float, observed: str, origin: str
) -> Account:
    there = f"{parameter.write(configured)} is {origin}" if configured else f"none is {origin}"
    return Account(
        key=parameter.key,
        configured=configured,
        value=value,
        plausibility=1 - parameter.distance(configured, value, bound),
        sentence=f"{observed} is what {parameter.gives.format(parameter.write(value))} gives; {there}",
        look_at=parameter.look_at,
    )


def solve(predict: Predict, parameter: Parameter, start: float, end: float, wanted_s: float) -> float | None:
    """Return the value between `start` and `end` at which a step takes `wanted_s`; None where none does.

    The unknown is 1/value where less makes a step longer: a step is piecewise linear in seconds per byte, so that
    the secant hits the answer wherever no kink lies between.

    Source: Dowell and Jarratt 1971, "A modified regula falsi method for computing the root of an equation" (Illinois).
    """
    if start == end:
        return None

    def at(place: float) -> float:
        return place if parameter.rising else 1 / place

    def excess(place: float) -> float:
        return predict({parameter.key: at(place)}) - wanted_s

    low, high = at(start), at(end)
    low_s, high_s = excess(low), excess(high)
    if low_s * high_s > 0 or low_s == high_s:
        return None
    for _ in range(MOST_TRIALS):
        middle = high - high_s * (high - low) / (high_s - low_s)
        middle_s = excess(middle)
        if abs(middle_s) <= SOLVED * wanted_s:
            return at(middle)
        if middle_s * high_s < 0:
            low, low_s = high, high_s
        else:
            low_s /= 2  # the same end twice: without this the other end would never move
        high, high_s = middle, middle_s
    return at(high)


# -- two cells ---------------------------------------------------------------------------------------------------------

PARTS = {
    "input_s": "input",
    "compute_s": "computing",
    "communication_s": "communication",
    "idle_s": "waiting",
    "other_s": "other",
}
"""Parts of the training time in rows, and what they are called: means over devices, without overlap."""


SEEN = 1e-6
"""Share of a step from which on a part of it is shown: below it is rounding; chosen."""


@dataclass(frozen=True)
class Pair:
    """One part of a step, in seconds per update, of two cells; None where it was not measured."""

    name: str
    first_s: float | None
    second_s: float | None

    @property
    def change_s(self) -> float:
        """Seconds that the second takes longer."""
        return (self.second_s or 0.0) - (self.first_s or 0.0)


@dataclass(frozen=True)
class Explanation:
    """Why two cells differ.

    Attributes:
        pairs: the parts of a step side by side as far as there are any, the whole last.
        sentences: what makes the difference, in words.
        accounts: single parameters that would account for it; only where one cell predicts the other.
    """

    pairs: tuple[Pair, ...]
    sentences: tuple[str, ...]
    accounts: tuple[Account, ...] = ()


def explain_cells(
    first: Row,
    second: Row,
    predict: Predict | None = None,
    configured: Mapping[str, float] | None = None,
    origins: Mapping[str, str] | None = None,
) -> Explanation:
    """Explain why a step of two cells takes different times.

    Args:
        first, second: rows of cells.csv.
        predict: step time of the simulated one of a real cell and its twin.
        configured: that cell's parameters.
        origins: as of `explain_difference`.
    """
    scale = _work_ratio(first, second)
    pairs = _pairs(first, second, scale)
    sentences = [_difference_in_words(first, second, pairs, scale)]
    accounts: list[Account] = []
    real, virtual = _twins(first, second)
    observed_s = step_s(real) if real else None
    if virtual and observed_s and predict is not None:
        accounts = _culprits_first(explain_observed(virtual, observed_s, predict, configured or {}, origins), pairs)
        agree = abs(observed_s - (step_s(virtual) or 0.0)) <= AGREEMENT * observed_s
        sentences += [] if accounts or agree else ["no single figure within reason accounts for the difference"]
    return Explanation(tuple(pairs), tuple(filter(None, sentences)), tuple(accounts))


def explain_observed(
    row: Row,
    observed_s: float,
    predict: Predict,
    configured: Mapping[str, float],
    origins: Mapping[str, str] | None = None,
) -> list[Account]:
    """Return the parameters that alone would turn a simulated cell's step into the observed one.

    Args:
        row: of the simulated cell; what it recorded stands, `predict` says what changes it and by how much.
        observed_s: seconds of an update.
    """
    recorded = step_s(row)
    factor = recorded / predict({}) if recorded else 1.0
    return explain_difference(
        lambda overrides: factor * predict(overrides),
        configured,
        observed_s,
        samples=number(row, "global_batch_size"),
        origins=origins,
    )


def step_s(row: Row) -> float | None:
    """Return the seconds of an update after warm-up, None where no throughput was measured."""
    rate, batch = number(row, "throughput_samples_per_s"), number(row, "global_batch_size")
    return batch / rate if rate and batch else None


def parts_of(row: Row) -> dict[str, float]:
    """Return the seconds per update of each part that was measured."""
    steps = number(row, "steps")
    return {part: value / steps for part in PARTS if steps and (value := number(row, part)) is not None}


def _pairs(first: Row, second: Row, scale: float) -> list[Pair]:
    left, right = parts_of(first), {part: seconds * scale for part, seconds in parts_of(second).items()}
    pairs = [Pair(words, left.get(part), right.get(part)) for part, words in PARTS.items()]
    whole = Pair("a step", sum(left.values()) or None, sum(right.values()) or None)
    least = SEEN * max(whole.first_s or 0.0, whole.second_s or 0.0)
    return [*(pair for pair in pairs if max(pair.first_s or 0.0, pair.second_s or 0.0) > least), whole]


def _work_ratio(first: Row, second: Row) -> float:
    """Return what the second's seconds are multiplied by so that both stand for as many samples."""
    return float(first["global_batch_size"] / second["global_batch_size"])


def _twins(first: Row, second: Row) -> tuple[Row | None, Row | None]:
    """Return the measured and the simulated one, where the two are of the same point."""
    by_engine = {row["engine"] == "virtual": row for row in (first, second)}
    same = all(first.get(key) == second.get(key) for key in ("strategy", "gpus", "global_batch_size"))
    return (by_engine[False], by_engine[True]) if len(by_engine) == 2 and same else (None, None)


def _difference_in_words(first: Row, second: Row, pairs: Sequence[Pair], scale: float) -> str:
    *parts, whole = pairs
    if whole.first_s is None or whole.second_s is None:
        return ""
    same = "" if scale == 1 else " for as many samples"
    times = f"a step of {_name(second)} takes {duration(whole.second_s)}{same} where {_name(first)} takes "
    times += duration(whole.first_s)
    slower = whole.change_s > 0
    with_it = sorted((p for p in parts if (p.change_s > 0) == slower and p.change_s), key=lambda p: -abs(p.change_s))
    against = sorted((p for p in parts if (p.change_s > 0) != slower and p.change_s), key=lambda p: -abs(p.change_s))
    if not with_it:
        return times
    if against and abs(against[0].change_s) >= TOLD * abs(with_it[0].change_s):
        return f"{times}: {_change(with_it[0])}, {_change(against[0])}"
    return f"{times}: most of the difference is {with_it[0].name}, {_between(with_it[0])}"


def _change(pair: Pair) -> str:
    verb = "adds" if pair.change_s > 0 else "saves"
    return f"{pair.name} {verb} {duration(abs(pair.change_s))} ({_between(pair)})"


def _between(pair: Pair) -> str:
    return f"{duration(pair.second_s or 0.0)} against {duration(pair.first_s or 0.0)}"


def _name(row: Row) -> str:
    return f"{row['strategy']} on {devices_in_words(row)}"


def _culprits_first(accounts: Sequence[Account], pairs: Sequence[Pair]) -> list[Account]:
    """Put parameters first that act on the part of the step that differs most: that part was measured."""
    grown = max(pairs[:-1], key=lambda pair: abs(pair.change_s), default=None)
    acts_on = {parameter.key: PARTS[parameter.part] for parameter in PARAMETERS}
    return sorted(accounts, key=lambda account: grown is None or acts_on[account.key] != grown.name)


# -- text --------------------------------------------------------------------------------------------------------------

MOST_SHOWN = 4
"""Accounts that are printed; chosen: those after are the least plausible."""


def in_lines(accounts: Sequence[Account]) -> list[str]:
    """Return each finding and where to look, as lines of text."""
    lines = []
    for account in accounts[:MOST_SHOWN]:
        lines += [account.sentence, f"  look at: {account.look_at}"]
    return lines
