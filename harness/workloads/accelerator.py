"""What a device does beside arithmetic: its queue, its memory, its generator. The only file that names torch.cuda.

A device that is no CPU takes work and goes on by itself. Who reads a clock waits for it first; who copies to it from
ordinary memory makes the host wait. All of that is asked of `torch.get_device_module(device)`, so that nothing here
holds for the devices of one maker only. A CPU has nothing to be asked: callers look once whether there is a queue.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, cast

import torch

ALLOCATED, RESERVED = "allocated", "reserved"
"""Peaks of an allocator: of what tensors took, and of what it held, used or not."""


class DeviceEvent(Protocol):
    """A moment in a device's queue."""

    def record(self) -> None:
        """Put it behind what the current stream was given so far."""

    def synchronize(self) -> None:
        """Wait until the device has come to it."""

    def elapsed_time(self, end_event: DeviceEvent) -> float:
        """Return the milliseconds until another one, below 0 where that came first; both have been passed."""


class DeviceStream(Protocol):
    """A queue of a device's."""

    def wait_stream(self, stream: DeviceStream) -> None:
        """Order what comes behind what another one was given so far."""


class DeviceGraph(Protocol):
    """Work that a device was given once, recorded."""

    def replay(self) -> None:
        """Give it to the device again."""


class DeviceModule(Protocol):
    """What is asked of `torch.cuda` and its relatives."""

    def Event(self, *, enable_timing: bool) -> DeviceEvent:  # noqa: N802  # as torch calls it
        """Return an event that is not recorded yet."""

    def Stream(self, device: torch.device) -> DeviceStream:  # noqa: N802  # as torch calls it
        """Return a queue beside the others."""

    def stream(self, stream: DeviceStream) -> AbstractContextManager[object]:
        """Give work to a queue for as long as this context lasts."""

    def current_stream(self, device: torch.device) -> DeviceStream:
        """Return the queue that work is given to now."""

    def set_device(self, device: torch.device) -> None:
        """Make it the one that is meant where none is named."""

    def synchronize(self, device: torch.device) -> None:
        """Wait until the device has done what it was given."""

    def device_count(self) -> int:
        """Return how many there are."""

    def empty_cache(self) -> None:
        """Give back what the allocator holds and nobody uses."""

    def max_memory_allocated(self, device: torch.device) -> int:
        """Return the most bytes that tensors took."""

    def max_memory_reserved(self, device: torch.device) -> int:
        """Return the most bytes that the allocator held."""

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        """Let both begin anew at what is held now."""

    def get_rng_state(self, device: torch.device) -> torch.Tensor:
        """Return the state of the device's generator, in host memory."""


def has_queue(device: torch.device) -> bool:
    """Whether a device works behind the host's back."""
    return bool(device.type != "cpu")


def module_of(device: torch.device) -> DeviceModule:
    """Return torch's module for devices of this kind."""
    return cast(DeviceModule, torch.get_device_module(device))


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if has_queue(device):
        module_of(device).synchronize(device)


class SideStream:
    """A queue of a device beside the one that computes; as a context it takes the work.

    What is put into it comes behind all that the computing queue was given before. So memory that was freed there, and
    is taken again here, is not in use any more.
    """

    def __init__(self, device: torch.device) -> None:
        self._module, self._device = module_of(device), device
        self._stream = self._module.Stream(device)

    def __enter__(self) -> None:
        self._stream.wait_stream(self._module.current_stream(self._device))
        self._inside = self._module.stream(self._stream)
        self._inside.__enter__()

    def __exit__(self, *error: object) -> None:
        self._inside.__exit__(*error)  # type: ignore[arg-type]

    def wait_for(self) -> None:
        """Let the computing queue wait for all of it; the host goes on."""
        self._module.current_stream(self._device).wait_stream(self._stream)


def upload(tensor: torch.Tensor, device: torch.device, page_locked: bool = True) -> torch.Tensor:
    """Bring a tensor from host memory to a device; from page-locked memory the host need not wait for it.

    torch gives page-locked memory out again only after the device has read it.
    """
    if not has_queue(device):
        return tensor
    if not page_locked:
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def peak_bytes(device: torch.device) -> dict[str, int]:
    """Return the allocator's peaks by kind; none on a CPU."""
    if not has_queue(device):
        return {}
    module = module_of(device)
    return {ALLOCATED: module.max_memory_allocated(device), RESERVED: module.max_memory_reserved(device)}


def forget_peaks(device: torch.device) -> None:
    """Let the allocator's peaks begin anew."""
    if has_queue(device):
        module_of(device).reset_peak_memory_stats(device)


def give_back_unused(device: torch.device) -> None:
    """Let the allocator give back what nobody uses, so that it does not count as reserved from here on."""
    if has_queue(device):
        module_of(device).empty_cache()


def memory_bytes(device: torch.device) -> float:
    """Return the memory of a device that has some of its own."""
    properties = torch.get_device_module(device).get_device_properties(device)
    return float(properties.total_memory)


def generator_state(device: torch.device) -> bytes:
    """Return the state of a device's own generator; empty on a CPU, which has torch's."""
    return module_of(device).get_rng_state(device).numpy().tobytes() if has_queue(device) else b""


def cuda_is_started() -> bool:
    """Whether torch has started CUDA in this process."""
    return bool(torch.cuda.is_initialized())
