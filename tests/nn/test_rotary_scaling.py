"""Rotary positions for longer texts: each scaling against its paper's formula."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nn.rotary import by_wavelength, interpolated, ntk_aware, rotary_angles, rotate, yarn

DEPTH, BASE, FACTOR, CONTEXT = 16, 10000.0, 8.0, 4096
PLAIN = (BASE ** (-np.arange(0, DEPTH, 2) / DEPTH)).astype(np.float32)
TURNS = CONTEXT * PLAIN / (2 * math.pi)


def frequencies(scaling):
    cosine, sine = rotary_angles(jnp.ones((1, 1), jnp.int32), DEPTH, BASE, scaling)
    return np.arctan2(sine, cosine)[0, 0], np.hypot(sine, cosine)[0, 0]


def test_unscaled_angles_fall_from_one_radian():
    found, magnitude = frequencies(None)
    np.testing.assert_allclose(found, PLAIN, rtol=1e-5)
    np.testing.assert_allclose(magnitude, 1, rtol=1e-6)


def test_interpolation_slows_all_alike():
    np.testing.assert_allclose(frequencies(interpolated(FACTOR))[0], PLAIN / FACTOR, rtol=1e-5)


def test_ntk_aware_is_a_higher_base():
    found, _ = frequencies(ntk_aware(FACTOR))
    base = BASE * FACTOR ** (DEPTH / (DEPTH - 2))
    np.testing.assert_allclose(found, base ** (-np.arange(0, DEPTH, 2) / DEPTH), rtol=1e-5)
    np.testing.assert_allclose(found[[0, -1]], PLAIN[[0, -1]] / [1, FACTOR], rtol=1e-5)


def test_llama_3s_slows_what_turns_less_than_once():
    found, _ = frequencies(by_wavelength(FACTOR, 1.0, 4.0, CONTEXT))
    share = PLAIN / found
    np.testing.assert_allclose(share[TURNS > 4], 1, rtol=1e-5)
    np.testing.assert_allclose(share[TURNS < 1], FACTOR, rtol=1e-5)
    between = (TURNS > 1) & (TURNS < 4)
    smooth = (TURNS[between] - 1) / 3
    expected = PLAIN[between] * (smooth + (1 - smooth) / FACTOR)
    assert between.any()
    np.testing.assert_allclose(found[between], expected, rtol=1e-5)


def test_yarn_ramps_from_pair_to_pair_and_sharpens():
    found, magnitude = frequencies(yarn(FACTOR, CONTEXT, BASE))
    # Pairs that turn 32 times and once over the context: 3.0 and 6.0 of 8, by eq. 17's inverse.
    pairs = [DEPTH / 2 * math.log(CONTEXT / (t * 2 * math.pi)) / math.log(BASE) for t in (32, 1)]
    first, last = math.floor(pairs[0]), math.ceil(pairs[1])
    assert 0 < first < last < DEPTH / 2
    slowed = np.clip((np.arange(DEPTH // 2) - first) / (last - first), 0, 1)
    expected = PLAIN * (1 - slowed) + PLAIN / FACTOR * slowed
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(magnitude, 0.1 * math.log(FACTOR) + 1, rtol=1e-5)


def test_of_a_share_the_rest_stays():
    x = jnp.arange(2 * DEPTH, dtype=jnp.float32).reshape(1, 2, 1, DEPTH)
    half = rotate(x, rotary_angles(jnp.asarray([[3, 5]]), DEPTH, share=0.5))
    np.testing.assert_array_equal(half[..., DEPTH // 2 :], x[..., DEPTH // 2 :])
    alone = rotate(x[..., : DEPTH // 2], rotary_angles(jnp.asarray([[3, 5]]), DEPTH // 2))
    np.testing.assert_allclose(half[..., : DEPTH // 2], alone, rtol=1e-6)


def test_an_odd_depth_is_refused():
    with pytest.raises(UserError, match="take an even depth"):
        rotary_angles(jnp.ones((1, 1), jnp.int32), 7)
