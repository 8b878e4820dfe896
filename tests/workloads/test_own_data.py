"""Data as people bring them: every form, what is said of it, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from lazy import lazy

from harness.workloads import data_forms
from harness.workloads.entries import Feature, RawData
from harness.workloads.found_data import Unfit
from harness.workloads.judge_data import judge_validation
from harness.workloads.own_data import for_loss, raw_data

pd = lazy("pandas")
torch = lazy("torch")
workload_data = lazy("harness.workloads.data")

N, TESTED = 60, 20


def generator() -> np.random.Generator:
    return np.random.default_rng(3)


def vectors(count: int = N, width: int = 5) -> np.ndarray[Any, Any]:
    return generator().normal(size=(count, width)).astype(np.float32)


def labels(count: int = N, classes: int = 3) -> np.ndarray[Any, Any]:
    return np.arange(count) % classes


def four(inputs: Any, targets: Any) -> tuple[Any, ...]:
    """The same samples in both splits, as far as there are any."""
    return inputs, targets, inputs[:TESTED], targets[:TESTED]


def read(result: Any, loss: str = "cross-entropy") -> RawData:
    return for_loss(raw_data(result), loss)


def said(raw: RawData) -> str:
    return "\n".join(raw.remarks)


class Pairs:
    """A map-style data set without torch."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self.inputs, self.of = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> Any:
        return self.inputs[row], self.of[row]


# -- forms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        lambda x, y: four(x, y),
        lambda x, y: [*four(x.tolist(), y.tolist())],
        lambda x, y: four(torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)),
        lambda x, y: four(pd.DataFrame(x), pd.Series(y)),
        lambda x, y: four(list(x), list(y)),
        lambda x, y: four([torch.from_numpy(each) for each in x], [torch.tensor(each) for each in y]),
        lambda x, y: ((x, y), (x[:TESTED], y[:TESTED])),
        lambda x, y: {"train": (x, y), "test": (x[:TESTED], y[:TESTED])},
        lambda x, y: (Pairs(x, y), Pairs(x[:TESTED], y[:TESTED])),
        lambda x, y: tuple(
            torch.utils.data.TensorDataset(*map(torch.from_numpy, p)) for p in ((x, y), (x[:20], y[:20]))
        ),
        lambda x, y: (
            torch.utils.data.Subset(Pairs(np.flip(x, 0), np.flip(y, 0)), range(N - 1, -1, -1)),
            Pairs(x[:TESTED], y[:TESTED]),
        ),
        lambda x, y: (iter(zip(x, y, strict=True)), iter(zip(x[:TESTED], y[:TESTED], strict=True))),
        lambda x, y: (
            torch.utils.data.DataLoader(Pairs(x, y), batch_size=7, shuffle=True),
            torch.utils.data.DataLoader(Pairs(x[:TESTED], y[:TESTED])),
        ),
    ],
    ids=lambda made: str(made.__code__.co_firstlineno),
)
def test_every_form_gives_the_same_arrays(given: Any) -> None:
    raw = read(given(vectors(), labels()))
    for found, expected in (
        (raw.train_inputs, vectors()),
        (raw.train_targets, labels()),
        (raw.test_inputs, vectors()[:TESTED]),
        (raw.test_targets, labels()[:TESTED]),
    ):
        np.testing.assert_array_equal(found, expected)
    assert (raw.classes, raw.full_scale, raw.vocabulary, raw.train_targets.dtype) == (3, None, 0, np.int64)
    assert raw.shape.inputs == (Feature("", (5,)),)


def test_one_data_set_is_cut_the_same_way_each_time_and_not_at_its_end() -> None:
    raw, again = (read(Pairs(vectors(), labels())) for _ in range(2))
    assert (len(raw.train_targets), len(raw.test_targets)) == (54, 6)
    np.testing.assert_array_equal(raw.test_inputs, again.test_inputs)
    rows = {row.tobytes() for split in (raw.train_inputs, raw.test_inputs) for row in split}  # type: ignore[union-attr]
    assert rows == {row.tobytes() for row in vectors()}
    assert not np.array_equal(raw.test_inputs, vectors()[-6:])
    assert "6 of its 60 samples, the same in every run, are the test split" in said(raw)


