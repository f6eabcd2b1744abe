"""What may stand at a text's masked places: the sampler of encoders trained on hidden tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.artifacts import Text
from jaxgen.errors import UserError
from jaxgen.experiment import Key, Model, Sampler
from jaxgen.families.autoregressive.masked_language import MaskedLanguageModel


@dataclass(frozen=True)
class FillRequest:
    """What to fill in."""

    text: str = "The people of the United [MASK] ."  # with [MASK] wherever something is missing
    candidates: int = 5  # how many words to name for each place, the likeliest first
    seed: int = 0  # changes nothing: nothing is drawn


def mask_filling_sampler(
    model: MaskedLanguageModel,
    encode: Callable[[str], Any],
    decode: Callable[[Any], str],
    *,
    mask: int,
    padding: int,
    vocabulary_size: int,
    context: int,
) -> Sampler:
    """Names the likeliest tokens at each masked place of a text, each place by itself.

    `sample` gives {"tokens", "probabilities": (context, candidates), "masked": (context,)}.

    encode: a text to tokens (size,), framed as the model expects, [MASK] read as `mask`.
    decode: tokens to text.
    vocabulary_size: of the model.
    context: rows are filled up to so many tokens, with `padding`.

    Raises:
        UserError: by `prepare`, for a text without a masked place or longer than the context, and
            for a number of candidates that the vocabulary doesn't have.
    """

    def prepare(request: FillRequest) -> tuple[int, Any]:
        if not 1 <= request.candidates <= vocabulary_size:
            raise UserError(
                f"candidates must lie in 1 .. {vocabulary_size}, not be {request.candidates}."
            )
        tokens = np.asarray(encode(request.text), np.int32)
        if len(tokens) > context:
            raise UserError(f"The text has {len(tokens)} tokens, and the model reads {context}.")
        if mask not in tokens:
            raise UserError("The text has no [MASK]: put one where something is to be filled in.")
        room = (0, context - len(tokens))
        segments = np.pad(np.ones(len(tokens), np.int32), room)
        return request.candidates, {
            "tokens": np.pad(tokens, room, constant_values=padding),
            "segments": segments,
        }

    def sample(model_: Model, key: Key, candidates: int, arrays: Any) -> dict[str, Any]:
        batch = {name: jnp.asarray(leaf)[None, :] for name, leaf in arrays.items()}
        logits = model.scores(model_.params, model.hidden(model_.params, batch, None))[0]
        likely, tokens = jax.lax.top_k(jax.nn.softmax(logits), candidates)
        return {
            "tokens": tokens,
            "probabilities": likely,
            "masked": (batch["tokens"][0] == mask) & (batch["segments"][0] != 0),
        }

    def render(arrays: Any) -> Text:
        lines = []
        for place in np.flatnonzero(np.asarray(arrays["masked"])):
            named = zip(arrays["tokens"][place], arrays["probabilities"][place], strict=True)
            words = (
                f"{decode(np.asarray([token])).strip()} {100 * float(p):.1f} %"
                for token, p in named
            )
            lines.append("   ".join(words))
        return Text(("\n".join(lines),))

    return Sampler(FillRequest, prepare, sample, render)
