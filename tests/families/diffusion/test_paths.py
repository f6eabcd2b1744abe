import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.families.diffusion.paths import (
    DATA,
    NOISE,
    SCORE,
    VELOCITY,
    Ends,
    NoisePath,
    convert,
    predicting,
    rectified_flow,
)

KINDS = {"data": DATA, "noise": NOISE, "score": SCORE, "velocity": VELOCITY}
# A curved one beside the straight one: nothing may lean on the levels' adding up to one.
CURVED = NoisePath(
    signal_level=lambda time: jnp.cos(jnp.pi / 2 * time),
    noise_level=lambda time: jnp.sin(jnp.pi / 2 * time),
)
EXPLODING = NoisePath(
    signal_level=jnp.ones_like, noise_level=lambda time: time, noise_time=80.0, data_time=0.002
)
PATHS = {"rectified": rectified_flow(), "curved": CURVED, "exploding": EXPLODING}


def items(seed: int, count: int = 5) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (count, 4, 4, 2))


TIME = jnp.linspace(0.1, 0.9, 5)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_rates_are_the_slopes_of_the_levels(path):
    at = path.levels(TIME, items(0))
    after, before = path.levels(TIME + 1e-2, items(0)), path.levels(TIME - 1e-2, items(0))
    np.testing.assert_allclose(at.signal_rate, (after.signal - before.signal) / 2e-2, atol=2e-4)
    np.testing.assert_allclose(at.noise_rate, (after.noise - before.noise) / 2e-2, atol=2e-4)


def test_rectified_flow_is_the_straight_line():
    data, noise = items(0), items(1)
    path = rectified_flow()
    assert jnp.array_equal(path.noised(data, noise, jnp.zeros(5)), data)
    assert jnp.array_equal(path.noised(data, noise, jnp.ones(5)), noise)
    at = path.levels(TIME, data)
    velocity = VELOCITY.from_ends(Ends(data, noise), at)
    np.testing.assert_allclose(velocity, noise - data, rtol=1e-6)
    half = path.log_signal_to_noise(jnp.full(1, 0.5))
    np.testing.assert_allclose(half, 0.0, atol=1e-6)
    np.testing.assert_allclose(
        path.log_signal_to_noise(jnp.full(1, 0.2)), 2 * np.log(4.0), rtol=1e-6
    )


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("given", KINDS)
@pytest.mark.parametrize("wanted", KINDS)
def test_every_prediction_converts_to_every_other(path, given, wanted):
    data, noise = items(0), items(1)
    noisy = path.noised(data, noise, TIME)
    at = path.levels(TIME, data)
    known = KINDS[given].from_ends(Ends(data, noise), at)
    found = convert(path, known, noisy, TIME, given=KINDS[given], wanted=KINDS[wanted])
    expected = KINDS[wanted].from_ends(Ends(data, noise), at)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_score_of_a_gaussian(path):
    # x ~ N(0, s²): x_t ~ N(0, (α s)² + σ²), and E[x | x_t] = α s² / ((α s)² + σ²) x_t.
    deviation, noisy = 0.7, items(2)
    at = path.levels(TIME, noisy)
    variance = (at.signal * deviation) ** 2 + at.noise**2
    denoiser = predicting(
        SCORE, lambda x, time, _: at.signal * deviation**2 / variance * x, path, DATA
    )
    np.testing.assert_allclose(denoiser(noisy, TIME, None), -noisy / variance, rtol=1e-4, atol=1e-4)
