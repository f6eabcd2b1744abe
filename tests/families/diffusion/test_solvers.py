import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.families.diffusion.paths import rectified_flow
from jaxgen.families.diffusion.solvers import euler, heun, uniform_times

SOLVERS = {"euler": (euler, 1.0), "heun": (heun, 2.0)}


def growth(x, time, condition):
    # dx/dt = c x cos t, so x(t) = x(0) exp(c sin t).
    return condition[:, None] * x * jnp.cos(time)[:, None]


@pytest.mark.parametrize("solver, order", SOLVERS.values(), ids=SOLVERS)
def test_order_of_convergence(solver, order):
    # In float64: what is left of the error after 64 steps of Heun is below float32's rounding.
    with jax.enable_x64(True):
        start, rate = jnp.array([[1.0], [2.0]]), jnp.array([1.0, -0.5])
        exact = start * jnp.exp(rate * jnp.sin(2.0))[:, None]
        counts = np.array([16, 32, 64])
        errors = []
        for count in counts:
            times = jnp.linspace(0.0, 2.0, count + 1)
            errors.append(float(jnp.max(jnp.abs(solver(growth, start, times, rate).end - exact))))
    measured = np.log2(errors[0] / errors[-1]) / np.log2(counts[-1] / counts[0])
    assert abs(measured - order) < 0.1, (measured, errors)


@pytest.mark.parametrize("solver, _", SOLVERS.values(), ids=SOLVERS)
def test_path_begins_with_the_start_and_ends_with_the_end(solver, _):
    start, rate = jnp.ones((3, 1)), jnp.ones(3)
    times = uniform_times(0.0, 1.0, 4)
    solution = solver(growth, start, times, rate, keep_path=True)
    assert solution.path.shape == (5, 3, 1)
    assert jnp.array_equal(solution.path[0], start)
    assert jnp.array_equal(solution.path[-1], solution.end)
    shorter = solver(growth, start, times[:3], rate)
    np.testing.assert_allclose(solution.path[2], shorter.end, rtol=1e-6)
    assert shorter.path is None


def test_exact_velocity_carries_noise_to_the_data():
    # Data N(m, s²) under rectified flow: x_t ~ N((1-t) m, v) with v = ((1-t) s)² + t²; the
    # probability flow keeps the standard score, so noise z ends at m + s z.
    mean, deviation = 1.5, 0.4
    path = rectified_flow()

    def velocity(x, time, _):
        at = path.levels(time, x)
        variance = (at.signal * deviation) ** 2 + at.noise**2
        rate = at.signal * at.signal_rate * deviation**2 + at.noise * at.noise_rate
        return at.signal_rate * mean + rate / variance * (x - at.signal * mean)

    noise = jax.random.normal(jax.random.key(0), (64, 2))
    for solver, steps, tolerance in ((euler, 400, 1e-2), (heun, 100, 1e-3)):
        drawn = solver(velocity, noise, uniform_times(1.0, 0.0, steps), None).end
        np.testing.assert_allclose(drawn, mean + deviation * noise, atol=tolerance)
