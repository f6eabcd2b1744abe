"""Codes of a class, drawn by a prior."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformers import CONTEXT, LEARNED, VOCABULARY, parameters

from jaxgen.errors import UserError
from jaxgen.experiment import Model
from jaxgen.families.autoregressive.code_sampling import (
    CodeRequest,
    as_tokens,
    code_sampler,
)
from jaxgen.families.autoregressive.decoder import transformer_decoder
from jaxgen.families.autoregressive.logits import first_tokens

CLASSES, GRID = 4, (3, 5)
CODES = VOCABULARY - CLASSES


def pictures(codes):
    """Each code a pixel, so that what was drawn can be read off."""
    return (codes / CODES)[..., None]


@functools.cache
def sampler():
    decoder = transformer_decoder(LEARNED, CONTEXT)
    return code_sampler(decoder, pictures, codes=CODES, grid=GRID, classes=CLASSES)


@functools.cache
def drawn(request):
    plan, arrays = sampler().prepare(request)
    model = Model(parameters(LEARNED), {})
    image = jax.jit(sampler().sample, static_argnums=2)(model, jax.random.key(0), plan, arrays)
    return arrays["label"], np.round(np.asarray(image["image"][..., 0]) * CODES).astype(int)


def test_tokens_are_the_class_then_the_codes_row_by_row():
    indices = np.array([[[0, 1], [2, 3]], [[4, 5], [6, 0]]])
    tokens = as_tokens(indices, np.array([3, 0]), 7)
    np.testing.assert_array_equal(tokens, [[10, 0, 1, 2, 3], [7, 4, 5, 6, 0]])


def test_class_tokens_are_never_drawn():
    logits = jnp.zeros((2, VOCABULARY)).at[:, CODES:].set(50.0)
    found = first_tokens(CODES)(logits)
    assert np.all(np.isneginf(found[:, CODES:])) and not np.any(found[:, :CODES])
    _, codes = drawn(CodeRequest(count=12))
    assert codes.shape == (12, *GRID) and codes.max() < CODES


def test_the_likeliest_codes_are_those_of_the_whole_network():
    """Greedy drawing by the cache agrees with the network's logits on what it drew."""
    labels, codes = drawn(CodeRequest(count=12, temperature=0.0))
    tokens = as_tokens(codes, labels, CODES)
    logits = LEARNED.apply({"params": parameters(LEARNED)}, jnp.asarray(tokens))
    likeliest = np.argmax(logits[:, :-1, :CODES], axis=-1)
    np.testing.assert_array_equal(likeliest, codes.reshape(12, -1))


def test_one_code_to_draw_from_is_the_likeliest():
    _, greedy = drawn(CodeRequest(count=12, temperature=0.0))
    _, only = drawn(CodeRequest(count=12, top_k=1))
    np.testing.assert_array_equal(only, greedy)


def test_rows_of_ten_show_a_class_each_unless_one_is_asked_for():
    labels, _ = drawn(CodeRequest(count=12))
    np.testing.assert_array_equal(labels, [0] * 10 + [1] * 2)
    labels = sampler().prepare(CodeRequest(count=3, label=2))[1]["label"]
    np.testing.assert_array_equal(labels, [2, 2, 2])


@pytest.mark.parametrize(
    "change", [{"count": 0}, {"temperature": -1.0}, {"top_k": -1}, {"label": 4}, {"label": -2}]
)
def test_requests_out_of_range(change):
    (name,) = change
    with pytest.raises(UserError, match=f"{name} must be"):
        sampler().prepare(dataclasses.replace(CodeRequest(), **change))


def test_a_decoder_that_is_too_short():
    decoder = transformer_decoder(LEARNED, CONTEXT)
    with pytest.raises(UserError, match="needs a context of 17"):
        code_sampler(decoder, pictures, codes=CODES, grid=(4, 4), classes=CLASSES)
