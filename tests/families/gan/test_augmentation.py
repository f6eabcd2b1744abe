"""Augmentations: exact changes against numpy, what probability 0 leaves, and what moves it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.families.gan import augmentation_pipeline as pipeline
from jaxgen.families.gan.augmentation import (
    AdaptiveAugmentation,
    DiffAugment,
    ScheduledAugmentation,
)
from jaxgen.families.gan.augmentation_pipeline import Pipeline
from jaxgen.families.gan.parts import Augmentation

KEY = jax.random.key(0)
PICTURES = jax.random.uniform(jax.random.key(1), (6, 8, 8, 3), minval=-1.0)
ALL = Pipeline(noise=0.1, cutout=0.5)
ROW = jnp.zeros((6, 1, 1, 1)).at[3].set(1.0)


def followed(change):
    """Changed pictures, and the slope of the sum of squares of row 3: compiled once."""

    def run(pictures, *more):
        changed, back = jax.vjp(lambda x: change(KEY, x, *more), pictures)
        return changed, back(2 * ROW * changed)[0]

    return jax.jit(run)


RUN = followed(ALL)  # (pictures, probability)
PICTURE = np.asarray(PICTURES[0])


def test_probability_0_changes_nothing():
    np.testing.assert_array_equal(RUN(PICTURES, jnp.float32(0))[0], PICTURES)


def test_probability_1_changes_every_picture_and_each_by_itself():
    changed, slope = RUN(PICTURES, jnp.float32(1))
    assert changed.shape == PICTURES.shape and bool(jnp.isfinite(changed).all())
    assert np.all(np.abs(changed - PICTURES).max((1, 2, 3)) > 0.1)
    slopes_stay_in_row_3(slope)
    # Another picture in row 2 changes row 2 alone.
    other, _ = RUN(PICTURES.at[2].set(0.5), jnp.float32(1))
    same = np.arange(6) != 2
    np.testing.assert_array_equal(other[same], changed[same])
    assert np.any(other[2] != changed[2])
    # One picture six times becomes six different ones.
    alike, _ = RUN(jnp.repeat(PICTURES[:1], 6, 0), jnp.float32(1))
    assert len(np.unique(np.asarray(alike).reshape(6, -1), axis=0)) == 6


def slopes_stay_in_row_3(slope):
    slope = np.asarray(slope)
    assert np.isfinite(slope).all() and np.abs(slope[3]).max() > 1e-3
    assert not np.any(slope[np.arange(6) != 3])


def test_diffaugment_changes_every_picture_and_lets_slopes_through():
    changed, slope = followed(DiffAugment())(PICTURES, {})
    assert changed.shape == PICTURES.shape
    assert np.all(np.abs(changed - PICTURES).max((1, 2, 3)) > 0.1)
    slopes_stay_in_row_3(slope)


def test_they_are_what_a_game_takes():
    for each in (DiffAugment(), AdaptiveAugmentation(), ScheduledAugmentation(lambda seen: 0.0)):
        assert isinstance(each, Augmentation)


def test_in_between_some_are_left_alone():
    many = jnp.repeat(PICTURES[:1], 200, 0)
    flips = Pipeline(geometry=False, colour=False)
    changed = jax.jit(flips)(KEY, many, jnp.float32(0.5))
    left = np.mean(np.all(changed == many, axis=(1, 2, 3)))
    # Neither flipped (3/4), nor turned (5/8), nor shifted: half a pixel both ways is none.
    assert left == pytest.approx(0.75 * 0.625 * (0.5 + 0.5 / 4), abs=0.1)


def test_grey_pictures_stay_grey():
    grey = PICTURES[..., :1]
    colours = AdaptiveAugmentation(Pipeline(blits=False, geometry=False), beginning=1.0)
    for augmentation in (DiffAugment(translation=0, cutout=0), colours):
        changed = jax.jit(augmentation)(KEY, grey, augmentation.init())
        assert changed.shape == grey.shape
        assert np.all(np.abs(changed - grey).max((1, 2, 3)) > 0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_flips_and_turns_are_numpys(flip, turns):
    answer = pipeline.flipped_and_turned(PICTURES[0], jnp.array(flip), jnp.int32(turns))
    np.testing.assert_array_equal(answer, np.rot90(PICTURE[:, ::-1] if flip else PICTURE, turns))


def test_whole_shifts_are_numpys():
    padded = np.pad(PICTURE, ((2, 2), (3, 3), (0, 0)), mode="reflect")
    answer = pipeline.reflected_shift(PICTURES[0], jnp.int32(2), jnp.int32(-3))
    np.testing.assert_array_equal(answer, padded[:8, 6:])
    answer = pipeline.shifted(PICTURES[0], jnp.int32(-2), jnp.int32(3))
    expected = np.zeros_like(PICTURE)
    expected[:-2, 3:] = PICTURE[2:, :-3]
    np.testing.assert_array_equal(answer, expected)


def test_a_hole_is_a_square_of_its_side():
    picture = jnp.ones((9, 9, 1))
    masked = jax.jit(jax.vmap(lambda key: pipeline.masked(key, picture, 0.5)))
    cut = masked(jax.random.split(KEY, 50))
    holes = np.asarray(cut == 0)[..., 0].sum((1, 2))
    assert holes.max() == 25 and holes.min() >= 9  # int(4.5 + 0.5) = 5; in a corner, 3 × 3


def test_a_transform_finds_what_a_smooth_picture_is_elsewhere():
    transformed = jax.jit(pipeline.transformed)
    still = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    within = slice(3, -3)  # the filter looks so far
    np.testing.assert_allclose(
        transformed(PICTURES[0], still)[within, within], PICTURE[within, within], atol=1e-5
    )
    side = np.arange(32) - 15.5
    x, y = np.meshgrid(side, side)

    def smooth(x, y):
        return np.stack([np.cos(x / 4 + y / 9), np.sin(y / 5), x / 16], -1).astype(np.float32)

    cosine, sine = np.cos(0.7), np.sin(0.7)
    inverse = np.array([[cosine, -0.5 * sine, 1.3], [sine, cosine, -0.4]], np.float32)
    answer = transformed(jnp.asarray(smooth(x, y)), jnp.asarray(inverse))
    place = inverse @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    place = place.reshape(2, 32, 32)
    inside = (np.abs(place) < 11).all(0) & (np.abs(np.stack([x, y])) < 12).all(0)
    np.testing.assert_allclose(answer[inside], smooth(*place)[inside], atol=0.03)


def test_colours_move_as_the_papers_matrices():
    axis = np.ones((3, 1)) / np.sqrt(3)
    onto = axis @ axis.T
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    hue = np.cos(0.8) * np.eye(3) + np.sin(0.8) * cross + (1 - np.cos(0.8)) * onto
    matrix = (onto + 1.7 * (np.eye(3) - onto)) @ hue @ (np.eye(3) - 2 * onto) * 0.6
    answer = pipeline.recoloured(PICTURES[0], 0.2, 0.6, jnp.array(True), 0.8, 1.7)
    np.testing.assert_allclose(answer, (PICTURE + 0.2) @ matrix.T, atol=1e-5)


def test_the_probability_follows_the_signs_of_real_logits_by_the_stated_speed():
    augmentation = AdaptiveAugmentation(images=800, beginning=0.5)
    following = jax.jit(augmentation.following)

    def after(logits, updates):
        state = augmentation.init()
        for _ in range(updates):
            state = following(state, logits)
        return float(state["probability"])

    sure, unsure = jnp.full(8, 0.1), jnp.array([1.0] * 6 + [-1.0] * 2)  # r = 1 and 0.5
    assert after(sure, 3) == 0.5  # not yet
    assert after(sure, 4) == pytest.approx(0.5 + 4 * 8 / 800)
    assert after(unsure, 8) == pytest.approx(0.5 - 8 * 8 / 800)
    assert after(sure, 60) == 1.0 and after(-sure, 60) == 0.0
    assert after(jnp.full((8, 2, 2), 0.1), 4) == pytest.approx(0.54)  # patches; rows count


def test_a_schedule_is_asked_for_the_pictures_seen():
    augmentation = ScheduledAugmentation(lambda images: jnp.minimum(images / 100, 0.3))
    state = augmentation.init()
    assert float(state["probability"]) == 0
    state = augmentation.following(augmentation.following(state, jnp.zeros(8)), jnp.zeros(8))
    assert float(state["probability"]) == pytest.approx(0.16)


@pytest.mark.parametrize("shape, said", [
    ((2, 8, 6, 3), "8×6 can't be turned"), ((2, 8, 8, 2), "colours of 2 channels"),
])  # fmt: skip
def test_pictures_that_cannot_be_changed_are_refused(shape, said):
    with pytest.raises(UserError, match=said):
        Pipeline()(KEY, jnp.zeros(shape), jnp.float32(0.5))
