"""The commands: each parses, calls, echoes. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from harness.commands.terminal import say
from harness.core.disturbances import NOISY
from harness.core.endings import Status
from harness.core.errors import HarnessError, InputError, MachineError, PluginError
from harness.core.held_files import holding
from harness.core.interrupts import Catching, exit_code, what_came
from harness.core.version import __version__

if TYPE_CHECKING:
    from harness.analysis.compared import Comparison
    from harness.api.host import Host
    from harness.core.cell import Plan
    from harness.core.machine import Machine
    from harness.engines.shared.findings import Findings
    from harness.executors.membership import Membership
    from harness.report.against import Against

REFERENCE_RUNS = 10
"""Of one night: their noise is then a third of that of one run. Source: ../docs/nightly.md."""


class Commands(click.Group):
    """Words errors once: what a user can mend prints without a traceback, with its exit code."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; the user's files are as it first reads them, to its end."""
        with Catching():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> object:
        _open_what_is_closed()
        try:
            with holding():
                return super().invoke(ctx)
        except HarnessError as error:
            say(f"harness: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            say(f"\nstopped by {what_came()}", err=True)
            ctx.exit(exit_code())
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            # Whoever read our output has seen enough (`| head`).
            _write_nowhere()
            ctx.exit(0)
        except OSError as error:
            if error.errno not in _THE_DISKS and not _is_outside(error.filename):
                ctx.exit(_save_traceback())
            _write_nowhere()
            then = "make room" if error.errno in _FULL else "choose a folder that you may write to"
            _complain(f"harness: {error.filename or 'the output'}: {error.strerror}; {then}, and run the command again")
            ctx.exit(MachineError.exit_code)
        except Exception:
            ctx.exit(_save_traceback())


_FULL = (errno.ENOSPC, errno.EDQUOT)
_THE_DISKS = (*_FULL, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)
"""What a full, lost or closed place answers: of files that a command writes, or of what its output goes to."""


def _is_outside(file: object) -> bool:
    """Say whether an error names a file that is none of ours: then it tells of the machine, not of a bug."""
    own = str(Path(__file__).parents[1]) + os.sep
    return isinstance(file, (str, bytes)) and not os.path.abspath(os.fsdecode(file)).startswith(own)


def _open_what_is_closed() -> None:
    """Let closed standard streams lead nowhere (`>&-`): else the next file that is opened would get their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _write_nowhere() -> None:
    """Let what is still to be written to the output vanish: what Python flushes at exit has nowhere to go."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: str) -> None:
    """Say something on the error stream, which may be as full as the output."""
    with contextlib.suppress(OSError):
        say(text, err=True)


def _save_traceback() -> int:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="harness-bug-", suffix=".txt", delete=False) as file:
        traceback.print_exc(file=file)
    _complain(f"harness: you found a bug of the harness; its traceback is in {file.name}")
    return 4


def plugins_option(command: Callable[..., object]) -> Callable[..., object]:
    """Accept --plugins after the command as well as before it."""
    return click.option("--plugins", multiple=True, type=click.Path(), help="Plugin file or folder; repeatable.")(
        command
    )


def set_option(command: Callable[..., object]) -> Callable[..., object]:
    """Accept --set KEY=VALUE."""
    return click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change a key: --set gpus=1,2")(
        command
    )


class _FreshSeeds(click.ParamType[int]):
    """How many fresh seeds; the option without a number means as many as the sweep has."""

    name = "n"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number.

        Raises:
            InputError: it is none: most often what stands there is the scenario.
        """
        if isinstance(value, int):
            return value
        if not value.isdecimal() or not int(value):
            then = (
                "a number of at least 1, or nothing after it; the scenario comes before it: harness run lenet --confirm"
            )
            raise InputError([f"--confirm {value}: {then}"])
        return int(value)


def nodes_options(command: Callable[..., object]) -> Callable[..., object]:
    """Accept what says which of several machines this is."""
    for option in (
        click.option("--nnodes", type=click.IntRange(1), help="Run over so many machines; start the command on each."),
        click.option("--node-rank", type=click.IntRange(0), help="Which of them this is; 0 plans, writes and shows."),
        click.option("--rendezvous", metavar="HOST:PORT", help="Where node 0 is reached."),
        click.option(
            "--interface", default="", help="Network interface to the others; default: by the route to node 0."
        ),
    ):
        command = option(command)
    return command


def _node(options: dict[str, Any]) -> Membership:
    """Take out of the options what says which machine this is.

    Where it is not node 0, it serves, and this does not return.
    """
    from harness.executors.membership import Membership, be_node, membership_of

    names = ("nnodes", "node_rank", "rendezvous", "interface")
    nnodes, node_rank, rendezvous, interface = (options.pop(name) for name in names)
    if options.get("executor", "local").startswith("ray") and node_rank is None and rendezvous is None:
        return Membership(nnodes or 1, interface=interface, taken_later=True)
    membership = membership_of(nnodes, node_rank, rendezvous, interface, os.environ)
    if membership.rank or membership.idle:
        be_node(membership, say)
        sys.exit(0)
    return membership


def confirm_option(told: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Accept --confirm, with or without a number."""
    return click.option("--confirm", type=_FreshSeeds(), is_flag=False, flag_value=0, metavar="[N]", help=told)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="harness")
