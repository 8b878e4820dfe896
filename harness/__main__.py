"""`python -m harness`, and the program `harness`."""

import _signal  # type: ignore[import-not-found]  # the part of `signal` that is loaded already
import os
import sys


def start() -> None:
    """Run a command; from the first moment on a signal ends it without a traceback."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # in what is imported next it would print a traceback
    from harness.core.interrupts import take_over

    take_over()
    from harness.commands.cli import main

    main(prog_name="harness")


if __name__ == "__main__":
    # Python puts the folder where we stand before all others, and a `random.py` there would be taken for Python's.
    here, home = os.path.abspath(os.curdir), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    own = [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if not sys.flags.safe_path and sys.path[:1] in ([""], [here]) and here not in (home, *own):
        del sys.path[0]
    start()
