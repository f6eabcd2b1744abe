"""The causal convolution against numpy's, and as a recurrent layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_checks import (
    MARKS,
    X,
    check_parts,
    check_slopes,
    check_small_moves,
    convolved,
    float64,
    noisy,
)

from jaxgen.errors import UserError
from jaxgen.nn.causal_convolution import CausalConvolution

LAYER = CausalConvolution(6, 4)


def test_it_is_numpys_convolution():
    params = noisy(LAYER)
    y, (window,) = LAYER.apply(params, X)
    p = float64(params)
    for row, wanted in enumerate(np.asarray(X, np.float64)):
        np.testing.assert_allclose(y[row], convolved(p, wanted), atol=1e-6)
    kernel = p["kernel"][::-1, 2]
    wanted = np.convolve(X[0, :, 2], kernel)[: X.shape[1]] + p["bias"][2]
    np.testing.assert_allclose(y[0, :, 2], wanted, atol=1e-6)
    np.testing.assert_array_equal(window, X[:, -3:])


@pytest.mark.parametrize("name", MARKS)
def test_parts_steps_and_slopes(name):
    check_parts(LAYER, MARKS[name])
    check_slopes(LAYER, MARKS[name])


@pytest.mark.parametrize("size", [2, 12])
def test_windows_may_be_narrow_or_longer_than_the_text(size):
    check_parts(CausalConvolution(6, size), MARKS["marks"])


def test_what_is_not_read_is_not_seen():
    """Whatever stands in a hole, and before a beginning."""
    params = noisy(LAYER)
    marks = MARKS["marks"]
    other = jnp.where(marks.reads[..., None], X, 1e3)
    for found, wanted in zip(
        LAYER.apply(params, other, None, marks), LAYER.apply(params, X, None, marks), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    y, (window,) = LAYER.apply(params, X, None, marks)
    # Row 1's text begins at 5; row 2 read 0 nowhere, then 1, 2, 4: those are what 4 sees.
    alone, _ = LAYER.apply(params, X[1:2, 5:])
    np.testing.assert_allclose(y[1:2, 5:], alone, atol=1e-6)
    joined = X[2:3, jnp.array([1, 2, 4, 6, 7, 8])]
    alone, (last,) = LAYER.apply(params, joined)
    np.testing.assert_allclose(y[2, jnp.array([1, 2, 4, 6, 7, 8])], alone[0], atol=1e-6)
    np.testing.assert_array_equal(window[2], last[0])


def test_slopes_are_those_of_small_moves():
    check_small_moves(LAYER)


def test_it_sees_more_than_the_present():
    with pytest.raises(UserError, match="at least 2 steps, not 1"):
        CausalConvolution(6, 1).init(jax.random.key(0), X)
