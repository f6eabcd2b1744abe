"""However a step is spread over devices, it is the step of one device."""

import dataclasses
import logging
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, Output, Update
from jaxgen.parallel.layout import Pipeline, layout_in_use
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.options import Parallel
from jaxgen.parallel.sharding import batch_sharding, constrained, split_further
from jaxgen.training.checkpoints import Checkpoints
from jaxgen.training.placed_optimizer import split_over_copies
from jaxgen.training.prepared import operations_of_step, prepare

ROWS, WIDTH, HIDDEN, KINDS, REPEATS = 32, 8, 16, 4, 2
PMAP = Parallel(executor="pmap")


class Masked:
    """Rows of which some count for nothing: the first four, on eight devices a whole one's, do."""

    batch_size = ROWS

    def batch(self, step, rows):
        rng = np.random.default_rng(step)
        x = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
        y, weight = x[:, 0] * x[:, 1], rng.integers(0, 5, ROWS).astype(np.float32)
        weight[:4] = 0
        kind = rng.integers(0, KINDS, ROWS)
        return {"x": x[rows], "kind": kind[rows], "y": y[rows], "weight": weight[rows]}


def init(key, batch):
    keys = jax.random.split(key, 3)

    def drawn(key, names, *shape):
        return nn.LogicallyPartitioned(0.3 * jax.random.normal(key, shape), names)

    params = {
        "body": {
            "table": drawn(keys[2], ("vocab", "embed"), KINDS, WIDTH),
            "kernel": drawn(keys[0], ("embed", "mlp"), WIDTH, HIDDEN),
            "bias": jnp.zeros(3),
        },
        "head": {"kernel": drawn(keys[1], ("mlp", None), HIDDEN, 1)},
    }
    return params, {"rows_seen": jnp.zeros((), jnp.int32), "mean": jnp.zeros(WIDTH)}


def masked_loss(params, context):
    x, y, weight = (context.batch[name] for name in ("x", "y", "weight"))
    body = params["body"]
    seen = constrained(x + body["table"][context.batch["kind"]], ("batch", None))
    hidden = constrained(jnp.tanh(seen @ body["kernel"]), ("batch", "mlp"))
    error = (hidden @ params["head"]["kernel"])[:, 0] + body["bias"].sum() - y
    count = weight.sum()

    def mean(values):
        return (weight * values).sum() / jnp.maximum(count, 1)

    variables = {
        "rows_seen": context.variables["rows_seen"] + len(x),
        "mean": 0.9 * context.variables["mean"] + 0.1 * x.mean(0),
    }
    return Output(mean(error**2), count, {"size": mean(jnp.abs(error))}, variables)


def noisy_loss(params, context):
    noise = jax.random.normal(context.key, ())
    output = masked_loss(params, context)
    return dataclasses.replace(
        output,
        value=output.value + noise * params["head"]["kernel"].sum(),
        weight=1.0,
        metrics={"noise": noise, "square": noise**2},
    )


def updates(reduce_once=False, loss=masked_loss):
    # Plain gradient descent for one: Adam would hide gradients that are summed twice.
    return [
        Update(
            "body",
            loss,
            optax.sgd(0.1, momentum=0.9),
            moves="body",
            repeats=REPEATS,
            accumulate=2,
            reduce_once=reduce_once,
            ema=0.9,
        ),
        Update("head", loss, optax.adam(1e-2), moves="head", every=2),
    ]


def experiment(updates, init=init, rules=None):
    return Experiment(
        init=init, updates=updates, data={"train": Masked()}, steps=4, seed=0, rules=rules or {}
    )


def stepped(prepared, state, first, last):
    measured, source = [], Masked()
    for step in range(first, last):
        batches = [source.batch(REPEATS * step + i, prepared.rows) for i in range(REPEATS)]
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *batches[: prepared.repeats])
        state, metrics, finite = prepared.train_step(state, batch)
        assert finite
        measured.append(jax.device_get(metrics))
    return state, measured


