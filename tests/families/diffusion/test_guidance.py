import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.families.diffusion.guidance import NO_CLASS, classifier_free, drop_class


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_guidance_moves_away_from_the_unconditional_prediction(guidance):
    calls = []

    def denoiser(noisy, time, label):
        calls.append(noisy.shape)
        told = jnp.where(label == NO_CLASS, 0.0, label + 1.0)
        return noisy * time[:, None] + told[:, None]

    noisy, time, label = jnp.ones((3, 2)), jnp.array([0.1, 0.2, 0.3]), jnp.array([0, 4, 9])
    guided = classifier_free(denoiser, guidance, drop_class)(noisy, time, label)
    assert calls == [(6, 2)]  # both predictions in one call
    expected = time[:, None] + guidance * (label[:, None] + 1.0)
    np.testing.assert_allclose(guided, jnp.broadcast_to(expected, (3, 2)), rtol=1e-6)


def test_drop_class_where_told():
    label, where = jnp.array([3, 5]), jnp.array([True, False])
    assert jnp.array_equal(drop_class(label, where), jnp.array([NO_CLASS, 5]))
