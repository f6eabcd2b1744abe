"""Frames: their likelihood by hand, padding that counts nothing, draws with its frequencies."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformers import parameters

from jaxgen.data.frames import FramePieces, transposed
from jaxgen.errors import UserError
from jaxgen.experiment import Context, Model
from jaxgen.families.autoregressive.frame_sampling import FramesRequest, frame_sampler, played
from jaxgen.families.autoregressive.frames import (
    RecurrentFrames,
    drawn_frames,
    frame_loss,
    frame_pass,
)
from jaxgen.nn.recurrent_cells import LSTM
from jaxgen.nn.recurrent_stack import RecurrentStack

NETWORK = RecurrentFrames(5, partial(RecurrentStack, [partial(LSTM, 6)]))
NOISE = np.random.default_rng(0)
PIECES = [NOISE.random((steps, 5)) < 0.4 for steps in (7, 4, 9)]
ITEMS = FramePieces(PIECES)


def made():
    params = parameters(NETWORK, jnp.zeros((1, 2, 5)))
    return jax.tree.map(lambda leaf: 6 * leaf, params)


def by_hand(params):
    """Every frame but a piece's first: -log p of each key, summed."""
    nats = []
    for piece in PIECES:
        frames = jnp.asarray(piece[None], jnp.float32)
        logits = np.asarray(NETWORK.apply({"params": params}, frames[:, :-1])[0][0], np.float64)
        p = 1 / (1 + np.exp(-logits))
        nats += (-np.log(np.where(piece[1:], p, 1 - p)).sum(1)).tolist()
    return nats


def test_the_likelihood_is_that_of_every_frame_but_the_first():
    params, nats = made(), by_hand(made())
    assert len(nats) == 17
    batch = ITEMS[np.arange(3)]
    out = jax.jit(frame_loss(NETWORK))(params, Context(batch, jax.random.key(0), 0, {}, None))
    assert float(out.weight) == 17 and float(out.value) == pytest.approx(np.mean(nats), abs=1e-5)
    score = frame_pass(NETWORK, "test", rows=2)
    found = score(Model(params, {}), {"test": ITEMS}, jax.random.key(0))
    assert found["nats"] == pytest.approx(np.mean(nats), abs=1e-5)


def test_draws_have_the_frequencies_that_the_network_gives():
    """The first frame over many rows, and the second given each first."""
    params = made()
    begun = jnp.asarray(PIECES[0][None, :3], jnp.float32)
    many = jnp.repeat(begun, 4000, axis=0)
    drawn = jax.jit(drawn_frames, static_argnums=(0, 4))(
        NETWORK, params, jax.random.key(1), many, 2
    )
    logits, _ = NETWORK.apply({"params": params}, begun)
    np.testing.assert_allclose(drawn[:, 0].mean(0), jax.nn.sigmoid(logits[0, -1]), atol=0.03)
    whole = jnp.concatenate([many, drawn[:, :1]], axis=1)
    logits, _ = jax.jit(partial(NETWORK.apply, {"params": params}))(whole)
    expected = jax.nn.sigmoid(logits[:, -1])
    np.testing.assert_allclose(drawn[:, 1].mean(0), expected.mean(0), atol=0.03)


def test_a_sample_begins_with_the_piece_and_a_run_is_one_note():
    sampler = frame_sampler(NETWORK, lambda: PIECES, 21)
    static, arrays = sampler.prepare(FramesRequest(piece=2, given=3, beats=4, count=2))
    drawn = sampler.sample(Model(made(), {}), jax.random.key(0), static, arrays)
    assert drawn["frames"].shape == (2, 7, 5)
    np.testing.assert_array_equal(drawn["frames"][:, :3], np.stack([PIECES[2][:3]] * 2))
    music = sampler.render(drawn)
    assert len(music.pieces) == 2
    roll = np.array([[1, 0], [1, 1], [0, 1], [1, 0]], bool)
    notes = {(note.start, note.length, note.pitch) for note in played(roll, 60).notes}
    assert notes == {(0, 2, 60), (3, 1, 60), (1, 2, 61)}


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (FramesRequest(piece=3), "There is no piece 3: give one of 0 to 2"),
        (FramesRequest(given=0), "given must be at least 1"),
        (FramesRequest(temperature=0), "temperature must be above 0"),
    ],
)
def test_bad_requests(request_, said):
    with pytest.raises(UserError, match=said):
        frame_sampler(NETWORK, lambda: PIECES, 21).prepare(request_)


def test_pieces_are_padded_cut_and_moved():
    items = FramePieces(PIECES, 5)
    batch = items[np.array([1, 2])]
    assert batch["mask"].tolist() == [[True] * 3 + [False], [True] * 4]
    np.testing.assert_array_equal(batch["frames"][0, :4], PIECES[1])
    np.testing.assert_array_equal(batch["frames"][1], PIECES[2][:5])
    frames = np.zeros((2, 12), np.float32)
    frames[:, 3] = frames[1, 5] = 1
    moves = set()
    for seed in range(60):
        moved = transposed({"frames": frames}, np.random.default_rng(seed), 6)["frames"]
        first = int(np.flatnonzero(moved[0])[0])
        np.testing.assert_array_equal(np.flatnonzero(moved[1]), [first, first + 2])
        moves.add(first - 3)
    assert moves == set(range(-3, 7))  # what fits on 12 keys
    with pytest.raises(UserError, match="two frames in each"):
        FramePieces([PIECES[0][:1]])
