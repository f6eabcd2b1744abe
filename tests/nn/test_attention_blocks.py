"""Attention to some of the keys: the ways to work it out agree, and parts make up the whole."""

import functools

import jax
import numpy as np

from jaxgen.nn.attention_blocks import HIDDEN, nothing, together, xla_blocks
from jaxgen.nn.attention_kernels import splash_blocks
from jaxgen.nn.visibility import Visibility

# Queries from the 183rd on stand too far behind all keys, and a tile of them is never begun.
FAR = Visibility(True, 100, 0, 300, None, None, 0.0, None)


def arrays(time=384):
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(k, (1, 1, time, 16)) for k in keys]


def test_queries_that_see_nothing_are_the_same_by_splash_attention():
    query, key, value = arrays()
    found, expected = (
        jax.jit(functools.partial(blocks.forward, visibility=FAR, soft_cap=None))(query, key, value)
        for blocks in (splash_blocks(interpret=True), xla_blocks)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), found, expected)
    blind = np.asarray(expected.logsumexp)[0, 0] == np.float32(HIDDEN)
    # Query t stands at t + 300 and sees keys above t + 200, of which the last is 383.
    np.testing.assert_array_equal(blind, np.arange(384) >= 183)
    assert np.all(np.asarray(found.out)[0, 0, blind] == 0)


def test_parts_make_up_the_whole():
    query, key, value = arrays(time=12)
    everything = Visibility(False, None, 0, 0, None, None, 0.0, None)

    @jax.jit
    def parts(query, key, value):
        attend = functools.partial(xla_blocks.forward, visibility=everything, soft_cap=None)
        part = nothing(query, value)
        for keys in (slice(0, 5), slice(5, 6), slice(6, 12)):
            part = together(attend(query, key[:, :, keys], value[:, :, keys]), part)
        return part, attend(query, key, value)

    found, whole = parts(query, key, value)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, whole)
    scores = np.asarray(query[0, 0] @ key[0, 0].T, np.float64)
    np.testing.assert_allclose(whole.logsumexp[0, 0], np.log(np.exp(scores).sum(-1)), atol=1e-5)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(whole.out[0, 0], weights @ np.asarray(value[0, 0]), atol=1e-5)
