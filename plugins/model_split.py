"""Model split: the layers are cut into stages over the devices; micro-batches pass through them like a pipeline."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from harness import Impossible, Layout, Options, Strategy, hookimpl, schedules


class ModelSplit(Strategy):
    """One copy of the model, its layers split over all devices. It must train exactly like `single`.

    Source: Huang et al. 2019, "GPipe", section 2; each schedule names its own in `harness.api.schedules`.
    """

    name = "model-split"
    also_known_as = ("pipeline", "pp", "pipeline-parallel", "model-parallel")
    suggested_for = ("gpipe", "1f1b", "zero-bubble", "split")
    equals = "single"

    class Options(Options):
        """How micro-batches are ordered, and where the layers are cut."""

        schedule: schedules.ScheduleName = Field("1f1b", description="order of the micro-batches")
        chunks: int | None = Field(
            None,
            ge=1,
            description=f"stages on each device, of interleaved-1f1b only; default {schedules.DEFAULT_CHUNKS}",
        )
        placement: Literal["time", "parameters"] | tuple[tuple[str, ...], ...] = Field(
            "time", description="balance stages by measured time or by parameters, or layer names for each stage"
        )
        recompute: bool | Literal["all-but-last"] = Field(
            False,
            description='drop activations and compute them again in the backward pass; "all-but-last": keep those of '
            "the last micro-batch where there are several (timing only)",
        )
        weight_time: float | None = Field(
            None,
            gt=0,
            description="seconds of a backward pass for weights for each second of a forward pass, which zb-1p and "
            "zb-2p are then made for; default: their fixed tables, made for equal times",
        )
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
        schedule, chunks = schedules.find_schedule(self.options.schedule, self.options.chunks, self.options.weight_time)
        return Layout(
            pipeline=len(replicas) or gpus,
            replicas=replicas,
            drains=drains,
            chunks=chunks,
            schedule=schedule,
            placement=self.options.placement,
            recompute=self.options.recompute,
        )


@hookimpl
def harness_strategies():
    return [ModelSplit]
