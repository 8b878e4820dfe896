"""Models, data sets, files, user functions and losses."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy
from places import ROOT, SHARED
from pydantic import ValidationError

from harness.api.strategy import Options
from harness.core.errors import InputError, MachineError, PluginError
from harness.workloads import files, harness_datasets, harness_models
from harness.workloads.entries import (
    Dataset,
    DataShape,
    Feature,
    IdxOptions,
    Model,
    RawData,
    SyntheticOptions,
    enlarge,
    input_shape,
    training_size,
)
from harness.workloads.small import DATASETS, MODELS
from harness.workloads.user import user_dataset, user_model
from harness.workloads.user_files import is_user_function

torch = lazy("torch")
nn = lazy("torch.nn")
workload_data = lazy("harness.workloads.data")
batches = lazy("harness.workloads.batches")
losses = lazy("harness.workloads.losses")

MNIST_LIKE = DataShape(1, 32, 32, 10)
SHAPES = (DataShape(1, 8, 8, 10), DataShape(1, 28, 28, 10), DataShape(3, 32, 32, 7), DataShape(2, 9, 5, 2))


def model_named(name: str) -> Model:
    return next(model for model in MODELS if model.name == name)


def dataset_named(name: str) -> Dataset:
    return next(dataset for dataset in DATASETS if dataset.name == name)


def build(name: str, shape: DataShape, **options: Any) -> nn.Module:
    model = model_named(name)
    return model.build(model.Options(**options), input_shape(shape, model.input_size))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Imports and hooks


@pytest.mark.parametrize("module", ["harness.workloads", "harness.workloads.small", "harness.workloads.user"])
def test_import_needs_neither_torch_nor_arrays(module: str) -> None:
    code = f"import {module}, sys; print([m for m in ('torch', 'pandas', 'numpy', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sizes_and_checksums_need_no_torch() -> None:
    code = (
        "import sys; from harness.workloads.small import DATASETS\n"
        "for d in DATASETS:\n"
        "    if d.name != 'idx': d.size(d.Options()), d.checksum(d.Options())\n"
        "print([m for m in ('torch', 'pandas', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_hooks_return_the_catalogue() -> None:
    models = ["softmax", "mlp", "lenet5", "resnet18", "alexnet", "vgg16", "resnet50", "resnet101", "resnet152"]
    assert [model.name for model in harness_models()] == [*models, "squeezenet1.0", "gpt", "bert-large"]
    made = ["digits", "mnist", "fashion-mnist", "idx", "synthetic", "tokens"]
    assert [d.name for d in harness_datasets()] == [*made, "text", "cifar10", "cifar100", "imagefolder", "table"]


@pytest.mark.parametrize("entry", [*MODELS, *DATASETS], ids=lambda entry: entry.name)
def test_options_refuse_unknown_keys(entry: Model | Dataset) -> None:
    with pytest.raises(ValidationError, match="no_such_key"):
        entry.Options(**{"no_such_key": 1})


# Models


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("softmax", DataShape(1, 28, 28, 10), 7_850),
        ("mlp", DataShape(1, 28, 28, 10), 266_610),
        ("lenet5", MNIST_LIKE, 61_706),
        ("resnet18", DataShape(3, 32, 32, 10), 11_173_962),
    ],
)
def test_model_has_its_published_parameter_count(name: str, shape: DataShape, expected: int) -> None:
    assert num_parameters(build(name, shape)) == expected


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [model.name for model in MODELS])
def test_model_trains_on_every_shape(name: str, shape: DataShape) -> None:
    module = build(name, shape)
    seen = input_shape(shape, model_named(name).input_size)
    outputs = module(torch.randn(2, seen.channels, seen.height, seen.width))
    assert outputs.shape == (2, shape.classes)
    outputs.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("name", [model.name for model in MODELS])
def test_model_can_be_cut_between_any_two_layers(name: str) -> None:
    module = build(name, MNIST_LIKE).eval()
    assert isinstance(module, nn.Sequential)
    assert not any(layer_name.isdigit() for layer_name, _ in module.named_children())
    inputs = torch.randn(2, 1, 32, 32)
    whole = module(inputs)
    for cut in range(1, len(module)):
        assert torch.equal(module[cut:](module[:cut](inputs)), whole)


def test_resnet18_layers_are_stem_blocks_pool_classifier() -> None:
    names = [name for name, _ in build("resnet18", MNIST_LIKE).named_children()]
    assert names == ["stem", *(f"block{number}" for number in range(1, 9)), "pool", "classifier"]


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "leaky-relu", "elu", "maxout"])
def test_mlp_activation_changes_the_outputs_and_passes_gradients(activation: str) -> None:
    torch.manual_seed(0)
    module = build("mlp", MNIST_LIKE, hidden=(5, 4), activation=activation)
    torch.manual_seed(0)
    other = build("mlp", MNIST_LIKE, hidden=(5, 4), activation="tanh" if activation != "tanh" else "relu")
    inputs = torch.randn(3, 1, 32, 32)
    assert not torch.equal(module(inputs), other(inputs))
    module(inputs).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


@pytest.mark.parametrize(("name", "options"), [("softmax", {}), ("mlp", {"activation": "maxout"}), ("lenet5", {})])
def test_model_takes_the_empty_part_of_an_uneven_batch(name: str, options: dict[str, Any]) -> None:
    module = build(name, MNIST_LIKE, **options)
    loss = losses.weighted_loss("cross-entropy")(
        module(torch.zeros(0, 1, 32, 32)), torch.zeros(0, dtype=torch.int64), 0.1
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert not any(p.grad.any() for p in module.parameters() if p.grad is not None)


def test_maxout_takes_the_largest_of_its_pieces() -> None:
    from harness.workloads.nets import Maxout

    values = torch.tensor([[1.0, 5.0, -2.0, -3.0, 0.0, 9.0]])
    assert Maxout(2)(values).tolist() == [[5.0, -2.0, 9.0]]
    assert Maxout(3)(values).tolist() == [[5.0, 9.0]]
    three_pieces = build("mlp", MNIST_LIKE, hidden=(4,), activation="maxout", pieces=3)
    assert num_parameters(three_pieces) == 1025 * 12 + 5 * 10


def test_lenet5_of_1998_averages_and_has_the_same_weights() -> None:
    old = build("lenet5", MNIST_LIKE, form="1998")
    assert num_parameters(old) == 61_706
    kinds = {type(layer) for layer in old.children()}
    assert {nn.AvgPool2d, nn.Tanh} <= kinds
    assert not {nn.MaxPool2d, nn.ReLU} & kinds


@pytest.mark.parametrize("options", [{"hidden": []}, {"hidden": [0]}, {"pieces": 1}, {"activation": "swish"}])
def test_mlp_refuses_impossible_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model_named("mlp").Options(**options)


# Splitting and enlarging


def test_training_size_of_digits() -> None:
    assert training_size(1437, 0.1) == 1293


@given(num=st.integers(1, 3000), fraction=st.floats(0, 0.999))
def test_split_agrees_with_the_plan_and_loses_nothing(num: int, fraction: float) -> None:
    try:
        planned = training_size(num, fraction)
    except InputError:
        assert round(num * fraction) == num
        return
    train, validation = workload_data.split(num, fraction)
    assert len(train) == planned
    assert sorted([*train, *validation]) == list(range(num))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 97.0, float("nan")])
def test_training_size_refuses_other_fractions(fraction: float) -> None:
    with pytest.raises(InputError, match="validation_fraction"):
        training_size(100, fraction)


def test_split_ignores_global_seeds() -> None:
    np.random.seed(1)
    torch.manual_seed(1)
    first = workload_data.split(100, 0.2)[1].tolist()
    np.random.seed(2)
    torch.manual_seed(2)
    assert workload_data.split(100, 0.2)[1].tolist() == first


def raw_of(images: np.ndarray[Any, Any], full_scale: float = 255.0) -> RawData:
    labels = np.arange(len(images), dtype=np.int64) % 2
    return RawData(images, labels, images.copy(), labels.copy(), 2, full_scale, "0" * 64)


@settings(max_examples=60)
@given(st.data())
def test_enlarging_repeats_pixels_and_pads_equally(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    size = data.draw(st.integers(max(height, width), 40))
    images = np.random.default_rng(0).integers(1, 256, (3, height, width)).astype(np.uint8)
    prepared = workload_data.prepare(raw_of(images), size, 0.0, torch.float64)
    place = enlarge(height, width, size)
    assert place.factor * max(height, width) <= size < (place.factor + 1) * max(height, width)

    repeated = images.repeat(place.factor, 1).repeat(place.factor, 2) / 255.0
    missing_height, missing_width = size - repeated.shape[1], size - repeated.shape[2]
    padding = ((missing_height // 2, -(-missing_height // 2)), (missing_width // 2, -(-missing_width // 2)))
    expected = np.pad(repeated, ((0, 0), *padding))
    scaled = images / 255.0
    expected = (expected - scaled.mean()) / (scaled.std() or 1.0)
    np.testing.assert_allclose(prepared.test.inputs[:, 0].numpy(), expected, atol=1e-9)


def test_image_larger_than_the_input_is_refused() -> None:
    with pytest.raises(InputError, match=r"40 x 8 pixels do not fit .* 32 x 32"):
        workload_data.prepare(raw_of(np.zeros((4, 40, 8), np.uint8)), 32, 0.0)


def test_normalised_training_images_have_mean_0_and_deviation_1() -> None:
    data = workload_data.prepare(dataset_named("digits").load(Options()), None, 0.0, torch.float64)
    assert data.train.inputs.mean().item() == pytest.approx(0, abs=1e-12)
    assert data.train.inputs.std(correction=0).item() == pytest.approx(1)


def test_floats_keep_their_scale_and_channels() -> None:
    images = np.random.default_rng(0).normal(3, 2, (2500, 3, 4, 5)).astype(np.float32)
    found = workload_data.measure_normalisation(images, 1.0)
    assert (found.mean, found.sd) == pytest.approx((images.mean(), images.std()), rel=1e-4)
    data = workload_data.prepare(raw_of(images, 1.0), None, 0.2, torch.bfloat16)
    assert data.train.inputs.shape == (2000, 3, 4, 5)
    assert data.train.inputs.dtype == torch.bfloat16
    assert data.num_train == 2000


def test_prepared_samples_keep_their_labels() -> None:
    labels = np.arange(50, dtype=np.int64)
    images = np.broadcast_to(labels[:, None, None], (50, 2, 2)).astype(np.float32)
    data = workload_data.prepare(RawData(images, labels, images, labels, 50, 1.0, ""), 4, 0.3, torch.float64)
    for inputs, targets in (
        (data.train.inputs, data.train.targets),
        (data.validation.inputs, data.validation.targets),
        (data.test.inputs, data.test.targets),
    ):
        values = inputs[:, 0, 0, 0] * images.std(dtype=np.float64) + images.mean(dtype=np.float64)
        torch.testing.assert_close(values, targets.double())


def test_images_of_one_value_become_0() -> None:
    assert not workload_data.prepare(raw_of(np.full((4, 2, 2), 9, np.uint8)), None, 0.0).train.inputs.any()


def test_pixels_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="finite"):
        workload_data.prepare(raw_of(np.full((4, 2, 2), np.nan, np.float32)), None, 0.0)


# Data sets


def test_digits_are_split_as_documented() -> None:
    dataset = dataset_named("digits")
    raw = dataset.load(Options())
    size = dataset.size(Options())
    assert size is not None
    assert (len(raw.train_targets), len(raw.test_targets), raw.shape) == (size.num_train, size.num_test, size.shape)
    assert (raw.train_inputs.min(), raw.train_inputs.max()) == (0, 16)
    data = workload_data.prepare(raw, 32, 0.1)
    assert (data.num_train, len(data.validation.targets), len(data.test.targets)) == (1293, 144, 360)
    assert data.train.inputs.shape == (1293, 1, 32, 32)
    assert dataset.checksum(Options()) == raw.checksum == data.checksum


def test_digits_are_those_that_scikit_learn_packages() -> None:
    """The sum over arrays equal to those of sklearn.datasets.load_digits() of 1.9.1; a cell's id rests on it."""
    raw = dataset_named("digits").load(Options())
    assert raw.checksum == "ef994c56803499e4ae53f1c7538156b12f09528cf4736c8f0052647de130e394"
    counts = np.bincount(np.concatenate([raw.train_targets, raw.test_targets]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_synthetic_has_the_size_that_it_was_asked_for() -> None:
    dataset, options = (
        dataset_named("synthetic"),
        SyntheticOptions(samples=1500, test_samples=30, channels=3, size=7, classes=4),
    )
    raw, size = dataset.load(options), dataset.size(options)
    assert size is not None
    assert (raw.train_inputs.shape, len(raw.test_targets), raw.shape) == ((1500, 3, 7, 7), 30, size.shape)
    assert np.bincount(raw.train_targets).tolist() == [375] * 4
    assert np.array_equal(dataset.load(options).train_inputs, raw.train_inputs)
    assert dataset.checksum(options) == raw.checksum != dataset.checksum(options.model_copy(update={"seed": 1}))


def test_synthetic_is_learnable_and_not_at_once() -> None:
    torch.manual_seed(0)
    raw = dataset_named("synthetic").load(SyntheticOptions(samples=1024))
    data = workload_data.prepare(raw, None, 0.0)
    module, loss = build("softmax", raw.shape), losses.weighted_loss("cross-entropy")
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    assert losses.evaluate(module, data.test, "cross-entropy")[1] < 0.4
    for start in range(0, 1024, 32):
        rows = slice(start, start + 32)
        optimizer.zero_grad()
        loss(module(data.train.inputs[rows]), data.train.targets[rows], 1 / 32).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses.evaluate(module, data.test, "cross-entropy")[1] > 0.8


def mnist_folder() -> Path:
    folders = [Path(os.environ["HARNESS_DATA"])] if os.environ.get("HARNESS_DATA") else []
    for folder in (*folders, SHARED / "data"):
        if all((folder / "mnist" / file.name).exists() for file in files.MNIST.files):
            return folder
    pytest.skip("no MNIST files in HARNESS_DATA/mnist or ../shared/data/mnist")


def test_mnist_is_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(mnist_folder()))
    dataset = dataset_named("mnist")
    raw, size = dataset.load(Options()), dataset.size(Options())
    assert size is not None
    assert (len(raw.train_targets), len(raw.test_targets), raw.shape) == (size.num_train, size.num_test, size.shape)
    assert raw.checksum == dataset.checksum(Options())
    assert np.bincount(raw.train_targets).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    found = workload_data.measure_normalisation(raw.train_inputs, 255.0)
    assert (round(found.mean, 4), round(found.sd, 4)) == (0.1307, 0.3081)
    data = workload_data.prepare(raw, 32, 0.1)
    assert (data.train.inputs.shape, len(data.validation.targets)) == ((54000, 1, 32, 32), 6000)


# IDX files

TRAIN = np.arange(5 * 3 * 2, dtype=np.uint8).reshape(5, 3, 2)
TEST = TRAIN[:2] + 100
TRAIN_LABELS = np.array([0, 1, 2, 1, 0], np.uint8)
TEST_LABELS = np.array([2, 3], np.uint8)


def idx_bytes(array: np.ndarray[Any, Any]) -> bytes:
    counts = b"".join(count.to_bytes(4, "big") for count in array.shape)
    return (2048 + array.ndim).to_bytes(4, "big") + counts + array.tobytes()


def idx_contents() -> dict[str, bytes]:
    arrays = (TRAIN, TRAIN_LABELS, TEST, TEST_LABELS)
    return {file.name: gzip.compress(idx_bytes(a), mtime=0) for file, a in zip(files.MNIST.files, arrays, strict=True)}


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "idx"
    folder.mkdir()
    for name, content in idx_contents().items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("compressed", [True, False])
def test_idx_folder_loads(idx_folder: Path, compressed: bool) -> None:
    if not compressed:
        for path in list(idx_folder.iterdir()):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    dataset, options = dataset_named("idx"), IdxOptions(path=idx_folder)
    raw, size = dataset.load(options), dataset.size(options)
    assert np.array_equal(raw.train_inputs, TRAIN)
    assert np.array_equal(raw.test_targets, TEST_LABELS)
    assert size is not None
    assert (size.num_train, size.num_test, size.shape) == (5, 2, DataShape(1, 3, 2, 4))
    assert raw.shape == size.shape
    assert raw.checksum == dataset.checksum(options)
    assert workload_data.prepare(raw, None, 0.2).train.inputs.shape == (4, 1, 3, 2)


def test_idx_files_may_have_other_names_and_colours(idx_folder: Path) -> None:
    colours = np.zeros((5, 3, 3, 2), np.uint8)
    (idx_folder / "a").write_bytes(idx_bytes(colours))
    (idx_folder / "b").write_bytes(idx_bytes(colours[:2]))
    options = IdxOptions(path=idx_folder, train_images="a", test_images="b")
    assert dataset_named("idx").load(options).shape == DataShape(3, 3, 2, 4)


def test_idx_missing_file_is_named_with_what_is_there(idx_folder: Path) -> None:
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(MachineError, match=r"neither t10k-labels.*there: t10k-images-idx3-ubyte\.gz.*test_labels"):
        dataset_named("idx").load(IdxOptions(path=idx_folder))


def test_idx_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no such folder"):
        dataset_named("idx").size(IdxOptions(path=tmp_path / "nowhere"))


def test_idx_counts_that_do_not_fit_are_refused(idx_folder: Path) -> None:
    (idx_folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(TRAIN_LABELS[:3]))
    with pytest.raises(MachineError, match=r"5 training images but training labels of shape \(3,\)"):
        dataset_named("idx").load(IdxOptions(path=idx_folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "magic number missing, expected 2051 or 2052"),
        (b"\x00\x00", "magic number missing"),
        (idx_bytes(TRAIN_LABELS), "magic number 2049, expected 2051 or 2052"),
        (idx_bytes(TRAIN)[:9], "inside its header, after 9 bytes"),
        (idx_bytes(TRAIN)[:-1], "29 bytes of values, expected 30 for 5 x 3 x 2"),
        (idx_bytes(TRAIN) + b"x", "31 bytes of values, expected 30"),
        (gzip.compress(idx_bytes(TRAIN), mtime=0)[:-9], "damaged or truncated gzip"),
        (b"\x1f\x8bnonsense that is no gzip", "damaged or truncated gzip"),
    ],
)
def test_idx_file_that_is_no_idx_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(MachineError, match=message) as refused:
        files.read_idx(path, (3, 4))
    assert str(path) in str(refused.value)


