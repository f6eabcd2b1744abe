"""Whether music in voices sounds like other music: what it is made of, and what can go wrong.

Pieces are on a grid of steps, their voices numbered from the highest, 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from jaxgen.artifacts import REST, Piece
from jaxgen.errors import UserError

Histogram = Float[np.ndarray, "_"]

_WIDEST = 12  # semitones; wider leaps count as one more


class MusicScores(NamedTuple):
    """What `music_scores` finds; all but the last are shares in 0 .. 1.

    pitch_classes, intervals: total variation distances of the histograms, 0 being alike; overlaps
        are 1 less that.
    out_of_range, crossing, longest_note: as the functions of these names have them.
    """

    pitch_classes: float
    intervals: float
    out_of_range: float
    crossing: float
    longest_note: float


class HarmonyScores(NamedTuple):
    """What `harmony_scores` finds, shares in 0 .. 1.

    kept: steps at which the highest voice is what was given.
    as_given: the same of the other voices, which weren't: of the composer's own taste.
    crossing: as `crossing` has it.
    """

    kept: float
    as_given: float
    crossing: float


def harmony_scores(
    made: Sequence[Piece], references: Sequence[Integer[np.ndarray, "_ voices"]]
) -> HarmonyScores:
    """What was written below the highest voices of references, beside those.

    Raises:
        UserError: as `same_pitches`.
    """
    voices = max((reference.shape[1] for reference in references), default=1)
    kept, *others = (same_pitches(made, references, voice) for voice in range(voices))
    return HarmonyScores(kept, float(np.mean(others)), crossing(made))


def music_scores(made: Sequence[Piece], data: Sequence[Piece]) -> MusicScores:
    """Generated pieces beside those of the data.

    Intervals are compared voice by voice, and the distance is the mean over the data's voices.

    Raises:
        UserError: where the data have no notes.
    """
    if not any(piece.notes for piece in data):
        raise UserError("Music is compared with pieces that have notes: give some.")
    voices = max(piece.voices for piece in data)
    intervals = [
        total_variation(melodic_intervals(made, voice), melodic_intervals(data, voice))
        for voice in range(voices)
    ]
    return MusicScores(
        pitch_classes=total_variation(pitch_classes(made), pitch_classes(data)),
        intervals=float(np.mean(intervals)),
        out_of_range=out_of_range(made, data),
        crossing=crossing(made),
        longest_note=longest_note(made),
    )


def pitch_classes(pieces: Sequence[Piece]) -> Float[np.ndarray, "12"]:
    """The share of each of the twelve, C first, of all time that notes sound; zeros without notes.

    By time and not by onset, since not all data tell a held note from a repeated one.
    """
    counts = np.zeros(12)
    for piece in pieces:
        for note in piece.notes:
            counts[note.pitch % 12] += note.length / piece.steps_per_beat
    return _shares(counts)


def melodic_intervals(pieces: Sequence[Piece], voice: int) -> Float[np.ndarray, "27"]:
    """The share of each step from a note of a voice to its next, in semitones, down to up.

    From -12 to 12; entry 0 is all that falls further, and the last all that rises further. Rests
    between two notes don't matter, and a note that is struck again is a step of 0. Zeros where
    there is none.
    """
    counts = np.zeros(2 * _WIDEST + 3)
    for piece in pieces:
        line = sorted((note.start, note.pitch) for note in piece.notes if note.voice == voice)
        steps = np.diff([pitch for _, pitch in line])
        for step in np.clip(steps, -_WIDEST - 1, _WIDEST + 1):
            counts[int(step) + _WIDEST + 1] += 1
    return _shares(counts)


def total_variation(one: Histogram, other: Histogram) -> float:
    """Half the sum of the differences' sizes: 0 for equal shares, 1 for none in common."""
    return float(np.abs(one - other).sum() / 2)


def overlap(one: Histogram, other: Histogram) -> float:
    """What two histograms have in common, the sum of the smaller shares."""
    return float(np.minimum(one, other).sum())


def out_of_range(made: Sequence[Piece], data: Sequence[Piece]) -> float:
    """The share of notes that lie above or below all of their voice's in the data.

    A voice that the data don't have is out of range as a whole; without notes it is 0.
    """
    ranges: dict[int, tuple[int, int]] = {}
    for note in (note for piece in data for note in piece.notes):
        low, high = ranges.get(note.voice, (note.pitch, note.pitch))
        ranges[note.voice] = min(low, note.pitch), max(high, note.pitch)
    notes = [note for piece in made for note in piece.notes]
    outside = 0
    for note in notes:
        low, high = ranges.get(note.voice, (1, 0))
        outside += not low <= note.pitch <= high
    return outside / max(len(notes), 1)


def crossing(pieces: Sequence[Piece]) -> float:
    """The share of steps at which a voice sounds above one that should lie above it.

    Of the steps at which at least two voices sound; 0 where there is none.
    """
    crossed, together = 0, 0
    for piece in pieces:
        grid = piece.grid(piece.voices).astype(float)
        sounding = grid >= 0
        # What lies lowest of the voices before; silence is above all.
        lowest = np.minimum.accumulate(np.where(sounding, grid, np.inf), axis=1)
        over = (grid[:, 1:] > lowest[:, :-1]) & sounding[:, 1:]
        crossed += int(over.any(1).sum())
        together += int((sounding.sum(1) >= 2).sum())
    return crossed / max(together, 1)


def longest_note(pieces: Sequence[Piece]) -> float:
    """The length of the longest note, in beats: where it is long, the model was stuck."""
    return max(
        (note.length / piece.steps_per_beat for piece in pieces for note in piece.notes),
        default=0.0,
    )


def same_pitches(
    made: Sequence[Piece], references: Sequence[Integer[np.ndarray, "_ voices"]], voice: int
) -> float:
    """The share of the references' steps at which a voice sounds what it does there, rests too.

    references: pitches at each step, any negative being a rest; as many as pieces.

    Raises:
        UserError: where the counts differ, or there is no step.
    """
    same, steps = 0, sum(map(len, references))
    if len(references) != len(made) or not steps:
        raise UserError(
            f"{len(made)} pieces are compared with {len(references)} references of {steps} steps: "
            "give as many of each, and some steps."
        )
    for piece, reference in zip(made, references, strict=True):
        line = np.full(len(reference), REST)
        sung = piece.grid(voice + 1)[: len(reference), voice]
        line[: len(sung)] = sung
        same += int((line == np.maximum(reference[:, voice], REST)).sum())
    return same / steps


def _shares(counts: Histogram) -> Histogram:
    return counts / max(counts.sum(), 1e-12)
