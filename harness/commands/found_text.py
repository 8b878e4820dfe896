"""What a look at a model and its data found, in words: for `harness doctor` and for a new scenario's comments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.core.words import counted, duration, listed, parameters, share_in_percent, show
from harness.engines.shared.findings import DataFindings, Findings, FoundBlock, ModelFindings
from harness.workloads.entries import Feature

LISTED_NAMES = 4
"""Names that a line lists; chosen: more are counted."""

WordedFacts = list[tuple[str, str]]


def data_facts(data: DataFindings) -> WordedFacts:
    """Return (what, in words) about a data set."""
    facts = [
        ("data", f"{data.name}, {counted(data.num_train, 'training sample')}, {data.num_test:,} to test"),
        ("inputs", "; ".join(map(_feature, data.inputs))),
        ("targets", _target(data)),
    ]
    return facts + [("converted", remark.removeprefix("data: ")) for remark in data.remarks]


def model_facts(model: ModelFindings) -> WordedFacts:
    """Return (what, in words) about a model."""
    return [
        ("model", f"{model.name}, {parameters(model.parameters)} parameters in {counted(model.tensors, 'tensor')}"),
        ("outputs", f"{_shape(model.outputs)} for each sample{_taken(model.result)}"),
        *(("frozen", _names(model.frozen)) for _ in model.frozen[:1]),
        *(
            ("without gradient", f"{_names(model.without_gradient)}: unused in the trial step")
            for _ in model.without_gradient[:1]
        ),
        *(("tied", " = ".join(group)) for group in model.ties),
        *(("buffers", _names(model.buffers)) for _ in model.buffers[:1]),
        *(
            ("BatchNorm", f"{_names(model.batch_norms)}: each device averages over its own part of a batch")
            for _ in model.batch_norms[:1]
        ),
        ("random numbers", "drawn in training" if model.draws else "none are drawn in training"),
        ("blocks", _blocks(model.blocks, model.parameters)),
        ("pipeline", _cuts(model)),
    ]


def step_fact(found: Findings) -> tuple[str, str]:
    """Return how long a step took."""
    samples = counted(found.batch_size, "sample")
    return "step", f"{duration(found.step_s)} for {samples}: forward, backward and update on one CPU core"


def block_lines(model: ModelFindings) -> Iterator[str]:
    """Yield a line for each block: name, class, parameters."""
    for block in model.blocks:
        yield f"{block.name} ({block.kind}): {block.parameters:,} parameters"


def findings_text(found: Findings) -> str:
    """Return everything that was found, a line for each fact and each block."""
    facts = [*data_facts(found.data), *model_facts(found.model), ("loss", found.loss), step_fact(found)]
    lines = [f"{what}: {words}" for what, words in facts]
    place = next(number for number, (what, _) in enumerate(facts) if what == "blocks") + 1
    lines[place:place] = [f"  {line}" for line in block_lines(found.model)]
    return "\n".join(lines)


def _feature(field: Feature) -> str:
    name = f"{field.name}: " if field.name else ""
    bound = f" below {field.bound:,}" if field.bound else ""
    return f"{name}{_shape(field.shape)} {field.dtype}{bound}"


def _target(data: DataFindings) -> str:
    each = f"{_shape(data.target.shape)} for each sample, " if data.target.shape else ""
    return f"{each}{counted(data.classes, 'class', 'classes')}" if data.classes else f"{each or 'one '}number to be met"


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "one"


def _taken(result: str) -> str:
    return f", taken as {result} of what it returns" if result else ""


def _names(names: Sequence[str]) -> str:
    shown = listed(names) if len(names) <= LISTED_NAMES else f"{', '.join(names[:LISTED_NAMES])}, ..."
    return shown if len(names) == 1 else f"{len(names)} ({shown})"


def _blocks(blocks: Sequence[FoundBlock], total: int) -> str:
    heaviest = max(blocks, key=lambda block: block.parameters)
    share = share_in_percent(heaviest.parameters / total) if total else "0 %"
    return f"{len(blocks)}; the heaviest, {heaviest.name}, holds {share} of the parameters"


def _cuts(model: ModelFindings) -> str:
    if model.most_stages < 2:
        return "cannot be cut: all parameters are in one block"
    kind = "a plain sequence of layers" if model.chain else "cut between the calls of its blocks"
    return f"{kind}; model-split and hybrid can use up to {counted(model.most_stages, 'stage')}"


def dataset_value(data: DataFindings) -> str:
    """Return the data set as a scenario names it."""
    return show({"name": data.name, **data.options}) if data.options else show(data.name)
