"""Text from a prompt: the samplers of language models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxgen.errors import UserError
from jaxgen.experiment import Key, Model, Sampler
from jaxgen.families.autoregressive.automata import until_string, until_token
from jaxgen.families.autoregressive.decoder import Decoder, Weights
from jaxgen.families.autoregressive.decoding import Decoding, decode, has_room, sampled, start
from jaxgen.families.autoregressive.logits import (
    first_tokens,
    min_p,
    temperature,
    top_k,
    top_p,
    typical,
)
from jaxgen.families.autoregressive.passages import Vocabulary, as_bytes, prompts, rendered
from jaxgen.families.autoregressive.policies import (
    Policy,
    combined,
    frequency,
    guided,
    repetition,
)
from jaxgen.families.autoregressive.speculation import check_room, speculate
from jaxgen.families.autoregressive.text_requests import GenerateRequest, Reading, check


@dataclass(frozen=True)
class TextModel:
    """What text samplers draw from: how the network is decoded, and what its tokens mean."""

    decoder: Decoder
    vocabulary: Vocabulary


# A draft model guesses so many tokens at a time.
AHEAD = 4


def text_sampler(
    decoder: Decoder,
    tokenizer: Any,
    *,
    ends: Sequence[int] | None = None,
    guide: Policy | None = None,
    reading: Reading | None = None,
) -> Sampler:
    """Continues a prompt, drawing each token by what the request asks for.

    In this order: what may be written at all, penalties, temperature, top-k, top-p, min-p, typical.
    Samples are {"tokens": (rows, width), "begins", "lengths": (rows,)}: prompts and continuations,
    where these begin and where they end; `stream` yields the same, growing by a token.

    ends: tokens with which a passage is complete, which aren't shown; None: the tokenizer's.
    guide: rules out more.
    reading: what a request asks to go on from; None: the text of a `GenerateRequest`.

    Raises:
        UserError: by `prepare`, for a request out of range, an empty prompt or one that leaves no
            room in the context, a stop string that can't be written.
    """
    ends = tokenizer.ends if ends is None else ends
    read = reading or Reading(GenerateRequest, lambda request: tokenizer.encode(request.prompt))
    model = TextModel(decoder, Vocabulary(tokenizer, tuple(ends)))
    vocabulary = model.vocabulary

    def prepare_many(requests: Sequence[Any]) -> tuple[tuple[int, int, bool], Any]:
        request = requests[0]
        check(request)
        tokens, lengths = prompts(list(map(read.tokens, requests)), decoder.context)
        arrays = {
            "prompt": tokens,
            "length": lengths,
            "stops": as_bytes(request.stop),
            "shown": as_bytes(list(map(read.shown, requests)) if read.shown else ()),
            "guides": _guides(vocabulary, request.stop),
            **{
                name: np.float32(getattr(request, name))
                for name in (
                    "temperature", "top_p", "min_p", "typical", "repetition", "frequency",
                    "presence",
                )
            },
            "top_k": np.int32(request.top_k),
        }  # fmt: skip
        penalized = (request.repetition, request.frequency, request.presence) != (1, 0, 0)
        return (request.tokens, request.count, penalized), arrays

    def policy(arrays: Any, penalized: bool) -> Policy:
        penalties = [
            repetition(arrays["repetition"]),
            frequency(arrays["frequency"], arrays["presence"]),
        ]
        return combined(
            first_tokens(vocabulary.size),
            *([] if guide is None else [guide]),
            *map(guided, arrays["guides"]),
            *(penalties if penalized else []),
            temperature(arrays["temperature"]),
            top_k(arrays["top_k"]),
            top_p(arrays["top_p"]),
            min_p(arrays["min_p"]),
            typical(arrays["typical"]),
        )

    def begin(model: Model, static: tuple[int, int, bool], arrays: Any) -> tuple[Weights, Decoding]:
        weights = decoder.ready(model.params)
        _, count, penalized = static
        prompt, lengths = (jnp.repeat(arrays[name], count, axis=0) for name in ("prompt", "length"))
        choice = sampled(policy(arrays, penalized))
        return weights, start(decoder, weights, prompt, lengths, choice)

    def sample(model: Model, key: Key, static: tuple[int, int, bool], arrays: Any) -> Any:
        tokens, count, penalized = static
        weights, state = begin(model, static, arrays)
        choice = sampled(policy(arrays, penalized))
        fits = has_room(decoder, arrays["prompt"].shape[1] + tokens)
        state, new = decode(decoder, weights, key, state, choice, tokens, fits)
        return _joined(arrays, count, new, state.lengths)

    compiled_begin = jax.jit(begin, static_argnums=1)

    def proceed(
        weights: Weights, key: Key, state: Decoding, arrays: Any, static: tuple[int, int, bool]
    ) -> tuple[Decoding, Array]:
        choice = sampled(policy(arrays, static[2]))
        fits = has_room(decoder, arrays["prompt"].shape[1] + static[0])
        return decode(decoder, weights, key, state, choice, 1, fits)

    # The cache goes in and out: without being given away it would be copied for every token.
    compiled = jax.jit(proceed, static_argnums=4, donate_argnums=2)

    def stream(model: Model, key: Key, static: tuple[int, int, bool], arrays: Any) -> Iterator[Any]:
        tokens, count, _ = static
        (weights, state), parts = compiled_begin(model, static, arrays), []
        for _ in range(tokens):
            state, new = compiled(weights, key, state, arrays, static)
            parts.append(np.asarray(new))
            # A copy, since the state is given away with the next token.
            lengths = jnp.array(state.lengths)
            yield _joined(arrays, count, jnp.asarray(np.concatenate(parts, axis=1)), lengths)
            if np.asarray(state.ended).all():
                return

    sampler = Sampler(
        read.request,
        lambda request: prepare_many([request]),
        sample,
        lambda arrays: rendered(vocabulary, arrays),
        stream,
        prepare_many=prepare_many,
        source=model,
        drafted=lambda draft, other: _drafted(sampler, draft, other, policy),
    )
    return sampler


def _drafted(
    sampler: Sampler, draft: Sampler, other: Model, policy: Callable[[Any, bool], Policy]
) -> Sampler:
    """The same sampler, which lets another one's model guess `AHEAD` tokens at a time."""
    own, small = sampler.source, draft.source
    if not isinstance(small, TextModel) or not own.vocabulary.agrees(small.vocabulary):
        raise UserError(
            "The draft model has another vocabulary: take one that was trained with the same "
            "tokenizer."
        )
    # Rings of windows need room for guesses that are taken back.
    large, little = (_reading_ahead(each.decoder) for each in (own, small))

    def sample(model: Model, key: Key, static: Any, arrays: Any) -> Any:
        tokens, count, penalized = static
        prompt, lengths = (jnp.repeat(arrays[name], count, axis=0) for name in ("prompt", "length"))
        made = speculate(
            large,
            little,
            (model.params, arrays["draft"]),
            key,
            prompt[:, : little.context],  # beyond that there is only padding
            lengths,
            policy(arrays, penalized),
            length=tokens,
            ahead=AHEAD,
            longest=1,  # those of the request were looked at by `prepare_many`
        )
        return _joined(arrays, count, made.tokens, made.lengths)

    def prepare_many(requests: Sequence[Any]) -> tuple[Any, Any]:
        assert sampler.prepare_many is not None
        static, arrays = sampler.prepare_many(requests)
        needed = int(arrays["length"].max()) + requests[0].tokens + AHEAD
        check_room(large, little, needed, AHEAD)
        # As an argument: what a compiled function closes over becomes a part of the program.
        return static, arrays | {"draft": other.params}

    return dataclasses.replace(
        sampler,
        prepare=lambda request: prepare_many([request]),
        prepare_many=prepare_many,
        sample=sample,
        stream=None,
        drafted=None,
    )


