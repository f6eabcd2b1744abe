import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.classifier import (
    Classifier,
    classification_loss,
    level_activations,
)
from jaxgen.evaluation.features import read
from jaxgen.experiment import Context

NETWORK = Classifier(3, (8,), features=5)
PICTURES = jax.random.normal(jax.random.key(0), (7, 4, 4, 1))
LABELS = jnp.array([0, 1, 2, 0, 1, 2, 2])


def parameters():
    return nn.unbox(NETWORK.init(jax.random.key(1), PICTURES))["params"]


def context():
    batch = {"image": PICTURES, "label": LABELS}
    return Context(batch=batch, key=jax.random.key(2), step=0, variables={}, ema={})


def test_knowing_nothing_costs_log_of_the_classes():
    params = jax.tree.map(jnp.zeros_like, parameters())
    output = classification_loss(NETWORK)(params, context())
    np.testing.assert_allclose(output.value, np.log(3), rtol=1e-6)
    np.testing.assert_allclose(output.metrics["accuracy"], 2 / 7, rtol=1e-6)
    assert output.weight == 7


def test_it_can_learn_seven_pictures_by_heart():
    loss, params, optimizer = classification_loss(NETWORK), parameters(), optax.adam(1e-2)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda params: loss(params, context()).value)(params)
        moves, state = optimizer.update(grads, state)
        return optax.apply_updates(params, moves), state

    for _ in range(60):
        params, state = step(params, state)
    labels, _ = read(NETWORK, params, np.asarray(PICTURES))
    np.testing.assert_array_equal(labels, LABELS)


def test_folded_pictures_are_classified_too():
    network = Classifier(3, (8,), features=5, patch=2)
    params = nn.unbox(jax.eval_shape(network.init, jax.random.key(1), PICTURES))["params"]
    assert params["convolution_0_0"]["kernel"].shape == (3, 3, 4, 8)
    assert params["features"]["kernel"].shape == (8, 5)


def test_a_patch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="3×3 pixels don't fit pictures of 4×4"):
        Classifier(3, (8,), patch=3).init(jax.random.key(0), PICTURES)


def test_level_activations_are_what_the_logits_are_made_of():
    network = Classifier(3, (4, 8), features=5)
    picture = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    params = nn.unbox(network.init(jax.random.key(1), picture))["params"]
    first, second = level_activations(network, params)(picture)
    assert first.shape == (2, 8, 8, 4) and second.shape == (2, 4, 4, 8)
    pooled = nn.max_pool(second, (2, 2), strides=(2, 2)).reshape(2, -1)
    features = pooled @ params["features"]["kernel"] + params["features"]["bias"][None]
    np.testing.assert_allclose(features, network.apply({"params": params}, picture)[1], atol=1e-5)
