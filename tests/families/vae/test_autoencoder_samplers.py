"""What one asks of an autoencoder, on one whose latents are the pictures themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data.sources import Arrays
from jaxgen.errors import UserError
from jaxgen.experiment import Model
from jaxgen.families.vae import samplers
from jaxgen.training import drawing

LABELS = np.arange(40, dtype=np.int32) % 2
PICTURES = Arrays(
    {
        "image": np.random.default_rng(0).uniform(-1, 1, (40, 2, 2, 1)).astype(np.float32),
        "label": LABELS,
    }
)
MODEL = Model(params={"scale": jnp.float32(1)}, variables={})


def encode(model, pictures):
    return pictures.reshape(len(pictures), 4) * model.params["scale"]


def decode(model, latents):
    return latents.reshape(-1, 2, 2, 1) / model.params["scale"]


def drawn(sampler, request):
    static, arrays = sampler.prepare(request)
    return sampler.sample(MODEL, jax.random.key(request.seed), static, arrays)


def test_walk_meets_both_ends():
    made = drawn(samplers.walk_sampler(encode, decode, PICTURES), samplers.WalkRequest(3, 5))
    rows = np.asarray(made["image"]).reshape(3, 5, 2, 2, 1)
    np.testing.assert_allclose(rows[:, 0], PICTURES.leaves["image"][:3], atol=1e-5)
    np.testing.assert_allclose(rows[:, -1], PICTURES.leaves["image"][1:4], atol=1e-5)


def test_traversal_moves_one_axis_a_row():
    sampler = samplers.traversal_sampler(encode, decode, PICTURES)
    made = drawn(sampler, samplers.TraversalRequest(picture=2, axes=3, steps=5, reach=2.0))
    rows = np.asarray(made["image"]).reshape(3, 5, 4)
    base = PICTURES.leaves["image"][2].reshape(4)
    moved = (np.abs(rows - base).max(1) > 1e-6).sum(1)
    np.testing.assert_array_equal(moved, [1, 1, 1])
    np.testing.assert_allclose(rows[:, 2], np.tile(base, (3, 1)), atol=1e-6)
    deviation = PICTURES.leaves["image"].reshape(40, 4).std(0)
    widest = np.argmax(deviation)
    assert rows[0, 4, widest] - base[widest] == pytest.approx(2 * deviation[widest], rel=1e-4)


def test_attribute_is_the_difference_of_the_means():
    sampler = samplers.attribute_sampler(encode, decode, PICTURES, classes=2)
    made = drawn(sampler, samplers.AttributeRequest(0, 1, count=2, steps=3, reach=1.0))
    rows = np.asarray(made["image"]).reshape(2, 3, 4)
    flat = PICTURES.leaves["image"].reshape(40, 4)
    expected = flat[LABELS == 1].mean(0) - flat[LABELS == 0].mean(0)
    np.testing.assert_allclose(rows[:, 2] - rows[:, 0], np.tile(expected, (2, 1)), atol=1e-5)


def test_reconstructions_follow_their_originals():
    def reconstruct(model, key, pictures):
        return -pictures

    sampler = samplers.reconstruction_sampler(reconstruct, PICTURES)
    made = np.asarray(drawn(sampler, samplers.ReconstructRequest(count=3, first=4))["image"])
    np.testing.assert_array_equal(made[::2], PICTURES.leaves["image"][4:7])
    np.testing.assert_array_equal(made[1::2], -PICTURES.leaves["image"][4:7])


def test_all_of_them_render():
    made = samplers.autoencoder_samplers(
        lambda model, key, count, temperature: (
            temperature * jax.random.normal(key, (count, 2, 2, 1))
        ),
        lambda model, key, pictures: pictures,
        encode,
        decode,
        PICTURES,
        classes=2,
    )
    for sampler in made.values():
        request = sampler.request(**{"count": 4} if hasattr(sampler.request(), "count") else {})
        artifact = drawing.draw(sampler, request, MODEL)
        assert artifact.pixels.min() >= 0 and artifact.pixels.max() <= 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (samplers.WalkRequest(count=40), "40 items: 41 from number 0"),
        (samplers.WalkRequest(steps=0), "steps has to be at least 1"),
        (samplers.AttributeRequest(target=7), "no class 7: take one of 0 to 1"),
        (samplers.DrawRequest(temperature=-1), "temperature has to be 0 or more"),
    ],
)
def test_refusals(request_, message):
    makers = {
        samplers.WalkRequest: lambda: samplers.walk_sampler(encode, decode, PICTURES),
        samplers.AttributeRequest: lambda: samplers.attribute_sampler(encode, decode, PICTURES, 2),
        samplers.DrawRequest: lambda: samplers.draw_sampler(lambda *_: None),
    }
    with pytest.raises(UserError, match=message):
        makers[type(request_)]().prepare(request_)
