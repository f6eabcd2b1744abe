"""Losses and scores against sums over probabilities written out."""

import jax
import jax.numpy as jnp
import numpy as np
from small_transformers import LEARNED, ROTARY, VOCABULARY, parameters

from jaxgen.data.strided import Strided
from jaxgen.data.text import Blocks, Packed, Windows
from jaxgen.experiment import Context, Model
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import (
    cross_entropy,
    full_pass,
    next_token_loss,
    random_estimate,
)

TEXT = np.random.default_rng(0).integers(VOCABULARY, size=103).astype(np.int32)
KEY = jax.random.key(0)


def context(batch, key=KEY):
    return Context(batch=batch, key=key, step=jnp.int32(0), variables={}, ema=None)


def nats(network, params, tokens):
    """-log p of each token but the first, in float64, from the softmax written out."""
    run = jax.jit(lambda params, tokens: network.apply({"params": params}, tokens))
    logits = np.asarray(run(params, jnp.asarray(tokens[:, :-1])), np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(probabilities, tokens[:, 1:, None], 2)[..., 0])


def test_cross_entropy_of_huge_logits_is_finite():
    logits = jnp.asarray([[[1e4, 0.0, -1e4]]])
    np.testing.assert_allclose(cross_entropy(logits, jnp.asarray([[0]])), [[0.0]])
    np.testing.assert_allclose(cross_entropy(logits, jnp.asarray([[2]])), [[2e4]])


def test_loss_is_the_mean_over_what_the_mask_counts():
    params, tokens = parameters(LEARNED), TEXT[:52].reshape(4, 13)
    each = nats(LEARNED, params, tokens)
    loss = jax.jit(next_token_loss(language_model(LEARNED)))
    whole = loss(params, context({"tokens": tokens}))
    np.testing.assert_allclose(whole.value, each.mean(), rtol=1e-5)
    assert whole.weight == each.size
    mask = np.arange(12)[None, :] < np.array([[3], [12], [0], [7]])
    part = loss(params, context({"tokens": tokens, "mask": mask}))
    np.testing.assert_allclose(part.value, each[mask].mean(), rtol=1e-5)
    assert part.weight == 22
    nothing = loss(params, context({"tokens": tokens, "mask": np.zeros((4, 12), bool)}))
    assert nothing.value == 0 and nothing.weight == 0


def test_packed_documents_cost_what_they_cost_alone():
    documents = [TEXT[:5], TEXT[5:12], TEXT[12:20], TEXT[20:23]]
    items = Packed(documents, length=11)
    for network in (LEARNED, ROTARY):
        params = parameters(network)
        loss = jax.jit(next_token_loss(language_model(network)))
        packed = loss(params, context(items[np.arange(len(items))]))
        alone = np.concatenate(
            [nats(network, params, document[None]).ravel() for document in documents]
        )
        assert packed.weight == alone.size
        np.testing.assert_allclose(packed.value, alone.mean(), rtol=1e-5)


def test_dropout_draws_from_the_key():
    network = LEARNED.clone(dropout=0.5)
    params, batch = parameters(network), {"tokens": TEXT[:52].reshape(4, 13)}
    loss = jax.jit(next_token_loss(language_model(network)))
    first, again, other = (
        float(loss(params, context(batch, jax.random.key(seed))).value) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_the_full_pass_counts_every_token_once():
    params = parameters(LEARNED)
    model, data = Model(params, {}), {"text": Blocks(TEXT, 12)}  # 8 whole blocks and 6 tokens
    score = full_pass(language_model(LEARNED), "text", rows=4)
    pieces = [TEXT[start : start + 13][None] for start in range(0, 102, 12)]
    expected = np.concatenate([nats(LEARNED, params, piece).ravel() for piece in pieces])
    assert expected.size == 102
    np.testing.assert_allclose(score(model, data, KEY)["nats"], expected.mean(), rtol=1e-5)


def test_overlapping_windows_score_each_token_by_the_tokens_before_it():
    params, token_bytes = parameters(LEARNED), np.arange(VOCABULARY)
    # The first 12 predictions are made by one window, the other 90 five at a time.
    pieces = np.stack([TEXT[start : start + 13] for start in range(0, 91, 5)])
    each = nats(LEARNED, params, pieces)
    expected = np.concatenate([each[0], each[1:, 7:].ravel()])
    assert expected.size == 102
    score = full_pass(language_model(LEARNED), "text", rows=4, token_bytes=token_bytes)

    def scored(items):
        return score(Model(params, {}), {"text": items}, KEY)

    found = scored(Strided(TEXT, 12, 5))
    np.testing.assert_allclose(found["nats"], expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["perplexity"], np.exp(expected.mean()), rtol=1e-5)
    bits = expected.sum() / np.log(2) / TEXT[1:].sum()
    np.testing.assert_allclose(found["bits_per_byte"], bits, rtol=1e-5)
    assert scored(Strided(TEXT, 12, 12)) == scored(Blocks(TEXT, 12))


def test_the_estimate_is_of_random_windows():
    params = parameters(LEARNED)
    model, data = Model(params, {}), {"text": Windows(TEXT, 12)}
    score = random_estimate(language_model(LEARNED), "text", rows=8, batches=60)
    first = score(model, data, jax.random.key(1))["nats"]
    assert first == score(model, data, jax.random.key(1))["nats"]
    assert first != score(model, data, jax.random.key(2))["nats"]
    windows = Windows(TEXT, 12)
    each = nats(LEARNED, params, windows[np.arange(len(windows))]["tokens"]).mean(1)
    # Four standard deviations of a mean over 480 windows.
    assert abs(first - each.mean()) < 4 * each.std() / np.sqrt(480)
