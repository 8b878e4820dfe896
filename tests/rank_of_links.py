"""One rank that measures links with others: python rank_of_links.py RANK NODES HOSTS ADDRESS PORT SIZES.

NODES, HOSTS and SIZES are JSON lists. It prints what the rank has to tell as JSON.
"""

from __future__ import annotations

import datetime
import json
import sys

import torch
import torch.distributed as dist

from harness.core.records import to_json
from harness.engines.calibration.node_times import Where, measure_joined


def main(words: list[str]) -> None:
    rank, nodes, hosts, address, port, sizes = (*map(json.loads, words[:3]), words[3], *map(json.loads, words[4:]))
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=60)
    store = dist.TCPStore(address, port, len(nodes), rank == 0, timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=len(nodes), timeout=timeout)
    found = measure_joined(Where(rank, nodes, hosts, torch.device("cpu")), sizes)
    dist.barrier()
    dist.destroy_process_group()
    print(json.dumps(to_json(found)))


if __name__ == "__main__":
    main(sys.argv[1:])
