"""Plain PyTorch scripts of cells: what they repeat, what they are, and what is refused."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from cells import make_cell
from click.testing import CliRunner, Result
from lazy import lazy

from harness.commands.cli import main
from harness.commands.export_script.refused import EXPORTED, KNOWN_WORK, PIPELINE_SCHEDULES, why_not
from harness.core.cell import Workload
from harness.core.errors import InputError
from harness.core.faults import Faults

np, pd, torch = lazy("numpy"), lazy("pandas"), lazy("torch")
making = lazy("harness.commands.export_script.make_script")

MODELS = '''
import torch
from torch import nn


def small(channels, classes):
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 16), nn.Tanh(), nn.Linear(16, classes)
    )


def normed(channels, classes):
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(144, classes),
    )


class Marked(nn.Module):
    """Tied weights, an unused layer, a frozen one, keyword inputs and a tuple."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        self.head.weight, self.unused, self.drop = self.embed.weight, nn.Linear(2, 2), nn.Dropout(0.1)
        self.mix.bias.requires_grad_(False)

    def forward(self, ids, mask):
        hidden = self.drop(torch.relu(self.mix(self.embed(ids)) * mask[..., None]))
        return self.head(hidden), hidden


def main():
    return Marked()


def words(vocabulary):
    return nn.Sequential(nn.Embedding(vocabulary, 8), nn.Linear(8, vocabulary))


class LookedUp(nn.Module):
    """Sparse gradients that no layer shows."""

    def __init__(self, vocabulary):
        super().__init__()
        self.rows, self.head = nn.Parameter(torch.randn(vocabulary, 8)), nn.Linear(8, vocabulary)

    def forward(self, tokens):
        return self.head(nn.functional.embedding(tokens, self.rows, sparse=True))


def looked_up(vocabulary):
    return LookedUp(vocabulary)


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.ReLU(inplace=True), nn.Linear(4, 4))


def plain_numbers():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 1))


def careless():
    torch.seed()
    return nn.Linear(6, 1)


def step(channels, classes):
    return small(channels, classes)