def test_a_pair_of_arrays_is_one_data_set() -> None:
    raw = read((vectors(), labels()))
    assert (len(raw.train_targets), len(raw.test_targets)) == (54, 6)


def test_of_a_loader_the_collate_function_is_used_and_the_rest_is_said_not_to_be() -> None:
    def doubled(samples: list[Any]) -> Any:
        inputs, targets = zip(*samples, strict=True)
        return 2 * torch.from_numpy(np.stack(inputs)), torch.tensor(targets)

    loader = torch.utils.data.DataLoader(Pairs(vectors(), labels()), batch_size=3, collate_fn=doubled)
    raw = read((loader, Pairs(vectors()[:TESTED], labels()[:TESTED])))
    np.testing.assert_array_equal(raw.train_inputs, 2 * vectors())
    assert "not its sampler and batch size" in said(raw)


def test_dicts_go_to_the_model_by_their_keywords() -> None:
    ids = generator().integers(0, 30, size=(N, 7))
    inputs = {"input_ids": ids, "attention_mask": np.ones((N, 7), np.int32), "scale": vectors()}
    taken = {name: array[:TESTED] for name, array in inputs.items()}
    raw = read((inputs, labels(), taken, labels()[:TESTED]))
    assert [(f.name, f.shape, f.dtype) for f in raw.shape.inputs] == [
        ("input_ids", (7,), "int64"),
        ("attention_mask", (7,), "int64"),
        ("scale", (5,), "float"),
    ]
    samples = [{**{name: array[k] for name, array in inputs.items()}, "labels": labels()[k]} for k in range(N)]
    same = read((ListOfSamples(samples), ListOfSamples(samples[:TESTED])))
    assert same.checksum == raw.checksum


class ListOfSamples:
    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> Any:
        return self.samples[row]


def test_a_table_of_pandas_is_vectors_with_a_target() -> None:
    frame = pd.DataFrame(vectors(), columns=list("abcde")).assign(label=labels())
    raw = read((frame, frame[:TESTED]))
    np.testing.assert_array_equal(raw.train_inputs, vectors())
    assert "5 columns is one vector" in said(raw)
    with pytest.raises(Unfit, match="a table whose f are no numbers"):
        read(frame.assign(f="x"))


def test_hugging_face_columns_by_name() -> None:
    hub = pytest.importorskip("datasets")
    made = hub.Dataset.from_dict(
        {
            "input_ids": generator().integers(0, 9, size=(N, 4)).tolist(),
            "attention_mask": [[1] * 4] * N,
            "text": ["words"] * N,
            "label": labels().tolist(),
        }
    )
    raw = read(hub.DatasetDict({"train": made, "test": made.select(range(TESTED)), "validation": made}))
    assert [f.name for f in raw.shape.inputs] == ["input_ids", "attention_mask"]
    assert raw.train_targets.tolist() == labels().tolist()
    assert "text holds no numbers and is left out" in said(raw)
    assert "the split validation is not used" in said(raw)
    chosen = made.with_format("torch", columns=["input_ids", "label"])
    assert [f.name for f in read((chosen, chosen)).shape.inputs] == ["input_ids"]
    doubled = made.with_transform(lambda b: {"input_ids": 2 * np.array(b["input_ids"]), "label": b["label"]})
    np.testing.assert_array_equal(
        read((doubled, doubled)).train_inputs["input_ids"],  # type: ignore[call-overload]
        2 * np.array(made["input_ids"]),
    )
    streamed = raw_data(hub.DatasetDict({"train": made, "test": made}), lambda num_bytes, anew: False)
    assert streamed.streams is not None
    inputs, targets = streamed.streams.train.read(np.array([4, 1]))
    np.testing.assert_array_equal(inputs["input_ids"], np.array(made["input_ids"])[[4, 1]])  # type: ignore[call-overload]
    assert targets.tolist() == [1, 1]
    ragged = hub.Dataset.from_dict({"input_ids": [[1], [1, 2]], "label": [0, 1]})
    with pytest.raises(Unfit, match="rows of different shapes in the column input_ids; pad"):
        read((ragged, ragged))
    with pytest.raises(Unfit, match="the columns text; one of them must be called labels, label"):
        read(made.select_columns(["text"]))


