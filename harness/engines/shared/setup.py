"""Turn a cell into the objects that an engine runs: strategy, data, model, budget, rate.

A timing-only cell has no data and no model; nothing here imports torch before one of the two is made.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api.host import Host, describe, load_host
from harness.api.strategy import Layout, Strategy
from harness.core.budget import Budget
from harness.core.errors import PluginError
from harness.engines.shared.rate_schedule import Rate, make_rate

if TYPE_CHECKING:
    from torch import nn

    from harness.core.cell import Cell
    from harness.engines.shared.replica import Replica
    from harness.workloads.entries import Dataset, Model


@dataclass(frozen=True)
class Setup:
    """Everything about a cell that both engines share."""

    cell: Cell
    strategy: Strategy
    layout: Layout
    model: Any
    data: Any
    shape: Any
    budget: Budget
    rate: Rate

    def replica(self) -> Replica:
        """Build the model with its seed's initial weights and an optimizer.

        Raises:
            PluginError: a model of the user's own does not fit the data.
        """
        from harness.engines.shared.replica import Replica, build_module

        work = self.cell.workload
        module = build_module(self.model, self.model.Options(**work.model.options), self.shape, self.cell.seed)
        if self.model.file is not None:
            try_users_model(module, self.data, self.model.name, str(self.model.file.path))
        return Replica(module, self.data, work.loss, work.optimizer, work.precision, work.clip_norm)

    @property
    def server_counts(self) -> bool:
        """The cell's own `server_counts`."""
        return self.cell.server_counts

    @property
    def num_train(self) -> int:
        """Training samples, the validation split left out."""
        return int(self.data.num_train)


def try_users_model(module: nn.Module, data: Any, name: str, file: str) -> None:
    """Pass two samples through a model of the user's own, so that a misfit is named before anything is measured.

    Raises:
        PluginError: the model does not take the data, or does not give one number for each class.
    """
    import torch

    inputs = data.train_inputs[:2].float().cpu()
    try:
        with torch.no_grad():
            outputs = copy.deepcopy(module)(inputs)
    except Exception as error:
        reason = describe(error, [file])
        raise PluginError(f"{name}: fails on inputs of shape {tuple(inputs.shape)}: {reason}") from error
    expected = (len(inputs), data.classes)
    if not isinstance(outputs, torch.Tensor) or tuple(outputs.shape) != expected:
        got = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise PluginError(f"{name}: must give outputs of shape {expected}, one for each class; got {got}")


def make_setup(cell: Cell, plugins: Sequence[str] = (), device: str = "cpu") -> Setup:
    """Load plugins and data, and put the cell together.

    Args:
        device: torch device that the data lives on.

    Raises:
        PluginError: there is no such strategy, or a file of the user's is broken.
        MachineError: the data cannot be had.
        Impossible: the strategy has no layout for so many devices.
    """
    host = load_host(plugins)
    strategy = make_strategy(host, cell)
    model, dataset = _entries(host, cell)
    data, shape = prepare_data(dataset, model, cell, device)
    budget = Budget.of(cell.goal, data.num_train)
    total = budget.max_samples
    if total is None and budget.max_updates is not None:
        total = budget.max_updates * cell.global_batch_size
    schedule, warmup = cell.workload.lr_schedule, cell.workload.lr_warmup
    rate = make_rate(cell.learning_rate, schedule, warmup, data.num_train, total)
    return Setup(cell, strategy, strategy.layout(cell.gpus), model, data, shape, budget, rate)


def _entries(host: Host, cell: Cell) -> tuple[Model, Dataset]:
    from harness.workloads.user import is_user_function, user_dataset, user_model

    model, dataset = cell.workload.model.name, cell.workload.dataset.name
    folder = Path(cell.folder)
    return (
        user_model(model, folder) if is_user_function(model) else host.models[model],
        user_dataset(dataset, folder) if is_user_function(dataset) else host.datasets[dataset],
    )


def make_strategy(host: Host, cell: Cell) -> Strategy:
    """Build the strategy with the cell's options.

    Raises:
        PluginError: there is none of that name, or its file is broken.
    """
    chosen = host.strategy(cell.strategy)
    return chosen(chosen.Options(**cell.options))


def prepare_data(dataset: Dataset, model: Model, cell: Cell, device: str) -> tuple[Any, Any]:
    """Load a dataset, enlarge it to the model's input, split it and put it on the device; return data and shape.

    Raises:
        MachineError: the data cannot be had.
    """
    from harness.engines.shared.replica import DTYPES
    from harness.workloads.data import prepare
    from harness.workloads.entries import seen_shape

    raw = dataset.load(dataset.Options(**cell.workload.dataset.options))
    shape = seen_shape(raw.shape, model)
    dtype = DTYPES[cell.workload.precision]
    return prepare(raw, model.input_size, cell.goal.validation_fraction, dtype, device), shape
