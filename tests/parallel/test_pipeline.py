import math
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.families.autoregressive.architectures import gpt3, mixtral
from jaxgen.families.autoregressive.encoder_decoder_architectures import t5
from jaxgen.families.autoregressive.transformer import Transformer
from jaxgen.nn.expert_dispatch import dropless, within_capacity
from jaxgen.nn.key_value_cache import CacheRoom
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norm import LayerNorm
from jaxgen.nn.places import Places
from jaxgen.nn.saved_tensors import QUERY, saving
from jaxgen.nn.self_attention import SelfAttention
from jaxgen.nn.transformer_blocks import stacked
from jaxgen.parallel.layout import Pipeline, layout_in_use, with_rules
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.pipeline import Schedule, pipelined, schedule
from jaxgen.parallel.sharding import shardings, unbox

VOCABULARY, ROWS = 16, 8


def mesh_of(**sizes):
    return make_mesh(MeshShape(**{"data": 1, **sizes}), jax.devices()[: math.prod(sizes.values())])


def in_rounds(microbatches=0, rounds=1):
    return layout_in_use(with_rules({}, Pipeline(microbatches, rounds)))


@pytest.mark.parametrize(
    ("stages", "microbatches", "rounds"),
    [(1, 1, 1), (3, 4, 1), (4, 2, 1), (3, 4, 2), (4, 4, 3), (2, 5, 4), (4, 3, 2)],
)
def test_every_stage_has_one_thing_to_do_at_a_time(stages, microbatches, rounds):
    plan = Schedule(stages, microbatches, rounds)
    busy = set()
    for microbatch in range(microbatches):
        before = -1
        for round in range(rounds):
            for stage in range(stages):
                tick = plan.tick(microbatch, round, stage)
                assert before < tick < plan.ticks
                assert (tick, stage) not in busy
                busy.add((tick, stage))
                before = tick
    assert plan.bubble == pytest.approx(1 - len(busy) / (plan.ticks * stages))
    if microbatches >= stages:
        assert plan.ticks == microbatches * rounds + stages - 1
        assert plan.bubble == pytest.approx((stages - 1) / (microbatches * rounds + stages - 1))


def test_microbatches_keep_rows_on_their_devices():
    mesh = mesh_of(stage=2, data=2, fsdp=2)
    assert schedule(4, 128, mesh, Pipeline()) == Schedule(2, 8)
    assert schedule(4, 24, mesh, Pipeline()) == Schedule(2, 6)
    assert schedule(4, 4, mesh, Pipeline(rounds=2)) == Schedule(2, 1, 2)
    assert schedule(4, 3, mesh, Pipeline()) == Schedule(2, 3)  # not split: too few
    assert schedule(4, 128, mesh, Pipeline(16, 2)) == Schedule(2, 16, 2)


@pytest.mark.parametrize(
    ("layers", "rows", "pipeline", "said"),
    [
        (6, 16, Pipeline(), "6 layers .* don't divide over 4 stages in 1 rounds"),
        (12, 16, Pipeline(rounds=2), "take a multiple of 8 layers"),
        (8, 16, Pipeline(3), "3 microbatches don't divide 16 rows over 2 devices: .* divisor of 8"),
        (8, 16, Pipeline(16), "16 microbatches don't divide 16 rows over 2 devices"),
        (8, 16, Pipeline(2, 2), "2 microbatches are fewer than 4 stages"),
        (8, 16, Pipeline(0, 0), "0 rounds"),
    ],
)
def test_what_does_not_fit(layers, rows, pipeline, said):
    with pytest.raises(UserError, match=said):
        schedule(layers, rows, mesh_of(stage=4, data=2), pipeline)


