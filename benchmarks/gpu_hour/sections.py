"""The sections of the first hour on a GPU, the most important first. Each imports what is heavy when it runs.

Each writes a scenario and lets `harness run` run it, as a user would, and judges what the records say.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from hour import GRACE_S, Notebook, Section, Verdict, how_it_ended
from machine import FOR_TESTS, ROOT, lacking, requirements

if TYPE_CHECKING:
    from harness.core.cell import Cell
    from harness.results.store import Record

KEPT_S = 4.0
"""Of a section's time that `harness run` may not use: it draws its report after its last cell. Chosen."""

MIB = 2**20


@dataclass(frozen=True)
class Sizes:
    """How much is computed.

    Attributes:
        seconds: of each small cell, and of each known load.
        models: the small networks.
        batch: of the small networks; big_batch: of resnet50; text_batch: of the GPTs.
        small_batches: of the small networks' data; every data set has whole batches only, else the last one of a pass
            would count among the steps that are timed.
        steps: of a cell whose overhead is measured; rounds: how often.
        side: of the matrices; block_bytes: that is allocated, and copied.
        image, classes: of resnet50's data; big_steps: of the large models.
        gpts: options of the two GPTs.
        sequence, vocabulary: of their text.
        published: parameters of the first one; 0: of none that was published.
        threads: of a process that builds a large model.
    """

    seconds: float
    models: tuple[str, ...]
    batch: int
    small_batches: int
    steps: int
    rounds: int
    side: int
    block_bytes: int
    image: int
    classes: int
    big_batch: int
    big_steps: int
    gpts: tuple[str, str]
    text_batch: int
    sequence: int
    vocabulary: int
    published: int
    threads: int


SIZES = {
    "full": Sizes(
        seconds=4.0, models=("lenet5", "resnet18"), batch=128, small_batches=64, steps=3000, rounds=3, side=8192,
        block_bytes=2**32, image=224, classes=1000, big_batch=256, big_steps=30,
        gpts=('size = "small"', 'size = "xl"'), text_batch=8, sequence=1024, vocabulary=50257, published=124_439_808,
        threads=8,
    ),
    "tiny": Sizes(
        seconds=1.0, models=("lenet5",), batch=16, small_batches=16, steps=60, rounds=1, side=256,
        block_bytes=2**24, image=32, classes=10, big_batch=4, big_steps=6,
        gpts=("layers = 2, hidden = 32, heads = 2", "layers = 4, hidden = 64, heads = 4"), text_batch=2, sequence=32,
        vocabulary=64, published=0, threads=1,
    ),
}  # fmt: skip


