"""The stages of a pipeline, as a script cuts them: a list of layers, or the calls of a model of any kind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from harness.commands.export_script.refused import PIPELINE_SCHEDULES
from harness.core.errors import Impossible, InputError
from harness.costs.memory import named_sizes
from harness.costs.tracing import is_compiled
from harness.engines.shared.chain.chain_plan import ChainPlan, block_names, held_by
from harness.engines.shared.chain.needs import StageTrials
from harness.engines.shared.chain.proof import stages_tried
from harness.engines.shared.chain.try_on import find_chain, tried_on
from harness.engines.shared.layer_timing import is_plain

if TYPE_CHECKING:
    from harness.engines.shared.findings import ModelFindings
    from harness.engines.shared.setup import Setup

Stages = Sequence[Sequence[str]]
"""Names of the layers of each stage of a pipeline."""

WIDTH = 115
"""Characters of a list that stays in one line, its indentation and comma left out."""


@dataclass(frozen=True)
class PipelineStages:
    """A cell's pipeline.

    Attributes:
        placement: names of the layers of each stage, as they were recorded.
        batches: sizes of batches, that of an epoch's last one too.
    """

    setup: Setup
    found: ModelFindings
    placement: Stages | None
    batches: frozenset[int]

    def context(self) -> dict[str, object]:
        """Return what the template asks for.

        Raises:
            InputError: torch's own schedules cannot run the stages.
        """
        if self.placement is None:
            raise InputError(["the cell has no record of which layers were in which stage; run it again"])
        drawn = self.found.draws and not self._plain
        common = {"listed": self.listed, "uneven": self._uneven, "seeded_calls": drawn, **self._schedules()}
        return common | (self._layers() if self.listed else self._calls())

    # -- a list of layers ----------------------------------------------------------------------------------------------

    @cached_property
    def listed(self) -> bool:
        """Whether a script cuts the model as a list of layers, whose sizes torch finds out by a trial."""
        if not self._plain and (self.found.draws or not self._plain_out_of_place):
            return False  # what is no list draws in another way
        trial_is_felt = bool(self.found.buffers) or (self._uneven and self.found.draws)
        if trial_is_felt and self._halves:
            what = "BatchNorm counts" if self.found.buffers else "dropout draws for"
            schedule = self.setup.cell.options["schedule"]
            raise InputError(
                [f"torch's own {schedule} takes micro-batches of one size, and {what} what fills them up; export 1f1b"]
            )
        return not trial_is_felt

    @cached_property
    def _plain(self) -> bool:
        """Whether the cell cut a list of layers: its devices draw each from one stream."""
        return self._is_plain(in_place=True)

    @property
    def _plain_out_of_place(self) -> bool:
        """Whether it is a list once no layer changes what it is given."""
        return self._is_plain(in_place=False)

    def _is_plain(self, in_place: bool) -> bool:
        replica = self.setup.replica()
        inputs, _ = replica.data.train.block(0, min(2, self.setup.num_train))
        for part in replica.module.modules():
            if not in_place and hasattr(part, "inplace"):
                part.inplace = False
        with replica.autocast():
            return is_plain(replica.module, inputs)

    def _layers(self) -> dict[str, object]:
        names, stages = [block.name for block in self.found.blocks], self.placement or ()
        if [name for stage in stages for name in stage] != names:
            raise InputError(["the cell's stages are no neighbouring layers of the model as it is now; run it again"])
        return {"stages": list(map(in_lines, stages)), "shared": {}}

    # -- calls of any model --------------------------------------------------------------------------------------------

    def _calls(self) -> dict[str, object]:
        """Cut the model between calls as the cell did, and say what travels and what is shared."""
        setup, replica = self.setup, self.setup.replica()
        batches, model = tried_on(setup, replica), replica.module.train()
        chain, seen = find_chain(model, block_names(model, setup.layout, batches), batches)
        sizes = self._calls_of_stages(chain.names)
        with batches.autocast(), stages_tried():
            cuts = StageTrials(model, chain, seen, batches.inputs, batches.loss).cuts(sizes)
        plan = ChainPlan(tuple(chain.names), tuple(cuts))
        calls = [plan.blocks[cut.start : cut.end] for cut in cuts]
        between = [sorted(cut.uses - _inside(model, names)) for cut, names in zip(cuts, calls, strict=True)]
        return {
            "stages": list(map(in_lines, calls)),
            "sent": [in_lines(cut.gives) for cut in cuts[:-1]],
            "between": {number: in_lines(names) for number, names in enumerate(between) if names},
            "shared": self._shared(model, plan),
            "blocks": list(dict.fromkeys(plan.blocks)) if setup.layout.recompute else [],
            "compiled": is_compiled(model),
        }

    def _calls_of_stages(self, names: Sequence[str]) -> list[int]:
        """Return how many calls each stage makes: as it was recorded, where names tell, else equally many."""
        stages = self.setup.layout.stages
        try:
            return named_sizes(self.placement or (), names, stages)
        except Impossible:  # a block that several stages call
            return [len(part) for part in np.array_split(np.arange(len(names)), stages)]

    def _shared(self, model: nn.Module, plan: ChainPlan) -> dict[str, tuple[int, ...]]:
        """Return the devices that add up the gradient of a parameter, by its name."""
        used = {name for cut in plan.cuts for name in cut.uses}
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        devices = {
            name: tuple(sorted({stage % self.setup.layout.pipeline for stage in stages}))
            for name, stages in held_by(plan, model).items()
            if name in used & trained
        }
        return {name: found for name, found in devices.items() if len(found) > 1}

    # -- schedules -----------------------------------------------------------------------------------------------------

    @property
    def _micro(self) -> int:
        return self.setup.cell.micro_batch_size or self.setup.cell.batch_size

    @property
    def _uneven(self) -> bool:
        """Whether micro-batches of one batch differ in size."""
        return any(size % -(-size // self._micro) for size in self.batches)

    @property
    def _halves(self) -> bool:
        """Whether the schedule computes the gradients of weights apart, which torch can do for layers only."""
        return str(self.setup.cell.options["schedule"]).startswith("zb")

    def _schedules(self) -> dict[str, object]:
        """Return torch's classes.

        Raises:
            InputError: they cannot run so many micro-batches.
        """
        cell, stages = self.setup.cell, self.setup.layout.stages
        if cell.options.get("weight_time"):
            raise InputError([f"torch has no schedule that is made for weight_time = {cell.options['weight_time']:g}"])
        wanted, with_few = PIPELINE_SCHEDULES[cell.options["schedule"]]
        counts = {-(-size // self._micro) for size in self.batches}
        several = wanted.startswith("ScheduleInterleaved")
        few = min(counts) < stages and not several
        rounds = {count: max(1, count // cell.gpus) for count in counts if several or count < stages}
        odd = [count for count, each in rounds.items() if count % each]
        if odd:
            raise InputError(
                [f"torch's {wanted} cannot run {odd[0]} micro-batches on {cell.gpus} devices; choose sizes that divide"]
            )
        schedules = (wanted, with_few if few else wanted)
        return {"schedules": schedules, "schedule_names": sorted(set(schedules)), "several": several}


def _inside(model: nn.Module, names: Sequence[str]) -> set[str]:
    """Return the names of the parameters of some blocks in the whole model."""
    held = {id(p) for name in names for p in model.get_submodule(name).parameters()}
    return {name for name, p in model.named_parameters() if id(p) in held}


def in_lines(items: Sequence[str | tuple[int, int]]) -> str:
    """Return a list as Python is written: in one line, or an item a line, inside of another list."""
    written = [json.dumps(item) if isinstance(item, str) else str(tuple(item)) for item in items]
    line = f"[{', '.join(written)}]"
    if len(line) <= WIDTH:
        return line
    return "[\n" + "".join(f"        {item},\n" for item in written) + "    ]"
