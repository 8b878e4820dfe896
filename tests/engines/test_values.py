"""A value from the strategy's own arithmetic: with_tensor, zeros, layers; and tensors that nobody writes to."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import make_cell
from lazy import lazy
from trained import difference

from harness.core.errors import PluginError
from harness.core.outcome import Outcome
from harness.engines.processes.launch import run_cell
from harness.engines.shared.setup import make_setup
from harness.engines.virtual.sizes import NeedsNumbers, Size

torch = lazy("torch")
engine = lazy("harness.engines.virtual.engine")
flats = lazy("harness.engines.shared.flat")
lending = lazy("harness.engines.shared.read_only")

PLUGIN = str(Path(__file__).parents[1] / "plugins" / "arithmetic.py")


def flat(*numbers: float, buffers: float | None = None):
    kept = None if buffers is None else torch.tensor([buffers])
    value = flats.Flat([torch.tensor(numbers, dtype=torch.float32)], kept, num_samples=7, version=3, loss=0.5)
    value.origin = (2, 5)
    return value


# -- values ------------------------------------------------------------------------------------------------------------


def test_with_tensor_keeps_all_but_the_numbers():
    made = flat(1, 2, 3, buffers=9.0).with_tensor(torch.tensor([4.0, 5.0, 6.0]))
    assert made.tensor().tolist() == [4, 5, 6]
    assert (made.buffers.tolist(), made.num_samples, made.version, made.loss) == ([9.0], 7, 3, 0.5)
    assert made.origin == (2, 5)  # the server's log names the worker and the step


def test_with_tensor_copies_so_that_whoever_made_the_numbers_may_go_on():
    numbers = torch.ones(3)
    made = flat(1, 2, 3).with_tensor(numbers)
    numbers.zero_()
    assert made.tensor().tolist() == [1, 1, 1]


def test_with_tensor_takes_the_parameters_part_of_another_value():
    made = flat(1, 2, buffers=9.0).with_tensor(flat(3, 4, buffers=1.0))
    assert (made.tensor().tolist(), made.buffers.tolist()) == ([3, 4], [9.0])


def test_with_tensor_brings_other_types_to_the_value_s_own():
    made = flat(1.0, 2.0).with_tensor(torch.tensor([0.5, 1.5], dtype=torch.float64))
    assert made.tensor().dtype == torch.float32
    assert made.tensor().tolist() == [0.5, 1.5]


MISFITS = {
    "too short": lambda: torch.ones(2),
    "a column": lambda: torch.ones(3, 1),
    "a list": lambda: [1.0, 2.0, 3.0],
    "a number": lambda: 3,
    "complex": lambda: torch.ones(3) + 1j,
}


@pytest.mark.parametrize("given", MISFITS)
def test_with_tensor_refuses_what_does_not_fit(given):
    with pytest.raises(PluginError, match=r"with_tensor takes a tensor of shape \(3,\)"):
        flat(1, 2, 3).with_tensor(MISFITS[given]())


def test_zeros_have_the_form_and_no_samples():
    zeros = flat(1, float("nan"), buffers=9.0).zeros()  # not value * 0: that keeps what is no number
    assert (zeros.tensor().tolist(), zeros.buffers.tolist(), zeros.num_samples) == ([0, 0], [0.0], 0)


def test_sizes_know_bytes_without_numbers():
    size = Size(400, 32, 3, (1, 2))
    assert (size.zeros().num_bytes, size.zeros().num_samples) == (400, 0)
    assert size.with_tensor(Size(400)).num_samples == 32
    with pytest.raises(NeedsNumbers, match=r"with_tensor\(tensor\) in a timing-only cell"):
        size.with_tensor(torch.ones(100))


# -- tensors that are lent ---------------------------------------------------------------------------------------------

WRITES = {
    "mul_": lambda t: t.mul_(2),
    "iadd": lambda t: t.__iadd__(1),
    "slice": lambda t: t.__setitem__(slice(0, 1), 0.0),
    "view": lambda t: t.view(2, 2).zero_(),
    "row of a view": lambda t: t.view(2, 2)[0].fill_(1),
    "split": lambda t: t.split(2)[1].neg_(),
    "unbind": lambda t: t.view(2, 2).unbind()[0].neg_(),
    "detach": lambda t: t.detach().neg_(),
    "out": lambda t: torch.add(torch.ones(4), 1, out=t),
    "foreach": lambda t: import_module("torch")._foreach_mul_([t], 2),
    "copy_": lambda t: t.copy_(torch.ones(4)),
    "data": lambda t: setattr(t, "data", torch.ones(4)),
    "through data": lambda t: t.data.zero_(),
    "index_copy_": lambda t: t.index_copy_(0, torch.tensor([0]), torch.ones(1)),
}


@pytest.mark.parametrize("write", WRITES)
def test_writing_is_refused_and_nothing_changes(write):
    value = flat(1, 2, 3, 4)
    with pytest.raises(PluginError, match="writes into a value, and values are immutable"):
        WRITES[write](value.tensor())
    assert value.tensor().tolist() == [1, 2, 3, 4]


def test_numpy_sees_the_same_numbers_and_cannot_write_either():
    array = flat(1, 2).tensor().numpy()
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 5
    assert np.asarray(flat(1, 2).tensor()).tolist() == [1, 2]


def test_what_is_computed_from_a_lent_tensor_is_the_program_s_own():
    lent = flat(3, -1, 2).tensor()
    for own in (lent + 1, lent.clone(), lent.abs(), lent.topk(1).values, torch.cat([lent, lent]), lent.sign()):
        assert type(own).__name__ == "Tensor"
        own.mul_(2)
    mask = torch.zeros(3)
    mask[lent.abs().topk(2).indices] = 1
    mask.add_(lent)  # reading one while writing elsewhere
    assert lent.tolist() == [3, -1, 2]


def test_a_lent_tensor_is_a_tensor():
    lent = lending.read_only(torch.arange(4.0))
    assert isinstance(lent, torch.Tensor)
    assert isinstance(lent.view(2, 2), lending.ReadOnly)
    assert float(lent.sum()) == 6
    assert repr(lent).startswith("ReadOnly(")


# -- on both engines ---------------------------------------------------------------------------------------------------


CHANGES = {"sweep__gpus": [2], "plugins": (PLUGIN,), "goal__max_epochs": 0.5}


def on_virtual(strategy: str, **changes: Any) -> Outcome:
    cell = make_cell(sweep__strategy=strategy, **CHANGES | changes)
    return engine.run_virtual(make_setup(cell, [PLUGIN]), merge=False)


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["signs", "by-layers", "signs-at-server"])
def test_own_arithmetic_is_the_same_on_both_clocks(strategy):
    cell = make_cell(engine="real", sweep__strategy=strategy, **CHANGES)
    result = run_cell(cell, [PLUGIN], options={"keep_weights": True})
    assert result.finished, result.reason
    measured, simulated = result.outcome, on_virtual(strategy)
    assert measured.updates == simulated.updates > 10
    assert difference(measured, simulated) == 0.0
    assert measured.recorded == simulated.recorded
    assert difference(measured, on_virtual("sync-ddp")) > 1e-3  # the arithmetic took effect


def test_layers_have_names_and_shapes_and_join_in_the_flat_order():
    recorded = on_virtual("by-layers", sweep__gpus=[1]).recorded
    assert recorded["joined"] == 1
    assert recorded["layers"] == 2 * recorded["biases"] > 0  # a weight and a bias each
