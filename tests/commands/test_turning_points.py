"""The answer of a folder: the same at the end of a run and from show, with turning points that simulating confirms."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.analysis.answer import answer_as_text, judged
from harness.commands.cli import main
from harness.commands.turning_points import folder_answer
from harness.results.store import Results


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a results root with two timing-only scenarios, and what `run` printed of each."""
    root = tmp_path_factory.mktemp("results")
    printed = {}
    for scenario in ("ticket", "four-gpus"):
        done = CliRunner().invoke(main, ["run", scenario, "--results", str(root)])
        assert done.exit_code == 0, done.output
        printed[scenario] = done.output
    return root, printed


def test_run_and_show_print_the_same_answer(ran: tuple[Path, dict[str, str]]) -> None:
    root, printed = ran
    for scenario, output in printed.items():
        told = answer_as_text(folder_answer(Results(root / scenario)))
        assert told in output
        shown = CliRunner().invoke(main, ["show", scenario, "--results", str(root)])
        assert told in shown.output


def test_the_ticket_is_answered_as_it_was_asked(ran: tuple[Path, dict[str, str]]) -> None:
    found = folder_answer(Results(ran[0] / "ticket"))
    assert found.headline == "Simulated: 16 simulated GPUs are only 1.5x as fast as 4 with sync-ddp."
    assert found.grounds[0].startswith("They train 291 samples/s; 4 train 199 samples/s (simulated")
    assert found.grounds[1] == "Exchange and waiting take 58 % of each step."


def test_at_the_bandwidth_that_turns_the_answer_a_run_of_its_own_finds_both_level(
    ran: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    flips = folder_answer(Results(ran[0] / "ticket")).flips
    (told,) = re.findall(r"16 stays ahead while the link between nodes is above ([\d.]+) Gb/s", flips[0])
    arguments = [
        "--set",
        f'cluster.inter_node={{ bandwidth = "{told} Gb/s", latency = "30 us" }}',
        "--set",
        "gpus=4,16",
        "--results",
        str(tmp_path),
    ]
    done = CliRunner().invoke(main, ["run", "ticket", *arguments])
    assert done.exit_code == 0, done.output
    few, many = (row["throughput_samples_per_s"] for row in Results(tmp_path / "ticket").rows())
    assert many == pytest.approx(few, rel=0.01)


def test_prices_are_spoken_of_where_the_scenario_has_one(ran: tuple[Path, dict[str, str]]) -> None:
    results = Results(ran[0] / "four-gpus")
    rate = max(row["throughput_samples_per_s"] for row in results.rows())
    (value,) = [value for measure, _, value in folder_answer(results).winners if measure == "cost of 1,000,000 samples"]
    assert value == f"{4 * 2.0 * 1e6 / rate / 3600:.1f} EUR"


def test_nothing_is_simulated_for_the_answer_between_rounds(ran: tuple[Path, dict[str, str]]) -> None:
    results = Results(ran[0] / "ticket")
    assert judged(results.rows(), results.plan()).flips == ()


NOTES = """\
from harness import Strategy, hookimpl

class Noted(Strategy):
    name = "noted"
    synchrony = "synchronous"
    async def work(self, worker):
        worker.note("queue oversubscribed; my results are not ranked")
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))

@hookimpl
def harness_strategies():
    return [Noted]
"""


def test_what_a_plugin_notes_does_not_cost_its_rank(tmp_path: Path) -> None:
    plugin, results = tmp_path / "noted.py", tmp_path / "results"
    plugin.write_text(NOTES)
    arguments = ["--set", "strategy=noted", "--set", "gpus=1", "--plugins", str(plugin), "--results", str(results)]
    done = CliRunner().invoke(main, ["run", "ticket", *arguments])
    assert done.exit_code == 0, done.output
    (row,) = Results(results / "ticket").rows()
    assert "not ranked" in row["notes"]
    assert folder_answer(Results(results / "ticket")).leader == row["cell_id"]


def test_turning_points_import_neither_torch_nor_pandas(ran: tuple[Path, dict[str, str]]) -> None:
    code = "import json, sys; from pathlib import Path; from harness.results.store import Results; "
    code += "from harness.commands.turning_points import folder_answer; "
    code += "found = folder_answer(Results(Path(sys.argv[1]))); assert found.flips; "
    code += "print(json.dumps([name for name in ('torch', 'pandas', 'scipy') if name in sys.modules]))"
    command = [sys.executable, "-c", code, str(ran[0] / "ticket")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
