"""Entries for data sets that lie in files of common formats: text, tables, images, and CIFAR's archives.

Like the catalogue, this imports neither torch nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api.strategy import Options
from harness.workloads.entries import (
    Dataset,
    DatasetSize,
    DataShape,
    ImageFolderOptions,
    RawData,
    TableOptions,
    TextOptions,
)

if TYPE_CHECKING:
    from harness.workloads.entries import Keeps


def _load_text(options: TextOptions) -> RawData:
    from harness.workloads import text_files

    return text_files.load_text(options)


def _text_checksum(options: TextOptions) -> str:
    from harness.workloads import text_files

    return text_files.text_checksum(options)


def _text_size(options: TextOptions) -> DatasetSize:
    from harness.workloads import text_files

    each = options.sequence
    count = (len(text_files.corpus_of(options)) - 1) // each
    train = max(0, min(options.samples, count - options.test_samples))
    return DatasetSize(
        train, options.test_samples, DataShape(1, 1, each, text_files.BYTE_VALUES, text_files.BYTE_VALUES, True)
    )


def _load_cifar10(options: Options) -> RawData:
    from harness.workloads import cifar, files

    return cifar.load_cifar(files.CIFAR10, 10)


def _cifar10_checksum(options: Options) -> str:
    from harness.workloads import files

    return files.CIFAR10.checksum


def _load_cifar100(options: Options) -> RawData:
    from harness.workloads import cifar, files

    return cifar.load_cifar(files.CIFAR100, 100)


def _cifar100_checksum(options: Options) -> str:
    from harness.workloads import files

    return files.CIFAR100.checksum


def _load_images(options: ImageFolderOptions) -> RawData:
    from harness.workloads import image_folder

    return image_folder.load_images(options)


def _stream_images(options: ImageFolderOptions, keeps: Keeps) -> RawData:
    from harness.workloads import image_folder

    return image_folder.load_images(options, keeps)


def _images_size(options: ImageFolderOptions) -> DatasetSize:
    from harness.workloads import image_folder

    train, test = image_folder.listings(options)
    shape = DataShape(options.channels, options.size, options.size, 1 + int(train.labels.max()))
    return DatasetSize(len(train.files), len(test.files), shape)


def _images_checksum(options: ImageFolderOptions) -> str:
    from harness.workloads import image_folder

    return image_folder.folder_checksum(options)


def _load_table(options: TableOptions) -> RawData:
    from harness.workloads import table_files

    return table_files.load_table(options)


def _table_size(options: TableOptions) -> DatasetSize:
    raw = _load_table(options)
    return DatasetSize(len(raw.train_targets), len(raw.test_targets), raw.shape)


def _table_checksum(options: TableOptions) -> str:
    return _load_table(options).checksum


FILE_DATASETS = (
    Dataset(
        name="text",
        summary="real text as bytes, each to be told from those before it; by default Python's own sources",
        source="the user; or the Python standard library of this interpreter, PSF License",
        Options=TextOptions,
        size=_text_size,
        target_accuracy=None,
        load=_load_text,
        checksum=_text_checksum,
    ),
    Dataset(
        name="cifar10",
        summary="60,000 pictures of 32 x 32 pixels in 10 classes, 170 MB to download",
        source="Krizhevsky 2009; no licence is stated",
        Options=Options,
        size=lambda options: DatasetSize(50000, 10000, DataShape(3, 32, 32, 10)),
        target_accuracy=None,
        load=_load_cifar10,
        checksum=_cifar10_checksum,
        fixed=True,
    ),
    Dataset(
        name="cifar100",
        summary="60,000 pictures of 32 x 32 pixels in 100 classes, 169 MB to download",
        source="Krizhevsky 2009; no licence is stated",
        Options=Options,
        size=lambda options: DatasetSize(50000, 10000, DataShape(3, 32, 32, 100)),
        target_accuracy=None,
        load=_load_cifar100,
        checksum=_cifar100_checksum,
        fixed=True,
    ),
    Dataset(
        name="imagefolder",
        summary="a folder with a folder of PNG and JPEG files for each class",
        source="the user",
        Options=ImageFolderOptions,
        size=_images_size,
        target_accuracy=None,
        load=_load_images,
        checksum=_images_checksum,
        stream=_stream_images,
    ),
    Dataset(
        name="table",
        summary="a CSV or Parquet file, one of whose columns is the target",
        source="the user",
        Options=TableOptions,
        size=_table_size,
        target_accuracy=None,
        load=_load_table,
        checksum=_table_checksum,
    ),
)