def test_a_published_test_split_without_targets_is_not_used() -> None:
    hidden = (vectors(), np.full(N, -1))
    raw = read({"train": (vectors(), labels()), "test": hidden, "validation": (vectors(7), labels(7))})
    assert len(raw.test_targets) == 7
    assert "the split test has -1 for every target, and is not used" in said(raw)


class WithTargets(Pairs):
    """Keeps its targets as torchvision's data sets do, and gives out others where it changes them."""

    def __init__(self, inputs: Any, targets: Any, change: int = 0) -> None:
        super().__init__(inputs, targets)
        self.targets, self.change, self.reads = targets, change, 0

    def __getitem__(self, row: int) -> Any:
        self.reads += 1
        return self.inputs[row], (self.of[row] + self.change) % 3


def test_targets_that_a_data_set_keeps_spare_reading_it_unless_it_gives_out_others() -> None:
    kept, changing = (WithTargets(vectors(900), labels(900), change) for change in (0, 1))
    test = WithTargets(vectors(), labels())
    raw, changed = (raw_data((train, test), lambda num_bytes, anew: False) for train in (kept, changing))
    assert kept.reads < 900 < changing.reads
    assert raw.train_targets.tolist() == labels(900).tolist()
    assert changed.train_targets.tolist() == ((labels(900) + 1) % 3).tolist()
    assert "all samples were read once for their targets" in said(changed)
    assert len(raw.train_inputs) < 900


def test_tokens_of_a_streamed_data_set_are_all_counted() -> None:
    ids = np.zeros((900, 4), np.int64)
    ids[437, 2] = 99
    raw = raw_data((Pairs(ids, labels(900)), Pairs(ids[:9], labels(9))), lambda num_bytes, anew: False)
    assert (raw.vocabulary, len(raw.train_targets)) == (100, 900)


def test_hugging_face_images_are_turned_and_scaled() -> None:
    hub = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    pixels = generator().integers(0, 256, size=(6, 8, 9, 3), dtype=np.uint8)
    features = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(names=["a", "b"])})
    made = hub.Dataset.from_dict(
        {"image": [image.fromarray(each) for each in pixels], "label": [0, 1] * 3}, features=features
    )
    raw = read((made, made))
    np.testing.assert_array_equal(raw.train_inputs, pixels.transpose(0, 3, 1, 2))
    assert (raw.full_scale, raw.shape.channels, raw.classes) == (255.0, 3, 2)


def test_pillow_images_of_a_data_set_are_arrays() -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = generator().integers(0, 256, size=(6, 8, 9, 3), dtype=np.uint8)
    raw = read(Pairs([image.fromarray(each) for each in pixels], [0, 1] * 3))
    assert raw.shape.inputs == (Feature("", (3, 8, 9)),)


def test_an_iterable_is_mapped_into_memory_and_read_once() -> None:
    read_times = 0

    def samples() -> Iterator[Any]:
        nonlocal read_times
        for row, label in zip(vectors(700), labels(700), strict=True):
            read_times += 1
            yield {"x": row, "labels": label}

    raw = raw_data(samples())
    assert read_times == 700
    assert "an iterable was read once" in said(raw)
    assert len(raw.train_targets) + len(raw.test_targets) == 700


def test_an_iterable_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_forms, "LARGEST_READ", 2**16)

    def endless() -> Iterator[Any]:
        while True:
            yield np.zeros(64, np.float32), 0

    with pytest.raises(Unfit, match=r"an iterable of more than .* GiB; return a map-style data set"):
        raw_data(endless())


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda: 3, "int, expected four values"),
        (lambda: None, "NoneType, expected four values"),
        (lambda: (1, 2, 3), "3 values, expected four values"),
        (lambda: Pairs([], []), "a data set without samples"),
        (lambda: iter([]), "a data set without samples"),
        (lambda: ListOfSamples([(1.0, 2.0, 0)] * 4), "samples of 3 values, expected pairs"),
        (lambda: ListOfSamples([{"x": 1.0}] * 4), "samples with the keys x; one of them must be called labels"),
        (lambda: Pairs([np.zeros(2), np.zeros(3)] * 3, [0] * 6), "samples of different shapes"),
        (lambda: ListOfSamples([((np.zeros(2), np.zeros(2)), 0)] * 4), "several inputs without names; give them as a"),
        (lambda: ListOfSamples([(object(), 0)] * 4), "samples that cannot be joined to a batch"),
        (lambda: four(np.array(["a"] * N), labels()), "an array of text .*; models take numbers"),
        (lambda: four(np.zeros((N, 2), complex), labels()), "an array of complex128, expected numbers"),
        (lambda: four([[1], [1, 2]] * 30, labels()), "list, not an array"),
    ],
)
def test_what_is_no_data_is_refused(result: Any, message: str) -> None:
    with pytest.raises(Unfit, match=message):
        read(result())


