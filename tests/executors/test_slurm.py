"""Cells as array jobs: the parts by themselves, and, marked slow, on a real Slurm of two nodes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from cells import host, make_cell, make_cells
from slurm_cluster import SlurmCluster, slurm_cluster

from harness.core.errors import InputError, MachineError
from harness.core.slurm_options import SITES_OWN, SlurmOptions
from harness.executors import extras, slurm_executor, slurm_jobs, slurm_queue, slurm_task
from harness.executors.protocol import CellTask
from harness.executors.slurm_executor import SlurmExecutor, TaskShare, asked_for
from harness.executors.slurm_jobs import ArrayJob, cells_at_work, refuse_under_way, tasks_under_way
from harness.executors.slurm_queue import QueuedTask
from harness.executors.slurm_task import attempts_lost, beginnings, has_ended, run_group
from harness.executors.travel import packed
from harness.results.store import Results
from harness.scenario.read import parse_scenario

TIMED = {
    "workload": {"model": {"parameters": "1 M", "layers": 2}},
    "goal": {"max_steps": 2},
    "sweep": {"strategy": ["sync-ddp"], "gpus": [1, 2, 3], "batch_size": [8]},
}


@pytest.fixture
def results(tmp_path) -> Results:
    return Results(tmp_path / "results" / "tiny")


@pytest.fixture
def folder(results) -> Path:
    made = results.folder / "slurm" / "1"
    made.mkdir(parents=True)
    return made


def tasks() -> list[CellTask]:
    return [CellTask(cell) for cell in make_cells(**TIMED)]


# -- a task of an array ------------------------------------------------------------------------------------------------


def test_a_task_that_starts_again_leaves_out_what_has_its_record(results, folder):
    group = [packed(task) for task in tasks()]
    assert run_group(group[:1], results, folder) == 1
    before = (results.cell_folder(group[0].task.cell_id) / "record.json").stat().st_mtime_ns
    assert run_group(group, results, folder) == 2
    assert (results.cell_folder(group[0].task.cell_id) / "record.json").stat().st_mtime_ns == before
    assert all(has_ended(results, parcel.task) for parcel in group)
    assert [results.record(parcel.task.cell_id).attempts for parcel in group] == [1, 1, 1]


def test_an_attempt_that_went_with_its_node_is_counted_and_one_stopped_in_order_is_not(results, folder, monkeypatch):
    (parcel,) = [packed(task) for task in tasks()[:1]]
    cell_id = parcel.task.cell_id

    def dies(_):
        raise RuntimeError("the node is gone")

    def stopped(_):
        raise KeyboardInterrupt

    for ends, error in ((dies, RuntimeError), (stopped, KeyboardInterrupt)):
        with monkeypatch.context() as patched:
            patched.setattr(slurm_task, "run_parcel", ends)
            with pytest.raises(error):
                run_group([parcel], results, folder)
    assert attempts_lost(folder, cell_id) == 1
    run_group([parcel], results, folder)
    assert results.record(cell_id).attempts == 2
    with (folder / "begun" / cell_id).open("a") as file:
        file.write("node7 12")  # cut off as its node went
    assert [each.came_of for each in beginnings(folder, cell_id)] == ["", "stopped", "ended"]


def test_a_cell_that_is_tried_again_has_not_ended_until_its_new_record_is_there(results, folder):
    task = tasks()[0]
    run_group([packed(task)], results, folder)
    again = CellTask(task.cell, attempts=1)
    assert not has_ended(results, again)
    run_group([packed(again)], results, folder)
    assert has_ended(results, again)  # of its first beginning there is a record: that is no attempt lost
    assert results.record(task.cell_id).attempts == 2


# -- what is asked of Slurm --------------------------------------------------------------------------------------------


def test_a_scenario_says_what_is_asked_for():
    text = """
[sweep]
strategy = ["single"]

