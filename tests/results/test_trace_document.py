"""Traces for Perfetto: the file's format, and that it shows what the records say."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import make_cell, make_cells
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy

from harness.api.strategy import Layout
from harness.commands.cli import main
from harness.core.cell import Cell
from harness.core.outcome import Outcome
from harness.core.span import COMMUNICATION, COMPUTE, Span
from harness.costs.steps.result import StepCost, StreamTask
from harness.engines.processes.launch import run_cell
from harness.engines.shared.recorder import Recorder
from harness.engines.shared.setup import make_setup
from harness.engines.virtual.spans import MOST_DEVICES, Tracer
from harness.results.trace_document import chosen_spans, side_by_side, trace_document
from harness.results.trace_files import are_twins, document_of, steps_to_record

virtual_engine = lazy("harness.engines.virtual.engine")

ROUNDING_US = 0.002
"""Times in the file are rounded to the nanosecond."""

SPEED_ONLY: dict[str, Any] = {"target_accuracy": "none", "max_steps": 30}

LAYOUTS: dict[str, dict[str, Any]] = {
    "single": {"sweep__gpus": [1]},
    "sync-ddp": {"sweep__gpus": [2]},
    "sync-ps": {"sweep__gpus": [2]},
    "async-ps": {"sweep__gpus": [2]},
    "local-sgd": {"sweep__gpus": [2]},
    "model-split": {"sweep__gpus": [2], "sweep__micro_batch_size": 8},
    "fsdp": {"sweep__gpus": [2]},
}


def complete(trace: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in trace["traceEvents"] if event["ph"] == "X"]


def names(trace: dict[str, Any]) -> dict[int, str]:
    return {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}


def assert_well_formed(trace: dict[str, Any]) -> None:
    """Check what viewers rely on: keys, order, and threads that do one thing at a time."""
    assert json.loads(json.dumps(trace, allow_nan=False)) == trace
    events = complete(trace)
    for event in events:
        assert {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"} == set(event)
        assert event["dur"] >= 0
    assert [e["ts"] for e in events] == sorted(e["ts"] for e in events)
    ends: dict[tuple[int, int], float] = defaultdict(lambda: -1e18)
    for event in events:
        thread = event["pid"], event["tid"]
        assert event["ts"] >= ends[thread] - ROUNDING_US, (event, ends[thread])
        ends[thread] = event["ts"] + event["dur"]
    threads = {(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert threads == set(ends)
    assert {pid for pid, _ in threads} == set(names(trace))


# -- the file ----------------------------------------------------------------------------------------------------------

spans_of_anything = st.lists(
    st.builds(
        lambda process, stream, start, length, step: Span(process, stream, "x", stream, start, start + length, step),
        st.sampled_from(["worker 0", "worker 1", "worker 10", "server"]),
        st.sampled_from([COMPUTE, COMMUNICATION]),
        st.floats(0, 10),
        st.floats(1e-6, 3),
        st.integers(0, 5),
    ),
    max_size=60,
)


@settings(max_examples=60)
@given(spans_of_anything)
def test_any_spans_become_a_well_formed_file_that_loses_nothing(spans):
    spans = sorted(spans, key=lambda span: (span.start_s, span.end_s))
    trace = trace_document(spans, [(0.0, "early"), (5.0, "mark")])
    assert_well_formed(trace)
    drawn = [event for event in complete(trace) if event["cat"] != "marks"]
    assert len(drawn) == len(spans)
    total = sum(span.end_s - span.start_s for span in spans)
    assert sum(event["dur"] for event in drawn) == pytest.approx(1e6 * total, abs=ROUNDING_US * (1 + len(spans)))


def test_processes_stand_in_the_order_of_their_numbers_and_streams_compute_first():
    order = ["server", "worker 10", "worker 2", "worker 0"]
    spans = [Span(p, s, "x", s, k, k + 0.5, 0) for k, p in enumerate(order) for s in (COMMUNICATION, COMPUTE)]
    trace = trace_document(sorted(spans, key=lambda span: span.start_s), [(1.0, "evaluation")])
    assert list(names(trace).values()) == ["worker 0", "worker 2", "worker 10", "server", "marks"]
    threads = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"]
    assert threads == [COMPUTE, COMMUNICATION] * 4 + ["marks"]


def test_what_a_stream_does_at_once_gets_a_lane_of_its_own():
    spans = [Span("rank 0", COMMUNICATION, f"bucket {k}", COMMUNICATION, k, k + 1.5, 0) for k in range(3)]
    trace = trace_document(spans)
    threads = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"]
    assert threads == ["communication", "communication 2"]
    assert_well_formed(trace)


def test_a_file_without_spans_is_a_file():
    assert_well_formed(trace_document([], [(1.0, "evaluation")]))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5)), max_size=8), st.integers(0, 40), st.integers(1, 30))
def test_what_is_carved_out_of_computing_is_gone_and_nothing_else(gaps, begin, length):
    recorder, now = Recorder(10), 0
    for gap, busy in gaps:
        recorder.add(Span("rank 0", COMPUTE, "compute", "compute", now + gap, now + gap + busy, 0))
        recorder.add(Span("rank 0", COMPUTE, "apply", "other", now + gap, now + gap + busy, 0))
        now += gap + busy
    before = {t for s in recorder.spans for t in range(int(s.start_s), int(s.end_s)) if s.category == "compute"}
    others = [s for s in recorder.spans if s.category == "other"]
    recorder.carve(begin, begin + length, "compute")
    kept = [t for s in recorder.spans for t in range(int(s.start_s), int(s.end_s)) if s.category == "compute"]
    assert sorted(kept) == sorted(before - set(range(begin, begin + length)))
    assert [s for s in recorder.spans if s.category == "other"] == others


def test_a_recorder_keeps_the_steps_it_was_asked_for_and_never_too_much(monkeypatch):
    recorder = Recorder(2)
    for step in range(4):
        recorder.add(Span("worker 0", COMPUTE, "x", "compute", step, step + 1, step))
    recorder.add(Span("worker 0", COMPUTE, "x", "compute", 5, 5, 0))
    assert [span.step for span in recorder.spans] == [0, 1]
    monkeypatch.setattr("harness.engines.shared.recorder.MOST_SPANS", 3)
    for _ in range(9):
        recorder.add(Span("server", COMPUTE, "apply", "compute", 0, 1, None))
    assert len(recorder.spans) == 3


def test_servers_are_shown_while_the_chosen_steps_of_workers_last():
    worker = [Span("worker 0", COMPUTE, "x", "compute", step, step + 1, step) for step in range(6)]
    server = [Span("server", COMPUTE, "apply", "compute", k + 0.4, k + 0.6, None) for k in range(6)]
    chosen = chosen_spans([*server, *worker], first=2, steps=2)
    seen = [(span.process, span.start_s) for span in chosen]
    assert seen == [("worker 0", 2), ("server", 2.4), ("worker 0", 3), ("server", 3.4)]
    assert chosen_spans(server, 0, 5) == []


def test_two_traces_stand_side_by_side_from_zero_on():
    def trace(begin: float) -> dict[str, Any]:
        spans = [Span(p, COMPUTE, "x", "compute", begin, begin + 1, 0) for p in ("worker 0", "server")]
        return trace_document(spans, about={"clock": begin})

    pair = side_by_side({"real": trace(7.0), "virtual": trace(0.25)})
    assert_well_formed(pair)
    assert sorted(names(pair).values()) == ["real: server", "real: worker 0", "virtual: server", "virtual: worker 0"]
    assert {event["ts"] for event in complete(pair)} == {0.0}
    assert pair["otherData"] == {"real": {"clock": 7.0}, "virtual": {"clock": 0.25}}


# -- the engines -------------------------------------------------------------------------------------------------------


def traced(strategy: str, engine: str, steps: int = 5, **changes: Any) -> tuple[Cell, Outcome, dict[str, Any]]:
    """Run a cell with a trace; return it, its outcome and the file's content."""
    cell = make_cell(
        cores=2, engine=engine, **{"goal": SPEED_ONLY, "sweep__strategy": [strategy], **LAYOUTS[strategy], **changes}
    )
    limit = steps_to_record(cell, steps)
    if engine == "virtual":
        outcome = virtual_engine.run_virtual(make_setup(cell), trace=limit)
    else:
        result = run_cell(cell, options={"trace": limit, "keep_weights": True})
        assert result.finished, result.reason
        outcome = result.outcome
    return cell, outcome, document_of(cell, outcome, steps)


