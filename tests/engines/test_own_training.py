"""Losses, optimizers, schedules and BatchNorm of the user's own: the same steps as a plain loop takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cells import make_cell
from lazy import lazy
from plain_loops import FILE, SAME, apart, executed, plain, points, sgd
from trained import real, virtual

from harness.core.endings import Cause
from harness.core.errors import Impossible, InputError, PluginError, Untrainable
from harness.engines.processes.launch import run_cell
from harness.engines.shared.setup import make_setup

torch = lazy("torch")
optimizers = lazy("harness.engines.shared.optimizers")
losses = lazy("harness.workloads.losses")
flats = lazy("harness.engines.shared.flat")
pieces_of = lazy("harness.engines.shared.pieces")


def function(name: str) -> Any:
    """Return a function of the file, as a script would import it."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("plain_own_models", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


# -- losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["smoothed", "for_each", "weighted"])
def test_a_loss_of_ones_own_trains_as_a_plain_loop_does(loss):
    changes = points("tied", workload_changes={"loss": f"{FILE}:{loss}"})
    own = function(loss)
    wanted = plain(changes, sgd, lambda outputs, targets: own(outputs, targets).mean())
    assert apart(executed("single", changes), wanted) < SAME
    if loss != "weighted":
        assert apart(executed("sync-ddp", changes | {"sweep__gpus": [4]}), wanted) < SAME


def test_a_loss_that_is_no_mean_over_samples_is_refused_where_a_batch_is_shared_out():
    for strategy, gpus, micro in (("sync-ddp", 2, 16), ("sync-ps", 2, 16), ("single", 1, 8)):
        changes = points("tied", gpus=gpus, workload_changes={"loss": f"{FILE}:weighted"})
        setup = make_setup(make_cell(sweep__strategy=strategy, sweep__micro_batch_size=micro, **changes))
        with pytest.raises(Impossible, match="not the mean over its samples"):
            setup.replica()


RAGGED = {"dataset": f"{FILE}:ragged"}


def ragged_points(gpus: int = 1, **changes: Any) -> dict[str, Any]:
    return points("reader", gpus=gpus, workload_changes=RAGGED | changes)


def ragged_loss(outputs: Any, targets: Any) -> Any:
    flat = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="sum")
    return flat / (targets != -100).sum().clamp(min=1)


@pytest.mark.parametrize("loss", ["cross-entropy", f"{FILE}:of_tokens", f"{FILE}:of_each_token"])
def test_ignored_targets_count_in_the_whole_batch(loss):
    changes = ragged_points(loss=loss)
    wanted = plain(changes, sgd, ragged_loss)
    assert apart(executed("single", changes), wanted) < SAME
    assert apart(executed("single", changes | {"sweep__micro_batch_size": [4]}), wanted) < SAME
    assert apart(executed("sync-ddp", changes | {"sweep__gpus": [4]}), wanted) < SAME


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["sync-ddp", "sync-ps"])
def test_ignored_targets_differ_from_rank_to_rank_and_count_in_the_whole_batch(strategy):
    changes = ragged_points(gpus=2, loss="cross-entropy")
    assert apart(real(strategy, **changes).weights, plain(changes, sgd, ragged_loss)) < SAME


def test_how_a_loss_reduces_is_found_by_calling_it():
    outputs = torch.randn(6, 10, dtype=torch.float64)
    targets = torch.tensor([0, 1, 2, 3, 4, 9])
    expected = {"smoothed": "MEAN_OF_SAMPLES", "for_each": "EACH_SAMPLE", "weighted": "WHOLE"}
    for name, reduces in expected.items():
        own = losses.OwnLoss(name, function(name))
        assert losses.how_it_reduces(own, outputs, targets) is losses.Reduces[reduces]
    tokens, labels = torch.randn(3, 4, 12, dtype=torch.float64), torch.arange(12).reshape(3, 4)
    labels[0, 1:] = -100
    counts = np.array([1, 4, 4])
    for name, reduces in {"of_tokens": "MEAN_OF_TARGETS", "of_each_token": "EACH_TARGET"}.items():
        own = losses.OwnLoss(name, function(name))
        assert losses.how_it_reduces(own, tokens, labels, counts) is losses.Reduces[reduces]


