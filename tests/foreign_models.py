"""Models that nobody here wrote, under every strategy on two processes: they train as plain PyTorch would.

`python tests/foreign_models.py [NAME ...]` prints the table of all of them.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cells import make_cell
from places import TESTS

from harness.engines.processes.launch import Result, run_cell
from harness.engines.shared.setup import make_setup

STRATEGIES = ("single", "sync-ddp", "fsdp", "model-split", "sync-ps", "async-ps", "local-sgd")
LIKE_SINGLE = STRATEGIES[:5]
STEPS, RATE, MOMENTUM, DECAY = 10, 0.02, 0.9, 0.01

KINDS = {
    "labels": ("bert", "electra", "albert", "deberta_v2", "distilbert"),
    "language": (
        *("roberta", "gpt2", "gpt_neo", "llama", "mistral", "qwen2", "mixtral", "gemma", "phi", "gpt_neox", "opt"),
        *("bloom", "mamba"),
    ),
    "translation": ("t5", "bart"),
    "pictures": (
        *("vit", "deit", "dinov2", "swin", "convnext", "resnet"),
        *("timm_vit", "timm_resnet18", "timm_convnext", "timm_effnet", "timm_mixer"),
    ),
    "pixels": ("segformer",),
    "captions": ("clip",),
    "spectra": ("whisper",),
    "sound": ("wav2vec2",),
}
DATA_OF = {name: kind for kind, names in KINDS.items() for name in names}
NAMES = tuple(DATA_OF)

OF_ITS_OWN_STATISTICS = ("resnet", "segformer", "timm_resnet18", "timm_effnet")
"""Models with BatchNorm: every replica and micro-batch has statistics of its own, so that strategies which share a
batch out train another model than one device does. They are compared with what the virtual cluster computes."""


LIMITS = {"gemma": 1e-7}
"""Largest relative difference of weights where it is not 1e-9: Gemma's norm computes in fp32 whatever it is given, its
weight's gradient too, so that a batch in two parts is rounded otherwise (4e-9 after ten steps)."""


def file_of(name: str) -> str:
    return f"{TESTS}/foreign/{'timm_models' if name.startswith('timm_') else 'hf'}.py"


def settings(name: str, strategy: str, engine: str = "real") -> dict[str, Any]:
    split = {"sweep__micro_batch_size": 4} if strategy == "model-split" else {}
    return {
        "engine": engine,
        "workload": {
            "model": f"{file_of(name)}:build_{name}",
            "dataset": f"{TESTS}/foreign/hf.py:{DATA_OF[name]}",
            "optimizer": {"name": "sgd", "momentum": MOMENTUM, "weight_decay": DECAY},
            "precision": "fp64",
        },
        "sweep": {
            "strategy": strategy,
            "gpus": [1 if strategy == "single" else 2],
            "global_batch_size": [8],
            "learning_rate": [RATE],
        },
        "goal": {"target_accuracy": "none", "max_steps": STEPS},
    } | split


@cache
def plain(name: str) -> np.ndarray:
    """Train in a loop of PyTorch's own, and return the trained parameters as one vector."""
    import torch

    from harness.core.streams import stream_seed
    from harness.engines.shared.sample_order import shared_batches

    cell = make_cell(**settings(name, "single"))
    samples = make_setup(cell).data.train
    sys.path.append(str(TESTS / "foreign"))
    build = getattr(importlib.import_module(Path(file_of(name)).stem), f"build_{name}")
    torch.manual_seed(stream_seed(cell.seed, "init"))
    np.random.seed(stream_seed(cell.seed, "init") % 2**32)
    model = build().double().train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    order = shared_batches(cell.seed, len(samples), 8, 0, 1)
    for batch, _ in zip(order, range(STEPS), strict=False):
        inputs, targets = samples.take(torch.from_numpy(batch.indices))
        result = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        logits = result if isinstance(result, torch.Tensor) else result.logits
        if targets.dim() == 2:
            logits = logits.transpose(1, 2)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, targets).backward()
        optimizer.step()
    return torch.cat([p.detach().reshape(-1) for p in trained]).numpy()


def trained(name: str, strategy: str) -> Result:
    return run_cell(make_cell(**settings(name, strategy)), options={"keep_weights": True})


def verdict(name: str, strategy: str) -> tuple[str, str, float | None]:
    """Return status, reason, and how far the weights lie from what they should be, relative."""
    result = trained(name, strategy)
    if not result.finished:
        return str(result.status), str(result.reason), None
    weights = np.asarray(result.outcome.weights)
    like_plain = strategy == "single" or (strategy in LIKE_SINGLE and name not in OF_ITS_OWN_STATISTICS)
    expected = plain(name) if like_plain else replayed(name, strategy, result)
    return "ok", "", float(np.abs(weights - expected).max() / np.abs(expected).max())


def replayed(name: str, strategy: str, measured: Result) -> np.ndarray:
    """Return what the virtual cluster computes; asynchronous strategies from the log of the real run."""
    from harness.engines.virtual.engine import run_virtual

    script = measured.outcome.deliveries if strategy == "async-ps" else None
    setup = make_setup(make_cell(**settings(name, strategy, "virtual")))
    return np.asarray(run_virtual(setup, merge=False, script=script).weights)


if __name__ == "__main__":
    print(f"{'model':14s}", *(f"{strategy:>12s}" for strategy in STRATEGIES))
    for each in sys.argv[1:] or NAMES:
        print(f"{each:14s}", end=" ", flush=True)
        reasons = []
        for strategy in STRATEGIES:
            status, reason, error = verdict(each, strategy)
            print(f"{status if error is None else f'{error:.0e}':>12s}", end=" ", flush=True)
            reasons += [f"    {strategy}: {reason}"] if reason else []
        print(*["", *reasons], sep="\n")
