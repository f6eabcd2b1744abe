"""A transformer with experts in the place of its MLPs: its loss, its decoding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformers import LEARNED, VOCABULARY, parameters

from jaxgen.experiment import Context
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import next_token_loss
from jaxgen.nn.expert_dispatch import within_capacity
from jaxgen.nn.key_value_cache import CacheRoom
from jaxgen.nn.mixture_of_experts import MixtureOfExperts

NETWORK = LEARNED.clone(mlp=partial(MixtureOfExperts, experts=4, chosen=2, hidden=16))
TOKENS = jax.random.randint(jax.random.key(0), (3, 12), 0, VOCABULARY)


@pytest.fixture(scope="module")
def params():
    return parameters(NETWORK)


def test_the_loss_weighs_what_the_routers_say(params):
    loss = next_token_loss(
        language_model(NETWORK), penalties={"load_balance": 0.5, "router_z": 0.25}
    )

    @jax.jit
    def both(params):
        def value(params):
            output = loss(params, Context({"tokens": TOKENS}, None, 0, {}, params))
            return output.value, output.metrics

        return jax.value_and_grad(value, has_aux=True)(params)

    (value, metrics), slope = both(params)
    expected = metrics["nats"] + 0.5 * metrics["load_balance"] + 0.25 * metrics["router_z"]
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert metrics["dropped"] == 0
    assert 0 < metrics["load_entropy"] <= np.log(4) + 1e-6
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slope["blocks"]["mlp"]))


def test_decoding_takes_the_same_experts(params):
    @jax.jit
    def run(params):
        whole = NETWORK.apply({"params": params}, TOKENS)
        lengths = jnp.full(len(TOKENS), 11)
        _, cache = NETWORK.apply(
            {"params": params}, TOKENS[:, :11], lengths, CacheRoom(12), method="prefill"
        )
        return whole, NETWORK.apply(
            {"params": params}, TOKENS[:, 11:], cache, lengths, method="extend"
        )[0][:, 0]

    whole, last = run(params)
    np.testing.assert_allclose(last, whole[:, -1], rtol=1e-4, atol=1e-4)


def test_padding_takes_no_place_among_the_experts(params):
    """However little room there is, and whatever the padding is."""
    narrow = NETWORK.clone(mlp=partial(NETWORK.mlp, dispatch=partial(within_capacity, factor=0.5)))
    lengths = jnp.asarray([5, 7, 12])
    real = jnp.arange(12)[None, :] < lengths[:, None]

    @jax.jit
    def run(tokens):
        prompts, _ = narrow.apply(
            {"params": params}, tokens, lengths, CacheRoom(16), method="prefill"
        )
        whole, sown = narrow.apply(
            {"params": params}, tokens, None, real.astype(jnp.int32), mutable=["router"]
        )
        return prompts, jnp.where(real[:, :, None], whole, 0), sown

    other = jnp.where(real, TOKENS, (TOKENS + 1) % VOCABULARY)
    found = run(TOKENS)
    assert (np.asarray(found[2]["router"]["blocks"]["mlp"]["dropped"]) > 0).any()
    jax.tree.map(np.testing.assert_array_equal, found, run(other))
