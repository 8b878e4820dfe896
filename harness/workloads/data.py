"""From a data set as published to tensors that stay on the device: scaled, split, enlarged, normalised."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.core.errors import InputError
from harness.workloads.entries import RawData, enlarge, training_size

if TYPE_CHECKING:
    import numpy.typing as npt

SPLIT_SEED = 20160
"""Draws the validation split: chosen once, and never a run's seed, so that all runs are judged by the same samples."""

CHUNK = 1024
"""Images converted at once: temporary memory of a few MB, however large the data set; chosen."""


@dataclass(frozen=True)
class Data:
    """A data set as training sees it, each part one tensor on the device.

    Attributes:
        train_inputs: (n, channels, height, width), normalised; tokens: (n, tokens), int64.
        train_targets: (n,), int64; (n, tokens) where every token has a label.
        validation_inputs: like train_inputs.
        validation_targets: like train_targets.
        test_inputs: like train_inputs.
        test_targets: like train_targets.
        classes: number of classes.
        checksum: of the raw data.
    """

    train_inputs: torch.Tensor
    train_targets: torch.Tensor
    validation_inputs: torch.Tensor
    validation_targets: torch.Tensor
    test_inputs: torch.Tensor
    test_targets: torch.Tensor
    classes: int
    checksum: str
    vocabulary: int = 0

    @property
    def num_train(self) -> int:
        """Samples trained on, without the validation split."""
        return len(self.train_targets)


@dataclass(frozen=True)
class Normalisation:
    """Turns a pixel into (pixel / full_scale - mean) / sd."""

    full_scale: float
    mean: float
    sd: float

    def apply(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise floating `pixels` in place and return them."""
        return pixels.sub_(self.mean * self.full_scale).div_(self.sd * self.full_scale)


def _chunks(num_images: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, num_images, CHUNK))


def measure_normalisation(images: npt.NDArray[np.generic], full_scale: float) -> Normalisation:
    """Return mean and standard deviation over all pixels, scaled to 0..1, as small as they were published.

    Images that are all of one value get a deviation of 1, and become 0 everywhere.

    Raises:
        InputError: there are no images, or a pixel is not a finite number.
    """
    total = squares = 0.0
    for chunk in _chunks(len(images)):
        pixels = images[chunk].astype(np.float64).ravel()
        total += float(pixels.sum())
        squares += float(pixels @ pixels)
    if not images.size or not math.isfinite(squares):
        raise InputError(
            [f"workload.dataset: {images.size} training pixels whose squares add up to {squares}; all must be finite"]
        )
    mean = total / images.size
    sd = math.sqrt(max(squares / images.size - mean * mean, 0.0))
    return Normalisation(full_scale, mean / full_scale, sd / full_scale or 1.0)


def _with_channels(images: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return images[:, None] if images.ndim == 3 else images


def _enlarged(
    images: npt.NDArray[np.generic],
    order: npt.NDArray[np.intp],
    normalisation: Normalisation,
    input_size: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Return the images that `order` lists as (len(order), channels, size, size), normalised.

    Normalising is affine, so doing it before each pixel is repeated gives the same values as doing it after, with
    the background's 0 normalised by hand, and costs a sixteenth for a digit enlarged fourfold.
    """
    _, channels, height, width = images.shape
    place = enlarge(height, width, input_size)
    size = (input_size, input_size) if input_size is not None else (height, width)
    working = torch.float64 if dtype == torch.float64 else torch.float32
    background = normalisation.apply(torch.zeros((), dtype=working)).item()
    inputs = torch.full((len(order), channels, *size), background, dtype=dtype, device=device)
    # A view of the interior as (n, channels, height, factor, width, factor): writing to it repeats every pixel.
    interior = inputs[:, :, place.top :, place.left :][:, :, : height * place.factor, : width * place.factor]
    blocks = interior.view(len(order), channels, height, place.factor, width, place.factor)
    for chunk in _chunks(len(order)):
        pixels = torch.from_numpy(images[order[chunk]]).to(device).to(working)
        blocks[chunk].copy_(normalisation.apply(pixels)[:, :, :, None, :, None])
    return inputs


def split(num_train: int, validation_fraction: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return indices of the training and of the validation samples, both in random order.

    Random, so that contiguous shards of data that came sorted by class still hold every class. RandomState, because
    numpy promises never to change its stream; the newer generators may change between versions.

    Raises:
        InputError: the fraction is outside 0..1, or leaves nothing to train on.
    """
    num_validation = num_train - training_size(num_train, validation_fraction)
    order = np.random.RandomState(SPLIT_SEED).permutation(num_train)
    return order[num_validation:], order[:num_validation]


def prepare(
    raw: RawData,
    model_input_size: int | None,
    validation_fraction: float,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Data:
    """Return `raw` as tensors on `device`.

    In this order: pixels are scaled to 0..1 by the largest value of their format; enlarged to the model's input on a
    background of 0 (`catalogue.enlarge`); normalised with mean and deviation of all published training images, the
    later validation split included, measured before enlarging, so that neither the model nor the split changes them.

    Args:
        raw: the data set.
        model_input_size: side of the model's square input in pixels; None: as published.
        validation_fraction: share of the training images, 0..1, kept for validation.
        dtype: of the inputs.
        device: where all tensors stay.

    Raises:
        InputError: images larger than the model's input, pixels that are not finite, or nothing left to train on.
    """
    device = torch.device(device)
    train_images, test_images = _with_channels(raw.train_images), _with_channels(raw.test_images)
    train, validation = split(len(train_images), validation_fraction)
    test = np.arange(len(test_images))
    normalisation = None if raw.vocabulary else measure_normalisation(raw.train_images, raw.full_scale)

    def inputs(images: npt.NDArray[np.generic], order: npt.NDArray[np.intp]) -> torch.Tensor:
        if normalisation is None:  # tokens are numbers of rows, not brightness
            return targets(images, order)
        return _enlarged(images, order, normalisation, model_input_size, dtype, device)

    def targets(labels: npt.NDArray[np.generic], order: npt.NDArray[np.intp]) -> torch.Tensor:
        return torch.from_numpy(labels[order].astype(np.int64, copy=False)).to(device)

    return Data(
        train_inputs=inputs(train_images, train),
        train_targets=targets(raw.train_labels, train),
        validation_inputs=inputs(train_images, validation),
        validation_targets=targets(raw.train_labels, validation),
        test_inputs=inputs(test_images, test),
        test_targets=targets(raw.test_labels, test),
        classes=raw.classes,
        checksum=raw.checksum,
        vocabulary=raw.vocabulary,
    )
