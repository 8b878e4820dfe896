"""Turn a cell into the objects that an engine runs: strategy, data, model, budget, rate.

A timing-only cell has no data and no model; nothing here imports torch before one of the two is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api.host import Host, load_host
from harness.api.strategy import Layout, Strategy
from harness.core.budget import Budget
from harness.core.errors import PluginError
from harness.core.words import counted, duration
from harness.engines.shared.rate_schedule import Rate, make_rate

if TYPE_CHECKING:
    from torch import nn

    from harness.core.cell import Cell
    from harness.engines.shared.replica import Replica
    from harness.engines.shared.trial import Trial
    from harness.workloads.entries import Dataset, Model, RawData

DATA_SEED = 20162
"""Draws what a data function draws: chosen once, and never a run's seed, so that all runs see the same data."""


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
    _found: dict[str, Trial] = field(default_factory=dict, repr=False, compare=False)

    def replica(self) -> Replica:
        """Build the model with its seed's initial weights and an optimizer.

        Raises:
            PluginError: a model of the user's own does not fit the data.
        """
        from harness.engines.shared.replica import Replica, build_module, draws

        work, seed = self.cell.workload, self.cell.seed
        module = build_module(self.model, self.model.Options(**work.model.options), self.shape, seed)
        trial = self._try(module)
        optional = trial is not None and bool(trial.without_gradient)
        made = Replica(module, self.data, work.loss, work.optimizer, work.precision, work.clip_norm, optional)
        made.draws = trial.draws if trial is not None else draws(module)
        return made

    def _try(self, module: nn.Module) -> Trial | None:
        """Take a trial step with a model of the user's own, once; built-in ones are known."""
        if self.model.file is None:
            return None
        if "trial" not in self._found:
            from harness.engines.shared.trial import try_model

            work, files = self.cell.workload, [str(self.model.file.path)]
            self._found["trial"] = try_model(module, self.data, work, self.cell.seed, files)
        return self._found["trial"]

    def begin_step(self, rank: int, step: int) -> None:
        """Say which step of a worker is under way: samples that are drawn anew follow the pass over the data."""
        if self.data is not None and self.data.train.draws:
            self.data.train.epoch = self.pass_of(rank, step)

    def pass_of(self, rank: int, step: int) -> int:
        """Return which pass over its data a worker's step belongs to; 0 where nothing is drawn anew."""
        if not self.data.train.draws:
            return 0
        from harness.engines.shared.sample_order import steps_of_a_pass

        cell = self.cell
        own = self.strategy.batches == "own"
        size = cell.batch_size if own else cell.global_batch_size
        workers = cell.workers if own else 1
        return step // steps_of_a_pass(self.num_train, size, rank if own else 0, workers)

    @property
    def server_counts(self) -> bool:
        """The cell's own `server_counts`."""
        return self.cell.server_counts

    def stop_reading(self) -> None:
        """End the processes that read samples ahead."""
        from harness.workloads.streamed import Streamed

        if self.data is not None and isinstance(self.data.train, Streamed):
            self.data.train.close()

    def data_notes(self) -> list[str]:
        """Return what was converted or noticed when the data were loaded, and how they are read."""
        return [] if self.data is None else [*self.data.remarks, *reading_in_words(self.data.train, self.cell)]

    @property
    def num_train(self) -> int:
        """Training samples, the validation split left out."""
        return int(self.data.num_train)


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
    from harness.workloads.user import user_dataset, user_model
    from harness.workloads.user_files import is_user_function

    model, dataset = cell.workload.model.name, cell.workload.dataset.name
    folder = Path(cell.folder)
    return (
        user_model(model, folder) if is_user_function(model) else host.models[model],
        user_dataset(dataset, folder) if is_user_function(dataset) else host.datasets[dataset],
    )


def reading_in_words(train: Any, cell: Cell) -> list[str]:
    """Say that samples are read as they are needed, and what that costs."""
    from harness.workloads.streamed import Streamed

    if not isinstance(train, Streamed):
        return []
    workers = cell.workload.loading.workers
    who = f"{counted(workers, 'process', 'processes')} of each device" if workers else "the device's own process"
    told = [f"data: samples are read as they are needed, by {who}"]
    if train.num_read and cell.engine == "virtual":
        each = duration(train.read_s / train.num_read)
        told.append(
            f"data: reading a sample took {each} here; simulated steps include that only where they were measured on "
            "this machine"
        )
    return told


def make_strategy(host: Host, cell: Cell) -> Strategy:
    """Build the strategy with the cell's options.

    Raises:
        PluginError: there is none of that name, or its file is broken.
    """
    chosen = host.strategy(cell.strategy)
    return chosen(chosen.Options(**cell.options))


def _loaded(dataset: Dataset, cell: Cell, device: str) -> RawData:
    """Load a data set with targets as the loss takes them; as much of it as stays in memory.

    What is drawn on the way comes from one stream for all seeds: they are compared on the same data.

    Raises:
        PluginError: it cannot be trained on with this loss.
    """
    from harness.engines.shared.keeping import keeps
    from harness.engines.shared.replica import seeded
    from harness.workloads.own_data import Unfit, for_loss, kept_out

    stays = keeps(cell, device)
    with seeded(DATA_SEED, "data"):
        options = dataset.Options(**cell.workload.dataset.options)
        raw = dataset.load(options) if dataset.stream is None else dataset.stream(options, stays)
    try:
        return kept_out(for_loss(raw, cell.workload.loss), stays)
    except Unfit as error:
        raise PluginError(f"{_where(dataset)} returned {error}") from None


def _where(dataset: Dataset) -> str:
    """Return what messages call a data set: file and line of the user's own."""
    return f"{dataset.source}: {dataset.name.rpartition(':')[2]}" if dataset.file is not None else dataset.name


def prepare_data(dataset: Dataset, model: Model, cell: Cell, device: str) -> tuple[Any, Any]:
    """Load a dataset, enlarge it to the model's input, split it and put it on the device; return data and shape.

    Raises:
        MachineError: the data cannot be had.
        PluginError: the user's own cannot be trained on, or leave nothing to validate with.
    """
    from harness.costs.cells import keep_size
    from harness.engines.shared.replica import DTYPES
    from harness.workloads.data import prepare
    from harness.workloads.entries import DatasetSize, seen_shape
    from harness.workloads.judge_data import judge_validation
    from harness.workloads.own_data import Unfit

    raw = _loaded(dataset, cell, device)
    size = DatasetSize(len(raw.train_targets), len(raw.test_targets), raw.shape)
    keep_size(dataset, cell.workload.dataset, size)
    shape = seen_shape(raw.shape, model)
    work, kept = cell.workload, cell.goal.validation_fraction
    data = prepare(
        raw,
        model.input_size,
        kept,
        DTYPES[work.precision],
        device,
        as_images=model.takes == "images",
        loading=work.loading,
        seed=cell.seed,
    )
    try:
        said = judge_validation(len(data.train), len(data.validation), cell.goal.evaluate_every is not None)
    except Unfit as error:
        raise PluginError(f"{_where(dataset)} returned {error}") from None
    return replace(data, remarks=(*data.remarks, *said)), shape
