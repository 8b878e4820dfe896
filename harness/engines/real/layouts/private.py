"""What torch keeps private and a real run needs: a pipeline's own table, stamps around passes and FSDP's waits.

The one file that touches private names of torch; each is guarded by a test, so that a new torch fails there first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING

from torch import nn
from torch.distributed.fsdp import FSDPModule

from harness.api.strategy import Table
from harness.engines.real.clock import Ledger, Stamp

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

PassSpan = tuple[tuple[str, int, int], Stamp, Stamp]
"""A pass of a pipeline's stage: (kind, stage, micro-batch), start and end."""


def time_exchanges(ledger: Ledger, module: nn.Module, spans: list[tuple[str, Stamp, Stamp]]) -> None:
    """Put a stamp before and after everything in which a sharded module stands still for others.

    On CPU a gather blocks where it is started, on CUDA where it is waited for; the last gradients on their way out
    are waited for at the end of the backward pass.
    """
    gather = "wait_for_unshard" if ledger.device.type == "cuda" else "unshard"
    for part in module.modules():
        if isinstance(part, FSDPModule):
            for group in part._get_fsdp_state()._fsdp_param_groups:
                for name in (gather, "post_backward", "finalize_backward"):
                    setattr(group, name, _stamped(group, name, ledger, spans))


def _stamped(
    group: FSDPParamGroup, name: str, ledger: Ledger, spans: list[tuple[str, Stamp, Stamp]]
) -> Callable[..., object]:
    call = getattr(group, name)

    @wraps(call)
    def stamped(*args: object, **kwargs: object) -> object:
        if name.endswith("unshard") and group.is_unsharded:
            return call(*args, **kwargs)
        start = ledger.stamp()
        answer = call(*args, **kwargs)
        spans.append(("gather" if name.endswith("unshard") else "scatter", start, ledger.stamp()))
        return answer

    return stamped


def make_runtime(
    stages: Sequence[PipelineStage], table: Table, microbatches: int, loss: Callable[..., torch.Tensor]
) -> _PipelineScheduleRuntime:
    """Return torch's pipeline runtime for a table of our own.

    Args:
        stages: this rank's, from `timed_stage`.
        table: of all ranks, for so many micro-batches.
        loss: of (outputs, targets of a micro-batch), already weighted.
    """
    from torch.distributed.pipelining.schedules import _Action, _ComputationType, _PipelineScheduleRuntime

    kinds = {
        "forward": _ComputationType.FORWARD,
        "backward": _ComputationType.FULL_BACKWARD,
        "backward_input": _ComputationType.BACKWARD_INPUT,
        "backward_weight": _ComputationType.BACKWARD_WEIGHT,
    }
    runtime = _PipelineScheduleRuntime(list(stages), microbatches, loss_fn=loss, scale_grads=False)
    actions = {rank: [_Action(a.stage, kinds[a.kind], a.microbatch) for a in order] for rank, order in enumerate(table)}
    runtime._prepare_schedule_with_comms(actions)
    return runtime


def timed_stage(
    ledger: Ledger,
    module: nn.Module,
    stage: int,
    stages: int,
    device: torch.device,
    group: dist.ProcessGroup,
    spans: list[PassSpan],
) -> PipelineStage:
    """Return torch's pipeline stage; every pass is added to `spans` as ((kind, stage, micro-batch), start, end)."""
    from torch.distributed.pipelining import PipelineStage

    class TimedStage(PipelineStage):  # type: ignore[misc]
        output_bytes = 0

        def forward_one_chunk(self, fwd_chunk_id: int, *args: object, **kwargs: object) -> object:
            output = self._timed("forward", fwd_chunk_id, super().forward_one_chunk, *args, **kwargs)
            self.output_bytes = output.numel() * output.element_size()
            return output

        def backward_one_chunk(self, bwd_chunk_id: int, *args: object, **kwargs: object) -> object:
            kind = "backward" if kwargs.get("full_backward", True) else "backward_input"
            return self._timed(kind, bwd_chunk_id, super().backward_one_chunk, *args, **kwargs)

        def backward_weight_one_chunk(self, bwd_chunk_id: int, *args: object, **kwargs: object) -> object:
            call = super().backward_weight_one_chunk
            return self._timed("backward_weight", bwd_chunk_id, call, *args, **kwargs)

        def _timed(
            self, kind: str, chunk: int, call: Callable[..., torch.Tensor], *args: object, **kwargs: object
        ) -> torch.Tensor:
            start = ledger.stamp()
            answer = call(chunk, *args, **kwargs)
            spans.append(((kind, self.stage_index, chunk), start, ledger.stamp()))
            return answer

    return TimedStage(module, stage, stages, device, group=group)
