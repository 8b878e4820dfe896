"""A comparison in words: for a terminal, and as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.analysis.compared import (
    SLOWER,
    STATUS,
    UPDATE_TIME,
    Change,
    ChangeKind,
    Comparison,
    Detectable,
    Finding,
    Gated,
    UsualFrom,
    Verdict,
)
from harness.analysis.exact import MIN_SEEDS
from harness.analysis.point_names import micro_batch, on_devices, sentences
from harness.analysis.points import Row, settings_of
from harness.core.disturbances import REPEAT, by_what, was_disturbed
from harness.core.text import NO_TEXT, Text
from harness.core.words import change_in_percent, counted, escaped, listed

KIND_WORDS = {
    ChangeKind.REGRESSION: "REGRESSION",
    ChangeKind.SUSPECT: "SUSPECT",
    ChangeKind.IMPLAUSIBLE: "TOO GOOD TO BE TRUE",
    ChangeKind.UNDECIDED: "undecided",
    ChangeKind.IMPROVEMENT: "improvement",
}

_HOW_IMPLAUSIBLE = "Check that the same work is still done."


def conclusion(found: Comparison) -> Text:
    """Return the verdict in one sentence."""
    counts = Counter(finding.kind for finding in found.findings)
    if found.verdict is Verdict.NOTHING_COMPARED:
        return _nothing_compared(found)
    if found.verdict is Verdict.REFUSED:
        return refused_in_words(found)
    if found.verdict is not Verdict.REGRESSION:
        too_good = counts[ChangeKind.IMPLAUSIBLE]
        looks = f"{counted(too_good, 'improvement')} {'looks' if too_good == 1 else 'look'} too good to be true."
        timed = counted(found.timed, "timed comparison")
        taught = f", {len(found.learnt)} of how training went" if found.learnt else ""
        none = f"No regression in {counted(found.ended, 'cell')} ({found.exact} exact and {timed}{taught})."
        return sentences(none, suspects_in_words(found), *together_in_words(found), looks if too_good else "")
    cells = counted(found.cells - found.copies, "cell")
    points = dict.fromkeys(point_in_words(f.row) for f in found.regressions)
    regressions = counted(counts[ChangeKind.REGRESSION], "regression")
    verdict = f"{regressions} in {counted(len(points), 'point')} ({cells} compared)." if points else ""
    return sentences(verdict, *together_in_words(found), suspects_in_words(found), refused_in_words(found))


def suspects_in_words(found: Comparison) -> Text:
    """Say how many measured times are slower, and why that is no regression; empty where none are."""
    if not found.suspects:
        return NO_TEXT
    points = counted(len(dict.fromkeys(point_in_words(f.row) for f in found.suspects)), "point")
    slower = f"{counted(len(found.suspects), 'measured time')} in {points}"
    slower += " is slower" if len(found.suspects) == 1 else " are slower"
    if all(finding.gated for finding in found.suspects):
        return Text(f"Suspect: {slower} than the machine explains, but of one run. To run them again: --rerun.")
    why = "code and machine cannot be told apart"
    one_run = any(min(finding.runs) < 2 for finding in found.suspects)
    why += " from one run on a side" if one_run else ""
    return Text(
        f"Suspect: {slower}, but {why} without a reference that ran beside the cells (harness run --reference)."
    )


def together_in_words(found: Comparison) -> list[Text]:
    """Say of which scenarios all points as one are slower beside the reference."""
    return [
        Text(
            f"{one.scenario + ': ' if one.scenario else ''}{'Suspect: all' if suspect else 'All'} {one.points} points "
            f"together are slower: {beside_in_words(one.gated)}{', but of one run each' if suspect else ''}."
        )
        for one in found.together
        if one.gated.kind in SLOWER
        for suspect in [one.gated.kind is ChangeKind.SUSPECT]
    ]


def beside_in_words(gated: Gated) -> Text:
    """Say what a time came to beside the reference, by what it was judged, and what it had to exceed."""
    than = f"than in {gated.nights} nights" if gated.basis is UsualFrom.HISTORY else "than in BASE"
    by = f"{counted(gated.fresh, 'fresh run')} beside the reference" if gated.fresh else "beside the reference"
    return Text(f"{by} {change_in_percent(gated.relative)} {than}, limit {change_in_percent(gated.limit)}")


def refused_in_words(found: Comparison) -> Text:
    """Say why nothing but statuses was compared; empty where more was."""
    differ = [f"{before} before, {after} now" for _, before, after in found.refused]
    if not differ:
        return NO_TEXT
    why = f"Only statuses were compared, because the sides have another {listed(what for what, *_ in found.refused)}"
    return sentences(f"{why}: {'; '.join(differ)}.", "To compare times all the same: --allow-other-device.")


def _nothing_compared(found: Comparison) -> Text:
    """Say why there is no verdict: "no regression" would be one."""
    if not found.ended:
        then = "Let a night that ran to its end be BASE."
        return sentences("Nothing was compared: no cell ran to the same end on both sides.", then)
    ended = f"{counted(found.ended, 'cell')} {'has' if found.ended == 1 else 'have'}"
    then = f"Set seeds = {MIN_SEEDS}, or train for more steps."
    return sentences(f"Nothing was compared: {ended} no value that can be compared.", then)


def in_text(found: Comparison, names: tuple[str, str] = ("BASE", "NEW")) -> str:
    """Return the comparison as lines for a terminal, the verdict last."""
    lines = [f"base {names[0]}, new {names[1]}: {in_common(found)}"]
    lines += _changed(found)
    lines += [f"{KIND_WORDS[finding.kind]}: {sentence(finding)}" for finding in found.findings]
    lines += _around(found)
    return "\n".join([*lines, conclusion(found)])


def in_markdown(found: Comparison, names: tuple[str, str] = ("BASE", "NEW")) -> str:
    """Return the comparison as Markdown, the verdict first; nothing in it is taken for markup."""
    lines = [f"**{escaped(conclusion(found))}**", ""]
    if changed := _changed(found):
        lines += [*(f"- {escaped(line)}" for line in changed), ""]
    if found.findings:
        lines += ["| | point | quantity | before | after | change | where |", "|---|---|---|---|---|---|---|"]
        lines += ["| " + " | ".join(map(escaped, _cells(finding))) + " |" for finding in found.findings] + [""]
    about = [f"base {names[0]}, new {names[1]}: {in_common(found)}", *_around(found)]
    return "\n".join([*lines, *(f"- {escaped(line)}" for line in about)]) + "\n"


# -- sentences ---------------------------------------------------------------------------------------------------------


def sentence(finding: Finding) -> Text:
    """Return one finding in words."""
    point = point_in_words(finding.row)
    if finding.quantity == STATUS:
        return Text(f"{point}: {finding.base} before, {finding.new} now ({finding.detail})")
    before, after = (finding.quantity.text(value) for value in (finding.base, finding.new))
    change = _change(finding)
    notes = "; ".join(filter(None, [change, finding.detail]))
    return sentences(
        f"{point}: {finding.quantity.name} {before} before, {after} now" + (f" ({notes})." if notes else "."),
        f"Most of it is {finding.where}." if finding.where else "",
        _HOW_IMPLAUSIBLE if finding.kind is ChangeKind.IMPLAUSIBLE else "",
    )


def point_in_words(row: Row) -> str:
    """Return such as "sync-ddp on 2 CPU cores, global batch 32, learning rate 0.1"."""
    return ", ".join(_traits(row).values())


def short_names(rows: Sequence[Row]) -> list[str]:
    """Return what tells points from each other: strategy, devices, and of the rest only what they differ in."""
    traits = [_traits(row) for row in rows]
    values: dict[str, set[str]] = {}
    for known in traits:
        for key, text in known.items():
            values.setdefault(key, set()).add(text)
    return [", ".join(t for key, t in known.items() if key == "point" or len(values[key]) > 1) for known in traits]


def _traits(row: Row) -> dict[str, str]:
    """Return what a point is known by, in words; its scenario where several were compared."""
    known = {"scenario": str(row.get("scenario") or ""), "point": on_devices(row)}
    known |= {"batch": f"global batch {row['global_batch_size']}", "micro-batch": micro_batch(row)}
    known |= {"rate": f"learning rate {row['learning_rate']:g}"}
    known |= {f"setting {key}": f"{key} {value}" for key, value in settings_of(row).items()}
    return {key: text for key, text in known.items() if text}


def _change(finding: Finding) -> str:
    if finding.change is None:
        return ""
    interval = interval_in_words(finding)
    return change_in_percent(finding.change) + (f", {interval}" if interval else "")


def ratios_in_words(found: Comparison) -> list[Text]:
    """Return every time of an update that was compared, new over base, with its interval; found worse or not."""
    return [
        Text(
            f"{point_in_words(change.row)}: {change.quantity.name} {change.quantity.text(change.base)} before, "
            f"{change.quantity.text(change.new)} now ({change_in_percent(change.ratio)}"
            f"{', ' + sure if (sure := interval_in_words(change)) else ''})."
        )
        for change in found.changes
        if change.quantity == UPDATE_TIME
    ]


def interval_in_words(finding: Finding | Change) -> str:
    """Return how sure a change is: beside the reference, else its interval and runs; "" where it is exact."""
    if finding.gated is not None:
        return beside_in_words(finding.gated)
    if finding.interval is None:
        return ""
    low, high = change_in_percent(finding.interval.low), change_in_percent(finding.interval.high)
    base, new = finding.runs
    runs = counted(base, "run") if base == new else f"{base} and {counted(new, 'run')}"
    coverage = f"{100 * finding.interval.coverage:.4g} %"
    return f"{coverage} interval {low} to {high}, {runs} on each side"


def _cells(finding: Finding) -> Sequence[str]:
    kind, point, name = KIND_WORDS[finding.kind], point_in_words(finding.row), finding.quantity.name
    if finding.quantity == STATUS:
        return kind, point, name, finding.base, finding.new, finding.detail, ""
    before, after = (finding.quantity.text(value) for value in (finding.base, finding.new))
    return kind, point, name, before, after, _change(finding), finding.where or finding.detail


def in_common(found: Comparison) -> Text:
    """Say how many cells were there to compare."""
    parts = [f"{counted(found.cells, 'cell')} in common"]
    if found.copies:
        are = "is" if found.copies == 1 else "are"
        parts.append(f"{found.copies} of them {are} the same measurement on both sides and not compared")
    parts += [f"{counted(found.only_new, 'cell')} in NEW only"] if found.only_new else []
    if found.never_run:
        has = "has" if found.never_run == 1 else "have"
        parts.append(f"{counted(found.never_run, 'cell')} of NEW's plan {has} no result on either side")
    return Text("; ".join(parts))


def _changed(found: Comparison) -> list[str]:
    return [f"changed: {what}: {before} before, {after} now" for what, before, after in found.changed]


def _around(found: Comparison) -> list[str]:
    lines: list[str] = [could_detect(found.detectable)] if found.detectable else []
    notes = [noisy_in_words(found), *found.notes]
    return [*lines, *(f"note: {note}" for note in notes if note)]


def noisy_in_words(found: Comparison) -> Text:
    """Say how many of the compared cells were disturbed, by what, and what repeats them; empty where none was."""
    base, new = (str(count) if count else "none" for count in found.noisy)
    if not any(found.noisy):
        return NO_TEXT
    cells = f"{new} of the {counted(found.cells - found.copies, 'cell')} of NEW and {base} of BASE"
    return Text(f"{cells} {was_disturbed(sum(found.noisy))} by {by_what(found.disturbed_by)}. {REPEAT}")


def could_detect(detectable: Sequence[Detectable]) -> Text:
    """Say what growth would have been found in four cases of five, quantity by quantity: at best and at worst."""
    parts = []
    for quantity in dict.fromkeys(d.quantity for d in detectable):
        known = sorted((d for d in detectable if d.quantity == quantity), key=lambda d: d.factor)
        least, most = known[0], known[-1]
        text = f"{quantity.name} {change_in_percent(least.factor)}"
        if most.factor > 1.01 * least.factor:
            text += f" (worst case {change_in_percent(most.factor)}: {point_in_words(most.row)})"
        parts.append(text)
    return Text(f"Smallest detectable increase: {'; '.join(parts)}")
