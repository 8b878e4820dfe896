"""What ran when on which stream, as a file in the Trace Event Format that Perfetto and chrome://tracing open.

Processes are devices and servers, threads their streams. Times are on the training clock, wall or simulated.
Source: "Trace Event Format", Google, section "Complete Events" and "Metadata Events".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.core.records import Json
from harness.core.span import COMMUNICATION, Span

MARKS = "marks"


_SECOND_GROUP = 1000
"""First process number of the second group in a file for two; chosen: above the devices that one file shows well."""


def chosen_spans(spans: Sequence[Span], first: int, steps: int) -> list[Span]:
    """Return the spans of `steps` steps of every worker from `first` on, and what servers did in that time."""
    workers = [span for span in spans if span.step is not None and first <= span.step < first + steps]
    if not workers:
        return []
    begin, end = min(span.start_s for span in workers), max(span.end_s for span in workers)
    servers = [span for span in spans if span.step is None and span.end_s > begin and span.start_s < end]
    return sorted([*workers, *servers], key=lambda span: (span.start_s, span.end_s))


def trace_document(
    spans: Sequence[Span], marks: Iterable[tuple[float, str]] = (), about: Mapping[str, object] | None = None
) -> Json:
    """Return a trace as JSON holds it.

    Args:
        spans: in order of time.
        marks: (seconds, text) of moments that concern everybody; those outside the spans are left out.
        about: facts that the viewer shows beside the trace.
    """
    begin = min((span.start_s for span in spans), default=0.0)
    end = max((span.end_s for span in spans), default=0.0)
    lanes = _lanes(spans)
    threads = list(dict.fromkeys((span.process, lane) for span, lane in zip(spans, lanes, strict=True)))
    noted = [Span(MARKS, MARKS, text, MARKS, time, time, None) for time, text in marks if begin <= time <= end]
    threads = sorted({*threads, *((MARKS, MARKS) for _ in noted[:1])}, key=_place)
    numbers = {process: 1 + k for k, process in enumerate(dict.fromkeys(process for process, _ in threads))}
    place = {thread: (numbers[thread[0]], 1 + k) for k, thread in enumerate(threads)}
    drawn = [(span, place[span.process, lane]) for span, lane in zip(spans, lanes, strict=True)]
    drawn += [(mark, place[MARKS, MARKS]) for mark in noted]
    events = sorted((_event(span, *at) for span, at in drawn), key=lambda event: (event["ts"], event["tid"]))
    return {
        "traceEvents": [*_names(place), *events],
        "displayTimeUnit": "ms",
        "otherData": dict(about or {}),
    }


def _place(thread: tuple[str, str]) -> tuple[bool, bool, int, bool, str]:
    """Sort workers by number before servers before marks, and the compute stream first."""
    process, lane = thread
    number = process.rpartition(" ")[2]
    order = (process == MARKS, process.startswith("server"), int(number) if number.isdigit() else 0)
    return (*order, lane.startswith(COMMUNICATION), lane)


def _lanes(spans: Sequence[Span]) -> list[str]:
    """Give every span a thread: its stream, or a second or third one where the stream does several things at once.

    Rounding to the nanosecond that the file holds must not make neighbours overlap.
    """
    ends: dict[tuple[str, str], list[float]] = {}
    lanes = []
    for span in spans:
        stream = ends.setdefault((span.process, span.stream), [])
        lane = next((k for k, end in enumerate(stream) if round(end, 9) <= round(span.start_s, 9)), len(stream))
        stream[lane:] = [span.end_s, *stream[lane + 1 :]]
        lanes.append(span.stream if lane == 0 else f"{span.stream} {lane + 1}")
    return lanes


def _event(span: Span, pid: int, tid: int) -> Json:
    start, end = round(span.start_s * 1e6, 3), round(span.end_s * 1e6, 3)
    event = {"name": span.name, "cat": span.category, "ph": "X", "ts": start, "dur": round(end - start, 3)}
    return event | {"pid": pid, "tid": tid, "args": {} if span.step is None else {"step": span.step}}


def _names(place: Mapping[tuple[str, str], tuple[int, int]]) -> Iterator[Json]:
    """Name processes and threads, and keep them in the order of their numbers."""
    for process, pid in dict.fromkeys((process, pid) for (process, _), (pid, _) in place.items()):
        yield {"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": process}}
        yield {"name": "process_sort_index", "ph": "M", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
    for (_, lane), (pid, tid) in place.items():
        yield {"name": "thread_name", "ph": "M", "pid": pid, "tid": tid, "args": {"name": lane}}
        yield {"name": "thread_sort_index", "ph": "M", "pid": pid, "tid": tid, "args": {"sort_index": tid}}


def side_by_side(groups: Mapping[str, Mapping[str, Any]]) -> Json:
    """Return one trace of several, such as {"real": ..., "virtual": ...}; each begins at zero."""
    found: list[Json] = []
    for number, (group, trace) in enumerate(groups.items()):
        begin = min((event["ts"] for event in trace["traceEvents"] if event["ph"] == "X"), default=0.0)
        found += (_moved(event, group, number * _SECOND_GROUP, begin) for event in trace["traceEvents"])
    ordered = sorted(found, key=lambda event: (event["ph"] != "M", event.get("ts", 0.0), event["pid"], event["tid"]))
    about = {group: trace["otherData"] for group, trace in groups.items()}
    return {"traceEvents": ordered, "displayTimeUnit": "ms", "otherData": about}


def _moved(event: Mapping[str, Any], group: str, offset: int, begin: float) -> Json:
    moved = {**event, "pid": event["pid"] + offset}
    if event["ph"] == "X":
        moved["ts"] = round(event["ts"] - begin, 3)
    elif event["name"] == "process_name":
        moved["args"] = {"name": f"{group}: {event['args']['name']}"}
    elif event["name"] == "process_sort_index":
        moved["args"] = {"sort_index": event["args"]["sort_index"] + offset}
    return moved
