"""The cells that a strategy is checked by: planned as a scenario plans them, run as `harness run` runs them."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from harness.api.host import Host
from harness.api.strategy import Layout, Strategy
from harness.core.cell import Cell, Plan
from harness.core.errors import InputError
from harness.core.machine import Machine
from harness.core.records import Json
from harness.core.words import counted
from harness.engines.processes.forking import fork_server
from harness.engines.processes.launch import Result, run_cell
from harness.engines.shared.setup import make_strategy
from harness.engines.telemetry.probe import Sample, Target
from harness.engines.telemetry.sampler import Sampler
from harness.scenario.plan import make_plan
from harness.scenario.read import parse_scenario

TRIAL_SCENARIO = """\
name = "check"
[workload]
model = "mlp"
dataset = "digits"
precision = "fp64"
optimizer = { name = "sgd", momentum = 0.9 }
[goal]
target_accuracy = "none"
max_epochs = 1.1114
[sweep]
global_batch_size = 24
learning_rate = 0.02
[cluster]
device = { samples_per_second = 2000, batch_size = 24 }
inter_node = { bandwidth = "1 GB/s", latency = "50 us" }
overheads = false
[limits]
cell_timeout = "30 s"
"""
"""What every trial begins with. Digits has 1,293 training samples: 53 whole batches of 24, which 1, 2, 3, 4, 6 and 8
devices share evenly, then one of 21, which 2 and 4 cannot. 1.1114 epochs are 1,437 samples: sixty steps, which go past
it. Samples end a run rather than steps, so that no worker with data of its own leaves before the others. In fp64 what
is only rounding is far from what is a mistake."""

CHECKED_STEPS = 60
TRIAL_BATCH = 24
FIRST_EPOCH = 53
"""Whole batches of the first epoch; the one that follows them has `LAST` samples."""
LAST = 21

COUNTS = (1, 2, 3, 4, 6, 8)
"""Devices that a strategy is tried on: the fewest that it can use are taken."""

EVALUATED = "goal.evaluate_every=240"
"""Every ten steps; what nobody evaluates is only timed."""

ALWAYS_POSSIBLE = "sync-ddp"
"""Stands beside a strategy that may be left out: a plan without any cell is refused."""

CORES_FOR_ALL = Machine(cores=64)
"""Cores do not bound which cells there are: what is checked is what is computed, not how fast."""


@dataclass
class Trials:
    """The runs of one strategy; each cell is run once.

    Attributes:
        quick: leave out what is examined twice: on the other engine, on more devices, by longer runs.
        files: plugins to load beside those that are installed.
        sets: options of the strategy that the user has set, KEY=VALUE each.
        folder: where logs lie as long as the check runs.
    """

    name: str
    host: Host
    quick: bool = False
    files: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    around: ExitStack = field(default_factory=ExitStack)
    _ran: dict[str, Watched] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        """Where logs lie."""
        return Path(self.around.enter_context(tempfile.TemporaryDirectory(prefix="harness-check-")))

    @property
    def strategy(self) -> type[Strategy]:
        """The class that is checked."""
        return self.host.strategies[self.name]

    @property
    def samples(self) -> int:
        """Samples of all `CHECKED_STEPS`."""
        return (CHECKED_STEPS - 1) * TRIAL_BATCH + LAST

    # -- planning --------------------------------------------------------------------------------------------------

    def plan(self, *sets: str, strategies: Sequence[str] = (), table: str = "") -> Plan:
        """Return the plan of the trial scenario with keys set to other values, KEY=VALUE each.

        Args:
            sets: what changes.
            strategies: instead of the one that is checked.
            table: more TOML, at the scenario's end.

        Raises:
            HarnessError: what `harness plan` would say.
        """
        names = list(strategies) or [self.name]
        own = self.sets if self.name in names and not table else ()  # what is set would win over the table
        given = [f"sweep.strategy={json.dumps(names)}", *own, *sets]
        scenario = parse_scenario(TRIAL_SCENARIO + table, self.host, Path("check.toml"), given)
        return make_plan(scenario, self.host, CORES_FOR_ALL)

    def refuse_sets(self) -> None:
        """See whether what the user has set can be read at all, and means one strategy.

        Raises:
            InputError: it cannot, or gives several values to be swept.
        """
        both = list(dict.fromkeys((ALWAYS_POSSIBLE, self.name)))
        plan = self.plan("engine=virtual", "sweep.gpus=[2]", strategies=both)
        if sum(cell.strategy == self.name for cell in plan.cells) > 1:
            raise InputError([f"check: --set {' '.join(self.sets)}: one strategy is checked at a time; give one value"])

    @cached_property
    def possible(self) -> dict[int, str]:
        """Why the strategy cannot use a number of devices, by that number; empty where it can."""
        both = [*dict.fromkeys((ALWAYS_POSSIBLE, self.name))]
        found = {}
        for count in COUNTS:
            plan = self.plan("engine=virtual", f"sweep.gpus=[{count}]", strategies=both)
            reasons = [cell.not_possible for cell in plan.cells if cell.strategy == self.name]
            reasons += [item.reason for item in plan.left_out if item.strategy == self.name]
            found[count] = reasons[0]
        return found

    @property
    def alone(self) -> bool:
        """Whether one device will do."""
        return not self.possible[1]

    @property
    def few(self) -> int:
        """Return the fewest devices, above one, that it can use; one where it can use no more."""
        return next((count for count in COUNTS[1:] if not self.possible[count]), 1)

    @property
    def several(self) -> int:
        """Return three devices where it can use them, so that no order comes out right by chance; else the fewest."""
        return 3 if not self.possible[3] else self.few

    def cell(self, engine: str, gpus: int, *sets: str, strategy: str = "") -> Cell:
        """Return one cell, with keys set to other values."""
        of_pipelines = (
            [f"micro_batch_size={TRIAL_BATCH // 4}"] if not strategy and self.layout(gpus).pipeline > 1 else []
        )
        given = (f"engine={engine}", f"sweep.gpus=[{gpus}]", EVALUATED, *of_pipelines, *sets)
        (cell,) = self.plan(*given, strategies=(strategy,) if strategy else ()).cells
        return cell

    def layout(self, gpus: int) -> Layout:
        """Return how the strategy spreads a step over so many devices, with the options that were set."""
        (cell,) = self.plan("engine=virtual", f"sweep.gpus=[{gpus}]", EVALUATED).cells
        return make_strategy(self.host, cell).layout(gpus)

    # -- running ---------------------------------------------------------------------------------------------------

    def run(self, cell: Cell, **options: object) -> Result:
        """Run a cell in processes of its own; the same one is run once.

        Args:
            cell: what to run.
            options: of the engine, such as the deliveries of a real run to replay.
        """
        return self.watched(cell, False, **options).result

    def watched(self, cell: Cell, memory: bool = False, **options: object) -> Watched:
        """Run a cell, and say what its processes were and did.

        Args:
            cell: what to run.
            memory: whether to sample the memory of its processes meanwhile.
            options: of the engine.
        """
        # On the virtual cluster gradients are computed one by one, as real devices compute them: bit for bit.
        apart: Json = {"merge": False} if cell.engine == "virtual" else {}
        asked: Json = {"keep_weights": True, **apart, **options}
        key = f"{cell.cell_id} {asked} {memory}"
        if key not in self._ran:
            self._ran[key] = self._run(cell, asked, memory)
        return self._ran[key]

    def _run(self, cell: Cell, options: Json, memory: bool) -> Watched:
        pids: list[int] = []
        log, began = self.folder / f"{len(self._ran)}.log", [time.monotonic()]
        with ExitStack() as sampling:
            samplers: list[Sampler] = []

            def started(targets: list[tuple[int, str, str]]) -> None:
                began.append(time.monotonic())
                pids.extend(pid for pid, *_ in targets)
                if memory:
                    samplers.append(_sampler(cell, [Target(*each) for each in targets]))
                    sampling.callback(samplers[0].stop, STOP_S)

            result = run_cell(cell, self.files, log=str(log), options=options, on_start=started)
            took_s = time.monotonic() - began[-1]
            samples = samplers[0].stop(STOP_S).samples if samplers else []
        return Watched(result, tuple(pids), took_s, tuple(samples))


SAMPLED_S = 0.02
"""Between two readings of memory: what the probe is made for at least."""

STOP_S = 5.0
"""To wait for the sampler's answer; chosen, as `harness run` waits."""


@dataclass(frozen=True)
class Watched:
    """A cell that ran.

    Attributes:
        pids: of its processes.
        took_s: on the wall clock, from when all processes are ready until the last has ended.
        memory: samples of its processes' memory, where they were asked for.
    """

    result: Result
    pids: tuple[int, ...]
    took_s: float
    memory: tuple[Sample, ...] = ()


def _sampler(cell: Cell, targets: Sequence[Target]) -> Sampler:
    found = Sampler(fork_server(cell), targets, SAMPLED_S, ["host"])
    found.start()
    found.ready(STOP_S)
    return found


def in_words(cell: Cell) -> str:
    """Say which run a cell is."""
    engine = "on real processes" if cell.engine == "real" else "on the virtual cluster"
    return f"{cell.strategy} on {counted(cell.gpus, 'device')}, {engine}"