def in_steps(outcome: Outcome, first: int, steps: int, part: str) -> float:
    rows = zip(outcome.steps["step"], outcome.steps[part], strict=True)
    return sum(seconds for step, seconds in rows if first <= step < first + steps)


def in_trace(trace: dict[str, Any], category: str) -> float:
    """Return the seconds of a category in workers' steps."""
    return sum(e["dur"] for e in complete(trace) if e["cat"] == category and "step" in e["args"]) / 1e6


def words(trace: dict[str, Any]) -> set[str]:
    return {event["name"].rstrip("0123456789 ") for event in complete(trace)}


def started_at(trace: dict[str, Any], name: str) -> Sequence[float]:
    return [event["ts"] for event in complete(trace) if event["name"] == name]


def of_process(trace: dict[str, Any], name: str) -> dict[str, Any]:
    (pid,) = [pid for pid, known in names(trace).items() if known == name]
    return {"traceEvents": [event for event in trace["traceEvents"] if event["pid"] == pid]}


VIRTUAL_WORDS = {
    "single": {"forward", "backward"},
    "sync-ddp": {"forward", "backward", "bucket", "wait for exchange"},
    "sync-ps": {"forward", "backward", "send", "wait"},
    "async-ps": {"forward", "backward", "send", "wait"},
    "local-sgd": {"forward", "backward", "mean"},
    "model-split": {"forward", "backward", "send activation", "send gradient"},
    "fsdp": {"forward", "backward", "gather for forward", "scatter after backward"},
}


