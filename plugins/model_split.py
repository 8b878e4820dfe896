"""Model split: the layers are cut into stages, one device each; micro-batches pass through them like a pipeline."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness import Action, Impossible, Layout, Options, Strategy, Table, hookimpl


def naive(stages: int, microbatches: int) -> Table:
    """Send one micro-batch all the way there and back before the next: one device works at a time."""
    return [[step for m in range(microbatches) for step in there_and_back(rank, m)] for rank in range(stages)]


def gpipe(stages: int, microbatches: int) -> Table:
    """All forward passes, then all backward passes; every stage keeps all activations.

    Source: Huang et al. 2019, "GPipe", figure 2c.
    """
    passes = range(microbatches)
    return [
        [Action("forward", rank, m) for m in passes] + [Action("backward", rank, m) for m in passes]
        for rank in range(stages)
    ]


def one_forward_one_backward(stages: int, microbatches: int) -> Table:
    """Fill the pipeline, then alternate: stage k keeps at most stages - k activations.

    Source: Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters", figure 4 (top).
    """
    table = []
    for rank in range(stages):
        ahead = min(stages - rank, microbatches)
        order = [Action("forward", rank, m) for m in range(ahead)]
        for m in range(microbatches):
            order.append(Action("backward", rank, m))
            if m + ahead < microbatches:
                order.append(Action("forward", rank, m + ahead))
        table.append(order)
    return table


def there_and_back(rank: int, microbatch: int) -> tuple[Action, Action]:
    """Return the two passes of one micro-batch."""
    return Action("forward", rank, microbatch), Action("backward", rank, microbatch)


SCHEDULES = {"naive": naive, "gpipe": gpipe, "1f1b": one_forward_one_backward}


class ModelSplit(Strategy):
    """One copy of the model over all devices, so one gradient stream: it must equal `single`."""

    name = "model-split"
    also_known_as = ("pipeline", "pp", "pipeline-parallel", "model-parallel", "gpipe", "1f1b", "split")
    equals = "single"

    class Options(Options):
        """How micro-batches are ordered, and where the layers are cut."""

        schedule: Literal["naive", "gpipe", "1f1b"] = Field("1f1b", description="order of the micro-batches")
        placement: Literal["time", "parameters"] | tuple[tuple[str, ...], ...] = Field(
            "time", description="balance stages by measured time or by parameters, or layer names for each stage"
        )

    def layout(self, gpus: int) -> Layout:
        """Use one stage per device."""
        if gpus < 2:
            raise Impossible("model-split needs at least 2 devices to split over")
        return Layout(pipeline=gpus, schedule=SCHEDULES[self.options.schedule], placement=self.options.placement)


@hookimpl
def harness_strategies():
    return [ModelSplit]
