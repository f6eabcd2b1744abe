"""Positions a period apart share their vector, and no others do."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nn.periodic_embedding import PeriodicEmbedding


def test_vectors_come_again_after_a_period():
    network = PeriodicEmbedding(period=6, width=4)
    positions = jnp.arange(20)[None, :]
    params = network.init(jax.random.key(0), positions)
    vectors = np.asarray(network.apply(params, positions))
    np.testing.assert_array_equal(vectors[:, 6:12], vectors[:, :6])
    np.testing.assert_array_equal(vectors[0, 19], vectors[0, 1])
    assert len({tuple(vector) for vector in vectors[0]}) == 6
