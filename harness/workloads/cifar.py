"""CIFAR-10 and CIFAR-100 from their published archives of binary files.

A record is one label (CIFAR-100: the coarse one, then the fine one) and 3,072 bytes: 32 x 32 pixels of red, then of
green, then of blue. Source: Krizhevsky 2009, Learning multiple layers of features from tiny images; its web page.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.core.errors import MachineError
from harness.workloads.entries import RawData
from harness.workloads.files import Published, read_published

if TYPE_CHECKING:
    import numpy.typing as npt

PIXELS = 3 * 32 * 32

TRAIN_FILES = {10: tuple(f"data_batch_{number}.bin" for number in range(1, 6)), 100: ("train.bin",)}
TEST_FILES = {10: "test_batch.bin", 100: "test.bin"}


def load_cifar(published: Published, classes: int) -> RawData:
    """Read a published archive from the data folder, downloading it first where it is missing.

    Args:
        classes: 10, or 100 (then the fine label is the class).

    Raises:
        MachineError: it can neither be found nor downloaded, or is not what was published.
    """
    ((path, content),) = read_published(published)
    found = _members(path, content, (*TRAIN_FILES[classes], TEST_FILES[classes]))
    train = [parse_records(path, name, found[name], classes) for name in TRAIN_FILES[classes]]
    test = parse_records(path, TEST_FILES[classes], found[TEST_FILES[classes]], classes)
    return RawData(
        np.concatenate([images for images, _ in train]),
        np.concatenate([labels for _, labels in train]),
        *test,
        classes,
        full_scale=255.0,
        checksum=published.checksum,
    )


def _members(path: Path, content: bytes, names: tuple[str, ...]) -> dict[str, bytes]:
    """Return files of an archive by their names without folders; nothing is unpacked to the disk."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                stream = archive.extractfile(member) if name in names else None
                if stream is not None:
                    found[name] = stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise MachineError(
            f"{path}: a damaged archive: {error}; delete it, and the next run downloads it again"
        ) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise MachineError(f"{path}: without {', '.join(missing)}; delete it, and the next run downloads it again")
    return found


def parse_records(
    path: Path, name: str, content: bytes, classes: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return images (n, 3, 32, 32) and labels (n,) of one file of records.

    Raises:
        MachineError: it is no whole number of records, or has labels of other classes.
    """
    each = PIXELS + (1 if classes == 10 else 2)
    if not content or len(content) % each:
        raise MachineError(f"{path}: {name} has {len(content):,} bytes, no whole number of records of {each:,}")
    records = np.frombuffer(content, np.uint8).reshape(-1, each)
    labels = records[:, each - PIXELS - 1].astype(np.int64)
    if labels.max() >= classes:
        raise MachineError(f"{path}: {name} has a label {labels.max()}, expected 0 to {classes - 1}")
    return records[:, each - PIXELS :].reshape(-1, 3, 32, 32), labels
