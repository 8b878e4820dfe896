"""Steps of synchronous parameter servers: push gradients, add them up, pull weights."""

from __future__ import annotations

from typing import NamedTuple

from harness.costs.profiles.cluster_figures import Cluster, LinkFigures, Servers
from harness.costs.profiles.device_profile import Profile
from harness.costs.steps.data_parallel import SizedBucket, exchange
from harness.costs.steps.layer_times import layer_seconds

CORE_MEMORY_BYTES_PER_S = 8.5e9
"""Of one core of a server's processor, its share of the memory's rate.

Source: Intel Xeon E5-2600 v4 data sheets: four channels of DDR4-2133, 68.3 GB/s, for 8 cores; others have 5 to 12.
"""


class ServerTimes(NamedTuple):
    """How long all gradients take to the servers, and all weights back, latency left out."""

    push_s: float
    pull_s: float

    @property
    def total_s(self) -> float:
        """Both ways."""
        return self.push_s + self.pull_s


def hidden_at_servers(profile: Profile, cluster: Cluster, workers: int, samples: float) -> ServerTimes:
    """Return how much of a push and of a pull of `workers` at once passes while devices compute.

    Gradients leave layer by layer during the backward pass, weights come back layer by layer during the next forward
    pass; `server_exposed_fraction` of what could hide so does not.

    Source: Zhang et al. 2017, "Poseidon", section 3.1, wait-free backpropagation.

    Args:
        samples: of one pass of one worker.
    """
    if cluster.shared_host:  # threads that send do not compute
        return ServerTimes(0.0, 0.0)
    layers = layer_seconds(profile, cluster, 1, samples)
    num_bytes = profile.shape.parameter_bytes
    times = server_times(cluster, workers, num_bytes)
    sizes = [layer.parameters * profile.shape.element_bytes for layer in profile.shape.layers]
    buckets = [SizedBucket(size, number) for number, size in reversed(list(enumerate(sizes))) if size]

    def hidden(passes_s: list[float], way_s: float) -> float:
        seconds = [way_s * bucket.num_bytes / num_bytes for bucket in buckets]
        exposed = exchange(passes_s, buckets, seconds).exposed_s
        return (1 - cluster.constants.server_exposed_fraction) * max(0.0, way_s - exposed)

    # Weights that arrive before the layer that needs them are gradients that leave behind it, seen backward in time.
    return ServerTimes(
        hidden([layer.backward_s for layer in layers], times.push_s),
        hidden([layer.forward_s for layer in layers], times.pull_s),
    )


def server_times(cluster: Cluster, workers: int, num_bytes: float) -> ServerTimes:
    """Return how long a step's push and pull take where every stage of the way works at once.

    Source: closed forms of Li et al. 2014, "Scaling Distributed Machine Learning with the Parameter Server".
    """
    push, pull = _ways(cluster, workers, num_bytes)
    added = num_bytes / adding_bytes_per_s(cluster, workers)
    return ServerTimes(max(push + added, workers * added), pull)  # the last gradient is added once it is there


def adding_bytes_per_s(cluster: Cluster, workers: int) -> float:
    """Return the gradient bytes that all servers together add to their weights in a second."""
    servers = cluster.servers or Servers()
    rate = servers.apply_bytes_per_s
    if servers.placement == "dedicated":
        rate = min(rate, _process_bytes_per_s(cluster))
    return shards(cluster, workers) * rate


def _process_bytes_per_s(cluster: Cluster) -> float:
    """Return what one server adds on a node of its own: by all its cores, or by one where workers have one each."""
    constants = cluster.constants
    if not cluster.shared_host:
        return constants.host_add_bytes_per_s
    return CORE_MEMORY_BYTES_PER_S / constants.server_passes if constants.server_passes else float("inf")


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
