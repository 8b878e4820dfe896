"""DRAM and utilisation, sampled from a process outside training so that reading costs the training nothing.

What a plugin with a probe of its own imports stands here. Nothing below imports torch, pandas, pynvml, amdsmi or
psutil: libraries are loaded where a probe is opened, in the sampler process.
"""

from __future__ import annotations

from harness.api.hooks import hookimpl
from harness.engines.telemetry.probe import Probe, ProbeUnavailable, Sample, Target

__all__ = ["Probe", "ProbeUnavailable", "Sample", "Target", "harness_probes"]


@hookimpl
def harness_probes() -> list[type[Probe]]:
    """Return the built-in probes: GPUs through NVML, AMD's through amdsmi, and the host."""
    # Here and not above: the probes' modules import from this package.
    from harness.engines.telemetry.amd import AmdSmiProbe
    from harness.engines.telemetry.cpu import HostProbe
    from harness.engines.telemetry.nvml import NvmlProbe

    return [NvmlProbe, AmdSmiProbe, HostProbe]