def test_idx_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot be read"):
        files.read_idx(tmp_path / "none", (1,))
    with pytest.raises(MachineError, match="cannot be read"):
        files.read_idx_shape(tmp_path / "none", (1,))


# Published files


def published(*mirrors: str) -> files.Published:
    first, second, third, fourth = (
        files.PublishedFile(name, len(content), hashlib.sha256(content).hexdigest())
        for name, content in idx_contents().items()
    )
    return files.Published("small", mirrors, (first, second, third, fourth))


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    return tmp_path / "data" / "small"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def mirror(idx_folder: Path) -> Iterator[str]:
    handler = partial(QuietHandler, directory=str(idx_folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def load_published(source: files.Published) -> RawData:
    from harness.workloads.datasets import load_published

    return load_published(source)


def test_download_over_http_is_verified_and_kept(mirror: str, data_folder: Path) -> None:
    raw = load_published(published(mirror))
    assert np.array_equal(raw.train_inputs, TRAIN)
    assert raw.checksum == published().checksum
    assert {path.name: path.read_bytes() for path in data_folder.iterdir()} == idx_contents()
    assert load_published(published()).checksum == raw.checksum  # no mirror: from the folder


def test_download_goes_on_to_the_next_mirror(idx_folder: Path, data_folder: Path, mirror: str) -> None:
    (idx_folder / "bad").mkdir()
    for name, content in idx_contents().items():
        (idx_folder / "bad" / name).write_bytes(content[:-1] + b"?")
    source = published(f"{mirror}/none", f"{mirror}/bad", mirror)
    assert np.array_equal(load_published(source).test_inputs, TEST)
    assert len(list(data_folder.iterdir())) == 4


@pytest.mark.parametrize(
    "change", [lambda content: content[:-1], lambda content: content + b"!", lambda content: b"X" + content[1:]]
)
def test_download_of_another_file_is_never_kept(idx_folder: Path, data_folder: Path, mirror: str, change: Any) -> None:
    path = idx_folder / "train-images-idx3-ubyte.gz"
    source = published(mirror)
    path.write_bytes(change(path.read_bytes()))
    refused = f"{mirror}/{path.name}: this is not the published file, so it was not kept: its sha256 is not "
    with pytest.raises(MachineError, match=refused + source.files[0].sha256):
        load_published(source)
    assert list(data_folder.iterdir()) == []


def test_a_downloaded_file_can_be_read_by_others(data_folder: Path, mirror: str) -> None:
    load_published(published(mirror))
    assert {path.stat().st_mode & 0o777 for path in data_folder.iterdir()} == {0o644}


def test_offline_message_says_what_goes_where(data_folder: Path, mirror: str) -> None:
    data_folder.mkdir(parents=True)
    here = published().files[0]
    (data_folder / here.name).write_bytes(idx_contents()[here.name])
    with pytest.raises(MachineError) as refused:
        load_published(published(f"{mirror}/none"))
    message = str(refused.value)
    assert f"into {data_folder}" in message
    assert "HARNESS_DATA" in message
    for file in published().files[1:]:
        assert f"{file.name}  {file.num_bytes:,} bytes  sha256 {file.sha256}" in message
    assert here.name not in message


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: b"X" + content[1:]])
def test_damaged_file_in_the_folder_is_named(data_folder: Path, change: Any) -> None:
    data_folder.mkdir(parents=True)
    for name, content in idx_contents().items():
        (data_folder / name).write_bytes(content)
    path = data_folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(MachineError, match=r"t10k-labels.*expected.*delete it"):
        load_published(published())


