from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.experiment import Model
from jaxgen.families.diffusion.paths import DATA, rectified_flow
from jaxgen.families.diffusion.samplers import ImageRequest, image_sampler
from jaxgen.families.diffusion.solvers import euler, heun

SHAPE = (4, 4, 1)


def apply(variables, noisy, time, label):
    # The data prediction of classes that are constant pictures: -0.9 for 0, -0.8 for 1, ...
    shade = variables["params"] + 0.1 * label.astype(jnp.float32)
    return jnp.broadcast_to(shade[:, None, None, None], noisy.shape)


def drawn(solver, request, seed=0):
    sampler = image_sampler(
        solver, apply, rectified_flow(), shape=SHAPE, classes=10, prediction=DATA
    )
    plan, arrays = sampler.prepare(request)
    model = Model(params=jnp.float32(-0.9), variables={})
    sample = jax.jit(sampler.sample, static_argnums=2)
    return sampler, sample(model, jax.random.key(seed), plan, arrays)


def test_rows_show_the_classes_in_turn():
    _, found = drawn(euler, ImageRequest(count=100, steps=3))
    rows = np.asarray(found["image"]).reshape(10, 10, *SHAPE)
    expected = -0.9 + 0.1 * np.arange(10)
    np.testing.assert_allclose(
        rows, np.broadcast_to(expected[:, None, None, None, None], rows.shape), atol=1e-5
    )


def test_guidance_overstates_the_class():
    # Guided data = unconditional + g (conditional - unconditional), with label -1 unconditional.
    _, found = drawn(euler, ImageRequest(label=4, count=2, steps=3, guidance=2.0))
    np.testing.assert_allclose(found["image"], -1.0 + 2.0 * 0.5, atol=1e-5)


def test_a_picture_does_not_depend_on_how_many_are_drawn():
    request = ImageRequest(label=2, count=7, steps=1, animate=True)
    _, many = drawn(euler, request)
    _, few = drawn(euler, replace(request, count=3))
    np.testing.assert_array_equal(many["frames"][0, :3], few["frames"][0])
    assert not np.allclose(many["frames"][0, 0], many["frames"][0, 1])
    _, others = drawn(euler, request, seed=1)
    assert not np.allclose(many["frames"][0], others["frames"][0])


def test_an_animated_request_renders_its_frames(tmp_path):
    sampler, found = drawn(euler, ImageRequest(count=12, steps=3, animate=True))
    artifact = sampler.render(found)
    assert artifact.pixels.shape == (12, *SHAPE)
    assert artifact.frames.shape == (4, 12, *SHAPE)
    assert artifact.pixels.min() >= 0 and artifact.frames.max() <= 1
    np.testing.assert_allclose(artifact.pixels[0], 0.05, atol=1e-5)
    assert [path.suffix for path in artifact.save(tmp_path / "grid")] == [".png", ".gif"]


@pytest.mark.parametrize(
    "wrong, named",
    [({"count": 0}, "count"), ({"steps": 0}, "steps"), ({"label": 10}, "class 10")],
)
def test_impossible_requests_are_named(wrong, named):
    sampler = image_sampler(heun, apply, rectified_flow(), shape=SHAPE, classes=10)
    with pytest.raises(UserError, match=named):
        sampler.prepare(replace(ImageRequest(), **wrong))
