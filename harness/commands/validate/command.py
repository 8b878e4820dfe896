"""The whole of `harness validate`."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.commands.validate.dispatch import predict_all
from harness.commands.validate.own_scenarios import predict_own, scenario_files
from harness.commands.validate.published import read_directory
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
        directory: tables of published measurements, or scenarios that say what was measured.
        root: results; what is written goes to a folder of its own in it.
        out: where the predictions go instead.
        refit: also refit every constant without what it predicts.

    Raises:
        InputError: the directory is neither, or the predictions cannot be written.
    """
    folder = root / f"validate-{directory.resolve().name}"
    if not (directory / "cases.toml").exists() and scenario_files(directory):
        own, predictions = predict_own(directory)
        written = _write(predictions, None, folder, out)
        return f"{report_text(own, predictions, PUBLISHED, NO_TABLES, verbose)}\n\npredictions: {written}"
    published = read_directory(directory)
    predictions = predict_all(published, PUBLISHED)
    written = _write(predictions, published.scenarios, folder, out)
    left_out = leave_one_out(published) if refit else NO_REFIT
    text = report_text(published, predictions, PUBLISHED, left_out, verbose)
    return f"{text}\n\npredictions: {written}\nscenarios: {folder / 'scenarios'}"


NO_REFIT = "not asked for; leave out --no-refit to refit every constant without what it predicts"
NO_TABLES = "constants are fitted on tables only, and predict these scenarios as they are"


def _write(predictions: list[PredictedRow], scenarios: Path | None, folder: Path, out: Path | None) -> Path:
    """Write the predictions, and scenarios of the rows that are written as such; return where the predictions are."""
    option, path = "--results", out or folder / "predictions.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if scenarios is not None:
            shutil.copytree(scenarios, folder / "scenarios", dirs_exist_ok=True)
        option = "--out"
        write_csv(predictions, path)
    except OSError as error:
        raise InputError([f"{option} {path}: {error.strerror}; name a file in a folder that exists"]) from None
    return path
