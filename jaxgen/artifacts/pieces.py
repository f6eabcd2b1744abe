"""Music as notes on a grid of steps, in voices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Integer

from jaxgen.errors import UserError

REST = -1  # stands for silence in a grid of pitches

_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


@dataclass(frozen=True)
class Note:
    """One note.

    start, length: in steps; it sounds in start .. start + length - 1.
    pitch: of MIDI, 0 .. 127; 60 is the middle C, and 69 the A of 440 Hz.
    voice: 0 is the highest.

    Raises:
        UserError: for a pitch out of MIDI's range, a start or a voice below 0, no length.
    """

    start: int
    length: int
    pitch: int
    voice: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.pitch <= 127:
            raise UserError(f"A note's pitch must be in 0 .. 127, not {self.pitch}: transpose it.")
        if self.start < 0 or self.length < 1 or self.voice < 0:
            raise UserError(
                f"A note must start at step 0 or later, be at least 1 step long and belong to "
                f"voice 0 or another, not start {self.start}, length {self.length}, voice "
                f"{self.voice}."
            )

    @property
    def end(self) -> int:
        """The step after its last one."""
        return self.start + self.length


@dataclass(frozen=True)
class Piece:
    """One piece of music.

    notes: in any order.
    steps_per_beat: how fine the grid is; 4 is one of sixteenths where a beat is a quarter.
    tempo: beats a minute, at least 4, since MIDI writes none that is slower.
    beats_per_bar: where pictures draw bar lines.

    Raises:
        UserError: for a grid or bars that are not above 0, and a tempo that is too slow.
    """

    notes: tuple[Note, ...]
    steps_per_beat: int = 4
    tempo: float = 90.0
    beats_per_bar: int = 4

    def __post_init__(self) -> None:
        if self.steps_per_beat < 1 or not self.tempo >= 4 or self.beats_per_bar < 1:
            raise UserError(
                f"A piece needs steps a beat and beats a bar above 0, and a tempo of 4 at least, "
                f"not {self.steps_per_beat}, {self.beats_per_bar} and {self.tempo}."
            )

    @staticmethod
    def of_grid(
        pitches: Integer[np.ndarray, "steps voices"],
        onsets: Bool[np.ndarray, "steps voices"] | None = None,
        steps_per_beat: int = 4,
        tempo: float = 90.0,
    ) -> Piece:
        """The piece that sounds so, a column a voice, `REST` or any other negative being silence.

        A pitch that goes on is one note, but where `onsets` says that it is struck again.
        """
        notes = []
        for voice, line in enumerate(pitches.T):
            new = np.concatenate([[True], line[1:] != line[:-1]])[: len(line)]
            if onsets is not None:
                new = new | onsets[:, voice]
            starts = np.flatnonzero(new)
            for start, end in zip(starts, np.append(starts[1:], len(line)), strict=True):
                if line[start] >= 0:
                    notes.append(Note(int(start), int(end - start), int(line[start]), voice))
        ordered = sorted(notes, key=lambda note: (note.start, note.voice))
        return Piece(tuple(ordered), steps_per_beat, tempo)

    def grid(self, voices: int) -> Int[np.ndarray, "steps {voices}"]:
        """What sounds in each voice at each step, `REST` where nothing does.

        Of several notes at once in one voice the highest counts; notes of other voices are left
        out.
        """
        pitches = np.full((self.steps, voices), REST, np.int64)
        for note in self.notes:
            if note.voice < voices:
                place = pitches[note.start : note.end, note.voice]
                np.maximum(place, note.pitch, out=place)
        return pitches

    @property
    def steps(self) -> int:
        """Where its last note ends."""
        return max((note.end for note in self.notes), default=0)

    @property
    def voices(self) -> int:
        """One more than the highest voice's number."""
        return max((note.voice for note in self.notes), default=-1) + 1

    @property
    def beats(self) -> float:
        """Its length in beats."""
        return self.steps / self.steps_per_beat

    @property
    def seconds(self) -> float:
        """Its length in seconds."""
        return self.beats * 60 / self.tempo


def pitch_name(pitch: int) -> str:
    """A pitch in letters, by MIDI's custom: 60 is C4."""
    return f"{_NAMES[pitch % 12]}{pitch // 12 - 1}"


def pitch_range(notes: Iterable[Note]) -> tuple[int, int]:
    """The lowest and the highest pitch of some notes, at least one."""
    pitches = [note.pitch for note in notes]
    return min(pitches), max(pitches)