@dataclass
class Look:
    """What a section is given.

    Attributes:
        device: "cuda" or "cpu".
        folder: where everything is written.
        until_s: end of its time, on the clock of `time.monotonic`.
    """

    device: str
    sizes: Sizes
    folder: Path
    notes: Notebook
    until_s: float

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU to look at."""
        return self.device == "cuda"

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.until_s - time.monotonic()

    def cells(self, name: str, text: str) -> list[Record]:
        """Run a scenario as a user would, and return its records; what did not finish is written down."""
        from harness.results.store import Results

        path = self.folder / "scenarios" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.strip() + "\n", encoding="utf-8")
        budget = f"{max(1.0, self.left_s - KEPT_S):.0f} s"
        command = [sys.executable, "-m", "harness", "run", str(path), "--results", str(self.folder)]
        log = self.folder / "logs" / f"{self.notes.section}-{name}.txt"
        with log.open("w", encoding="utf-8") as output:
            done = subprocess.run([*command, "--budget", budget], stdout=output, stderr=subprocess.STDOUT)
        plan = self.folder / name / "plan.json"
        if not plan.is_file():
            self.notes.failed(f"harness run {path.name}", how_it_ended(done.returncode, log))
            return []
        results = Results(plan.parent)
        records = results.records()
        for cell in results.plan().cells:
            record = records.get(cell.cell_id)
            if record is None:
                self.notes.not_run(in_words(cell), f"no time was left of the budget of {budget}")
            elif not record.status.trained:
                self.notes.failed(in_words(cell), f"{record.status}: {record.reason}")
        return [record for record in records.values() if record.status.trained]


def samples_for(trained: int) -> int:
    """Return how many samples a data set must have so that so many are trained on: the others are for validation."""
    from harness.core.budget import Goal
    from harness.workloads.entries import training_size

    sizes = range(trained, 2 * trained + 2)
    return next(size for size in sizes if training_size(size, Goal().validation_fraction) == trained)


def in_words(cell: Cell) -> str:
    """Return a cell as findings name it."""
    options = cell.workload.model.options
    size = f" {options['size']}" if cell.workload.model.name == "gpt" else ""
    workers = f" x {cell.gpus}" if cell.gpus > 1 else ""
    return f"{cell.workload.model.name}{size} {cell.strategy}{workers}"


def own_device(device: str) -> Any:
    """Return the first device of that kind, as torch has it."""
    import torch

    return torch.device("cuda", 0) if device == "cuda" else torch.device(device)


# -- a: the tests ------------------------------------------------------------------------------------------------------


def tests(look: Look) -> None:
    """Run the tests that only a GPU can run, and write down what they bear out."""
    if not look.on_gpu:
        return look.notes.not_run("tests marked gpu", "they need a GPU")
    missing = lacking(requirements()[1])
    if missing:
        return look.notes.not_run("tests marked gpu", f"missing are {' and '.join(FOR_TESTS)}: bring their wheels")
    files = files_with_gpu_tests()
    report = look.folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", f"--junit-xml={report}", "-p", "no:cacheprovider"]
    asked_to_stop = not _ends_by_itself([*command, *map(str, files)])
    if report.is_file():
        read_tests(report, look.notes)
    else:
        look.notes.failed("tests marked gpu", "pytest wrote no report; the section's log says why")
    if asked_to_stop:
        raise KeyboardInterrupt


def _ends_by_itself(command: list[str]) -> bool:
    """Run a program to its end; where the section is asked to stop, so is the program, which says what it has done."""
    with subprocess.Popen(command, cwd=ROOT) as program:
        try:
            program.wait()
        except KeyboardInterrupt:
            program.wait(GRACE_S / 2)
            return False
    return True


def files_with_gpu_tests() -> list[Path]:
    """Return the files that have some: collecting all others would need what only they import."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    return [path for path in found if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]


def read_tests(report: Path, notes: Notebook) -> None:
    """Write down each test of a JUnit report; a test names what it bears out in a property called confirms."""
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        bad = [item for item in case if item.tag in ("failure", "error")]
        skipped = [item for item in case if item.tag == "skipped"]
        properties = case.iter("property")
        ids = [p.get("value", "") for p in properties if p.get("name") == "confirms"]
        if bad:
            notes.failed(name, bad[0].text or bad[0].get("message", ""))
        elif skipped:
            notes.not_run(name, skipped[0].get("message", ""))
        else:
            notes.holds(name, True, confirms=ids)


# -- b: what is sampled ------------------------------------------------------------------------------------------------

SMALL = """
device = "{device}"
engine = "{engine}"
[workload]
model = "{model}"
dataset = {{ name = "synthetic", samples = {samples}, channels = 3, size = 32 }}
[sweep]
strategy = ["single", "async-ps"]
batch_size = [{batch}]
learning_rate = [0.01]
gpus = [1, 2]
exclude = [
  {{ strategy = "single", gpus = 2 }},
  {{ strategy = "async-ps", gpus = 1 }},
]
[goal]
target_accuracy = "none"
max_seconds = {seconds}
[limits]
cell_timeout = "60 s"
"""


def small_samples(sizes: Sizes) -> int:
    """Return the samples of the small networks' data."""
    return samples_for(sizes.small_batches * sizes.batch)


def small_cells(look: Look, model: str, engine: str) -> list[Record]:
    """Run a small network: alone, and by two asynchronous workers that share the device."""
    sizes = look.sizes
    values = {"samples": small_samples(sizes), "batch": sizes.batch, "seconds": sizes.seconds}
    return look.cells(model, SMALL.format(device=look.device, engine=engine, model=model, **values))


def telemetry(look: Look) -> None:
    """Compare what is sampled with loads that are known, then sample cells."""
    known_loads(look)
    for model in look.sizes.models:
        for record in small_cells(look, model, "real"):
            _sampled_cell(look, record)


