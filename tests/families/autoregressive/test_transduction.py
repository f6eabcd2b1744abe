"""Answers of an encoder–decoder: a copying task learned, and asked by the sampler and the score."""

import functools

import jax
import numpy as np
import optax
import pytest
from flax.core import meta

from jaxgen.data.transductions import Transductions
from jaxgen.errors import UserError
from jaxgen.experiment import Context, Model
from jaxgen.families.autoregressive.encoder_decoder_architectures import t5
from jaxgen.families.autoregressive.language_model import sourced_language_model
from jaxgen.families.autoregressive.likelihood import next_token_loss
from jaxgen.families.autoregressive.transduction import (
    Transducer,
    TransduceRequest,
    answers_scored,
    transduction_sampler,
)

NETWORK = t5(11, 32, 1, heads=2, depth=16, hidden=64, furthest=8, buckets=8)
TRANSDUCER = Transducer(NETWORK, 1, 2, source_length=5, length=6)


def pairs(count, seed):
    """Words of 3 .. 10, and the same backwards."""
    random = np.random.default_rng(seed)
    words = [random.integers(3, 11, random.integers(1, 6)) for _ in range(count)]
    return Transductions(words, [word[::-1] for word in words], 5, 5, 1, 2)


@functools.cache
def learned():
    data = pairs(4096, 0)
    loss = next_token_loss(sourced_language_model(NETWORK))
    batch = data[np.arange(64)]
    init = jax.jit(lambda source, tokens: NETWORK.init(jax.random.key(0), source, tokens))
    params = meta.unbox(init(batch["source"], batch["tokens"][:, :-1])["params"])
    optimizer = optax.adam(6e-3)

    @jax.jit
    def step(params, state, batch):
        context = Context(batch, jax.random.key(0), 0, {}, None)
        slope = jax.grad(lambda params: loss(params, context).value)(params)
        change, state = optimizer.update(slope, state)
        return optax.apply_updates(params, change), state

    state, random = optimizer.init(params), np.random.default_rng(1)
    for _ in range(1000):
        params, state = step(params, state, data[random.integers(0, 4096, 64)])
    return Model(params, {})


def test_it_learns_to_turn_words_around_and_answers_in_order():
    held_out = pairs(50, 2)

    def judge(answers, data):
        right = [row[1:][: mask.sum() - 1].tolist() for row, mask in
                 zip(data["test"][np.arange(50)]["tokens"], data["test"][np.arange(50)]["mask"],
                     strict=True)]  # fmt: skip
        assert len(answers) == 50
        return {"right": float(np.mean([a == b for a, b in zip(answers, right, strict=True)]))}

    for beams in (1, 3):
        score = answers_scored(TRANSDUCER, "test", judge, beams=beams, rows=16)
        assert score(learned(), {"test": held_out}, jax.random.key(0))["right"] > 0.8


def digits(text):
    return np.array([int(letter) for letter in text])


def test_the_sampler_gives_its_best_answers():
    sampler = transduction_sampler(TRANSDUCER, digits, lambda t: "".join(map(str, t)), "345")
    sample = jax.jit(sampler.sample, static_argnums=2)

    def answer(**fields):
        static, arrays = sampler.prepare(TransduceRequest(**fields))
        return sampler.render(sample(learned(), jax.random.key(0), static, arrays)).passages[0]

    assert answer() == "345 → 543"
    assert answer(text="3789", beams=1) == "3789 → 9873"
    several = answer(text="38", beams=3, count=3)
    assert several.startswith("38 → 83  (-") and several.count("\n") == 2


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"beams": 0}, "beams must be at least 1"),
        ({"count": 5}, "count must be from 1 to the number of beams"),
        ({"text": "345678"}, "has 6 tokens, and the model reads 1 to 5"),
    ],
)
def test_requests_out_of_range_are_refused(fields, sentence):
    sampler = transduction_sampler(TRANSDUCER, digits, str, "345")
    with pytest.raises(UserError, match=sentence):
        sampler.prepare(TransduceRequest(**fields))
