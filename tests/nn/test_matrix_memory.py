"""The chunks against the loop: values, slopes, and decays at the ends of the range."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.matrix_memory import matrix_memory


def looped(values, keys, queries, log_decay, memory):
    def step(memory, given):
        v, k, q, log_a = given
        memory = jnp.exp(log_a)[..., None, None] * memory
        memory = memory + v[..., None] * k[:, :, None, None]
        return memory, jnp.einsum("bgmvk,bgk->bgmv", memory, q)

    steps = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (values, keys, queries, log_decay))
    memory, y = jax.lax.scan(step, memory, steps)
    return jnp.moveaxis(y, 0, 1), memory


def drawn(time):
    draw = lambda number, *shape: jax.random.normal(jax.random.key(number), (2, *shape))
    log_decay = -jnp.exp(draw(3, time, 2, 3))
    # One step forgets all, another all but all, a third nothing.
    log_decay = log_decay.at[0, 4].set(-jnp.inf).at[1, 5].set(-150.0).at[1, 6].set(0.0)
    return (
        draw(0, time, 2, 3, 4),
        draw(1, time, 2, 5),
        draw(2, time, 2, 5),
        log_decay,
        draw(4, 2, 3, 4, 5),
    )


@pytest.mark.parametrize("chunk", [1, 4, 13, 64])
def test_chunks_are_the_loop_with_its_slopes(chunk):
    arguments = drawn(13)
    weights = jax.random.normal(jax.random.key(7), arguments[0].shape)

    def total(run, *arguments):
        y, memory = run(*arguments)
        return (y * weights).sum() + jnp.sin(memory).sum(), (y, memory)

    found, wanted = (
        jax.jit(jax.value_and_grad(partial(total, run), argnums=range(5), has_aux=True))(*arguments)
        for run in (partial(matrix_memory, chunk=chunk), looped)
    )
    # Where log a is below -200, a is 0 and so is its slope.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5), found, wanted)


def test_what_follows_a_step_that_forgets_keeps_its_digits():
    """Decays near 1 after 30 of e^-190, whose sum has a last digit of 0.0005."""
    values, keys, queries, log_decay, memory = drawn(64)
    log_decay = jnp.full_like(log_decay, -190.0).at[:, 30:].set(-1e-4)
    y, last = matrix_memory(values, keys, queries, log_decay, memory)
    wanted, wanted_last = looped(values, keys, queries, log_decay, memory)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(last, wanted_last, rtol=1e-5, atol=1e-5)


def test_bfloat16_sums_in_float32():
    arguments = drawn(13)
    y, memory = matrix_memory(*arguments, chunk=4, dtype=jnp.bfloat16)
    assert (y.dtype, memory.dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose(y, looped(*arguments)[0], atol=0.3)