@pytest.mark.parametrize("strategy", LAYOUTS)
@pytest.mark.parametrize("jitter", [0, 0.5])
def test_a_virtual_trace_shows_what_the_steps_say(strategy, jitter):
    cell, outcome, trace = traced(strategy, "virtual", faults={"compute_jitter": jitter})
    assert_well_formed(trace)
    # The warm-up is a tenth of worker 0's steps: half of the 30 where two workers push gradients of their own.
    first = 1 if strategy == "async-ps" else 3
    assert trace["otherData"] == {"cell": cell.cell_id, "clock": "simulated", "first step": first}
    assert words(trace) >= VIRTUAL_WORDS[strategy]
    # A row stands for all devices of a worker.
    devices = cell.gpus // cell.workers
    assert in_trace(trace, "compute") == pytest.approx(devices * in_steps(outcome, first, 5, "compute_s"), rel=1e-4)


def test_a_trace_changes_nothing_that_is_simulated():
    faults = {"compute_jitter": 0.3}
    cell, outcome, _ = traced("async-ps", "virtual", faults=faults)
    plain = virtual_engine.run_virtual(make_setup(cell))
    assert plain.spans == []
    assert plain.training_s == outcome.training_s
    assert plain.steps == outcome.steps
    assert bool((plain.weights == outcome.weights).all())


def test_evaluations_are_marks():
    goal = {"target_accuracy": "none", "max_steps": 30, "evaluate_every": 64}
    _, outcome, trace = traced("single", "virtual", goal=goal)
    marks = [event for event in complete(trace) if event["cat"] == "marks"]
    seen = [e for e in outcome.evaluations if marks and marks[0]["ts"] <= round(e.time_s * 1e6, 3) <= marks[-1]["ts"]]
    assert len(marks) == len(seen) >= 2
    assert marks[0]["name"] == f"evaluation after {seen[0].samples} samples"


def test_a_straggler_computes_while_the_others_wait_for_it():
    _, _, trace = traced("sync-ddp", "virtual", faults={"stragglers": {"rank": 1, "slowdown": 3}})
    fast, slow = (of_process(trace, rank) for rank in ("rank 0", "rank 1"))
    assert in_trace(slow, "compute") == pytest.approx(3 * in_trace(fast, "compute"), rel=0.05)
    assert in_trace(fast, "idle") > in_trace(fast, "compute")
    assert in_trace(slow, "idle") == 0


def test_a_pipelines_stages_take_turns():
    _, _, trace = traced("model-split", "virtual")
    forwards = [started_at(of_process(trace, f"rank {stage}"), "forward 0") for stage in (0, 1)]
    assert all(first < second for first, second in zip(*forwards, strict=True))


def test_devices_that_do_the_same_are_drawn_up_to_a_limit():
    tasks = (StreamTask(0, "compute", "forward", 0.0, 1.0), StreamTask(0, "communication", "bucket 0", 1.0, 1.5))
    tracer = Tracer(Recorder(1), Layout(data=1000))
    tracer.gradient(0, StepCost(1.0, 0.5, tasks=tasks), (), 10.0, 11.5, 0)
    assert len({span.process for span in tracer.recorder.spans}) == MOST_DEVICES
    assert {span.name for span in tracer.recorder.spans} == {"forward", "bucket 0", "wait for exchange"}
    assert max(span.end_s for span in tracer.recorder.spans) == 11.5


REAL_WORDS = {
    "single": {"input", "forward", "backward", "apply"},
    "sync-ddp": {"input", "forward", "backward", "bucket", "wait for exchange", "apply"},
    "sync-ps": {"input", "forward", "backward", "send", "wait", "receive", "load", "apply"},
    "async-ps": {"input", "forward", "backward", "send", "wait", "receive", "load", "apply"},
    "local-sgd": {"input", "forward", "backward", "mean", "load", "apply"},
    "model-split": {"input", "forward", "backward", "wait", "apply"},
    "fsdp": {"input", "forward", "backward", "gather", "scatter", "apply"},
}


