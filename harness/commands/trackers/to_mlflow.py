"""Log cells to MLflow: one run each, in an experiment that is called as the scenario.

Source: the MLflow REST API (https://mlflow.org/docs/latest/rest-api.html), by mlflow.MlflowClient.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from harness.api.listeners import Listener, ScenarioRun, StoredCell
from harness.commands.trackers.logged import answer_page, began_s, curves, numbers, settings, telemetry, words
from harness.core.cell import Cell
from harness.core.endings import Status
from harness.core.errors import MachineError
from harness.core.records import Json
from harness.core.row import Row
from harness.core.words import shortened

if TYPE_CHECKING:
    from mlflow.entities import Run

MOST_METRICS, MOST_PARAMS = 1000, 100
"""Of one request. Source: MLflow's REST API, `runs/log-batch`."""

MOST_OF_PARAM, MOST_OF_TAG, MOST_OF_NOTE = 6000, 8000, 5000
"""Characters that a server takes. Source: mlflow/utils/validation.py; of an experiment's note 3.17 takes 20,000, 2.x
fewer."""

OUR_WAY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""What holds while MLflow is called, unless the user's environment says it: nothing is sent to anybody else or printed,
and a server that does not answer holds a sweep up for a minute, not for the four that MLflow waits by itself."""

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run or an experiment."""

CELL, STARTED, RECOMMENDED = "harness.cell_id", "harness.started", "harness.recommended"
"""Tags: which measurement a run is, and whether the answer names its cell."""

DELETED = ""
"""In place of the id of a run that a user has deleted: MLflow takes nothing for it any more."""


class _There(NamedTuple):
    """A run that MLflow has.

    Attributes:
        settled: whether nothing is to be logged to it any more: it is whole, or a user has deleted it.
        recommended: whether it is marked so.
    """

    run_id: str
    settled: bool
    recommended: bool = False


