"""What is done to pictures before the discriminator sees them, so that few of them last longer.

The change is differentiable, and the same for real and made pictures, so that the generator learns
to make none of it: DiffAugment always, `AdaptiveAugmentation` as often as the discriminator has
begun to know its pictures by heart, `ScheduledAugmentation` as often as it is told to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.experiment import Key
from jaxgen.families.gan.augmentation_pipeline import Pipeline, masked, shifted
from jaxgen.families.gan.parts import Scalar

Pictures = Float[Array, "batch height width channels"]
Picture = Float[Array, "height width channels"]


@runtime_checkable
class Change(Protocol):
    """Something that happens to each picture with a probability."""

    def __call__(self, key: Key, pictures: Pictures, probability: Scalar) -> Pictures:
        """Changed pictures of the same shape; with probability 0 the same ones."""
        ...


@dataclass(frozen=True)
class DiffAugment:
    """Every picture changed in colour, moved and cut into.

    Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training", section 4; the
    ranges are those of the authors' code. What comes in from outside, and the hole, is grey (0).

    colour: brightness by up to 0.5 of [-1, 1] either way, saturation by a factor up to 2, contrast
        by 0.5 to 1.5.
    translation: the farthest, as a share of the side.
    cutout: side of the square that is cut out, as a share of the picture's.
    """

    colour: bool = True
    translation: float = 0.125
    cutout: float = 0.5

    def init(self) -> dict[str, Any]:
        """Nothing is kept."""
        return {}

    def __call__(self, key: Key, things: Pictures, state: Any) -> Pictures:
        """Changed pictures, each by draws of its own."""
        return jax.vmap(self._one)(jax.random.split(key, things.shape[0]), things)

    def following(self, state: Any, real_logits: Float[Array, "batch *patches"]) -> Any:
        """The same."""
        return state

    def _one(self, key: Key, picture: Picture) -> Picture:
        colours, place, hole = jax.random.split(key, 3)
        if self.colour:
            brightness, saturation, contrast = jax.random.uniform(colours, (3,))
            picture = picture + (brightness - 0.5)
            grey = jnp.mean(picture, axis=-1, keepdims=True)
            picture = grey + (picture - grey) * (2 * saturation)
            mean = jnp.mean(picture)
            picture = mean + (picture - mean) * (contrast + 0.5)
        if self.translation:
            reach = jnp.array([int(side * self.translation + 0.5) for side in picture.shape[:2]])
            down, right = jax.random.randint(place, (2,), -reach, reach + 1)
            picture = shifted(picture, down, right)
        if self.cutout:
            picture = masked(hole, picture, self.cutout)
        return picture


@dataclass(frozen=True)
class AdaptiveAugmentation:
    """A change whose probability follows how sure the discriminator is of real pictures.

    ADA: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", section
    3: r = E[sign D(real)] grows as it overfits. Every `interval` updates the probability takes a
    step up where r is above `target`, else down; it stays within 0 and 1.

    change: what happens with that probability.
    target: of r.
    images: real pictures that have to be seen for a probability to go from 0 to 1.
    interval: updates whose signs are averaged for one step.
    beginning: the first probability.
    """

    change: Change = field(default_factory=Pipeline)
    target: float = 0.6
    images: int = 500_000
    interval: int = 4
    beginning: float = 0.0

    def init(self) -> dict[str, Any]:
        """The probability, and the mean sign over so many updates since its last step."""
        return {
            "probability": jnp.float32(self.beginning),
            "sign": jnp.zeros(()),
            "updates": jnp.zeros(()),
        }

    def __call__(self, key: Key, things: Pictures, state: Any) -> Pictures:
        """Changed pictures, each by draws of its own."""
        return self.change(key, things, state["probability"])

    def following(self, state: Any, real_logits: Float[Array, "batch *patches"]) -> Any:
        """The probability after these logits of real pictures."""
        sign = jnp.mean(jnp.sign(real_logits.astype(jnp.float32)))
        updates = state["updates"] + 1
        sign = state["sign"] + (sign - state["sign"]) / updates
        due = updates >= self.interval
        step = jnp.sign(sign - self.target) * self.interval * real_logits.shape[0] / self.images
        moved = jnp.clip(state["probability"] + jnp.where(due, step, 0.0), 0.0, 1.0)
        return {
            "probability": moved,
            "sign": jnp.where(due, 0.0, sign),
            "updates": jnp.where(due, 0.0, updates),
        }


@dataclass(frozen=True)
class ScheduledAugmentation:
    """A change whose probability is a function of how many real pictures have been seen.

    change: what happens with that probability.
    schedule: real pictures seen, a float32 scalar -> the probability.
    """

    schedule: Callable[[Any], Any]
    change: Change = field(default_factory=Pipeline)

    def init(self) -> dict[str, Any]:
        """The pictures seen, in float32: exact up to 2^24, and near enough beyond."""
        return {"images": jnp.zeros(()), "probability": jnp.float32(self.schedule(jnp.zeros(())))}

    def __call__(self, key: Key, things: Pictures, state: Any) -> Pictures:
        """Changed pictures, each by draws of its own."""
        return self.change(key, things, state["probability"])

    def following(self, state: Any, real_logits: Float[Array, "batch *patches"]) -> Any:
        """The probability after so many more."""
        images = state["images"] + real_logits.shape[0]
        probability = jnp.asarray(self.schedule(images), jnp.float32)
        return {"images": images, "probability": probability}
