"""Guessing from both sides, against a small model written out in numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformers import parameters

from jaxgen.experiment import Context, Model
from jaxgen.families.autoregressive.architectures import bert
from jaxgen.families.autoregressive.masked_language import (
    MaskedLanguageModel,
    masked_language_loss,
    masked_language_model,
    masked_pass,
    pseudo_perplexity,
)

WORDS, WIDTH, ROWS, TIME, MASK = 13, 6, 10, 9, 1
NUMBERS = np.random.default_rng(0)
PARAMS = {
    "table": NUMBERS.normal(size=(WORDS, WIDTH)).astype(np.float32),
    "head": NUMBERS.normal(size=(WIDTH, WORDS)).astype(np.float32),
}
LENGTHS = NUMBERS.integers(4, TIME + 1, ROWS)
SEGMENTS = (np.arange(TIME)[None] < LENGTHS[:, None]).astype(np.int32)
WHOLE = NUMBERS.integers(2, WORDS, size=(ROWS, TIME)).astype(np.int32)
CHOSEN = (NUMBERS.random((ROWS, TIME)) < 0.4) & (SEGMENTS != 0)
BATCH = {
    "tokens": np.where(CHOSEN, MASK, WHOLE).astype(np.int32),
    "targets": WHOLE,
    "chosen": CHOSEN,
    "segments": SEGMENTS,
}
KEY = jax.random.key(0)


def hidden_of(numpy, params, batch):
    """Each token's own vector and the mean of its row's, bent."""
    own = numpy.asarray(params["table"])[batch["tokens"]]
    there = (batch["segments"] != 0)[:, :, None]
    mean = (own * there).sum(1, keepdims=True) / there.sum(1, keepdims=True)
    return numpy.tanh(own + mean)


MODEL = MaskedLanguageModel(
    hidden=lambda params, batch, key: hidden_of(jnp, params, batch),
    scores=lambda params, hidden: hidden @ params["head"],
)


def written_out(batch=BATCH):
    """-log p of every target and whether it is the likeliest, in float64."""
    exact = {name: leaf.astype(np.float64) for name, leaf in PARAMS.items()}
    scores = hidden_of(np, exact, batch) @ exact["head"]
    partition = np.log(np.exp(scores).sum(-1))
    target = np.take_along_axis(scores, batch["targets"][..., None], 2)[..., 0]
    return partition - target, scores.argmax(-1) == batch["targets"]


class Rows:
    """Items with some leaves of a batch."""

    def __init__(self, leaves):
        self.leaves = leaves

    def __len__(self):
        return ROWS

    def __getitem__(self, indices):
        return {name: leaf[indices] for name, leaf in self.leaves.items()}


def value_and_gradient(loss):
    def value(params):
        output = loss(params, Context(BATCH, KEY, 0, {}, None))
        return output.value, output

    return jax.jit(jax.value_and_grad(value, has_aux=True))(PARAMS)


@pytest.fixture(scope="module")
def at_once():
    return value_and_gradient(masked_language_loss(MODEL))


def test_the_loss_is_the_mean_over_what_was_chosen(at_once):
    (value, output), _ = at_once
    nats, right = written_out()
    np.testing.assert_allclose(value, nats[CHOSEN].mean(), rtol=1e-5)
    np.testing.assert_allclose(output.metrics["accuracy"], right[CHOSEN].mean(), rtol=1e-5)
    assert output.weight == CHOSEN.sum()


def test_gathered_and_in_chunks_it_is_the_same(at_once):
    most = int(CHOSEN.sum(1).max())
    assert most < TIME
    (value, output), gradient = value_and_gradient(masked_language_loss(MODEL, most=most, chunk=2))
    (whole, _), slope = at_once
    np.testing.assert_allclose(value, whole, rtol=1e-6)
    assert output.weight == CHOSEN.sum() and output.metrics["left_out"] == 0
    for name in slope:
        np.testing.assert_allclose(gradient[name], slope[name], rtol=1e-5, atol=1e-7)


def test_what_a_row_has_too_many_of_is_left_out_and_told():
    (value, output), _ = value_and_gradient(masked_language_loss(MODEL, most=2))
    first = CHOSEN & (np.cumsum(CHOSEN, axis=1) <= 2)
    np.testing.assert_allclose(value, written_out()[0][first].mean(), rtol=1e-5)
    assert output.weight == first.sum()
    np.testing.assert_allclose(
        output.metrics["left_out"], 1 - first.sum() / CHOSEN.sum(), rtol=1e-5
    )


def test_the_pass_counts_every_chosen_token_once():
    score = masked_pass(MODEL, "text", rows=4, chunk=4)
    found = score(Model(PARAMS, {}), {"text": Rows(BATCH)}, KEY)
    nats, right = written_out()
    np.testing.assert_allclose(found["nats"], nats[CHOSEN].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["perplexity"], np.exp(nats[CHOSEN].mean()), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], right[CHOSEN].mean(), rtol=1e-6)


def test_pseudo_perplexity_hides_each_token_alone():
    special = 7
    score = pseudo_perplexity(MODEL, "text", MASK, special=(special,), rows=4)
    items = Rows({"tokens": WHOLE, "segments": SEGMENTS})
    found = score(Model(PARAMS, {}), {"text": items}, KEY)
    each = []
    for time in range(TIME):
        tokens = WHOLE.copy()
        tokens[:, time] = MASK
        nats, _ = written_out({"tokens": tokens, "targets": WHOLE, "segments": SEGMENTS})
        counted = (SEGMENTS[:, time] != 0) & (WHOLE[:, time] != special)
        each.extend(nats[:, time][counted])
    np.testing.assert_allclose(found["pseudo_nats"], np.mean(each), rtol=1e-5)
    np.testing.assert_allclose(found["pseudo_perplexity"], np.exp(np.mean(each)), rtol=1e-5)


def test_an_encoder_sees_segments_and_types():
    network = bert(vocabulary=WORDS, width=8, layers=1, heads=2, context=TIME)
    params = parameters(network)
    model = masked_language_model(network)
    types = np.arange(TIME)[None].repeat(ROWS, 0) % 2
    run = jax.jit(partial(model.hidden, key=None))
    expected = jax.jit(partial(network.apply, method="hidden"))(
        {"params": params}, BATCH["tokens"], segments=SEGMENTS, types=types
    )
    np.testing.assert_allclose(run(params, BATCH | {"types": types}), expected, atol=1e-6)
    assert np.abs(run(params, BATCH) - expected).max() > 1e-3
