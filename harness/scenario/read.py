"""Read a scenario: TOML text to a `Scenario` in which every value holds, or all of its mistakes at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.cell import Observation
from harness.core.errors import InputError
from harness.core.outside_files import read_outside
from harness.core.records import Json
from harness.core.slurm_options import SITES_OWN, SlurmOptions
from harness.core.words import exact_duration, exact_size
from harness.scenario.mistakes import Source, parse_toml
from harness.scenario.observed import read_observed
from harness.scenario.override import apply_sets
from harness.scenario.resolve_cluster import cluster_in_words
from harness.scenario.schema import LimitsSection, SlurmSection, key_paths
from harness.scenario.settings import Settings, read_settings
from harness.scenario.sweep import MOST_CELLS, Axes, Variant, read_axes
from harness.scenario.synonyms import path_as_registered
from harness.scenario.value_types import FOLDER_NAME
from harness.workloads.user_files import is_user_function

if TYPE_CHECKING:
    from harness.api.host import Host


@dataclass(frozen=True)
class Point:
    """One element of the sweep's product, without its seed."""

    variant: Variant
    settings: Settings
    gpus: int
    batch: int | str
    micro: int | None
    learning_rate: float | None
    lr_scaling: str


@dataclass(frozen=True)
class Scenario:
    """A scenario in which every value holds.

    Attributes:
        name: folder under results/.
        folder: what relative paths in it are relative to.
        settings: one for each combination of keys swept by their path; one where there is none.
        budget_s: wall clock of the whole run, or None.
        reference_runs: runs of the reference beside the cells.
        observed: measurements from elsewhere.
        understood: quantities with units, as written and as read.
        slurm: what the executor slurm asks for.
        source: words problems that the plan finds, with their lines.
    """

    name: str
    description: str
    folder: Path
    plugins: tuple[str, ...]
    settings: tuple[Settings, ...]
    axes: Axes
    budget_s: float | None
    understood: tuple[str, ...]
    source: Source = field(repr=False, compare=False)
    observed: tuple[Observation, ...] = ()
    reference_runs: int = 0
    slurm: SlurmOptions = SITES_OWN

    def points(self, gpus: Sequence[int]) -> Iterator[Point]:
        """Yield the product of the axes, exclusions included.

        Args:
            gpus: device counts where the scenario gives none.
        """
        axes = self.axes
        product = itertools.product(
            axes.variants,
            self.settings,
            axes.gpus or tuple(gpus),
            axes.batches,
            axes.micros,
            axes.learning_rates,
            axes.lr_scalings,
        )
        return (Point(*parts) for parts in product)

    def excludes(self, point: Point) -> int | None:
        """Return which entry of sweep.exclude leaves the point out, from 0, or None."""
        for place, entry in enumerate(self.axes.exclude):
            if all(self._value(point, key) in allowed for key, allowed in entry.items()):
                return place
        return None

    def _value(self, point: Point, key: str) -> object:
        own = {
            "strategy": point.variant.strategy,
            "gpus": point.gpus,
            self.axes.batch_key: point.batch,
            self.axes.micro_key: point.micro,
            "learning_rate": point.learning_rate or point.settings.learning_rate,
            "lr_scaling": point.lr_scaling,
        }
        if key.startswith("strategy."):
            _, name, option = key.split(".", 2)
            return point.variant.options.get(option) if name == point.variant.strategy else None
        return own.get(key, point.settings.swept.get(key))


