"""Model split: the layers are cut into stages over the devices; micro-batches pass through them like a pipeline."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from harness import Impossible, Layout, Strategy, hookimpl, schedules


class ModelSplit(Strategy):
    """One copy of the model, its layers split over all devices. It must train exactly like `single`.

    Source: Huang et al. 2019, "GPipe", section 2; each schedule names its own in `harness.api.schedules`.
    """

    name = "model-split"
    also_known_as = ("pipeline", "pp", "pipeline-parallel", "model-parallel")
    suggested_for = ("gpipe", "1f1b", "zero-bubble", "split")
    equals = "single"

    class Options(schedules.PipelineOptions):
        """How micro-batches are ordered, where the layers are cut, and what a stage of several devices has."""

        replicas: tuple[PositiveInt, ...] = Field(
            (),
            description="devices of each stage, of pipedream only, such as [15, 1]; default: one each",
        )

    def layout(self, gpus: int) -> Layout:
        """Use one stage per device, or as many as the schedule interleaves, or the devices that `replicas` gives it."""
        if gpus < 2:
            raise Impossible("model-split needs at least 2 devices to split over")
        replicas, drains = self.options.replicas, self.options.schedule != "pipedream"
        if replicas and drains:
            raise Impossible('replicas are for schedule = "pipedream", whose stages take micro-batches in turn')
        if replicas and sum(replicas) != gpus:
            raise Impossible(f"replicas add up to {sum(replicas)} devices, but gpus = {gpus}")
        return self.options.in_stages(Layout(pipeline=len(replicas) or gpus, replicas=replicas, drains=drains))


@hookimpl
def harness_strategies():
    return [ModelSplit]
