"""What the documentation takes from the code when it is built, so that no copy is kept by hand.

A page says `<!-- generated: scenario keys -->` where the part of that name belongs. `make docs` puts it there, and
tests/test_docs.py reads the same parts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import click

import harness
from harness.api import hooks
from harness.api.host import load_host
from harness.commands.cli import main
from harness.commands.documents import DOCUMENTS, document_schema
from harness.commands.list_plugins import list_entries
from harness.report.definitions import DEFINITIONS
from harness.scenario.schema import LR_SCHEDULES, OPTIMIZERS, json_schema

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


def bundled_strategies() -> str:
    """Return the strategies that ship with the harness, with their options."""
    parts = []
    for name, strategy in sorted(load_host().strategies.items()):
        parts += [f"### {name}", _cell(inspect.cleandoc(strategy.__doc__ or ""))]
        rows = [
            (f"`{key}`", "" if field.default is None else f"`{_toml(field.default)}`", _cell(field.description or ""))
            for key, field in strategy.Options.model_fields.items()
        ]
        parts += [_table(("option", "default", "meaning"), rows)] if rows else []
    return "\n\n".join(parts)


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
    "strategies": bundled_strategies,
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


def whole_text() -> str:
    """Return all pages, generated parts included."""
    return "\n".join(with_generated(path.read_text(encoding="utf-8")) for path in sorted(DOCS.glob("*.md")))


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
