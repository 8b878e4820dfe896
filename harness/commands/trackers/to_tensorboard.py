"""Write cells as TensorBoard reads them: one folder each, with curves, telemetry, settings and what the record says.

A file of events is made in memory and put into its place at once: TensorBoard sees all of a cell or nothing.

Source: tensorboard/compat/proto/{event,summary}.proto and the text and hparams plugins, as
torch.utils.tensorboard.summary writes them.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api.listeners import Listener, ScenarioRun, StoredCell
from harness.commands.trackers.logged import (
    SAMPLES,
    Setting,
    answer_page,
    began_s,
    curves,
    numbers,
    settings,
    telemetry,
    words,
)
from harness.core.atomic_files import FOR_ALL, atomic
from harness.core.cell import Cell
from harness.core.endings import Status
from harness.core.records import Json
from harness.core.row import Row

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

OURS = ".harness"
"""Of the files that are ours, by which a later measurement of the same cell takes the place of an earlier one."""


class ToTensorBoard(Listener):
    """Writes each cell when it has ended, and at the end of a run whatever is not there, earlier cells too.

    Args:
        where: the folder, in which each scenario has its own; empty: `tensorboard` beside the cells.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def run_started(self, run: ScenarioRun) -> None:
        """Take the folder."""
        self.run = run
        self.folder = Path(self.where, run.name) if self.where else run.folder / "tensorboard"
        self.folder.mkdir(parents=True, exist_ok=True)

    def cell_finished(self, cell: Cell, record: Row) -> None:
        """Write one cell."""
        stored = self.run.cell(cell.cell_id)
        if stored is not None:
            self._write_cell(stored)

    def run_finished(self, run: ScenarioRun, answer: Json) -> None:
        """Write what is not there, and the answer."""
        for stored in run.stored():
            self._write_cell(stored)
        page = _text("answer", answer_page(run.name, run.description, answer))
        _write(self.folder / "answer", time.time(), [page])

    def _write_cell(self, stored: StoredCell) -> None:
        began = began_s(stored)
        folder = self.folder / stored.cell.cell_id
        if not (folder / _file_name(began)).exists():
            _write(folder, began, _of_cell(stored, began))


def _file_name(began: float) -> str:
    """Return the name of the events of what began then: a name that TensorBoard knows, and that tells them apart."""
    return f"events.out.tfevents.{int(began):010}{OURS}"


def _write(folder: Path, began: float, events: Iterable[Event]) -> None:
    """Write a file of events, then delete the earlier one that it stands for."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    content = io.BytesIO()
    records = RecordWriter(content)
    for event in [Event(wall_time=began, file_version="brain.Event:2"), *events]:
        records.write(event.SerializeToString())
    place = folder / _file_name(began)
    earlier = [path for path in folder.glob(f"events.out.tfevents.*{OURS}") if path != place]
    with atomic(place, FOR_ALL) as temporary:
        temporary.write_bytes(content.getvalue())
    for path in earlier:
        path.unlink(missing_ok=True)


def _of_cell(stored: StoredCell, began: float) -> Iterator[Event]:
    """Yield what there is to see of a cell.

    Curves stand twice, over updates and over samples. The time of an event is when in training it was, so that
    TensorBoard's relative time is the time of training on the cell's own clock.
    """
    series, known = curves(stored), settings(stored.cell)
    yield from _hyperparameters(known, Status(stored.row["status"]), began, stored.took_s)
    yield _text("cell", _page({**known, **words(stored)}), began)
    samples = {point.step: int(point.value) for point in series.get(SAMPLES, ())}
    for name, points in (series | telemetry(stored)).items():
        for point in points:
            yield _scalar(name, point.value, point.step, began + point.time_s)
            if name in series and name != SAMPLES:
                yield _scalar(f"by samples/{name}", point.value, samples[point.step], began + point.time_s)
    last = max((points[-1] for points in series.values()), default=None)
    for name, value in numbers(stored).items():
        yield _scalar(f"result/{name}", value, last.step if last else 0, began + (last.time_s if last else 0.0))


def _scalar(tag: str, value: float, step: int, wall_time: float) -> Event:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Event(wall_time=wall_time, step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))


def _text(tag: str, markdown: str, wall_time: float | None = None) -> Event:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()], tensor_shape=shape)
    value = Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)
    return Event(wall_time=time.time() if wall_time is None else wall_time, summary=Summary(value=[value]))


def _page(values: Mapping[str, Setting]) -> str:
    """Return a table in Markdown, which TensorBoard shows as one."""
    cells = {name: str(value).replace("|", "\\|").replace("\n", "; ") for name, value in values.items()}
    return "\n".join(["| what | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells.items())])


def _hyperparameters(
    known: Mapping[str, Setting], status: Status, began: float, took_s: float | None
) -> Iterator[Event]:
    """Yield the start and the end of a session of the HParams plugin: its table then has a row for this cell."""
    from google.protobuf.struct_pb2 import Value
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    given = {
        name: Value(bool_value=value)
        if isinstance(value, bool)
        else Value(string_value=value)
        if isinstance(value, str)
        else Value(number_value=value)
        for name, value in known.items()
    }
    ended = api_pb2.STATUS_SUCCESS if status.trained else api_pb2.STATUS_FAILURE
    start = plugin_data_pb2.SessionStartInfo(hparams=given, start_time_secs=began)
    end = plugin_data_pb2.SessionEndInfo(status=ended, end_time_secs=began + (took_s or 0.0))
    version = metadata.PLUGIN_DATA_VERSION
    parts = {
        metadata.SESSION_START_INFO_TAG: plugin_data_pb2.HParamsPluginData(version=version, session_start_info=start),
        metadata.SESSION_END_INFO_TAG: plugin_data_pb2.HParamsPluginData(version=version, session_end_info=end),
    }
    for tag, part in parts.items():
        yield Event(wall_time=began, summary=_for_plugin(tag, metadata.PLUGIN_NAME, part.SerializeToString()))


def _for_plugin(tag: str, plugin: str, content: bytes) -> Summary:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

    data = SummaryMetadata.PluginData(plugin_name=plugin, content=content)
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=data))])
