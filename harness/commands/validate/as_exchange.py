"""Single exchanges as scenarios: steps of devices that compute in no time, so that nothing else is in them."""

from __future__ import annotations

from harness.commands.validate.case_cluster import cluster_keys, reduced_lines
from harness.commands.validate.case_layers import FULL_BYTES
from harness.commands.validate.case_models import parameter_bytes
from harness.commands.validate.case_scenario import (
    CasePoint,
    CaseScenario,
    Keys,
    plain_name,
    predicted_s,
    toml_lines,
)
from harness.commands.validate.case_systems import Unpredictable, block_of
from harness.commands.validate.published import TableRow, Tables
from harness.costs.profiles import Constants

INSTANT_S = 1e-9
"""Of a device's step: chosen, small beside any exchange."""


def predict_exchange(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the seconds of an all-reduce, or of an exchange through servers.

    An all-reduce is known by the smallest and the largest one over the same devices.

    Raises:
        Unpredictable: fewer than two calibration rows, or the scenario is refused.
    """
    scenario = _reduced(published, row) if row.num_bytes else _served(published, row)
    return predicted_s(scenario, published.scenarios, constants)


def _reduced(published: Tables, row: TableRow) -> CaseScenario:
    same = (row.table, row.case, row.series)
    known = [r for r in published.inputs if r.num_bytes and (r.table, r.case, r.series) == same]
    if len(known) < 2 or row.num_bytes is None:
        raise Unpredictable("the 1 MiB and 1 GiB rows of the same devices are needed")
    table = f"{plain_name(row.case)}-{plain_name(row.series)}.csv"
    # Local SGD that averages after every step exchanges the model once, with neither hooks nor buckets.
    links = {"intra_node": {"table": table, "gpu": row.block_series}}
    options: dict[str, Keys] = {"strategy.local-sgd": {"steps": 1}}
    files = ((table, reduced_lines(known)),)
    return _scenario(published, row, "local-sgd", row.num_bytes / FULL_BYTES, options, links, files)


def _served(published: Tables, row: TableRow) -> CaseScenario:
    num_bytes = parameter_bytes(published, row, block_of(published, row))
    return _scenario(published, row, "sync-ps", num_bytes / FULL_BYTES, {}, {}, ())


def _scenario(
    published: Tables,
    row: TableRow,
    strategy: str,
    parameters: float,
    more: dict[str, Keys],
    links: Keys,
    files: tuple[tuple[str, str], ...],
) -> CaseScenario:
    point = CasePoint(strategy, row.gpus or 1, 1, 1)
    sections: dict[str, Keys] = {
        "workload": {"model": {"parameters": parameters, "layers": 1}, "input": "ready"},
        "sweep": {"strategy": strategy, "gpus": [point.gpus], "batch_size": [1], "micro_batch_size": [1]},
        **more,
        "goal": {"max_steps": 3},
        "cluster": {**cluster_keys(published, row, INSTANT_S, 1), **links},
    }
    name = plain_name(f"{row.table}-{row.case}-{row.line}")
    text = (
        f'engine = "virtual"\nname = "{name}"\n{toml_lines(sections)}\n{point.observed(row.value, "compare", row.case)}'
    )
    return CaseScenario(name, text, point, files)
