"""Music drawn by chance: it keeps to its voices, its beginning, and above all its melody."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.artifacts import Music, Note, Piece, read_midi
from jaxgen.data.sources import Arrays
from jaxgen.data.voice_events import END, VoiceEvents, scored_rows
from jaxgen.errors import UserError
from jaxgen.evaluation.music import harmony_scores, music_scores
from jaxgen.experiment import Model
from jaxgen.families.autoregressive.decoder import Decoder
from jaxgen.families.autoregressive.language_model import LanguageModel
from jaxgen.families.autoregressive.music_sampling import (
    ComposeRequest,
    HarmonizeRequest,
    voice_samplers,
)
from jaxgen.families.autoregressive.music_scoring import (
    composed_scored,
    given_scored,
    harmonized_scored,
    likelihood_by_step,
)
from jaxgen.families.autoregressive.voice_composer import Composer
from jaxgen.training import drawing

EVENTS = VoiceEvents(((60, 72), (55, 67), (43, 55)), lowest=43, highest=76)
ENDLESS = jnp.zeros(EVENTS.vocabulary_size).at[END].set(-jnp.inf)
MODEL = Model(ENDLESS, {})  # everything is alike likely, but for an end

_generator = np.random.default_rng(0)
PIECES = [
    np.stack([_generator.integers(low, high + 1, 24) for low, high in EVENTS.ranges], 1)
    for _ in range(3)
]


def of_chance(context=2000):
    """Parameters are the logits of whatever follows."""

    def prefill(weights, tokens, lengths):
        return jnp.zeros(len(tokens)), jnp.broadcast_to(weights, (len(tokens), len(weights)))

    def extend(weights, carry, tokens):
        return carry, jnp.broadcast_to(weights, (*tokens.shape, len(weights)))

    return Decoder(prefill, extend, jnp.take, lambda carry, held: carry, context)


COMPOSER = Composer(of_chance(), EVENTS)
SAMPLERS = voice_samplers(COMPOSER, lambda: PIECES)


def drawn(request, model=MODEL):
    name = "compose" if isinstance(request, ComposeRequest) else "harmonize"
    music = drawing.draw(SAMPLERS[name], request, model)
    assert isinstance(music, Music)
    return music.pieces


def test_pieces_are_composed_as_the_request_says():
    pieces = drawn(ComposeRequest(beats=16, count=3, tempo=120.0))
    for piece in pieces:
        assert 14 < piece.beats <= 16 and piece.tempo == 120 and piece.voices == 3
        assert all(EVENTS.lowest <= note.pitch <= EVENTS.highest for note in piece.notes)
    assert len({piece.notes for piece in pieces}) == 3
    assert drawn(ComposeRequest(beats=16, count=3, tempo=120.0)) == pieces
    assert drawn(ComposeRequest(beats=16, count=3, tempo=120.0, seed=1)) != pieces


def test_a_piece_ends_where_the_model_ends_it():
    """An end in each third place at the soonest: pieces are of different lengths."""
    soon = Model(ENDLESS.at[END].set(0.0), {})
    pieces = drawn(ComposeRequest(beats=64, count=8, temperature=1.0, top_p=1.0), soon)
    lengths = {piece.beats for piece in pieces}
    assert len(lengths) > 3 and max(lengths) < 64


def test_a_beginning_is_gone_on_from():
    for piece in drawn(ComposeRequest(beats=8, piece=1, given=3, count=2)):
        np.testing.assert_array_equal(piece.grid(3)[:12], PIECES[1][:12])
        assert piece.steps > 12


def test_a_melody_of_the_data_is_kept_exactly():
    for piece in drawn(HarmonizeRequest(piece=2, count=4)):
        np.testing.assert_array_equal(piece.grid(3)[:, 0], PIECES[2][:, 0])
    (short,) = drawn(HarmonizeRequest(piece=2, beats=2))
    np.testing.assert_array_equal(short.grid(1)[:, 0], PIECES[2][:8, 0])


def test_a_melody_from_a_file_is_kept_note_by_note(tmp_path):
    """With a repeated note, a rest, and a pitch above all that the voice sang in training."""
    melody = (Note(0, 4, 60), Note(4, 4, 60), Note(10, 2, 75), Note(12, 6, 67))
    path, *_ = Music((Piece(melody, tempo=100.0),)).save(tmp_path / "melody")
    for piece in drawn(HarmonizeRequest(midi=str(path), count=3)):
        assert tuple(note for note in piece.notes if note.voice == 0) == melody
        assert {note.voice for note in piece.notes} == {0, 1, 2}
    # What was drawn can be given back to be gone on from.
    saved, *_ = Music((piece,)).save(tmp_path / "whole")
    (longer,) = drawn(ComposeRequest(beats=8, midi=str(saved), given=4))
    start = [note for note in longer.notes if note.end <= 12]
    assert start == [note for note in read_midi(saved).notes if note.end <= 12]


@pytest.mark.parametrize(
    "request_, message",
    [
        (ComposeRequest(beats=0), "beats must be at least 1, not 0"),
        (ComposeRequest(temperature=-1), "temperature must be at least 0"),
        (ComposeRequest(top_p=0), "top_p must be above 0"),
        (ComposeRequest(tempo=1), "tempo must be at least 4"),
        (HarmonizeRequest(count=0), "count must be at least 1"),
        (HarmonizeRequest(piece=-1), "piece must be at least 0, not -1"),
        (HarmonizeRequest(piece=3), "There are pieces 0 to 2 to take, not 3"),
        (ComposeRequest(beats=4, piece=0), r"more than the 6 beats that are given, not 4"),
        (ComposeRequest(beats=1000), "at most 166 beats"),
        (HarmonizeRequest(midi="nothing.mid"), r"There is no file nothing\.mid"),
    ],
)
def test_requests_out_of_range_are_named(request_, message):
    with pytest.raises(UserError, match=message):
        drawn(request_)


def test_music_that_the_model_cannot_read_is_named(tmp_path):
    high, *_ = Music((Piece((Note(0, 4, 100),)),)).save(tmp_path / "high")
    with pytest.raises(UserError, match=r"The pitch 100 is none that the model knows.*transpose"):
        drawn(HarmonizeRequest(midi=str(high)))
    with pytest.raises(UserError, match=r"has 1 of the 3 voices that a beginning needs"):
        drawn(ComposeRequest(midi=str(high)))


def test_scores_are_of_what_was_drawn():
    data = {"voices": [*PIECES, PIECES[0][:4]], "music": [Piece.of_grid(piece) for piece in PIECES]}
    score = harmonized_scored(COMPOSER, "voices", harmony_scores, count=8, beats=6)
    found = score(MODEL, data, jax.random.key(0))
    assert found["kept"] == 1 and found["as_given"] < 0.5 and 0 < found["crossing"] < 1
    score = composed_scored(COMPOSER, "music", music_scores, count=8, beats=6)
    found = score(MODEL, data, jax.random.key(0))
    # Of 34 pitches each voice has 13 in its range.
    assert found["out_of_range"] == pytest.approx(21 / 34, abs=0.1)
    assert 0 < found["pitch_classes"] < 0.5
    score = given_scored(COMPOSER, "voices", "music", music_scores, count=3, beats=6)
    found = score(MODEL, data, jax.random.key(0))
    assert (found["pitch_classes"], found["intervals"], found["out_of_range"]) == (0, 0, 0)
    with pytest.raises(UserError, match="No piece of voices has 7 beats"):
        harmonized_scored(COMPOSER, "voices", harmony_scores, count=1, beats=7)(
            MODEL, data, jax.random.key(0)
        )


def test_likelihood_is_per_token_and_per_step():
    """Of a model for which all tokens are alike: log V a token, and of a step three and some."""
    size = EVENTS.vocabulary_size
    alike = LanguageModel(
        lambda params, seen, key: (jnp.zeros((*seen.tokens.shape, 1)), {}),
        lambda params, hidden: jnp.zeros((*hidden.shape[:-1], size)),
    )
    data = {"test": scored_rows(PIECES, EVENTS, 24)}
    assert isinstance(data["test"], Arrays)
    score = likelihood_by_step(alike, "test", voices=3, end=END)
    found = score(Model({}, {}), data, jax.random.key(0))
    assert found["nats_per_token"] == pytest.approx(np.log(size), rel=1e-5)
    # Three pieces of 24 steps, each with 72 tokens and an end.
    assert found["nats_per_step"] == pytest.approx(np.log(size) * 73 / 24, rel=1e-5)
