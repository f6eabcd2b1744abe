"""Music drawn from a model to be judged: pieces from nothing, harmonies below given melodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxgen.artifacts import Piece
from jaxgen.errors import UserError
from jaxgen.experiment import Items, Key, Model, Params
from jaxgen.families.autoregressive.language_model import LanguageModel
from jaxgen.families.autoregressive.likelihood import full_pass
from jaxgen.families.autoregressive.voice_composer import Composer
from jaxgen.parallel.sharding import fetched

# (pieces, what of the data they are to be compared with) -> a named tuple of scores
Judge = Callable[[Sequence[Piece], Sequence[Any]], Any]
Score = Callable[[Model, Mapping[str, Any], Key], Mapping[str, float]]


def likelihood_by_step(model: LanguageModel, data: str, voices: int, end: int) -> Score:
    """Scores every item of `data[data]` once: "nats_per_token", and "nats_per_step".

    Steps are those of the grid: as many as all voices' tokens make. What the pieces' ends cost is
    in both.
    """
    by_token = full_pass(model, data, rows=16)

    def score(trained: Model, datasets: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        items: Items = datasets[data]
        nats = by_token(trained, datasets, key)["nats"]
        every = items[np.arange(len(items))]
        counts, ends = every["mask"], every["tokens"][:, 1:] == end
        steps = (counts & ~ends).sum() / voices
        return {"nats_per_token": nats, "nats_per_step": nats * counts.sum() / steps}

    return score


def composed_scored(
    composer: Composer, data: str, judge: Judge, *, count: int, beats: int
) -> Score:
    """Composes so many pieces of at most so many beats and has them judged beside `data[data]`."""
    length = beats * composer.tokens.steps_per_beat * composer.tokens.voices
    prompts = composer.prompts(count)
    draw = jax.jit(
        lambda params, key: composer.draw(
            params, key, jnp.asarray(prompts), None, length, lambda logits: logits
        )
    )

    def score(model: Model, datasets: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        made = composer.pieces(fetched(draw(model.params, key)))
        return judge(made, datasets[data])._asdict()

    return score


def given_scored(
    composer: Composer, given: str, data: str, judge: Judge, *, count: int, beats: int
) -> Score:
    """Judges the first beats of so many pieces of `data[given]`, what a model's come to at best."""
    per_beat = composer.tokens.steps_per_beat

    def score(model: Model, datasets: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        some = [piece[: beats * per_beat] for piece in datasets[given][:count]]
        pieces = [Piece.of_grid(pitches, steps_per_beat=per_beat) for pitches in some]
        return judge(pieces, datasets[data])._asdict()

    return score


def harmonized_scored(
    composer: Composer, data: str, judge: Judge, *, count: int, beats: int
) -> Score:
    """Harmonizes the first beats of so many pieces of `data[data]`, judged beside those pieces.

    Those are pitches (steps, voices); what is shorter is passed over. Draws from the model as it
    is, with no temperature.
    """
    steps = beats * composer.tokens.steps_per_beat

    def harmonize(params: Params, key: Key, melodies: Int[Array, "rows steps"]) -> Array:
        prompts = jnp.asarray(composer.prompts(melodies.shape[0]))
        length = steps * composer.tokens.voices
        return composer.draw(params, key, prompts, melodies, length, lambda logits: logits)

    draw = jax.jit(harmonize)

    def score(model: Model, datasets: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        asked = [piece[:steps] for piece in datasets[data] if len(piece) >= steps][:count]
        if not asked:
            raise UserError(f"No piece of {data} has {beats} beats: harmonize fewer.")
        melodies = np.stack([composer.melody(piece[:, 0].astype(int)) for piece in asked])
        made = composer.pieces(fetched(draw(model.params, key, melodies)))
        return judge(made, asked)._asdict()

    return score
