"""Hybrid parallelism: replicas of a pipeline whose layers are cut over devices themselves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness import Impossible, Layout, Strategy, hookimpl, schedules


class Hybrid(Strategy):
    """Data, pipeline and tensor parallelism combined. It must train exactly like `single`.

    Neighbouring devices cut layers between them (they talk in every layer), groups of them form a pipeline (which
    talks between stages), and pipelines are replicated (which talk once a step, after the pipeline has run empty).

    With `shard = "states"` (ZeRO-1, Megatron's distributed optimizer) replicas share out the optimizer's state: each
    updates its part of the parameters, and hands it on.

    Source: Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters", section 3; the
    tensor part: Shoeybi et al. 2019, "Megatron-LM", section 3; along sequences: Korthikanti et al. 2022, "Reducing
    Activation Recomputation in Large Transformer Models", section 4.2; the state: Rajbhandari, Rasley, Ruwase and He
    2020, "ZeRO", section 5.1.
    """

    name = "hybrid"
    also_known_as = ("3d", "3d-parallel", "dp-pp-tp")
    suggested_for = ("megatron", "tensor-parallel", "tp", "ptd-p")
    equals = "single"

    class Options(schedules.PipelineOptions):
        """How many devices along each axis, and how the pipeline runs."""

        data: int | None = Field(None, ge=1, description="replicas; default: the devices that the others leave")
        pipeline: int = Field(1, ge=1, description="devices that the layers are spread over in stages")
        tensor: int = Field(1, ge=1, description="devices over which single layers are cut")
        sequence_parallel: bool = Field(
            False, description="cut the activations of norms over tensor-parallel devices too; simulated devices only"
        )
        shard: Literal["none", "states"] = Field(
            "none", description="whether replicas share the optimizer's state out (ZeRO-1); simulated devices only"
        )
        bucket_mib: float = Field(25.0, gt=0, description="gradients are exchanged in groups of this many MiB")
        overlap: bool = Field(
            True,
            description="exchange gradients while others are computed, where neither layers nor stages are cut; false: "
            "all at once, afterwards",
        )

    def layout(self, gpus: int) -> Layout:
        """Multiply the axes out; their product must be the number of devices."""
        pipeline, tensor = self.options.pipeline, self.options.tensor
        data = self.options.data or max(1, gpus // (pipeline * tensor))
        product = data * pipeline * tensor
        if product != gpus:
            raise Impossible(f"data {data} x pipeline {pipeline} x tensor {tensor} = {product}, but gpus = {gpus}")
        if self.options.schedule == "pipedream":
            raise Impossible("pipedream keeps no gradient for replicas of the pipeline; it is for model-split")
        return self.options.in_stages(
            Layout(
                data=data,
                pipeline=pipeline,
                tensor=tensor,
                sequence_parallel=self.options.sequence_parallel and tensor > 1,
                shard=self.options.shard if data > 1 else "none",
                bucket_bytes=int(self.options.bucket_mib * 2**20) if self.options.overlap else 0,
                overlap=self.options.overlap and pipeline * tensor == 1,
            )
        )


@hookimpl
def harness_strategies():
    return [Hybrid]
