"""Which experts each token goes to, and what keeps a router even.

Top-k routing (Shazeer et al. 2017) with the losses of Switch Transformer (Fedus et al. 2021) and
ST-MoE (Zoph et al. 2022).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Logits = Float[Array, "*rows experts"]
Chosen = Int[Array, "*rows chosen"]
Weights = Float[Array, "*rows chosen"]
Real = Bool[Array, "*rows"]


def top_experts(logits: Logits, chosen: int, renormalize: bool) -> tuple[Chosen, Weights]:
    """The most probable experts of each token, best first, and their weights.

    renormalize: whether a token's weights are made to sum to 1, as in Mixtral (Jiang et al. 2024);
        Switch Transformer's weight is the probability itself, which is how its router learns.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    left, indices, weights = probabilities, [], []
    # One after the other: the compiler can't split jax.lax.top_k over devices, and would have
    # each of them look at all tokens.
    for _ in range(chosen):
        best = left.argmax(-1)
        taken = jax.nn.one_hot(best, logits.shape[-1])
        indices.append(best)
        weights.append((probabilities * taken).sum(-1))
        left = left - 2 * taken
    stacked = jnp.stack(weights, axis=-1)
    if renormalize:
        stacked = stacked / stacked.sum(-1, keepdims=True)
    return jnp.stack(indices, axis=-1), stacked


def load(chosen: Chosen, experts: int, real: Real | None = None) -> Float[Array, "experts"]:
    """Each expert's share of all assignments of tokens; padding, where `real` is False, apart."""
    tokens = chosen.reshape(-1, chosen.shape[-1])
    counts = jax.nn.one_hot(tokens, experts).sum(1)
    return _mean(counts, real) / chosen.shape[-1]


def load_balance_loss(logits: Logits, chosen: Chosen, real: Real | None = None) -> Float[Array, ""]:
    """experts · Σ load · mean probability: 1 for a router that spreads evenly (Fedus et al. 2021).

    Equations 4 to 6, with shares of assignments where a token has several: a single layer of
    Hugging Face's `load_balancing_loss_func` gives `chosen` times as much. With one expert for
    all, a router that always takes the same gets `experts`.
    """
    experts = logits.shape[-1]
    probabilities = jax.nn.softmax(logits, axis=-1).reshape(-1, experts)
    return experts * jnp.sum(load(chosen, experts, real) * _mean(probabilities, real))


def z_loss(logits: Logits, real: Real | None = None) -> Float[Array, ""]:
    """The mean square of log Σ exp(logits), which keeps them small (Zoph et al. 2022, eq. 5)."""
    squares = jnp.square(jax.nn.logsumexp(logits, axis=-1))
    return _mean(squares.reshape(-1, 1), real)[0]


def entropy(shares: Float[Array, "experts"]) -> Float[Array, ""]:
    """In nats; log(experts) where all shares are alike."""
    return jax.scipy.special.entr(shares).sum()


def _mean(rows: Float[Array, "rows columns"], real: Real | None) -> Float[Array, "columns"]:
    if real is None:
        return rows.mean(0)
    counts = real.reshape(-1, 1).astype(rows.dtype)
    return (rows * counts).sum(0) / jnp.maximum(counts.sum(), 1)
