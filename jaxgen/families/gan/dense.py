"""The fully connected pair of the textbooks, with or without classes.

Goodfellow et al. 2014 play with such layers; leaky rectifiers and tanh at the end are Radford et
al. 2016 (DCGAN). With a label, its one-hot class joins what goes in: Mirza & Osindero 2014 (CGAN).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.errors import UserError
from jaxgen.nn.batch_norm import BatchNorm
from jaxgen.nn.linear import Linear

Activation = Any
LEAKY = partial(nn.leaky_relu, negative_slope=0.2)


class DenseGenerator(nn.Module):
    """Latents to things through wider and wider layers: 100 → 256 → 512 → 1024 → 784.

    shape: of a thing, (28, 28, 1) or (2,).
    hidden: widths of the hidden layers.
    bounded: tanh at the end, for things in [-1, 1]; else any numbers.
    classes: of the label; 0: there is none.
    batch_norm: normalizes each hidden layer over the batch; running statistics in "batch_stats".
    """

    shape: tuple[int, ...]
    hidden: Sequence[int] = (256, 512, 1024)
    bounded: bool = True
    classes: int = 0
    batch_norm: bool = False
    activation: Activation = LEAKY

    @nn.compact
    def __call__(
        self,
        latent: Float[Array, "batch latent"],
        label: Int[Array, "batch"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch *shape"]:
        """Latent (batch, latent), label (batch,) -> things (batch, *shape).

        Raises `UserError` where there are classes and no label, or the other way round.
        """
        x = _with_class(latent, label, self.classes)
        for index, width in enumerate(self.hidden):
            # A bias before the normalization would be taken off again.
            x = _linear(width, f"hidden_{index}", bias=not self.batch_norm)(x)
            if self.batch_norm:
                x = BatchNorm(name=f"norm_{index}")(x, train=train)
            x = self.activation(x)
        made = _linear(math.prod(self.shape), "out")(x).reshape(-1, *self.shape)
        return jnp.tanh(made) if self.bounded else made


class DenseDiscriminator(nn.Module):
    """Things to one logit each through narrower and narrower layers: 784 → 512 → 256 → 1.

    hidden: widths of the hidden layers.
    classes: of the label; 0: there is none.
    dropout: share of each hidden layer that is left out while training.
    see: what is done to the rows first, such as `fourier_features(...)`.
    """

    hidden: Sequence[int] = (512, 256)
    classes: int = 0
    dropout: float = 0.0
    activation: Activation = LEAKY
    see: Callable[[Array], Array] | None = None

    @nn.compact
    def __call__(
        self,
        things: Float[Array, "batch *shape"],
        label: Int[Array, "batch"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch"]:
        """Things (batch, ...), label (batch,) -> logits (batch,), high for what looks real.

        Raises `UserError` where there are classes and no label, or the other way round.
        """
        rows = things.reshape(things.shape[0], -1)
        x = _with_class(rows if self.see is None else self.see(rows), label, self.classes)
        for index, width in enumerate(self.hidden):
            x = self.activation(_linear(width, f"hidden_{index}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return _linear(1, "out")(x)[:, 0]


def _with_class(
    rows: Float[Array, "batch width"], label: Int[Array, "batch"] | None, classes: int
) -> Array:
    """The rows with their one-hot classes behind them."""
    if (label is None) != (classes == 0):
        raise UserError(
            f"A dense network of {classes} classes was given {'no' if label is None else 'a'} "
            "label: give network and game the same classes, 0 for none."
        )
    if label is None:
        return rows
    return jnp.concatenate([rows, jax.nn.one_hot(label, classes, dtype=rows.dtype)], axis=-1)


def _linear(width: int, name: str, bias: bool = True) -> Linear:
    return Linear((width,), ("embed", "mlp"), bias=bias, name=name)