def train(experiment, mesh, parallel=None):
    """The state after all steps, and each one's metrics."""
    prepared = prepare(experiment, mesh, parallel or Parallel())
    with jax.set_mesh(mesh), layout_in_use(prepared.layout):
        state, measured = stepped(prepared, prepared.create(), 0, experiment.steps)
    for leaf, expected in zip(
        jax.tree.leaves(state), jax.tree.leaves(prepared.abstract), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(expected.sharding, leaf.ndim)
    return state, measured


@pytest.fixture(scope="module")
def alone():
    return train(experiment(updates()), make_mesh(MeshShape(), jax.devices()[:1]))


@pytest.mark.parametrize(
    ("shape", "parallel", "reduce_once"),
    [
        (MeshShape(), PMAP, False),
        (MeshShape(data=2, fsdp=2, tensor=2), Parallel(), True),
        (MeshShape(slices=2, data=4), Parallel(), True),
        (MeshShape(slices=2, data=2, fsdp=2), Parallel(shard_optimizer=True), False),
        (MeshShape(data=2, tensor=4), Parallel(shard_optimizer=True, offload_optimizer=True), True),
    ],
    ids=["pmap", "reduce_once", "reduce_once_slices", "shard_optimizer", "everything"],
)
def test_every_executor_takes_the_steps_of_one_device(alone, shape, parallel, reduce_once):
    state, measured = train(experiment(updates(reduce_once)), make_mesh(shape), parallel)
    expected_state, expected = alone
    assert int(state.variables["rows_seen"]) == 4 * 2 * ROWS + 2 * ROWS
    chex.assert_trees_all_close(
        jax.device_get(state), jax.device_get(expected_state), rtol=1e-4, atol=1e-6
    )
    chex.assert_trees_all_close(measured, expected, rtol=1e-4, atol=1e-6)
    assert measured[0]["head/loss"] == 0 and measured[1]["head/loss"] > 0


@pytest.mark.parametrize("name", ["pmap", "reduce_once"])
def test_noise_differs_between_devices_and_not_between_runs(name):
    update = Update(
        "all", noisy_loss, optax.sgd(0.1), accumulate=2, reduce_once=name == "reduce_once"
    )
    parallel = PMAP if name == "pmap" else Parallel()
    (first, measured), (second, _) = (
        train(experiment([update]), make_mesh(MeshShape()), parallel) for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(first), jax.device_get(second))
    noise = np.array([step["all/noise"] for step in measured])
    square = np.array([step["all/square"] for step in measured])
    # The variance of sixteen draws; of two, as if all devices drew alike, it would often be small.
    assert np.all(square - noise**2 > 0.2) and len(set(noise)) == len(noise)


def test_pmap_gives_the_old_state_away():
    mesh = make_mesh(MeshShape())
    prepared = prepare(experiment(updates()), mesh, PMAP)
    with jax.set_mesh(mesh), layout_in_use(prepared.layout):
        state = prepared.create()
        stepped(prepared, state, 0, 1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_pmap_does_the_operations_of_the_step_that_jit_does():
    mesh, counted = make_mesh(MeshShape()), []
    batch = jax.tree.map(lambda leaf: np.stack([leaf] * REPEATS), Masked().batch(0, slice(0, ROWS)))
    for parallel in (Parallel(), PMAP):
        made = experiment(updates())
        prepared = prepare(made, mesh, parallel)
        with jax.set_mesh(mesh), layout_in_use(prepared.layout):
            counted.append(operations_of_step(made, prepared, prepared.abstract, batch, mesh))
    assert counted[0] == counted[1] and counted[0].total > 0


def test_pmap_takes_a_batch_that_lies_on_the_devices():
    mesh = make_mesh(MeshShape())
    prepared = prepare(experiment(updates()), mesh, PMAP)
    batches = [Masked().batch(step, prepared.rows) for step in range(REPEATS)]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    with jax.set_mesh(mesh), layout_in_use(prepared.layout):
        first, _, _ = prepared.train_step(prepared.create(), batch)
        placed = jax.device_put(batch, batch_sharding(mesh))
        second, _, _ = prepared.train_step(prepared.create(), placed)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(first), jax.device_get(second))


def all_reduces(text):
    """How many all-reduces a compiled program has inside loops, and how many elsewhere."""
    parts = dict(re.findall(r"^(?:ENTRY )?(%[\w.-]+) .*?\{\n(.*?)^\}", text, re.M | re.S))
    looped = set(re.findall(r"body=(%[\w.-]+)", text))
    reached = set()
    while looped - reached:
        name = (looped - reached).pop()
        reached.add(name)
        looped |= {called for called in re.findall(r"%[\w.-]+", parts[name]) if called in parts}
    counts = {
        name: len(re.findall(r" all-reduce(?:-start)?\(", body)) for name, body in parts.items()
    }
    inside = sum(count for name, count in counts.items() if name in reached)
    return inside, sum(counts.values()) - inside


@pytest.mark.parametrize(
    ("shape", "reduce_once"),
    [
        (MeshShape(), False),
        (MeshShape(slices=2), True),
        # An axis that nothing here is split over, so that no other sums come between.
        (MeshShape(slices=2, sequence=2), True),
    ],
    ids=["usual", "by_hand", "by_axis"],
)
def test_gradients_are_reduced_once_outside_the_loop(shape, reduce_once):
    update = Update("all", masked_loss, optax.sgd(0.1), accumulate=4, reduce_once=reduce_once)
    mesh = make_mesh(shape)
    prepared = prepare(experiment([update]), mesh)
    batch = jax.tree.map(lambda leaf: leaf[None], Masked().batch(0, slice(0, ROWS)))
    with jax.set_mesh(mesh), layout_in_use(prepared.layout):
        text = prepared.train_step.lower(prepared.abstract, batch).compile().as_text()
    inside, outside = all_reduces(text)
    assert (inside == 0 and outside > 0) if reduce_once else inside > 0


def on_first_device(tree):
    """Bytes of `tree` that one device holds."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        (MeshShape(), 8),
        (MeshShape(slices=2, data=2, fsdp=2), 4),
        (MeshShape(data=2, tensor=4), 2),
    ],
)
def test_optimizer_state_falls_by_the_copies_of_the_model(shape, part):
    def plain(key, batch):
        params, variables = init(key, batch)
        return {"body": {"kernel": params["body"]["kernel"]}}, variables

    update = Update("all", lambda params, context: Output(0.0), optax.adam(1e-3))
    mesh = make_mesh(shape)
    usual, split = (
        prepare(experiment([update], plain), mesh, parallel).create()
        for parallel in (Parallel(), Parallel(shard_optimizer=True))
    )
    moments, fewer = (state.optimizer_states["all"][0] for state in (usual, split))
    assert on_first_device(fewer.mu) * part == on_first_device(moments.mu)
    assert on_first_device(fewer.nu) * part == on_first_device(moments.nu)
    assert on_first_device(split.params) == on_first_device(usual.params)


def test_moves_are_worked_out_on_shards_and_gathered():
    mesh, seen = make_mesh(MeshShape()), []
    whole = NamedSharding(mesh, PartitionSpec())
    shards = split_further(whole, (HIDDEN, 3))

    def update(gradient, state, params):
        for leaf in (gradient, params):
            jax.debug.inspect_array_sharding(leaf, callback=seen.append)
        return gradient - params, state

    spy = optax.GradientTransformation(lambda params: (), update)
    apart = split_over_copies(spy, whole, shards)
    arrays = (jax.device_put(np.full((HIDDEN, 3), float(n), "f4"), whole) for n in (5, 3))
    moves, _ = jax.jit(lambda gradient, params: apart.update(gradient, (), params))(*arrays)
    assert len(seen) == 2 and all(place.is_equivalent_to(shards, 2) for place in seen)
    assert moves.sharding.is_fully_replicated and np.all(moves == 2)


@pytest.mark.parametrize(
    ("shape", "spec", "expected"),
    [
        ((3, 8), (None, None), (None, ("slices", "data"))),
        ((8, 8), ("fsdp", None), ("fsdp", ("slices", "data"))),
        ((8, 3), ("fsdp", None), (("fsdp", "slices", "data"), None)),
        ((3, 6), (None, None), (None, "data")),
        ((3, 5), (None, None), (None, None)),
        ((8, 8), ("data", None), ("data", "slices")),
    ],
)
def test_split_further_takes_the_first_whole_axis_that_divides(shape, spec, expected):
    mesh = make_mesh(MeshShape(slices=2, data=2, fsdp=2))
    split = split_further(NamedSharding(mesh, PartitionSpec(*spec)), shape)
    assert split.is_equivalent_to(NamedSharding(mesh, PartitionSpec(*expected)), len(shape))


def test_optimizer_state_on_the_host_changes_no_bit_and_outlives_a_checkpoint(tmp_path):
    mesh, parallel = make_mesh(MeshShape(data=4, fsdp=2)), Parallel(offload_optimizer=True)
    expected, losses = train(experiment(updates()), mesh)
    prepared = prepare(experiment(updates()), mesh, parallel)
    with jax.set_mesh(mesh), layout_in_use(prepared.layout):
        state, before = stepped(prepared, prepared.create(), 0, 2)
        kinds = {
            (leaf.ndim > 0, leaf.sharding.memory_kind)
            for leaf in jax.tree.leaves(state.optimizer_states)
        }
        assert kinds == {(True, "pinned_host"), (False, "device")}
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(2, state, {})
        checkpoints.wait()
        restored = checkpoints.restore(prepared.abstract).state
        checkpoints.close()
        state, after = stepped(prepared, restored, 2, 4)
    assert before + after == losses
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(expected))


def along_the_batch(key, batch):
    params, variables = init(key, batch)
    return params, variables | {"carry": nn.LogicallyPartitioned(jnp.zeros(ROWS), ("batch",))}


def with_a_flag(key, batch):
    return init(key, batch)[0], {"flag": jnp.array(False)}


def flagging(params, context):
    flag = {"flag": context.batch["x"].sum() > 0}
    return Output(params["head"]["kernel"].sum(), variables=flag)


@pytest.mark.parametrize(
    ("shape", "parallel", "sentence"),
    [
        (MeshShape(fsdp=2), PMAP, "splits the batch over data and nothing else, not .* fsdp 2"),
        (MeshShape(), dataclasses.replace(PMAP, shard_optimizer=True), "with shard_optimizer"),
        (MeshShape(), dataclasses.replace(PMAP, offload_optimizer=True), "with offload_optimizer"),
        (MeshShape(), Parallel(microbatches=-1), "-1 microbatches"),
        (MeshShape(), Parallel(rounds=0), "0 rounds"),
    ],
)
def test_options_that_do_not_go_together_are_refused(shape, parallel, sentence):
    with pytest.raises(UserError, match=sentence):
        prepare(experiment(updates()), make_mesh(shape), parallel)


def test_what_lies_along_the_batch_belongs_to_no_single_device():
    mesh = make_mesh(MeshShape())
    with pytest.raises(UserError, match="variables/carry is split"):
        prepare(experiment(updates(), along_the_batch), mesh, PMAP)
    with pytest.raises(UserError, match=r"'body' can't reduce .* carry has rows"):
        prepare(experiment(updates(reduce_once=True), along_the_batch), mesh)
    with pytest.raises(UserError, match="body/kernel is split"):
        prepare(experiment(updates(), rules={"embed": "data"}), mesh, PMAP)


def test_what_cannot_be_joined_is_named():
    update = Update("all", flagging, optax.sgd(0.1))
    with pytest.raises(UserError, match="variable flag of type bool can't be joined"):
        train(experiment([update], with_a_flag), make_mesh(MeshShape()), PMAP)
    often = Update("all", masked_loss, optax.sgd(0.1), accumulate=8, reduce_once=True)
    with pytest.raises(UserError, match="in 8 equal parts by each of 8 groups"):
        train(experiment([often]), make_mesh(MeshShape()))


def test_the_layout_is_that_of_the_experiment_and_the_options():
    mesh = make_mesh(MeshShape(tensor=2, stage=2))
    parallel = Parallel(microbatches=6, rounds=2)
    prepared = prepare(experiment(updates(), rules={"mlp": None}), mesh, parallel)
    assert prepared.layout.pipeline == Pipeline(microbatches=6, rounds=2)
    assert prepared.layout.places["mlp"] is None
    assert prepared.abstract.params["head"]["kernel"].sharding.is_fully_replicated


def test_an_axis_that_splits_nothing_is_told(caplog):
    logging.getLogger("jaxgen").propagate = True
    with caplog.at_level(logging.WARNING, "jaxgen"):
        idle = experiment(updates(), rules={"vocab": None})
        prepare(idle, make_mesh(MeshShape(stage=2)), Parallel())
        assert "split over the mesh's stage axis: its 2 devices all do the same" in caplog.text
        caplog.clear()
        prepare(experiment(updates()), make_mesh(MeshShape(tensor=2)), Parallel())
        assert not caplog.text
