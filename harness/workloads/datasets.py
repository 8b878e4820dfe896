"""The functions that load the data sets which ship with the harness, as numpy arrays."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.core.errors import MachineError
from harness.workloads.entries import DatasetSize, DataShape, RawData, SyntheticOptions
from harness.workloads.files import (
    Published,
    files_checksum,
    parse_idx,
    read_idx,
    read_idx_shape,
    read_published,
)

if TYPE_CHECKING:
    import numpy.typing as npt

IMAGE_AXES = (3, 4)
LABEL_AXES = (1,)

DIGITS_FILE = Path(__file__).parent / "data_files" / "digits.csv.gz"
"""Its origin and licence stand beside it."""
DIGITS_TRAIN = 1437
"""Four fifths of 1,797; the rest, 360, is the test set."""
DIGITS_SEED = 1797
"""Draws that split, once and for all: the file's own order is not random (it repeats 0 to 9)."""

SYNTHETIC_RECIPE = "prototypes of 4 x 4 blocks, contrast 16, noise 48"
"""Part of the checksum; changes whenever the same options make other pictures."""
BLOCK_PIXELS = 4
CONTRAST = 16.0
NOISE = 48.0
"""In grey levels of 0..255. Chosen: a pixel says little (signal a third of the noise), 28 x 28 of them enough."""
SYNTHETIC_CHUNK = 1024
"""Pictures made at once; bounds temporary memory. Another value would make other pictures: see SYNTHETIC_RECIPE."""


