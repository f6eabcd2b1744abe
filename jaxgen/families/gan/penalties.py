"""What holds a critic's slope: gradient penalties, and consistency under augmentation.

Each is a function (critic, real, made, key) -> a mean, to be weighted in a `Penalty`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.experiment import Key

Things = Float[Array, "batch *shape"]
Logits = Float[Array, "batch *patches"]
Scalar = Float[Array, ""]
Critic = Callable[[Things], Logits]
Held = Callable[[Critic, Things, Things, Key], Scalar]


@dataclass(frozen=True)
class Penalty:
    """A term of the discriminator's loss.

    name: in the metrics, where the value without its weight is logged.
    of: (critic, real, made, key) -> a mean over the batch.
    weight: its factor (λ; γ/2 for R1 and R2), or step -> factor, steps counted from 0.
    every: is worked out in training steps every, 2·every, ... only, and then counts `every` times
        (Karras et al. 2020, appendix B), for an update that runs in every step. It stays a term of
        the one loss, not an `Update` of its own, whose optimizer would scale the weight away.
    """

    name: str
    of: Held
    weight: float | Callable[[Any], Any]
    every: int = 1

    def weight_at(self, step: Any) -> Any:
        """The factor at a training step."""
        return self.weight(step) if callable(self.weight) else self.weight


def squared_slopes(critic: Critic, things: Things) -> Float[Array, "batch"]:
    """‖∇ₓ D(x)‖² of each row, D being the sum of its logits."""
    slope = jax.grad(lambda things: jnp.sum(critic(things)))(things)
    return jnp.sum(jnp.square(slope), axis=tuple(range(1, slope.ndim)))


def gradient_penalty(critic: Critic, real: Things, made: Things, key: Key) -> Scalar:
    """(‖∇D‖ - 1)² at places between real and made ones (WGAN-GP: Gulrajani et al. 2017, eq. 3)."""
    place = jax.random.uniform(key, (real.shape[0],) + (1,) * (real.ndim - 1))
    between = place * real + (1 - place) * made
    # The root's own slope is infinite at 0, where a critic that ignores its input would be.
    slope = jnp.sqrt(squared_slopes(critic, between) + 1e-12)
    return jnp.mean(jnp.square(slope - 1))


def r1(critic: Critic, real: Things, made: Things, key: Key) -> Scalar:
    """‖∇D‖² at the real ones (Mescheder et al. 2018, equation 9)."""
    return jnp.mean(squared_slopes(critic, real))


def r2(critic: Critic, real: Things, made: Things, key: Key) -> Scalar:
    """‖∇D‖² at the made ones (Mescheder et al. 2018, equation 10)."""
    return jnp.mean(squared_slopes(critic, made))


def consistency(change: Callable[[Key, Things], Things]) -> Held:
    """(D(x) - D(T(x)))² at the real ones, T a change that keeps what a thing is.

    Consistency regularization (Zhang et al. 2020, equation 4).

    change: (key, things) -> things of the same shape.
    """

    def held(critic: Critic, real: Things, made: Things, key: Key) -> Scalar:
        return jnp.mean(jnp.square(critic(real) - critic(change(key, real))))

    return held


def balanced_consistency(change: Callable[[Key, Things], Things]) -> Held:
    """The same at the made ones as well (bCR: Zhao et al. 2021, "Improved consistency"), summed."""
    at_real = consistency(change)

    def held(critic: Critic, real: Things, made: Things, key: Key) -> Scalar:
        one, other = jax.random.split(key)
        return at_real(critic, real, made, one) + at_real(critic, made, real, other)

    return held
