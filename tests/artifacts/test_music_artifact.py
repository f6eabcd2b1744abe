"""Music: what is written as MIDI, sound and picture is the notes that there are."""

import wave

import mido
import numpy as np
import pytest
from PIL import Image

from jaxgen.artifacts import Artifact, Music, Note, Piece, read_midi
from jaxgen.artifacts.piano_roll import piano_rolls
from jaxgen.artifacts.synthesis import RATE, sound
from jaxgen.errors import UserError

# Two voices: a melody that repeats a note, and a bass that rests for a beat.
NOTES = (
    Note(0, 4, 72, 0),
    Note(0, 4, 48, 1),
    Note(4, 2, 74, 0),
    Note(6, 2, 74, 0),
    Note(8, 8, 76, 0),
    Note(8, 8, 52, 1),
)
PIECE = Piece(NOTES, steps_per_beat=4, tempo=90.0, beats_per_bar=3)


def written(tmp_path, *tracks, kind=1, ticks=480):
    file = mido.MidiFile(type=kind, ticks_per_beat=ticks)
    file.tracks.extend(mido.MidiTrack(track) for track in tracks)
    file.save(tmp_path / "made.mid")
    return tmp_path / "made.mid"


def test_one_piece_is_saved_as_midi_sound_and_picture(tmp_path):
    music = Music((PIECE,))
    assert isinstance(music, Artifact)
    paths = music.save(tmp_path / "new" / "piece")
    assert [path.name for path in paths] == ["piece.mid", "piece.wav", "piece.png"]
    assert read_midi(paths[0]) == PIECE
    with wave.open(str(paths[1])) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22_050)
        # Four beats at 90 a minute, and a second after them.
        assert file.getnframes() == round((4 * 60 / 90 + 1) * 22_050)


def test_several_pieces_are_numbered_and_share_a_picture(tmp_path):
    paths = Music((PIECE, PIECE, Piece(()))).save(tmp_path / "piece")
    names = [path.name for path in paths]
    assert names == [
        "piece-1.mid", "piece-1.wav", "piece-2.mid", "piece-2.wav", "piece-3.mid", "piece-3.wav",
        "piece.png",
    ]  # fmt: skip
    one = piano_rolls([PIECE])
    with Image.open(tmp_path / "piece.png") as two:
        assert two.width == one.width and two.height > 2 * one.height - 20


def test_it_is_shown_in_lines():
    assert Music((PIECE,)).show() == "4 beats (0:03), 6 notes in 2 voices, C3 to E5"
    assert Music((PIECE, Piece(()))).show().splitlines()[1] == "2: silence"
    assert Music((PIECE,) * 20).show().splitlines()[-1] == "and 12 more"


def test_a_grid_becomes_notes_and_back():
    pitches = np.array([[60, 48], [60, -1], [62, 50], [62, 50]])
    piece = Piece.of_grid(pitches)
    assert piece.notes == (
        Note(0, 2, 60, 0),
        Note(0, 1, 48, 1),
        Note(2, 2, 62, 0),
        Note(2, 2, 50, 1),
    )
    np.testing.assert_array_equal(piece.grid(2), pitches)
    struck = np.array([[False, False], [True, False], [False, False], [False, True]])
    again = Piece.of_grid(pitches, struck)
    assert [note for note in again.notes if note.voice == 0][:2] == [Note(0, 1, 60), Note(1, 1, 60)]
    np.testing.assert_array_equal(again.grid(2), pitches)
    np.testing.assert_array_equal(piece.grid(1), pitches[:, :1])


