"""Integrators of the probability-flow ODE, plain functions over a denoiser of the velocity.

All share one signature, `(denoiser, start, times, condition, keep_path) -> Solution`, so that a
sampler takes any of them, and run as one `scan` over the intervals of any grid of times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.families.diffusion.paths import Condition, Denoiser, Items


class Solution(NamedTuple):
    """What a solver returns.

    end: (batch, ...) at the last of the times.
    path: (times, batch, ...), start and end included; None unless asked for.
    """

    end: Items
    path: Float[Array, "times batch *item"] | None


# (denoiser, start, times, condition, keep_path) -> Solution: what every function below is. It
# follows the denoiser's velocity from `start` at times[0] to times[-1].
Solver = Callable[[Denoiser, Items, Float[Array, "times"], Condition, bool], Solution]


def euler(
    denoiser: Denoiser,
    start: Items,
    times: Float[Array, "times"],
    condition: Condition,
    keep_path: bool = False,
) -> Solution:
    """Euler's method: x += (t' - t) v(x, t). Order 1, one evaluation an interval.

    On the variance-preserving path it is DDIM up to its choice of variables (Song et al. 2020).
    """

    def step(x: Items, now: Float[Array, ""], then: Float[Array, ""]) -> Items:
        return x + (then - now) * denoiser(x, _for_each(now, x), condition)

    return _integrate(step, start, times, keep_path)


def heun(
    denoiser: Denoiser,
    start: Items,
    times: Float[Array, "times"],
    condition: Condition,
    keep_path: bool = False,
) -> Solution:
    """Heun's method, the explicit trapezoid rule. Order 2, two evaluations an interval.

    Algorithm 1 of EDM (Karras et al. 2022), except that the last interval is no exception: the
    velocity has to be finite at times[-1].
    """

    def step(x: Items, now: Float[Array, ""], then: Float[Array, ""]) -> Items:
        def slope(before: Items, time: Float[Array, ""]) -> tuple[Items, Items]:
            here = denoiser(x + (then - now) * before, _for_each(time, x), condition)
            return here, here

        # Both slopes by one scan, so that the network is compiled once and not twice.
        _, slopes = jax.lax.scan(slope, jnp.zeros_like(x), jnp.stack([now, then]))
        return x + (then - now) * slopes.mean(0)

    return _integrate(step, start, times, keep_path)


def uniform_times(start: float, end: float, steps: int) -> Float[Array, "times"]:
    """`steps` intervals of one length: (steps + 1,), float32, from `start` to `end`."""
    return jnp.linspace(start, end, steps + 1, dtype=jnp.float32)


def _for_each(time: Float[Array, ""], x: Items) -> Float[Array, "batch"]:
    return jnp.full(x.shape[:1], time)


def _integrate(
    step: Callable[[Items, Float[Array, ""], Float[Array, ""]], Items],
    start: Items,
    times: Float[Array, "times"],
    keep_path: bool,
) -> Solution:
    def advance(
        x: Items, interval: tuple[Float[Array, ""], Float[Array, ""]]
    ) -> tuple[Items, Items | None]:
        x = step(x, *interval)
        return x, x if keep_path else None

    end, visited = jax.lax.scan(advance, start, (times[:-1], times[1:]))
    if visited is None:
        return Solution(end, None)
    return Solution(end, jnp.concatenate([start[None], visited]))
