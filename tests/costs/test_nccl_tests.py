"""What nccl-tests prints is read, whatever its version; what does not say what it is of is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.costs.cells.link_tables import read_tables
from harness.costs.cells.nccl_tests import read_runs
from harness.costs.profiles.exchange_times import BUS_SHARES, bus_factor

# The figures are made up; the forms are those of 2021, of 2022 to 2025, and of 2.17 and later.
OLD = """\
# nThread 1 nGpus 2 minBytes 37748736 maxBytes 37748736 step: 1048576(bytes) warmup iters: 5 iters: 20 validation: 1
#
# Using devices
#   Rank  0 Pid   5897 on         x0 device  0 [0x05] NVIDIA GeForce GTX 1080
#   Rank  1 Pid   5897 on         x0 device  1 [0x06] NVIDIA GeForce GTX 1080
#
#                                               out-of-place                       in-place
#       size         count      type     time   algbw   busbw  error     time   algbw   busbw  error
#        (B)    (elements)               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
    37748736      37748736     uint8   6485.7    5.82    5.82  0e+00   6496.1    5.81    5.81  3e+02
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 5.81
"""

BEFORE_NAMES = """\
# nThread 1 nGpus 1 minBytes 1048576 maxBytes 4194304 step: 4(factor) warmup iters: 5 iters: 20 agg iters: 1 graph: 0
#
# Using devices
#  Rank  0 Group  0 Pid 1478709 on      gpu23 device  0 [0x31] NVIDIA A40
#  Rank  1 Group  0 Pid 1478710 on      gpu23 device  1 [0x4b] NVIDIA A40
#  Rank  2 Group  0 Pid 1171742 on      gpu24 device  0 [0x31] NVIDIA A40
#  Rank  3 Group  0 Pid 1171743 on      gpu24 device  1 [0x4b] NVIDIA A40
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
gpu23:1478709:1478731 [0] NCCL INFO Connected all rings
     1048576        262144     float     sum      -1    400.0    2.62    3.93      0    390.0    2.69    4.03      0
     4194304       1048576     float     sum      -1   1500.0    2.80    4.19      0   1510.0    2.78    4.17      2
