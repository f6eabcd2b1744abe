"""What a variational autoencoder is trained down: bounds on -log p(x), in nats per item.

    log p(x) ≥ E_q [log p(x, z) - log q(z | x)]                                   the ELBO
    log p(x) ≥ E_q [log 1/k Σᵢ wᵢ],  wᵢ = p(x, zᵢ) / q(zᵢ | x)                    the IWAE bound

A model is three pure functions of the parameters (`LatentVariableModel`); a loss is made of it and
of `observe`, which says what of a batch is x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.experiment import Batch, Context, Key, Loss, Output, Params
from jaxgen.families.vae.gaussian import DiagonalGaussian

Observed = Float[Array, "batch *item"]
Latents = Float[Array, "samples batch *latent"]
LogWeights = Float[Array, "samples batch"]
Observe = Callable[[Batch, Key], Array]  # a batch to x (batch, ...); the key is for dequantizing
Schedule = Callable[[Any], Any]  # a step to a number


@runtime_checkable
class Posterior(Protocol):
    """q(z | x): whatever can be drawn from together with its density."""

    def draw(self, key: Key, samples: int) -> tuple[Array, Array]:
        """z (samples, batch, ...), and log q(z | x) entry by entry, of the same shape."""
        ...


@dataclass(frozen=True)
class LatentVariableModel:
    """p(z) p(x | z) with its posterior q(z | x).

    infer: (params, x (batch, ...)) -> `Posterior`.
    log_prior: (params, z (samples, batch, ...)) -> (samples, batch), in nats.
    log_likelihood: (params, x (batch, ...), z (samples, batch, ...)) -> (samples, batch).
    """

    infer: Callable[[Params, Array], Any]
    log_prior: Callable[[Params, Array], Array]
    log_likelihood: Callable[[Params, Array, Array], Array]

    def log_weights(self, params: Params, key: Key, observed: Observed, samples: int) -> LogWeights:
        """log wᵢ = log p(x | zᵢ) + log p(zᵢ) - log q(zᵢ | x) of so many draws from q."""
        latent, density = self.infer(params, observed).draw(key, samples)
        return self._log_joint(params, observed, latent) - over_entries(density)

    def _log_joint(self, params: Params, observed: Observed, latent: Latents) -> LogWeights:
        return self.log_likelihood(params, observed, latent) + self.log_prior(params, latent)


def over_entries(values: Float[Array, "samples batch *entries"]) -> LogWeights:
    """The sum over all axes but the first two."""
    return values.reshape(*values.shape[:2], -1).sum(-1)


def constant(value: float) -> Schedule:
    """The same number at every step."""
    return lambda step: value


def warm_up(steps: int, highest: float = 1.0) -> Schedule:
    """From 0 linearly to `highest` over so many steps (Sønderby et al. 2016)."""
    return lambda step: highest * jnp.minimum(1.0, (step + 1) / steps)


def sampled_bound_loss(
    model: LatentVariableModel, observe: Observe, samples: int = 1, beta: Schedule | None = None
) -> Loss:
    """-ELBO with log q - log p by the same samples as the likelihood (SGVB A, Kingma & Welling).

    Works for any posterior and prior. `beta` weighs the divergence (Higgins et al. 2017) by the
    step. Logs "distortion" (-log p(x | z)), "rate" (the divergence) and "bound" (their sum).
    """
    weigh = beta or constant(1.0)

    def loss(params: Params, context: Context) -> Output:
        observed, key = _observed(observe, context)
        latent, density = model.infer(params, observed).draw(key, samples)
        rate = over_entries(density) - model.log_prior(params, latent)
        distortion = -model.log_likelihood(params, observed, latent)
        return _bound(distortion.mean(), rate.mean(), weigh(context.step), rate.mean(), observed)

    return loss


def analytic_bound_loss(
    model: LatentVariableModel,
    prior: Callable[[Params, DiagonalGaussian], DiagonalGaussian],
    observe: Observe,
    samples: int = 1,
    beta: Schedule | None = None,
    free_nats: float = 0.0,
) -> Loss:
    """-ELBO with the divergence between Gaussians in closed form (SGVB B, Kingma & Welling 2013).

    prior: (params, posterior) -> p(z), shaped as the posterior.
    free_nats: each entry of the latent is charged at least so much, as a mean over the batch, so
        that no gradient pushes it below (free bits: Kingma et al. 2016, equation 16).
    """
    weigh = beta or constant(1.0)

    def loss(params: Params, context: Context) -> Output:
        observed, key = _observed(observe, context)
        posterior = model.infer(params, observed)
        latent, _ = posterior.draw(key, samples)
        entries = posterior.divergence(prior(params, posterior)).mean(0)
        charged = jnp.maximum(entries, free_nats).sum()
        distortion = -model.log_likelihood(params, observed, latent).mean()
        return _bound(distortion, charged, weigh(context.step), entries.sum(), observed)

    return loss


def importance_weighted_loss(model: LatentVariableModel, observe: Observe, samples: int) -> Loss:
    """-log 1/k Σ wᵢ over k samples (Burda et al. 2015, equation 8); with one, the sampled -ELBO.

    Logs "effective_samples", (Σw)² / Σw²: how many of the k count.
    """

    def loss(params: Params, context: Context) -> Output:
        observed, key = _observed(observe, context)
        log_weights = model.log_weights(params, key, observed, samples)
        return _importance_weighted(log_weights, -log_mean(log_weights).mean(), observed)

    return loss


def doubly_reparameterized_loss(model: LatentVariableModel, observe: Observe, samples: int) -> Loss:
    """The IWAE bound with DReG's gradient (Tucker et al. 2018, equation 8): less noisy, unbiased.

    With w̃ the normalized weights, the decoder's gradient is Σ w̃ᵢ ∇log wᵢ, as in IWAE; the
    encoder's is Σ w̃ᵢ² ∂log wᵢ/∂zᵢ · ∇zᵢ: only through the samples, not through the density. The
    posterior has to be a `DiagonalGaussian`; `UserError` for any other.
    """

    def loss(params: Params, context: Context) -> Output:
        observed, key = _observed(observe, context)
        posterior = model.infer(params, observed)
        if not isinstance(posterior, DiagonalGaussian):
            raise UserError(
                "DReG's gradient needs the density of given latents under a Gaussian posterior: "
                "train with a posterior that no flow bends, or by the IWAE bound's own gradient."
            )
        latent, _ = posterior.draw(key, samples)
        fixed = jax.lax.stop_gradient(posterior)

        def log_weights(latent: Latents) -> LogWeights:
            density = over_entries(fixed.log_probability(latent))
            return model._log_joint(params, observed, latent) - density

        # Written twice, computed once: the forward passes are the same and the compiler joins them.
        plain = jax.lax.stop_gradient(log_weights(latent))
        share = jax.nn.softmax(plain, axis=0)
        surrogate = -(share * log_weights(scaled_gradient(latent, share))).sum(0).mean()
        value = -log_mean(plain).mean()
        # The surrogate's gradient under the bound's value.
        joined = surrogate + jax.lax.stop_gradient(value - surrogate)
        return _importance_weighted(plain, joined, observed)

    return loss


def log_mean(log_weights: LogWeights) -> Float[Array, "batch"]:
    """log 1/k Σ exp over the samples."""
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(float(log_weights.shape[0]))


@jax.custom_vjp
def scaled_gradient(latent: Latents, scale: LogWeights) -> Latents:
    """`latent` itself; the gradient that comes back through it is multiplied by `scale`."""
    return latent


def _scaled_forward(latent: Latents, scale: LogWeights) -> tuple[Latents, LogWeights]:
    return latent, scale


def _scaled_backward(scale: LogWeights, gradient: Latents) -> tuple[Latents, None]:
    return gradient * scale.reshape(*scale.shape, *[1] * (gradient.ndim - 2)), None


scaled_gradient.defvjp(_scaled_forward, _scaled_backward)


def _observed(observe: Observe, context: Context) -> tuple[Array, Key]:
    observing, drawing = jax.random.split(context.key)
    return observe(context.batch, observing), drawing


def _bound(distortion: Any, charged: Any, beta: Any, rate: Any, observed: Observed) -> Output:
    metrics = {"distortion": distortion, "rate": rate, "bound": distortion + rate}
    value = distortion + beta * charged
    return Output(value=value, weight=float(observed.shape[0]), metrics=metrics)


def _importance_weighted(log_weights: LogWeights, value: Any, observed: Observed) -> Output:
    share = jax.nn.softmax(log_weights, axis=0)
    effective = (1 / jnp.square(share).sum(0)).mean()
    metrics = {"effective_samples": effective}
    return Output(value=value, weight=float(observed.shape[0]), metrics=metrics)
