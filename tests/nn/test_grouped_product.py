"""The blocked product against jax.lax.ragged_dot, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn import grouped_product
from jaxgen.nn.grouped_product import blocked_product


@pytest.fixture(scope="module")
def sides():
    """Products and gradients, ours and theirs, each one program for all sizes of groups."""

    def both(product):
        def run(x, kernels, sizes, slope):
            out, back = jax.vjp(lambda x, kernels: product(x, kernels, sizes), x, kernels)
            return out, *back(slope)

        return jax.jit(run)

    return both(blocked_product), both(jax.lax.ragged_dot)


def arrays(rows, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (rows, 5), (4, 5, 6), (rows, 6)
    return [jax.random.normal(k, s).astype(dtype) for k, s in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize(
    "sizes", [[25, 25, 25, 25], [0, 97, 0, 3], [100, 0, 0, 0], [0, 0, 0, 100], [13, 1, 37, 49]]
)
def test_every_row_meets_its_groups_kernel(sides, sizes):
    x, kernels, slope = arrays(100)
    for ours, theirs in zip(
        *(side(x, kernels, jnp.asarray(sizes), slope) for side in sides), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_rows_beyond_the_groups_do_not_reach_the_kernels(sides):
    x, kernels, slope = arrays(100)
    sizes = jnp.asarray([10, 0, 33, 20])
    x, slope = x.at[63:].set(jnp.nan), slope.at[63:].set(jnp.inf)
    (out, into_x, into_kernels), _ = (side(x, kernels, sizes, slope) for side in sides)
    theirs = sides[1](x[:63], kernels, sizes, slope[:63])
    for ours, other in zip((out[:63], into_x[:63], into_kernels), theirs, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-5)


def test_a_handful_of_rows(sides):
    x, kernels, slope = arrays(3)
    sizes = jnp.asarray([1, 0, 0, 2])
    ours, theirs = (side(x, kernels, sizes, slope) for side in sides)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


def test_bfloat16_sums_in_float32(sides):
    x, kernels, slope = arrays(100, jnp.bfloat16)
    sizes = jnp.asarray([13, 1, 37, 49])
    ours = sides[0](x, kernels, sizes, slope)
    wide = (y.astype(jnp.float32) for y in (x, kernels))
    exact = sides[1](*wide, sizes, slope.astype(jnp.float32))
    for mine, other in zip(ours, exact, strict=True):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_array_equal(mine, other.astype(jnp.bfloat16))


def test_tpus_get_their_own_kernel(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(grouped_product, "blocked_product", None)
    x, kernels, _ = arrays(3)
    out = grouped_product.grouped_product(x, kernels, jnp.asarray([1, 0, 0, 2]))
    np.testing.assert_allclose(out[0], x[0] @ kernels[0], rtol=1e-5)
