"""S5's layer against its equations, its beginning against the HiPPO matrix, and as a layer."""

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
    float64,
    noisy,
    sigmoid,
)
from scipy.linalg import expm
from scipy.special import erf

from jaxgen.errors import UserError
from jaxgen.nn.state_space import StateSpace, diagonalized, hippo_normal
from jaxgen.parallel.sharding import unbox

GATED, PLAIN = StateSpace(6, states=8, blocks=2), StateSpace(6, states=8, gated=False)


def by_hand(p, x):
    """The recurrence with both of each pair of eigenvalues, one step at a time."""
    eigenvalues = -np.exp(p["log_decay"]) + 1j * p["frequency"]
    into = p["input"]["kernel"][:, 0] + 1j * p["input"]["kernel"][:, 1]
    out = p["output"]["kernel"][0] + 1j * p["output"]["kernel"][1]
    step = np.tile(np.exp(p["log_step"]), 2)
    eigenvalues = np.concatenate([eigenvalues, eigenvalues.conj()])
    into = np.concatenate([into, into.conj()], axis=1)
    out = np.concatenate([out, out.conj()])
    decay = np.exp(eigenvalues * step)
    state, found = np.zeros(len(decay), complex), []
    for given in x:
        state = decay * state + (decay - 1) / eigenvalues * (given @ into)
        y = state @ out + p["through"] * given
        assert np.abs(y.imag).max() < 1e-12
        found.append(y.real)
    y = np.array(found)
    if "gate" in p:
        y = y * (1 + erf(y / np.sqrt(2))) / 2
        y = y * sigmoid(y @ p["gate"]["kernel"] + p["gate"]["bias"])
    return y


@pytest.mark.parametrize("layer", [GATED, PLAIN])
def test_a_layer_is_its_papers_equations(layer):
    params = noisy(layer)
    y, _ = jax.jit(layer.apply)(params, X)
    for row, x in enumerate(np.asarray(X, np.float64)):
        np.testing.assert_allclose(y[row], by_hand(float64(params), x), atol=5e-6)


def test_it_begins_as_hippos_dynamics_under_zero_order_hold():
    """The diagonal system against the whole matrix, by matrix exponentials."""
    params = unbox(PLAIN.init(jax.random.key(1), X))
    p = float64(params)
    p["log_step"] = np.full_like(p["log_step"], np.log(0.05))
    values, vectors = diagonalized(8)
    whole = np.concatenate([vectors, vectors.conj()], axis=1)
    values = np.concatenate([values, values.conj()])
    np.testing.assert_allclose(whole @ np.diag(values) @ whole.conj().T, hippo_normal(8), atol=1e-9)
    # Back to real matrices: B = V·B̃, C = C̃·V⁻¹.
    into = p["input"]["kernel"][:, 0] + 1j * p["input"]["kernel"][:, 1]
    out = p["output"]["kernel"][0] + 1j * p["output"]["kernel"][1]
    matrix_in = whole @ np.concatenate([into, into.conj()], axis=1).T
    matrix_out = np.concatenate([out, out.conj()]).T @ whole.conj().T
    assert max(np.abs(matrix.imag).max() for matrix in (matrix_in, matrix_out)) < 1e-6
    decay = expm(0.05 * hippo_normal(8))
    enter = np.linalg.solve(hippo_normal(8), decay - np.eye(8)) @ matrix_in.real
    state, x = np.zeros(8), np.asarray(X[0], np.float64)
    params = {"params": jax.tree.map(jnp.float32, p)}
    y, _ = PLAIN.apply(params, X)
    for time, given in enumerate(x):
        state = decay @ state + enter @ given
        wanted = matrix_out.real @ state + p["through"] * given
        np.testing.assert_allclose(y[0, time], wanted, atol=1e-5)


def test_hippo_normal_is_hippo_without_its_part_of_rank_one():
    root = np.sqrt(2 * np.arange(5) + 1.0)
    legs = -np.tril(np.outer(root, root), -1) - np.diag(np.arange(5) + 1.0)
    low = np.outer(root, root) / 2
    np.testing.assert_allclose(hippo_normal(5), legs + low)


def test_small_steps_keep_their_digits():
    """(exp(ΛΔ) - 1)/Λ is Δ to first order, which a difference from 1 would round away."""
    params = jax.tree.map(jnp.asarray, unbox(PLAIN.init(jax.random.key(1), X)))
    p = params["params"]
    p["log_step"] = jnp.full_like(p["log_step"], jnp.log(1e-6))
    p["through"] = jnp.zeros_like(p["through"])
    y, _ = PLAIN.apply(params, X[:, :1])
    wanted = np.stack([by_hand_one(float64(params), x) for x in np.float64(X[:, 0])])
    np.testing.assert_allclose(y[:, 0], wanted, rtol=1e-4)


def by_hand_one(p, x):
    return by_hand(p, x[None])[0]


@pytest.mark.parametrize("marks", ["no marks", "marks"])
def test_parts_and_steps(marks):
    check_parts(GATED, MARKS[marks])


def test_slopes_are_those_of_the_loop():
    check_slopes(GATED, MARKS["marks"])


def test_slopes_are_those_of_small_moves():
    check_small_moves(GATED)


def test_long_sequences_stay_finite():
    params = noisy(GATED)
    # Some states that all but keep for ever, some that forget at once.
    p = params["params"]
    p["log_decay"] = jnp.array([-40.0, -10.0, 0.0, 8.0])
    check_long(GATED, params)


def test_bfloat16():
    check_bfloat16(GATED)


def test_sizes_have_to_fit():
    with pytest.raises(UserError, match="can't take in 6 numbers"):
        StateSpace(5, states=8).init(jax.random.key(0), X)
    with pytest.raises(UserError, match="multiple of 6"):
        StateSpace(6, states=8, blocks=3).init(jax.random.key(0), X)
