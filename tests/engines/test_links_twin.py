"""What `harness calibrate` prints of two machines lets simulated twins predict real steps over them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from lazy import lazy
from namespaces import Node, nodes

pd = lazy("pandas")

pytestmark = [pytest.mark.dist, pytest.mark.timed, pytest.mark.slow]

RATE = 200e6
WITHIN = 0.15
PORT = 29400

# One worker with a server on the other machine, and two workers: both meet over the link in every step.
SCENARIO = """\
engine = "both"
device = "cpu"

[workload]
model = {{ name = "mlp", hidden = [1024] }}
dataset = {{ name = "synthetic", samples = 2048, size = 16 }}

[sweep]
strategy = ["sync-ddp", "async-ps"]
batch_size = 32
learning_rate = 0.001
gpus = [1, 2]
exclude = [{{ strategy = "sync-ddp", gpus = 1 }}, {{ strategy = "async-ps", gpus = 2 }}]

[goal]
target_accuracy = "none"
max_steps = 40

{cluster}
servers = {{ placement = "dedicated", overlap = false }}
"""


def harness(pair: Sequence[Node], folder: Path, *words: str) -> str:
    """Run a command on both nodes, each with a core of its own, and return what node 0 printed."""
    variables = {"HARNESS_CACHE": str(folder / "cache"), "HARNESS_KEY": "0123456789abcdef", "OMP_NUM_THREADS": "1"}
    running = []
    for rank, node in enumerate(pair):
        line = [*("taskset", "--cpu-list", str(rank)), sys.executable, "-m", "harness", *words, "--nnodes", "2"]
        line += ["--node-rank", str(rank), "--rendezvous", f"{pair[0].address}:{PORT}"]
        running.append(node.start(line, variables, stderr=subprocess.STDOUT))
    said = [process.communicate(timeout=280.0)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
    return said[0]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "delay_s", [pytest.param(None, id="tbf"), pytest.param(0.005, id="wire", marks=pytest.mark.long)]
)
def test_twins_on_measured_links_predict_steps_over_them(tmp_path, delay_s):
    with nodes(2, bits_per_s=RATE, delay_s=delay_s) as pair:
        said = harness(pair, tmp_path, "calibrate", "--device", "cpu", "--inter-node", "200 Mb/s")
        assert "2 machines (node0 and node1) with 1 rank each, cpu over gloo: measured" in said
        share = re.search(r"this link gives (\d+) % of its rate", said)
        assert share is not None
        assert 90 <= int(share[1]) <= 100, said
        _, _, cluster = said.partition("In a scenario:\n")
        (tmp_path / "links.toml").write_text(SCENARIO.format(cluster=cluster.replace("\n  ", "\n").strip()))
        harness(pair, tmp_path, "run", str(tmp_path / "links.toml"), "--results", str(tmp_path / "results"))
    cells = pd.read_csv(tmp_path / "results" / "links" / "cells.csv")
    steps = cells.pivot_table(index="strategy", columns="engine", values="step_time_s")
    print(said, steps.assign(off=steps["virtual"] / steps["real"] - 1), sep="\n")
    assert set(steps.index) == {"sync-ddp", "async-ps"}
    for strategy, row in steps.iterrows():
        assert row["virtual"] == pytest.approx(row["real"], rel=WITHIN), (strategy, said)
