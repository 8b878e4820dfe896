"""CUDA's caching allocator as torch has it: what a process reserves is more than what its tensors take.

Source: torch, c10/cuda/CUDACachingAllocator.h and .cpp: sizes of segments, rounding, best fit, splitting and merging.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import Protocol

from harness.core.units import MIB

BLOCK_BYTES = 512
"""kMinBlockSize: every request is rounded up to a multiple of it."""
SMALL_BYTES = MIB
"""kSmallSize: up to here a request is served from the pool of small segments."""
SMALL_SEGMENT_BYTES = 2 * MIB
"""kSmallBuffer: size of a small segment."""
MIDDLE_BYTES = 10 * MIB
"""kMinLargeAlloc: from here on a request gets a segment of its own."""
MIDDLE_SEGMENT_BYTES = 20 * MIB
"""kLargeBuffer: size of the segment that a request between the two opens."""
LARGE_STEP_BYTES = 2 * MIB
"""kRoundLarge: segments of their own are rounded up to a multiple of it."""


class OutOfMemory(Exception):
    """A request does not fit.

    Args:
        missing_bytes: by how much.
    """

    def __init__(self, missing_bytes: int) -> None:
        self.missing_bytes = missing_bytes
        super().__init__(f"{missing_bytes} bytes too little")


class Allocator(Protocol):
    """What a replay needs of an allocator."""

    allocated: int
    peak_allocated: int

    @property
    def peak_reserved(self) -> int:
        """Most bytes held at once, in use or not."""

    def allocate(self, num_bytes: float) -> MemoryBlock:
        """Return memory; 0 bytes are nothing.

        Raises:
            OutOfMemory: there is no room for it.
        """

    def free(self, block: MemoryBlock) -> None:
        """Take it back."""


@dataclass(eq=False, slots=True)
class MemoryBlock:
    """Part of a segment; neighbours are linked so that free ones are merged."""

    start: int
    num_bytes: int
    small: bool
    used: bool = False
    before: MemoryBlock | None = None
    after: MemoryBlock | None = None


@dataclass
class PlainAllocator:
    """An allocator that gives exactly what is asked for: tensors on CPU.

    Attributes:
        capacity: bytes; None: no end.
    """

    capacity: int | None = None
    allocated: int = 0
    peak_allocated: int = 0

    @property
    def peak_reserved(self) -> int:
        """The same as what was allocated."""
        return self.peak_allocated

    def allocate(self, num_bytes: float) -> MemoryBlock:
        """Count the bytes.

        Raises:
            OutOfMemory: there is no room for them.
        """
        block = MemoryBlock(0, int(num_bytes), small=False)
        self.allocated += block.num_bytes
        if self.capacity is not None and self.allocated > self.capacity:
            raise OutOfMemory(self.allocated - self.capacity)
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def free(self, block: MemoryBlock) -> None:
        """Count them back."""
        self.allocated -= block.num_bytes


@dataclass
class CachingAllocator:
    """The allocator of one CUDA device and one stream.

    Attributes:
        capacity: bytes of segments that the device has room for; None: no end.
        allocated: bytes of blocks in use, as `torch.cuda.memory_allocated` counts them.
        reserved: bytes of segments, as `torch.cuda.memory_reserved` counts them.
    """

    capacity: int | None = None
    allocated: int = 0
    reserved: int = 0
    peak_allocated: int = 0
    peak_reserved: int = 0
    _free: dict[bool, list[tuple[int, int, MemoryBlock]]] = field(default_factory=lambda: {True: [], False: []})
    _end: int = 0

    def allocate(self, num_bytes: float) -> MemoryBlock:
        """Return the smallest free block that is large enough, or part of a new segment.

        Raises:
            OutOfMemory: there is no room for the segment, all unused ones given back.
        """
        size = max(BLOCK_BYTES, -(-int(num_bytes) // BLOCK_BYTES) * BLOCK_BYTES)
        small = size <= SMALL_BYTES
        block = self._best(size, small) or self._segment(size, small)
        left = block.num_bytes - size
        if left >= BLOCK_BYTES if small else left > SMALL_BYTES:
            self._split(block, size)
        block.used = True
        self.allocated += block.num_bytes
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def free(self, block: MemoryBlock) -> None:
        """Keep the block for later, merged with free neighbours."""
        self.allocated -= block.num_bytes
        block.used = False
        for other in (block.before, block.after):
            if other is not None and not other.used:
                self._forget(other)
                _merge(block, other)
        insort(self._free[block.small], (block.num_bytes, block.start, block))

    def _best(self, size: int, small: bool) -> MemoryBlock | None:
        pool = self._free[small]
        place = bisect_left(pool, (size, -1))
        return pool.pop(place)[2] if place < len(pool) else None

    def _forget(self, block: MemoryBlock) -> None:
        pool = self._free[block.small]
        pool.pop(bisect_left(pool, (block.num_bytes, block.start)))

    def _segment(self, size: int, small: bool) -> MemoryBlock:
        num_bytes = segment_bytes(size)
        if self.capacity is not None and self.reserved + num_bytes > self.capacity:
            self._give_back()
        if self.capacity is not None and self.reserved + num_bytes > self.capacity:
            raise OutOfMemory(self.reserved + num_bytes - self.capacity)
        block = MemoryBlock(self._end, num_bytes, small)
        self._end += 2 * num_bytes  # a gap: blocks of two segments are never neighbours
        self.reserved += num_bytes
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return block

    def _give_back(self) -> None:
        for pool in self._free.values():
            whole = [entry for entry in pool if entry[2].before is None and entry[2].after is None]
            self.reserved -= sum(entry[0] for entry in whole)
            pool[:] = [entry for entry in pool if entry[2].before is not None or entry[2].after is not None]

    def _split(self, block: MemoryBlock, size: int) -> None:
        rest = MemoryBlock(block.start + size, block.num_bytes - size, block.small, before=block, after=block.after)
        if block.after is not None:
            block.after.before = rest
        block.num_bytes, block.after = size, rest
        insort(self._free[block.small], (rest.num_bytes, rest.start, rest))


def segment_bytes(size: int) -> int:
    """Return the size of the segment that a rounded request opens."""
    if size <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if size < MIDDLE_BYTES:
        return MIDDLE_SEGMENT_BYTES
    return -(-size // LARGE_STEP_BYTES) * LARGE_STEP_BYTES


def _merge(block: MemoryBlock, other: MemoryBlock) -> None:
    """Let `block` take in its neighbour."""
    if other is block.before:
        block.start, block.before = other.start, other.before
        if other.before is not None:
            other.before.after = block
    else:
        block.after = other.after
        if other.after is not None:
            other.after.before = block
    block.num_bytes += other.num_bytes
