"""The evidence lower bound of a hierarchical VAE: as terms, as a loss, as importance weights.

    log p(x) ≥ E_q log p(x | z) - Σ_i E KL(q(z_i | z_<i, x) ‖ p(z_i | z_<i))

Papers: Child 2020 (arXiv 2011.10650), equation 2; free bits by Kingma et al. 2016 (arXiv
1606.04934), section 5.1; importance weights by Burda et al. 2015 (arXiv 1509.00519).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.experiment import Context, Key, Loss, Output, Params
from jaxgen.families.vae.bernoulli import Bernoulli
from jaxgen.families.vae.hierarchical import Descent, HierarchicalVAE
from jaxgen.families.vae.hierarchical_blocks import Picture
from jaxgen.families.vae.logistic_mixture import DiscretizedLogisticMixture
from jaxgen.families.vae.objectives import Schedule, over_entries

# (params, key, pictures, samples) -> log p(x, z) - log q(z | x) of each draw, (samples, batch)
LogWeights = Callable[[Params, Key, Picture, int], Array]
# (the network's outputs, pictures in [-1, 1]) -> log p(x | z) in nats, of each number or pixel.
LogLikelihood = Callable[[Picture, Picture], Float[Array, "batch *parts"]]


def mixture_likelihood(
    outputs: Float[Array, "batch height width numbers"], picture: Picture
) -> Float[Array, "batch height width"]:
    """Of pictures with 256 levels, each pixel a discretized mixture of logistics."""
    return DiscretizedLogisticMixture.of(outputs, picture.shape[-1]).log_probability(picture)


def mixture_mean(outputs: Float[Array, "batch height width numbers"]) -> Picture:
    """The expected grey picture, in [-1, 1]."""
    return DiscretizedLogisticMixture.of(outputs, channels=1).mean()


def bernoulli_mean(outputs: Picture) -> Picture:
    """The expected picture, in [-1, 1]."""
    return 2 * Bernoulli(outputs).mean() - 1


def bernoulli_likelihood(outputs: Picture, picture: Picture) -> Picture:
    """Of pictures that are all -1 and 1; one output a number."""
    return Bernoulli(outputs).log_probability((picture + 1) / 2)


@flax.struct.dataclass
class Bound:
    """The terms of the evidence lower bound, in nats, for each picture.

    reconstruction: log p(x | z), (batch,).
    divergence: KL of each group, the topmost first, (batch, groups).
    """

    reconstruction: Any
    divergence: Any

    def total(self) -> Float[Array, "batch"]:
        """The bound on log p(x)."""
        return self.reconstruction - self.divergence.sum(-1)


def bound(log_likelihood: LogLikelihood, descent: Descent, picture: Picture) -> Bound:
    """The terms, by one draw of z; the divergences are exact given the groups above."""
    divergences = [over_entries(draw.posterior.divergence(draw.prior)) for draw in descent.draws]
    return Bound(
        reconstruction=over_entries(log_likelihood(descent.outputs, picture)[None])[0],
        divergence=jnp.concatenate(divergences).T,
    )


def whole_bound(
    network: HierarchicalVAE,
    log_likelihood: LogLikelihood,
    params: Params,
    key: Key,
    pictures: np.ndarray,
    rows: int = 100,
) -> Bound:
    """The terms for a whole set of pictures, `rows` at a time, one draw of z each."""

    @jax.jit
    def terms(params: Params, key: Key, some: Picture) -> Bound:
        descent: Any = network.apply({"params": params}, some, key)
        return bound(log_likelihood, descent, some)

    count = len(pictures)
    parts = []
    for start in range(0, count, rows):
        # The last rows repeat a picture, so that one compiled function serves all.
        indices = np.minimum(np.arange(start, start + rows), count - 1)
        part = terms(params, jax.random.fold_in(key, start), pictures[indices])
        parts.append(jax.tree.map(lambda leaf, left=count - start: leaf[:left], part))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def log_weights(network: HierarchicalVAE, log_likelihood: LogLikelihood) -> LogWeights:
    """The function (params, key, pictures, samples) -> log p(x, z) / q(z | x), (samples, batch).

    It is what importance-weighted bounds average: its expectation is the evidence lower bound, and
    the mean of its exponential is p(x).
    """

    def weights(
        params: Params, key: Key, picture: Picture, samples: int
    ) -> Float[Array, "samples batch"]:
        def one(key: Key) -> Float[Array, "batch"]:
            descent: Any = network.apply({"params": params}, picture, key)
            value = over_entries(log_likelihood(descent.outputs, picture)[None])[0]
            for draw in descent.draws:
                prior = draw.prior.log_probability(draw.latent)
                value += over_entries(prior - draw.posterior.log_probability(draw.latent)).sum(0)
            return value

        # Of the encoder, which sees no key, this makes one pass for all samples.
        return jax.vmap(one)(jax.random.split(key, samples))

    return weights


def hierarchical_loss(
    network: HierarchicalVAE,
    log_likelihood: LogLikelihood,
    observe: Callable[[Any, Key], Picture],
    *,
    beta: Schedule,
    free_nats: float = 0.0,
) -> Loss:
    """The negative bound in nats a picture.

    observe: (batch, key) -> the pictures that are modelled, in [-1, 1].
    beta: the weight of the divergences at each step; `objectives.warm_up`, or `constant(1.0)`.
    free_nats: each group's mean divergence over the batch costs at least this much (λ), so that
        none is given up for a gain below it.

    Logs the terms unweighted, as `bound_metrics` has them.
    """

    def loss(params: Params, context: Context) -> Output:
        data_key, latent_key = jax.random.split(context.key)
        picture = observe(context.batch, data_key)
        descent: Any = network.apply({"params": params}, picture, latent_key)
        terms = bound(log_likelihood, descent, picture)
        cost = jnp.maximum(terms.divergence.mean(0), free_nats).sum()
        return Output(
            value=beta(context.step) * cost - terms.reconstruction.mean(),
            weight=picture.shape[0],
            metrics=bound_metrics(terms, network.sizes, network.groups, picture[0].size),
        )

    return loss


def bound_metrics(
    terms: Bound, sizes: Sequence[int], groups: Sequence[int], numbers: int
) -> dict[str, Float[Array, ""]]:
    """Means over the batch: in nats a picture, and bits for each of a picture's `numbers`."""
    negative = -terms.total().mean()
    metrics = {
        "negative_elbo": negative,
        "reconstruction_error": -terms.reconstruction.mean(),
        "bits_per_dimension": negative / (numbers * math.log(2)),
    }
    first = 0
    # Groups are in the decoder's order, from the topmost level down.
    for size, count in reversed(list(zip(sizes, groups, strict=True))):
        if count:
            members = terms.divergence[:, first : first + count]
            metrics[f"divergence_{size}"] = members.sum(-1).mean()
            first += count
    return metrics