# -- inputs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["first", "last", "grey"])
def test_bytes_are_images_in_either_order(order: str) -> None:
    first = generator().integers(0, 256, size=(N, 3, 8, 9), dtype=np.uint8)
    given = {"first": first, "last": first.transpose(0, 2, 3, 1), "grey": first[:, 0]}[order]
    raw = read(four(given, labels()))
    np.testing.assert_array_equal(raw.train_inputs, first[:, 0] if order == "grey" else first)
    assert ("were turned" in said(raw)) == (order == "last")
    assert "divided by 255 and normalised" in said(raw)
    pixels = workload_data.prepare(raw, None, 0.1).train.inputs
    assert abs(float(pixels.mean())) < 0.05
    assert abs(float(pixels.std()) - 1) < 0.05


def test_floats_are_given_as_they_are_whatever_their_order() -> None:
    given = generator().normal(size=(N, 8, 9, 3))
    raw = read(four(given, labels()))
    np.testing.assert_array_equal(raw.train_inputs, given)
    assert "look like images with the channels last" in said(raw)
    kept = workload_data.prepare(raw, None, 0.0, dtype=torch.float64).train.inputs
    np.testing.assert_array_equal(np.sort(kept.numpy().ravel()), np.sort(given.ravel()))


def test_half_and_bfloat16_become_float32_exactly() -> None:
    half = vectors().astype(np.float16)
    np.testing.assert_array_equal(read(four(half, labels())).train_inputs, half.astype(np.float32))
    brief = torch.from_numpy(vectors()).bfloat16()
    raw = read(four(brief, labels()))
    np.testing.assert_array_equal(raw.train_inputs, brief.float().numpy())
    assert "bfloat16 became float32" in said(raw)


def test_doubles_that_float32_cannot_tell_apart_are_said() -> None:
    dates = 1.7e9 + generator().uniform(0, 3600, size=(N, 1))
    given = np.concatenate([dates, vectors().astype(np.float64)], axis=1)
    raw = read(four(given, labels()))
    assert "1 of 6 numbers of a sample" in "\n".join(workload_data.prepare(raw, None, 0.1).remarks)
    assert workload_data.prepare(raw, None, 0.1, dtype=torch.float64).remarks == raw.remarks


def test_whole_numbers_of_two_axes_are_tokens_and_others_are_measured() -> None:
    ids = generator().integers(0, 30, size=(N, 7), dtype=np.int32)
    raw = read(four(ids, np.roll(ids, -1, axis=1)))
    assert (raw.vocabulary, raw.shape.labels_per_token, raw.shape.width) == (int(ids.max()) + 1, True, 7)
    measured = read(four(ids - 40, labels()))
    assert (measured.train_inputs.dtype, measured.vocabulary) == (np.float32, 0)  # type: ignore[union-attr]
    assert "no tokens became floats" in said(measured)


def test_several_labels_of_a_text_are_no_labels_of_its_tokens() -> None:
    ids = generator().integers(0, 30, size=(N, 7))
    several = generator().integers(0, 2, size=(N, 4))
    raw = read(four(ids, several), "bce-with-logits")
    assert (raw.shape.labels_per_token, raw.shape.targets.shape) == (False, (4,))


