"""A GPU without a GPU: a device of torch's on which the real engine runs, with real values, and which notes its calls.

torch's Python backend names the device "fakegpu". Its tensors wrap tensors of the CPU, so every number is the CPU's.
Modelled is what a host can see of a GPU: work goes into a queue and is counted there, events stand between it, reading
a number or copying to or from ordinary memory makes the host wait, tensors of two devices do not mix, an allocator
keeps what was given back. Not modelled: more than one stream, the types of autocast, NCCL (gloo carries the exchanges),
and time: an event's moment is the number of operations before it.

It holds for its whole process and cannot be undone: `fakegpu/sitecustomize.py` installs it where FAKE_GPU_LOG names a
folder, for a program and all that it starts. Every process writes its notes to a file there, one JSON list a line.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import weakref
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torch.utils.weak import WeakIdKeyDictionary

NAME = "fakegpu"
LOG = "FAKE_GPU_LOG"
BACKEND = "fakeccl"

LEAST_BLOCK = 512
"""Bytes: what torch's allocator rounds up to (c10/cuda/CUDACachingAllocator.h, kMinBlockSize)."""

WAITED_FOR = frozenset(
    ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim", "bincount")
)
"""Operations whose answer the host must have before it goes on."""

COPIES = frozenset(("copy_", "_to_copy", "_foreach_copy_"))
TAKE_HOST_INDICES = frozenset(("index", "index_put_", "index_put", "_index_put_impl_"))


# -- notes -------------------------------------------------------------------------------------------------------------


def note(*words: object) -> None:
    """Write a line of what happened, with the place in the product that brought it about."""
    with open(os.path.join(os.environ[LOG], f"{os.getpid()}.jsonl"), "a", encoding="utf-8") as file:
        file.write(json.dumps([*words, *_place()]) + "\n")


def _place() -> list[str]:
    """Return file and function of the innermost frame of the product, and nothing where there is none."""
    frame = sys._getframe(2)
    while frame is not None:
        parts = frame.f_code.co_filename.rpartition(os.sep + "harness" + os.sep)
        if parts[1]:
            return [f"{parts[2]}:{frame.f_code.co_name}"]
        frame = frame.f_back  # type: ignore[assignment]
    return [""]


# -- what torch.cuda would be ------------------------------------------------------------------------------------------


