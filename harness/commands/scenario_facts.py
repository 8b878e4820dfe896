"""What a cell's scenario says beside its point, in words: two nights may differ in it and still be paired."""

from __future__ import annotations

from collections.abc import Mapping

from harness.core.cell import Cell
from harness.core.given_cluster import ClusterFigures, DeviceFigures, GivenLink, StepFigures
from harness.core.words import bit_rate, duration, exact_duration, memory_size


def scenario_facts(cell: Cell, scenario: str) -> Mapping[str, str]:
    """Return facts by their name.

    Args:
        scenario: its name.
    """
    facts = {
        "scenario": scenario,
        "warm-up steps": str(cell.measure.warmup_steps),
        "time limit of a cell": duration(cell.cell_timeout_s) if cell.cell_timeout_s else "",
        "memory of a device": memory_size(cell.dram_bytes) if cell.dram_bytes else "",
    }
    named = {"strategy": cell.strategy, "model": cell.workload.model.name, "dataset": cell.workload.dataset.name}
    facts |= {f"code of {named.get(what, what)}": digest for what, digest in cell.code.items()}
    return facts | ({"cluster": cluster_named(cell.cluster)} if cell.engine == "virtual" else {})


def cluster_named(cluster: ClusterFigures) -> str:
    """Return a simulated cluster by its preset and by all that a scenario can give of it."""
    parts = [cluster.preset, _device(cluster.device)]
    parts += [f"{cluster.gpus_per_node} devices a node" if cluster.gpus_per_node else ""]
    links = {"in a node": cluster.intra_node, "between nodes": cluster.inter_node, "to the host": cluster.host_link}
    parts += [f"{_link(link)} {where}" for where, link in links.items() if link is not None]
    if cluster.servers:
        parts += [f"servers: {cluster.servers.placement}"]
    return "; ".join(filter(None, parts))


def _device(device: DeviceFigures | StepFigures | None) -> str:
    if isinstance(device, DeviceFigures):
        return device.name
    if device is None:
        return ""
    if device.step_time_s is not None:
        return f"{exact_duration(device.step_time_s)} a step of {device.batch_size}"
    return f"{device.samples_per_second:g} samples/s at {device.batch_size} a step"


def _link(link: GivenLink) -> str:
    figures = f"{bit_rate(link.bandwidth_bytes_per_s, 4)} after {exact_duration(link.latency_s, 3)}"
    return f"{link.name} ({figures})" if link.name else figures
