"""Models and data sets. Importing this costs neither torch nor numpy; what needs them is imported when it is called."""

from __future__ import annotations

from harness.api.hooks import hookimpl
from harness.workloads.entries import Dataset, DataShape, Model
from harness.workloads.from_files import FILE_DATASETS
from harness.workloads.large import LARGE_MODELS, TOKENS
from harness.workloads.small import DATASETS, MODELS

__all__ = ["DataShape", "Dataset", "Model", "harness_datasets", "harness_models"]


@hookimpl
def harness_models() -> tuple[Model, ...]:
    """Register the models that ship with the harness."""
    return (*MODELS, *LARGE_MODELS)


@hookimpl
def harness_datasets() -> tuple[Dataset, ...]:
    """Register the data sets that ship with the harness."""
    return (*DATASETS, TOKENS, *FILE_DATASETS)
