"""The masked autoencoder, MADE: each output sees only inputs before it (Germain et al. 2015).

A fully connected network in which the weights that would let an output see its own input, or a
later one, are multiplied by zero: so one pass gives every conditional of an autoregressive model.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.nn.linear import Linear

Rows = Float[Array, "*rows width"]


class MaskedDense(nn.Module):
    """A linear layer without the weights from inputs that an output may not see.

    inputs, outputs: what each input has seen, and what each output may see: how many of the
        variables, in their order, m(k) in the paper.
    initializer: of the kernel (inputs, outputs); scaled up for the inputs that the mask takes away.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    initializer: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Rows) -> Float[Array, "*rows outputs"]:
        """Maps each row by itself."""
        # Equations 8 and 9; `masked_degrees` makes both of them this one comparison.
        mask = np.less_equal.outer(self.inputs, self.outputs)
        scale = np.sqrt(len(self.inputs) / np.maximum(mask.sum(0, keepdims=True), 1))

        def initialize(key: Array, shape: tuple[int, ...]) -> Array:
            return self.initializer(key, shape) * scale.astype(np.float32)

        shape = (len(self.inputs), len(self.outputs))
        kernel: Any = self.param(
            "kernel", nn.with_logical_partitioning(initialize, (None, "mlp")), shape
        )
        bias: Any = self.param(
            "bias", nn.with_logical_partitioning(nn.initializers.zeros, ("mlp",)), shape[1:]
        )
        kernel = kernel * mask.astype(np.float32)
        rows = x.reshape(-1, shape[0]) @ kernel + bias[None]
        return rows.reshape(*x.shape[:-1], shape[1])


class MaskedAutoencoder(nn.Module):
    """Some numbers for each variable that depend on those before it, and on a context.

    outputs: numbers for each variable.
    widths: of the hidden layers; each at least as wide as there are variables, or some of what
        the order allows stays unseen.
    reverse: the last variable is the first of the order.
    zero: all numbers start as 0.
    """

    outputs: int
    widths: tuple[int, ...]
    reverse: bool = False
    zero: bool = False

    @nn.compact
    def __call__(
        self, variables: Float[Array, "*samples batch variables"], context: Float[Array, "batch _"]
    ) -> Float[Array, "*samples batch outputs variables"]:
        """The numbers; one context serves all samples of its row. Hidden layers are ELU."""
        count = variables.shape[-1]
        places = tuple(range(count))[:: -1 if self.reverse else 1]
        # A variable has been seen by whoever sees one more than stand before it.
        seen = tuple(place + 1 for place in places)
        hidden = variables
        for index, width in enumerate(self.widths):
            # Spread evenly, from units that see nothing but the context, which is what the first
            # variable's numbers are made from, to those that see all but the last.
            degrees = tuple(unit * count // width for unit in range(width))
            hidden = MaskedDense(seen, degrees, name=f"hidden_{index}")(hidden)
            told = Linear((width,), ("embed", "mlp"), bias=False, name=f"context_{index}")(context)
            hidden = jax.nn.elu(hidden + jnp.broadcast_to(told, hidden.shape))
            seen = degrees
        initializer = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        numbers = MaskedDense(seen, places * self.outputs, initializer, name="outputs")(hidden)
        return numbers.reshape(*variables.shape[:-1], self.outputs, count)
