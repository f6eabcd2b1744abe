"""Chorales: from the published files, or music21's scores, to pitches on two grids."""

import io
import json
import zipfile

import numpy as np
import pytest
from made_up_data import write_chorales

from jaxgen.data import datasets, store
from jaxgen.data.builders.chorales import Music21Chorales
from jaxgen.data.chorales import chorales_frames, chorales_voices
from jaxgen.data.music_xml import sampled_parts
from jaxgen.errors import UserError

MANUAL = "downloads/manual/chorales"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's own directories, nor a music21 that is installed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Music21Chorales, "corpus", staticmethod(lambda: None))


def write(
    directory, voices, quarters, names=("Jsb16thSeparated.json", "jsb-chorales-quarter.json")
):
    folder = directory / MANUAL
    folder.mkdir(parents=True)
    for name, content in zip(names, (voices, quarters), strict=True):
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def splits(piece):
    return {"train": [piece], "valid": [piece], "test": [piece]}


VOICES = [[72, 67, 64, 48], [72, 67, -1, 48]]
QUARTERS = [[48, 64, 67, 72], [60], []]


@pytest.mark.parametrize("first", ["Jsb16thSeparated.json", "jsb-chorales-16th-separated.json"])
def test_both_grids_are_as_published(tmp_path, first):
    write(tmp_path, splits(VOICES), splits(QUARTERS), (first, "jsb-chorales-quarter.json"))
    for part in chorales_voices(tmp_path):
        np.testing.assert_array_equal(part[0], VOICES)
    for part in chorales_frames(tmp_path):
        (roll,) = part
        assert roll.shape == (3, 88) and roll.dtype == bool
        assert [list(np.flatnonzero(frame) + 21) for frame in roll] == QUARTERS


def test_a_rest_may_be_nan_and_pitches_floats(tmp_path):
    write(tmp_path, splits([[72.0, float("nan"), 64.0, 48.0]]), splits(QUARTERS))
    np.testing.assert_array_equal(chorales_voices(tmp_path)[0][0], [[72, -1, 64, 48]])


def test_the_made_up_ones_have_this_layout_too(tmp_path):
    write_chorales(tmp_path)
    assert [len(part) for part in chorales_voices(tmp_path)] == [12, 3, 3]
    voices, frames = chorales_voices(tmp_path)[0], chorales_frames(tmp_path)[0]
    assert [len(piece) for piece in voices] == [4 * len(piece) for piece in frames]


def test_without_the_files_it_is_said_how_to_get_them(tmp_path):
    with pytest.raises(UserError, match=r"lay Jsb16thSeparated\.json.*manual/chorales of"):
        chorales_voices(tmp_path)
    (tmp_path / MANUAL).mkdir(parents=True)
    with pytest.raises(UserError, match=r"chorales holds no Jsb16thSeparated\.json: lay"):
        chorales_voices(tmp_path)
    told = {entry.name: entry.get for entry in datasets.catalogue(tmp_path)}
    assert "JSB-Chorales-dataset" in told["chorales"]
    assert told["music21_chorales"].startswith("pip install music21: it prepares itself")
    with pytest.raises(UserError, match="`pip install music21`"):
        datasets.load("music21_chorales", "train", tmp_path)


@pytest.mark.parametrize(
    "voices, message",
    [
        ("[1, 2", "has no pieces under train, valid and test"),
        ({"train": []}, "has no pieces under"),
        (splits([[72, 67, 64]]), "piece 0 of .* is not made of steps of four pitches"),
        (splits([[72, 67, 64, 128]]), "piece 0 of .* is not made of"),
        (splits([["c", 67, 64, 48]]), "piece 0 of .* is not made of"),
        (splits([]), "piece 0 of .* is not made of"),
        (splits(7), "piece 0 of .* is not made of"),
    ],
)
def test_other_files_are_named(tmp_path, voices, message):
    write(tmp_path, voices, splits(QUARTERS))
    with pytest.raises(UserError, match=message):
        chorales_voices(tmp_path)
    assert store.find("chorales", tmp_path) is None


def test_the_real_ones(prepared_sets):
    if store.find("chorales", prepared_sets) is None:
        pytest.skip("no prepared chorales: set TFDS_DATA_DIR")
    frames, voices = chorales_frames(prepared_sets), chorales_voices(prepared_sets)
    assert [len(part) for part in frames] == [len(part) for part in voices] == [229, 76, 77]
    assert [sum(map(len, part)) for part in frames] == [13_807, 4_602, 4_725]
    assert [sum(map(len, part)) for part in voices] == [55_228, 18_408, 18_900]
    # The average number of notes that sound at once, of Boulanger-Lewandowski's data 3.9.
    assert np.concatenate(frames[0]).sum(1).mean() == pytest.approx(3.9, abs=0.05)


