"""Why a step takes as long as it does: parts side by side, and the one parameter that would account for a difference.

Pure functions over plain rows and over a function that predicts; imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.parameters import PARAMETERS, Parameter
from harness.analysis.point_names import on_devices, sentences
from harness.analysis.points import PART_NAMES, Row, mean_update_s, number
from harness.analysis.roots import root
from harness.core.text import NO_TEXT, Text
from harness.core.words import duration, rate

Predict = Callable[[Mapping[str, float]], float]
"""Seconds of a step where some parameters are changed, by their key; those not named stay as they are."""

AGREEMENT = 0.005
"""Relative difference that is not explained: measured step times of equal runs differ by more than this; chosen."""

SOLVED = 1e-5
"""Relative accuracy in seconds at which a parameter counts as found: far below what anybody measures; chosen."""

TOLD = 0.1
"""Share of what one part adds above which what another saves is said beside it; chosen."""


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
    sentence: Text
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
    there = parameter.write(configured) if configured else "none"
    return Account(
        key=parameter.key,
        configured=configured,
        value=value,
        plausibility=1 - parameter.distance(configured, value, bound),
        sentence=Text(f"{parameter.words(value)} would explain {observed} ({origin}: {there})."),
        look_at=parameter.look_at,
    )


def solve(predict: Predict, parameter: Parameter, start: float, end: float, wanted_s: float) -> float | None:
    """Return the value between `start` and `end` at which a step takes `wanted_s`; None where none does.

    The unknown is 1/value where less makes a step longer: a step is piecewise linear in seconds per byte.
    """
    if start == end:
        return None

    def at(place: float) -> float:
        return place if parameter.rising else 1 / place

    found = root(lambda place: predict({parameter.key: at(place)}) - wanted_s, at(start), at(end), SOLVED * wanted_s)
    return None if found is None else at(found)


# -- two cells ---------------------------------------------------------------------------------------------------------

LEAST_SHARE = 1e-6
"""Share of a step above which a part of it is shown: below it is rounding; chosen."""


@dataclass(frozen=True)
class PartPair:
    """One part of a step, in seconds per update, of two cells; None where it was not measured.

    Attributes:
        part: its column; empty for the whole step.
    """

    part: str
    first_s: float | None
    second_s: float | None

    @property
    def name(self) -> str:
        """The part in words."""
        return PART_NAMES.get(self.part, "whole step")

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

    pairs: tuple[PartPair, ...]
    sentences: tuple[Text, ...]
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
    told = [_difference_in_words(first, second, pairs, scale)]
    accounts: list[Account] = []
    real, virtual = _twins(first, second)
    observed_s = mean_update_s(real) if real else None
    if virtual and observed_s and predict is not None:
        accounts = _culprits_first(explain_observed(virtual, observed_s, predict, configured or {}, origins), pairs)
        agree = abs(observed_s - (mean_update_s(virtual) or 0.0)) <= AGREEMENT * observed_s
        told += [] if accounts or agree else [Text("No single plausible figure explains the difference.")]
    return Explanation(tuple(pairs), tuple(filter(None, told)), tuple(accounts))


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
    recorded = mean_update_s(row)
    factor = recorded / predict({}) if recorded else 1.0
    return explain_difference(
        lambda overrides: factor * predict(overrides),
        configured,
        observed_s,
        samples=number(row, "global_batch_size"),
        origins=origins,
    )


def update_parts(row: Row) -> dict[str, float]:
    """Return the seconds per update of each part that was measured."""
    steps = number(row, "steps")
    return {part: value / steps for part in PART_NAMES if steps and (value := number(row, part)) is not None}


def _pairs(first: Row, second: Row, scale: float) -> list[PartPair]:
    left, right = update_parts(first), {part: seconds * scale for part, seconds in update_parts(second).items()}
    pairs = [PartPair(part, left.get(part), right.get(part)) for part in PART_NAMES]
    whole = PartPair("", sum(left.values()) or None, sum(right.values()) or None)
    least = LEAST_SHARE * max(whole.first_s or 0.0, whole.second_s or 0.0)
    return [*(pair for pair in pairs if max(pair.first_s or 0.0, pair.second_s or 0.0) > least), whole]


def _work_ratio(first: Row, second: Row) -> float:
    """Return what the second's seconds are multiplied by so that both stand for as many samples."""
    return float(first["global_batch_size"] / second["global_batch_size"])


def _twins(first: Row, second: Row) -> tuple[Row | None, Row | None]:
    """Return the measured and the simulated one, where the two are of the same point."""
    by_engine = {row["engine"] == "virtual": row for row in (first, second)}
    same = all(first.get(key) == second.get(key) for key in ("strategy", "gpus", "global_batch_size"))
    return (by_engine[False], by_engine[True]) if len(by_engine) == 2 and same else (None, None)


def _difference_in_words(first: Row, second: Row, pairs: Sequence[PartPair], scale: float) -> Text:
    *parts, whole = pairs
    if whole.first_s is None or whole.second_s is None:
        return NO_TEXT
    same = "" if scale == 1 else " for the same number of samples"
    name, other = (on_devices(row) for row in (second, first))
    if name == other:
        name, other = "the second cell", "the first"
    times = f"A step of {name} takes {duration(whole.second_s)}{same}; one of {other} takes {duration(whole.first_s)}."
    slower = whole.change_s > 0
    with_it = sorted((p for p in parts if (p.change_s > 0) == slower and p.change_s), key=lambda p: -abs(p.change_s))
    against = sorted((p for p in parts if (p.change_s > 0) != slower and p.change_s), key=lambda p: -abs(p.change_s))
    if not with_it:
        return Text(times)
    if against and abs(against[0].change_s) >= TOLD * abs(with_it[0].change_s):
        changes = f"{_change(with_it[0])}, but {_change(against[0])}"
        return sentences(times, f"{changes[0].upper()}{changes[1:]}.")
    return sentences(times, f"Most of the difference is {with_it[0].name} ({_between(with_it[0])}).")


def _change(pair: PartPair) -> str:
    verb = "adds" if pair.change_s > 0 else "saves"
    return f"{pair.name} {verb} {duration(abs(pair.change_s))} ({_between(pair)})"


def _between(pair: PartPair) -> str:
    return f"{duration(pair.second_s or 0.0)} against {duration(pair.first_s or 0.0)}"


def _culprits_first(accounts: Sequence[Account], pairs: Sequence[PartPair]) -> list[Account]:
    """Put parameters first that act on the part of the step that differs most: that part was measured."""
    grown = max(pairs[:-1], key=lambda pair: abs(pair.change_s), default=None)
    acts_on = {parameter.key: parameter.part for parameter in PARAMETERS}
    return sorted(accounts, key=lambda account: grown is None or acts_on[account.key] != grown.part)


# -- text --------------------------------------------------------------------------------------------------------------

MOST_SHOWN = 4
"""Accounts that are printed; chosen: those after are the least plausible."""


def account_lines(accounts: Sequence[Account]) -> list[Text]:
    """Return each finding and where to look, as lines of text."""
    shown = accounts[:MOST_SHOWN]
    return [line for account in shown for line in (account.sentence, Text(f"  check: {account.look_at}"))]