def _sampled_cell(look: Look, record: Record) -> None:
    name, row, notes = in_words(record.cell), record.row, look.notes
    notes.seen(f"{name}: throughput", row["throughput_samples_per_s"], "samples/s")
    notes.holds(f"{name}: runs in processes of its own", True, confirms=["fork-server"])
    told = (record.detail or {}).get("telemetry", {})
    _missing_probes(look, name, told.get("unavailable", {}))
    if not look.on_gpu:
        return notes.seen(f"{name}: largest process", row["host_rss_peak_bytes"] / MIB, "MiB")
    for note in told.get("notes", ()):
        notes.add(f"{name}: a probe says", Verdict.SEEN, why=note)
    for key, unit in (("nvml_utilisation_mean", "%"), ("busy_fraction", "%"), ("energy_j", "J")):
        if row.get(key) is None:
            notes.failed(f"{name}: {key}", "it was not measured")
        else:
            notes.seen(f"{name}: {key}", row[key], unit)
    reserved, used = row.get("dram_reserved_peak_bytes"), row.get("nvml_used_peak_bytes")
    if reserved and used:
        holds = f"{name}: NVML counts at least what the allocator holds"
        notes.holds(holds, used >= reserved, confirms=["nvml-memory"])
        if record.cell.gpus == 1:
            _context(look, name, (used - reserved) / MIB)


def _context(look: Look, name: str, beside: float) -> None:
    """Judge what a process takes of a GPU beside its tensors by what predictions add; a fifth: chosen."""
    from harness.costs.memory import CUDA

    what = f"{name}: memory that NVML counts beside the allocator's"
    look.notes.within(what, beside, CUDA.context_bytes / MIB, 0.2, "MiB", confirms=["context-memory"])


def _missing_probes(look: Look, what: str, unavailable: Mapping[str, str]) -> None:
    """Write down which of the probes that have to answer did not."""
    for probe in ("host", "nvml") if look.on_gpu else ("host",):
        if probe in unavailable:
            look.notes.failed(f"{what}: probe {probe}", unavailable[probe])


def known_loads(look: Look) -> None:
    """Let the device work half of the time, and compare what the probes say."""
    from loads import copying, half_of_the_time, product, sampled

    device, sizes, notes = own_device(look.device), look.sizes, look.notes
    with sampled(device) as stop:
        time.sleep(0.3)
        work = product(device, sizes.side)
        load = half_of_the_time(work, device, sizes.seconds)
        copies = half_of_the_time(copying(device, sizes.block_bytes), device, sizes.seconds) if look.on_gpu else None
        block = _allocated(device, sizes.block_bytes) if look.on_gpu else None
        telemetry = stop()
    series = Series(telemetry.samples)
    _missing_probes(look, "known load", telemetry.unavailable)
    notes.seen("known load: share of the time at work", load.duty, "%")
    if not look.on_gpu:
        cores = series.mean("host_cpu", load.began_s, load.ended_s)
        return _near(notes, "known load: CPU cores that the system counts", cores, load.cores, "cores")
    seen = series.mean("nvml_gpu_utilisation", load.began_s + 1, load.ended_s)
    _near(notes, "known load: NVML's utilisation", seen, load.duty, confirms=["nvml-utilisation"])
    seen = series.mean("nvml_sm_activity", load.began_s + 1, load.ended_s)
    _near(notes, "known load: GPM's SM activity", seen, load.duty, confirms=["gpm"])
    energy = series.rise("nvml_energy", load.began_s, load.ended_s)
    power = series.mean("nvml_power", load.began_s, load.ended_s)
    if energy is None or power is None:
        notes.failed("known load: energy", "the driver tells no energy, or no power")
    else:
        watts = "known load: energy counter over its time, against the mean of the power samples"
        notes.within(watts, energy / load.seconds, power, 0.1, "W", confirms=["energy"])
    if copies is not None:
        _dram_traffic(look, series, copies)
    if block is not None:
        _memory_of_block(notes, series, *block)


def _near(
    notes: Notebook, what: str, value: float | None, true: float, unit: str = "%", confirms: Sequence[str] = ()
) -> None:
    """Judge a mean of samples by what the load is known to have been; a tenth: chosen, samples have their edges."""
    if value is None:
        notes.failed(what, "no sample was taken")
    else:
        notes.within(what, value, true, 0.1, unit, confirms)


NOT_IN_CATALOGUE = "the catalogue does not know this GPU"


def catalogue_bandwidth() -> float | None:
    """Return the bytes per second of this GPU's memory by its data sheet."""
    from harness.api.host import load_host
    from harness.core.machine import detect_machine
    from harness.costs.catalogue import find_devices

    found = find_devices(detect_machine().gpu_name, load_host().devices.values())[1]
    return found[0].memory_bandwidth_bytes_per_s if found else None


