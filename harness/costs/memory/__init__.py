"""What a device has to hold: counted tensor by tensor, and replayed on an allocator."""

from harness.costs.memory.cuts import Placement, StageMemory, balance_under, named_sizes
from harness.costs.memory.device import CPU, CUDA, DeviceMemory, Work, device_memory, stage_memory
from harness.costs.memory.fit import counted_dram, counted_of, memory_of, memory_verdict, placement_of, resolve_largest

__all__ = [
    "CPU", "CUDA", "DeviceMemory", "Placement", "StageMemory", "Work", "balance_under", "counted_dram",
    "counted_of", "device_memory", "memory_of", "memory_verdict", "named_sizes", "placement_of", "resolve_largest",
    "stage_memory",
]  # fmt: skip
