"""A mixture of experts against a plain loop over tokens, and on many devices against one."""

import math
import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.errors import UserError
from jaxgen.nn.expert_dispatch import dropless, within_capacity
from jaxgen.nn.mixture_of_experts import MixtureOfExperts
from jaxgen.parallel.layout import BATCH_AXES, RULES
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.sharding import shardings

EXPERTS, CHOSEN, WIDTH, HIDDEN = 4, 2, 8, 6
X = jax.random.normal(jax.random.key(0), (8, 6, WIDTH))
SLOPE = jax.random.normal(jax.random.key(1), X.shape)
ROOMY = partial(within_capacity, factor=EXPERTS / CHOSEN)  # for every token, whatever it chose


def mixture(**fields):
    return MixtureOfExperts(
        **{"experts": EXPERTS, "chosen": CHOSEN, "hidden": HIDDEN, "initializer": NORMAL, **fields},
        output_initializer=NORMAL,
    )


NORMAL = nn.initializers.normal(0.7)
BOXED = jax.jit(mixture().init)(jax.random.key(2), X)["params"]
PARAMS = meta.unbox(BOXED)


def written_out(params, x, chosen=CHOSEN, renormalize=True, capacity=None):
    """float64, a token at a time; `capacity` counts each group's first choices first."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = np.asarray(x, np.float64)
    out = np.zeros(x.shape)
    dropped = 0
    for group, rows in enumerate(x):
        scores = np.exp(rows @ params["router"]["kernel"])
        probabilities = scores / scores.sum(-1, keepdims=True)
        best = np.argsort(-probabilities, axis=-1)[:, :chosen]
        places = dict.fromkeys(range(EXPERTS), len(rows) if capacity is None else capacity)
        for choice in range(chosen):
            for t, row in enumerate(rows):
                expert = best[t, choice]
                weight = probabilities[t, expert]
                if renormalize:
                    weight /= probabilities[t, best[t]].sum()
                if not places[expert]:
                    dropped += 1
                    continue
                places[expert] -= 1
                gate, up, down = (params[name]["kernel"][expert] for name in ("gate", "up", "down"))
                hidden = row @ gate
                hidden = hidden / (1 + np.exp(-hidden)) * (row @ up)
                out[group, t] += weight * (hidden @ down)
    return out, dropped / (x.shape[0] * x.shape[1] * chosen)


def run(module, real=None):
    """Output, router values and gradients (parameters, x) of one program."""

    @jax.jit
    def both(params, x, slope):
        def forward(params, x):
            return module.apply({"params": params}, x, real, mutable=["router"])

        (out, left), back = jax.vjp(forward, params, x)
        return out, left["router"], back((slope, jax.tree.map(jnp.ones_like, left)))

    return both


@pytest.fixture(scope="module")
def without_drops():
    return run(mixture())(PARAMS, X, SLOPE)


def close(ours, theirs, tolerance=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), ours, theirs
    )


def test_dropless_is_a_loop_over_tokens(without_drops):
    out, router, _ = without_drops
    close(out, written_out(PARAMS, X)[0])
    assert router["dropped"] == 0
    assert 0 < router["load_entropy"] <= math.log(EXPERTS) + 1e-6


def test_gradients_are_those_of_every_expert_on_every_token(without_drops):
    def dense(params, x):
        logits = x @ params["router"]["kernel"]
        best, taken = jax.lax.top_k(jax.nn.softmax(logits), CHOSEN)
        weights = (
            jax.nn.one_hot(taken, EXPERTS) * (best / best.sum(-1, keepdims=True))[..., None]
        ).sum(2)
        gate, up = (
            jnp.einsum("gtw,ewh->gteh", x, params[name]["kernel"]) for name in ("gate", "up")
        )
        every = jnp.einsum("gteh,ehw->gtew", jax.nn.silu(gate) * up, params["down"]["kernel"])
        # What the losses add to the router's gradient is jax's own, by the same functions.
        left = mixture().apply({"params": params}, x, mutable=["router"])[1]["router"]
        return jnp.einsum("gtew,gte->gtw", every, weights), left

    @jax.jit
    def gradients(params, x, slope):
        (_, left), back = jax.vjp(dense, params, x)
        return back((slope, jax.tree.map(jnp.ones_like, left)))

    close(without_drops[2], gradients(PARAMS, X, SLOPE), 2e-5)


def test_capacity_for_all_changes_nothing(without_drops):
    close(run(mixture(dispatch=ROOMY))(PARAMS, X, SLOPE), without_drops, 2e-5)


@pytest.mark.parametrize(
    ("chosen", "renormalize"), [(2, True), (1, False)], ids=["GShard's", "Switch Transformer's"]
)
def test_tokens_beyond_capacity_are_dropped(chosen, renormalize):
    capacity = 2  # ⌈1 / chosen · chosen · 6 tokens / 4 experts⌉
    dispatch = partial(within_capacity, factor=1 / chosen)
    module = mixture(chosen=chosen, renormalize=renormalize, dispatch=dispatch)
    out, left = jax.jit(partial(module.apply, mutable=["router"]))({"params": PARAMS}, X)
    expected, dropped = written_out(PARAMS, X, chosen, renormalize, capacity)
    close(out, expected)
    assert dropped > 0.1
    np.testing.assert_allclose(left["router"]["dropped"], dropped, rtol=1e-6)


@pytest.mark.parametrize("capacity", [None, 2])
def test_padding_goes_nowhere_and_counts_for_nothing(capacity):
    keep = np.arange(6) % 3 != 1
    real = jnp.broadcast_to(jnp.asarray(keep), X.shape[:2])
    few = partial(within_capacity, factor=0.5)  # ⌈0.5 · 2 choices · 6 tokens / 4 experts⌉ = 2
    program = run(mixture(dispatch=few if capacity else dropless), real)
    out, router, slopes = program(PARAMS, X, SLOPE)
    expected, dropped = written_out(PARAMS, X[:, keep], capacity=capacity)
    close(out[:, keep], expected)
    np.testing.assert_allclose(router["dropped"], dropped, rtol=1e-6)
    assert not np.any(out[:, ~keep]) and not np.any(slopes[1][:, ~keep])
    other = program(PARAMS, jnp.where(real[..., None], X, 3.0), SLOPE)
    jax.tree.map(np.testing.assert_array_equal, other, (out, router, slopes))


@pytest.mark.parametrize("dispatch", [dropless, partial(within_capacity, factor=0.75)])
@pytest.mark.parametrize(
    "shape",
    [
        MeshShape(data=2, fsdp=2, tensor=2),
        pytest.param(MeshShape(data=1, fsdp=8, tensor=1), marks=pytest.mark.slow),
        pytest.param(MeshShape(data=1, fsdp=2, tensor=4), marks=pytest.mark.slow),
    ],
)
def test_many_devices_do_what_one_does(dispatch, shape, without_drops):
    module = mixture(dispatch=dispatch)
    alone = without_drops if dispatch is dropless else run(module)(PARAMS, X, SLOPE)
    mesh = make_mesh(shape)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
        placed = jax.device_put(PARAMS, shardings(BOXED, mesh))
        together = run(module)(placed, *jax.device_put((X, SLOPE), rows))
    close(together, alone, 2e-5)


@pytest.mark.parametrize("dispatch", [dropless, within_capacity])
def test_no_vector_leaves_its_device(dispatch):
    mesh = make_mesh(MeshShape(data=8))
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
        program = jax.jit(mixture(dispatch=dispatch).apply, out_shardings=rows)
        text = program.lower({"params": PARAMS}, jax.device_put(X, rows)).compile().as_text()
    assert not re.search("all-|reduce-scatter|permute", text)


def test_rows_that_do_not_divide_over_the_devices(without_drops):
    with jax.set_mesh(make_mesh(MeshShape(data=8))):
        out = jax.jit(mixture().apply)({"params": PARAMS}, X[:3])
    close(out, without_drops[0][:3])


@pytest.mark.parametrize("dispatch", [dropless, pytest.param(ROOMY, marks=pytest.mark.slow)])
def test_bfloat16_routes_in_float32(dispatch):
    module = mixture(dispatch=dispatch, dtype=jnp.bfloat16)
    x = X.astype(jnp.bfloat16)
    out, left = jax.jit(partial(module.apply, mutable=["router"]))({"params": PARAMS}, x)
    exact = written_out(PARAMS, x)[0]
    assert out.dtype == jnp.bfloat16 and left["router"]["router_z"].dtype == jnp.float32
    error = np.abs(np.asarray(out, np.float64) - exact).max() / np.abs(exact).max()
    assert error < 0.02


def test_in_a_scan_each_layer_reports():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + mixture(name="mlp")(x), None

    layers = nn.scan(
        nn.remat(Layer, prevent_cse=False),
        variable_axes={"params": 0, "router": 0},
        split_rngs={"params": True},
        length=3,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )(name="blocks")
    boxed = jax.jit(layers.init)(jax.random.key(0), X)
    assert set(boxed) == {"params"}
    for leaf in jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata)):
        assert len(leaf.names) == leaf.value.ndim and set(leaf.names) <= set(RULES)
    params = meta.unbox(boxed)["params"]
    assert params["mlp"]["gate"]["kernel"].shape == (3, EXPERTS, WIDTH, HIDDEN)
    first, second = params["mlp"]["gate"]["kernel"][0, :2]
    assert np.abs(first - second).max() > 0.1  # no two experts start the same

    @jax.jit
    def loss(params):
        (out, _), left = layers.apply({"params": params}, X, mutable=["router"])
        return jnp.square(out).mean() + left["router"]["mlp"]["load_balance"].sum(), left

    (_, left), slope = jax.value_and_grad(loss, has_aux=True)(params)
    assert {leaf.shape for leaf in jax.tree.leaves(left)} == {(3,)}
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slope))
    assert (np.asarray(left["router"]["mlp"]["load_balance"]) >= 0.9).all()


def test_more_choices_than_experts_are_refused():
    with pytest.raises(UserError, match="can't go through 5 of 4 experts"):
        mixture(chosen=5).init(jax.random.key(0), X)