@click.option("--plugins", multiple=True, type=click.Path(), help="Plugin file or folder; repeatable.")
@click.pass_context
def main(ctx: click.Context, plugins: tuple[str, ...]) -> None:
    """Simulate and benchmark deep-learning parallelism strategies.

    Exit codes: 0 done, whatever the results; 1 a cell crashed or timed out, or a check failed; 2 wrong input; 3 this
    machine cannot do it; 4 a bug of the harness; 5 nothing to do; 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
    """
    ctx.obj = plugins


# -- run and plan ------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("scenario", required=False)
@set_option
@click.option(
    "--only", multiple=True, metavar="KEY=VALUE", help="Run only matching cells; the report keeps the others."
)
@click.option("--results", "root", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
@click.option(
    "--retry",
    multiple=True,
    type=click.Choice([*(status.value for status in Status), NOISY]),
    help="Run again the cells that ended with this status, or that something disturbed (noisy).",
)
@click.option("--fresh", is_flag=True, help="Run everything again; old results are moved aside.")
@confirm_option(
    "Then run leader and runner-up with N fresh seeds, by default as many as the sweep has: the answer rests on seeds "
    "that did not choose."
)
@click.option("--budget", metavar="TIME", help="Stop after this long, such as 15 min.")
@click.option(
    "--executor",
    metavar="WHERE",
    default="local",
    show_default=True,
    help="What runs the cells: local (simulated cells on all cores, measured ones alone), local:N (N at once), ray, "
    "ray://HOST:PORT, or slurm.",
)
@click.option(
    "--reference",
    type=click.IntRange(0),
    is_flag=False,
    flag_value=REFERENCE_RUNS,
    metavar="[RUNS]",
    help=f"Run a plain PyTorch loop beside the cells, {REFERENCE_RUNS} times or as often as you say.",
)
@click.option(
    "--ab",
    nargs=2,
    metavar="BASE NEW",
    help="Run each cell by two interpreters or checkouts in turns, and compare: folders with bin/python or harness/.",
)
@click.option(
    "--track",
    multiple=True,
    metavar="NAME[=WHERE]",
    help="Log cells and answer to mlflow, tensorboard or another tracker; repeatable.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 if a cell diverged, missed its target or was not possible.")
@nodes_options
@click.option("--wait", is_flag=True, help="Wait where another harness writes to the same results.")
@click.option(
    "--join", is_flag=True, help="Share the results folder with other harnesses that join: each cell runs once."
)
@click.option("--open", "open_report", is_flag=True, help="Open the report in a browser.")
@click.option("--trace", is_flag=True, help="Write trace.json for each cell that runs, to open in Perfetto.")
@click.option(
    "--trace-steps", type=click.IntRange(1), default=20, show_default=True, help="Steps to trace, after the warm-up."
)
@click.option(
    "--debug",
    is_flag=True,
    help="Run the first cell in this process on the virtual engine, so that breakpoint() works.",
)
@plugins_option
@click.pass_obj
def run(
    outer: tuple[str, ...],
    /,
    scenario: str | None,
    sets: tuple[str, ...],
    only: tuple[str, ...],
    root: Path,
    plugins: tuple[str, ...],
    **options: Any,
) -> None:
    """Plan a scenario, run what is missing, write the report."""
    if scenario is None:
        return _list_scenarios()
    if ab := options.pop("ab"):
        return _run_in_turns(scenario, ab, sets, root, (*outer, *plugins))
    membership = _node(options)
    from harness.commands import run as session
    from harness.commands.listening import trackers_asked_for
    from harness.commands.misfits import refuse_misfits, with_notes
    from harness.core.leases import Leases
    from harness.core.one_writer import sole_writer
    from harness.executors.membership import all_nodes
    from harness.scenario.plan import select
    from harness.scenario.synonyms import only_as_registered

    _refuse_beside_join(join := options.pop("join"), options)
    not_run = "; nothing was run"
    machine = click.get_current_context().with_resource(all_nodes(membership, say))
    plan, host, files = _plan(scenario, sets, (*outer, *plugins), not_run, machine)
    only = tuple(only_as_registered(each, host) for each in only)
    track = options.pop("track")
    if track and options["debug"]:
        raise InputError(["run: --debug stores nothing, so that --track has nothing to log; leave one of them out"])
    options["trackers"] = trackers_asked_for(track, host.trackers)
    wait, chosen = options.pop("wait"), select(plan, only)
    tried = None if options["debug"] else refuse_misfits(chosen, files)
    if not options["debug"]:  # which stores nothing; what is refused makes no folder
        locked = click.get_current_context().with_resource
        folder = root / plan.name
        options["refuse_another"] = locked(sole_writer(folder, wait=wait, join=join, say=say))
        options["leases"] = locked(Leases(folder, joins=join))
    if session.prepare(plan, host, only, files):
        # Again, because the ids of simulated cells name their profiles.
        plan, host, files = _plan(scenario, sets, (*outer, *plugins), not_run, machine)
    plan = plan if tried is None else with_notes(plan, [*tried.misfits, *tried.differing])
    steps = options.pop("trace_steps")
    options["trace"] = steps if options["trace"] else None
    if options.pop("debug"):
        return session.debug(plan, only, files, options["trace"])
    try:
        code = session.run(plan, host, files, root, only, **options)
    except (HarnessError, OSError):
        options["refuse_another"]()  # a folder that has gone explains whatever else was missed in it
        raise
    sys.exit(code)


def _refuse_beside_join(join: bool, options: Mapping[str, object]) -> None:
    """Refuse what one harness would do to the cells or the machine of others that share the folder."""
    if join and options["fresh"]:
        raise InputError(["run: --fresh with --join would run again what others have just run; leave one out"])
    if join and options["reference"]:
        raise InputError(["run: --reference with --join would measure what others do beside it; leave one out"])


AB_OPTIONS = ("ab", "scenario", "sets", "root", "fresh", "plugins", "wait")
"""Of `run`: those that mean something with --ab."""


def _run_in_turns(scenario: str, ab: tuple[str, str], sets: Sequence[str], root: Path, plugins: Sequence[str]) -> None:
    """Run a scenario on two sides, and end as their comparison does."""
    from harness.analysis.compare_words import ratios_in_words
    from harness.commands.interleave import run_in_turns
    from harness.commands.pair_results import compare_results, text_of
    from harness.core.atomic_files import write_atomically
    from harness.core.one_writer import sole_writer

    context = click.get_current_context()
    source = context.get_parameter_source
    refused = [name for name in context.params if name not in AB_OPTIONS]
    given = [name.replace("_", "-") for name in refused if source(name) is ParameterSource.COMMANDLINE]
    if given:
        raise InputError([f"run: --{given[0]} means nothing with --ab, which runs every cell; leave it out"])
    words = [word for text in sets for word in ("--set", text)]
    words += [word for path in plugins for word in ("--plugins", str(Path(path).resolve()))]
    # Each side locks what it writes while it runs; between its turns nobody else may.
    context.with_resource(sole_writer(root / "ab", wait=bool(context.params["wait"]), say=say))
    base, new = run_in_turns(scenario, ab, words, root / "ab", bool(context.params["fresh"]), say)
    found = compare_results(base, [new], 0.05, False, False)
    for line in ratios_in_words(found):
        say(line)
    say(text_of(found, base, new, False, False))
    write_atomically(document := root / "ab" / "comparison.json", text_of(found, base, new, False, True) + "\n")
    say(f"as data: {document}; next: harness compare {base} {new} --html {document.with_suffix('.html')}")
    sys.exit(found.verdict.exit_code)


@main.command()
@click.argument("scenario")
@set_option
@click.option("--measure", is_flag=True, help="First measure the times that predictions still lack.")
@confirm_option("Count the cells that `harness run --confirm [N]` adds.")
@click.option(
    "--results",
    "root",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Mark the cells that are finished there.",
)
@click.option("--json", "as_json", is_flag=True, help="The plan as JSON.")
@plugins_option
@click.pass_obj
def plan(
    outer: tuple[str, ...],
    scenario: str,
    sets: tuple[str, ...],
    measure: bool,
    confirm: int | None,
    root: Path,
    as_json: bool,
    plugins: tuple[str, ...],
) -> None:
    """Show which cells would run, and what is left out and why."""
    with _without_collector():
        from harness.commands.misfits import refuse_misfits, with_notes

        made, host, files = _plan(scenario, sets, (*outer, *plugins))
        tried = refuse_misfits(made.cells, files)
        if not measure:
            return _echo_plan(with_notes(made, tried.told), host, root, confirm, as_json)
    from harness.commands import run as session
    from harness.commands.run_times import run_times
    from harness.results.store import Results

    session.prepare(made, host, (), files)
    session.trace_models(made, host, files)
    stored = Results(root / made.name)
    session.measure_steps(made, host, files, run_times(made, stored, stored.records_of(made.cells), host).why_not)
    made, host, _ = _plan(scenario, sets, (*outer, *plugins))
    _echo_plan(with_notes(made, tried.told), host, root, confirm, as_json)


def _echo_plan(made: Plan, host: Host, root: Path, confirm: int | None, as_json: bool) -> None:
    """Print a plan, with the cells that are finished in a results root."""
    from harness.commands.fresh_seeds import confirmed_as_before, was_swept
    from harness.commands.plan_text import describe
    from harness.commands.run_times import run_times
    from harness.results.store import Results

    folder = root / made.name
    made = confirmed_as_before(made, Results(folder), confirm)
    records = Results(folder).records_of(made.cells)
    times = run_times(made, Results(folder), records, host)
    if as_json:
        from harness.commands.documents import document_text
        from harness.commands.plan_json import plan_document

        return say(document_text(plan_document(made, host, records, folder, times)))
    finished = [cell_id for cell_id, record in records.items() if record.final]
    say(describe(made, host, finished, was_swept(made, records), times))


@contextmanager
def _without_collector() -> Iterator[None]:
    """Look for no garbage: nearly all that a plan imports and reads is needed to its end, a third of a second later."""
    gc.disable()
    atexit.register(gc.freeze)  # Python looks once more when it ends
    try:
        yield
    finally:
        # There and back, all of it counts as old: else it would be searched now.
        gc.freeze()
        gc.unfreeze()
        gc.enable()


def _plan(
    scenario: str,
    sets: tuple[str, ...],
    plugins: tuple[str, ...],
    consequence: str = "",
    machine: Machine | None = None,
) -> tuple[Plan, Host, list[str]]:
    """Return the plan, the host, and the plugin files that cells load too.

    Args:
        consequence: what follows for the command if the scenario is refused.
        machine: what cells can really run on; None: this machine.
    """
    from harness.api.host import load_host
    from harness.scenario.bundled import find_scenario
    from harness.scenario.plan import detect_machine, make_plan
    from harness.scenario.read import load_scenario, plugins_of

    path = find_scenario(scenario)
    try:
        files = [str(Path(p).resolve()) for p in plugins] + [str(p.resolve()) for p in plugins_of(path, sets)]
        host = load_host(files)
        read = load_scenario(path, host, sets)
        plan = make_plan(read, host, machine or detect_machine())
        if any(item.calibrates for item in read.observed):
            from harness.engines.virtual.fit_observed import calibrated

            plan = calibrated(plan, read.observed, host)
        return plan, host, files
    except InputError as error:
        refused = InputError(error.problems, error.where, consequence=consequence if error.where else "")
        # Where the scenario is well, what it names is broken.
        raise PluginError(str(refused)) if error.broken_plugin else refused from None


def _list_scenarios() -> None:
    from harness.core.words import aligned
    from harness.scenario.bundled import bundled_scenarios

    say("Bundled scenarios:")
    for line in aligned(bundled_scenarios().items()):
        say(f"  {line}")
    say("\n`harness run NAME` runs one. `harness new scenario MINE --from NAME` copies one.")


# -- looking at results ------------------------------------------------------------------------------------------------


@main.command()
@click.argument("what", nargs=-1, required=True)
@click.option("--markdown", is_flag=True, help="The answer as markdown.")
@click.option("--json", "as_json", is_flag=True, help="Cells, and the answer of a folder, as JSON.")
@click.option("--log", is_flag=True, help="A cell's whole log.")
@click.option("--results", "root", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
@plugins_option
@click.pass_obj
def show(
    outer: tuple[str, ...],
    what: tuple[str, ...],
    markdown: bool,
    as_json: bool,
    log: bool,
    root: Path,
    plugins: tuple[str, ...],
) -> None:
    """Show the answer of a results folder, one cell, or two cells side by side with what explains the difference.

    WHAT is a path, a scenario's name or a cell's id.
    """
    from harness.commands.show_text import show as text_of
    from harness.commands.show_text import show_pair

    if len(what) > 2:
        raise InputError([f"show: {len(what)} names given; give one folder or cell, or two cells to compare"])
    files = (*outer, *plugins)
    _refuse_two_forms("show", {"--markdown": markdown, "--log": log, "--json": as_json})
    if as_json:
        from harness.commands.documents import document_text
        from harness.commands.show_json import show_document

        say(document_text(show_document(what, root, files)))
    elif len(what) == 2:
        say(show_pair(what[0], what[1], root, files))
    else:
        say(text_of(what[0], root, markdown=markdown, log=log, plugins=files))


def _refuse_two_forms(command: str, asked: Mapping[str, bool]) -> None:
    """Refuse two forms of output at once: only one could be printed."""
    forms = [option for option, given in asked.items() if given]
    if len(forms) > 1:
        raise InputError([f"{command}: {' and '.join(forms)} are two forms of output; give one of them"])


@main.command()
@click.argument("results")
@click.option("--json", "as_json", is_flag=True, help="The status as JSON.")
@click.option("--results", "root", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
def status(results: str, as_json: bool, root: Path) -> None:
    """Show how far a results folder is: cells done, running and where, failed, time left and cost so far.

    RESULTS is a folder or a scenario's name. It is only read, while a harness works there too.
    """
    from harness.commands.folder_status import status_text, statuses_at

    found = statuses_at(results, root)
    if as_json:
        from harness.commands.documents import document_text
        from harness.commands.folder_status_json import status_document

        return say(document_text(status_document(found)))
    say("\n".join(map(status_text, found)))


@main.command()
@click.argument("cell")
@click.option("--results", "root", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
@click.option("--to", type=click.Path(path_type=Path), help="Default: named after model and strategy, in this folder.")
@plugins_option
@click.pass_obj
def export(outer: tuple[str, ...], cell: str, root: Path, to: Path | None, plugins: tuple[str, ...]) -> None:
    """Write a plain PyTorch script that trains as CELL did: its strategy, settings, first weights and batches.

    CELL is a cell's id or its folder. The script runs under torchrun and imports your model and data, and nothing of
    this package. Scripts are written for single, sync-ddp, fsdp, zero-2, hsdp, model-split and local-sgd.
    """
    from harness.commands.export_script.write_script import write_exported

    say(write_exported(cell, root, to, [str(Path(path).resolve()) for path in (*outer, *plugins)]))


def compare_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Accept what decides how two nights are compared."""
    other = "Compare times even if the processor, GPU or simulated cluster is another."
    command = click.option("--allow-other-device", is_flag=True, help=other)(command)
    trust = "Count slower measured times as regressions: this machine is known to be as fast as it was."
    command = click.option("--trust-machine", is_flag=True, help=trust)(command)
    least = "Smallest growth of a time that counts, as a fraction."
    return click.option("--min-effect", type=float, default=0.05, show_default=True, help=least)(command)


@main.command()
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Default: report.html, or comparison.html with --base.")
@click.option("--open", "open_report", is_flag=True, help="Open it in a browser.")
@click.option(
    "--figures",
    type=click.Path(path_type=Path),
    help="Write every figure into this folder as SVG, PNG and CSV; the page only with --out or --open.",
)
@click.option("--names", is_flag=True, help="Keep the host's name and the home folder in the report.")
@click.option(
    "--base", type=click.Path(path_type=Path), help="Start the report with what is worse than in these results."
)
@compare_options
@plugins_option
@click.pass_obj
def report(
    outer: tuple[str, ...],
    results: tuple[Path, ...],
    out: Path | None,
    open_report: bool,
    figures: Path | None,
    names: bool,
    base: Path | None,
    min_effect: float,
    allow_other_device: bool,
    trust_machine: bool,
    plugins: tuple[str, ...],
) -> None:
    """Write the report of results as one self-contained HTML file.

    With --base it starts with a comparison; several scenarios are paired by name. The exit code is 0 even on a
    regression: use `harness compare` for that.
    """
    from harness.commands.pair_results import against, compare_results

    source = click.get_current_context().get_parameter_source
    if base is None and any(
        source(name) is ParameterSource.COMMANDLINE for name in ("min_effect", "allow_other_device", "trust_machine")
    ):
        raise InputError(
            ["report: --min-effect, --allow-other-device and --trust-machine need --base; add --base FOLDER"]
        )
    found = compare_results(base, results, min_effect, allow_other_device, trust_machine) if base else None
    compared = against(found, base, results) if base and found else None
    if figures is not None:
        _write_figures(results, figures, (*outer, *plugins), compared, names)
        if out is None and not open_report:
            return
    path = _write_report(results, out, (*outer, *plugins), compared, names)
    say(f"report: {path}")
    if open_report:
        click.launch(str(path))


def _write_report(
    results: Sequence[Path], out: Path | None, plugins: Sequence[str], against: Against | None, named: bool = False
) -> Path:
    """Write the page of results, beside them where no file is named."""
    from harness.api.host import load_host
    from harness.commands.simulator import simulator
    from harness.report import default_path, write_report
    from harness.results.store import find_results

    folders = [folder for path in results for folder in find_results(path)]
    path = out or default_path(folders, "comparison" if against else "report")
    sections = load_host(plugins).report_sections
    what_if = simulator(plugins)
    shared = out is not None  # a place that the user chose for it
    return write_report(folders, path, sections=sections, what_if=what_if, against=against, named=named, shared=shared)


def _write_figures(
    results: Sequence[Path], folder: Path, plugins: Sequence[str], against: Against | None, named: bool
) -> None:
    """Write the figures of results as files, and say how many."""
    from harness.commands.simulator import simulator
    from harness.core.words import counted
    from harness.report.figure_files import write_figures
    from harness.results.store import find_results

    folders = [found for path in results for found in find_results(path)]
    written = write_figures(folders, folder, what_if=simulator(plugins), against=against, named=named)
    say(f"figures: {folder} ({counted(len(written), 'figure')}, each as SVG, PNG and CSV)")


@main.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@compare_options
@click.option("--markdown", is_flag=True, help="The comparison as markdown.")
@click.option("--json", "as_json", is_flag=True, help="The comparison as JSON.")
@click.option(
    "--html", type=click.Path(path_type=Path), help="Also write the page of `harness report NEW --base BASE`."
)
@click.option("--junit", type=click.Path(path_type=Path), help="Also write JUnit XML, one test for each point.")
@click.option("--annotations", is_flag=True, help="Also print what got worse for the log of GitHub Actions.")
@click.option(
    "--rerun", is_flag=True, help="Run what looks slower 5 more times, with the reference, and judge by that."
)
@click.option(
    "--history", "nights", type=click.Path(path_type=Path), help="Judge by the nights kept here: 8 of them or more."
)
@click.option("--machine", default="", help="Name of this machine in the history.")
@plugins_option
@click.pass_obj
def compare(
    outer: tuple[str, ...],
    base: Path,
    new: Path,
    min_effect: float,
    allow_other_device: bool,
    trust_machine: bool,
    markdown: bool,
    as_json: bool,
    html: Path | None,
    junit: Path | None,
    annotations: bool,
    rerun: bool,
    nights: Path | None,
    machine: str,
    plugins: tuple[str, ...],
) -> None:
    """Say whether the results in NEW are worse than those in BASE.

    Exits with 1 on a regression, for use in a nightly job; with 5 where nothing could be
    compared, with 2 where times were not because device or cluster is another.
    """
    from harness.commands.besides import History
    from harness.commands.pair_results import NoBase, against, compare_results, first_night, text_of
    from harness.core.atomic_files import write_atomically

    _refuse_two_forms("compare", {"--markdown": markdown, "--json": as_json})
    history = History(nights, machine) if nights else None

    def judged() -> Comparison:
        return compare_results(base, [new], min_effect, allow_other_device, trust_machine, history, rerun=rerun)

    failed = None
    try:
        found = judged()
    except NoBase as error:
        if junit:
            write_atomically(junit, first_night(new, str(error)))
        raise
    if rerun and found.rerun:
        from harness.commands.rerun_suspects import rerun_suspects

        files = [str(Path(path).resolve()) for path in (*outer, *plugins)]
        try:
            rerun_suspects(base, [new], found.rerun, files, lambda line: say(line, err=True))
        except HarnessError as error:
            failed = error
        found = judged()
    say(text_of(found, base, new, markdown, as_json))
    if html:
        say(f"report: {_write_report([new], html, (), against(found, base, [new]))}", err=True)
    if junit:
        from harness.commands.compare_junit import junit_text

        write_atomically(junit, junit_text(found))
    if annotations:
        from harness.commands.compare_annotations import annotation_lines

        say("\n".join(annotation_lines(found)), err=True)
    if failed and not found.verdict.exit_code:
        raise failed
    sys.exit(found.verdict.exit_code)


@main.group(name="history")
def history() -> None:
    """Keep nights, and show how times moved over them."""


@history.command(name="add")
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder of the history; made if missing.")
@click.option(
    "--repository",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Folder whose commit the night ran. Default: this one; without git, what the CI system says.",
)
@click.option("--machine", default="", help="Name of this machine: each has series of its own. Default: one for all.")
def add_to_history(results: tuple[Path, ...], to: Path, repository: Path, machine: str) -> None:
    """Add the night in RESULTS to a history, one row a run, with commit and environment.

    Run it after every night. What is there already is not added again; several jobs may add at once.
    """
    from harness.commands.nights_kept import add_results

    say(add_results(results, to, repository, machine))


@history.command(name="show")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path), help="Also write it as a page with figures.")
@click.option("--json", "as_json", is_flag=True, help="The history as JSON.")
def show_history(folder: Path, html: Path | None, as_json: bool) -> None:
    """Show how times moved over the nights in FOLDER, since when each is slower, and what changed then.

    Times are read beside the reference that ran in the same night: what slows both down is the machine.
    """
    from harness.commands.nights_kept import history_text, write_history_page
    from harness.results.history import read_history

    rows = read_history(folder)
    say(history_text(rows, as_json))
    if html:
        say(f"page: {write_history_page(rows, html)}", err=True)


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--results", "root", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="File of predictions, instead of one in the results.")
@click.option("--verbose", is_flag=True, help="Also show the scores of every series.")
@click.option("--refit/--no-refit", default=True, help="Also predict each row by constants fitted without its source.")
def validate(directory: Path, root: Path, out: Path | None, verbose: bool, refit: bool) -> None:
    """Predict the measurements in DIRECTORY and compare the errors with those of linear scaling.

    DIRECTORY holds scenarios with [[observed]], or published tables. Predictions go to results/validate-NAME, and so do
    the scenarios that rows are written as.
    """
    from harness.commands.validate.command import score_directory

    say(score_directory(directory, root, out, verbose, refit))


@main.command()
@click.argument("what", metavar="NAME|FILE|FOLDER")
@click.option("--quick", is_flag=True, help="Look at less, in about 20 s: fewer devices, no BatchNorm or dropout.")
@click.option("--line", "lines", multiple=True, metavar="LINE", help="Only this line, as --json names it; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="The verdicts as JSON.")
@set_option
@plugins_option
@click.pass_obj
def check(
    outer: tuple[str, ...],
    what: str,
    quick: bool,
    lines: tuple[str, ...],
    as_json: bool,
    sets: tuple[str, ...],
    plugins: tuple[str, ...],
) -> None:
    """Check that a strategy keeps what every strategy promises, on both engines.

    It says of each line whether it passed, failed or does not apply; of a failure what, where, and the likely cause.
    Give a strategy's name, a plugin file, or a folder of plugins. It ends with 1 where a line failed.
    """
    from harness.commands.check.examine import chosen_lines, examine, subjects
    from harness.commands.check.told import any_failed, check_document, line_text, summary_text

    chosen, checked = chosen_lines(lines), []
    for subject in subjects(what, (*outer, *plugins)):
        verdicts = []
        if not as_json:
            say(f"{subject.name}:")
        for verdict in examine(subject, quick, sets, chosen):
            verdicts.append(verdict)
            if not as_json:
                say(line_text(verdict))
        checked.append((subject.name, verdicts))
        if not as_json:
            say(summary_text(subject.name, verdicts, quick))
    if as_json:
        from harness.commands.documents import document_text

        say(document_text(check_document(checked, quick)))
    sys.exit(int(any(any_failed(verdicts) for _, verdicts in checked)))


# -- plugins, machine, files -------------------------------------------------------------------------------------------


@main.command(name="plugins")
@click.argument("name", required=False)
@plugins_option
@click.pass_obj
def plugins_command(outer: tuple[str, ...], name: str | None, plugins: tuple[str, ...]) -> None:
    """List strategies, models, data sets, devices and links; with NAME, show its options and defaults."""
    from harness.api.host import load_host
    from harness.commands.list_plugins import describe_entry, list_entries

    host = load_host((*outer, *plugins))
    say(describe_entry(host, name) if name else list_entries(host))


def look_options(command: Callable[..., object]) -> Callable[..., object]:
    """Accept a model and data of one's own, to be looked at."""
    data = "Its data; default: the first built-in data that the model takes."
    command = click.option("--data", metavar="FILE.py:FUNCTION|NAME|TABLE", help=data)(command)
    return click.option("--model", metavar="FILE:FUNCTION", help="Your own model: train.py:build_model.")(command)


@main.command()
@look_options
@plugins_option
@click.pass_obj
def doctor(outer: tuple[str, ...], model: str | None, data: str | None, plugins: tuple[str, ...]) -> None:
    """Show this machine's cores, memory and GPUs, and what else is using them.

    Of each GPU it shows how it is set, where it sits and who uses it; of each probe whether it answers.

    With --model it shows what one training step tells of a model and its data: inputs, parameters, blocks, what can be
    cut.
    """
    if model is not None:
        from harness.commands.found_text import findings_text

        return say(findings_text(_look_at(model, data, (*outer, *plugins))))
    if data is not None:
        raise InputError(["doctor: --data means nothing without --model; add --model FILE.py:FUNCTION"])
    from harness.api.host import load_host
    from harness.commands.doctor import describe_machine
    from harness.core.environment import PACKAGES, cpu_model

    say(f"processor: {cpu_model()}")
    for name, fact in describe_machine(load_host((*outer, *plugins)).probes.values()):
        say(f"{name}: {fact}")
    from importlib import metadata

    for package in PACKAGES:
        try:
            say(f"{package}: {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue


@main.command()
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of one CPU device.")
@click.option("--show", "only_show", is_flag=True, help="Show stored measurements and their age; measure nothing.")
@click.option(
    "--import",
    "imported",
    multiple=True,
    metavar="[TEST=]FILE",
    help="Read what nccl-tests printed; measure nothing. TEST, such as all_reduce, where the file does not say it.",
)
@click.option("--inter-node", metavar="LINK", help="What machines are joined by: ethernet-25g, or a rate.")
@click.option("--intra-node", metavar="LINK", help="What devices of a machine are joined by: nvswitch3, or a rate.")
@nodes_options
def calibrate(
    device: str,
    threads: int,
    only_show: bool,
    imported: tuple[str, ...],
    inter_node: str | None,
    intra_node: str | None,
    nnodes: int | None,
    node_rank: int | None,
    rendezvous: str | None,
    interface: str,
) -> None:
    """Measure how fast processes exchange data, for simulated cells.

    It first says how long this takes. Over several machines it measures the links inside and between them. Measured
    rates stand beside what the links are rated at.
    """
    from harness.commands.calibrate import show_or_measure
    from harness.commands.node_links_text import rated_links

    rated = rated_links(intra_node, inter_node)
    if imported:
        if only_show:
            raise InputError(["--show and --import: one of them; --import keeps nothing"])
        from harness.commands.import_nccl import describe_imported

        return say(describe_imported(imported, *rated))
    where = {"nnodes": nnodes, "node_rank": node_rank, "rendezvous": rendezvous, "interface": interface}
    if not only_show and (membership := _node(where)).nodes > 1:
        from harness.executors.membership import all_nodes

        click.get_current_context().with_resource(all_nodes(membership, say))
    say(show_or_measure(device, threads, only_show, say, rated))


@main.command()
@click.argument(
    "what", type=click.Choice(["scenario", "compare", "show", "plan", "history", "check", "status"]), default="scenario"
)
@click.option("--text", is_flag=True, help="Print a scenario's keys with defaults and meanings instead.")
def schema(what: str, text: bool) -> None:
    """Print the JSON Schema of scenario files, or of what a command prints with --json."""
    import json

    if what != "scenario":
        if text:
            raise InputError([f"schema {what}: --text is of scenarios only; leave it out"])
        from harness.commands.documents import document_schema

        return say(json.dumps(document_schema(what), indent=2))
    from harness.scenario.schema import json_schema, schema_text

    say(schema_text() if text else json.dumps(json_schema(), indent=2))


@main.group(name="new")
def new() -> None:
    """Create a scenario, a strategy or a package to start from."""


def _look_at(model: str, data: str | None, plugins: tuple[str, ...]) -> Findings:
    """Look at a model and its data in a process of its own; what is not there at all is refused before."""
    from harness.api.host import load_host
    from harness.engines.calibration.look_in_child import look_in_child, refuse_unknown

    files = [str(Path(path).resolve()) for path in plugins]
    refuse_unknown(model, data, Path(), load_host(files))
    return look_in_child(model, data, Path(), files)


@new.command(name="scenario")
@click.argument("name")
@click.option("--from", "source", metavar="BUNDLED", help="What to copy; default without --model: lenet.")
@look_options
@plugins_option
@click.pass_obj
def new_scenario(
    outer: tuple[str, ...],
    name: str,
    source: str | None,
    model: str | None,
    data: str | None,
    plugins: tuple[str, ...],
) -> None:
    """Write NAME.toml: a copy of a bundled scenario, or one for a model of your own.

    With --model it looks at the model and its data, and writes down what it found. With --from too, it copies a
    bundled scenario and puts the model in its place.
    """
    from harness.scenario.bundled import copy_scenario, write_new

    if model is None and data is not None:
        raise InputError(["new scenario: --data means nothing without --model; add --model FILE.py:FUNCTION"])
    if model is not None and source is None:
        from harness.commands.write_scenario import scenario_text
        from harness.core.machine import detect_machine

        path = write_new(name, lambda: scenario_text(_look_at(model, data, (*outer, *plugins)), detect_machine()))
    else:
        path = copy_scenario(name, source or "lenet", model, data)
    say(f"wrote {path}; next: harness run {path}")


@new.command(name="strategy")
@click.argument("name")
@click.option("--package", is_flag=True, help="Write a package to install and publish, in harness-NAME/.")
def new_strategy(name: str, package: bool) -> None:
    """Write a working strategy to NAME.py.

    With --package it writes an installable package instead: the plugin, its entry point, a test that runs
    `harness check`, a README and a workflow for GitHub Actions.
    """
    from harness.api.host import load_host

    if name in load_host().strategies:
        raise InputError([f"{name}: a strategy with this name already exists; choose another name"])
    if package:
        return _say_package("strategy", name)
    from harness.scenario.bundled import write_strategy

    path = write_strategy(name)
    then = f"harness check {path}, or harness run lenet --plugins {path} --set strategy=single,{name} --set gpus=1,2"
    say(f"wrote {path}; next: {then}")


@new.command(name="workload")
@click.argument("name")
@click.option(
    "--package", is_flag=True, required=True, help="Write a package to install and publish, in harness-NAME/."
)
def new_workload(name: str, package: bool) -> None:
    """Write a package with a model and a data set of your own.

    For a model of your own in one scenario you need no plugin: harness new scenario NAME --model train.py:build.
    """
    from harness.api.host import load_host

    host = load_host()
    if name in host.models or name in host.datasets:
        raise InputError([f"{name}: a model or data set with this name already exists; choose another name"])
    _say_package("workload", name)


@new.command(name="probe")
@click.argument("name")
@click.option(
    "--package", is_flag=True, required=True, help="Write a package to install and publish, in harness-NAME/."
)
def new_probe(name: str, package: bool) -> None:
    """Write a package with a probe, which is sampled beside training."""
    from harness.api.host import load_host

    if name in load_host().probes:
        raise InputError([f"{name}: a probe with this name already exists; choose another name"])
    _say_package("probe", name)


def _say_package(kind: Literal["strategy", "workload", "probe"], name: str) -> None:
    from harness.commands.new_package import write_package

    folder = write_package(kind, name)
    say(f'wrote {folder}/; next: pip install -e "{folder}[test]" && pytest {folder}')
