"""What the documentation takes from the code when it is built, so that no copy is kept by hand.

A page says `<!-- generated: scenario keys -->` where the part of that name belongs. `make docs` puts it there, and
tests/test_docs.py reads the same parts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from html import escape
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import harness
from harness.api import hooks
from harness.api.host import load_host
from harness.commands.cli import main
from harness.commands.documents import DOCUMENTS, document_schema
from harness.commands.list_plugins import list_entries
from harness.core.errors import Impossible
from harness.core.machine import Machine
from harness.core.not_known import NotKnown
from harness.core.words import three
from harness.executors.timed import run_in_this_process
from harness.report.definitions import DEFINITIONS
from harness.scenario.plan import make_plan
from harness.scenario.read import parse_scenario
from harness.scenario.schema import LR_SCHEDULES, OPTIMIZERS, json_schema

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.api.strategy import Strategy

MARK = re.compile(r"^<!-- generated: ([a-z ]+) -->$", re.MULTILINE)

DOCS = Path(__file__).parent

KINDS = {
    "object": "a table",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "`true`, `false`",
}
BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
"""JSON Schema in words."""


# -- the scenario ------------------------------------------------------------------------------------------------------


def scenario_keys() -> str:
    """Return every key of a scenario by table: default, allowed values, meaning."""
    schema = json_schema()
    top, tables = _split(schema["properties"], schema["$defs"])
    parts = ["### Top of the file", _key_table(top)]
    for name, table in tables.items():
        parts += [f"### [{name}]", _sentence(table["description"]), _key_table(table["properties"])]
        nested = _split(table["properties"], schema["$defs"])[1]
        for inner, below in nested.items():
            parts += [f"### [{name}.{inner}]", _sentence(below["description"]), _key_table(below["properties"])]
    observed = schema["properties"]["observed"]["items"]
    parts += ["### [[observed]]", _sentence(observed["description"]), _key_table(observed["properties"])]
    return "\n\n".join(parts)


def _split(properties: Mapping[str, Any], defs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keys that hold values, and the tables among the others."""
    tables = {name: defs[ref] for name, about in properties.items() if (ref := _reference(about))}
    return {name: about for name, about in properties.items() if name not in tables}, tables


def _reference(about: Mapping[str, Any]) -> str:
    options = [about, *about.get("anyOf", ())]
    return next((option["$ref"].rpartition("/")[2] for option in options if "$ref" in option), "")


def _key_table(properties: Mapping[str, Any]) -> str:
    rows = (
        (f"`{key}`", _default(about), _values(about), _cell(about.get("description", "")))
        for key, about in properties.items()
    )
    return _table(("key", "default", "values", "meaning"), rows)


def _default(about: Mapping[str, Any]) -> str:
    default = about.get("default")
    return "" if default in (None, [], {}, "") else f"`{_toml(default)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value)


def _values(about: Mapping[str, Any]) -> str:
    """Return what may stand there; in [sweep] that is one element of the list."""
    if "enum" in about:
        return ", ".join(f"`{_toml(word)}`" for word in about["enum"])
    if "const" in about:
        return f"`{_toml(about['const'])}`"
    if "$ref" in about:
        return "a table"
    if "anyOf" in about:
        # In [sweep] the second and third forms, a list and a range, are the same for every key.
        swept = any(_is_range(option) for option in about["anyOf"])
        options = about["anyOf"][:1] if swept else about["anyOf"]
        return " or ".join(dict.fromkeys(filter(None, map(_values, options))))
    return _kind(about)


def _is_range(about: Mapping[str, Any]) -> bool:
    return set(about.get("properties", ())) == {"from", "to", "points"}


def _kind(about: Mapping[str, Any]) -> str:
    kind = KINDS.get(str(about.get("type", "")), "")
    bounds = [f"{word} {about[key]:g}" for key, word in BOUNDS.items() if key in about]
    examples = [f"`{_toml(example)}`" for example in about.get("examples", ())]
    return " ".join([kind, *bounds]) + (f", such as {', '.join(examples)}" if examples else "")


def training_options() -> str:
    """Return the options of optimizers and of schedules of the learning rate."""
    parts = []
    for title, classes in (("workload.optimizer", OPTIMIZERS), ("workload.lr_schedule", LR_SCHEDULES)):
        rows = [(f"`{name}`", _options(options)) for name, options in classes.items()]
        parts += [_table((title, "options with defaults"), rows)]
    return "\n\n".join(parts)


def _options(model: Any) -> str:
    fields = model.model_fields.items()
    return ", ".join(f"`{name} = {_toml(field.default)}`" for name, field in fields) or "none"


# -- terms, commands, plugins ------------------------------------------------------------------------------------------


