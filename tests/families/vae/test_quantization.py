import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.families.vae.quantization import code_counts, code_usage, rotated, straight_through

LATENT, VALUES, GRADIENT = jax.random.normal(jax.random.key(0), (3, 2, 3, 4, 5))


@pytest.mark.parametrize("estimate", [straight_through, rotated])
def test_forward_is_exactly_the_code(estimate):
    np.testing.assert_array_equal(estimate(LATENT, VALUES), VALUES)


def test_straight_through_has_the_gradient_of_the_identity():
    _, pull = jax.vjp(straight_through, LATENT, VALUES)
    to_latent, to_values = pull(GRADIENT)
    np.testing.assert_array_equal(to_latent, GRADIENT)
    assert not np.any(to_values)


def rotation(source, target):
    """In the plane of two vectors by the angle between them, nothing elsewhere (Rodrigues)."""
    first = source / np.linalg.norm(source)
    second = target - (target @ first) * first
    second /= np.linalg.norm(second)
    unit = target / np.linalg.norm(target)
    cosine, sine = unit @ first, unit @ second
    plane = np.stack([first, second])
    turn = np.array([[cosine, -sine], [sine, cosine]]) - np.eye(2)
    return np.eye(len(source)) + plane.T @ turn @ plane


def test_rotation_trick_turns_and_stretches_the_gradient():
    _, pull = jax.vjp(jax.jit(rotated), LATENT, VALUES)
    to_latent, to_values = pull(GRADIENT)
    assert not np.any(to_values)
    arrays = [np.float64(each).reshape(-1, 5) for each in (LATENT, VALUES, GRADIENT, to_latent)]
    for latent, code, gradient, found in zip(*arrays, strict=True):
        matrix = rotation(latent, code)
        stretch = np.linalg.norm(code) / np.linalg.norm(latent)
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(5), atol=1e-12)
        np.testing.assert_allclose(stretch * matrix @ latent, code, atol=1e-12)
        np.testing.assert_allclose(found, stretch * matrix.T @ gradient, rtol=1e-4, atol=1e-5)
        # So the gradient has the angle to the latent that it had to the code.
        np.testing.assert_allclose(
            found @ latent / np.linalg.norm(latent) / np.linalg.norm(found),
            gradient @ code / np.linalg.norm(code) / np.linalg.norm(gradient),
            atol=1e-5,
        )


@pytest.mark.parametrize("latent", [jnp.zeros((1, 1, 1, 3)), -jnp.ones((1, 1, 1, 3))])
def test_rotation_trick_is_finite_where_no_rotation_is_the_shortest(latent):
    code, gradient = jnp.ones((1, 1, 1, 3)), jnp.array([1.0, 2.0, -4.0]).reshape(1, 1, 1, 3)
    values, pull = jax.vjp(jax.jit(lambda latent: rotated(latent, code)), latent)
    (found,) = pull(gradient)
    np.testing.assert_array_equal(values, code)
    # An isometry all the same, here of equally long vectors (or, of none, the identity).
    np.testing.assert_allclose(jnp.linalg.norm(found), jnp.linalg.norm(gradient), rtol=1e-6)


def test_usage_counts_codes_and_their_entropy():
    even = code_usage(np.array([3, 3, 3, 0]))
    np.testing.assert_allclose(even["perplexity"], 3, rtol=1e-6)
    assert even["codes_used"] == 0.75
    np.testing.assert_allclose(code_usage(np.array([0, 9]))["perplexity"], 1)
    indices = jnp.array([[[0, 2], [2, 5]]])
    np.testing.assert_array_equal(code_counts(indices, 6), [1, 0, 2, 0, 0, 1])
