"""Many small real cells in one run: neither memory nor descriptors nor temporary files grow."""

from __future__ import annotations

import subprocess
import sys

import pytest
from places import ROOT

SCRIPT = ROOT / "benchmarks" / "endurance.py"


@pytest.mark.long
@pytest.mark.dist
@pytest.mark.skipif(not SCRIPT.is_file(), reason="an installed package has no benchmarks beside it")
def test_a_run_of_many_cells_does_not_wear_out():
    done = subprocess.run([sys.executable, SCRIPT, "--cells", "100"], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("flat\n")
