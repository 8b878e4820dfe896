"""How many processes the kernel has ended because memory ran out, as the control group of this process counts them."""

from __future__ import annotations

from pathlib import Path


def kernel_kills(proc: Path = Path("/proc/self"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the count; None where no control group counts.

    The kernel sends SIGKILL, as anybody may: only a count that grew meanwhile tells that it was for memory.

    Args:
        proc: of this process, whose group its children are born in.
        groups: where the control groups are mounted.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (memory.events) and cgroup-v1/memory.rst
    (memory.oom_control), the field oom_kill of both.
    """
    try:
        lines = (proc / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        folder = groups / "memory" if "memory" in kinds.split(",") else groups
        name = "memory.oom_control" if "memory" in kinds.split(",") else "memory.events"
        if kinds and folder == groups:
            continue  # of another controller
        # In a container the group's path may be told as the host sees it, and be mounted as the root.
        counts = [_count(place / name) for place in (folder / path.lstrip("/"), folder)]
        found += [count for count in counts if count is not None][:1]
    return max(found, default=None)


def _count(path: Path) -> int | None:
    try:
        fields = dict(line.split() for line in path.read_text(encoding="utf-8").splitlines())
        return int(fields["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None
