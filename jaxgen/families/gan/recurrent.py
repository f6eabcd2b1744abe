"""A recurrent pair for sequences of numbers, (batch, time, features).

Mogren 2016, "C-RNN-GAN" (arXiv 1611.09904): noise for each step, a discriminator that reads in both
directions. Esteban et al. 2017, "Real-valued (Medical) Time Series Generation with Recurrent
Conditional GANs" (arXiv 1706.02633, section 4.1): the label joins the input of each step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.families.gan.parts import Label
from jaxgen.nn.linear import Linear

Sequence = Float[Array, "batch time features"]
Cell = Callable[[int], nn.RNNCellBase]

_INPUT = nn.with_logical_partitioning(nn.initializers.lecun_normal(), (None, "mlp"))
_RECURRENT = nn.with_logical_partitioning(nn.initializers.orthogonal(), (None, "mlp"))


def gru(hidden: int) -> nn.RNNCellBase:
    """A gated recurrent unit (Cho et al. 2014)."""
    return nn.GRUCell(hidden, kernel_init=_INPUT, recurrent_kernel_init=_RECURRENT)


def lstm(hidden: int) -> nn.RNNCellBase:
    """A long short-term memory (Hochreiter & Schmidhuber 1997), its gates in one product."""
    return nn.OptimizedLSTMCell(hidden, kernel_init=_INPUT, recurrent_kernel_init=_RECURRENT)


class RecurrentGenerator(nn.Module):
    """A latent to a sequence: part of it is seen at all steps, the rest is dealt out to them.

    The latent is one vector with all noise of a sequence in it, so that a sequence is a function of
    its latent alone, and latents can be interpolated and searched like those of pictures.

    time: steps of a sequence.
    features: numbers of a step.
    shared: numbers of the latent that every step sees.
    own: numbers of the latent that are one step's own.
    hidden: numbers of each recurrent layer's state.
    layers: recurrent ones.
    cell: of them; `gru` or `lstm`, or any other.
    bounded: whether the sequence lies in (-1, 1), by tanh.
    classes: of the label; 0: none.
    """

    time: int
    features: int
    shared: int = 8
    own: int = 8
    hidden: int = 128
    layers: int = 1
    cell: Cell = lstm
    bounded: bool = False
    classes: int = 0

    @property
    def latent(self) -> int:
        """Numbers of a latent; what the game's `latent` has to be."""
        return self.shared + self.time * self.own

    @nn.compact
    def __call__(
        self,
        latent: Float[Array, "batch latent"],
        label: Label | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch {self.time} {self.features}"]:
        """Raises `UserError` for latents of another size, and for labels that are missing."""
        rows, given = latent.shape
        if given != self.latent:
            raise UserError(
                f"A sequence of {self.time} steps is made of {self.latent} numbers ({self.shared} "
                f"shared and {self.own} for each step), not of {given}: give the game this latent."
            )
        own = latent[:, self.shared :].reshape(rows, self.time, self.own)
        shared = _at_each_step(latent[:, : self.shared], self.time)
        hidden: Any = _labelled(jnp.concatenate([shared, own], -1), label, self.classes)
        for layer in range(self.layers):
            hidden = nn.RNN(self.cell(self.hidden), name=f"layer_{layer}")(hidden)
        made = Linear((self.features,), ("mlp", "embed"), name="features")(hidden)
        return jnp.tanh(made) if self.bounded else made


class RecurrentDiscriminator(nn.Module):
    """Reads sequences in both directions.

    hidden: numbers of each recurrent layer's state in one direction.
    layers: recurrent ones.
    cell: of them; `gru` or `lstm`, or any other.
    each_step: a logit for each step, which then has seen both past and future; else one for the
        sequence, from what both directions end with.
    classes: of the label; 0: none.
    """

    hidden: int = 128
    layers: int = 1
    cell: Cell = lstm
    each_step: bool = True
    classes: int = 0

    @nn.compact
    def __call__(
        self, sequence: Sequence, label: Label | None = None, *, train: bool = False
    ) -> Float[Array, "batch *time"]:
        """Logits, high for real sequences. Raises `UserError` for labels that are missing."""
        hidden: Any = _labelled(sequence, label, self.classes)
        forward: Any = hidden
        backward: Any = hidden
        for layer in range(self.layers):
            ahead = nn.RNN(self.cell(self.hidden), name=f"forward_{layer}")
            behind = nn.RNN(
                self.cell(self.hidden), reverse=True, keep_order=True, name=f"backward_{layer}"
            )
            forward, backward = ahead(hidden), behind(hidden)
            hidden = jnp.concatenate([forward, backward], -1)
        logit = Linear((1,), ("mlp", "embed"), name="logit")
        if self.each_step:
            return logit(hidden)[..., 0]
        return logit(jnp.concatenate([forward[:, -1], backward[:, 0]], -1))[..., 0]


def _at_each_step(
    vector: Float[Array, "batch numbers"], time: int
) -> Float[Array, "batch {time} numbers"]:
    return jnp.broadcast_to(vector[:, None], (vector.shape[0], time, vector.shape[1]))


def _labelled(
    sequence: Sequence, label: Label | None, classes: int
) -> Float[Array, "batch time inputs"]:
    """With the class, one number 1 among zeros, at each step."""
    if not classes:
        return sequence
    if label is None:
        raise UserError(
            f"A network of {classes} classes needs a label for each sequence: give the game its "
            "classes."
        )
    shown = _at_each_step(jax.nn.one_hot(label, classes), sequence.shape[1])
    return jnp.concatenate([sequence, shown], -1)
