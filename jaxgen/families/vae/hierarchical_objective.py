"""The evidence lower bound of a hierarchical VAE: as terms, as a loss, as importance weights.

    log p(x) ≥ E_q log p(x | z) - Σ_i E KL(q(z_i | z_<i, x) ‖ p(z_i | z_<i))

Papers: Child 2020 (arXiv 2011.10650), equation 2; free bits by Kingma et al. 2016 (arXiv 1606.04934),
section 5.1; warm-up by Sønderby et al. 2016 (arXiv 1602.02282); importance weights by Burda et al.
2016 (arXiv 1509.00519).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.experiment import Context, Key, Loss, Output, Params
from jaxgen.families.vae.hierarchical import Descent, HierarchicalVAE
from jaxgen.families.vae.hierarchical_blocks import Picture


class Pixels(Protocol):
    """A distribution of pictures, as a likelihood makes it from a network's outputs."""

    def log_probability(self, picture: Picture, /) -> Float[Array, "batch ..."]:
        """In nats, of each picture, pixel or number."""
        ...

    def mean(self) -> Picture:
        """The expected picture."""
        ...

    def sample(self, key: Key, /) -> Picture:
        """A picture drawn from it."""
        ...


Likelihood = Callable[[Picture], Any]  # a network's outputs -> Pixels


@flax.struct.dataclass
class Bound:
    """The terms of the evidence lower bound, in nats, for each picture.

    reconstruction: log p(x | z).
    divergence: KL of each group, the topmost first.
    """

    reconstruction: Float[Array, "batch"]
    divergence: Float[Array, "batch groups"]

    def total(self) -> Float[Array, "batch"]:
        """The bound on log p(x)."""
        return self.reconstruction - self.divergence.sum(-1)


def bound(likelihood: Likelihood, descent: Descent, picture: Picture) -> Bound:
    """The terms, by one draw of z; the divergences are exact given the groups above."""
    divergences = [_of_each_group(draw.posterior.divergence(draw.prior)) for draw in descent.draws]
    return Bound(
        reconstruction=_of_each(likelihood(descent.outputs).log_probability(picture)),
        divergence=jnp.concatenate(divergences).T,
    )


def log_weights(
    network: HierarchicalVAE, likelihood: Likelihood, params: Params, key: Key, picture: Picture
) -> Float[Array, "batch"]:
    """log p(x, z) / q(z | x) for one draw of z a picture: what importance-weighted bounds average.

    Its expectation is the evidence lower bound; the mean of its exponential is p(x).
    """
    descent = network.apply({"params": params}, picture, key)
    value = _of_each(likelihood(descent.outputs).log_probability(picture))
    for draw in descent.draws:
        ratio = draw.prior.log_probability(draw.latent) - draw.posterior.log_probability(
            draw.latent
        )
        value += _of_each_group(ratio).sum(0)
    return value


def hierarchical_loss(
    network: HierarchicalVAE,
    likelihood: Likelihood,
    *,
    free_nats: float = 0.0,
    warmup: int = 0,
) -> Loss:
    """The negative bound in nats a picture, over a batch of "image".

    free_nats: each group's mean divergence over the batch costs at least this much (λ), so that
        none is given up for a gain below it.
    warmup: steps over which the weight of the divergences rises to 1.

    Logs the terms unweighted: "negative_elbo", "reconstruction", "bits_per_dimension", and for
    each level "divergence_SIZE".
    """

    def loss(params: Params, context: Context) -> Output:
        picture = context.batch["image"]
        descent = network.apply({"params": params}, picture, context.key)
        terms = bound(likelihood, descent, picture)
        share = jnp.minimum(1.0, (context.step + 1) / warmup) if warmup else 1.0
        cost = jnp.maximum(terms.divergence.mean(0), free_nats).sum()
        return Output(
            value=share * cost - terms.reconstruction.mean(),
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
        "reconstruction": -terms.reconstruction.mean(),
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


def _of_each(values: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
    """Sums over all but the pictures."""
    return values.reshape(values.shape[0], -1).sum(-1)


def _of_each_group(
    values: Float[Array, "groups batch height width latent"],
) -> Float[Array, "groups batch"]:
    return values.sum((2, 3, 4))
