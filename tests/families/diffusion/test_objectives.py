import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.experiment import Context
from jaxgen.families.diffusion.guidance import NO_CLASS, drop_class
from jaxgen.families.diffusion.objectives import (
    flow_matching_loss,
    logit_normal_time,
    uniform_time,
)
from jaxgen.families.diffusion.paths import rectified_flow

DEVIATION = 0.5


def context(image, label, seed=0):
    batch = {"image": image, "label": label}
    return Context(batch=batch, key=jax.random.key(seed), step=0, variables={}, ema={})


def gaussian(count=20_000):
    image = DEVIATION * jax.random.normal(jax.random.key(7), (count, 2, 2, 1))
    return image, jnp.zeros(count, jnp.int32)


def loss_of(apply, drop_rate=0.0):
    return flow_matching_loss(
        apply,
        rectified_flow(),
        time_distribution=uniform_time,
        drop=drop_class,
        drop_rate=drop_rate,
    )


def optimal(variables, noisy, time, label, rngs):
    # For data N(0, s²): E[ε - x | x_t] = (t - (1-t) s²) / ((1-t)² s² + t²) x_t.
    time = time[:, None, None, None]
    variance = ((1 - time) * DEVIATION) ** 2 + time**2
    return variables["params"] * (time - (1 - time) * DEVIATION**2) / variance * noisy


def test_least_loss_is_the_variance_that_no_velocity_explains():
    # Var[ε - x | x_t] = s² / ((1-t)² s² + t²), whose integral over t in [0, 1] is π s / 2.
    value = loss_of(optimal)(jnp.float32(1.0), context(*gaussian())).value
    np.testing.assert_allclose(value, np.pi * DEVIATION / 2, rtol=1e-2)


def test_gradient_vanishes_at_the_optimal_velocity_and_points_there():
    at = context(*gaussian())
    slope = jax.grad(lambda scale: loss_of(optimal)(scale, at).value)
    assert abs(slope(jnp.float32(1.0))) < 2e-2
    assert slope(jnp.float32(0.8)) < -0.1 < 0.1 < slope(jnp.float32(1.2))


def test_labels_are_dropped_as_often_as_asked():
    seen = []

    def apply(variables, noisy, time, label, rngs):
        seen.append(label)
        return noisy

    image, _ = gaussian()
    labels = jnp.arange(len(image)) % 10
    for rate in (0.0, 0.3, 1.0):
        loss_of(apply, rate)({}, context(image, labels))
        dropped = seen[-1] == NO_CLASS
        np.testing.assert_allclose(jnp.mean(dropped), rate, atol=0.02)
        assert jnp.array_equal(jnp.where(dropped, labels, seen[-1]), labels)


def test_uniform_times_lie_one_in_each_cell():
    time = np.sort(uniform_time(jax.random.key(3), 16))
    assert np.all((time >= 0) & (time < 1))
    np.testing.assert_allclose(np.diff(time), 1 / 16, atol=1e-6)
    other = np.sort(uniform_time(jax.random.key(4), 16))
    assert not np.allclose(time, other)


def test_logit_normal_times_have_their_quantiles():
    time = logit_normal_time(mean=-0.5, deviation=2.0)(jax.random.key(0), 20_000)
    logits = jnp.log(time) - jnp.log1p(-time)
    np.testing.assert_allclose(jnp.mean(logits), -0.5, atol=0.05)
    np.testing.assert_allclose(jnp.std(logits), 2.0, atol=0.05)
