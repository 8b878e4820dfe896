"""The whole of `harness validate`."""

from __future__ import annotations

from pathlib import Path

from harness.costs.constants import PUBLISHED
from harness.errors import InputError
from harness.validation.fit import leave_one_case_out
from harness.validation.predict import predict_all
from harness.validation.report import report_text, write_csv
from harness.validation.tables import read_directory


def validate(directory: Path, out: Path, verbose: bool = False) -> str:
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