@pytest.mark.parametrize(
    ("sizes", "microbatches", "rounds"),
    [
        ({"stage": 2}, 1, 1),
        ({"stage": 4, "data": 2}, 2, 1),
        ({"stage": 2, "data": 2}, 2, 2),
        ({"stage": 4}, 8, 2),
        ({"stage": 2}, 4, 4),
        ({"stage": 4}, 2, 2),
        ({"stage": 2}, 4, 3),
    ],
)
def test_layers_come_in_order_to_rows_and_what_is_beside_them(sizes, microbatches, rounds):
    """Layers that don't commute, as (2, 2) matrices; and what each one saw, as its report."""
    layers = 12 if rounds == 3 else 16
    matrices = jax.random.normal(jax.random.key(0), (layers, 2, 2))
    x = jax.random.normal(jax.random.key(1), (ROWS, 3, 2))
    beside = {
        "row": jnp.arange(ROWS),
        "grid": jax.random.normal(jax.random.key(2), (ROWS, 3, 2)),
        "all": jnp.ones((1, 3, 2)) * 0.5,
    }

    def layer(x, matrix, beside):
        added = beside["grid"] + beside["all"] + 0.1 * beside["row"][:, None, None]
        return jnp.tanh(x @ matrix + added)

    def stage(parameters, x, beside, turn):
        seen = []
        for index, matrix in enumerate(parameters):
            x = layer(x, matrix, beside)
            seen.append([turn.first_layer + index, turn.microbatch, beside["row"][0], x.mean()])
        return x, [jnp.stack(each).astype(jnp.float32) for each in zip(*seen, strict=True)]

    def loss(parameters, x, beside, run):
        out, reports = run(parameters, x, beside)
        return jnp.square(out).mean() + reports[3].sum(), (out, reports)

    def plainly(parameters, x, beside):
        means = []
        for matrix in parameters:
            x = layer(x, matrix, beside)
            means.append(x.mean())
        return x, [None, None, None, jnp.stack(means)]

    def differentiated(run):
        def loss_of(parameters, x, floats):
            return loss(parameters, x, beside | floats, run)

        return jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1, 2), has_aux=True))

    floats = {"grid": beside["grid"], "all": beside["all"]}
    (value, (out, reports)), gradients = differentiated(plainly)(matrices, x, floats)
    plan = Schedule(sizes["stage"], microbatches, rounds)
    piped = partial(pipelined, stage, schedule=plan)
    with jax.set_mesh(mesh_of(**sizes)):
        (found, (piped_out, piped_reports)), piped_gradients = differentiated(piped)(
            matrices, x, floats
        )
    np.testing.assert_allclose(piped_out, out, atol=1e-5)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    np.testing.assert_array_equal(piped_reports[0], np.arange(layers))
    # Microbatch m begins with row m; each layer saw each of them once.
    np.testing.assert_allclose(piped_reports[1], np.full(layers, (microbatches - 1) / 2))
    np.testing.assert_allclose(piped_reports[2], np.full(layers, (microbatches - 1) / 2))
    np.testing.assert_allclose(piped_reports[3], reports[3], atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), piped_gradients, gradients)


def transformer(layers=8):
    return Transformer(
        VOCABULARY, 8, layers, partial(SelfAttention, heads=2), partial(MLP, hidden=12), LayerNorm
    )


def tokens_of(seed=0, time=4):
    return jax.random.randint(jax.random.key(seed), (ROWS, time), 0, VOCABULARY)


def squares(network, penalties, params, arguments):
    logits, sown = network.apply({"params": params}, *arguments, mutable=["router"])
    total = jnp.square(logits[..., ::3]).mean()
    for path, leaf in jax.tree_util.tree_leaves_with_path(sown):
        if path[-1].key in penalties:
            total += leaf.mean()
    return total, sown


class Case:
    """A network, parameters `scale` times what it begins with, and its plain gradients."""

    # At first most networks' parameters are so small that a layer adds next to nothing.
    def __init__(self, network, arguments, penalties=(), scale=5):
        self.network, self.arguments, self.penalties = network, arguments, penalties
        self.boxed = jax.eval_shape(network.init, jax.random.key(1), *arguments)["params"]
        params = unbox(jax.jit(network.init)(jax.random.key(1), *arguments)["params"])
        self.params = jax.tree.map(lambda leaf: leaf * scale if leaf.ndim > 2 else leaf, params)

    @cached_property
    def plainly(self):
        return self.differentiated(self.network)(self.params)

    def differentiated(self, network, arguments=None):
        arguments = self.arguments if arguments is None else arguments
        loss = partial(squares, network, self.penalties, arguments=arguments)
        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    def check(self, mesh, microbatches=0, rounds=1, **changes):
        """Compares with one device; returns what was compiled for the mesh, and the reports."""
        (value, _), gradient = self.plainly
        network = self.network.clone(**changes)
        with jax.set_mesh(mesh), in_rounds(microbatches, rounds):
            placed = jax.device_put(self.params, shardings(self.boxed, mesh))
            compiled = self.differentiated(network).lower(placed).compile()
            (found, sown), piped = compiled(placed)
        np.testing.assert_allclose(found, value, rtol=2e-5)
        # Where a gradient is 0, as that of a key's bias, rounding is what there is to see.
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6), piped, gradient)
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1e-2
        return compiled, sown


