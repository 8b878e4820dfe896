"""Rows of cells.csv that an answer is found from."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def row(strategy: str = "single", seed: int = 0, **changes: Any) -> Row:
    """Return one second to the target over 100 updates, of which 3 ms each are computing."""
    given = {
        "cell_id": f"{strategy}-{changes.get('gpus', 1)}-s{seed}",
        "strategy": strategy,
        "options": "{}",
        "synchrony": "synchronous",
        "engine": "real",
        "device": "cpu",
        "gpus": 1,
        "batch_size": 32,
        "micro_batch_size": 32,
        "global_batch_size": 32,
        "learning_rate": 0.1,
        "seed": seed,
        "status": "ok",
        "steps": 100,
        "time_to_target_s": 1.0,
        "samples_to_target": 3200,
        "throughput_samples_per_s": 1000.0,
        "validation_accuracy": 0.96,
        "input_s": 0.0,
        "compute_s": 0.3,
        "communication_s": 0.0,
        "idle_s": 0.0,
        "other_s": 0.0,
    }
    return given | changes
