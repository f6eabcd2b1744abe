"""Pieces of music as an artifact: to play, to hear and to see."""

from __future__ import annotations

import io
from dataclasses import dataclass

from etils import epath

from jaxgen.artifacts.midi import midi_file
from jaxgen.artifacts.piano_roll import piano_rolls
from jaxgen.artifacts.pieces import Piece, pitch_name, pitch_range
from jaxgen.artifacts.synthesis import sound, wav

_TOLD = 8  # pieces that `show` describes


@dataclass(frozen=True)
class Music:
    """One piece or several."""

    pieces: tuple[Piece, ...]

    def save(self, stem: epath.PathLike) -> list[epath.Path]:
        """A `.mid` and a `.wav` each, numbered where there are several; one `.png` of all."""
        epath.Path(f"{stem}.png").parent.mkdir(parents=True, exist_ok=True)
        paths = []
        for number, piece in enumerate(self.pieces):
            name = str(stem) if len(self.pieces) == 1 else f"{stem}-{number + 1}"
            buffer = io.BytesIO()
            midi_file(piece).save(file=buffer)
            for ending, content in ((".mid", buffer.getvalue()), (".wav", wav(sound(piece)))):
                paths.append(epath.Path(f"{name}{ending}"))
                paths[-1].write_bytes(content)
        picture = io.BytesIO()
        piano_rolls(self.pieces).save(picture, "PNG")
        paths.append(epath.Path(f"{stem}.png"))
        paths[-1].write_bytes(picture.getvalue())
        return paths

    def show(self) -> str:
        """A line for each piece: its length, its notes and their range."""
        lines = [
            (f"{number + 1}: " if len(self.pieces) > 1 else "") + _told(piece)
            for number, piece in enumerate(self.pieces[:_TOLD])
        ]
        if len(self.pieces) > _TOLD:
            lines.append(f"and {len(self.pieces) - _TOLD} more")
        return "\n".join(lines) or "no music"


def _told(piece: Piece) -> str:
    if not piece.notes:
        return "silence"
    low, high = (pitch_name(pitch) for pitch in pitch_range(piece.notes))
    minutes, seconds = divmod(round(piece.seconds), 60)
    voices = f"{piece.voices} voice{'s' if piece.voices > 1 else ''}"
    notes = f"{len(piece.notes)} note{'s' if len(piece.notes) > 1 else ''}"
    return f"{piece.beats:g} beats ({minutes}:{seconds:02d}), {notes} in {voices}, {low} to {high}"
