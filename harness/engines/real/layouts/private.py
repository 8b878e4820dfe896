"""What torch keeps private and a real run needs: a pipeline's table, stamps around passes and FSDP's waits, compilers.

The one file that touches private names of torch; each is guarded by a test, so that a new torch fails there first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, NamedTuple

from torch import nn
from torch.distributed.fsdp import FSDPModule

from harness.api.strategy import Table
from harness.costs.tracing import undisturbed
from harness.engines.real.clock import Ledger, Stamp
from harness.workloads.accelerator import has_queue

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime
    from torch.distributed.pipelining.stage import _RecvInfo


class StagePlace(NamedTuple):
    """Where a stage stands in its pipeline."""

    stage: int
    stages: int
    device: torch.device
    group: dist.ProcessGroup


PassSpan = tuple[tuple[str, int, int], Stamp, Stamp]
"""A pass of a pipeline's stage: (kind, stage, micro-batch), start and end."""


def time_exchanges(ledger: Ledger, module: nn.Module, spans: list[tuple[str, Stamp, Stamp]]) -> None:
    """Put a stamp before and after everything in which a sharded module stands still for others.

    On CPU a gather blocks where it is started, on a device with a queue where it is waited for; the last gradients on
    their way out are waited for at the end of the backward pass.
    """
    gather = "wait_for_unshard" if has_queue(ledger.device) else "unshard"
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


MOST_SIZES = 1024
"""Compiled versions of one function, such as the forward pass of a kind of layer; chosen: layers of a large model."""


def compile_each_size(alone: bool) -> None:
    """Let torch.compile make as many versions of a function as there are sizes, and say where it gives up.

    Args:
        alone: in this process: a pool of others would outlive the compilation, beside what is measured.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own, while it imports its compiler
        from torch._dynamo import config
        from torch._inductor import config as inductor

    config.recompile_limit = config.accumulated_recompile_limit = MOST_SIZES
    config.fail_on_recompile_limit_hit = True
    if alone:
        inductor.compile_threads = 1


def compiled_graphs() -> int:
    """Return how many graphs torch.compile has made in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def is_of_compiler(error: BaseException) -> bool:
    """Whether torch.compile raised an error, and not what it compiles."""
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)


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


class StageShapes(NamedTuple):
    """What a stage takes and gives for so many samples, as tensors without memory: then torch need not find out."""

    takes: Callable[[int], tuple[torch.Tensor, ...]]
    gives: Callable[[int], tuple[torch.Tensor, ...]]


def timed_stage(
    place: StagePlace,
    module: nn.Module,
    ledger: Ledger,
    spans: list[PassSpan],
    sizes: Sequence[int] = (),
    shapes: StageShapes | None = None,
) -> PipelineStage:
    """Return torch's pipeline stage; every pass is added to `spans` as ((kind, stage, micro-batch), start, end).

    Args:
        module: the stage; its `before_pass`, where it has one, is called with the number of each micro-batch.
        sizes: samples of each micro-batch, where they differ; `shapes` is needed then.
    """
    from torch.distributed.pipelining import PipelineStage

    before_pass: Callable[[int], None] = getattr(module, "before_pass", lambda microbatch: None)

    class TimedStage(PipelineStage):  # type: ignore[misc]
        output_bytes = 0

        def forward_one_chunk(self, fwd_chunk_id: int, *args: object, **kwargs: object) -> object:
            before_pass(fwd_chunk_id)
            output = self._timed("forward", fwd_chunk_id, super().forward_one_chunk, *args, **kwargs)
            outputs = output if isinstance(output, tuple) else (output,)
            self.output_bytes = sum(t.numel() * t.element_size() for t in outputs)
            return output

        def backward_one_chunk(self, bwd_chunk_id: int, *args: object, **kwargs: object) -> object:
            kind = "backward" if kwargs.get("full_backward", True) else "backward_input"
            inputs = self.fwd_cache[bwd_chunk_id][1]
            answer = self._timed(kind, bwd_chunk_id, super().backward_one_chunk, *args, **kwargs)
            if shapes is not None:
                self.bwd_cache[bwd_chunk_id] = _without_gaps(self.bwd_cache[bwd_chunk_id], inputs)
            return answer

        def backward_weight_one_chunk(self, bwd_chunk_id: int, *args: object, **kwargs: object) -> object:
            call = super().backward_weight_one_chunk
            return self._timed("backward_weight", bwd_chunk_id, call, *args, **kwargs)

        def _compute_outputs(self, *args: object, **kwargs: object) -> object:
            # torch finds shapes out by a pass over memory that holds anything: no statistics of that.
            with undisturbed(module):
                return super()._compute_outputs(*args, **kwargs)

        def _setup_forward_recv_info(self, num_microbatches: int, has_backward: bool) -> None:
            super()._setup_forward_recv_info(num_microbatches, has_backward)
            if shapes is not None and not self.is_first:
                for chunk, infos in self.args_recv_info.items():
                    _resize(infos, shapes.takes(sizes[chunk]))

        def _setup_backward_recv_info(self, num_microbatches: int) -> None:
            super()._setup_backward_recv_info(num_microbatches)
            if shapes is not None and not self.is_last:
                for chunk, infos in self.grad_recv_info.items():
                    _resize(infos, shapes.gives(sizes[chunk]))

        def _timed(
            self, kind: str, chunk: int, call: Callable[..., torch.Tensor], *args: object, **kwargs: object
        ) -> torch.Tensor:
            start = ledger.stamp()
            answer = call(chunk, *args, **kwargs)
            spans.append(((kind, self.stage_index, chunk), start, ledger.stamp()))
            return answer

    known = {} if shapes is None else {"input_args": shapes.takes(sizes[0]), "output_args": shapes.gives(sizes[0])}
    return TimedStage(module, place.stage, place.stages, place.device, group=place.group, **known)


def _without_gaps(
    gradients: tuple[torch.Tensor | None, ...], inputs: Sequence[torch.Tensor]
) -> tuple[torch.Tensor | None, ...]:
    """Put zeros for gradients that the stage before expects and this micro-batch has none of, in its own shape."""
    pairs = zip(gradients, inputs, strict=False)
    return tuple(x.new_zeros(x.shape) if g is None and x.requires_grad else g for g, x in pairs)


def _resize(infos: Sequence[_RecvInfo], like: Sequence[torch.Tensor]) -> None:
    """Make room for a micro-batch of another size than the first one."""
    for info, tensor in zip(infos, like, strict=True):
        if info.buffer is not None and info.buffer.shape != tensor.shape:
            info.buffer = info.buffer.new_empty(tensor.shape)
            info.tensor_meta = replace(info.tensor_meta, shape=tensor.shape, stride=tensor.stride())
