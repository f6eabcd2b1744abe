import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import meta

from jaxgen.errors import UserError
from jaxgen.experiment import Context, Model, Update
from jaxgen.families.vae.convolutional import (
    Autoencoder,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
)
from jaxgen.families.vae.finite_scalar_quantization import finite_scalar_quantizer
from jaxgen.families.vae.quantization import rotated
from jaxgen.families.vae.vector_quantization import vector_quantizer
from jaxgen.families.vae.vqvae import VectorQuantizedAutoencoder
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.training.state import initializer
from jaxgen.training.step import make_train_step

PICTURES = jnp.tanh(jax.random.normal(jax.random.key(0), (8, 8, 12, 1)))
QUANTIZERS = [
    vector_quantizer(16, 4, estimate=rotated, decay=0.9),
    finite_scalar_quantizer((5, 4, 3)),
]


def small(quantizer):
    network = Autoencoder(
        encoder=ConvolutionalEncoder(quantizer.dimensions, (8, 8), blocks=1, hidden=8),
        decoder=ConvolutionalDecoder(1, (8, 8), blocks=1, hidden=8),
    )
    return VectorQuantizedAutoencoder(network, quantizer)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_codes_say_all_that_the_reconstruction_needs(quantizer):
    vqvae = small(quantizer)

    @jax.jit
    def everything():
        params, variables = vqvae.init(jax.random.key(0), {"image": PICTURES})
        model = Model(meta.unbox(params), variables)
        codes = vqvae.encode(model, PICTURES)
        again = vqvae.reconstruct(model, jax.random.key(1), PICTURES)
        context = Context({"image": PICTURES}, jax.random.key(2), 0, variables, None)

        def value(params):
            output = vqvae.loss()(params, context)
            return output.value, output

        gradient, output = jax.grad(value, has_aux=True)(model.params)
        return codes, again, vqvae.decode(model, codes), output, gradient

    codes, again, decoded, output, gradient = everything()
    assert codes.shape == (8, 2, 3) and codes.min() >= 0 and codes.max() < quantizer.codes
    np.testing.assert_allclose(again, decoded, atol=1e-6)
    assert again.shape == PICTURES.shape
    # The loss sees the same reconstruction, before its pixels are clipped.
    assert np.max(np.abs(again)) < 1
    error = np.mean((np.asarray(again) - np.asarray(PICTURES)) ** 2)
    np.testing.assert_allclose(output.metrics["squared_error"], error, rtol=1e-5)
    np.testing.assert_allclose(output.value, error + output.metrics["quantization"], rtol=1e-5)
    # The gradient gets past the quantizer to all of the encoder.
    for leaf in jax.tree.leaves(gradient["encoder"]):
        assert np.any(np.asarray(leaf) != 0)


def test_a_latent_sees_only_the_pixels_around_it():
    encoder = ConvolutionalEncoder(2, (4, 4), blocks=1, hidden=4)
    picture = jax.random.normal(jax.random.key(0), (1, 32, 32, 1))

    @jax.jit
    def both():
        latent, params = encoder.init_with_output(jax.random.key(1), picture)
        return latent, encoder.apply(params, picture.at[0, 0, 0, 0].add(1.0))

    latent, changed = both()
    differs = np.any(np.asarray(latent) != np.asarray(changed), axis=(0, 3))
    # Reach: 1 pixel for the first halving, 2 for the second, 4 for the 3×3 of the block.
    assert differs[0, 0] and not np.any(differs[2:]) and not np.any(differs[:, 2:])


def test_sides_that_cannot_be_halved():
    with pytest.raises(UserError, match="multiples of 4"):
        ConvolutionalEncoder(2, (4, 4)).init(jax.random.key(0), jnp.zeros((1, 8, 10, 1)))


def test_training_is_the_same_on_a_mesh():
    vqvae = small(QUANTIZERS[0])
    updates = [Update("autoencoder", vqvae.loss(), optax.sgd(0.1))]
    states = []
    for devices in (1, 8):
        mesh = make_mesh(MeshShape(), jax.devices()[:devices])
        create, _ = initializer(vqvae.init, updates, mesh)(
            jax.random.key(0), {"image": np.asarray(PICTURES[:1])}
        )
        state = create()
        step = jax.jit(make_train_step(updates, jax.random.key(1)))
        rows = jax.NamedSharding(mesh, jax.P(None, ("data", "fsdp")))
        batch = {"image": jax.device_put(PICTURES[None], rows)}
        for _ in range(3):
            state, _, finite = step(state, batch)
            assert finite
        states.append(jax.device_get((state.params, state.variables)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *states)
    assert np.any(states[0][1].count == 1.0)  # codes have been restarted on the way
