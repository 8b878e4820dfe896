"""Functions of the user's, as a script imports them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.export_script.refused import PIPELINE_SCHEDULES
from harness.core.errors import InputError
from harness.workloads.user_files import find_user_function
from harness.workloads.user_import import user_object

if TYPE_CHECKING:
    from harness.core.cell import Cell

MODULE_NAMES = frozenset(
    {
        *("argparse", "gc", "hashlib", "itertools", "math", "os", "random", "sys", "np", "torch", "dist", "nn"),
        *("functional", "Path", "partial", "contextmanager", "nullcontext", "OrderedDict", "checkpoint"),
        *("default_collate", "tree_flatten", "tree_leaves", "tree_map_only", "tree_unflatten"),
        *("DistributedDataParallel", "fully_shard", "init_device_mesh", "get_model_state_dict", "StateDictOptions"),
        "MixedPrecisionPolicy",
        *("PipelineStage", *(name for names in PIPELINE_SCHEDULES.values() for name in names)),
        *("stream", "seed", "samples", "take", "make_model", "forward", "loss_sum", "batches", "learning_rate"),
        *("validation_loss", "pieces", "micro_batches", "make_schedule", "average", "start", "main"),
        *("returned", "without_memory", "own_parameters", "move", "answer_calls", "answer", "End", "Stage"),
        *("filled_up", "drawing", "contextlib", "AsBefore", "contexts", "put_back"),
    }
)
"""What scripts import and define."""

LOCAL_NAMES = frozenset(
    {
        *("_", "a", "args", "b", "batch", "before", "between", "block", "blocks", "buffer", "call", "count"),
        *("counted", "counts", "cuda", "device", "epoch", "epochs", "few", "file", "first", "forward", "found"),
        *("gives", "gradient", "group", "groups", "held", "held_out", "held_out_loss", "ids", "inputs", "inside"),
        *("join", "k", "kept", "key", "keys", "kwargs", "last", "layer", "layers", "leaf", "leaves", "like"),
        *("local", "loss", "losses", "made", "mean", "mesh", "micro", "mine", "model", "more", "n", "name"),
        *("num_train", "number", "numbers", "on_this_host", "optimizer", "options", "order", "origin", "output"),
        *("outputs", "own", "p", "parameter", "parser", "part", "parts", "piece", "pieces", "places", "policy"),
        *("purpose", "rank", "ranks", "rate", "ratio", "ratios", "received", "rest", "rows", "samples", "schedules"),
        *("self", "share", "shares", "size", "sizes", "squares", "stages", "start", "state", "states", "step", "steps"),
        *("structure", "table", "takes", "targets", "tensor", "tests", "text", "three", "total", "trained", "two"),
        *("unit", "units", "v", "values", "wanted", "weight", "world"),
    }
)
"""What functions of scripts call what they hold."""


@dataclass(frozen=True)
class UserImport:
    """A function of the user's, as the script gets at it.

    Attributes:
        folder: that Python must search for it.
        module: that it is imported from.
        own: the name that is imported.
        name: what it is called in the script.
        call: the Python that names it; differs from `name` where it is an attribute of something.
    """

    function: Callable[..., object]
    folder: Path
    module: str
    own: str
    name: str
    call: str


@dataclass
class UserImports:
    """All that a script imports of the user's."""

    cell: Cell
    found: list[UserImport] = field(default_factory=list)

    def add(self, key: str, name: str) -> UserImport:
        """Find what a scenario names there, and import it under a name that nothing else in the script has.

        Raises:
            InputError: its file's name is none that Python can import.
        """
        found = find_user_function(key, name, Path(self.cell.folder))
        module = found.module or found.file.path.stem
        top = module.partition(".")[0]
        if not all(part.isidentifier() for part in module.split(".")) or top in sys.stdlib_module_names:
            what = f"{name}: a script cannot import a module called {module}"
            raise InputError([f"{what}; give the file another name, such as train.py"])
        own, _, rest = found.name.partition(".")
        taken = {each.name for each in self.found if (each.module, each.own) != (module, own)}
        called = f"{module.replace('.', '_')}_{own}" if own in MODULE_NAMES | LOCAL_NAMES | taken else own
        function = user_object(found)
        assert callable(function)  # the cell has called it
        made = UserImport(function, found.root, module, own, called, f"{called}.{rest}" if rest else called)
        self.found.append(made)
        return made

    def lines(self) -> list[str]:
        """Return import lines."""
        plain: dict[str, set[str]] = {}
        renamed = set()
        for each in self.found:
            if each.name == each.own:
                plain.setdefault(each.module, set()).add(each.own)
            else:
                renamed.add((each.module, f"{each.own} as {each.name}"))
        lines = [*((module, ", ".join(sorted(own))) for module, own in plain.items()), *renamed]
        return [f"from {module} import {what}" for module, what in sorted(lines)]

    def folders(self, target: Path) -> list[str]:
        """Return the folders that Python does not search by itself, relative to the script's, as Python writes them."""
        here = target.resolve().parent
        there = dict.fromkeys(each.folder for each in self.found if each.folder != here)
        return [f'"{Path(os.path.relpath(folder, here)).as_posix()}"' for folder in there]
