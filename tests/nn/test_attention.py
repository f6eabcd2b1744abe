"""Attention against closed forms, against jax.nn, and its implementations against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen.nn.attention as attention_module
from jaxgen.errors import UserError
from jaxgen.nn.attention import cudnn_attention, splash_attention

# One program a case: compiling operation by operation takes several times as long.
attention = jax.jit(
    attention_module.attention,
    static_argnames=(
        "causal",
        "window",
        "sink_tokens",
        "scale",
        "soft_cap",
        "dropout",
        "implementation",
    ),
)


def arrays(batch=2, time=6, positions=6, heads=4, groups=4, depth=8, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(batch, time, heads, depth)] + 2 * [(batch, positions, groups, depth)]
    return [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]


def closed_form(query, key, value, visible):
    """float64, one head at a time; `visible` is (batch, heads, time, positions)."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros(query.shape)
    share = query.shape[2] // key.shape[2]
    for b, h in np.ndindex(query.shape[0], query.shape[2]):
        k, v = key[b, :, h // share], value[b, :, h // share]
        weights = np.exp(query[b, :, h] @ k.T / np.sqrt(query.shape[-1])) * visible[b, h]
        total = weights.sum(-1, keepdims=True)
        out[b, :, h] = weights @ v / np.where(total == 0, 1, total)
    return out


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_matches_the_closed_form(groups, causal):
    query, key, value = arrays(groups=groups, positions=9)
    rng = np.random.default_rng(0)
    mask = rng.random((2, 4, 6, 9)) < 0.7
    mask[0, 1, 2] = False  # this query sees nothing
    visible = mask & (np.arange(6)[:, None] + 3 >= np.arange(9)) if causal else mask
    out = attention(query, key, value, causal=causal, offset=3, mask=jnp.asarray(mask))
    np.testing.assert_allclose(out, closed_form(query, key, value, visible), atol=1e-5)


@pytest.mark.parametrize("time", [6, 128, 130])
@pytest.mark.parametrize("causal", [False, True])
def test_value_and_gradient_match_jax_nn(time, causal):
    query, key, value = arrays(time=time, positions=time, groups=2)
    weights = jax.random.normal(jax.random.key(1), query.shape)

    def ours(q, k, v):
        return (attention(q, k, v, causal=causal) * weights).sum()

    def theirs(q, k, v):
        return (jax.nn.dot_product_attention(q, k, v, is_causal=causal) * weights).sum()

    ours, theirs = (
        jax.jit(jax.value_and_grad(f, (0, 1, 2)))(query, key, value) for f in (ours, theirs)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), ours, theirs)


def test_offset_by_row_equals_rows_alone():
    query, key, value = arrays(time=1, positions=8)
    together = attention(query, key, value, causal=True, offset=jnp.asarray([2, 5]))
    for row, seen in enumerate([3, 6]):
        alone = attention(
            query[row : row + 1], key[row : row + 1, :seen], value[row : row + 1, :seen]
        )
        np.testing.assert_allclose(together[row : row + 1], alone, atol=1e-6)


def test_segments_equal_separate_sequences():
    query, key, value = arrays(batch=1, time=7, positions=7)
    segments = jnp.asarray([[0, 0, 0, 1, 1, 1, 1]])
    together = attention(query, key, value, causal=True, segments=(segments, segments))
    for part in (slice(0, 3), slice(3, 7)):
        alone = attention(query[:, part], key[:, part], value[:, part], causal=True)
        np.testing.assert_allclose(together[:, part], alone, atol=1e-6)


def test_a_query_that_sees_nothing_is_zero_with_finite_gradients():
    query, key, value = arrays()
    mask = jnp.zeros((1, 1, 6, 6), bool).at[0, 0, 0].set(True)

    def total(q, k, v):
        return attention(q, k, v, mask=mask)[:, 1:].sum()

    value_, gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(query, key, value)
    assert value_ == 0
    assert all(np.all(np.asarray(g) == 0) for g in gradients)


def test_softmax_is_float32_inside_bfloat16():
    query, key, value = arrays(time=200, positions=200, dtype=jnp.bfloat16)
    out = attention(query, key, value, causal=True)
    exact = closed_form(query, key, value, np.tril(np.ones((2, 4, 200, 200))))
    assert out.dtype == jnp.bfloat16
    # A softmax summed in bfloat16 is off by several percent after 200 terms.
    assert np.abs(np.asarray(out, np.float64) - exact).max() < 0.02


