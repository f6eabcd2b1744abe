"""The RG-LRU and its block against Griffin's equations, and as recurrent layers."""

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
)
from scipy.special import erf

from jaxgen.errors import UserError
from jaxgen.nn.gated_linear_recurrence import GatedLinearRecurrence, GriffinRecurrence
from jaxgen.parallel.sharding import unbox

UNIT, BLOCK = GatedLinearRecurrence(6, blocks=2), GriffinRecurrence(5, hidden=8, blocks=4)
LAYERS = {"unit": UNIT, "block": BLOCK}


def unit_by_hand(p, x):
    """Equations 1 to 4, one step at a time, the gates' matrices written out whole."""
    blocks, size = p["gates"].shape[:2]
    whole = np.zeros((2, blocks * size, blocks * size))
    for block in range(blocks):
        part = slice(block * size, (block + 1) * size)
        whole[:, part, part] = p["gates"][block].swapaxes(0, 1)
    hidden, out = np.zeros(blocks * size), []
    for step in x:
        recurrence, enter = (sigmoid(step @ whole[i] + p["gates_bias"][i]) for i in (0, 1))
        decay = sigmoid(p["rate"]) ** (8 * recurrence)
        hidden = decay * hidden + np.sqrt(1 - decay**2) * (enter * step)
        out.append(hidden)
    return np.array(out)


def block_by_hand(p, x):
    gate, y = (x @ p["input"]["kernel"][:, i] + p["input"]["bias"][i] for i in (0, 1))
    y = unit_by_hand(p["unit"], convolved(p["convolution"], y))
    gate = gate * (1 + erf(gate / np.sqrt(2))) / 2
    return (gate * y) @ p["output"]["kernel"] + p["output"]["bias"]


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_papers_equations(name):
    params = noisy(LAYERS[name])
    y, _ = jax.jit(LAYERS[name].apply)(params, X)
    by_hand = unit_by_hand if name == "unit" else block_by_hand
    for row, x in enumerate(np.asarray(X, np.float64)):
        np.testing.assert_allclose(y[row], by_hand(float64(params), x), atol=3e-6)


@pytest.mark.parametrize("marks", ["no marks", "marks"])
def test_parts_and_steps(marks):
    check_parts(BLOCK, MARKS[marks])


def test_slopes_are_those_of_the_loop():
    check_slopes(BLOCK, MARKS["marks"])


@pytest.mark.parametrize("name", LAYERS)
def test_slopes_are_those_of_small_moves(name):
    check_small_moves(LAYERS[name])


@pytest.mark.parametrize("name", LAYERS)
def test_long_sequences_with_extreme_gates_stay_finite(name):
    check_long(LAYERS[name], noisy(LAYERS[name]), size=1e3)


def test_bfloat16():
    check_bfloat16(BLOCK)


def test_a_shut_gate_keeps_what_is_remembered():
    """Recurrence gates at 0 and Λ far up: a = 1 to the last digit, and finite slopes."""
    params = jax.tree.map(jnp.zeros_like, noisy(UNIT))["params"]
    params["gates_bias"] = params["gates_bias"].at[0].set(-200.0)
    params["rate"] = params["rate"] + 100.0
    start = (jnp.ones((4, 6)),)

    def last(params):
        return UNIT.apply({"params": params}, X, start)[0][:, -1]

    total = jax.value_and_grad(lambda params: last(params).sum())
    value, slopes = jax.jit(total)(params)
    assert value == 24
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_memories_begin_as_long_as_the_paper_says():
    layer = GatedLinearRecurrence(4000, blocks=4000)
    rate = unbox(layer.init(jax.random.key(0), jnp.zeros((1, 1, 4000))))
    power = sigmoid(np.float64(rate["params"]["rate"])) ** 8
    assert 0.9 <= power.min() < 0.901
    assert 0.998 < power.max() <= 0.99901
    assert power.mean() == pytest.approx(0.9495, abs=0.002)


def test_blocks_divide_the_width():
    with pytest.raises(UserError, match="4 equal blocks"):
        GatedLinearRecurrence(6, blocks=4).init(jax.random.key(0), X)
