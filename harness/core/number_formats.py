"""Bytes of a parameter, of its gradient, and of what an optimizer keeps for it: by precision and by framework.

The one place that decides them: memory, messages and `harness validate` all ask here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FormatWord = Literal["", "fp32", "bf16", "fp16"]

SINGLE_BYTES = 4

FORMAT_BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}
"""Of one number."""

PRECISIONS = ("fp32", "fp64", "bf16", "fp16", "mixed")
"""Of the arithmetic. "mixed" is fp16 whose weights and gradients are halves too, with a master copy in fp32.

Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.1.
"""

NOT_TRAINED = ("fp16", "mixed")
"""Precisions that are timed and not trained in: they need a scaled loss (Micikevicius et al. 2018, section 3.2)."""

FRAMEWORKS = ("ddp", "fsdp", "megatron", "deepspeed")
"""Whose habits say what lasts in which format, where a precision has two bytes:

- ddp: torch's autocast. Weights, gradients and states are fp32; weights are copied for the passes.
- fsdp: torch's MixedPrecisionPolicy. The same, but what is copied is the unit that is gathered, and it goes with it.
- megatron: half weights, fp32 gradients, a fp32 master copy: 18 bytes a parameter with Adam.
- deepspeed: half weights and gradients, a fp32 master copy: 16 bytes a parameter with Adam.

Source: torch 2.13, torch.amp and torch.distributed.fsdp.MixedPrecisionPolicy; NVIDIA, Megatron-LM,
docs/source/api-guide/dist_optimizer.md (bf16 parameters, fp32 gradients: 18 bytes); Rajbhandari et al. 2020, "ZeRO",
section 3.1 (2 + 2 + 12 bytes).
"""

OF_THE_ENGINE = ("", "ddp", "fsdp")
"""Those that real processes follow: each where its strategy is."""


@dataclass(frozen=True)
class Formats:
    """What a scenario says of formats; empty: as the framework has it.

    Attributes:
        framework: one of `FRAMEWORKS`; empty: "fsdp" where parameters are sharded, of "mixed" "deepspeed", else "ddp".
        parameters: as they last on a device.
        gradients: as they are kept until the update.
        master: the optimizer's own copy of the weights: "fp32" or "none".
    """

    framework: str = ""
    parameters: FormatWord = ""
    gradients: FormatWord = ""
    master: str = ""


AS_USUAL = Formats()


@dataclass(frozen=True)
class ScalarBytes:
    """Bytes that one parameter takes, by what for.

    Attributes:
        parameters: as they last on a device.
        computed: as passes use them; fewer than `parameters`: passes copy them.
        gradients: as they are kept until the update.
        sent: of a gradient on its way to other devices.
        master: of the optimizer's own copy; 0: it has none.
        states: of one number of the optimizer's state.
    """

    parameters: int = 4
    computed: int = 4
    gradients: int = 4
    sent: int = 4
    master: int = 0
    states: int = 4

    @property
    def copied(self) -> bool:
        """Whether passes compute with copies of the weights."""
        return self.computed < self.parameters

    @property
    def lasting(self) -> int:
        """Bytes without the optimizer's states: what is kept of a parameter from step to step."""
        return self.parameters + self.gradients + self.master


SINGLE = ScalarBytes()


def scalar_bytes(precision: str, formats: Formats = AS_USUAL, sent: str = "", sharded: bool = False) -> ScalarBytes:
    """Return the bytes of a parameter in every role.

    Args:
        precision: one of `PRECISIONS`.
        sent: format of gradients on the wire; empty: as they are kept.
        sharded: parameters or gradients are spread over replicas.
    """
    width = 2 if precision == "mixed" else FORMAT_BYTES[precision]
    framework = framework_of(precision, formats, sharded)
    halved = width < SINGLE_BYTES
    kept_half = halved and framework in ("megatron", "deepspeed")
    parameters = FORMAT_BYTES.get(formats.parameters) or (width if kept_half or not halved else SINGLE_BYTES)
    gradients = FORMAT_BYTES.get(formats.gradients) or (
        width if (halved and framework == "deepspeed") or not halved else SINGLE_BYTES
    )
    master = parameters < SINGLE_BYTES if not formats.master else formats.master != "none"
    return ScalarBytes(
        parameters=parameters,
        computed=min(width, parameters),
        gradients=gradients,
        sent=FORMAT_BYTES.get(sent, gradients),
        master=SINGLE_BYTES if master else 0,
        states=parameters if not master and parameters < SINGLE_BYTES else max(width, SINGLE_BYTES),
    )


def framework_of(precision: str, formats: Formats, sharded: bool) -> str:
    """Return whose habits hold."""
    return formats.framework or ("fsdp" if sharded else "deepspeed" if precision == "mixed" else "ddp")


def traced_in(precision: str, bytes_: ScalarBytes) -> str:
    """Return by which rules a model's passes are traced: autocast, or weights that are halves themselves."""
    if precision in ("bf16", "fp16", "mixed") and not bytes_.copied:
        return "bf16-weights" if precision == "bf16" else "fp16"
    return "amp" if precision in ("fp16", "mixed") else precision