def _dram_traffic(look: Look, series: Series, copies: Any) -> None:
    bandwidth, what = catalogue_bandwidth(), "known copies: GPM's DRAM bandwidth"
    if bandwidth is None:
        return look.notes.not_run(what, NOT_IN_CATALOGUE)
    share = 2 * look.sizes.block_bytes * copies.times / copies.seconds / bandwidth
    value = series.mean("nvml_dram_bandwidth_utilisation", copies.began_s + 1, copies.ended_s)
    _near(look.notes, what, value, share, confirms=["gpm"])


def _allocated(device: Any, num_bytes: int) -> tuple[float, float, int]:
    """Allocate a block and hold it; return when it was not yet there, when it was, and the allocator's difference."""
    import torch

    module = torch.get_device_module(device)
    module.empty_cache()
    before_s, before = time.monotonic(), module.memory_reserved(device)
    time.sleep(0.5)
    block = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    module.synchronize(device)
    reserved, there_s = module.memory_reserved(device) - before, time.monotonic()
    time.sleep(0.5)
    del block
    return before_s, there_s, reserved


def _memory_of_block(notes: Notebook, series: Series, before_s: float, there_s: float, reserved: int) -> None:
    before, after = (series.mean("nvml_used", start, start + 0.45) for start in (before_s, there_s))
    if before is None or after is None:
        return notes.failed("known block: NVML's memory", "no sample was taken")
    what = "known block: NVML's memory, against the allocator's"
    notes.within(what, (after - before) / MIB, reserved / MIB, 0.01, "MiB", confirms=["nvml-memory"])


class Series:
    """Samples of a telemetry, by what they are of."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self.samples = samples

    def _between(self, quantity: str, start: float, end: float) -> list[float]:
        return [s.value for s in self.samples if s.quantity == quantity and start <= s.time_s <= end]

    def mean(self, quantity: str, start: float, end: float) -> float | None:
        """Return the mean of a quantity's samples between two moments; None without any."""
        values = self._between(quantity, start, end)
        return statistics.fmean(values) if values else None

    def rise(self, quantity: str, start: float, end: float) -> float | None:
        """Return by how much a counter rose between its first and last sample there, as if over all of the time."""
        found = [(s.time_s, s.value) for s in self.samples if s.quantity == quantity and start <= s.time_s <= end]
        if len(found) < 2 or found[-1][0] <= found[0][0]:
            return None
        return (found[-1][1] - found[0][1]) * (end - start) / (found[-1][0] - found[0][0])


# -- c: overhead -------------------------------------------------------------------------------------------------------

OVERHEAD = """
device = "{device}"
engine = "real"
[workload]
model = "{model}"
dataset = {{ name = "synthetic", samples = {samples}, channels = 3, size = 32 }}
{step}
[sweep]
strategy = ["single"]
global_batch_size = [{batch}]
learning_rate = [0.01]
gpus = [1]
[goal]
target_accuracy = "none"
max_steps = {steps}
"""


def overhead(look: Look) -> None:
    """Compare `single` with the shortest loop in turn, then with itself as a CUDA graph."""
    from harness.engines.shared.setup import make_setup

    cell = overhead_cell(look, "lenet5")
    cell_rate(cell)  # starts what processes are forked from, before this one uses the device
    setup = make_setup(cell, (), str(own_device(look.device)))
    ratios, eager = [], []
    for _ in range(look.sizes.rounds):
        before = plain_rate(look, setup)
        eager.append(cell_rate(cell))
        ratios.append(2 * eager[-1] / (before + plain_rate(look, setup)))
        if look.left_s < 15:
            break
    what = f"lenet5 single over the shortest loop, median of {len(ratios)}"
    look.notes.at_least(what, statistics.median(ratios), 0.98, confirms=["event-cost"])
    if not offers_step("cuda-graph"):
        return look.notes.not_run("lenet5 as a CUDA graph", "workload.step has no cuda-graph in this version")
    if not look.on_gpu:
        return look.notes.not_run("lenet5 as a CUDA graph", "it needs a GPU")
    graph = cell_rate(overhead_cell(look, "lenet5", "cuda-graph"))
    look.notes.at_least("lenet5 as a CUDA graph over eager", graph / statistics.median(eager), 1.0)


def offers_step(word: str) -> bool:
    """Whether this version can execute a step in a way."""
    from harness.scenario.schema import WorkloadSection

    key = WorkloadSection.model_json_schema()["properties"]["step"]
    return word in key.get("enum", ()) or key.get("const") == word


