"""Bach's chorales as arrays: piano rolls by the quarter, four voices by the sixteenth."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int16

from jaxgen.data import store
from jaxgen.data.builders.chorales import Chorales, Music21Chorales
from jaxgen.data.datasets import Directory, load

LOWEST, HIGHEST = 21, 108  # the piano's keys, the pitches of a frame

Frames = list[Bool[np.ndarray, "_ 88"]]
Voices = list[Int16[np.ndarray, "_ 4"]]


def chorales_frames(data_dir: Directory = None) -> tuple[Frames, Frames, Frames]:
    """What sounds at each quarter, as (training, dev, test): a piece is (steps, 88), from MIDI 21.

    JSB Chorales of Boulanger-Lewandowski et al. 2012 ("Modeling Temporal Dependencies in
    High-Dimensional Sequences", ICML): 229, 76 and 77 pieces moved to C, 13,807, 4,602 and 4,725
    steps. Where those aren't at hand but the package music21 is installed, its chorales (see
    `Music21Chorales`), whose scores compare with none published.
    """
    training, dev, test = (
        [_roll(piece) for piece in part] for part in _pieces("_quarter", data_dir)
    )
    return training, dev, test


def chorales_voices(data_dir: Directory = None) -> tuple[Voices, Voices, Voices]:
    """The pitches of soprano, alto, tenor and bass at each sixteenth, as (training, dev, test).

    A piece is (steps, 4); -1 is a rest. The same pieces in the same parts as `chorales_frames`, in
    another order and in their own keys: 55,228, 18,408 and 18,900 steps. The data don't tell a note
    that is held from one that is struck again.
    """
    training, dev, test = _pieces("", data_dir)
    return training, dev, test


def chorales_text(data_dir: Directory = None) -> tuple[str, ...]:
    """All of `chorales_voices` in digits, for a run to know them again."""
    return tuple(str(piece.tolist()) for part in chorales_voices(data_dir) for piece in part)


def _pieces(grid: str, data_dir: Directory) -> list[Voices]:
    name = Chorales.name
    here = store.find(name, data_dir) or store.fetched_by_hand(Chorales, data_dir)
    other = store.find(Music21Chorales.name, data_dir) or Music21Chorales.corpus()
    if not here and other:
        name = Music21Chorales.name
    parts = [load(name, f"{split}{grid}", data_dir) for split in ("train", "validation", "test")]
    return [[record["pitches"] for record in part.__getitems__(range(len(part)))] for part in parts]


def _roll(pitches: Int16[np.ndarray, "steps voices"]) -> Bool[np.ndarray, "steps 88"]:
    roll = np.zeros((len(pitches), HIGHEST - LOWEST + 1), bool)
    steps, _ = sounding = np.nonzero(pitches >= 0)
    roll[steps, pitches[sounding] - LOWEST] = True
    return roll
