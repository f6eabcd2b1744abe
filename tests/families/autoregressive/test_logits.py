"""Each filter against the distribution that its paper defines, computed token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.families.autoregressive.decoding import sampled
from jaxgen.families.autoregressive.logits import composed, min_p, temperature, top_k, top_p

LOGITS = jax.random.normal(jax.random.key(0), (4, 7)) * 2


def probabilities(logits):
    return np.asarray(jax.nn.softmax(logits, axis=-1), np.float64)


def kept_alone(row, keep):
    """`row` of probabilities with the others ruled out, and made to sum to 1."""
    row = np.where(keep, row, 0)
    return row / row.sum()


@pytest.mark.parametrize("count", [0, 1, 3, 7, 99])
def test_top_k_keeps_the_k_likeliest(count):
    filtered = probabilities(jax.jit(lambda k: top_k(k)(LOGITS))(count))
    for row, out in zip(probabilities(LOGITS), filtered, strict=True):
        rank = np.argsort(np.argsort(-row))
        np.testing.assert_allclose(out, kept_alone(row, rank < (count or 7)), atol=1e-6)


@pytest.mark.parametrize("probability", [0.01, 0.5, 0.9, 1.0])
def test_top_p_keeps_the_smallest_set_that_reaches_p(probability):
    filtered = probabilities(jax.jit(lambda p: top_p(p)(LOGITS))(probability))
    for row, out in zip(probabilities(LOGITS), filtered, strict=True):
        kept, total = np.zeros(7, bool), 0.0
        for token in np.argsort(-row):
            kept[token] = True
            total += row[token]
            if total >= probability:
                break
        np.testing.assert_allclose(out, kept_alone(row, kept), atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_min_p_keeps_what_is_likely_beside_the_likeliest(share):
    filtered = probabilities(jax.jit(lambda p: min_p(p)(LOGITS))(share))
    for row, out in zip(probabilities(LOGITS), filtered, strict=True):
        np.testing.assert_allclose(out, kept_alone(row, row >= share * row.max()), atol=1e-6)


def test_temperature_is_a_power_of_the_probabilities_and_0_is_greedy():
    row = probabilities(LOGITS)
    powered = row ** (1 / 0.7)
    expected = powered / powered.sum(-1, keepdims=True)
    np.testing.assert_allclose(probabilities(temperature(0.7)(LOGITS)), expected, atol=1e-6)
    greedy = probabilities(jax.jit(lambda t: temperature(t)(LOGITS))(0.0))
    np.testing.assert_array_equal(greedy, np.eye(7)[row.argmax(-1)])


def test_greedy_takes_the_first_of_equals():
    np.testing.assert_array_equal(
        probabilities(temperature(0.0)(jnp.zeros((1, 3)))), [[1.0, 0.0, 0.0]]
    )


def test_drawn_tokens_follow_the_composed_distribution():
    process = composed(temperature(1.5), top_k(5), top_p(0.9), min_p(0.05))
    one = LOGITS[:1]
    rows = jnp.broadcast_to(one, (20000, 7))
    choice = sampled(process)
    drawn = jax.jit(choice.pick)(jax.random.key(1), rows, (None,)).token
    expected = probabilities(process(one))[0]
    observed = np.bincount(np.asarray(drawn), minlength=7) / 20000
    assert np.all(observed[expected == 0] == 0)
    # Four standard deviations of a binomial share.
    assert np.all(np.abs(observed - expected) <= 4 * np.sqrt(expected / 20000))
    # The order matters, and is this one: k of the flattened logits, then p of what is left.
    row = probabilities(one / 1.5)[0]
    kept = np.argsort(-row)[:5]
    row = kept_alone(row, np.isin(np.arange(7), kept))
    order = np.argsort(-row)
    row = kept_alone(row, np.isin(np.arange(7), order[: np.sum(np.cumsum(row[order]) < 0.9) + 1]))
    row = kept_alone(row, row >= 0.05 * row.max())
    np.testing.assert_allclose(expected, row, atol=1e-6)
