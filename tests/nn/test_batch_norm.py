"""Batch normalization against its own definition."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nn.batch_norm import BatchNorm


def test_normalizes_by_the_batch_and_remembers_it():
    x = np.random.default_rng(0).normal(3, 2, (5, 2, 3, 4))
    x = jnp.asarray(x, jnp.float32)
    norm = BatchNorm(momentum=0.75)
    variables = norm.init(jax.random.key(0), x)
    y, after = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(np.mean(y, (0, 1, 2)), np.zeros(4), atol=1e-5)
    np.testing.assert_allclose(np.std(y, (0, 1, 2)), np.ones(4), atol=1e-4)
    kept = after["batch_stats"]
    np.testing.assert_allclose(kept["mean"], 0.25 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(kept["variance"], 0.75 + 0.25 * x.var((0, 1, 2), ddof=1), rtol=1e-4)


def test_without_training_rows_do_not_touch_each_other():
    x = np.random.default_rng(0).normal(size=(6, 4))
    x = jnp.asarray(x, jnp.float32)
    norm = BatchNorm(spread=0.5)
    variables = norm.init(jax.random.key(0), x)
    variables = variables | {"batch_stats": {"mean": jnp.arange(4.0), "variance": jnp.full(4, 4.0)}}
    y = norm.apply(variables, x)
    scale = variables["params"]["scale"].value
    expected = (np.asarray(x) - np.arange(4)) / 2 * np.asarray(scale)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.apply(variables, x[:2]), y[:2], rtol=1e-6)
    assert 0.1 < float(jnp.std(scale)) < 2
