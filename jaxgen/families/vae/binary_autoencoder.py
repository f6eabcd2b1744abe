"""A variational autoencoder of black and white pictures, put together from its parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.experiment import Key, Params
from jaxgen.families.vae.bernoulli import Bernoulli
from jaxgen.families.vae.gaussian import DiagonalGaussian, standard_normal
from jaxgen.families.vae.inverse_autoregressive import (
    InverseAutoregressiveFlow,
    InverseAutoregressivePosterior,
)
from jaxgen.families.vae.objectives import LatentVariableModel, over_entries
from jaxgen.families.vae.vamp_prior import PseudoInputs, VampPrior

Pictures = Float[Array, "count height width channels"]
Latents = Float[Array, "count latent"]


@dataclass(frozen=True)
class BinaryAutoencoder:
    """Networks to functions of one tree of parameters, {"encoder", "decoder", "flow", "pseudo"}.

    latent: entries of z.
    encoder: pictures of 0 and 1 -> `DiagonalGaussian` over (batch, latent).
    decoder: latents (..., latent) -> logits (..., height, width, channels).
    flow: bends the posterior, or None; it is told the Gaussian's mean and log deviation.
    pseudo_inputs: make the prior a `VampPrior`, or None: N(0, 1).
    """

    latent: int
    encoder: nn.Module
    decoder: nn.Module
    flow: InverseAutoregressiveFlow | None = None
    pseudo_inputs: PseudoInputs | None = None

    @cached_property
    def model(self) -> LatentVariableModel:
        """What the objectives and the importance-weighted bound take."""
        return LatentVariableModel(self.infer, self.log_prior, self.log_likelihood)

    def init(self, key: Key, pictures: Any) -> Params:
        """Fresh parameters; `pictures` for their shape alone."""
        keys = jax.random.split(key, 4)
        gaussian, params = self.encoder.init_with_output(keys[0], pictures)
        tree = {
            "encoder": params["params"],
            "decoder": self.decoder.init(keys[1], gaussian.mean)["params"],
        }
        if self.flow is not None:
            tree["flow"] = self.flow.init(keys[2], gaussian.mean, _context(gaussian))["params"]
        if self.pseudo_inputs is not None:
            tree["pseudo"] = self.pseudo_inputs.init(keys[3])["params"]
        return tree

    def infer(
        self, params: Params, observed: Pictures
    ) -> DiagonalGaussian | InverseAutoregressivePosterior:
        """q(z | x)."""
        gaussian = self._gaussian(params, observed)
        flow = self.flow
        if flow is None:
            return gaussian

        def bend(latent: Array, context: Array) -> Any:
            return flow.apply({"params": params["flow"]}, latent, context)

        return InverseAutoregressivePosterior(gaussian, _context(gaussian), bend)

    def log_prior(
        self, params: Params, latent: Float[Array, "samples batch latent"]
    ) -> Float[Array, "samples batch"]:
        """log p(z) in nats."""
        if self.pseudo_inputs is not None:
            return self._vamp_prior(params).log_probability(latent)
        return over_entries(standard_normal(latent.shape).log_probability(latent))

    def log_likelihood(
        self, params: Params, observed: Pictures, latent: Float[Array, "samples batch latent"]
    ) -> Float[Array, "samples batch"]:
        """log p(x | z) in nats."""
        return over_entries(self._pixels(params, latent).log_probability(observed))

    def encode(self, params: Params, pictures: Pictures) -> Latents:
        """The mean latent of pictures in [-1, 1], grey ones too, before any flow."""
        return self._gaussian(params, (pictures + 1) / 2).mean

    def decode(self, params: Params, latent: Latents) -> Pictures:
        """Each pixel's probability to be white, as pictures in [-1, 1]."""
        return 2 * self._pixels(params, latent).mean() - 1

    def reconstruct(self, params: Params, key: Key, pictures: Pictures) -> Pictures:
        """Pictures in [-1, 1] by way of one draw from the posterior."""
        (latent,), _ = self.infer(params, (pictures + 1) / 2).draw(key, 1)
        return self.decode(params, latent)

    def draw(self, params: Params, key: Key, count: int, temperature: Any = 1.0) -> Pictures:
        """So many pictures in [-1, 1] from the prior, its deviations scaled by `temperature`."""
        if self.pseudo_inputs is None:
            latent = temperature * jax.random.normal(key, (count, self.latent))
            return self.decode(params, latent)
        mixture = self._vamp_prior(params).posteriors
        scaled = DiagonalGaussian(mixture.mean, mixture.log_deviation + jnp.log(temperature))
        return self.decode(params, VampPrior(scaled).sample(key, count))

    def _gaussian(self, params: Params, observed: Pictures) -> DiagonalGaussian:
        gaussian: Any = self.encoder.apply({"params": params["encoder"]}, observed)
        return gaussian

    def _pixels(self, params: Params, latent: Float[Array, "*rows latent"]) -> Bernoulli:
        return Bernoulli(self.decoder.apply({"params": params["decoder"]}, latent))

    def _vamp_prior(self, params: Params) -> VampPrior:
        assert self.pseudo_inputs is not None
        pictures: Any = self.pseudo_inputs.apply({"params": params["pseudo"]})
        return VampPrior(self._gaussian(params, (pictures + 1) / 2))


def _context(gaussian: DiagonalGaussian) -> Float[Array, "batch context"]:
    return jnp.concatenate([gaussian.mean, gaussian.log_deviation], axis=-1)