[slurm]
partition = "gpu"
account = "lab"
time = "90 min"
memory = "16 GiB"
gres = "gpu:a100"
cells_per_task = 4
at_once = 2
setup = "module load cuda"
options = { mail-type = "FAIL", nice = 100 }
"""
    options = parse_scenario(text, host(), Path("x.toml")).slurm
    asked = asked_for(options, TaskShare(9, 8, True), "x")
    assert asked["partition"] == "gpu"
    assert asked["account"] == "lab"
    assert "qos" not in asked
    assert (asked["time"], asked["mem"], asked["gres"]) == (90, "16384M", "gpu:a100:8")
    assert (asked["cpus_per_task"], asked["exclusive"], asked["array_parallelism"]) == (9, True, 2)
    assert asked["setup"] == ["module load cuda"]
    assert asked["additional_parameters"] == {"requeue": True, "mail-type": "FAIL", "nice": 100}
    plain = asked_for(SITES_OWN, TaskShare(1, 0, False), "x")
    assert not {"exclusive", "gres", "gpus_per_node", "mem", "partition"} & set(plain)
    assert asked_for(SITES_OWN, TaskShare(1, 2, True), "x")["gpus_per_node"] == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('options = { "--nice" = 1 }', "long options of sbatch without dashes"),
        (r'options = { comment = "x\n#SBATCH --uid=0" }', "long options of sbatch without dashes"),
        ("time = '2 min'", "a time of at least 3 min"),
        ("partiton = 'gpu'", "did you mean partition"),
        ("cells_per_task = 0", "slurm.cells_per_task"),
    ],
)
def test_what_slurm_would_misread_is_refused(line, words):
    with pytest.raises(InputError, match=re.escape(words)):
        parse_scenario(f"[sweep]\nstrategy = ['single']\n[slurm]\n{line}\n", host(), Path("x.toml"))


def test_measured_cells_have_tasks_of_their_own():
    real = {"engine": "real", "goal": {"max_steps": 2}, "cluster": {}}
    served = make_cell(**real, sweep={"strategy": ["async-ps"], "gpus": [2], "learning_rate": [0.1]})
    assert TaskShare.of(CellTask(served), cores=64) == TaskShare(2 + served.servers, 0, True)
    assert TaskShare.of(CellTask(served), cores=2) == TaskShare(2, 0, True)
    assert TaskShare.of(tasks()[0], cores=2) == TaskShare(1, 0, False)


# -- the submitting side -----------------------------------------------------------------------------------------------


def test_without_submitit_or_slurm_the_error_names_what_is_missing(monkeypatch, results):
    with monkeypatch.context() as patched:
        patched.setattr(extras, "find_spec", lambda name: None)
        with pytest.raises(MachineError, match=r"needs submitit.*pip install 'parallelism-harness\[slurm\]'"):
            SlurmExecutor(host(), results, SITES_OWN)
    monkeypatch.setattr(slurm_executor, "require_extra", lambda *_: None)
    monkeypatch.setattr(slurm_executor.shutil, "which", lambda name: None)
    with pytest.raises(MachineError, match="there is no sbatch here"):
        SlurmExecutor(host(), results, SITES_OWN)


def test_the_queue_is_read_by_its_fields(monkeypatch):
    lines = "12|3|RUNNING|node1|None\n12|4|PENDING||BeginTime\n13|N/A|RUNNING|node2|None\n"
    answer = subprocess.CompletedProcess([], 0, lines, "")
    monkeypatch.setattr(slurm_queue.subprocess, "run", lambda *_, **__: answer)
    found = slurm_queue.queued()
    assert found["12_4"] == QueuedTask("12_4", "PENDING", "", "BeginTime")
    assert set(found) == {"12_3", "12_4", "13"}
    answer.returncode = 1  # a controller that restarts: nobody knows, so nothing is given up
    assert slurm_queue.queued() is None


@pytest.fixture
def executor(monkeypatch, results) -> SlurmExecutor:
    """An executor whose queue is a dictionary, and whose clock passes as it sleeps."""
    monkeypatch.setattr(slurm_executor, "require_extra", lambda *_: None)
    monkeypatch.setattr(slurm_executor.shutil, "which", lambda name: name)
    return SlurmExecutor(host(), results, SlurmOptions(cells_per_task=2))


def quick(monkeypatch, then: Callable[[], None] = lambda: None) -> None:
    """Let seconds pass at once; `then` is called in each of them."""
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds
        then()

    monkeypatch.setattr(slurm_executor.time, "sleep", sleep)
    monkeypatch.setattr(slurm_executor.time, "monotonic", lambda: now[0])


class Silent:
    def started(self, task, place) -> None: ...

    def reached(self, task, reached) -> None: ...


def test_the_same_command_waits_for_what_is_under_way_and_submits_the_rest(executor, results, folder, monkeypatch):
    every = tasks()
    job = ArrayJob(folder, {"12_0": [every[0].cell_id], "12_1": [every[1].cell_id]})
    job.write()
    monkeypatch.setattr(slurm_executor, "queued", lambda: {"12_0": QueuedTask("12_0", "RUNNING", "node1", "None")})
    submitted = []

    def submit(share, groups):
        submitted.append([[task.cell_id for task in group] for group in groups])
        return ArrayJob(folder, {f"13_{k}": [task.cell_id for task in group] for k, group in enumerate(groups)})

    monkeypatch.setattr(executor, "_submitted", submit)
    quick(monkeypatch, lambda: run_group([packed(task) for task in every], results, folder))
    ended = list(executor.run(iter(every), Silent()))
    assert submitted == [[[every[1].cell_id, every[2].cell_id]]]
    assert Counter(each.task.cell_id for each in ended) == Counter(task.cell_id for task in every)
    assert all(each.stored for each in ended)


def test_tasks_that_end_without_a_record_are_told_with_their_last_lines(executor, folder, monkeypatch):
    every = tasks()

    def submit(share, groups):
        job = ArrayJob(folder, {f"13_{k}": [task.cell_id for task in group] for k, group in enumerate(groups)})
        job.log_of("13_0").write_text("\n".join(f"line {k}" for k in range(50)) + "\nno module named torch\n")
        return job

    monkeypatch.setattr(executor, "_submitted", submit)
    monkeypatch.setattr(slurm_executor, "queued", lambda: {})
    quick(monkeypatch)
    with pytest.raises(MachineError, match=r"(?s)3 cells have no record.*13_0 and 13_1.*no module named torch"):
        list(executor.run(iter(every), Silent()))


def test_a_queue_that_does_not_answer_gives_nothing_up(executor, results, folder, monkeypatch):
    every = tasks()
    monkeypatch.setattr(executor, "_submitted", lambda share, groups: ArrayJob(folder, {"13_0": [], "13_1": []}))
    monkeypatch.setattr(slurm_executor, "queued", lambda: None)
    passed = []

    def then():
        passed.append(1)
        if len(passed) == 100:
            run_group([packed(task) for task in every], results, folder)

    quick(monkeypatch, then)
    assert len(list(executor.run(iter(every), Silent()))) == 3


def test_another_executor_is_refused_while_tasks_are_under_way(results, folder, monkeypatch):
    refuse_under_way(results)  # nothing was ever submitted: no squeue is asked
    ArrayJob(folder, {"12_0": ["a"], "12_1": ["b"]}).write()
    monkeypatch.setattr(slurm_jobs.shutil, "which", lambda name: name)
    answers = {"12_1": QueuedTask("12_1", "RUNNING", "node1", "None")}
    monkeypatch.setattr(slurm_jobs, "queued", lambda: answers)
    with pytest.raises(MachineError, match=r"1 task of Slurm's \(12\) still run.*--executor slurm.*scancel 12"):
        refuse_under_way(results)
    (folder / "begun").mkdir()
    (folder / "begun" / "b").write_text("node1 7 2026-12-01T00:00:00+00:00\n")
    (folder / "begun" / "a").write_text("node1 7 2026-12-01T00:00:00+00:00\n")  # its task is gone
    found = cells_at_work(results, tasks_under_way(results))
    assert {cell: begun.host for cell, begun in found.items()} == {"b": "node1"}
    answers.clear()
    refuse_under_way(results)
    monkeypatch.setattr(slurm_jobs, "queued", lambda: None)
    with pytest.raises(MachineError, match="squeue does not say"):
        refuse_under_way(results)


# -- a real Slurm ------------------------------------------------------------------------------------------------------

TINY = """\
plugins = "slow.py"

