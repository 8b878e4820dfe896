"""A real Slurm of two nodes on one machine: a controller and two slurmd, each a node of tests/namespaces.py.

    with slurm_cluster(folder) as slurm:
        slurm.run(["srun", "-N2", "hostname"])
        slurm.lose(slurm.workers[0])

Accounting is off, as at many sites: `sacct` fails. What is lost stays lost until the cluster goes.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from namespaces import Node, nodes

READY_S = 30.0
"""For both nodes to be idle; measured: 4 s on a busy machine."""

CONF = """\
ClusterName=t
SlurmctldHost={ctl}({ctl_address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/ctl.pid
SlurmdPidFile={folder}/d.%n.pid
SlurmctldLogFile={folder}/ctl.log
SlurmdLogFile={folder}/d.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=2
SlurmdTimeout=10
InactiveLimit=0
MinJobAge=300
SchedulerParameters=batch_sched_delay=0,sched_interval=2
{workers}
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP
"""


@dataclass
class SlurmCluster:
    """A controller and its workers.

    Attributes:
        environment: that leads Slurm's commands to this cluster.
    """

    folder: Path
    controller: Node
    workers: list[Node]
    environment: dict[str, str]

    def run(self, words: Sequence[str], timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command beside the controller, as on a login node."""
        return self.controller.run(words, timeout_s, self.environment)

    def start(self, words: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command beside the controller."""
        return self.controller.start(words, {**self.environment, **(env or {})})

    def lose(self, worker: Node) -> None:
        """Kill slurmd of a node with all that it runs, at once, and let its network go too."""
        worker.cut()
        worker.kill()

    def jobs(self) -> dict[str, str]:
        """Return jobs and array tasks that have not ended, with their states."""
        done = self.run(["squeue", "--noheader", "--array", "--format=%F_%K %T"])
        assert done.returncode == 0, done.stderr
        states = (line.split() for line in done.stdout.splitlines())
        return {job.removesuffix("_N/A"): state for job, state in states}

    def start_now(self, job: str) -> None:
        """Let a job that was requeued start at once: Slurm holds it back for two minutes; if it runs, it refuses."""
        self.run(["scontrol", "update", f"jobid={job}", "StartTime=now"])


@contextmanager
def slurm_cluster(folder: Path, cpus: int = 2) -> Iterator[SlurmCluster]:
    """Start Slurm for the duration of a block; skips the test where it is not installed, or nodes cannot be made."""
    for program in ("slurmctld", "slurmd", "sbatch"):
        if shutil.which(program) is None:
            pytest.skip(f"no `{program}`: install slurmctld, slurmd and slurm-client")
    with nodes(3) as (controller, *workers):
        for name in ("state", *(f"spool.{worker.host}" for worker in workers)):
            (folder / name).mkdir(parents=True)
        lines = [
            f"NodeName={worker.host} NodeHostname={worker.host} NodeAddr={worker.address} CPUs={cpus} RealMemory=4000"
            for worker in workers
        ]
        conf = folder / "slurm.conf"
        words = {"ctl": controller.host, "ctl_address": controller.address, "folder": folder}
        conf.write_text(CONF.format(workers="\n".join(lines), **words))
        environment = {"SLURM_CONF": str(conf)}
        cluster = SlurmCluster(folder, controller, workers, environment)
        with (folder / "daemons.log").open("w") as log:
            started = [controller.start(["slurmctld", "-D", "-c"], environment, stdout=log, stderr=log)]
            for worker in workers:
                daemon = ["slurmd", "-D", "-N", worker.host]
                started.append(worker.start(daemon, environment, stdout=log, stderr=log))
            try:
                _await_idle(cluster)
                yield cluster
            finally:
                for node in (controller, *workers):
                    node.kill()
                for process in started:
                    process.wait(10)


def _await_idle(cluster: SlurmCluster) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        found = cluster.run(["sinfo", "--noheader", "--Node", "--format=%T"])
        if found.stdout.split() == ["idle"] * len(cluster.workers):
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in cluster.folder.glob("*.log"))
    raise AssertionError(f"no idle nodes after {READY_S:g} s: {found.stdout}{found.stderr}\n{logs}")