def read_text(path: Path) -> str:
    """Return a scenario file's text.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_outside(path).decode("utf-8-sig")  # an editor may have put a byte order mark before it
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError([f"cannot be read: {reason}; give the path of a scenario file (.toml)"], str(path)) from None


def plugins_of(path: Path, sets: Sequence[str] = ()) -> tuple[Path, ...]:
    """Return the plugin files and folders that a scenario names, for the host to load before the scenario is read.

    Raises:
        InputError: the file cannot be read, or is not TOML. Other mistakes wait for `load_scenario`.
    """
    content, source = parse_toml(read_text(path), str(path))
    apply_sets(content, sets, key_paths(), source)
    named = content.get("plugins", [])
    named = [named] if isinstance(named, str) else named
    return tuple(path.parent / item for item in named if isinstance(item, str)) if isinstance(named, list) else ()


def load_scenario(path: Path, host: Host, sets: Sequence[str] = ()) -> Scenario:
    """Read a scenario file.

    Args:
        path: the TOML file.
        host: strategies, models and data sets that it may name.
        sets: what `--set` gave, KEY=VALUE each.

    Raises:
        InputError: something in it is wrong; all mistakes are in it.
    """
    return parse_scenario(read_text(path), host, path, sets)


def parse_scenario(text: str, host: Host, path: Path, sets: Sequence[str] = ()) -> Scenario:
    """Read a scenario from its text; `path` gives its name, the folder of its files, and the head of messages.

    Raises:
        InputError: something in it is wrong; all mistakes are in it.
    """
    content, source = parse_toml(text, str(path))
    apply_sets(content, [path_as_registered(each, host) for each in sets], [*key_paths(), *_option_paths(host)], source)
    axes = read_axes(content, host, source)
    _refuse_too_many(axes, source)
    settings = _all_settings(content, axes, host, path.parent, source)
    _require_rate(axes, settings, source)
    observed = read_observed(content.get("observed", []), axes.paths, host.strategies, source)
    name = content.get("name", path.stem)
    if "name" not in content and not FOLDER_NAME.fullmatch(name):
        rule = 'set name = "..." (letters, digits, - and _)'
        source.problem(("name",), f"the file name {name!r} cannot name a folder of results; {rule}")
    source.raise_problems()
    limits = LimitsSection.model_validate(content.get("limits", {}))
    return Scenario(
        name=name,
        description=content.get("description", ""),
        folder=path.parent,
        plugins=_plugins(content),
        settings=settings,
        axes=axes,
        budget_s=limits.budget,
        reference_runs=content.get("measure", {}).get("reference", 0),
        understood=tuple(_understood(settings, limits, host)),
        source=source,
        observed=observed,
        slurm=_slurm(SlurmSection.model_validate(content.get("slurm", {}))),
    )


def _slurm(section: SlurmSection) -> SlurmOptions:
    said = section.model_dump(exclude={"time", "memory", "setup"})
    return SlurmOptions(**said, time_s=section.time, memory_bytes=section.memory, setup=tuple(section.setup))


def _require_rate(axes: Axes, settings: Sequence[Settings], source: Source) -> None:
    """Ask for the rate of an optimizer of the user's own: a default of ours would silently replace what he wrote."""
    own = next(
        (each.workload.optimizer.name for each in settings if is_user_function(each.workload.optimizer.name)), ""
    )
    if own and axes.learning_rates == (None,):
        source.problem(
            ("sweep", "learning_rate"),
            f"required with workload.optimizer = {own!r}: the rate of its first parameter group, such as [1e-3]; other "
            "groups keep their ratio to it",
        )


def _refuse_too_many(axes: Axes, source: Source) -> None:
    """Stop here where the product is so large that going through it would look like a hang.

    Raises:
        InputError: there are more than `MOST_CELLS` cells; with it go the problems found so far.
    """
    lists = (axes.variants, axes.gpus or (1, 2), axes.batches, axes.micros, axes.learning_rates, axes.lr_scalings)
    cells = math.prod(len(values) for values in (*lists, axes.seeds, *axes.paths.values()))
    if cells > MOST_CELLS:
        source.problem(
            ("sweep",), f"the sweep has {cells:,} cells, but at most {MOST_CELLS:,} can be planned; shorten a list"
        )
        source.raise_problems()


def _option_paths(host: Host) -> list[str]:
    return [f"strategy.{name}.{key}" for name, known in host.strategies.items() for key in known.Options.model_fields]


def _all_settings(content: Json, axes: Axes, host: Host, folder: Path, source: Source) -> tuple[Settings, ...]:
    """Read the settings once for each combination of keys swept by their path."""
    paths = axes.paths
    found = []
    for choice in itertools.product(*paths.values()):
        settings = read_settings(content, dict(zip(paths, choice, strict=True)), host, folder, source)
        if settings is not None:
            found.append(settings)
    return tuple(found)


def _plugins(content: Json) -> tuple[str, ...]:
    plugins = content.get("plugins", [])
    return (plugins,) if isinstance(plugins, str) else tuple(plugins)


def _understood(settings: Sequence[Settings], limits: LimitsSection, host: Host) -> Iterator[str]:
    """Say what was read from every quantity with a unit; a swept one is said once for each value."""
    if limits.cell_timeout is not None:
        yield f"a cell is stopped after {exact_duration(limits.cell_timeout)}"
    if limits.budget is not None:
        yield f"the whole run is stopped after {exact_duration(limits.budget)}"
    yield from dict.fromkeys(line for item in settings for line in _quantities(item, host))


def _quantities(settings: Settings, host: Host) -> Iterator[str]:
    if not settings.timing_only:
        yield f"telemetry every {exact_duration(settings.measure.telemetry_interval_s)}"
    yield from cluster_in_words(settings.cluster, host)
    if settings.dram_bytes is not None:
        yield f"a device may use {exact_size(settings.dram_bytes)} of memory"
    if settings.context_bytes is not None:
        yield f"of a device's memory {exact_size(settings.context_bytes)} are not for tensors"
    if settings.per_gpu_hour is not None:
        yield f"a device costs {settings.per_gpu_hour:g} {settings.currency} an hour"