def terms() -> str:
    """Return what the report defines, under the headings of its figures."""
    parts = []
    for heading, definitions in DEFINITIONS.items():
        parts += [f"## {heading}", *(f"**{_cell(term)}**: {_cell(meaning)}." for term, meaning in definitions)]
    return "\n\n".join(parts)


def commands() -> str:
    """Return every command with its arguments and options."""
    return "\n\n".join(_command(f"harness {name}", command) for name, command in _commands(main))


def _commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _command(name: str, command: click.Command) -> str:
    arguments = (item for item in command.params if isinstance(item, click.Argument))
    usage = [argument.make_metavar(click.Context(command)) for argument in arguments]
    parts = [f"## {name}", f"```\n{' '.join([name, *usage])}\n```", re.sub(r"\s+", " ", command.help or "")]
    rows = [_option(option) for option in command.params if isinstance(option, click.Option)]
    return "\n\n".join([*parts, *([_table(("option", "default", "meaning"), rows)] if rows else [])])


def _option(option: click.Option) -> tuple[str, str, str]:
    shown = option.opts[-1] if option.is_flag else f"{option.opts[-1]} {option.make_metavar(click.Context(main))}"
    default = f"`{option.default}`" if option.show_default else ""
    return f"`{shown.replace('|', ' / ')}`", default, _cell(option.help or "")


def hook_list() -> str:
    """Return every hook with what it returns."""
    named = sorted(name for name in vars(hooks) if name.startswith("harness_"))
    rows = [(f"`{name}`", _cell(re.sub(r"\s+", " ", getattr(hooks, name).__doc__))) for name in named]
    return _table(("hook", "what it does"), rows)


CONSTANTS = {
    "ANY": "receive from anybody: the default of `receive`",
    "SERVER": "address of the first parameter server",
    "Table": "what a schedule returns: for each device its actions, in order",
    "hookimpl": "marks a function of a plugin as one of the hooks",
    "__version__": "version of the harness",
}
"""Exported names that cannot carry a docstring."""


def exports() -> str:
    """Return every name that plugins may import, with the first sentence about it."""
    rows = []
    for name in sorted(harness.__all__, key=str.lower):
        about = CONSTANTS.get(name) or (inspect.getdoc(getattr(harness, name)) or "").split("\n\n")[0]
        rows.append((f"`{name}`", _cell(about.replace("\n", " "))))
    return _table(("name", "what it is"), rows)


# -- strategies --------------------------------------------------------------------------------------------------------


COMPARED_ON = """
name = "compared"
engine = "virtual"
[workload]
model = { parameters = "1 B", layers = 24, hidden = 1792, heads = 28, sequence = 1024 }
optimizer = "adam"
[goal]
max_steps = 100
[sweep]
global_batch_size = 64
[cluster]
preset = "dgx-a100"
"""
"""What the table of strategies is computed for, with default options: sizes only, so that nothing is trained."""

DEVICES = 8


class Traits(NamedTuple):
    """What a strategy costs; empty where it cannot be told without numbers.

    Attributes:
        sent: bytes that a worker's device sends in a step, over those of the gradient.
        memory: bytes of parameters, gradients and optimizer state on the fullest device, over those of one that trains
            alone.
        staleness: mean and largest number of updates that an applied gradient is old; empty: nobody logs updates.
    """

    sent: str
    memory: str
    staleness: str


@cache
def host_of_docs() -> Host:
    """Return all that ships."""
    return load_host()


@cache
def outcome_of(name: str, devices: int) -> Any:
    """Return what a strategy does in virtual time; None where it cannot be run so."""
    host = host_of_docs()
    try:
        pipelined = host.strategies[name]().layout(devices).pipeline > 1
    except Impossible:
        return None
    sets = [f'sweep.strategy="{name}"', f"sweep.gpus={devices}", *(["sweep.micro_batch_size=4"] if pipelined else [])]
    scenario = parse_scenario(COMPARED_ON, host, Path("compared.toml"), sets)
    (cell,) = make_plan(scenario, host, Machine(cores=64)).cells
    with TemporaryDirectory() as folder:
        result = run_in_this_process(cell, host, (), Path(folder) / "log")
    return None if result is None else result.outcome


def traits_of(name: str) -> Traits:
    """Return what a strategy costs on `DEVICES` devices; `single` on one."""
    outcome = outcome_of(name, 1 if name == "single" else DEVICES)
    alone = outcome_of("single", 1)
    if outcome is None:
        return Traits("", "", "")
    sent, gradient = outcome.bytes_sent_per_step or 0.0, alone.dram.kinds["gradients"]
    memory = _state_bytes(outcome) / _state_bytes(alone) if not isinstance(outcome.dram, NotKnown) else None
    old = [each for each in outcome.updates_log.get("staleness", ()) if each is not None]
    return Traits(
        three(sent / gradient),
        "" if memory is None else three(memory),
        f"{three(sum(old) / len(old))}, at most {max(old)}" if old else "",
    )


