"""The whole of `harness validate`."""

from __future__ import annotations

from pathlib import Path

from harness.commands.validate.dispatch import predict_all
from harness.commands.validate.published import read_directory
from harness.commands.validate.refit import leave_one_case_out
from harness.commands.validate.score_text import report_text, write_csv
from harness.core.errors import InputError
from harness.costs.profiles import PUBLISHED


def score_directory(directory: Path, out: Path, verbose: bool = False) -> str:
    """Predict every row of a directory, write the predictions, return the scores as text.

    Raises:
        InputError: the directory is none of published measurements, or the predictions cannot be written.
    """
    published = read_directory(directory)
    predictions = predict_all(published, PUBLISHED)
    try:
        write_csv(predictions, out)
    except OSError as error:
        raise InputError([f"--out {out}: {error.strerror}; name a file in a folder that exists"]) from None
    left_out = leave_one_case_out(published)
    text = report_text(published, predictions, PUBLISHED, left_out or None, verbose)
    return f"{text}\n\npredictions: {out}"
