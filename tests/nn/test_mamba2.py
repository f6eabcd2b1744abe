"""Mamba-2's layer against its equations, and as a recurrent layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_checks import (
    MARKS,
    X,
    check_bfloat16,
    check_long,
    check_parts,
    check_slopes,
    check_small_moves,
    convolved,
    float64,
    noisy,
    sigmoid,
    softplus,
)

from jaxgen.errors import UserError
from jaxgen.nn.mamba2 import Mamba2
from jaxgen.parallel.sharding import unbox

LAYERS = {
    "one group": Mamba2(6, heads=3, states=5, chunk=4),
    "two groups": Mamba2(6, heads=4, states=3, groups=2, chunk=4),
}


def by_hand(layer, p, x):
    """One row, one step and one head at a time."""
    silu = lambda v: v * sigmoid(v)
    inner, groups, states, heads = 12, layer.groups, layer.states, layer.heads
    depth = inner // heads
    gate, mixed, step = np.split(x @ p["input"]["kernel"], [inner, -heads], axis=1)
    mixed = silu(convolved(p["convolution"], mixed))
    inputs, keys, queries = np.split(mixed, [inner, inner + groups * states], axis=1)
    step = softplus(step + p["step_bias"])
    memory, out = np.zeros((heads, depth, states)), []
    for time in range(len(x)):
        y = np.zeros((heads, depth))
        for head in range(heads):
            group = slice(head // (heads // groups) * states, None)
            key, query = keys[time, group][:states], queries[time, group][:states]
            own = inputs[time].reshape(heads, depth)[head]
            size = step[time, head]
            decay = np.exp(-np.exp(p["log_rate"][head]) * size)
            memory[head] = decay * memory[head] + size * np.outer(own, key)
            y[head] = memory[head] @ query + p["through"][head] * own
        y = y.reshape(inner) * silu(gate[time])
        y = y / np.sqrt((y**2).mean() + 1e-5) * p["norm"]["scale"]
        out.append(y @ p["output"]["kernel"])
    return np.array(out)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_papers_equations(name):
    params = noisy(LAYERS[name])
    y, _ = jax.jit(LAYERS[name].apply)(params, X)
    for row, x in enumerate(np.asarray(X, np.float64)):
        np.testing.assert_allclose(y[row], by_hand(LAYERS[name], float64(params), x), atol=1e-5)


@pytest.mark.parametrize("marks", ["no marks", "marks"])
def test_parts_and_steps(marks):
    check_parts(LAYERS["one group"], MARKS[marks])


def test_slopes_are_those_of_the_loop():
    check_slopes(LAYERS["two groups"], MARKS["marks"])


def test_slopes_are_those_of_small_moves():
    check_small_moves(LAYERS["one group"])


def test_long_sequences_with_extreme_gates_stay_finite():
    layer = Mamba2(6, heads=3, states=5)
    check_long(layer, noisy(layer))


def test_bfloat16():
    check_bfloat16(LAYERS["two groups"])


def test_steps_and_rates_begin_as_the_paper_has_them():
    layer = Mamba2(512, heads=512, states=1, expansion=1)
    params = float64(unbox(layer.init(jax.random.key(0), jnp.zeros((1, 1, 1)))))
    steps, rates = softplus(params["step_bias"]), np.exp(params["log_rate"])
    assert 0.001 <= steps.min() < 0.0011
    assert 0.09 < steps.max() <= 0.1001
    assert 1 <= rates.min() < 1.2
    assert 15.8 < rates.max() <= 16.001


def test_heads_have_to_fit():
    for layer in (Mamba2(6, heads=5), Mamba2(6, heads=3, groups=2)):
        with pytest.raises(UserError, match="have to divide 12 channels"):
            layer.init(jax.random.key(0), X)
