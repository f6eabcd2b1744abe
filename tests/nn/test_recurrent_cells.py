"""Recurrent layers against their equations, in parts against at once, and by their slopes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.recurrence import Marks
from jaxgen.nn.recurrent_cells import GRU, LSTM, Elman
from jaxgen.parallel.sharding import unbox

LAYERS = {
    "elman": Elman(6),
    "lstm": LSTM(6),
    "peepholes": LSTM(6, peepholes=True),
    "projected": LSTM(6, projection=4, unroll=1),
    "normalized": LSTM(6, normalized=True),
    "gru": GRU(6),
    "zoned": LSTM(6, zoneout=0.3, projection=4),
}
X = jax.random.normal(jax.random.key(0), (3, 9, 5))


def made(name):
    layer = LAYERS[name]
    params = jax.jit(layer.init)(jax.random.key(1), X)
    leaves, tree = jax.tree.flatten(unbox(params))
    # Biases that begin at 0 hide mistakes.
    noise = np.random.default_rng(0)
    leaves = [leaf + 0.3 * jnp.array(noise.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    return layer, jax.tree.unflatten(tree, leaves)


def by_hand(name, p, x):
    """The papers' equations, one row and one step at a time, in float64."""
    p = {key: np.asarray(value, np.float64) for key, value in p["params"].items()}
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    normal = lambda v: (v - v.mean()) / np.sqrt(v.var() + 1e-5)
    hidden, cell, out = np.zeros(p["recurrent"].shape[0]), np.zeros(6), []
    for step in np.asarray(x, np.float64):
        given = np.einsum("i,igw->gw", step, p["input"])
        product = np.einsum("i,igw->gw", hidden, p["recurrent"])
        if name == "elman":
            hidden = np.tanh(given + product + p["bias"])[0]
        elif name == "gru":
            given = given + p["bias"]
            reset, update = (sigmoid(given[i] + product[i]) for i in (0, 1))
            candidate = np.tanh(given[2] + reset * (product[2] + p["candidate_bias"][0]))
            hidden = (1 - update) * candidate + update * hidden
        else:
            if name == "normalized":
                given = normal(given) * p["input_scale"]
                product = normal(product) * p["hidden_scale"]
            i, f, g, o = given + product + p["bias"]
            peep = p.get("peephole", np.zeros((3, 6)))
            before = cell
            cell = sigmoid(f + peep[1] * cell) * cell + sigmoid(i + peep[0] * cell) * np.tanh(g)
            shown = cell
            if name == "normalized":
                shown = normal(cell) * p["cell_scale"][0] + p["cell_bias"][0]
            new = sigmoid(o + peep[2] * cell) * np.tanh(shown)
            new = new @ p["projection"] if "projection" in p else new
            if name == "zoned":
                new, cell = 0.7 * new + 0.3 * hidden, 0.7 * cell + 0.3 * before
            hidden = new
        out.append(hidden)
    return np.array(out)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_papers_equations(name):
    layer, params = made(name)
    y, carry = jax.jit(layer.apply)(params, X)
    for row in range(len(X)):
        np.testing.assert_allclose(y[row], by_hand(name, params, X[row]), atol=2e-6)
    np.testing.assert_array_equal(carry[0], y[:, -1])


@pytest.mark.parametrize("name", LAYERS)
def test_slopes_are_those_of_the_loop_written_out(name):
    """Against one step after another, marks among them, and against small moves."""
    layer, params = made(name)
    begins = jnp.zeros((3, 9), bool).at[1, 4].set(True).at[2, 0].set(True)
    reads = jnp.ones((3, 9), bool).at[0, 6:].set(False).at[2, 3].set(False)
    weights = jax.random.normal(jax.random.key(5), (3, 9, 4 if layer_is_narrow(name) else 6))
    start = jax.tree.map(lambda leaf: leaf + 0.5, layer.initial(3))

    def at_once(params, x, start):
        y, carry = layer.apply(params, x, start, Marks(begins, reads))
        return (y * weights).sum() + sum(jnp.sin(leaf).sum() for leaf in carry)

    def stepwise(params, x, start):
        carry, total = start, 0.0
        for time in range(9):
            # Marks by hand, and `unroll` and the hoisted product don't come in.
            fresh = begins[:, time, None]
            carry = tuple(jnp.where(fresh, 0.0, leaf) for leaf in carry)
            _, new = layer.apply(params, x[:, time : time + 1], carry)
            there = reads[:, time, None]
            carry = tuple(jnp.where(there, *both) for both in zip(new, carry, strict=True))
            total += (carry[0] * weights[:, time]).sum()
        return total + sum(jnp.sin(leaf).sum() for leaf in carry)

    found, wanted = (
        jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2)))(params, X, start)
        for function in (at_once, stepwise)
    )
    jax.tree.map(partial(np.testing.assert_allclose, atol=3e-5, rtol=1e-4), found, wanted)
    step = jax.tree.map(lambda leaf: 1e-4 * jnp.sign(leaf), found[1][0])
    up = jax.jit(at_once)(jax.tree.map(jnp.add, params, step), X, start)
    down = jax.jit(at_once)(jax.tree.map(jnp.subtract, params, step), X, start)
    expected = 2e-4 * sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(found[1][0]))
    assert float(up - down) == pytest.approx(expected, rel=0.01)


def layer_is_narrow(name):
    return LAYERS[name].initial(1)[0].shape[-1] == 4


@pytest.mark.parametrize("name", LAYERS)
def test_parts_and_the_whole_are_the_same(name):
    layer, params = made(name)
    run = jax.jit(layer.apply)
    whole, last = run(params, X)
    first, carry = run(params, X[:, :4])
    second, carry = run(params, X[:, 4:], carry)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), carry, last)


def test_zoneout_and_dropout_act_in_training_alone():
    layer = LSTM(6, zoneout=0.5, recurrent_dropout=0.5)
    params = unbox(layer.init(jax.random.key(1), X))
    run = jax.jit(partial(layer.apply, deterministic=False))
    drawn = [run(params, X, rngs={"dropout": jax.random.key(k)})[0] for k in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-3
    # Half of the numbers stay as they are from one step to the next.
    same = np.mean(drawn[0][:, 1:] == drawn[0][:, :-1])
    assert 0.3 < same < 0.7
    # What steps don't see of the hidden vector is the same at all steps: slopes tell.
    layer = Elman(6, recurrent_dropout=0.5)
    params = unbox(layer.init(jax.random.key(1), X))

    def last(start):
        y, _ = layer.apply(params, X, start, None, False, rngs={"dropout": jax.random.key(3)})
        return y[0].sum()

    slope = jax.jit(jax.grad(last))(layer.initial(3))[0][0]
    assert 0 < (slope == 0).sum() < 6


def test_bfloat16_keeps_what_is_remembered_in_float32():
    layer, params = LSTM(6, dtype=jnp.bfloat16), made("lstm")[1]
    y, carry = jax.jit(layer.apply)(params, X)
    assert (y.dtype, carry[0].dtype, carry[1].dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(y.astype(jnp.float32), LSTM(6).apply(params, X)[0], atol=0.05)
    jax.jit(jax.grad(lambda p: layer.apply(p, X)[0].astype(jnp.float32).sum()))(params)