def test_folder_that_cannot_be_written_is_named(mirror: str, data_folder: Path) -> None:
    data_folder.parent.write_text("a file where the folder should be")
    with pytest.raises(MachineError, match="cannot be written"):
        load_published(published(mirror))


@pytest.mark.parametrize(
    ("environment", "platform", "expected"),
    [
        ({"HARNESS_DATA": "/d"}, "linux", Path("/d")),
        ({"XDG_CACHE_HOME": "/c"}, "linux", Path("/c/harness/data")),
        ({}, "linux", Path.home() / ".cache/harness/data"),
        ({"XDG_CACHE_HOME": "/c"}, "darwin", Path.home() / "Library/Caches/harness/data"),
        ({"HARNESS_DATA": "/d"}, "darwin", Path("/d")),
    ],
)
def test_data_folder(environment: dict[str, str], platform: str, expected: Path) -> None:
    assert files.data_folder(environment, platform) == expected


# User functions

USER_FILE = '''
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import neighbour


@dataclass
class Width:
    value: int


def build_model(channels, classes, width=neighbour.WIDTH):
    """A small network.

    With more text below.
    """
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(Width(width).value), nn.Linear(width, classes))


def every_keyword(**shape):
    return nn.Linear(shape["height"] * shape["width"], shape["classes"])


def wants_depth(channels, depth):
    return nn.Identity()


async def later():
    return nn.Identity()


def broken(classes):
    neighbour.fail()


def no_module():
    return 3


def leaves():
    raise SystemExit(2)


def arrays():
    images = np.arange(24).reshape(6, 2, 2)
    return images, [0, 1, 2, 0, 1, 2], torch.ones(2, 2, 2, dtype=torch.uint8), torch.tensor([0, 1])


def three():
    return 1, 2, 3


def flat():
    return np.zeros((3, 4)), [0, 1, 0], np.zeros((1, 4)), [0]


def float_labels():
    return np.zeros((2, 2, 2)), [0.0, 1.0], np.zeros((1, 2, 2)), [0.0]


def negative_labels():
    return np.zeros((2, 2, 2)), [0, -1], np.zeros((1, 2, 2)), [0]


def ragged():
    return [[1], [1, 2]], [0, 1], [[1]], [0]


def words():
    return ["a", "b"], [0, 1], ["a"], [0]
'''


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(USER_FILE)
    (tmp_path / "neighbour.py").write_text("WIDTH = 3\n\n\ndef fail():\n    raise KeyError('the reason')\n")
    sys.modules.pop("neighbour", None)
    return tmp_path


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(USER_FILE.splitlines(), 1) if text in line)


