"""The one way in which a command says something: nothing in a text from outside steers the terminal."""

from __future__ import annotations

import click

from harness.core.outside_text import visible


def say(text: str, *, err: bool = False) -> None:
    """Print a text and a new line; control characters stand as what they are.

    Args:
        err: on the error stream.
    """
    click.echo(visible(text), err=err)
