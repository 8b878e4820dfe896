"""`harness check`: built-in strategies pass, and each mistake that people make is caught by the line meant for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from places import TESTS

from harness.api.host import load_host
from harness.commands.check.examine import chosen_lines, examine, subjects
from harness.commands.check.told import line_text
from harness.commands.check.verdicts import Grade, Line, LineVerdict
from harness.commands.cli import main
from harness.core.errors import InputError

BROKEN = TESTS / "broken_strategies"

SHORT_TIMEOUT = ("limits.cell_timeout=6 s",)


def verdicts(what: str, *lines: Line, quick: bool = True, sets: tuple[str, ...] = ()) -> dict[Line, LineVerdict]:
    (subject,) = subjects(what, ())
    return {verdict.line: verdict for verdict in examine(subject, quick, sets, lines or tuple(Line))}


# -- what is built in --------------------------------------------------------------------------------------------------

IN_EVERY_RUN = ("sync-ddp", "async-ps")
NAMES = sorted(load_host().strategies)


@pytest.mark.dist
@pytest.mark.parametrize("name", IN_EVERY_RUN)
def test_a_bundled_strategy_passes_the_quick_check(name):
    found = verdicts(name)
    assert [line_text(each) for each in found.values() if each.grade is Grade.FAILED] == []
    assert set(found) == set(Line)
    assert sum(each.grade is Grade.PASSED for each in found.values()) >= 12


@pytest.mark.dist
@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_every_bundled_strategy_passes_the_whole_check(name):
    found = verdicts(name, quick=False)
    assert [line_text(each) for each in found.values() if each.grade is Grade.FAILED] == []


# -- what is broken ----------------------------------------------------------------------------------------------------

CAUGHT = {
    "accepts_any_option": (Line.OPTIONS, "Options is no subclass of harness.Options"),
    "applies_each_push_twice": (Line.ALONE, "or applied in 2 smaller steps where one is meant"),
    "applies_twice": (Line.ALONE, "it is applied twice"),
    "divides_again": (Line.EQUAL, "divided by the 2 workers though"),
    "draws_unseeded": (Line.REPEATS, "draw from worker.random(name)"),
    "forgets_await": (Line.TRAINS, "never awaited"),
    "forgets_to_average": (Line.EQUAL, "the first update points elsewhere"),
    "goes_uphill": (Line.ALONE, "a sign is wrong"),
    "is_judged_elsewhere": (Line.TARGET, "the model that is evaluated never changes"),
    "keeps_every_gradient": (Line.MEMORY, "kept in a list"),
    "keeps_state_in_a_global": (Line.REPLAYS, "state in a global"),
    "leaves_options_untyped": (Line.OPTIONS, "a table in place of steps is accepted"),
    "leaves_out_the_last_batch": (Line.EQUAL, "right up to the last batch of the first epoch"),
    "lists_all_batches": (Line.TARGET, "the model that is evaluated never changes"),
    "names_no_source": (Line.DOCUMENTED, "names no source"),
    "never_ends": (Line.TRAINS, "a loop does not end"),
    "never_loads": (Line.STALENESS, "it never loads what the server answers"),
    "reads_the_clock": (Line.LOADS, "must not import datetime"),
    "says_asynchronous": (Line.SLOW, "the server waits for everybody before it answers"),
    "says_synchronous": (Line.STALENESS, "though the strategy says that it is synchronous"),
    "sends_weights": (Line.ALONE, "weights in a gradient's place"),
    "stops_by_itself": (Line.BUDGET, "1437 samples were asked for, and 480 were trained on"),
    "sums_gradients": (Line.EQUAL, "summed where they should be averaged"),
    "waits_for_the_dead": (Line.LEAVES, "should go on without the worker, but ended: deadlock"),
    "weighs_shares_again": (Line.EQUAL, "right up to the last batch of the first epoch"),
    "writes_into_a_gradient": (Line.TRAINS, "writes into a value, and values are immutable"),
}
"""By file: the line that is meant for the mistake, and words of its verdict."""


def test_every_broken_strategy_is_in_the_table():
    assert sorted(CAUGHT) == sorted(path.stem for path in BROKEN.glob("*.py"))
    assert len(CAUGHT) >= 20


@pytest.mark.dist
@pytest.mark.parametrize("mistake", CAUGHT)
def test_a_mistake_is_caught_by_the_line_meant_for_it_in_words_that_help(mistake):
    line, words = CAUGHT[mistake]
    verdict = verdicts(str(BROKEN / f"{mistake}.py"), line, sets=SHORT_TIMEOUT)[line]
    assert verdict.grade is Grade.FAILED, verdict
    told = line_text(verdict)
    assert words in told
    assert verdict.found
    assert verdict.where
    assert verdict.cause
    if line in (Line.TRAINS, Line.LOADS) and mistake in ("writes_into_a_gradient", "reads_the_clock"):
        assert f"{mistake}.py:" in told


@pytest.mark.dist
def test_what_does_not_train_is_not_looked_at_further():
    found = verdicts(str(BROKEN / "writes_into_a_gradient.py"))
    assert found[Line.TRAINS].grade is Grade.FAILED
    assert found[Line.DOCUMENTED].grade is Grade.PASSED
    assert {
        found[line].grade for line in Line if line not in (Line.LOADS, Line.DOCUMENTED, Line.OPTIONS, Line.TRAINS)
    } == {Grade.NOT_APPLICABLE}


# -- the command -------------------------------------------------------------------------------------------------------

SAID = ("--line", "loads", "--line", "documented", "--line", "options")


def test_a_folder_stands_for_all_strategies_in_it_and_a_broken_file_is_one_that_failed(tmp_path):
    for name in ("names_no_source", "applies_twice", "reads_the_clock"):
        (tmp_path / f"{name}.py").write_text((BROKEN / f"{name}.py").read_text(encoding="utf-8"), encoding="utf-8")
    done = CliRunner().invoke(main, ["check", str(tmp_path), "--json", *SAID])
    assert done.exit_code == 1
    document = json.loads(done.output)
    assert {Path(each["name"]).stem: each["passed"] for each in document["strategies"]} == {
        "applies-twice": True,
        "names-no-source": False,
        "reads_the_clock": False,
    }
    assert not document["passed"]
    assert {each["line"] for entry in document["strategies"] for each in entry["lines"]} == {
        "loads",
        "documented",
        "options",
    }


def test_another_name_of_a_strategy_is_understood_and_a_wrong_one_refused():
    assert subjects("ddp", ())[0].name == "sync-ddp"
    with pytest.raises(InputError, match="did you mean sync-ddp"):
        subjects("sync-dpp", ())


def test_options_can_be_set_for_the_check():
    done = CliRunner().invoke(main, ["check", "local-sgd", "--set", "strategy.local-sgd.steps=2", *SAID])
    assert done.exit_code == 0, done.output
    assert "3 lines passed, 0 failed" in done.output


def test_an_option_that_cannot_be_set_so_is_refused_before_any_line_runs():
    done = CliRunner().invoke(main, ["check", "local-sgd", "--set", "strategy.local-sgd.steps=0", *SAID])
    assert done.exit_code == 2
    assert "strategy.local-sgd.steps = 0" in done.output


def test_an_option_with_several_values_is_refused():
    done = CliRunner().invoke(main, ["check", "local-sgd", "--set", "strategy.local-sgd.steps=2,4", *SAID])
    assert done.exit_code == 2
    assert "one strategy is checked at a time" in done.output


def test_an_unknown_line_is_refused_with_those_that_there_are():
    with pytest.raises(InputError, match="staleness"):
        chosen_lines(["stalenes"])


def test_a_name_without_a_plugin_is_no_file(tmp_path):
    with pytest.raises(InputError, match="no strategy is registered there"):
        subjects(str(tmp_path), ())
