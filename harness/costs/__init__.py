"""What steps cost: time, memory, money. Laws over plain data; nothing but `tracing` imports torch.

Code outside this folder comes in by these doors only (tests/test_imports.py counts them):

- `harness.costs.price`: what a simulated cell will take, need and cost, before it runs.
- `harness.costs.cells`: what one cell runs on and computes: its cluster, its profile, its model's shape; found in the
  scenario, the catalogue, or among what this machine has measured.
- `harness.costs.memory`: what devices must hold; whether a cell fits, and where its pipeline is cut.
- `harness.costs.steps`: laws of how long a step takes, and collectives, servers and pipelines within it.
- `harness.costs.profiles`: the figures that these read: shape, profile, cluster, links, runtime, constants.
- `harness.costs.catalogue`: devices, links and clusters by name.
- `harness.costs.tracing`: what a model holds and computes, found by running it with tensors that have no values.

Each imports from those below it only. Rooms re-export what others need; what they do not name is theirs alone.
"""
