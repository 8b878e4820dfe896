"""Turn a cell into the objects that an engine runs: strategy, data, model, budget, rate.

A timing-only cell has no data and no model; nothing here imports torch before one of the two is made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api.host import Host, load_host
from harness.api.strategy import Layout, Strategy
from harness.core.budget import Budget
from harness.core.errors import Impossible, PluginError, Untrainable
from harness.core.metrics import SQUARED_ERROR, Judged
from harness.core.words import counted, duration, listed
from harness.engines.shared.kept_data import loaded_before
from harness.engines.shared.model_notes import Tried, model_notes, traits
from harness.engines.shared.own_parts import find_loss, find_lr_factor, find_metric, find_optimizer
from harness.engines.shared.rate_schedule import Rate, make_rate
from harness.workloads.user_files import is_user_function

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from harness.core.cell import Cell, Named
    from harness.engines.shared.loads import Load
    from harness.engines.shared.optimizers import OwnOptimizer
    from harness.engines.shared.replica import Replica
    from harness.engines.shared.shown import Trial
    from harness.workloads.batches import Samples
    from harness.workloads.data import Data
    from harness.workloads.entries import Dataset, DataShape, Model
    from harness.workloads.losses import Metric, OwnLoss
    from harness.workloads.streamed import Streamed


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
    load: Load | None = None
    _found: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def replica(self) -> Replica:
        """Build the model with its seed's initial weights and an optimizer.

        Raises:
            PluginError: a model of the user's own does not fit the data.
            Impossible: this strategy cannot train it.
        """
        from harness.engines.shared.batch_norm import Shares, refuse_single_values, synchronised
        from harness.engines.shared.replica import Replica, build_module

        work, seed = self.cell.workload, self.cell.seed
        module = build_module(self.model, self.model.Options(**work.model.options), self.shape, seed)
        trial = self._try(module)
        if trial is not None:
            own = self.strategy.batches == "own"
            refuse_single_values(Shares(self.cell, self.layout, own, self.num_train, self.budget), trial)
            refuse_sharing(self, trial)
            _make_dense(self, module, trial)
            module = synchronised(self.cell, self.layout, module, trial)
        asked = work.find_unused_parameters
        optional = asked or (trial is not None and trial.optional)
        made = Replica(
            module,
            self.data,
            self.loss,
            self.optimizer,
            work.precision,
            work.clip_norm,
            optional,
            channels_last=work.channels_last,
        )
        made.metric = self.metric
        if trial is not None:
            made.take_on(trial)
            made.complete = self.model.file is not None
        self._found["draws"] = made.draws
        refuse_parts(self, made.optimizer)
        return made

    @property
    def draws(self) -> bool:
        """Whether a forward pass in training draws random numbers; known once a replica was built."""
        return bool(self._found.get("draws"))

    def _try(self, module: nn.Module) -> Trial | None:
        """Take a trial step, once, where model or loss is the user's own or BatchNorm is in it; others are known."""
        from harness.engines.shared.replica import BATCH_NORMS

        own = self.model.file is not None or not isinstance(self._given_loss, str)
        if not own and not any(isinstance(part, BATCH_NORMS) for part in module.modules()):
            return None
        if "trial" not in self._found:
            self._found["trial"] = self._trial_of(module)
        found: Trial = self._found["trial"]
        return found

    def _trial_of(self, module: nn.Module) -> Trial:
        from harness.engines.shared.trial import try_model

        work, files = self.cell.workload, [] if self.model.file is None else [str(self.model.file.path)]
        return try_model(module, self.data, work, self.cell.seed, files, self._given_loss)

    def refuse_misfit(self) -> Trial:
        """Build the model and take a trial step, whoever wrote it; return what it showed.

        Raises:
            Misfit: it does not take the data.
            Untrainable: nothing of it can be trained.
        """
        from harness.engines.shared.replica import build_module

        work = self.cell.workload
        options = self.model.Options(**work.model.options)
        return self._trial_of(build_module(self.model, options, self.shape, self.cell.seed))

    @property
    def shares_statistics(self) -> bool:
        """Whether replicas meet in every forward pass, to normalise by the statistics of all."""
        asked = self.cell.workload.sync_batchnorm and self.layout.data > 1
        return asked and self.trial is not None and bool(self.trial.norms)

    @property
    def trial(self) -> Trial | None:
        """What a trial step has shown; None before a replica was built, and where none was taken."""
        return self._found.get("trial")

    @cached_property
    def _given_loss(self) -> str | OwnLoss:
        return find_loss(self.cell)

    @property
    def loss(self) -> str | OwnLoss:
        """The loss: a name, or the user's function with what the trial step has shown of it."""
        given = self._given_loss
        if isinstance(given, str) or self.trial is None or self.trial.reduces is None:
            return given
        return replace(given, reduces=self.trial.reduces)

    @cached_property
    def optimizer(self) -> Named | OwnOptimizer:
        """The optimizer: one of torch's with options, or the user's function."""
        return find_optimizer(self.cell)

    @cached_property
    def metric(self) -> Metric:
        """What evaluations measure beside the loss."""
        return find_metric(self.cell, self.budget.metric)

    @property
    def counts(self) -> npt.NDArray[np.int64] | None:
        """How many targets of each training sample count; None where the loss weighs all samples alike."""
        if self.data is None or self.data.counts is None:
            return None
        given = self.loss
        found: npt.NDArray[np.int64] = self.data.counts
        return found if isinstance(given, str) or given.reduces.by_targets else None

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

    @property
    def _streamed(self) -> Streamed | None:
        from harness.workloads.streamed import Streamed

        return self.data.train if self.data is not None and isinstance(self.data.train, Streamed) else None

    def let_read(self) -> None:
        """Let the processes that read samples ahead begin; until now they are held."""
        if self._streamed is not None:
            self._streamed.go_on()

    @contextlib.contextmanager
    def reading_held(self) -> Iterator[None]:
        """Hold the processes that read samples ahead while the training clock stands."""
        if self._streamed is not None:
            self._streamed.hold()
        yield
        self.let_read()

    def stop_reading(self) -> None:
        """End the processes that read samples ahead."""
        if self._streamed is not None:
            self._streamed.close()

    def data_notes(self) -> list[str]:
        """Return what was converted or noticed when the data were loaded, and how they are read."""
        told = [*self.data.remarks, *reading_in_words(self.data.train, self.cell)]
        return told if self.load is None else [*told, *self.load.compared(self.data.checksum)]

    @property
    def _tried(self) -> Tried:
        return Tried(
            self.cell, self.layout, self.model, self.shape, self.trial, self.draws, bool(self.shares_statistics)
        )

    def model_notes(self) -> list[str]:
        """Return what a trial step showed of the model, and what follows from it."""
        return model_notes(self._tried)

    def model_facts(self) -> dict[str, str]:
        """Return for the cell's row why weights may differ from those of one device, and how numbers are scaled."""
        facts, judged = {"traits": traits(self._tried), "unscaled": "; ".join(self.data.unscaled)}, self.budget.metric
        return facts if judged.is_accuracy else facts | {"metric": judged.name, "better": judged.better}

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
    model, dataset = entries_of(host, cell)
    known = loaded_before(dataset, model, cell, device)
    data, shape, load = known or prepare_data(dataset, model, cell, device)
    budget = Budget.of(cell.goal, data.num_train, judged_by(cell, data.classes))
    total = budget.max_samples
    if total is None and budget.max_updates is not None:
        total = budget.max_updates * cell.global_batch_size
    own = find_lr_factor(cell)
    schedule, warmup = cell.workload.lr_schedule, cell.workload.lr_warmup
    rate = make_rate(cell.learning_rate, schedule, warmup, data.num_train, total, own, cell.global_batch_size)
    return Setup(cell, strategy, strategy.layout(cell.gpus), model, data, shape, budget, rate, load)


