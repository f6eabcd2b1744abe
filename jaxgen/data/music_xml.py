"""What sounds when in a compressed MusicXML score, read with the standard library alone."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from math import ceil

import numpy as np
from jaxtyping import Int16

from jaxgen.errors import UserError

_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}

# When a note starts and ends, in quarters, and its MIDI pitch; None is a rest.
_Sounding = tuple[Fraction, Fraction, int | None]


def sampled_parts(
    content: bytes, steps_per_quarter: int, name: str = "the score"
) -> Int16[np.ndarray, "steps parts"]:
    """The pitch that sounds in each part at each step, -1 where none does.

    content: of a `.mxl` file, a zip archive with a MusicXML score in parts ("partwise", MusicXML
        4.0). Tied notes go on, repeats are played once, grace notes are left out, and of a chord
        only its first note counts.

    Raises:
        UserError: for what is no such file.
    """
    try:
        score = ElementTree.fromstring(_score(content))
        lines = [list(_notes(part)) for part in score.findall("part")]
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{name} is no compressed MusicXML that can be read: install its package anew"
        ) from error
    end = max((end for line in lines for _, end, _ in line), default=Fraction(0))
    grid = np.full((ceil(end * steps_per_quarter), len(lines)), -1, np.int16)
    for part, line in enumerate(lines):
        # The earliest written stays where several overlap: others are a second voice of the part.
        for start, until, pitch in reversed(line):
            if pitch is not None:
                first, last = (ceil(time * steps_per_quarter) for time in (start, until))
                grid[first:last, part] = pitch
    return grid


def _score(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
        root = container.find(".//{*}rootfile")
        return archive.read("" if root is None else root.get("full-path", ""))


def _notes(part: ElementTree.Element) -> Iterator[_Sounding]:
    now, divisions = Fraction(0), 1  # of a quarter, in which durations are written
    for measure in part.findall("measure"):
        for element in measure:
            if element.tag == "attributes":
                divisions = int(element.findtext("divisions", str(divisions)))
            duration = Fraction(element.findtext("duration", "0")) / divisions
            if element.tag == "backup":
                now -= duration
            elif element.tag == "forward":
                now += duration
            elif element.tag == "note" and element.find("chord") is None and duration > 0:
                yield now, now + duration, _pitch(element.find("pitch"))
                now += duration


def _pitch(pitch: ElementTree.Element | None) -> int | None:
    if pitch is None:
        return None
    altered = round(float(pitch.findtext("alter", "0")))
    octave = int(pitch.findtext("octave", ""))
    return 12 * (octave + 1) + _SEMITONES[pitch.findtext("step", "")] + altered
