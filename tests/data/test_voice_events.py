"""Voices as tokens and back, and rows that hold each token once."""

import numpy as np
import pytest

from jaxgen.data.sources import Shuffled
from jaxgen.data.voice_events import (
    BEGIN,
    CONTINUED,
    END,
    HELD,
    REST,
    SPECIAL,
    Moved,
    VoiceEvents,
    scored_rows,
    whole_pieces,
)
from jaxgen.errors import UserError

EVENTS = VoiceEvents(((60, 72), (48, 60)), lowest=47, highest=72)
PIECE = np.array([[60, 48], [60, 50], [-1, 50], [-1, 50], [62, -1]])


def random_piece(steps, seed=0):
    """A melody and a bass that move every other step, with a rest now and then."""
    generator = np.random.default_rng(seed)
    lines = [generator.integers(low + 3, high - 3, steps) for low, high in EVENTS.ranges]
    pitches = np.stack(lines, 1).repeat(2, 0)[:steps]
    pitches[generator.random(steps) < 0.1, 1] = -1
    return pitches


def test_a_token_says_that_a_pitch_begins_or_is_held():
    tokens = EVENTS.encode(PIECE)
    p = SPECIAL - 47
    assert list(tokens) == [p + 60, p + 48, HELD, p + 50, REST, HELD, HELD, HELD, p + 62, REST]
    assert tokens.max() < EVENTS.vocabulary_size


@pytest.mark.parametrize("seed", range(3))
def test_tokens_go_back_to_pitches(seed):
    pitches = random_piece(40, seed)
    back, struck = EVENTS.decode(EVENTS.encode(pitches))
    np.testing.assert_array_equal(back, pitches)
    new = np.concatenate([np.ones((1, 2), bool), pitches[1:] != pitches[:-1]])
    np.testing.assert_array_equal(struck, new & (pitches >= 0))


def test_what_a_model_may_write_otherwise_has_a_meaning_too():
    p = SPECIAL - 47
    tokens = np.array([HELD, p + 48, p + 60, p + 48, p + 60, END, p + 70, p + 50])
    pitches, struck = EVENTS.decode(tokens)
    np.testing.assert_array_equal(pitches, [[-1, 48], [60, 48]])  # half a step is none
    np.testing.assert_array_equal(struck, [[False, True], [True, True]])


def test_a_piece_ends_in_the_highest_voices_place_alone():
    allowed = EVENTS.allowed()
    assert allowed.shape == (2, EVENTS.vocabulary_size)
    assert list(np.flatnonzero(allowed[0])) == [END, *range(REST, EVENTS.vocabulary_size)]
    assert list(np.flatnonzero(allowed[1])) == [*range(REST, EVENTS.vocabulary_size)]


def test_ranges_are_of_training_and_tokens_of_all():
    events = VoiceEvents.of_pieces([PIECE], [np.array([[80, 40]])])
    assert events == VoiceEvents(((60, 62), (48, 50)), 40, 80)
    assert VoiceEvents.from_bytes(events.to_bytes()) == events
    with pytest.raises(UserError, match="A voice rests throughout"):
        VoiceEvents.of_pieces([np.array([[60, -1]])])
    with pytest.raises(UserError, match=r"The pitch 39 is none that the model knows, 40 \.\. 80"):
        events.encode(np.array([[60, 39]]))


def test_shifts_keep_each_voice_in_its_range():
    assert EVENTS.shifts(PIECE) == range(0, 11)  # the bass is at its lowest, and has 10 above it
    for shift in EVENTS.shifts(random_piece(30)):
        moved = random_piece(30) + shift
        moved = moved[(random_piece(30) >= 0).all(1)]
        assert (moved >= [60, 48]).all() and (moved <= [72, 60]).all()
    # One that is out of range already stays where it is.
    assert 0 in EVENTS.shifts(np.array([[80, 50]]))


@pytest.mark.parametrize("steps", [3, 11, 12, 16, 17, 50])
def test_each_token_is_scored_once_with_what_went_before(steps):
    """What the rows predict, in order, is the piece and its end."""
    piece = random_piece(steps)
    rows = scored_rows([piece, PIECE], EVENTS, 24)
    predicted, seen = [], 0
    for tokens, mask in zip(rows.leaves["tokens"], rows.leaves["mask"], strict=True):
        predicted += list(tokens[1:][mask])
        seen += tokens[0] == BEGIN
        assert tokens[0] in (BEGIN, CONTINUED)
        # A row that goes on predicts nothing by less than a beat of context.
        assert tokens[0] == BEGIN or not mask[:8].any()
    assert seen == 2
    assert predicted == [*EVENTS.encode(piece), END, *EVENTS.encode(PIECE), END]


def test_training_rows_are_parts_of_pieces_in_other_keys():
    pieces = [random_piece(steps, steps) for steps in (6, 40)]
    items = whole_pieces(pieces, EVENTS, 32)
    assert len(items) == 1 + 3  # 13 tokens fill a row, 81 three
    source = Shuffled(items, 64, seed=1, augment=Moved(EVENTS, 32))
    batch = source.batch(0, slice(0, 64))
    assert batch["tokens"].shape == (64, 33) and batch["mask"].shape == (64, 32)
    firsts, shifts = set(), set()
    for tokens, mask in zip(batch["tokens"], batch["mask"], strict=True):
        part = tokens[1:][mask]
        whole = 6 if len(part) == 13 else 40
        piece = pieces[0] if whole == 6 else pieces[1]
        found = [
            (shift, start)
            for shift in EVENTS.shifts(piece)
            for start in range(0, 2 * len(piece) + 1, 8)
            if list(
                np.append(EVENTS.encode(np.where(piece < 0, -1, piece + shift)), END)[
                    start : start + 32
                ]
            )
            == list(part)
        ]
        assert found and (tokens[0] == BEGIN) == (found[0][1] == 0)
        firsts.add((whole, found[0][1]))
        shifts.add(found[0][0])
    assert firsts >= {(6, 0), (40, 0), (40, 8), (40, 56)} and max(firsts)[1] == 56
    assert len(shifts) > 3
    again = source.batch(0, slice(10, 20))
    np.testing.assert_array_equal(again["tokens"], batch["tokens"][10:20])


def test_rows_hold_whole_beats():
    for make in (lambda: Moved(EVENTS, 30), lambda: scored_rows([PIECE], EVENTS, 0)):
        with pytest.raises(UserError, match="whole beats, a multiple of 8 tokens"):
            make()
