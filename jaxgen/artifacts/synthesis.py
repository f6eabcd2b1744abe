"""A plain sound for notes: a few harmonics under an envelope, added up."""

from __future__ import annotations

import io
import wave

import numpy as np
from jaxtyping import Float

from jaxgen.artifacts.pieces import Piece

RATE = 22_050  # samples a second

_HARMONICS = 6  # of a tone, as far as they lie below half the rate
_ATTACK, _RELEASE = 0.015, 0.12  # seconds
_DECAY = 1.2  # seconds; a held tone falls to three tenths of its strength
_PEAK = 0.85  # of what 16 bits hold


def sound(piece: Piece) -> Float[np.ndarray, "samples"]:
    """The piece as played, in [-1, 1], `RATE` samples a second, with a second of silence after it.

    Additive synthesis: a tone of frequency f has harmonics k·f with amplitudes 1/k², an attack, a
    decay and a release. Equal temperament, A4 = 440 Hz.
    """
    second = 60 / piece.tempo / piece.steps_per_beat
    mixed = np.zeros(round((piece.steps * second + 1) * RATE), np.float32)
    tones: dict[tuple[int, int], np.ndarray] = {}  # most tones come again
    for note in piece.notes:
        first, last = (round(step * second * RATE) for step in (note.start, note.end))
        which = note.pitch, last - first
        if which not in tones:
            tones[which] = _tone(note.pitch, last - first)
        part = mixed[first : first + len(tones[which])]
        part += tones[which][: len(part)]
    loudest = float(np.abs(mixed).max(initial=0))
    return mixed * (_PEAK / loudest) if loudest > 0 else mixed


def wav(samples: Float[np.ndarray, "samples"]) -> bytes:
    """Samples in [-1, 1] as a WAV file of one channel and 16 bits."""
    levels = np.round(np.clip(samples, -1, 1) * 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(levels.tobytes())
    return buffer.getvalue()


def _tone(pitch: int, held: int) -> Float[np.ndarray, "samples"]:
    """One tone, held for so many samples, and its release."""
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    time = np.arange(held + round(_RELEASE * RATE)) / RATE
    tone = np.zeros(len(time))
    for harmonic in range(1, _HARMONICS + 1):
        if harmonic * frequency < RATE / 2:
            tone += np.sin(2 * np.pi * harmonic * frequency * time) / harmonic**2
    rising = np.minimum(time / _ATTACK, 1)
    falling = 0.3 + 0.7 * np.exp(-time / _DECAY)
    leaving = np.clip(1 - (time - held / RATE) / _RELEASE, 0, 1)
    return (tone * rising * falling * leaving).astype(np.float32)