@pytest.mark.parametrize("pitch", [45, 60, 69, 81])
def test_a_tone_has_its_pitch(pitch):
    """The strongest frequency of a long note's sound is the pitch's, and harmonics lie above it."""
    samples = sound(Piece((Note(0, 8, pitch),), tempo=60.0))
    middle = samples[RATE // 4 : RATE // 4 + RATE]
    strength = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    assert abs(np.argmax(strength) - frequency) <= 1
    second = strength[round(2 * frequency) - 2 : round(2 * frequency) + 3].max()
    assert 0.15 < second / strength.max() < 0.35
    assert np.abs(samples).max() == pytest.approx(0.85, abs=1e-3)
    assert np.abs(samples[-RATE // 2 :]).max() == 0


def test_silence_sounds_like_nothing():
    assert not sound(Piece(())).any()


def test_the_picture_shows_each_note_where_it_sounds():
    """Rows are pitches and columns steps: each note's middle has its voice's colour."""
    picture = np.asarray(piano_rolls([PIECE]))
    colours = {}
    for note in PIECE.notes:
        # The margin is 34, a step 8 and a semitone 6 pixels; two semitones lie above the notes.
        x = 34 + 8 * note.start + 4 * note.length
        y = 10 + 14 + 6 * (76 + 2 - note.pitch) + 3
        colours.setdefault(note.voice, set()).add(tuple(picture[y, x]))
    assert all(len(of_voice) == 1 for of_voice in colours.values())
    assert colours[0] != colours[1]
    silence = picture[10 + 14 + 6 * (76 + 2 - 48) + 3, 34 + 8 * 6]
    assert tuple(silence) not in colours[0] | colours[1]


def test_tracks_are_voices_and_other_ticks_are_put_on_the_grid(tmp_path):
    def on(pitch, time):
        return mido.Message("note_on", note=pitch, time=time)

    def off(pitch, time):
        return mido.Message("note_on", note=pitch, velocity=0, time=time)

    path = written(
        tmp_path,
        [mido.MetaMessage("set_tempo", tempo=500_000)],
        [on(72, 0), off(72, 49), on(74, 1), off(74, 40)],
        [on(50, 25), off(50, 75)],
        ticks=100,
    )
    piece = read_midi(path)
    assert piece.notes == (Note(0, 2, 72, 0), Note(1, 3, 50, 1), Note(2, 2, 74, 0))
    assert (piece.tempo, piece.beats_per_bar) == (120.0, 4)


def test_channels_of_a_single_track_are_voices(tmp_path):
    track = [
        mido.Message("note_on", note=72, channel=2, time=0),
        mido.Message("note_on", note=50, channel=5, time=0),
        mido.Message("note_off", note=72, channel=2, time=480),
        mido.MetaMessage("end_of_track", time=480),  # the other note is never let go
    ]
    piece = read_midi(written(tmp_path, track, kind=0))
    assert piece.notes == (Note(0, 4, 72, 0), Note(0, 8, 50, 1))


def test_files_that_are_no_music_are_named(tmp_path):
    with pytest.raises(UserError, match=r"There is no file .*none\.mid"):
        read_midi(tmp_path / "none.mid")
    with pytest.raises(UserError, match="is a directory"):
        read_midi(tmp_path)
    for content in (b"", b"MThd", b"RIFF and so on", b"\x00" * 200):
        (tmp_path / "bad.mid").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.mid is no MIDI file that can be read \(.+\)"):
            read_midi(tmp_path / "bad.mid")
    with pytest.raises(UserError, match=r"made\.mid has no notes"):
        read_midi(written(tmp_path, [mido.MetaMessage("set_tempo", tempo=500_000)]))


def test_a_pitch_beyond_midis_range_is_named(tmp_path):
    path = written(tmp_path, [mido.Message("note_on", note=72), mido.Message("note_off", note=72)])
    content = bytearray(path.read_bytes())
    content[content.index(bytes([0x90, 72])) + 1] = 200
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"made\.mid has a pitch.*outside of 0 \.\. 127"):
        read_midi(path)
    with pytest.raises(UserError, match=r"pitch must be in 0 \.\. 127, not 128"):
        Note(0, 1, 128)


@pytest.mark.parametrize("make", [lambda: Note(-1, 1, 60), lambda: Note(0, 0, 60)])
def test_impossible_notes_are_refused(make):
    with pytest.raises(UserError, match="must start at step 0"):
        make()


@pytest.mark.parametrize("change", [{"tempo": 1.0}, {"steps_per_beat": 0}, {"beats_per_bar": 0}])
def test_impossible_pieces_are_refused(change):
    with pytest.raises(UserError, match="steps a beat"):
        Piece((), **change)


def test_a_file_half_as_long_is_refused(tmp_path):
    Music((PIECE,)).save(tmp_path / "piece")
    content = (tmp_path / "piece.mid").read_bytes()
    (tmp_path / "half.mid").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="can be read"):
        read_midi(tmp_path / "half.mid")