class Allocator:
    """Counts what is in use by storage, and what was ever held at once."""

    def __init__(self) -> None:
        self.used = self.most = self.held = self.most_held = 0
        self._users: dict[int, int] = {}

    def take(self, wrapper: torch.Tensor, inner: torch.Tensor) -> None:
        """Count a tensor's memory for as long as one of its wrappers lives."""
        storage = inner.untyped_storage()
        place, size = storage.data_ptr(), -(-storage.nbytes() // LEAST_BLOCK) * LEAST_BLOCK
        if not place:
            return
        self._users[place] = self._users.get(place, 0) + 1
        if self._users[place] == 1:
            self._change(size)
        weakref.finalize(wrapper, self._give_back, place, size).atexit = False

    def _give_back(self, place: int, size: int) -> None:
        self._users[place] -= 1
        if not self._users[place]:
            del self._users[place]
            self._change(-size)

    def _change(self, size: int) -> None:
        self.used += size
        self.most = max(self.most, self.used)
        self.held = max(self.held, self.used)
        self.most_held = max(self.most_held, self.held)


ALLOCATOR = Allocator()


class Queue:
    """How many operations the device was given."""

    given = 0


class Stream:
    """The only one."""

    def __init__(self, device: object = None, priority: int = 0, **_: object) -> None:
        self.device = torch.device(NAME, 0)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave it."""

    def wait_stream(self, other: Stream) -> None:
        """Order work behind another stream's."""

    def wait_event(self, event: Event) -> None:
        """Order work behind an event."""

    def record_event(self, event: Event | None = None) -> Event:
        """Return an event behind what was given so far."""
        event = event or Event()
        event.record()
        return event

    def synchronize(self) -> None:
        """Wait for it."""
        note("wait", "stream.synchronize")


class Event:
    """A place in the queue."""

    def __init__(self, enable_timing: bool = False, **_: object) -> None:
        self.timed, self.at = enable_timing, -1

    def record(self, stream: object = None) -> None:
        """Put it behind what was given so far."""
        refuse_in_capture("record an event")
        self.at = Queue.given
        note("record", self.at)

    def wait(self, stream: object = None) -> None:
        """Order a stream behind it."""

    def synchronize(self) -> None:
        """Wait until the device has come to it."""
        note("wait", "event.synchronize")

    def query(self) -> bool:
        """Answer whether the device has passed it."""
        return True

    def elapsed_time(self, end_event: Event) -> float:
        """Return milliseconds between two events: each operation takes a microsecond, less than on any host."""
        if not (self.timed and end_event.timed):
            raise RuntimeError("Both events must be created with argument 'enable_timing=True'.")
        if self.at < 0 or end_event.at < 0:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        return (end_event.at - self.at) / 1000


class Graph:
    """Operations that are done again, on the same memory; unlike a GPU, this device does them while it records too."""

    recording: Graph | None = None

    def __init__(self) -> None:
        self.done: list[tuple[Any, Any, dict[str, Any], Any]] = []

    def replay(self) -> None:
        """Do all again, and write where it was written."""
        note("replay", len(self.done))
        Queue.given += len(self.done)
        for func, args, kwargs, before in self.done:
            again = func(*args, **kwargs)
            pairs = zip(tree_leaves(before), tree_leaves(again), strict=True)
            for old, new in (pair for pair in pairs if isinstance(pair[0], torch.Tensor)):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recording:
    """What `torch.cuda.graph` is: operations inside are recorded."""

    def __init__(self, graph: Graph, stream: Stream | None = None) -> None:
        self.graph = graph

    def __enter__(self) -> None:
        note("capture", "begins")
        Graph.recording = self.graph

    def __exit__(self, *_: object) -> None:
        Graph.recording = None
        note("capture", "ends", len(self.graph.done))


def refuse_in_capture(what: str) -> None:
    """Refuse what the host cannot do while a stream is recorded."""
    if Graph.recording is not None:
        raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {what}")


class Properties:
    """Of the device."""

    name, total_memory, multi_processor_count, major, minor = "Fake GPU", 2**30, 1, 9, 0


class Module:
    """What `torch.get_device_module("fakegpu")` gives."""

    Stream, Event, CUDAGraph, graph = Stream, Event, Graph, Recording
    chosen = 0

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _lazy_init(self) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 2

    def current_device(self) -> int:
        return self.chosen

    def set_device(self, device: Any) -> None:
        self.chosen = torch.device(device).index if not isinstance(device, int) else device
        note("set_device", self.chosen)

    def synchronize(self, device: object = None) -> None:
        refuse_in_capture("synchronize")
        note("wait", "synchronize")

    def current_stream(self, device: object = None) -> Stream:
        return Stream()

    def default_stream(self, device: object = None) -> Stream:
        return Stream()

    def stream(self, stream: Stream) -> Stream:
        return stream

    def get_device_properties(self, device: object = None) -> Properties:
        return Properties()

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def max_memory_allocated(self, device: object = None) -> int:
        note("memory", "max_memory_allocated", ALLOCATOR.most)
        return ALLOCATOR.most

    def max_memory_reserved(self, device: object = None) -> int:
        note("memory", "max_memory_reserved", ALLOCATOR.most_held)
        return ALLOCATOR.most_held

    def memory_reserved(self, device: object = None) -> int:
        note("memory", "memory_reserved", ALLOCATOR.held)
        return ALLOCATOR.held

    def reset_peak_memory_stats(self, device: object = None) -> None:
        ALLOCATOR.most, ALLOCATOR.most_held = ALLOCATOR.used, ALLOCATOR.held
        note("memory", "reset_peak_memory_stats")

    def empty_cache(self) -> None:
        ALLOCATOR.held = ALLOCATOR.used
        note("memory", "empty_cache")

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        """Return the CPU's: what is drawn on this device is drawn there."""
        state: torch.Tensor = torch.get_rng_state()
        return state

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        torch.set_rng_state(state)


# -- tensors -----------------------------------------------------------------------------------------------------------


class OnDevice(torch.Tensor):
    """A tensor of the device; its numbers are in `inner`, a tensor of the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device) -> OnDevice:
        """Wrap a tensor of the CPU."""
        made: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
        )
        made.inner = inner
        ALLOCATOR.take(made, inner)
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def untyped_storage(self) -> torch.UntypedStorage:
        """Return the memory of the numbers: who shares it is told by its address."""
        return self.inner.untyped_storage()

    def as_subclass(self, cls: type[torch.Tensor]) -> torch.Tensor:
        """Return the same numbers as another class of tensors: torch makes none of what is a subclass already."""
        own = OnDevice if cls is torch.Tensor else _on_device(cls)
        with torch._C.DisableTorchFunctionSubclass():
            return own(self.inner, self.device)


@cache
def _on_device(cls: type[torch.Tensor]) -> Any:
    return cls if issubclass(cls, OnDevice) else type(f"{cls.__name__}OnDevice", (cls, OnDevice), {})


class Device(TorchDispatchMode):  # type: ignore[misc]
    """Sends what names the device there; the rest stays on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "is_pinned":
            return args[0] in PINNED
        if name == "_pin_memory":
            pinned = args[0].clone()
            PINNED[pinned] = True
            return pinned
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        ours = _named(kwargs.get("device")) or any(isinstance(leaf, OnDevice) for leaf in leaves)
        if ours and all(type(leaf) in PLAIN for leaf in leaves):
            return run(func, args, kwargs)
        if func.namespace == "c10d" and not ours:
            _note_collective(name, leaves)
        return func(*args, **kwargs)  # of the CPU, or of a tensor that stands for others and unwraps itself first


PLAIN = (OnDevice, torch.Tensor, torch.nn.Parameter)

PINNED = WeakIdKeyDictionary()
"""Tensors in page-locked memory."""


def _named(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operation of the device on the CPU, and note what the host would feel of it."""
    name = func.overloadpacket.__name__
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    wrapped = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
    device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if device is None and wrapped:
        device = wrapped[0].device
    if name in COPIES:
        _note_copies(name, args, kwargs)
        device = args[0].device if name == "copy_" else device
    else:
        _refuse_mixed(name, leaves)
    if func.namespace == "c10d":
        _note_collective(name, leaves)
    elif name in WAITED_FOR:
        refuse_in_capture(name)
        note("wait", name)
    Queue.given += 1
    inner = dict(tree_map(_unwrapped, kwargs))
    if inner.get("device") is not None:
        inner["device"] = torch.device("cpu")
    inner.pop("pin_memory", None)
    given = tree_map(_unwrapped, args)
    answer = func(*given, **inner)
    if Graph.recording is not None:
        Graph.recording.done.append((func, given, inner, answer))
    known = {id(leaf.inner): leaf for leaf in wrapped}
    on = device is not None and device.type == NAME

    def outer(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, OnDevice):
            return value
        value = value.trigger_wait() if hasattr(value, "trigger_wait") else value  # of a functional collective
        return known.get(id(value)) if id(value) in known else OnDevice(value, device) if on else value

    return tree_map(outer, answer)


def _note_collective(name: str, leaves: Iterable[torch.Tensor]) -> None:
    note("collective", name, [leaf.numel() * leaf.element_size() for leaf in leaves])


def _unwrapped(value: Any) -> Any:
    return value.inner if isinstance(value, OnDevice) else value


def _refuse_mixed(name: str, leaves: Iterable[torch.Tensor]) -> None:
    """Refuse tensors of two devices, as torch does; a number of the CPU's may come along."""
    others = [leaf for leaf in leaves if not isinstance(leaf, OnDevice) and leaf.dim() > 0]
    if others and name in TAKE_HOST_INDICES:
        note("wait", f"{name} with indices in host memory")
    elif others and not all(isinstance(leaf, OnDevice) for leaf in leaves):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} found {NAME}:0 and cpu!")


def _note_copies(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    if name == "_to_copy":
        target = kwargs.get("device") or args[0].device
        pairs = [(torch.device(target), args[0])]
    else:
        into, source = (args[0], args[1]) if name == "_foreach_copy_" else ([args[0]], [args[1]])
        pairs = [(to.device, tensor) for to, tensor in zip(into, source, strict=True)]
    asked = bool(kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
    for to, tensor in pairs:
        if to.type == tensor.device.type:
            continue
        pinned = tensor in PINNED
        up = to.type == NAME
        if asked and (not up or not pinned):
            note("careless", f"{name}: not waited for, and not from page-locked memory")
        waits = not asked or (up and not pinned)
        if waits:
            refuse_in_capture(name)
        size = tensor.numel() * tensor.element_size()
        note("wait" if waits else "sent", f"{'to' if up else 'from'} the device", size)


# -- what torch does below Python's reach ------------------------------------------------------------------------------


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, device: Any = None, **_: Any) -> OnDevice:
    return OnDevice(torch.empty_strided(size, stride, dtype=dtype), torch.device(device or (NAME, 0)))


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Copy between the device and the host, for `torch.tensor(..., device=...)`, which no mode sees."""
    _note_copies("copy_", (target, source, non_blocking), {})
    _unwrapped(target).copy_(_unwrapped(source))
    return target


def _resizing(call: Callable[[torch.Tensor], None]) -> Callable[[torch.Tensor], None]:
    """Leave a tensor of the device as large as it is: a wrapper has no memory that could be given back."""

    def resize(tensor: torch.Tensor) -> None:
        if isinstance(tensor, OnDevice):
            note("memory", call.__name__, tensor.numel() * tensor.itemsize)
        else:
            call(tensor)

    return resize


def _split_group(parent_pg: Any, split_ranks: list[list[int]], group_desc: str = "", **_: Any) -> Any:
    """Make the groups that NCCL splits off a group; gloo knows no splitting."""
    mine, parent_pg.bound_device_id = None, None  # with a device, torch asks NCCL to leave ranks out of a split
    for ranks in split_ranks:
        group = dist.new_group(ranks, group_desc=group_desc)
        mine = group if dist.get_rank() in ranks else mine
    return mine


def _gloo(store: Any, rank: int, size: int, timeout: datetime.timedelta) -> Any:
    note("group", rank, size)
    return dist.ProcessGroupGloo(store, rank, size, timeout)


# -- putting it in place -----------------------------------------------------------------------------------------------

_KEPT: list[object] = []


def install() -> None:
    """Let this process, and those forked from it, have the device."""
    import torch.distributed.device_mesh as meshes
    import torch.distributed.fsdp._fully_shard._fsdp_param as sharded
    import torch.distributed.fsdp._fully_shard._fsdp_param_group as groups

    _setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    autocast = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    autocast.fallback(torch.library.fallthrough_kernel)  # autocast is accepted, and casts nothing
    kernels = torch.library.Library("aten", "IMPL", "PrivateUse1")
    kernels.impl("empty_strided", _empty_strided)
    kernels.impl("_copy_from", _copy_from)
    dist.Backend.register_backend(BACKEND, _gloo, devices=[NAME, "cpu"])
    meshes.split_group = _split_group
    sharded.alloc_storage = groups.alloc_storage = _resizing(sharded.alloc_storage)
    sharded.free_storage = _resizing(sharded.free_storage)
    mode = Device()
    mode.__enter__()
    _KEPT.extend((autocast, kernels, mode))
