"""Data sets that lie in files: text, CIFAR's archives, folders of images, tables."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lazy import lazy

from harness.core.errors import MachineError
from harness.workloads import cifar, files
from harness.workloads.entries import Dataset, Feature, RawData
from harness.workloads.from_files import FILE_DATASETS
from harness.workloads.own_data import for_loss

pd = lazy("pandas")
torch = lazy("torch")
workload_data = lazy("harness.workloads.data")
image_file = lazy("PIL.Image")


def dataset_named(name: str) -> Dataset:
    return next(dataset for dataset in FILE_DATASETS if dataset.name == name)


def load(name: str, **options: Any) -> RawData:
    """Load a data set, having checked that what is known before loading is true."""
    dataset = dataset_named(name)
    chosen = dataset.Options(**options)
    raw, size = dataset.load(chosen), dataset.size(chosen)
    assert size is not None
    assert (size.num_train, size.num_test) == (len(raw.train_targets), len(raw.test_targets))
    assert size.shape == raw.shape
    assert dataset.checksum(chosen) == raw.checksum
    return raw


# -- text --------------------------------------------------------------------------------------------------------------


def test_text_is_the_standard_library_in_bytes_and_each_label_is_the_next_one() -> None:
    raw = load("text", sequence=32, samples=200, test_samples=50)
    assert (raw.train_inputs.shape, raw.test_inputs.shape, raw.vocabulary) == ((200, 32), (50, 32), 256)  # type: ignore[union-attr]
    assert raw.shape.labels_per_token
    np.testing.assert_array_equal(raw.train_inputs[:, 1:], raw.train_targets[:, :-1])  # type: ignore[call-overload]
    written = bytes(np.concatenate([raw.train_inputs, raw.test_inputs]).astype(np.uint8).ravel()).decode(
        "utf-8", "ignore"
    )
    assert "import" in written
    samples = {row.tobytes() for row in raw.train_inputs}  # type: ignore[union-attr]
    assert len(samples) == 200
    assert not samples & {row.tobytes() for row in raw.test_inputs}  # type: ignore[union-attr]


def test_text_of_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("B" * 60)
    (tmp_path / "a.txt").write_text("A" * 60, encoding="utf-8-sig")
    (tmp_path / "c.bin").write_bytes(b"\xff" * 500)
    raw = load("text", path=tmp_path, sequence=10, test_samples=2)
    assert len(raw.train_targets) == 9
    assert set(np.unique(raw.train_inputs)) == {ord("A"), ord("B")}  # type: ignore[arg-type]
    changed = raw.checksum
    (tmp_path / "a.txt").write_text("A" * 59 + "C")
    assert load("text", path=tmp_path, sequence=10, test_samples=2).checksum != changed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "page.txt: not UTF-8"),
        (b"", "no text in"),
        (b"short", "5 bytes in .* make 0 samples of 64 bytes"),
    ],
)
def test_text_that_is_none_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "page.txt").write_bytes(content)
    dataset = dataset_named("text")
    with pytest.raises(MachineError, match=message):
        dataset.load(dataset.Options(path=tmp_path / "page.txt"))


# -- CIFAR -------------------------------------------------------------------------------------------------------------


def records(count: int, classes: int, seed: int) -> tuple[bytes, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A file in the published format, its images and its labels."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, size=(count, 3, 32, 32), dtype=np.uint8)
    labels = random.integers(0, classes, size=count).astype(np.uint8)
    head = [labels[:, None]] if classes == 10 else [labels[:, None] // 5, labels[:, None]]
    return np.concatenate([*head, images.reshape(count, -1)], axis=1).tobytes(), images, labels


def published(folder: Path, classes: int, contents: dict[str, bytes]) -> files.Published:
    """An archive like the published one, in the data folder, and what is known of it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in contents.items():
            about = tarfile.TarInfo(f"cifar-{classes}-binary/{name}")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    content = packed.getvalue()
    file = files.PublishedFile("cifar.tar.gz", len(content), hashlib.sha256(content).hexdigest())
    (folder / f"cifar{classes}").mkdir(parents=True)
    (folder / f"cifar{classes}" / file.name).write_bytes(content)
    return files.Published(f"cifar{classes}", (), (file,))


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_archives_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    monkeypatch.setenv(files.DATA_VARIABLE, str(tmp_path))
    names = (*cifar.TRAIN_FILES[classes], cifar.TEST_FILES[classes])
    made = {name: records(4, classes, seed) for seed, name in enumerate(names)}
    source = published(tmp_path, classes, {name: content for name, (content, _, _) in made.items()} | {"readme": b"x"})
    raw = cifar.load_cifar(source, classes)
    np.testing.assert_array_equal(raw.train_inputs, np.concatenate([made[name][1] for name in names[:-1]]))
    np.testing.assert_array_equal(raw.train_targets, np.concatenate([made[name][2] for name in names[:-1]]))
    np.testing.assert_array_equal(raw.test_inputs, made[names[-1]][1])
    np.testing.assert_array_equal(raw.test_targets, made[names[-1]][2])
    assert (raw.classes, raw.checksum, raw.shape.channels) == (classes, source.checksum, 3)