def content_checksum(arrays: Sequence[npt.NDArray[np.generic]]) -> str:
    """Return sha256 in hex over types, shapes and values of `arrays`."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def load_digits() -> RawData:
    """Read the digits that ship with the harness: 1,437 to train on and 360 to test with, 8 x 8, values 0..16.

    Source: Alpaydin and Kaynak 1998, UCI repository.
    """
    table = np.loadtxt(io.BytesIO(gzip.decompress(DIGITS_FILE.read_bytes())), delimiter=",", dtype=np.uint8)
    table = table[np.random.RandomState(DIGITS_SEED).permutation(len(table))]
    images, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    return RawData(
        images[:DIGITS_TRAIN],
        labels[:DIGITS_TRAIN],
        images[DIGITS_TRAIN:],
        labels[DIGITS_TRAIN:],
        classes=10,
        full_scale=16.0,
        checksum=content_checksum((images, labels)),
    )


def load_published(published: Published) -> RawData:
    """Read a published data set from the data folder, downloading it first where it is missing.

    Raises:
        MachineError: it can neither be found nor downloaded, or is not what was published.
    """
    axes = (IMAGE_AXES, LABEL_AXES, IMAGE_AXES, LABEL_AXES)
    contents = zip(read_published(published), axes, strict=True)
    arrays = [parse_idx(path, content, dimensions) for (path, content), dimensions in contents]
    return _from_idx(published.folder, arrays, published.checksum)


def load_idx(train_images: Path, train_labels: Path, test_images: Path, test_labels: Path) -> RawData:
    """Read four IDX files of unsigned bytes.

    Raises:
        MachineError: a file cannot be read, or the four do not fit together.
    """
    paths = (train_images, train_labels, test_images, test_labels)
    axes = (IMAGE_AXES, LABEL_AXES, IMAGE_AXES, LABEL_AXES)
    arrays = [read_idx(path, dimensions) for path, dimensions in zip(paths, axes, strict=True)]
    raw = _from_idx(str(train_images.parent), arrays, files_checksum(path.read_bytes() for path in paths))
    return replace(raw, judged=False)


def idx_size(train_images: Path, train_labels: Path, test_images: Path, test_labels: Path) -> DatasetSize:
    """Return counts and shape from the headers, and the classes from the labels, without reading the images.

    Raises:
        MachineError: a file cannot be read or has another format.
    """
    num_train, *train_shape = read_idx_shape(train_images, IMAGE_AXES)
    num_test = read_idx_shape(test_images, IMAGE_AXES)[0]
    *channels, height, width = train_shape
    classes = _num_classes(read_idx(train_labels, LABEL_AXES), read_idx(test_labels, LABEL_AXES))
    return DatasetSize(num_train, num_test, DataShape(channels[0] if channels else 1, height, width, classes))


def _num_classes(*labels: npt.NDArray[np.generic]) -> int:
    """Return how many classes there are: labels are 0, 1, 2, ..., so one more than the largest."""
    return 1 + max((int(some.max()) for some in labels if len(some)), default=0)


def _from_idx(where: str, arrays: Sequence[npt.NDArray[np.uint8]], checksum: str) -> RawData:
    train_images, train_labels, test_images, test_labels = arrays
    classes = _num_classes(train_labels, test_labels)
    raw = RawData(
        train_images,
        train_labels.astype(np.int64),
        test_images,
        test_labels.astype(np.int64),
        classes,
        full_scale=255.0,
        checksum=checksum,
    )
    if problem := mismatch(raw):
        raise MachineError(f"{where}: {problem}; the four files must belong together")
    return raw


def mismatch(raw: RawData) -> str:
    """Return in words where the arrays of `raw` do not fit together, or nothing."""
    for part, images, labels in (
        ("training", raw.train_inputs, raw.train_targets),
        ("test", raw.test_inputs, raw.test_targets),
    ):
        if isinstance(images, dict) or labels.shape != images.shape[:1]:
            return f"{len(images)} {part} images but {part} labels of shape {labels.shape}"
        if len(labels) and not 0 <= labels.min() <= labels.max() < raw.classes:
            return f"{part} labels from {labels.min()} to {labels.max()}, expected 0 to {raw.classes - 1}"
    shapes = [images.shape[1:] for images in (raw.train_inputs, raw.test_inputs) if not isinstance(images, dict)]
    if len(set(shapes)) > 1:
        return f"training images of shape {shapes[0]}, test images of {shapes[1]}"
    return "" if len(raw.train_inputs) else "no training images"


def load_synthetic(options: SyntheticOptions) -> RawData:
    """Make pictures of noisy class prototypes, uint8, (n, channels, size, size).

    Each class has a random pattern of 4 x 4 pixel blocks (so that convolution and pooling have something to find);
    each picture is its class's pattern plus Gaussian noise in every pixel. Classes are as even as the count allows.
    """
    random = np.random.default_rng([options.seed, 0])
    prototypes = _prototypes(options, random)
    train_images, train_labels = _pictures(options.samples, prototypes, random)
    test_images, test_labels = _pictures(options.test_samples, prototypes, random)
    return RawData(
        train_images,
        train_labels,
        test_images,
        test_labels,
        options.classes,
        full_scale=255.0,
        checksum=synthetic_checksum(options),
    )


def synthetic_checksum(options: SyntheticOptions) -> str:
    """Return sha256 in hex of what the pictures follow from: the recipe, its options, numpy's generator."""
    # numpy may change its generators between minor versions, and with them the pictures.
    made_by = ".".join(np.__version__.split(".")[:2])
    return hashlib.sha256(f"{SYNTHETIC_RECIPE}\nnumpy {made_by}\n{options.model_dump_json()}".encode()).hexdigest()


def _prototypes(options: SyntheticOptions, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return one pattern for each class, float32, (classes, channels, size, size), in grey levels."""
    blocks = -(-options.size // BLOCK_PIXELS)
    coarse = random.standard_normal((options.classes, options.channels, blocks, blocks), dtype=np.float32)
    fine = coarse.repeat(BLOCK_PIXELS, axis=2).repeat(BLOCK_PIXELS, axis=3)
    pattern: npt.NDArray[np.float32] = fine[:, :, : options.size, : options.size]
    return 127.5 + CONTRAST * pattern


def _pictures(
    num: int, prototypes: npt.NDArray[np.float32], random: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    labels = random.permutation(np.arange(num) % len(prototypes))
    images = np.empty((num, *prototypes.shape[1:]), np.uint8)
    for start in range(0, num, SYNTHETIC_CHUNK):
        chunk = prototypes[labels[start : start + SYNTHETIC_CHUNK]]
        chunk += NOISE * random.standard_normal(chunk.shape, dtype=np.float32)
        images[start : start + SYNTHETIC_CHUNK] = np.rint(chunk.clip(0, 255))
    return images, labels