@pytest.fixture(scope="module")
def plain():
    return Case(transformer(), (tokens_of(),))


@pytest.mark.parametrize(
    ("sizes", "microbatches", "rounds", "remat"),
    [
        ({"stage": 4, "data": 2}, 4, 2, False),
        ({"stage": 2, "fsdp": 2, "tensor": 2}, 4, 1, True),
        pytest.param({"stage": 2, "sequence": 2, "fsdp": 2}, 2, 1, True, marks=pytest.mark.slow),
        pytest.param({"stage": 2, "data": 2}, 2, 1, False, marks=pytest.mark.slow),
        pytest.param({"stage": 4, "data": 2}, 0, 1, True, marks=pytest.mark.slow),
        pytest.param({"stage": 2}, 8, 2, saving(QUERY), marks=pytest.mark.slow),
    ],
)
def test_the_same_gradients_as_one_device(plain, sizes, microbatches, rounds, remat):
    compiled, _ = plain.check(mesh_of(**sizes), microbatches, rounds, remat=remat)
    assert "collective-permute" in compiled.as_text()


def test_ticks_and_places(plain):
    mesh = mesh_of(stage=4, data=2)
    params = jax.device_put(plain.params, shardings(plain.boxed, mesh))
    kernel = params["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.shape == (8, 8, 12)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 8, 12)}
    assert kernel.sharding.spec[0] == "stage"
    with jax.set_mesh(mesh), in_rounds(4, 2):
        jaxpr = jax.make_jaxpr(partial(plain.network.apply, {"params": params}))(*plain.arguments)
    lengths = [eqn.params["length"] for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    assert lengths == [4 * 2 + 4 - 1]


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("remat", [False, saving(QUERY)])
def test_no_copy_of_the_parameters_for_every_tick(plain, rounds, remat):
    """All that is kept of each tick for the backward pass grows with the rows."""
    network = plain.network.clone(dtype=jnp.bfloat16, remat=remat)
    ticks, kept = Schedule(2, 4, rounds).ticks, []
    for rows in (8, 16):
        with jax.set_mesh(mesh_of(stage=2)), in_rounds(4, rounds):
            arguments = (jnp.zeros((rows, 3), jnp.int32),)
            loss = partial(squares, network, (), arguments=arguments)
            _, back, _ = jax.eval_shape(partial(jax.vjp, loss, has_aux=True), plain.params)
        kept.append([leaf for leaf in jax.tree.leaves(back) if leaf.shape[:1] == (ticks,)])
    few, many = kept
    assert len(few) == len(many) > 0
    for less, more in zip(few, many, strict=True):
        assert more.size == 2 * less.size or less.size <= ticks * 8, less


@pytest.mark.slow
def test_turns_of_layers_and_packed_texts():
    network = gpt3(8, 4, 2, 4, vocabulary=VOCABULARY, context=8, band=2)
    segments = jnp.asarray([[1, 1, 1, 2, 2, 0]] * 3 + [[1, 1, 2, 2, 2, 2]] * 5)
    positions = jnp.asarray([[0, 1, 2, 0, 1, 0]] * 3 + [[0, 1, 0, 1, 2, 3]] * 5)
    case = Case(network, (tokens_of(time=6), positions, segments))
    assert set(case.params["blocks"]) == {"0", "1"}
    case.check(mesh_of(stage=2, data=2), 2)


def test_both_stacks_of_an_encoder_and_decoder():
    """With memory, its segments and the biases of distances beside the rows."""
    network = t5(VOCABULARY, 8, 2, 2, 4, 12, buckets=4, furthest=8)
    sources = jnp.asarray([[1, 1, 1, 0, 0]] * 2 + [[1, 1, 2, 2, 2]] * 6)
    targets = jnp.asarray([[1, 1, 1, 1]] * 2 + [[1, 2, 2, 2]] * 6)
    case = Case(network, (tokens_of(1, 5), tokens_of(2), sources, targets), scale=1)
    case.check(mesh_of(stage=2, data=2), 2)


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", [within_capacity, dropless])
def test_what_mixtures_report_is_the_mean_of_the_microbatches(dispatch):
    """With experts on several devices: vectors travel among those of a stage."""
    network = mixtral(VOCABULARY, 8, 2, 2, 1, 12, experts=4, dispatch=dispatch)
    penalties, tokens, parts = ("load_balance", "router_z"), tokens_of(), 2
    case = Case(network, (tokens,), penalties)
    each = jax.jit(lambda rows: case.differentiated(network, (rows,))(case.params))
    plainly = [each(tokens[part::parts]) for part in range(parts)]
    means = jax.tree.map(lambda *leaves: sum(leaves) / parts, *plainly)
    with jax.set_mesh(mesh_of(stage=2, expert=2)), in_rounds(parts):
        placed = jax.device_put(case.params, shardings(case.boxed, mesh_of(stage=2, expert=2)))
        piped = case.differentiated(network)(placed)
    (_, sown), _ = piped
    assert set(sown["router"]["blocks"]["mlp"]) >= {"load_balance", "router_z", "dropped"}
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6), piped, means)