def entries_of(host: Host, cell: Cell) -> tuple[Model, Dataset]:
    """Return the entries of a cell's model and data set."""
    from harness.workloads.user import user_dataset, user_model

    model, dataset = cell.workload.model.name, cell.workload.dataset.name
    folder = Path(cell.folder)
    return (
        user_model(model, folder) if is_user_function(model) else host.models[model],
        user_dataset(dataset, folder) if is_user_function(dataset) else host.datasets[dataset],
    )


def reading_in_words(train: Samples | Streamed | None, cell: Cell) -> list[str]:
    """Say that samples are read as they are needed, and what that costs."""
    if train is None:
        return []
    from harness.workloads import streamed

    if not isinstance(train, streamed.Streamed):
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


def prepare_data(dataset: Dataset, model: Model, cell: Cell, device: str) -> tuple[Data, DataShape, Load]:
    """Load a dataset, enlarge it to the model's input, split it and put it on the device.

    Returns:
        The data, the shape of a sample as the model sees it, and how they were loaded.

    Raises:
        MachineError: the data cannot be had.
        PluginError: the user's own cannot be trained on, or leave nothing to validate with.
    """
    from harness.costs.cells import keep_size
    from harness.engines.shared.loads import loaded, where
    from harness.engines.shared.replica import DTYPES
    from harness.workloads.data import prepare
    from harness.workloads.entries import DatasetSize, seen_shape
    from harness.workloads.judge_data import judge_validation
    from harness.workloads.own_data import Unfit

    load, raw = loaded(dataset, cell, device)
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
        raise PluginError(f"{where(dataset)} returned {error}") from None
    return replace(data, remarks=(*data.remarks, *said)), shape, load


