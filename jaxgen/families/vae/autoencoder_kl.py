"""The first stage of latent diffusion: an autoencoder whose latents are a small picture.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", section 3.1.
Between the encoder and the decoder stands a bottleneck, which keeps the latents in bounds:
`gaussian_bottleneck` is the "KL" one; the quantizer of a VQ-VAE fits in its place ("VQ"), which
makes the network VQGAN's (Esser et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.experiment import Key
from jaxgen.families.vae.encoder_decoder import Decoder, Encoder
from jaxgen.families.vae.gaussian import DiagonalGaussian, standard_normal
from jaxgen.nn.convolution import Picture
from jaxgen.nn.linear import Linear

Encoded = Float[Array, "batch grid_height grid_width encoded"]
Latent = Float[Array, "batch grid_height grid_width latent"]

# A log variance beyond these is taken for one of them: exp stays finite, and the gradient is cut
# off where a latent is as good as certain.
_LOG_VARIANCE = (-30.0, 20.0)


class AutoencoderKL(nn.Module):
    """Stable Diffusion's autoencoder; the defaults are its widths.

    image_channels: of the pictures.
    widths: channels of each level; each level halves the resolution of the one before.
    blocks: residual blocks a level of the encoder; the decoder has one more.
    latent_channels: of a latent.
    gaussian: the encoder gives a mean and a log variance for each latent channel; False: the
        latent alone, for a quantizer.
    groups: of every normalization; None chooses by width, as `GroupNorm` does.
    scaling_factor, shift: bring latents to mean 0 and deviation 1, for a model of the latents:
        (latent - shift) · scaling_factor. Autoencoding itself doesn't look at them.
    dtype: of the computation; parameters, latents and pictures stay float32.
    """

    image_channels: int = 3
    widths: Sequence[int] = (128, 256, 512, 512)
    blocks: int = 2
    latent_channels: int = 4
    gaussian: bool = True
    groups: int | None = 32
    scaling_factor: float = 0.18215
    shift: float = 0.0
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """The parts: encoder, decoder, and a linear map of each vector on either side."""
        encoded = self.latent_channels * (2 if self.gaussian else 1)
        self.encoder = Encoder(self.widths, self.blocks, encoded, self.groups, self.dtype)
        self.decoder = Decoder(
            self.widths, self.blocks, self.image_channels, self.groups, self.dtype
        )
        names = ("channels_in", "channels_out")
        # The 1×1 convolutions called quant_conv and post_quant_conv in Stable Diffusion's weights.
        self.before_bottleneck = Linear((encoded,), names)
        self.after_bottleneck = Linear((self.latent_channels,), names)

    def __call__(self, picture: Picture) -> Picture:
        """Through all parameters: the reconstruction from the first `latent_channels` encoded."""
        return self.decode(self.encode(picture)[..., : self.latent_channels])

    def encode(self, picture: Picture) -> Encoded:
        """Pictures in [-1, 1] -> what the bottleneck takes, means before log variances."""
        return self.before_bottleneck(self.encoder(picture))

    def decode(self, latent: Latent) -> Float[Array, "batch height width image_channels"]:
        """Latents -> pictures, about in [-1, 1]: nothing clips them."""
        return self.decoder(self.after_bottleneck(latent))

    def normalized(self, latent: Latent) -> Latent:
        """Latents as a diffusion model wants them, with mean 0 and deviation 1."""
        return (latent - self.shift) * self.scaling_factor

    def unnormalized(self, latent: Latent) -> Latent:
        """The inverse of `normalized`: what `decode` takes."""
        return latent / self.scaling_factor + self.shift


@runtime_checkable
class Passed(Protocol):
    """What comes out of a bottleneck.

    values: the latents that the decoder gets, with a gradient to the encoder.
    loss: what the bottleneck adds to the objective, a scalar.
    state: its next state, of the structure of the one before.
    metrics: scalars to log.
    """

    @property
    def values(self) -> Any:
        """The latents."""
        ...

    @property
    def loss(self) -> Any:
        """The added loss."""
        ...

    @property
    def state(self) -> Any:
        """The next state."""
        ...

    @property
    def metrics(self) -> Any:
        """What to log."""
        ...


# `(encoded, state, key, train) -> Passed`; without training nothing is random, the state comes
# back as it was, and the key may be None.
Bottleneck = Callable[[Encoded, Any, Key | None, bool], Passed]


@flax.struct.dataclass
class GaussianPassed:
    """A `Passed` of `gaussian_bottleneck`: its state is empty, its metric "kl_per_latent"."""

    values: Any
    loss: Any
    state: Any
    metrics: Any


def posterior(encoded: Encoded) -> DiagonalGaussian:
    """Means and log variances -> the distribution of the latents; log variances are clamped."""
    mean, log_variance = jnp.split(encoded, 2, axis=-1)
    return DiagonalGaussian(mean, 0.5 * jnp.clip(log_variance, *_LOG_VARIANCE))


def gaussian_bottleneck(kl_weight: float) -> Bottleneck:
    """Latents drawn from a Gaussian that is held, slightly, to the standard normal distribution.

    Its loss is `kl_weight` times the divergence in nats of a latent number, averaged over all of
    them; its values are the posterior's draws in training and its means otherwise.

    kl_weight: Stable Diffusion's 1e-6 multiplies sums over a picture, where the reconstruction is
        a sum too. With means on both sides that is 1e-6 times the latent numbers for each number of
        the picture: 1e-6 · (4 · 32²) / (3 · 256²) for its pictures.
    """

    def bottleneck(encoded: Encoded, state: Any, key: Key | None, train: bool) -> GaussianPassed:
        latent = posterior(encoded)
        divergence = jnp.mean(latent.divergence(standard_normal(latent.mean.shape)))
        values = latent.mean if key is None or not train else latent.sample(key)
        return GaussianPassed(values, kl_weight * divergence, state, {"kl_per_latent": divergence})

    return bottleneck
