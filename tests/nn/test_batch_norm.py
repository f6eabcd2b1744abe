"""Batch normalization against its own definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nn.batch_norm import BatchNorm
from jaxgen.parallel.sharding import unbox

PICTURE = jax.random.normal(jax.random.key(0), (6, 3, 3, 4)) * 3 + 1
LABEL = jnp.array([0, 1, 2, 0, 1, 2])


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


@pytest.mark.parametrize("train", [True, False])
def test_classes_with_equal_rows_are_plain_batch_normalization(train):
    plain, ours = BatchNorm(), BatchNorm(3)
    gain, bias = jnp.arange(1.0, 5.0), jnp.array([0.0, -1.0, 0.5, 2.0])
    running = {"mean": jnp.array([0.5, 1.0, 0.0, -1.0]), "variance": jnp.arange(1.0, 5.0)}

    def applied(norm, rows, *label):
        params = {"scale": jnp.tile(gain, rows), "bias": jnp.tile(bias, rows)}
        given = {"params": params, "batch_stats": running}
        return norm.apply(given, PICTURE, *label, train=train, mutable=["batch_stats"])

    answer, after = applied(ours, (3, 1), LABEL)
    expected, beside = applied(plain, (1,))
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)
    for name, leaf in beside["batch_stats"].items():
        np.testing.assert_array_equal(after["batch_stats"][name], leaf)


def test_each_picture_has_the_scale_and_shift_of_its_class():
    ours = BatchNorm(3)
    variables = unbox(jax.jit(ours.init)(jax.random.key(1), PICTURE, LABEL))
    apply = jax.jit(ours.apply)
    normal = apply(variables, PICTURE, LABEL)
    scale = jax.random.normal(jax.random.key(2), (3, 4))
    variables["params"] = {"scale": scale, "bias": 2 * scale}
    answer = apply(variables, PICTURE, LABEL)
    rows = np.asarray(scale)[np.asarray(LABEL)][:, None, None]
    np.testing.assert_allclose(answer, rows * np.asarray(normal) + 2 * rows, rtol=1e-4, atol=1e-5)


def test_classes_without_labels_are_refused():
    with pytest.raises(UserError, match="3 classes needs a label for each picture"):
        BatchNorm(3).init(jax.random.key(0), PICTURE)
