"""What CUDA would do where fake tensors say CPU: types under autocast, and the mask that dropout keeps.

A model for GPUs is traced the same on a machine with a GPU and on one without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

LOWERED = frozenset(
    {"matmul", "__matmul__", "__rmatmul__", "mm", "mv", "bmm", "addmm", "addmv", "addbmm", "baddbmm", "linear"}
    | {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "prelu"}
    | {"chain_matmul", "multi_dot", "scaled_dot_product_attention"}
)
"""Functions that autocast computes in the lower precision.

Source: PyTorch documentation, "Automatic Mixed Precision", "CUDA Ops that can autocast to float16".
"""
RAISED = frozenset(
    {"softmax", "log_softmax", "softmin", "layer_norm", "group_norm", "cross_entropy", "nll_loss", "mse_loss"}
    | {"l1_loss", "smooth_l1_loss", "kl_div", "binary_cross_entropy_with_logits", "cosine_similarity"}
    | {"softplus", "pow", "__pow__", "__rpow__", "exp", "expm1", "log", "log1p", "log2", "log10", "rsqrt"}
    | {"reciprocal", "norm", "sum", "prod", "cumsum", "cumprod", "cdist", "dist", "renorm", "acos", "asin"}
    | {"cosh", "sinh", "tan", "erfinv"}
)
"""Functions that autocast computes in fp32. Source: as LOWERED, "CUDA Ops that can autocast to float32"."""


class CudaRules(TorchFunctionMode):
    """Change calls as CUDA's autocast and kernels would.

    Args:
        lower: the lower precision; None: no autocast.
        keeps_softmax_input: as torch did before 1.11 (2022-03-10): softmax kept its input beside its output.
    """

    def __init__(self, lower: torch.dtype | None, keeps_softmax_input: bool = False) -> None:
        super().__init__()
        self.lower = lower
        self.keeps_softmax_input = keeps_softmax_input
        self._copies: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, with what it is given in the type that it gets on CUDA."""
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "dropout":
            return _dropout(*args, **kwargs)
        if self.lower is not None and name in LOWERED | RAISED:
            to = self.lower if name in LOWERED else torch.float32
            args = tuple(self._cast(value, to) for value in args)
            kwargs = {key: self._cast(value, to) for key, value in kwargs.items()}
        if self.keeps_softmax_input and name in ("softmax", "log_softmax"):
            return _keeping_input(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _cast(self, value: object, to: torch.dtype) -> object:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype in (to, torch.float64):
            return value
        if not (isinstance(value, torch.nn.Parameter) and to == self.lower):
            return value.to(to)
        # Autocast casts a weight once and keeps the copy until it is left.
        if id(value) not in self._copies:
            self._copies[id(value)] = value.to(to)
        return self._copies[id(value)]


class _KeptInput(torch.autograd.Function):
    """Hand a tensor on, and keep it for the backward pass for nothing."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(values)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        _ = ctx.saved_tensors  # read, as it was: what is not read lives as long as the graph
        return gradients[0]


def _keeping_input(func: Callable[..., object], values: torch.Tensor, *args: object, **kwargs: object) -> object:
    """Call softmax with an input that lives until its backward pass.

    Source: PyTorch issue 64000 and pull request 65242.
    """
    return func(_KeptInput.apply(values), *args, **kwargs)  # type: ignore[no-untyped-call]


def _dropout(values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Keep a mask of one byte an element, as CUDA's fused dropout does; the CPU keeps one in the type of the values."""
    if not training or p == 0.0:
        return values
    return torch.native_dropout(values, p, training)[0]