[workload]
model = {{ parameters = "1 M", layers = 2, sequence = 16 }}

[sweep]
strategy = ["slow"]
batch_size = {batches}
gpus = [1, 2]

[goal]
max_steps = 2

[cluster]
preset = "dgx-a100"

[slurm]
cells_per_task = 5
"""

SLOW = """\
import select

from harness import Strategy, Worker, hookimpl


class Slow(Strategy):
    name = "slow"

    async def work(self, worker: Worker) -> None:
        select.select([], [], [], {seconds})  # of the real clock: long enough to lose a node in
        for batch in worker.batches():
            await worker.apply(await worker.mean(await worker.gradient(batch)))


@hookimpl
def harness_strategies():
    return [Slow]
"""


@pytest.fixture
def scenario(tmp_path) -> Callable[..., None]:
    """Write tiny.toml with so many batch sizes, two cells each, and its plugin, by which a cell takes so long."""

    def write(batches: int, seconds: float = 1.0) -> None:
        (tmp_path / "tiny.toml").write_text(TINY.format(batches=list(range(1, batches + 1))))
        (tmp_path / "slow.py").write_text(SLOW.format(seconds=seconds))

    return write


def harness(slurm: SlurmCluster, folder: Path, *words: str) -> subprocess.Popen[str]:
    code = f"import os; os.chdir({str(folder)!r}); from harness.__main__ import start; start()"
    return slurm.start([sys.executable, "-c", code, *words])


def all_records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in (folder / "results" / "tiny").glob("cells/*/record.json")]


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def finished(slurm: SlurmCluster, run: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for a run, let what is requeued meanwhile start at once, and return what the run printed."""
    while run.poll() is None:
        for key, state in slurm.jobs().items():
            if state == "PENDING":
                slurm.start_now(key)
        time.sleep(1.0)
    return run.communicate()


