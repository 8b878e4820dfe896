"""Models without mathematics in a scenario: given by sizes or by a file of times, timed and never trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.cell import Named
from harness.core.errors import InputError
from harness.core.words import counted, parameters
from harness.scenario.mistakes import Source, validated
from harness.scenario.schema import GivenSizes, GivenTimes
from harness.scenario.value_types import WITHOUT_MATHEMATICS

_TRAINING = ("target_accuracy", "target_loss", "max_epochs", "evaluate_every", "validation_fraction")


@dataclass(frozen=True)
class GivenModel:
    """What stands where a catalogue's model would: nothing is learned, so there is no rate.

    Attributes:
        file_hash: of the file that the times are from; empty where sizes are given.
    """

    name: str
    file_hash: str = ""
    learning_rate: float = 0.0
    file: None = None


def is_without_data(model: Named) -> bool:
    """Say whether a model is one without mathematics."""
    return model.name in WITHOUT_MATHEMATICS and model.name in model.options


def read_given(named: Named, folder: Path, source: Source) -> tuple[GivenModel, Any] | None:
    """Return the model and its options, or None after adding what is wrong."""
    path = ("workload", "model")
    if named.name == "parameters":
        options = validated(GivenSizes, named.options, source, path)
        return None if options is None else (GivenModel(_size_in_words(options)), options)
    options = validated(GivenTimes, named.options, source, path)
    if options is None:
        return None
    from harness.costs.cells import profile_hash, profile_of_file  # late: most scenarios have a model of their own

    file = folder / options.profile
    try:
        profile_of_file(file, options.batch_size)
    except InputError as error:
        for problem in error.problems:
            source.problem((*path, "profile"), problem, options.profile)
        return None
    return GivenModel(file.name, profile_hash(file)), options


def _size_in_words(options: GivenSizes) -> str:
    return f"{parameters(options.parameters or 0.0)} parameters in {counted(options.layers, 'layer')}"


def refuse_training(content: Mapping[str, Any], source: Source) -> None:
    """Answer every key of a scenario that only mathematics could obey."""
    tables = (content.get(key) for key in ("workload", "goal"))
    workload, goal = (table if isinstance(table, Mapping) else {} for table in tables)
    if "dataset" in workload:
        source.problem(("workload", "dataset"), "this model has sizes or times only and reads no data; remove this key")
    for key in _TRAINING:
        if key in goal and goal[key] != "none":
            instead = "this model has sizes or times only: it is timed, not trained. Set goal.max_steps instead"
            source.problem(("goal", key), instead, goal[key])
    if content.get("engine") == "real":
        source.problem(
            ("engine",), 'this model has sizes or times only and runs on the virtual engine only; write "auto"', "real"
        )
