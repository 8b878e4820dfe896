"""Laws of how long a step takes, over plain figures."""

from harness.costs.steps.collectives import all_reduce_s
from harness.costs.steps.data_parallel import slowest_of
from harness.costs.steps.eager import eager_profile
from harness.costs.steps.fsdp_traffic import bytes_sent, fsdp_step_messages
from harness.costs.steps.result import StepCost
from harness.costs.steps.server import server_cost, server_times, shards
from harness.costs.steps.step import optimizer_s, step_cost
from harness.costs.steps.table_time import Recompute

__all__ = [
    "Recompute", "StepCost", "all_reduce_s", "bytes_sent", "eager_profile",
    "fsdp_step_messages", "optimizer_s", "server_cost", "server_times", "shards", "slowest_of",
    "step_cost",
]  # fmt: skip
