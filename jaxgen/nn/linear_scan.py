"""h_t = a_t·h_{t-1} + b_t for all t at once, by an associative scan, of numbers and of logarithms.

Pairs (a, b) stand for maps h -> a·h + b; one after another they make (a₂·a₁, a₂·b₁ + b₂), which is
associative, so that a tree of them of depth log₂(time) makes all (Blelloch 1990; Martin & Cundy
2018). The gradients are recurrences of the same kind that run backwards, so no tree is kept.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from jaxgen.nn.recurrence import Marks

Steps = Inexact[Array, "batch time *rest"]
State = Inexact[Array, "batch *rest"]
Pair = tuple[Array, Array]


@jax.custom_vjp
def linear_scan(decay: Steps, addition: Steps, initial: State) -> Steps:
    """All h_t = a_t·h_{t-1} + b_t, real or complex.

    decay, addition: a and b, in the precision that h is to have.
    initial: h_0, the state before the first step.
    """
    return _forward(decay, addition, initial)[0]


def _forward(decay: Array, addition: Array, initial: Array) -> tuple[Array, Any]:
    from_before = addition.at[:, 0].add(decay[:, 0] * initial)
    _, states = jax.lax.associative_scan(_composed, (decay, from_before), axis=1)
    return states, (decay, states, initial)


def _backward(kept: Any, slopes: Array) -> tuple[Array, Array, Array]:
    """With λ_t = slope_t + a_{t+1}·λ_{t+1}: b's slope is λ_t, a's is λ_t·h_{t-1}."""
    decay, states, initial = kept
    total = _accumulated(decay, slopes)
    return total * _delayed(initial, states), total, decay[:, 0] * total[:, 0]


linear_scan.defvjp(_forward, _backward)


@jax.custom_vjp
def log_linear_scan(log_decay: Steps, log_addition: Steps, log_initial: State) -> Steps:
    """All log h_t = log(a_t·h_{t-1} + b_t) of positive numbers, from log a and log b.

    Nothing under- or overflows on the way (Heinsen 2023; Feng et al. 2024, appendix B.1). All
    arguments may be -inf: log a = -inf forgets, log b = -inf adds nothing.

    log_initial: log h_0.
    """
    return _log_forward(log_decay, log_addition, log_initial)[0]


def _log_forward(decay: Array, addition: Array, initial: Array) -> tuple[Array, Any]:
    first = jnp.logaddexp(decay[:, 0] + initial, addition[:, 0])
    from_before = addition.at[:, 0].set(first)
    _, states = jax.lax.associative_scan(_log_composed, (decay, from_before), axis=1)
    return states, (decay, addition, initial, states)


def _log_backward(kept: Any, slopes: Array) -> tuple[Array, Array, Array]:
    """With w_t = a_t·h_{t-1}/h_t, the share of h_t that was there before, it is all linear.

    By hand, because the slope of logaddexp(-inf, -inf) is NaN; here a share of nothing is 0.
    """
    decay, addition, initial, states = kept
    present = jnp.where(states == -jnp.inf, 0.0, states)
    old = jnp.exp(decay + _delayed(initial, states) - present)
    new = jnp.exp(addition - present)
    total = _accumulated(old, slopes)
    return total * old, total * new, total[:, 0] * old[:, 0]


log_linear_scan.defvjp(_log_forward, _log_backward)


def kept(decay: Steps, marks: Marks | None, logarithm: bool = False) -> Steps:
    """The decays a with the marks in them: 0 where a text begins, 1 where nothing is read.

    logarithm: these are log a.
    """
    forget, stay = (-jnp.inf, 0.0) if logarithm else (0.0, 1.0)
    if marks is None:
        return decay
    if marks.reads is not None:
        decay = jnp.where(_over(marks.reads, decay), decay, stay)
    if marks.begins is not None:
        decay = jnp.where(_over(marks.begins, decay), forget, decay)
    return decay


def added(addition: Steps, marks: Marks | None, logarithm: bool = False) -> Steps:
    """The additions b with the marks in them: 0 where nothing is read.

    logarithm: these are log b.
    """
    if marks is None or marks.reads is None:
        return addition
    return jnp.where(_over(marks.reads, addition), addition, -jnp.inf if logarithm else 0.0)


def _over(mark: Array, x: Array) -> Array:
    return mark.reshape(*mark.shape, *[1] * (x.ndim - 2))


def _composed(first: Pair, second: Pair) -> Pair:
    return second[0] * first[0], second[0] * first[1] + second[1]


def _log_composed(first: Pair, second: Pair) -> Pair:
    return second[0] + first[0], jnp.logaddexp(second[0] + first[1], second[1])


def _accumulated(decay: Array, slopes: Array) -> Array:
    """λ_t = slope_t + a_{t+1}·λ_{t+1}."""
    ahead = jnp.concatenate([decay[:, 1:], jnp.zeros_like(decay[:, :1])], axis=1)
    _, total = jax.lax.associative_scan(_composed, (ahead, slopes), reverse=True, axis=1)
    return total


def _delayed(initial: Array, states: Array) -> Array:
    """h_{t-1} at each step."""
    return jnp.concatenate([initial[:, None], states[:, :-1]], axis=1)
