"""The whole of `harness validate`."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.commands.validate.dispatch import predict_all
from harness.commands.validate.published import Tables, read_directory
from harness.commands.validate.refit import leave_one_out
from harness.commands.validate.score import PredictedRow
from harness.commands.validate.score_text import report_text, write_csv
from harness.core.errors import InputError
from harness.costs.profiles import PUBLISHED


def score_directory(
    directory: Path, root: Path, out: Path | None = None, verbose: bool = False, refit: bool = True
) -> str:
    """Predict every row of a directory, write predictions and scenarios, return the scores as text.

    Args:
        root: results; what is written goes to a folder of its own in it.
        out: where the predictions go instead.
        refit: also refit every constant without what it predicts.

    Raises:
        InputError: the directory is none of published measurements, or the predictions cannot be written.
    """
    published = read_directory(directory)
    predictions = predict_all(published, PUBLISHED)
    folder = root / f"validate-{directory.resolve().name}"
    written = _write(published, predictions, folder, out or folder / "predictions.csv")
    left_out = leave_one_out(published) if refit else None
    text = report_text(published, predictions, PUBLISHED, left_out, verbose)
    return f"{text}\n\npredictions: {written}\nscenarios: {folder / 'scenarios'}"


def _write(published: Tables, predictions: list[PredictedRow], folder: Path, out: Path) -> Path:
    """Write the predictions, and the scenarios of all rows that are scenarios."""
    place = "--results"
    try:
        shutil.copytree(published.scenarios, folder / "scenarios", dirs_exist_ok=True)
        place = "--out"
        write_csv(predictions, out)
    except OSError as error:
        raise InputError([f"{place} {out}: {error.strerror}; name a file in a folder that exists"]) from None
    return out
