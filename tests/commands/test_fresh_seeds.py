"""`--confirm`: which cells it adds, when they run, and that nothing finished is lost on the way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from lazy import lazy

from harness.analysis.confirmation import Ground
from harness.commands.cli import main
from harness.commands.documents import ShowDocument
from harness.core.records import from_json
from harness.results.store import Results

table_ = lazy("harness.report.table")
scenario_results = lazy("harness.report.scenario_results")

SCENARIO = """\
engine = "virtual"

[workload]
model = { name = "parameters", parameters = 1_000_000, layers = 2 }

[sweep]
strategy = ["single", "sync-ddp", "async-ps"]
gpus = [1, 2]
seeds = 2

[goal]
max_steps = 4

[cluster]
device = { samples_per_second = 1000, batch_size = 32 }
inter_node = { bandwidth = "1 GB/s", latency = "50 us" }

[faults]
compute_jitter = { distribution = "lognormal", sigma = 0.3 }
"""
SWEEP = 10


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder with one scenario; nothing is drawn, and nobody asks what would turn an answer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.commands.run.write_report_of", lambda results, *_: results.folder / "report.html")
    monkeypatch.setattr("harness.commands.turning_points.flips_of", lambda *_: ())
    (tmp_path / "small.toml").write_text(SCENARIO)


def harness(*words: str, code: int = 0) -> str:
    done: Result = CliRunner().invoke(main, words)
    assert done.exit_code == code, done.output
    return done.output


def ran(output: str) -> list[tuple[str, int]]:
    """Return strategy and seed of the cells that ran, in their order."""
    found = re.findall(r"^\[\d+/\d+\] (\S+?)-b\d+-lr\S+?-g\d-s(\d+)-", output, re.MULTILINE)
    return [(name, int(seed)) for name, seed in found]


def shown() -> Any:
    printed = harness("show", "small", "--json")
    from_json(ShowDocument, printed)
    return json.loads(printed)["scenarios"][0]


def test_the_best_two_run_again_with_as_many_fresh_seeds_one_seed_after_the_other() -> None:
    output = harness("run", "small.toml", "--confirm")
    cells = ran(output)
    assert len(cells) == SWEEP + 4
    assert {seed for _, seed in cells[:SWEEP]} == {0, 1}
    again = cells[SWEEP:]
    assert [seed for _, seed in again] == [1000, 1000, 1001, 1001]
    assert again[:2] == [(name, 1000) for name, _ in again[2:]]
    assert again[0][0] != again[1][0]
    assert "then at most 4 more cells confirm the answer: 2 fresh seeds (1000 1001) of the leader and the" in output
    assert (
        "  so far: Not confirmed yet: 2 of 4 runs with fresh seeds have ended. Until then this rests on the" in output
    )
    assert "\n4 cells confirm the answer: 2 fresh seeds (1000 1001) of " in output
    assert "2 fresh seeds (1000 1001), which had no part in" in output


def test_stored_results_mark_the_cells_that_confirm_and_the_answer_says_which_seeds_it_rests_on() -> None:
    harness("run", "small.toml", "--confirm")
    folder = Path("results/small")
    records = [json.loads(path.read_text()) for path in folder.glob("cells/*/record.json")]
    assert [each["cell"]["seed"] >= 1000 for each in records] == [each["cell"]["confirms"] for each in records]
    assert {each["row"].get("confirms") for each in records if each["cell"]["confirms"]} == {True}
    found = shown()["answer"]["confirmation"]
    assert Ground(found["rests_on"]) in (Ground.FRESH, Ground.OVERTURNED)
    assert (found["seeds"], found["done"], found["of"]) == ([1000, 1001], 4, 4)
    assert "-s100" in shown()["answer"]["leader"]
    table = table_.cell_table(scenario_results.read_scenario(Results(folder)))
    part = [column.head for column in table.columns].index("seed's part")
    assert [row[part].text for row in table.rows].count("confirms") == 4


def test_the_next_run_continues_a_confirmation_without_being_told_again() -> None:
    first = ran(harness("run", "small.toml", "--confirm"))
    results = Results(Path("results/small"))
    lost = [cell for cell in results.plan().cells if cell.confirms][1:]
    for cell in lost:
        results.set_aside(cell.cell_id)
    pending = shown()["answer"]["confirmation"]
    assert (pending["rests_on"], pending["done"], pending["of"]) == ("pending", 1, 4)
    assert ran(harness("run", "small.toml")) == first[-3:]
    assert "14 kept from earlier runs" in harness("run", "small.toml")


def test_a_confirmation_that_is_given_no_time_is_continued_later() -> None:
    harness("run", "small.toml")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("harness.commands.run.run_cells", stop_at(SWEEP + 1))
        output = harness("run", "small.toml", "--confirm", code=130)
    assert "next: run the same command again to continue" in output
    assert len(ran(harness("run", "small.toml"))) == 3


def stop_at(number: int) -> Any:
    """Return what runs cells until so many are there, and is stopped by Ctrl-C then."""
    from harness.commands import rounds

    def run_cells(plan: Any, cells: Any, results: Results, host: Any, plugins: Any, progress: Any, **given: Any) -> Any:
        class Stopped(type(progress)):  # type: ignore[misc]
            def started(self, cell: Any, at: int, of: int) -> None:
                if len(results.stored_cells()) >= number:
                    raise KeyboardInterrupt
                super().started(cell, at, of)

        progress.__class__ = Stopped
        return rounds.run_cells(plan, cells, results, host, plugins, progress, **given)

    return run_cells


def test_more_fresh_seeds_keep_those_that_have_run() -> None:
    harness("run", "small.toml", "--confirm", "1")
    assert [seed for _, seed in ran(harness("run", "small.toml", "--confirm", "2"))] == [1001, 1001]


def test_a_sweep_that_has_changed_is_not_confirmed_without_being_asked() -> None:
    harness("run", "small.toml", "--confirm", "1")
    output = harness("run", "small.toml", "--set", "seeds=3")
    assert {seed for _, seed in ran(output)} == {2}
    assert "it was confirmed with other cells in its sweep; --confirm runs fresh seeds for this one" in output
    assert shown()["answer"]["confirmation"]["rests_on"] == "sweep"
    harness("run", "small.toml", "--set", "seeds=3", "--confirm", "1")
    assert shown()["answer"]["confirmation"]["seeds"] == [1000]


def test_a_seed_that_confirmed_chooses_once_a_sweep_names_it() -> None:
    harness("run", "small.toml", "--confirm", "1")
    output = harness("run", "small.toml", "--set", "seeds=0,1,1000", "--confirm", "1")
    assert {seed for _, seed in ran(output)} == {1000, 2000}
    assert shown()["answer"]["confirmation"]["seeds"] == [2000]
    assert sum(each["row"].get("confirms", False) for each in shown()["cells"]) == 2


def test_simulated_speed_needs_no_confirming_and_says_so() -> None:
    (Path.cwd() / "small.toml").write_text(SCENARIO.partition("[faults]")[0])
    output = harness("run", "small.toml", "--confirm")
    assert {seed for _, seed in ran(output)} == {0, 1}
    assert "nothing needs confirming: simulated speed is the same with every seed" in output
    assert "note: Nothing needs confirming: simulated speed is the same with every seed." in output


def test_where_nobody_got_there_no_fresh_seed_runs() -> None:
    output = harness("run", "small.toml", "--confirm", "--set", "limits.dram=1 kB")
    assert len(ran(output)) == SWEEP
    assert "note: Nothing to confirm: no setting got there with half of its seeds." in output


def test_a_plan_counts_the_cells_beforehand_and_names_them_once_the_sweep_has_run() -> None:
    before = harness("plan", "small.toml", "--confirm", "3")
    assert before.startswith("small: 10 cells\nthen at most 6 more cells confirm the answer: 3 fresh seeds (1000-1002)")
    assert json.loads(harness("plan", "small.toml", "--confirm", "3", "--json"))["confirm_cells"] == 6
    assert "confirm" not in harness("plan", "small.toml")
    harness("run", "small.toml")
    after = harness("plan", "small.toml", "--confirm", "3")
    lines = after.splitlines()
    assert lines[0] == "small: 16 cells, 10 finished"
    assert lines[1].startswith("6 cells left to run: about ")
    assert lines[2].startswith("6 cells confirm the answer: 3 fresh seeds (1000-1002) of ")
    assert "(global batch 32" in lines[2]


def test_one_strategy_at_one_point_confirms_itself() -> None:
    output = harness("run", "small.toml", "--confirm", "--set", "strategy=single")
    assert ran(output) == [("single", 0), ("single", 1), ("single", 1000), ("single", 1001)]


def test_fresh_seeds_wait_until_the_sweep_is_complete() -> None:
    harness("run", "small.toml", "--only", "gpus=1")
    assert "then at most" in harness("plan", "small.toml", "--confirm")
    assert "--confirm bears out the answer of the whole sweep; leave out --only" in harness(
        "run", "small.toml", "--only", "gpus=1", "--confirm", code=2
    )


@pytest.mark.parametrize("words", [("--confirm", "small.toml"), ("small.toml", "--confirm=0")])
def test_what_is_no_number_of_seeds_is_refused_with_what_to_write(words: tuple[str, ...]) -> None:
    output = harness("run", *words, code=2)
    assert "a number of at least 1, or nothing after it; the scenario comes before it" in output