def test_cifar_archives_that_are_damaged_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.DATA_VARIABLE, str(tmp_path))
    content, _, _ = records(2, 10, 0)
    source = published(tmp_path, 10, {"data_batch_1.bin": content})
    with pytest.raises(MachineError, match=r"without data_batch_2.bin, .*test_batch.bin; delete it"):
        cifar.load_cifar(source, 10)
    with pytest.raises(MachineError, match="has 6,145 bytes, no whole number of records of 3,073"):
        cifar.parse_records(tmp_path, "data_batch_1.bin", content[:-1], 10)
    with pytest.raises(MachineError, match="has a label 99, expected 0 to 9"):
        cifar.parse_records(tmp_path, "data_batch_1.bin", bytes([99]) + content[1:], 10)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_that_is_missing_says_what_goes_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(files.DATA_VARIABLE, str(tmp_path))
    monkeypatch.setattr(files, "_fetch", lambda url, file, folder: f"{url}: no network")
    dataset = dataset_named(name)
    with pytest.raises(MachineError, match=r"cifar-100?-binary.tar.gz  \d+,\d+,\d+ bytes  sha256 \w{64}"):
        dataset.load(dataset.Options())


# -- images ------------------------------------------------------------------------------------------------------------


def write_images(folder: Path, count: int, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            picture = np.full((20, 30, 3), 100 * number + k, np.uint8)
            ending = "png" if k % 2 else "jpg"
            image_file.fromarray(picture).save(folder / name / f"{k}.{ending}")


def test_image_folder_with_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 4)
    write_images(tmp_path / "val", 2)
    raw = load("imagefolder", path=tmp_path, size=8)
    assert (raw.train_inputs.shape, raw.test_inputs.shape) == ((8, 3, 8, 8), (4, 3, 8, 8))  # type: ignore[union-attr]
    assert raw.train_targets.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    means = raw.train_inputs.mean(axis=(1, 2, 3))  # type: ignore[union-attr]
    np.testing.assert_allclose(means, [0, 1, 2, 3, 100, 101, 102, 103], atol=1)
    assert load("imagefolder", path=tmp_path, size=8, channels=1).shape.channels == 1


def test_image_folder_without_splits_is_cut(tmp_path: Path) -> None:
    write_images(tmp_path, 5)
    raw = load("imagefolder", path=tmp_path, size=8, test_fraction=0.2)
    assert (len(raw.train_targets), len(raw.test_targets)) == (8, 2)


def test_a_folder_of_images_is_what_its_images_hold_and_not_when_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checksum(folder: Path) -> str | None:
        dataset = dataset_named("imagefolder")
        return dataset.checksum(dataset.Options(path=folder, size=8))

    write_images(tmp_path / "one", 4)
    first = checksum(tmp_path / "one")
    for path in (tmp_path / "one").rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    assert checksum(tmp_path / "one") == first
    assert checksum(Path(shutil.copytree(tmp_path / "one", tmp_path / "two"))) == first
    with monkeypatch.context() as patched:  # the old dates are trusted: nothing is read again
        patched.setattr(hashlib, "file_digest", None)
        assert checksum(tmp_path / "one") == first
    image = tmp_path / "one" / "cat" / "1.png"
    content = image.read_bytes()
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # as large as before
    assert checksum(tmp_path / "one") != first


def test_images_that_do_not_stay_in_memory_are_read_as_they_are_needed(tmp_path: Path) -> None:
    write_images(tmp_path, 6)
    dataset = dataset_named("imagefolder")
    options = dataset.Options(path=tmp_path, size=8)
    assert dataset.stream is not None
    told: list[int] = []
    streamed = dataset.stream(options, lambda num_bytes, anew: bool(told.append(num_bytes)))
    assert told == [4 * 12 * 3 * 8 * 8]
    resident = workload_data.prepare(dataset.load(options), None, 0.2)
    other = workload_data.prepare(streamed, None, 0.2)
    rows = np.array([3, 0, 5])
    for split in ("train", "validation", "test"):
        few = rows if split == "train" else np.zeros(1, np.int64)
        for one, two in zip(getattr(resident, split).rows(few), getattr(other, split).rows(few), strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is no folder; give one as `path`|must have one folder for each class, and has none"),
        (lambda folder: write_images(folder, 1, ("cat",)), "must have one folder for each class, and has only cat"),
        (lambda folder: [(folder / name).mkdir() for name in "ab"], "has no .png, .jpg or .jpeg files"),
    ],
)
def test_a_folder_that_is_no_image_folder_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path)
    dataset = dataset_named("imagefolder")
    with pytest.raises(MachineError, match=message):
        dataset.load(dataset.Options(path=tmp_path))