def _reading_ahead(decoder: Decoder) -> Decoder:
    return decoder if decoder.reading is None else decoder.reading(AHEAD + 1)


def _guides(vocabulary: Vocabulary, stops: Sequence[str]) -> tuple[Any, ...]:
    guides = [until_token(vocabulary.size, vocabulary.ends)] if vocabulary.ends else []
    if stops:
        guides.append(until_string(vocabulary.tokenizer.spellings, stops))
    return tuple(guides)


def _joined(arrays: Any, count: int, new: Array, made: Array) -> dict[str, Array]:
    prompt, begins = (jnp.repeat(arrays[name], count, axis=0) for name in ("prompt", "length"))
    width = prompt.shape[1] + new.shape[1]
    places = jnp.arange(width)[None, :] - begins[:, None]
    continued = jnp.take_along_axis(new, jnp.clip(places, 0, new.shape[1] - 1), axis=1)
    padded = jnp.pad(prompt.astype(jnp.int32), ((0, 0), (0, new.shape[1])))
    tokens = jnp.where(places < 0, padded, continued)
    lengths = begins + made
    return {
        # Beyond the end there is nothing.
        "tokens": jnp.where(jnp.arange(width)[None, :] < lengths[:, None], tokens, 0),
        "begins": begins,
        "lengths": lengths,
        "stops": arrays["stops"],
        "shown": arrays["shown"],
    }