@pytest.fixture
def slurm(tmp_path):
    pytest.importorskip("submitit")
    with slurm_cluster(tmp_path / "slurm", cpus=2) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_is_killed_midway_and_the_rest_is_requeued_and_finished(slurm, scenario, tmp_path):
    scenario(20)
    run = harness(slurm, tmp_path, "run", "tiny.toml", "--executor", "slurm")
    until(lambda: run.poll() is not None or len(all_records(tmp_path)) >= 6, 120, "no records")
    running = {key for key, state in slurm.jobs().items() if state == "RUNNING"}
    assert len(running) == 4
    slurm.lose(slurm.workers[0])
    until(lambda: "PENDING" in slurm.jobs().values() or not slurm.jobs(), 90, "nothing was requeued")
    out, err = finished(slurm, run)
    assert run.returncode == 0, out + err
    told = Counter(line.split("] ")[1].split(" ")[0] for line in out.splitlines() if "] slow-" in line)
    assert len(told) == 40
    assert set(told.values()) == {1}
    records = all_records(tmp_path)
    assert len(records) == 40
    assert {record["status"] for record in records} == {"ok"}
    assert sum(record["attempts"] > 1 for record in records) <= 2  # what ran on the node's two CPUs


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_submitter_that_is_interrupted_leaves_the_jobs_and_the_same_command_joins_them(slurm, scenario, tmp_path):
    scenario(8, seconds=6.0)
    run = harness(slurm, tmp_path, "run", "tiny.toml", "--executor", "slurm")
    until(lambda: run.poll() is not None or all_records(tmp_path), 120, "no records")
    shown = harness(slurm, tmp_path, "status", "tiny").communicate(timeout=60)[0]
    assert "tiny: running" in shown
    assert re.search(r"Slurm: 4 RUNNING, of 4 tasks; to end them: scancel \d+", shown), shown
    assert re.search(r"running: slow-\S+, process \d+ on node[12], since", shown), shown
    os.kill(run.pid, signal.SIGINT)
    time.sleep(3.0)
    assert slurm.jobs()
    out, err = run.communicate(timeout=300)  # the report is drawn
    assert run.returncode == 130, out + err
    job = re.search(r"Slurm's job (\d+) goes on.*scancel (\d+)", out)
    assert job is not None, out + err
    assert job[1] == job[2]
    again = harness(slurm, tmp_path, "run", "tiny.toml", "--executor", "slurm")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, out + err
    assert len(list((tmp_path / "results" / "tiny" / "slurm").glob("*/tasks.json"))) == 1  # nothing was submitted
    assert Counter((record["status"], record["attempts"]) for record in all_records(tmp_path)) == {("ok", 1): 16}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["scontrol", "requeue"], id="by a requeue"),
        pytest.param(["scancel", "--signal=USR2"], id="by the signal before the limit of time"),
    ],
)
def test_a_task_that_is_told_to_stop_goes_on_when_it_is_requeued(words, slurm, scenario, tmp_path):
    scenario(5, seconds=3.0)
    run = harness(slurm, tmp_path, "run", "tiny.toml", "--executor", "slurm", "--set", "gpus=1")
    until(lambda: run.poll() is not None or len(all_records(tmp_path)) >= 2, 120, "no records")
    (key,) = slurm.jobs()
    done = slurm.run([*words, key])
    assert done.returncode == 0, done.stderr
    until(lambda: slurm.jobs().get(key) == "PENDING", 60, "it was not requeued")
    out, err = finished(slurm, run)
    assert run.returncode == 0, out + err
    assert Counter((record["status"], record["attempts"]) for record in all_records(tmp_path)) == {("ok", 1): 5}
    (log,) = (tmp_path / "results" / "tiny" / "slurm").glob("*/*_log.out")
    assert "stopped by SIGTERM" in log.read_text() or "Requeued job" in log.read_text()
    (folder,) = (tmp_path / "results" / "tiny" / "slurm").glob("*/begun")
    assert sum("stopped" in path.read_text() for path in folder.iterdir()) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_slurm_refuses_is_said_and_a_task_that_cannot_start_is_told_with_its_log(slurm, scenario, tmp_path):
    scenario(1)
    run = harness(slurm, tmp_path, "run", "tiny.toml", "--executor", "slurm", "--set", "slurm.partition=nowhere")
    out, err = run.communicate(timeout=60)
    assert run.returncode == 2, out + err
    assert "[slurm]: Slurm refuses the job" in err
    assert "partition" in err
    broken = "slurm.setup=echo no such module; exit 3"
    run = harness(slurm, tmp_path, "run", "tiny.toml", "--executor", "slurm", "--set", broken)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 3, out + err
    assert "2 cells have no record" in err