def test_an_image_that_is_broken_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    (tmp_path / "cat" / "0.jpg").write_bytes(b"no image")
    dataset = dataset_named("imagefolder")
    with pytest.raises(MachineError, match=r"0\.jpg: no image that can be read"):
        dataset.load(dataset.Options(path=tmp_path, size=8))


# -- tables ------------------------------------------------------------------------------------------------------------


def frame(count: int = 50) -> pd.DataFrame:
    random = np.random.default_rng(0)
    colour = np.array(["red", "green", "blue"])[np.arange(count) % 3]
    return pd.DataFrame(
        {
            "size": 100 + 7 * random.normal(size=count),
            "count": random.integers(0, 9, count),
            "colour": colour,
            "price": random.normal(size=count),
            "kind": np.array(["a", "b"])[np.arange(count) % 2],
        }
    )


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_table_standardises_numbers_and_spreads_words(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    frame().to_csv(path, index=False) if ending == "csv" else frame().to_parquet(path)
    raw = load("table", path=path, target="kind")
    assert raw.shape.inputs == (Feature("", (6,)),)
    assert (len(raw.train_targets), len(raw.test_targets), raw.classes) == (45, 5, 2)
    inputs: Any = raw.train_inputs
    np.testing.assert_allclose(inputs[:, [0, 1, 5]].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(inputs[:, [0, 1, 5]].std(axis=0), 1, atol=1e-5)
    assert set(np.unique(inputs[:, 2:5])) == {0.0, 1.0}
    assert (inputs[:, 2:5].sum(axis=1) == 1).all()
    assert "2 classes of kind numbered in the order of the alphabet" in "\n".join(raw.remarks)


def test_table_with_a_target_of_fractions_is_for_regression(tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "rows.csv", index=False)
    raw = load("table", path=tmp_path / "rows.csv", target="price", categories="codes")
    assert (raw.classes, raw.shape.targets) == (0, Feature("", (1,), "float"))
    assert raw.shape.inputs == (Feature("", (4,)),)
    assert for_loss(raw, "mse").train_targets.dtype == np.float32


def test_table_gives_its_target_a_scale_and_drops_columns_where_it_is_told(tmp_path: Path) -> None:
    rows = frame()
    rows["price"] = 1e5 + 3e4 * rows["price"]
    rows.to_csv(tmp_path / "rows.csv", index=False)
    given = {"path": tmp_path / "rows.csv", "target": "price"}
    plain = load("table", **given)
    assert len(plain.unscaled) == 1
    assert "the targets have values up to 1" in "\n".join(plain.remarks)
    raw = load("table", **given, standardize=["inputs", "target"], drop=["colour", "kind"])
    assert raw.shape.inputs == (Feature("", (2,)),)
    np.testing.assert_allclose([raw.train_targets.mean(), raw.train_targets.std()], [0, 1], atol=1e-5)
    assert raw.unscaled == ()
    assert "price was standardised: mean 1" in "\n".join(raw.remarks)
    as_it_is = load("table", **given, standardize=[], drop=["colour", "kind"])
    assert as_it_is.train_inputs[:, 0].mean() == pytest.approx(100, abs=5)


def test_table_with_a_file_of_test_rows(tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "train.csv", index=False)
    other = frame(10)
    other.loc[0, "colour"], other.loc[1, "size"] = "pink", np.nan
    other.to_csv(tmp_path / "test.csv", index=False)
    raw = load("table", path=tmp_path / "train.csv", test_path=tmp_path / "test.csv", target="kind")
    assert (len(raw.train_targets), len(raw.test_targets)) == (50, 9)
    told = "\n".join(raw.remarks)
    assert "1 row of 10 with a gap left out" in told
    assert "1 test row with a word in colour that no training row has" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "knd"}, "has no column knd; did you mean kind.*it has size, count, colour, price and kind"),
        ({"target": "kind", "drop": ["colr"]}, "drop: there is no column colr; did you mean colour"),
        ({"target": "kind", "drop": ["kind"]}, "drop: kind is the target; name another column"),
        ({"target": "kind", "path": "none.csv"}, "none.csv is not there; give the file as `path`"),
        ({"target": "kind", "path": "broken.parquet"}, "broken.parquet: cannot be read"),
        ({"target": "kind", "path": "single.csv"}, "no column beside kind"),
    ],
)
def test_table_that_cannot_be_read_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    frame().to_csv(tmp_path / "rows.csv", index=False)
    frame()[["kind"]].to_csv(tmp_path / "single.csv", index=False)
    (tmp_path / "broken.parquet").write_bytes(b"none")
    dataset = dataset_named("table")
    chosen = dataset.Options(**{"path": tmp_path / options.pop("path", "rows.csv"), **options})
    with pytest.raises(MachineError, match=message):
        dataset.load(chosen)
