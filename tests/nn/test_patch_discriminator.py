import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.patch_discriminator import PatchDiscriminator


@pytest.mark.parametrize("layers, side, patches", [(3, 256, 30), (2, 28, 5), (1, 28, 12)])
def test_one_logit_a_patch(layers, side, patches):
    network, picture = PatchDiscriminator(4, layers), jnp.zeros((2, side, side, 1))
    answer, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), picture)
    assert answer.shape == (2, patches, patches)


def test_pictures_are_judged_each_on_its_own():
    network = PatchDiscriminator(4, layers=1)
    pictures = jax.random.normal(jax.random.key(0), (3, 16, 16, 1))
    generator = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(0, 0.3, leaf.shape), jnp.float32),
        nn.unbox(jax.eval_shape(network.init, jax.random.key(1), pictures)),
    )
    both, alone = network.apply(variables, pictures), network.apply(variables, pictures[1:2])
    np.testing.assert_allclose(both[1:2], alone, atol=1e-5)
    assert jnp.std(both) > 0.01