def test_user_model_is_built_with_the_keywords_that_it_takes(user_folder: Path) -> None:
    model = user_model("train.py:build_model", user_folder)
    assert model.summary == "A small network."
    assert model.file is not None
    assert (model.file.path, model.file.text) == (user_folder / "train.py", USER_FILE)
    module = model.build(model.Options(), DataShape(1, 2, 2, 5))
    assert module(torch.zeros(2, 1, 2, 2)).shape == (2, 5)
    with pytest.raises(PluginError):
        user_model("train.py:broken", user_folder).build(Options(), MNIST_LIKE)
    every = user_model("train.py:every_keyword", user_folder).build(Options(), DataShape(1, 2, 3, 5))
    assert num_parameters(every) == 35
    assert sys.path.index(str(user_folder)) > sys.path.index(str(Path(np.__file__).parents[1])), "it hides nothing"


def test_user_file_is_not_run_when_it_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("raise ValueError('ran')\ndef build_model(): pass\n")
    model = user_model("train.py:build_model", tmp_path)
    with pytest.raises(PluginError, match=r"train\.py:1: ValueError: ran"):
        model.build(Options(), MNIST_LIKE)


def test_user_text_that_was_read_is_what_runs(user_folder: Path) -> None:
    dataset = user_dataset("train.py:arrays", user_folder)
    (user_folder / "train.py").write_text("def arrays(): return 1")
    assert len(dataset.load(Options()).train_targets) == 6


