"""The GRU and the LSTM cut down until they can be read in parallel (Feng et al. 2024).

Their gates see only the input, "Were RNNs All We Needed?", sections 3.1 and 3.2. The recurrence is
worked out on logarithms (appendix B), for which memories are positive.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.nn.causal_convolution import CausalConvolution
from jaxgen.nn.linear import Linear
from jaxgen.nn.linear_scan import added, kept, log_linear_scan
from jaxgen.nn.recurrence import Carry, Marks

Sequence = Float[Array, "batch time features"]
Outputs = Float[Array, "batch time width"]
Hidden = Float[Array, "batch time hidden"]
Gates = Float[Array, "batch time gates hidden"]


class _Minimal(nn.Module):
    """What both have in common: inputs' products, the scan, the map back.

    The carry is (hidden (batch, width·expansion), above 0), before it the convolution's window.

    width: numbers in the output.
    expansion: the memory has so many times as many numbers, which a linear map takes back.
    convolution: how many steps the gates see, by a causal convolution of the input, which has to
        be as wide as the output; 1 has none.
    dtype: of products; gates and memory are float32.
    """

    width: int
    expansion: int = 1
    convolution: int = 1
    dtype: Any = jnp.float32

    def initial(self, batch: int) -> Carry:
        """Zeros."""
        hidden = jnp.zeros((batch, self.width * self.expansion))
        return (*self._before(batch), hidden)

    def _before(self, batch: int) -> Carry:
        if self.convolution == 1:
            return ()
        window = CausalConvolution(self.width, self.convolution, dtype=self.dtype, parent=None)
        return window.initial(batch)

    def through(
        self, x: Sequence, carry: Carry | None, marks: Marks | None, gates: int
    ) -> tuple[Outputs, Carry]:
        """All steps, by gates that `logarithms` makes of the inputs' products."""
        carry = self.initial(len(x)) if carry is None else carry
        window, hidden = carry[:-1], carry[-1]
        if window:
            if x.shape[-1] != self.width:
                raise UserError(
                    f"A convolution before a layer of width {self.width} can't take in "
                    f"{x.shape[-1]} numbers a step: leave it out, or make both the same."
                )
            convolution = CausalConvolution(
                self.width, self.convolution, dtype=self.dtype, name="convolution"
            )
            x, window = convolution(x, window, marks)
        shape = (gates, self.width * self.expansion)
        inputs = Linear(shape, ("embed", None, "mlp"), dtype=self.dtype, name="input")
        decay, addition = self.logarithms(inputs(x).astype(jnp.float32))
        # The slope of log 0 is infinite: such a carry gets none.
        log_before = jnp.where(hidden > 0, jnp.log(jnp.where(hidden > 0, hidden, 1.0)), -jnp.inf)
        log_hidden = log_linear_scan(
            kept(decay, marks, logarithm=True), added(addition, marks, logarithm=True), log_before
        )
        states = jnp.exp(log_hidden)
        y = states.astype(self.dtype)
        if self.expansion != 1:
            y = Linear((self.width,), ("mlp", "embed"), dtype=self.dtype, name="output")(y)
        return y, (*window, states[:, -1])

    def logarithms(self, products: Gates) -> tuple[Hidden, Hidden]:
        """log a and log b of h = a·h + b."""
        raise NotImplementedError


class MinGRU(_Minimal):
    """h_t = (1 - z_t)·h_{t-1} + z_t·g(x·W + b), z_t = σ(x·U + c), appendix B.

    The order of gates is update (z), candidate.
    """

    @nn.compact
    def __call__(
        self,
        x: Sequence,
        carry: Carry | None = None,
        marks: Marks | None = None,
        deterministic: bool = True,
    ) -> tuple[Outputs, Carry]:
        """Every step's hidden vector, and the last."""
        return self.through(x, carry, marks, 2)

    def logarithms(self, products: Gates) -> tuple[Hidden, Hidden]:
        """log(1 - z), log(z·g)."""
        update = products[:, :, 0]
        candidate = log_positive(products[:, :, 1])
        return -jax.nn.softplus(update), candidate - jax.nn.softplus(-update)


class MinLSTM(_Minimal):
    """h_t = f'·h_{t-1} + i'·g(x·W + b), f' = f/(f + i), i' = i/(f + i), appendix B.

    The order of gates is forget, input, candidate.
    """

    @nn.compact
    def __call__(
        self,
        x: Sequence,
        carry: Carry | None = None,
        marks: Marks | None = None,
        deterministic: bool = True,
    ) -> tuple[Outputs, Carry]:
        """Every step's hidden vector, and the last."""
        return self.through(x, carry, marks, 3)

    def logarithms(self, products: Gates) -> tuple[Hidden, Hidden]:
        """log f', log(i'·g)."""
        # log(i/f), for both gates are sigmoids.
        odds = jax.nn.softplus(-products[:, :, 0]) - jax.nn.softplus(-products[:, :, 1])
        candidate = log_positive(products[:, :, 2])
        return -jax.nn.softplus(odds), candidate - jax.nn.softplus(-odds)


def log_positive(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log g(x), where g(x) = x + 0.5 from 0 on and σ(x) below (Feng et al. 2024, appendix B.2)."""
    return jnp.where(x >= 0, jnp.log(jnp.maximum(x, 0) + 0.5), -jax.nn.softplus(-x))
