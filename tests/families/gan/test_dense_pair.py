"""The fully connected pair: its sizes, its classes, and what training changes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.families.gan.dense import DenseDiscriminator, DenseGenerator

LATENT = jax.random.normal(jax.random.key(0), (4, 6))
THINGS = jax.random.normal(jax.random.key(1), (4, 3, 2))
LABEL = jnp.array([0, 1, 2, 1])
KEY, ROWS = jax.random.key(0), jnp.zeros((1, 100))


def begun(network, *given):
    return nn.unbox(jax.jit(network.init)(jax.random.key(2), *given))


def test_the_textbooks_sizes():
    generator = jax.eval_shape(lambda: DenseGenerator((28, 28, 1)).init(KEY, ROWS))
    sizes = [leaf.shape for leaf in jax.tree.leaves(nn.unbox(generator)) if leaf.ndim == 2]
    assert sorted(sizes) == [(100, 256), (256, 512), (512, 1024), (1024, 784)]
    judge = jax.eval_shape(lambda: DenseDiscriminator().init(KEY, jnp.zeros((1, 28, 28, 1))))
    sizes = [leaf.shape for leaf in jax.tree.leaves(nn.unbox(judge)) if leaf.ndim == 2]
    assert sorted(sizes) == [(256, 1), (512, 256), (784, 512)]


def test_a_pair_of_one_layer_is_numpys():
    generator, judge = DenseGenerator((3, 2), hidden=(5,)), DenseDiscriminator(hidden=(5,))
    for network, given, end in ((generator, LATENT, np.tanh), (judge, THINGS, lambda x: x[:, 0])):
        weights = begun(network, given)["params"]
        x = np.asarray(given).reshape(4, -1) @ weights["hidden_0"]["kernel"]
        expected = end(np.where(x > 0, x, 0.2 * x) @ weights["out"]["kernel"])
        answer = network.apply({"params": weights}, given)
        np.testing.assert_allclose(np.ravel(answer), np.ravel(expected), rtol=1e-5, atol=1e-6)


def test_a_class_is_an_entry_of_what_goes_in():
    """Another label changes the answer by the difference of two of the first kernel's rows."""
    generator = DenseGenerator((3, 2), hidden=(), bounded=False, classes=3)
    weights = begun(generator, LATENT, LABEL)
    of_one = generator.apply(weights, LATENT, jnp.full(4, 1))
    of_two = generator.apply(weights, LATENT, jnp.full(4, 2))
    rows = weights["params"]["out"]["kernel"]
    expected = np.broadcast_to(rows[6 + 2] - rows[6 + 1], (4, 6)).reshape(4, 3, 2)
    np.testing.assert_allclose(of_two - of_one, expected, atol=1e-5)


def test_batch_normalization_takes_off_scale_and_shift_while_training():
    generator = DenseGenerator((2,), hidden=(8,), batch_norm=True)
    weights = begun(generator, LATENT)
    normed = [
        generator.apply(weights, rows, train=True, mutable=["batch_stats"])[0]
        for rows in (LATENT, 50 * LATENT)
    ]
    np.testing.assert_allclose(normed[0], normed[1], atol=1e-3)
    assert np.abs(generator.apply(weights, LATENT) - normed[0]).max() > 1e-3


def test_dropout_is_for_training():
    judge = DenseDiscriminator(hidden=(32,), dropout=0.5)
    weights = begun(judge, THINGS)
    first, second = (
        judge.apply(weights, THINGS, train=True, rngs={"dropout": jax.random.key(n)})
        for n in (0, 1)
    )
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(judge.apply(weights, THINGS), judge.apply(weights, THINGS))


@pytest.mark.parametrize(("classes", "label"), [(0, LABEL), (3, None)])
def test_classes_and_labels_come_together(classes, label):
    with pytest.raises(UserError, match=f"of {classes} classes was given"):
        DenseDiscriminator(classes=classes).init(jax.random.key(0), THINGS, label)
