"""Our patch discriminator and the same layers in PyTorch: the same logits from the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.patch_discriminator import PatchDiscriminator

torch = pytest.importorskip("torch")


def test_logits_are_those_of_pytorch():
    torch.manual_seed(0)
    relu = torch.nn.LeakyReLU(0.2)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 4, 2, 1), relu,
        torch.nn.Conv2d(8, 16, 4, 2, 1), torch.nn.GroupNorm(4, 16), relu,
        torch.nn.Conv2d(16, 32, 4, 1, 1), torch.nn.GroupNorm(4, 32), relu,
        torch.nn.Conv2d(32, 1, 4, 1, 1),
    )  # fmt: skip
    params = {}
    for layer, name in {
        0: "convolution_0",
        2: "convolution_1",
        5: "convolution_2",
        8: "logits",
    }.items():
        kernel, bias = (array.detach().numpy() for array in theirs[layer].parameters())
        params[name] = {"kernel": kernel.transpose(2, 3, 1, 0), "bias": bias}
    for layer, name in {3: "norm_1", 6: "norm_2"}.items():
        scale, bias = (torch.nn.init.normal_(array) for array in theirs[layer].parameters())
        params[name] = {"scale": scale.detach().numpy(), "bias": bias.detach().numpy()}
    picture = np.random.default_rng(0).normal(size=(2, 20, 24, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(picture).permute(0, 3, 1, 2))[:, 0]
    ours = PatchDiscriminator(8, layers=2, groups=4)
    found = ours.apply({"params": jax.tree.map(jnp.asarray, params)}, jnp.asarray(picture))
    np.testing.assert_allclose(found, expected, atol=1e-5)
