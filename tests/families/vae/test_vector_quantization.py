import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from jaxgen.families.vae.quantization import straight_through
from jaxgen.families.vae.vector_quantization import (
    CodeBook,
    code_vectors,
    nearest,
    restarted,
    vector_quantizer,
)
from jaxgen.parallel.layout import BATCH_AXES
from jaxgen.parallel.mesh import MeshShape, make_mesh

CODES, DIMENSIONS = 6, 3


def clusters(key):
    """A grid of latents around `CODES` centres, (8, 4, 4, DIMENSIONS)."""
    centre_key, key = jax.random.split(jax.random.key(key))
    centres = 5 * jax.random.normal(centre_key, (CODES, DIMENSIONS))
    latent = jnp.tile(centres, (128 // CODES + 1, 1))[:128]
    latent += 0.3 * jax.random.normal(key, latent.shape)
    return latent.reshape(8, 4, 4, DIMENSIONS)


def quantizer(**changes):
    given = {"estimate": straight_through, "restart_below": 0.0} | changes
    return vector_quantizer(CODES, DIMENSIONS, **given)


def quantized(one, latent, state, train=True):
    return jax.jit(one.quantize, static_argnums=3)(latent, state, None, train)


def starting_at(vectors):
    """A code-book whose codes are the first `CODES` of `vectors`, by counts of 1."""
    return CodeBook(count=jnp.ones(CODES), total=jnp.asarray(vectors)[:CODES])


def lloyd(vectors, centroids):
    """One step of k-means, written out."""
    distances = np.linalg.norm(vectors[:, None] - centroids[None], axis=-1)
    chosen = distances.argmin(1)
    return np.stack([vectors[chosen == code].mean(0) for code in range(len(centroids))])


def test_without_memory_a_step_is_a_step_of_k_means():
    latent = clusters(0)
    vectors = np.float64(latent).reshape(-1, DIMENSIONS)
    one = quantizer(decay=0.0)
    state, centroids = starting_at(vectors), vectors[:CODES]
    for _ in range(4):
        state = quantized(one, latent, state).state
        centroids = lloyd(vectors, centroids)
        np.testing.assert_allclose(code_vectors(state), centroids, rtol=1e-5, atol=1e-5)


def test_moving_averages_end_at_the_centroids_of_k_means():
    latent = clusters(1)
    vectors = np.float64(latent).reshape(-1, DIMENSIONS)
    one = quantizer(decay=0.9)
    step = jax.jit(lambda state: one.quantize(latent, state, None, True).state)
    state = starting_at(vectors)
    for _ in range(250):
        state = step(state)
    expected = KMeans(CODES, init=vectors[:CODES], n_init=1, tol=0).fit(vectors).cluster_centers_
    np.testing.assert_allclose(code_vectors(state), expected, rtol=1e-4, atol=1e-4)
    sizes = np.bincount(nearest(jnp.asarray(vectors, jnp.float32), code_vectors(state)))
    np.testing.assert_allclose(state.count, sizes, rtol=1e-4)


def test_one_moving_average_by_hand():
    book = CodeBook(count=jnp.array([2.0, 4.0]), total=jnp.array([[0.0], [40.0]]))
    latent = jnp.array([1.0, 2.0, 12.0, -3.0]).reshape(1, 2, 2, 1)
    one = vector_quantizer(2, 1, estimate=straight_through, decay=0.75, restart_below=0.0)
    found = quantized(one, latent, book)
    np.testing.assert_array_equal(found.indices, [[[0, 0], [1, 0]]])
    np.testing.assert_allclose(found.state.count, [0.75 * 2 + 0.25 * 3, 0.75 * 4 + 0.25])
    np.testing.assert_allclose(found.state.total[:, 0], [0.0, 0.75 * 40 + 0.25 * 12])
    # Codes are 0 and 10, so distances 1, 2, 2 and 3.
    np.testing.assert_allclose(found.loss, 0.25 * (1 + 4 + 4 + 9) / 4, rtol=1e-4)
    np.testing.assert_allclose(found.values.reshape(-1), [0, 0, 10, 0], rtol=1e-4)


def test_smoothing_gives_codes_that_nobody_chose_a_place():
    book = CodeBook(count=jnp.array([0.0, 10.0]), total=jnp.array([[0.0], [30.0]]))
    vectors = code_vectors(book)
    assert jnp.all(jnp.isfinite(vectors))
    np.testing.assert_allclose(vectors[1], 3.0, rtol=1e-5)


def test_evaluation_changes_nothing_and_needs_no_key():
    one = quantizer(restart_below=1.0)
    state = one.init(jax.random.key(0))
    found = quantized(one, clusters(0), state, train=False)
    jax.tree.map(np.testing.assert_array_equal, found.state, state)
    np.testing.assert_array_equal(one.look_up(found.indices, state), found.values)


def test_the_encoder_is_drawn_to_its_codes():
    one, latent = quantizer(commitment=0.5), clusters(2)
    state = starting_at(latent.reshape(-1, DIMENSIONS))
    gradient = jax.jit(jax.grad(lambda z: one.quantize(z, state, None, True).loss))(latent)
    values = quantized(one, latent, state).values
    np.testing.assert_allclose(gradient, 0.5 * 2 * (latent - values) / latent.size, atol=1e-6)


def test_dead_codes_restart_on_the_batch():
    vectors = jax.random.normal(jax.random.key(0), (40, DIMENSIONS))
    count = jnp.array([0.0, 0.9, 1.0, 2.0, 5.0, 0.1])
    book = CodeBook(count=count, total=100 * jnp.ones((CODES, DIMENSIONS)))
    found = restarted(book, vectors, jax.random.key(1), 1.0)
    dead = np.array([0, 1, 5])
    alive = np.array([2, 3, 4])
    np.testing.assert_array_equal(found.count[alive], book.count[alive])
    np.testing.assert_array_equal(found.total[alive], book.total[alive])
    np.testing.assert_array_equal(found.count[dead], 1)
    for code in found.total[dead]:
        assert np.any(np.all(np.asarray(vectors) == np.asarray(code), axis=1))
    again = restarted(book, vectors, jax.random.key(1), 1.0)
    jax.tree.map(np.testing.assert_array_equal, found, again)
    other = restarted(book, vectors, jax.random.key(2), 1.0)
    assert np.any(other.total[dead] != found.total[dead])


@pytest.mark.parametrize("restart_below, used", [(0.0, 1 / CODES), (1.0, 1.0)])
def test_restarts_revive_a_code_book_that_collapsed(restart_below, used):
    latent = clusters(3)
    one = quantizer(decay=0.9, restart_below=restart_below)
    far = jnp.full((CODES, DIMENSIONS), 100.0).at[0].set(0.0)
    state = CodeBook(count=jnp.ones(CODES), total=far)
    step = jax.jit(lambda state, key: one.quantize(latent, state, key, True))
    for index in range(60):
        found = step(state, jax.random.key(index))
        state = found.state
    np.testing.assert_allclose(found.metrics["codes_used"], used)


@pytest.mark.parametrize("devices", [2, 8])
def test_the_code_book_is_the_same_on_a_mesh(devices):
    mesh = make_mesh(MeshShape(), jax.devices()[:devices])
    one, latent = quantizer(restart_below=6.0, decay=0.5), clusters(4)
    state, key = one.init(jax.random.key(0)), jax.random.key(1)

    @jax.jit
    def step(latent, state):
        return one.quantize(latent, state, key, True)

    alone = step(latent, state)
    rows = jax.NamedSharding(mesh, jax.P(BATCH_AXES))
    everywhere = jax.NamedSharding(mesh, jax.P())
    spread = step(jax.device_put(latent, rows), jax.device_put(state, everywhere))
    assert len(spread.indices.sharding.device_set) == devices
    np.testing.assert_array_equal(alone.indices, spread.indices)
    np.testing.assert_allclose(alone.state.count, spread.state.count, rtol=1e-6)
    np.testing.assert_allclose(alone.state.total, spread.state.total, rtol=1e-5, atol=1e-5)
    # Some were restarted, so the test holds the draw from the batch as well.
    assert np.any(np.asarray(alone.state.count) == 6.0)
    np.testing.assert_allclose(alone.metrics["perplexity"], spread.metrics["perplexity"], rtol=1e-6)
