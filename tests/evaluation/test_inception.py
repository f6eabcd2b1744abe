import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxgen.artifacts import Images
from jaxgen.data.images import pixels, to_signed, to_unit
from jaxgen.errors import UserError
from jaxgen.evaluation import inception_blocks as blocks
from jaxgen.evaluation.features import read
from jaxgen.evaluation.inception import FrechetFeatures, InceptionV3, levels, resized
from jaxgen.evaluation.inception_weights import parameter_shapes
from jaxgen.parallel.mesh import MeshShape, make_mesh

GENERATOR = np.random.default_rng(0)


def resized_by_hand(picture, side):
    """Each pixel of (height, width) by itself, from its four neighbours."""
    height, width = picture.shape
    answer = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            down, across = row * height / side, column * width / side
            top, left = int(down), int(across)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            share_down, share_across = down - top, across - left
            above = picture[top, left] * (1 - share_across) + picture[top, right] * share_across
            below = (
                picture[bottom, left] * (1 - share_across) + picture[bottom, right] * share_across
            )
            answer[row, column] = above * (1 - share_down) + below * share_down
    return answer


@pytest.mark.parametrize("height, width, side", [(5, 7, 13), (16, 11, 6), (9, 9, 9)])
def test_resizing_weighs_four_neighbours(height, width, side):
    pictures = GENERATOR.uniform(0, 255, (2, height, width, 3)).astype(np.float32)
    found = resized(jnp.asarray(pictures), side)
    expected = [
        np.stack([resized_by_hand(picture[..., channel], side) for channel in range(3)], -1)
        for picture in pictures
    ]
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_resizing_begins_at_the_corner_and_ends_in_the_last_pixel():
    """Where half-pixel centres would give 0.25 steps, and both ends alike."""
    ramp = jnp.array([0.0, 1.0])[None, None, :, None]
    np.testing.assert_array_equal(resized(ramp, 4)[0, 0, :, 0], [0, 0.5, 1, 1])


def test_levels_are_those_of_a_saved_picture(tmp_path):
    signed = np.linspace(-1.1, 1.1, 4096, dtype=np.float32).reshape(1, 64, 64, 1)
    [path] = Images(to_unit(signed)).save(tmp_path / "picture")
    saved = pixels(path.read_bytes())[1:-1, 1:-1]  # without the grid's frame
    np.testing.assert_array_equal(levels(jnp.asarray(signed))[0], saved)


def test_levels_give_back_what_was_read_from_eight_bits():
    eight_bits = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(levels(jnp.asarray(to_signed(eight_bits))), eight_bits)


def test_average_pool_leaves_the_padding_out():
    picture = GENERATOR.normal(size=(1, 3, 4, 2)).astype(np.float32)
    found = blocks.average_pool(jnp.asarray(picture))
    np.testing.assert_allclose(found[0, 0, 0], picture[0, :2, :2].mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(found[0, 1, 3], picture[0, :, 2:].mean((0, 1)), atol=1e-6)


def test_maximum_pool_takes_negative_neighbours_as_they_are():
    picture = -1 - GENERATOR.random(size=(1, 4, 5, 2)).astype(np.float32)
    kept, half = (pool(jnp.asarray(picture)) for pool in (blocks.maximum_pool, blocks.halved))
    np.testing.assert_array_equal(kept[0, 0, 0], picture[0, :2, :2].max((0, 1)))
    np.testing.assert_array_equal(half[0, 0, 1], picture[0, :3, 2:5].max((0, 1)))
    assert half.shape == (1, 1, 2, 2)


def test_normalization_is_by_the_statistics_that_it_is_given():
    picture = GENERATOR.normal(size=(2, 3, 3, 4)).astype(np.float32)
    given = {
        name: GENERATOR.uniform(0.5, 2, 4).astype(np.float32)
        for name in ("scale", "bias", "mean", "variance")
    }
    found = blocks.InferenceNorm().apply({"params": given}, jnp.asarray(picture))
    normal = (picture - given["mean"]) / np.sqrt(given["variance"] + 1e-3)
    np.testing.assert_allclose(found, normal * given["scale"] + given["bias"], atol=1e-5)


@pytest.mark.parametrize(
    "block, before, after",
    [
        (blocks.InceptionA(32), (35, 192), (35, 256)),
        (blocks.InceptionB(), (35, 288), (17, 768)),
        (blocks.InceptionC(128), (17, 768), (17, 768)),
        (blocks.InceptionD(), (17, 768), (8, 1280)),
        (blocks.InceptionE(blocks.average_pool), (8, 1280), (8, 2048)),
    ],
)
def test_blocks_make_the_papers_shapes(block, before, after):
    picture = jnp.zeros((2, before[0], before[0], before[1]))
    made, _ = jax.eval_shape(block.init_with_output, jax.random.key(0), picture)
    assert made.shape == (2, after[0], after[0], after[1])


def test_other_channels_are_refused():
    with pytest.raises(UserError, match="1 or 3 channels, and these have 4"):
        jax.eval_shape(InceptionV3().init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)))