def test_padding_counts_in_no_loss():
    outputs, targets = torch.randn(4, 10), torch.tensor([1, 2, 3, 3])
    weight = torch.tensor([0.25, 0.25, 0.5, 0.0])
    for name in ("smoothed", "for_each"):
        own = losses.OwnLoss(name, function(name))
        own = losses.OwnLoss(name, function(name), losses.how_it_reduces(own, outputs, targets))
        each = [own(outputs[k : k + 1], targets[k : k + 1]) for k in range(3)]
        wanted = sum(w * x for w, x in zip(weight.tolist(), each, strict=False))
        torch.testing.assert_close(losses.weighted_loss(own)(outputs, targets, weight), wanted.reshape(()))


def test_what_is_no_loss_is_refused_in_its_own_terms():
    changes = points("tied", workload_changes={"loss": f"{FILE}:not_a_loss"})
    with pytest.raises(PluginError, match=r"not_a_loss: returned int; return a tensor with a fraction"):
        make_setup(make_cell(sweep__strategy="single", **changes)).replica()
    with pytest.raises(InputError, match="has no function called smoothd; did you mean smoothed"):
        make_cell(sweep__strategy="single", **points("tied", workload_changes={"loss": f"{FILE}:smoothd"}))


# -- optimizers --------------------------------------------------------------------------------------------------------


def test_options_by_name_are_torchs_own():
    import inspect

    from harness.scenario.optimizer_options import OPTIMIZERS

    assert set(OPTIMIZERS) == set(optimizers.CLASSES)
    for name, options in OPTIMIZERS.items():
        torchs = inspect.signature(optimizers.CLASSES[name].__init__).parameters
        for key, field in options.model_fields.items():
            # A fused kernel that nobody asks for is False here and None there.
            assert torchs[key].default == (field.default if key != "fused" else field.default or None), (name, key)


@pytest.mark.parametrize("name", ["rmsprop", "adagrad", "nadam", "radam", "adamax", "adadelta", "asgd"])
def test_optimizers_of_torch_by_name_train_as_a_plain_loop_does(name):
    changes = points("unused", workload_changes={"optimizer": {"name": name, "weight_decay": 0.1}})
    wanted = plain(changes, lambda m: optimizers.CLASSES[name](m.parameters(), lr=0.05, weight_decay=0.1))
    assert apart(executed("single", changes), wanted) < SAME


OWN = {
    "two_groups": lambda m: function("two_groups")(m),
    "of_parameters": lambda m: function("of_parameters")(m.parameters(), 0.001),
    "by_axes": lambda m: function("by_axes")(m),
    "own_class": lambda m: function("own_class")(m.parameters(), 0.001),
    "by_norm": lambda m: function("by_norm")(m),
}


@pytest.mark.parametrize("name", OWN)
def test_an_optimizer_of_ones_own_trains_as_a_plain_loop_does(name):
    rate = 0.1 if name == "by_norm" else 0.001
    changes = points("tied", workload_changes={"optimizer": f"{FILE}:{name}"}, sweep__learning_rate=[rate])
    assert apart(executed("single", changes), plain(changes, OWN[name])) < SAME


def test_the_rate_of_the_sweep_is_the_first_groups_and_others_keep_their_ratio():
    changes = points("tied", workload_changes={"optimizer": f"{FILE}:two_groups"}, sweep__learning_rate=[0.003])

    def tripled(module: Any) -> Any:
        made = function("two_groups")(module)
        made.param_groups[0]["lr"], made.param_groups[1]["lr"] = 0.003, 0.03
        return made

    assert apart(executed("single", changes), plain(changes, tripled)) < SAME


def test_groups_keep_to_their_parameters_on_parts_of_a_model():
    module = function("tied")()
    made = function("two_groups")(module)
    parts = {id(p): torch.nn.Parameter(torch.zeros(2)) for p in (module.c.weight, module.a.weight)}
    stands = optimizers.on_parts(made, parts)
    assert [len(group["params"]) for group in stands.param_groups] == [1, 1]
    assert stands.param_groups[1]["params"][0] is parts[id(module.c.weight)]
    assert [group["weight_decay"] for group in stands.param_groups] == [0.1, 0.01]
    assert len(made.param_groups[1]["params"]) == 2
    assert not stands.state


