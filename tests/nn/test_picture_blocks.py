import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.picture_blocks import AttentionBlock, ResidualBlock


def test_blocks_start_as_their_shortcuts():
    hidden = jax.random.normal(jax.random.key(3), (2, 4, 4, 8))
    for embedding in (jnp.ones((2, 5)), None):
        answer, _ = jax.jit(ResidualBlock(8).init_with_output)(jax.random.key(0), hidden, embedding)
        np.testing.assert_array_equal(answer, hidden)
    block = AttentionBlock(4)
    answer, _ = jax.jit(block.init_with_output)(jax.random.key(0), hidden)
    np.testing.assert_array_equal(answer, hidden)


def test_dropout_needs_a_key_to_act():
    hidden, embedding = jax.random.normal(jax.random.key(3), (2, 4, 4, 8)), jnp.ones((2, 5))
    block = ResidualBlock(8, dropout=0.5)
    shapes = nn.unbox(jax.eval_shape(block.init, jax.random.key(0), hidden, embedding))
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    still = block.apply(ones, hidden, embedding)
    np.testing.assert_array_equal(still, block.clone(dropout=0.0).apply(ones, hidden, embedding))
    dropped = block.apply(ones, hidden, embedding, rngs={"dropout": jax.random.key(0)})
    assert not jnp.allclose(dropped, still)


def away_from_zero(block, *arguments):
    """Parameters that hide no layer behind a zero."""
    generator = np.random.default_rng(0)
    shapes = nn.unbox(jax.eval_shape(block.init, jax.random.key(0), *arguments))
    return jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(0, 0.3, leaf.shape), jnp.float32), shapes
    )


def test_an_embedding_of_no_effect_is_none():
    hidden, embedding = jax.random.normal(jax.random.key(3), (2, 4, 4, 8)), jnp.zeros((2, 5))
    block = ResidualBlock(6)
    params = away_from_zero(block, hidden, embedding)["params"]
    still = {**params, "modulation": jax.tree.map(jnp.zeros_like, params["modulation"])}
    without = {name: part for name, part in params.items() if name != "modulation"}
    np.testing.assert_allclose(
        block.apply({"params": still}, hidden, embedding),
        block.apply({"params": without}, hidden),
        atol=1e-6,
    )


@pytest.mark.parametrize("head_dim, heads", [(None, 1), (4, 2)])
def test_attention_is_a_softmax_over_places(head_dim, heads):
    picture = jax.random.normal(jax.random.key(3), (1, 2, 3, 8))
    block = AttentionBlock(head_dim, groups=2, epsilon=1e-6)
    params = away_from_zero(block, picture)["params"]
    normed = nn.GroupNorm(2, epsilon=1e-6).apply({"params": params["norm"]}, picture)
    places = np.asarray(normed, np.float64).reshape(6, 8)

    def heads_of(name):
        kernel, bias = (np.asarray(params[name][leaf]) for leaf in ("kernel", "bias"))
        assert kernel.shape == (8, heads, 8 // heads)
        return np.einsum("pc,chd->hpd", places, kernel) + bias[:, None]

    query, key, value = (heads_of(name) for name in ("query", "key", "value"))
    weights = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(8 / heads))
    mixed = weights / weights.sum(-1, keepdims=True) @ value
    last = jax.tree.map(np.asarray, params["output"])
    output = np.einsum("hpd,hdc->pc", mixed, last["kernel"]) + last["bias"]
    expected = np.asarray(picture) + output.reshape(1, 2, 3, 8)
    np.testing.assert_allclose(block.apply({"params": params}, picture), expected, atol=1e-4)
