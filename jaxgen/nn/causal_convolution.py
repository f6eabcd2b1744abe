"""A convolution over the last few steps of a sequence, as a recurrent layer.

Gated linear recurrences and state spaces put one before their recurrence, which by itself can't
compare neighbours (Fu et al. 2023, the shift matrix of H3).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import UserError
from jaxgen.nn.recurrence import Carry, Marks

Steps = Float[Array, "batch time width"]
Window = Float[Array, "batch last width"]
Texts = Int[Array, "batch last"]


class CausalConvolution(nn.Module):
    """y_t = Σ_i w_i·x_{t-i} + bias, each channel by itself; steps before a text are 0.

    The carry is the last `size` - 1 inputs that were read, (batch, size - 1, width). Where nothing
    is read, y is 0.

    width: channels, of input and output.
    size: how many steps are seen, the present one among them; `UserError` below 2.
    """

    width: int
    size: int = 4
    bias: bool = True
    dtype: Any = jnp.float32

    def initial(self, batch: int) -> Carry:
        """Zeros."""
        return (jnp.zeros((batch, self.size - 1, self.width), self.dtype),)

    @nn.compact
    def __call__(
        self,
        x: Steps,
        carry: Carry | None = None,
        marks: Marks | None = None,
        deterministic: bool = True,
    ) -> tuple[Steps, Carry]:
        """Every step's sum, and the window to go on with."""
        if self.size < 2:
            raise UserError(f"A causal convolution sees at least 2 steps, not {self.size}.")
        (window,) = self.initial(len(x)) if carry is None else carry
        named = nn.with_logical_partitioning(nn.initializers.lecun_normal(), (None, "mlp"))
        weights: Any = self.param("kernel", named, (self.size, self.width))
        weights = jnp.asarray(weights, self.dtype)
        begins, reads = (None, None) if marks is None else (marks.begins, marks.reads)
        # Texts are told apart by their number within the part; the window's is 0.
        texts = None if begins is None else jnp.cumsum(begins, axis=1)
        last_text = None if texts is None else texts[:, -1:]
        x = x.astype(self.dtype)
        if reads is not None:
            # What is read moves together to the front, so that the steps before a step are its
            # neighbours, whatever lay between.
            order = jnp.argsort(~reads, axis=1, stable=True)
            x = jnp.take_along_axis(x, order[..., None], axis=1)
            texts = None if texts is None else jnp.take_along_axis(texts, order, axis=1)
        seen = jnp.concatenate([window, x], axis=1)
        if texts is not None:
            texts = jnp.pad(texts, ((0, 0), (self.size - 1, 0)))
        y = self._sums(seen, texts, weights)
        if self.bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("mlp",))
            bias: Any = self.param("bias", zeros, (self.width,))
            y = y + jnp.asarray(bias, self.dtype)[None, None]
        if reads is not None:
            place = jnp.maximum(jnp.cumsum(reads, axis=1) - 1, 0)
            y = jnp.take_along_axis(y, place[..., None], axis=1)
            y = jnp.where(reads[..., None], y, 0)
        return y, (self._window(seen, texts, last_text, reads),)

    def _sums(self, seen: Window, texts: Texts | None, weights: Array) -> Steps:
        time = seen.shape[1] - self.size + 1
        total = jnp.zeros_like(seen[:, :time])
        for place in range(self.size):
            part = seen[:, place : place + time]
            if texts is not None:
                same = jnp.equal(texts[:, place : place + time], texts[:, self.size - 1 :])
                part = jnp.where(same[..., None], part, 0)
            total = total + part * weights[place][None, None]
        return total

    def _window(
        self,
        seen: Window,
        texts: Texts | None,
        last_text: Int[Array, "batch one"] | None,
        reads: Bool[Array, "batch time"] | None,
    ) -> Float[Array, "batch kept width"]:
        """The last inputs that were read, without those of earlier texts."""
        size = self.size - 1
        if reads is None:
            window = seen[:, -size:]
            texts = None if texts is None else texts[:, -size:]
        else:
            place = reads.sum(1, keepdims=True) + jnp.arange(size)[None]
            window = jnp.take_along_axis(seen, place[..., None], axis=1)
            texts = None if texts is None else jnp.take_along_axis(texts, place, axis=1)
        if texts is None or last_text is None:
            return window
        return jnp.where(jnp.equal(texts, last_text)[..., None], window, 0)
