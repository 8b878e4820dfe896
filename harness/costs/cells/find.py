"""Find what a cell costs: its cluster from the scenario or the catalogue, its profile from wherever there is one.

Nothing here imports torch: shapes are given, traced before, or left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import HarnessError, Impossible
from harness.core.given_cluster import (
    THIS_MACHINE,
    ClusterFigures,
    DeviceFigures,
    GivenLink,
    GivenServers,
    LinkFigures,
    StepFigures,
    devices_per_node,
    is_elsewhere,
)
from harness.core.machine import detect_machine
from harness.core.not_known import NotKnown
from harness.core.uncertainty import combined_error
from harness.core.words import bandwidth, show
from harness.costs.catalogue.devices import (
    ARITHMETIC,
    DEVICES,
    ESTIMATE_ERROR,
    LAUNCH_ERROR,
    MEMORY_EFFICIENCY,
    efficiency,
    find_devices,
)
from harness.costs.cells import measured as measurements
from harness.costs.cells.given import is_given, profile_of_file, shape_of_given
from harness.costs.profiles.cluster_figures import Bus, Cluster, Servers
from harness.costs.profiles.constants import PLAIN, PUBLISHED, STATED_ERRORS, Constants
from harness.costs.profiles.device_profile import NO_TIME, Launches, LayerTime, Profile, TimeCurve
from harness.costs.profiles.shape import LayerShape, ModelShape
from harness.workloads.entries import EAGER

if TYPE_CHECKING:
    from harness.core.cell import Cell, Named

LOOPBACK = LinkFigures(50e-6, 5e9)
"""Between processes of this machine where `harness calibrate` has not measured: a message through a pipe takes 40 to 90
us, and shared memory carries 4 to 8 GB/s, copied in and out (measured, 2 shared EPYC cores, 2026-11, n = 5); chosen
inside these ranges, so that cells do not differ from run to run."""

FORWARD_SHARE = 1 / 3
"""Of a gradient's time: the backward pass has two matrix products for each one of the forward pass (Narayanan et al.
2021, "Efficient Large-Scale Language Model Training on GPU Clusters", appendix)."""

AGREEING = 0.01
"""How far the sum of layers' times may be from the step that was measured: chosen, as far as one such step is known."""

OPTIMIZER_TRANSFERS = {"sgd": 3, "momentum": 5, "adam": 7}
"""Reads and writes of one element in an update: weight and gradient read, weight written; states read and written."""

UPDATE_KERNELS = {"sgd": 1, "momentum": 2, "adam": 8}
"""Operations of an update, each over many tensors at once. Source: torch.optim, the multi-tensor functions, which are
the default on GPUs."""

TENSORS_AT_ONCE = 48
"""That one such operation takes. Source: torch, MultiTensorApply.cuh: 110 where it reads one list, 48 for three."""

_ELEMENT_BYTES = 4
"""Of weights, gradients and states, whatever the precision of the arithmetic."""


# -- the cluster -------------------------------------------------------------------------------------------------------


