"""Plain PyTorch scripts of cells: what they repeat, what they are, and what is refused."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import pytest
from cells import make_cell
from click.testing import CliRunner, Result
from lazy import lazy

from harness.commands.cli import main
from harness.commands.export_script.refused import EXPORTED, KNOWN_WORK, PIPELINE_SCHEDULES, why_not
from harness.core.cell import Workload
from harness.core.errors import InputError
from harness.core.faults import Faults
from harness.workloads.entries import LOSSES

np, pd, torch = lazy("numpy"), lazy("pandas"), lazy("torch")
engine, setups = lazy("harness.engines.virtual.engine"), lazy("harness.engines.shared.setup")
making, names = lazy("harness.commands.export_script.make_script"), lazy("harness.commands.export_script.user_imports")

MODELS = '''
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def small(channels, classes):
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 16), nn.Tanh(), nn.Linear(16, classes)
    )


def normed(channels, classes):
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(144, classes),
    )


def counting(channels, classes):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, classes))


class Jitter(nn.Conv2d):
    def forward(self, images):
        return super().forward(images * np.random.rand() + random.random())


def jittered(channels, classes):
    return nn.Sequential(Jitter(channels, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, classes))


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


def of_pixels(channels, classes):
    return nn.Sequential(nn.Conv2d(channels, 4, 1), nn.Tanh(), nn.Conv2d(4, classes, 1))


class Answers(nn.Module):
    """Yes or no to six questions, in another shape than the targets."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        return self.two(torch.tanh(self.one(x))).unsqueeze(-1)


class Twice(nn.Module):
    """A block that is called twice, a skip over it, a state of an LSTM, a parameter of its own, and BatchNorm."""

    def __init__(self, channels, classes):
        super().__init__()
        self.shift, self.rows = nn.Parameter(torch.zeros(8)), nn.LSTM(8 * channels, 8, batch_first=True)
        self.block, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.head = nn.Linear(8, classes)

    def forward(self, images):
        hidden, (last, _) = self.rows(images.permute(0, 2, 1, 3).flatten(2))
        once = self.norm((torch.relu_(self.block(hidden)) + self.shift).movedim(1, 2)).movedim(1, 2)
        return {"logits": self.head((self.block(once) + hidden)[:, -1] + last[0])}


def each_sample(outputs, targets):
    return functional.cross_entropy(outputs, targets, reduction="none", label_smoothing=0.1)


def each_token(outputs, targets):
    return functional.cross_entropy(outputs.movedim(-1, 1), targets, reduction="none")


def mean(outputs, targets):
    return functional.cross_entropy(outputs, targets)


def mean_of_tokens(outputs, targets):
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def of_whole(outputs, targets):
    return functional.cross_entropy(outputs, targets) + outputs.std()


def optimizer(model):
    heads = [p for name, p in model.named_parameters() if "head" in name]
    others = [p for name, p in model.named_parameters() if "head" not in name]
    return torch.optim.AdamW([{"params": others}, {"params": heads, "lr": 3e-3}], lr=1e-3)


def of_parameters(params, lr):
    return torch.optim.SGD(params, lr, momentum=0.9)


def rate(number):
    return 1 / (1 + number)