def test_whether_parts_may_be_stepped_apart_is_found_by_stepping_them():
    module = function("tied")()
    assert optimizers.separable(function("two_groups")(module)) == optimizers.Separable(True, True, True)
    own_class = function("own_class")(module.parameters(), 0.1)
    assert optimizers.separable(own_class) == optimizers.Separable(True, True, True)
    assert optimizers.separable(function("by_row")(module)) == optimizers.Separable(True, True, False)
    assert optimizers.separable(function("by_norm")(module)) == optimizers.Separable(True, False, False)


@pytest.mark.dist
def test_an_optimizer_of_ones_own_trains_on_sharded_parameters_or_says_why_not():
    changes = points("body", gpus=2, workload_changes={"optimizer": f"{FILE}:two_groups"}, sweep__learning_rate=[0.001])
    assert apart(real("fsdp", **changes).weights, plain(changes, OWN["two_groups"])) < SAME
    assert apart(real("zero-1", **changes).weights, plain(changes, OWN["two_groups"])) < SAME
    changes["workload"] = changes["workload"] | {"optimizer": f"{FILE}:by_norm"}
    result = run_cell(make_cell(engine="real", sweep__strategy="fsdp", **changes))
    assert result.cause is Cause.IMPOSSIBLE
    assert result.reason.startswith(
        "workload.optimizer: ByNorm does not take the same step where a device holds a part"
    )


@pytest.mark.parametrize(
    ("strategy", "optimizer", "held"),
    [
        ("fsdp", "by_norm", "a part of each parameter"),
        ("zero-1", "by_row", "a part of each parameter"),
        ("model-split", "by_group", "some of the parameters"),
    ],
)
def test_an_optimizer_that_takes_other_steps_on_parts_is_refused_on_the_virtual_engine_too(strategy, optimizer, held):
    changes = points("body", gpus=2, workload_changes={"optimizer": f"{FILE}:{optimizer}"})
    for engine in ("virtual", "real"):
        setup = make_setup(make_cell(sweep__strategy=strategy, engine=engine, **changes))
        with pytest.raises(Impossible, match=f"does not take the same step where a device holds {held}"):
            setup.replica()
    assert executed("sync-ddp", changes, steps=1).size  # every replica holds the whole


@pytest.mark.dist
@pytest.mark.parametrize(
    ("model", "optimizer", "options"),
    [
        ("tied", "two_groups", {}),  # a parameter of two stages
        ("listed", "by_order", {"schedule": "interleaved-1f1b", "chunks": 2}),  # a group spans stages
        ("listed", "by_order", {"schedule": "zb-1p"}),
    ],
)
def test_an_optimizer_of_ones_own_steps_its_groups_parts_on_the_stages_of_a_pipeline(model, optimizer, options):
    own = {"optimizer": f"{FILE}:{optimizer}"}
    changes = points(model, gpus=2, workload_changes=own, sweep__learning_rate=[0.001], sweep__micro_batch_size=[8])
    options = {"strategy__model-split": options} if options else {}
    made = function(optimizer)
    assert apart(real("model-split", **changes, **options).weights, plain(changes, made)) < SAME


@pytest.mark.dist
@pytest.mark.parametrize(
    ("model", "stages", "own"),
    [("body", [["a"], ["b", "c"]], "two_groups"), ("batchnorm", [["0", "1"], ["2", "3", "4"]], "by_axes")],
    ids=["calls", "layers"],
)
def test_groups_keep_to_their_parameters_on_the_stages_of_a_pipeline(model, stages, own):
    changes = points(model, gpus=2, workload_changes={"optimizer": f"{FILE}:{own}"}, sweep__learning_rate=[0.001])
    cell = make_cell(engine="real", sweep__strategy={"name": "model-split", "placement": stages}, **changes)
    split = run_cell(cell, options={"keep_weights": True})
    assert split.finished, split.reason
    assert apart(split.outcome.weights, plain(changes, OWN[own])) < SAME


