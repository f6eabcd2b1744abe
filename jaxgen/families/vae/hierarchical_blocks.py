"""What a hierarchical VAE is stacked from: residual branches and groups of latent variables.

Papers: Child 2020, "Very Deep VAEs" (arXiv 2011.10650), figure 3; Vahdat & Kautz 2020, "NVAE"
(arXiv 2007.03898), section 3.2, for posteriors that are told relative to the prior.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgen.experiment import Key
from jaxgen.families.vae.gaussian import DiagonalGaussian
from jaxgen.nn.convolution import convolution

Picture = Float[Array, "batch height width channels"]
Temperature = float | Float[Array, ""]

# What a group's posterior is, given its prior and a Gaussian that the network tells.
Posterior = Callable[[DiagonalGaussian, DiagonalGaussian], DiagonalGaussian]


def absolute(prior: DiagonalGaussian, told: DiagonalGaussian) -> DiagonalGaussian:
    """VDVAE's posterior: what the network tells, whatever the prior."""
    return told


def relative(prior: DiagonalGaussian, told: DiagonalGaussian) -> DiagonalGaussian:
    """NVAE's residual posterior N(μ + Δμ, (σ·Δσ)²) around the prior N(μ, σ²), equation 3.

    When the prior moves, the posterior moves along; told nothing, it is the prior, at no cost.
    """
    return DiagonalGaussian(prior.mean + told.mean, prior.log_deviation + told.log_deviation)


@flax.struct.dataclass
class Draw:
    """What happened in one group.

    prior: p(z | groups above).
    posterior: q(z | picture, groups above), or None where z came from the prior.
    latent: z, (batch, height, width, channels).
    """

    prior: DiagonalGaussian
    posterior: DiagonalGaussian | None
    latent: Any


class Branch(nn.Module):
    """Four convolutions, each after a GELU, narrow in the middle: VDVAE's block, no normalization.

    features: of the answer.
    middle: channels in between.
    gain: of the last convolution's initial kernel.
    zero: start as the zero function.
    dtype: of the computation.
    """

    features: int
    middle: int
    gain: float = 1.0
    zero: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, picture: Picture) -> Float[Array, "batch height width {self.features}"]:
        """Any number of channels -> `features`."""
        # Below 3×3 most of a wide kernel would only ever see the border.
        reach = 3 if min(picture.shape[1:3]) > 2 else 1
        for index, kernel in enumerate((1, reach, reach)):
            layer = convolution(self.middle, kernel, dtype=self.dtype, name=f"convolution_{index}")
            picture = layer(nn.gelu(picture))
        last = convolution(
            self.features, 1, gain=self.gain, zero=self.zero, dtype=self.dtype, name="last"
        )
        return last(nn.gelu(picture))


class Residual(nn.Module):
    """A branch on its shortcut, in the form in which `stacked` takes a layer."""

    middle: int
    gain: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, picture: Picture) -> tuple[Picture, None]:
        """-> the same shape, and nothing to keep."""
        branch = Branch(picture.shape[-1], self.middle, self.gain, dtype=self.dtype, name="branch")
        return picture + branch(picture), None


def stacked(
    layer: type[nn.Module], length: int, unroll: bool, in_axes: tuple[Any, ...] = ()
) -> Any:
    """`length` such layers one after the other: a scan over stacked parameters.

    The layer takes the state and arguments, of which `in_axes` says whether they are the same for
    all (`nn.broadcast`) or one for each (0), and returns the next state and what is to be kept.

    unroll: write the layers out instead of looping: more to compile. On CPUs the loop's
        convolutions take ten times as long.
    """
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=in_axes,
        length=length,
        unroll=length if unroll else 1,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


class StochasticGroup(nn.Module):
    """One group of latent variables, and what it tells the state that runs down the decoder.

    latent: channels of z.
    middle: channels inside the branches.
    gain: of the initial kernels that end a branch, 1/√(groups in all).
    posterior: `absolute` or `relative`.
    dtype: of the convolutions; the Gaussians are float32.

    Prior and posterior both start as N(0, 1), so that training starts at a KL divergence of 0.
    """

    latent: int
    middle: int
    gain: float
    posterior: Posterior
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        state: Picture,
        key: Key,
        observed: Bool[Array, ""],
        evidence: Float[Array, "batch height width evidence"] | None,
        temperature: Temperature,
    ) -> tuple[Picture, Draw]:
        """The state and the encoder's activations of this size -> the next state.

        observed: whether z comes from the posterior, where there is evidence; else it comes from
            the prior, whose standard deviation is multiplied by `temperature`.
        evidence: (batch, height, width, any channels), or None.
        """
        width = state.shape[-1]
        # The prior's branch also tells the state what it knows without z (VDVAE's h).
        hidden = self._branch(2 * self.latent + width, "prior")(state)
        prior, known = self._gaussian(hidden), hidden[..., 2 * self.latent :]
        noise = jax.random.normal(key, prior.mean.shape)
        latent = prior.mean + temperature * jnp.exp(prior.log_deviation) * noise
        posterior = None
        if evidence is not None:
            told = self._branch(2 * self.latent, "posterior")(
                jnp.concatenate([state, evidence], axis=-1)
            )
            posterior = self.posterior(prior, self._gaussian(told))
            inferred = posterior.mean + jnp.exp(posterior.log_deviation) * noise
            latent = jnp.where(observed, inferred, latent)
        project = convolution(width, 1, gain=self.gain, dtype=self.dtype, name="latent")
        state = state + known + project(latent)
        residual = Branch(width, self.middle, self.gain, dtype=self.dtype, name="residual")
        return state + residual(state), Draw(prior, posterior, latent)

    def _branch(self, features: int, name: str) -> Branch:
        return Branch(features, self.middle, zero=True, dtype=self.dtype, name=name)

    def _gaussian(self, hidden: Picture) -> DiagonalGaussian:
        mean, log_deviation = jnp.split(
            hidden[..., : 2 * self.latent].astype(jnp.float32), 2, axis=-1
        )
        # NVAE's soft clamp to (-5, 5): a KL divergence of groups without bounds can explode.
        return DiagonalGaussian(mean, 5 * jnp.tanh(log_deviation / 5))