'''

DATA = """
import numpy as np
import torch


def pictures():
    draw = np.random.RandomState(1)
    images, classes = draw.randint(0, 255, (118, 8, 8, 3)).astype(np.uint8), draw.randint(0, 4, 118)
    return images[:100], classes[:100], images[100:], classes[100:]


def maps():
    images, _, tests, _ = pictures()
    wanted = [np.random.RandomState(2).randint(0, 3, (len(part), 8, 8)) for part in (images, tests)]
    for part in wanted:
        part[::2, :3] = -100
    return images, wanted[0], tests, wanted[1]


def filled():
    images, wanted, tests, others = maps()
    return images, wanted.clip(0), tests, others.clip(0)


def answers():
    numbers = np.random.randn(90, 6).astype(np.float32)
    return numbers[:70], (numbers[:70] > 0).astype(np.float32), numbers[70:], (numbers[70:] > 0).astype(np.float32)


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
    ("of_pixels", "maps", "cross-entropy"),
    ("of_pixels", "filled", "mse"),
    ("Answers", "answers", "bce-with-logits"),
    ("small", "pictures", "each_sample"),
    ("small", "pictures", "mean"),
    ("small", "pictures", "of_whole"),
    ("main", "sentences", "each_token"),
    ("main", "sentences", "mean_of_tokens"),
]


@pytest.mark.parametrize(("model", "data", "loss"), FORMS)
def test_a_script_makes_the_same_data_weights_losses_and_order(here, model, data, loss):
    """The proof is part of writing: a script that would differ is refused."""
    loss = loss if loss in LOSSES else f"{here}/exported_models.py:{loss}"
    text = script_of(here, cell_of(here, model, data, workload={"loss": loss}))
    assert "harness" not in text.lower().replace(str(here).lower(), "")
    compile(text, "script.py", "exec")


@pytest.mark.parametrize("strategy", ["single", "sync-ddp", "fsdp", "local-sgd"])
@pytest.mark.parametrize("micro", [8, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_script_is_formatted_and_without_slips(here, strategy, micro, precision):
    changes = {
        "optimizer": "adamw",
        "clip_norm": 1.0,
        "lr_schedule": "cosine",
        "lr_warmup": 0.5,
        "precision": precision,
    }
    cell = cell_of(here, "small", "pictures", strategy, sweep__micro_batch_size=[micro], workload=changes)
    text = script_of(here, cell)
    _check_formatted(text)
    assert len(text.splitlines()) < 190
    assert _bound(text) - names.MODULE_NAMES == {"small", "pictures"}


def _check_formatted(text: str) -> None:
    """Check layout and slips, and that no name that a script holds may hide a function of the user's."""
    pytest.importorskip("ruff")
    ruff, settings = [sys.executable, "-m", "ruff"], ["--line-length", "120", "-"]
    for command in (["format", "--diff"], ["check", "--isolated", "--select", "E,F,W,I,B"]):
        checked = subprocess.run([*ruff, *command, *settings], input=text, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    assert not _held(text) - names.LOCAL_NAMES, sorted(_held(text) - names.LOCAL_NAMES)


def _held(text: str) -> set[str]:
    """Return the names of what functions hold."""
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    inside = [node for function in functions for node in ast.walk(function)]
    stored = {node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.arg for node in inside if isinstance(node, ast.arg)}


def _bound(text: str) -> set[str]:
    """Return the names that a script imports and defines."""
    body = ast.parse(text).body
    imports = [alias for node in body if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    found = {(alias.asname or alias.name).partition(".")[0] for alias in imports}
    return found | {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_a_cell_in_fp64_has_a_script_in_fp64(here):
    cell = cell_of(here, "small", "pictures", workload={"precision": "fp64"})
    assert "return model.to(torch.float64)" in script_of(here, cell)


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


@pytest.mark.parametrize(
    ("model", "data", "stages", "lines"),
    [
        ("main", "sentences", [["embed", "mix"], ["drop"]], ['"embed.weight": (0, 1),', "BETWEEN = {"]),
        ("normed", "pictures", [["0", "1", "2", "3"], ["4", "5"]], ["def drawing("]),
        (
            "Twice",
            "pictures",
            [["rows"], ["block", "norm", "head"]],
            ['["block", "norm", "block", "head"]', '1: ["shift"]'],
        ),
        ("Twice", "pictures", [["rows", "block", "norm"], ["head"]], ['0: ["shift"],', "[(0, 0), (0, 1), (3, 0)]"]),
        ("Twice", "pictures", [["rows", "block"], ["norm", "head"]], ['"block.weight": (0, 1),', '["block", "head"]']),
    ],
)
def test_any_model_is_cut_between_its_calls(here, model, data, stages, lines):
    """The proof is part of writing: loss and gradients of the stages are those of the whole model."""
    split = {"name": "model-split", "schedule": "gpipe"}
    own = {
        "precision": "bf16" if model == "normed" else "fp32",
        "optimizer": f"{here}/exported_models.py:optimizer",
        "clip_norm": 1.0,
    }
    cell = cell_of(here, model, data, split, sweep__micro_batch_size=[8], workload=own)
    text = script_of(here, cell, placement=stages)
    assert all(line in text for line in lines), text
    _check_formatted(text)


@pytest.mark.parametrize("model", ["counting", "jittered"])
def test_what_a_script_computes_again_counts_once_and_draws_the_same(here, model):
    def step(recompute: bool):
        work = {"lr_schedule": "cosine"}
        cell = cell_of(here, model, "pictures", {"name": "fsdp", "recompute": recompute}, workload=work)
        text = script_of(here, cell)
        _check_formatted(text)
        script = ModuleType("exported_now")
        exec(text, script.__dict__)
        module, inputs = script.make_model(), script.samples("cpu")[0][:4]
        script.seed(1)
        script.forward(module, inputs).square().sum().backward()
        return [*(p.grad for p in module.parameters()), *module.buffers(), torch.tensor(np.random.rand())]

    assert all(map(torch.equal, step(recompute=False), step(recompute=True)))


def test_stages_are_those_that_were_recorded(here):
    cell = cell_of(here, "small", "pictures", {"name": "model-split", "schedule": "gpipe"}, sweep__micro_batch_size=[8])
    text = script_of(here, cell, placement=[["0", "1", "2"], ["3", "4", "5"]])
    assert '["0", "1", "2"],' in text
    assert "ScheduleGPipe" in text


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["sync-ps", "async-ps", "softsync", "hybrid", "zero-1"])
def test_strategies_without_a_counterpart_are_refused_with_the_reason(here, strategy):
    cell = replace(cell_of(here, "small", "pictures"), strategy=strategy)
    assert re.search("parameter server|grid of data|ZeroRedundancyOptimizer", why_not(cell))
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
        replace(work, loss="hinge"),
        replace(work, optimizer=replace(work.optimizer, name="lbfgs")),
        replace(work, lr_schedule=replace(work.lr_schedule, name="sawtooth")),
        replace(work, sync_batchnorm=True),
    ):
        assert "not written to scripts yet" in why_not(replace(cell, workload=changed))
    split = replace(cell, strategy="model-split", options={"schedule": "naive"})
    assert "torch has no schedule naive" in why_not(split)


def test_every_key_of_a_workload_is_written_or_refused():
    """A new key is decided on here: scripts follow it, or a cell that sets it is refused."""
    assert {field.name for field in fields(Workload)} - KNOWN_WORK == {
        "sync_batchnorm",
        "channels_last",
        "tf32",
        "gradients",
        "formats",
        "input",
    }


@pytest.mark.parametrize(
    ("model", "data", "strategy", "reason"),
    [
        ("careless", "rows", "single", "the first weights"),
        ("plain_numbers", "anything", "single", "in a form that scripts do not read"),
        ("small", "pictures", {"name": "model-split", "schedule": "1f1b"}, "no neighbouring layers"),
    ],
)
def test_what_a_script_would_do_otherwise_is_refused(here, model, data, strategy, reason):
    loss = {"loss": "mse"} if model in ("careless", "plain_numbers") else {}
    cell = cell_of(here, model, data, strategy, workload=loss)
    with pytest.raises(InputError, match=reason):
        script_of(here, cell, placement=[["0"], ["1"]])


@pytest.mark.parametrize(
    ("model", "schedule", "reason"),
    [("small", "interleaved-1f1b", "choose sizes that divide"), ("counting", "zb-1p", "BatchNorm counts what fills")],
)
def test_what_a_schedule_of_torch_cannot_run_is_refused(here, model, schedule, reason):
    split = {"name": "model-split", "schedule": schedule}
    cell = cell_of(here, model, "pictures", split, sweep__micro_batch_size=[2 if model == "small" else 4])
    with pytest.raises(InputError, match=reason):
        script_of(here, cell, placement=[["0", "1", "2"], ["3", "4", "5"]])


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
    losses = pd.read_csv("losses.csv")["loss"]
    assert f"step 0: loss {losses[0]:.4f}\n" in ran.stdout  # of the whole batch, not of the first device's part
    return _apart(pd.read_parquet(folder / "steps.parquet"), losses)


def _apart(steps, losses) -> float:
    """Return the largest difference of a step's loss; every device's row of every step is kept."""
    by_step = steps.dropna(subset="loss").groupby("step")["loss"].agg(["mean", "count"])
    assert by_step["count"].nunique() == 1
    return float((by_step["mean"] - losses.reindex(by_step.index)).abs().max())


@pytest.mark.dist
def test_exported_groups_have_the_losses_of_their_cell():
    """Four devices share two cores: the cell is shown and not ranked, and its script takes the same steps."""
    scenario = SCENARIO.replace("gpus = [1, 2]", "gpus = [4]").replace("[workload]", 'engine = "real"\n\n[workload]')
    scenario = re.sub("exclude = .*", "", scenario).replace("[16]", "[32]")
    apart = exported(scenario, MODEL="small", DATA="pictures", STRATEGIES='"hsdp"', WORK="clip_norm = 0.5")
    assert max(apart.values()) < 1e-5, apart


@pytest.mark.dist
def test_an_exported_script_has_the_losses_of_its_cell():
    """A pipeline with a tie, keyword inputs, dropout and ignored targets, all of whose parts are the user's own."""
    work = 'loss = "exported_models.py:mean_of_tokens"\nlr_schedule = "exported_models.py:rate"\nclip_norm = 1.0'
    scenario = SCENARIO.replace('{ name = "sgd", momentum = 0.9 }', '"exported_models.py:optimizer"')
    apart = exported(scenario, MODEL="main", DATA="sentences", STRATEGIES='"model-split"', WORK=work)
    assert max(apart.values()) < 1e-5, apart


LAUNCHER = """
import os, runpy, sys
rank, *runs = sys.argv[1:]
os.environ |= dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
for run in runs:
    script, os.environ["MASTER_PORT"] = run.split(":")
    sys.argv = [script, "--losses", f"{script}.{rank}.csv"]
    runpy.run_path(script, run_name="__main__")
assert not any(name.partition(".")[0] == "harness" for name in sys.modules)
"""
"""Runs scripts one after another in the same processes, which import torch once."""

OWN = {"optimizer": "optimizer", "lr_schedule": "rate"}
IN_ONE_START = {
    "single": ("plain_numbers", "rows", "single", {"loss": "mse", "lr_warmup": 1.0}),
    "ddp": ("normed", "pictures", "sync-ddp", {"loss": "each_sample", "clip_norm": 1.0}),
    "fsdp": ("of_pixels", "maps", "fsdp", OWN),
    "local": ("Answers", "answers", {"name": "local-sgd", "steps": 3}, {"loss": "bce-with-logits"}),
    "listed": ("small", "pictures", {"name": "model-split", "schedule": "gpipe"}, OWN),
    "calls": ("Twice", "pictures", {"name": "model-split", "schedule": "1f1b"}, {"loss": "mean", "clip_norm": 0.5}),
}
"""Model, data, strategy and what else the workload says."""


@pytest.mark.dist
@pytest.mark.slow
def test_scripts_of_every_strategy_have_the_losses_of_their_cells(here):
    """Cells are run on the virtual engine, which computes the same, and scripts in one start of two processes."""
    steps = {}
    for name, (model, data, strategy, work) in IN_ONE_START.items():
        own = {key: value if value in LOSSES else f"{here}/exported_models.py:{value}" for key, value in work.items()}
        own |= {key: value for key, value in work.items() if not isinstance(value, str)}
        cell = cell_of(here, model, data, strategy, sweep__micro_batch_size=[4], workload=own)
        outcome = engine.run_virtual(setups.make_setup(cell))
        steps[name] = pd.DataFrame(outcome.steps)
        script = making.make_script(cell, 9, outcome.facts["placement"], here / f"{name}.py", ())
        Path(f"{name}.py").write_text(script.text)
    Path("launcher.py").write_text(LAUNCHER)
    with ExitStack() as held:
        ports = [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in steps]
    runs = [f"{name}.py:{port}" for name, port in zip(steps, ports, strict=True)]
    started = [subprocess.Popen([sys.executable, "launcher.py", rank, *runs], stderr=subprocess.PIPE) for rank in "01"]
    ended = [process.communicate(timeout=120)[1].decode()[-2000:] for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    apart = {
        name: _apart(rows[rows["step"] < 9], pd.read_csv(f"{name}.py.0.csv")["loss"]) for name, rows in steps.items()
    }
    assert max(apart.values()) < 1e-5, apart


FOUR = '"single", "sync-ddp", "fsdp", "local-sgd"'


@pytest.mark.dist
@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "data", "strategies", "work"),
    [
        ("plain_numbers", "rows", f'{FOUR}, "model-split"', 'loss = "mse"\nlr_warmup = 1.0'),
        ("small", "pictures", f'{FOUR}, {{ name = "model-split", schedule = "1f1b" }}', 'lr_schedule = "cosine"'),
        (
            "small",
            "pictures",
            ", ".join(f'{{ name = "model-split", schedule = "{s}" }}' for s in PIPELINE_SCHEDULES),
            "",
        ),
        (
            "Twice",
            "pictures",
            ", ".join(f'{{ name = "model-split", schedule = "{s}" }}' for s in PIPELINE_SCHEDULES if s != "zb-1p"),
            'loss = "exported_models.py:mean"',
        ),
        ("normed", "pictures", f'{FOUR}, "model-split"', "clip_norm = 0.5"),
        ("counting", "pictures", '"model-split"', 'loss = "exported_models.py:each_sample"'),
        ("main", "sentences", f'{FOUR}, "model-split"', 'precision = "bf16"'),
        ("main", "sentences", FOUR, 'loss = "exported_models.py:each_token"'),
        ("of_pixels", "maps", f'{FOUR}, "model-split"', "clip_norm = 0.5"),
        ("of_pixels", "filled", f'{FOUR}, "model-split"', 'loss = "mse"'),
        ("Answers", "answers", f'{FOUR}, "model-split"', 'loss = "bce-with-logits"'),
        ("small", "pictures", '"zero-2", { name = "fsdp", recompute = true }', ""),
        ("main", "sentences", '{ name = "model-split", recompute = true }', ""),
        ("counting", "pictures", '"fsdp", { name = "fsdp", recompute = true }', ""),
    ],
)
def test_exported_scripts_have_the_losses_of_their_cells(model, data, strategies, work):
    apart = exported(SCENARIO, MODEL=model, DATA=data, STRATEGIES=strategies, WORK=work)
    assert max(apart.values()) < 1e-5, apart
