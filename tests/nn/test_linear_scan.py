"""The scans against loops: values, slopes, marks, and numbers at the ends of the range."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.linear_scan import added, kept, linear_scan, log_linear_scan
from jaxgen.nn.recurrence import Marks

SHAPE = (3, 13, 2, 4)


def numbers(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


def looped(a, b, initial):
    def step(h, both):
        h = both[0] * h + both[1]
        return h, h

    _, h = jax.lax.scan(step, initial, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (a, b)))
    return jnp.swapaxes(h, 0, 1)


@pytest.mark.parametrize("complex_numbers", [False, True])
def test_a_scan_is_the_loop_with_its_slopes(complex_numbers):
    a, b, initial = numbers(0), numbers(1), numbers(2, (3, 2, 4))
    if complex_numbers:
        a, b, initial = a + 1j * numbers(3), b + 1j * numbers(4), initial * (1 - 2j)
    weights = numbers(5)

    def total(scan, a, b, initial):
        h = scan(0.7 * a, b, initial)
        return jnp.sum(weights * (jnp.real(h) + jnp.sin(jnp.imag(h))))

    found, wanted = (
        jax.jit(jax.value_and_grad(partial(total, scan), argnums=(0, 1, 2)))(a, b, initial)
        for scan in (linear_scan, looped)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-4), found, wanted)


def test_the_scan_of_logarithms_is_the_plain_one_with_its_slopes():
    a, b = (jax.nn.sigmoid(3 * numbers(seed)) for seed in (0, 1))
    initial, weights = jnp.exp(numbers(2, (3, 2, 4))), numbers(5)
    begins = jnp.zeros((3, 13), bool).at[1, 4].set(True).at[2, 0].set(True)
    reads = jnp.ones((3, 13), bool).at[0, 9:].set(False).at[2, :4].set(False)
    marks = Marks(begins, reads)

    def plain(a, b, initial):
        return linear_scan(kept(a, marks), added(b, marks), initial)

    def logarithmic(a, b, initial):
        logs = kept(jnp.log(a), marks, True), added(jnp.log(b), marks, True)
        return jnp.exp(log_linear_scan(*logs, jnp.log(initial)))

    found, wanted = (
        jax.jit(jax.value_and_grad(lambda *x, f=f: (weights * f(*x)).sum(), argnums=(0, 1, 2)))(
            a, b, initial
        )
        for f in (logarithmic, plain)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5), found, wanted)
    assert float(jnp.abs(plain(a, b, initial)[2, :4]).max()) == 0


def test_marks_forget_and_keep():
    begins = jnp.array([[False, False, True, False, True]])
    reads = jnp.array([[True, False, True, True, False]])
    marks = Marks(begins, reads)
    a, b = jnp.full((1, 5), 0.5), jnp.ones((1, 5))
    h = linear_scan(kept(a, marks), added(b, marks), jnp.full((1,), 8.0))
    np.testing.assert_array_equal(h, [[5, 5, 1, 1.5, 0]])
    assert kept(a, None) is a
    assert added(b, Marks(begins)) is b


def test_logarithms_stay_finite_where_numbers_would_not():
    """Decays of e^-500 and additions of e^300, resets, and nothing at all before the first."""
    log_a = jnp.where(numbers(0, (1, 4096)) > 0, -500.0, -1e-3).at[0, 7].set(-jnp.inf)
    log_b = jnp.where(numbers(1, (1, 4096)) > 0, -300.0, 300.0).at[0, :3].set(-jnp.inf)
    function = jax.value_and_grad(
        lambda *x: jnp.where(jnp.arange(4096)[None] < 3, 0.0, log_linear_scan(*x)).mean(), (0, 1, 2)
    )
    value, slopes = jax.jit(function)(log_a, log_b, jnp.full((1,), -jnp.inf))
    assert np.isfinite(value)
    for slope in slopes:
        assert np.isfinite(slope).all()
    # Each h is shared out among what it is made of.
    wanted = np.full(4096, -np.inf)
    state = -np.inf
    for time, (a, b) in enumerate(np.float64(jnp.stack([log_a[0], log_b[0]], 1))):
        state = np.logaddexp(a + state, b)
        wanted[time] = state
    found = jax.jit(log_linear_scan)(log_a, log_b, jnp.full((1,), -jnp.inf))[0]
    np.testing.assert_allclose(found[3:], wanted[3:], rtol=1e-5)
    np.testing.assert_array_equal(found[:3], -np.inf)
