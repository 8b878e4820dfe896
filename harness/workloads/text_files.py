"""Real text as tokens: the bytes of UTF-8 files, each to be told from those before it."""

from __future__ import annotations

import hashlib
import sysconfig
from codecs import BOM_UTF8, getincrementaldecoder
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.core.errors import MachineError
from harness.core.outside_files import open_outside
from harness.workloads.entries import RawData, TextOptions

BYTE_VALUES = 256
"""Different tokens: a byte is one."""
TEXT_RECIPE = "samples of bytes in a row, drawn apart for training and test"
"""Part of the checksum; changes whenever the same text makes other samples."""
TEXT_SEED = 20163
"""Draws which samples are the test split: those at the end of the text are of other files than the others."""
TEXT_ENDINGS = (".txt", ".md", ".py", ".rst", ".html", ".csv", ".json")
"""Files of a folder that are read; chosen: what is commonly text."""


def load_text(options: TextOptions) -> RawData:
    """Cut text into samples of `sequence` bytes, int64, (n, sequence); each byte's label is the one after it.

    Samples follow each other in the text without overlap, so that no text is both trained on and tested with.

    Raises:
        MachineError: there is no text, or not enough of it.
    """
    text = corpus_of(options)
    each = options.sequence
    count = (len(text) - 1) // each
    wanted = options.samples + options.test_samples
    if count < options.test_samples + 2:
        raise MachineError(
            f"dataset text: {len(text):,} bytes in {_where(options)} make {max(count, 0):,} samples of {each} bytes, "
            f"and test_samples = {options.test_samples} leaves none to train on; give more text or a shorter sequence"
        )
    order = np.random.RandomState(TEXT_SEED).permutation(count)[:wanted]
    places = order[:, None] * each + np.arange(each + 1)
    samples = np.frombuffer(text, np.uint8)[places].astype(np.int64)
    test, train = samples[: options.test_samples], samples[options.test_samples :]
    return RawData(
        train[:, :-1].copy(),
        train[:, 1:].copy(),
        test[:, :-1].copy(),
        test[:, 1:].copy(),
        BYTE_VALUES,
        full_scale=1.0,
        checksum=_checksum(text, options),
        vocabulary=BYTE_VALUES,
    )


def text_checksum(options: TextOptions) -> str:
    """Return sha256 in hex of the text and of how it is cut.

    Raises:
        MachineError: there is no text.
    """
    return _checksum(corpus_of(options), options)


def _checksum(text: bytes, options: TextOptions) -> str:
    cut = options.model_dump_json(exclude={"path"})
    return hashlib.sha256(f"{TEXT_RECIPE}\n{cut}\n".encode() + hashlib.sha256(text).digest()).hexdigest()


def _beginning(path: Path, most_bytes: int) -> bytes:
    """Return no more of a text than is asked for, whatever follows it, without a byte order mark.

    Raises:
        OSError: it cannot be read, or is no file.
        UnicodeDecodeError: it is not UTF-8.
    """
    with open_outside(path) as file:
        content = file.read(len(BOM_UTF8) + most_bytes)
        at_end = not file.read(1)
    getincrementaldecoder("utf-8")().decode(content, final=at_end)  # the cut may be within a character
    return content.removeprefix(BOM_UTF8)


def corpus_of(options: TextOptions) -> bytes:
    """Return as much text as the options ask for, one file after another in the order of their names.

    Raises:
        MachineError: there is none, or it is not UTF-8.
    """
    most = (options.samples + options.test_samples) * options.sequence + 1
    parts: list[bytes] = []
    held = 0
    for path in _files(options):
        try:
            content = _beginning(path, most - held)
        except UnicodeDecodeError as error:
            if options.path is None:
                continue  # of Python's own files a few declare another encoding
            raise MachineError(f"dataset text: {path}: not UTF-8: {error}; save it as UTF-8") from None
        except OSError as error:
            raise MachineError(f"dataset text: {path}: cannot be read: {error.strerror or error}") from error
        parts.append(content)
        held += len(content)
        if held >= most:
            break
    text = b"".join(parts)
    if not text:
        raise MachineError(f"dataset text: no text in {_where(options)}; give a file or a folder as `path`")
    return text[:most]


def _files(options: TextOptions) -> Iterator[Path]:
    if options.path is None:
        return iter(sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")))
    path = options.path.expanduser()
    if path.is_dir():
        return iter(sorted(each for each in path.rglob("*") if each.suffix in TEXT_ENDINGS and each.is_file()))
    return iter([path])


def _where(options: TextOptions) -> str:
    return "Python's standard library" if options.path is None else str(options.path)
