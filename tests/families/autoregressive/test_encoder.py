"""The encoder: it sees both sides and no padding; its scores and sentence embeddings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from small_transformers import parameters

from jaxgen.families.autoregressive.architectures import bert
from jaxgen.families.autoregressive.encoder import sentence_embedding
from jaxgen.nn.transformer_blocks import pre_norm
from jaxgen.parallel.layout import RULES

NETWORK = bert(vocabulary=11, width=32, layers=2, heads=4, context=16)
NETWORKS = {"post": NETWORK, "pre": NETWORK.clone(order=pre_norm, types=0, pools=False)}
TOKENS = jax.random.randint(jax.random.key(3), (2, 8), 0, 11)


@functools.cache
def made(name):
    network = NETWORKS[name]
    params = parameters(network)
    hidden = jax.jit(functools.partial(network.apply, {"params": params}, method="hidden"))
    return network, params, hidden


@pytest.mark.parametrize("name", NETWORKS)
def test_each_position_sees_both_sides(name):
    _, _, hidden = made(name)
    changed = hidden(TOKENS.at[:, 4].add(1).at[:, 4].set(TOKENS[:, 4] % 10 + 1))
    difference = np.abs(changed - hidden(TOKENS)).max(-1)
    assert (difference > 1e-4).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_changes_nothing(name):
    _, _, hidden = made(name)
    segments = jnp.ones((2, 8), jnp.int32).at[0, 5:].set(0)
    padded = hidden(TOKENS, None, segments)
    np.testing.assert_allclose(padded[0, :5], hidden(TOKENS[:1, :5])[0], atol=2e-5)
    np.testing.assert_allclose(padded[1], hidden(TOKENS)[1], atol=2e-5)
    embedded = sentence_embedding(padded, segments)
    mean = np.asarray(padded[0, :5]).mean(0)
    np.testing.assert_allclose(embedded[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_scores_pass_a_layer_and_a_norm_and_the_tokens_own_vectors():
    network, params, hidden = made("post")
    x = np.asarray(hidden(TOKENS), np.float64)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    middle = x @ p["transform"]["kernel"] + p["transform"]["bias"]
    middle = middle * 0.5 * (1 + np.asarray(jax.scipy.special.erf(middle / np.sqrt(2))))
    middle = (middle - middle.mean(-1, keepdims=True)) / np.sqrt(middle.var(-1, keepdims=True))
    middle = middle * p["transform_norm"]["scale"] + p["transform_norm"]["bias"]
    expected = middle @ p["tokens"]["embedding"].T + p["scores_bias"]
    found = jax.jit(network.apply)({"params": params}, TOKENS)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_types_and_pooling():
    network, params, hidden = made("post")
    zeros = jnp.zeros_like(TOKENS)
    np.testing.assert_array_equal(hidden(TOKENS, types=zeros), hidden(TOKENS))
    assert np.abs(hidden(TOKENS, types=zeros + 1) - hidden(TOKENS)).max() > 1e-3
    x = hidden(TOKENS)
    pooled = network.apply({"params": params}, x, method="pooled")
    pooler = jax.tree.map(np.asarray, params["pooler"])
    expected = np.tanh(np.asarray(x[:, 0]) @ pooler["kernel"] + pooler["bias"])
    np.testing.assert_allclose(pooled, expected, atol=1e-5)


def test_every_parameter_names_its_axes():
    boxed = jax.eval_shape(NETWORK.init, jax.random.key(0), TOKENS)["params"]
    leaves = jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata))
    for leaf in leaves:
        assert len(leaf.names) == leaf.value.ndim
        assert all(axis is None or axis in RULES for axis in leaf.names)
