"""Learning from which of two answers was preferred, without a reward model.

Direct preference optimization (Rafailov et al. 2023). Parameters are two whole models:

    params = with_reference(trained)  # {"policy": ..., "reference": ...}
    Update("policy", preference_loss(model), optimizer, moves="policy")

so that the reference is a part that nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import UserError
from jaxgen.experiment import Context, Loss, Output, Params
from jaxgen.families.autoregressive.language_model import LanguageModel
from jaxgen.families.autoregressive.likelihood import row_nats

# (margins (rows,), beta) -> the loss of each pair (rows,). A margin is how much more likely the
# chosen answer has become than the rejected one, in nats: log π/π_ref of the one less the other's.
Cost = Callable[[Array, float], Array]


def logistic(margins: Float[Array, "rows"], beta: float) -> Float[Array, "rows"]:
    """-log σ(β·margin): DPO (Rafailov et al. 2023, equation 7)."""
    return -jax.nn.log_sigmoid(beta * margins)


def smoothed_logistic(smoothing: float) -> Cost:
    """DPO when a share `smoothing` of the pairs, below 1/2, is taken to be the wrong way round.

    Conservative DPO (Mitchell 2023); the margins then have an end: σ(β·margin) = 1 - smoothing.
    """
    if not 0 <= smoothing < 0.5:
        raise UserError(f"A share of {smoothing} wrong pairs isn't from 0 to below 1/2.")

    def cost(margins: Float[Array, "rows"], beta: float) -> Float[Array, "rows"]:
        wrong = logistic(-margins, beta)
        return (1 - smoothing) * logistic(margins, beta) + smoothing * wrong

    return cost


def squared(margins: Float[Array, "rows"], beta: float) -> Float[Array, "rows"]:
    """(margin - 1/(2β))²: IPO (Azar et al. 2023, equation 17, β being its τ)."""
    return jnp.square(margins - 1 / (2 * beta))


def preference_loss(
    model: LanguageModel,
    *,
    beta: float = 0.1,
    cost: Cost = logistic,
    reference: Callable[[Params], Params] = lambda params: params["reference"],
    chunk: int | None = None,
) -> Loss:
    """The mean cost of a pair, for parameters with a part "policy". Nothing is dropped.

    A batch has "chosen" and "rejected" (rows, length + 1), each a prompt with its answer, and
    "chosen_mask" and "rejected_mask" (rows, length), True where a token of the answer is predicted.

    Metrics: "accuracy", the share of pairs that the policy's rewards β·log π/π_ref order rightly,
    their mean difference, "margin", and the rewards themselves, "chosen_reward" and
    "rejected_reward".

    beta: how dear it is to leave the reference.
    reference: takes its parameters out of all. A policy with low-rank adapters needs no second
        model: `lambda params: without_adapters(params["policy"])`.
    chunk: as in `next_token_loss`.
    """

    def loss(params: Params, context: Context) -> Output:
        batch: Any = context.batch
        tokens = _interleaved(batch["chosen"], batch["rejected"])
        mask = _interleaved(batch["chosen_mask"], batch["rejected_mask"])

        def log_probability(params: Params) -> Array:
            return -row_nats(model, params, {"tokens": tokens, "mask": mask}, None, chunk)

        kept = jax.lax.stop_gradient(log_probability(reference(params)))
        gain = (log_probability(params["policy"]) - kept).reshape(-1, 2)
        margins = gain[:, 0] - gain[:, 1]
        rewards = beta * gain.mean(0)
        return Output(
            value=cost(margins, beta).mean(),
            weight=float(len(margins)),
            metrics={
                "accuracy": (margins > 0).mean(),
                "margin": beta * margins.mean(),
                "chosen_reward": rewards[0],
                "rejected_reward": rewards[1],
            },
        )

    return loss


def with_reference(params: Params) -> Params:
    """A model's parameters as policy, and a copy of them as reference."""
    # A copy, since a train step gives the old parameters' memory away.
    return {"policy": params, "reference": jax.tree.map(jnp.copy, params)}


def _interleaved(
    chosen: Int[Any, "rows time"] | Bool[Any, "rows time"],
    rejected: Int[Any, "rows time"] | Bool[Any, "rows time"],
) -> Int[Array, "twice time"] | Bool[Array, "twice time"]:
    """Both answers in one batch, a pair's side by side, so that no row leaves its device."""
    both = jnp.stack([jnp.asarray(chosen), jnp.asarray(rejected)], axis=1)
    return both.reshape(-1, both.shape[-1])