def test_user_dataset_gives_arrays_or_tensors(user_folder: Path) -> None:
    dataset = user_dataset("train.py:arrays", user_folder)
    assert (dataset.size(Options()), dataset.checksum(Options()), dataset.target_accuracy) == (None, None, None)
    raw = dataset.load(Options())
    assert (raw.full_scale, len(raw.checksum), raw.train_targets.dtype) == (None, 64, np.int64)
    assert (raw.shape.inputs, raw.shape.classes) == ((Feature("", (2, 2)),), 3)
    assert workload_data.prepare(raw, None, 0.5).train.inputs.shape == (3, 2, 2)
    assert workload_data.prepare(raw, None, 0.5, as_images=True).train.inputs.shape == (3, 1, 2, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "train.py:bild_model",
            r"no function called bild_model; did you mean build_model\? It has Width, build_model, every_keyword",
        ),
        ("none.py:build_model", r"none\.py cannot be read: No such file"),
        ("train.py:wants_depth", r"wants_depth \(line \d+\) wants depth; it may take the keywords channels, height"),
        ("train.py:later", "is async"),
        ("bad.py:build_model", r"bad\.py:2: SyntaxError"),
        ("empty.py:build_model", "no functions at its top level"),
        ("slash.py:build_model", "wants channels/"),
    ],
)
def test_user_model_that_cannot_be_resolved_is_refused(user_folder: Path, name: str, message: str) -> None:
    (user_folder / "bad.py").write_text("\ndef (:\n")
    (user_folder / "empty.py").write_text("x = 1\n")
    (user_folder / "slash.py").write_text("def build_model(channels, /): pass\n")
    with pytest.raises(InputError, match=message) as refused:
        user_model(name, user_folder)
    assert f"workload.model = '{name}'" in str(refused.value)


