"""Data files: where they lie, how IDX is read, and how published ones are downloaded and verified."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import MachineError
from harness.core.outside_files import refuse_no_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DATA_VARIABLE = "HARNESS_DATA"

MOST_UNPACKED = 1032
"""Bytes that one compressed byte can stand for.

Source: Gailly and Adler, zlib's technical details: 1032 to 1 is the limit of deflate.
"""

SILENCE_S = 20.0
"""How long a silent mirror is waited for. Chosen: longer delays the next mirror, shorter cuts off slow links."""


def data_folder(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Return the folder that holds one folder for each published data set: HARNESS_DATA, or the user's cache."""
    if environment.get(DATA_VARIABLE):
        return Path(environment[DATA_VARIABLE]).expanduser()
    if platform == "darwin":
        return Path.home() / "Library" / "Caches" / "harness" / "data"
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "harness" / "data"


@dataclass(frozen=True)
class PublishedFile:
    """One file as its publisher distributes it."""

    name: str
    num_bytes: int
    sha256: str

    def check(self, content: bytes) -> str:
        """Return what is wrong with `content`, or nothing."""
        if len(content) != self.num_bytes:
            return f"{len(content):,} bytes, expected {self.num_bytes:,}"
        found = hashlib.sha256(content).hexdigest()
        return "" if found == self.sha256 else f"sha256 {found}, expected {self.sha256}"


@dataclass(frozen=True)
class Published:
    """A published data set: four IDX files, or one archive.

    Attributes:
        folder: its name under the data folder.
        mirrors: addresses of folders, each with all the files, tried in this order.
        files: training images, training labels, test images, test labels; or the archive.
    """

    folder: str
    mirrors: tuple[str, ...]
    files: tuple[PublishedFile, ...]

    @property
    def checksum(self) -> str:
        """Checksum of the data set; known without the files, since only these very bytes are accepted."""
        return _combined(file.sha256 for file in self.files)


# Sizes and sums: of the publishers' own files; their md5 sums were checked against the published ones.
MNIST = Published(
    "mnist",
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    ),
    (
        PublishedFile(
            "train-images-idx3-ubyte.gz", 9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        ),
        PublishedFile(
            "train-labels-idx1-ubyte.gz", 28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
        ),
        PublishedFile(
            "t10k-images-idx3-ubyte.gz", 1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
        ),
        PublishedFile(
            "t10k-labels-idx1-ubyte.gz", 4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
        ),
    ),
)

FASHION_MNIST = Published(
    "fashion-mnist",
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
    ),
    (
        PublishedFile(
            "train-images-idx3-ubyte.gz", 26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
        ),
        PublishedFile(
            "train-labels-idx1-ubyte.gz", 29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
        ),
        PublishedFile(
            "t10k-images-idx3-ubyte.gz", 4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
        ),
        PublishedFile(
            "t10k-labels-idx1-ubyte.gz", 5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
        ),
    ),
)

# Sizes and sums of the author's archives, as TensorFlow Datasets records them.
CIFAR10 = Published(
    "cifar10",
    ("https://www.cs.toronto.edu/~kriz",),
    (
        PublishedFile(
            "cifar-10-binary.tar.gz", 170052171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
        ),
    ),
)

CIFAR100 = Published(
    "cifar100",
    ("https://www.cs.toronto.edu/~kriz",),
    (
        PublishedFile(
            "cifar-100-binary.tar.gz", 168513733, "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
        ),
    ),
)


