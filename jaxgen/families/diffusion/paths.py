"""The path from data to noise, and the four things a network may predict about it.

    x_t = α(t) x + σ(t) ε,    ε ~ N(0, 1)

Every diffusion and flow model is this line with its own signal level α and noise level σ. The
derivatives follow from the levels by automatic differentiation, and a prediction of one kind (the
data, the noise, the score, the velocity) follows from any other, so a schedule is two functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Time = Float[Array, "batch"]
Items = Float[Array, "batch *item"]
Level = Callable[[Time], Time]
Condition = Any  # any pytree whose leaves are (batch, ...): a class, an embedded text, a picture
Denoiser = Callable[[Items, Time, Condition], Items]  # (x_t, t, condition) -> prediction


class Levels(NamedTuple):
    """The path's coefficients at some times, shaped to multiply items: each (batch, 1, ..., 1).

    signal: α(t).
    noise: σ(t).
    signal_rate: dα/dt.
    noise_rate: dσ/dt.
    """

    signal: Array
    noise: Array
    signal_rate: Array
    noise_rate: Array


@dataclass(frozen=True)
class NoisePath:
    """x_t = signal_level(t)·x + noise_level(t)·noise, for t between data_time and noise_time.

    signal_level: α, elementwise, differentiable by `jax.jvp`.
    noise_level: σ, likewise.
    noise_time: where sampling starts; there, α x is lost in the noise.
    data_time: where it ends.
    """

    signal_level: Level
    noise_level: Level
    noise_time: float = 1.0
    data_time: float = 0.0

    def levels(self, time: Time, items: Items) -> Levels:
        """α, σ and their derivatives at `time`, each shaped to multiply `items`."""
        signal, signal_rate = jax.jvp(self.signal_level, (time,), (jnp.ones_like(time),))
        noise, noise_rate = jax.jvp(self.noise_level, (time,), (jnp.ones_like(time),))
        shape = time.shape + (1,) * (items.ndim - 1)
        return Levels(
            signal.reshape(shape),
            noise.reshape(shape),
            signal_rate.reshape(shape),
            noise_rate.reshape(shape),
        )

    def log_signal_to_noise(self, time: Time) -> Time:
        """λ(t) = log(α² / σ²), the variable in which all paths look alike (Kingma et al. 2021)."""
        return 2 * (jnp.log(self.signal_level(time)) - jnp.log(self.noise_level(time)))

    def noised(self, data: Items, noise: Items, time: Time) -> Items:
        """x_t."""
        at = self.levels(time, data)
        return at.signal * data + at.noise * noise


def rectified_flow() -> NoisePath:
    """Straight lines from data at t = 0 to noise at t = 1 (Liu et al. 2022; Lipman et al. 2022).

    Time runs as in diffusion, towards the noise; both papers write it the other way around.
    """
    return NoisePath(signal_level=lambda time: 1 - time, noise_level=lambda time: time)


class Ends(NamedTuple):
    """The two ends of the line that a noisy item lies on."""

    data: Items
    noise: Items


@dataclass(frozen=True)
class Prediction:
    """One kind of thing that a network may predict, tied to the ends of the line it stands for.

    ends: `(prediction, x_t, levels) -> Ends`, whose `noised` is x_t again.
    from_ends: `(ends, levels) -> prediction`, its inverse.
    """

    ends: Callable[[Items, Items, Levels], Ends]
    from_ends: Callable[[Ends, Levels], Items]


def _ends_of_data(data: Items, noisy: Items, at: Levels) -> Ends:
    return Ends(data, (noisy - at.signal * data) / at.noise)


def _ends_of_noise(noise: Items, noisy: Items, at: Levels) -> Ends:
    return Ends((noisy - at.noise * noise) / at.signal, noise)


def _ends_of_score(score: Items, noisy: Items, at: Levels) -> Ends:
    return _ends_of_noise(-at.noise * score, noisy, at)


def _ends_of_velocity(velocity: Items, noisy: Items, at: Levels) -> Ends:
    # x_t = α x + σ ε and v = α' x + σ' ε, two equations solved for x and ε by Cramer's rule.
    determinant = at.signal * at.noise_rate - at.noise * at.signal_rate
    data = (at.noise_rate * noisy - at.noise * velocity) / determinant
    noise = (at.signal * velocity - at.signal_rate * noisy) / determinant
    return Ends(data, noise)


# E[x | x_t]. Tells the noise only where σ > 0.
DATA = Prediction(_ends_of_data, lambda ends, at: ends.data)

# E[ε | x_t]. Tells the data only where α > 0.
NOISE = Prediction(_ends_of_noise, lambda ends, at: ends.noise)

# ∇ log p_t(x_t) = -E[ε | x_t] / σ (Song et al. 2021, by Tweedie's formula).
SCORE = Prediction(_ends_of_score, lambda ends, at: -ends.noise / at.noise)

# E[dx_t/dt | x_t], the right-hand side of the probability-flow ODE (Lipman et al. 2022).
VELOCITY = Prediction(
    _ends_of_velocity,
    lambda ends, at: at.signal_rate * ends.data + at.noise_rate * ends.noise,
)


def convert(
    path: NoisePath,
    value: Items,
    noisy: Items,
    time: Time,
    *,
    given: Prediction,
    wanted: Prediction,
) -> Items:
    """The `wanted` prediction that says the same about x_t as `value`, a `given` one."""
    if given is wanted:
        return value
    at = path.levels(time, noisy)
    return wanted.from_ends(given.ends(value, noisy, at), at)


def predicting(
    wanted: Prediction, denoiser: Denoiser, path: NoisePath, given: Prediction
) -> Denoiser:
    """`denoiser`, whose prediction is a `given` one, as a denoiser of the `wanted` prediction."""

    def converted(noisy: Items, time: Time, condition: Condition) -> Items:
        value = denoiser(noisy, time, condition)
        return convert(path, value, noisy, time, given=given, wanted=wanted)

    return converted
