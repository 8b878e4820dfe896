"""Models without mathematics: what a table of sizes, or a file of layers' times, says of shape and time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from harness.core.cell import Named
from harness.core.errors import InputError
from harness.core.given_cluster import MOST_LAYERS
from harness.core.outside_files import csv_rows, read_outside
from harness.costs.profiles.device_profile import LayerTime, Profile
from harness.costs.profiles.shape import LayerShape, Linear, ModelShape
from harness.workloads.user_files import is_user_function

HEAD_SIZE = 64
"""Width of one attention head where nobody says; customary from Vaswani et al. 2017 (512 / 8) to Brown et al. 2020."""

FILE_ERROR = 0.05
"""Relative uncertainty of times from a file, one standard deviation; chosen: layers timed one by one add up to a step
within about this much."""

LAYER_COLUMNS = ("name", "forward_ms", "backward_ms", "activation_bytes", "parameter_bytes")
MORE_COLUMNS = ("update_ms", "step_ms", "split", "hidden")
"""Numbers that a file of layers' times may also have; empty where they are 0."""


def is_given(model: Named) -> bool:
    """Say whether a cell's workload.model is one without mathematics."""
    return bool({"parameters", "profile"} & set(model.options)) and not is_user_function(model.name)


def shape_of_given(model: Named, precision: str = "fp32", folder: str | Path = ".") -> ModelShape:
    """Return the shape of a model without mathematics.

    Args:
        model: workload.model of a cell.
        precision: of the arithmetic; weights and gradients keep four bytes, activations have what it has.
        folder: what a file's name is relative to.

    Raises:
        InputError: the file cannot be read, or is no such table.
    """
    options = model.options
    if "profile" in options:
        return profile_of_file(Path(folder) / options["profile"], options["batch_size"]).shape
    if not options.get("hidden"):
        return _equal_layers(options)
    return with_logits(_transformer(options, precision), options, _width(precision))


def _equal_layers(options: Mapping[str, Any]) -> ModelShape:
    """Return equal layers that share everything there is."""
    count = options["layers"]
    kept = options.get("activations") or 0
    tables = max(0, min(round(options.get("embedding") or 0), round(options["parameters"]) - count))
    held = round(options["parameters"]) - tables
    flops = options.get("forward_flops") or 2.0 * held * (options.get("sequence") or 0)
    layers = tuple(
        LayerShape(
            name=f"layer {k}",
            tensors=(size,),
            activation_bytes=Linear(0.0, kept / count),
            output_bytes=Linear(0.0, kept / count),
            forward_flops=Linear(0.0, flops / count),
            split=1.0 if options.get("sequence") else 0.0,
        )
        for k, size in enumerate(_even(held, count))
    )
    if tables:
        layers = (LayerShape("embedding", (tables,)), replace(layers[0], joined=True), *layers[1:])
    return ModelShape(
        layers,
        origin="equal layers, as the scenario says",
        activations_known=bool(kept),
        layers_known=bool(options.get("sequence")),
    )