def test_large_scores_stay_finite():
    query, key, value = arrays()
    out = attention(100 * query, 100 * key, value, causal=True)
    assert np.isfinite(np.asarray(out)).all()


def test_dropout_keeps_the_mean_and_drops_the_asked_share():
    query, key, _ = arrays(batch=1, heads=1, groups=1, time=128, positions=128)
    value = jnp.eye(128).reshape(1, 128, 1, 128)  # shows the weights themselves
    weights = attention(query, key, value, causal=True)[0, :, 0]
    dropped = attention(
        query, key, value, causal=True, dropout=0.25, dropout_key=jax.random.key(3)
    )[0, :, 0]
    below = np.tril(np.ones((128, 128), bool))
    share = np.mean(np.asarray(dropped)[below] == 0)
    assert abs(share - 0.25) < 0.02
    kept = below & (np.asarray(dropped) != 0)
    np.testing.assert_allclose(
        np.asarray(dropped)[kept], np.asarray(weights)[kept] / 0.75, rtol=1e-5
    )
    assert np.all(np.asarray(dropped)[~below] == 0)
    # The two halves of a causal square must not share their noise.
    first, second = np.asarray(dropped)[:64, :64] == 0, np.asarray(dropped)[64:, :64] == 0
    assert (first != second)[np.tril(np.ones((64, 64), bool))].any()


def test_refusals_name_the_reason():
    query, key, value = arrays()
    with pytest.raises(UserError, match="4 query heads don't share 3 key heads"):
        attention(query, key[:, :, :3], value[:, :, :3])
    with pytest.raises(UserError, match="dropout_key"):
        attention(query, key, value, dropout=0.1)
    with pytest.raises(UserError, match="window of 0 sees nothing"):
        attention(query, key, value, window=0)
    with pytest.raises(UserError, match="divide by 128"):
        attention(query, key, value, implementation=splash_attention)
    with pytest.raises(UserError, match="bfloat16 or float16"):
        attention(query, key, value, implementation=cudnn_attention)


def test_windows_and_sink_tokens_hide_all_else():
    query, key, value = arrays()
    ahead = np.arange(6)[:, None] - np.arange(6)
    cases = {
        (True, 2, 0): (ahead >= 0) & (ahead < 2),
        (False, 3, 0): np.abs(ahead) < 3,
        (True, 2, 1): (ahead >= 0) & ((ahead < 2) | (np.arange(6) == 0)),
    }
    for (causal, window, sink_tokens), seen in cases.items():
        out = attention(query, key, value, causal=causal, window=window, sink_tokens=sink_tokens)
        expected = closed_form(query, key, value, np.broadcast_to(seen, (2, 4, 6, 6)))
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_sinks_soft_caps_and_biases_are_their_formula():
    query, key, value = arrays(groups=2)
    sinks = jnp.asarray([-1.0, 0.0, 2.0, 40.0])
    bias = jax.random.normal(jax.random.key(4), (1, 4, 6, 6))
    out = attention(query, key, value, causal=True, scale=0.7, soft_cap=1.5, sinks=sinks, bias=bias)
    q, k, v = (np.asarray(x, np.float64) for x in (query, key, value))
    scores = np.einsum("bthd,bshd->bhts", q, k.repeat(2, 2)) * 0.7
    weights = np.exp(1.5 * np.tanh(scores / 1.5) + np.asarray(bias, np.float64))
    weights *= np.tril(np.ones((6, 6)))
    weights /= weights.sum(-1, keepdims=True) + np.exp(np.asarray(sinks))[:, None, None]
    expected = np.einsum("bhts,bshd->bthd", weights, v.repeat(2, 2))
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert np.abs(np.asarray(out[:, :, 3])).max() < 1e-6  # a great sink takes all


def test_a_sinks_gradient_is_that_of_finite_differences():
    query, key, value = arrays(batch=1)
    sinks = jnp.asarray([-1.0, 0.0, 0.5, 1.0])

    @jax.jit
    def total(sinks):
        return jnp.square(attention_module.attention(query, key, value, sinks=sinks)).sum()

    found = jax.grad(total)(sinks)
    for head in range(4):
        step = jnp.zeros(4).at[head].set(1e-2)
        slope = (total(sinks + step) - total(sinks - step)) / 2e-2
        np.testing.assert_allclose(found[head], slope, rtol=0.01)
