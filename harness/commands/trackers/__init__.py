"""The trackers that ship: what a run leaves, in the tools that teams look at. A run asks for them by `--track`.

Nothing below imports mlflow or tensorboard before a run has something to log.
"""

from __future__ import annotations

from harness.api.hooks import hookimpl
from harness.api.listeners import Listener, Tracker

__all__ = ["harness_trackers"]


@hookimpl
def harness_trackers() -> list[Tracker]:
    """Return MLflow and TensorBoard."""
    return [
        Tracker(
            name="mlflow",
            summary="One MLflow run for each cell, in an experiment that is called as the scenario.",
            where="the tracking URI; without it MLFLOW_TRACKING_URI, or what MLflow takes itself",
            listen=_mlflow,
            module="mlflow",
            install="parallelism-harness[mlflow]",
        ),
        Tracker(
            name="tensorboard",
            summary="One folder of TensorBoard events for each cell.",
            where="the folder, with a folder for each scenario in it; without it RESULTS/SCENARIO/tensorboard",
            listen=_tensorboard,
            module="tensorboard",
            install="parallelism-harness[tensorboard]",
        ),
    ]


def _mlflow(where: str) -> Listener:
    from harness.commands.trackers.to_mlflow import ToMlflow

    return ToMlflow(where)


def _tensorboard(where: str) -> Listener:
    from harness.commands.trackers.to_tensorboard import ToTensorBoard

    return ToTensorBoard(where)