'''

DATA = """
import numpy as np
import torch


def pictures():
    draw = np.random.RandomState(1)
    images, classes = draw.randint(0, 255, (118, 8, 8, 3)).astype(np.uint8), draw.randint(0, 4, 118)
    return images[:100], classes[:100], images[100:], classes[100:]


class Sentences(torch.utils.data.Dataset):
    def __init__(self, number, seed):
        draw = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(0, 20, (number, 6), generator=draw)
        self.mask = (torch.rand(number, 6, generator=draw) > 0.2).float()

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, k):
        labels = torch.where(self.mask[k] > 0, self.ids[k].roll(-1), -100)
        return {"ids": self.ids[k], "mask": self.mask[k], "labels": labels}


def sentences():
    return Sentences(60, 0), Sentences(10, 1)


def rows():
    numbers = np.random.randn(90, 6)
    return numbers[:70], numbers[:70, :1] * 2, numbers[70:], numbers[70:, :1] * 2


def alone():
    return torch.utils.data.TensorDataset(torch.randn(50, 6), torch.randn(50))


def loaded():
    numbers = np.random.randn(50, 6).astype(np.float32)
    pairs = [(row, row[:1]) for row in numbers]
    return [torch.utils.data.DataLoader(part, batch_size=7, shuffle=True) for part in (pairs[:40], pairs[40:])]


def columns():
    numbers = np.random.rand(50, 6)
    parts = {"train": numbers[:40], "test": numbers[40:]}
    return {name: {"input": part, "y": part[:, :1]} for name, part in parts.items()}


def anything():
    return iter([(np.zeros(6, np.float32), np.float32(k)) for k in range(30)])
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with models and data of one's own, whose modules are called as no other test's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported_models.py").write_text(MODELS)
    (tmp_path / "exported_data.py").write_text(DATA)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("exported_")]:
        del sys.modules[name]


def harness(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def cell_of(here: Path, model: str, data: str, strategy: str = "single", **changes):
    """Return a cell that trains a model of one's own."""
    work = {"model": f"{here}/exported_models.py:{model}", "dataset": data, **changes.pop("workload", {})}
    if "_" not in data and data not in ("digits", "synthetic", "text"):
        work["dataset"] = f"{here}/exported_data.py:{data}"
    gpus = [1 if strategy == "single" else 2]
    sweep = {"sweep__strategy": strategy, "sweep__gpus": gpus, "sweep__global_batch_size": [16]}
    return make_cell(engine="virtual", goal={"max_epochs": 2}, **(sweep | changes), workload=work)


def script_of(here: Path, cell, placement=None, folder: str = ".") -> str:
    target = here / folder / "script.py"
    target.parent.mkdir(exist_ok=True)
    return making.make_script(cell, 20, placement, target, ()).text


# -- what is written ---------------------------------------------------------------------------------------------------

FORMS = [
    ("small", "digits", "cross-entropy"),
    ("small", "pictures", "cross-entropy"),
    ("small", "pictures", "mse"),
    ("main", "sentences", "cross-entropy"),
    ("plain_numbers", "rows", "mse"),
    ("plain_numbers", "alone", "mse"),
    ("plain_numbers", "loaded", "mse"),
    ("plain_numbers", "columns", "bce-with-logits"),
    ("lazy", "pictures", "cross-entropy"),
    ("words", "text", "cross-entropy"),
    ("looked_up", "text", "cross-entropy"),
]


@pytest.mark.parametrize(("model", "data", "loss"), FORMS)
def test_a_script_makes_the_same_data_weights_losses_and_order(here, model, data, loss):
    """The proof is part of writing: a script that would differ is refused."""
    text = script_of(here, cell_of(here, model, data, workload={"loss": loss}))
    assert "harness" not in text.lower().replace(str(here).lower(), "")
    compile(text, "script.py", "exec")


@pytest.mark.parametrize("strategy", ["single", "sync-ddp", "fsdp", "local-sgd"])
@pytest.mark.parametrize("micro", [8, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_script_is_formatted_and_without_slips(here, strategy, micro, precision):
    pytest.importorskip("ruff")
    changes = {
        "optimizer": "adamw",
        "clip_norm": 1.0,
        "lr_schedule": "cosine",
        "lr_warmup": 0.5,
        "precision": precision,
    }
    cell = cell_of(here, "small", "pictures", strategy, sweep__micro_batch_size=[micro], workload=changes)
    Path("script.py").write_text(script_of(here, cell))
    settings = ["--line-length", "120", "script.py"]
    ruff = [sys.executable, "-m", "ruff"]
    assert subprocess.run([*ruff, "format", "--check", *settings], capture_output=True).returncode == 0
    checked = subprocess.run([*ruff, "check", "--isolated", "--select", "E,F,W,I,B", *settings], capture_output=True)
    assert checked.returncode == 0, checked.stdout.decode()
    assert len(Path("script.py").read_text().splitlines()) < 190
    assert _bound(Path("script.py").read_text()) - making.OWN_NAMES == {"small", "pictures"}


def _bound(text: str) -> set[str]:
    """Return the names that a script imports and defines."""
    body = ast.parse(text).body
    imports = [alias for node in body if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    found = {(alias.asname or alias.name).partition(".")[0] for alias in imports}
    return found | {node.name for node in body if isinstance(node, ast.FunctionDef)}


def test_settings_are_written_as_torch_calls_them(here):
    momentum = {"optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True}, "clip_norm": 0.5}
    text = script_of(here, cell_of(here, "small", "pictures", "sync-ddp", workload=momentum))
    assert "torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True)" in text
    assert "clip_grad_norm_(model.parameters(), CLIP_NORM)" in text
    assert "DistributedDataParallel(make_model().to(device))" in text
    assert "from exported_data import pictures\nfrom exported_models import small\n" in text


def test_what_a_trial_showed_is_written_too(here):
    text = script_of(here, cell_of(here, "main", "sentences", "sync-ddp"))
    assert "find_unused_parameters=True" in text
    assert "[p for p in model.parameters() if p.requires_grad]" in text
    assert "model(**inputs)[0]" in text
    assert 'torch.manual_seed(stream("dropout", 0, step, rank))' in text
    assert "max(1, int((targets[torch.from_numpy(batch)] != -100).sum()))" in text
    assert "import main as exported_models_main" in text  # the script has a main of its own


def test_gradients_that_no_layer_makes_sparse_are_made_dense(here):
    text = script_of(here, cell_of(here, "looked_up", "text", "sync-ddp"))
    assert 'for name in ["rows"]:' in text
    assert "register_post_accumulate_grad_hook(make_dense)" in text


def test_a_script_in_another_folder_finds_the_files(here):
    text = script_of(here, cell_of(here, "small", "pictures"), folder="elsewhere")
    assert 'sys.path.insert(0, str(Path(__file__).parent / ".."))' in text


def test_stages_are_those_that_were_recorded(here):
    cell = cell_of(here, "small", "pictures", {"name": "model-split", "schedule": "gpipe"}, sweep__micro_batch_size=[8])
    text = script_of(here, cell, placement=[["0", "1", "2"], ["3", "4", "5"]])
    assert '["0", "1", "2"],' in text
    assert "ScheduleGPipe" in text


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["sync-ps", "async-ps", "softsync", "hybrid"])
def test_strategies_without_a_counterpart_are_refused_with_the_reason(here, strategy):
    cell = replace(cell_of(here, "small", "pictures"), strategy=strategy)
    assert re.search("parameter server|grid of data", why_not(cell))
    assert all(name in why_not(cell) for name in EXPORTED)


def test_cells_that_no_script_repeats_are_refused(here):
    cell = cell_of(here, "small", "pictures")
    assert why_not(cell) is None
    assert "ships with" in why_not(make_cell(sweep__strategy="single"))
    assert "not trained" in why_not(replace(cell, timing_only=True))
    assert "faults" in why_not(replace(cell, faults=Faults(0.5, (), (), 0.0)))
    assert "program of its own" in why_not(replace(cell, strategy="mine"))
    work = cell.workload
    for changed in (
        replace(work, loss="train.py:loss"),
        replace(work, optimizer=replace(work.optimizer, name="train.py:optimizer")),
        replace(work, lr_schedule=replace(work.lr_schedule, name="train.py:schedule")),
        replace(work, sync_batchnorm=True),
    ):
        assert "not written to scripts yet" in why_not(replace(cell, workload=changed))
    split = replace(cell, strategy="model-split", options={"schedule": "naive"})
    assert "torch has no schedule naive" in why_not(split)


def test_every_key_of_a_workload_is_written_or_refused():
    """A new key is decided on here: scripts follow it, or a cell that sets it is refused."""
    assert {field.name for field in fields(Workload)} - KNOWN_WORK == {"sync_batchnorm"}


@pytest.mark.parametrize(
    ("model", "data", "strategy", "reason"),
    [
        ("careless", "rows", "single", "the first weights"),
        ("plain_numbers", "anything", "single", "in a form that scripts do not read"),
        ("main", "sentences", {"name": "model-split"}, "no plain nn.Sequential"),
        ("normed", "pictures", {"name": "model-split"}, "no plain nn.Sequential"),
    ],
)
def test_what_a_script_would_do_otherwise_is_refused(here, model, data, strategy, reason):
    loss = {"loss": "mse"} if model in ("careless", "plain_numbers") else {}
    cell = cell_of(here, model, data, strategy, workload=loss)
    with pytest.raises(InputError, match=reason):
        script_of(here, cell, placement=[["0"], ["1"]])


def test_a_name_that_python_cannot_import_is_refused(here):
    for name in ("signal.py", "train-2.py"):
        (here / name).write_text(MODELS)
        cell = cell_of(here, "small", "pictures", workload={"model": f"{here}/{name}:small"})
        with pytest.raises(InputError, match="give the file another name"):
            script_of(here, cell)


def test_a_cell_that_is_not_there_is_refused():
    assert "no finished cell" in harness("export", "sync-ddp-b32-lr0.1-g2-s0-00000000").output


# -- the same losses ---------------------------------------------------------------------------------------------------

SCENARIO = """
[workload]
model = "exported_models.py:MODEL"
dataset = "exported_data.py:DATA"
optimizer = { name = "sgd", momentum = 0.9 }
WORK

[sweep]
strategy = [STRATEGIES]
global_batch_size = [16]
micro_batch_size = [4]
learning_rate = [0.05]
gpus = [1, 2]
exclude = [{ strategy = "sync-ddp", gpus = 1 }, { strategy = "local-sgd", gpus = 1 }]

[goal]
max_epochs = 2
"""


def exported(scenario: str, **words: str) -> dict[str, float]:
    """Run a scenario, export and run each of its cells; return the largest difference of a loss, by strategy."""
    for word, value in words.items():
        scenario = scenario.replace(word, value)
    Path("own.toml").write_text(scenario)
    ran = harness("run", "own.toml")
    assert ran.exit_code == 0, ran.output
    return {folder.name: _difference(folder) for folder in sorted(Path("results/own/cells").iterdir())}


def _difference(folder: Path) -> float:
    script = Path(f"{folder.name.replace('-', '_').replace('.', '_')}.py")
    done = harness("export", folder.name, "--to", str(script))
    assert done.exit_code == 0, done.output
    assert "harness" not in script.read_text()
    number = re.search(r"-g(\d)", folder.name)[1]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", number]
    words = [*(start if number != "1" else [sys.executable]), str(script), "--losses", "losses.csv", "--save", "w.pt"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert all(torch.isfinite(value).all() for value in torch.load("w.pt").values())
    return _apart(pd.read_parquet(folder / "steps.parquet").dropna(subset="loss"), pd.read_csv("losses.csv"))


def _apart(steps, losses) -> float:
    """Return the largest difference over the steps of which every device's row was kept."""
    by_step = steps.groupby("step")["loss"].agg(["mean", "count"])
    whole = by_step[by_step["count"] == by_step["count"].max()]["mean"]
    assert len(whole) > len(losses) / 2
    return float((whole - losses["loss"].reindex(whole.index)).abs().max())


@pytest.mark.dist
def test_an_exported_script_has_the_losses_of_its_cell():
    apart = exported(SCENARIO, MODEL="normed", DATA="pictures", STRATEGIES='"sync-ddp"', WORK="clip_norm = 1.0")
    assert max(apart.values()) < 1e-5, apart


FIVE = '"single", "sync-ddp", "fsdp", "local-sgd"'


@pytest.mark.dist
@pytest.mark.slow
def test_scripts_of_every_strategy_have_the_losses_of_their_cells():
    work = 'loss = "mse"\nlr_warmup = 1.0'
    apart = exported(SCENARIO, MODEL="plain_numbers", DATA="rows", STRATEGIES=f'{FIVE}, "model-split"', WORK=work)
    assert max(apart.values()) < 1e-5, apart


@pytest.mark.dist
@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "data", "strategies", "work"),
    [
        ("small", "pictures", f'{FIVE}, {{ name = "model-split", schedule = "1f1b" }}', 'lr_schedule = "cosine"'),
        (
            "small",
            "pictures",
            ", ".join(f'{{ name = "model-split", schedule = "{s}" }}' for s in PIPELINE_SCHEDULES),
            "",
        ),
        ("normed", "pictures", FIVE, "clip_norm = 0.5"),
        ("main", "sentences", FIVE, 'precision = "bf16"'),
        ("small", "pictures", '{ name = "fsdp", shard = "optimizer" }, { name = "fsdp", recompute = true }', ""),
    ],
)
def test_exported_scripts_have_the_losses_of_their_cells(model, data, strategies, work):
    apart = exported(SCENARIO, MODEL=model, DATA=data, STRATEGIES=strategies, WORK=work)
    assert max(apart.values()) < 1e-5, apart
