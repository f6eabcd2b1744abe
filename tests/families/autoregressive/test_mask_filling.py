"""Filling in masked places: the likeliest tokens of the model's own distribution, by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.experiment import Model
from jaxgen.families.autoregressive.mask_filling import FillRequest, mask_filling_sampler
from jaxgen.families.autoregressive.masked_language import MaskedLanguageModel

WORDS = ["[PAD]", "[MASK]", "red", "green", "blue"]


def guess(params, batch, key):
    """At each place a vector that says how many tokens the row has, and where it stands."""
    count = (batch["segments"] != 0).sum(-1, keepdims=True)
    place = jnp.arange(batch["tokens"].shape[1])[None, :]
    return jnp.stack(jnp.broadcast_arrays(count, place), axis=-1).astype(jnp.float32)


def scores(params, hidden):
    """Red, green, blue by turns, from the place on; certain by 2 nats each."""
    turn = (hidden[..., 1:] + jnp.arange(3).reshape((1,) * (hidden.ndim - 1) + (3,))) % 3
    low = jnp.full((*hidden.shape[:-1], 2), -50.0)
    return jnp.concatenate([low, -2 * turn], axis=-1)


SAMPLER = mask_filling_sampler(
    MaskedLanguageModel(guess, scores),
    lambda text: [WORDS.index(word) for word in text.split()],
    lambda tokens: " ".join(WORDS[token] for token in tokens),
    mask=1,
    padding=0,
    vocabulary_size=5,
    context=6,
)


def test_each_masked_place_gets_its_likeliest_words():
    request = FillRequest("[MASK] blue [MASK]", candidates=2)
    static, arrays = SAMPLER.prepare(request)
    drawn = jax.jit(SAMPLER.sample, static_argnums=2)(
        Model({}, {}), jax.random.key(0), static, arrays
    )
    (text,) = SAMPLER.render(drawn).passages
    first, second = np.exp([0, -2]) / np.exp([0, -2, -4]).sum() * 100
    assert text.splitlines() == [
        f"red {first:.1f} %   green {second:.1f} %",
        f"green {first:.1f} %   blue {second:.1f} %",
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"text": "red blue"}, r"no \[MASK\]"),
        ({"text": "[MASK] " * 7}, "7 tokens, and the model reads 6"),
        ({"candidates": 0}, r"1 \.\. 5, not be 0"),
        ({"candidates": 6}, r"1 \.\. 5, not be 6"),
    ],
)
def test_requests_out_of_range_are_refused(change, sentence):
    with pytest.raises(UserError, match=sentence):
        SAMPLER.prepare(dataclasses.replace(FillRequest(), **change))