def _state_bytes(outcome: Any) -> int:
    """Return what lasts from step to step: activations depend on the batch, which is not the strategy's."""
    return sum(outcome.dram.kinds[kind] for kind in ("parameters", "gradients", "optimizer"))


def strategy_table() -> str:
    """Return one table of all strategies that ship with the harness."""
    rows = []
    for name, strategy in sorted(host_of_docs().strategies.items()):
        traits = traits_of(name)
        link = f"[{name}](strategies/{name}.md)"
        rows.append((link, strategy.synchrony, traits.sent, traits.memory, traits.staleness, _cell(_source(strategy))))
    heads = ("strategy", "synchrony", "bytes a step", "memory", "staleness", "source")
    return _table(heads, rows)


def _source(strategy: type[Strategy]) -> str:
    """Return who is named first as the source: author and year."""
    _, _, source = inspect.cleandoc(strategy.__doc__ or "").partition("\nSource: ")
    return source.replace("\n", " ").partition(', "')[0].partition(";")[0]


def strategy_page(name: str, figures: Sequence[str] = ()) -> str:
    """Return the page of one strategy: what it is, its options, what it says of itself, and its whole file.

    Args:
        figures: in Markdown.
    """
    host = host_of_docs()
    strategy, traits = host.strategies[name], traits_of(name)
    about, _, source = inspect.cleandoc(strategy.__doc__ or "").partition("\nSource: ")
    facts = [
        ("synchrony", strategy.synchrony),
        ("must equal", strategy.equals or "-"),
        ("one worker trains like", strategy.alone or "itself: it changes the update"),
        ("the trained model is whole at", strategy.model_at),
        ("data of a worker", "a share of each batch" if strategy.batches == "shared" else "its own part"),
        ("also known as", ", ".join(f"`{word}`" for word in strategy.also_known_as) or "-"),
        (f"bytes a step on {DEVICES} devices, over the gradient's", traits.sent or "not known without numbers"),
        (
            "parameters, gradients and optimizer state of a device, over one that trains alone",
            traits.memory or "not known without numbers",
        ),
        ("updates that a gradient is old: mean, and at most", traits.staleness or "-"),
    ]
    options = [
        (f"`{key}`", "" if field.default is None else f"`{_toml(field.default)}`", _cell(field.description or ""))
        for key, field in strategy.Options.model_fields.items()
    ]
    code = Path(host.origins["strategy", name]).read_text(encoding="utf-8").rstrip()
    return "\n\n".join(
        [
            f"# {name}",
            _cell(about.strip()),
            f"Source: {_cell(source)}",
            _table(("", ""), facts),
            "## Options",
            _table(("option", "default", "meaning"), options) if options else "It has none.",
            "## Run and check it",
            f"```sh\nharness run lenet --set strategy=single,{name}\nharness check {name}\n```",
            *figures,
            "## The whole file",
            f"```python\n{code}\n```",
        ]
    )


# -- figures of bundled scenarios --------------------------------------------------------------------------------------

SHOWN_IN = {
    "straggler": ("--set", "seeds=1"),
    "slow-link": ("--set", "seeds=1"),
    "compression": ("--set", "seeds=1"),
    "sharding": (),
    "classroom": ("--set", "seeds=1", "--only", "learning_rate=0.1"),
    "pretrain": (),
}
"""Bundled scenarios that strategies are shown in, and what is run of each; a strategy is shown in the first that has
it. All of them are simulated, so that they show the same wherever the documentation is built."""


class Shown(NamedTuple):
    """A scenario as it was run, and the figures that its report begins with, as (SVG, caption)."""

    command: str
    strategies: frozenset[str]
    figures: tuple[tuple[str, str], ...]


def shown_in(scenario: str, cut: Sequence[str], folder: Path) -> Shown:
    """Run a bundled scenario and draw what its report begins with.

    Raises:
        RuntimeError: it failed.
    """
    from harness.report.figures import palette_of
    from harness.report.first_screen import first_panels
    from harness.report.frames import PageFrames
    from harness.report.scenario_results import NO_SIMULATOR, read_scenario
    from harness.results.store import Results

    words = ["run", scenario, *cut]
    try:
        with redirect_stdout(StringIO()) as said:
            main([*words, "--results", str(folder)])
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"{' '.join(words)} ended with {ended.code}: {said.getvalue()[-2000:]}") from None
    results = Results(folder / scenario)
    strategies = frozenset(record.cell.strategy for record in results.records().values())
    read = read_scenario(results, NO_SIMULATOR)
    panels = [panel for panel in first_panels(PageFrames(read)) if panel is not None]
    pictures = [panel.picture(palette_of([read]), str) for panel in panels]
    drawn = tuple((picture.svg, picture.caption) for picture in pictures)
    return Shown(" ".join(["harness", *words]), strategies, drawn)