class ToMlflow(Listener):
    """Logs each cell when it has ended, and at the end of a run whatever MLflow lacks, earlier cells too.

    A measurement is known by its cell and when it began: it is logged once, whatever is resumed. One that was logged in
    part is logged again into the same run, where equal values at equal times count once.

    Args:
        uri: of the tracking server or store; empty: MLFLOW_TRACKING_URI, or what MLflow takes itself.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.experiment_id = ""
        self.there: dict[tuple[str, str], _There] = {}

    def run_started(self, run: ScenarioRun) -> None:
        """Find the experiment, or make it, so that a server that does not answer is known before the first cell."""
        self.run = run
        with self._called():
            self._find()

    def cell_finished(self, cell: Cell, record: Row) -> None:
        """Log one cell."""
        stored = self.run.cell(cell.cell_id)
        if stored is not None:
            with self._called():
                self._log(stored)

    def run_finished(self, run: ScenarioRun, answer: Json) -> None:
        """Log what MLflow lacks, and the answer."""
        with self._called():
            self._find()
            for stored in run.stored():
                self._log(stored)
            self._say_answer(run, answer)

    @contextmanager
    def _called(self) -> Iterator[None]:
        """Call MLflow our way, and word what goes wrong there.

        Raises:
            MachineError: MLflow could not do it.
        """
        ours = {name: value for name, value in OUR_WAY.items() if name not in os.environ}
        os.environ.update(ours)
        try:
            import mlflow
            from mlflow.exceptions import MlflowException

            # The migrations of a new database are told line by line.
            logging.getLogger("alembic").setLevel(logging.WARNING)
            self.client = mlflow.MlflowClient(self.uri or None)
            try:
                yield
            except MlflowException as error:
                raise MachineError(f"{self.uri or mlflow.get_tracking_uri()}: {shortened(str(error), 300)}") from error
        finally:
            for name in ours:
                os.environ.pop(name, None)

    def _find(self) -> None:
        """Find the experiment, or make it, and learn which measurements are there; what a user deleted counts too."""
        from mlflow.entities import ViewType

        found = self.client.get_experiment_by_name(self.run.name)
        if found is not None and found.lifecycle_stage == "deleted":
            then = f"bring it back (mlflow experiments restore --experiment-id {found.experiment_id})"
            raise MachineError(f"the experiment {self.run.name} was deleted in MLflow; {then} or rename the scenario")
        self.experiment_id = found.experiment_id if found else self.client.create_experiment(self.run.name)
        self.there, token = {}, None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], run_view_type=ViewType.ALL, max_results=1000, page_token=token
            )
            for each in page:
                self.there[each.data.tags.get(CELL, ""), each.data.tags.get(STARTED, "")] = _as_there(each)
            token = page.token
            if not token:
                return

    def _log(self, stored: StoredCell) -> None:
        """Log a measurement that is not there, or not whole."""
        key = (stored.cell.cell_id, stored.started)
        known = self.there.get(key)
        if known is not None and known.settled:
            return
        began_ms = int((began_s(stored) or time.time()) * 1000)
        run_id = known.run_id if known else self._make_run(stored, began_ms)
        self._log_params(run_id, settings(stored.cell))
        self._log_metrics(run_id, stored, began_ms)
        ended_ms = began_ms + int(1000 * (stored.took_s or 0.0))
        status = "FINISHED" if Status(stored.row["status"]).trained else "FAILED"
        self.client.set_terminated(run_id, status, ended_ms)
        self.there[key] = _There(run_id, True, known is not None and known.recommended)

    def _make_run(self, stored: StoredCell, began_ms: int) -> str:
        cell = stored.cell
        tags = {"strategy": cell.strategy, "seed": str(cell.seed), "engine": cell.engine} | words(stored)
        tags |= {CELL: cell.cell_id, STARTED: stored.started, "mlflow.source.name": f"harness run {self.run.name}"}
        tags |= {NOTE: "\n\n".join(filter(None, [str(stored.row.get("reason", "")), *stored.notes]))}
        made = self.client.create_run(
            self.experiment_id,
            start_time=began_ms,
            tags={name: _cut(text, MOST_OF_TAG) for name, text in tags.items()},
            run_name=cell.cell_id,
        )
        return str(made.info.run_id)

    def _log_params(self, run_id: str, values: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        params = [Param(name, _cut(str(value), MOST_OF_PARAM)) for name, value in values.items()]
        for first in range(0, len(params), MOST_PARAMS):
            self.client.log_batch(run_id, params=params[first : first + MOST_PARAMS])

    def _log_metrics(self, run_id: str, stored: StoredCell, began_ms: int) -> None:
        """Log series, at their updates and at when in training they were: relative time is time of training."""
        from mlflow.entities import Metric

        series = curves(stored)
        metrics = [
            Metric(name, point.value, began_ms + int(1000 * point.time_s), point.step)
            for name, points in (series | telemetry(stored)).items()
            for point in points
        ]
        last = max((points[-1] for points in series.values()), default=None)
        at_ms, step = (began_ms + int(1000 * last.time_s), last.step) if last else (began_ms, 0)
        metrics += [
            Metric(f"final_{name}" if name in series else name, value, at_ms, step)
            for name, value in numbers(stored).items()
        ]
        for first in range(0, len(metrics), MOST_METRICS):
            self.client.log_batch(run_id, metrics=metrics[first : first + MOST_METRICS])

    def _say_answer(self, run: ScenarioRun, answer: Json) -> None:
        """Let the experiment's description be the answer, and mark the run that it recommends."""
        page = _cut(answer_page(run.name, run.description, answer), MOST_OF_NOTE)
        self.client.set_experiment_tag(self.experiment_id, NOTE, page)
        self.client.set_experiment_tag(self.experiment_id, "harness.recommendation", answer["kind"])
        leaders = {case["leader"] for case in answer["cases"]} or {answer["leader"]}
        for (cell_id, started), known in self.there.items():
            stored = run.cell(cell_id) if cell_id in leaders else None
            now = stored is not None and stored.started == started and known.run_id != DELETED
            if now and not known.recommended:
                self.client.set_tag(known.run_id, RECOMMENDED, "true")
            elif known.recommended and not now:
                self.client.delete_tag(known.run_id, RECOMMENDED)
            self.there[cell_id, started] = known._replace(recommended=now)


def _as_there(run: Run) -> _There:
    if run.info.lifecycle_stage == "deleted":
        return _There(DELETED, True)
    marked = run.data.tags.get(RECOMMENDED) == "true"
    return _There(run.info.run_id, run.info.status in ("FINISHED", "FAILED"), marked)


def _cut(text: str, most: int) -> str:
    """Return a text of at most so many characters; one that is cut says how long it was."""
    return text if len(text) <= most else shortened(text, most - len(f"... ({len(text):,} characters)"))
