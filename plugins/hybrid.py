"""Hybrid parallelism: replicas of a pipeline whose layers are cut over devices themselves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness import Impossible, Layout, Options, Strategy, hookimpl, schedules


class Hybrid(Strategy):
    """Data, pipeline and tensor parallelism combined. It must train exactly like `single`.

    Neighbouring devices cut layers between them (they talk in every layer), groups of them form a pipeline (which
    talks between stages), and pipelines are replicated (which talk once a step, after the pipeline has run empty).

    Source: Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters", section 3; the
    tensor part: Shoeybi et al. 2019, "Megatron-LM", section 3.
    """

    name = "hybrid"
    also_known_as = ("3d", "3d-parallel", "dp-pp-tp")
    suggested_for = ("megatron", "tensor-parallel", "tp", "ptd-p")
    equals = "single"

    class Options(Options):
        """How many devices along each axis, and how the pipeline runs."""

        data: int | None = Field(None, ge=1, description="replicas; default: the devices that the others leave")
        pipeline: int = Field(1, ge=1, description="devices that the layers are spread over in stages")
        tensor: int = Field(1, ge=1, description="devices over which single layers are cut")
        schedule: schedules.ScheduleName = Field("1f1b", description="order of the micro-batches")
        chunks: int | None = Field(
            None,
            ge=1,
            description=f"stages on each device, of interleaved-1f1b only; default {schedules.DEFAULT_CHUNKS}",
        )
        placement: Literal["time", "parameters"] | tuple[tuple[str, ...], ...] = Field(
            "time", description="balance stages by measured time or by parameters, or layer names for each stage"
        )
        recompute: bool = Field(False, description="drop activations and compute them again in the backward pass")

    def layout(self, gpus: int) -> Layout:
        """Multiply the axes out; their product must be the number of devices."""
        pipeline, tensor = self.options.pipeline, self.options.tensor
        data = self.options.data or max(1, gpus // (pipeline * tensor))
        product = data * pipeline * tensor
        if product != gpus:
            raise Impossible(f"data {data} x pipeline {pipeline} x tensor {tensor} = {product}, but gpus = {gpus}")
        schedule, chunks = schedules.find_schedule(self.options.schedule, self.options.chunks)
        return Layout(
            data=data,
            pipeline=pipeline,
            tensor=tensor,
            schedule=schedule if pipeline > 1 else None,
            chunks=chunks if pipeline > 1 else 1,
            placement=self.options.placement,
            recompute=self.options.recompute,
            overlap=pipeline * tensor == 1,
        )


@hookimpl
def harness_strategies():
    return [Hybrid]