def judged_by(cell: Cell, classes: int) -> Judged:
    """Return what a cell is judged by: what the scenario names, else accuracy of classes and errors of numbers.

    Raises:
        Untrainable: it asks for an accuracy of targets that have none.
    """
    work = cell.workload
    if work.metric:
        return Judged.of(work.metric, work.metric_better)
    if classes or work.loss == "bce-with-logits":
        return Judged()
    if cell.goal.target_accuracy is not None:
        raise Untrainable(
            f"goal.target_accuracy = {cell.goal.target_accuracy:g}: the targets of {work.dataset.name} are numbers, of "
            'which there is no accuracy; write goal.target = { metric = "mse", value = ... }, or target_loss'
        )
    return Judged.of(SQUARED_ERROR)


def _make_dense(setup: Setup, module: nn.Module, trial: Trial) -> None:
    """Let gradients be dense: every exchange and optimizer here takes those, and they are the same numbers.

    Raises:
        Impossible: FSDP meets a sparse gradient that is not a layer's own to change.
    """
    for part in module.modules():
        if getattr(part, "sparse", False) is True:
            part.sparse = False  # type: ignore[assignment]
    own = [name for name in trial.sparse if not hasattr(module.get_submodule(name.rpartition(".")[0]), "sparse")]
    if own and setup.layout.gathers:
        raise Impossible(
            f"the gradient of {listed(own)} is sparse, which fully_shard cannot exchange; leave sparse=True out where "
            "the model looks it up, or choose sync-ddp"
        )
    for name in own:
        module.get_parameter(name).register_post_accumulate_grad_hook(_make_gradient_dense)


def _make_gradient_dense(parameter: Tensor) -> None:
    """Called before DDP takes the gradient; a hook on the gradient itself may not change its form."""
    if parameter.grad is not None and parameter.grad.is_sparse:
        parameter.grad = parameter.grad.to_dense()


def refuse_parts(setup: Setup, optimizer: Optimizer | None) -> None:
    """Refuse an optimizer of the user's own that takes other steps where a device holds parts of the model only.

    Raises:
        Impossible: the strategy spreads the model like that; simulated devices would hide it.
    """
    layout = setup.layout
    spread = layout.tensor > 1 or (layout.shard != "none" and layout.data > 1)
    if optimizer is None or not is_user_function(setup.cell.workload.optimizer.name):
        return
    if not spread and layout.pipeline == 1:
        return
    from harness.engines.shared.optimizers import separable

    can = separable(optimizer)
    if (can.by_number if layout.shard == "states" else can.by_row) if spread else can.by_parameter:
        return
    held = "a part of each parameter" if spread else "some of the parameters"
    raise Impossible(
        f"workload.optimizer: {type(optimizer).__name__} does not take the same step where a device holds {held}, as "
        "this strategy's devices do; choose an optimizer that treats every number for itself, or another strategy"
    )


def refuse_sharing(setup: Setup, trial: Trial) -> None:
    """Refuse to compute the loss of a batch from its parts where it is no mean over them.

    Raises:
        Impossible: the strategy shares a batch out, or cuts it.
    """
    from harness.workloads.losses import Reduces

    if trial.reduces is not Reduces.WHOLE:
        return
    cell, layout = setup.cell, setup.layout
    shared = cell.workers > 1 or layout.data > 1
    if not shared and layout.pipeline == 1 and cell.micro_batch_size >= cell.global_batch_size:
        return
    how = f"is shared out over {cell.workers * layout.data} devices" if shared else "passes in micro-batches"
    raise Impossible(
        f"workload.loss = {cell.workload.loss}: the loss of a batch is not the mean over its samples, and a batch "
        f"{how} here. Return one number for each sample, or train with single and without micro_batch_size"
    )