def test_an_optimizer_of_ones_own_needs_a_rate_and_must_be_one():
    changes = points("tied", workload_changes={"optimizer": f"{FILE}:two_groups"})
    del changes["sweep__learning_rate"]
    with pytest.raises(InputError, match=r"sweep.learning_rate: required with workload.optimizer"):
        make_cell(sweep={"strategy": "single", "gpus": [1]}, **{k: v for k, v in changes.items() if "__" not in k})
    changes = points("tied", workload_changes={"optimizer": f"{FILE}:no_optimizer"})
    with pytest.raises(PluginError, match=r"no_optimizer: returned Tied, expected a torch.optim.Optimizer"):
        make_setup(make_cell(sweep__strategy="single", **changes)).replica()


def test_a_schedule_of_ones_own_counts_updates():
    changes = points("tied", workload_changes={"lr_schedule": f"{FILE}:falling"}, sweep__global_batch_size=[200])
    wanted = plain(changes, sgd, rates=lambda step: 0.05 / (1 + step))  # seven updates an epoch, the last one smaller
    assert apart(executed("single", changes), wanted) < SAME


def test_code_of_ones_own_counts_in_the_id_of_a_cell(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("def loss(outputs, targets):\n    return (outputs ** 2).mean()\n")
    changes = points("tied", workload_changes={"loss": f"{file}:loss"})
    before = make_cell(sweep__strategy="single", **changes).cell_id
    assert make_cell(sweep__strategy="single", **changes).cell_id == before
    file.write_text("def loss(outputs, targets):\n    return (outputs ** 4).mean()\n")
    assert make_cell(sweep__strategy="single", **changes).cell_id != before


# -- BatchNorm ---------------------------------------------------------------------------------------------------------


def test_a_batch_of_one_sample_is_refused_before_the_run_with_a_batch_that_works():
    # 1,293 = 38 x 34 + 1
    changes = points("batchnorm", sweep__global_batch_size=[34], goal={"max_epochs": 2})
    setup = make_setup(make_cell(sweep__strategy="single", **changes))
    with pytest.raises(Impossible) as refused:
        setup.replica()
    told = str(refused.value)
    assert "step 39 would give BatchNorm one sample alone" in told
    assert "1,293 training samples in batches of 34 leave a last batch of 1" in told
    assert "global_batch_size = 33 leaves none" in told


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"goal": {"max_steps": 38}}, False),
        ({"goal": {"max_steps": 39}}, True),
        ({"model": "batchnorm2d"}, False),
    ],
    ids=["before", "reached", "pixels"],
)
def test_only_what_would_happen_is_refused(changes, refused):
    both = {"goal": {"max_epochs": 2}} | changes
    setup = make_setup(make_cell(sweep__strategy="single", sweep__global_batch_size=[34], **_without_batch(both)))
    if refused:
        with pytest.raises(Impossible):
            setup.replica()
    else:
        setup.replica()


def _without_batch(changes: dict[str, Any]) -> dict[str, Any]:
    made = points(**{"model": "batchnorm"} | changes)
    del made["sweep__global_batch_size"]
    return made


def test_a_single_sample_on_one_of_two_devices_is_refused_too():
    # 1,293 = 43 x 30 + 3: two and one
    changes = points("batchnorm", gpus=2, sweep__global_batch_size=[30], goal={"max_epochs": 2})
    for strategy in ("sync-ddp", "sync-ps"):
        with pytest.raises(Impossible, match="3 samples over 2 devices"):
            make_setup(make_cell(sweep__strategy=strategy, **changes)).replica()
    changes["workload"] = changes["workload"] | {"sync_batchnorm": True}
    make_setup(make_cell(sweep__strategy="sync-ddp", **changes)).replica()