# -- targets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "remark"),
    [
        (lambda y: y.astype(np.int8), ""),
        (lambda y: y.astype(np.float64), "whole numbers written as fractions"),
        (lambda y: y[:, None], "of shape (n, 1) are read as (n,)"),
        (lambda y: np.eye(3)[y], "one-hot targets were turned into classes"),
        (lambda y: np.eye(3, dtype=np.int64)[y], "one-hot targets were turned into classes"),
        (lambda y: np.array(list("abc"))[y], "numbered in the order of the alphabet: 0 = a, 1 = b and 2 = c"),
        (lambda y: pd.Series(np.array(list("abc"))[y]), "0 = a, 1 = b and 2 = c"),
        (lambda y: pd.Series(np.array(list("abc"))[y], dtype="category"), "0 = a, 1 = b and 2 = c"),
    ],
    ids=["bytes", "floats", "column", "one-hot", "one-hot-ints", "text", "series", "categories"],
)
def test_classes_in_any_form_are_numbers(targets: Any, remark: str) -> None:
    raw = read(four(vectors(), targets(labels())))
    assert raw.train_targets.tolist() == labels().tolist()
    assert raw.test_targets.tolist() == labels()[:TESTED].tolist()
    assert (raw.classes, raw.train_targets.dtype) == (3, np.int64)
    assert remark in said(raw)


def test_truth_values_are_two_classes() -> None:
    assert read(four(vectors(), labels(classes=2).astype(bool))).classes == 2


def test_numbers_to_be_met_keep_their_shape() -> None:
    wanted = generator().normal(size=(N, 2))
    raw = read(four(vectors(), wanted), "mse")
    assert (raw.classes, raw.shape.targets) == (0, Feature("", (2,), "float"))
    np.testing.assert_array_equal(raw.train_targets, wanted.astype(np.float32))
    with pytest.raises(Unfit, match=r'targets with fractions.*workload.loss = "mse"'):
        read(four(vectors(), wanted))
    assert "targets of whole numbers are classes" in said(read(four(vectors(), labels()), "mse"))


def test_ignored_positions_and_pixels_are_kept() -> None:
    ids = generator().integers(0, 30, size=(N, 7))
    masked = np.where(generator().random((N, 7)) < 0.5, ids, -100)
    raw = read(four(ids, masked))
    np.testing.assert_array_equal(raw.train_targets, masked)
    images, maps = generator().normal(size=(N, 3, 4, 4)), generator().integers(0, 2, size=(N, 4, 4))
    assert read(four(images, maps)).shape.targets == Feature("", (4, 4), "int64", 2)
    maps[0] = 255
    assert "classes 2, 3, 4, 5, 6 and 248 more among 256 classes; pixels that do not count are -100" in said(
        read(four(images, maps))
    )


def test_binary_targets_are_0_to_1() -> None:
    several = generator().integers(0, 2, size=(N, 4))
    assert read(four(vectors(), several), "bce-with-logits").train_targets.shape == (N, 4)
    with pytest.raises(Unfit, match="training targets from 0 to 2, and bce-with-logits takes 0 to 1"):
        read(four(vectors(), labels()), "bce-with-logits")


# -- judged ------------------------------------------------------------------------------------------------------------


def overflown() -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore"):
        return (1e5 * vectors()).astype(np.float16)


