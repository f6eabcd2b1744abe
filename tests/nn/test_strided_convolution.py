"""Halving and doubling convolutions: adjoint to each other, and differentiable to any order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nn.strided_convolution import DoublingConvolution, strided, transposed

WINDOWS = [((2, 1), 4), ((2, 0), 2), ((3, 1), 5)]  # the last one's kernel isn't whole strides


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def plain(window, picture, kernel):
    stride, padding = window
    zeros = (padding, padding)
    return jax.lax.conv_general_dilated(
        picture, kernel, (stride,) * 2, (zeros,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(("window", "width"), WINDOWS)
def test_transposed_is_the_adjoint_of_strided(window, width):
    side = window[0] * 3 + width - 2 * window[1]
    picture, kernel = drawn(2, side, side, 3), drawn(width, width, 3, 5)
    there = strided(window, picture, kernel)
    slope = drawn(*there.shape, seed=1)
    back = transposed(window, slope, kernel)
    assert back.shape == picture.shape
    assert float(jnp.vdot(there, slope)) == pytest.approx(float(jnp.vdot(picture, back)), rel=1e-4)


def test_second_derivatives_are_those_of_the_plain_convolution():
    def penalty(convolution):
        def slope(picture, kernel):
            return jax.grad(lambda x: jnp.sum(jnp.sin(convolution((2, 1), x, kernel))))(picture)

        def squared(picture, kernel):
            found = slope(picture, kernel)
            return jnp.mean(jnp.square(found) * picture)

        return jax.jit(jax.grad(squared, (0, 1)))(drawn(2, 6, 4, 3), drawn(4, 4, 3, 5, seed=1))

    for ours, theirs in zip(penalty(strided), penalty(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(jnp.abs(theirs).max()))


def test_a_doubling_by_ones_paints_each_pixel_as_four_by_four():
    picture = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1, 0].set(2.0)
    layer = DoublingConvolution(1, initializer=jax.nn.initializers.ones)
    made = layer.apply(jax.tree.map(jnp.ones_like, layer.init(jax.random.key(0), picture)), picture)
    painted = np.ones((6, 6))  # the bias
    painted[1:5, 1:5] += 2
    np.testing.assert_allclose(np.asarray(made)[0, :, :, 0], painted)


def test_pixels_left_over_are_refused():
    with pytest.raises(UserError, match="7×8 can't be gone through in steps of 2"):
        strided((2, 1), drawn(1, 7, 8, 1), drawn(4, 4, 1, 1))
