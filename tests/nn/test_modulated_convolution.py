"""One convolution for all pictures is each picture's own; what StyleGAN2's layers promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nn.equalized import EqualizedConvolution, EqualizedLinear
from jaxgen.nn.filtered_resampling import TAPS, filtered, filtered_double, filtered_half
from jaxgen.nn.minibatch_deviation import group_size, with_minibatch_deviation
from jaxgen.nn.modulated_convolution import modulated_convolution
from jaxgen.parallel.sharding import unbox

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def convolved(picture, kernel, padding):
    return jax.lax.conv_general_dilated(
        picture, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def each_by_its_own_kernel(picture, kernel, style, demodulate, double):
    """Equations 1 and 3 as they stand, and the filter as a convolution of 4×4 weights."""

    def one(picture, style):
        own = style[None, None, :, None] * kernel
        if demodulate:
            own = own / jnp.sqrt(jnp.square(own).sum((0, 1, 2), keepdims=True) + 1e-8)
        if not double:
            return convolved(picture[None], own, "SAME")[0]
        height, width, channels = picture.shape
        spread = jnp.zeros((2 * height, 2 * width, channels)).at[::2, ::2].set(picture)
        made = convolved(spread[None], own, [(2, 1), (2, 1)])
        taps = 4 * jnp.outer(jnp.array(TAPS), jnp.array(TAPS))
        taps = taps[:, :, None, None] * jnp.eye(made.shape[-1])[None, None]
        return convolved(made, taps, [(1, 1), (1, 1)])[0]

    return jax.vmap(one)(picture, style)


@pytest.mark.parametrize(("demodulate", "double"), [(True, False), (False, False), (True, True)])
def test_modulated_convolution_is_each_pictures_own(demodulate, double):
    inputs = normal(3, 5, 6, 4), normal(3, 3, 4, 2), normal(3, 4)
    weights = normal(3, 10 if double else 5, 12 if double else 6, 2)

    def ours(picture, kernel, style):
        made = modulated_convolution(picture, kernel, style, demodulate=demodulate, double=double)
        return jnp.sum(weights * made), made

    def plain(*inputs):
        made = each_by_its_own_kernel(*inputs, demodulate, double)
        return jnp.sum(weights * made), made

    found, wanted = (
        jax.jit(jax.grad(function, argnums=(0, 1, 2), has_aux=True))(*inputs)
        for function in (ours, plain)
    )
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_demodulated_pictures_keep_the_variance_of_independent_pixels():
    style = normal(3, 8) * jnp.array([0.1, 1.0, 20.0])[:, None]
    inputs = normal(3, 40, 40, 8), 7 * normal(3, 3, 8, 6), style
    made, raw = jax.jit(
        lambda *inputs: [
            modulated_convolution(*inputs, demodulate=demodulate) for demodulate in (True, False)
        ]
    )(*inputs)
    np.testing.assert_allclose(made[:, 1:-1, 1:-1].var((1, 2)).mean(1), 1, atol=0.1)
    # Without, it is that of the scaled kernel.
    assert raw[0].var() < 0.1 * raw[1].var() < 0.01 * raw[2].var()


def test_the_filter_is_the_weighted_mean_of_four_by_four():
    picture = normal(2, 6, 8, 3)
    weights = np.outer([1, 3, 3, 1], [1, 3, 3, 1])[:, :, None, None] * np.eye(3) / 64
    weights = weights.astype(np.float32)

    @jax.jit
    def found(picture):
        return filtered(picture, 2), filtered_double(picture), filtered_half(picture)

    @jax.jit
    def wanted(picture):
        spread = jnp.zeros((2, 12, 16, 3)).at[:, ::2, ::2].set(picture)
        return (
            convolved(picture, weights, [(2, 2), (2, 2)]),
            convolved(spread, 4 * weights, [(2, 1), (2, 1)]),
            convolved(picture, weights, [(1, 1), (1, 1)])[:, ::2, ::2],
        )

    for one, other in zip(found(picture), wanted(picture), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_resampling_keeps_an_even_picture_away_from_its_border():
    even = jnp.full((1, 8, 8, 2), 3.0)
    for resampled in jax.jit(lambda even: (filtered_double(even), filtered_half(even)))(even):
        np.testing.assert_allclose(np.asarray(resampled)[:, 1:-1, 1:-1], 3.0, rtol=1e-6)
    with pytest.raises(UserError, match="7×8 pixels can't be halved"):
        filtered_half(jnp.ones((1, 7, 8, 2)))


@pytest.mark.parametrize("size", [1, 3])
def test_halving_convolution_is_filter_then_convolution_then_every_second_pixel(size):
    picture = normal(2, 6, 8, 3)
    layer = EqualizedConvolution(5, size, half=True)
    params = jax.jit(layer.init)(jax.random.key(0), picture)
    params = unbox(params)

    @jax.jit
    def both(params, picture):
        kernel = params["params"]["kernel"] / np.sqrt(size * size * 3)
        around = filtered(picture, 1 + size // 2)
        return layer.apply(params, picture), convolved(around, kernel, "VALID")[:, ::2, ::2]

    np.testing.assert_allclose(*both(params, picture), atol=1e-5)


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_equalized_layers_begin_at_unit_scale_and_learn_at_their_rate(rate):
    x = normal(64, 256)
    layer = EqualizedLinear(128, rate=rate, start=0.5)
    params = jax.jit(layer.init)(jax.random.key(0), x)
    params = unbox(params)["params"]
    # N(0, 1) rows give N(bias, rate²·1/rate²), whatever the number of inputs.
    apply = jax.jit(layer.apply)
    made = np.asarray(apply({"params": params}, x))
    assert float(np.asarray(params["kernel"]).std()) == pytest.approx(1 / rate, rel=0.02)
    assert float(made.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(made.std()) == pytest.approx(1.0, rel=0.05)
    # A parameter moved by 1 moves the answer by rate / √256 · x, a bias by rate.
    kernel = np.array(params["kernel"])
    kernel[3, 2] += 1
    moved = apply({"params": {"kernel": kernel, "bias": params["bias"] + 1}}, x)
    expected = made + np.float32(rate)
    expected[:, 2] += rate / 16 * np.asarray(x)[:, 3]
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_minibatch_deviation_is_that_of_each_group_averaged():
    picture = np.asarray(normal(8, 2, 3, 5))
    found = np.asarray(jax.jit(with_minibatch_deviation)(jnp.asarray(picture)))
    assert found.shape == (8, 2, 3, 6)
    np.testing.assert_array_equal(found[..., :5], picture)
    for first in (0, 4):
        deviation = picture[first : first + 4].std(0).mean()
        np.testing.assert_allclose(found[first : first + 4, ..., 5], deviation, atol=2e-4)


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 2), (6, 3), (7, 1), (12, 4)])
def test_groups_are_the_largest_that_fit(rows, size):
    assert group_size(rows, 4) == size


@pytest.mark.parametrize(("rows", "different"), [(1, 1), (6, 2)])
def test_any_number_of_rows_has_a_deviation(rows, different):
    made = np.asarray(jax.jit(with_minibatch_deviation)(normal(rows, 2, 2, 1)))[..., 1]
    assert len(np.unique(made)) == different
    # Alone in its group, a picture deviates by nothing.
    assert (made == 0).all() == (rows == 1)


def test_equal_pictures_deviate_by_nothing_and_have_a_slope():
    same = jnp.ones((4, 2, 2, 3))

    def deviation(picture):
        return with_minibatch_deviation(picture)[..., 3].sum()

    value, slope = jax.jit(jax.value_and_grad(deviation))(same)
    assert np.isfinite(slope).all() and float(value) == pytest.approx(0, abs=1e-6)
