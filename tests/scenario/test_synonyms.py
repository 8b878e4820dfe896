"""Other names of strategies: read as what they stand for, wherever a scenario may name one, and said so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cells import host

from harness.api.host import Host, load_host
from harness.commands.list_plugins import describe_entry
from harness.core.errors import InputError
from harness.core.machine import Machine
from harness.scenario.plan import make_plan, select
from harness.scenario.read import parse_scenario
from harness.scenario.synonyms import only_as_registered

REST = '\n[workload]\nmodel = "softmax"\ndataset = "digits"\n'

PLUGIN = """\
from harness import Strategy, hookimpl


class Mine(Strategy):
    name = "mine"
    also_known_as = {names}


@hookimpl
def harness_strategies():
    return [Mine]
"""


def planned(text: str, *sets: str, known: Host | None = None) -> Any:
    known = known or host()
    return make_plan(parse_scenario(text + REST, known, Path("test.toml"), sets), known, Machine(cores=8))


def refused(text: str, known: Host | None = None) -> list[str]:
    with pytest.raises(InputError) as caught:
        planned(text, known=known)
    return caught.value.problems


def plugged(tmp_path: Path, *names: str) -> Host:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN.format(names=names))
    return load_host([path])


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ("ddp", "sync-ddp"),
        ("DDP", "sync-ddp"),
        ("sync_ddp", "sync-ddp"),
        ("data-parallel", "sync-ddp"),
        ("pipeline", "model-split"),
        ("fsdp2", "fsdp"),
        ("zero", "fsdp"),
        ("async", "async-ps"),
    ],
)
def test_a_clear_synonym_is_read_as_the_strategy_and_said(other: str, name: str) -> None:
    plan = planned(f'[sweep]\nstrategy = ["single", "{other}"]\ngpus = 2')
    assert {cell.strategy for cell in plan.cells} == {name}
    assert f"{other} is read as {name}" in plan.notes


def test_a_synonym_makes_the_same_cells() -> None:
    named, other = (planned(f'[sweep]\nstrategy = "{name}"\ngpus = 2') for name in ("sync-ddp", "ddp"))
    assert named.cells == other.cells


@pytest.mark.parametrize("name", ["gpipe", "zero-bubble", "megatron", "fedavg"])
def test_a_name_that_says_more_than_a_strategy_is_only_answered(name: str) -> None:
    """These stand for a strategy with options: without them another program would run than was asked for."""
    (problem,) = refused(f'[sweep]\nstrategy = "{name}"')
    assert "did you mean " in problem


def test_what_two_strategies_may_be_is_answered_with_both() -> None:
    (problem,) = refused('[sweep]\nstrategy = "ps"')
    assert "did you mean async-ps or sync-ps?" in problem


def test_synonyms_are_read_in_tables_and_options_and_exclusions_and_observations() -> None:
    plan = planned(
        '[sweep]\nstrategy = ["single", "ddp"]\ngpus = [1, 2]\n"strategy.ddp.bucket_mib" = [2, 4]\n'
        'exclude = [{ strategy = "ddp", gpus = 1 }]\n'
        '[[observed]]\nstrategy = "ddp"\n"strategy.ddp.bucket_mib" = 4\nthroughput = "9 samples/s"'
    )
    found = [(cell.strategy, cell.gpus, cell.options.get("bucket_mib"), len(cell.observed)) for cell in plan.cells]
    assert found == [("single", 1, None, 0), ("sync-ddp", 2, 2.0, 0), ("sync-ddp", 2, 4.0, 1)]
    plan = planned('[sweep]\nstrategy = { name = "ddp" }\ngpus = 2\n[strategy.ddp]\nbucket_mib = 3')
    assert [cell.options["bucket_mib"] for cell in plan.cells] == [3.0]


def test_synonyms_are_read_on_the_command_line() -> None:
    text = '[sweep]\nstrategy = "single"\ngpus = [1, 2]'
    plan = planned(text, "strategy=single,ddp", "strategy.ddp.bucket_mib=7")
    assert {cell.options.get("bucket_mib") for cell in plan.cells} == {None, 7.0}
    assert "ddp is read as sync-ddp" in plan.notes
    chosen = select(plan, [only_as_registered("strategy=ddp", host())])
    assert {cell.strategy for cell in chosen} == {"sync-ddp"}
    assert select(plan, [only_as_registered("strategy.ddp.bucket_mib=7", host())]) == chosen


def test_a_mistake_under_another_name_keeps_its_line() -> None:
    (problem,) = refused('[sweep]\nstrategy = "ddp"\n[strategy.ddp]\nbucket_mib = -1')
    assert problem.startswith("strategy.sync-ddp.bucket_mib = -1: ")
    assert "(line 4)" in problem


def test_one_strategy_under_two_names_is_refused() -> None:
    assert "is in the list twice" in refused('[sweep]\nstrategy = ["ddp", "sync-ddp"]\ngpus = 2')[0]
    tables = '[sweep]\nstrategy = "ddp"\ngpus = 2\n[strategy.ddp]\nbucket_mib = 1\n[strategy.sync-ddp]\nbucket_mib = 2'
    assert "strategy.ddp: is another name of sync-ddp, which has a table too; keep one (line 4)" in refused(tables)


def test_a_plugin_declares_synonyms_of_its_own(tmp_path: Path) -> None:
    plan = planned('[sweep]\nstrategy = "my-own"', known=plugged(tmp_path, "my-own"))
    assert {cell.strategy for cell in plan.cells} == {"mine"}
    assert "my-own is read as mine" in plan.notes


def test_a_synonym_that_two_strategies_claim_is_clear_no_more(tmp_path: Path) -> None:
    (problem,) = refused('[sweep]\nstrategy = "ddp"', plugged(tmp_path, "ddp"))
    assert "did you mean sync-ddp or mine?" in problem


def test_a_strategys_own_name_is_never_read_as_another(tmp_path: Path) -> None:
    known = plugged(tmp_path, "single", "sync-ddp")
    assert {cell.strategy for cell in planned('[sweep]\nstrategy = "single"', known=known).cells} == {"single"}


def test_plugins_shows_what_a_synonym_stands_for() -> None:
    text = describe_entry(host(), "ddp")
    assert text.startswith("ddp is read as sync-ddp\nsync-ddp (strategy)\n")
    assert "also known as: ddp, data-parallel" in text