def test_user_dataset_with_parameters_is_refused(user_folder: Path) -> None:
    with pytest.raises(InputError, match="wants classes; it is called without arguments"):
        user_dataset("train.py:broken", user_folder)


def test_user_error_surfaces_with_the_users_own_line(user_folder: Path) -> None:
    with pytest.raises(PluginError) as refused:
        user_model("train.py:broken", user_folder).build(Options(), MNIST_LIKE)
    assert str(refused.value).startswith(f"{user_folder / 'neighbour.py'}:5: KeyError: 'the reason'")
    assert isinstance(refused.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("function", "message"), [("no_module", "returned int, expected a torch.nn.Module"), ("leaves", "SystemExit: 2")]
)
def test_user_model_that_gives_no_module_is_refused(user_folder: Path, function: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        user_model(f"train.py:{function}", user_folder).build(Options(), MNIST_LIKE)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("three", "returned 3 values, expected four values"),
        ("no_module", "returned int, expected four values"),
        ("negative_labels", "training labels from -1 to 0; classes are numbered from 0"),
        ("ragged", "returned list, not an array"),
        ("words", r"an array of text \(<U1\); models take numbers"),
    ],
)
def test_user_dataset_that_gives_something_else_is_refused(user_folder: Path, function: str, message: str) -> None:
    with pytest.raises(PluginError, match=message) as refused:
        user_dataset(f"train.py:{function}", user_folder).load(Options())
    assert f"train.py:{line_of(f'def {function}(')}: {function}" in str(refused.value)


