"""Our AutoencoderKL and diffusers': the same latents and pictures from the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.interop.autoencoder_kl import from_diffusers, network_of, to_diffusers

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


def compare(widths, groups, blocks, side):
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=blocks,
        norm_num_groups=groups,
    ).eval()
    for name, parameter in theirs.named_parameters():
        if parameter.ndim == 1:  # the norms' too: far from where ones and zeros hide mistakes
            torch.nn.init.normal_(parameter, mean="norm" in name and "weight" in name, std=0.3)
    weights = {name: array.numpy() for name, array in theirs.state_dict().items()}
    network = network_of(dict(theirs.config))
    params = from_diffusers(weights, network)

    picture = np.random.default_rng(0).uniform(-1, 1, (1, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        posterior = theirs.encode(torch.tensor(picture).permute(0, 3, 1, 2)).latent_dist
        # Log variances here are not as wide as to be clamped, so these are the bare moments.
        moments = torch.cat([posterior.mean, posterior.logvar], 1)
        decoded = theirs.decode(posterior.mean).sample
    encode = jax.jit(lambda p, x: network.apply({"params": p}, x, method="encode"))
    decode = jax.jit(lambda p, x: network.apply({"params": p}, x, method="decode"))
    encoded = encode(params, jnp.asarray(picture))
    np.testing.assert_allclose(encoded, moments.permute(0, 2, 3, 1), atol=1e-4)
    found = decode(params, jnp.asarray(posterior.mean.permute(0, 2, 3, 1).numpy()))
    np.testing.assert_allclose(found, decoded.permute(0, 2, 3, 1), atol=1e-4)
    assert np.std(encoded) > 0.1 and np.std(found) > 0.1  # not the agreement of two nothings

    back = to_diffusers(params, network)
    assert back.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(back[name], array)


def test_encoding_and_decoding_are_those_of_diffusers():
    compare(widths=(8, 12, 12), groups=4, blocks=1, side=16)


@pytest.mark.slow
def test_at_the_widths_of_stable_diffusion_too():
    compare(widths=(128, 256, 512, 512), groups=32, blocks=2, side=64)
