"""ALiBi's slopes and T5's buckets against their papers, and attention with either."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgen.nn.position_bias import RelativePositionBias, alibi, alibi_slopes

PLACES = jnp.arange(40)[None, :]


def test_slopes_are_the_papers():
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-n for n in range(1, 9)])
    np.testing.assert_allclose(alibi_slopes(2), [2.0**-4, 2.0**-8])
    # Six heads: four as for 4, then the first and third of those for 8.
    expected = [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]
    np.testing.assert_allclose(alibi_slopes(6), expected)


def test_alibi_falls_by_its_slope_with_each_place():
    bias = alibi(PLACES[:, 10:12], PLACES, 2)
    assert bias.shape == (1, 2, 2, 40)
    np.testing.assert_allclose(bias[0, 0, 0, :11], -(10 - np.arange(11)) / 16)
    np.testing.assert_allclose(bias[0, 1, 1, 11], 0)


# Raffel et al.'s 32 buckets up to 128, one way: 0 .. 15 alone, then 16 logarithmic steps.
ONE_WAY = {0: 0, 1: 1, 15: 15, 16: 16, 17: 16, 20: 17, 31: 21, 64: 26, 112: 30, 113: 31, 500: 31}
# Both ways: 16 each, 8 of them alone; what lies ahead begins at 16.
BOTH_WAYS = {0: 0, 7: 7, 8: 8, 11: 8, 12: 9, 127: 15, 900: 15, -1: 17, -7: 23, -8: 24, -900: 31}


@pytest.mark.parametrize(("both_ways", "expected"), [(False, ONE_WAY), (True, BOTH_WAYS)])
def test_buckets_are_t5s(both_ways, expected):
    module = RelativePositionBias(heads=2, both_ways=both_ways)
    behind = jnp.asarray(list(expected))
    found = module.bucket(-behind.reshape(1, 1, -1))
    assert dict(zip(expected, found.ravel().tolist(), strict=True)) == expected
    if not both_ways:
        assert not np.any(module.bucket(jnp.arange(1, 5).reshape(1, 1, -1)))


def test_each_distance_gets_its_buckets_number():
    module = RelativePositionBias(heads=3, both_ways=True)
    params = meta.unbox(jax.jit(module.init)(jax.random.key(0), PLACES, PLACES))
    bias = jax.jit(module.apply)(params, PLACES, PLACES)
    table = params["params"]["embedding"]
    assert bias.shape == (1, 3, 40, 40)
    np.testing.assert_array_equal(bias[0, :, 5, 5], table[0])
    np.testing.assert_array_equal(bias[0, :, 5, 3], table[2])
    np.testing.assert_array_equal(bias[0, :, 5, 6], table[17])
