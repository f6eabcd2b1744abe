"""The text sampler: requests in, passages out."""

import dataclasses
import functools

import jax
import pytest
from small_transformers import CONTEXT, ROTARY, parameters

from jaxgen.data.tokenizers import CharacterTokenizer
from jaxgen.errors import UserError
from jaxgen.experiment import Model
from jaxgen.families.autoregressive.decoder import transformer_decoder
from jaxgen.families.autoregressive.sampling import GenerateRequest, text_sampler

TOKENIZER = CharacterTokenizer("abcdefghijk")
REQUEST = GenerateRequest(prompt="badge", tokens=20, count=2)


@functools.cache
def sampler():
    return text_sampler(transformer_decoder(ROTARY, CONTEXT), TOKENIZER)


@functools.cache
def model():
    return Model(parameters(ROTARY), {})


@functools.cache
def compiled():
    return jax.jit(sampler().sample, static_argnums=2)


def passages(request, key=0):
    static, arrays = sampler().prepare(request)
    return sampler().render(compiled()(model(), jax.random.key(key), static, arrays)).passages


def test_passages_go_on_from_the_prompt():
    written = passages(REQUEST)
    assert len(written) == 2
    assert all(len(text) == 25 and text.startswith("badge") for text in written)
    assert written[0] != written[1]
    assert written == passages(REQUEST)
    assert written != passages(REQUEST, key=1)


def test_other_numbers_and_prompts_of_similar_length_need_no_other_program():
    passages(REQUEST)
    compilations = compiled()._cache_size()
    passages(dataclasses.replace(REQUEST, temperature=0.1, top_k=2, top_p=0.3, min_p=0.5))
    passages(dataclasses.replace(REQUEST, prompt="facade"))
    assert compiled()._cache_size() == compilations


def test_temperature_0_ignores_the_key():
    request = dataclasses.replace(REQUEST, temperature=0.0)
    assert passages(request, key=0) == passages(request, key=1)


def test_a_stream_grows_into_the_sample():
    static, arrays = sampler().prepare(REQUEST)
    parts = list(sampler().stream(model(), jax.random.key(0), static, arrays))
    texts = [sampler().render(part).passages for part in parts]
    assert len(texts) == 2
    for early, late in zip(texts[0], texts[1], strict=True):
        assert late.startswith(early) and len(early) < len(late)
    assert texts[-1] == passages(REQUEST)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0, not -1.0"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1"),
        ({"min_p": 1.5}, "min_p must be between 0 and 1"),
        ({"tokens": 0}, "tokens must be at least 1"),
        ({"count": 0}, "count must be at least 1"),
        ({"prompt": ""}, "The prompt is empty"),
        ({"prompt": "abz"}, "'z'"),
    ],
)
def test_requests_out_of_range_are_refused(change, sentence):
    with pytest.raises(UserError, match=sentence):
        sampler().prepare(dataclasses.replace(REQUEST, **change))


@pytest.mark.parametrize("prompt", ["a", "abcdefghijkabcdefghijk"])
def test_a_prompt_may_be_one_character_or_longer_than_the_context(prompt):
    (text,) = passages(dataclasses.replace(REQUEST, prompt=prompt, tokens=3, count=1))
    assert text.startswith(prompt) and len(text) == len(prompt) + 3


def test_tokens_that_only_fill_the_vocabulary_up_are_never_drawn():
    known = CharacterTokenizer("abcdef")  # of the model's eleven tokens
    narrow = text_sampler(transformer_decoder(ROTARY, CONTEXT), known)
    static, arrays = narrow.prepare(dataclasses.replace(REQUEST, prompt="fade", temperature=3.0))
    sample = jax.jit(narrow.sample, static_argnums=2)
    drawn = sample(model(), jax.random.key(0), static, arrays)
    assert drawn["tokens"].max() < 6
    assert len(narrow.render(drawn).passages[0]) == 24
