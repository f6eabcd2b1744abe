"""The real-gated linear recurrent unit, and the block that Griffin and Hawk put around it.

De et al. 2024, "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient
Language Models", section 2.4 and figure 2.
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
from jaxgen.nn.linear_scan import added, kept, linear_scan
from jaxgen.nn.mlp import gelu
from jaxgen.nn.recurrence import Carry, Marks

Sequence = Float[Array, "batch time features"]
Outputs = Float[Array, "batch time width"]

SHARPNESS = 8.0  # the paper's c


class GatedLinearRecurrence(nn.Module):
    """The RG-LRU: h_t = a_t·h_{t-1} + √(1 - a_t²)·(i_t·x_t), equations 1 to 4.

    a_t = a^(c·r_t) with a = σ(Λ), one learned number a channel, and c = 8; r_t = σ(W_a·x_t + b_a)
    and i_t = σ(W_x·x_t + b_x) are the recurrence gate and the input gate. The carry is h_t, float32
    (batch, width).

    width: channels, of input and output.
    blocks: of the gates' matrices, which are block-diagonal; `UserError` unless they divide the
        width.
    shortest, longest: at the start a^c lies evenly between them.
    dtype: of products; gates and memory are float32.
    """

    width: int
    blocks: int = 1
    shortest: float = 0.9
    longest: float = 0.999
    dtype: Any = jnp.float32

    def initial(self, batch: int) -> Carry:
        """Zeros."""
        return (jnp.zeros((batch, self.width)),)

    @nn.compact
    def __call__(
        self,
        x: Outputs,
        carry: Carry | None = None,
        marks: Marks | None = None,
        deterministic: bool = True,
    ) -> tuple[Outputs, Carry]:
        """Every step's hidden vector, and the last."""
        (hidden,) = self.initial(len(x)) if carry is None else carry
        recurrence, enter = self._gates(x)
        # Λ, from which log a = log σ(Λ) = -softplus(-Λ).
        named = nn.with_logical_partitioning(self._evenly, ("mlp",))
        rate: Any = self.param("rate", named, (self.width,))
        log_decay = -SHARPNESS * recurrence * jax.nn.softplus(-rate)[None, None]
        # 1 - a² loses its digits where a is near 1. Its root has an infinite slope at 0, where
        # gates are shut so far that nothing enters.
        square = jnp.maximum(-jnp.expm1(2 * log_decay), 1e-30)
        addition = jnp.sqrt(square) * enter * x.astype(jnp.float32)
        states = linear_scan(kept(jnp.exp(log_decay), marks), added(addition, marks), hidden)
        return states.astype(self.dtype), (states[:, -1],)

    def _gates(self, x: Outputs) -> tuple[Outputs, Outputs]:
        """r and i, as float32."""
        if self.width % self.blocks:
            raise UserError(
                f"A width of {self.width} can't be cut into {self.blocks} equal blocks: take "
                "another width or another number of blocks."
            )
        size = self.width // self.blocks
        initializer = nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=1, out_axis=3, batch_axis=(0, 2)
        )
        kernel: Any = self.param(
            "gates",
            nn.with_logical_partitioning(initializer, ("heads", None, None, "head_dim")),
            (self.blocks, size, 2, size),
        )
        bias: Any = self.param(
            "gates_bias",
            nn.with_logical_partitioning(nn.initializers.zeros, (None, "mlp")),
            (2, self.width),
        )
        apart = x.astype(self.dtype).reshape(*x.shape[:2], self.blocks, size)
        products = jnp.einsum("btns,nsgo->btgno", apart, jnp.asarray(kernel, self.dtype))
        gates = products.reshape(*x.shape[:2], 2, self.width).astype(jnp.float32)
        gates = jax.nn.sigmoid(gates + bias[None, None])
        return gates[:, :, 0], gates[:, :, 1]

    def _evenly(self, key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        """Λ = log(a/(1 - a)), for a^c spread evenly."""
        power = jax.random.uniform(key, shape, dtype, self.shortest, self.longest)
        log_decay = jnp.log(power) / SHARPNESS
        return log_decay - jnp.log(-jnp.expm1(log_decay))


class GriffinRecurrence(nn.Module):
    """Griffin's recurrent block: a branch with a recurrence, and one that gates it (figure 2b).

    One branch is a linear map, a causal convolution and the RG-LRU, the other a linear map and
    GELU; a last linear map takes their product back to the width. The carry is the convolution's
    window and the RG-LRU's hidden vector.

    width: numbers in the output.
    hidden: channels of the recurrence (D_RNN), by default the width; in the paper about 4/3 of it.
    blocks: of the gates' matrices.
    convolution: steps that it sees.
    """

    width: int
    hidden: int | None = None
    blocks: int = 1
    convolution: int = 4
    dtype: Any = jnp.float32

    def initial(self, batch: int) -> Carry:
        """Zeros."""
        window = CausalConvolution(self._hidden, self.convolution, dtype=self.dtype, parent=None)
        return (*window.initial(batch), jnp.zeros((batch, self._hidden)))

    @property
    def _hidden(self) -> int:
        return self.width if self.hidden is None else self.hidden

    @nn.compact
    def __call__(
        self,
        x: Sequence,
        carry: Carry | None = None,
        marks: Marks | None = None,
        deterministic: bool = True,
    ) -> tuple[Outputs, Carry]:
        """Every step's vector, and what to go on with."""
        window, hidden = self.initial(len(x)) if carry is None else carry
        branches = Linear((2, self._hidden), ("embed", None, "mlp"), dtype=self.dtype, name="input")
        gate, y = jnp.moveaxis(branches(x), 2, 0)
        convolution = CausalConvolution(
            self._hidden, self.convolution, dtype=self.dtype, name="convolution"
        )
        y, window = convolution(y, (window,), marks)
        unit = GatedLinearRecurrence(self._hidden, self.blocks, dtype=self.dtype, name="unit")
        y, hidden = unit(y, (hidden,), marks)
        output = Linear((self.width,), ("mlp", "embed"), dtype=self.dtype, name="output")
        return output(gelu(gate) * y), (*window, *hidden)
