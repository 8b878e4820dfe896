"""A folder of images by class: one folder for each class, with its PNG and JPEG files."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.core import cache
from harness.core.errors import MachineError
from harness.core.outside_files import refuse_no_file
from harness.core.words import listed
from harness.workloads.data_forms import MapSet
from harness.workloads.datasets import content_checksum
from harness.workloads.entries import ImageFolderOptions, RawData, Streams
from harness.workloads.own_data import MapSource

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.workloads.entries import Keeps

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")
TEST_FOLDERS = ("test", "val", "validation", "valid")
"""What the test split's folder is called, in this order."""
IMAGE_SEED = 20164
"""Draws the test split where the folder has none: chosen once, so that all runs are judged by the same images."""
LOOK_IMAGES = 256
"""Images that are read to measure mean and deviation where the others are read as they are needed; chosen."""


@dataclass(frozen=True)
class Listing:
    """Files of one split, with the number of their class."""

    files: tuple[Path, ...]
    labels: npt.NDArray[np.int64]

    def at(self, rows: npt.NDArray[np.intp]) -> Listing:
        """Return some of them."""
        return Listing(tuple(self.files[row] for row in rows), self.labels[rows])


class Images:
    """A map-style data set of images, uint8, (channels, size, size), and their classes."""

    def __init__(self, listing: Listing, size: int, grey: bool) -> None:
        self.files, self.targets, self.size, self.grey = listing.files, listing.labels, size, grey

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[npt.NDArray[np.uint8], int]:
        return read_image(self.files[row], self.size, self.grey), int(self.targets[row])


def read_image(path: Path, size: int, grey: bool) -> npt.NDArray[np.uint8]:
    """Return an image of (channels, size, size): its shorter side becomes `size` pixels, and its middle is kept.

    Raises:
        MachineError: the file is no image that Pillow reads.
    """
    from PIL import Image, ImageOps

    try:
        refuse_no_file(path)
        with Image.open(path) as image:
            fitted = ImageOps.fit(image.convert("L" if grey else "RGB"), (size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MachineError(f"dataset imagefolder: {path}: no image that can be read: {error}") from error
    pixels = np.asarray(fitted, dtype=np.uint8)
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def listings(options: ImageFolderOptions) -> tuple[Listing, Listing]:
    """Return the files of the training and of the test split.

    Raises:
        MachineError: the folder is not laid out as one with classes.
    """
    root = options.path.expanduser()
    if not root.is_dir():
        raise MachineError(f"dataset imagefolder: {root} is no folder; give one as `path`")
    train = root / "train" if (root / "train").is_dir() else root
    test = next((root / name for name in TEST_FOLDERS if train is not root and (root / name).is_dir()), None)
    classes = _classes(train)
    whole = _listing(train, classes)
    if test is not None:
        other = [name for name in _classes(test) if name not in classes]
        if other:
            raise MachineError(f"dataset imagefolder: {test} has the classes {listed(other)}, which {train} has not")
        return whole, _listing(test, classes)
    tested = max(1, round(options.test_fraction * len(whole.files)))
    order = np.random.RandomState(IMAGE_SEED).permutation(len(whole.files))
    return whole.at(np.sort(order[tested:])), whole.at(np.sort(order[:tested]))


def _classes(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        there = f"has only {names[0]}" if names else "has none"
        raise MachineError(f"dataset imagefolder: {folder} must have one folder for each class, and {there}")
    return names


def _listing(folder: Path, classes: list[str]) -> Listing:
    files, labels = [], []
    for number, name in enumerate(classes):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
        files += found
        labels += [number] * len(found)
    if not files:
        raise MachineError(f"dataset imagefolder: {folder} has no {listed(IMAGE_ENDINGS, 'or')} files in its folders")
    return Listing(tuple(files), np.array(labels, dtype=np.int64))


def load_images(options: ImageFolderOptions, keeps: Keeps | None = None) -> RawData:
    """Read a folder of images: all of them, or some where they do not stay in memory.

    Raises:
        MachineError: the folder or an image cannot be read.
    """
    train, test = listings(options)
    grey = options.channels == 1
    images = [Images(each, options.size, grey) for each in (train, test)]
    total = (len(train.files) + len(test.files)) * options.channels * options.size**2
    stay = keeps is None or keeps(4 * total, False)
    looks = [np.arange(len(each)) if stay else _spread(len(each)) for each in images]
    arrays = [np.stack([each[row][0] for row in rows]) for each, rows in zip(images, looks, strict=True)]
    sources = [MapSource(MapSet(each), lambda inputs: inputs) for each in images]
    streams = None if stay else Streams(sources[0], sources[1])
    return RawData(
        arrays[0],
        train.labels,
        arrays[1],
        test.labels,
        1 + int(train.labels.max()),
        full_scale=255.0,
        checksum=folder_checksum(options),
        remarks=() if stay else (f"data: images are normalised by {len(looks[0]):,} of them",),
        streams=streams,
        judged=False,
    )


def _spread(count: int) -> npt.NDArray[np.intp]:
    return np.unique(np.linspace(0, count - 1, min(LOOK_IMAGES, count)).astype(np.intp))


def folder_checksum(options: ImageFolderOptions) -> str:
    """Return sha256 in hex of the files' names and content, and of how they are read.

    Raises:
        MachineError: the folder is not laid out as one with classes, or a file cannot be read.
    """
    digest = hashlib.sha256(options.model_dump_json(exclude={"path"}).encode())
    root = options.path.expanduser()
    for listing in listings(options):
        digest.update(content_checksum([listing.labels]).encode())
        for folder, files in groupby(listing.files, key=lambda path: path.parent):
            digest.update(f"{folder.relative_to(root)} {_content_of(list(files))}\n".encode())
    return digest.hexdigest()


SETTLED_S = 2.0
"""Age from which a file's date is trusted to change with its content; chosen: the coarsest dates in use are of 2 s."""


def _content_of(files: Sequence[Path]) -> str:
    """Return sha256 of some files' names and content; read again only where a name, a size or a date is another one.

    Raises:
        MachineError: a file cannot be read.
    """
    digest, abouts = hashlib.sha256(), [path.stat() for path in files]
    pairs = zip(files, abouts, strict=True)
    seen = "\n".join(f"{path.resolve()} {about.st_size} {about.st_mtime_ns}" for path, about in pairs)
    key = {"seen": hashlib.sha256(seen.encode()).hexdigest()}
    kept = cache.load("images", key)
    if kept is not None:
        return str(kept["sha256"])
    for path in files:
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise MachineError(f"dataset imagefolder: {path}: cannot be read: {error.strerror or error}") from error
        digest.update(f"{path.name} {content}\n".encode())
    if max(about.st_mtime for about in abouts) < time.time() - SETTLED_S:
        cache.save("images", key, {"sha256": digest.hexdigest()})
    return digest.hexdigest()
