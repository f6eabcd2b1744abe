"""minGRU and minLSTM against their paper's equations, and as recurrent layers."""

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

from jaxgen.errors import UserError
from jaxgen.nn.minimal_recurrence import MinGRU, MinLSTM, log_positive

LAYERS = {
    "gru": MinGRU(5),
    "wide gru": MinGRU(5, expansion=2),
    "convolved gru": MinGRU(6, convolution=3),
    "lstm": MinLSTM(5),
    "wide lstm": MinLSTM(5, expansion=3),
}


def by_hand(name, p, x):
    """The recurrences of sections 3.1 and 3.2 with appendix B's g, one step at a time."""
    positive = lambda v: np.where(v >= 0, v + 0.5, sigmoid(v))
    x = convolved(p["convolution"], x) if "convolution" in p else x
    hidden, out = np.zeros(p["input"]["bias"].shape[1]), []
    for step in x:
        gates = np.einsum("i,igw->gw", step, p["input"]["kernel"]) + p["input"]["bias"]
        candidate = positive(gates[-1])
        if "gru" in name:
            update = sigmoid(gates[0])
            hidden = (1 - update) * hidden + update * candidate
        else:
            forget, enter = sigmoid(gates[0]), sigmoid(gates[1])
            total = forget + enter
            hidden = forget / total * hidden + enter / total * candidate
        out.append(hidden)
    out = np.array(out)
    return out @ p["output"]["kernel"] + p["output"]["bias"] if "output" in p else out


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_papers_equations(name):
    params = noisy(LAYERS[name])
    y, _ = jax.jit(LAYERS[name].apply)(params, X)
    for row, x in enumerate(np.asarray(X, np.float64)):
        np.testing.assert_allclose(y[row], by_hand(name, float64(params), x), atol=3e-6)


@pytest.mark.parametrize("marks", ["no marks", "marks"])
@pytest.mark.parametrize("name", ["gru", "convolved gru", "wide lstm"])
def test_parts_and_steps(name, marks):
    check_parts(LAYERS[name], MARKS[marks])


@pytest.mark.parametrize("name", ["convolved gru", "wide lstm"])
def test_slopes_are_those_of_the_loop(name):
    check_slopes(LAYERS[name], MARKS["marks"])


@pytest.mark.parametrize("name", ["wide gru", "lstm"])
def test_slopes_are_those_of_small_moves(name):
    check_small_moves(LAYERS[name])


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_long_sequences_with_extreme_gates_stay_finite(name):
    check_long(LAYERS[name], noisy(LAYERS[name]))


@pytest.mark.parametrize("name", ["convolved gru", "wide lstm"])
def test_bfloat16(name):
    check_bfloat16(LAYERS[name])


def test_g_is_positive_and_continuous():
    x = jnp.array([-50.0, -1e-6, 0.0, 1e-6, 50.0])
    np.testing.assert_allclose(
        jnp.exp(log_positive(x)), [np.exp(-50), 0.5, 0.5, 0.5, 50.5], rtol=1e-5
    )
    assert np.isfinite(jax.vmap(jax.grad(log_positive))(jnp.array([-1e4, 0.0, 1e4]))).all()


def test_a_convolution_has_to_fit():
    with pytest.raises(UserError, match="can't take in 6 numbers"):
        MinGRU(5, convolution=3).init(jax.random.key(0), X)
