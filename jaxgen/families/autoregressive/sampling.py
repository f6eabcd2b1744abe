"""Text from a prompt: the sampler of language models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxgen.artifacts import Text
from jaxgen.errors import UserError
from jaxgen.experiment import Key, Model, Sampler
from jaxgen.families.autoregressive.decoder import Decoder
from jaxgen.families.autoregressive.decoding import Choice, Decoding, decode, sampled, start
from jaxgen.families.autoregressive.logits import (
    composed,
    first_tokens,
    min_p,
    temperature,
    top_k,
    top_p,
)


@runtime_checkable
class Tokenizer(Protocol):
    """Text to tokens and back."""

    @property
    def vocabulary_size(self) -> int:
        """Tokens are 0 .. vocabulary_size - 1; a model may have more, which are never drawn."""
        ...

    def encode(self, text: str) -> Any:
        """The tokens of a text, (size,) integers."""
        ...

    def decode(self, tokens: Any) -> str:
        """The text of some tokens."""
        ...


@dataclass(frozen=True)
class GenerateRequest:
    """What to write."""

    prompt: str = "\n"  # the text to go on from
    tokens: int = 500  # how many tokens to write
    temperature: float = 0.8  # below 1 is safer, above 1 bolder; 0 takes the likeliest token
    top_k: int = 0  # draw from so many likeliest tokens; 0 is all
    top_p: float = 1.0  # draw from the fewest tokens with this probability together; 1 is all
    min_p: float = 0.0  # draw from tokens at least this share as likely as the likeliest; 0 is all
    count: int = 1  # how many passages
    seed: int = 0  # another seed writes other passages


# New tokens between two partial results of a stream.
_STRIDE = 16


def text_sampler(decoder: Decoder, tokenizer: Tokenizer) -> Sampler:
    """Continues a prompt by temperature, then top-k, top-p and min-p sampling, in this order.

    Samples are {"tokens": (count, width), "lengths": (count,)}: prompt and continuation, and how
    much of each row that is; `stream` yields the same, growing.

    Raises:
        UserError: by `prepare`, for a request out of range or an empty prompt.
    """

    def prepare(request: GenerateRequest) -> tuple[tuple[int, int], Any]:
        prompt = _checked(request, tokenizer)
        # A power of two, so that prompts of similar lengths share a compiled program.
        width = 1 << (len(prompt) - 1).bit_length()
        arrays = {
            "prompt": np.pad(prompt, (0, width - len(prompt))),
            "length": np.int32(len(prompt)),
            "temperature": np.float32(request.temperature),
            "top_k": np.int32(request.top_k),
            "top_p": np.float32(request.top_p),
            "min_p": np.float32(request.min_p),
        }
        return (request.tokens, request.count), arrays

    def choice(arrays: Any) -> Choice:
        return sampled(
            composed(
                first_tokens(tokenizer.vocabulary_size),
                temperature(arrays["temperature"]),
                top_k(arrays["top_k"]),
                top_p(arrays["top_p"]),
                min_p(arrays["min_p"]),
            )
        )

    def begin(model: Model, arrays: Any, count: int) -> Decoding:
        prompts = jnp.broadcast_to(arrays["prompt"][None, :], (count, arrays["prompt"].shape[0]))
        lengths = jnp.broadcast_to(arrays["length"], (count,))
        return start(decoder, model.params, prompts, lengths)

    def sample(model: Model, key: Key, static: tuple[int, int], arrays: Any) -> Any:
        tokens, count = static
        state = begin(model, arrays, count)
        _, new = decode(decoder, model.params, key, state, choice(arrays), tokens)
        return _joined(arrays, new)

    compiled_begin = jax.jit(begin, static_argnums=2)

    @jax.jit
    def proceed(model: Model, key: Key, state: Decoding, arrays: Any) -> Any:
        return decode(decoder, model.params, key, state, choice(arrays), _STRIDE)

    def stream(model: Model, key: Key, static: tuple[int, int], arrays: Any) -> Iterator[Any]:
        tokens, count = static
        state, parts = compiled_begin(model, arrays, count), []
        for made in range(0, tokens, _STRIDE):
            state, new = proceed(model, key, state, arrays)
            parts.append(np.asarray(new)[:, : tokens - made])
            yield _joined(arrays, jnp.asarray(np.concatenate(parts, axis=1)))

    def render(arrays: Any) -> Text:
        rows = zip(np.asarray(arrays["tokens"]), np.asarray(arrays["lengths"]), strict=True)
        return Text(tuple(tokenizer.decode(row[:length]) for row, length in rows))

    return Sampler(GenerateRequest, prepare, sample, render, stream)


def _joined(arrays: Any, new: Array) -> dict[str, Array]:
    count, made = new.shape
    prompt = jnp.asarray(arrays["prompt"]).astype(jnp.int32)
    buffer = jnp.zeros((count, prompt.shape[0] + made), jnp.int32)
    buffer = buffer.at[:, : prompt.shape[0]].set(prompt[None, :])
    buffer = jax.lax.dynamic_update_slice(buffer, new, (0, arrays["length"]))
    return {"tokens": buffer, "lengths": jnp.broadcast_to(arrays["length"] + made, (count,))}


def _checked(request: GenerateRequest, tokenizer: Tokenizer) -> np.ndarray:
    for name, good, cure in (
        ("temperature", request.temperature >= 0, "at least 0"),
        ("top_k", request.top_k >= 0, "at least 0"),
        ("top_p", 0 < request.top_p <= 1, "above 0 and at most 1"),
        ("min_p", 0 <= request.min_p <= 1, "between 0 and 1"),
        ("tokens", request.tokens >= 1, "at least 1"),
        ("count", request.count >= 1, "at least 1"),
    ):
        if not good:
            raise UserError(f"{name} must be {cure}, not {getattr(request, name)}.")
    prompt = np.asarray(tokenizer.encode(request.prompt), np.int32)
    if not len(prompt):
        raise UserError("The prompt is empty: give at least one character to go on from.")
    return prompt