@pytest.mark.slow
def test_inside_an_accumulated_step(plain):
    """Parts of a batch one after the other, each of them in microbatches."""
    parts = tokens_of().reshape(-1, 2, 4).swapaxes(0, 1)

    def gradient(network, params):
        def add(total, tokens):
            loss = partial(squares, network, (), arguments=(tokens,))
            return jax.tree.map(jnp.add, total, jax.grad(loss, has_aux=True)(params)[0]), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)[0]

    expected = jax.jit(partial(gradient, plain.network))(plain.params)
    mesh = mesh_of(stage=2, data=2)
    with jax.set_mesh(mesh), in_rounds(2):
        params = jax.device_put(plain.params, shardings(plain.boxed, mesh))
        found = jax.jit(partial(gradient, plain.network))(params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6), found, expected)


def test_caches_are_filled_without_a_pipeline(plain):
    tokens, lengths = plain.arguments[0], jnp.full(ROWS, 3)

    def decode(params):
        variables = {"params": params}
        first, cache = plain.network.apply(
            variables, tokens, lengths, CacheRoom(6), method=Transformer.prefill
        )
        after, _ = plain.network.apply(
            variables, tokens[:, :2], cache, lengths, method=Transformer.extend
        )
        return first, after

    expected = jax.jit(decode)(plain.params)
    mesh = mesh_of(stage=2, data=2)
    with jax.set_mesh(mesh):
        params = jax.device_put(plain.params, shardings(plain.boxed, mesh))
        found = jax.jit(decode)(params)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), found, expected)


class Nothing(nn.Module):
    """Takes the place of attention."""

    initializer: Any
    output_initializer: Any
    dtype: Any

    def __call__(self, x, places, cache, deterministic):
        return jnp.zeros_like(x), cache


class Noise(nn.Module):
    """Takes the place of a position-wise network: adds one random number, and reports it."""

    initializer: Any
    output_initializer: Any
    dtype: Any

    @nn.compact
    def __call__(self, x, real, deterministic):
        drawn = jax.random.normal(self.make_rng("dropout"))
        self.sow("router", "drawn", drawn, lambda _, new: new, lambda: None)
        return jnp.full_like(x, drawn)


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x):
        blocks = stacked(
            4, Nothing, Noise, LayerNorm, initializer=None, output_initializer=None, dtype=None
        )
        return blocks(x, None, Places(jnp.arange(3)[None]))[0]


def test_every_layer_and_microbatch_draws_for_itself():
    x = jnp.zeros((ROWS, 3, 2))
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = Noisy().init(rngs, x)["params"]
    with jax.set_mesh(mesh_of(stage=2)), in_rounds(4):
        run = jax.jit(partial(Noisy().apply, rngs={"dropout": jax.random.key(2)}, mutable="router"))
        out, sown = run({"params": params}, x)
    drawn = np.unique(sown["router"]["blocks"]["mlp"]["drawn"])
    assert drawn.shape == (4,)
    # Rows of a microbatch share what it drew.
    np.testing.assert_array_equal(out[:4], out[4:])
    assert len(np.unique(out)) == 4
    np.testing.assert_allclose(out.mean(), drawn.sum(), rtol=1e-5)
