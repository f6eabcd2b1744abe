"""How likely held-out data is under a latent-variable model, by sampling its latents.

Two estimates of log p(x), both below it on average and equal to it in the limit: the
importance-weighted bound, with more samples, and annealed importance sampling, with more
temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.experiment import Key, Params
from jaxgen.parallel.sharding import fetched

# (params, key, x (batch, ...), samples) -> log p(x, zᵢ) - log q(zᵢ | x), (samples, batch)
LogWeights = Callable[[Params, Key, Array, int], Array]


def importance_weighted_bound(
    log_weights: LogWeights,
    params: Params,
    key: Key,
    observed: Float[Any, "items *item"],
    samples: int = 5000,
    chunk: int = 50,
    rows: int = 100,
) -> Float[np.ndarray, "items"]:
    """E log 1/k Σ wᵢ ≤ log p(x) for each item, in nats (Burda et al. 2015, equation 8).

    samples: k. At most `chunk` of them, for `rows` items, are held at once: the largest number that
        divides both. It changes nothing but which random numbers fall where.

    Raises:
        UserError: if there are no samples to take.
    """
    if samples < 1 or chunk < 1:
        raise UserError(f"A bound takes at least 1 sample at a time, not {samples} by {chunk}.")
    chunk = math.gcd(samples, chunk)
    count = len(observed)
    found = []
    for start in range(0, count, rows):
        # The last rows repeat an item, so that one compiled function serves all.
        indices = np.minimum(np.arange(start, start + rows), count - 1)
        batch_key = jax.random.fold_in(key, start)
        found.append(
            _bound(log_weights, samples // chunk, chunk, params, batch_key, observed[indices])
        )
    return np.concatenate([np.asarray(fetched(part), np.float64) for part in found])[:count]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _bound(
    log_weights: LogWeights, chunks: int, chunk: int, params: Params, key: Key, observed: Array
) -> Float[Array, "rows"]:
    def joined(total: Array, index: Array) -> tuple[Array, None]:
        some = log_weights(params, jax.random.fold_in(key, index), observed, chunk)
        return jnp.logaddexp(total, jax.nn.logsumexp(some, axis=0)), None

    nothing = jnp.full(observed.shape[0], -jnp.inf)
    total, _ = jax.lax.scan(joined, nothing, jnp.arange(chunks))
    return total - math.log(chunks * chunk)


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """Nats per item to bits per entry of the item."""
    return nats / (dimensions * math.log(2))


class Annealed(NamedTuple):
    """What annealed importance sampling found.

    log_evidence: (items,), an estimate of log p(x) in nats.
    acceptance: mean rate at which moves were accepted; far from 0.65, distrust the estimate.
    """

    log_evidence: Float[Array, "items"]
    acceptance: Float[Array, ""]


class _Chain(NamedTuple):
    latent: Array  # (chains, items, latent)
    log_weight: Array  # (chains, items)
    step_size: Array  # (chains, items)
    accepted: Array  # (), the sum of acceptance rates so far


def annealed_importance_sampling(
    log_likelihood: Callable[[Float[Array, "chains items latent"]], Float[Array, "chains items"]],
    key: Key,
    items: int,
    latent: int,
    chains: int = 16,
    temperatures: int = 1000,
    leapfrogs: int = 10,
) -> Annealed:
    """log p(x) under the prior N(0, 1), by Hamiltonian moves from the prior to the posterior.

    Neal 2001, as Wu et al. 2017 use it on decoders: p(z) p(x | z)^β with β from 0 to 1 along a
    sigmoid, `leapfrogs` a move, the step of each chain grown by 2 % when accepted and shrunk
    by 2 % when not. The mean of the weights is unbiased for p(x). Call it inside `jax.jit`.

    log_likelihood: z -> log p(x | z), with x in it.
    """

    def log_density(beta: Array, z: Array) -> Array:
        return _log_normal(z) + beta * log_likelihood(z)

    def move(chain: _Chain, step: tuple[Array, Array, Key]) -> tuple[_Chain, None]:
        before, beta, step_key = step
        log_weight = chain.log_weight + (beta - before) * log_likelihood(chain.latent)
        momentum_key, accept_key = jax.random.split(step_key)
        momentum = jax.random.normal(momentum_key, chain.latent.shape)
        slope = jax.grad(lambda z: log_density(beta, z).sum())
        size = chain.step_size[..., None]

        def leapfrog(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            z, momentum = state
            momentum = momentum + 0.5 * size * slope(z)
            z = z + size * momentum
            return (z, momentum + 0.5 * size * slope(z)), None

        (proposed, final), _ = jax.lax.scan(
            leapfrog, (chain.latent, momentum), None, length=leapfrogs
        )
        gain = (
            log_density(beta, proposed)
            - log_density(beta, chain.latent)
            + 0.5 * (jnp.square(momentum) - jnp.square(final)).sum(-1)
        )
        accept = jnp.log(jax.random.uniform(accept_key, gain.shape)) < gain
        return _Chain(
            latent=jnp.where(accept[..., None], proposed, chain.latent),
            log_weight=log_weight,
            step_size=jnp.clip(chain.step_size * jnp.where(accept, 1.02, 0.98), 1e-4, 1.0),
            accepted=chain.accepted + accept.mean(),
        ), None

    start_key, move_key = jax.random.split(key)
    # Dense near both ends, where the distribution changes fastest.
    bend = jax.nn.sigmoid(jnp.linspace(-4.0, 4.0, temperatures + 1))
    betas = (bend - bend[0]) / (bend[-1] - bend[0])
    shape = (chains, items)
    start = _Chain(
        latent=jax.random.normal(start_key, (*shape, latent)),
        log_weight=jnp.zeros(shape),
        step_size=jnp.full(shape, 0.1),
        accepted=jnp.zeros(()),
    )
    keys = jax.random.split(move_key, temperatures)
    end, _ = jax.lax.scan(move, start, (betas[:-1], betas[1:], keys))
    evidence = jax.nn.logsumexp(end.log_weight, axis=0) - math.log(chains)
    return Annealed(evidence, end.accepted / temperatures)


def _log_normal(z: Float[Array, "*rows latent"]) -> Float[Array, "*rows"]:
    return -0.5 * (jnp.square(z) + math.log(2 * math.pi)).sum(-1)