def score(*parts):
    """A compressed MusicXML of parts, each a text of measures."""
    listed = "".join(f'<part id="P{n}">{part}</part>' for n, part in enumerate(parts))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            "META-INF/container.xml",
            '<container><rootfiles><rootfile full-path="a.xml"/></rootfiles></container>',
        )
        archive.writestr("a.xml", f"<score-partwise>{listed}</score-partwise>")
    return buffer.getvalue()


def note(step, duration, alter="", extra=""):
    altered = f"<alter>{alter}</alter>" if alter else ""
    pitch = f"<pitch><step>{step[0]}</step>{altered}<octave>{step[1]}</octave></pitch>"
    return f"<note>{extra}{pitch}<duration>{duration}</duration></note>"


REST = "<note><rest/><duration>2</duration></note>"


def test_a_score_is_sampled_on_the_grid():
    """Divisions of 2 are eighths; a tie goes on, a grace note and a chord's second don't count."""
    melody = (
        "<measure><attributes><divisions>2</divisions></attributes>"
        + note("C5", 1)
        + "<note><grace/><pitch><step>D</step><octave>5</octave></pitch></note>"
        + note("D5", 1)
        + note("E4", 1, extra="<chord/>")
        + note("B4", 2, alter="-1")
        + "</measure><measure>"
        + note("B4", 2, alter="-1", extra='<tie type="stop"/>')
        + "</measure>"
    )
    bass = (
        "<measure><attributes><divisions>4</divisions></attributes>"
        + note("C3", 1)
        + note("C3", 2, alter="1")
        + note("D3", 1)
        + "<forward><duration>4</duration></forward></measure><measure>"
        + note("G2", 4)
        + "</measure>"
    )
    grid = sampled_parts(score(melody, bass), 4)
    np.testing.assert_array_equal(
        grid.T,
        [
            [72, 72, 74, 74, 70, 70, 70, 70, 70, 70, 70, 70],
            [48, 49, 49, 50, -1, -1, -1, -1, 43, 43, 43, 43],
        ],
    )
    np.testing.assert_array_equal(sampled_parts(score(melody, bass), 1), grid[::4])


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", score("<measure>")[:80]], ids=["empty", "begun", "cut"]
)
def test_what_is_no_score_is_named(content):
    with pytest.raises(UserError, match=r"a\.mxl is no compressed MusicXML"):
        sampled_parts(content, 4, "a.mxl")


def test_music21_stands_in_where_it_is_installed(tmp_path, monkeypatch):
    """The fifth piece is test and the sixth dev; another key or three parts don't count."""
    corpus = tmp_path / "bach"
    corpus.mkdir()
    monkeypatch.setattr(Music21Chorales, "corpus", staticmethod(lambda: corpus))

    def write_score(name, tonic, beats, parts=4):
        start = "<measure><attributes><divisions>2</divisions></attributes>"
        line = [start, *[note(f"{tonic}4", 2)] * beats, REST, "</measure>"]
        upper = [start, *[note(f"{tonic}5", 2)] * beats, "</measure>"]
        content = score("".join(upper), *["".join(line)] * (parts - 1))
        (corpus / name).write_bytes(content)

    for number in range(8):
        write_score(f"bwv{number}.mxl", "C", number + 1)
    write_score("bwv0-again.mxl", "D", 3)  # sorts first, so that number 2 is the repetition
    write_score("bwv1-trio.mxl", "C", 20, parts=3)
    training, dev, test = chorales_voices(tmp_path)
    beats = [[len(piece) // 4 - 1 for piece in part] for part in (training, dev, test)]
    # In order: "again" (3), then 1, 2, 4, 5, 6, 7, 8.
    assert beats == [[3, 1, 2, 4, 7, 8], [6], [5]]
    np.testing.assert_array_equal(test[0][0], [72, 60, 60, 60])
    np.testing.assert_array_equal(test[0][-1], [-1, -1, -1, -1])
    _, _, frames = chorales_frames(tmp_path)
    assert [list(np.flatnonzero(frame) + 21) for frame in frames[0]] == [[60, 72]] * 5 + [[]]
    write_chorales(tmp_path)
    assert len(chorales_voices(tmp_path)[0]) == 12, "files that were fetched come first"
