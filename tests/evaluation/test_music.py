"""Scores of music on pieces that are counted by hand."""

import dataclasses

import numpy as np
import pytest

from jaxgen.artifacts import Note, Piece
from jaxgen.errors import UserError
from jaxgen.evaluation.music import (
    crossing,
    harmony_scores,
    longest_note,
    melodic_intervals,
    music_scores,
    out_of_range,
    overlap,
    pitch_classes,
    same_pitches,
    total_variation,
)

# C D (D again) C' over a held C, which pauses for a step and goes on above the melody.
PIECE = Piece(
    (
        Note(0, 2, 60, 0),
        Note(2, 1, 62, 0),
        Note(3, 1, 62, 0),
        Note(4, 4, 74, 0),
        Note(0, 4, 48, 1),
        Note(5, 1, 76, 1),
        Note(6, 2, 50, 1),
    )
)


def test_pitch_classes_count_time():
    """C sounds for 2 + 4 steps, D for 2 + 4 + 2, E for 1: 15 in all."""
    shares = np.zeros(12)
    shares[[0, 2, 4]] = 6 / 15, 8 / 15, 1 / 15
    np.testing.assert_allclose(pitch_classes([PIECE]), shares)
    # On a finer grid the same steps are half as long: a piece counts by its beats.
    finer = dataclasses.replace(PIECE, steps_per_beat=8)
    whole = Piece((Note(0, 15, 60),), steps_per_beat=8)
    np.testing.assert_allclose(pitch_classes([PIECE, finer]), shares)
    np.testing.assert_allclose(pitch_classes([finer, whole])[0], (6 + 15) / 30)
    assert not pitch_classes([Piece(())]).any()


def test_intervals_go_from_note_to_note_of_one_voice():
    """The melody: +2, 0, +12. The bass, over its rest: +28 and -26, beyond an octave."""
    melody, bass = melodic_intervals([PIECE], 0), melodic_intervals([PIECE], 1)
    assert {place - 13: share for place, share in enumerate(melody) if share} == pytest.approx(
        {0: 1 / 3, 2: 1 / 3, 12: 1 / 3}
    )
    assert {place - 13: share for place, share in enumerate(bass) if share} == {-13: 0.5, 13: 0.5}
    two = melodic_intervals([PIECE, PIECE], 0)  # none from one piece to the next
    np.testing.assert_allclose(two, melody)
    assert not melodic_intervals([PIECE], 2).any()


def test_distance_and_overlap_share_one():
    one, other = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
    assert total_variation(one, other) == 0.5 and overlap(one, other) == 0.5
    assert total_variation(one, one) == 0 and overlap(one, one) == 1
    assert total_variation(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1


def test_notes_out_of_their_voices_range_are_counted():
    data = [Piece((Note(0, 1, 60, 0), Note(1, 1, 74, 0), Note(0, 1, 48, 1), Note(1, 1, 50, 1)))]
    assert out_of_range([PIECE], data) == 1 / 7  # the bass's 76
    assert out_of_range(data, [PIECE]) == 0
    assert out_of_range([Piece((Note(0, 1, 60, 2),))], data) == 1
    assert out_of_range([Piece(())], data) == 0


def test_crossing_is_counted_by_steps_at_which_voices_sound_together():
    """Together in steps 0 to 3 and 5 to 7; the bass is above in step 5 alone."""
    assert crossing([PIECE]) == 1 / 7
    # A voice that isn't next to the other one crosses it too; unisons don't cross.
    pitches = np.array([[60, -1, 62], [60, 60, 48], [-1, 50, 50], [60, -1, -1]])
    assert crossing([Piece.of_grid(pitches)]) == 1 / 3
    assert crossing([Piece(())]) == 0


def test_the_longest_note_is_in_beats():
    assert longest_note([PIECE]) == 1
    assert longest_note([PIECE, dataclasses.replace(PIECE, steps_per_beat=1)]) == 4
    assert longest_note([]) == 0


def test_a_voice_is_compared_step_by_step():
    given = np.array(
        [[60, 48], [60, 48], [62, 48], [62, 48], [74, -2], [74, 76], [72, 50], [74, 50]]
    )
    assert same_pitches([PIECE], [given], 0) == 7 / 8
    assert same_pitches([PIECE], [given], 1) == 1
    scores = harmony_scores([PIECE], [given])
    assert (scores.kept, scores.as_given, scores.crossing) == (7 / 8, 1, 1 / 7)
    longer = np.concatenate([given, np.full((2, 2), 60)])
    assert same_pitches([PIECE, PIECE], [given, longer], 0) == 14 / 18
    with pytest.raises(UserError, match="1 pieces are compared with 0 references"):
        same_pitches([PIECE], [], 0)


def test_all_scores_at_once():
    same = music_scores([PIECE], [PIECE])
    assert (same.pitch_classes, same.intervals, same.out_of_range) == (0, 0, 0)
    assert (same.crossing, same.longest_note) == (1 / 7, 1)
    # Only a melody of C: its pitch classes share 6/15, no interval is there at all.
    alone = music_scores([Piece((Note(0, 8, 60, 0),))], [PIECE])
    assert alone.pitch_classes == pytest.approx(9 / 15)
    assert alone.intervals == pytest.approx(0.5)
    with pytest.raises(UserError, match="pieces that have notes"):
        music_scores([PIECE], [Piece(())])