def test_shared_statistics_make_replicas_train_what_one_device_trains():
    changes = points("batchnorm", gpus=4, workload_changes={"sync_batchnorm": True})
    assert apart(executed("sync-ddp", changes), plain(changes, sgd)) < SAME
    apart_without = points("batchnorm", gpus=4)
    assert apart(executed("sync-ddp", apart_without), plain(changes, sgd)) > 1e-3


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["sync-ddp", "fsdp"])
def test_shared_statistics_on_processes(strategy):
    # 1,293 = 2 x 646 + 1: in an epoch's last batch one process has no sample, and meets the other all the same.
    changes = points(
        "batchnorm2d",
        gpus=2,
        workload_changes={"sync_batchnorm": True},
        sweep__global_batch_size=[323],
        sweep__micro_batch_size=17,
    )
    del changes["sweep__global_batch_size"]
    changes |= {"sweep__batch_size": [323], "sweep__gpus": [2]}
    measured = real(strategy, **changes)
    assert apart_vectors(measured.weights, executed(strategy, changes)) < SAME


def apart_vectors(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one) - np.asarray(other)).max() / np.abs(np.asarray(other)).max())


@pytest.mark.dist
@pytest.mark.parametrize(("model", "micro"), [("batchnorm_drops", 16), ("batchnorm_drops", 4), ("normalised_rows", 16)])
def test_replicas_that_share_statistics_draw_alike_on_both_engines(model, micro):
    shared = {"sync_batchnorm": True}
    changes = points(model, gpus=2, workload_changes=shared, sweep__micro_batch_size=[micro])
    weights = np.asarray(real("sync-ddp", **changes).weights)
    assert np.abs(executed("sync-ddp", changes) - weights).max() < SAME


def test_draws_that_cannot_be_told_apart_are_refused_where_replicas_are_simulated():
    for model, reason in {
        "normalised_numpy": "draws from numpy",
        "normalised_all": r"draws random numbers \(rand\)",
    }.items():
        with pytest.raises(Impossible, match=reason):
            executed("sync-ddp", points(model, gpus=2, workload_changes={"sync_batchnorm": True}), steps=1)


def test_workers_that_compute_apart_cannot_share_statistics():
    changes = points("batchnorm", gpus=2, workload_changes={"sync_batchnorm": True})
    with pytest.raises(Impossible, match="the 2 workers of sync-ps compute apart from each other"):
        make_setup(make_cell(sweep__strategy="sync-ps", **changes)).replica()


def test_shared_batch_norm_is_batch_norm_over_all_processes(tmp_path):
    shared = lazy("harness.engines.shared.batch_norm")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        for momentum in (0.1, None):
            plain_norm = torch.nn.BatchNorm2d(3, momentum=momentum).double()
            with torch.no_grad():
                plain_norm.weight.uniform_(0.5, 2.0)
            import copy

            norm = shared.SharedBatchNorm.of(copy.deepcopy(plain_norm))
            for _ in range(2):
                x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
                y = x.clone().requires_grad_()
                x.requires_grad_()
                a, b = plain_norm(x), norm(y)
                torch.testing.assert_close(a, b)
                (a**3).sum().backward()
                (b**3).sum().backward()
                torch.testing.assert_close(x.grad, y.grad)
                torch.testing.assert_close(norm.weight.grad, plain_norm.weight.grad)
            torch.testing.assert_close(norm.running_var, plain_norm.running_var)
            torch.testing.assert_close(norm.running_mean, plain_norm.running_mean)
            torch.testing.assert_close(norm.eval()(x), plain_norm.eval()(x))
    finally:
        torch.distributed.destroy_process_group()


# -- what the trial finds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("unused", {"without_gradient": ("spare.weight", "spare.bias")}),
        ("branches", {"keeps": ("passes",)}),
        ("by_value", {"looks": True}),
        ("reentrant", {"reentrant": True}),
        ("sparse", {"sparse": ("table.weight",), "looks": False}),
        ("sparse_function", {"sparse": ("table",)}),
        ("drops", {"generators": ("torch",)}),
        ("numpy_noise", {"generators": ("random", "numpy")}),
        ("batchnorm", {"norms": ("2",), "norms_of_one": ("2",)}),
        ("batchnorm2d", {"norms": ("1",), "norms_of_one": ()}),
        ("tied", {"without_gradient": (), "looks": False, "keeps": (), "generators": (), "norms": ()}),
    ],
)
def test_what_a_trial_finds(model, expected):
    setup = make_setup(make_cell(sweep__strategy="single", **points(model)))
    setup.replica()
    assert {key: getattr(setup.trial, key) for key in expected} == expected