def test_reading_is_the_networks_answer_row_by_row():
    """Without kernels the answer is known: the rectified biases of the last block, in order.

    All but the last block's pooled branch, which sees the picture through a path of its own.
    """
    params = {
        path: np.zeros(shape, np.float32)
        if "kernel" in path
        else GENERATOR.uniform(-1, 1, shape).astype(np.float32) ** 2 + 0.1
        for path, shape in parameter_shapes().items()
    }
    # One path is let through, from the picture's red to the first of the pooled features.
    passing = {"Conv2d_1a_3x3": (1, 1, 0, 0), "Conv2d_2a_3x3": (1, 1, 0, 0)}
    passing |= {"Conv2d_2b_3x3": (1, 1, 0, 0), "Conv2d_3b_1x1": (0, 0, 0, 0)}
    passing |= {"Conv2d_4a_3x3": (1, 1, 0, 0)}
    passing |= {f"Mixed_5{letter}/branch1x1": (0, 0, 0, 0) for letter in "bcd"}
    passing |= {"Mixed_6a/branch3x3": (1, 1, 0, 0)}
    passing |= {f"Mixed_6{letter}/branch1x1": (0, 0, 0, 0) for letter in "bcde"}
    passing |= {"Mixed_7a/branch3x3_1": (0, 0, 0, 0), "Mixed_7a/branch3x3_2": (1, 1, 0, 0)}
    passing |= {"Mixed_7b/branch1x1": (0, 0, 0, 0), "Mixed_7c/branch_pool": (0, 0, 0, 0)}
    for block, place in passing.items():
        params[f"{block}/convolution/kernel"][place] = 1
        # About as bright after as before, so that the rectifiers let everything through.
        spread = np.sqrt(params[f"{block}/norm/variance"][0] + 1e-3)
        params[f"{block}/norm/scale"][0] = spread * GENERATOR.uniform(0.8, 1.2)
        params[f"{block}/norm/mean"][0] = -1.1
    params["logits/kernel"][2048 - 192, 7] = 100  # the label tells bright from dark
    params["logits/bias"][:] = 0
    params["logits/bias"][3] = 100 * passed(params, passing, 0.0)
    tree = traverse_util.unflatten_dict(params, sep="/")

    brightness = np.array([0.5, -0.5, 1, -1, 0.25, -0.25, 0.75, -0.75, 0.5], np.float32)
    pictures = np.ones((9, 4, 4, 1), np.float32) * brightness[:, None, None, None]
    with jax.set_mesh(make_mesh(MeshShape())):
        labels, features = read(FrechetFeatures(), tree, pictures, batch_size=3)

    seen = np.floor(brightness * 127.5 + 128).clip(0, 255) / 128 - 1
    assert features.shape == (9, 2048)
    np.testing.assert_allclose(
        features[:, 2048 - 192], [passed(params, passing, value) for value in seen], rtol=1e-5
    )
    np.testing.assert_array_equal(labels, np.where(brightness > 0, 7, 3))
    order = ["branch1x1", "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_3a", "branch3x3dbl_3b"]
    known = np.concatenate([offset(params, f"Mixed_7c/{branch}") for branch in order])
    np.testing.assert_allclose(
        features[:, : 2048 - 192], np.maximum(known, 0)[None].repeat(9, 0), rtol=1e-4, atol=1e-6
    )


def offset(params, block):
    norm = {name: params[f"{block}/norm/{name}"] for name in ("scale", "bias", "mean", "variance")}
    return norm["bias"] - norm["mean"] * norm["scale"] / np.sqrt(norm["variance"] + 1e-3)


def passed(params, blocks_on_the_way, value):
    """A constant picture's value after the first channel of each block's normalization."""
    for block in blocks_on_the_way:
        scale, variance = (params[f"{block}/norm/{name}"][0] for name in ("scale", "variance"))
        value = max(value * scale / np.sqrt(variance + 1e-3) + offset(params, block)[0], 0)
    return value
