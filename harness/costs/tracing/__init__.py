"""What a model holds and computes, found by running it with tensors that have no values. Imports torch."""

from harness.costs.tracing.blocks import (
    WHOLE,
    NamedModules,
    buffers_kept,
    is_chain,
    is_compiled,
    named_blocks,
    num_parameters,
    undisturbed,
)
from harness.costs.tracing.tensor_cuts import TensorPlan, tensor_plan
from harness.costs.tracing.trace import Rules, trace_model

__all__ = [
    "WHOLE", "NamedModules", "Rules", "TensorPlan", "buffers_kept", "is_chain", "is_compiled", "named_blocks",
    "num_parameters", "tensor_plan", "trace_model", "undisturbed",
]  # fmt: skip
