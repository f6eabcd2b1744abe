"""MIDI files, written and read with mido."""

from __future__ import annotations

import os

import mido
from etils import epath

from jaxgen.artifacts.pieces import Note, Piece
from jaxgen.errors import UserError

_TICKS = 480  # a beat


def midi_file(piece: Piece) -> mido.MidiFile:
    """A file of type 1: a track with the tempo and the bars, then one for each voice."""
    conductor = mido.MidiTrack(
        [
            mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(piece.tempo)),
            mido.MetaMessage(
                "time_signature", numerator=min(piece.beats_per_bar, 255), denominator=4
            ),
        ]
    )
    file = mido.MidiFile(type=1, ticks_per_beat=_TICKS)
    file.tracks.append(conductor)
    for voice in range(piece.voices):
        # Channel 9 is MIDI's for drums; beyond the sixteenth voices share.
        channel = [*range(9), *range(10, 16)][voice % 15]
        events = []
        for note in piece.notes:
            if note.voice == voice:
                events += [(note.start, True, note.pitch), (note.end, False, note.pitch)]
        track, now = mido.MidiTrack(), 0
        for step, on, pitch in sorted(events):  # ends come before what starts then
            tick = round(step * _TICKS / piece.steps_per_beat)
            message = mido.Message(
                "note_on" if on else "note_off",
                note=pitch, velocity=80 if on else 0, channel=channel, time=tick - now,
            )  # fmt: skip
            track.append(message)
            now = tick
        file.tracks.append(track)
    return file


def read_midi(path: epath.PathLike, steps_per_beat: int = 4) -> Piece:
    """The notes of a MIDI file, put on the nearest step; a voice for each track that has any.

    A file with one such track has a voice for each channel. Tempo and bars are the first that it
    names.

    Raises:
        UserError: where there is no such file, it isn't one of MIDI, times are not in beats, or it
            has no notes.
    """
    try:
        with epath.Path(path).open("rb") as stream:
            file = mido.MidiFile(file=stream)
    except FileNotFoundError:
        raise UserError(f"There is no file {os.fspath(path)}: give the path of one.") from None
    except IsADirectoryError:
        raise UserError(f"{os.fspath(path)} is a directory: give a MIDI file in it.") from None
    except Exception as error:  # whatever mido comes upon in bytes that mean something else
        if "data byte must be in range" in str(error):
            raise UserError(
                f"{os.fspath(path)} has a pitch, or another number, outside of 0 .. 127: write the "
                "MIDI file anew."
            ) from error
        why = str(error) or "it ends too early"
        raise UserError(
            f"{os.fspath(path)} is no MIDI file that can be read ({why}): "
            "give one that ends in .mid."
        ) from error
    if file.type == 2 or file.ticks_per_beat < 1:
        raise UserError(
            f"{os.fspath(path)} is a MIDI file of several songs, or one that counts in seconds: "
            "save it as type 0 or 1, with ticks a beat."
        )
    return _piece(file, steps_per_beat, os.fspath(path))


def _piece(file: mido.MidiFile, steps_per_beat: int, path: str) -> Piece:
    tempo, beats_per_bar = None, None
    lines: dict[tuple[int, int], list[tuple[int, int, int]]] = {}  # start, end, pitch in ticks
    for number, track in enumerate(file.tracks):
        now, sounding = 0, dict[tuple[int, int], int]()
        for message in track:
            now += message.time
            if message.type == "set_tempo":
                # MIDI keeps microseconds a beat: what was written as 90 is read as 89.99996.
                tempo = tempo or round(mido.tempo2bpm(max(message.tempo, 1)), 3)
            elif message.type == "time_signature":
                beats_per_bar = beats_per_bar or message.numerator
            elif message.type in ("note_on", "note_off"):
                which = message.channel, message.note
                if which in sounding:
                    line = lines.setdefault((number, message.channel), [])
                    line.append((sounding.pop(which), now, message.note))
                if message.type == "note_on" and message.velocity > 0:
                    sounding[which] = now
        for (channel, pitch), start in sounding.items():
            lines.setdefault((number, channel), []).append((start, now, pitch))
    if not lines:
        raise UserError(f"{path} has no notes: give a MIDI file with some.")
    tracks = sorted({track for track, _ in lines})
    alone = sorted({channel for _, channel in lines}) if len(tracks) == 1 else []
    notes = []
    for (track, channel), line in lines.items():
        voice = alone.index(channel) if alone else tracks.index(track)
        for ticks, until, pitch in line:
            start, end = (round(t * steps_per_beat / file.ticks_per_beat) for t in (ticks, until))
            notes.append(Note(start, max(end - start, 1), pitch, voice))
    notes.sort(key=lambda note: (note.start, note.voice, note.pitch))
    return Piece(tuple(notes), steps_per_beat, tempo or 120.0, beats_per_bar or 4)
