"""Optax optimizers as jaxgen's experiments use them: clipped, with decay where it belongs.

Any Optax transformation serves as an `Update`'s optimizer; these are the ones that need care.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from jaxgen.errors import UserError
from jaxgen.experiment import Params, Path

Schedule = float | Callable[[Any], Any]


def is_weight(path: Path) -> bool:
    """Whether a leaf is a weight that decays, going by its name, as Linen gives them.

    The number of axes doesn't tell: the biases of scanned layers have two.
    """
    return path[-1] in ("kernel", "embedding")


def delayed(schedule: optax.Schedule, start: int) -> optax.Schedule:
    """`schedule`, begun at update `start`: for what joins a training later."""
    return lambda update: schedule(jnp.maximum(update - start, 0))


def warmup_cosine(
    peak: float, steps: int, warmup: int = 0, final: float = 0.0
) -> Callable[[Any], Any]:
    """A linear rise to `peak` over `warmup` updates, then half a cosine down to `final`.

    SGDR's cosine (Loshchilov & Hutter 2017) without restarts.
    """
    return optax.warmup_cosine_decay_schedule(
        init_value=peak / (warmup + 1) if warmup else peak,
        peak_value=peak,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=final,
    )


def warmup_stable_decay(
    peak: float, steps: int, warmup: int = 0, decay: int = 0, final: float = 0.0
) -> Callable[[Any], Any]:
    """A linear rise, a plateau, and a linear fall over the last `decay` updates.

    The trapezoid of Hägele et al. 2024 ("Scaling laws and compute-optimal training beyond fixed
    training durations").
    """
    return optax.join_schedules(
        [
            optax.linear_schedule(peak / (warmup + 1), peak, max(warmup, 1)),
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, final, max(decay, 1)),
        ],
        [warmup, max(steps - decay, warmup)],
    )


def cosine(first: float, last: float, steps: int) -> Callable[[Any], Any]:
    """Half a cosine from `first` at update 0 to `last` at `steps`, and `last` from there on.

    Unlike a decay, it may rise, or begin at 0.
    """

    def at(update: Any) -> Any:
        done = jnp.minimum(update / steps, 1.0)
        return last + (first - last) * 0.5 * (1 + jnp.cos(jnp.pi * done))

    return at


def half_life(items: Schedule, batch_size: int) -> Callable[[Any], Any]:
    """The decay of a moving average in which a value counts half after so many training items.

    For `Update.ema`: n -> 0.5^(batch_size / items(n)), n the updates so far. At a half-life of 0
    the average is the newest value.
    """

    def decay(update: Any) -> Any:
        now = items(update) if callable(items) else items
        return 0.5 ** (batch_size / jnp.maximum(now, 1e-6))

    return decay


def adam(
    learning_rate: Schedule, *, b1: float = 0.9, b2: Schedule = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015), whose b2 may follow a schedule too, as R3GAN's does.

    The second moments' start at zero is made up for by the b2 of the moment, as PyTorch does.
    """
    if not callable(b2):
        return optax.adam(learning_rate, b1, b2, eps)
    scheduled = optax.inject_hyperparams(optax.adam, static_args=("b1", "eps", "eps_root"))
    return scheduled(learning_rate, b1, b2, eps)


def adamw(
    learning_rate: Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 0.0,
    decays: Callable[[Path], bool] = is_weight,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019), decaying only the leaves that `decays` picks.

    `clip` bounds the gradient's global norm over all leaves that the update moves.
    """
    return clipped(
        optax.adamw(learning_rate, b1, b2, weight_decay=weight_decay, mask=_mask(decays)), clip
    )


def lion(
    learning_rate: Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.99,
    weight_decay: float = 0.0,
    decays: Callable[[Path], bool] = is_weight,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """Lion (Chen et al. 2023), decaying only the leaves that `decays` picks."""
    return clipped(
        optax.lion(learning_rate, b1, b2, weight_decay=weight_decay, mask=_mask(decays)), clip
    )


def adafactor(
    learning_rate: Schedule,
    *,
    weight_decay: float | None = None,
    decays: Callable[[Path], bool] = is_weight,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """Adafactor (Shazeer & Stern 2018): second moments of matrices as rows and columns."""
    return clipped(
        optax.adafactor(
            learning_rate, weight_decay_rate=weight_decay, weight_decay_mask=_mask(decays)
        ),
        clip,
    )


def muon(
    learning_rate: Schedule,
    matrices: Callable[[Path], MuonDimensionNumbers | None],
    *,
    adam_learning_rate: Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
    adam_weight_decay: float = 0.0,
    match_adam: float | None = None,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) for the matrices, AdamW for all other leaves.

    `matrices(path)` says which axes of a leaf a matrix is made of, all other axes counting as
    stacks of matrices (`MuonDimensionNumbers(1, 2)` for the kernels of scanned layers), or None
    for AdamW. Nothing is guessed from the number of axes: Optax's own guess sends scanned kernels
    to Adam and embeddings to Muon. `match_adam` scales moves to Adam's size, 0.2 by Liu et al.
    2025; None scales by √max(1, output/input).

    Raises:
        UserError: when the optimizer is made ready, if `matrices` picks no leaf at all.
    """

    def dimensions(params: Params) -> Any:
        chosen = jax.tree_util.tree_map_with_path(lambda path, _: matrices(_names(path)), params)
        if not jax.tree.leaves(chosen):
            raise UserError("Muon was given no matrices: `matrices` returned None for every leaf.")
        return chosen

    return clipped(
        optax.contrib.muon(
            learning_rate,
            beta=momentum,
            weight_decay=weight_decay,
            adam_b1=b1,
            adam_b2=b2,
            adam_weight_decay=adam_weight_decay,
            adam_learning_rate=adam_learning_rate,
            muon_weight_dimension_numbers=dimensions,
            consistent_rms=match_adam,
        ),
        clip,
    )


def clipped(
    optimizer: optax.GradientTransformation, norm: float | None
) -> optax.GradientTransformation:
    """`optimizer` on gradients whose global norm is at most `norm` (Pascanu et al. 2013)."""
    if norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(norm), optimizer)


def weights_within(
    optimizer: optax.GradientTransformation, limit: float
) -> optax.GradientTransformation:
    """`optimizer`, after whose moves every weight lies in [-limit, limit].

    WGAN's weight clipping (Arjovsky et al. 2017, algorithm 1), which holds a critic's slope in the
    crudest way. It clips weights, not gradients, and biases as well.

    Raises:
        UserError: unless `limit` is above 0.
    """
    if limit <= 0:
        raise UserError(f"Weights can't be held within {limit}: give a limit above 0.")

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moves, state = optimizer.update(gradients, state, params)
        held = jax.tree.map(
            lambda move, weight: jnp.clip(weight + move, -limit, limit) - weight, moves, params
        )
        return held, state

    return optax.GradientTransformation(optimizer.init, update)


def scaled_rates(
    optimizer: optax.GradientTransformation, factor: Callable[[Path], float]
) -> optax.GradientTransformation:
    """`optimizer`, each leaf moved by `factor(path)` times as much, its decay included.

    For rates that differ from leaf to leaf, as µP's do (`nn/maximal_update.py`).
    """

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moves, state = optimizer.update(gradients, state, params)
        scaled = jax.tree_util.tree_map_with_path(
            lambda path, move: factor(_names(path)) * move, moves
        )
        return scaled, state

    return optax.GradientTransformation(optimizer.init, update)


def _mask(decays: Callable[[Path], bool]) -> Callable[[Params], Any]:
    return lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: decays(_names(path)), params
    )


def _names(path: Any) -> Path:
    return tuple(key.key for key in path)