def test_user_function_is_told_from_a_name() -> None:
    assert is_user_function("train.py:build_model")
    assert not is_user_function("lenet5")


# Losses

LOSSES_OF_CLASSES = ("cross-entropy", "mse")


def per_sample_loss(name):
    """Return each sample's loss, (n,): a weighted sum with all weight on one sample."""
    loss = losses.weighted_loss(name)
    return lambda outputs, targets: torch.stack([loss(outputs, targets, row) for row in torch.eye(len(targets))])


@pytest.fixture
def outputs_and_targets() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(7, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1, 2])


def test_losses_are_what_their_names_say(outputs_and_targets: tuple[torch.Tensor, torch.Tensor]) -> None:
    outputs, targets = outputs_and_targets
    by_hand = -outputs.softmax(1)[torch.arange(7), targets].log()
    torch.testing.assert_close(per_sample_loss("cross-entropy")(outputs, targets), by_hand)
    distance = (outputs - nn.functional.one_hot(targets, 4)).square().mean(1)
    torch.testing.assert_close(per_sample_loss("mse")(outputs, targets), distance)


@pytest.mark.parametrize("name", LOSSES_OF_CLASSES)
def test_weighted_parts_add_up_to_the_mean(name: str, outputs_and_targets: tuple[torch.Tensor, torch.Tensor]) -> None:
    outputs, targets = outputs_and_targets
    whole = per_sample_loss(name)(outputs, targets).mean()
    loss = losses.weighted_loss(name)
    parts = loss(outputs[:5], targets[:5], 1 / 7) + loss(outputs[5:], targets[5:], 1 / 7)
    torch.testing.assert_close(parts, whole)
    padded = torch.tensor([1 / 5] * 5 + [0.0] * 2, dtype=torch.float64)
    torch.testing.assert_close(loss(outputs, targets, padded), loss(outputs[:5], targets[:5], 1 / 5))
    empty = loss(outputs[:0], targets[:0], 1 / 7)
    assert empty.item() == 0


