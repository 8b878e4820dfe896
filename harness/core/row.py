"""The columns of cells.csv, each with its type: a cell's row has them under these names wherever it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

Row = Mapping[str, Any]
"""A cell's row as it is read: the columns of `WholeRow`, `swept KEY` for every key that is swept, `x_NAME` for every
number that a plugin recorded."""


BATCH_NORM, DRAWS = "batch-norm", "draws"
"""Why a strategy trains something else than one device, though nothing is wrong: words of the column `traits`."""


class CellRow(TypedDict, total=False):
    """What cells.csv has a column for at least; what was not measured is empty, never 0."""

    cell_id: str
    strategy: str
    options: str
    synchrony: str
    equivalence: str | None
    engine: str
    clock: str
    device: str
    precision: str
    workers: int
    gpus: int
    nodes: int
    batch_size: int
    micro_batch_size: int
    global_batch_size: int
    learning_rate: float
    lr_rule: str
    seed: int
    status: str
    reason: str
    notes: str
    regime: str | None
    samples_seen: int
    steps: int
    throughput_samples_per_s: float | None
    step_time_s: float | None
    step_time_p95_s: float | None
    speedup: float
    speedup_base: str
    scaling: str
    time_to_target_s: float | None
    samples_to_target: int | None
    updates_to_target: int | None
    validation_accuracy: float | None
    validation_loss: float | None
    test_accuracy: float | None
    train_loss: float | None
    setup_s: float
    input_s: float
    compute_s: float
    communication_s: float
    idle_s: float
    other_s: float
    evaluation_s: float
    wall_s: float
    bytes_sent_per_step: float | None
    bubble_fraction: float | None
    staleness_mean: float
    staleness_p95: float
    noise_scale_samples: float | None
    dram_tensors_peak_bytes: int | None
    dram_allocated_peak_bytes: int | None
    dram_reserved_peak_bytes: int | None
    nvml_used_peak_bytes: float
    host_rss_peak_bytes: float
    busy_fraction: float | None
    nvml_utilisation_mean: float
    mfu: float
    energy_j: float
    cost: float
    trajectory_id: str
    environment: str
    noisy: bool
    ranked: bool


class WholeRow(CellRow, total=False):
    """What a row has beside them, where it is known; columns of cells.csv where any row has them."""

    throughput_tokens_per_s: float
    amdsmi_used_peak_bytes: float
    amdsmi_utilisation_mean: float
    initial_loss: float
    displacement: float | None
    samples_to_target_fit: float
    early_displacement: float | None
    early_samples: int
    num_train: int | None
    traits: str
    unscaled: str
    disturbed: str
    other_cores: float
    target_loss: float
    metric: str
    better: str
    validation_metric: float | None
    test_metric: float | None
    fitting: str
    stated_error: float
    pipeline: int
    compile_s: float
    confirms: bool


COLUMNS = tuple(CellRow.__annotations__)
"""In this order."""