def in_markdown(scenario: str, shown: Shown) -> Iterator[str]:
    """Yield a section that shows the figures."""
    yield f"## In a bundled scenario\n\n```sh\n{shown.command}\n```"
    for number, (_, caption) in enumerate(shown.figures):
        yield f"![{scenario}](../figures/{scenario}-{number}.svg)\n\n{_cell(caption)}"


def catalogue() -> str:
    """Return all that is registered without any plugin of one's own."""
    return f"```\n{list_entries(load_host())}\n```"


# -- output for programs -----------------------------------------------------------------------------------------------


def documents() -> str:
    """Return every key of what commands print with --json, the outermost first."""
    parts = []
    for command in DOCUMENTS:
        schema = document_schema(command)
        parts += [f"## {schema['title']}", _document_table(schema)]
        for name, inner in schema["$defs"].items():
            table = _document_table(inner) if "properties" in inner else _type(inner)
            parts += [f"### {command}: {name}", _sentence(inner["description"]), table]
    return "\n\n".join(parts)


def _document_table(about: Mapping[str, Any]) -> str:
    rows = ((f"`{key}`", _type(item), _cell(item.get("description", ""))) for key, item in about["properties"].items())
    return _table(("key", "type", "meaning"), rows)


def _type(about: Mapping[str, Any]) -> str:
    if reference := about.get("$ref"):
        return f"{reference.rpartition('/')[2]}"
    if "anyOf" in about:
        return " or ".join(map(_type, about["anyOf"]))
    if "enum" in about:
        return ", ".join(f"`{word}`" for word in about["enum"])
    if about.get("type") == "array":
        inner = about.get("items") or (about.get("prefixItems") or [{}])[0]
        return f"list of {_type(inner)}"
    return str(about.get("type", "any"))


# -- putting it there --------------------------------------------------------------------------------------------------

GENERATED: dict[str, Callable[[], str]] = {
    "scenario keys": scenario_keys,
    "training options": training_options,
    "terms": terms,
    "commands": commands,
    "hooks": hook_list,
    "exports": exports,
    "strategy table": strategy_table,
    "catalogue": catalogue,
    "documents": documents,
}
"""By the name that pages use."""


def with_generated(markdown: str) -> str:
    """Return a page with its generated parts in place.

    Raises:
        KeyError: the page names a part that there is not.
    """
    return MARK.sub(lambda mark: GENERATED[mark[1]](), markdown)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Complete a page: mkdocs calls this for each."""
    return with_generated(markdown)


def on_config(config: Any, **_: Any) -> Any:
    """Put a page for each strategy into the navigation: mkdocs calls this once."""
    names = sorted(host_of_docs().strategies)
    config["nav"].append({"Strategies": [{name: f"strategies/{name}.md"} for name in names]})
    return config


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add the pages of strategies and their figures: mkdocs calls this once."""
    from mkdocs.structure.files import File

    sections: dict[str, tuple[str, ...]] = {}
    with TemporaryDirectory() as folder:
        for scenario, cut in SHOWN_IN.items():
            shown = shown_in(scenario, cut, Path(folder))
            for number, (svg, _) in enumerate(shown.figures):
                files.append(File.generated(config, f"figures/{scenario}-{number}.svg", content=svg))
            for name in shown.strategies:
                sections.setdefault(name, tuple(in_markdown(scenario, shown)))
    for name in sorted(host_of_docs().strategies):
        page = strategy_page(name, sections.get(name, ()))
        files.append(File.generated(config, f"strategies/{name}.md", content=page))
    return files


def whole_text() -> str:
    """Return all pages, generated parts and generated pages included."""
    written = [with_generated(path.read_text(encoding="utf-8")) for path in sorted(DOCS.rglob("*.md"))]
    return "\n".join([*written, *map(strategy_page, sorted(host_of_docs().strategies))])


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Return text as a cell of a Markdown table holds it."""
    parts = text.split("`")  # every second one is code, where Markdown takes all but the bar as it stands
    plain = [escape(part, quote=False).replace("[", "\\[").replace("*", "\\*") for part in parts[::2]]
    parts[::2] = plain
    return "`".join(parts).replace("|", "\\|")


def _sentence(text: str) -> str:
    first = text.split("\n\n")[0].replace("\n", " ").strip()
    return first if first.endswith(".") else f"{first}."
