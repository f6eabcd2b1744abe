"""Routers whose losses are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn import routing

# One program a case: compiling operation by operation takes several times as long.
top_experts = jax.jit(routing.top_experts, static_argnums=(1, 2))
load_balance_loss = jax.jit(routing.load_balance_loss)
load = jax.jit(routing.load, static_argnums=1)
z_loss = jax.jit(routing.z_loss)


@pytest.mark.parametrize("chosen", [1, 2])
def test_an_even_router_has_balance_loss_1(chosen):
    logits = jnp.zeros((2, 3, 8))
    taken, _ = top_experts(logits, chosen, False)
    assert load_balance_loss(logits, taken) == 1.0


def test_a_collapsed_router_has_balance_loss_experts():
    logits = jnp.zeros((2, 3, 8)).at[..., 5].set(200.0)
    taken, weights = top_experts(logits, 1, False)
    assert (np.asarray(taken) == 5).all()
    assert (np.asarray(weights) == 1).all()
    assert load_balance_loss(logits, taken) == 8.0
    assert routing.entropy(load(taken, 8)) == 0


def test_the_balance_loss_pushes_towards_idle_experts():
    logits = jnp.zeros((10, 4)).at[:, 0].set(1.0)
    taken, _ = top_experts(logits, 1, False)
    slope = jax.jit(jax.grad(routing.load_balance_loss))(logits, taken).sum(0)
    assert slope[0] > 0 > slope[1:].max()


def test_z_loss_by_hand():
    logits = jnp.log(jnp.asarray([[1.0, 2, 3, 4], [1, 1, 1, 1]]))
    expected = (np.log(10) ** 2 + np.log(4) ** 2) / 2
    np.testing.assert_allclose(z_loss(logits), expected, rtol=1e-6)


def test_weights_are_probabilities_or_sum_to_one():
    logits = jnp.log(jnp.asarray([[1.0, 2, 3, 4], [4, 3, 2, 1]]))
    taken, weights = top_experts(logits, 2, False)
    np.testing.assert_array_equal(taken, [[3, 2], [0, 1]])
    np.testing.assert_allclose(weights, [[0.4, 0.3]] * 2, rtol=1e-6)
    _, weights = top_experts(logits, 2, True)
    np.testing.assert_allclose(weights, [[4 / 7, 3 / 7]] * 2, rtol=1e-6)


def test_padding_does_not_count():
    logits = jax.random.normal(jax.random.key(0), (2, 6, 4))
    real = jnp.arange(6)[None, :] < jnp.asarray([[6], [2]])
    few = logits.reshape(-1, 4)[np.asarray(real).reshape(-1)]
    taken, _ = top_experts(logits, 2, True)
    of_few, _ = top_experts(few, 2, True)
    for of_all, without in (
        (load(taken, 4, real), load(of_few, 4)),
        (load_balance_loss(logits, taken, real), load_balance_loss(few, of_few)),
        (z_loss(logits, real), z_loss(few)),
    ):
        np.testing.assert_allclose(of_all, without, rtol=1e-6)


def test_entropy_of_an_even_load():
    np.testing.assert_allclose(routing.entropy(jnp.full(8, 1 / 8)), np.log(8), rtol=1e-6)