def cluster_of(cell: Cell, overheads: Constants = PUBLISHED) -> Cluster:
    """Return what a cell runs on, as the scenario, the catalogue or the calibration of this machine has it.

    Args:
        overheads: what no data sheet says of devices elsewhere.
    """
    given, device = _over_nodes(cell), cell.cluster.device
    own = measurements.load_cluster(cell.device, cell.threads_per_device) if not device else None
    servers = given.servers
    if own and not (given.intra_node or given.inter_node or servers):
        return replace(own, dram_bytes=cell.dram_bytes or own.dram_bytes, servers=None)
    per_node = devices_per_node(given, cell.gpus)
    # Where every device is a node of its own, so is a server; in a node that holds all of them it is on the host.
    outside = servers is not None and servers.placement == "dedicated"
    alone = given.gpus_per_node is not None and cell.gpus <= per_node and not outside
    bus = _bus(given.intra_node, own.bus if own else Bus(LOOPBACK))
    found = Cluster(
        device=_device_name(device) or given.chip or cell.device,
        gpus_per_node=per_node,
        bus=bus,
        node_link=None if alone else _link(given.inter_node),
        node_by_group=given.inter_node.by_group if given.inter_node and not alone else {},
        node_tables=given.inter_node.tables if given.inter_node and not alone else {},
        host_link=_link(given.host_link),
        host_shared_by=given.host_link.shared_by if given.host_link else 1,
        dram_bytes=cell.dram_bytes,
        servers=_servers(servers, -(-cell.gpus // per_node)),
        servers_apart=given is cell.cluster,  # on real machines they run beside the first workers
        text=", ".join(_origins(given, own is not None)),
        error=STATED_ERRORS["exchanged"].value,
        constants=_constants(cell, overheads),
        dies_per_board=given.dies_per_board,
        algorithm=given.all_reduce,
        shared_host=given.shared_host,
    )
    if own is None:
        return found
    # Links that the scenario gives replace what was measured of messages here.
    return replace(
        found, runtime=replace(own.runtime, messages=None, hop=NO_TIME, served=NO_TIME, served_apart=NO_TIME)
    )


def _over_nodes(cell: Cell) -> ClusterFigures:
    """Return a cell's cluster, with links as they were measured where it fills several machines like this one."""
    links = measurements.node_links_of(cell, detect_machine())
    single = None if links is None else links.link(between=True)
    if links is None or single is None:
        return cell.cluster
    tables = {each.ranks: each.table for each in links.all_reduces(between=True)}
    between = GivenLink(single.latency_s, single.bandwidth_bytes_per_s, "calibrated", links.rings(True), tables)
    return replace(cell.cluster, inter_node=between, gpus_per_node=-(-cell.gpus // cell.nodes))


def _constants(cell: Cell, overheads: Constants) -> Constants:
    """Return what no data sheet says of devices elsewhere; none waits for another's samples where all are ready."""
    if not (is_elsewhere(cell.cluster) and cell.cluster.overheads):
        return PLAIN
    return replace(overheads, spread_fraction=0.0) if cell.workload.input == "ready" else overheads


def _servers(given: GivenServers | None, nodes: int) -> Servers | None:
    """Return where parameter servers run; co-located ones are on every node where nobody counts them."""
    if given is None:
        return None
    count = given.count or (nodes if given.placement == "co-located" else 1)
    return Servers(given.placement, count, given.apply_bytes_per_s or float("inf"), _link(given.link), given.overlap)


def _device_name(device: DeviceFigures | StepFigures | None) -> str:
    """Return a catalogue device's name, "device" for one of given figures, and nothing for this machine's own."""
    return "" if device is None else device.name if isinstance(device, DeviceFigures) else "device"


def _link(given: GivenLink | None) -> LinkFigures | None:
    return None if given is None else given.figures


def _bus(given: GivenLink | None, own: Bus) -> Bus:
    if given is None:
        return own
    # Devices that share a slot all send at once.
    link = LinkFigures(given.latency_s, given.bandwidth_bytes_per_s / given.shared_by)
    return Bus(link, given.by_group, given.tables, group_size=given.group_size, across=given.across)


def _origins(given: ClusterFigures, calibrated: bool) -> list[str]:
    """Say where each figure of a cluster is from."""
    texts = [f"preset {given.preset}"] if given.preset != THIS_MACHINE else []
    for key, link in (("intra_node", given.intra_node), ("inter_node", given.inter_node)):
        if link:
            origin = link.name or ("a table" if link.tables else "the scenario")
            texts.append(f"{key} {bandwidth(link.bandwidth_bytes_per_s, 4)} ({origin})")
    if given.servers:
        texts.append(f"parameter servers {given.servers.placement}")
    if not given.intra_node and not given.inter_node:
        texts.append(
            "links as calibrated on this machine" if calibrated else "typical links between processes of one host"
        )
    return texts


# -- the profile -------------------------------------------------------------------------------------------------------


def given_shape(cell: Cell) -> ModelShape | None:
    """Return the shape of a model without mathematics; None where only tracing the model tells."""
    model = cell.workload.model
    return shape_of_given(model, cell.workload.precision, cell.folder) if is_given(model) else None


def profile_of(cell: Cell, shape: ModelShape | NotKnown | None = None, measured: Profile | None = None) -> Profile:
    """Return how long a cell's workload computes on one of its devices.

    Args:
        shape: of the model, or why it is not known; needed where one figure is spread over layers, and where a
            catalogue device is estimated.
        measured: this machine's profile of the workload; default: what was kept of an earlier measurement.

    Raises:
        HarnessError: what the scenario says is not enough; the message says what is missing.
    """
    model, device = cell.workload.model, cell.cluster.device
    if is_given(model) and "profile" in model.options:
        return _as_said(_of_file(cell, device), cell)
    shape = shape or given_shape(cell)
    if device is None:
        found = measured or (None if is_given(model) else measurements.load_profile(cell))
        if found is None:
            raise HarnessError(_unmeasured(cell))
        sent = in_formats(found.shape, cell)
        return found if sent is found.shape else replace(found, shape=sent)
    if shape is None:
        raise HarnessError(f"{_name(cell)}: its layers are not known yet. Run `harness plan --measure` to trace them")
    if isinstance(shape, NotKnown):
        raise Impossible(f"{_name(cell)}: its layers are not known, so nothing can be predicted. {shape.reason}")
    found = _estimated(cell, shape, device) if isinstance(device, DeviceFigures) else _spread(shape, device)
    return _as_said(found, cell)


def _as_said(profile: Profile, cell: Cell) -> Profile:
    """Return the profile with messages of the cell's formats, at the speed that measurements of steps implied."""
    speed = cell.cluster.speed
    if cell.cluster.chip and not profile.memory_bandwidth_bytes_per_s:
        found = find_devices(cell.cluster.chip, DEVICES)[1]
        bandwidth = found[0].memory_bandwidth_bytes_per_s * MEMORY_EFFICIENCY if found else 0.0
        profile = replace(profile, memory_bandwidth_bytes_per_s=bandwidth)
    profile = replace(profile, shape=in_formats(profile.shape, cell))
    if speed == 1.0:
        return profile
    text = f"{profile.text}, times {1 / speed:.4g} by calibration"
    launch_s = profile.launch_s / speed
    return replace(
        profile.slowed(1 / speed), launch_s=launch_s, origin="given", text=text, error=STATED_ERRORS["given"].value
    )


def in_formats(shape: ModelShape, cell: Cell) -> ModelShape:
    """Return the shape with what a cell's devices send: gradients, and parameters where those are gathered.

    Replicas that share the optimizer's state out scatter gradients and gather parameters: half an all-reduce of each.

    Source: Rajbhandari et al. 2020, "ZeRO", section 7.1; Narayanan et al. 2021, Megatron-LM's distributed optimizer.
    """
    each = cell.scalar_bytes
    sent = (each.sent + each.computed) / 2 if cell.layout.shard == "states" else each.sent
    # CPUs gather units as they are: see `computes_in_halves`.
    gathered = each.computed if cell.layout.shard in ("optimizer", "parameters") and cell.device != "cpu" else 0
    if (sent, gathered) == (shape.element_bytes, shape.gathered_bytes):
        return shape
    return replace(shape, element_bytes=sent, gathered_bytes=gathered)


def _name(cell: Cell) -> str:
    return f"workload.model = {show(cell.workload.model.name)}"


def _unmeasured(cell: Cell) -> str:
    if is_given(cell.workload.model):
        return (
            f"{_name(cell)}: this model has sizes only, so it cannot be timed on this machine. Set cluster.device or "
            "cluster.preset, or give a measured speed: cluster.device = { samples_per_second = ..., batch_size = ... }"
        )
    how = "" if cell.workload.step == EAGER else f' with step = "{cell.workload.step}"'
    return f"{_name(cell)}{how}: not measured on this machine yet. Run `harness plan --measure`"


def _of_file(cell: Cell, device: DeviceFigures | StepFigures | None) -> Profile:
    """Return a file's times; a figure of a whole step scales them."""
    options = cell.workload.model.options
    profile = profile_of_file(Path(cell.folder) / options["profile"], options["batch_size"])
    if not isinstance(device, StepFigures):
        return profile
    batch, seconds, text = _figure(device)
    factor = seconds / profile.gradient_s(batch)
    error = STATED_ERRORS["by layer" if abs(math.log(factor)) < AGREEING else "given"].value
    profile = profile.slowed(factor)
    # What was measured is a step of that batch; the file says how it is shared out.
    times = tuple(LayerTime.at(batch, one.forward.at(batch), one.backward.at(batch)) for one in profile.times)
    return replace(profile, times=times, text=f"{profile.text}, scaled to {text}", error=error)


def _figure(device: StepFigures) -> tuple[float, float, str]:
    """Return batch size, seconds of a step, and both in words."""
    batch, seconds, rate = float(device.batch_size), device.step_time_s, device.samples_per_second
    if seconds is not None:
        return batch, seconds, f"{seconds:.6g} s a step at {batch:g} samples"
    assert rate is not None
    return batch, batch / rate, f"{rate:.6g} samples/s at {batch:g} samples a step"


def _spread(shape: ModelShape, device: StepFigures) -> Profile:
    """Spread one figure of a whole step over layers as their arithmetic is, or as their parameters are."""
    batch, seconds, text = _figure(device)
    flops = [layer.forward_flops.at(batch) for layer in shape.layers]
    weights = flops if sum(flops) else [float(layer.parameters) for layer in shape.layers]
    total = sum(weights) or 1.0
    times = tuple(
        LayerTime.at(batch, *(seconds * part * weight / total for part in (FORWARD_SHARE, 1 - FORWARD_SHARE)))
        for weight in weights
    )
    by = "operations" if sum(flops) else "parameters"
    text = f"{text}, given by the scenario for a whole step with its optimizer, divided among layers by {by}"
    return Profile(shape, times, origin="given", text=text, error=STATED_ERRORS["given"].value)


def _estimated(cell: Cell, shape: ModelShape, device: DeviceFigures) -> Profile:
    """Estimate a profile from a data sheet: each layer computes, moves data or launches, whichever takes longest."""
    if not any(layer.forward_flops.at(1) for layer in shape.layers):
        raise HarnessError(
            f"{_name(cell)}: its number of operations is not known, so its speed on {device.name} cannot be "
            "estimated. Set sequence (tokens per sample) or forward_flops in workload.model, or give a measured speed: "
            "cluster.device = { samples_per_second = ..., batch_size = ... }"
        )
    if cell.workload.step != EAGER:
        raise Impossible(
            f'workload.step = "{cell.workload.step}": a data sheet tells the time of eager steps only. Measure such '
            "steps on this machine, or give a measured speed: cluster.device = { step_time = ..., batch_size = ... }"
        )
    precision = "tf32" if cell.workload.tf32 else cell.workload.precision
    precision = ARITHMETIC.get(precision, precision)
    bandwidth = device.memory_bandwidth_bytes_per_s * MEMORY_EFFICIENCY
    launches = [_launches(shape, k) for k in range(len(shape.layers))]
    times = tuple(
        _roofline(layer, device, precision, bandwidth, counts)
        for layer, counts in zip(shape.layers, launches, strict=True)
    )
    update = _update(cell.workload.optimizer)
    moving_s = OPTIMIZER_TRANSFERS[update] * _ELEMENT_BYTES * shape.parameters / bandwidth
    tensors = sum(len(layer.tensors) for layer in shape.layers)
    update_launches = UPDATE_KERNELS[update] * -(-tensors // TENSORS_AT_ONCE)
    profile = Profile(
        shape,
        times,
        optimizer_s=max(moving_s, update_launches * device.launch_s),
        launch_s=device.launch_s,
        memory_bandwidth_bytes_per_s=bandwidth,
        origin="estimated",
        text=f"estimated from the data sheet of {device.name}, {precision}",
    )
    counted = [*launches, Launches(update_launches, 0)]
    return replace(profile, error=_estimate_error(profile, counted, cell.batch_size))


def _launches(shape: ModelShape, layer: int) -> Launches:
    """Return one operator for each tensor that a pass makes; one a pass where it was not traced."""
    if shape.timeline is None:
        return Launches(1, 1)
    passes = shape.timeline.of(layer)
    return Launches(*(max(1, sum(e.kind != "free" for e in each)) for each in (passes.forward, passes.backward)))


def _estimate_error(profile: Profile, launches: Sequence[Launches], samples: float) -> float:
    """Return how far a step of so many samples may be off: arithmetic and launches are wrong each by themselves.

    Args:
        launches: of each layer, and of the update.
    """
    passes = [(each.forward.at(samples), each.backward.at(samples)) for each in profile.times]
    passes += [(profile.optimizer_s, 0.0)]
    spent = {"arithmetic": 0.0, "launches": 0.0}
    for seconds, counts in zip(passes, launches, strict=True):
        for taken, count in zip(seconds, counts, strict=True):
            bound = "launches" if taken <= count * profile.launch_s * (1 + 1e-9) else "arithmetic"
            spent[bound] += taken
    return combined_error({"arithmetic": ESTIMATE_ERROR, "launches": LAUNCH_ERROR}, spent)


def _update(optimizer: Named) -> str:
    if optimizer.name.startswith(("adam", "nadam", "radam", "adadelta")):
        return "adam"
    return "momentum" if optimizer.options.get("momentum") else "sgd"


def _roofline(
    layer: LayerShape, device: DeviceFigures, precision: str, bandwidth: float, launches: Launches
) -> LayerTime:
    """Return a layer's passes: the longer of arithmetic and memory traffic, and never less than its launches.

    What is kept for the backward pass is written once and was read once before; backward does twice of everything.

    Source: Williams, Waterman and Patterson 2009, "Roofline".
    """
    if not layer.tensors and not layer.forward_flops.at(1) and not layer.activation_bytes.at(1):
        return LayerTime(NO_TIME, NO_TIME)
    kind = "conv" if "conv" in layer.name.lower() else "gemm"
    peak = device.peak_flops_per_s[precision] * efficiency(device, precision, kind)
    flops, kept = layer.forward_flops, layer.activation_bytes
    parameter_bytes = layer.parameters * _ELEMENT_BYTES

    def seconds(samples: float, passes: int) -> float:
        computing = flops.at(samples) / peak
        moving = (parameter_bytes + 2 * kept.at(samples)) / bandwidth
        return max(passes * max(computing, moving), launches[passes - 1] * device.launch_s)

    knees = _knees(layer, peak, bandwidth)
    forward, backward = (TimeCurve(tuple((n, seconds(n, passes)) for n in knees)) for passes in (1, 2))
    return LayerTime(forward, backward, launches)


_MOST_SAMPLES = 2.0**16
"""Where curves end and go on as straight lines; chosen above every batch of one device."""


def _knees(layer: LayerShape, peak: float, bandwidth: float) -> Sequence[float]:
    """Return sample counts between which the roofline is nearly straight: powers of two, and where it turns."""
    slope = layer.forward_flops.per_sample / peak - 2 * layer.activation_bytes.per_sample / bandwidth
    fixed = (layer.parameters * _ELEMENT_BYTES + 2 * layer.activation_bytes.fixed) / bandwidth
    turn = fixed / slope if slope > 0 else 0.0
    powers = [2.0**k for k in range(17)]
    return sorted({*powers, *([turn] if 1 < turn < _MOST_SAMPLES else [])})
