"""What a device has to hold: counted tensor by tensor, and replayed on an allocator."""

from harness.costs.memory.cuts import Placement, StageMemory, balance, balance_under, named_sizes
from harness.costs.memory.device import CPU, CUDA, Work, device_memory, stage_memory
from harness.costs.memory.fit import counted_dram, counted_of, memory_of, memory_verdict, placement_of, resolve_largest
from harness.costs.memory.states import state_bytes

__all__ = [
    "CPU", "CUDA", "Placement", "StageMemory", "Work", "balance", "balance_under", "counted_dram", "counted_of",
    "device_memory", "memory_of", "memory_verdict", "named_sizes", "placement_of", "resolve_largest", "stage_memory",
    "state_bytes",
]  # fmt: skip