def test_what_nothing_can_be_trained_of_is_refused():
    for model, told in {"all_frozen": "all its parameters are frozen", "nothing": "it has no parameters"}.items():
        with pytest.raises(Untrainable, match=f"there is nothing to train: {told}"):
            make_setup(make_cell(sweep__strategy="single", **points(model))).replica()


@pytest.mark.dist
def test_sparse_gradients_that_no_layer_shows_are_made_dense_too():
    changes = points("sparse_function", gpus=2, sweep__micro_batch_size=[8])
    assert apart(real("sync-ddp", **changes).weights, plain(changes, dense_sgd)) < SAME
    assert apart(executed("sync-ddp", changes), plain(changes, dense_sgd)) < SAME
    with pytest.raises(Impossible, match="the gradient of table is sparse, which fully_shard cannot exchange"):
        executed("fsdp", changes)


def dense_sgd(module: Any) -> Any:
    def make_dense(parameter: Any) -> None:
        parameter.grad = parameter.grad.to_dense()

    module.table.register_post_accumulate_grad_hook(make_dense)
    return sgd(module)


def test_sparse_gradients_are_exchanged_as_dense_ones():
    changes = points("sparse", workload_changes={"optimizer": "sgd"})
    wanted = plain(changes, lambda m: torch.optim.SGD(m.parameters(), lr=0.05))
    assert apart(executed("single", changes), wanted) < SAME
    assert apart(executed("sync-ddp", changes | {"sweep__gpus": [2]}), wanted) < SAME


def test_evaluating_moves_nothing_that_training_uses():
    setup = make_setup(make_cell(sweep__strategy="single", **points("counter")))
    replica = setup.replica()
    before = {name: buffer.clone() for name, buffer in replica.module.named_buffers()}
    inputs = setup.data.validation.inputs.clone()
    replica.evaluate("validation")
    assert all(torch.equal(before[name], buffer) for name, buffer in replica.module.named_buffers())
    assert torch.equal(inputs, setup.data.validation.inputs)
    setup = make_setup(make_cell(sweep__strategy="single", **points("branches")))
    replica = setup.replica()
    replica.evaluate("validation")
    assert replica.module.passes == 0


def test_whole_numbers_travel_exactly_and_their_means_are_rounded():
    setup = make_setup(make_cell(sweep__strategy="single", **points("counter")))
    replica = setup.replica()
    for value in (0, 65_535, 5_000_000_000, -7, 2**62):
        replica.module.seen.fill_(value)
        vector = replica.buffer_vector()
        replica.module.seen.zero_()
        replica.set_buffers(sum([vector] * 3) / 3)
        assert int(replica.module.seen) == value


def test_a_gradient_that_is_missing_without_notice_stops_the_run():
    setup = make_setup(make_cell(sweep__strategy="single", **points("tied")))
    replica = setup.replica()
    pieces = [pieces_of.Piece(np.arange(4), 0.25)]
    replica.module.c.bias.requires_grad_(False)
    with pytest.raises(PluginError, match=r"c.bias got no gradient in this step.*find_unused_parameters = true"):
        replica.gradient(pieces)


def test_parameters_are_looked_for_where_the_scenario_asks():
    changes = points("tied", workload_changes={"find_unused_parameters": True})
    setup = make_setup(make_cell(sweep__strategy="single", **changes))
    assert setup.replica().optional
    assert apart(executed("single", changes), plain(changes, sgd)) < SAME


# -- what the record says ----------------------------------------------------------------------------------------------


def notes_of(model: str, strategy: str = "single", **changes: Any) -> list[str]:
    setup = make_setup(make_cell(sweep__strategy=strategy, **points(model, **changes)))
    setup.replica()
    return list(setup.model_notes())


