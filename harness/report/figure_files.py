"""Every figure as files of its own, for slides and papers: SVG, PNG, and what it shows as CSV; no page is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from harness.core.atomic_files import atomic, write_atomically
from harness.core.errors import InputError
from harness.report.against import Against, shown_against
from harness.report.anonymous import anonymous
from harness.report.figures import Page, figures_of, palette_of
from harness.report.scenario_results import NO_SIMULATOR, Simulator, read_scenario
from harness.report.shades import Palette
from harness.report.svg import Drawing, Panel, Picture
from harness.results.store import Results

LIST = "figures.md"
"""Name of the file that lists the figures of a folder, with their captions."""


def write_figures(
    results: Sequence[Results],
    folder: Path,
    *,
    what_if: Simulator | None = None,
    against: Against | None = None,
    named: bool = False,
) -> list[Path]:
    """Write the figures of one or more scenarios' folders, numbered as the page has them, and return the SVGs.

    Args:
        results: folders with a plan.
        folder: where they go; of several scenarios each gets a folder of its own in it.
        what_if: simulates stored cells again.
        against: what the results were compared with: its figures go into the folder itself.
        named: leave the names of host and home folder in.

    Raises:
        InputError: a folder has no plan, a record is damaged, or `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError([f"report: --figures {folder} is a file; name a folder"])
    scenarios = [read_scenario(item, what_if or NO_SIMULATOR) for item in results]
    palette, clean = palette_of(scenarios), (str if named else anonymous)
    written: list[Path] = []
    if against is not None:
        files = FigureFiles(palette, folder, clean)
        shown_against(against, files)
        written += files.finish()
    for item, scenario in zip(results, scenarios, strict=True):
        alone = len(scenarios) == 1 and against is None
        files = FigureFiles(palette, folder if alone else folder / item.folder.name, clean)
        figures_of(scenario, files)
        written += files.finish()
    return written


class FigureFiles(Page):
    """A folder in place of a page: what is drawn goes into files.

    Args:
        palette: colour by strategy.
        folder: where they go.
        clean: takes names of host and user out of what is written.
    """

    def __init__(self, palette: Palette, folder: Path, clean: Callable[[str], str]) -> None:
        super().__init__(palette, "")
        self._folder, self._clean = folder, clean
        self._written: list[tuple[Path, Picture]] = []

    def drawn(self, panels: Iterable[Panel | None]) -> tuple[Drawing, ...]:
        """Write what there is to draw; nothing is left for a page."""
        for panel in panels:
            if panel is None:
                continue
            picture = panel.picture(self.palette, self._clean)
            path = self._folder / f"{len(self._written) + 1:02}-{panel.file}.svg"
            write_atomically(path, picture.svg)
            with atomic(path.with_suffix(".png")) as png:
                png.write_bytes(picture.png)
            write_atomically(path.with_suffix(".csv"), picture.csv)
            self._written.append((path, picture))
        return ()

    def finish(self) -> list[Path]:
        """Write the list of the figures and return their SVGs."""
        entries = [
            f"## {picture.title}\n\n{picture.caption}\n\n![{picture.title}]({path.name}) "
            f"[PNG]({path.with_suffix('.png').name}) [CSV]({path.with_suffix('.csv').name})\n"
            for path, picture in self._written
        ]
        if entries:
            write_atomically(self._folder / LIST, "\n".join(entries))
        return [path for path, _ in self._written]
