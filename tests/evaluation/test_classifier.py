import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.evaluation.classifier import Classifier, classification_loss
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