def test_what_the_trial_found_is_noted():
    assert notes_of("tied") == []
    assert notes_of("unused") == [
        "2 parameters had no gradient in a trial step (spare.weight and spare.bias); the optimizer leaves a parameter "
        "without one alone"
    ]
    assert "DDP looks for parameters without a gradient in every step (find_unused_parameters)" in notes_of(
        "unused", "sync-ddp", gpus=2
    )
    (counts,) = [note for note in notes_of("branches") if "counts or keeps" in note]
    assert counts.startswith("the model counts or keeps passes from step to step, in no buffer")
    assert "so masks differ" in notes_of("drops", "sync-ddp", gpus=2)[-1]
    assert not any("masks" in note for note in notes_of("drops"))


def test_statistics_of_replicas_are_noted_with_what_shares_them():
    assert notes_of("batchnorm") == []
    assert notes_of("batchnorm", "sync-ddp", gpus=2) == [
        "1 BatchNorm layer with the statistics of each replica's own samples, not of the whole batch as on one device; "
        "workload.sync_batchnorm = true makes them those of all replicas"
    ]
    assert notes_of("batchnorm", "sync-ps", gpus=2) == [
        "1 BatchNorm layer with the statistics of each replica's own samples, not of the whole batch as on one device"
    ]
    shared = notes_of("batchnorm", "sync-ddp", gpus=2, workload_changes={"sync_batchnorm": True})
    assert shared == ["1 BatchNorm layer with the statistics of all 2 replicas together (sync_batchnorm)"]


def test_builds_that_seeds_do_not_decide_are_noted():
    (own,) = notes_of("seeds_itself")
    assert own.startswith("seeds 0 and 1 build the same ")
    (other,) = notes_of("unseeded")
    assert "with one seed differ, so this run cannot be repeated" in other


def test_the_row_says_why_weights_differ_from_one_devices():
    for model, gpus, wanted in (("batchnorm", 1, ""), ("batchnorm", 2, "batch-norm"), ("drops", 2, "draws")):
        strategy = "single" if gpus == 1 else "sync-ddp"
        setup = make_setup(make_cell(sweep__strategy=strategy, **points(model, gpus=gpus)))
        setup.replica()
        assert setup.model_facts()["traits"] == wanted


def test_memory_is_counted_under_a_loss_and_an_optimizer_of_ones_own():
    given = {"loss": f"{FILE}:smoothed", "optimizer": f"{FILE}:two_groups"}
    outcome = virtual("single", **points("tied", workload_changes=given))
    assert outcome.dram.kinds["parameters"] > 0
    assert outcome.dram.kinds["optimizer"] == 2 * outcome.dram.kinds["parameters"]


@pytest.mark.parametrize("strategy", ["local-sgd", "async-ps", "sync-ps"])
def test_what_has_no_gradient_stays_as_it_was_built_under_every_strategy(strategy):
    changes = points("unused", gpus=2)
    setup = make_setup(make_cell(engine="virtual", sweep__strategy=strategy, **changes))
    built = setup.replica()
    before = dict(zip(built.names, built.split(built.snapshot()), strict=True))
    weights = virtual(strategy, **changes).weights
    built.load(flats.Flat([torch.as_tensor(weights)]))
    after = dict(zip(built.names, built.split(built.snapshot()), strict=True))
    assert torch.equal(before["spare.weight"], after["spare.weight"])
    assert not torch.equal(before["a.weight"], after["a.weight"])


def test_what_is_computed_again_draws_the_same_numbers_again_whichever_generator_it_asks():
    import random

    from harness.engines.real.layouts.recompute import recompute_blocks

    class Noisy(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x * float(np.random.normal())) * random.random() * torch.rand(())

    def gradients(again: bool) -> Any:
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        module = torch.nn.Sequential(Noisy(4, 4), torch.nn.Tanh(), Noisy(4, 2))
        if again:
            recompute_blocks(module, ("torch", "random", "numpy"))
        module(torch.ones(3, 4)).square().sum().backward()
        left = torch.rand(()), np.random.normal(), random.random()
        return [*(p.grad for p in module.parameters()), *map(torch.as_tensor, left)]

    for plainly, again in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plainly, again)
