"""Nights with a known truth: rows of a history, made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from harness.analysis.nights import CellNight

FACTS = {"gpu": "H100", "cpu": "a processor", "torch": "2.13.0", "driver": "570.1", "scenario": "nightly"}
FIRST = datetime(2031, 1, 1, 1, tzinfo=UTC)
STEP_S = 0.01

QUIET = (0.0, 0.004, -0.006, 0.002, 0.007, -0.003, 0.001, -0.005, 0.006, -0.002)
"""Logarithms of what a night adds by itself; about 0.5 %."""


def iso(day: int) -> str:
    """Return when a night began."""
    return f"{FIRST + timedelta(days=day):%Y-%m-%dT%H:%M:%SZ}"


def run(day: int = 0, seconds: float | None = STEP_S, point: str = "a", seed: int = 0, **changes: Any) -> CellNight:
    """Return one run of one night."""
    facts = FACTS | changes.pop("facts", {})
    known: dict[str, Any] = {
        "night": iso(day),
        "scenario": "nightly",
        "machine": "",
        "point": point,
        "cell_id": f"{point}-s{seed}",
        "record": f"{point}-{seed}-{day}",
        "started": iso(day),
        "strategy": "sync-ddp",
        "options": "{}",
        "swept": json.dumps({"x": point}),
        "model": "mlp",
        "dataset": "digits",
        "engine": "real",
        "device": "cuda",
        "gpus": 2,
        "batch_size": 16,
        "micro_batch_size": 16,
        "global_batch_size": 32,
        "learning_rate": 0.1,
        "seed": seed,
        "status": "ok",
        "update_s": seconds,
        "time_to_target_s": None,
        "samples_to_target": None,
        "validation_accuracy": 0.9,
        "validation_loss": 0.3,
        "train_loss": 0.2,
        "test_accuracy": None,
        "metric": None,
        "noisy": False,
        "commit": f"{day + 1:040x}",
        "dirty": False,
        "harness": "1",
        "python": "3.11",
        "torch": facts["torch"],
        "driver": facts["driver"],
        "hardware": facts["gpu"],
        "cluster": "",
        "facts": json.dumps(facts),
        "reference_kind": "plain loop",
        "reference_s": 1.0,
        "reference_runs_s": [1.0],
    }
    return CellNight(**known | changes)


def nights(
    times: Sequence[float | None], reference: Sequence[float | None] | None = None, **changes: Any
) -> list[CellNight]:
    """Return a point's nights: its times and the reference's, both in seconds."""
    beside = reference or [1.0] * len(times)
    return [
        run(day, seconds, **{"reference_s": loop, "reference_kind": "plain loop" if loop else ""} | changes)
        for day, (seconds, loop) in enumerate(zip(times, beside, strict=True))
    ]
