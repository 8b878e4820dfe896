"""What a scenario asks Slurm for: options of the array job that runs its cells. Nothing here decides an outcome."""

from __future__ import annotations

from dataclasses import dataclass, field

HOUR_S = 3600.0


@dataclass(frozen=True)
class SlurmOptions:
    """Options of sbatch, and how cells are grouped into tasks of an array.

    Attributes:
        time_s: longest that a task may take; what has not ended then is requeued and goes on.
        memory_bytes: of a task.
        gres: what a GPU is called there, such as "gpu:a100"; empty: by --gpus-per-node.
        cells_per_task: that a task runs one after another.
        at_once: tasks that may run at one time; None: as the site allows.
        exclusive: whether tasks that measure their node have it for themselves.
        setup: lines of shell before a task, such as "module load cuda".
        options: others of sbatch, by their long names without dashes; these win.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    time_s: float = HOUR_S
    memory_bytes: int | None = None
    gres: str = ""
    cells_per_task: int = 16
    at_once: int | None = None
    exclusive: bool = True
    setup: tuple[str, ...] = ()
    options: dict[str, str | int | bool] = field(default_factory=dict)


SITES_OWN = SlurmOptions()
"""Nothing is asked for but what the site gives by itself."""
