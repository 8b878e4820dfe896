"""What the stages of a published pipeline hold, as a scenario: a transformer by its sizes, and its schedule."""

from __future__ import annotations

from harness.commands.validate.as_pipeline import strategy_of
from harness.commands.validate.case_cuts import VOCABULARY
from harness.commands.validate.case_layers import FULL_BYTES
from harness.commands.validate.case_models import SCENARIO_PRECISIONS, parameter_bytes
from harness.commands.validate.case_scenario import (
    CasePoint,
    CaseScenario,
    Keys,
    fullest_device,
    plain_name,
    toml_lines,
)
from harness.commands.validate.case_systems import Unpredictable, block_of
from harness.commands.validate.published import TableRow, Tables, stated, words_of
from harness.core.units import GIB, GIGA, MIB
from harness.costs.profiles import Constants

UNITS = {"MiB": MIB, "GiB": GIB, "GB": GIGA, "MB": 1e6}

MICROBATCHES_PER_STAGE = 4
"""Where a table gives memory without their number: enough that every stage keeps the most it ever does; chosen."""

SIZES = {"hidden": r"hidden (\d+)", "layers": r"(\d+) layers", "heads": r"(\d+) heads", "sequence": r"(\d+) tokens"}
"""What must be known of a transformer, and how cases.toml words it."""


def predict_memory(published: Tables, row: TableRow, _: Constants) -> float:
    """Return the most that tensors take on a stage of a pipeline, in the row's unit.

    Raises:
        Unpredictable: the model's sizes are not all stated, or the scenario is refused.
    """
    if row.unit not in UNITS:
        raise Unpredictable(f"unit {row.unit!r}: expected one of {', '.join(UNITS)}")
    return fullest_device(_scenario(published, row), published.scenarios).allocated_bytes / UNITS[row.unit]


def _scenario(published: Tables, row: TableRow) -> CaseScenario:
    text, block, gpus = words_of(published, row.model), block_of(published, row), row.gpus or 1
    sizes = {name: stated(text, pattern) for name, pattern in SIZES.items()}
    if not all(sizes.values()):
        raise Unpredictable("hidden size, layers, heads and tokens of the model are not all stated")
    micro = _micro_batch(published, row)
    strategy, batch = strategy_of(published, row), micro * MICROBATCHES_PER_STAGE * gpus
    options = dict(strategy.options)
    if isinstance(options.get("placement"), list):
        options["placement"] = [[_first_block(stage)] for stage in options["placement"]]
    model = {"parameters": parameter_bytes(published, row, block) / FULL_BYTES, **sizes, "vocabulary": VOCABULARY}
    sections: dict[str, Keys] = {
        "workload": {
            "model": {**model, "attention": "eager"},
            "optimizer": block.get("optimizer", "adam"),
            "precision": SCENARIO_PRECISIONS.get(row.precision, row.precision),
        },
        "sweep": {"strategy": strategy.name, "gpus": [gpus], "batch_size": [batch], "micro_batch_size": [micro]},
        f"strategy.{strategy.name}": options,
        "goal": {"max_steps": 3},
        # Memory asks for no speed.
        "cluster": {
            "device": {"step_time": "1 s", "batch_size": 1},
            "gpus_per_node": block["gpus_per_node"],
            "intra_node": "100 GB/s",
            "inter_node": "10 GB/s",
        },
    }
    text = f'engine = "virtual"\ndevice = "cuda"\n{toml_lines(sections)}\n'
    return CaseScenario(plain_name(f"{row.case}-{row.line}"), text, CasePoint(strategy.name, gpus, batch, micro))


def _first_block(stage: list[str]) -> str:
    """Return how a model that is given by its sizes calls the first block of a stage."""
    return next(name.partition(" ")[2] for name in stage if "block" in name)


def _micro_batch(published: Tables, row: TableRow) -> int:
    """Return the micro-batch of the case's other rows of the model, where the row has none."""
    rows = (row, *(r for r in published.inputs if (r.case, r.model) == (row.case, row.model)))
    for other in rows:
        if other.batch_per_gpu and other.microbatches:
            return round(other.batch_per_gpu / other.microbatches)
    raise Unpredictable("the micro-batch is not stated")
