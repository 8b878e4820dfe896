"""Laws of how long a step takes, over plain figures."""

from harness.costs.steps.collectives import all_gather_s, all_reduce_s
from harness.costs.steps.data_parallel import USUAL_BUCKET_BYTES, ReducedBucket, in_buckets, waiting_s
from harness.costs.steps.fsdp_traffic import bytes_sent, fsdp_messages, fsdp_step_messages
from harness.costs.steps.replicated_step import bucket_s, gathered_s
from harness.costs.steps.result import StepCost
from harness.costs.steps.server import ServerTimes, adding_bytes_per_s, hidden_at_servers, server_times, shards
from harness.costs.steps.stated import step_errors
from harness.costs.steps.step import optimizer_s, step_cost
from harness.costs.steps.table_time import Recompute

__all__ = [
    "USUAL_BUCKET_BYTES", "Recompute", "ReducedBucket", "ServerTimes", "StepCost", "adding_bytes_per_s", "all_gather_s",
    "all_reduce_s", "bucket_s", "bytes_sent", "fsdp_messages", "fsdp_step_messages", "gathered_s", "hidden_at_servers",
    "in_buckets", "optimizer_s", "server_times", "shards", "step_cost", "step_errors", "waiting_s",
]  # fmt: skip
