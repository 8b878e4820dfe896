"""What commands print with --json holds to its own schema, and is documented key by key."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from compared_cells import STEP_S, cell, store
from kept_nights import iso, nights
from lazy import lazy

from harness.commands.cli import main
from harness.commands.compare_junit import junit_text
from harness.commands.documents import DOCUMENTS, document_schema
from harness.core.records import from_json
from harness.results.history import keep_rows

compare = lazy("harness.analysis.compare")

SCENARIO = """
engine = "virtual"
[workload]
model = "softmax"
dataset = "digits"
[sweep]
strategy = ["single", "sync-ddp"]
gpus = [1, 2]
seeds = 2
learning_rate = [0.1]
global_batch_size = [32]
[goal]
max_steps = 3
target_accuracy = "none"
[cluster]
device = { samples_per_second = 1000, batch_size = 32 }
inter_node = { bandwidth = "1 GB/s", latency = "50 us" }
"""


def printed(command: str, *arguments: object, code: int = 0) -> Any:
    done = CliRunner().invoke(main, [command, *map(str, arguments), "--json"])
    assert done.exit_code == code, done.output
    content = json.loads(done.output, parse_constant=_no_constant)
    from_json(DOCUMENTS[command], done.output)
    assert_known(content, document_schema(command))
    return content


def _no_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def assert_known(content: Any, schema: dict[str, Any]) -> None:
    """Fail where a key is not of the schema, or one of its keys is missing."""

    def check(value: Any, about: dict[str, Any]) -> None:
        if "$ref" in about:
            about = schema["$defs"][about["$ref"].rpartition("/")[2]]
        if "properties" in about:
            assert set(value) == set(about["properties"]) == set(about["required"])
            for key, inner in about["properties"].items():
                check(value[key], inner)
        elif about.get("type") == "array" and isinstance(about.get("items"), dict):
            for item in value:
                check(item, about["items"])

    check(content, schema)


def test_compare(tmp_path: Path) -> None:
    base, slower = store(tmp_path / "base"), store(tmp_path / "new", STEP_S * 1.5)
    found = printed("compare", base, slower, code=1)
    assert (found["verdict"], found["exit_code"], found["regression"], found["ended"]) == ("regression", 1, True, 2)
    assert [finding["kind"] for finding in found["findings"]] == ["regression"] * 2
    assert math.isclose(found["changes"][0]["change"], 1.5)
    assert found["findings"][0]["cell_id"] in {path.name for path in (slower / "cells").iterdir()}
    faster = {"device": {"samples_per_second": 9000, "batch_size": 32}}
    refused = printed("compare", base, store(tmp_path / "other", cluster=faster, mark=1), code=2)
    assert (refused["verdict"], refused["refused"][0]["what"], refused["changes"]) == ("refused", "cluster", [])


def junit(found: Any) -> tuple[dict[str, str], dict[str, ElementTree.Element]]:
    suite = ElementTree.fromstring(junit_text(found))
    return suite.attrib, {case.attrib["name"]: case for case in suite}


def test_junit_has_a_test_for_each_point_and_fails_where_it_is_worse(tmp_path: Path) -> None:
    base, slower = store(tmp_path / "base"), store(tmp_path / "new", STEP_S * 1.5)
    done = CliRunner().invoke(main, ["compare", str(base), str(slower), "--junit", str(tmp_path / "night.xml")])
    assert done.exit_code == 1
    suite = ElementTree.fromstring((tmp_path / "night.xml").read_text(encoding="utf-8"))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "2", "0")
    assert "step time 4.00 ms before, 6.00 ms now" in str(suite[0][0].get("message"))


def test_in_junit_a_suspect_passes_and_nothing_compared_is_an_error() -> None:
    slow = [[cell(seed=k, step_s=STEP_S * s * (1 + k / 1e4)) for k in range(5)] for s in (1, 1.5)]
    about, cases = junit(compare.compare(*slow))
    assert (about["failures"], about["errors"], len(cases)) == ("0", "0", 2)
    assert any("SUSPECT: " in str(case.findtext("system-out")) for case in cases.values())
    about, cases = junit(compare.compare([cell(status="not-possible")], [cell(status="not-possible")]))
    assert (about["errors"], list(cases)) == ("1", ["verdict"])
    about, _ = junit(compare.compare([cell()], [cell(status="crashed", reason="\x1b[31m<red> \ud800")]))
    assert about["failures"] == "1"


def test_show_of_a_folder_and_of_cells(tmp_path: Path) -> None:
    folder = store(tmp_path / "results" / "test")
    (scenario,) = printed("show", folder)["scenarios"]
    assert (scenario["name"], scenario["planned"], scenario["statuses"]) == ("test", 2, {"ok": 2})
    names = [cell["cell_id"] for cell in scenario["cells"]]
    assert scenario["answer"]["sentence"]
    found = printed("show", *names, "--results", tmp_path / "results")
    assert [cell["cell_id"] for cell in found["cells"]] == names
    assert (found["cells"][0]["row"]["step_time_s"], found["scenarios"]) == (STEP_S, [])


def test_show_has_the_answer_to_each_question(tmp_path: Path) -> None:
    models: dict[str, Any] = {"sweep__workload.model": ["softmax", "lenet5"]}
    (scenario,) = printed("show", store(tmp_path / "results" / "test", **models))["scenarios"]
    answer = scenario["answer"]
    assert (answer["kind"], answer["leader"]) == ("each", None)
    assert [case["of"] for case in answer["cases"]] == ['workload.model "softmax"', 'workload.model "lenet5"']
    assert {case["leader"] for case in answer["cases"]} <= {cell["cell_id"] for cell in scenario["cells"]}


def test_check() -> None:
    content = printed("check", "sync-ddp", "--line", "loads", "--line", "options")
    (checked,) = content["strategies"]
    assert content["passed"]
    assert [(each["line"], each["grade"]) for each in checked["lines"]] == [("loads", "passed"), ("options", "passed")]


def test_history(tmp_path: Path) -> None:
    times = [0.01 + 1e-5 * (night % 3) + 0.001 * (night >= 20) for night in range(30)]
    keep_rows(tmp_path, nights(times))
    (found,) = printed("history", "show", tmp_path)["trends"]
    assert (len(found["nights"]), found["nights_needed"], found["scenario"]) == (30, 0, "nightly")
    (shift,) = found["shifts"]
    assert (shift["by"], shift["before"], shift["after"]) == ("code", iso(19), iso(20))
    assert (shift["good_commit"], shift["bad_commit"]) == (found["nights"][19]["commit"], found["nights"][20]["commit"])
    (point,) = found["points"]
    assert point["key"] == shift["points"][0]
    assert len(point["nights"]) == len(point["measured_s"]) == len(point["adjusted_s"]) == 30
    assert math.isclose(shift["factor"], point["levels"][1]["seconds"] / point["levels"][0]["seconds"])


def test_plan_marks_what_is_finished(tmp_path: Path) -> None:
    scenario, root = tmp_path / "tiny.toml", tmp_path / "kept"
    scenario.write_text(SCENARIO, encoding="utf-8")
    before = printed("plan", scenario, "--results", root)
    assert len(before["cells"]) == 6
    assert not any(cell["finished"] for cell in before["cells"])
    assert all(cell["predicted"]["error"] is not None for cell in before["cells"])
    done = CliRunner().invoke(main, ["run", str(scenario), "--results", str(root), "--only", "strategy=single"])
    assert done.exit_code == 0, done.output
    after = printed("plan", scenario, "--results", root)
    kept = [cell for cell in after["cells"] if cell["finished"]]
    assert [(cell["strategy"], cell["status"]) for cell in kept] == [("single", "ok")] * 2
    text = CliRunner().invoke(main, ["plan", str(scenario), "--results", str(root)]).output
    assert text.startswith("tiny: 6 cells, 2 finished\n")
    head, *rows = (line for line in text.splitlines() if line.startswith(("strategy ", "single ", "sync-ddp ")))
    at = head.index("finished")
    assert [(row.split()[0], row[at : at + 8].strip()) for row in rows] == [
        ("single", "0 1"),
        ("sync-ddp", "-"),
        ("sync-ddp", "-"),
    ]


@pytest.mark.parametrize(
    "command", [("compare", "a", "b", "--markdown"), ("show", "a", "--log"), ("show", "a", "--markdown")]
)
def test_two_forms_at_once_are_refused(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, [*command, "--json"])
    assert done.exit_code == 2
    assert f"{command[-1]} and --json are two forms of output" in done.output


@pytest.mark.parametrize("command", DOCUMENTS)
def test_the_schema_is_printed_and_describes_every_class(command: str) -> None:
    done = CliRunner().invoke(main, ["schema", command])
    schema = json.loads(done.output)
    assert schema["title"] == f"harness {command if command != 'history' else 'history show'} --json"
    assert "schema" in schema["required"]
    assert all(inner.get("description") for inner in schema["$defs"].values())
    assert CliRunner().invoke(main, ["schema", command, "--text"]).exit_code == 2