def overhead_cell(look: Look, model: str, step: str = "eager") -> Cell:
    """Return a cell that only trains."""
    from harness.api.host import load_host
    from harness.core.machine import detect_machine
    from harness.scenario.plan import make_plan
    from harness.scenario.read import parse_scenario

    sizes, host = look.sizes, load_host()
    written = "" if step == "eager" else f'step = "{step}"'
    values = {"batch": sizes.batch, "samples": small_samples(sizes), "steps": sizes.steps, "step": written}
    text = OVERHEAD.format(device=look.device, model=model, **values)
    (cell,) = make_plan(parse_scenario(text, host, Path("overhead.toml")), host, detect_machine()).cells
    return cell


def cell_rate(cell: Cell) -> float:
    """Return samples per second of a cell in processes of its own.

    Raises:
        RuntimeError: it did not finish; the message is the cell's reason.
    """
    from harness.analysis.cell_row import speed_row
    from harness.engines.processes.launch import run_cell

    result = run_cell(cell)
    if not result.finished or result.outcome is None:
        raise RuntimeError(f"{in_words(cell)}, {cell.workload.step}: {result.reason}")
    return float(speed_row(cell, result.outcome)["throughput_samples_per_s"] or 0.0)


def plain_rate(look: Look, setup: Any) -> float:
    """Return samples per second of the shortest loop, over the model and the data of a cell."""
    from loads import shortest_loop
    from torch import nn

    cell, train = setup.cell, setup.data.train
    model = setup.replica().module.train()
    data = train.inputs, train.targets
    return shortest_loop(model, nn.CrossEntropyLoss(), data, cell.batch_size, cell.learning_rate, look.sizes.steps)


# -- d: predictions ----------------------------------------------------------------------------------------------------


def predictions(look: Look) -> None:
    """Measure profiles, predict the cells of section b from them, and compare."""
    for model in look.sizes.models:
        for real, virtual in twins(small_cells(look, model, "both")):
            _predicted(look, in_words(real.cell), real, virtual)
            if look.on_gpu and real.cell.strategy == "single":
                _bandwidth_of_profile(look, model, virtual.cell)


def _bandwidth_of_profile(look: Look, model: str, cell: Cell) -> None:
    """Judge the copy that profiles measure by the data sheet, of which copies reach 0.75 to 0.92."""
    from harness.core.machine import detect_machine
    from harness.costs.cells import load_profile

    profile, bandwidth = load_profile(cell, detect_machine()), catalogue_bandwidth()
    what = f"{model}: bandwidth of its profile over the data sheet's"
    if profile is None or bandwidth is None:
        return look.notes.not_run(what, NOT_IN_CATALOGUE if profile else "no profile was measured")
    reached = profile.memory_bandwidth_bytes_per_s / bandwidth
    look.notes.at_least(what, reached, 0.75, "%", confirms=["bandwidth-probe"])


def _predicted(look: Look, name: str, real: Record, virtual: Record) -> None:
    shared = "; two workers share the device, of which a prediction gives each one" if real.cell.oversubscribed else ""
    values = 1e3 * virtual.row["step_time_s"], 1e3 * real.row["step_time_s"]
    look.notes.within(f"{name}: predicted step{shared}", *values, 0.05, "ms", confirms=["profile-time"])
    _memory_predicted(look, name, real, virtual)


def twins(records: Sequence[Record]) -> Iterator[tuple[Record, Record]]:
    """Yield real and simulated cells of one point."""
    from harness.analysis.points import point_of_twins

    found: dict[object, dict[str, Record]] = {}
    for record in records:
        found.setdefault(point_of_twins(record.row), {})[record.cell.engine] = record
    yield from ((pair["real"], pair["virtual"]) for pair in found.values() if len(pair) == 2)


def _memory_predicted(look: Look, name: str, real: Record, virtual: Record) -> None:
    if not look.on_gpu:
        return look.notes.not_run(f"{name}: predicted memory", "a CPU has no allocator that counts")
    memory = (virtual.detail or {}).get("facts", {}).get("memory", {})
    for kind in ("allocated", "reserved"):
        predicted, measured = memory.get(f"{kind}_bytes"), real.row.get(f"dram_{kind}_peak_bytes")
        if not predicted or not measured:
            look.notes.failed(f"{name}: {kind} memory", "it was not predicted, or not measured")
            continue
        values = predicted / MIB, measured / MIB
        what = f"{name}: predicted {kind} memory"
        look.notes.within(what, *values, 0.02, "MiB", confirms=["reserved-of-training"] if kind == "reserved" else [])


