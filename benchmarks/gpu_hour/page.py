"""The page of a run: what was found, judged by its aims, what was not run, and what is confirmed. And its archive.

Imports the standard library only.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hour import Finding, Section, Verdict, figure_in_words

ASSUMPTION = re.compile(r"^\| *`?([A-Za-z][\w-]*)`? *\| *(?!-)(.+?) *\|", re.MULTILINE)
"""A row of docs/gpu.md: its id, and what is assumed."""


def assumptions(text: str) -> dict[str, str]:
    """Return the rows of docs/gpu.md by their ids; a table's head is none."""
    lines = text.splitlines()
    heads = {lines[k - 1] for k in range(1, len(lines)) if re.fullmatch(r"[|: -]+", lines[k]) and "-" in lines[k]}
    rows = "\n".join(line for line in lines if line not in heads)
    return {found[1]: found[2] for found in ASSUMPTION.finditer(rows)}


def confirmed(findings: Iterable[Finding]) -> list[str]:
    """Return the ids that something bore out and nothing contradicted."""
    borne_out = dict.fromkeys(name for found in findings for name in found.confirms)
    return list(borne_out)


def page(
    findings: Sequence[Finding],
    sections: Sequence[Section],
    seconds: Mapping[str, float],
    facts: Mapping[str, object],
    listed: Mapping[str, str],
    reports: Sequence[str],
) -> str:
    """Return the page as markdown.

    Args:
        facts: of the machine, device, driver and versions.
        listed: assumptions of docs/gpu.md by id.
        reports: paths of the harness's own reports beside the page.
    """
    lines = [f"# First hour on {facts.get('name') or facts.get('cpu') or 'this machine'}", ""]
    lines += [f"{_counts(findings)}.", "", "| machine | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts.items() if value not in ("", None)]
    for section in sections:
        found = [finding for finding in findings if finding.section == section.key]
        took = f"{seconds[section.key]:.0f} s" if section.key in seconds else "not run"
        lines += ["", f"## {section.key}. {section.title} ({took})", "", *_table(found)]
    lines += ["", "## Assumptions", "", *_assumptions(confirmed(findings), listed)]
    if reports:
        lines += ["", "## Reports", "", *(f"- [{path}]({path})" for path in reports)]
    return "\n".join(lines) + "\n"


def _counts(findings: Sequence[Finding]) -> str:
    counted = {verdict: sum(found.verdict is verdict for found in findings) for verdict in Verdict}
    return ", ".join(f"{count} {verdict}" for verdict, count in counted.items() if count) or "Nothing was run"


def _table(found: Sequence[Finding]) -> list[str]:
    if not found:
        return ["Nothing was found."]
    lines = ["| what | figure | aim | verdict |", "|---|---|---|---|"]
    notes = []
    for finding in found:
        figure = "" if finding.value is None else figure_in_words(finding.value, finding.unit)
        verdict = str(finding.verdict)
        why = finding.why.strip()
        if "\n" in why:
            notes.append(f"{finding.what}:\n\n```text\n{why}\n```")
        elif why:
            verdict += f": {_in_table(why)}"
        lines.append(f"| {_in_table(finding.what)} | {figure} | {finding.aim} | {verdict} |")
    return [*lines, *(line for note in notes for line in ("", note))]


def _in_table(text: str) -> str:
    return text.replace("|", "\\|")


def _assumptions(seen: Sequence[str], listed: Mapping[str, str]) -> list[str]:
    if not seen and not listed:
        return ["None was confirmed."]
    lines = [f"- `{name}` confirmed" + (f": {listed[name]}" if name in listed else "") for name in seen]
    open_ones = [name for name in listed if name not in seen]
    return lines + ([f"- not confirmed by this run: {', '.join(open_ones)}"] if open_ones else [])


def pack(folder: Path) -> Path:
    """Return the archive of a folder, beside it."""
    path = folder.with_name(folder.name + ".tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return path


def scrub(folder: Path, names: Mapping[str, str]) -> None:
    """Take paths of the machine out of what is text; they say nothing to whoever reads it elsewhere."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in (".txt", ".xml", ".json", ".jsonl"):
            text = path.read_text(encoding="utf-8", errors="replace")
            for name, stands in names.items():
                text = text.replace(name, stands)
            path.write_text(text, encoding="utf-8")
