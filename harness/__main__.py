"""`python -m harness`."""

import os
import sys

if __name__ == "__main__":
    # Python puts the folder where we stand before all others, and a `random.py` there would be taken for Python's.
    here, home = os.path.abspath(os.curdir), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    own = [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if not sys.flags.safe_path and sys.path[:1] in ([""], [here]) and here not in (home, *own):
        del sys.path[0]

from harness.commands.cli import main

if __name__ == "__main__":
    main(prog_name="harness")
