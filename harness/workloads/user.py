"""A model or a data set that is a function in the user's own file: `train.py:build_model`.

Resolving reads and parses the file but does not run it, so that `plan` checks it without importing torch. It runs
when the model is built or the data loaded; what runs is the text that was read and hashed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.api.strategy import Options
from harness.workloads.entries import Dataset, DataShape, Model, RawData
from harness.workloads.user_files import UserFunction, find_user_function
from harness.workloads.user_import import call_user_function

if TYPE_CHECKING:
    from torch import nn

    from harness.workloads.entries import Keeps

MODEL_PARAMETERS = ("channels", "height", "width", "classes", "vocabulary")
DATASET_PARAMETERS = ()

USER_LEARNING_RATE = 0.01
"""Where the scenario gives none for a user's model. Chosen: nothing is known of it, a small rate seldom diverges."""


def user_model(name: str, base: Path) -> Model:
    """Return the entry of `FILE.py:FUNCTION`, a function that returns a torch module.

    It may take any of the keywords channels, height, width and classes; images come as large as the data set has them.

    Args:
        name: what the scenario says.
        base: the folder that a relative file is looked up in: the scenario's.

    Raises:
        UserFunctionError: there is no such file or function, it cannot be parsed, or it wants other parameters.
    """
    function = find_user_function("workload.model", name, base)
    function.check(MODEL_PARAMETERS)
    return Model(
        name=name,
        summary=function.summary,
        source=function.place,
        Options=Options,
        learning_rate=USER_LEARNING_RATE,
        input_size=None,
        build=lambda options, shape: _build(function, shape),
        file=function.file,
        takes="any",
    )


def user_dataset(name: str, base: Path) -> Dataset:
    """Return the entry of `FILE.py:FUNCTION`, a function that returns four arrays or tensors.

    They are train images, train labels, test images and test labels; images of (n, height, width) or (n, channels,
    height, width): bytes of 0..255, or numbers that are used as they are.

    Args:
        name: what the scenario says.
        base: the folder that a relative file is looked up in: the scenario's.

    Raises:
        UserFunctionError: there is no such file or function, it cannot be parsed, or it wants parameters.
    """
    function = find_user_function("workload.dataset", name, base)
    function.check(DATASET_PARAMETERS)
    return Dataset(
        name=name,
        summary=function.summary,
        source=function.place,
        Options=Options,
        size=lambda options: None,
        target_accuracy=None,
        load=lambda options: _load(function),
        stream=lambda options, keeps: _load(function, keeps),
        checksum=lambda options: None,
        file=function.file,
    )


def _build(function: UserFunction, shape: DataShape) -> nn.Module:
    built = call_user_function(function, {name: getattr(shape, name) for name in MODEL_PARAMETERS})
    from torch import nn

    if not isinstance(built, nn.Module):
        raise function.refused(f"returned {type(built).__name__}, expected a torch.nn.Module")
    return built


def _load(function: UserFunction, keeps: Keeps | None = None) -> RawData:
    from harness.workloads.own_data import Unfit, raw_data

    result = call_user_function(function, {})
    try:
        return raw_data(result, keeps)
    except Unfit as error:
        raise function.refused(f"returned {error}") from None
