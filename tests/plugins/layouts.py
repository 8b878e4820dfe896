"""Layouts that no bundled strategy asks for."""

from harness import Layout, Strategy, hookimpl


class Afterwards(Strategy):
    """DDP that exchanges when the backward pass is over."""

    name = "afterwards"
    equals = "single"

    def layout(self, gpus):
        return Layout(data=gpus, overlap=False, bucket_bytes=2**12)


class Twice(Strategy):
    """Replicas that compute their activations twice."""

    name = "twice"
    equals = "single"

    def layout(self, gpus):
        return Layout(data=gpus, recompute=True)


class ShardedPipeline(Strategy):
    """What neither engine can do."""

    name = "sharded-pipeline"

    def layout(self, gpus):
        return Layout(data=gpus // 2, pipeline=2, shard="parameters")


@hookimpl
def harness_strategies():
    return [Afterwards, Twice, ShardedPipeline]
