"""The length of paths: how far the picture moves where w does, held equal everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.experiment import Key, Params, Variables
from jaxgen.families.gan.parts import Label, Latent, Scalar, Things

Styles = Float[Array, "batch *layers style"]


@runtime_checkable
class Styled(Protocol):
    """A generator of two halves, a Linen module with these methods."""

    def map(self, latent: Latent, label: Label | None = None, *, train: bool = False) -> Styles:
        """Latents to w, one for a row or one for each layer."""
        ...

    def synthesize(self, styles: Styles) -> Things:
        """w to things."""
        ...


@dataclass(frozen=True)
class PathLength:
    """(‖J(w)ᵀ y‖ - a)² on average: path-length regularization.

    Karras et al. 2020 (arXiv 1912.04958), equation 4 and appendix B, whose numbers are the
    defaults. y is noise N(0, 1) for each number of a picture, over the root of its pixels; a is the
    running mean of the lengths, kept in the state "mean", begun at 0. Where each layer has a w of
    its own, the square of the length is the mean of the layers' squares, as in the paper's code.

    generator: a Linen module that is `Styled`.
    weight, every: as a `Penalty`'s.
    decay: how far the running mean goes to the new lengths.
    batch_shrink: every so manieth row is used, since the penalty is dear.
    name: in the metrics.
    """

    generator: Any
    weight: float = 2.0
    every: int = 4
    decay: float = 0.01
    batch_shrink: int = 2
    name: str = "path_length"

    def init(self) -> dict[str, Array]:
        """The running mean of lengths."""
        return {"mean": jnp.zeros(())}

    def __call__(
        self, params: Params, variables: Variables, latent: Latent, label: Any, key: Key, state: Any
    ) -> tuple[Scalar, dict[str, Array]]:
        """The term and the next state, given the generator's own parameters and variables."""
        # Every second row rather than the first half, which would lie on half of the devices.
        latent = latent[:: self.batch_shrink]
        label = None if label is None else label[:: self.batch_shrink]
        whole = {"params": params, **variables}
        mapped, noise, direction = jax.random.split(key, 3)
        styles, _ = self.generator.apply(
            whole,
            latent,
            label,
            train=True,
            rngs={"noise": mapped},
            mutable=list(variables),
            method="map",
        )

        def synthesize(styles: Styles) -> Things:
            return self.generator.apply(whole, styles, rngs={"noise": noise}, method="synthesize")

        lengths = path_lengths(synthesize, styles, direction)
        mean = state["mean"] + self.decay * (jax.lax.stop_gradient(lengths).mean() - state["mean"])
        return jnp.mean(jnp.square(lengths - mean)), {"mean": mean}


def path_lengths(synthesize: Any, styles: Styles, key: Key) -> Float[Array, "batch"]:
    """‖J(w)ᵀ y‖ of each row, y drawn from N(0, 1/pixels) (`PathLength`).

    synthesize: styles -> things, (batch, height, width, channels) or any other shape; all axes but
        the last count as pixels.
    """
    things, pulled = jax.vjp(synthesize, styles)
    pixels = math.prod(things.shape[1:-1])
    direction = jax.random.normal(key, things.shape) / math.sqrt(pixels)
    (slopes,) = pulled(direction)
    squares = jnp.square(slopes).sum(-1).reshape(styles.shape[0], -1).mean(1)
    # The root's own slope is infinite at 0, where a picture that ignores w would be.
    return jnp.sqrt(squares + 1e-12)