@pytest.mark.dist
@pytest.mark.parametrize("strategy", LAYOUTS)
def test_a_real_trace_shows_what_the_steps_say(strategy):
    cell, outcome, trace = traced(strategy, "real")
    assert_well_formed(trace)
    assert trace["otherData"]["clock"] == "wall"
    assert words(trace) >= REAL_WORDS[strategy]
    first = trace["otherData"]["first step"]
    assert in_trace(trace, "compute") == pytest.approx(in_steps(outcome, first, 5, "compute_s"), rel=1e-3)
    steps = {e["args"]["step"] for e in complete(trace) if "step" in e["args"]}
    assert steps == set(range(first, first + 5))
    processes = [name for name in names(trace).values() if name != "marks"]
    assert len(processes) == cell.gpus + cell.servers


@pytest.mark.dist
def test_buckets_are_exchanged_while_the_backward_pass_still_runs():
    """Small buckets of a network of 200 kB: the first ones are under way before the last gradient is there."""
    changes = {"strategy__sync-ddp": {"bucket_mib": 0.02}, "workload": {"model": "mlp"}}
    _, _, trace = traced("sync-ddp", "real", **changes)
    events = complete(of_process(trace, "rank 0"))
    assert len({event["name"] for event in events if event["name"].startswith("bucket")}) >= 2
    backward = {event["args"]["step"]: event for event in events if event["name"] == "backward"}
    for bucket in (event for event in events if event["name"] == "bucket 0"):
        during = backward[bucket["args"]["step"]]
        assert during["ts"] <= bucket["ts"] < during["ts"] + during["dur"]


@pytest.mark.dist
def test_a_trace_changes_no_weight_of_a_real_run():
    cell, outcome, _ = traced("sync-ddp", "real")
    plain = run_cell(cell, options={"keep_weights": True})
    assert plain.outcome.spans == []
    assert np.array_equal(plain.outcome.weights, outcome.weights)


# -- the command -------------------------------------------------------------------------------------------------------

SCENARIO = """\
engine = "{engine}"
[workload]
model = "softmax"
[sweep]
strategy = ["async-ps"]
gpus = 2
learning_rate = 0.1
[goal]
target_accuracy = "none"
max_steps = 40
[cluster]
device = {{ samples_per_second = 1000, batch_size = 32 }}
inter_node = "1 GB/s"
"""


def harness(*arguments: str) -> str:
    done = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.dist
def test_run_writes_a_trace_for_each_cell_and_one_for_the_pair(folder):
    (folder / "pair.toml").write_text(SCENARIO.format(engine="both"))
    output = harness("run", "pair.toml", "--trace", "--trace-steps", "4")
    files = sorted((folder / "results" / "pair" / "cells").glob("*/trace.json"))
    assert len(files) == 2
    for file in files:
        trace = json.loads(file.read_text())
        assert_well_formed(trace)
        assert len({e["args"]["step"] for e in complete(trace) if "step" in e["args"]}) == 4
    (pair,) = (folder / "results" / "pair" / "traces").glob("*.json")
    both = json.loads(pair.read_text())
    assert_well_formed(both)
    assert {name.partition(":")[0] for name in names(both).values()} == {"real", "virtual"}
    assert "traces: 2 files" in output
    assert "1 of both engines side by side" in output


def test_cells_that_were_there_already_have_no_trace_and_the_command_says_so(folder):
    (folder / "one.toml").write_text(SCENARIO.format(engine="virtual"))
    harness("run", "one.toml")
    assert "no trace of 1 cell that had run before; --fresh runs them again" in harness("run", "one.toml", "--trace")
    harness("run", "one.toml", "--trace", "--fresh")
    assert len(list((folder / "results" / "one" / "cells").glob("*/trace.json"))) == 1


def test_debug_writes_a_trace_into_the_folder_where_one_is(folder):
    (folder / "one.toml").write_text(SCENARIO.format(engine="virtual"))
    output = harness("run", "one.toml", "--debug", "--trace")
    (file,) = folder.glob("*.trace.json")
    assert f"trace: {file.name}" in output
    assert_well_formed(json.loads(file.read_text()))


def test_twins_are_cells_that_differ_in_their_engine_only():
    cells = make_cells(cores=2, engine="both", sweep__strategy=["async-ps"], sweep__gpus=[2], sweep__seeds=2)
    pairs = [(a.seed, b.seed) for a in cells for b in cells if are_twins(a, b) and a.engine == "real"]
    assert pairs == [(0, 0), (1, 1)]
