"""From a data set as published to tensors that stay on the device: scaled, split, enlarged, normalised."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.core.cell import Loading
from harness.core.errors import InputError
from harness.workloads.batches import Inputs, Samples
from harness.workloads.entries import IGNORED, RawData, SampleSource, enlarge, training_size
from harness.workloads.streamed import Streamed

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.workloads.entries import Arrays

SPLIT_SEED = 20160
"""Draws the validation split: chosen once, and never a run's seed, so that all runs are judged by the same samples."""

LOADING = Loading()

CHUNK = 1024
"""Images converted at once: temporary memory of a few MB, however large the data set; chosen."""


@dataclass(frozen=True)
class Data:
    """A data set as training sees it, each split on the device.

    Attributes:
        classes: number of classes; 0 where targets are numbers.
        checksum: of the raw data.
        counts: how many targets count in each training sample; None where they are equally many.
        remarks: what was converted on the way, in words.
        unscaled: what is too large to be trained on as it is, in words.
    """

    train: Samples | Streamed
    validation: Samples | Streamed
    test: Samples | Streamed
    classes: int
    checksum: str
    vocabulary: int = 0
    counts: npt.NDArray[np.int64] | None = None
    remarks: tuple[str, ...] = ()
    unscaled: tuple[str, ...] = ()

    @property
    def num_train(self) -> int:
        """Samples trained on, without the validation split."""
        return len(self.train)


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
    """Return (n, channels, height, width); what has fewer axes gets them in front, a vector becoming one row."""
    return images.reshape(len(images), *(1,) * (4 - images.ndim), *images.shape[1:]) if images.ndim < 4 else images


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
    as_images: bool = False,
    loading: Loading = LOADING,
    seed: int = 0,
) -> Data:
    """Return `raw` as tensors on `device`.

    Images in this order: pixels are scaled to 0..1 by the largest value of their format; enlarged to the model's input
    on a background of 0 (`entries.enlarge`); normalised with mean and deviation of all published training images, the
    later validation split included, measured before enlarging, so that neither the model nor the split changes them.
    Everything else stays as it was given, but that numbers with a fraction become `dtype`.

    Args:
        raw: the data set.
        model_input_size: side of the model's square input in pixels; None: as published.
        validation_fraction: share of the training samples, 0..1, kept for validation.
        dtype: of the inputs.
        device: where all tensors stay.
        as_images: give plain arrays of one to three axes the shape of images, which built-in models read.
        loading: how samples that do not stay in memory are read.
        seed: draws samples that are drawn anew each time.

    Raises:
        InputError: images larger than the model's input, pixels that are not finite, or nothing left to train on.
    """
    device = torch.device(device)
    convert = _converter(raw, model_input_size, dtype, torch.device("cpu") if raw.streams else device, as_images)
    train, validation = split(len(raw.train_targets), validation_fraction)
    tested = np.arange(len(raw.test_targets))
    maker = _Splits(raw, convert, dtype, device, loading, seed)
    return Data(
        train=maker.of_training(train),
        validation=maker.of_training(validation),
        test=maker.of_test(tested),
        classes=raw.classes,
        checksum=raw.checksum,
        vocabulary=raw.vocabulary,
        counts=_counted(raw.train_targets[train]),
        remarks=(*raw.remarks, *_rounded(raw, dtype)),
        unscaled=raw.unscaled,
    )


