"""What one cell runs on and computes: from its scenario, from the catalogue, or measured before on this machine."""

from harness.costs.cells.find import cluster_of, given_shape, profile_of
from harness.costs.cells.given import profile_hash, profile_of_file
from harness.costs.cells.kept import (
    find_shape,
    keep_failure,
    keep_shape,
    keep_size,
    kept_or_traced,
    seen_by,
    shape_key,
    size_of,
    why_not_known,
)
from harness.costs.cells.link_groups import graph_rates, link_of_groups, split_groups
from harness.costs.cells.link_tables import fitted_link, read_tables
from harness.costs.cells.measured import (
    MeasuredHere,
    MeasuredLinks,
    MeasuredStep,
    hardware,
    keep_links,
    keep_measured,
    keep_node_links,
    keep_step,
    load_links,
    load_node_links,
    load_profile,
    measured_here,
    measured_id,
    missing_sizes,
    needs_measuring,
    neighbours_of,
    profile_key,
)
from harness.costs.cells.nccl_tests import NCCL_TESTS, PrintedRun, read_runs
from harness.costs.cells.utilised import Utilisation, tokens_per_sample, utilisation

__all__ = [
    "NCCL_TESTS", "MeasuredHere", "MeasuredLinks", "MeasuredStep", "PrintedRun", "Utilisation", "cluster_of",
    "find_shape", "fitted_link", "given_shape", "graph_rates", "hardware", "keep_failure", "keep_links",
    "keep_measured", "keep_node_links", "keep_shape", "keep_size", "keep_step", "kept_or_traced", "link_of_groups",
    "load_links", "load_node_links", "load_profile", "measured_here", "measured_id", "missing_sizes",
    "needs_measuring", "neighbours_of", "profile_hash", "profile_key", "profile_of", "profile_of_file", "read_runs",
    "read_tables", "seen_by", "shape_key", "size_of", "split_groups", "tokens_per_sample",
    "utilisation", "why_not_known",
]  # fmt: skip
