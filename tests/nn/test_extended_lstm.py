"""sLSTM and mLSTM against xLSTM's equations without their stabilizer, and as recurrent layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_checks import (
    FEATURES,
    MARKS,
    X,
    check_bfloat16,
    check_long,
    check_parts,
    check_slopes,
    check_small_moves,
    float64,
    noisy,
    sigmoid,
    some_carry,
)

from jaxgen.errors import UserError
from jaxgen.nn.extended_lstm import MatrixLSTM, ScalarLSTM

LAYERS = {
    "matrix": MatrixLSTM(6, heads=2, chunk=4),
    "matrix, exponential": MatrixLSTM(6, heads=3, exponential_forget=True, chunk=4),
    "scalar": ScalarLSTM(6, heads=2),
    "scalar, exponential": ScalarLSTM(6, heads=3, exponential_forget=True, unroll=1),
}


def matrix_by_hand(layer, p, x):
    """Equations 19 to 27, one head and one step at a time."""
    depth = layer.width // layer.heads
    memory, normalizer = np.zeros((layer.heads, depth, depth)), np.zeros((layer.heads, depth))
    mapped = lambda step, q: np.einsum("i,i...->...", step, q["kernel"]) + q.get("bias", 0)
    out = []
    for step in x:
        query, value = mapped(step, p["query"]), mapped(step, p["value"])
        key = mapped(step, p["key"]) / np.sqrt(depth) + p["key_bias"]
        enter, forget = mapped(step, p["gates"]) + p["gates_bias"]
        enter = np.exp(enter)
        forget = np.exp(forget) if layer.exponential_forget else sigmoid(forget)
        h = np.zeros((layer.heads, depth))
        for head in range(layer.heads):
            memory[head] *= forget[head]
            memory[head] += enter[head] * np.outer(value[head], key[head])
            normalizer[head] = forget[head] * normalizer[head] + enter[head] * key[head]
            divisor = max(abs(normalizer[head] @ query[head]), 1)
            h[head] = memory[head] @ query[head] / divisor
        out.append(sigmoid(mapped(step, p["output_gate"])) * h.reshape(-1))
    return np.array(out), (memory, normalizer)


def scalar_by_hand(layer, p, x):
    """Equations 8 to 14, recurrent matrices written out whole."""
    depth = layer.width // layer.heads
    whole = np.zeros((layer.width, 4, layer.width))
    for head in range(layer.heads):
        part = slice(head * depth, (head + 1) * depth)
        whole[part, :, part] = p["recurrent"][head]
    hidden, cell, normalizer = np.zeros((3, layer.width))
    out = []
    for step in x:
        z, enter, forget, leave = (
            np.einsum("i,igw->gw", step, p["input"]["kernel"])
            + np.einsum("i,igw->gw", hidden, whole)
            + p["bias"]
        )
        enter = np.exp(enter)
        forget = np.exp(forget) if layer.exponential_forget else sigmoid(forget)
        cell = forget * cell + enter * np.tanh(z)
        normalizer = forget * normalizer + enter
        hidden = sigmoid(leave) * cell / normalizer
        out.append(hidden)
    return np.array(out), (cell, normalizer)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_papers_equations(name):
    """Memories too, once they are multiplied by exp(m)."""
    layer, params = LAYERS[name], noisy(LAYERS[name])
    y, carry = jax.jit(layer.apply)(params, X)
    by_hand = matrix_by_hand if name.startswith("matrix") else scalar_by_hand
    *_, first, second, scale = np.float64(carry[-3]), np.float64(carry[-2]), np.float64(carry[-1])
    for row, x in enumerate(np.asarray(X, np.float64)):
        wanted, memories = by_hand(layer, float64(params), x)
        np.testing.assert_allclose(y[row], wanted, atol=1e-5)
        for found, memory in zip((first[row], second[row]), memories, strict=True):
            size = np.exp(scale[row]).reshape(
                *scale[row].shape, *[1] * (found.ndim - scale.ndim + 1)
            )
            np.testing.assert_allclose(found * size, memory, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("marks", ["no marks", "marks"])
@pytest.mark.parametrize("name", ["matrix", "scalar"])
def test_parts_and_steps(name, marks):
    check_parts(LAYERS[name], MARKS[marks])


def moderate(name):
    """Parameters whose outputs aren't steep: forget gates of e^5, as they begin, leave no move
    small, and no last digits of slopes that are differences of hundreds."""
    params = noisy(LAYERS[name])
    if name == "matrix, exponential":
        params["params"]["gates_bias"] = jnp.zeros((2, 3))
    return params


@pytest.mark.parametrize("name", ["matrix", "scalar", "matrix, exponential"])
def test_slopes_are_those_of_the_loop(name):
    check_slopes(LAYERS[name], MARKS["marks"], moderate(name))


@pytest.mark.parametrize("name", LAYERS)
def test_slopes_are_those_of_small_moves(name):
    """Which the stabilizer's moves, that no slope goes through, leave as they are."""
    check_small_moves(LAYERS[name], moderate(name))


@pytest.mark.parametrize("name", LAYERS)
def test_long_sequences_with_extreme_gates_stay_finite(name):
    layer = LAYERS[name].clone(chunk=64) if name.startswith("matrix") else LAYERS[name]
    check_long(layer, noisy(layer), time=4096 if name.startswith("matrix") else 1024)


@pytest.mark.parametrize("name", ["matrix", "scalar"])
@pytest.mark.parametrize("bias", [-300.0, 300.0])
def test_input_gates_may_be_shut_or_wide_open_from_the_start(name, bias):
    layer, params = LAYERS[name], noisy(LAYERS[name])
    p = params["params"]
    key, place = ("gates_bias", 0) if name == "matrix" else ("bias", 1)
    p[key] = p[key].at[place].set(bias)

    def total(params):
        y, _ = layer.apply(params, X)
        return jnp.square(y).sum(), y

    (_, y), slopes = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((y, slopes)))
    if name == "scalar":
        # Gates wide open at all steps alike weigh like gates of any other size.
        p[key] = p[key].at[place].set(0.0)
        closed = jax.jit(layer.apply)(params, X[:, :1])[0]
        np.testing.assert_allclose(y[:, :1], closed, atol=1e-5)
    elif bias < 0:
        np.testing.assert_array_equal(y, 0)


@pytest.mark.parametrize("name", ["matrix", "scalar"])
def test_the_stabilizer_is_a_scale(name):
    """A carry of other units means the same."""
    layer, params = LAYERS[name], noisy(LAYERS[name])
    *head, first, second, scale = some_carry(layer)
    other = (*head, first / np.e**2, second / np.e**2, scale + 2)
    run = jax.jit(layer.apply)
    np.testing.assert_allclose(
        run(params, X, (*head, first, second, scale))[0],
        run(params, X, other)[0],
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", ["matrix", "scalar"])
def test_bfloat16(name):
    check_bfloat16(LAYERS[name])


def test_heads_divide_the_width():
    for layer in (MatrixLSTM(FEATURES, heads=4), ScalarLSTM(FEATURES, heads=4)):
        with pytest.raises(UserError, match="can't be cut into 4 heads"):
            layer.init(jax.random.key(0), X)