# Out of bounds values : 2 FAILED
# Avg bus bandwidth    : 4.08
#
"""

NEW = """\
1: # nccl-tests version 2.18.3 nccl-headers=23003 nccl-library=23003
1: # Collective test starting: {name}
1: # nThread 1 nGpus 1 minBytes 8 maxBytes 16777216 step: 2(factor) warmup iters: 1 iters: 20 agg iters: 1 unalign: 0
1: #
1: # Using devices
1: #  Rank  0 Group  0 Pid  12812 on  node-a device  0 [0000:06:00] NVIDIA H100 80GB HBM3
1: #  Rank  1 Group  0 Pid  12813 on  node-b device  0 [0000:06:00] NVIDIA H100 80GB HBM3
1: #
1: #                                                           out-of-place                       in-place
1: #       size      count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
1: #        (B) (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)
1:            8          0     float    none      -1    12.01    0.00    0.00       0    11.94    0.00    0.00    N/A
1:      8388608    1048576     float    none      -1  1000.00    8.39    4.19       0  1001.00    8.38    4.19    N/A
1:     16777216    2097152     float    none      -1  1.9e+03    8.83    4.41       0  1.9e+03    8.83    4.41    N/A
1: # Out of bounds values : 0 OK
1: # Collective test concluded: {name}
"""


def write(folder: Path, text: str, name: str = "out.txt") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_a_run_says_its_exchange_ranks_hosts_and_both_columns(tmp_path):
    (run,) = read_runs(write(tmp_path, BEFORE_NAMES))
    assert (run.times.exchange, run.times.ranks, run.times.nodes) == ("all-reduce", 4, 2)
    assert run.times.hosts == ("gpu23", "gpu24")
    assert run.times.table == ((1048576.0, pytest.approx(4e-4)), (4194304.0, pytest.approx(1.5e-3)))
    assert run.in_place == ((1048576.0, pytest.approx(3.9e-4)), (4194304.0, pytest.approx(1.51e-3)))
    assert run.wrong == 2
    # What it prints as busbw follows from its times.
    assert run.times.bus_rate() == pytest.approx(4.19e9, rel=2e-3)


@pytest.mark.parametrize(("name", "exchange"), [("alltoall_perf", "all-to-all"), ("all_gather_perf_mpi", "all-gather")])
def test_a_version_that_names_its_test_is_believed_behind_a_launchers_labels(tmp_path, name, exchange):
    (run,) = read_runs(write(tmp_path, NEW.format(name=name)))
    assert (run.times.exchange, run.times.hosts) == (exchange, ("node-a", "node-b"))
    assert run.times.table[-1] == (16777216.0, pytest.approx(1.9e-3))
    assert bool(run.in_place) == (exchange == "all-gather")  # all-to-all has no valid use in place


def test_several_runs_of_one_file_are_told_apart(tmp_path):
    both = NEW.format(name="all_gather_perf") + BEFORE_NAMES
    runs = read_runs(write(tmp_path, both))
    assert [(run.times.exchange, run.times.ranks) for run in runs] == [("all-gather", 2), ("all-reduce", 4)]


def test_what_two_tests_print_alike_has_to_be_named(tmp_path):
    path = write(tmp_path, OLD)
    with pytest.raises(ValueError, match=r"does not say what it is of, and its columns fit send and all-reduce; .*"):
        read_runs(path)
    (run,) = read_runs(path, "send")
    assert run.times.table == ((37748736.0, pytest.approx(6.4857e-3)),)
    assert run.in_place == ()  # in place a rank would send what it is overwriting


WRONG = {
    "no table": ("size,seconds\n8,1\n", "has no table of nccl-tests; expected the text that all_reduce_perf"),
    "one rank": (BEFORE_NAMES.replace("Rank  1", "# 1").replace("Rank  2", "# 2").replace("Rank  3", "# 3"), "1 rank"),
    "no ranks": (BEFORE_NAMES.replace("Rank", "rank"), "of no rank"),
    "no MPI": (BEFORE_NAMES.replace("Rank  1", "Rank  0"), "rank 0 stands in it several times.*MPI=1"),
    "milliseconds": (BEFORE_NAMES.replace("(us)", "(ms)"), r"times are in \(ms\)"),
    "no time": (BEFORE_NAMES.replace("   time", "    t_s"), "none is the time"),
    "cut row": (
        BEFORE_NAMES.replace("    400.0    2.62    3.93      0    390.0    2.69    4.03      0", ""),
        "line 13",
    ),
    "words": (BEFORE_NAMES.replace("400.0", "slow!"), "line 13: no time"),
    "zeros": (BEFORE_NAMES.replace("400.0", "0.0").replace("1500.0", "0.0"), "none of its 2 rows"),
    "another program": (NEW.format(name="hypercube_perf"), "hypercube_perf, which is not read; sendrecv, all_reduce"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_gets_one_clear_error(tmp_path, name):
    text, says = WRONG[name]
    assert text not in (BEFORE_NAMES, NEW)
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=says) as caught:
        read_runs(path)
    assert str(path) in str(caught.value)


def test_a_table_of_all_reduces_is_not_made_of_another_test(tmp_path):
    with pytest.raises(ValueError, match=r"is of all-gather \(all_gather_perf\), not of all-reduce"):
        read_tables(write(tmp_path, NEW.format(name="all_gather_perf")))
    unnamed = "\n".join(line for line in NEW.format(name="").splitlines() if "Collective" not in line)
    with pytest.raises(ValueError, match=r"bus bandwidth is 0.499 times .* over 2 ranks 1 is right"):
        read_tables(write(tmp_path, unnamed))
    assert read_tables(write(tmp_path, BEFORE_NAMES)) == {4: read_runs(tmp_path / "out.txt")[0].times.table}


@pytest.mark.parametrize("ranks", [2, 3, 8, 512])
def test_bus_factors_are_those_of_nccl_tests(ranks):
    # doc/PERFORMANCE.md, "Summary".
    expected = {
        "all-reduce": 2 * (ranks - 1) / ranks,
        "reduce-scatter": (ranks - 1) / ranks,
        "all-gather": (ranks - 1) / ranks,
        "broadcast": 1,
        "reduce": 1,
        "all-to-all": (ranks - 1) / ranks,
        "send": 1,
    }
    assert {name: bus_factor(name, ranks) for name in BUS_SHARES} == pytest.approx(expected)
