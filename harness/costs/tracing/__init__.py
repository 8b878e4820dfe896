"""What a model holds and computes, found by running it with tensors that have no values. Imports torch."""

from harness.costs.tracing.blocks import WHOLE, named_blocks
from harness.costs.tracing.tensor_cuts import TensorPlan, tensor_plan
from harness.costs.tracing.trace import Rules, trace_model

__all__ = ["WHOLE", "Rules", "TensorPlan", "named_blocks", "tensor_plan", "trace_model"]