@dataclass(frozen=True)
class _Splits:
    """Makes splits of samples by their numbers: kept on the device, or read as they are needed."""

    raw: RawData
    convert: Callable[[npt.NDArray[np.generic], npt.NDArray[np.intp]], torch.Tensor]
    dtype: torch.dtype
    device: torch.device
    loading: Loading
    seed: int

    def of_training(self, order: npt.NDArray[np.intp]) -> Samples | Streamed:
        """Return those of the training samples that `order` lists."""
        raw = self.raw
        if raw.streams is not None and len(order):
            return self._streamed(raw.streams.train, raw.train_targets, order)
        return self._kept(raw.train_inputs, raw.train_targets, order)

    def of_test(self, order: npt.NDArray[np.intp]) -> Samples | Streamed:
        """Return those of the test samples that `order` lists."""
        raw = self.raw
        if raw.streams is not None and len(order):
            return self._streamed(raw.streams.test, raw.test_targets, order)
        return self._kept(raw.test_inputs, raw.test_targets, order)

    def _kept(self, inputs: Arrays, targets: npt.NDArray[np.generic], order: npt.NDArray[np.intp]) -> Samples:
        return Samples(self._tensors(inputs, order), _as_given(targets, order, self.dtype, self.device))

    def _streamed(
        self, source: SampleSource, targets: npt.NDArray[np.generic], order: npt.NDArray[np.intp]
    ) -> Streamed:
        assert self.raw.streams is not None
        known = _as_given(targets, order, self.dtype, self.device)
        anew = self.raw.streams.draws
        return Streamed(source.at(order), known, self._batch, self.device, self.loading, anew, self.seed)

    def _batch(self, inputs: Arrays, targets: npt.NDArray[np.generic]) -> tuple[Inputs, torch.Tensor]:
        """Return a batch that was read as tensors in host memory."""
        everything = np.arange(len(targets))
        return self._tensors(inputs, everything), _as_given(targets, everything, self.dtype, torch.device("cpu"))

    def _tensors(self, inputs: Arrays, order: npt.NDArray[np.intp]) -> Inputs:
        if isinstance(inputs, dict):
            return {name: self.convert(array, order) for name, array in inputs.items()}
        return self.convert(inputs, order)


COARSE = 1e-3
"""Of a column's spread, from which rounding it is said to lose something; chosen: models see smaller differences."""


def _rounded(raw: RawData, dtype: torch.dtype) -> list[str]:
    """Say where numbers that are given more exactly than the cell computes lose what tells them apart.

    Dates in seconds are such: 32 bits hold them to 128 s.
    """
    if dtype == torch.float64 or raw.full_scale is not None:
        return []
    said = []
    inputs = raw.train_inputs if isinstance(raw.train_inputs, dict) else {"": raw.train_inputs}
    for name, array in inputs.items():
        if array.dtype != np.float64 or not array.size:
            continue
        columns = array[:ROUNDED_ROWS].reshape(min(len(array), ROUNDED_ROWS), -1)
        spread, error = columns.std(axis=0), np.abs(columns).max(axis=0) * float(np.finfo(np.float32).eps) / 2
        lost = int(((spread > 0) & (error > COARSE * spread)).sum())
        if lost:
            what = f"inputs {name}".rstrip()
            said.append(
                f"data: {what}: {lost} of {columns.shape[1]} numbers of a sample differ too little for their size "
                'to be told apart as float32; subtract their mean, or set workload.precision = "fp64"'
            )
    return said


ROUNDED_ROWS = 4096
"""Samples that are looked at for it; chosen: enough for a spread."""


def _converter(
    raw: RawData, input_size: int | None, dtype: torch.dtype, device: torch.device, as_images: bool
) -> Callable[[npt.NDArray[np.generic], npt.NDArray[np.intp]], torch.Tensor]:
    """Return what makes a tensor of the samples of an array that an order lists."""
    if isinstance(raw.train_inputs, dict) or (raw.full_scale is None and not as_images):
        return lambda array, order: _as_given(array, order, dtype, device)
    if raw.vocabulary:  # tokens are numbers of rows, not brightness
        return lambda array, order: _as_given(array.astype(np.int64, copy=False), order, dtype, device)
    given = Normalisation(1.0, 0.0, 1.0)
    measured = given if raw.full_scale is None else measure_normalisation(raw.train_inputs, raw.full_scale)
    return lambda array, order: _enlarged(_with_channels(array), order, measured, input_size, dtype, device)


def _as_given(
    array: npt.NDArray[np.generic], order: npt.NDArray[np.intp], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array[order]))
    return tensor.to(device, dtype if tensor.is_floating_point() else None)


def _counted(targets: npt.NDArray[np.generic]) -> npt.NDArray[np.int64] | None:
    """Return how many targets of each sample count; None where that is the same for all, as it nearly always is."""
    if targets.ndim < 2 or targets.dtype.kind == "f" or not targets.size or targets.min() >= 0:
        return None
    counts: npt.NDArray[np.int64] = (targets != IGNORED).reshape(len(targets), -1).sum(axis=1)
    return None if (counts == counts[0]).all() and counts[0] == targets[0].size else counts
