"""Modules that take long to import, named at the top of a test and imported by the first test that needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class _Lazy:
    __slots__ = ("_module",)

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        # pytest asks every name of a test module for marks and fixtures: that must not import anything.
        if name.startswith("_") or name == "pytestmark":
            raise AttributeError(name)
        return getattr(import_module(self._module), name)


def lazy(module: str) -> Any:
    """Return what stands for a module: it is imported when one of its public names is used."""
    return _Lazy(module)