@pytest.mark.parametrize("name", LOSSES_OF_CLASSES)
def test_losses_widen_bf16_outputs(name: str, outputs_and_targets: tuple[torch.Tensor, torch.Tensor]) -> None:
    outputs, targets = outputs_and_targets[0].bfloat16(), outputs_and_targets[1]
    with torch.autocast("cpu", torch.bfloat16):
        each, total = per_sample_loss(name)(outputs, targets), losses.weighted_loss(name)(outputs, targets, 1.0)
    assert each.dtype == total.dtype == torch.float32
    torch.testing.assert_close(each, per_sample_loss(name)(outputs.float(), targets))


def test_unknown_loss_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean cross-entropy"):
        losses.weighted_loss("crossentropy")


@pytest.mark.parametrize("name", LOSSES_OF_CLASSES)
def test_evaluate_is_the_mean_over_all_whatever_the_chunk(name: str) -> None:
    module = build("softmax", MNIST_LIKE)
    inputs, targets = torch.randn(25, 1, 32, 32), torch.arange(25) % 10
    loss, accuracy = losses.evaluate(module, batches.Samples(inputs, targets), name, chunk=10)
    outputs = module(inputs)
    assert loss == pytest.approx(per_sample_loss(name)(outputs, targets).mean().item(), rel=1e-5)
    assert accuracy == (outputs.argmax(1) == targets).sum().item() / 25


def test_evaluate_restores_every_part_and_changes_no_buffer() -> None:
    module = build("resnet18", MNIST_LIKE)
    assert isinstance(module, nn.Sequential)
    module.train()
    module[0].eval()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    losses.evaluate(module, batches.Samples(torch.randn(4, 1, 32, 32), torch.arange(4)), "cross-entropy", chunk=3)
    assert (module.training, module[0].training, module[1].training) == (True, False, True)
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
    assert torch.is_grad_enabled()


def test_evaluate_under_autocast_is_near_fp32() -> None:
    module = build("mlp", MNIST_LIKE)
    inputs, targets = torch.randn(20, 1, 32, 32), torch.arange(20) % 10
    exact = losses.evaluate(module, batches.Samples(inputs, targets), "cross-entropy")[0]
    coarse = losses.evaluate(module, batches.Samples(inputs, targets), "cross-entropy", autocast=torch.bfloat16)[0]
    assert coarse != exact
    assert coarse == pytest.approx(exact, rel=0.02)


def test_evaluate_of_nothing_is_nan() -> None:
    result = losses.evaluate(
        build("softmax", MNIST_LIKE),
        batches.Samples(torch.zeros(0, 1, 32, 32), torch.zeros(0, dtype=torch.int64)),
        "mse",
    )
    assert result == pytest.approx((float("nan"), float("nan")), nan_ok=True)
