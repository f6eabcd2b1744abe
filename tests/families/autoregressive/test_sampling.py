"""The text sampler: requests in, passages out."""

import dataclasses
import functools
import itertools
import json

import jax
import pytest
from small_transformers import CONTEXT, LEARNED, ROTARY, parameters

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


def test_a_stream_grows_by_a_token_into_the_sample():
    static, arrays = sampler().prepare(REQUEST)
    parts = list(sampler().stream(model(), jax.random.key(0), static, arrays))
    texts = [sampler().render(part).passages for part in parts]
    assert [len(text) for (text, _) in texts] == list(range(6, 26))
    for early, late in itertools.pairwise(texts):
        assert all(after.startswith(before) for before, after in zip(early, late, strict=True))
    assert texts[-1] == passages(REQUEST)


def test_prompts_of_many_lengths_in_one_batch_are_each_alone():
    prompts = ["b", "badge", "ca", "deckhead"]
    greedy = dataclasses.replace(REQUEST, temperature=0.0, tokens=7, count=1)
    requests = [dataclasses.replace(greedy, prompt=prompt) for prompt in prompts]
    static, arrays = sampler().prepare_many(requests)
    text = sampler().render(compiled()(model(), jax.random.key(0), static, arrays))
    assert text.prompts == tuple(prompts) and text.sizes == (7,) * 4
    assert list(text.passages) == [passages(request)[0] for request in requests]
    line = json.loads(text.lines()[2])
    assert line == {"prompt": "ca", "text": text.passages[2][2:], "tokens": 7}


def test_a_passage_ends_before_a_stop_string_and_without_its_end():
    (whole,) = passages(dataclasses.replace(REQUEST, count=1, temperature=1.0))
    written = whole[len("badge") :]
    stop = written[7:10]
    place = written.index(stop)
    request = dataclasses.replace(REQUEST, count=1, temperature=1.0, stop=(stop, "kkkk"))
    static, arrays = sampler().prepare(request)
    drawn = compiled()(model(), jax.random.key(0), static, arrays)
    assert sampler().render(drawn).passages == ("badge" + written[:place],)
    assert int(drawn["lengths"][0]) == len("badge") + place + 3
    # Nor is the token that ends it shown, here any "c".
    ended = text_sampler(transformer_decoder(ROTARY, CONTEXT), TOKENIZER, ends=[2])
    sample = jax.jit(ended.sample, static_argnums=2)
    text = ended.render(sample(model(), jax.random.key(0), *ended.prepare(REQUEST)))
    assert all("c" not in passage[5:] for passage in text.passages)
    assert min(text.sizes) < 20


def test_penalties_change_what_is_drawn_and_their_absence_nothing():
    plain = passages(REQUEST)
    assert passages(dataclasses.replace(REQUEST, frequency=3.0)) != plain
    (text,) = passages(dataclasses.replace(REQUEST, presence=1e6, tokens=6, count=1, prompt="k"))
    assert len(set(text[1:])) == 6


def test_a_draft_changes_nothing_of_what_is_likeliest():
    greedy = dataclasses.replace(REQUEST, temperature=0.0, tokens=4, count=1)
    roomy = text_sampler(transformer_decoder(ROTARY, 32), TOKENIZER)
    other = text_sampler(transformer_decoder(LEARNED, CONTEXT), TOKENIZER)
    for guesser, weights in ((roomy, model()), (other, Model(parameters(LEARNED), {}))):
        faster = roomy.drafted(guesser, weights)
        made = jax.jit(faster.sample, static_argnums=2)(
            model(), jax.random.key(0), *faster.prepare(greedy)
        )
        assert faster.render(made).passages == passages(greedy)
    with pytest.raises(UserError, match="another vocabulary"):
        roomy.drafted(text_sampler(roomy.source.decoder, CharacterTokenizer("abc")), model())


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
        ({"prompt": "abcdefghijkabcdef"}, "has 17 tokens and the model's context is 16"),
        ({"typical": 0.0}, "typical must be above 0"),
        ({"repetition": 0.0}, "repetition must be above 0"),
        ({"stop": ("",)}, "A stop string is empty"),
        ({"stop": ("abz",)}, "No sequence of tokens spells the stop string 'abz'"),
    ],
)
def test_requests_out_of_range_are_refused(change, sentence):
    with pytest.raises(UserError, match=sentence):
        sampler().prepare(dataclasses.replace(REQUEST, **change))


@pytest.mark.parametrize("prompt", ["a", "abcdefghijkabcde"])
def test_a_prompt_may_be_one_character_or_fill_the_context(prompt):
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
