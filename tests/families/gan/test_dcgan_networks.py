"""The convolutional pair: which pictures it reaches, and what its verdicts depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.families.gan.dcgan import (
    DCGANDiscriminator,
    DCGANGenerator,
    by_batch,
    by_picture,
    unnormalized,
)

KEY = jax.random.key(0)


def pictures(rows, side=8):
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (rows, side, side, 1)), jnp.float32)


@pytest.mark.parametrize(
    ("shape", "widths"), [((28, 28, 1), (4, 2)), ((32, 32, 3), (4, 4, 2)), ((64, 32, 3), (4,) * 4)]
)
def test_reaches_the_usual_resolutions(shape, widths):
    generator, discriminator = DCGANGenerator(shape, widths), DCGANDiscriminator(widths[::-1])
    latent = jnp.zeros((2, 5))
    made = jax.eval_shape(lambda: generator.init_with_output(KEY, latent)[0])
    assert made.shape == (2, *shape)
    judged = jax.eval_shape(lambda: discriminator.init_with_output(KEY, jnp.zeros(made.shape))[0])
    assert judged.shape == (2,)


def test_a_resolution_out_of_reach_is_refused():
    with pytest.raises(UserError, match="28×28 pixels can't be reached by 3 doublings"):
        DCGANGenerator((28, 28, 1), (4, 4, 4)).init(KEY, jnp.zeros((1, 5)))
    with pytest.raises(UserError, match="30×30 pixels can't be reached by 2 doublings"):
        DCGANDiscriminator((4, 4)).init(KEY, jnp.zeros((1, 30, 30, 1)))


@pytest.mark.parametrize(
    ("norm", "alone"), [(unnormalized, True), (by_picture, True), (by_batch(), False)]
)
def test_whether_a_verdict_depends_on_the_other_rows(norm, alone):
    discriminator, rows = DCGANDiscriminator((4, 8), norm), pictures(4)
    variables = jax.jit(discriminator.init)(KEY, rows)
    states = [name for name in variables if name != "params"]

    def verdicts(rows):
        return discriminator.apply(variables, rows, train=True, mutable=states)[0]

    changed = rows.at[1:].multiply(-0.5)
    same = np.allclose(verdicts(rows)[0], verdicts(changed)[0], atol=1e-6)
    assert same is alone


@pytest.mark.parametrize("network", [DCGANGenerator((8, 8, 1), (4,)), DCGANDiscriminator((4,))])
def test_a_label_changes_the_answer(network):
    network = network.clone(classes=3)
    given = jnp.ones((3, 5)) if isinstance(network, DCGANGenerator) else pictures(1).repeat(3, 0)
    variables = network.init(KEY, given, jnp.arange(3))
    weights = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])
    answers = network.apply(variables | {"params": weights}, given, jnp.arange(3))
    assert not np.allclose(answers[0], answers[1]) and not np.allclose(answers[1], answers[2])
