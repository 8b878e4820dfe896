"""The one adapter between dataclasses and JSON: what is written comes back, and what is not one is said in words."""

from __future__ import annotations

import json

import pytest
from cells import make_cell

from harness.core.cell import Cell
from harness.core.records import Unreadable, from_json, to_json


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
    shape = ModelShape((LayerShape("a", (3, 4), activation_bytes=Linear(1, 2.5)),), timeline=Timeline((Passes((), ()),)))
    row: Json = {"seen": np.float64(0.5), "nan": math.nan, "folder": Path("a/b"), "part": Part.INPUT, "none": None}
    record = Record(cell, Status.CRASHED, Text("gone"), ("note",), row, {"cores": 2}, cause=Cause.USER)
    faulty = make_cell(faults={"stragglers": [{"worker": 0, "factor": 2.0}]})
    return [cell, faulty, shape, record, [cell, record], {8: LinkFigures(1e-6, 1e9)}]


def test_what_is_written_is_what_pydantic_would_write():
    for value in of_every_kind():
        adapter = TypeAdapter(type(value) if is_dataclass(value) else Any)
        expected = adapter.dump_python(value, mode="json")
        assert json.dumps(to_json(value)) == json.dumps(expected)


@pytest.mark.parametrize("settings", [{}, {"engine": "virtual"}, {"faults": {"stragglers": [{"worker": 0, "factor": 2.0}]}}])
def test_an_id_follows_from_what_is_written_of_a_cell(settings):
    cell = make_cell(**settings)
    written = json.loads(TypeAdapter(Cell).dump_json(cell))
    again = from_json(Cell, written)
    assert cell_id(again) == cell_id(cell) == cell.cell_id
    assert cell_id(replace(cell, workload=replace(cell.workload, clip_norm=1.0))) != cell.cell_id
