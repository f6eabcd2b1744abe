"""The samplers of music in voices: from nothing, from a beginning, or below a melody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jaxgen.artifacts import Music, read_midi
from jaxgen.errors import UserError
from jaxgen.experiment import Key, Model, Sampler
from jaxgen.families.autoregressive.logits import composed, temperature, top_p
from jaxgen.families.autoregressive.voice_composer import Composer, Pitches

Examples = Callable[[], Sequence[Any]]  # the pitches (steps, voices) of the data's pieces


@dataclass(frozen=True, kw_only=True)
class Playing:
    """How to draw, whatever it is."""

    temperature: float = 1.0  # below 1 is safer, above 1 bolder; 0 takes the likeliest token
    top_p: float = 0.98  # draw from the fewest tokens with this probability together; 1 is all
    count: int = 1  # how many pieces
    tempo: float = 90.0  # beats a minute, of what is played
    seed: int = 0  # another seed draws other pieces


@dataclass(frozen=True)
class ComposeRequest(Playing):
    """What to compose."""

    beats: int = 32  # at most so many, a given beginning included
    midi: str = ""  # a MIDI file with a track for each voice, the highest first, to go on from
    piece: int = -1  # or the number of a piece of the test split; -1 begins from nothing
    given: int = 8  # so many of its beats


@dataclass(frozen=True)
class HarmonizeRequest(Playing):
    """What to harmonize."""

    midi: str = ""  # a MIDI file whose first voice is the melody
    piece: int = 0  # without one, the number of a piece of the test split
    beats: int = 0  # so many of its first beats; 0 is all


def voice_samplers(composer: Composer, examples: Examples) -> dict[str, Sampler]:
    """ "compose" and "harmonize", as the functions below make them."""
    return {
        "compose": compose_sampler(composer, examples),
        "harmonize": harmonize_sampler(composer, examples),
    }


def compose_sampler(composer: Composer, examples: Examples) -> Sampler:
    """Composes pieces, from nothing or from a beginning, which end where the model ends them.

    examples: pieces that a request may name; asked for only then.

    Raises:
        UserError: by `prepare`, for a request out of range or music that the model can't read.
    """
    tokens = composer.tokens

    def prepare(request: ComposeRequest) -> tuple[tuple[int, int], Any]:
        _check(request)
        _at_least("beats", request.beats, 1)
        _at_least("given", request.given, 1)
        given, struck = None, np.zeros((0, tokens.voices), bool)
        if request.midi or request.piece >= 0:
            given, struck = _music(composer, examples, request.midi, request.piece, tokens.voices)
            steps = min(request.given * tokens.steps_per_beat, len(given))
            given, struck = given[:steps], struck[:steps]
        more = request.beats * tokens.steps_per_beat - len(struck)
        if more < 1:
            raise UserError(
                f"beats must be more than the {len(struck) / tokens.steps_per_beat:g} beats that "
                f"are given, not {request.beats}."
            )
        composer.check_room(request.beats * tokens.steps_per_beat)
        prompts = composer.prompts(request.count, given)
        return (more * tokens.voices, 0), _arrays(request, prompts, struck)

    return Sampler(ComposeRequest, prepare, partial(_drawn, composer), partial(_played, composer))


def harmonize_sampler(composer: Composer, examples: Examples) -> Sampler:
    """Writes the lower voices below a melody, which stays as it is.

    examples: as `compose_sampler` has it; the melody is the highest voice.

    Raises:
        UserError: by `prepare`, for a request out of range or a melody that the model can't read.
    """
    tokens = composer.tokens

    def prepare(request: HarmonizeRequest) -> tuple[tuple[int, int], Any]:
        _check(request)
        _at_least("beats", request.beats, 0)
        _at_least("piece", request.piece, 0)
        given, struck = _music(composer, examples, request.midi, request.piece, 1)
        steps = min(request.beats * tokens.steps_per_beat or len(given), len(given))
        composer.check_room(steps)
        melody = composer.melody(given[:steps, 0])
        # Only the melody's own onsets are given.
        struck = struck[:steps] & (np.arange(tokens.voices) == 0)[None, :]
        arrays = _arrays(request, composer.prompts(request.count), struck)
        return (steps * tokens.voices, steps), arrays | {"melody": melody}

    return Sampler(HarmonizeRequest, prepare, partial(_drawn, composer), partial(_played, composer))


def _music(
    composer: Composer, examples: Examples, midi: str, number: int, voices: int
) -> tuple[Pitches, Bool[np.ndarray, "steps voices"]]:
    """Pitches of all voices, and where they are struck; at least `voices` must be there."""
    wanted = composer.tokens.voices
    if not midi:
        pieces = examples()
        if number >= len(pieces):
            raise UserError(f"There are pieces 0 to {len(pieces) - 1} to take, not {number}.")
        pitches = np.asarray(pieces[number])
        return pitches, np.zeros(pitches.shape, bool)
    piece = read_midi(midi, composer.tokens.steps_per_beat)
    if piece.voices < voices:
        raise UserError(
            f"{midi} has {piece.voices} of the {voices} voices that a beginning needs: give a MIDI "
            "file with a track for each, the highest first."
        )
    struck = np.zeros((piece.steps, wanted), bool)
    for note in piece.notes:
        if note.voice < wanted:
            struck[note.start, note.voice] = True
    return piece.grid(wanted), struck


def _check(request: Playing) -> None:
    for name, good, cure in (
        ("temperature", request.temperature >= 0, "at least 0"),
        ("top_p", 0 < request.top_p <= 1, "above 0 and at most 1"),
        ("count", request.count >= 1, "at least 1"),
        ("tempo", request.tempo >= 4, "at least 4"),
    ):
        if not good:
            raise UserError(f"{name} must be {cure}, not {getattr(request, name)}.")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name} must be at least {least}, not {value}.")


def _arrays(request: Playing, prompts: Any, struck: Any) -> dict[str, Any]:
    return {
        "prompts": prompts,
        "struck": struck,
        "temperature": np.float32(request.temperature),
        "top_p": np.float32(request.top_p),
        "tempo": np.float32(request.tempo),
    }


def _drawn(
    composer: Composer, model: Model, key: Key, static: tuple[int, int], arrays: dict[str, Any]
) -> dict[str, Any]:
    length, sung = static
    prompts = jnp.asarray(arrays["prompts"])
    melody = jnp.broadcast_to(arrays["melody"], (len(prompts), sung)) if sung else None
    process = composed(temperature(arrays["temperature"]), top_p(arrays["top_p"]))
    rows = composer.draw(model.params, key, prompts, melody, length, process)
    return {"rows": rows, "struck": arrays["struck"], "tempo": arrays["tempo"]}


def _played(composer: Composer, drawn: dict[str, Any]) -> Music:
    rows, struck = np.asarray(drawn["rows"]), np.asarray(drawn["struck"])
    return Music(composer.pieces(rows, struck, float(drawn["tempo"])))
