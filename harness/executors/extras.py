"""Libraries that only some executors need: looked for before anything is started, imported late."""

from __future__ import annotations

from importlib.util import find_spec

from harness.core.errors import MachineError


def require_extra(module: str, extra: str, who: str) -> None:
    """Refuse to go on without a library.

    Args:
        module: what is imported.
        extra: of this package, which brings it.
        who: needs it, such as "--executor ray".

    Raises:
        MachineError: it is not installed.
    """
    if find_spec(module) is None:
        raise MachineError(
            f"{who} needs {module}, which is not installed here: run `pip install 'parallelism-harness[{extra}]'`"
        )
