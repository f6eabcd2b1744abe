"""Music frame by frame: the sampler of `RecurrentFrames`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jaxgen.artifacts import Music, Note, Piece
from jaxgen.errors import UserError
from jaxgen.experiment import Key, Model, Sampler
from jaxgen.families.autoregressive.frames import RecurrentFrames, drawn_frames

Roll = Bool[np.ndarray, "steps keys"]


@dataclass(frozen=True)
class FramesRequest:
    """What to go on from, and how."""

    piece: int = 0  # a piece of the test split, which gives the beginning
    given: int = 4  # so many of its beats
    beats: int = 32  # so many more
    temperature: float = 0.8  # below 1 is safer, above 1 bolder
    count: int = 1  # how many pieces
    tempo: float = 80.0  # beats a minute, of what is played
    seed: int = 0  # another seed draws other pieces


def frame_sampler(
    network: RecurrentFrames, examples: Callable[[], Sequence[Roll]], lowest: int
) -> Sampler:
    """Goes on from the beginning of a piece, on a grid of beats.

    examples: pieces that a request may name, (steps, keys); asked for only then.
    lowest: the MIDI pitch of the first key.

    Raises:
        UserError: by `prepare`, for a request out of range.
    """

    def prepare(request: FramesRequest) -> tuple[tuple[int, int], Any]:
        for name, good, cure in (
            ("given", request.given >= 1, "at least 1"),
            ("beats", request.beats >= 1, "at least 1"),
            ("count", request.count >= 1, "at least 1"),
            ("temperature", request.temperature > 0, "above 0"),
            ("tempo", request.tempo >= 4, "at least 4"),
        ):
            if not good:
                raise UserError(f"{name} must be {cure}, not {getattr(request, name)}.")
        pieces = examples()
        if not 0 <= request.piece < len(pieces):
            raise UserError(
                f"There is no piece {request.piece}: give one of 0 to {len(pieces) - 1}."
            )
        arrays = {
            "beginning": pieces[request.piece][: request.given].astype(np.float32),
            "temperature": np.float32(request.temperature),
            "tempo": np.float32(request.tempo),
        }
        return (request.beats, request.count), arrays

    def sample(model: Model, key: Key, static: tuple[int, int], arrays: Any) -> Any:
        beats, count = static
        begun = jnp.repeat(jnp.asarray(arrays["beginning"])[None], count, axis=0)
        temperature = jnp.asarray(arrays["temperature"])
        drawn = drawn_frames(network, model.params, key, begun, beats, temperature)
        return {"frames": jnp.concatenate([begun, drawn], axis=1), "tempo": arrays["tempo"]}

    def render(drawn: Any) -> Music:
        rolls = np.asarray(drawn["frames"]) > 0
        return Music(tuple(played(roll, lowest, float(drawn["tempo"])) for roll in rolls))

    return Sampler(FramesRequest, prepare, sample, render)


def played(roll: Roll, lowest: int, tempo: float = 80.0) -> Piece:
    """A piano roll by the beat as a piece: a key that sounds in frames on end is one note."""
    notes = []
    edges = np.diff(np.pad(roll.astype(np.int8), ((1, 1), (0, 0))), axis=0)
    for key in np.flatnonzero(roll.any(0)):
        starts, ends = np.flatnonzero(edges[:, key] > 0), np.flatnonzero(edges[:, key] < 0)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            notes.append(Note(start, end - start, lowest + int(key)))
    return Piece(tuple(notes), steps_per_beat=1, tempo=tempo)