# -- e: large models ---------------------------------------------------------------------------------------------------

LARGE = """
device = "{device}"
engine = "real"
threads_per_device = {threads}
[workload]
model = {model}
dataset = {dataset}
optimizer = "{optimizer}"
precision = "bf16"
[sweep]
strategy = ["single"]
global_batch_size = [{batch}]
learning_rate = [0.0001]
gpus = [1]
[goal]
target_accuracy = "none"
max_steps = {steps}
[limits]
cell_timeout = "120 s"
"""


def large_models(look: Look) -> None:
    """Train resnet50, a GPT of 124 million parameters and one of 1.3 billion in bf16, and say what share they reach."""
    sizes = look.sizes
    images = f'{{ name = "synthetic", samples = {samples_for(2 * sizes.big_batch)}, test_samples = 8, channels = 3, '
    images += f"size = {sizes.image}, classes = {sizes.classes} }}"
    text = f'{{ name = "tokens", samples = {samples_for(8 * sizes.text_batch)}, test_samples = 8, '
    text += f"sequence = {sizes.sequence}, vocabulary = {sizes.vocabulary} }}"
    small, large = (f'{{ name = "gpt", {options} }}' for options in sizes.gpts)
    for name, model, dataset, batch, optimizer in (
        ("resnet50", '"resnet50"', images, sizes.big_batch, "sgd"),
        ("gpt-small", small, text, 2 * sizes.text_batch, "adamw"),
        ("gpt-xl", large, text, sizes.text_batch, "adamw"),
    ):
        values = {"batch": batch, "steps": sizes.big_steps, "threads": sizes.threads, "optimizer": optimizer}
        for record in look.cells(name, LARGE.format(device=look.device, model=model, dataset=dataset, **values)):
            _large(look, name, record)


def _large(look: Look, name: str, record: Record) -> None:
    notes, row = look.notes, record.row
    notes.seen(f"{name}: throughput", row["throughput_samples_per_s"], "samples/s")
    facts = (record.detail or {}).get("facts", {})
    layers = facts.get("memory", {}).get("layers", ())
    count = sum(layer["parameters"] for layer in layers) // 4
    notes.seen(f"{name}: parameters", count)
    if name == "gpt-small" and look.sizes.published:
        notes.holds(f"{name}: as many as were published", count == look.sizes.published)
    if not look.on_gpu:
        return notes.not_run(f"{name}: MFU", "the peak of a CPU is in no data sheet of the catalogue")
    if row.get("mfu") is None:
        return notes.failed(f"{name}: MFU", "the catalogue does not know this GPU, or the model could not be traced")
    found = facts["utilisation"]
    why = f"of {found['peak_flops_per_s'] / 1e12:,.4g} Tflop/s in {found['arithmetic']}: {found['source']}"
    notes.seen(f"{name}: MFU", row["mfu"], "%", why=why)
    notes.seen(f"{name}: reserved memory", row["dram_reserved_peak_bytes"] / MIB, "MiB")


# -- f: compiled steps -------------------------------------------------------------------------------------------------


def compiled(look: Look) -> None:
    """Compare compiled steps with eager ones."""
    if not offers_step("compiled"):
        return look.notes.not_run("compiled steps", "workload.step has no compiled in this version")
    asked = ("CC", "gcc", "cc", "clang") if look.on_gpu else ("CXX", "g++")  # of Triton; of torch's own C++
    if not any(shutil.which(os.environ.get(name, name)) for name in asked):
        return look.notes.not_run("compiled steps", f"torch.compile needs a compiler, such as {asked[1]}")
    for model in look.sizes.models:
        eager = cell_rate(overhead_cell(look, model))
        ratio = cell_rate(overhead_cell(look, model, "compiled")) / eager
        look.notes.seen(f"{model}: compiled over eager", ratio)


SECTIONS = (
    Section("a", "the tests that need a GPU", 105, tests),
    Section("b", "telemetry against known loads, and of small cells", 85, telemetry),
    Section("c", "overhead against the shortest loop", 50, overhead),
    Section("d", "predicted against measured", 70, predictions),
    Section("e", "large models in bf16", 115, large_models),
    Section("f", "compiled steps", 45, compiled),
)
"""In the order in which they run. Seconds are of 8 minutes, of which 10 are kept for the page."""