def _even(total: int, parts: int) -> list[int]:
    return [total * (k + 1) // parts - total * k // parts for k in range(parts)]


def _transformer(options: Mapping[str, Any], precision: str) -> ModelShape:
    """Return blocks of attention and two matrices; what blocks do not hold is an embedding that is the head too.

    A block of width h has 12 h^2 + 13 h parameters. Forward it computes 2 operations for each of its weights and
    token, and 4 s h for each token's attention to s others. For the backward pass it keeps s h (34 + 5 a s / h) bytes a
    sample in half precision, without sequence parallelism; in single precision twice that. Fused attention computes
    its scores, 5 a s / h of these, again in the backward pass. In half precision each weight also has a copy that
    autocast keeps from the forward pass to the end of the backward pass.

    A gated block has three matrices of hidden x ffn, no biases, and keys and values of fewer heads. It keeps what comes
    into and goes out of its norms (8 h bytes a token in half precision), queries, keys, values and what attention makes
    of them (4 h + 4 kv), and both branches and their product (6 ffn).

    While a block computes backward, gradients of its widest tensors are there besides: of what stands between its
    matrices.

    Source: Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters", appendix;
    Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", equation 1, and section
    4.1, by which gated blocks are counted (Shazeer 2020, "GLU Variants Improve Transformer"); Dao et al. 2022,
    "FlashAttention", section 3.1.
    """
    count, hidden = options["layers"], options["hidden"]
    tokens = options.get("sequence") or 1
    heads = options.get("heads") or max(1, hidden // HEAD_SIZE)
    total, gate = round(options["parameters"]), _gate_of(options)
    tensors = _gated_block(gate) if gate else _block(hidden)
    if total < count * sum(tensors):
        tensors = (total // count,)  # blocks of another kind: the total is what was said
    rest = total - count * sum(tensors)
    width = _width(precision)
    kept = options.get("activations") or 0
    scores = 5 * heads * tokens / hidden if options.get("attention") == "eager" else 0.0
    parts = gate.kept() if gate else (34.0 * hidden, 10.0 * hidden, 16.0 * hidden)
    each_token, uncut, wide = (each * width / 2 for each in parts)
    each_token += scores * hidden * width / 2
    whole = kept / count if kept else tokens * each_token
    flops = options.get("forward_flops")
    each = flops / count if flops else 2.0 * sum(tensors) * tokens + 4.0 * tokens**2 * hidden
    block = LayerShape(
        name="",
        tensors=tensors,
        rows=_rows_of_block(hidden) if len(tensors) == len(_block(hidden)) else (),
        activation_bytes=Linear(0.0, whole),
        output_bytes=Linear(0.0, tokens * hidden * width),
        forward_flops=Linear(0.0, each),
        split=gate.split() if gate else _split(hidden),
        workspace_bytes=Linear(0.0, 0.0 if kept else tokens * wide),
        width=hidden,
        activation_split=1 - uncut / each_token,  # tensor parallelism cuts all but 10 s h: equation 2
        copies_bytes=2 * sum(tensors) if width == 2 and len(tensors) > 1 else 0,
    )
    layers = [replace(block, name=f"block {k}", joined=k == 0) for k in range(count)]
    if rest:
        layers.insert(0, _embedding(rest, tokens * hidden * width))
        layers.append(_head(0.0 if flops else 2.0 * rest * tokens))
    return ModelShape(tuple(layers), Linear(0.0, tokens * 8), origin="a transformer of the sizes given")


def _width(precision: str) -> int:
    """Return the bytes of a number that passes keep."""
    return 2 if precision in ("bf16", "fp16", "mixed") else 4


class _Gate(NamedTuple):
    """Sizes of a gated block: of the model, of keys or values, and between its matrices."""

    hidden: int
    keys: int
    inner: int

    def kept(self) -> tuple[float, float, float]:
        """Return the bytes of a token in half precision: kept, of these by every tensor-parallel device, in passing."""
        norms = 8.0 * self.hidden
        return norms + 4.0 * self.hidden + 4.0 * self.keys + 6.0 * self.inner, norms, 6.0 * self.inner

    def split(self) -> float:
        """Return the share of the block that tensor parallelism cuts: all but its norms."""
        return 1 - 2 * self.hidden / sum(_gated_block(self))


def _gate_of(options: Mapping[str, Any]) -> _Gate | None:
    if not options.get("gated"):
        return None
    hidden = options["hidden"]
    heads = options.get("heads") or max(1, hidden // HEAD_SIZE)
    keys = hidden // heads * (options.get("kv_heads") or heads)
    return _Gate(hidden, keys, options.get("ffn") or round(8 * hidden / 3))


def _gated_block(gate: _Gate) -> tuple[int, ...]:
    """Return one block's tensors: two norms, attention's input and output, gate, up and down."""
    h, keys, inner = gate
    return (h, h, h * (h + 2 * keys), h * h, h * inner, h * inner, h * inner)


def with_logits(shape: ModelShape, options: Mapping[str, Any], width: int) -> ModelShape:
    """Return a transformer whose head keeps its logits, where the vocabulary is said.

    Where the blocks leave two tables of that size, the head has one of its own. Logits are there as they were computed,
    and in single precision for the loss and until its gradient, which has that precision too.

    Source: Shoeybi et al. 2019, "Megatron-LM", section 3: logits are cut by tensor parallelism; torch and Megatron-LM
    compute the loss in single precision.
    """
    if not options.get("vocabulary"):
        return shape
    numbers, own = options["vocabulary"] * (options.get("sequence") or 1), options["vocabulary"] * options["hidden"]
    kept, gradient = Linear(0.0, numbers * (width + 4.0)), Linear(0.0, numbers * 4.0)
    layers, last = shape.layers, shape.layers[-1]
    head = last if last.name == "head" else LayerShape("head", output_bytes=Linear(0.0, 4.0), split=1.0)
    head = replace(head, activation_bytes=kept, workspace_bytes=gradient, activation_split=1.0)
    first, *others = layers[:-1] if last.name == "head" else layers
    if first.parameters >= 2 * own:
        first = replace(first, tensors=(first.parameters - own,))
        head = replace(head, tensors=(own,), shared=())
    return replace(shape, layers=(first, *others, head))


def _block(hidden: int) -> tuple[int, ...]:
    """Return one block's tensors: two norms, attention's input and output, two matrices."""
    h = hidden
    return (h, h, 3 * h * h, 3 * h, h * h, h, h, h, 4 * h * h, 4 * h, 4 * h * h, h)


def _rows_of_block(hidden: int) -> tuple[int, ...]:
    """Return the first dimension of each of a block's tensors."""
    h = hidden
    return (h, h, 3 * h, 3 * h, h, h, h, h, 4 * h, 4 * h, h, h)


def _split(hidden: int) -> float:
    """Return the share of a block that tensor parallelism cuts: all but norms and the biases of its two outputs.

    Source: Shoeybi et al. 2019, "Megatron-LM", section 3.
    """
    return (12 * hidden + 7) / (12 * hidden + 13)


def _embedding(parameters: int, output_bytes: float) -> LayerShape:
    """Return what is left of the parameters, which are looked up, not computed with."""
    out = Linear(0.0, output_bytes)
    return LayerShape("embedding", (parameters,), 0, out, out, split=1.0)


def _head(flops: float) -> LayerShape:
    """Return the head, which shares the embedding's weights; its logits stay, and their loss is one number."""
    out = Linear(0.0, 4.0)
    return LayerShape(
        "head", output_bytes=out, forward_flops=Linear(0.0, flops), split=1.0, shared=((0, 0),), joined=True
    )


def profile_hash(path: Path) -> str:
    """Return what identifies a file of times."""
    return hashlib.sha256(read_outside(path)).hexdigest()


def profile_of_file(path: Path, batch_size: int) -> Profile:
    """Return the profile that a file of layers' times and sizes holds.

    A row that only brings input in costs nothing: its time is that of loading data. Layers may branch: what a cut
    after a layer sends is whatever later layers still need of all before it.

    Args:
        path: CSV with the columns of `LAYER_COLUMNS`, `kind` and `predecessors` where there are branches, and what it
            knows of `MORE_COLUMNS`: the time of the layer's update, what every step takes besides whatever its batch,
            the share that tensor parallelism cuts, and the width of a transformer's block.
        batch_size: samples that the times and sizes are of.

    Raises:
        InputError: it cannot be read, or is no such table.
    """
    try:
        content = read_outside(path)
    except OSError as error:
        raise InputError([f"cannot be read: {error.strerror}"], str(path)) from None
    return _profile_of(content, path, batch_size)


@lru_cache(maxsize=64)
def _profile_of(content: bytes, path: Path, batch_size: int) -> Profile:
    rows = _rows(content, path)
    outputs = _crossing(rows)
    layers, times = [], []
    for number, row in enumerate(rows):
        source = row.get("kind", "").startswith("Input")
        size = _float(row["parameter_bytes"]) / 4
        kept = Linear(0.0, _float(row["activation_bytes"]) / batch_size)
        seconds = [0.0 if source else _float(row[way]) / 1e3 for way in ("forward_ms", "backward_ms")]
        layers.append(
            LayerShape(
                name=f"{number + 1} {row.get('kind') or row['name']}",
                tensors=(round(size),) if size else (),
                activation_bytes=kept,
                output_bytes=Linear(0.0, outputs[number] / batch_size),
                split=_more(row, "split"),
                width=round(_more(row, "hidden")),
                timed_s=sum(seconds) / batch_size,
            )
        )
        times.append(LayerTime.at(float(batch_size), *seconds))
    shape = ModelShape(tuple(layers), origin=path.name)
    update_s, step_s = (sum(_more(row, name) for row in rows) / 1e3 for name in ("update_ms", "step_ms"))
    text = f"{path.name} at batch size {batch_size}"
    return Profile(shape, tuple(times), update_s, step_s=step_s, origin="given", text=text, error=FILE_ERROR)


def _more(row: Mapping[str, str], name: str) -> float:
    return _float(row.get(name) or "0")


def _rows(content: bytes, path: Path) -> list[dict[str, str]]:
    try:
        rows = csv_rows(content)
    except ValueError as error:
        raise InputError([f"cannot be read: {error}"], str(path)) from None
    if len(rows) > MOST_LAYERS:
        raise InputError([f"{len(rows):,} layers, and at most {MOST_LAYERS:,} can be timed"], str(path))
    problems = [f"no column {name}" for name in LAYER_COLUMNS if not rows or name not in rows[0]]
    for number, row in enumerate(rows, start=2):
        problems += [
            f"line {number}: {name} = {row[name]!r}: a number, at least 0"
            for name in (*LAYER_COLUMNS[1:], *(more for more in MORE_COLUMNS if row.get(more)))
            if name in row and not _float(row[name]) >= 0
        ]
    if problems:
        raise InputError(
            [
                *problems[:5],
                f"columns are {', '.join(LAYER_COLUMNS)}; also kind and predecessors, {', '.join(MORE_COLUMNS)}",
            ],
            str(path),
        )
    return rows


def _float(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _crossing(rows: Sequence[Mapping[str, str]]) -> list[float]:
    """Return the bytes that each cut would send; in a file without branches, what the layer before it puts out."""
    sizes = [_float(row["activation_bytes"]) for row in rows]
    places = {row.get("index") or str(k + 1): k for k, row in enumerate(rows)}
    last = list(range(1, len(rows) + 1))
    if all("predecessors" in row for row in rows):
        last = [k for k in range(len(rows))]
        for k, row in enumerate(rows):
            for name in filter(None, (row["predecessors"] or "").split(";")):
                if name in places:
                    last[places[name]] = max(last[places[name]], k)
    return [sum(size for j, size in enumerate(sizes[: k + 1]) if last[j] > k) for k in range(len(rows))]
