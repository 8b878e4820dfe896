"""How often the answer is right: sweeps with a known truth, given to the product's own answer.

    python benchmarks/statistics.py [--draws 2000] [--only PART] [--runs RESULTS ...]

`simulated_sweeps.py` draws them, and `simulated_history.py` a tenth as many histories of nights. One
standard error of a share of 5 % is 0.5 points at 2,000 draws.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from sysconfig import get_path

if __name__ == "statistics":
    # A script of this folder looks for the standard library's module, which has the same name.
    spec = PathFinder.find_spec(__name__, [get_path("stdlib")])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[__name__] = module
    spec.loader.exec_module(module)
elif __name__ == "__main__":
    sys.path[:] = [*sys.path[1:], str(Path(__file__).parent)]  # behind the standard library

    from simulated_sweeps import main

    sys.exit(main())
