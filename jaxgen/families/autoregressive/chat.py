"""Conversations with a language model, through a template of special tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError
from jaxgen.experiment import Items, Model, Sampler
from jaxgen.families.autoregressive.automata import until_token
from jaxgen.families.autoregressive.decoder import Decoder
from jaxgen.families.autoregressive.decoding import generate, sampled
from jaxgen.families.autoregressive.logits import first_tokens, temperature
from jaxgen.families.autoregressive.passes import whole_batches
from jaxgen.families.autoregressive.policies import guided
from jaxgen.families.autoregressive.sampling import text_sampler
from jaxgen.families.autoregressive.text_requests import Drawing, Reading
from jaxgen.parallel.sharding import fetched

Said = tuple[str, str]  # a role, "system", "user" or "assistant", and its message


@dataclass(frozen=True)
class ChatRequest(Drawing):
    """What to answer to."""

    prompt: str = "Hello."  # what the user says
    before: tuple[str, ...] = ()  # what was said before, by the user and the model in turns
    system: str = ""  # what the model is told first

    def messages(self) -> list[Said]:
        """The conversation so far, in which the model is to answer.

        Raises:
            UserError: for an empty prompt, and where the user would speak twice.
        """
        if not self.prompt:
            raise UserError("The prompt is empty: say something to answer to.")
        if len(self.before) % 2:
            raise UserError(
                f"before holds {len(self.before)} messages: give one of the user's and one of the "
                "model's by turns, as many of each."
            )
        roles = ("user", "assistant")
        said = [(roles[place % 2], text) for place, text in enumerate((*self.before, self.prompt))]
        return [("system", self.system), *said] if self.system else said


def chat_sampler(
    decoder: Decoder, tokenizer: Any, asked: Callable[[Sequence[Said]], Any], end: int
) -> Sampler:
    """Answers the last message of a conversation, which goes on from there.

    asked: a conversation's tokens, with an answer begun, (size,).
    end: the token that ends an answer.

    Raises:
        UserError: by `prepare`, as `text_sampler` says, and where `asked` does.
    """
    reading = Reading(
        ChatRequest,
        lambda request: asked(request.messages()),
        lambda request: f"{request.prompt}\n",
    )
    sampler = text_sampler(decoder, tokenizer, ends=[end], reading=reading)
    return dataclasses.replace(sampler, continued=_continued)


def _continued(request: ChatRequest, answer: str, prompt: str) -> ChatRequest:
    before = (*request.before, request.prompt, answer)
    return dataclasses.replace(request, before=before, prompt=prompt)


def replies(
    decoder: Decoder, vocabulary: int, end: int, length: int, rows: int
) -> Callable[[Model, Items], list[list[int]]]:
    """A function that answers prompts greedily: the tokens of each answer, without its end.

    Items have "tokens" (width,), of which "length" are the prompt.

    vocabulary: how many tokens there are.
    length: room for an answer with its end.
    rows: prompts in a batch.
    """
    choice = sampled(
        first_tokens(vocabulary),
        guided(until_token(vocabulary, [end])),
        temperature(jnp.float32(0)),
    )
    draw = jax.jit(
        lambda params, tokens, lengths: generate(
            decoder, params, jax.random.key(0), tokens, lengths, choice, length
        )
    )

    def answered(model: Model, items: Items) -> list[list[int]]:
        answers: list[list[int]] = []
        for batch, _ in whole_batches(items, rows):
            found = fetched(draw(model.params, batch["tokens"], batch["length"]))
            for written, size in zip(*found, strict=True):
                tokens = written[:size].tolist()
                answers.append(tokens[:-1] if tokens and tokens[-1] == end else tokens)
        return answers[: len(items)]

    return answered