def _combined(sums: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()


def files_checksum(contents: Iterable[bytes]) -> str:
    """Return one sha256 for several files, in their order; equal to `Published.checksum` for a published set."""
    return _combined(hashlib.sha256(content).hexdigest() for content in contents)


def _fetch(url: str, file: PublishedFile, folder: Path) -> str:
    """Download a file, which gets its name once its checksum is right; return why it cannot be had, or nothing."""
    # Imported here: it takes 0.3 s, and who has the files never needs it.
    import pooch

    pooch.get_logger().setLevel("WARNING")  # it would announce every file on stderr
    downloader = pooch.HTTPDownloader(timeout=SILENCE_S)
    try:
        pooch.retrieve(url, f"sha256:{file.sha256}", file.name, folder, downloader=downloader)
    except OSError as error:  # what requests raises is one too
        return f"{url}: {error}"
    except ValueError:
        return f"{url}: this is not the published file, so it was not kept: its sha256 is not {file.sha256}"
    (folder / file.name).chmod(0o644)  # pooch lets nobody else read it
    return ""


def _from_mirrors(published: Published, file: PublishedFile, folder: Path) -> list[str]:
    """Download a file from the first mirror that has it; return why none has, or nothing."""
    reasons: list[str] = []
    for mirror in published.mirrors:
        reason = _fetch(f"{mirror}/{file.name}", file, folder)
        if not reason:
            return []
        reasons.append(reason)
    return reasons or ["no mirror is known"]


def _unavailable(published: Published, folder: Path, missing: Iterable[PublishedFile], reasons: list[str]) -> str:
    wanted = [f"  {file.name}  {file.num_bytes:,} bytes  sha256 {file.sha256}" for file in missing]
    return "\n".join(
        [
            f"data set {published.folder}: could not be downloaded",
            *(f"  {reason}" for reason in reasons),
            f"put these files into {folder} (or set {DATA_VARIABLE} to a folder that has {published.folder}/):",
            *wanted,
        ]
    )


def download(published: Published, folder: Path) -> None:
    """Download the files that `folder` lacks, each verified before it gets its name.

    Raises:
        MachineError: no mirror has a file; the message lists all that are missing and where they go.
    """
    missing = [file for file in published.files if not (folder / file.name).exists()]
    if missing:
        _make_writable(published, folder)
    for number, file in enumerate(missing):
        if reasons := _from_mirrors(published, file, folder):
            raise MachineError(_unavailable(published, folder, missing[number:], reasons))


def _make_writable(published: Published, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK) else "permission denied"
    except OSError as error:
        reason = str(error)
    if reason:
        raise MachineError(
            f"data set {published.folder}: {folder} cannot be written to: {reason}; set {DATA_VARIABLE} to "
            "another folder"
        )


def read_published(published: Published) -> Iterator[tuple[Path, bytes]]:
    """Yield path and verified content of the files, downloading what is missing first.

    Raises:
        MachineError: a file can neither be found nor downloaded, or is not the published one.
    """
    folder = data_folder() / published.folder
    download(published, folder)
    for file in published.files:
        path = folder / file.name
        content = _read(path)
        if problem := file.check(content):
            raise MachineError(f"{path}: {problem}; delete it, and the next run downloads it again")
        yield path, content


def _read(path: Path) -> bytes:
    try:
        refuse_no_file(path)
        return path.read_bytes()
    except OSError as error:
        raise MachineError(f"{path}: cannot be read: {error.strerror or error}") from error


def find_idx(folder: Path, name: str) -> Path:
    """Return the file `name` in `folder`, or the compressed one (`name`.gz).

    Raises:
        MachineError: there is neither.
    """
    folder = folder.expanduser()
    candidates = (folder / name, folder / f"{name}.gz")
    for path in candidates:
        if path.is_file():
            return path
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
    raise MachineError(
        f"dataset idx: neither {name} nor {name}.gz in {folder} (there: {there or 'nothing'}); give the folder as "
        "`path`, and other file names as train_images, train_labels, test_images, test_labels"
    )


def _unpacked(path: Path, content: bytes, dimensions: tuple[int, ...]) -> bytes:
    """Return an IDX file unpacked: no further than one byte beyond what its own header asks for.

    Raises:
        MachineError: it is damaged, or no such file.
    """
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            head = stream.read(4 + 4 * max(dimensions))
            shape = _idx_shape(path, head, dimensions)
            beyond = 4 + 4 * len(shape) + math.prod(shape) + 1 - len(head)
            if beyond > MOST_UNPACKED * len(content):
                raise MachineError(
                    f"{path}: {len(content):,} compressed bytes cannot hold {' x '.join(map(str, shape))} values; "
                    "the file is truncated or not what its header says, download it again"
                )
            return head + stream.read(max(0, beyond))
    except (OSError, EOFError, zlib.error) as error:
        raise MachineError(
            f"{path}: a damaged or truncated gzip file ({len(content):,} bytes): {error}; download it again"
        ) from error


def parse_idx(path: Path, content: bytes, dimensions: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return the array in an IDX file, uint8, read only; compressed or not.

    Args:
        path: named in errors.
        content: the file.
        dimensions: how many axes are allowed: 1 for labels, 3 or 4 for images.

    Raises:
        MachineError: not IDX of unsigned bytes, another number of axes, or another length than the header says.

    Source: LeCun, Cortes and Burges 1998, file formats: two zero bytes, type (8 for unsigned bytes), number of axes,
        one big-endian 32-bit count an axis, then the values, last axis fastest.
    """
    import numpy as np

    content = _unpacked(path, content, dimensions)
    shape = _idx_shape(path, content, dimensions)
    start, expected = 4 + 4 * len(shape), math.prod(shape)
    if len(content) - start != expected:
        raise MachineError(
            f"{path}: {len(content) - start:,} bytes of values, expected {expected:,} for "
            f"{' x '.join(map(str, shape))}; the file is truncated or not what its header says, download it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _idx_shape(path: Path, content: bytes, dimensions: tuple[int, ...]) -> tuple[int, ...]:
    """Return the counts in an IDX header; `content` needs to hold no more than the header."""
    magics = {2048 + count: count for count in dimensions}
    magic = int.from_bytes(content[:4], "big")
    if len(content) < 4 or magic not in magics:
        allowed = " or ".join(map(str, magics))
        raise MachineError(
            f"{path}: magic number {magic if len(content) >= 4 else 'missing'}, expected {allowed} (IDX of unsigned "
            f"bytes with {' or '.join(map(str, dimensions))} axes)"
        )
    header = content[4 : 4 + 4 * magics[magic]]
    if len(header) < 4 * magics[magic]:
        raise MachineError(f"{path}: ends inside its header, after {len(content)} bytes; download it again")
    return tuple(int.from_bytes(header[at : at + 4], "big") for at in range(0, len(header), 4))


def read_idx(path: Path, dimensions: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Read an IDX file; see `parse_idx`.

    Raises:
        MachineError: it cannot be read, or is not what `dimensions` and its own header say.
    """
    return parse_idx(path, _read(path), dimensions)


def read_idx_shape(path: Path, dimensions: tuple[int, ...]) -> tuple[int, ...]:
    """Return the counts in the header of an IDX file without reading its values.

    Raises:
        MachineError: it cannot be read, or has no such header.
    """
    header_bytes = 4 + 4 * max(dimensions)
    try:
        refuse_no_file(path)
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else path.open("rb") as stream:
            header = stream.read(header_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise MachineError(f"{path}: cannot be read: {error}") from error
    return _idx_shape(path, header, dimensions)
