"""Music as a picture: time to the right, pitch upwards, a colour for each voice."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from jaxgen.artifacts.pieces import Piece, pitch_name, pitch_range

# Colours that most eyes tell apart (Okabe and Ito 2008).
_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_BAR, _BEAT, _OCTAVE, _BLACK_KEY, _INK = "#9a9a9a", "#ececec", "#c4c4c4", "#f6f6f6", "#333333"
_ROW = 6  # pixels of a semitone
_MARGIN, _GAP, _TITLE = 34, 10, 14
_WIDEST = 1800  # pixels that the longest piece should take


def piano_rolls(pieces: Sequence[Piece]) -> Image.Image:
    """Pieces below each other, one scale for all: bar lines, lines at every C, a title each."""
    longest = max([piece.steps for piece in pieces], default=1)
    column = max(2, min(8, _WIDEST // max(longest, 1)))
    bounds = [_bounds(piece) for piece in pieces]
    heights = [_TITLE + (high - low + 1) * _ROW + _GAP for low, high in bounds]
    size = (_MARGIN + longest * column + _GAP, sum(heights) + _GAP)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    top = _GAP
    for number, piece in enumerate(pieces):
        low, high = bounds[number]
        if len(pieces) > 1:
            pen.text((_MARGIN, top - 2), str(number + 1), fill=_INK)
        _draw(pen, piece, low, high, top + _TITLE, column)
        top += heights[number]
    return sheet


def _bounds(piece: Piece) -> tuple[int, int]:
    low, high = pitch_range(piece.notes) if piece.notes else (60, 71)
    return max(low - 2, 0), min(high + 2, 127)


def _draw(
    pen: ImageDraw.ImageDraw, piece: Piece, low: int, high: int, top: int, column: int
) -> None:
    def left(step: int) -> int:
        return _MARGIN + step * column

    def above(pitch: int) -> int:
        return top + (high - pitch) * _ROW

    end, bottom = left(piece.steps), above(low - 1)
    for pitch in range(low, high + 1):
        if pitch % 12 in (1, 3, 6, 8, 10):
            pen.rectangle((_MARGIN, above(pitch), end, above(pitch - 1) - 1), fill=_BLACK_KEY)
    for beat in range(piece.steps // piece.steps_per_beat + 1):
        x = left(beat * piece.steps_per_beat)
        pen.line((x, top, x, bottom), fill=_BEAT if beat % piece.beats_per_bar else _BAR)
    for pitch in range(low, high + 1):
        if pitch % 12 == 0:
            pen.line((_MARGIN, above(pitch - 1), end, above(pitch - 1)), fill=_OCTAVE)
            pen.text((4, above(pitch) - 4), pitch_name(pitch), fill=_INK)
    # The lowest voice first, so that the melody lies above what crosses it.
    for note in sorted(piece.notes, key=lambda note: (-note.voice, note.start)):
        # A pixel is left between notes, so that repeated ones are seen apart.
        box = (
            left(note.start) + 1, above(note.pitch), left(note.end) - 1, above(note.pitch - 1) - 1
        )  # fmt: skip
        pen.rectangle(box, fill=_COLOURS[note.voice % len(_COLOURS)])
