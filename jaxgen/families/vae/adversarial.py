"""Training an autoencoder with a perceptual and an adversarial term, as VQGAN and its heirs are.

Esser et al. 2021, "Taming Transformers for High-Resolution Image Synthesis", section 3.1;
Rombach et al. 2022, appendix G. Two updates in turn: the autoencoder moves down

    ‖x - x̂‖₁ + perceptual + λ · adversarial + bottleneck

and the discriminator learns to tell x from x̂. λ balances the two gradients where they arrive, at
the decoder's last layer. Until the reconstruction is fair there is nothing to judge, so that the
discriminator and its term begin some steps later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxgen.experiment import Batch, Context, Key, Model, Output, Params, Variables
from jaxgen.families.vae.autoencoder_kl import AutoencoderKL, Bottleneck, Latent, Passed
from jaxgen.nn.adversary import HINGE, Adversary
from jaxgen.nn.convolution import Picture

Scalar = Float[Array, ""]

_OFFSET = 1e-4  # δ: added to the adversarial gradient's length; the paper has 1e-6, its code this
_HIGHEST = 1e4  # of λ, as in the paper's code


def adaptive_weight(reconstruction_slope: Params, adversarial_slope: Params) -> Scalar:
    """λ, by which the adversarial gradient becomes as long as the reconstruction's.

    λ = ‖∇ L_rec‖ / (‖∇ L_GAN‖ + δ) at the decoder's last layer (Esser et al. 2021, equation 7), at
    most 10⁴; it counts as a constant.
    """
    ratio = optax.tree.norm(reconstruction_slope) / (optax.tree.norm(adversarial_slope) + _OFFSET)
    return jax.lax.stop_gradient(jnp.minimum(ratio, _HIGHEST))


def sloped(value: Scalar, slope: Picture, at: Picture) -> Scalar:
    """`value`, whose gradient by `at` is said to be `slope`.

    Where a gradient had to be known anyway, it isn't computed a second time.
    """
    rise = jnp.sum(jax.lax.stop_gradient(slope) * (at - jax.lax.stop_gradient(at)))
    return jax.lax.stop_gradient(value) + rise


@dataclass(frozen=True)
class AdversarialAutoencoder:
    """An autoencoder, its bottleneck and its discriminator, with the losses of both.

    Parameters are {"autoencoder": ..., "discriminator": ...}, one update for each; the model's
    `variables` are the bottleneck's state.

    network: its parameters' "decoder/convolution_out" is the last layer.
    bottleneck: `gaussian_bottleneck(...)`, or the `quantize` of a quantizer.
    discriminator: pictures -> logits.
    perceptual: (pictures, reconstructions) -> a distance for each; None leaves the term out.
    adversary: `HINGE` or `NON_SATURATING`.
    perceptual_weight: of the perceptual term; the mean absolute error has 1.
    adversarial_weight: of the adversarial term, times λ.
    start: the step in which the discriminator and its term begin.
    """

    network: AutoencoderKL
    bottleneck: Bottleneck
    discriminator: nn.Module
    perceptual: Callable[[Picture, Picture], Float[Array, "batch"]] | None = None
    adversary: Adversary = HINGE
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.5
    start: int = 0

    def init(self, key: Key, batch: Batch) -> Params:
        """Both networks' parameters, for pictures such as batch["image"]."""
        one, other = jax.random.split(key)
        return {
            "autoencoder": self.network.init(one, batch["image"])["params"],
            "discriminator": self.discriminator.init(other, batch["image"])["params"],
        }

    def autoencoder_loss(self, params: Params, context: Context) -> Output:
        """What the update that moves "autoencoder" minimizes, over "image" in [-1, 1].

        Logs "absolute_error", "perceptual", "adversarial", its whole factor
        "adversarial_weight", and the bottleneck's metrics.
        """
        picture = jnp.asarray(context.batch["image"])
        autoencoder, judge = params["autoencoder"], jax.lax.stop_gradient(params["discriminator"])
        passed = self._passed(autoencoder, picture, context.variables, context.key, True)

        def render(last: Params) -> Picture:
            decoder = autoencoder["decoder"] | {"convolution_out": last}
            return self._decode(autoencoder | {"decoder": decoder}, passed.values)

        made, to_last = jax.vjp(render, autoencoder["decoder"]["convolution_out"])
        fixed = jax.lax.stop_gradient(made)

        def likeness(made: Picture) -> tuple[Scalar, dict[str, Scalar]]:
            terms = {"absolute_error": jnp.mean(jnp.abs(made - picture))}
            value = terms["absolute_error"]
            if self.perceptual is not None:
                terms["perceptual"] = jnp.mean(self.perceptual(picture, made))
                value += self.perceptual_weight * terms["perceptual"]
            return value, terms

        def fooling(made: Picture) -> Scalar:
            return self.adversary.generator(self._judge(judge, picture), self._judge(judge, made))

        (value, terms), slope = jax.value_and_grad(likeness, has_aux=True)(fixed)
        started = context.step >= self.start
        fool, fool_slope = jax.lax.cond(
            started,
            jax.value_and_grad(fooling),
            lambda made: (jnp.zeros(()), jnp.zeros_like(made)),
            fixed,
        )
        balance = adaptive_weight(
            *(to_last(jax.lax.stop_gradient(each)) for each in (slope, fool_slope))
        )
        weight = jnp.where(started, self.adversarial_weight * balance, 0.0)
        total = sloped(value + weight * fool, slope + weight * fool_slope, made)
        return Output(
            value=total + passed.loss,
            weight=picture.shape[0],
            metrics={
                **terms,
                "adversarial": fool,
                "adversarial_weight": weight,
                **passed.metrics,
            },
            variables=passed.state,
        )

    def discriminator_loss(self, params: Params, context: Context) -> Output:
        """What the update that moves "discriminator" minimizes: nothing before `start`.

        Logs the mean logits "real" and "made".
        """
        picture = jnp.asarray(context.batch["image"])

        def judged(judge: Params) -> tuple[Scalar, Scalar, Scalar]:
            autoencoder = jax.lax.stop_gradient(params["autoencoder"])
            passed = self._passed(autoencoder, picture, context.variables, context.key, True)
            made = jax.lax.stop_gradient(self._decode(autoencoder, passed.values))
            real_logits, made_logits = self._judge(judge, picture), self._judge(judge, made)
            # Halved, as VQGAN's code has it.
            value = 0.5 * self.adversary.discriminator(real_logits, made_logits)
            return value, jnp.mean(real_logits), jnp.mean(made_logits)

        value, real, made = jax.lax.cond(
            context.step >= self.start,
            judged,
            lambda judge: (jnp.zeros(()),) * 3,
            params["discriminator"],
        )
        metrics = {"real": real, "made": made}
        return Output(value=value, weight=picture.shape[0], metrics=metrics)

    def encode(self, model: Model, pictures: Picture) -> Latent:
        """The latents of pictures in [-1, 1]: posterior means, or codes."""
        return self.passed(model, pictures).values

    def decode(self, model: Model, latent: Latent) -> Picture:
        """The pictures of latents, clipped to [-1, 1]."""
        return jnp.clip(self._decode(model.params["autoencoder"], latent), -1, 1)

    def reconstruct(self, model: Model, key: Key, pictures: Picture) -> Picture:
        """Encoded and decoded again; nothing random in it."""
        return self.decode(model, self.encode(model, pictures))

    def passed(self, model: Model, pictures: Picture) -> Passed:
        """The bottleneck's whole answer for pictures in [-1, 1], outside training."""
        return self._passed(model.params["autoencoder"], pictures, model.variables, None, False)

    def _passed(
        self, autoencoder: Params, picture: Picture, state: Variables, key: Key | None, train: bool
    ) -> Passed:
        encoded: Any = self.network.apply({"params": autoencoder}, picture, method="encode")
        return self.bottleneck(encoded, state, key, train)

    def _decode(self, autoencoder: Params, latent: Latent) -> Any:
        return self.network.apply({"params": autoencoder}, latent, method="decode")

    def _judge(self, judge: Params, picture: Picture) -> Any:
        return self.discriminator.apply({"params": judge}, picture)
