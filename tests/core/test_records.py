"""The one adapter between dataclasses and JSON: what is written comes back, and what is not one is said in words."""

from __future__ import annotations

import json
import math
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import make_cell
from pydantic import TypeAdapter

from harness.core.cell import Cell, cell_id
from harness.core.endings import Cause, Status
from harness.core.given_cluster import LinkFigures
from harness.core.records import Json, Unreadable, from_json, to_json
from harness.core.step_parts import Part
from harness.core.text import Text
from harness.costs.profiles.allocations import Event, Passes, Timeline
from harness.costs.profiles.shape import LayerShape, Linear, ModelShape
from harness.results.store import Record


def written() -> dict[str, object]:
    content: dict[str, object] = to_json(make_cell(sweep__strategy=["sync-ps"], cluster={"preset": "dgx-a100"}))
    return content


@pytest.mark.parametrize("form", [json.dumps, lambda content: json.dumps(content).encode(), lambda content: content])
def test_a_cell_comes_back_from_text_bytes_and_what_json_gave(form):
    cell = from_json(Cell, form(written()))
    assert to_json(cell) == written()
    assert cell == make_cell(sweep__strategy=["sync-ps"], cluster={"preset": "dgx-a100"})


def test_keys_of_another_version_are_ignored():
    assert from_json(Cell, written() | {"colour": "red"}) == from_json(Cell, written())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("gpus", "many", r"gpus: .*integer.*, found 'many'"),
        ("workload", {"model": {"name": 3}}, r"workload.model.name: .*string, found 3 \(and 5 more\)"),
        ("goal", None, r"goal: .*Goal.*, found None"),
        ("cluster", {"device": {"name": "A100"}}, r"cluster.device.*Field required"),
    ],
)
def test_what_is_no_cell_says_where_and_what_was_found(key, value, words):
    with pytest.raises(Unreadable, match=words):
        from_json(Cell, written() | {key: value})


def test_a_missing_field_is_named():
    content = written()
    del content["seed"]
    with pytest.raises(Unreadable, match=r"^seed: Field required$"):
        from_json(Cell, content)


def test_what_is_no_json_is_said():
    with pytest.raises(Unreadable, match="Invalid JSON"):
        from_json(Cell, "{")


def of_every_kind() -> list[object]:
    """Return what records, plans and caches hold, with every sort of value that their fields allow."""
    cell = make_cell(sweep__strategy=["sync-ps"], cluster={"preset": "dgx-a100"})
    timeline = Timeline((Passes((Event("tensor", 0, 1, 4.0),), (Event("free", -1, 0),), (0, 1)),), (0,))
    shape = ModelShape(
        (LayerShape("a", (3, 4), activation_bytes=Linear(1.0, 2.5)),),
        timeline=timeline,
        element_bytes=4.0,
        gathered_bytes=0.0,
    )
    row: Json = {"seen": np.float64(0.5), "folder": Path("a/b"), "part": Part.INPUT, "none": None}
    record = Record(cell, Status.CRASHED, Text("gone"), ("note",), row, {"cores": 2}, cause=Cause.USER)
    slowed = make_cell(sweep__strategy=["single"], faults={"stragglers": [{"rank": 0, "slowdown": 2.0}]})
    return [cell, slowed, shape, record, [cell, record], {8: LinkFigures(1e-6, 1e9)}, LinkFigures(1e-6, math.inf)]


def test_what_is_written_is_what_pydantic_writes():
    for value in of_every_kind():
        adapter = TypeAdapter(type(value) if is_dataclass(value) else Any)
        assert json.dumps(to_json(value)) == json.dumps(adapter.dump_python(value, mode="json"))


@pytest.mark.parametrize("changes", [{}, {"cluster": {"preset": "dgx-a100"}}, {"engine": "real", "cluster": {}}])
def test_an_id_follows_from_what_is_written_of_a_cell(changes):
    cell = make_cell(sweep__strategy=["single"], **changes)
    assert cell_id(from_json(Cell, json.dumps(to_json(cell)))) == cell.cell_id
    for other in (replace(cell, seed=9), replace(cell, workload=replace(cell.workload, clip_norm=1.0))):
        assert cell_id(other) != cell.cell_id
    assert cell_id(replace(cell, notes=("another",))) == cell.cell_id


def test_an_option_that_is_infinite_comes_back_and_has_an_id_of_its_own():
    cell = make_cell(sweep__strategy=["single"])
    endless, unset = replace(cell, options={"patience": math.inf}), replace(cell, options={"patience": None})
    assert from_json(Cell, json.loads(json.dumps(to_json(endless)))) == endless
    assert cell_id(endless) != cell_id(unset)