def spoilt(value: float, split: int) -> tuple[Any, ...]:
    result = [array.copy() for array in four(vectors(), labels())]
    result[2 * split][7, 3] = value
    return tuple(result)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda: spoilt(np.nan, 0), "training inputs with 1 value not a finite number, the first in sample 7"),
        (lambda: spoilt(np.inf, 1), "test inputs with 1 value not a finite number, the first in sample 7"),
        (lambda: four(vectors(), np.where(labels() == 1, np.nan, 0.5)), "training targets with 20 values not a finite"),
        (lambda: four(overflown(), labels()), "float16 holds no more than 65,504"),
        (
            lambda: (vectors(), labels()[:-1], *four(vectors(), labels())[2:]),
            "60 training inputs but 59 training targe",
        ),
        (lambda: four(vectors(), np.zeros((3, N), int)), r"training targets of shape \(3, 60\) for 60 training inputs"),
        (lambda: four(np.zeros((4, 4, N)), labels()), r"training inputs of shape \(4, 4, 60\) for 60 targets"),
        (lambda: (vectors(), labels(), vectors(0), labels(0)), "no test samples"),
        (lambda: (vectors(1), labels(1), vectors(), labels()), "one training sample"),
        (lambda: (vectors(1), labels(1)), "one sample; at least three are needed"),
        (lambda: four(vectors(), labels() - 1), "training labels from -1 to 1; classes are numbered from 0"),
        (lambda: four(vectors(), labels() + 10**6), "training labels up to 1,000,002: that would be as many classes"),
        (lambda: four(vectors(), 0 * labels()), "60 training samples of one class, 0; there is nothing to tell apart"),
        (
            lambda: (vectors(), labels(), vectors(width=4), labels()),
            r"training samples of shape \(5,\), test samples of shape \(4,\)",
        ),
        (
            lambda: (np.zeros((N, 4, 4), np.uint8), labels(), np.zeros((N, 4, 4)), labels()),
            "type uint8, test samples of type float64: bytes and fractions are on different scales",
        ),
        (
            lambda: (np.linspace(0, 255, N)[:, None], labels(), np.linspace(0, 1, N)[:, None], labels()),
            "training inputs up to 255 and test inputs up to 1: bytes and fractions",
        ),
        (lambda: ({"a": vectors()}, labels(), {"b": vectors()}, labels()), "inputs with different names"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(result: Any, message: str) -> None:
    with pytest.raises(Unfit, match=message):
        read(result())


@pytest.mark.parametrize(
    ("result", "remark"),
    [
        (lambda: (vectors(), labels(), 30 * vectors(), labels()), "inputs of the two splits are on different scales"),
        (lambda: (vectors(), labels(), vectors() + 40, labels()), "mean 0.0.* in training, 40.* in test"),
        (lambda: four(vectors(), labels() + 1), "labels start at 1, and no sample is of class 0; subtract 1"),
        (lambda: four(vectors(), 2 * labels()), "no sample of classes 1 and 3 among 5 classes"),
        (lambda: (vectors(), labels(), vectors(), labels(classes=4)), "no training sample of class 3, which the test"),
        (lambda: four(vectors(), np.arange(N)), "60 classes in 60 training samples"),
    ],
)
def test_what_looks_odd_is_said(result: Any, remark: str) -> None:
    assert re.search(remark, said(read(result())))


def test_ordinary_data_are_not_remarked_on() -> None:
    assert read(four(vectors(), labels())).remarks == ()


def test_an_empty_validation_split_is_refused_with_the_share_that_fills_it() -> None:
    for whole in (2, 3, 4, 7):
        with pytest.raises(Unfit, match=r"set it to ([0-9.]+) or more") as refused:
            judge_validation(whole, 0, evaluates=True)
        share = float(re.search(r"set it to ([0-9.]+)", str(refused.value))[1])  # type: ignore[index]
        assert len(workload_data.split(whole, share)[1]) >= 1
    assert judge_validation(4, 0, evaluates=False) == []
    assert "2 samples: one of them is 50 %" in judge_validation(18, 2, evaluates=True)[0]
    assert judge_validation(900, 100, evaluates=True) == []


def test_the_users_arrays_are_left_as_they_were() -> None:
    inputs, targets = vectors(), labels()
    raw = read(four(inputs, targets))
    train = workload_data.prepare(raw, None, 0.1).train
    train.take(torch.arange(3))[0].zero_()
    train.block(0, 3)[0].zero_()
    np.testing.assert_array_equal(inputs, vectors())
    assert float(train.take(torch.arange(3))[0].abs().min()) > 0


# -- scales of columns -------------------------------------------------------------------------------------------------


def test_columns_without_a_scale_are_named() -> None:
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"area": draw.uniform(30, 300, 60), "lot": draw.uniform(0, 3e7, 60)})
    price = 2e5 + 1e4 * draw.normal(size=60)
    raw = raw_data((table[:50], price[:50], table[50:], price[50:]))
    assert [words.split(" has ")[0] for words in raw.unscaled[:1]] == ["column lot"]
    assert raw.unscaled[1].startswith("the targets have values up to 2")
    (said,) = [remark for remark in raw.remarks if "Scale that" in remark]
    assert "area" not in said
    unnamed = raw_data((table.to_numpy()[:50], price[:50] / 1e5, table.to_numpy()[50:], price[50:] / 1e5))
    assert [words.split(" has ")[0] for words in unnamed.unscaled] == ["column 1"]
    scaled = (table - table.mean()) / table.std()
    assert raw_data((scaled[:50], price[:50] / 1e5, scaled[50:], price[50:] / 1e5)).unscaled == ()
