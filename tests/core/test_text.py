"""Text is for people: the product cannot ask what it says."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from pydantic import TypeAdapter

import harness
from harness.core.text import Text


def asked_from_inside(expression: str, text: Text) -> object:
    """Evaluate an expression as if it stood in a module of the harness."""
    inside = str(Path(harness.__file__).parent / "made_up.py")
    return eval(compile(expression, inside, "eval"), {"text": text})


@pytest.mark.parametrize(
    "expression",
    ["'memory' in text", "text.startswith('out')", "text.endswith('y')", "text.find('of')", "text.removeprefix('out')"],
)
def test_a_module_that_reads_a_text_to_decide_is_stopped(expression):
    with pytest.raises(AssertionError, match="decide by a field"):
        asked_from_inside(expression, Text("out of memory"))


@pytest.mark.parametrize("expression", ["f'{text}!'", "text + '!'", "''.join([text, '!'])", "'{}!'.format(text)"])
def test_a_text_can_be_printed_and_joined(expression):
    assert asked_from_inside(expression, Text("done")) == "done!"


def test_tests_may_ask():
    assert "memory" in Text("out of memory")


def test_it_survives_json_pickle_and_validation():
    text = Text("out of memory")
    assert json.dumps(text) == '"out of memory"'
    assert type(pickle.loads(pickle.dumps(text))) is Text
    assert type(TypeAdapter(Text).validate_python("words")) is Text
    assert TypeAdapter(Text).dump_json(text) == b'"out of memory"'
