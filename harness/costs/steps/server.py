"""Steps of synchronous parameter servers: push gradients, add them up, pull weights."""

from __future__ import annotations

from typing import NamedTuple

from harness.costs.profiles.cluster_figures import Cluster, LinkFigures, Servers
from harness.costs.profiles.device_profile import Profile
from harness.costs.steps.data_parallel import Bucket, exchange, slowest_of
from harness.costs.steps.layer_times import layer_seconds
from harness.costs.steps.result import StepCost


class ServerTimes(NamedTuple):
    """How long all gradients take to the servers, and all weights back, latency left out."""

    push_s: float
    pull_s: float

    @property
    def total_s(self) -> float:
        """Both ways."""
        return self.push_s + self.pull_s


def server_cost(profile: Profile, cluster: Cluster, workers: int, samples: float, pieces: int = 1) -> StepCost:
    """Return the cost of one step of one of `workers` that meet at `cluster.servers`, the update included.

    Gradients leave layer by layer during the backward pass, weights come back layer by layer during the next forward
    pass; `server_exposed_fraction` of what could hide so does not.

    Args:
        samples: of one piece of one worker.
    """
    constants = cluster.constants
    layers = layer_seconds(profile, cluster, 1, samples)
    compute = pieces * sum(layer.forward_s + layer.backward_s for layer in layers)
    input_s = profile.exposed_input_s(samples, pieces, profile.step_s + compute)
    if workers == 1:
        return StepCost(compute, input_s=input_s, host_s=profile.step_s)
    num_bytes = profile.shape.parameter_bytes
    times = server_times(cluster, workers, num_bytes)
    sizes = [layer.parameters * profile.shape.element_bytes for layer in profile.shape.layers]
    push = exchange(
        [layer.backward_s for layer in layers],
        [Bucket(size, number) for number, size in reversed(list(enumerate(sizes))) if size],
        lambda size: times.push_s * size / num_bytes,
    )
    # Weights that arrive before the layer that needs them are gradients that leave behind it, seen backward in time.
    pull = exchange(
        [layer.forward_s for layer in layers],
        [Bucket(size, number) for number, size in reversed(list(enumerate(sizes))) if size],
        lambda size: times.pull_s * size / num_bytes,
    )
    exposed = push.exposed_s + pull.exposed_s
    exposed += constants.server_exposed_fraction * max(0.0, times.total_s - exposed)
    # Dies of one board fill it from two on.
    board = compute * constants.shared_board_fraction * (cluster.dies_per_board > 1)
    waiting = compute * cluster.spread_fraction * slowest_of(workers)
    parts = (compute + board, exposed, waiting, num_bytes, times.total_s)
    return StepCost(*parts, input_s=input_s, host_s=profile.step_s)


def server_times(cluster: Cluster, workers: int, num_bytes: float) -> ServerTimes:
    """Return how long a step's push and pull take where every stage of the way works at once.

    Source: closed forms of Li et al. 2014, "Scaling Distributed Machine Learning with the Parameter Server".
    """
    push, pull = _ways(cluster, workers, num_bytes)
    servers = cluster.servers or Servers()
    rate = servers.apply_bytes_per_s
    if servers.placement == "dedicated":
        rate = min(rate, cluster.constants.apply_bytes_per_s)
    return ServerTimes(max(push, workers * num_bytes / (shards(cluster, workers) * rate)), pull)


def shards(cluster: Cluster, workers: int) -> int:
    """Return into how many equal parts the weights are divided."""
    servers = cluster.servers or Servers()
    return workers if servers.placement == "gpu" else servers.count


def _ways(cluster: Cluster, workers: int, num_bytes: float) -> ServerTimes:
    servers, constants = cluster.servers or Servers(), cluster.constants
    if servers.placement == "gpu":
        return _on_devices(cluster, workers, num_bytes)
    if servers.placement == "cpu":
        slot = cluster.host_link or cluster.bus.link
        way = min(workers, cluster.host_shared_by) * slot.seconds(num_bytes)
        added = workers * num_bytes / constants.host_add_bytes_per_s
        return ServerTimes(max(way, added), max(way, added))
    between = cluster.node_link or cluster.bus.link
    nodes, count = cluster.nodes(workers), servers.count
    if servers.placement == "dedicated":
        own = workers * (servers.link or between).seconds(num_bytes / count)
        way = max(nodes_seconds(cluster, workers, num_bytes, between), own)
        return ServerTimes(way, way)
    # Co-located: replicas of one node add up their gradients first and share what comes back.
    remote = (nodes - 1) / nodes
    way = between.seconds(max(num_bytes * remote, nodes * num_bytes * remote / min(count, nodes)))
    inside = _inside(cluster, workers, nodes, num_bytes)
    return ServerTimes(max(way, inside), max(way, inside))


def nodes_seconds(cluster: Cluster, workers: int, num_bytes: float, link: LinkFigures) -> float:
    """Return the time that the workers of one node need to send through its link."""
    return min(workers, cluster.gpus_per_node) * link.seconds(num_bytes)


def _inside(cluster: Cluster, workers: int, nodes: int, num_bytes: float) -> float:
    local = -(-workers // nodes)
    slot = cluster.host_link or cluster.bus.link
    added = local * num_bytes / cluster.constants.host_add_bytes_per_s
    return max(min(local, cluster.host_shared_by) * slot.seconds(num_bytes), added)


def _on_devices(cluster: Cluster, workers: int, num_bytes: float) -> ServerTimes:
    # Every device holds 1/W of the variables: it sends (W - 1)/W of the gradients and as much of the weights.
    bus = cluster.bus
    way = bus.link.seconds(num_bytes * (workers - 1) / workers)
    group = bus.group_size
    if bus.across and 0 < group < workers:
        # Every device of a group exchanges 1/W with every device outside it, all through the group's one link.
        way = max(way, bus.across.seconds(group * (workers - group) * num_bytes / workers))
    return ServerTimes(way, way)
