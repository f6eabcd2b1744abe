"""Learning from which of two answers was preferred, without a reward model.

Direct preference optimization (Rafailov et al. 2023). Parameters are two whole models:

    params = with_reference(trained)  # {"policy": ..., "reference": ...}
    Update("policy", preference_loss(model), optimizer, moves="policy")

so that the reference is a part that nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import UserError
from jaxgen.experiment import Batch, Context, Items, Key, Loss, Model, Output, Params
from jaxgen.families.autoregressive.language_model import LanguageModel
from jaxgen.families.autoregressive.likelihood import Score, row_nats
from jaxgen.families.autoregressive.passes import whole_batches
from jaxgen.parallel.sharding import fetched

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
    likelihood: float = 0.0,
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
    likelihood: weight of -log p(chosen) a token, which keeps what is preferred from growing
        unlikely together with what isn't (Pang et al. 2024, equation 1).
    reference: takes its parameters out of all. A policy with low-rank adapters needs no second
        model: `lambda params: without_adapters(params["policy"])`.
    chunk: as in `next_token_loss`.
    """

    def loss(params: Params, context: Context) -> Output:
        kept = jax.lax.stop_gradient(_told(model, reference(params), context.batch, chunk))
        said = _told(model, params["policy"], context.batch, chunk)
        gain = said - kept
        margins = gain[:, 0] - gain[:, 1]
        rewards = beta * gain.mean(0)
        value = cost(margins, beta).mean()
        if likelihood:
            batch: Any = context.batch
            sizes = jnp.asarray(batch["chosen_mask"]).sum(1)
            value = value - likelihood * (said[:, 0] / jnp.maximum(sizes, 1)).mean()
        return Output(
            value=value,
            weight=float(len(margins)),
            metrics={
                "accuracy": (margins > 0).mean(),
                "margin": beta * margins.mean(),
                "chosen_reward": rewards[0],
                "rejected_reward": rewards[1],
            },
        )

    return loss


def ranked(
    model: LanguageModel,
    data: str,
    rows: int = 32,
    reference: Callable[[Params], Params] = lambda params: params["reference"],
    chunk: int | None = None,
) -> Score:
    """Scores every pair of `data[data]` once: how many of them are in the right order.

    "ranked", the share whose chosen answer is the likelier one to the policy, and "rewarded", whose
    has the higher reward: it is likelier to the policy than to the reference by a larger factor.

    rows: pairs in a batch.
    """

    def told(params: Params, batch: Batch) -> tuple[Array, Array]:
        likely = _told(model, params["policy"], batch, chunk)
        return likely, likely - _told(model, reference(params), batch, chunk)

    compiled = jax.jit(told)

    def score(trained: Model, datasets: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        pairs: Items = datasets[data]
        right = np.zeros(2)
        for batch, there in whole_batches(pairs, rows):
            found = fetched(compiled(trained.params, batch))
            right += [(each[there, 0] > each[there, 1]).sum() for each in found]
        return dict(zip(("ranked", "rewarded"), (right / len(pairs)).tolist(), strict=True))

    return score


def _told(
    model: LanguageModel, params: Params, batch: Any, chunk: int | None
) -> Float[Array, "pairs 2"]:
    """log p of the chosen and of the rejected answer."""
    tokens = _interleaved(batch["chosen"], batch["rejected"])
    mask = _interleaved(batch["chosen_mask"], batch["rejected_mask"])
    both = {"tokens": tokens, "mask": mask}
    return -row_nats(model, params, both, None, chunk).reshape(-1, 2)


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
