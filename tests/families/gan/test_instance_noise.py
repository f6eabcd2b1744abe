import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.families.gan.instance_noise import InstanceNoise


def test_falls_geometrically_to_its_end_and_stays():
    noise = InstanceNoise(1.0, 0.1, updates=10)
    state = noise.init()
    for _ in range(5):
        state = noise.following(state, jnp.zeros(3))
    np.testing.assert_allclose(state["deviation"], 0.1**0.5, rtol=1e-5)
    for _ in range(20):
        state = noise.following(state, jnp.zeros(3))
    np.testing.assert_allclose(state["deviation"], 0.1, rtol=1e-5)


def test_adds_as_much_as_it_says():
    noise = InstanceNoise(0.5, 0.1, updates=10)
    seen = noise(jax.random.key(0), jnp.ones((5000, 2)), noise.init())
    np.testing.assert_allclose(np.std(seen), 0.5, rtol=0.03)
    np.testing.assert_allclose(np.mean(seen), 1.0, atol=0.02)
