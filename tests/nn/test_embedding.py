"""Tables of learned vectors: lookups, and the gradient that a short and a long table get."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn import embedding
from jaxgen.nn.embedding import looked_up


@pytest.mark.parametrize("entries", [7, embedding._FEW_ROWS + 1])
def test_gradient_is_that_of_indexing(entries):
    table = jax.random.normal(jax.random.key(0), (entries, 5))
    indices = jax.random.randint(jax.random.key(1), (3, 40), 0, min(entries, 9))
    weights = jax.random.normal(jax.random.key(2), (3, 40, 5))

    def total(look_up):
        return jax.value_and_grad(lambda table: (jnp.sin(look_up(table)) * weights).sum())(table)

    value, gradient = jax.jit(lambda: total(lambda table: looked_up(table, indices)))()
    plain_value, plain = total(lambda table: table[indices])
    np.testing.assert_allclose(value, plain_value, rtol=1e-6)
    np.testing.assert_allclose(gradient, plain, rtol=1e-5, atol=1e-5)


def test_a_short_table_adds_nothing_row_by_row():
    table, indices = jnp.ones((7, 5)), jnp.zeros((3, 40), int)
    program = jax.make_jaxpr(jax.grad(lambda table: looked_up(table, indices).sum()))(table)
    assert "scatter" not in str(program) and "dot_general" in str(program)


def test_a_long_table_in_bfloat16_counts_beyond_256():
    table = jnp.zeros((embedding._FEW_ROWS + 1, 2), jnp.bfloat16)
    indices = jnp.full((40, 100), 3)
    gradient = jax.jit(jax.grad(lambda table: looked_up(table, indices).sum()))(table)
    np.testing.assert_allclose(gradient[3], 4000, rtol=0.01)
